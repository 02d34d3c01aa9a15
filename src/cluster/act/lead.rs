//! Decides whenever this node leads, and sees to it that it is done.
//!
//! Invariant: decisions are proposed one after the other, each from the state this node has applied, by this leader or
//! not at all; nothing is done to a server by a leader that has not heard from its quorum for a lease; and nothing at all
//! that the checker of plans rejects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Wanted;
use super::agreed::Agreed;
use super::log_format::{Raising, Times};
use super::perform::{Done, Finished, Order, Perform, Performer};
use super::refused_steps::RefusedSteps;
use super::rejections::Rejections;
use super::standing_down::{Behind, Me, StandingDown};
use crate::cluster::decide::action::{Action, What};
use crate::cluster::decide::check::{Rejected, check};
use crate::cluster::decide::{
    HostStop, Memory, OPERATIONS_END_MS, Plan, Planned, Situation, Step, decide, to_be_asked,
};
use crate::cluster::instances::{Listed, Said, which};
use crate::cluster::model::View;
use crate::cluster::observe::LookNow;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Change, ClusterState};
use crate::consensus::node::{ClusterHandle, Leading, ProposeError};
use crate::fault;
use crate::telemetry::Counters;

/// Between two looks of a leader at whether there is something to decide. Commands and reports wake it earlier.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same while the primary is being changed.
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Of others, at whether they lead by now.
const LEAD_YET_EVERY: Duration = Duration::from_millis(150);
/// Between two looks at raft's own membership.
const ALIGN_EVERY: Duration = Duration::from_millis(250);
/// A wish that could not be fulfilled in that time is dropped: its node does not live.
const WISH_FOR_MS: u64 = 15_000;

/// What a leader decides by and acts with.
pub struct Means {
    pub wanted: watch::Receiver<Arc<Wanted>>,
    /// What this node sees of the servers.
    pub local: watch::Receiver<Arc<View>>,
    /// What AWS's API says of the instances there are, if it is asked and has answered.
    pub listed: watch::Receiver<Option<Arc<Listed>>>,
    pub look: LookNow,
    pub perform: Perform,
    pub counters: Arc<Counters>,
}

/// Decides and proposes whenever this node leads. To be spawned on the consensus thread.
pub async fn lead(handle: ClusterHandle, means: Means) {
    let Means { wanted, mut local, listed, look, perform, counters } = means;
    let mut applied = handle.watch();
    let mut aligned = Instant::now();
    let mut pause = LEAD_YET_EVERY;
    let mut refused = RefusedSteps::default();
    let (mut memory, mut rejections) = (Memory::default(), Rejections::default());
    let mut raising = Raising::default();
    // Kept while another one leads: who leads again soon stays the leader for a while.
    let (mut standing_down, mut agreed) = (StandingDown::default(), Agreed::default());
    let mut performer = Performer::new(perform);
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = applied.changed() => if changed.is_err() { return },
            changed = local.changed() => if changed.is_err() { return },
            Some(finished) = performer.finished() => finish(&handle, finished, &mut memory, &look).await,
        }
        let Some(leading) = handle.leading() else {
            pause = LEAD_YET_EVERY;
            (memory, rejections, raising) = Default::default();
            continue;
        };
        let state = applied.borrow_and_update().clone();
        let view = local.borrow_and_update().clone();
        let wanted = wanted.borrow().clone();
        let now_ms = handle.now_ms();
        let changing = state.state.failover().is_some();
        pause = if changing || is_ending(&state.state) { LOOK_SOON } else { LOOK_EVERY };
        // Without a lease of its own it may not have applied what earlier leaders have decided.
        if !handle.lease().holds()
            || leading.contact_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= wanted.lease.lease_ms)
        {
            // It may have been frozen, and be a leader no more: then all others look silent to it.
            continue;
        }
        if state.state.cluster_id().is_empty() {
            create(&handle, &leading, &wanted).await;
            continue;
        }
        let me = Me { node: handle.node(), goes_by: wanted.version, lease_ms: wanted.lease.lease_ms };
        match standing_down.look(&state.state, &leading, me, now_ms) {
            Behind::Fine => {}
            Behind::Say(text) => note(&handle, me.node, &text, Reason::ConfigurationUnusable).await,
            Behind::StandDown => {
                tracing::warn!("this node leaves the lead to one that can use the cluster's configuration");
                handle.stand_down();
                continue;
            }
        }
        memory.look(&state.state, &view, now_ms);
        if changing || memory.has_new_primary(now_ms) {
            look.all();
        }
        for witness in to_be_asked(&state.state, &view, now_ms) {
            look.server(witness);
        }
        let listed = listed.borrow().clone();
        let is_agreed = agreed.on_policy(&wanted, &state.state);
        let seen = Seen { view: &view, listed: listed.as_deref(), memory: &memory, is_agreed };
        let (plan, rejected) = next(&handle, &state.state, &leading, &wanted, seen);
        rejected.iter().for_each(|rejected| counters.plan_rejected(rejected.rule));
        if let Some(change) = rejections.look(&rejected, state.state.rejected(), now_ms) {
            for Rejected { rule, what } in &rejected {
                tracing::error!(?rule, what, "what was decided breaks an invariant, and is not done");
            }
            let step = Step { change, reason: Reason::PlanRejected, cause: "decision".to_owned() };
            propose(&handle, &leading, step).await;
        }
        let times = Times { lease_ms: wanted.lease.lease_ms, after_ms: wanted.raise_log_format_after_ms };
        if let Some(change) = raising.look(&state.state, &leading, times, now_ms) {
            let step = Step { change, reason: Reason::LogFormatRaised, cause: "decision".to_owned() };
            propose(&handle, &leading, step).await;
        }
        for action in plan.actions {
            if let What::Promote { epoch } = action.what {
                memory.orders_promotion(epoch, now_ms);
            }
            let system_identifier = view.identity.get();
            let policy = wanted.policy.clone();
            let what = action.what.clone();
            let server = action.server.clone();
            let is_primary = state.state.primary().server.as_ref() == Some(&server);
            let begun = performer.begin(Order { action, policy, system_identifier, decided_at_ms: now_ms });
            if begun && matches!(what, What::Rejoin { .. }) {
                memory.rejoins(&server, &view);
            }
            if let What::SetSynchronous { epoch, .. } = what
                && begun
            {
                memory.sends_setting(&server, now_ms);
                if is_primary {
                    // What is seen of it until it has ended may be of before.
                    memory.setting_changed(epoch, now_ms + OPERATIONS_END_MS);
                }
            }
        }
        for step in plan.steps {
            if refused.is_recent(&step.change, now_ms) {
                continue;
            }
            let change = step.change.clone();
            if !propose(&handle, &leading, step).await {
                refused.note(change, now_ms);
            }
        }
        if aligned.elapsed() >= ALIGN_EVERY {
            aligned = Instant::now();
            handle.align_membership().await;
        }
    }
}

/// Whether an epoch is being ended: when its fence has passed nobody tells.
fn is_ending(state: &ClusterState) -> bool {
    state.fences().iter().any(|fence| !fence.passed)
}

/// What became of an action. Whether it worked the next look shows.
async fn finish(handle: &ClusterHandle, finished: Finished, memory: &mut Memory, look: &LookNow) {
    let Finished { action, result, decided_at_ms, is_news } = finished;
    let Action { server, what } = action;
    let is_primary = handle.applied().state.primary().server.as_deref() == Some(&*server);
    if let What::SetSynchronous { .. } = what {
        memory.sent_setting(&server, handle.now_ms(), result.is_ok());
    }
    if let What::SetSynchronous { epoch, .. } = what
        && is_primary
    {
        // After an error it may still be done.
        let more_ms = if result.is_ok() { 0 } else { OPERATIONS_END_MS };
        memory.setting_changed(epoch, handle.now_ms() + more_ms);
    }
    if matches!(what, What::Rejoin { .. }) && !matches!(result, Ok(Done::UnderWay)) {
        memory.rejoin_ended(&server);
    }
    if result.is_ok() {
        fault::may_die("done", &what);
    }
    if let What::StopHost { epoch } = what {
        let went = match &result {
            Ok(Done::Done) => HostStop::Stopped,
            Ok(_) => HostStop::UnderWay,
            Err(_) => HostStop::Failed,
        };
        memory.stops_host(&server, epoch, handle.now_ms(), went);
    }
    match result {
        Ok(Done::Done) => {
            tracing::info!(server, ?what, "done");
            if let What::StopHost { .. } = what {
                note(handle, &server, "its host is stopped", Reason::HostStopped).await;
            }
            if let What::Start { .. } = what {
                note(handle, &server, "its agent has started it", Reason::StartedAgain).await;
            }
            if let What::Checkpoint { epoch } = what {
                memory.note_checkpoint(epoch);
            }
            if let What::TellBackends { epoch } = what {
                memory.note_backends_told(epoch, decided_at_ms, handle.now_ms());
            }
        }
        Ok(Done::UnderWay) => {}
        Ok(Done::MissingWal) => memory.misses_wal(&server),
        Ok(Done::Stopped { last }) => {
            tracing::info!(server, ?what, %last, "done");
            if let What::Stop { epoch } = what {
                memory.stopped(epoch, last);
            }
        }
        Err(error) => {
            tracing::warn!(server, ?what, error, "could not be done; it is tried again");
            match what {
                What::Restart { .. } => memory.restart_failed(&server, &error),
                What::Checkpoint { epoch } => memory.planned_failed(epoch, Planned::Checkpoint),
                What::Stop { epoch } => memory.planned_failed(epoch, Planned::Stop),
                _ => {}
            }
            if is_news {
                let text = format!("{}: {error}", what.in_words());
                let reason = match what {
                    What::Rejoin { .. } => Reason::RejoinFailed,
                    _ => Reason::ActionFailed,
                };
                note(handle, &server, &text, reason).await;
            }
        }
    }
    look.all();
}

async fn note(handle: &ClusterHandle, server: &str, text: &str, reason: Reason) {
    let change = Change::NoteIncident { subject: server.to_owned(), text: text.to_owned() };
    if let Err(error) = handle.propose(change, "decision", reason.code()).await {
        tracing::debug!(%error, "the incident could not be noted");
    }
}

/// What this node knows that is not in the log.
struct Seen<'a> {
    view: &'a View,
    listed: Option<&'a Listed>,
    memory: &'a Memory,
    /// The policy is the agreed one.
    is_agreed: bool,
}

fn next(
    handle: &ClusterHandle,
    state: &ClusterState,
    leading: &Leading,
    wanted: &Wanted,
    Seen { view, listed, memory, is_agreed }: Seen<'_>,
) -> (Plan, Vec<Rejected>) {
    let now_ms = handle.now_ms();
    let mut wishes = handle.wishes();
    wishes.retain(|endpoint, wish| {
        let done = state
            .endpoints()
            .get(endpoint)
            .is_none_or(|now| now.owner.as_ref().is_some_and(|owner| wish.to.contains(owner)));
        let keep = !done && now_ms < wish.since_ms + WISH_FOR_MS;
        if !keep {
            handle.forget_wish(endpoint);
        }
        keep
    });
    // A node that could not take the cluster's configuration, or has not yet, decides nothing by another one.
    let goes_by_all = wanted.version == state.configuration().version();
    let present = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>();
    let (endpoints, servers, addresses) = match goes_by_all {
        true => (wanted.endpoints.clone(), wanted.servers.clone(), wanted.addresses.clone()),
        false => {
            let endpoints = present(state.endpoints().keys().collect());
            (endpoints, present(state.servers().keys().collect()), BTreeMap::new())
        }
    };
    let failover = &wanted.policy.failover;
    // Where they are found, the servers of the configuration are where the search begins.
    let servers = match failover.finds_servers() {
        true => {
            let known: Vec<String> = state.servers().keys().cloned().collect();
            let (configured, primary) = (&wanted.policy.servers, state.primary().server.as_deref());
            let described = listed.map(|listed| &*listed.instances);
            let is_fresh = listed.is_some_and(|listed| listed.is_fresh(failover.cluster_refresh_ms, now_ms));
            which(failover.mode, &Said { view, known: &known, configured, described, is_fresh, primary })
        }
        false => servers,
    };
    let wishes = wishes.into_iter().map(|(endpoint, wish)| (endpoint, (wish.to, wish.cause))).collect();
    let situation = Situation {
        state,
        now_ms,
        me: handle.node(),
        leading_since_ms: leading.since_ms,
        asked: &leading.asked,
        unable: &leading.unable,
        lease: &wanted.lease,
        endpoints: &endpoints,
        servers: &servers,
        addresses: &addresses,
        wishes: &wishes,
        passed: &|fence| handle.fence_passed(fence),
        policy: &wanted.policy,
        is_agreed,
        view,
        memory,
    };
    check(&situation, leading.contact_ms, decide(&situation))
}

/// By this leader or not at all: what it decided is not to be done by one that knows better.
/// False: it was refused, or nobody knows.
async fn propose(handle: &ClusterHandle, leading: &Leading, step: Step) -> bool {
    let Step { change, reason, cause } = step;
    tracing::info!(change = change.summary(), reason = reason.code(), cause, "decided");
    match handle.propose_as_leader(leading.term, change, &cause, reason.code()).await {
        Ok(_) => return true,
        // Somebody was faster, or the picture was old: the next look sees what is.
        Err(ProposeError::Refused(refusal)) => tracing::debug!(%refusal, "a decision came too late"),
        Err(error) => tracing::warn!(%error, "a decision could not be brought into the log"),
    }
    false
}

async fn create(handle: &ClusterHandle, leading: &Leading, wanted: &Wanted) {
    let Some(cluster_id) = handle.cluster_id() else { return };
    let members = handle.raft_voters();
    let configuration = wanted.configuration.clone();
    let change = Change::CreateCluster { cluster_id, members, configuration };
    let step = Step { change, reason: Reason::ClusterCreated, cause: "decision".to_owned() };
    propose(handle, leading, step).await;
}
