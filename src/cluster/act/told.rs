//! What the leader has just been told, so that it is not told again before this node has applied it.
//!
//! Pure. The leader answers when it has applied a change itself; here it arrives with what comes next. Invariant: what is
//! told again in vain costs an entry of the log, what is not told again in time is only late.

use crate::cluster::state::Change;

/// What was taken in is applied here by then, or it is told again.
const APPLIED_WITHIN_MS: u64 = 200;

#[derive(Debug, Default)]
pub(super) struct Told(Vec<(Change, u64)>);

impl Told {
    pub fn is_news(&self, change: &Change, now_ms: u64) -> bool {
        let is_recent = |at_ms: u64| now_ms < at_ms + APPLIED_WITHIN_MS;
        !self.0.iter().any(|(told, at_ms)| told == change && is_recent(*at_ms))
    }

    /// The leader has taken it in.
    pub fn note(&mut self, change: Change, now_ms: u64) {
        self.0.retain(|(told, at_ms)| now_ms < at_ms + APPLIED_WITHIN_MS && !replaces(&change, told));
        self.0.push((change, now_ms));
    }
}

fn replaces(new: &Change, old: &Change) -> bool {
    matches!((new, old), (Change::ServerReport { server: new, .. }, Change::ServerReport { server: old, .. }) if new == old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Claim, Observed};
    use crate::topology::Epoch;

    fn report(server: &str, observed: Observed) -> Change {
        Change::ServerReport { server: server.to_owned(), claim: Claim { observed, ..Claim::default() } }
    }

    #[test]
    fn what_was_taken_in_is_no_news_for_a_moment() {
        let mut told = Told::default();
        let hold = Change::ConfirmHold { epoch: Epoch(1), node: "a".to_owned() };
        assert!(told.is_news(&hold, 0));
        told.note(hold.clone(), 0);
        assert!(!told.is_news(&hold, APPLIED_WITHIN_MS - 1));
        assert!(told.is_news(&Change::ConfirmHold { epoch: Epoch(2), node: "a".to_owned() }, 1));
        assert!(told.is_news(&hold, APPLIED_WITHIN_MS));
    }

    #[test]
    fn what_has_changed_twice_is_news() {
        let mut told = Told::default();
        told.note(report("pg1", Observed::Up), 0);
        told.note(report("pg2", Observed::Up), 1);
        told.note(report("pg1", Observed::Down), 2);
        assert!(told.is_news(&report("pg1", Observed::Up), 3));
        assert!(!told.is_news(&report("pg1", Observed::Down), 3));
        assert!(!told.is_news(&report("pg2", Observed::Up), 3), "another server's");
    }
}
