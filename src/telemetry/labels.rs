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
    /// When it counts, or what it is.
    fn meaning(self) -> &'static str;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident $text:literal $meaning:literal,)* })*) => {$(
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

            fn meaning(self) -> &'static str {
                match self { $($name::$variant => $meaning,)* }
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

impl Standstill {
    /// By the code of the reason.
    pub fn of(code: &str) -> Option<Self> {
        let found = Self::ALL.iter().copied().find(|known| known.as_str() == code);
        debug_assert!(found.is_some(), "{code} is no reason why a primary is not replaced");
        found
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

impl InstancesTrouble {
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::Throttled => InstancesTrouble::Throttled,
            Reason::Unreachable | Reason::OutcomeUnknown => InstancesTrouble::Unreachable,
            Reason::NotPermitted => InstancesTrouble::NotPermitted,
            Reason::CredentialsRefused => InstancesTrouble::CredentialsRefused,
            Reason::TargetMissing => InstancesTrouble::TargetMissing,
            Reason::OtherEngine => InstancesTrouble::OtherEngine,
            _ => InstancesTrouble::Refused,
        }
    }
}

labels! {
    /// What an agent is at.
    RejoinPhase {
        Looking "looking" "asks the primary who it is",
        Stopping "stopping" "stops the server",
        Keeping "keeping" "counts and copies what only this server has",
        Rewinding "rewinding" "rewinds it",
        Copying "copying" "takes a base backup",
        Swapping "swapping" "puts the new directory in the old one's place",
        Configuring "configuring" "tells it whom to follow",
        Starting "starting" "waits until it takes connections and streams",
        Done "done" "has done it",
    }
    /// Why a lost primary is not replaced. The names are codes of `cluster::reason`, and the meanings their sentences.
    Standstill {
        StandbysStillHear "standbys_still_hear" "a standby still hears from the primary: the nodes' network is at fault",
        LeaderReachesIt "leader_reaches_it" "the leading node still reaches the primary, most others do not",
        CrashRecovery "crash_recovery" "the primary is starting up or recovering from a crash: it is waited for",
        FailoverPaused "failover_paused" "automatic failover is paused by order",
        FailoverNotAutomatic "failover_not_automatic" "the configuration allows failover by order only",
        AlwaysPrimary "always_primary" "the configuration says that this server is the primary always",
        FailoverSettling "failover_settling" "the primary was named only a moment ago",
        FailoverDamped "failover_damped" "one primary after the other was lost: the next failover waits longer",
        NoCandidate "no_candidate" "no standby that may be promoted answers",
        CandidateLags "candidate_lags" "the best standby lacks more than failover.max_lag_bytes of what was seen of the primary",
        TooFewSynchronous "too_few_synchronous" "too few synchronous standbys answer to be sure that none has an acknowledged commit the others lack",
        NothingPromised "nothing_promised" "failover.sync_mode is require, and no standby is known yet to have every acknowledged commit",
        OnlyLogShipped "only_log_shipped" "only a standby by log shipping could be promoted, and failover.promote_log_shipped is off",
        AwaitsStreaming "awaits_streaming" "only a standby by log shipping could be promoted: one that streams is waited for",
        HostNotStopped "host_not_stopped" "the host of the lost primary has not stopped yet, and the configuration wants that first",
    }
    /// What a statement was taken for.
    QueryClass {
        Read "read" "may run on a standby",
        Write "write" "may write, or was not looked into",
        Other "other" "steers the session: transactions, settings, prepared statements; or komainu itself answers it",
    }
    /// Why a session keeps its server connection between transactions.
    PinReason {
        SessionMode "session_mode" "its pool is in session mode",
        TemporaryObject "temporary_object" "it has a temporary table or the like",
        AdvisoryLock "advisory_lock" "it holds an advisory lock of its session",
        Listen "listen" "it listens",
        HoldCursor "hold_cursor" "it has a cursor WITH HOLD",
        Load "load" "it has loaded a library",
        SqlPrepare "sql_prepare" "it has prepared by SQL what cannot be made virtual",
        SequenceState "sequence_state" "it may ask for `lastval` or `currval`",
        NotInspected "not_inspected" "a statement was too long to be looked into",
        LongStatement "long_statement" "its unnamed statement is too long to be kept, and only this connection has it",
        CannotAsk "cannot_ask" "it may have left something on a server of Redshift, which cannot be asked",
    }
    /// Why the primary served a read. The names are those of `DecisionReason`, `pinned`, and `refused`: a
    /// standby refused it or could not be reached.
    ReadToPrimary {
        SplitOff "split_off" "splitting is off, or the session is in session mode",
        ReadWriteTransaction "read_write_transaction" "it is in a transaction that is not declared READ ONLY",
        Serializable "serializable" "SERIALIZABLE holds on the primary only",
        Hint "hint" "a hint asks for the primary",
        HintUnavailable "hint_unavailable" "the server a hint asks for cannot serve it now",
        Preference "preference" "a preference sends this session's reads to the primary",
        FloorPending "floor_pending" "where the session's last write stands is not known yet",
        FloorNotReached "floor_not_reached" "no standby has replayed the session's writes yet",
        NotMonotonic "not_monotonic" "no standby is known to have all that the session has read",
        Lag "lag" "every standby lags more than allowed, or by an unknown amount",
        NoStandby "no_standby" "no standby is up",
        Sticky "sticky" "the session's last read was served there",
        Drawn "drawn" "the primary has a weight of its own, and was drawn",
        Pinned "pinned" "the session keeps its connection to the primary",
        Refused "refused" "a standby was asked first and refused it (25006, or 40001 for a conflict with recovery), could not be reached, or was lost before it answered",
    }
    /// Why a client was not let in.
    LoginFailure {
        Password "password" "a wrong password, no such user, or one without a secret",
        Hba "hba" "no line of the HBA file lets it in, or it may not log in",
        TlsRequired "tls_required" "it came without TLS where that is required",
        Timeout "timeout" "it did not log in within `limits.startup_timeout_ms`",
        Protocol "protocol" "it broke the protocol",
        TooManyConnections "too_many_connections" "`limits.max_client_connections`",
        TooManyUnauthenticated "too_many_unauthenticated" "as many as may be had not logged in yet: `limits.max_unauthenticated_per_address` from its address, or `limits.max_client_connections` in all",
        Server "server" "no server took its login",
        NotOwner "not_owner" "the node does not own the endpoint, and `endpoint.refuse_when_not_owner` is on",
        Replication "replication" "it asked for a replication connection, which komainu does not pass on",
    }
    /// What became of a cancel request.
    CancelResult {
        Sent "sent" "passed on to the server, or told to a request that waited for one",
        UnknownKey "unknown_key" "the key is nobody's",
        Idle "idle" "there was nothing to cancel",
        Failed "failed" "the server could not be told",
        PassedOn "passed_on" "another node of the cluster had the session",
    }
    /// What an operator's program was told.
    HookLabel {
        OnFailover "on_failover" "another server became the primary, unplanned",
        OnSwitchover "on_switchover" "the same, by order",
        OnDetach "on_detach" "a server was taken out of use",
        OnAttach "on_attach" "a server was attached by order",
        OnRecovered "on_recovered" "a quarantined server follows the primary again",
    }
    /// How it ended.
    HookResult {
        Ok "ok" "its program ended with status 0",
        Failed "failed" "its program ended otherwise, or could not be started",
        TimedOut "timed_out" "it was killed at its deadline",
        Interrupted "interrupted" "nobody reported how it ended",
    }
    /// Why AWS gives no password, or none anew.
    PasswordTrouble {
        Throttled "throttled" "AWS asks for fewer requests",
        Unreachable "unreachable" "AWS is not reached, or gives no usable answer",
        NotPermitted "not_permitted" "the node's role lacks `secretsmanager:GetSecretValue` on the secret, or `kms:Decrypt` on its key",
        CredentialsRefused "credentials_refused" "the node has no AWS credentials, or they are not accepted",
        SecretMissing "secret_missing" "the secret does not exist, or is marked for deletion",
        SecretUnusable "secret_unusable" "it is not JSON with `username` and `password`, or it is another role's",
        Refused "refused" "AWS refuses the request for another reason; `komainu doctor` and the log say which",
    }
    /// Why AWS's API does not say which instances there are.
    InstancesTrouble {
        Throttled "throttled" "AWS asks for fewer requests",
        Unreachable "unreachable" "AWS is not reached, or gives no usable answer",
        NotPermitted "not_permitted" "the node's role lacks `rds:DescribeDBClusters` or `rds:DescribeDBInstances`",
        CredentialsRefused "credentials_refused" "the node has no AWS credentials, or they are not accepted",
        TargetMissing "target_missing" "there is no cluster or instance `failover.cluster_id` in this account and region",
        OtherEngine "other_engine" "it is of another engine than `failover.mode` says",
        Refused "refused" "AWS refuses the request for another reason; `komainu doctor` and the log say which",
    }
    /// How the primary came to be another server.
    PrimaryChange {
        Failover "failover" "unplanned, or forced",
        Switchover "switchover" "by order, the old one stopped cleanly",
    }
    /// By which way metrics leave, other than by being asked for.
    MetricsWay {
        Emf "emf" "lines in the embedded metric format",
        PutMetricData "put_metric_data" "calls of CloudWatch",
    }
    /// What a step or action of a plan would have broken.
    Rule {
        Quorum "quorum" "this node had not heard from most voters for a lease",
        Epoch "epoch" "it was of another epoch, or version, than the present one",
        Fence "fence" "the fence that must come before it had not passed, or standbys still received from the old primary",
        Once "once" "an epoch has one promotion, and this one had it, or might still have it",
        Named "named" "it would have been done to another server than the log names",
        Candidate "candidate" "that server may not be made the primary, or is none",
        Loss "loss" "a commit that was acknowledged might have been lost",
        Trust "trust" "the server is quarantined, or was about to be rewound without being so",
        Synchronous "synchronous" "the set of standbys that acknowledge commits would have changed in an order that is not safe",
        Primary "primary" "it would have been done to the primary",
        Lives "lives" "the primary lives, by what most nodes find",
        Order "order" "nobody ordered it, or the configuration or an order forbids it",
    }
    /// Which way bytes were relayed.
    Direction {
        ToServers "to_servers" "to servers, what komainu asks them for itself included",
        ToClients "to_clients" "to clients, what komainu answers itself included",
    }
    /// What a server connection is doing.
    ConnectionState {
        Idle "idle" "in its pool",
        Active "active" "lent to a session",
        Connecting "connecting" "being opened",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::reason;

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

    #[test]
    fn why_a_primary_is_not_replaced_is_told_as_everywhere_else() {
        for &standstill in Standstill::ALL {
            let reason = reason::Reason::ALL.iter().find(|reason| reason.code() == standstill.as_str());
            assert_eq!(reason.map(|reason| reason.sentence()), Some(standstill.meaning()));
            assert_eq!(Standstill::of(standstill.as_str()), Some(standstill));
        }
    }
}
