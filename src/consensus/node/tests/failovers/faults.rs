//! What goes wrong in a night with servers, drawn one after the other.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use super::{NODES, Night, SERVERS, WATCH_EVERY, World};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change, FailoverKind};
use crate::consensus::node::core::lock;

impl Night {
    pub(super) async fn fault(&mut self) {
        match self.random.random_range(0..39) {
            37..=38 => self.the_copy_lacks().await,
            35..=36 => self.the_heir_hangs().await,
            25..=28 => self.one_after_the_other().await,
            29 => self.two_in_a_row().await,
            0..=5 => self.fault_of_a_node().await,
            6..=17 => self.fault_of_a_server(),
            18..=24 => self.fault_of_the_network(),
            _ => self.order(),
        }
    }

    async fn fault_of_a_node(&mut self) {
        let node = self.node();
        let fault = self.random.random_range(0..8);
        lock(&self.world).note(format!("fault {fault} of node {node}"));
        match fault {
            0 => self.cluster.cut_off(node),
            1 => {
                let other = self.node();
                lock(&self.cluster.net.cut).insert((node.to_owned(), other.to_owned()));
            }
            2 => self.cluster.heal(),
            3 => self.crash(node).await,
            4 => {
                let leader = self.cluster.handles().find(|node| node.leading().is_some());
                if let Some(leader) = leader.map(|leader| leader.node().to_owned()) {
                    self.crash(&leader).await;
                }
            }
            5 => {
                let mut weather = lock(&self.cluster.net.weather);
                weather.lost_per_mille = self.random.random_range(0..100);
                weather.late_per_mille = self.random.random_range(0..200);
                weather.late_ms = self.random.random_range(10..1_500);
            }
            _ => self.boot(node),
        }
    }

    fn fault_of_a_server(&mut self) {
        let server = self.server();
        let again_ms = self.ms(100, 9_000);
        let fault = self.random.random_range(0..14);
        let for_ms = self.ms(200, 9_000);
        let what = format!("fault {fault} of {}, {for_ms} ms, again {again_ms} ms", SERVERS[server]);
        lock(&self.world).note(what);
        if fault == 9 {
            return self.agents.kill(server);
        }
        let mut world = lock(&self.world);
        let now_ms = world.now_ms;
        let it = &mut world.servers[server];
        match fault {
            // Its postmaster dies, and a service manager starts it again.
            0..=2 => {
                world.crash(server, true);
                world.servers[server].restart_at_ms = Some(now_ms + again_ms);
            }
            3 => {
                // As when the power fails.
                world.crash(server, false);
                world.servers[server].agent_lives = true;
                world.servers[server].restart_at_ms = (again_ms < 5_000).then_some(now_ms + again_ms);
            }
            4 => {
                world.shut_down(server);
                world.servers[server].restart_at_ms = Some(now_ms + again_ms + 1_000);
            }
            5 | 6 => world.freeze(server, for_ms),
            7 => it.flush_ms = for_ms / 4,
            8 => it.replay_stands_until_ms = now_ms + for_ms,
            10 => it.agent_lives = true,
            11 => world.cancel_waits(server),
            12 => it.flush_ms = 2,
            _ => {
                for down in 0..SERVERS.len() {
                    if world.servers[down].restart_at_ms.is_none() {
                        world.servers[down].restart_at_ms = Some(now_ms + again_ms);
                    }
                }
            }
        }
    }

    /// One standby lags, the other one is lost, and then the primary: what only the lost ones have must not be forgotten.
    async fn one_after_the_other(&mut self) {
        let Some(primary) = self.oracle.primary() else { return };
        let lags = (primary + self.random.random_range(1..SERVERS.len())) % SERVERS.len();
        let other = SERVERS.len() - primary - lags;
        lock(&self.world).note(format!("{} lags, and one after the other is lost", SERVERS[lags]));
        let flush_ms = self.ms(500, 4_000);
        match self.random.random_range(0..3) {
            0 => self.isolate(lags, &[primary]),
            _ => lock(&self.world).servers[lags].flush_ms = flush_ms,
        }
        for lost in [other, primary] {
            let calm = self.ms(0, 3_000);
            self.pass(Duration::from_millis(calm)).await;
            let (away_ms, how) = (self.ms(3_000, 15_000), self.random.random_range(0..3));
            if how == 0 {
                self.isolate(lost, &[0, 1, 2]);
                continue;
            }
            let mut world = lock(&self.world);
            match how {
                1 => world.freeze(lost, away_ms),
                _ => {
                    world.crash(lost, true);
                    world.servers[lost].restart_at_ms = Some(world.now_ms + away_ms);
                }
            }
        }
        let calm = self.ms(0, 6_000);
        self.pass(Duration::from_millis(calm)).await;
        lock(&self.world).cut.clear();
    }

    /// The primary is lost, and the next one as soon as there is one.
    async fn two_in_a_row(&mut self) {
        for _ in 0..2 {
            let Some(primary) = self.oracle.primary() else { return };
            lock(&self.world).note(format!("{} is lost, and then the next one", SERVERS[primary]));
            let away_ms = self.ms(1_000, 9_000);
            {
                let mut world = lock(&self.world);
                world.crash(primary, true);
                world.servers[primary].restart_at_ms = Some(world.now_ms + away_ms);
            }
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.oracle.primary() == Some(primary) && Instant::now() < deadline {
                self.pass(WATCH_EVERY).await;
            }
            let calm = self.ms(0, 3_000);
            self.pass(Duration::from_millis(calm)).await;
        }
    }

    /// The primary is lost, and the one that was named hangs, with orders to promote on their way, until about when another
    /// one is named.
    async fn the_heir_hangs(&mut self) {
        let Some(primary) = self.oracle.primary() else { return };
        lock(&self.world).note(format!("{} is lost, and its heir hangs", SERVERS[primary]));
        let (away_ms, late_ms, hangs_ms) = (self.ms(1_000, 9_000), self.ms(0, 300), self.ms(9_000, 16_000));
        {
            let mut world = lock(&self.world);
            world.road_late_ms = late_ms;
            world.crash(primary, true);
            world.servers[primary].restart_at_ms = Some(world.now_ms + away_ms);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.oracle.primary() == Some(primary) && Instant::now() < deadline {
            self.pass(WATCH_EVERY).await;
        }
        let sent = Duration::from_millis(self.ms(0, 2 * late_ms + 20));
        self.pass(sent).await;
        if let Some(heir) = self.oracle.primary().filter(|heir| *heir != primary) {
            lock(&self.world).freeze(heir, hangs_ms);
            self.pass(Duration::from_millis(hangs_ms + 500)).await;
        }
        lock(&self.world).road_late_ms = 0;
    }

    /// A standby lags, the other one is copied from it, and the primary is lost as soon as the copy streams.
    async fn the_copy_lacks(&mut self) {
        let Some(primary) = self.oracle.primary() else { return };
        let copied = (primary + self.random.random_range(1..SERVERS.len())) % SERVERS.len();
        let lags = SERVERS.len() - primary - copied;
        let asked = self.node();
        if self.cluster.nodes[asked].running.is_none() {
            return;
        }
        let what = format!(
            "{} lags, {} is built anew from it, and the primary is lost",
            SERVERS[lags], SERVERS[copied]
        );
        lock(&self.world).note(what);
        let (lags_ms, away_ms, flush_ms) =
            (self.ms(6_000, 12_000), self.ms(6_000, 15_000), self.ms(2, 4_000));
        lock(&self.world).servers[lags].flush_ms = lags_ms;
        let calm = self.ms(200, 2_000);
        self.pass(Duration::from_millis(calm)).await;
        let handle = self.cluster.handle(asked);
        let server = SERVERS[copied].to_owned();
        // As `komainu server recover` has it.
        if handle.applied().state.settled_primary().is_none() {
            return;
        }
        let Some(version) = handle.applied().state.servers().get(&server).map(|known| known.version) else {
            return;
        };
        let ran_since_ms = Some(lock(&self.world).servers[copied].life);
        let order = Change::RecoverServer { server, version, ran_since_ms };
        let reason = Reason::RebuildOrdered.code();
        tokio::spawn(async move { handle.propose(order, "operator:night", reason).await });
        let rebuilds = lock(&self.world).rebuilds;
        self.wait_for(8_000, |world| world.rebuilds > rebuilds).await;
        lock(&self.world).servers[copied].flush_ms = flush_ms;
        self.wait_for(3_000, |world| world.streams_to(copied)).await;
        let calm = self.ms(0, 1_500);
        self.pass(Duration::from_millis(calm)).await;
        {
            let mut world = lock(&self.world);
            world.crash(primary, true);
            world.servers[primary].restart_at_ms = Some(world.now_ms + away_ms);
        }
        let calm = self.ms(2_000, 5_000);
        self.pass(Duration::from_millis(calm)).await;
        let mut world = lock(&self.world);
        for server in [lags, copied] {
            world.servers[server].flush_ms = 2;
        }
    }

    async fn wait_for(&mut self, within_ms: u64, is_so: impl Fn(&World) -> bool) {
        let deadline = Instant::now() + Duration::from_millis(within_ms);
        while Instant::now() < deadline && !is_so(&lock(&self.world)) {
            self.pass(WATCH_EVERY).await;
        }
    }

    /// From these servers, and from all nodes if it is from all of them.
    fn isolate(&mut self, server: usize, from: &[usize]) {
        let nodes: &[&str] = if from.len() == SERVERS.len() { &NODES } else { &[] };
        let servers = from.iter().map(|other| SERVERS[*other]);
        let mut world = lock(&self.world);
        for other in nodes.iter().copied().chain(servers).filter(|other| *other != SERVERS[server]) {
            world.cut.insert((other.to_owned(), SERVERS[server].to_owned()));
            world.cut.insert((SERVERS[server].to_owned(), other.to_owned()));
        }
    }

    fn fault_of_the_network(&mut self) {
        let server = SERVERS[self.server()];
        let node = self.node();
        let fault = self.random.random_range(0..10);
        let late_ms = self.ms(0, 400);
        let mut world = lock(&self.world);
        world.note(format!("network fault {fault} of {server} and {node}, {late_ms} ms"));
        let others = || NODES.iter().chain(&SERVERS).filter(|other| **other != server);
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        match fault {
            0 => world.cut.extend([pair(node, server)]),
            1 => world.cut.extend([pair(server, node)]),
            2 => world.cut.extend(NODES.iter().flat_map(|node| [pair(node, server), pair(server, node)])),
            3 => world.cut.extend(others().flat_map(|other| [pair(other, server), pair(server, other)])),
            4 => {
                let standbys = SERVERS.iter().filter(|other| **other != server);
                world.cut.extend(standbys.flat_map(|other| [pair(other, server), pair(server, other)]));
            }
            5 => {
                let other = SERVERS[late_ms as usize % SERVERS.len()];
                world.cut.extend([pair(server, other)]);
            }
            6 => world.late_ms = late_ms,
            7 => (world.late_ms, world.road_late_ms) = (0, 0),
            8 => world.road_late_ms = late_ms,
            _ => world.cut.clear(),
        }
    }

    fn order(&mut self) {
        let asked = self.node();
        if self.cluster.nodes[asked].running.is_none() {
            return;
        }
        let handle = self.cluster.handle(asked);
        let applied = handle.applied();
        let state = &applied.state;
        let epoch = state.primary().epoch;
        let to =
            (self.random.random_range(0..2) == 0).then(|| SERVERS[self.random.random_range(0..3)].to_owned());
        let to = to.filter(|to| state.primary().server.as_ref() != Some(to));
        let server = SERVERS[self.random.random_range(0..3)].to_owned();
        let Some(known) = state.servers().get(&server) else { return };
        let change = match self.random.random_range(0..8) {
            0 if self.may_force => Change::BeginFailover { epoch, kind: FailoverKind::Forced, to },
            1 => Change::PauseFailover { paused: true },
            2 | 3 => Change::PauseFailover { paused: false },
            4 if known.administrative != Administrative::Quarantined => {
                let state = match known.administrative {
                    Administrative::Attached => Administrative::Detached,
                    _ => Administrative::Attached,
                };
                Change::SetAdministrative { server, version: known.version, state, within_ms: None }
            }
            _ => Change::BeginFailover { epoch, kind: FailoverKind::Switchover, to },
        };
        lock(&self.world).note(format!("{asked} is ordered {change:?}"));
        // An operator may have looked a while ago.
        let late =
            Duration::from_millis(if self.random.random_range(0..3) == 0 { self.ms(0, 25_000) } else { 0 });
        tokio::spawn(async move {
            sleep(late).await;
            handle.propose(change, "operator:night", "order").await
        });
    }
}
