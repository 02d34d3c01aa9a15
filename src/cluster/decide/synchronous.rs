//! Who acknowledges commits, as servers come and go.
//!
//! Pure. Feeds `sync_standby`, which knows the safe order, with what is seen of the primary and of its standbys.
//! Invariants: only a settled primary's setting is changed, and that of a standby which would wait for nobody; where every
//! commit must wait, so it does on the next primary, whether the log promises it yet or not; and nothing of it is changed by
//! an old configuration, which may not know that commits are to wait.

use super::action::{Action, What};
use super::sync_standby::{self, Standby, Transition};
use super::{Plan, Situation, Step, failover, log_shipping, replicas};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change, Server};
use crate::cluster::sync_set::SyncSet;

pub(super) fn decide(situation: &Situation<'_>) -> Plan {
    if !situation.is_agreed {
        return Plan::default();
    }
    let state = situation.state;
    let Some(primary) = situation.settled_primary() else { return Plan::default() };
    let Some(watch) = situation.memory.watch(state.primary().epoch) else { return Plan::default() };
    let failover = &situation.policy.failover;
    let raft = state.synchronous();
    let standbys = standbys(situation, primary);
    let target = sync_standby::target(failover.sync_mode, failover.sync_count, raft, &standbys);
    let facts = situation.answering(primary);
    let epoch = state.primary().epoch;
    let mut plan = match sync_standby::next(raft, target.as_ref(), facts, watch) {
        // Nobody knows whether commits wait at all yet: nothing was promised, or this primary may have learnt only with its
        // promotion that they do. Who is counted as well meanwhile keeps the promise; fewer may not.
        Transition::SetInRaft(set) if set.promises() && !is_known_to_wait(situation, &set) => {
            Plan::action(Action::new(primary, What::TellBackends { epoch }))
        }
        Transition::SetInRaft(set) => {
            let change = Change::SetSynchronous { before: raft.clone(), set };
            Plan::step(Step::new(change, Reason::SynchronousSet))
        }
        Transition::SetOnPrimary(names) => {
            Plan::action(Action::new(primary, What::SetSynchronous { epoch: state.primary().epoch, names }))
        }
        Transition::Wait | Transition::Nothing => Plan::default(),
    };
    if target.is_some() {
        plan.actions.extend(heirs(situation, primary));
    }
    plan
}

fn is_known_to_wait(situation: &Situation<'_>, set: &SyncSet) -> bool {
    let (raft, epoch) = (situation.state.synchronous(), situation.state.primary().epoch);
    let is_wider = raft.names.is_subset(&set.names) && set.count <= raft.count;
    match raft.promises() {
        true => is_wider || situation.memory.waits_in(epoch),
        false => situation.memory.told_backends(epoch),
    }
}

/// Standbys are told beforehand whom to wait for as the primary, so that it costs no time then. Whether commits wait at all
/// is told to a server's backends by its checkpointer besides, which may be busy: one that learns of it with its promotion
/// may acknowledge commits alone for a while.
fn heirs(situation: &Situation<'_>, primary: &str) -> Vec<Action> {
    let epoch = situation.state.primary().epoch;
    let attached = |id: &str| situation.state.servers()[id].administrative == Administrative::Attached;
    let others = situation.state.servers().keys().filter(|id| *id != primary && attached(id));
    let unprepared = others.filter_map(|id| {
        situation.answering(id).filter(|facts| facts.in_recovery)?;
        let names = failover::synchronous_for(situation, id)?;
        Some(Action::new(id, What::SetSynchronous { epoch, names }))
    });
    unprepared.collect()
}

/// Whom commits wait for: those that the log counts on. Where they must wait and the log counts on nobody yet, those that it
/// would.
pub(super) fn counted_on(situation: &Situation<'_>) -> SyncSet {
    let agreed = situation.state.synchronous();
    if agreed.promises() || !situation.requires() {
        return agreed.clone();
    }
    let failover = &situation.policy.failover;
    let primary = situation.state.primary().server.as_deref().unwrap_or_default();
    let standbys = standbys(situation, primary).into_iter().map(|standby| {
        let may = situation.policy.server(&standby.id).is_some_and(|config| !config.disallow_failover);
        Standby { is_alive: may, ..standby }
    });
    let standbys: Vec<_> = standbys.collect();
    sync_standby::target(failover.sync_mode, failover.sync_count, agreed, &standbys).unwrap_or_default()
}

fn standbys(situation: &Situation<'_>, primary: &str) -> Vec<Standby> {
    let others = situation.state.servers().iter();
    others
        .filter(|(id, _)| *id != primary && !log_shipping::is_shipped(situation, id))
        .filter(|(id, _)| {
            situation.answering(id).is_none_or(|facts| !replicas::counts_twice(situation, facts))
        })
        .map(|(id, server)| {
            // One that receives from another standby is none that the primary could wait for.
            let streams =
                situation.answering(id).is_some_and(|facts| replicas::follows_the_primary(situation, facts));
            let is_known = replicas::is_known_there(situation, primary, id);
            let is_alive = (streams && is_known || is_about_to_stream(situation, id))
                && may_be_waited_for(situation, id, server);
            Standby { id: id.clone(), is_alive }
        })
        .collect()
}

/// What only one that may not be promoted has acknowledged could not be failed over.
pub(super) fn may_be_waited_for(situation: &Situation<'_>, id: &str, server: &Server) -> bool {
    server.administrative == Administrative::Attached
        && situation.policy.server(id).is_some_and(|config| !config.disallow_failover)
}

/// One that was counted on when the primary became one, and is on its way to it: else `prefer` would stop waiting for it, and
/// wait for it again a moment later.
fn is_about_to_stream(situation: &Situation<'_>, id: &str) -> bool {
    situation.memory.has_new_primary(situation.now_ms)
        && situation.state.synchronous().names.contains(id)
        && situation.answering(id).is_some_and(|facts| facts.in_recovery)
}
