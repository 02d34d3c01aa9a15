//! Every metric komainu emits: its name, kind, labels and meaning.
//!
//! Pure data. Invariant: a name stands here, in `docs/metrics.md` and on the page, or nowhere.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(pub const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &$labels, help: $help };)*
        pub const ALL: &[Metric] = &[$($constant,)*];
    };
}

metrics! {
    BUILD_INFO Gauge "komainu_build_info" ["version"], "Always 1; the version is the label.";
    CLIENT_CONNECTIONS Gauge "komainu_client_connections" [], "Clients connected now.";
    CLIENT_CONNECTIONS_TOTAL Counter "komainu_client_connections_total" [], "Clients that have connected.";
    LOGINS_FAILED Counter "komainu_logins_failed_total" ["reason"], "Clients that were not let in.";
    CANCEL_REQUESTS Counter "komainu_cancel_requests_total" ["result"], "Cancel requests of clients.";
    QUERIES Counter "komainu_queries_total" ["server", "class"], "Statements sent to a server.";
    READS_TO_PRIMARY Counter "komainu_reads_to_primary_total" ["reason"], "Reads that the primary served, by why.";
    BYTES Counter "komainu_bytes_total" ["direction"], "Bytes relayed.";
    SESSIONS_PINNED Gauge "komainu_sessions_pinned" ["reason"], "Sessions that keep their server connection between transactions.";
    PINS Counter "komainu_pins_total" ["reason"], "Times a session was pinned to its server connection.";
    SERVER_CONNECTIONS Gauge "komainu_server_connections" ["server", "state"], "Connections to a server.";
    POOL_WAITERS Gauge "komainu_pool_waiters" [], "Clients that wait for a server connection.";
    CLIENTS_HELD Gauge "komainu_clients_held" [], "Clients that wait for a primary, or for a paused server.";
    FLOORS_LOWERED Counter "komainu_floors_lowered_total" [], "Sessions whose position after a change of the primary is behind what they had written.";
    ACQUIRE_SECONDS Histogram "komainu_acquire_seconds" [], "How long clients waited for a server connection.";
    EPOCH Gauge "komainu_epoch" [], "Raised each time the cluster gets a primary.";
    PRIMARY Gauge "komainu_primary" ["server"], "1 for the primary, else 0.";
    SERVER_UP Gauge "komainu_server_up" ["server"], "1 if the server answers the health checks, else 0.";
    REPLICATION_LAG_BYTES Gauge "komainu_replication_lag_bytes" ["server"], "WAL that the standby has not replayed; absent while unknown.";
    REPLICATION_LAG_SECONDS Gauge "komainu_replication_lag_seconds" ["server"], "Age of what the standby has replayed; absent while unknown.";
    ARCHIVE_AGE_SECONDS Gauge "komainu_archive_age_seconds" ["server"], "Since the primary archived a WAL file; absent unless it archives.";
    HOOKS Counter "komainu_hooks_total" ["hook", "result"], "Times this node ran a hook, or as leader found one interrupted.";
    PLANS_REJECTED Counter "komainu_plans_rejected_total" ["rule"], "Times this node, as leader, did not do what it had decided, since that would have broken an invariant.";
    REJOIN_PHASE Gauge "komainu_rejoin_phase" ["server", "phase"], "1 for what the agent is at to make the server a standby again, else 0; absent while it is at nothing.";
    REJOIN_BYTES_DONE Gauge "komainu_rejoin_bytes_done" ["server"], "Bytes of the rewind or copy under way that are done.";
    REJOIN_BYTES_TOTAL Gauge "komainu_rejoin_bytes_expected" ["server"], "Bytes of the rewind or copy under way in all.";
    REJOIN_FAILURES Gauge "komainu_rejoin_failures" ["server"], "Tries in a row to make the server a standby again that have failed; absent while it is none of those out of use or down.";
    PASSWORD_TROUBLES Gauge "komainu_password_troubles" ["reason"], "Roles whose password AWS does not give, or not anew, by why; what is known of it is used meanwhile.";
    PROCESS_CPU_SECONDS Counter "process_cpu_seconds_total" [], "CPU time komainu has used.";
    PROCESS_RESIDENT_MEMORY Gauge "process_resident_memory_bytes" [], "Memory komainu occupies.";
    PROCESS_START_TIME Gauge "process_start_time_seconds" [], "When komainu started, in Unix time.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::labels::{
        CancelResult, ConnectionState, Direction, HookLabel, Label, LoginFailure, PasswordTrouble, PinReason,
        QueryClass, ReadToPrimary, RejoinPhase, Rule,
    };

    #[test]
    fn the_manual_lists_each_metric_and_no_other() {
        let page = include_str!("../../docs/metrics.md");
        let (metrics, _) = page.split_once("## Labels").unwrap();
        let listed: Vec<String> =
            metrics.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect();
        let known: Vec<String> = ALL
            .iter()
            .map(|metric| {
                let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
                format!(
                    "| `{}` | {} | {} | {} |",
                    metric.name,
                    metric.kind.as_str(),
                    labels.join(", "),
                    metric.help
                )
            })
            .collect();
        assert_eq!(listed, known);
    }

    fn values<L: Label>() -> Vec<&'static str> {
        L::ALL.iter().map(|label| label.as_str()).collect()
    }

    #[test]
    fn the_manual_lists_each_value_of_each_label_and_no_other() {
        let known = [
            (QUERIES, values::<QueryClass>()),
            (READS_TO_PRIMARY, values::<ReadToPrimary>()),
            (SESSIONS_PINNED, values::<PinReason>()),
            (PINS, values::<PinReason>()),
            (LOGINS_FAILED, values::<LoginFailure>()),
            (CANCEL_REQUESTS, values::<CancelResult>()),
            (BYTES, values::<Direction>()),
            (HOOKS, values::<HookLabel>()),
            (PLANS_REJECTED, values::<Rule>()),
            (SERVER_CONNECTIONS, values::<ConnectionState>()),
            (REJOIN_PHASE, values::<RejoinPhase>()),
            (PASSWORD_TROUBLES, values::<PasswordTrouble>()),
        ];
        let page = include_str!("../../docs/metrics.md");
        for metric in ALL {
            let closed = metric.labels.iter().find(|label| !["server", "version"].contains(label));
            let Some(label) = closed else { continue };
            let (_, values) = known.iter().find(|(known, _)| known == metric).expect("its values are known");
            let heading = |section: &str| {
                let line = section.lines().next().unwrap();
                line.starts_with(&format!("`{label}` of")) && line.contains(&format!("`{}`", metric.name))
            };
            let section = page.split("\n### ").find(|section| heading(section));
            let section = section.unwrap_or_else(|| panic!("no section on {label} of {}", metric.name));
            let listed: Vec<&str> =
                section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
            assert_eq!(listed, *values, "{}", metric.name);
        }
    }

    #[test]
    fn names_are_unique_and_conventional() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        }
    }
}
