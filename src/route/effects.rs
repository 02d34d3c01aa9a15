//! What a text does to the session and connection it runs in, as a set of bits.
//!
//! Owns the bits and their meaning. Never decides what follows from one: that is the session's.
//! Invariant: a bit is set if any statement of the text *may* do what it says.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of effects, over all statements of a text.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Effects(u32);

macro_rules! effects {
    ($($(#[$doc:meta])* $name:ident = $bit:expr;)*) => {
        impl Effects {
            $($(#[$doc])* pub const $name: Effects = Effects(1 << $bit);)*
            const NAMES: &'static [(&'static str, Effects)] = &[$((stringify!($name), Effects::$name)),*];
        }
    };
}

effects! {
    /// BEGIN, START TRANSACTION, and COMMIT/ROLLBACK AND CHAIN.
    BEGINS = 0;
    /// COMMIT, END, ROLLBACK, ABORT, PREPARE TRANSACTION.
    ENDS_TRANSACTION = 1;
    /// Settings that outlive the transaction: SET, RESET, SET ROLE, SET SESSION AUTHORIZATION,
    /// SET SESSION CHARACTERISTICS, DISCARD ALL, and `set_config` unless its last argument is the word `true`.
    CHANGES_SETTINGS = 2;
    /// SET LOCAL, SET TRANSACTION and `set_config(…, true)`: gone with the transaction.
    SETTINGS_LOCAL = 3;
    /// DISCARD ALL.
    DISCARDS_ALL = 4;
    /// PREPARE name AS.
    SQL_PREPARE = 5;
    /// EXECUTE, also within EXPLAIN and CREATE TABLE AS.
    SQL_EXECUTE = 6;
    /// DEALLOCATE.
    SQL_DEALLOCATE = 7;
    /// Makes what lives as long as the server connection and cannot be made again elsewhere: temporary
    /// tables, views, sequences and functions, temporary replication slots.
    TEMP_OBJECT = 8;
    /// LISTEN.
    LISTENS = 9;
    /// UNLISTEN.
    UNLISTENS = 10;
    /// DECLARE … WITH HOLD.
    HOLD_CURSOR = 11;
    /// `pg_advisory_lock`, `pg_try_advisory_lock` and their shared forms, not the `_xact` ones.
    SESSION_ADVISORY_LOCK = 12;
    /// `pg_advisory_unlock…`.
    ADVISORY_UNLOCK = 13;
    /// LOAD, and what else keeps to its connection without a way to ask for it: a base backup in progress, a
    /// replication origin.
    LOADS = 14;
    /// State may be left behind that nobody can see: DO, CALL. Functions outside `pg_catalog` are told by
    /// `Routed::hidden_state`, which knows the catalog.
    HIDDEN_STATE = 15;
    /// `currval`, `lastval`: depend on what the same connection did before.
    USES_SEQUENCE_STATE = 16;
    /// `nextval`, `setval`, and INSERT and MERGE (defaults).
    ADVANCES_SEQUENCE = 17;
    /// Anything that may change a catalog: the cached catalog is to be read again.
    DDL = 18;
    /// COPY … FROM STDIN: the server will wait for copy data.
    COPY_IN = 19;
    /// COPY … TO STDOUT.
    COPY_OUT = 20;
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TWO_PHASE = 21;
    /// `lo_…`, `loread`, `lowrite`: descriptors live in the transaction.
    LARGE_OBJECT = 22;
    /// Run outside a transaction, the text surely ends the transaction it runs in: one statement that is
    /// neither a COPY nor transaction control, or COMMIT/END without AND CHAIN alone. Only behind such a
    /// message may a question of ours follow without waiting for ReadyForQuery. COMMIT/END has it inside
    /// a transaction too; any other statement only outside.
    IS_SURE_END = 23;
    /// May write WAL, by syntax; `Routed::may_write` knows the functions too.
    MAY_WRITE = 24;
    /// Statements whose effects are not known: not parsable, not inspected.
    UNKNOWN_EFFECTS = 25;
    /// The text leaves its own transaction's rules: SAVEPOINT, RELEASE, ROLLBACK TO.
    SAVEPOINTS = 26;
    /// NOTIFY, `pg_notify`.
    NOTIFIES = 27;
    /// SET ROLE, SET SESSION AUTHORIZATION: who the session is, besides CHANGES_SETTINGS or SETTINGS_LOCAL.
    CHANGES_USER = 28;
    /// DISCARD TEMP, SEQUENCES or PLANS.
    DISCARDS_SOME = 29;
    /// CLOSE, of a cursor that may be one WITH HOLD.
    CLOSES_CURSOR = 30;
    /// A transaction block is open behind the text: of its statements that begin or end one, the last begins one.
    LEAVES_OPEN = 31;
}

impl Effects {
    pub const NONE: Effects = Effects(0);

    /// Whatever a text that was not looked into may do to its connection: it pins.
    pub const OPAQUE: Effects = Effects(
        Effects::BEGINS.0
            | Effects::ENDS_TRANSACTION.0
            | Effects::CHANGES_SETTINGS.0
            | Effects::TEMP_OBJECT.0
            | Effects::HIDDEN_STATE.0
            | Effects::ADVANCES_SEQUENCE.0
            | Effects::DDL.0
            | Effects::COPY_IN.0
            | Effects::COPY_OUT.0
            | Effects::MAY_WRITE.0
            | Effects::UNKNOWN_EFFECTS.0,
    );

    /// Has all of `other`.
    pub const fn contains(self, other: Effects) -> bool {
        self.0 & other.0 == other.0
    }

    /// Has any of `other`.
    pub const fn intersects(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub const fn union(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }

    pub const fn without(self, other: Effects) -> Effects {
        Effects(self.0 & !other.0)
    }
}

impl BitOr for Effects {
    type Output = Effects;
    fn bitor(self, other: Effects) -> Effects {
        self.union(other)
    }
}

impl BitOrAssign for Effects {
    fn bitor_assign(&mut self, other: Effects) {
        *self = self.union(other);
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, bit) in Self::NAMES {
            if self.contains(*bit) {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        Ok(())
    }
}
