//! What a statement does to its session, noted as it is sent.
//!
//! Invariant: what may leave state behind on a server connection pins the session, or is found out, before that
//! connection goes back.

use super::lease::Lease;
use super::pins::{PinReason, Pins};
use super::session::{Session, Unnamed};
use crate::backend::expect::{Alters, For};
use crate::route::{Analyzed, Effects};
use crate::telemetry::labels::Label;
use crate::wire::message::{Report, TransactionStatus};
use crate::wire::sqlstate;

impl Session {
    /// Notes what a statement does, as it is sent.
    pub(super) fn note_statement(&mut self, analyzed: &Analyzed) {
        self.transaction.note(analyzed);
        self.note_pins();
    }

    pub(super) fn note_pins(&mut self) {
        if self.transaction.effects.is_empty() {
            return;
        }
        let wanted = Pins::from_effects(self.transaction.effects);
        for reason in wanted.without(self.pins).iter() {
            self.pin(reason);
        }
    }

    pub(super) fn pin(&mut self, reason: PinReason) {
        if self.pins.insert(reason) {
            self.transaction.pinned.insert(reason);
            self.gateway.counters.pinned(reason);
            tracing::debug!(parent: &self.identity.span(self.id), reason = ?reason, "session pinned to its server connection");
        }
    }

    /// Another statement may have taken the place of one that only this connection has.
    pub(super) fn unpin_long_statement(&mut self) {
        const REASON: PinReason = PinReason::LongStatement;
        if self.pins.has(REASON) && !self.unnamed.as_ref().is_some_and(Unnamed::is_long) {
            self.pins.remove(REASON);
            self.gateway.counters.unpinned(REASON);
        }
    }

    /// A transaction that only read has ended on a standby. A session that kept the connection could not write any more,
    /// so it is closed, with all that would have kept it.
    pub(super) fn leave_pins_behind(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.conn.doomed = true;
        }
        let lost = self.pins.lost_unseen(Pins::default());
        self.unpin_all();
        if !lost.is_empty() {
            let what = lost.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!(
                "the transaction ran on a standby, and what it has left on the server connection ({what}) has ended with it"
            );
            let hint =
                "do it outside of READ ONLY transactions, which then keep to the connection to the primary";
            self.notify_client(&Report::warning(sqlstate::FEATURE_NOT_SUPPORTED, &message).hint(hint));
        }
    }

    /// Remembers the names of settings that servers do not list, to ask for them later.
    pub(super) fn note_custom_settings(&mut self, sql: &[u8], effects: Effects) {
        if effects.intersects(Effects::CHANGES_SETTINGS | Effects::SQL_PREPARE) {
            self.custom.get_or_insert_default().note(sql);
        }
    }

    /// Before a Query or a FunctionCall. `is_alone`: it is all of its transaction.
    pub(super) fn discard_sequences_before_query(&mut self, using: SequenceUse, is_alone: bool) {
        // The Query is of the batch in front of it, if there is one, which a Sync would end.
        let in_batch = self.lease.as_ref().is_some_and(|lease| lease.conn.expected.has_open_batch());
        self.discard_foreign_sequences(using, is_alone, if in_batch { For::Prelude } else { For::Ahead });
    }

    pub(super) fn discard_sequences_before_bind(&mut self, using: SequenceUse) {
        let is_alone = self.is_idle() && self.lease.as_ref().is_some_and(|lease| !lease.may_ask_sequences);
        self.discard_foreign_sequences(using, is_alone, For::Prelude);
    }

    /// Better PostgreSQL's own "not yet defined in this session" than another client's value. Before a value is drawn,
    /// since that could not be told from another's afterwards; but for a transaction in which nobody asks for it. Should it
    /// fail, in a transaction that has failed for instance, the client hears of it, as it would of its own message.
    fn discard_foreign_sequences(&mut self, using: SequenceUse, is_alone: bool, audience: For) {
        let is_foreign = |lease: &&mut Lease| lease.conn.foreign_sequences && lease.conn.forgets;
        let Some(lease) = self.lease.as_mut().filter(is_foreign) else { return };
        let is_needed = match using {
            SequenceUse::None => false,
            // On a standby nothing is drawn. A session that is pinned may ask in a later transaction.
            SequenceUse::Draws => !(lease.is_standby || is_alone && self.pins.is_empty()),
            SequenceUse::Asks => true,
        };
        if is_needed && self.status != TransactionStatus::Failed {
            lease.conn.discard_sequences(audience);
        }
    }
}

/// What a message may do to the schema that runs what has these effects.
pub(super) fn alters(effects: Effects) -> Option<Alters> {
    const ENDS: Effects = Effects::ENDS_TRANSACTION.union(Effects::UNKNOWN_EFFECTS);
    let how = if effects.intersects(ENDS) { Alters::InParts } else { Alters::Whole };
    effects.intersects(Effects::DDL).then_some(how)
}

/// What a statement does with the sequences of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SequenceUse {
    None,
    /// May draw a value.
    Draws,
    /// May ask for the one that was drawn last.
    Asks,
}

impl SequenceUse {
    /// Effects by which it may ask.
    pub const ASKS: Effects =
        Effects::USES_SEQUENCE_STATE.union(Effects::SQL_EXECUTE).union(Effects::UNKNOWN_EFFECTS);

    pub fn of(analyzed: &Analyzed) -> Self {
        Self::by(analyzed.analysis.effects, analyzed.routed.hidden_state)
    }

    pub fn by(effects: Effects, hidden_state: bool) -> Self {
        if effects.intersects(Self::ASKS) {
            SequenceUse::Asks
        } else if effects.intersects(Effects::ADVANCES_SEQUENCE) || hidden_state {
            SequenceUse::Draws
        } else {
            SequenceUse::None
        }
    }
}
