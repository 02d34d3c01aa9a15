//! What a statement does to its session, noted as it is sent.
//!
//! Invariant: what may leave state behind on a server connection pins the session, or is found out, before that
//! connection goes back.

use super::pins::{PinReason, Pins};
use super::session::{Session, Unnamed};
use crate::backend::expect::{Alters, For};
use crate::route::{Analyzed, Effects};
use crate::telemetry::labels::Label;
use crate::wire::message::{Report, TransactionStatus};
use crate::wire::sqlstate;

/// It names statements in its text.
pub(super) const BY_NAME: Effects =
    Effects::SQL_PREPARE.union(Effects::SQL_EXECUTE).union(Effects::SQL_DEALLOCATE);

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
        let mut wanted = Pins::from_effects(self.transaction.effects);
        if self.transaction.effects.intersects(Effects::DDL) && self.may_create_in_pg_temp() {
            wanted.insert(PinReason::TemporaryObject);
        }
        for reason in wanted.without(self.pins).iter() {
            self.pin(reason);
        }
    }

    /// Whether what is created under a plain name may be a temporary object. Where the server tells nobody what there is, only
    /// what says so counts: nothing would end the pin.
    fn may_create_in_pg_temp(&self) -> bool {
        let names_it = |path: &str| path.to_ascii_lowercase().contains("pg_temp");
        !self.settled.config.failover.mode.is_redshift()
            && (self.transaction.may_set_meaning || self.settings.get("search_path").is_some_and(names_it))
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

    /// Better PostgreSQL's own "not yet defined in this session" than another client's value. Not where
    /// this transaction has drawn values already: those are asked for. Should it fail, in a transaction that has failed
    /// for instance, the client hears of it, as it would of its own message.
    pub(super) fn discard_foreign_sequences(&mut self, effects: Effects, before_query: bool) {
        if !effects.intersects(Effects::USES_SEQUENCE_STATE) || self.status == TransactionStatus::Failed {
            return;
        }
        let Some(conn) = self.lease.as_mut().map(|lease| &mut lease.conn) else { return };
        if self.transaction.effects.intersects(Effects::ADVANCES_SEQUENCE) {
            // Nor later on: the session keeps the connection for their sake.
            conn.foreign_sequences = false;
            return;
        }
        if conn.foreign_sequences {
            // The Query is of the batch in front of it, if there is one, which a Sync would end.
            let is_ahead = before_query && !conn.expected.has_open_batch();
            conn.discard_sequences(if is_ahead { For::Ahead } else { For::Prelude });
        }
    }
}

/// What a message may do to the schema that runs what has these effects.
pub(super) fn alters(effects: Effects) -> Option<Alters> {
    const ENDS: Effects = Effects::ENDS_TRANSACTION.union(Effects::UNKNOWN_EFFECTS);
    let how = if effects.intersects(ENDS) { Alters::InParts } else { Alters::Whole };
    effects.intersects(Effects::DDL).then_some(how)
}
