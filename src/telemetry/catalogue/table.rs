//! The metrics themselves. What each field means, is told in the module above.

use super::{Dimension, Kind, Metric, Unit, Values, View, values};
use crate::telemetry::labels::{
    CancelResult, ConnectionState, Direction, HookLabel, HookResult, InstancesTrouble, LoginFailure,
    MetricsWay, PasswordTrouble, PinReason, PrimaryChange, QueryClass, ReadToPrimary, RejoinPhase, Rule,
    Standstill,
};

const fn dimension(label: &'static str, name: &'static str, values: Values) -> Dimension {
    Dimension { label, name, values }
}

const VERSION: Dimension = dimension("version", "Version", Values::Configured("komainu's own version"));
const SERVER: Dimension = dimension("server", "Server", Values::Configured("a configured server's `id`"));
const ENDPOINT: Dimension =
    dimension("endpoint", "Endpoint", Values::Configured("a configured endpoint's `name`"));
const METHOD: Dimension = dimension("method", "Method", Values::Known(methods));
const MOVE_PHASE: Dimension = dimension("phase", "Phase", Values::Known(move_phases));
const CLASS: Dimension = dimension("class", "Class", Values::Known(values::<QueryClass>));
const TO_PRIMARY: Dimension = dimension("reason", "Reason", Values::Known(values::<ReadToPrimary>));
const PIN: Dimension = dimension("reason", "Reason", Values::Known(values::<PinReason>));
const NOT_LET_IN: Dimension = dimension("reason", "Reason", Values::Known(values::<LoginFailure>));
const CANCELLED: Dimension = dimension("result", "Result", Values::Known(values::<CancelResult>));
const HOOK: Dimension = dimension("hook", "Hook", Values::Known(values::<HookLabel>));
const HOOK_RESULT: Dimension = dimension("result", "Result", Values::Known(values::<HookResult>));
const RULE: Dimension = dimension("rule", "Rule", Values::Known(values::<Rule>));
const DIRECTION: Dimension = dimension("direction", "Direction", Values::Known(values::<Direction>));
const STATE: Dimension = dimension("state", "State", Values::Known(values::<ConnectionState>));
const REJOIN_PHASE_OF: Dimension = dimension("phase", "Phase", Values::Known(values::<RejoinPhase>));
const TROUBLE: Dimension = dimension("reason", "Reason", Values::Known(values::<PasswordTrouble>));
const INSTANCES: Dimension = dimension("reason", "Reason", Values::Known(values::<InstancesTrouble>));
const CHANGE: Dimension = dimension("kind", "Kind", Values::Known(values::<PrimaryChange>));
const STANDS_STILL: Dimension = dimension("reason", "Reason", Values::Known(values::<Standstill>));
const WAY: Dimension = dimension("way", "Way", Values::Known(values::<MetricsWay>));

fn methods() -> Vec<(&'static str, &'static str)> {
    komainu_escalation::settings::METHODS.to_vec()
}

fn move_phases() -> Vec<(&'static str, &'static str)> {
    komainu_escalation::status::MOVE_PHASES.to_vec()
}

const fn view(name: &'static str, unit: Unit) -> View {
    View { name, unit, only: None, by: &[] }
}

impl View {
    const fn by(mut self, by: &'static [Dimension]) -> View {
        self.by = by;
        self
    }

    const fn only(mut self, label: &'static str, value: &'static str) -> View {
        self.only = Some((label, value));
        self
    }
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal [$($label:expr),*], $help:literal, [$($view:expr),*];)*) => {
        $(pub const $constant: Metric = Metric {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
            views: &[$($view),*],
        };)*
        pub const ALL: &[Metric] = &[$($constant,)*];
    };
}

metrics! {
    BUILD_INFO Gauge "komainu_build_info" [VERSION],
        "Always 1; the version is the label.", [];
    CLIENT_CONNECTIONS Gauge "komainu_client_connections" [],
        "Clients connected now.", [view("ClientConnections", Unit::Count)];
    CLIENT_CONNECTIONS_TOTAL Counter "komainu_client_connections_total" [],
        "Clients that have connected.", [view("ClientConnectionsReceived", Unit::Count)];
    LOGINS_FAILED Counter "komainu_logins_failed_total" [NOT_LET_IN],
        "Clients that were not let in.", [view("ClientConnectionsSetupFailed", Unit::Count).by(&[NOT_LET_IN])];
    CANCEL_REQUESTS Counter "komainu_cancel_requests_total" [CANCELLED],
        "Cancel requests of clients.", [view("CancelRequests", Unit::Count).by(&[CANCELLED])];
    QUERIES Counter "komainu_queries_total" [SERVER, CLASS],
        "Statements sent to a server.",
        [view("QueryRequests", Unit::Count), view("ReadsByServer", Unit::Count).only("class", "read").by(&[SERVER])];
    RESPONSE_SECONDS Summary "komainu_response_seconds" [],
        "How long sessions waited for a server's answers.",
        [view("QueryDatabaseResponseLatency", Unit::Microseconds)];
    READS_TO_PRIMARY Counter "komainu_reads_to_primary_total" [TO_PRIMARY],
        "Reads that the primary served, by why.", [view("ReadsToPrimary", Unit::Count).by(&[TO_PRIMARY])];
    BYTES Counter "komainu_bytes_total" [DIRECTION],
        "Bytes relayed.", [view("BytesRelayed", Unit::Bytes).by(&[DIRECTION])];
    SESSIONS_PINNED Gauge "komainu_sessions_pinned" [PIN],
        "Sessions that keep their server connection between transactions.",
        [view("SessionsPinned", Unit::Count).by(&[PIN])];
    PINS Counter "komainu_pins_total" [PIN],
        "Times a session was pinned to its server connection.", [view("SessionPins", Unit::Count).by(&[PIN])];
    SERVER_CONNECTIONS Gauge "komainu_server_connections" [SERVER, STATE],
        "Connections to a server.",
        [
            view("DatabaseConnections", Unit::Count),
            view("DatabaseConnectionsCurrentlyBorrowed", Unit::Count).only("state", "active"),
            view("DatabaseConnectionsByServer", Unit::Count).by(&[SERVER])
        ];
    POOL_WAITERS Gauge "komainu_pool_waiters" [],
        "Clients that wait for a server connection.", [view("PoolWaiters", Unit::Count)];
    CLIENTS_HELD Gauge "komainu_clients_held" [],
        "Clients that wait for a primary, or for a paused server.", [view("HeldClients", Unit::Count)];
    HELD_BYTES Gauge "komainu_held_bytes" [],
        "What clients that wait so occupy with what was read from them.", [view("HeldBytes", Unit::Bytes)];
    FLOORS_LOWERED Counter "komainu_floors_lowered_total" [],
        "Sessions whose position after a change of the primary is behind what they had written.",
        [view("FloorsLowered", Unit::Count)];
    ACQUIRE_SECONDS Histogram "komainu_acquire_seconds" [],
        "How long clients waited for a server connection.",
        [view("DatabaseConnectionsBorrowLatency", Unit::Microseconds)];
    EPOCH Gauge "komainu_epoch" [],
        "Raised each time the cluster gets a primary; absent while none is known to have been.", [view("Epoch", Unit::None)];
    FAILOVERS SharedCounter "komainu_failovers_total" [CHANGE],
        "Times that another server became the primary; every node tells the cluster's number.",
        [view("FailoverCount", Unit::Count).by(&[CHANGE])];
    FAILOVER_STANDSTILL Gauge "komainu_failover_standstill" [STANDS_STILL],
        "1 for the reason why a lost primary is not replaced, else 0; every node tells the cluster's.",
        [
            view("FailoverStandstill", Unit::None),
            view("FailoverStandstillByReason", Unit::None).by(&[STANDS_STILL])
        ];
    PRIMARY Gauge "komainu_primary" [SERVER],
        "1 for the primary, also while it is paused by order, else 0.", [view("Primary", Unit::None).by(&[SERVER])];
    SERVER_UP Gauge "komainu_server_up" [SERVER],
        "1 if the server answers the health checks, else 0.", [view("ServerUp", Unit::None).by(&[SERVER])];
    REPLICATION_LAG_BYTES Gauge "komainu_replication_lag_bytes" [SERVER],
        "WAL that the standby has not replayed; absent while unknown.",
        [view("ReplicationLagBytes", Unit::Bytes).by(&[SERVER])];
    REPLICATION_LAG_SECONDS Gauge "komainu_replication_lag_seconds" [SERVER],
        "Age of what the standby has replayed; absent while unknown.",
        [view("ReplicationLag", Unit::Seconds).by(&[SERVER])];
    STANDBYS_MISSING Gauge "komainu_synchronous_standbys_missing" [],
        "How many more standbys commits wait for than stream from the primary: while it is not 0, no commit is answered. Absent where commits wait for none, or the primary does not answer.",
        [view("SynchronousStandbysMissing", Unit::Count)];
    ARCHIVE_AGE_SECONDS Gauge "komainu_archive_age_seconds" [SERVER],
        "Since the primary archived a WAL file; absent unless it archives.",
        [view("ArchiveAge", Unit::Seconds).by(&[SERVER])];
    HOOKS Counter "komainu_hooks_total" [HOOK, HOOK_RESULT],
        "Times this node ran a hook, or as leader found one interrupted.",
        [view("HookRuns", Unit::Count).by(&[HOOK, HOOK_RESULT])];
    PLANS_REJECTED Counter "komainu_plans_rejected_total" [RULE],
        "Times this node, as leader, did not do what it had decided, since that would have broken an invariant.",
        [view("PlansRejected", Unit::Count).by(&[RULE])];
    REJOIN_PHASE Gauge "komainu_rejoin_phase" [SERVER, REJOIN_PHASE_OF],
        "1 for what the agent is at to make the server a standby again, else 0; absent while it is at nothing.",
        [view("RejoinPhase", Unit::None).by(&[SERVER, REJOIN_PHASE_OF])];
    REJOIN_BYTES_DONE Gauge "komainu_rejoin_bytes_done" [SERVER],
        "Bytes of the rewind or copy under way that are done.",
        [view("RejoinBytesDone", Unit::Bytes).by(&[SERVER])];
    REJOIN_BYTES_TOTAL Gauge "komainu_rejoin_bytes_expected" [SERVER],
        "Bytes of the rewind or copy under way in all.", [view("RejoinBytesExpected", Unit::Bytes).by(&[SERVER])];
    REJOIN_FAILURES Gauge "komainu_rejoin_failures" [SERVER],
        "Tries in a row to make the server a standby again that have failed; absent while it is none of those out of use or down.",
        [view("RejoinFailures", Unit::Count).by(&[SERVER])];
    PASSWORD_TROUBLES Gauge "komainu_password_troubles" [TROUBLE],
        "Roles whose password AWS does not give, or not anew, by why; what is known of it is used meanwhile.",
        [view("PasswordTroubles", Unit::Count), view("PasswordTroublesByReason", Unit::Count).by(&[TROUBLE])];
    INSTANCES_TROUBLE Gauge "komainu_instances_trouble" [INSTANCES],
        "1 for why AWS's API does not say which instances there are, else 0; what it has said last counts meanwhile. Absent without `failover.cluster_id`.",
        [view("InstancesTrouble", Unit::None), view("InstancesTroubleByReason", Unit::None).by(&[INSTANCES])];
    QUORUM_LEASE_SECONDS Gauge "komainu_quorum_lease_remaining_seconds" [],
        "What is left of this node's lease; 0: it has none, and forwards nothing to the primary.",
        [view("QuorumLeaseRemaining", Unit::Milliseconds)];
    ENDPOINT_OWNER Gauge "komainu_endpoint_owner" [ENDPOINT],
        "1 if this node has the endpoint, as it was read back, else 0.",
        [view("EndpointOwner", Unit::None).by(&[ENDPOINT])];
    ENDPOINT_EPOCH Gauge "komainu_endpoint_epoch" [ENDPOINT],
        "Raised each time the cluster names an owner for the endpoint.",
        [view("EndpointEpoch", Unit::None).by(&[ENDPOINT])];
    ENDPOINT_MOVE_SECONDS Summary "komainu_endpoint_move_seconds" [METHOD, MOVE_PHASE],
        "How long this node took to take an endpoint over, and each part of that.",
        [view("EndpointMoveTime", Unit::Milliseconds).by(&[METHOD, MOVE_PHASE])];
    ENDPOINT_DRIFT Counter "komainu_endpoint_drift_corrected_total" [ENDPOINT],
        "Times that somebody else changed the endpoint, and this node changed it back.",
        [view("DriftCorrected", Unit::Count).by(&[ENDPOINT])];
    API_THROTTLED Counter "komainu_api_throttled_total" [ENDPOINT],
        "Looks at the endpoint, and changes of it, that the API refused because there were too many requests.",
        [view("ApiThrottled", Unit::Count).by(&[ENDPOINT])];
    ENDPOINT_PROBLEMS Gauge "komainu_endpoint_problems" [ENDPOINT],
        "What was found to be wrong with this node's taking the endpoint, when it was tried; `komainu doctor` names it.",
        [view("EndpointProblems", Unit::Count).by(&[ENDPOINT])];
    PERMISSIONS_MISSING Gauge "komainu_permissions_missing" [],
        "Permissions that this node was found to lack, to move endpoints or to stop servers' hosts.",
        [view("PermissionsMissing", Unit::Count)];
    CERTIFICATE_SECONDS Gauge "komainu_certificate_remaining_seconds" [],
        "Until the first of the certificates ends that this node needs: its own for the others, and those in files that the configuration names, of authorities the last in each; negative: it has ended.",
        [view("CertificateDaysLeft", Unit::Days)];
    METRICS_DROPPED Counter "komainu_metrics_dropped_total" [WAY],
        "Values that did not reach CloudWatch, or the file, and are not sent again.",
        [view("MetricsDropped", Unit::Count).by(&[WAY])];
    LOG_LINES_DROPPED Counter "komainu_log_lines_dropped_total" [],
        "Lines of the log that could not be written in time: its disk, or whoever reads it, stood still.",
        [view("LogLinesDropped", Unit::Count)];
    PROCESS_CPU_SECONDS Counter "process_cpu_seconds_total" [],
        "CPU time komainu has used.", [view("CPUTime", Unit::Seconds)];
    PROCESS_RESIDENT_MEMORY Gauge "process_resident_memory_bytes" [],
        "Memory komainu occupies.", [view("ResidentMemory", Unit::Bytes)];
    PROCESS_START_TIME Gauge "process_start_time_seconds" [],
        "When komainu started, in Unix time.", [];
}
