//! The way back: a server becomes a standby of the primary that was named.
//!
//! Owns the order of the steps, each of which is noted before it begins. Invariants: the old directory stays as it was
//! until a whole new one is beside it; a rewind that was begun ends with a server that follows, or with a rebuild; and
//! what the primary lacks is counted and kept before it is undone.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep};

use super::conninfo::{Access, Conninfo};
use super::control::Control;
use super::cut_record;
use super::error::WorkError;
use super::following::follow;
use super::history::History;
use super::kept_wal;
use super::memory::{Memory, Remembered, Swap};
use super::missing_wal;
use super::own_files::OwnFiles;
use super::plan::{self, Facts, Plan, Primary};
use super::postmaster::Server;
use super::progress;
use super::source;
use super::wire::{Job, Phase, Rejoin, Source, Way};
use crate::cluster::operate::slots::slot_name;
use crate::config;
use crate::topology::Lsn;

/// A primary that stops sends what it has to its standbys first, and writes out what is dirty.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// A standby takes connections once it has replayed what its backup needs.
const START_WITHIN: Duration = Duration::from_secs(3600);
const STREAM_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// By which `pg_rewind` says that it has done nothing.
const NO_REWIND: &str = "no rewind required";

/// What a job works with.
pub struct Work {
    pub id: String,
    pub server: Server,
    pub settings: config::Agent,
    pub access: Access,
    pub memory: Mutex<Memory>,
}

impl Work {
    pub fn memory<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// On disk before anything follows from it.
    pub fn note(&self, change: impl FnOnce(&mut Remembered)) -> Result<(), WorkError> {
        self.memory(|memory| memory.change(change))
    }

    fn note_job(&self, change: impl FnOnce(&mut Job)) -> Result<(), WorkError> {
        self.note(|now| {
            if let Some(job) = &mut now.job {
                change(job);
            }
        })
    }

    fn phase(&self, phase: Phase) -> Result<(), WorkError> {
        tracing::info!(?phase, "rejoining");
        self.note_job(|job| (job.phase, job.progress) = (phase, None))
    }

    /// Progress need not outlive the agent.
    fn heard(&self, line: &str) {
        if let Some(progress) = progress::parse(line) {
            self.memory(|memory| memory.show(|job| job.progress = Some(progress)));
        }
    }

    fn own_files(&self) -> OwnFiles {
        OwnFiles::new(&self.settings.state_directory)
    }

    /// Ends what was cut short while two directories changed places.
    pub fn settle(&self) -> Result<(), WorkError> {
        let Some(swap) = self.memory(|memory| memory.get().swap.clone()) else { return Ok(()) };
        self.server.data.swap(&swap)?;
        self.note(|now| {
            (now.swap, now.half_rewound, now.files_set_aside) = (None, false, false);
        })
    }

    /// Why the server must not be started as it is. None: it may be.
    pub fn why_not_startable(&self) -> Option<&'static str> {
        self.memory(|memory| {
            let now = memory.get();
            match () {
                () if now.half_rewound => {
                    Some("a rewind of its data was begun and not finished: let it rejoin")
                }
                () if now.files_set_aside => {
                    Some("its own configuration is not back in place: let it rejoin")
                }
                () if now.swap.is_some() => Some("its data directory is being replaced: let it rejoin"),
                () => None,
            }
        })
    }

    /// None: there is no data.
    pub async fn control(&self) -> Result<Option<Control>, WorkError> {
        match self.server.data.is_empty()? {
            true => Ok(None),
            false => self.server.control().await.map(Some),
        }
    }

    /// A server that was started before the new directory was in place, by whomever, works in the one that goes.
    async fn settle_anew(&self) -> Result<(), WorkError> {
        let waits = self.memory(|memory| memory.get().swap.as_ref().is_some_and(|swap| swap.new.exists()));
        if waits {
            self.server.end(STOP_WITHIN).await?;
        }
        self.settle()
    }

    pub async fn rejoin(&self, request: &Rejoin) -> Result<(), WorkError> {
        self.settle_anew().await?;
        self.phase(Phase::Looking)?;
        let replication = self.access.replication(&request.primary);
        let programs = &self.server.programs;
        let expected = (request.system_identifier, request.timeline);
        let primary = source::primary(programs, &request.primary, &replication, expected).await?;
        if !request.may_rebuild
            && let (Some(control), Way::Follow, ..) = self.decide(request, &primary).await?
            && let Some(reason) = self.missing_wal(request, &control).await
        {
            // It goes on serving reads until it may be rebuilt.
            return Err(WorkError::MissingWal(reason));
        }
        self.phase(Phase::Stopping)?;
        self.server.end(STOP_WITHIN).await?;
        let (control, mut way, because, more_from) = self.decide(request, &primary).await?;
        let mut because = because.to_owned();
        if let (Some(control), Way::Follow, true) = (&control, way, request.may_rebuild)
            && let Some(reason) = self.missing_wal(request, control).await
        {
            (way, because) = (Way::Rebuild, reason);
        }
        tracing::info!(?way, because, primary = request.primary.id, "how the server rejoins");
        self.note_job(|job| (job.way, job.because) = (Some(way), because))?;
        let slot = slot_name(&self.id);
        source::make_slot(programs, &replication, &slot).await?;
        if let (Some(control), Some(more_from)) = (&control, more_from) {
            self.keep(request.epoch, control, more_from, way).await?;
        }
        match (way, &control) {
            (Way::Follow, Some(control)) => self.ask_anew(control, &primary)?,
            (Way::Follow, None) => {}
            (Way::Rewind, Some(control)) => {
                if let Err(error) = self.rewind(request, control, primary.timeline).await {
                    tracing::warn!(%error, "it cannot be rewound; it is rebuilt");
                    let because = format!("the rewind failed: {error}");
                    self.note_job(|job| (job.way, job.because) = (Some(Way::Rebuild), because))?;
                    self.rebuild(request, &primary, &replication, &slot).await?;
                }
            }
            _ => self.rebuild(request, &primary, &replication, &slot).await?,
        }
        self.phase(Phase::Configuring)?;
        if self.memory(|memory| memory.get().files_set_aside) {
            self.own_files().put_back(self.server.data.path())?;
        }
        follow(self.server.data.path(), &replication, &slot)?;
        self.note(|now| now.files_set_aside = false)?;
        self.phase(Phase::Starting)?;
        self.start().await?;
        self.clear().await;
        Ok(())
    }

    async fn decide(
        &self,
        request: &Rejoin,
        primary: &Primary,
    ) -> Result<(Option<Control>, Way, &'static str, Option<(u32, Lsn)>), WorkError> {
        let half_rewound = self.memory(|memory| memory.get().half_rewound);
        let control = self.control().await?;
        let data = &self.server.data;
        let newest_timeline =
            control.as_ref().map_or(0, |control| data.newest_timeline(control.segment_bytes));
        let history = match &control {
            Some(control) => data.history(plan::timeline(control, newest_timeline))?,
            None => History::default(),
        };
        let mut facts = Facts { control, newest_timeline, history, half_rewound, has_more: None };
        loop {
            match plan::plan(request, &facts, primary) {
                Plan::Refuse(refusal) => return Err(refusal.into()),
                Plan::LookBeyond { timeline, fork } => {
                    // Nobody who has no control file is looked at for more.
                    let segment_bytes = facts.control.as_ref().map_or(0, |control| control.segment_bytes);
                    let (beyond, _) = kept_wal::count(&self.server, segment_bytes, (timeline, fork)).await?;
                    facts.has_more = Some(beyond.records > 0);
                }
                Plan::Go { way, because, more_from } => return Ok((facts.control, way, because, more_from)),
            }
        }
    }

    /// It has nothing that the primary lacks, but maybe the beginning of a record.
    fn ask_anew(&self, control: &Control, primary: &Primary) -> Result<(), WorkError> {
        let data = &self.server.data;
        let own = plan::timeline(control, data.newest_timeline(control.segment_bytes));
        let Some(fork) = primary.history.left_at(own) else { return Ok(()) };
        if cut_record::erase(data, control, own, fork)? {
            tracing::warn!(%fork, "its last record was cut at the end of a segment; it asks for that anew");
        }
        Ok(())
    }

    async fn missing_wal(&self, request: &Rejoin, control: &Control) -> Option<String> {
        let rewind = self.access.rewind(&request.primary, &self.settings.rewind_database);
        missing_wal::why(&self.server, control, &rewind).await
    }

    /// Before a rewind it must work. A rebuild may have been asked for because the disk is broken.
    async fn keep(
        &self,
        epoch: u64,
        control: &Control,
        more_from: (u32, Lsn),
        way: Way,
    ) -> Result<(), WorkError> {
        self.phase(Phase::Keeping)?;
        let state = &self.settings.state_directory;
        match kept_wal::keep(&self.server, state, (epoch, control.segment_bytes), more_from).await {
            Ok(lost) => {
                if lost.records > 0 {
                    tracing::warn!(
                        timeline = lost.timeline,
                        from = %lost.from,
                        to = %lost.to,
                        commits = lost.commits,
                        relations = lost.relations,
                        kept_in = lost.kept_in.as_deref().unwrap_or("nowhere"),
                        "the server has what the primary lacks"
                    );
                }
                self.note_job(|job| job.lost = Some(lost))
            }
            Err(error) if way == Way::Rebuild => {
                tracing::warn!(%error, "what the server has and the primary lacks is not known");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Unless what is in the data directory may be the other server's.
    fn set_files_aside(&self) -> Result<(), WorkError> {
        match self.memory(|memory| memory.get().files_set_aside) {
            true => Ok(()),
            false => self.own_files().set_aside(self.server.data.path()),
        }
    }

    async fn rewind(&self, request: &Rejoin, control: &Control, timeline: u32) -> Result<(), WorkError> {
        let conninfo = self.access.rewind(&request.primary, &self.settings.rewind_database);
        source::checkpointed(&self.server.programs, &conninfo, timeline).await?;
        self.server.data.must_not_run()?;
        if !control.is_clean() {
            self.server.recover().await?;
        }
        self.set_files_aside()?;
        self.phase(Phase::Rewinding)?;
        self.server.data.must_not_run()?;
        self.note(|now| (now.half_rewound, now.files_set_aside) = (true, true))?;
        let data = self.server.data.path().display().to_string();
        let source = format!("--source-server={}", conninfo.as_str());
        let arguments = ["-D", &data, "--progress", &source];
        let mut nothing_done = false;
        let heard = |line: &str| {
            nothing_done |= line.contains(NO_REWIND);
            self.heard(line);
        };
        self.server.programs.follow("pg_rewind", &arguments, heard).await?;
        if nothing_done {
            // It compares numbers and histories, which are not unique.
            return Err(WorkError::Not(format!("pg_rewind says {NO_REWIND:?}, and that is not so")));
        }
        self.note(|now| now.half_rewound = false)
    }

    async fn rebuild(
        &self,
        request: &Rejoin,
        primary: &Primary,
        replication: &Conninfo,
        slot: &str,
    ) -> Result<(), WorkError> {
        let data = &self.server.data;
        if let Some(reason) = data.why_not_replaceable()? {
            return Err(WorkError::Not(format!("it cannot be rebuilt: {reason}")));
        }
        self.set_files_aside()?;
        self.phase(Phase::Copying)?;
        remove(data.unfinished()).await?;
        let from = self.copied_from(request, primary).await;
        let new = data.new_beside();
        let target = new.display().to_string();
        let conninfo = self.access.copying(from);
        let arguments = [
            "--pgdata",
            &target,
            "--dbname",
            conninfo.as_str(),
            "--wal-method=stream",
            "--checkpoint=fast",
            "--progress",
            "--no-password",
        ];
        tracing::info!(from = from.id, into = target, "taking a base backup");
        let copied = self.server.programs.follow("pg_basebackup", &arguments, |line| self.heard(line)).await;
        let made = copied.and_then(|_| {
            self.own_files().put_back(&new)?;
            follow(&new, replication, slot)
        });
        if let Err(error) = made {
            // The space is needed, and the next attempt begins anew.
            remove(vec![new]).await?;
            return Err(error);
        }
        // It may have been started meanwhile, by a service manager that knows of nothing.
        if data.postmaster().is_some() {
            tracing::warn!(
                "the server was started by others while it was being rebuilt; it is stopped again"
            );
        }
        self.server.end(STOP_WITHIN).await?;
        let swap = Swap { new, old: data.old_beside() };
        self.phase(Phase::Swapping)?;
        self.note(|now| now.swap = Some(swap))?;
        self.settle()
    }

    /// A standby, to spare the primary, if it is where it should be.
    async fn copied_from<'a>(&self, request: &'a Rejoin, primary: &Primary) -> &'a Source {
        let Some(standby) = &request.rebuild_from else { return &request.primary };
        let conninfo = self.access.replication(standby);
        let known =
            source::identify(&self.server.programs, standby, &conninfo, request.system_identifier).await;
        match known {
            Ok(timeline) if timeline == primary.timeline => standby,
            Ok(timeline) => {
                tracing::warn!(standby = standby.id, timeline, "it is not on the primary's timeline");
                &request.primary
            }
            Err(error) => {
                tracing::warn!(standby = standby.id, %error, "it cannot be copied");
                &request.primary
            }
        }
    }

    async fn start(&self) -> Result<(), WorkError> {
        self.server.start(START_WITHIN).await?;
        let deadline = Instant::now() + STREAM_WITHIN;
        let mut receiver = None;
        while !self.server.streams(&mut receiver) {
            if Instant::now() >= deadline {
                return Err(WorkError::Not(format!(
                    "the server runs and does not stream after {STREAM_WITHIN:?}; {}",
                    self.server.log_tail()
                )));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// What is not needed any more. That it stays is no failure.
    async fn clear(&self) {
        let mut replaced = self.server.data.replaced();
        if self.settings.keep_replaced_directory {
            replaced.pop();
        }
        if let Err(error) = remove(replaced).await {
            tracing::warn!(%error, "a data directory that was replaced is still there");
        }
        if let Err(error) = self.own_files().forget() {
            tracing::warn!(%error, "the copy of the server's own files is still there");
        }
    }
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whole data directories take a while.
async fn remove(directories: Vec<PathBuf>) -> Result<(), WorkError> {
    let removed = tokio::task::spawn_blocking(move || {
        for directory in directories {
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(WorkError::io("remove", &directory)(error));
                }
                _ => {}
            }
        }
        Ok(())
    });
    removed.await.unwrap_or_else(|error| Err(WorkError::Not(format!("a directory was not removed: {error}"))))
}

#[cfg(test)]
pub(super) mod tests;
