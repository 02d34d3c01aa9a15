//! Statements sent on the present lease, until they are added to what everybody counts.
//!
//! Owns plain numbers, so that a statement in a transaction costs no atomic of its own. Never counts what
//! komainu asks by itself. Invariant: handed over before the lease changes servers, so that each server is
//! given its own.

use crate::route::{Analyzed, Class, StatementKind};
use crate::telemetry::Counters;
use crate::telemetry::labels::{Label, QueryClass};
use crate::topology::ServerIndex;

/// A transaction of more statements does not wait for its end to be seen.
const MANY: u32 = 64;

#[derive(Debug, Default)]
pub struct Tally([u32; QueryClass::COUNT]);

impl Tally {
    /// A simple query or an Execute was sent.
    pub fn sent(&mut self, class: QueryClass) {
        self.0[class.index()] += 1;
    }

    pub fn is_long(&self) -> bool {
        self.0.iter().sum::<u32>() >= MANY
    }

    pub fn hand_over(&mut self, counters: &Counters, server: ServerIndex) {
        for &class in QueryClass::ALL {
            match std::mem::take(&mut self.0[class.index()]) {
                0 => {}
                count => counters.queries(server, class, u64::from(count)),
            }
        }
    }
}

/// What a statement is counted as. What only steers the session is neither a read nor a write.
pub fn class_of(analyzed: &Analyzed) -> QueryClass {
    match (analyzed.routed.class, steers(&analyzed.analysis.kind) || analyzed.analysis.hints.explain) {
        (_, true) => QueryClass::Other,
        (Class::Write, false) => QueryClass::Write,
        (Class::Read, false) => QueryClass::Read,
    }
}

fn steers(kind: &StatementKind) -> bool {
    use StatementKind as Kind;
    matches!(
        kind,
        Kind::Empty
            | Kind::Begin(_)
            | Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint
            | Kind::Release
            | Kind::RollbackTo
            | Kind::SetTransaction { .. }
            | Kind::SetCharacteristics(_)
            | Kind::Set { .. }
            | Kind::Reset { .. }
            | Kind::ResetAll
            | Kind::SetRole { .. }
            | Kind::SetSessionAuthorization { .. }
            | Kind::Show { .. }
            | Kind::ShowPool(_)
            | Kind::DiscardAll
            | Kind::DiscardOther
            | Kind::Prepare
            | Kind::Deallocate { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_given_what_was_sent_to_it_once() {
        let counters = Counters::default();
        let mut tally = Tally::default();
        (0..3).for_each(|_| tally.sent(QueryClass::Read));
        tally.sent(QueryClass::Write);
        tally.hand_over(&counters, ServerIndex(1));
        tally.sent(QueryClass::Read);
        tally.hand_over(&counters, ServerIndex(0));
        tally.hand_over(&counters, ServerIndex(0));
        let totals = counters.totals();
        let of = |server, class| totals.queries_of(ServerIndex(server), class);
        assert_eq!((of(1, QueryClass::Read), of(1, QueryClass::Write)), (3, 1));
        assert_eq!((of(0, QueryClass::Read), of(0, QueryClass::Write)), (1, 0));
    }

    #[test]
    fn many_are_told_before_their_transaction_ends() {
        let mut tally = Tally::default();
        (0..MANY - 1).for_each(|_| tally.sent(QueryClass::Other));
        assert!(!tally.is_long());
        tally.sent(QueryClass::Read);
        assert!(tally.is_long());
    }
}
