//! One model of a PostgreSQL server: its disk, its process, and what becomes of either.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::wal::Wal;
use crate::cluster::conninfo::Conninfo;
use crate::cluster::sync_set::SyncSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    Down,
    /// Recovers, and lets nobody in.
    Starting {
        until_ms: u64,
    },
    Running,
    /// Lets nobody in any more, and sends its standbys what it has last.
    Stopping {
        until_ms: u64,
    },
}

/// What the client of a write hears from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Committed,
    /// With a warning: the wait for a standby was cancelled.
    Unconfirmed,
    /// 25006, or nothing was begun.
    Refused,
}

/// A commit that is not answered yet.
pub struct Waiter {
    pub end: usize,
    pub answer: oneshot::Sender<Answer>,
}

/// What a crash leaves.
pub struct Disk {
    pub wal: Wal,
    pub flushed: usize,
    /// `standby.signal` is there.
    pub standby: bool,
    pub conninfo: String,
    pub synchronous: String,
    pub slots: BTreeSet<String>,
    /// As a standby it streams by a slot of its own, which one walsender has at a time.
    pub by_slot: bool,
    /// It was shut down, and not started since.
    pub clean: bool,
    pub control: Control,
    /// A rewind was begun and not finished.
    pub half_rewound: bool,
    /// A primary's in recovery from its timeline files: the highest it has heard of.
    pub known_timeline: u32,
}

/// What the control file says; it lags behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    pub checkpoint: usize,
    pub timeline: u32,
    pub min_recovery: usize,
    pub min_recovery_timeline: u32,
}

pub struct Server {
    pub id: &'static str,
    pub disk: Disk,
    pub process: Process,
    /// Raised by each start and end of the process: whoever is connected notices.
    pub life: u64,
    pub frozen_until_ms: u64,
    /// When a service manager starts it again.
    pub restart_at_ms: Option<u64>,
    pub agent_lives: bool,
    pub highest_epoch: u64,

    /// How long a flush takes.
    pub flush_ms: u64,
    pub flushing: Option<(u64, usize)>,
    pub replayed: usize,
    /// It has replayed what it had when it was started, and asks to be sent more.
    pub asks_for_more: bool,
    pub replay_stands_until_ms: u64,
    pub checkpoint_at_ms: u64,
    /// The promote signal was given, in that epoch.
    pub promoting: Option<u64>,
    /// The last records of recovery are written, and then it is a primary.
    pub promoted_at_ms: Option<u64>,
    /// When the receiver ends because the conninfo was changed.
    pub receiver_ends_at_ms: Option<u64>,
    pub receive_again_at_ms: u64,

    /// Whether backends wait for standbys at all, and what that changes to.
    pub waits_for_standbys: bool,
    pub waits_change: Option<(u64, bool)>,
    /// Up to where standbys have released commits.
    pub released: usize,
    pub waiters: Vec<Waiter>,
}

impl Server {
    pub fn new(id: &'static str, wal: Wal, upstream: Option<&str>) -> Self {
        let end = wal.end();
        let conninfo =
            upstream.map(|host| format!("host={host} port=5432 user=replicator application_name={id}"));
        let control = Control { checkpoint: 0, timeline: 1, min_recovery: 0, min_recovery_timeline: 1 };
        Server {
            id,
            disk: Disk {
                wal,
                flushed: end,
                standby: upstream.is_some(),
                conninfo: conninfo.unwrap_or_default(),
                synchronous: String::new(),
                slots: BTreeSet::new(),
                by_slot: false,
                clean: false,
                control,
                half_rewound: false,
                known_timeline: 1,
            },
            process: Process::Running,
            life: 1,
            frozen_until_ms: 0,
            restart_at_ms: None,
            agent_lives: true,
            highest_epoch: 0,
            flush_ms: 2,
            flushing: None,
            replayed: end,
            asks_for_more: true,
            replay_stands_until_ms: 0,
            checkpoint_at_ms: 0,
            promoting: None,
            promoted_at_ms: None,
            receiver_ends_at_ms: None,
            receive_again_at_ms: 0,
            waits_for_standbys: false,
            waits_change: None,
            released: 0,
            waiters: Vec::new(),
        }
    }

    /// Its processes get their turn.
    pub fn runs(&self, now_ms: u64) -> bool {
        now_ms >= self.frozen_until_ms && matches!(self.process, Process::Running | Process::Stopping { .. })
    }

    pub fn is_primary(&self) -> bool {
        !self.disk.standby
    }

    /// As libpq reads it; None: to nobody.
    pub fn upstream(&self) -> Option<String> {
        let upstream = Conninfo::parse(&self.disk.conninfo).ok()?.upstream()?;
        (self.disk.standby && !upstream.is_nowhere()).then_some(upstream.host)
    }

    /// What others may be sent: only what is on disk.
    pub fn sendable(&self) -> usize {
        match self.is_primary() {
            true => self.disk.flushed,
            // A cascading one sends what it has replayed, at most.
            false => self.disk.flushed.min(self.replayed),
        }
    }

    pub fn checkpoint(&mut self) {
        let at = if self.is_primary() { self.disk.flushed } else { self.replayed };
        let timeline = self.disk.wal.timeline_at(at);
        let control = &mut self.disk.control;
        (control.checkpoint, control.timeline) = (at.saturating_sub(1), timeline);
        if self.disk.standby {
            (control.min_recovery, control.min_recovery_timeline) = (at, timeline);
        }
    }

    pub fn start(&mut self, now_ms: u64, takes_ms: u64) {
        if self.process == Process::Down && !self.disk.half_rewound {
            self.process = Process::Starting { until_ms: now_ms + takes_ms };
            self.life += 1;
            self.restart_at_ms = None;
        }
    }

    pub fn has_started(&mut self) {
        self.process = Process::Running;
        self.disk.clean = false;
        self.disk.flushed = self.disk.wal.end();
        // A standby lets clients in once it is consistent, and goes on from there.
        let control = &self.disk.control;
        self.replayed = match self.is_primary() {
            true => self.disk.wal.end(),
            false => control.min_recovery.max(control.checkpoint).min(self.disk.flushed),
        };
        self.asks_for_more = false;
        self.waits_for_standbys = SyncSet::parse(&self.disk.synchronous).is_some_and(|set| set.promises());
        self.released = 0;
    }

    /// The process ends. `keeps`: how much of what was not flushed survives.
    pub fn ends(&mut self, keeps: usize) {
        let disk = &mut self.disk;
        disk.wal.truncate(keeps.clamp(disk.flushed, disk.wal.end()));
        disk.flushed = disk.wal.end();
        self.replayed = self.replayed.min(disk.flushed);
        self.process = Process::Down;
        self.life += 1;
        self.flushing = None;
        self.promoting = None;
        self.promoted_at_ms = None;
        self.receiver_ends_at_ms = None;
        self.waits_change = None;
        // Whoever waits for an answer sees the connection end.
        self.waiters.clear();
    }
}
