//! Why a session keeps its server connection between transactions.
//!
//! Pure. Invariant: a reason is set no later than the statement that makes it true is sent, and cleared
//! only when the server says that nothing of it is left (of a long statement: when another has taken its place).

use crate::route::Effects;
use crate::telemetry::labels::Label;
pub use crate::telemetry::labels::PinReason;

fn bit(reason: PinReason) -> u16 {
    1 << reason.index()
}

/// A set of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(u16);

/// What the server says is there: see `OwnStatement::Pins`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    pub temporary_objects: bool,
    pub advisory_locks: bool,
    pub listening: bool,
    pub hold_cursors: bool,
}

impl Pins {
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn has(self, reason: PinReason) -> bool {
        self.0 & bit(reason) != 0
    }

    pub fn bits(self) -> u16 {
        self.0
    }

    pub fn from_bits(bits: u16) -> Pins {
        Pins(bits)
    }

    /// Returns whether it is new.
    pub fn insert(&mut self, reason: PinReason) -> bool {
        let new = !self.has(reason);
        self.0 |= bit(reason);
        new
    }

    pub fn remove(&mut self, reason: PinReason) {
        self.0 &= !bit(reason);
    }

    pub fn iter(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL.iter().copied().filter(move |&reason| self.has(reason))
    }

    /// The reasons that come with what a text does.
    pub fn from_effects(effects: Effects) -> Pins {
        let mut pins = Pins::default();
        let table = [
            (Effects::TEMP_OBJECT, PinReason::TemporaryObject),
            (Effects::SESSION_ADVISORY_LOCK, PinReason::AdvisoryLock),
            (Effects::LISTENS, PinReason::Listen),
            (Effects::HOLD_CURSOR, PinReason::HoldCursor),
            (Effects::LOADS, PinReason::Load),
            (Effects::USES_SEQUENCE_STATE, PinReason::SequenceState),
            (Effects::UNKNOWN_EFFECTS, PinReason::NotInspected),
        ];
        for (effect, reason) in table {
            if effects.intersects(effect) {
                pins.insert(reason);
            }
        }
        pins
    }

    pub fn union(self, other: Pins) -> Pins {
        Pins(self.0 | other.0)
    }

    pub fn without(self, other: Pins) -> Pins {
        Pins(self.0 & !other.0)
    }

    /// Those of which the loss could not be seen by the client when the server connection is lost. What the
    /// running transaction has brought (`new`) may go with it. A cursor, `currval`, and a statement that was prepared by
    /// SQL or is too long to be kept are missed by an error of PostgreSQL's own; the others are missed by nobody until it
    /// is too late.
    pub fn lost_unseen(self, new: Pins) -> Pins {
        let unseen = [
            PinReason::SessionMode,
            PinReason::TemporaryObject,
            PinReason::AdvisoryLock,
            PinReason::Listen,
            PinReason::Load,
            PinReason::CannotAsk,
        ];
        let ends_with_transaction = [PinReason::TemporaryObject, PinReason::Listen];
        let mut lost = Pins::default();
        for reason in unseen.into_iter().filter(|&reason| self.has(reason)) {
            if !(new.has(reason) && ends_with_transaction.contains(&reason)) {
                lost.insert(reason);
            }
        }
        lost
    }

    /// Whether asking the server could end one of the reasons.
    pub fn can_end(self) -> bool {
        let endable = [
            PinReason::TemporaryObject,
            PinReason::AdvisoryLock,
            PinReason::Listen,
            PinReason::HoldCursor,
            PinReason::NotInspected,
        ];
        endable.into_iter().any(|reason| self.has(reason))
    }

    /// What is left of the reasons once the server was asked. A text of unknown effects may have left any
    /// of the four; what else it left is hidden state, for which the connection is reset, not kept.
    pub fn after(self, found: Found) -> Pins {
        let mut left = self;
        let table = [
            (PinReason::TemporaryObject, found.temporary_objects),
            (PinReason::AdvisoryLock, found.advisory_locks),
            (PinReason::Listen, found.listening),
            (PinReason::HoldCursor, found.hold_cursors),
        ];
        for (reason, is_there) in table {
            if is_there {
                left.insert(reason);
            } else {
                left.remove(reason);
            }
        }
        left.remove(PinReason::NotInspected);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_ends_when_the_server_has_nothing_left() {
        let pins = Pins::from_effects(Effects::TEMP_OBJECT | Effects::LISTENS);
        assert_eq!(pins.iter().collect::<Vec<_>>(), [PinReason::TemporaryObject, PinReason::Listen]);
        let left = pins.after(Found { listening: true, ..Found::default() });
        assert_eq!(left.iter().collect::<Vec<_>>(), [PinReason::Listen]);
        assert!(left.after(Found::default()).is_empty());
    }

    #[test]
    fn only_what_nobody_would_miss_ends_a_session_and_not_if_its_transaction_goes_with_it() {
        let listening = Pins::from_effects(Effects::LISTENS);
        assert_eq!(listening.lost_unseen(Pins::default()), listening);
        assert!(listening.lost_unseen(listening).is_empty());
        let lock = Pins::from_effects(Effects::SESSION_ADVISORY_LOCK);
        assert_eq!(lock.lost_unseen(lock), lock, "it outlives a ROLLBACK");
        let seen = Pins::from_effects(Effects::HOLD_CURSOR | Effects::USES_SEQUENCE_STATE);
        assert!(seen.lost_unseen(Pins::default()).is_empty());
    }

    #[test]
    fn what_no_question_can_answer_stays() {
        let mut pins = Pins::default();
        assert!(pins.insert(PinReason::Load));
        assert!(!pins.insert(PinReason::Load));
        assert!(!pins.can_end());
        assert_eq!(pins.after(Found::default()), pins);
    }

    #[test]
    fn an_uninspected_text_pins_by_what_it_left() {
        let pins = Pins::from_effects(Effects::UNKNOWN_EFFECTS);
        let left = pins.after(Found { advisory_locks: true, ..Found::default() });
        assert_eq!(left.iter().collect::<Vec<_>>(), [PinReason::AdvisoryLock]);
    }
}
