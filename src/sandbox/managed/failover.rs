//! What AWS does when it makes another instance the writer, with the times.
//!
//! Owns the order. The servers have no storage in common: standbys get what the lost writer had written from its files, so
//! that nothing is lost, as it is with Aurora's volume and with what a Multi-AZ DB cluster has acknowledged. Invariant: the
//! writer that was lost comes back only behind another one, and as a reader.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::sync::TryLockError;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::{Managed, ManagedMode, dress};
use crate::sandbox::postgres::{Postgres, PostgresError, StopMode};
use crate::sandbox::roles::DATABASE;
use crate::sandbox::servers::Servers;

/// For a promotion, which replays what there is first, and for a reader that comes back.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverOrder {
    /// None: the reader that has most.
    pub to: Option<String>,
    /// From the new writer's first connection to the name's move.
    pub name_delay_ms: u64,
    /// From the loss of the writer until another one is begun to be made.
    pub server_ms: u64,
}

/// What was done, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverTold {
    pub from: String,
    pub to: String,
    /// Since 1970.
    pub killed_at_ms: u64,
    /// From then to the new writer's first connection.
    pub accepted_after_ms: u64,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The writer was lost.
    pub after_ms: u64,
    pub what: String,
}

#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    #[error("a failover is under way: wait until it is over")]
    UnderWay,
    #[error("{0} is the writer already; leave --to away, or name another one")]
    Already(String),
    #[error("there is no server {asked}; there are {}", known.join(", "))]
    Unknown { asked: String, known: Vec<String> },
    #[error("{0} does not run; `komainu sandbox start {0}` starts it")]
    NotRunning(String),
    #[error("no reader runs that could become the writer; `komainu sandbox start ID` starts one")]
    NoReader,
    #[error("{0}")]
    Server(#[from] PostgresError),
    #[error("{id} did not {goal} within {} s; its log ends with:\n{log}", PATIENCE.as_secs())]
    Late { id: String, goal: &'static str, log: String },
    #[error("the double of AWS's API does not say who the writer is now: {0}")]
    Listed(#[source] io::Error),
    #[error("cannot show the readers what the lost writer had written: {0}")]
    Lost(#[source] io::Error),
}

impl Managed {
    /// Blocks for as long as it takes; the name moves behind it.
    pub fn fail_over(&self, servers: &Servers, order: &FailoverOrder) -> Result<FailoverTold, FailoverError> {
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(FailoverError::UnderWay),
        };
        let old = find(servers, &writer)?;
        let new = choose(servers, old, order.to.as_deref())?;
        let others = || servers.all().iter().filter(|one| one.id() != old.id() && one.id() != new.id());
        let mut told = Told::begin();

        old.kill();
        told.note(format!("{}, the writer, is killed", old.id()));
        self.show_lost(Some(old))?;
        // Those that run; what is stopped is somebody else's wish.
        let readers: Vec<&Postgres> = others().filter(|reader| reader.is_running()).collect();
        if self.mode == ManagedMode::Aurora {
            for reader in readers.iter().chain([&new]) {
                reader.stop(StopMode::Immediate)?;
            }
            told.note("the readers restart".to_owned());
            dress::name_writer(servers, new.id())?;
        }
        for reader in others().chain([old]) {
            dress::follow(reader, new)?;
        }
        if self.mode == ManagedMode::Rds {
            // A commit waits for one of them, and they need not wait for the promotion.
            readers.iter().try_for_each(|reader| reader.reload())?;
        }
        thread::sleep(Duration::from_millis(order.server_ms).saturating_sub(told.begun.elapsed()));
        new.start()?;
        new.psql(DATABASE, "SELECT pg_promote(false)")?;
        until(new, "become the writer", || new.psql(DATABASE, "SELECT NOT pg_is_in_recovery()"))?;
        let accepted_after_ms = told.note(format!("{} takes writes", new.id()));
        let delay = Duration::from_millis(order.name_delay_ms);
        let name = self.writer_name();
        self.records.set_after(&name, new.host().parse().ok(), delay);
        told.note(format!("{name} leads to {} after {:.1} s more", new.id(), delay.as_secs_f64()));
        new.id().clone_into(&mut writer);

        self.show_lost(None)?;
        readers.iter().try_for_each(|reader| reader.start())?;
        old.make_standby()?;
        old.start()?;
        told.note(format!("{} is back, as a reader", old.id()));
        let wanted = readers.len() + 1;
        let all = format!("SELECT count(*) >= {wanted} FROM pg_stat_replication WHERE state = 'streaming'");
        until(new, "have all readers follow it", || new.psql(DATABASE, &all))?;
        told.note(format!("all readers follow {}", new.id()));
        if let Some(listed) = self.listed.get() {
            let naming = listed.name_writer(new.id());
            Handle::current().block_on(naming).map_err(FailoverError::Listed)?;
            told.note(format!("AWS's API has {} as the writer", new.id()));
        }
        let (from, to) = (old.id().to_owned(), new.id().to_owned());
        Ok(FailoverTold { from, to, killed_at_ms: told.killed_at_ms, accepted_after_ms, steps: told.steps })
    }

    /// Where standbys look for WAL that nobody streams to them.
    fn show_lost(&self, writer: Option<&Postgres>) -> Result<(), FailoverError> {
        match fs::remove_file(&self.lost) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(FailoverError::Lost(error)),
            _ => {}
        }
        let Some(writer) = writer else { return Ok(()) };
        symlink(writer.data_directory().join("pg_wal"), &self.lost).map_err(FailoverError::Lost)
    }
}

fn find<'a>(servers: &'a Servers, id: &str) -> Result<&'a Postgres, FailoverError> {
    let known = || servers.all().iter().map(|server| server.id().to_owned()).collect();
    let found = servers.all().iter().find(|server| server.id() == id);
    found.ok_or_else(|| FailoverError::Unknown { asked: id.to_owned(), known: known() })
}

fn choose<'a>(servers: &'a Servers, old: &Postgres, to: Option<&str>) -> Result<&'a Postgres, FailoverError> {
    if let Some(id) = to {
        let wanted = find(servers, id)?;
        return match wanted.id() {
            id if id == old.id() => Err(FailoverError::Already(id.to_owned())),
            id if !wanted.is_running() => Err(FailoverError::NotRunning(id.to_owned())),
            _ => Ok(wanted),
        };
    }
    let mut best = None;
    for reader in servers.all().iter().filter(|one| one.id() != old.id() && one.is_running()) {
        let has = "SELECT coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'";
        let has: f64 = reader.psql(DATABASE, has)?.parse().unwrap_or(0.0);
        if best.is_none_or(|(most, _)| has > most) {
            best = Some((has, reader));
        }
    }
    best.map(|(_, reader)| reader).ok_or(FailoverError::NoReader)
}

/// Until the question is answered with `t`.
fn until(
    server: &Postgres,
    goal: &'static str,
    answer: impl Fn() -> Result<String, PostgresError>,
) -> Result<(), FailoverError> {
    let deadline = Instant::now() + PATIENCE;
    while answer()? != "t" {
        if Instant::now() >= deadline {
            return Err(FailoverError::Late { id: server.id().to_owned(), goal, log: server.log_tail() });
        }
        thread::sleep(POLL);
    }
    Ok(())
}

struct Told {
    begun: Instant,
    killed_at_ms: u64,
    steps: Vec<Step>,
}

impl Told {
    fn begin() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { begun: Instant::now(), killed_at_ms: millis(now), steps: Vec::new() }
    }

    fn note(&mut self, what: String) -> u64 {
        let after_ms = millis(self.begun.elapsed());
        self.steps.push(Step { after_ms, what });
        after_ms
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

impl std::fmt::Display for FailoverTold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.from, self.to)?;
        for Step { after_ms, what } in &self.steps {
            write!(f, "\n{:>9.3} s  {what}", Duration::from_millis(*after_ms).as_secs_f64())?;
        }
        Ok(())
    }
}
