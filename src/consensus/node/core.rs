//! A node that has joined: who it is, what it may do, and its raft.
//!
//! Shared by all that carries messages and keeps time. Lives as long as its store is open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use openraft::storage::RaftLogStorage as _;
use openraft::{Raft, RaftMetrics, ServerState};
use tokio::sync::watch;

use super::rights::{Rights, Seen};
use super::wire::{Address, Wire};
use crate::cluster::right::WriteRight;
use crate::cluster::state::{Change, ClusterState, Command};
use crate::consensus::election::LogPosition;
use crate::consensus::lease::LeaseSettings;
use crate::consensus::store::identity::Identity;
use crate::consensus::store::{Applied, LogStore, Store};
use crate::consensus::types::{Peer, TypeConfig};

/// Milliseconds that go on while the machine sleeps; the same for all of one process.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;
pub(super) type Metrics = RaftMetrics<u64, Peer>;

pub(super) struct Core {
    pub now: Now,
    pub settings: LeaseSettings,
    pub identity: Identity,
    pub wire: Arc<dyn Wire>,
    pub store: Arc<Store>,
    pub log: LogStore<TypeConfig>,
    pub raft: Raft<TypeConfig>,
    /// What the rest of the process has been given; what is said of what was applied is said of this.
    pub published: watch::Receiver<Arc<Applied>>,
    pub right: Arc<WriteRight>,
    /// When the lease ends; 0: there is none.
    pub lease_ends_at_ms: Arc<AtomicU64>,
    pub rights: Arc<Mutex<Rights>>,
    pub wishes: Arc<Mutex<Wishes>>,
    /// Endpoints that this node could not take.
    pub unable: Arc<Mutex<BTreeSet<String>>>,
    pub configuration: Arc<Mutex<GoesBy>>,
}

/// By which version of the cluster's configuration this node goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GoesBy {
    /// 0: by its own file.
    pub version: u64,
    /// A later one of which it cannot use the text.
    pub unusable: Option<u64>,
}

/// Endpoints that are wanted elsewhere: on one of which nodes, who asked, since when.
pub(super) type Wishes = BTreeMap<String, Wish>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub to: BTreeSet<String>,
    pub cause: String,
    pub since_ms: u64,
}

impl Core {
    /// Remembers that an endpoint is wanted elsewhere; the leader's next decision sees it.
    pub fn wish(&self, endpoint: String, to: BTreeSet<String>, cause: String) {
        lock(&self.wishes).insert(endpoint, Wish { to, cause, since_ms: self.now_ms() });
    }

    /// Endpoints that this node could not take.
    pub fn unable(&self) -> BTreeSet<String> {
        lock(&self.unable).clone()
    }

    pub fn configuration(&self) -> GoesBy {
        *lock(&self.configuration)
    }

    /// A command of this node's, stamped with the wall clock.
    pub fn command(&self, change: Change, cause: &str, reason: &str) -> Command {
        let (node, cause, reason) = (self.identity.node.clone(), cause.to_owned(), reason.to_owned());
        Command { at_ms: wall_ms(), node, cause, reason, change }
    }

    pub fn now_ms(&self) -> u64 {
        (self.now)()
    }

    pub fn rights(&self) -> MutexGuard<'_, Rights> {
        lock(&self.rights)
    }

    pub fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    /// Up to where this node has applied the log, and acts on it.
    pub fn applied_index(&self) -> u64 {
        self.published.borrow().last_applied.map_or(0, |last| last.index)
    }

    /// Where the log ends, stored and not only applied: an election is decided by it.
    pub async fn log_end(&self) -> Option<LogPosition<u64>> {
        let state = self.log.clone().get_log_state().await.ok()?;
        // A term has one leader, so the term says who it was.
        state.last_log_id.map(|last| LogPosition { term: last.leader_id.term, leader: 0, index: last.index })
    }

    /// Keeps a grant, also where it is read without a lock.
    pub fn note_lease(&self, rights: &Rights) {
        let ends_at_ms = rights.lease.ends_at_ms();
        self.lease_ends_at_ms.store(ends_at_ms, Ordering::Release);
        self.right.lasts_until(ends_at_ms);
    }

    pub fn address_of(&self, raft_id: u64) -> Option<Address> {
        address_of(&self.metrics(), raft_id)
    }

    /// The leader as this node believes; it may be wrong.
    pub fn leader(&self) -> Option<(u64, Address)> {
        let metrics = self.metrics();
        let leader = metrics.current_leader?;
        Some((leader, address_of(&metrics, leader)?))
    }
}

/// For people only.
pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn address_of(metrics: &Metrics, raft_id: u64) -> Option<Address> {
    let peer = metrics.membership_config.membership().get_node(&raft_id)?;
    Some(Address::of(peer))
}

pub(super) fn voters(metrics: &Metrics) -> Vec<BTreeSet<u64>> {
    metrics.membership_config.membership().get_joint_config().clone()
}

pub(super) fn seen(metrics: &Metrics) -> Seen {
    let leads = (metrics.state == ServerState::Leader && metrics.vote.is_committed())
        .then_some(metrics.vote.leader_id().get_term());
    Seen { leads, last_log_index: metrics.last_log_index.unwrap_or(0), voters: voters(metrics) }
}

/// What the log, or before there is a state the membership, knows of a node: its raft id and incarnation.
pub(super) fn known_life(state: &ClusterState, peers: &[(u64, Peer)], node: &str) -> Option<(u64, u64)> {
    if let Some(member) = state.members().get(node) {
        return Some((member.raft_id, member.incarnation));
    }
    if !state.cluster_id().is_empty() {
        return None;
    }
    let lives = peers.iter().filter(|(_, peer)| peer.id == node);
    lives.map(|(raft_id, peer)| (*raft_id, peer.incarnation)).max()
}
