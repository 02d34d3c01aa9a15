//! Looks at the nodes from outside, and says what must never be: the invariants of the design that concern servers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::clients::Records;
use super::servers::{SERVERS, Shared};
use crate::cluster::reason::Reason;
use crate::cluster::right::WriteRight;
use crate::cluster::state::{Administrative, ClusterState, FailoverKind, Stage};
use crate::consensus::node::core::lock;
use crate::consensus::node::handle::ClusterHandle;
use crate::topology::Epoch;

type Eyes = BTreeMap<String, (ClusterHandle, Arc<WriteRight>)>;

pub struct Oracle {
    world: Shared,
    nodes: Mutex<Eyes>,
    /// No acknowledged row may be lost, whether the log promises it yet or not.
    requires: bool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Which server was the primary of which epoch, in any node's state.
    primaries: BTreeMap<u64, usize>,
    /// Epochs whose primary was confirmed, and that were looked at.
    confirmed: BTreeSet<u64>,
    /// Ended by an operator who accepts a loss.
    forced: BTreeSet<u64>,
    /// A failover relies on synchronous standbys.
    promised: bool,
    /// Rows that may be lost.
    given_up: BTreeSet<u64>,
    /// The last one that was recounted.
    incident: u64,
}

impl Oracle {
    pub fn new(world: Shared, requires: bool) -> Self {
        Oracle { world, nodes: Mutex::default(), requires, known: Mutex::default() }
    }

    pub fn add(&self, node: &str, handle: ClusterHandle, right: Arc<WriteRight>) {
        lock(&self.nodes).insert(node.to_owned(), (handle, right));
    }

    pub fn remove(&self, node: &str) {
        lock(&self.nodes).remove(node);
    }

    fn violated(&self, what: String) {
        let now_ms = lock(&self.world).now_ms;
        lock(&self.world).violations.push(format!("{what}, at {now_ms} ms"));
    }

    /// The latest epoch that any node knows of, and its server.
    fn newest(&self) -> (u64, Option<usize>) {
        let nodes = lock(&self.nodes);
        let mut newest = (0, None);
        for (handle, _) in nodes.values() {
            let applied = handle.applied();
            let primary = applied.state.primary();
            if primary.epoch.0 > newest.0 {
                newest = (primary.epoch.0, primary.server.as_deref().and_then(index));
            }
        }
        newest
    }

    pub fn primary(&self) -> Option<usize> {
        self.newest().1
    }

    /// Invariant 1: a row is sent, or somebody is told of it.
    pub fn uses(&self, epoch: u64, server: usize) {
        let (newest, named) = self.newest();
        if epoch != newest || named != Some(server) {
            let named = named.map(|named| SERVERS[named]);
            let server = SERVERS[server];
            self.violated(format!(
                "{server} is used in epoch {epoch}, and {named:?} is named in epoch {newest}"
            ));
        }
    }

    /// Invariant 3: a server obeys an order to promote.
    pub fn promotes(&self, epoch: u64, server: usize) {
        let (newest, named) = self.newest();
        if epoch != newest || named != Some(server) {
            let named = named.map(|named| SERVERS[named]);
            let server = SERVERS[server];
            self.violated(format!(
                "{server} is promoted for epoch {epoch}, and {named:?} named in epoch {newest}"
            ));
        }
        let may_write = lock(&self.nodes).iter().find_map(|(node, (handle, right))| {
            let now_ms = handle.now_ms();
            (1..epoch)
                .find(|earlier| right.allows(Epoch(*earlier), || now_ms))
                .map(|earlier| (node.clone(), earlier))
        });
        if let Some((node, earlier)) = may_write {
            self.violated(format!("epoch {epoch} has its promotion while {node} may write in {earlier}"));
        }
    }

    /// To be called all the time.
    pub fn look(&self, records: &Records) {
        let mut writers = BTreeSet::new();
        let states: Vec<_> = lock(&self.nodes)
            .values()
            .map(|(handle, right)| {
                let applied = handle.applied();
                let now_ms = handle.now_ms();
                let latest = applied.state.primary().epoch.0;
                writers.extend((1..=latest).filter(|epoch| right.allows(Epoch(*epoch), || now_ms)));
                applied
            })
            .collect();
        if writers.len() > 1 {
            self.violated(format!("nodes may write in epochs {writers:?} at the same time"));
        }
        for applied in &states {
            if let Err(error) = applied.state.check() {
                self.violated(error);
            }
            self.learn(&applied.state, records);
        }
        if let Some(latest) = states.iter().max_by_key(|applied| applied.state.incidents().last_id()) {
            self.half_done(&latest.state);
            self.recount(&latest.state);
        }
    }

    /// One that has half of another's data serves nobody, and whoever leads knows it.
    fn half_done(&self, state: &ClusterState) {
        let half_rewound: Vec<&str> = {
            let world = lock(&self.world);
            world.servers.iter().filter(|server| server.disk.half_rewound).map(|server| server.id).collect()
        };
        for server in half_rewound {
            // A node that has just come up may not have read its log yet.
            let known = state.servers().get(server);
            if known.is_some_and(|known| known.administrative == Administrative::Attached) {
                self.violated(format!("{server} is half rewound, and attached"));
            }
        }
    }

    /// What the log says has happened, for whoever looks at a night that failed.
    fn recount(&self, state: &ClusterState) {
        let mut known = lock(&self.known);
        for incident in state.incidents().after(known.incident) {
            if incident.reason == Reason::PlanRejected.code() {
                self.violated(format!("a decision would have broken an invariant: {}", incident.text));
            }
            let text = format!("  {}: {} ({})", incident.subject, incident.text, incident.reason);
            lock(&self.world).note(text);
        }
        known.incident = state.incidents().last_id();
    }

    fn learn(&self, state: &ClusterState, records: &Records) {
        let mut known = lock(&self.known);
        let primary = state.primary();
        let Some(server) = primary.server.as_deref().and_then(index) else { return };
        if let Some(failover) = state.failover().filter(|failover| failover.kind == FailoverKind::Forced) {
            known.forced.insert(failover.epoch.0);
        }
        let first = *known.primaries.entry(primary.epoch.0).or_insert(server);
        if first != server {
            self.violated(format!("two primaries of epoch {}", primary.epoch.0));
        }
        if primary.stage == Stage::Confirmed && known.confirmed.insert(primary.epoch.0) {
            let lost = self.missing(server, primary.epoch.0, records, &known.given_up);
            let is_synchronous = self.requires || known.promised;
            let accepted = !is_synchronous || known.forced.iter().any(|forced| *forced < primary.epoch.0);
            match lost.first() {
                Some(_) if accepted => known.given_up.extend(lost),
                Some(row) => {
                    let what = format!("{} rows, such as {row}", lost.len());
                    self.violated(format!(
                        "{what}, are lost with epoch {} of {}",
                        primary.epoch.0, SERVERS[server]
                    ));
                }
                None => {}
            }
        }
        known.promised |= state.synchronous().promises();
    }

    /// Rows that somebody was told of in an earlier epoch and that the server does not have.
    fn missing(&self, server: usize, epoch: u64, records: &Records, given_up: &BTreeSet<u64>) -> Vec<u64> {
        let there: BTreeSet<u64> = lock(&self.world).servers[server].disk.wal.rows().collect();
        let told = lock(records);
        let acknowledged = told
            .acknowledged
            .iter()
            .filter(|(_, acknowledged_in)| **acknowledged_in < epoch)
            .map(|(row, _)| *row);
        acknowledged.filter(|row| !there.contains(row) && !given_up.contains(row)).collect()
    }

    /// Invariants 2 and 7 at the end: every row that somebody was told of is there once.
    pub fn lost(&self, records: &Records) -> Option<String> {
        let primary = self.primary()?;
        let lost = self.missing(primary, u64::MAX, records, &lock(&self.known).given_up);
        if let Some(row) = lost.first() {
            return Some(format!("{} rows, such as {row}, are lost in the end", lost.len()));
        }
        let mut seen = BTreeSet::new();
        let twice = lock(&self.world).servers[primary].disk.wal.rows().find(|row| !seen.insert(*row));
        twice.map(|row| format!("row {row} is there twice"))
    }
}

/// Of one night.
#[derive(Debug, Default)]
pub struct Tally {
    pub acknowledged: usize,
    /// Of rows nobody was told whether they are there.
    pub unknown: u64,
    pub promotions: usize,
    pub rewinds: u64,
    pub rebuilds: u64,
    /// How long it took until everything worked again.
    pub healed_after_ms: u64,
}

fn index(id: &str) -> Option<usize> {
    SERVERS.iter().position(|known| *known == id)
}
