//! The label values of counters, as enums: a closed set each, so that no client can grow the page.
//!
//! Pure. Invariant: `index` counts from 0 without gaps, in the order of `ALL`.

use komainu_escalation::Reason;

use crate::route::DecisionReason;

/// A label whose values are known when komainu is built.
pub trait Label: Copy + 'static {
    const ALL: &'static [Self];
    fn index(self) -> usize;
    fn as_str(self) -> &'static str;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($variant,)* }

        impl $name {
            pub const COUNT: usize = [$($name::$variant,)*].len();
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$($name::$variant,)*];

            fn index(self) -> usize {
                self as usize
            }

            fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    )*};
}

impl ReadToPrimary {
    /// Of a decision for the primary; none if it was not about a read.
    pub fn of(reason: DecisionReason) -> Option<Self> {
        Some(match reason {
            DecisionReason::SplitOff => ReadToPrimary::SplitOff,
            DecisionReason::ReadWriteTransaction => ReadToPrimary::ReadWriteTransaction,
            DecisionReason::Serializable => ReadToPrimary::Serializable,
            DecisionReason::Hint => ReadToPrimary::Hint,
            DecisionReason::HintUnavailable => ReadToPrimary::HintUnavailable,
            DecisionReason::Preference => ReadToPrimary::Preference,
            DecisionReason::FloorPending => ReadToPrimary::FloorPending,
            DecisionReason::FloorNotReached => ReadToPrimary::FloorNotReached,
            DecisionReason::NotMonotonic => ReadToPrimary::NotMonotonic,
            DecisionReason::Lag => ReadToPrimary::Lag,
            DecisionReason::NoStandby => ReadToPrimary::NoStandby,
            DecisionReason::Sticky => ReadToPrimary::Sticky,
            DecisionReason::Drawn => ReadToPrimary::Drawn,
            DecisionReason::Write | DecisionReason::NoPrimary => return None,
        })
    }
}

impl PasswordTrouble {
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::Throttled => PasswordTrouble::Throttled,
            Reason::Unreachable | Reason::OutcomeUnknown => PasswordTrouble::Unreachable,
            Reason::NotPermitted => PasswordTrouble::NotPermitted,
            Reason::CredentialsRefused => PasswordTrouble::CredentialsRefused,
            Reason::SecretMissing => PasswordTrouble::SecretMissing,
            Reason::SecretUnusable => PasswordTrouble::SecretUnusable,
            _ => PasswordTrouble::Refused,
        }
    }
}

labels! {
    /// What an agent is at.
    RejoinPhase {
        Looking "looking",
        Stopping "stopping",
        Keeping "keeping",
        Rewinding "rewinding",
        Copying "copying",
        Swapping "swapping",
        Configuring "configuring",
        Starting "starting",
        Done "done",
    }


    /// What a statement was taken for.
    QueryClass { Read "read", Write "write", Other "other", }
    /// Why a session keeps its server connection between transactions.
    PinReason {
        SessionMode "session_mode",
        TemporaryObject "temporary_object",
        AdvisoryLock "advisory_lock",
        Listen "listen",
        HoldCursor "hold_cursor",
        Load "load",
        SqlPrepare "sql_prepare",
        SequenceState "sequence_state",
        NotInspected "not_inspected",
    }
    /// Why the primary served a read. The names are those of `DecisionReason`, `pinned`, and `refused`: a
    /// standby refused it or could not be reached.
    ReadToPrimary {
        SplitOff "split_off",
        ReadWriteTransaction "read_write_transaction",
        Serializable "serializable",
        Hint "hint",
        HintUnavailable "hint_unavailable",
        Preference "preference",
        FloorPending "floor_pending",
        FloorNotReached "floor_not_reached",
        NotMonotonic "not_monotonic",
        Lag "lag",
        NoStandby "no_standby",
        Sticky "sticky",
        Drawn "drawn",
        Pinned "pinned",
        Refused "refused",
    }
    /// Why a client was not let in.
    LoginFailure {
        Password "password",
        Hba "hba",
        TlsRequired "tls_required",
        Timeout "timeout",
        Protocol "protocol",
        TooManyConnections "too_many_connections",
        Server "server",
        NotOwner "not_owner",
    }
    /// What became of a cancel request.
    CancelResult {
        Sent "sent",
        UnknownKey "unknown_key",
        Idle "idle",
        Failed "failed",
        PassedOn "passed_on",
    }
    /// What an operator's program was told.
    HookLabel {
        OnFailover "on_failover",
        OnSwitchover "on_switchover",
        OnDetach "on_detach",
        OnAttach "on_attach",
        OnRecovered "on_recovered",
    }
    /// How it ended.
    HookResult { Ok "ok", Failed "failed", TimedOut "timed_out", Interrupted "interrupted", }
    /// Why AWS gives no password, or none anew.
    PasswordTrouble {
        Throttled "throttled",
        Unreachable "unreachable",
        NotPermitted "not_permitted",
        CredentialsRefused "credentials_refused",
        SecretMissing "secret_missing",
        SecretUnusable "secret_unusable",
        Refused "refused",
    }
    /// What a step or action of a plan would have broken.
    Rule {
        Quorum "quorum",
        Epoch "epoch",
        Fence "fence",
        Once "once",
        Named "named",
        Candidate "candidate",
        Loss "loss",
        Trust "trust",
        Synchronous "synchronous",
        Primary "primary",
        Lives "lives",
        Order "order",
    }
    /// Which way bytes were relayed.
    Direction { ToServers "to_servers", ToClients "to_clients", }
    /// What a server connection is doing.
    ConnectionState { Idle "idle", Active "active", Connecting "connecting", }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_at_the_primary_is_counted_under_the_name_that_explain_route_shows() {
        for reason in [
            DecisionReason::SplitOff,
            DecisionReason::ReadWriteTransaction,
            DecisionReason::Serializable,
            DecisionReason::Hint,
            DecisionReason::HintUnavailable,
            DecisionReason::Preference,
            DecisionReason::FloorPending,
            DecisionReason::FloorNotReached,
            DecisionReason::NotMonotonic,
            DecisionReason::Lag,
            DecisionReason::NoStandby,
            DecisionReason::Sticky,
            DecisionReason::Drawn,
        ] {
            assert_eq!(ReadToPrimary::of(reason).unwrap().as_str(), reason.name());
        }
        assert_eq!(ReadToPrimary::of(DecisionReason::Write), None);
    }
}
