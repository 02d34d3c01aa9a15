//! Whether what is written to the primary reaches its disk, as this node finds it.
//!
//! Owns the one write of this node's that finds out. It is made only when looks show log that stays unflushed, so an idle
//! cluster writes nothing, nor does a busy one that is well. Never decides: what was found is a part of what this node
//! says of the server. Invariant: one such write is under way at most.

use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::cluster::model::{Facts, View};
use crate::cluster::state::{ClusterState, Disk};
use crate::topology::{Health, Lsn};

/// Log that is not flushed after so long is waited for, or belongs to nobody: the last page is flushed only when
/// somebody commits.
const STALLED_MS: u64 = 1_000;
/// After a write that has told nothing.
const AGAIN_MS: u64 = 5_000;

pub type Writing = Pin<Box<dyn Future<Output = Option<Disk>> + Send>>;
/// Commits something on the primary of that name, and waits so many milliseconds for its disk. None: there is nothing wrong with that, or
/// nothing that is known.
pub type Write = Arc<dyn Fn(&str, u64) -> Writing + Send + Sync>;

pub(super) struct DiskWatch {
    write: Write,
    server: String,
    stall: Stall,
    trying: JoinSet<Option<Disk>>,
    /// When the last write began.
    began_at_ms: u64,
    /// When the last write ended that has told nothing.
    tried_at_ms: Option<u64>,
    /// Of the last look that was answered.
    asked_at_ms: u64,
    found: Option<Disk>,
}

/// How long the flushed position has stood still behind what was written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stall {
    flushed: Lsn,
    /// Of the first look that found it so.
    since_ms: Option<u64>,
    last_ms: u64,
}

impl Stall {
    /// True: it has moved on.
    fn saw(&mut self, facts: &Facts) -> bool {
        let Some(flushed) = facts.flushed_lsn else { return false };
        self.last_ms = facts.asked_at_ms;
        let moves = flushed != self.flushed || flushed >= facts.lsn;
        self.flushed = flushed;
        self.since_ms = match moves {
            true if flushed >= facts.lsn => None,
            true => Some(facts.asked_at_ms),
            false => self.since_ms.or(Some(facts.asked_at_ms)),
        };
        moves
    }

    fn for_ms(&self) -> u64 {
        self.since_ms.map_or(0, |since_ms| self.last_ms.saturating_sub(since_ms))
    }
}

impl DiskWatch {
    pub fn new(write: Write) -> Self {
        DiskWatch {
            write,
            server: String::new(),
            stall: Stall::default(),
            trying: JoinSet::new(),
            began_at_ms: 0,
            tried_at_ms: None,
            asked_at_ms: 0,
            found: None,
        }
    }

    /// Takes in what is seen, and says what is wrong with the disk of that primary. `timeout_ms`: of a write; 0: none is made.
    pub fn look(
        &mut self,
        view: &View,
        state: &ClusterState,
        timeout_ms: u64,
        now_ms: u64,
    ) -> Option<(&str, Disk)> {
        let Some(server) = state.settled_primary().filter(|_| timeout_ms > 0) else {
            self.forget("");
            return None;
        };
        if self.server != server {
            self.forget(server);
        }
        let answering =
            view.find(server).filter(|(state, detail)| state.health == Health::Up && detail.failures == 0);
        match answering.and_then(|(_, detail)| detail.facts.as_deref()) {
            Some(facts) => {
                self.asked_at_ms = facts.asked_at_ms;
                if self.stall.saw(facts) {
                    self.found = None;
                }
            }
            // Whatever is wrong with it now, it is not known to be its disk. One late look says nothing yet.
            None if view.find(server).is_none_or(|(_, detail)| detail.failures > 1) => self.found = None,
            None => {}
        }
        let rests = self.tried_at_ms.is_some_and(|at_ms| now_ms < at_ms + AGAIN_MS);
        if self.stall.for_ms() >= STALLED_MS && self.found.is_none() && self.trying.is_empty() && !rests {
            tracing::debug!(server, "what is written is not flushed: trying a write");
            self.began_at_ms = now_ms;
            self.trying.spawn((self.write)(server, timeout_ms));
        }
        self.found.map(|disk| (self.server.as_str(), disk))
    }

    /// A write has ended. Pending while there is none.
    pub async fn tried(&mut self, now_ms: impl Fn() -> u64) {
        let Some(ended) = self.trying.join_next().await else { return std::future::pending().await };
        // A write that waits while nothing else is answered waits for the network, as far as anybody knows.
        let is_known = |disk: &Disk| *disk != Disk::Hangs || self.asked_at_ms > self.began_at_ms;
        let found = ended.ok().flatten().filter(is_known);
        if let Some(disk) = found.filter(|_| self.found.is_none()) {
            tracing::warn!(
                server = self.server,
                reason = disk.reason().code(),
                "{}",
                disk.reason().sentence()
            );
        }
        self.tried_at_ms = Some(now_ms());
        self.found = found;
    }

    fn forget(&mut self, server: &str) {
        self.trying.abort_all();
        self.trying = JoinSet::new();
        (self.stall, self.tried_at_ms, self.found) = (Stall::default(), None, None);
        self.server = server.to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(asked_at_ms: u64, written: u64, flushed: u64) -> Facts {
        Facts {
            asked_at_ms,
            answered_at_ms: asked_at_ms,
            flushed_lsn: Some(Lsn(flushed)),
            started_at_ms: 0,
            ..Facts::bare(false, 1, written)
        }
    }

    #[test]
    fn a_disk_stands_still_while_what_was_written_is_not_flushed() {
        let mut stall = Stall::default();
        let mut look = |at_ms, written, flushed| {
            let moves = stall.saw(&facts(at_ms, written, flushed));
            (moves, stall.for_ms())
        };
        assert_eq!(look(1_000, 100, 100), (true, 0));
        assert_eq!(look(5_000, 100, 100), (true, 0), "nobody writes");
        assert_eq!(look(6_000, 120, 110), (true, 0), "somebody does");
        assert_eq!(look(7_000, 140, 120), (true, 0), "it is always a little behind");
        assert_eq!(look(8_000, 150, 120), (false, 1_000));
        assert_eq!(look(9_000, 150, 120), (false, 2_000));
        assert_eq!(look(10_000, 150, 130), (true, 0));
        assert_eq!(look(11_000, 150, 150), (true, 0));
    }
}
