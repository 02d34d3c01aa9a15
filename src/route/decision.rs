//! What `policy` answers: a server, and why that one.
//!
//! Owns the words for it. Never decides. Invariant: a reason's name, once released, is never given another
//! meaning (metrics and tests use it).

use std::fmt;

use crate::topology::{Lsn, ServerIndex};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub target: Target,
    pub reason: DecisionReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Primary,
    /// A standby.
    Server(ServerIndex),
    /// Wait, up to `split.floor_wait_ms`, until this standby has replayed `lsn`; then ask again, with
    /// `may_wait` false once the time is up.
    WaitForFloor {
        server: ServerIndex,
        lsn: Lsn,
    },
    /// No server can take it now: there is no primary, and no standby may serve it.
    None,
}

/// Why that server. What made the statement a read or a write is `RouteReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionReason {
    SplitOff,
    Write,
    ReadWriteTransaction,
    Serializable,
    Hint,
    HintUnavailable,
    Preference,
    FloorPending,
    FloorNotReached,
    NotMonotonic,
    Lag,
    NoStandby,
    Sticky,
    Drawn,
    NoPrimary,
}

impl DecisionReason {
    /// Stable; for metrics, logs and tests.
    pub fn name(self) -> &'static str {
        match self {
            DecisionReason::SplitOff => "split_off",
            DecisionReason::Write => "write",
            DecisionReason::ReadWriteTransaction => "read_write_transaction",
            DecisionReason::Serializable => "serializable",
            DecisionReason::Hint => "hint",
            DecisionReason::HintUnavailable => "hint_unavailable",
            DecisionReason::Preference => "preference",
            DecisionReason::FloorPending => "floor_pending",
            DecisionReason::FloorNotReached => "floor_not_reached",
            DecisionReason::NotMonotonic => "not_monotonic",
            DecisionReason::Lag => "lag",
            DecisionReason::NoStandby => "no_standby",
            DecisionReason::Sticky => "sticky",
            DecisionReason::Drawn => "drawn",
            DecisionReason::NoPrimary => "no_primary",
        }
    }
}

/// The sentence `explain route` shows.
impl fmt::Display for DecisionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecisionReason::SplitOff => "splitting is off",
            DecisionReason::Write => "it may write",
            DecisionReason::ReadWriteTransaction => "it is in a transaction that is not declared READ ONLY",
            DecisionReason::Serializable => "SERIALIZABLE holds on the primary only",
            DecisionReason::Hint => "a hint asks for this server",
            DecisionReason::HintUnavailable => "the server a hint asks for cannot serve it now",
            DecisionReason::Preference => "a preference sends this session's reads to the primary",
            DecisionReason::FloorPending => "where the session's last write stands is not known yet",
            DecisionReason::FloorNotReached => "no standby has replayed the session's writes yet",
            DecisionReason::NotMonotonic => "no standby is known to have all that the session has read",
            DecisionReason::Lag => "every standby lags more than allowed, or by an unknown amount",
            DecisionReason::NoStandby => "no standby is up",
            DecisionReason::Sticky => "the session's last read was served there",
            DecisionReason::Drawn => "it was chosen by weight",
            DecisionReason::NoPrimary => "there is no primary now",
        })
    }
}
