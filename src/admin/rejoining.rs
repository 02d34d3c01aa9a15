//! How far an agent is with making a server a standby again, as `/status` has it.
//!
//! Pure. Invariant: keys are only ever added.

use serde::Serialize;

use crate::agent::wire::{Job, Lost, Outcome, Phase, Way};
use crate::telemetry::labels::{Label as _, RejoinPhase};
use crate::telemetry::samples::Rejoining;

#[derive(Debug, Serialize)]
pub struct JobKeys<'a> {
    /// Which order it carries out: the version of the server's.
    order: u64,
    way: Option<&'static str>,
    /// Why that way.
    because: &'a str,
    phase: &'static str,
    bytes_done: Option<u64>,
    bytes_total: Option<u64>,
    /// None: it is under way.
    outcome: Option<&'static str>,
    error: Option<&'a str>,
    /// How many in a row have failed.
    failures: u32,
    /// What it has and the others lack, in a sentence.
    has_more: Option<String>,
    began_at_ms: u64,
    ended_at_ms: Option<u64>,
}

pub fn job(job: &Job) -> JobKeys<'_> {
    let (outcome, error) = match &job.outcome {
        None => (None, None),
        Some(Outcome::Succeeded) => (Some("succeeded"), None),
        Some(Outcome::Failed(error)) => (Some("failed"), Some(error.as_str())),
        Some(Outcome::Superseded) => (Some("superseded"), None),
        Some(Outcome::Interrupted) => (Some("interrupted"), None),
    };
    JobKeys {
        order: job.request.order,
        way: job.way.map(|way| match way {
            Way::Follow => "follow",
            Way::Rewind => "rewind",
            Way::Rebuild => "rebuild",
        }),
        because: &job.because,
        phase: phase(job.phase).as_str(),
        bytes_done: job.progress.map(|progress| progress.bytes_done),
        bytes_total: job.progress.map(|progress| progress.bytes_total),
        outcome,
        error,
        failures: job.failures,
        has_more: job.lost.as_ref().and_then(Lost::sentence),
        began_at_ms: job.began_at_ms,
        ended_at_ms: job.ended_at_ms,
    }
}

/// The same as numbers.
pub fn numbers<'a>(server: &'a str, job: &Job) -> Rejoining<'a> {
    let is_under_way = job.outcome.is_none();
    Rejoining {
        server,
        phase: is_under_way.then(|| phase(job.phase)),
        bytes: job.progress.filter(|_| is_under_way).map(|it| (it.bytes_done, it.bytes_total)),
        failures: job.failures,
    }
}

fn phase(phase: Phase) -> RejoinPhase {
    match phase {
        Phase::Looking => RejoinPhase::Looking,
        Phase::Stopping => RejoinPhase::Stopping,
        Phase::Keeping => RejoinPhase::Keeping,
        Phase::Rewinding => RejoinPhase::Rewinding,
        Phase::Copying => RejoinPhase::Copying,
        Phase::Swapping => RejoinPhase::Swapping,
        Phase::Configuring => RejoinPhase::Configuring,
        Phase::Starting => RejoinPhase::Starting,
        Phase::Done => RejoinPhase::Done,
    }
}
