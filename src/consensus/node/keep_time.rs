//! What a node does by the clock: sees who leads, campaigns, asks for its lease.
//!
//! Invariant: no step waits for another node, so a hung peer delays nothing but its own answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::core::{Core, Metrics, address_of, seen, voters};
use super::wire::{Request, Response};
use crate::cluster::state::{ClusterState, LOG_FORMAT};
use crate::consensus::election::{PreVoteRequest, Refusal, is_quorum};
use crate::consensus::lease::Lease;

/// Ticks in a heartbeat: deadlines are kept to half of one.
const TICKS: u32 = 2;
/// Questions of one node under way at a time; more would only queue at a leader that hangs.
const QUESTIONS: u32 = 4;

struct Clockwork {
    core: Arc<Core>,
    /// A round of pre-votes, or a campaign, is under way.
    campaigning: Arc<AtomicBool>,
    asking: Arc<AtomicU32>,
    /// They end with this, so that no late answer gives a lease to a life that is over.
    questions: JoinSet<()>,
    leader: Option<u64>,
    next_question: Instant,
}

/// Returns when raft has stopped.
pub(super) async fn keep_time(core: Arc<Core>) {
    let mut metrics = core.raft.metrics();
    let mut applied = core.published.clone();
    let heartbeat = Duration::from_millis(core.settings.heartbeat_ms);
    let mut ticks = tokio::time::interval(heartbeat / TICKS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut clockwork = Clockwork {
        core,
        campaigning: Arc::default(),
        asking: Arc::default(),
        questions: JoinSet::new(),
        leader: None,
        next_question: Instant::now(),
    };
    loop {
        let ticked = tokio::select! {
            biased;
            changed = metrics.changed() => {
                if changed.is_err() {
                    return;
                }
                false
            }
            Ok(()) = applied.changed() => {
                clockwork.hurry_if_fenced(&applied.borrow_and_update().state);
                false
            }
            _ = ticks.tick() => true,
        };
        let now = metrics.borrow_and_update().clone();
        if now.running_state.is_err() {
            return;
        }
        clockwork.look(&now);
        if ticked {
            clockwork.campaign_if_due(&now);
        }
        clockwork.ask_if_due(&now, heartbeat);
    }
}

impl Clockwork {
    fn look(&self, metrics: &Metrics) {
        let begun = self.core.rights().look(&seen(metrics), self.core.now_ms());
        if begun {
            tracing::info!(term = metrics.current_term, "this node leads");
        }
    }

    /// A question says how far the log is applied here, and so confirms a fence: one that waits for it is not kept waiting
    /// until the next is due. Each entry counts, since the leader may have applied more before it looked at the fence.
    fn hurry_if_fenced(&mut self, state: &ClusterState) {
        if state.fences().iter().any(|fence| !fence.passed) {
            self.next_question = Instant::now();
        }
    }

    fn campaign_if_due(&self, metrics: &Metrics) {
        let me = self.core.identity.raft_id;
        let is_voter = metrics.membership_config.membership().voter_ids().any(|voter| voter == me);
        let leads = seen(metrics).leads.is_some();
        // One that could not lead by what was agreed on lets the others come first.
        let later_ms = match self.core.configuration().unusable {
            Some(_) => self.core.settings.spread_ms(),
            None => 0,
        };
        let due_at_ms = self.core.rights().election.due_at_ms().saturating_add(later_ms);
        if !is_voter || leads || self.core.now_ms() < due_at_ms {
            return;
        }
        if self.campaigning.swap(true, Ordering::AcqRel) {
            return;
        }
        let (core, metrics, campaigning) = (self.core.clone(), metrics.clone(), self.campaigning.clone());
        tokio::spawn(async move {
            campaign(&core, &metrics).await;
            campaigning.store(false, Ordering::Release);
        });
    }

    fn ask_if_due(&mut self, metrics: &Metrics, heartbeat: Duration) {
        let Some(leader) = metrics.current_leader else {
            self.leader = None;
            return;
        };
        let now = Instant::now();
        // A new leader is to know at once that this node lives.
        let is_new = self.leader.replace(leader) != Some(leader);
        if !is_new && now < self.next_question {
            return;
        }
        self.next_question = now + heartbeat;
        while self.questions.try_join_next().is_some() {}
        if is_new {
            // What an earlier leader has not answered takes no places from this one.
            self.asking = Arc::default();
        }
        let core = self.core.clone();
        let question = Lease::asked(core.now_ms(), core.applied_index());
        let me = core.identity.raft_id;
        if leader == me {
            let mut rights = core.rights();
            rights.cannot_take(me, core.unable());
            rights.knows(me, LOG_FORMAT);
            rights.goes_by(me, core.configuration().version);
            if let Some(Ok(grant)) = rights.grant(core.now_ms(), me, question) {
                rights.lease.granted(question, grant);
                core.note_lease(&rights);
            }
            return;
        }
        let Some(address) = address_of(metrics, leader) else { return };
        if self.asking.fetch_add(1, Ordering::AcqRel) >= QUESTIONS {
            self.asking.fetch_sub(1, Ordering::AcqRel);
            return;
        }
        let asking = self.asking.clone();
        let call = core.wire.call(
            &address,
            Request::Lease {
                node: me,
                question,
                unable: core.unable(),
                log_format: LOG_FORMAT,
                configuration: core.configuration().version,
            },
            Duration::from_millis(core.settings.lease_ms),
        );
        self.questions.spawn(async move {
            match call.await {
                Ok(Response::Lease(Ok(grant))) => {
                    let mut rights = core.rights();
                    rights.lease.granted(question, grant);
                    core.note_lease(&rights);
                }
                Ok(Response::Lease(Err(reason))) => tracing::debug!(reason, "no lease for now"),
                Ok(other) => tracing::debug!(?other, "no lease for now"),
                Err(error) => tracing::debug!(%error, "no lease for now"),
            }
            asking.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// Asks the others whether they would vote for this node, and campaigns if enough of them would.
async fn campaign(core: &Core, metrics: &Metrics) {
    let me = core.identity.raft_id;
    let request = || async {
        PreVoteRequest {
            candidate: me,
            term: metrics.current_term + 1,
            last_log: core.log_end().await,
            incarnation: core.identity.incarnation,
            cluster_id: core.identity.cluster_id.clone(),
        }
    };
    let voters = voters(metrics);
    let others: BTreeSet<u64> = voters.iter().flatten().copied().filter(|voter| *voter != me).collect();
    let question = request().await;
    // Longer than a round trip ever is in one region; who is slower will not help in an election either.
    let within = Duration::from_millis(core.settings.heartbeat_ms * 2);
    let mut answers: FuturesUnordered<_> = others
        .into_iter()
        .filter_map(|voter| {
            let address = address_of(metrics, voter)?;
            let call =
                core.wire.call(&address, Request::PreVote { to: voter, request: question.clone() }, within);
            Some(async move { (voter, call.await) })
        })
        .collect();
    let mut willing = BTreeSet::from([me]);
    let mut refusals: Vec<Refusal> = Vec::new();
    while !is_quorum(&voters, &willing) {
        match answers.next().await {
            Some((voter, Ok(Response::PreVote(Ok(()))))) => {
                willing.insert(voter);
            }
            Some((_, Ok(Response::PreVote(Err(refusal))))) => refusals.push(refusal),
            Some(_) => {}
            None => break,
        }
    }
    drop(answers);
    let now_ms = core.now_ms();
    if !is_quorum(&voters, &willing) {
        tracing::debug!(willing = willing.len(), ?refusals, "the others would not vote for this node");
        return core.rights().election.refused(now_ms, &refusals);
    }
    if !core.rights().campaign(now_ms) {
        return;
    }
    tracing::info!("no leader was heard; this node campaigns");
    // What comes after it in raft's queue is answered only once the campaign was taken from there.
    if core.raft.trigger().elect().await.is_ok() {
        let _ = core.raft.with_raft_state(|_| ()).await;
    }
    core.rights().election.begun();
}
