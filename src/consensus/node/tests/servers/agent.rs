//! The agents beside the servers: they obey epochs, stop, and make a standby of what is there, as `agent::plan` has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::look::SYSTEM;
use super::server::Process;
use super::wal::{Wal, lsn, position};
use super::{Shared, TICK, World};
use crate::agent::control::Control;
use crate::agent::history::History;
use crate::agent::plan::{self, Facts, Plan, Primary};
use crate::agent::wire::{Rejoin, Stopped, Way};
use crate::consensus::node::core::lock;

/// A leader that has not seen yet that a rejoin has succeeded asks for it again.
const ASKED_TWICE_MS: u64 = 10_000;
const STREAMS_WITHIN_MS: u64 = 60_000;

#[derive(Default)]
struct Job {
    request: Option<Rejoin>,
    succeeded_at_ms: Option<u64>,
    task: Option<JoinHandle<()>>,
}

/// All of them, by server.
#[derive(Clone)]
pub struct Agents {
    world: Shared,
    jobs: Arc<Mutex<BTreeMap<usize, Job>>>,
}

impl Agents {
    pub fn new(world: Shared) -> Self {
        Agents { world, jobs: Arc::default() }
    }

    /// As a process that is killed: what it was at stays half done.
    pub fn kill(&self, index: usize) {
        lock(&self.world).servers[index].agent_lives = false;
        if let Some(Job { task: Some(task), .. }) = lock(&self.jobs).remove(&index) {
            task.abort();
        }
    }

    /// Whether a request of this epoch is to be obeyed; it ends what was begun in an earlier one.
    fn admit(&self, index: usize, epoch: u64) -> Result<(), String> {
        let mut world = lock(&self.world);
        let server = &mut world.servers[index];
        if epoch < server.highest_epoch {
            return Err(format!("the request is of an epoch that is over: {}", server.highest_epoch));
        }
        server.highest_epoch = epoch;
        Ok(())
    }

    pub async fn stop(&self, index: usize, epoch: u64) -> Result<Stopped, String> {
        self.admit(index, epoch)?;
        self.must_be_idle(index)?;
        end(&self.world, index).await;
        let world = lock(&self.world);
        let server = &world.servers[index];
        let disk = &server.disk;
        Ok(Stopped {
            clean: disk.clean,
            checkpoint: lsn(disk.wal.end().saturating_sub(1)),
            timeline: disk.wal.timeline(),
        })
    }

    /// Unless it runs.
    pub async fn start(&self, index: usize, epoch: u64) -> Result<(), String> {
        self.admit(index, epoch)?;
        self.must_be_idle(index)?;
        turn(&self.world, index, 20).await;
        let mut world = lock(&self.world);
        let (now_ms, takes_ms) = (world.now_ms, world.ms(50, 800));
        let server = &mut world.servers[index];
        match server.disk.half_rewound {
            true => Err("a rewind of its data was begun and not finished".to_owned()),
            false => {
                server.start(now_ms, takes_ms);
                Ok(())
            }
        }
    }

    fn must_be_idle(&self, index: usize) -> Result<(), String> {
        let jobs = lock(&self.jobs);
        let task = jobs.get(&index).and_then(|job| job.task.as_ref());
        match task.is_some_and(|task| !task.is_finished()) {
            true => Err("a rejoin is under way".to_owned()),
            false => Ok(()),
        }
    }

    pub fn rejoin(&self, index: usize, request: Rejoin) -> Result<(), String> {
        self.admit(index, request.epoch)?;
        let now_ms = lock(&self.world).now_ms;
        let mut jobs = lock(&self.jobs);
        let job = jobs.entry(index).or_default();
        if let Some(task) = job.task.as_ref().filter(|task| !task.is_finished()) {
            match &job.request {
                Some(known) if known.epoch == request.epoch => return Ok(()),
                _ => task.abort(),
            }
        }
        let is_done = job.request.as_ref().is_some_and(|known| known.is_same(&request))
            && job.succeeded_at_ms.is_some_and(|at_ms| now_ms < at_ms + ASKED_TWICE_MS);
        if is_done {
            return Ok(());
        }
        let (agents, asked) = (self.clone(), request.clone());
        let task = tokio::spawn(async move {
            if work(&agents.world, index, &asked).await.is_some() {
                let now_ms = lock(&agents.world).now_ms;
                if let Some(job) = lock(&agents.jobs).get_mut(&index) {
                    job.succeeded_at_ms = Some(now_ms);
                }
            }
        });
        *job = Job { request: Some(request), succeeded_at_ms: None, task: Some(task) };
        Ok(())
    }
}

/// The host's processes get no turn while it hangs.
async fn turn(world: &Shared, index: usize, takes_ms: u64) {
    sleep(Duration::from_millis(takes_ms)).await;
    loop {
        if !lock(world).is_frozen(index) {
            return;
        }
        sleep(TICK).await;
    }
}

/// A clean shutdown, or what it takes.
async fn end(world: &Shared, index: usize) {
    loop {
        turn(world, index, 5).await;
        let mut world = lock(world);
        world.servers[index].restart_at_ms = None;
        match world.servers[index].process {
            Process::Down => return,
            Process::Running => world.shut_down(index),
            Process::Starting { .. } => world.crash(index, true),
            Process::Stopping { .. } => {}
        }
    }
}

/// None: it came to nothing.
async fn work(world: &Shared, index: usize, request: &Rejoin) -> Option<()> {
    let primary = request.primary.id.clone();
    let source = lock(world).find(&primary)?;
    turn(world, index, 20).await;
    let known = lock(world).primary(index, source, request.timeline)?;
    end(world, index).await;
    let takes_ms = lock(world).ms(20, 200);
    turn(world, index, takes_ms).await;
    let way = lock(world).way(index, request, &known)?;
    let what =
        format!("  {} rejoins {primary} in epoch {}: {way:?}", lock(world).servers[index].id, request.epoch);
    lock(world).note(what);
    match way {
        Way::Follow => {}
        Way::Rewind => {
            lock(world).servers[index].disk.half_rewound = true;
            let takes_ms = lock(world).ms(100, 1_500);
            turn(world, index, takes_ms).await;
            let mut world = lock(world);
            let copy = world.copied(index, source, request.timeline)?;
            world.replace(index, copy);
            world.rewinds += 1;
        }
        Way::Rebuild => {
            let takes_ms = lock(world).ms(500, 4_000);
            turn(world, index, takes_ms).await;
            let copy = lock(world).rebuilt(index, source, request)?;
            // Somebody may have started it meanwhile.
            end(world, index).await;
            let mut world = lock(world);
            world.replace(index, copy);
            world.rebuilds += 1;
        }
    }
    {
        let mut world = lock(world);
        let now_ms = world.now_ms;
        let takes_ms = world.ms(50, 500);
        let server = &mut world.servers[index];
        server.disk.conninfo =
            format!("host={primary} port=5432 user=replicator application_name={}", server.id);
        (server.disk.standby, server.disk.by_slot) = (true, true);
        server.start(now_ms, takes_ms);
    }
    let by_ms = lock(world).now_ms + STREAMS_WITHIN_MS;
    loop {
        turn(world, index, 50).await;
        let world = lock(world);
        if world.streams_to(index) {
            return Some(());
        }
        if world.now_ms >= by_ms {
            return None;
        }
    }
}

impl World {
    /// Whom it is to follow, as that one says itself.
    fn primary(&self, index: usize, source: usize, at_least: u32) -> Option<Primary> {
        self.asks(index, source)?;
        let server = &self.servers[source];
        let timeline = server.disk.wal.timeline();
        (timeline >= at_least).then(|| Primary { timeline, history: history(&server.disk.wal, timeline) })
    }

    fn asks(&self, index: usize, source: usize) -> Option<()> {
        let (own, other) = (self.servers[index].id, self.servers[source].id);
        let open = self.can_reach(own, other) && self.can_reach(other, own);
        (open && self.door(source) == Some(Ok(()))).then_some(())
    }

    fn way(&self, index: usize, request: &Rejoin, primary: &Primary) -> Option<Way> {
        let disk = &self.servers[index].disk;
        let state = match (disk.standby, disk.clean) {
            (true, true) => "shut down in recovery",
            (true, false) => "in archive recovery",
            (false, true) => "shut down",
            (false, false) => "in production",
        };
        let control = Control {
            system_identifier: SYSTEM,
            state: state.to_owned(),
            checkpoint: lsn(disk.control.checkpoint),
            redo: lsn(disk.control.checkpoint),
            checkpoint_timeline: disk.control.timeline,
            min_recovery: lsn(if disk.standby { disk.control.min_recovery } else { 0 }),
            min_recovery_timeline: if disk.standby { disk.control.min_recovery_timeline } else { 0 },
            wal_log_hints: true,
            data_checksums: false,
            segment_bytes: 16 << 20,
            wal_block_bytes: 8192,
        };
        let newest_timeline = disk.wal.timeline();
        let own = plan::timeline(&control, newest_timeline);
        let mut facts = Facts {
            control: Some(control),
            newest_timeline,
            history: history(&disk.wal, own),
            half_rewound: disk.half_rewound,
            has_more: None,
        };
        loop {
            match plan::plan(request, &facts, primary) {
                Plan::Refuse(_) => return None,
                Plan::LookBeyond { timeline, fork } => {
                    let end = disk.wal.left_at(timeline).unwrap_or(disk.wal.end());
                    facts.has_more = Some(end > position(fork));
                }
                Plan::Go { way, .. } => return Some(way),
            }
        }
    }

    /// All that the other one has, if it is still what it was.
    fn copied(&self, index: usize, source: usize, at_least: u32) -> Option<Wal> {
        self.primary(index, source, at_least)?;
        let disk = &self.servers[source].disk;
        (!disk.standby).then(|| disk.wal.copy(disk.flushed))
    }

    /// Of a standby, to spare the primary, if it is where it should be: what that has replayed.
    fn rebuilt(&self, index: usize, source: usize, request: &Rejoin) -> Option<Wal> {
        let standby = request.rebuild_from.as_ref().and_then(|standby| self.find(&standby.id));
        let reached = standby.filter(|&standby| standby != index && self.asks(index, standby).is_some());
        let fits = reached.map(|standby| &self.servers[standby]).filter(|standby| {
            let copied = standby.disk.wal.timeline_at(standby.replayed);
            standby.disk.standby && copied == self.servers[source].disk.wal.timeline()
        });
        match fits {
            Some(standby) => Some(standby.disk.wal.copy(standby.replayed)),
            None => self.copied(index, source, request.timeline),
        }
    }

    fn replace(&mut self, index: usize, wal: Wal) {
        let server = &mut self.servers[index];
        let (end, timeline) = (wal.end(), wal.timeline());
        server.disk.wal = wal;
        server.disk.flushed = end;
        server.disk.half_rewound = false;
        server.disk.clean = false;
        server.disk.known_timeline = timeline;
        server.disk.control = super::server::Control {
            checkpoint: end.saturating_sub(1),
            timeline,
            min_recovery: end,
            min_recovery_timeline: timeline,
        };
        server.replayed = end;
    }
}

fn history(wal: &Wal, timeline: u32) -> History {
    let lines = wal.history(timeline).into_iter();
    let text: String = lines.map(|(left, at)| format!("{left} {}\n", lsn(at))).collect();
    History::parse(&text).unwrap()
}
