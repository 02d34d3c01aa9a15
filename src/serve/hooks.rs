//! Tells the operator's programs what happened: the leader runs one for each event of the log.
//!
//! Owns when a program is run and what is reported of it, beside everything else: nothing waits for it. Never decides what
//! an event is. Invariant: a program is started only after the log has it that this node does so; one whose end nobody
//! reports is never started again, by this node or another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use komainu_escalation::program::{self, ProgramError, ProgramSettings};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::reason::Reason;
use crate::cluster::state::{Change, ClusterState, Hook, HookEvent};
use crate::config::{Config, Hooks};
use crate::consensus::node::{ClusterHandle, ProposeError};
use crate::telemetry::Counters;
use crate::telemetry::labels::{HookLabel, HookResult};

/// Between two looks of a leader at what is left. Events wake it earlier.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After its deadline, so long for the report of a node that leads no more.
const REPORT_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to report how a program ended.
const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// Of what a program wrote to standard error, in characters; the timeline has no room for more.
const TOLD_OF_STDERR: usize = 300;

/// What a program reads: one JSON object on one line.
#[derive(Debug, Serialize)]
struct Told<'a> {
    event: &'static str,
    id: u64,
    cluster: &'a str,
    cluster_id: &'a str,
    node: &'a str,
    epoch: u64,
    server: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_primary: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_primary: Option<&'a str>,
    reason: &'a str,
    cause: &'a str,
    at_ms: u64,
}

/// What is known of a program's end.
struct Ended {
    reason: Reason,
    result: HookResult,
    text: String,
}

struct Runner {
    handle: ClusterHandle,
    counters: Arc<Counters>,
    running: JoinSet<()>,
    /// Events in the hands of whoever led before, by id, and since when this leader knows of them.
    left: BTreeMap<u64, Instant>,
    /// Events that this process took.
    mine: BTreeMap<u64, Instant>,
}

/// Runs programs whenever this node leads. Ends, and the programs with it, when it is dropped.
pub async fn run(handle: ClusterHandle, configs: watch::Receiver<Arc<Config>>, counters: Arc<Counters>) {
    let mut applied = handle.watch();
    let mut runner =
        Runner { handle, counters, running: JoinSet::new(), left: BTreeMap::new(), mine: BTreeMap::new() };
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            changed = applied.changed() => if changed.is_err() { return },
        }
        while runner.running.try_join_next().is_some() {}
        let state = applied.borrow_and_update().clone();
        let config = configs.borrow().clone();
        runner.look(&state.state, &config).await;
    }
}

impl Runner {
    async fn look(&mut self, state: &ClusterState, config: &Config) {
        let is_open = |id: &u64| state.hooks().events().any(|event| event.id == *id);
        self.mine.retain(|id, _| is_open(id));
        let Some(leading) = self.handle.leading().filter(|_| self.handle.lease().holds()) else {
            self.left.clear();
            return;
        };
        self.left.retain(|id, _| is_open(id));
        for event in state.hooks().events() {
            match &event.taken {
                Some(taken) if !self.mine.contains_key(&event.id) => {
                    let since = *self.left.entry(event.id).or_insert_with(Instant::now);
                    let deadline = Duration::from_millis(taken.deadline_ms);
                    if since.elapsed() >= deadline + REPORT_WITHIN {
                        self.interrupted(leading.term, event, &taken.node).await;
                    }
                }
                Some(_) => {}
                None => match program_for(&config.hooks, event.hook) {
                    None => self.pass_over(leading.term, event).await,
                    Some(program) if state.hooks().next(event.hook) == Some(event) => {
                        self.begin(leading.term, event, program, state, config).await;
                    }
                    Some(_) => {}
                },
            }
        }
    }

    async fn pass_over(&self, term: u64, event: &HookEvent) {
        let change = Change::EndHook { id: event.id, text: None };
        let passed =
            self.handle.propose_as_leader(term, change, "hook", Reason::HookUnconfigured.code()).await;
        if let Err(error) = passed {
            tracing::debug!(%error, hook = event.hook.name(), "an event without a program is still due");
        }
    }

    async fn interrupted(&self, term: u64, event: &HookEvent, node: &str) {
        let text = format!("it was begun on {node}, which did not report its end; it is not run again");
        let change = Change::EndHook { id: event.id, text: Some(text) };
        let reason = Reason::HookInterrupted;
        match self.handle.propose_as_leader(term, change, "hook", reason.code()).await {
            Ok(_) => {
                tracing::warn!(
                    hook = event.hook.name(),
                    id = event.id,
                    node,
                    reason = reason.code(),
                    "a hook's end is not known"
                );
                self.counters.hook(label(event.hook), HookResult::Interrupted);
            }
            Err(error) => tracing::debug!(%error, "the end of a hook could not be brought into the log"),
        }
    }

    /// First the log, then the program.
    async fn begin(
        &mut self,
        term: u64,
        event: &HookEvent,
        program: &ProgramSettings,
        state: &ClusterState,
        config: &Config,
    ) {
        let change = Change::TakeHook { id: event.id, deadline_ms: program.deadline_ms };
        let taken = self.handle.propose_as_leader(term, change, "hook", Reason::HookStarted.code()).await;
        if let Err(error) = taken {
            // If it did come into the log, it is reported as interrupted: in doubt it is not run.
            tracing::debug!(%error, hook = event.hook.name(), "a hook was not taken");
            return;
        }
        self.mine.insert(event.id, Instant::now());
        tracing::info!(hook = event.hook.name(), id = event.id, server = event.server, "a hook is run");
        let (handle, counters) = (self.handle.clone(), self.counters.clone());
        let (event, program) = (event.clone(), program.clone());
        let cluster = config.cluster.as_ref().map(|cluster| cluster.name.clone()).unwrap_or_default();
        let cluster_id = state.cluster_id().to_owned();
        self.running.spawn(async move {
            let ended = carry_out(&handle, &event, &program, (&cluster, &cluster_id)).await;
            counters.hook(label(event.hook), ended.result);
            report(&handle, &event, ended).await;
        });
    }
}

async fn carry_out(
    handle: &ClusterHandle,
    event: &HookEvent,
    program: &ProgramSettings,
    (cluster, cluster_id): (&str, &str),
) -> Ended {
    let told = Told {
        event: event.hook.name(),
        id: event.id,
        cluster,
        cluster_id,
        node: handle.node(),
        epoch: event.epoch.0,
        server: &event.server,
        old_primary: event.old_primary.as_deref(),
        new_primary: event.new_primary.as_deref(),
        reason: &event.reason,
        cause: &event.cause,
        at_ms: event.at_ms,
    };
    let begun = Instant::now();
    let ran = program::run(program, &told).await;
    let ms = begun.elapsed().as_millis();
    let (reason, result, text, stderr) = match ran {
        Ok(output) => {
            (Reason::HookRan, HookResult::Ok, format!("it ended well after {ms} ms"), output.stderr)
        }
        Err(ProgramError::Failed { status, output, .. }) => {
            let text = format!("it ended with {status} after {ms} ms");
            (Reason::HookFailed, HookResult::Failed, text, output.stderr)
        }
        Err(ProgramError::TimedOut { deadline_ms, output, .. }) => {
            let text = format!("it did not end within {deadline_ms} ms and was killed");
            (Reason::HookTimedOut, HookResult::TimedOut, text, output.stderr)
        }
        Err(error @ ProgramError::Start { .. }) => {
            (Reason::HookFailed, HookResult::Failed, error.to_string(), String::new())
        }
    };
    Ended { reason, result, text: with_stderr(text, &stderr) }
}

/// On one line.
fn with_stderr(text: String, stderr: &str) -> String {
    let words = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    let first: String = words.chars().take(TOLD_OF_STDERR).collect();
    match first.is_empty() {
        true => text,
        false => format!("{text}; stderr: {first}"),
    }
}

/// To whoever leads by now.
async fn report(handle: &ClusterHandle, event: &HookEvent, ended: Ended) {
    let Ended { reason, text, .. } = ended;
    match reason {
        Reason::HookRan => tracing::info!(hook = event.hook.name(), id = event.id, text, "a hook has ended"),
        _ => tracing::warn!(
            hook = event.hook.name(),
            id = event.id,
            reason = reason.code(),
            text,
            "a hook has failed"
        ),
    }
    loop {
        let change = Change::EndHook { id: event.id, text: Some(text.clone()) };
        match handle.propose(change, "hook", reason.code()).await {
            Ok(_) => return,
            Err(ProposeError::Refused(refusal)) => {
                // This one came into the log at a first try, or it counts as interrupted by now.
                tracing::debug!(%refusal, "how a hook ended was reported before");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, hook = event.hook.name(), "how a hook ended could not be reported yet");
                tokio::time::sleep(REPORT_AGAIN).await;
            }
        }
    }
}

fn program_for(hooks: &Hooks, hook: Hook) -> Option<&ProgramSettings> {
    match hook {
        Hook::OnFailover => hooks.on_failover.as_ref(),
        Hook::OnSwitchover => hooks.on_switchover.as_ref(),
        Hook::OnDetach => hooks.on_detach.as_ref(),
        Hook::OnAttach => hooks.on_attach.as_ref(),
        Hook::OnRecovered => hooks.on_recovered.as_ref(),
    }
}

fn label(hook: Hook) -> HookLabel {
    match hook {
        Hook::OnFailover => HookLabel::OnFailover,
        Hook::OnSwitchover => HookLabel::OnSwitchover,
        Hook::OnDetach => HookLabel::OnDetach,
        Hook::OnAttach => HookLabel::OnAttach,
        Hook::OnRecovered => HookLabel::OnRecovered,
    }
}
