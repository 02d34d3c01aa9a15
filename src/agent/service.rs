//! Answers the nodes: which request is obeyed, and one at a time.
//!
//! Owns the epoch and the job's task. Invariant: a request of an epoch that is over changes nothing, and one of a higher
//! epoch ends the job of a lower one before it does anything; and what is begun is begun in its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::directory::Postmaster;
use super::error::WorkError;
use super::job::{Work, now_ms};
use super::plan;
use super::wire::{
    Data, Job, Moment, Order, Outcome, Phase, Refusal, Rejoin, Request, Response, Started, Status, StopMode,
    Stopped,
};
use crate::clock;

/// What the agent itself may take for one answer; whoever asks waits less.
pub const MAX_CALL: Duration = Duration::from_secs(120);
const STOP_WITHIN: Duration = Duration::from_secs(110);
/// A leader that has not seen yet that a rejoin has succeeded asks for it again.
const ASKED_TWICE_MS: u64 = 10_000;
/// A rejoin that has failed is not begun again for so long, and twice as long after each failure.
const RETRY_FIRST_MS: u64 = 5_000;
const RETRY_LAST_MS: u64 = 300_000;
/// Of what has succeeded, as its agent sees it, and is asked for again at once.
const UNSEEN: &str = "the server streamed from its primary, and the nodes do not find that it does: can they reach it, and does \
                      it let in their health user?";
/// What is not ready by then is on its way: it may have much to recover.
const START_WITHIN: Duration = Duration::from_secs(45);

pub struct Service {
    work: Arc<Work>,
    /// A moment of another life is past, whatever it says.
    life: u64,
    /// Held while a request changes something. A status does not wait for it.
    turn: Mutex<Option<JoinHandle<()>>>,
    /// The highest epoch that anybody has asked in, whether or not it was that one's turn yet.
    asked_epoch: AtomicU64,
}

impl Service {
    /// A job that the agent before this one had begun is over.
    pub fn new(work: Arc<Work>) -> Result<Self, WorkError> {
        work.note(|now| {
            if let Some(job) = now.job.as_mut().filter(|job| job.outcome.is_none()) {
                (job.outcome, job.ended_at_ms) = (Some(Outcome::Interrupted), Some(now_ms()));
            }
        })?;
        if let Err(error) = work.settle() {
            tracing::error!(%error, "what was begun cannot be finished now; the next rejoin tries again");
        }
        Ok(Service { work, life: now_ms(), turn: Mutex::default(), asked_epoch: AtomicU64::new(0) })
    }

    pub async fn answer(&self, from: &str, request: Request) -> Response {
        let (by, order) = match request {
            Request::Status => return Response::Status(Box::new(self.status().await)),
            Request::Clock => return Response::Clock(self.now()),
            Request::Order { by, order } => (by, order),
        };
        tracing::info!(from, ?order, "asked");
        match self.obey(by, order).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(from, %error, "not done");
                Response::Refused(error.into_refusal())
            }
        }
    }

    fn now(&self) -> Moment {
        Moment { life: self.life, ms: clock::now_ms() }
    }

    async fn obey(&self, by: Moment, order: Order) -> Result<Response, WorkError> {
        self.asked_epoch.fetch_max(order.epoch(), Ordering::Relaxed);
        let mut task = self.turn.lock().await;
        let (epoch, now) = (order.epoch(), self.now());
        let highest_epoch = self.work.memory(|memory| memory.get().highest_epoch);
        if epoch < highest_epoch {
            return Err(Refusal::Stale { highest_epoch }.into());
        }
        // It may have waited for its turn, or have been on its way for long.
        if by.life != now.life || by.ms < now.ms {
            return Err(Refusal::Late.into());
        }
        self.work.note(|now| now.highest_epoch = epoch)?;
        if let Some(running) = task.as_ref().filter(|task| !task.is_finished()) {
            let job = self.work.memory(|memory| memory.get().job.clone());
            match (&order, job) {
                (Order::Rejoin(asked), Some(job)) if job.request.is_same(asked) => {
                    return Ok(Response::Rejoining { begun: false });
                }
                (_, Some(job)) if job.request.epoch == epoch => {
                    let what = format!("{:?}, as a standby of {}", job.phase, job.request.primary.id);
                    return Err(Refusal::Busy(what).into());
                }
                _ => running.abort(),
            }
        }
        if let Some(ended) = task.take() {
            // It has ended, or is about to.
            let _ = ended.await;
            self.work.note(|now| {
                if let Some(job) = now.job.as_mut().filter(|job| job.outcome.is_none()) {
                    (job.outcome, job.ended_at_ms) = (Some(Outcome::Superseded), Some(now_ms()));
                }
            })?;
        }
        match order {
            Order::Stop { mode, .. } => self.stop(mode).await.map(Response::Stopped),
            Order::Start { .. } => self.start().await.map(Response::Started),
            Order::Restart { epoch, started_by_ms } => {
                self.restart(epoch, started_by_ms).await.map(Response::Started)
            }
            Order::Rejoin(request) => {
                let begun = self.rejoin(request).await?;
                let response = Response::Rejoining { begun: begun.is_some() };
                *task = begun;
                Ok(response)
            }
        }
    }

    async fn stop(&self, mode: StopMode) -> Result<Stopped, WorkError> {
        self.work.server.stop(mode, STOP_WITHIN).await?;
        let control = self.work.control().await?;
        let control = control.ok_or_else(|| WorkError::Not("there is no data directory".to_owned()))?;
        let newest = self.work.server.data.newest_timeline(control.segment_bytes);
        Ok(Stopped {
            clean: control.is_clean(),
            checkpoint: control.checkpoint,
            timeline: plan::timeline(&control, newest),
        })
    }

    fn must_be_startable(&self) -> Result<(), WorkError> {
        match self.work.why_not_startable() {
            Some(reason) => Err(WorkError::Not(format!("the server is not started: {reason}"))),
            None => Ok(()),
        }
    }

    async fn start(&self) -> Result<Started, WorkError> {
        self.must_be_startable()?;
        let started = self.work.server.start(START_WITHIN).await?;
        Ok(Started { pid: started.pid, ready: started.ready })
    }

    /// What would keep it from starting is found, as far as can be, before it is stopped.
    async fn restart(&self, epoch: u64, started_by_ms: Option<u64>) -> Result<Started, WorkError> {
        self.must_be_startable()?;
        let server = &self.work.server;
        let is_older = |found: Postmaster| match (found.started_at_ms, started_by_ms) {
            (Some(started_at_ms), Some(by_ms)) => started_at_ms <= by_ms,
            _ => true,
        };
        if server.data.postmaster().is_some_and(is_older) {
            server.check_configuration().await?;
            server.stop(StopMode::Fast, STOP_WITHIN).await?;
            // That may have taken minutes: another may have been named since, and whoever says so waits for this.
            let asked_epoch = self.asked_epoch.load(Ordering::Relaxed);
            if asked_epoch > epoch {
                return Err(Refusal::Stale { highest_epoch: asked_epoch }.into());
            }
        }
        self.start().await
    }

    /// None: it has succeeded already.
    async fn rejoin(&self, request: Rejoin) -> Result<Option<JoinHandle<()>>, WorkError> {
        let last = self.work.memory(|memory| memory.get().job.clone());
        // Asked again later than that, it has gone astray again.
        let is_fresh = |job: &Job| job.ended_at_ms.is_some_and(|at_ms| now_ms() < at_ms + ASKED_TWICE_MS);
        let is_done = |job: &Job| {
            job.request.is_same(&request) && job.outcome == Some(Outcome::Succeeded) && is_fresh(job)
        };
        if last.as_ref().is_some_and(is_done) {
            return Ok(None);
        }
        let failures = match last.filter(|job| job.request.is_same(&request)) {
            Some(job) => rests(&job)?,
            None => 0,
        };
        if request.primary.id == self.work.id {
            return Err(WorkError::Not(format!("{} cannot follow itself", request.primary.id)));
        }
        // Said at once, before anything is stopped.
        if let Some(control) = self.work.control().await?
            && control.system_identifier != request.system_identifier
        {
            let (expected, found) = (request.system_identifier, control.system_identifier);
            return Err(Refusal::OtherSystem { expected, found }.into());
        }
        let job = Job {
            request: request.clone(),
            way: None,
            because: String::new(),
            phase: Phase::Looking,
            progress: None,
            outcome: None,
            failures,
            missing_wal: false,
            lost: None,
            began_at_ms: now_ms(),
            ended_at_ms: None,
        };
        self.work.note(|now| now.job = Some(job))?;
        let work = self.work.clone();
        Ok(Some(tokio::spawn(async move {
            let result = work.rejoin(&request).await;
            let missing_wal = matches!(result, Err(WorkError::MissingWal(_)));
            let outcome = match result {
                Ok(()) => {
                    tracing::info!(primary = request.primary.id, "the server streams from its primary");
                    Outcome::Succeeded
                }
                Err(error) => {
                    tracing::error!(%error, primary = request.primary.id, "the server has not rejoined");
                    Outcome::Failed(error.to_string())
                }
            };
            let noted = work.note(|now| {
                if let Some(job) = &mut now.job {
                    match outcome {
                        Outcome::Succeeded => job.phase = Phase::Done,
                        _ => job.failures = failures + 1,
                    }
                    (job.outcome, job.ended_at_ms) = (Some(outcome), Some(now_ms()));
                    job.missing_wal = missing_wal;
                }
            });
            if let Err(error) = noted {
                tracing::error!(%error, "how the job ended cannot be noted");
            }
        })))
    }

    async fn status(&self) -> Status {
        let data_directory = &self.work.server.data;
        let (data, problem) = match self.work.control().await {
            Ok(Some(control)) => {
                let newest = data_directory.newest_timeline(control.segment_bytes);
                let data = Data {
                    system_identifier: control.system_identifier,
                    timeline: plan::timeline(&control, newest),
                    checkpoint: control.checkpoint,
                    standby: control.state == "in archive recovery" || data_directory.is_standby(),
                    state: control.state,
                };
                (Some(data), None)
            }
            Ok(None) => (None, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let postmaster = data_directory.postmaster();
        let remembered = self.work.memory(|memory| memory.get().clone());
        Status {
            server: self.work.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            highest_epoch: remembered.highest_epoch,
            pid: postmaster.map(|found| found.pid),
            ready: postmaster.is_some_and(|found| found.ready),
            data,
            problem,
            job: remembered.job,
        }
    }
}

/// How often that was in vain, in a row. An error: the last time was too short ago to try it again.
fn rests(job: &Job) -> Result<u32, Refusal> {
    let ended_at_ms = job.ended_at_ms.unwrap_or_default();
    let (failures, error) = match &job.outcome {
        None | Some(Outcome::Superseded | Outcome::Interrupted) => return Ok(job.failures),
        Some(Outcome::Failed(error)) => (job.failures, error.as_str()),
        Some(Outcome::Succeeded) if now_ms() >= ended_at_ms.saturating_add(RETRY_LAST_MS) => return Ok(0),
        // Each time it was stopped for it, or copied.
        Some(Outcome::Succeeded) => (job.failures + 1, UNSEEN),
    };
    let pause_ms = RETRY_FIRST_MS.saturating_mul(2_u64.saturating_pow(failures.saturating_sub(1)));
    // What the primary lacks does not come back: the answer is kept for whoever asks next.
    let pause_ms = if job.missing_wal { RETRY_LAST_MS } else { pause_ms.min(RETRY_LAST_MS) };
    let over_ms = ended_at_ms.saturating_add(pause_ms);
    // A clock that was set back is no reason to rest for longer.
    match over_ms.saturating_sub(now_ms()).min(RETRY_LAST_MS) {
        0 => Ok(failures),
        rests_ms => {
            Err(Refusal::Rests { failures, error: error.to_owned(), rests_ms, missing_wal: job.missing_wal })
        }
    }
}

#[cfg(test)]
mod tests;
