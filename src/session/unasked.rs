//! The end of a transaction on a server that cannot be asked what it has left on its connection.
//!
//! Invariant: a session that has left something keeps the connection, and nobody has it afterwards.

use super::pins::PinReason;
use super::session::Session;
use crate::route::Effects;

/// Functions leave nothing on Redshift, whatever they are; procedures may (`HIDDEN_STATE`).
const LEAVES: Effects = Effects::CHANGES_SETTINGS
    .union(Effects::UNKNOWN_EFFECTS)
    .union(Effects::HIDDEN_STATE)
    .union(Effects::TEMP_OBJECT)
    .union(Effects::HOLD_CURSOR)
    .union(Effects::LISTENS)
    .union(Effects::SESSION_ADVISORY_LOCK)
    .union(Effects::LOADS);

impl Session {
    /// Of Redshift.
    pub(super) fn end_unasked(&mut self) {
        let effects = self.transaction.effects;
        let leaves = effects.intersects(LEAVES);
        // A procedure may have committed something before it failed: the session has lost that, and nobody else gets it.
        let is_undone = self.transaction.failed && !self.transaction.may_commit;
        if is_undone {
            let brought = self.transaction.pinned;
            brought.iter().for_each(|gone| self.gateway.counters.unpinned(gone));
            self.pins = self.pins.without(brought);
        } else if leaves {
            self.pin(PinReason::CannotAsk);
        }
        let Some(lease) = &mut self.lease else { return };
        if leaves || !self.pins.is_empty() {
            lease.conn.leftover_of = Some(self.id);
        }
        lease.settings_unread = false;
        self.transaction.end();
    }
}
