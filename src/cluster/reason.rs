//! Why a server is not used, why nobody is the primary, why the cluster did what it did: a stable code and a sentence.
//!
//! Pure. Codes appear in logs, `/status` and `docs/reasons.md`; they never change their meaning.
//! Invariant: every variant is in `ALL` (the macro sees to it) and in the manual page (a test does).

use std::fmt;

macro_rules! reasons {
    ($($name:ident $code:literal $sentence:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($name,)* }

        impl Reason {
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// Stable, for people and programs to search for.
            pub fn code(self) -> &'static str {
                match self { $(Reason::$name => $code,)* }
            }

            pub fn sentence(self) -> &'static str {
                match self { $(Reason::$name => $sentence,)* }
            }
        }
    };
}

reasons! {
    NotLookedAt "not_looked_at" "the server has not been looked at yet";
    NameNotResolved "name_not_resolved" "the server's name does not resolve";
    ConnectRefused "connect_refused" "nothing accepts connections at the server's address";
    Unreachable "unreachable" "the server's address cannot be reached";
    Timeout "timeout" "the server did not answer in time";
    ConnectionLost "connection_lost" "the connection broke before the server answered";
    TlsFailed "tls_failed" "no TLS connection to the server could be made";
    CredentialMissing "credential_missing" "the password of the health user is not to be had";
    AuthenticationFailed "authentication_failed" "the server does not let the health user in";
    StartingUp "starting_up" "the server is starting up, recovering or shutting down";
    TooManyConnections "too_many_connections" "the server has no connection left";
    QueryFailed "query_failed" "the server answered the look with an error";
    UnexpectedAnswer "unexpected_answer" "the server's answer is not understood";
    WrongSystemIdentifier "wrong_system_identifier" "the server belongs to another cluster: its system identifier differs";
    SystemIdentifiersDiffer "system_identifiers_differ" "the servers belong to different clusters and none of them has the majority";
    SecondPrimary "second_primary" "the server says that it is a primary, but another one is";
    OldPrimary "old_primary" "the server says that it is a primary, but of an older timeline than the cluster has seen";
    OtherTimeline "other_timeline" "the standby is not on the primary's timeline";
    Unsteady "unsteady" "the standby went down again and again: it is not read from before it has been well for a while";
    StillLooking "still_looking" "not every server has been looked at yet";
    TwoPrimaries "two_primaries" "several servers say that they are the primary, on the same timeline";
    NoPrimary "no_primary" "no server says that it is the primary";
    PrimaryDown "primary_down" "the primary does not answer";
    PrimaryDemoted "primary_demoted" "the primary says that it is a standby now";
    PrimaryReadOnly "primary_read_only" "the server is a primary, but takes no writes by its own configuration";
    SwitchingOver "switching_over" "AWS exchanges the server for the green one of its blue/green deployment: it takes no more writes";
    NoLease "no_lease" "this node has no lease: it may not act for the cluster";
    Fenced "fenced" "the primary's epoch has been ended and the next one has not begun";
    NotNamed "not_named" "the cluster has not named a primary yet";
    NotTheNamedPrimary "not_the_named_primary" "the server says that it is a primary, but the cluster has named another one";
    MostFindItDown "most_find_it_down" "most nodes find the server down";
    Draining "draining" "the server is being drained";
    Detached "detached" "the server is detached";
    Paused "paused" "the server is paused: what begins on it waits";
    Quarantined "quarantined" "the server is quarantined: what it holds is not trusted";
    ClusterCreated "cluster_created" "the cluster was created";
    LogFormatRaised "log_format_raised" "every node knows a newer format of the log, which is used from here on";
    ServersConfigured "servers_configured" "the servers of the configuration have changed";
    InstancesFound "instances_found" "AWS, or the instances themselves, say that there are other instances than before";
    InstancesUnknown "instances_unknown" "AWS has not said yet which instances there are";
    PrimaryFound "primary_found" "most voters hear this server say that it is the primary";
    PromotedElsewhere "promoted_elsewhere" "most voters hear another server, of a later timeline, say that it is the primary";
    WriterGone "writer_gone" "most voters find the writer down, and nothing accepts connections at its address";
    WriterMoved "writer_moved" "most voters hear another server say that it is the writer, and the one before no more";
    WriterReplaced "writer_replaced" "the writer was started anew, or another server answers at its name";
    AttachOrdered "attach_ordered" "an operator ordered that the server is used";
    ResumeOrdered "resume_ordered" "an operator ordered that what waits for the server goes on";
    SynchronousSet "synchronous_set" "the set of standbys that acknowledge commits follows the servers that are there";
    Held "held" "a switchover, or a restart of the primary, is under way: transactions wait for it";
    PrimaryLost "primary_lost" "most nodes get no answer from the primary, and no standby hears from it";
    DiskHangs "disk_hangs" "the primary answers, but what is written to it does not reach its disk";
    DiskFull "disk_full" "the primary answers, but there is no room on its disk for what is written";
    DiskFails "disk_fails" "the primary answers, but its disk fails what is written";
    FailoverOrdered "failover_ordered" "an operator ordered the failover";
    SwitchoverOrdered "switchover_ordered" "an operator ordered the switchover";
    LacksLeast "lacks_least" "of the standbys that may be promoted, this one has received most";
    Promoted "promoted" "the server that was named is a primary now";
    StandbysStillHear "standbys_still_hear" "a standby still hears from the primary: the nodes' network is at fault";
    LeaderReachesIt "leader_reaches_it" "the leading node still reaches the primary, most others do not";
    CrashRecovery "crash_recovery" "the primary is starting up or recovering from a crash: it is waited for";
    FailoverPaused "failover_paused" "automatic failover is paused by order";
    FailoverNotAutomatic "failover_not_automatic" "the configuration allows failover by order only";
    AlwaysPrimary "always_primary" "the configuration says that this server is the primary always";
    FailoverSettling "failover_settling" "the primary was named only a moment ago";
    FailoverDamped "failover_damped" "one primary after the other was lost: the next failover waits longer";
    NoCandidate "no_candidate" "no standby that may be promoted answers";
    CandidateLags "candidate_lags" "the best standby lacks more than failover.max_lag_bytes of what was seen of the primary";
    TooFewSynchronous "too_few_synchronous" "too few synchronous standbys answer to be sure that none has an acknowledged commit the others lack";
    NothingPromised "nothing_promised" "failover.sync_mode is require, and no standby is known yet to have every acknowledged commit";
    OnlyLogShipped "only_log_shipped" "only a standby by log shipping could be promoted, and failover.promote_log_shipped is off";
    AwaitsStreaming "awaits_streaming" "only a standby by log shipping could be promoted: one that streams is waited for";
    LastResort "last_resort" "no streaming standby can be promoted: this one reads the archive, and what was not archived is lost";
    HostNotStopped "host_not_stopped" "the host of the lost primary has not stopped yet, and the configuration wants that first";
    HostStopped "host_stopped" "AWS has stopped the host of the lost primary";
    PromotionFailed "promotion_failed" "the server that was to be promoted did not become a primary";
    SwitchoverAbandoned "switchover_abandoned" "the switchover could not be carried out; the old primary goes on";
    StartedAgain "started_again" "the primary that was named again did not run, and its agent has started it";
    RestartOrdered "restart_ordered" "an operator ordered that the server is restarted";
    Restarted "restarted" "the server was restarted";
    RestartFailed "restart_failed" "a restart did not succeed, and the rest of the plan is given up";
    RestartCancelled "restart_cancelled" "an operator ordered that nothing more is restarted";
    FormerPrimary "former_primary" "it was the primary: it stays out until it was rewound or rebuilt";
    FalsePrimary "false_primary" "it says that it is a primary, but the cluster has not made it one";
    MissingWal "missing_wal" "the primary no longer has the log that the standby goes on from: it stays out until it was rebuilt";
    Astray "astray" "the standby cannot come to the primary's timeline by itself: it stays out until it was rewound or rebuilt";
    ActionFailed "action_failed" "what was to be done to the server failed, and is tried again";
    PlanRejected "plan_rejected" "what was decided would have broken an invariant, so it was not done";
    RejoinFailed "rejoin_failed" "the server could not be made a standby of the primary, and it is tried again";
    HasMore "has_more" "the former primary has transactions that the others lack; its log is kept on its host";
    RecoveryOrdered "recovery_ordered" "an operator ordered that the server is made a standby again";
    RebuildOrdered "rebuild_ordered" "the server is built anew by order: what it has is not kept";
    Rejoined "rejoined" "the server follows the primary again";
    HookStarted "hook_started" "the operator's program for this event is started";
    HookRan "hook_ran" "the operator's program was run for this event";
    HookFailed "hook_failed" "the operator's program for this event failed, or could not be started";
    HookTimedOut "hook_timed_out" "the operator's program for this event did not end in time and was killed";
    HookInterrupted "hook_interrupted" "nobody knows how the operator's program for this event ended: its node was lost meanwhile";
    HookUnconfigured "hook_unconfigured" "there is no program for events of this kind";
    EndpointAssigned "endpoint_assigned" "the endpoint had no owner";
    OwnerSilent "owner_silent" "the endpoint's owner has not been heard of for as long as a lease lasts";
    EndpointMoved "endpoint_moved" "the endpoint was ordered to another node";
    EndpointUnconfigured "endpoint_unconfigured" "the endpoint is no longer in the configuration";
    FencePassed "fence_passed" "nobody can act on the ended epoch any more";
    NodeSilent "node_silent" "the node has been silent: what it said of the servers no longer counts";
    ServerObserved "server_observed" "a node finds the server otherwise than before";
    EndpointEvent "endpoint_event" "what the endpoint's owner did to take or keep it";
    ConfigurationApplied "configuration_applied" "the cluster's configuration was changed";
    ConfigurationUnusable "configuration_unusable" "the leading node cannot use the configuration that was agreed on, and goes by the one before";
    NodeReplaced "node_replaced" "the node was given a new life";
    VoterAdded "voter_added" "a voter was added to the cluster";
    NodeReaddressed "node_readdressed" "the configuration has the node at another address";
    ProxyJoined "proxy_joined" "a proxy joined the cluster";
    ProxyLeft "proxy_left" "a proxy was removed from the cluster";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_manual_lists_each_reason_and_no_other() {
        let page = include_str!("../../docs/reasons.md");
        let listed: Vec<(&str, &str)> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .map(|(code, rest)| (code, rest.split(" | ").next().unwrap()))
            .collect();
        let known: Vec<(&str, &str)> = Reason::ALL.iter().map(|r| (r.code(), r.sentence())).collect();
        assert_eq!(listed, known);
        let codes: BTreeSet<_> = known.iter().map(|(code, _)| code).collect();
        assert_eq!(codes.len(), known.len(), "two reasons share a code");
    }
}
