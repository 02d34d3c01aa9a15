//! Bad nights: three nodes with their raft, leases, decisions and endpoint loops, and everything that can go wrong
//! between them, drawn from a seed.
//!
//! A phase with faults, in which nothing may ever be unsafe, and one without, after which everything must work again.
//! `make simulate SEEDS=1000` runs more of them, `SEED=17` one that failed. The faults and their times follow from the
//! seed; in which order tasks that are ready at the same moment run does not always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use komainu_escalation::method::{Applied as Changed, Gap, Holding, Plan};
use komainu_escalation::reconcile::core::Reconciler;
use komainu_escalation::reconcile::pace::Pace;
use komainu_escalation::{Claim, Desired, Error, Method, Permit, Rules};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::harness::{NODES, TestCluster, Weather};
use super::nights::nights;
use crate::cluster::act::{Eyes, Means, Sessions, Wanted, lead, report};
use crate::cluster::decide::Policy;
use crate::cluster::model::View;
use crate::cluster::observe::LookNow;
use crate::cluster::state::{ClusterState, Fenced};
use crate::config;
use crate::consensus::lease::LeaseSettings;
use crate::consensus::node::core::lock;
use crate::consensus::node::handle::ClusterHandle;
use crate::consensus::node::wire::Order;
use crate::serve::endpoints::{authority, claim};
use crate::topology::{Epoch, Health, Role};

const ENDPOINT: &str = "app";
const SERVERS: [&str; 2] = ["pg1", "pg2"];
/// In `make test`.
const NIGHTS: u64 = 200;
const FAULTS_FOR: Duration = Duration::from_secs(25);
/// Within which everything must work again, by the paused clock.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
/// How often it is looked whether anything is unsafe.
const WATCH_EVERY: Duration = Duration::from_millis(7);

/// The network outside the nodes: who is sent what is sent to the endpoint.
#[derive(Default)]
struct Vpc {
    holder: Mutex<Option<String>>,
    /// Which node sent a change in which epoch.
    senders: Mutex<BTreeMap<u64, String>>,
}

#[derive(Clone)]
struct AddressRules {
    node: String,
}

impl Rules for AddressRules {
    type Observed = Option<String>;
    type Step = ();

    fn plan(&self, observed: &Option<String>, desired: Desired) -> Plan<()> {
        let mine = observed.as_ref() == Some(&self.node);
        let due = matches!(desired, Desired::Hold { .. }) && !mine;
        Plan::new(Holding::one(mine)).stage("associate", Gap::None, due.then_some(()).into_iter().collect())
    }

    fn gives_up(&self) -> bool {
        false
    }

    fn can_be_overwritten_late(&self) -> bool {
        true
    }
}

/// As AWS's: whoever's request arrives last has it.
struct Address {
    rules: AddressRules,
    vpc: Arc<Vpc>,
    random: Mutex<StdRng>,
}

impl Address {
    fn ms(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(lock(&self.random).random_range(low..=high))
    }
}

impl Method for Address {
    type Rules = AddressRules;

    fn rules(&self) -> &AddressRules {
        &self.rules
    }

    async fn inspect(&self) -> Result<Option<String>, Error> {
        sleep(self.ms(5, 60)).await;
        Ok(lock(&self.vpc.holder).clone())
    }

    async fn apply(&self, _step: &(), permit: &Permit) -> Result<Changed, Error> {
        // Credentials, a name to resolve, a connection.
        sleep(self.ms(0, 40)).await;
        permit.check()?;
        let node = self.rules.node.clone();
        let sender = lock(&self.vpc.senders).entry(permit.epoch).or_insert_with(|| node.clone()).clone();
        assert_eq!(sender, node, "two nodes change the endpoint in epoch {}", permit.epoch);
        let rarely = lock(&self.random).random_range(0..10) == 0;
        let arrives = if rarely { self.ms(300, 2_900) } else { self.ms(5, 300) };
        let vpc = self.vpc.clone();
        // What was sent arrives, whatever becomes of the sender.
        let sent = tokio::spawn(async move {
            sleep(arrives).await;
            *lock(&vpc.holder) = Some(node);
        });
        let _ = sent.await;
        Ok(Changed::default())
    }
}

struct Night {
    cluster: TestCluster,
    vpc: Arc<Vpc>,
    /// What runs on each node beside consensus.
    beside: BTreeMap<String, JoinSet<()>>,
    view: watch::Sender<Arc<View>>,
    timeline: u32,
    random: StdRng,
    /// Which server was the primary of which epoch, in any node's state.
    primaries: BTreeMap<Epoch, String>,
    owners: BTreeMap<Epoch, String>,
    seed: u64,
}

impl Night {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = TestCluster::start_with(Weather::fair(seed));
        for node in cluster.nodes.values_mut() {
            // Two of them may differ by what the default settings allow for, and a little less.
            node.drift_per_mille = random.random_range(-90..=90);
        }
        let (view, _) = watch::channel(Arc::new(view_of(0, 1)));
        Night {
            cluster,
            vpc: Arc::default(),
            beside: BTreeMap::new(),
            view,
            timeline: 1,
            random,
            primaries: BTreeMap::new(),
            owners: BTreeMap::new(),
            seed,
        }
    }

    fn boot(&mut self, name: &str) {
        if self.cluster.nodes[name].running.is_some() {
            return;
        }
        self.cluster.boot(name);
        let handle = self.cluster.handle(name);
        let lease = LeaseSettings::default();
        let wanted = Wanted {
            policy: Arc::new(Policy::off()),
            version: 1,
            endpoints: vec![ENDPOINT.to_owned()],
            servers: SERVERS.map(str::to_owned).to_vec(),
            addresses: BTreeMap::new(),
            lease,
            raise_log_format_after_ms: 5_000,
            configuration: String::new(),
        };
        let mut tasks = JoinSet::new();
        let wanted = watch::channel(Arc::new(wanted)).1;
        let eyes = Eyes {
            local: self.view.subscribe(),
            look: LookNow::default(),
            wanted: wanted.clone(),
            write: Arc::new(|_, _| Box::pin(async { None })),
            sessions: Sessions { busy: Arc::new(|_, _| 0), quiet: Arc::new(|_| true) },
        };
        let means = Means {
            wanted,
            local: self.view.subscribe(),
            listed: watch::channel(None).1,
            look: LookNow::default(),
            perform: Arc::new(|order| Box::pin(async move { Err(format!("nobody does {order:?}")) })),
            counters: Arc::default(),
        };
        tasks.spawn(lead(handle.clone(), means));
        tasks.spawn(report(handle.clone(), eyes));
        tasks.spawn(hold(handle, self.vpc.clone(), self.random.random()));
        self.beside.insert(name.to_owned(), tasks);
    }

    async fn crash(&mut self, name: &str) {
        self.beside.remove(name);
        if self.cluster.nodes[name].running.is_some() {
            self.cluster.kill(name).await;
        }
    }

    fn pick(&mut self) -> &'static str {
        NODES[self.random.random_range(0..NODES.len())]
    }

    async fn fault(&mut self) {
        let node = self.pick();
        match self.random.random_range(0..13) {
            0 => self.cluster.cut_off(node),
            1 | 2 => {
                let other = self.pick();
                lock(&self.cluster.net.cut).insert((node.to_owned(), other.to_owned()));
            }
            3 | 4 => self.cluster.heal(),
            5 => self.crash(node).await,
            6..=8 => self.boot(node),
            9 => {
                let mut weather = lock(&self.cluster.net.weather);
                weather.lost_per_mille = self.random.random_range(0..150);
                weather.late_per_mille = self.random.random_range(0..300);
                weather.late_ms = self.random.random_range(10..2_000);
            }
            10 => self.promote(),
            11 => self.stand_down(node),
            _ => self.order(node),
        }
    }

    fn stand_down(&self, node: &str) {
        if self.cluster.nodes[node].running.is_some() {
            self.cluster.handle(node).stand_down();
        }
    }

    /// By somebody's hand, behind komainu's back.
    fn promote(&mut self) {
        self.timeline += 1;
        let primary = self.timeline as usize % SERVERS.len();
        self.view.send_replace(Arc::new(view_of(primary, self.timeline)));
    }

    fn order(&mut self, to: &str) {
        let asked = self.pick();
        if self.cluster.nodes[asked].running.is_none() {
            return;
        }
        let handle = self.cluster.handle(asked);
        let order = Order::MoveEndpoint {
            endpoint: ENDPOINT.to_owned(),
            to: to.to_owned(),
            or: BTreeSet::new(),
            cause: "operator:night".to_owned(),
        };
        tokio::spawn(async move { handle.order(order).await });
    }

    /// Lets time pass, and looks all the while whether anything is unsafe.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.check();
            sleep(WATCH_EVERY.min(end - Instant::now())).await;
        }
    }

    fn check(&mut self) {
        let seed = self.seed;
        let mut holders = Vec::new();
        let mut epochs = BTreeSet::new();
        for (name, node) in &self.cluster.nodes {
            let Some(running) = &node.running else { continue };
            let applied = running.handle.applied();
            let state = &applied.state;
            if may_hold(&running.handle, state, name) {
                holders.push(name.clone());
            }
            let now_ms = running.handle.now_ms();
            let primary = state.primary();
            epochs
                .extend((1..=primary.epoch.0).filter(|epoch| running.right.allows(Epoch(*epoch), || now_ms)));
            if let Some(server) = &primary.server {
                let known = self.primaries.entry(primary.epoch).or_insert_with(|| server.clone());
                assert_eq!(known, server, "seed {seed}: two primaries of epoch {:?}", primary.epoch);
            }
            if let Some(endpoint) = state.endpoints().get(ENDPOINT)
                && let Some(owner) = &endpoint.owner
            {
                let known = self.owners.entry(endpoint.epoch).or_insert_with(|| owner.clone());
                assert_eq!(known, owner, "seed {seed}: two owners in epoch {:?}", endpoint.epoch);
            }
            state.check().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        assert!(holders.len() <= 1, "seed {seed}: {holders:?} believe that they may hold the endpoint");
        assert!(epochs.len() <= 1, "seed {seed}: nodes may write in epochs {epochs:?} at the same time");
    }

    /// What is still wrong; None: everything works.
    fn trouble(&self) -> Option<String> {
        let mut owner = None;
        for (name, node) in &self.cluster.nodes {
            let Some(running) = &node.running else { return Some(format!("{name} is down")) };
            if !running.handle.lease().holds() {
                return Some(format!("{name} has no lease: {}", running.handle.status().waiting_for));
            }
            let applied = running.handle.applied();
            let now_ms = running.handle.now_ms();
            let primary = applied.state.primary();
            if primary.timeline != self.timeline || !running.right.allows(primary.epoch, || now_ms) {
                return Some(format!("{name} may not write to {primary:?}"));
            }
            owner = applied.state.endpoints().get(ENDPOINT).and_then(|endpoint| endpoint.owner.clone());
        }
        let holder = lock(&self.vpc.holder).clone();
        (owner.is_none() || holder != owner)
            .then(|| format!("{owner:?} owns the endpoint, {holder:?} has it"))
    }

    async fn run(mut self) {
        for name in NODES {
            self.boot(name);
        }
        let dawn = Instant::now() + FAULTS_FOR;
        // Most nights begin with a cluster that stands.
        if self.random.random_range(0..10) > 0 {
            self.pass(Duration::from_secs(4)).await;
        }
        while Instant::now() < dawn {
            self.fault().await;
            let calm = Duration::from_millis(self.random.random_range(20..1_500));
            self.pass(calm).await;
        }
        self.cluster.heal();
        *lock(&self.cluster.net.weather) = Weather::fair(self.seed);
        for name in NODES {
            self.boot(name);
        }
        let deadline = Instant::now() + HEALED_WITHIN;
        while let Some(trouble) = self.trouble() {
            assert!(Instant::now() < deadline, "seed {}: {trouble}", self.seed);
            self.pass(Duration::from_millis(50)).await;
        }
        for name in NODES {
            self.crash(name).await;
        }
    }
}

fn may_hold(handle: &ClusterHandle, state: &ClusterState, node: &str) -> bool {
    let owns = state.endpoints().get(ENDPOINT).is_some_and(|known| known.owner.as_deref() == Some(node));
    owns && !state.is_fenced(&Fenced::Endpoint(ENDPOINT.to_owned())) && handle.lease().holds()
}

/// The endpoint's loop, as `serve` runs it.
async fn hold(handle: ClusterHandle, vpc: Arc<Vpc>, seed: u64) {
    let node = handle.node().to_owned();
    let (claims, claimed) = watch::channel(Claim::UNKNOWN);
    let (events, mut taken) = mpsc::channel(16);
    let rules = AddressRules { node: node.clone() };
    let method = Address { rules: rules.clone(), vpc, random: Mutex::new(StdRng::seed_from_u64(seed)) };
    let pace = Pace::new(LeaseSettings::default().lease_ms, 3_000);
    let reconciler = Reconciler::new(rules, pace, seed);
    let (status, _) = watch::channel(reconciler.status().clone());
    let around = komainu_escalation::reconcile::Surroundings {
        endpoint: ENDPOINT.into(),
        method_name: "simulated",
        node: node.as_str().into(),
        before: None,
        after: None,
        claim: claimed,
        authority: authority(&handle),
        status,
        events,
        now_ms: {
            let handle = handle.clone();
            Arc::new(move || handle.now_ms())
        },
    };
    let following = async {
        let mut applied = handle.watch();
        loop {
            claims.send_replace(claim(&applied.borrow_and_update().state, ENDPOINT, &node));
            if applied.changed().await.is_err() {
                return;
            }
        }
    };
    let draining = async { while taken.recv().await.is_some() {} };
    tokio::join!(
        komainu_escalation::reconcile::run(Arc::new(method), reconciler, around),
        following,
        draining
    );
}

/// What every node sees of the servers.
fn view_of(primary: usize, timeline: u32) -> View {
    let servers = SERVERS.map(|id| config::Server::at(id, "h", 1));
    let mut view = View::new(&servers);
    for index in 0..SERVERS.len() {
        let role = if index == primary { Role::Primary } else { Role::Standby };
        let state = &mut view.snapshot.servers[index];
        (state.role, state.health, state.timeline) = (role, Health::Up, timeline);
        (view.details[index].says, view.details[index].reason) = (role, None);
    }
    view
}

#[test]
fn nothing_is_unsafe_in_a_bad_night_and_all_works_the_morning_after() {
    nights(NIGHTS, |seed| Box::pin(Night::new(seed).run()));
}
