//! The `/metrics` page, in Prometheus' text format 0.0.4.
//!
//! Pure: numbers in, text out. Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//! Invariant: each metric of `metrics::ALL` has its HELP and TYPE lines once, with or without samples.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::{Duration, SystemTime};

use crate::topology::{Health, Role, ServerIndex, Snapshot};

use super::counters::{ACQUIRE_BOUNDS_US, Totals};
use super::labels::{
    ConnectionState, HookLabel, HookResult, Label, PasswordTrouble, QueryClass, RejoinPhase,
};
use super::metrics::{self, Kind, Metric};
use super::process::Process;

/// What the pools hold at one moment. Asked for at the scrape, so that it costs a query nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolCensus {
    /// By server, then by `ConnectionState`.
    pub connections: BTreeMap<ServerIndex, [u64; ConnectionState::COUNT]>,
    pub waiters: u64,
    pub held: u64,
}

/// What an agent is at with a server that is out of use or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejoining<'a> {
    pub server: &'a str,
    /// None: it is at nothing now.
    pub phase: Option<RejoinPhase>,
    /// Done, and in all.
    pub bytes: Option<(u64, u64)>,
    pub failures: u32,
}

/// All that the page shows.
#[derive(Debug)]
pub struct Numbers<'a> {
    pub version: &'a str,
    pub totals: &'a Totals,
    pub census: &'a PoolCensus,
    pub snapshot: &'a Snapshot,
    pub rejoining: &'a [Rejoining<'a>],
    /// By server: how long ago it has archived something.
    pub archived_ms: &'a [Option<u64>],
    /// By `PasswordTrouble`, of how many roles.
    pub password_troubles: [u64; PasswordTrouble::COUNT],
    pub process: Process,
    pub started_at: SystemTime,
}

pub fn page(numbers: &Numbers) -> String {
    let Numbers { totals, census, snapshot, .. } = *numbers;
    let mut page = Page { out: String::with_capacity(8 * 1024) };
    page.one(metrics::CLIENT_CONNECTIONS, totals.client_connections);
    page.one(metrics::CLIENT_CONNECTIONS_TOTAL, totals.client_connections_total);
    page.by_label(metrics::LOGINS_FAILED, &totals.logins_failed, super::labels::LoginFailure::ALL);
    page.by_label(metrics::CANCEL_REQUESTS, &totals.cancels, super::labels::CancelResult::ALL);
    page.by_label(metrics::READS_TO_PRIMARY, &totals.reads_to_primary, super::labels::ReadToPrimary::ALL);
    page.by_label(metrics::BYTES, &totals.bytes, super::labels::Direction::ALL);
    let pinned: Vec<u64> =
        totals.pins.iter().zip(&totals.unpins).map(|(pins, unpins)| pins.saturating_sub(*unpins)).collect();
    page.by_label(metrics::SESSIONS_PINNED, &pinned, super::labels::PinReason::ALL);
    page.by_label(metrics::PINS, &totals.pins, super::labels::PinReason::ALL);
    page.one(metrics::POOL_WAITERS, census.waiters);
    page.one(metrics::CLIENTS_HELD, census.held);
    page.one(metrics::FLOORS_LOWERED, totals.floors_lowered);
    page.acquire(totals);
    page.hooks(totals);
    page.by_label(metrics::PLANS_REJECTED, &totals.rejected, super::labels::Rule::ALL);
    page.servers(totals, census, snapshot);
    page.rejoining(numbers.rejoining);
    page.archives(numbers);
    page.by_label(metrics::PASSWORD_TROUBLES, &numbers.password_troubles, PasswordTrouble::ALL);
    page.one(metrics::EPOCH, snapshot.epoch.0);
    page.family(metrics::BUILD_INFO);
    page.sample(metrics::BUILD_INFO, "", &[("version", numbers.version)], 1);
    page.one(metrics::PROCESS_CPU_SECONDS, numbers.process.cpu.as_secs_f64());
    page.one(metrics::PROCESS_RESIDENT_MEMORY, numbers.process.resident_bytes);
    let started = numbers.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    page.one(metrics::PROCESS_START_TIME, started.as_secs_f64());
    page.out
}

struct Page {
    out: String,
}

impl Page {
    fn family(&mut self, metric: Metric) {
        let (name, help, kind) = (metric.name, metric.help, metric.kind.as_str());
        put(&mut self.out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, metric: Metric, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        debug_assert!(
            metric.kind == Kind::Histogram || labels.iter().map(|l| l.0).eq(metric.labels.iter().copied())
        );
        self.out.push_str(metric.name);
        self.out.push_str(suffix);
        for (position, (name, text)) in labels.iter().enumerate() {
            self.out.push(if position == 0 { '{' } else { ',' });
            put(&mut self.out, format_args!("{name}=\""));
            for character in text.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        put(&mut self.out, format_args!(" {value}\n"));
    }

    fn one(&mut self, metric: Metric, value: impl Display) {
        self.family(metric);
        self.sample(metric, "", &[], value);
    }

    fn by_label<L: Label>(&mut self, metric: Metric, values: &[u64], labels: &[L]) {
        self.family(metric);
        for &label in labels {
            self.sample(metric, "", &[(metric.labels[0], label.as_str())], values[label.index()]);
        }
    }

    fn rejoining(&mut self, all: &[Rejoining]) {
        self.family(metrics::REJOIN_PHASE);
        for Rejoining { server, phase, .. } in all {
            for &each in RejoinPhase::ALL.iter().filter(|_| phase.is_some()) {
                let labels = [("server", *server), ("phase", each.as_str())];
                self.sample(metrics::REJOIN_PHASE, "", &labels, u8::from(*phase == Some(each)));
            }
        }
        let bytes = all.iter().filter_map(|it| Some((it.server, it.bytes?)));
        self.by_server(metrics::REJOIN_BYTES_DONE, bytes.clone().map(|(server, (done, _))| (server, done)));
        self.by_server(metrics::REJOIN_BYTES_TOTAL, bytes.map(|(server, (_, total))| (server, total)));
        self.by_server(metrics::REJOIN_FAILURES, all.iter().map(|it| (it.server, u64::from(it.failures))));
    }

    fn by_server<'a>(&mut self, metric: Metric, values: impl Iterator<Item = (&'a str, u64)>) {
        self.family(metric);
        for (server, value) in values {
            self.sample(metric, "", &[("server", server)], value);
        }
    }

    fn acquire(&mut self, totals: &Totals) {
        let metric = metrics::ACQUIRE_SECONDS;
        self.family(metric);
        let mut count = 0;
        for (bucket, bound) in totals.acquire.iter().zip(ACQUIRE_BOUNDS_US) {
            count += bucket;
            let bound = seconds(bound).to_string();
            self.sample(metric, "_bucket", &[("le", &bound)], count);
        }
        count += totals.acquire[ACQUIRE_BOUNDS_US.len()];
        self.sample(metric, "_bucket", &[("le", "+Inf")], count);
        self.sample(metric, "_sum", &[], seconds(totals.acquire_us));
        self.sample(metric, "_count", &[], count);
    }

    fn archives(&mut self, numbers: &Numbers) {
        self.family(metrics::ARCHIVE_AGE_SECONDS);
        for (server, archived_ms) in numbers.snapshot.servers.iter().zip(numbers.archived_ms) {
            if let Some(ms) = archived_ms {
                let seconds = *ms as f64 / 1000.0;
                self.sample(metrics::ARCHIVE_AGE_SECONDS, "", &[("server", &server.id)], seconds);
            }
        }
    }

    fn hooks(&mut self, totals: &Totals) {
        self.family(metrics::HOOKS);
        for &hook in HookLabel::ALL {
            for &result in HookResult::ALL {
                let labels = [("hook", hook.as_str()), ("result", result.as_str())];
                self.sample(metrics::HOOKS, "", &labels, totals.hooks[hook.index()][result.index()]);
            }
        }
    }

    fn servers(&mut self, totals: &Totals, census: &PoolCensus, snapshot: &Snapshot) {
        self.family(metrics::QUERIES);
        for (index, server) in snapshot.indexed() {
            for &class in QueryClass::ALL {
                let labels = [("server", &*server.id), ("class", class.as_str())];
                self.sample(metrics::QUERIES, "", &labels, totals.queries_of(index, class));
            }
        }
        self.family(metrics::SERVER_CONNECTIONS);
        for (index, server) in snapshot.indexed() {
            let connections = census.connections.get(&index).copied().unwrap_or_default();
            for &state in ConnectionState::ALL {
                let labels = [("server", &*server.id), ("state", state.as_str())];
                self.sample(metrics::SERVER_CONNECTIONS, "", &labels, connections[state.index()]);
            }
        }
        self.family(metrics::PRIMARY);
        for (index, server) in snapshot.indexed() {
            let is_primary = u8::from(snapshot.primary == Some(index));
            self.sample(metrics::PRIMARY, "", &[("server", &server.id)], is_primary);
        }
        self.family(metrics::SERVER_UP);
        for server in &snapshot.servers {
            let up = u8::from(server.health == Health::Up);
            self.sample(metrics::SERVER_UP, "", &[("server", &server.id)], up);
        }
        self.family(metrics::REPLICATION_LAG_BYTES);
        for server in snapshot.servers.iter().filter(|server| server.is_up(Role::Standby)) {
            if let Some(bytes) = server.lag_bytes {
                self.sample(metrics::REPLICATION_LAG_BYTES, "", &[("server", &server.id)], bytes);
            }
        }
        self.family(metrics::REPLICATION_LAG_SECONDS);
        for server in snapshot.servers.iter().filter(|server| server.is_up(Role::Standby)) {
            if let Some(ms) = server.lag_ms {
                let seconds = ms as f64 / 1000.0;
                self.sample(metrics::REPLICATION_LAG_SECONDS, "", &[("server", &server.id)], seconds);
            }
        }
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1_000_000.0
}

fn put(out: &mut String, text: std::fmt::Arguments) {
    out.write_fmt(text).expect("a String takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::model::View;
    use crate::config;
    use crate::telemetry::Counters;
    use crate::telemetry::labels::{Direction, PinReason};
    use crate::topology::Epoch;
    use std::collections::BTreeSet;

    /// A page on which every metric has a sample.
    fn full_page() -> String {
        let server = |id: &str| config::Server {
            id: id.to_owned(),
            host: "localhost".to_owned(),
            port: 5432,
            weight: 1,
            zone: None,
            disallow_failover: false,
            always_primary: false,
            replication: Default::default(),
            agent: None,
            instance_id: None,
        };
        let mut snapshot = View::new(&[server("a"), server("b\\\"\n")]).snapshot;
        snapshot.primary = Some(ServerIndex(0));
        snapshot.epoch = Epoch(7);
        snapshot.servers[0].health = Health::Up;
        snapshot.servers[0].role = Role::Primary;
        snapshot.servers[1].health = Health::Up;
        snapshot.servers[1].role = Role::Standby;
        snapshot.servers[1].lag_bytes = Some(8192);
        snapshot.servers[1].lag_ms = Some(1500);
        let counters = Counters::default();
        counters.queries(ServerIndex(1), QueryClass::Read, 1);
        counters.bytes(Direction::ToClients, 5);
        counters.pinned(PinReason::Listen);
        counters.pinned(PinReason::Listen);
        counters.unpinned(PinReason::Listen);
        counters.floor_lowered();
        counters.hook(HookLabel::OnDetach, HookResult::TimedOut);
        counters.acquired_at_once();
        counters.acquired_after(Duration::from_millis(2));
        page(&Numbers {
            version: "1.2.3",
            totals: &counters.totals(),
            census: &PoolCensus {
                connections: [0, 1].map(|server| (ServerIndex(server), [1, 2, 3])).into(),
                waiters: 4,
                held: 6,
            },
            snapshot: &snapshot,
            rejoining: &[Rejoining {
                server: "b",
                phase: Some(RejoinPhase::Copying),
                bytes: Some((10, 30)),
                failures: 2,
            }],
            archived_ms: &[Some(2500), None],
            password_troubles: [1, 0, 0, 0, 2, 0, 0],
            process: Process { cpu: Duration::from_millis(1250), resident_bytes: 99 },
            started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(10),
        })
    }

    #[test]
    fn numbers_are_where_a_scraper_looks_for_them() {
        let page = full_page();
        for line in [
            r#"komainu_queries_total{server="b\\\"\n",class="read"} 1"#,
            r#"komainu_queries_total{server="a",class="read"} 0"#,
            r#"komainu_bytes_total{direction="to_clients"} 5"#,
            r#"komainu_sessions_pinned{reason="listen"} 1"#,
            r#"komainu_pins_total{reason="listen"} 2"#,
            r#"komainu_server_connections{server="a",state="active"} 2"#,
            "komainu_pool_waiters 4",
            "komainu_clients_held 6",
            "komainu_floors_lowered_total 1",
            r#"komainu_archive_age_seconds{server="a"} 2.5"#,
            r#"komainu_hooks_total{hook="on_detach",result="timed_out"} 1"#,
            r#"komainu_hooks_total{hook="on_detach",result="ok"} 0"#,
            r#"komainu_acquire_seconds_bucket{le="0.0001"} 1"#,
            r#"komainu_acquire_seconds_bucket{le="0.001"} 1"#,
            r#"komainu_acquire_seconds_bucket{le="0.005"} 2"#,
            r#"komainu_acquire_seconds_bucket{le="+Inf"} 2"#,
            "komainu_acquire_seconds_sum 0.002",
            "komainu_acquire_seconds_count 2",
            r#"komainu_rejoin_phase{server="b",phase="copying"} 1"#,
            r#"komainu_rejoin_phase{server="b",phase="done"} 0"#,
            r#"komainu_rejoin_bytes_done{server="b"} 10"#,
            r#"komainu_rejoin_bytes_expected{server="b"} 30"#,
            r#"komainu_rejoin_failures{server="b"} 2"#,
            r#"komainu_password_troubles{reason="secret_missing"} 2"#,
            "komainu_epoch 7",
            r#"komainu_primary{server="a"} 1"#,
            r#"komainu_server_up{server="a"} 1"#,
            r#"komainu_replication_lag_bytes{server="b\\\"\n"} 8192"#,
            r#"komainu_replication_lag_seconds{server="b\\\"\n"} 1.5"#,
            r#"komainu_build_info{version="1.2.3"} 1"#,
            "process_cpu_seconds_total 1.25",
            "process_resident_memory_bytes 99",
            "process_start_time_seconds 10",
        ] {
            assert!(page.lines().any(|candidate| candidate == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains(r#"lag_bytes{server="a"}"#));
    }

    #[test]
    fn each_metric_is_declared_once_and_then_sampled_and_no_other_is() {
        let page = full_page();
        let mut declared = BTreeSet::new();
        let mut current = "";
        let mut sampled = BTreeSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap();
                assert!(declared.insert(current), "{current} is declared twice");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(current), "{line} does not belong to {current}");
                sampled.insert(current);
            }
        }
        let known: BTreeSet<&str> = metrics::ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(declared, known);
        assert_eq!(sampled, known);
    }
}
