//! What becomes of a session whose server connection is lost, and of what its client waits for.
//!
//! Pure. Invariant: a request is asked again only if it cannot have changed anything and nothing of its answer was
//! relayed; and what may have taken effect is never told as if it had not.

use crate::wire::message::TransactionStatus;

/// What was under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loss {
    /// The server has said FATAL, and the client has read it.
    pub told_fatal: bool,
    /// The connection was being prepared: of the client's request not a byte was sent.
    pub nothing_sent: bool,
    /// An answer is due to the client.
    pub owes: bool,
    /// All of a batch is answered, but for the Sync that would have committed it.
    pub open_batch: bool,
    /// The request is kept, and nothing of its answer was relayed.
    pub retained: bool,
    pub status: TransactionStatus,
    /// As in `Transaction`.
    pub contained: bool,
    pub leaves_open: Option<bool>,
    pub may_write: bool,
    pub may_commit: bool,
    /// The client has the first part of a message, and will not get the rest.
    pub cut_short: bool,
    /// Something only the connection had, a lock for instance, and its client would not notice.
    pub lost_unseen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As with PostgreSQL, the FATAL was the last word.
    LastWord,
    /// Another connection serves as well.
    AnotherConnection,
    AskAgain,
    /// `outcome_unknown`: what was written may be there.
    Lost {
        outcome_unknown: bool,
        then: Then,
    },
}

/// Whatever was under way is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing can be said behind half a message.
    CutShort,
    /// The session must end, so that its client notices.
    Farewell,
    /// Nothing is due now. `untold`: the client hears of its transaction with what it sends next.
    GoOn { status: TransactionStatus, untold: bool },
    /// What is due is answered by this error.
    Tell { status: TransactionStatus, error: Told },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    OutcomeUnknown,
    RolledBack,
    Lost,
}

impl Loss {
    pub fn verdict(&self) -> Verdict {
        if self.told_fatal {
            return Verdict::LastWord;
        }
        if self.nothing_sent {
            return Verdict::AnotherConnection;
        }
        if self.owes && self.retained && !self.may_write {
            return Verdict::AskAgain;
        }
        let was_in_transaction = self.status != TransactionStatus::Idle;
        let in_transaction = was_in_transaction || self.contained;
        // Inside a transaction block nothing is lasting before its end was sent.
        let may_be_done = !in_transaction || self.may_commit;
        let outcome_unknown = self.owes && may_be_done && self.may_write;
        // What the client sends behind a BEGIN that was lost is of that block, too.
        let status = match self.leaves_open.unwrap_or(was_in_transaction) {
            true => TransactionStatus::Failed,
            false => TransactionStatus::Idle,
        };
        let then = if self.cut_short {
            Then::CutShort
        } else if self.lost_unseen {
            Then::Farewell
        } else if !self.owes {
            // A transaction that had failed before is no news.
            let untold = self.open_batch || self.status == TransactionStatus::InTransaction;
            Then::GoOn { status, untold }
        } else {
            let error = match (outcome_unknown, in_transaction) {
                (true, _) => Told::OutcomeUnknown,
                (false, true) => Told::RolledBack,
                (false, false) => Told::Lost,
            };
            Then::Tell { status, error }
        };
        Verdict::Lost { outcome_unknown, then }
    }
}

#[cfg(test)]
mod tests {
    use TransactionStatus::{Failed, Idle, InTransaction};

    use super::*;

    /// Nothing was under way.
    const QUIET: Loss = Loss {
        told_fatal: false,
        nothing_sent: false,
        owes: false,
        open_batch: false,
        retained: false,
        status: Idle,
        contained: false,
        leaves_open: None,
        may_write: false,
        may_commit: false,
        cut_short: false,
        lost_unseen: false,
    };
    const READ: Loss = Loss { owes: true, ..QUIET };
    const WRITE: Loss = Loss { owes: true, may_write: true, ..QUIET };

    fn lost(outcome_unknown: bool, then: Then) -> Verdict {
        Verdict::Lost { outcome_unknown, then }
    }

    fn told(status: TransactionStatus, error: Told) -> Verdict {
        lost(error == Told::OutcomeUnknown, Then::Tell { status, error })
    }

    #[test]
    fn outside_a_transaction_only_what_may_have_written_is_unknown() {
        let quiet = lost(false, Then::GoOn { status: Idle, untold: false });
        assert_eq!(QUIET.verdict(), quiet, "it never knows");
        assert_eq!(Loss { nothing_sent: true, ..QUIET }.verdict(), Verdict::AnotherConnection);
        assert_eq!(Loss { retained: true, ..READ }.verdict(), Verdict::AskAgain);
        assert_eq!(READ.verdict(), told(Idle, Told::Lost), "some of its answer was relayed");
        for retained in [false, true] {
            let loss = Loss { retained, ..WRITE };
            assert_eq!(loss.verdict(), told(Idle, Told::OutcomeUnknown), "never sent twice");
        }
        let begin = Loss { contained: true, leaves_open: Some(true), ..READ };
        assert_eq!(Loss { retained: true, ..begin }.verdict(), Verdict::AskAgain);
        assert_eq!(begin.verdict(), told(Failed, Told::RolledBack), "what follows is of that block");
    }

    #[test]
    fn in_a_transaction_only_its_end_is_unknown() {
        let open = Loss { status: InTransaction, may_write: true, ..QUIET };
        assert_eq!(open.verdict(), lost(false, Then::GoOn { status: Failed, untold: true }));
        assert_eq!(Loss { owes: true, ..open }.verdict(), told(Failed, Told::RolledBack));
        let commit = Loss { owes: true, may_commit: true, leaves_open: Some(false), ..open };
        assert_eq!(commit.verdict(), told(Idle, Told::OutcomeUnknown));
        let of_reads = Loss { may_write: false, ..commit };
        assert_eq!(of_reads.verdict(), told(Idle, Told::RolledBack));
        let failed = Loss { status: Failed, ..open };
        assert_eq!(
            failed.verdict(),
            lost(false, Then::GoOn { status: Failed, untold: false }),
            "that it has failed is no news"
        );
        let unsynced = Loss { open_batch: true, ..QUIET };
        assert_eq!(unsynced.verdict(), lost(false, Then::GoOn { status: Idle, untold: true }));
    }

    #[test]
    fn a_client_that_could_not_notice_is_ended() {
        for (loss, outcome_unknown) in [(QUIET, false), (READ, false), (WRITE, true)] {
            let pinned = Loss { lost_unseen: true, ..loss };
            assert_eq!(pinned.verdict(), lost(outcome_unknown, Then::Farewell));
            let cut = Loss { cut_short: true, ..pinned };
            assert_eq!(cut.verdict(), lost(outcome_unknown, Then::CutShort));
        }
        assert_eq!(Loss { told_fatal: true, lost_unseen: true, ..WRITE }.verdict(), Verdict::LastWord);
    }

    /// Whatever the facts are.
    #[test]
    fn what_may_have_been_written_is_never_asked_again_and_never_told_as_failed() {
        for bits in 0..1_u32 << 9 {
            let is = |bit: u32| bits & 1 << bit != 0;
            for status in [Idle, InTransaction, Failed] {
                for leaves_open in [None, Some(false), Some(true)] {
                    let loss = Loss {
                        told_fatal: is(0),
                        nothing_sent: false,
                        owes: is(1),
                        open_batch: is(2),
                        retained: is(3),
                        status,
                        contained: is(4),
                        leaves_open,
                        may_write: is(5),
                        may_commit: is(6),
                        cut_short: is(7),
                        lost_unseen: is(8),
                    };
                    let verdict = loss.verdict();
                    if verdict == Verdict::AskAgain {
                        assert!(!loss.may_write && loss.retained, "{loss:?}");
                    }
                    let in_block = status != Idle || loss.contained;
                    let may_be_there = loss.owes && loss.may_write && (!in_block || loss.may_commit);
                    if let Verdict::Lost { outcome_unknown, then } = verdict {
                        assert_eq!(outcome_unknown, may_be_there, "{loss:?}");
                        let said = matches!(then, Then::Tell { error: Told::OutcomeUnknown, .. });
                        assert!(said == may_be_there || !matches!(then, Then::Tell { .. }), "{loss:?}");
                    }
                }
            }
        }
    }
}
