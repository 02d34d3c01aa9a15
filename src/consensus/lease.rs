//! The quorum lease, as the node that holds it knows it: the right to act on what its log says.
//!
//! Pure. A node asks, the leader's [`Lessor`] answers. Invariant: the lease runs from the moment the
//! question was *sent*, so whatever happens to question, answer or process in between, it never lasts longer
//! than the leader believes. `docs/lease.md` has the argument.

mod lessor;
mod settings;

pub use lessor::{Began, Lessor, Refusal};
pub use settings::{LeaseSettings, SettingsError};

use serde::{Deserialize, Serialize};

/// What a node says when it asks; it keeps a copy to hand to [`Lease::granted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// By the asker's own clock; means nothing to anybody else.
    pub asked_at_ms: u64,
    /// Index of the last log entry that the asker has applied. It acts on what that says, so it is also its
    /// confirmation of every fence up to there.
    pub applied: u64,
}

/// The leader's yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Counted from when the question was sent.
    pub length_ms: u64,
}

/// A lease, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Longest grant that is believed, whatever a leader with other settings says.
    longest_ms: u64,
    ends_at_ms: u64,
}

impl Lease {
    pub fn none(settings: &LeaseSettings) -> Self {
        Lease { longest_ms: settings.lease_ms, ends_at_ms: 0 }
    }

    /// The question to send now. `applied` must have been applied already, and acted on, when this is called.
    pub fn asked(now_ms: u64, applied: u64) -> Question {
        Question { asked_at_ms: now_ms, applied }
    }

    /// An answer to that very question. Late ones are harmless: the lease may have ended before it came.
    pub fn granted(&mut self, question: Question, grant: Grant) {
        let ends_at_ms = question.asked_at_ms.saturating_add(grant.length_ms.min(self.longest_ms));
        self.ends_at_ms = self.ends_at_ms.max(ends_at_ms);
    }

    /// Gives it up before its time: this process is about to stop.
    pub fn give_up(&mut self) {
        self.ends_at_ms = 0;
    }

    /// To be asked when a thing is done under the lease, with a clock read for it, never with one kept.
    pub fn holds(&self, now_ms: u64) -> bool {
        now_ms < self.ends_at_ms
    }

    pub fn remaining_ms(&self, now_ms: u64) -> u64 {
        self.ends_at_ms.saturating_sub(now_ms)
    }

    /// 0: there never was one, or it was given up.
    pub fn ends_at_ms(&self) -> u64 {
        self.ends_at_ms
    }
}

#[cfg(test)]
mod tests;
