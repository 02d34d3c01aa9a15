//! Bad nights of a cluster with PostgreSQL servers: everything that can go wrong with nodes, servers, agents, disks and
//! the network between them, drawn from a seed, while clients write.
//!
//! What decides, proposes, performs, observes and publishes is the real code; servers, agents and network are models. A
//! phase with faults, in which the invariants of the design must hold at any time, and one without, after which
//! everything must work again with no hand. `make simulate SEEDS=1000` runs more nights, `SEED=17` one that failed.

mod faults;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::clients::{Gateway, Records, UnderWay};
use super::harness::{NODES, TestCluster, Weather};
use super::nights::nights;
use super::observer::observe;
use super::oracle::{Oracle, Tally};
use super::servers::{Agents, Ground, SERVERS, Shared, World, turn};
use crate::cluster::act::{Eyes, Means, Sessions, Wanted, lead, report};
use crate::cluster::decide::Policy;
use crate::cluster::model::View;
use crate::cluster::observe::LookNow;
use crate::cluster::publish;
use crate::cluster::state::{Administrative, Change};
use crate::config;
use crate::consensus::lease::LeaseSettings;
use crate::consensus::node::core::lock;
use crate::telemetry::Counters;
use crate::topology::{Epoch, ServerIndex};

/// In `make test`.
const NIGHTS: u64 = 80;
const FAULTS_FOR: Duration = Duration::from_secs(40);
/// Within which everything must work again, by the paused clock.
const HEALED_WITHIN: Duration = Duration::from_secs(90);
const WATCH_EVERY: Duration = Duration::from_millis(11);
const CLIENTS: usize = 2;

struct Night {
    cluster: TestCluster,
    world: Shared,
    agents: Agents,
    oracle: Arc<Oracle>,
    records: Records,
    counters: Arc<Counters>,
    beside: BTreeMap<String, JoinSet<()>>,
    random: StdRng,
    /// Whether operators may accept losses.
    may_force: bool,
    seed: u64,
    turning: JoinSet<()>,
}

fn servers() -> Vec<config::Server> {
    let server =
        |id: &str| config::Server { agent: Some(format!("{id}:7401")), ..config::Server::at(id, id, 5432) };
    SERVERS.map(server).into()
}

/// With asynchronous replication one failover can follow the other however few standbys are left.
fn policy(seed: u64) -> Policy {
    let failover = config::Failover {
        mode: config::FailoverMode::Streaming,
        sync_mode: if seed % 4 == 3 { config::SyncMode::Off } else { config::SyncMode::Require },
        sync_count: if seed % 8 == 5 { 2 } else { 1 },
        ..Policy::off().failover
    };
    Policy { failover, servers: servers() }
}

impl Night {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = TestCluster::start_with(Weather::fair(seed));
        for node in cluster.nodes.values_mut() {
            node.drift_per_mille = random.random_range(-90..=90);
        }
        let world: Shared = Arc::new(Mutex::new(World::new(random.random())));
        let mut turning = JoinSet::new();
        turning.spawn(turn(world.clone(), Instant::now()));
        Night {
            cluster,
            agents: Agents::new(world.clone()),
            oracle: Arc::new(Oracle::new(
                world.clone(),
                policy(seed).failover.sync_mode == config::SyncMode::Require,
            )),
            world,
            records: Records::default(),
            counters: Arc::default(),
            beside: BTreeMap::new(),
            may_force: random.random_range(0..4) == 0,
            random,
            seed,
            turning,
        }
    }

    fn boot(&mut self, name: &str) {
        if self.cluster.nodes[name].running.is_some() {
            return;
        }
        self.cluster.boot(name);
        let handle = self.cluster.handle(name);
        let right = self.cluster.nodes[name].running.as_ref().unwrap().right.clone();
        self.oracle.add(name, handle.clone(), right.clone());
        let now = {
            let handle = handle.clone();
            Arc::new(move || handle.now_ms())
        };
        let promoting = {
            let oracle = self.oracle.clone();
            Arc::new(move |epoch, server| oracle.promotes(epoch, server))
        };
        let (world, agents) = (self.world.clone(), self.agents.clone());
        let ground = Ground { world, agents, node: name.to_owned(), now, promoting };
        let wakes: Arc<[Arc<Notify>]> = SERVERS.iter().map(|_| Arc::default()).collect();
        let look = LookNow::of(&wakes);
        let (view, local) = watch::channel(Arc::new(View::new(&servers())));
        let (named, by_the_log) = watch::channel(None);
        let published = Arc::new(publish::start(&handle, local.clone(), named));
        let wanted = Wanted {
            version: 1,
            endpoints: Vec::new(),
            servers: SERVERS.map(str::to_owned).to_vec(),
            addresses: BTreeMap::new(),
            lease: LeaseSettings::default(),
            raise_log_format_after_ms: 5_000,
            policy: Arc::new(policy(self.seed)),
            configuration: String::new(),
        };
        let perform = {
            let ground = ground.clone();
            Arc::new(move |order| Box::pin(ground.clone().perform(order)) as _)
        };
        let under_way = UnderWay::default();
        let busy = {
            let under_way = under_way.clone();
            Arc::new(move |server: ServerIndex, epoch: Epoch| {
                lock(&under_way).get(&(usize::from(server.0), epoch.0)).copied().unwrap_or(0)
            })
        };
        let quiet = {
            let under_way = under_way.clone();
            Arc::new(move |server: ServerIndex| {
                lock(&under_way).iter().all(|((at, _), count)| *at != usize::from(server.0) || *count == 0)
            })
        };
        let may_use = {
            let oracle = self.oracle.clone();
            Arc::new(move |epoch, server| oracle.uses(epoch, server))
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(observe(ground.clone(), wakes, by_the_log, view));
        let wanted = watch::channel(Arc::new(wanted)).1;
        let eyes = Eyes {
            local: local.clone(),
            look: look.clone(),
            wanted: wanted.clone(),
            // No disk of the model's fails.
            write: Arc::new(|_, _| Box::pin(async { None })),
            sessions: Sessions { busy, quiet },
        };
        let listed = watch::channel(None).1;
        let means = Means { wanted, local, listed, look, perform, counters: self.counters.clone() };
        tasks.spawn(lead(handle.clone(), means));
        tasks.spawn(report(handle, eyes));
        for _ in 0..CLIENTS {
            let gateway = Gateway {
                ground: ground.clone(),
                right: right.clone(),
                published: published.clone(),
                records: self.records.clone(),
                under_way: under_way.clone(),
                may_use: may_use.clone(),
            };
            tasks.spawn(gateway.client((10, 250)));
        }
        self.beside.insert(name.to_owned(), tasks);
    }

    async fn crash(&mut self, name: &str) {
        self.beside.remove(name);
        self.oracle.remove(name);
        if self.cluster.nodes[name].running.is_some() {
            self.cluster.kill(name).await;
        }
    }

    fn node(&mut self) -> &'static str {
        NODES[self.random.random_range(0..NODES.len())]
    }

    /// The primary, as often as not.
    fn server(&mut self) -> usize {
        let named = self.oracle.primary();
        match named.filter(|_| self.random.random_range(0..2) == 0) {
            Some(server) => server,
            None => self.random.random_range(0..SERVERS.len()),
        }
    }

    fn ms(&mut self, low: u64, high: u64) -> u64 {
        self.random.random_range(low..=high)
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
        for tasks in self.beside.values_mut().chain([&mut self.turning]) {
            if let Some(Err(error)) = tasks.try_join_next()
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        self.oracle.look(&self.records);
        let violations = std::mem::take(&mut lock(&self.world).violations);
        if let Some(violation) = violations.first() {
            self.fail(violation);
        }
    }

    fn fail(&self, what: &str) -> ! {
        let trace = std::mem::take(&mut lock(&self.world).trace);
        eprintln!("{}", trace.join("\n"));
        panic!("seed {}: {what}", self.seed);
    }

    /// What is still wrong; None: everything works.
    fn trouble(&self, since_ms: u64) -> Option<String> {
        for (name, node) in &self.cluster.nodes {
            let Some(running) = &node.running else { return Some(format!("{name} is down")) };
            let applied = running.handle.applied();
            let state = &applied.state;
            if lock(&self.records).last_by_node.get(name).is_none_or(|at_ms| *at_ms < since_ms) {
                return Some(format!(
                    "nobody writes through {name}: {:?}, {:?}",
                    state.primary(),
                    state.standstill()
                ));
            }
            for (id, server) in state.servers() {
                if server.administrative != Administrative::Attached {
                    return Some(format!("{id} is {:?}", server.administrative));
                }
            }
        }
        let primary = self.oracle.primary()?;
        let world = lock(&self.world);
        let astray = (0..SERVERS.len()).find(|&to| to != primary && !world.streams_to(to))?;
        Some(format!("{} streams from nobody", SERVERS[astray]))
    }

    async fn heal(&mut self) {
        self.cluster.heal();
        *lock(&self.cluster.net.weather) = Weather::fair(self.seed);
        lock(&self.world).heal();
        for name in NODES {
            self.boot(name);
        }
        // What operators have ordered they take back.
        let handle = self.cluster.handle(NODES[0]);
        tokio::spawn(async move {
            loop {
                let _ =
                    handle.propose(Change::PauseFailover { paused: false }, "operator:dawn", "order").await;
                let applied = handle.applied();
                let detached = applied.state.servers().iter();
                let detached = detached.filter(|(_, known)| known.administrative == Administrative::Detached);
                for (server, known) in detached {
                    let (server, version) = (server.clone(), known.version);
                    let change = Change::SetAdministrative {
                        server,
                        version,
                        state: Administrative::Attached,
                        within_ms: None,
                    };
                    let _ = handle.propose(change, "operator:dawn", "order").await;
                }
                sleep(Duration::from_secs(2)).await;
            }
        });
    }

    async fn run(mut self) -> Tally {
        for name in NODES {
            self.boot(name);
        }
        let dawn = Instant::now() + FAULTS_FOR;
        if self.random.random_range(0..10) > 0 {
            self.pass(Duration::from_secs(6)).await;
        }
        while Instant::now() < dawn {
            self.fault().await;
            let calm = if self.random.random_range(0..4) == 0 { self.ms(0, 100) } else { self.ms(20, 2_500) };
            self.pass(Duration::from_millis(calm)).await;
        }
        self.heal().await;
        let since_ms = lock(&self.world).now_ms;
        let deadline = Instant::now() + HEALED_WITHIN;
        while let Some(trouble) = self.trouble(since_ms) {
            if Instant::now() >= deadline {
                self.fail(&trouble);
            }
            self.pass(Duration::from_millis(50)).await;
        }
        self.check();
        if let Some(lost) = self.oracle.lost(&self.records) {
            self.fail(&lost);
        }
        let rejected: u64 = self.counters.totals().rejected.iter().sum();
        if rejected > 0 {
            self.fail(&format!("{rejected} decisions would have broken an invariant"));
        }
        let healed_after_ms = lock(&self.world).now_ms - since_ms;
        for name in NODES {
            self.crash(name).await;
        }
        let (told, world) = (lock(&self.records), lock(&self.world));
        Tally {
            acknowledged: told.acknowledged.len(),
            unknown: told.unknown,
            promotions: world.promoted.len(),
            rewinds: world.rewinds,
            rebuilds: world.rebuilds,
            healed_after_ms,
        }
    }
}

#[test]
fn no_commit_is_lost_in_a_bad_night_of_servers_and_all_works_the_morning_after() {
    let tallies = nights(NIGHTS, |seed| Box::pin(Night::new(seed).run()));
    let mut all = Tally::default();
    for tally in &tallies {
        all.acknowledged += tally.acknowledged;
        all.unknown += tally.unknown;
        all.promotions += tally.promotions;
        all.rewinds += tally.rewinds;
        all.rebuilds += tally.rebuilds;
        all.healed_after_ms = all.healed_after_ms.max(tally.healed_after_ms);
    }
    println!("{} nights: {all:?}", tallies.len());
    // Nights in which nothing happens prove nothing.
    let enough = all.promotions > tallies.len() && all.unknown > 0 && all.rewinds > 0;
    assert!(enough || tallies.len() < 10, "{all:?}");
}
