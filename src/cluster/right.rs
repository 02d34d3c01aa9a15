//! The right to use the primary, as the data path asks for it: which epoch, and until when.
//!
//! Two numbers without a lock, because every read and write on a primary looks at them. Invariant: whoever changes them
//! does so before it says to anybody that it has applied what they follow from.

use std::sync::atomic::{AtomicU64, Ordering};

use super::state::{ClusterState, Fenced, Stage};
use crate::topology::Epoch;

/// A node on its own asks nobody.
const ALWAYS: u64 = u64::MAX;
const NO_EPOCH: u64 = 0;

/// What a connection to the primary of some epoch is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// The lease has ended. With the next one it is good again, unless the epoch has ended meanwhile: nobody gets a lease
    /// who has not applied that.
    Suspended,
    Over,
}

#[derive(Debug)]
pub struct WriteRight {
    /// The epoch whose primary may be used; 0: none, it is fenced or not known.
    epoch: AtomicU64,
    /// By the process's clock.
    until_ms: AtomicU64,
}

impl WriteRight {
    /// Of a node that belongs to no cluster: what it observes is all there is.
    pub fn unlimited() -> Self {
        WriteRight { epoch: AtomicU64::new(NO_EPOCH), until_ms: AtomicU64::new(ALWAYS) }
    }

    /// Of a node of a cluster: none until it has a lease and knows the primary.
    pub fn none() -> Self {
        WriteRight { epoch: AtomicU64::new(NO_EPOCH), until_ms: AtomicU64::new(0) }
    }

    /// Whether a connection of that epoch may be used now.
    pub fn allows(&self, epoch: Epoch, now_ms: impl FnOnce() -> u64) -> bool {
        self.standing(epoch, now_ms) == Standing::Good
    }

    /// `now_ms` is read only if it matters.
    pub fn standing(&self, epoch: Epoch, now_ms: impl FnOnce() -> u64) -> Standing {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        if until_ms == ALWAYS {
            return Standing::Good;
        }
        if epoch.0 != self.epoch.load(Ordering::Acquire) {
            return Standing::Over;
        }
        if now_ms() < until_ms { Standing::Good } else { Standing::Suspended }
    }

    /// Whether there is a lease, whatever the epoch.
    pub fn holds(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms.load(Ordering::Acquire)
    }

    pub fn lasts_until(&self, ends_at_ms: u64) {
        self.until_ms.store(ends_at_ms, Ordering::Release);
    }

    /// What the log says now.
    pub fn follow(&self, state: &ClusterState) {
        let primary = state.primary();
        let usable = primary.server.is_some()
            && primary.stage == Stage::Confirmed
            && !state.is_fenced(&Fenced::Primary);
        let epoch = if usable { primary.epoch.0 } else { NO_EPOCH };
        self.epoch.store(epoch, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_on_its_own_may_always() {
        let right = WriteRight::unlimited();
        assert!(right.allows(Epoch(7), || panic!("no clock is needed")) && right.holds(u64::MAX - 1));
    }

    #[test]
    fn a_right_ends_with_its_epoch_and_with_its_time() {
        let right = WriteRight::none();
        assert!(!right.allows(Epoch(0), || 0));
        right.epoch.store(3, Ordering::Release);
        right.lasts_until(100);
        assert!(right.allows(Epoch(3), || 99));
        assert!(!right.allows(Epoch(3), || 100) && !right.allows(Epoch(2), || 99));
        assert_eq!(
            right.standing(Epoch(3), || 100),
            Standing::Suspended,
            "a lease comes back, an epoch does not"
        );
        assert_eq!(right.standing(Epoch(2), || 100), Standing::Over);
        right.lasts_until(200);
        assert_eq!(right.standing(Epoch(3), || 100), Standing::Good);
        right.follow(&ClusterState::default());
        assert!(!right.allows(Epoch(3), || 99) && right.holds(99));
    }
}
