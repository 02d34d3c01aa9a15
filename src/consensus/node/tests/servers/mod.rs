//! Model PostgreSQL servers, as far as failovers depend on them: logs and timelines, streaming and its delays, replay lag,
//! commits that wait for standbys, promotion, settings that are reloaded, crashes and hosts that hang.
//!
//! One value that a clock drives (`World::tick`); whoever reaches a server does so by `reach`, over a network that loses
//! nothing and delivers late. What PostgreSQL decides by numbers is decided by numbers here, and then it is checked that
//! the records are the same. Invariant: what was flushed survives a crash; what was sent may arrive at any time later.

mod agent;
mod commit;
mod look;
mod reach;
mod server;
mod sql;
mod streaming;
mod wal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::consensus::node::core::lock;
pub use agent::Agents;
pub use reach::{Ground, Written};
pub use server::{Answer, Process, Server};
use streaming::Stream;
use wal::{Record, Wal};

pub const SERVERS: [&str; 3] = ["pg1", "pg2", "pg3"];
pub const TICK: Duration = Duration::from_millis(5);
/// Between two checkpoints, at most.
const CHECKPOINTS_MS: u64 = 5_000;
/// How many records are replayed in a turn.
const REPLAYS: usize = 50;
/// A changed conninfo ends the receiver within this, unless replay lags.
const RECEIVER_ENDS_MS: u64 = 500;
const SHUTDOWN_MS: u64 = 10_000;

/// Who cannot send to whom.
pub type Cut = BTreeSet<(String, String)>;

pub fn cut(cut: &Cut, from: &str, to: &str) -> bool {
    cut.contains(&(from.to_owned(), to.to_owned()))
}

pub struct World {
    pub now_ms: u64,
    pub random: StdRng,
    pub cut: Cut,
    /// By how much messages between servers are late.
    pub late_ms: u64,
    /// The same between nodes and servers, each way.
    pub road_late_ms: u64,
    pub servers: Vec<Server>,
    pub streams: Vec<Stream>,
    /// How often each row was taken by a server.
    pub arrived: BTreeMap<u64, u32>,
    /// Who was promoted in which epoch, by an order that took effect.
    pub promoted: BTreeMap<u64, usize>,
    pub rewinds: u64,
    pub rebuilds: u64,
    /// What must never be, and was.
    pub violations: Vec<String>,
    /// What has happened so far.
    pub trace: Vec<String>,
    last_number: u64,
}

pub type Shared = Arc<Mutex<World>>;

impl World {
    pub fn new(seed: u64) -> Self {
        let mut wal = Wal::default();
        for number in 1..=3 {
            wal.push(Record { number, timeline: 1, row: None });
        }
        let servers =
            SERVERS.map(|id| Server::new(id, wal.clone(), (id != SERVERS[0]).then_some(SERVERS[0])));
        World {
            now_ms: 0,
            random: StdRng::seed_from_u64(seed),
            cut: Cut::new(),
            late_ms: 0,
            road_late_ms: 0,
            servers: servers.into(),
            streams: Vec::new(),
            arrived: BTreeMap::new(),
            promoted: BTreeMap::new(),
            rewinds: 0,
            rebuilds: 0,
            violations: Vec::new(),
            trace: Vec::new(),
            last_number: 3,
        }
    }

    pub fn ms(&mut self, low: u64, high: u64) -> u64 {
        self.random.random_range(low..=high)
    }

    pub fn note(&mut self, what: String) {
        self.trace.push(format!("{:>6} {what}", self.now_ms));
    }

    pub fn find(&self, id: &str) -> Option<usize> {
        self.servers.iter().position(|server| server.id == id)
    }

    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for index in 0..self.servers.len() {
            self.live(index);
            if self.servers[index].runs(now_ms) {
                self.flush(index);
                self.replay(index);
                self.recover(index);
                self.connect(index);
            }
        }
        self.stream();
        for index in 0..self.servers.len() {
            if self.servers[index].runs(now_ms) {
                self.acknowledge(index);
            }
        }
    }

    /// What happens to the process as time goes by.
    fn live(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let (takes_ms, next_ms) = (self.ms(50, 800), now_ms + self.ms(1_000, CHECKPOINTS_MS));
        let server = &mut self.servers[index];
        if now_ms < server.frozen_until_ms {
            return;
        }
        match server.process {
            Process::Down if server.restart_at_ms.is_some_and(|at_ms| now_ms >= at_ms) => {
                server.start(now_ms, takes_ms);
            }
            Process::Starting { until_ms } if now_ms >= until_ms => server.has_started(),
            Process::Stopping { until_ms } => {
                let end = server.disk.wal.end();
                let is_flushed = server.disk.flushed == end;
                let lacks = |stream: &Stream| {
                    stream.from == index && stream.sender.as_ref().is_some_and(|sender| sender.flushed < end)
                };
                if now_ms >= until_ms {
                    self.crash(index, true);
                } else if is_flushed && !self.streams.iter().any(lacks) {
                    self.ends_cleanly(index);
                }
            }
            Process::Running if now_ms >= server.checkpoint_at_ms => {
                server.checkpoint();
                server.checkpoint_at_ms = next_ms;
            }
            _ => {}
        }
    }

    fn flush(&mut self, index: usize) {
        let server = &mut self.servers[index];
        match server.flushing {
            Some((due, end)) if self.now_ms >= due => {
                server.disk.flushed = server.disk.flushed.max(end.min(server.disk.wal.end()));
                server.flushing = None;
            }
            Some(_) => {}
            None if server.disk.wal.end() > server.disk.flushed => {
                server.flushing = Some((self.now_ms + server.flush_ms, server.disk.wal.end()));
            }
            None => {}
        }
    }

    fn replay(&mut self, index: usize) {
        let server = &mut self.servers[index];
        if server.disk.standby && self.now_ms >= server.replay_stands_until_ms {
            server.replayed = server.disk.flushed.min(server.replayed + REPLAYS);
            server.asks_for_more |= server.replayed == server.disk.wal.end();
        }
    }

    /// What a standby's startup process does between two records: it looks whether it is to be promoted.
    fn recover(&mut self, index: usize) {
        let takes_ms = self.ms(20, 300);
        let receives = self.streams_to(index);
        let server = &mut self.servers[index];
        let has_all = server.replayed == server.disk.flushed && server.disk.flushed == server.disk.wal.end();
        if !receives && server.receiver_ends_at_ms.is_some_and(|at_ms| self.now_ms >= at_ms) && has_all {
            server.receiver_ends_at_ms = None;
        }
        if server.promoting.is_none() || receives || !has_all || !server.disk.standby {
            return;
        }
        match server.promoted_at_ms {
            None => server.promoted_at_ms = Some(self.now_ms + takes_ms),
            Some(at_ms) if self.now_ms >= at_ms => self.becomes_primary(index),
            Some(_) => {}
        }
    }

    fn becomes_primary(&mut self, index: usize) {
        self.last_number += 1;
        let number = self.last_number;
        let server = &mut self.servers[index];
        server.disk.known_timeline = server.disk.known_timeline.max(server.disk.wal.timeline()) + 1;
        let timeline = server.disk.known_timeline;
        server.disk.wal.push(Record { number, timeline, row: None });
        server.disk.flushed = server.disk.wal.end();
        server.disk.standby = false;
        (server.promoting, server.promoted_at_ms) = (None, None);
        // The checkpoint behind it takes its time.
        server.checkpoint_at_ms = self.now_ms + self.random.random_range(50..2_000);
    }

    fn ends_cleanly(&mut self, index: usize) {
        let server = &mut self.servers[index];
        server.checkpoint();
        server.ends(usize::MAX);
        server.disk.clean = true;
    }

    /// The process is killed, or its host.
    pub fn crash(&mut self, index: usize, keeps_written: bool) {
        let server = &mut self.servers[index];
        let keeps = if keeps_written { usize::MAX } else { server.disk.flushed };
        server.ends(keeps);
    }

    /// A clean shutdown begins: sessions end, and the last record is written.
    pub fn shut_down(&mut self, index: usize) {
        if self.servers[index].process != Process::Running {
            return;
        }
        self.servers[index].waiters.clear();
        self.servers[index].life += 1;
        if self.servers[index].is_primary() {
            self.append(index, None);
        }
        self.servers[index].process = Process::Stopping { until_ms: self.now_ms + SHUTDOWN_MS };
    }

    pub fn freeze(&mut self, index: usize, for_ms: u64) {
        self.servers[index].frozen_until_ms = self.now_ms.saturating_add(for_ms);
    }

    /// Nothing is wrong any more, but for what has become of the data.
    pub fn heal(&mut self) {
        self.cut.clear();
        (self.late_ms, self.road_late_ms) = (0, 0);
        for server in &mut self.servers {
            server.frozen_until_ms = server.frozen_until_ms.min(self.now_ms);
            server.replay_stands_until_ms = 0;
            server.flush_ms = 2;
            server.agent_lives = true;
            if server.process == Process::Down {
                server.restart_at_ms = Some(self.now_ms);
            }
        }
    }
}

/// Moves the servers on for ever.
pub async fn turn(world: Shared, began: tokio::time::Instant) {
    loop {
        tokio::time::sleep(TICK).await;
        let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap();
        lock(&world).tick(now_ms);
    }
}
