//! Three nodes in one process, on a network, disks and clocks of the test's.
//!
//! The tokio clock stands still until nobody has anything to do, so a night takes as long as its work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use openraft::storage::RaftLogStorage as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::backends::InMemoryBackend;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::right::WriteRight;
use crate::cluster::state::{Change, MemberRole};
use crate::consensus::lease::LeaseSettings;
use crate::consensus::node::core::lock;
use crate::consensus::node::handle::{ClusterHandle, Shared};
use crate::consensus::node::inbound::Door;
use crate::consensus::node::life::{Ground, publish, take_part};
use crate::consensus::node::wire::{Address, Request, Response, Wire};
use crate::consensus::node::{NodeSettings, Standings, Surroundings};
use crate::consensus::peer::{CallError, PeerFiles};
use crate::consensus::store::{Applied, Store};
use crate::consensus::types::TypeConfig;
use crate::pki::NodeName;

pub const NODES: [&str; 3] = ["a", "b", "c"];
/// Of the paused clock: nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn settings(node: &str) -> NodeSettings {
    let address = |node: &str| Address { node: node.to_owned(), address: format!("{node}:1") };
    NodeSettings {
        name: NodeName::new(node, "shop").unwrap(),
        role: MemberRole::Voter,
        address: format!("{node}:1"),
        listen: ([127, 0, 0, 1], 0).into(),
        voters: NODES.iter().map(|node| address(node)).collect(),
        directory: PathBuf::new(),
        files: PeerFiles { authorities: PathBuf::new(), certificate: PathBuf::new(), key: PathBuf::new() },
        lease: LeaseSettings::default(),
    }
}

/// Who reaches whom, and how well.
pub struct Net {
    doors: Mutex<BTreeMap<String, Arc<Door>>>,
    pub cut: Mutex<BTreeSet<(String, String)>>,
    pub weather: Mutex<Weather>,
}

/// What the network does to messages.
pub struct Weather {
    pub random: StdRng,
    /// Of a thousand messages, so many are lost.
    pub lost_per_mille: u32,
    /// Of a thousand, so many are late by up to `late_ms`.
    pub late_per_mille: u32,
    pub late_ms: u64,
}

impl Weather {
    pub fn fair(seed: u64) -> Self {
        Weather { random: StdRng::seed_from_u64(seed), lost_per_mille: 0, late_per_mille: 0, late_ms: 0 }
    }

    /// How long a message takes; None: it is lost.
    fn delay(&mut self) -> Option<Duration> {
        let lost = self.random.random_range(0..1000) < self.lost_per_mille;
        let late = self.random.random_range(0..1000) < self.late_per_mille;
        let ms = if late { self.random.random_range(0..=self.late_ms) } else { 0 };
        let us = self.random.random_range(100..2_000);
        (!lost).then(|| Duration::from_millis(ms) + Duration::from_micros(us))
    }
}

impl Net {
    /// Returns when a message has arrived; never, if it does not.
    async fn carry(&self, from: &str, to: &str) {
        let delay = lock(&self.weather).delay();
        let Some(delay) = delay else { return std::future::pending().await };
        tokio::time::sleep(delay).await;
        if lock(&self.cut).contains(&(from.to_owned(), to.to_owned())) {
            std::future::pending().await
        }
    }
}

struct Road {
    from: String,
    net: Arc<Net>,
}

impl Wire for Road {
    fn call(
        &self,
        to: &Address,
        request: Request,
        within: Duration,
    ) -> BoxFuture<'static, Result<Response, CallError>> {
        let (net, from, to) = (self.net.clone(), self.from.clone(), to.clone());
        Box::pin(async move {
            let deadline = Instant::now() + within;
            let node = to.node.clone();
            let exchange = async {
                net.carry(&from, &to.node).await;
                let Some(door) = lock(&net.doors).get(&to.node).cloned() else {
                    return std::future::pending::<Response>().await;
                };
                // As on a wire: what one end sends is another value at the other.
                let request = serde_json::from_slice(&serde_json::to_vec(&request).unwrap()).unwrap();
                let response = door.answer(from.clone(), request).await;
                net.carry(&to.node, &from).await;
                serde_json::from_slice(&serde_json::to_vec(&response).unwrap()).unwrap()
            };
            tokio::time::timeout_at(deadline, exchange)
                .await
                .map_err(|_| CallError::Deadline { node, within })
        })
    }

    fn failure(&self, _to: &Address) -> Option<String> {
        None
    }
}

pub struct TestNode {
    pub settings: NodeSettings,
    pub disk: Arc<InMemoryBackend>,
    /// Thousandths by which its clock runs faster.
    pub drift_per_mille: i64,
    pub running: Option<Running>,
}

pub struct Running {
    pub handle: ClusterHandle,
    pub right: Arc<WriteRight>,
    task: JoinHandle<()>,
}

pub struct TestCluster {
    pub net: Arc<Net>,
    pub nodes: BTreeMap<String, TestNode>,
    began: Instant,
}

impl TestNode {
    pub fn new(settings: NodeSettings) -> Self {
        TestNode { settings, disk: Arc::new(InMemoryBackend::new()), drift_per_mille: 0, running: None }
    }
}

impl TestCluster {
    pub fn start() -> Self {
        Self::start_with(Weather::fair(1))
    }

    pub fn start_with(weather: Weather) -> Self {
        let nodes = NODES.iter().map(|name| (name.to_string(), TestNode::new(settings(name)))).collect();
        let net = Net { doors: Mutex::default(), cut: Mutex::default(), weather: Mutex::new(weather) };
        TestCluster { net: Arc::new(net), nodes, began: Instant::now() }
    }

    pub fn boot_all(mut self) -> Self {
        for name in NODES {
            self.boot(name);
        }
        self
    }

    pub fn boot(&mut self, name: &str) {
        let node = self.nodes.get_mut(name).unwrap();
        let (store, log, machine) = Store::open_on::<TypeConfig>(node.disk.clone()).unwrap();
        let (published, applied) = watch::channel(Arc::new(Applied::default()));
        let (present, core) = watch::channel(None);
        let (began, drift) = (self.began, node.drift_per_mille);
        let right = Arc::new(WriteRight::none());
        let around = Surroundings {
            now: Arc::new(move || {
                let us = i64::try_from(began.elapsed().as_micros()).unwrap();
                u64::try_from((us + us * drift / 1000) / 1000).unwrap()
            }),
            right: right.clone(),
            cancel: Arc::new(|_, _| Box::pin(async { false })),
            seed: u64::from(name.as_bytes()[0]),
        };
        let shared = Arc::new(Shared {
            node: name.to_owned(),
            now: around.now.clone(),
            applied,
            core,
            standings: Standings::default(),
            lease_ends_at_ms: Arc::new(AtomicU64::new(0)),
            runtime: tokio::runtime::Handle::current(),
            tls: Mutex::new(None),
            wishes: Arc::default(),
            unable: Arc::default(),
            configuration: Arc::default(),
            known: Mutex::default(),
            silent: Mutex::default(),
            cancels: tokio::sync::Semaphore::new(1),
        });
        let handle = ClusterHandle::new(shared.clone());
        let store = Arc::new(store);
        let door = Arc::new(Door {
            store: store.clone(),
            applied: machine.watch(),
            core: OnceLock::new(),
            cancel: around.cancel.clone(),
        });
        lock(&self.net.doors).insert(name.to_owned(), door.clone());
        let kept = right.clone();
        let wire = Arc::new(Road { from: name.to_owned(), net: self.net.clone() });
        let settings = node.settings.clone();
        let task = tokio::spawn(async move {
            let committed = log.clone().read_committed().await.unwrap();
            let publishing = publish(machine.watch(), committed, published, right);
            let ground = Ground { store: store.clone(), log, machine, wire, door, joined: Box::new(|_| ()) };
            tokio::select! {
                _ = take_part(&settings, &around, &shared, &present, ground) => {}
                () = publishing => {}
            }
        });
        node.running = Some(Running { handle, right: kept, task });
    }

    /// As a power failure: what was written stays.
    pub async fn kill(&mut self, name: &str) {
        let running = self.nodes.get_mut(name).unwrap().running.take().unwrap();
        lock(&self.net.doors).remove(name);
        running.task.abort();
        let _ = running.task.await;
        let core = running.handle.core();
        if let Some(core) = core {
            let _ = core.raft.shutdown().await;
            core.store.close().await;
        }
    }

    pub fn handle(&self, name: &str) -> ClusterHandle {
        self.nodes[name].running.as_ref().unwrap().handle.clone()
    }

    pub fn handles(&self) -> impl Iterator<Item = ClusterHandle> {
        self.nodes.values().filter_map(|node| node.running.as_ref()).map(|running| running.handle.clone())
    }

    /// Both ways, from all others.
    pub fn cut_off(&self, name: &str) {
        for other in NODES.iter().filter(|other| **other != name) {
            lock(&self.net.cut).insert((name.to_owned(), other.to_string()));
            lock(&self.net.cut).insert((other.to_string(), name.to_owned()));
        }
    }

    pub fn heal(&self) {
        lock(&self.net.cut).clear();
    }

    pub async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The one that leads and holds its lease.
    pub async fn leader(&self) -> String {
        self.until("a leader with a lease", || {
            let mut leaders = self.handles().filter(|node| node.leading().is_some() && node.lease().holds());
            leaders.next().map(|node| node.node().to_owned())
        })
        .await
    }

    pub async fn created(&self) -> String {
        let leader = self.leader().await;
        let handle = self.handle(&leader);
        let members = handle.raft_voters();
        let cluster_id = handle.cluster_id().unwrap();
        let create = Change::CreateCluster { cluster_id, members, configuration: String::new() };
        handle.propose(create, "test", "").await.unwrap();
        leader
    }

    pub fn others(&self, name: &str) -> Vec<String> {
        NODES.iter().filter(|other| **other != name).map(ToString::to_string).collect()
    }
}
