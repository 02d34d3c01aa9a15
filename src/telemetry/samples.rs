//! The numbers of one moment as samples of the catalogue's metrics: what every way out begins with.
//!
//! Pure. Invariant: each metric of the catalogue is there once, in the catalogue's order, with or without samples.

#[cfg(test)]
pub mod everything;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use komainu_escalation::status::MoveTime;

use crate::topology::{Health, Role, ServerIndex, Snapshot};

use super::catalogue::{self as metrics, Metric};
use super::counters::{ACQUIRE_BOUNDS_US, Totals};
use super::labels::{
    CancelResult, ConnectionState, Direction, HookLabel, HookResult, InstancesTrouble, Label, LoginFailure,
    MetricsWay, PasswordTrouble, PinReason, PrimaryChange, QueryClass, ReadToPrimary, RejoinPhase, Rule,
    Standstill,
};
use super::process::Process;

/// What the pools hold at one moment. Asked for when it is to be shown, so that it costs a query nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolCensus {
    /// By server, then by `ConnectionState`.
    pub connections: BTreeMap<ServerIndex, [u64; ConnectionState::COUNT]>,
    pub waiters: u64,
    pub held: u64,
    pub held_bytes: u64,
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

/// What a node of a cluster has besides.
#[derive(Debug, Default)]
pub struct NodeNumbers {
    /// By `PrimaryChange`. None: this node does not know the cluster yet.
    pub changes: Option<[u64; PrimaryChange::COUNT]>,
    /// Why the primary is lost and not replaced.
    pub standstill: Option<Standstill>,
    pub lease_remaining_ms: u64,
    pub permissions_missing: u64,
    pub endpoints: Vec<EndpointNumbers>,
}

#[derive(Debug, Default)]
pub struct EndpointNumbers {
    pub name: String,
    pub method: &'static str,
    pub epoch: Option<u64>,
    pub is_here: bool,
    pub problems: u64,
    pub drift_corrected: u64,
    pub throttled: u64,
    pub moves: Vec<MoveTime>,
}

/// All that there is to show.
#[derive(Debug)]
pub struct Numbers<'a> {
    pub version: &'a str,
    pub totals: &'a Totals,
    pub census: &'a PoolCensus,
    pub snapshot: &'a Snapshot,
    pub paused_primary: Option<ServerIndex>,
    /// How many more standbys commits wait for than stream from the primary. None: they wait for none, or it is not known.
    pub standbys_missing: Option<u32>,
    pub rejoining: &'a [Rejoining<'a>],
    /// By server: how long ago it has archived something.
    pub archived_ms: &'a [Option<u64>],
    /// By `PasswordTrouble`, of how many roles.
    pub password_troubles: [u64; PasswordTrouble::COUNT],
    /// Why AWS's API does not say which instances there are, if so. None: it is not asked.
    pub instances_trouble: Option<Option<InstancesTrouble>>,
    /// None: a node on its own.
    pub node: Option<&'a NodeNumbers>,
    /// Of the certificate that ends first. None: there is none, or it is not known. Negative: it has ended.
    pub certificate_remaining_s: Option<f64>,
    pub process: Process,
    pub started_at: SystemTime,
}

/// A metric, and its samples.
#[derive(Debug, Clone)]
pub struct Family {
    pub metric: &'static Metric,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Values of the metric's labels, in their order.
    pub labels: Vec<String>,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    /// Of a histogram or summary.
    Distribution {
        /// Of a histogram: upper bounds, and how many are within each; what exceeds all is only in `count`.
        buckets: Vec<(f64, u64)>,
        sum: f64,
        count: u64,
    },
}

pub fn families(numbers: &Numbers) -> Vec<Family> {
    let mut gathered = Gathered::default();
    gathered.of_process(numbers);
    gathered.of_clients(numbers.totals, numbers.census);
    gathered.of_servers(numbers);
    gathered.rejoining(numbers.rejoining);
    if let Some(node) = numbers.node {
        gathered.of_node(node);
    }
    if let Some(remaining_s) = numbers.certificate_remaining_s {
        gathered.number(metrics::CERTIFICATE_SECONDS, &[], remaining_s);
    }
    let mut found = gathered.0;
    let family =
        |metric: &'static Metric| Family { metric, samples: found.remove(metric.name).unwrap_or_default() };
    let families = metrics::ALL.iter().map(family).collect();
    debug_assert!(found.is_empty(), "no metrics of the catalogue: {found:?}");
    families
}

/// By the metric's name.
#[derive(Default)]
struct Gathered(BTreeMap<&'static str, Vec<Sample>>);

impl Gathered {
    fn add(&mut self, metric: Metric, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        self.0.entry(metric.name).or_default().push(Sample { labels, value });
    }

    fn number(&mut self, metric: Metric, labels: &[&str], number: f64) {
        self.add(metric, labels, Value::Number(number));
    }

    fn count(&mut self, metric: Metric, labels: &[&str], count: u64) {
        self.number(metric, labels, count as f64);
    }

    fn by_label<L: Label>(&mut self, metric: Metric, counts: &[u64], labels: &[L]) {
        for &label in labels {
            self.count(metric, &[label.as_str()], counts[label.index()]);
        }
    }

    fn of_process(&mut self, numbers: &Numbers) {
        self.count(metrics::BUILD_INFO, &[numbers.version], 1);
        self.number(metrics::PROCESS_CPU_SECONDS, &[], numbers.process.cpu.as_secs_f64());
        self.count(metrics::LOG_LINES_DROPPED, &[], numbers.process.dropped_lines);
        self.count(metrics::PROCESS_RESIDENT_MEMORY, &[], numbers.process.resident_bytes);
        let started = numbers.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        self.number(metrics::PROCESS_START_TIME, &[], started.as_secs_f64());
        self.by_label(metrics::PASSWORD_TROUBLES, &numbers.password_troubles, PasswordTrouble::ALL);
        if let Some(trouble) = numbers.instances_trouble {
            for &reason in InstancesTrouble::ALL {
                let is_it = trouble == Some(reason);
                self.count(metrics::INSTANCES_TROUBLE, &[reason.as_str()], is_it.into());
            }
        }
        self.by_label(metrics::METRICS_DROPPED, &numbers.totals.metrics_dropped, MetricsWay::ALL);
    }

    fn of_clients(&mut self, totals: &Totals, census: &PoolCensus) {
        self.count(metrics::CLIENT_CONNECTIONS, &[], totals.client_connections);
        self.count(metrics::CLIENT_CONNECTIONS_TOTAL, &[], totals.client_connections_total);
        self.by_label(metrics::LOGINS_FAILED, &totals.logins_failed, LoginFailure::ALL);
        self.by_label(metrics::CANCEL_REQUESTS, &totals.cancels, CancelResult::ALL);
        self.by_label(metrics::READS_TO_PRIMARY, &totals.reads_to_primary, ReadToPrimary::ALL);
        self.by_label(metrics::BYTES, &totals.bytes, Direction::ALL);
        let pinned: Vec<u64> = totals
            .pins
            .iter()
            .zip(&totals.unpins)
            .map(|(pins, unpins)| pins.saturating_sub(*unpins))
            .collect();
        self.by_label(metrics::SESSIONS_PINNED, &pinned, PinReason::ALL);
        self.by_label(metrics::PINS, &totals.pins, PinReason::ALL);
        self.count(metrics::POOL_WAITERS, &[], census.waiters);
        self.count(metrics::CLIENTS_HELD, &[], census.held);
        self.count(metrics::HELD_BYTES, &[], census.held_bytes);
        self.count(metrics::FLOORS_LOWERED, &[], totals.floors_lowered);
        self.add(metrics::ACQUIRE_SECONDS, &[], acquired(totals));
        let (sum, count) = (totals.answered_ms as f64 / 1e3, totals.answered);
        self.add(metrics::RESPONSE_SECONDS, &[], Value::Distribution { buckets: Vec::new(), sum, count });
        for &hook in HookLabel::ALL {
            for &result in HookResult::ALL {
                let labels = [hook.as_str(), result.as_str()];
                self.count(metrics::HOOKS, &labels, totals.hooks[hook.index()][result.index()]);
            }
        }
        self.by_label(metrics::PLANS_REJECTED, &totals.rejected, Rule::ALL);
    }

    fn of_servers(&mut self, numbers: &Numbers) {
        let Numbers { totals, census, snapshot, archived_ms, .. } = *numbers;
        if snapshot.epoch.0 > 0 {
            self.count(metrics::EPOCH, &[], snapshot.epoch.0);
        }
        if let Some(missing) = numbers.standbys_missing {
            self.count(metrics::STANDBYS_MISSING, &[], u64::from(missing));
        }
        for (index, server) in snapshot.indexed() {
            for &class in QueryClass::ALL {
                self.count(metrics::QUERIES, &[&server.id, class.as_str()], totals.queries_of(index, class));
            }
            let connections = census.connections.get(&index).copied().unwrap_or_default();
            for &state in ConnectionState::ALL {
                let labels = [&*server.id, state.as_str()];
                self.count(metrics::SERVER_CONNECTIONS, &labels, connections[state.index()]);
            }
            // One that is paused is none the less the primary, and no reason to call anybody.
            let is_primary = snapshot.primary.or(numbers.paused_primary) == Some(index);
            self.count(metrics::PRIMARY, &[&server.id], is_primary.into());
            self.count(metrics::SERVER_UP, &[&server.id], (server.health == Health::Up).into());
            if !server.is_up(Role::Standby) {
                continue;
            }
            if let Some(bytes) = server.lag_bytes {
                self.count(metrics::REPLICATION_LAG_BYTES, &[&server.id], bytes);
            }
            if let Some(ms) = server.lag_ms {
                self.number(metrics::REPLICATION_LAG_SECONDS, &[&server.id], seconds(ms));
            }
        }
        for (server, archived_ms) in snapshot.servers.iter().zip(archived_ms) {
            if let Some(ms) = archived_ms {
                self.number(metrics::ARCHIVE_AGE_SECONDS, &[&server.id], seconds(*ms));
            }
        }
    }

    fn rejoining(&mut self, all: &[Rejoining]) {
        for Rejoining { server, phase, bytes, failures } in all {
            for &each in RejoinPhase::ALL.iter().filter(|_| phase.is_some()) {
                let is_it = *phase == Some(each);
                self.count(metrics::REJOIN_PHASE, &[server, each.as_str()], is_it.into());
            }
            if let Some((done, total)) = bytes {
                self.count(metrics::REJOIN_BYTES_DONE, &[server], *done);
                self.count(metrics::REJOIN_BYTES_TOTAL, &[server], *total);
            }
            self.count(metrics::REJOIN_FAILURES, &[server], u64::from(*failures));
        }
    }

    fn of_node(&mut self, node: &NodeNumbers) {
        if let Some(changes) = &node.changes {
            self.by_label(metrics::FAILOVERS, changes, PrimaryChange::ALL);
            for &reason in Standstill::ALL {
                let is_it = node.standstill == Some(reason);
                self.count(metrics::FAILOVER_STANDSTILL, &[reason.as_str()], is_it.into());
            }
        }
        self.number(metrics::QUORUM_LEASE_SECONDS, &[], seconds(node.lease_remaining_ms));
        self.count(metrics::PERMISSIONS_MISSING, &[], node.permissions_missing);
        let mut moves = BTreeMap::<_, (f64, u64)>::new();
        for endpoint in &node.endpoints {
            let name = [endpoint.name.as_str()];
            self.count(metrics::ENDPOINT_OWNER, &name, endpoint.is_here.into());
            if let Some(epoch) = endpoint.epoch {
                self.count(metrics::ENDPOINT_EPOCH, &name, epoch);
            }
            self.count(metrics::ENDPOINT_PROBLEMS, &name, endpoint.problems);
            self.count(metrics::ENDPOINT_DRIFT, &name, endpoint.drift_corrected);
            self.count(metrics::API_THROTTLED, &name, endpoint.throttled);
            for spent in &endpoint.moves {
                let (sum, count) = moves.entry((endpoint.method, spent.phase)).or_default();
                *sum += spent.ms / 1e3;
                *count += spent.count;
            }
        }
        for ((method, phase), (sum, count)) in moves {
            let value = Value::Distribution { buckets: Vec::new(), sum, count };
            self.add(metrics::ENDPOINT_MOVE_SECONDS, &[method, phase], value);
        }
    }
}

fn acquired(totals: &Totals) -> Value {
    let mut count = 0;
    let bucket = |(counted, bound): (&u64, u64)| {
        count += counted;
        (bound as f64 / 1e6, count)
    };
    let buckets = totals.acquire.iter().zip(ACQUIRE_BOUNDS_US).map(bucket).collect();
    count += totals.acquire[ACQUIRE_BOUNDS_US.len()];
    Value::Distribution { buckets, sum: totals.acquire_us as f64 / 1e6, count }
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}
