//! Making another server the primary: when, whom, and the steps in their order.
//!
//! Pure. The order is: end the epoch and wait until nobody acts on it; let the standbys receive no more, and compare
//! them; name one in the log; promote it; confirm. A leader that dies between any two is followed by one that finds the
//! state and the servers as they are, and goes on. Invariant: nobody is named before the fence has passed, and nobody is
//! promoted but the one that is named.

mod planned;

use super::action::{Action, What};
use super::candidate::{self, Standby};
use super::host;
use super::loss::{self, Loss};
use super::memory::SETTLE_FIRST_MS;
use super::{Plan, Situation, Step, log_shipping, synchronous};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change, Failover, FailoverKind, Fenced, Stage};
use crate::cluster::sync_set::SyncSet;
use crate::topology::{Epoch, Health};

/// A doubt that is over sooner is not worth an entry of the timeline.
const DOUBT_MS: u64 = 1_000;
/// The standbys' receivers have surely ended, or the standby hangs: what it said before is not counted.
const RECEIVERS_END_MS: u64 = 3_000;
/// After this an order to promote is void: the server itself looks at its deadline.
const ORDER_ENDS_MS: u64 = 1_000;
/// One that was stopped cleanly and is to go on runs again by then, or it is lost like any other.
const STARTS_MS: u64 = 10_000;

pub(super) fn decide(situation: &Situation<'_>) -> Plan {
    let primary = situation.state.primary();
    let Some(server) = &primary.server else { return Plan::default() };
    if !situation.promotes() {
        return left_over(situation);
    }
    match situation.state.failover() {
        Some(failover) => {
            let mut plan = under_way(situation, failover);
            plan.extend(host::stop(situation, failover));
            plan
        }
        // One that went on after a switchover in vain is watched before it is confirmed, too.
        None if !situation.is_fenced() => {
            let mut plan = watch(situation, server);
            plan.extend(host::follow_up(situation));
            plan
        }
        None => Plan::default(),
    }
}

/// The mode was changed while something was under way, or stood still. Who is the primary from now on is found as where
/// somebody else makes it one (`primary`), over the fence if there is one.
fn left_over(situation: &Situation<'_>) -> Plan {
    match situation.state.failover() {
        None => stand_still(situation, None),
        Some(failover) => {
            let is_untouched = situation.state.primary().stage == Stage::Confirmed && !situation.is_fenced();
            if is_untouched { abandon(failover.epoch) } else { Plan::default() }
        }
    }
}

/// Nothing is under way: is the primary still there?
fn watch(situation: &Situation<'_>, primary: &str) -> Plan {
    let loss = loss::of_primary(situation, primary);
    match loss {
        Loss::Lives => stand_still(situation, None),
        Loss::Doubt(_) if in_doubt_for_ms(situation, primary) < DOUBT_MS => Plan::default(),
        Loss::Doubt(reason) => stand_still(situation, Some(reason)),
        Loss::Lost(why) => {
            let start = start_again(situation, primary);
            // It has everything, and no standby may.
            let is_starting =
                !start.actions.is_empty() && situation.memory.phase_for_ms(situation.now_ms) < STARTS_MS;
            match obstacle(situation).or(is_starting.then_some(Reason::FailoverSettling)) {
                Some(reason) => {
                    let mut plan = stand_still(situation, Some(reason));
                    plan.extend(start);
                    plan
                }
                None => begin(situation, why),
            }
        }
    }
}

/// The one that goes on after a switchover in vain, and was stopped: for nobody who could take its place, too late, or not
/// cleanly. Nobody else knows that it is to run. One that has been confirmed is its operator's: somebody may have shut it down.
fn start_again(situation: &Situation<'_>, primary: &str) -> Plan {
    let named = situation.state.primary();
    let has_agent = situation.policy.server(primary).is_some_and(|server| server.agent.is_some());
    let has_ended = situation
        .view
        .find(primary)
        .is_some_and(|(_, detail)| detail.failures > 0 && detail.failure == Some(Reason::ConnectRefused));
    match named.stage == Stage::Named && has_agent && has_ended {
        true => Plan::action(Action::new(primary, What::Start { epoch: named.epoch })),
        false => Plan::default(),
    }
}

/// Since the leader's own looks fail.
fn in_doubt_for_ms(situation: &Situation<'_>, primary: &str) -> u64 {
    let since_ms = situation.view.find(primary).and_then(|(_, detail)| detail.failing_since_ms);
    since_ms.map_or(u64::MAX, |since_ms| situation.now_ms.saturating_sub(since_ms))
}

/// Why nobody may take the place of a lost primary without an order.
fn forbidden(situation: &Situation<'_>) -> Option<Reason> {
    let policy = &situation.policy;
    if policy.servers.iter().any(|server| server.always_primary) {
        return Some(Reason::AlwaysPrimary);
    }
    if !policy.failover.automatic {
        return Some(Reason::FailoverNotAutomatic);
    }
    if situation.state.failover_paused() {
        return Some(Reason::FailoverPaused);
    }
    None
}

/// Why a lost primary is not replaced all the same.
fn obstacle(situation: &Situation<'_>) -> Option<Reason> {
    if let Some(reason) = forbidden(situation) {
        return Some(reason);
    }
    let settled_ms = situation.memory.phase_for_ms(situation.now_ms);
    if settled_ms < SETTLE_FIRST_MS {
        return Some(Reason::FailoverSettling);
    }
    if settled_ms < situation.memory.settle_ms() {
        return Some(Reason::FailoverDamped);
    }
    match candidate::choose(situation, FailoverKind::Automatic, None) {
        Err(reason) => Some(reason),
        Ok(chosen) if log_shipping::is_shipped(situation, &chosen) => {
            let primary = situation.state.primary().server.as_deref().unwrap_or_default();
            let waited_ms = in_doubt_for_ms(situation, primary);
            (waited_ms < log_shipping::LAST_RESORT_MS).then_some(Reason::AwaitsStreaming)
        }
        Ok(_) => None,
    }
}

fn begin(situation: &Situation<'_>, why: Reason) -> Plan {
    let epoch = situation.state.primary().epoch;
    let change = Change::BeginFailover { epoch, kind: FailoverKind::Automatic, to: None };
    Plan::step(Step::new(change, why))
}

/// Says so in the log when it is another reason than before.
fn stand_still(situation: &Situation<'_>, reason: Option<Reason>) -> Plan {
    if situation.state.standstill() == reason.map(Reason::code) {
        return Plan::default();
    }
    let epoch = situation.state.primary().epoch;
    let sentence = reason.map(|reason| reason.sentence().to_owned());
    let change = Change::StandStill { epoch, sentence };
    Plan::step(Step::new(change, reason.unwrap_or(Reason::ServerObserved)))
}

fn under_way(situation: &Situation<'_>, failover: &Failover) -> Plan {
    let primary = situation.state.primary();
    let fence = situation.state.fences().iter().find(|fence| fence.fenced == Fenced::Primary);
    match (fence, primary.stage) {
        (None, Stage::Confirmed) => planned::hold(situation, failover),
        (None, Stage::Named) => promote(situation, failover),
        (Some(fence), _) if !fence.passed => match failover.kind {
            // What is still on its way to them is the old primary's last word, which is waited for.
            FailoverKind::Switchover | FailoverKind::Restart => Plan::default(),
            FailoverKind::Automatic | FailoverKind::Forced => stop_receivers(situation),
        },
        (Some(_), _) => match failover.kind {
            FailoverKind::Restart => planned::restart_primary(situation, failover),
            FailoverKind::Switchover => planned::stop_primary(situation, failover),
            FailoverKind::Automatic | FailoverKind::Forced => name(situation, failover),
        },
    }
}

fn abandon(epoch: Epoch) -> Plan {
    Plan::step(Step::new(Change::AbandonFailover { epoch }, Reason::SwitchoverAbandoned))
}

/// The one that was to be replaced goes on, in an epoch of its own.
fn go_back(situation: &Situation<'_>, failover: &Failover, reason: Reason) -> Plan {
    let (epoch, server) = (situation.state.primary().epoch, failover.from.clone());
    let change = Change::NamePrimary { epoch, server, promotes: false };
    Plan::step(Step::new(change, reason))
}

fn stop_receivers(situation: &Situation<'_>) -> Plan {
    let told_nothing =
        |standby: &Standby<'_>| standby.facts.upstream.as_ref().is_none_or(|up| up.is_nowhere());
    let receive =
        candidate::standbys(situation).filter(|standby| standby.receives() || !told_nothing(standby));
    Plan::actions(receive.map(|standby| Action::new(standby.id, What::StopReceiving)).collect())
}

fn name(situation: &Situation<'_>, failover: &Failover) -> Plan {
    let stop = stop_receivers(situation);
    let still_receive = candidate::standbys(situation).any(|standby| standby.receives());
    let waited_ms = situation.memory.phase_for_ms(situation.now_ms);
    if still_receive && waited_ms < RECEIVERS_END_MS {
        return stop;
    }
    let is_asked = |standby: Standby<'_>| candidate::is_asked_since_fenced(situation, &standby);
    if waited_ms < RECEIVERS_END_MS && !candidate::standbys(situation).all(is_asked) {
        return stop;
    }
    if let Some(reason) = host::waits(situation, failover, waited_ms) {
        if host::may_go_on(situation, failover) {
            return go_back(situation, failover, reason);
        }
        let mut plan = stand_still(situation, Some(reason));
        plan.actions.extend(stop.actions);
        return plan;
    }
    // Who was detached meanwhile is wanted no more: so whom an order names can be taken back.
    let servers = situation.state.servers();
    let is_attached =
        |id: &&str| servers.get(*id).is_some_and(|to| to.administrative == Administrative::Attached);
    let wanted = failover.to.as_deref().filter(is_attached);
    let chosen = candidate::choose(situation, failover.kind, wanted);
    let chosen = match failover.kind {
        // Better another one that has everything than none.
        FailoverKind::Automatic => chosen.or_else(|_| candidate::choose(situation, failover.kind, None)),
        _ => chosen,
    };
    match chosen {
        Ok(chosen) => name_one(situation, chosen),
        // Nobody was named, so the one that is there after all may go on.
        Err(_) if situation.is_heard(&failover.from) => go_back(situation, failover, Reason::NoCandidate),
        Err(reason) => match candidate::choose_any(situation, failover.kind, wanted) {
            Ok(itself) => name_one(situation, itself),
            Err(_) => {
                let mut plan = stand_still(situation, Some(reason));
                plan.actions.extend(stop.actions);
                plan
            }
        },
    }
}

fn name_one(situation: &Situation<'_>, server: String) -> Plan {
    let epoch = situation.state.primary().epoch;
    let shipped = log_shipping::is_shipped(situation, &server);
    let reason = if shipped { Reason::LastResort } else { Reason::LacksLeast };
    let mut plan = Plan::default();
    if shipped {
        plan.steps.push(Step::new(log_shipping::note(situation, &server), reason));
    }
    plan.steps.push(Step::new(Change::NamePrimary { epoch, server, promotes: true }, reason));
    plan
}

/// Asks the named one until it is a primary. If it is lost as well, its epoch ends as any other.
fn promote(situation: &Situation<'_>, failover: &Failover) -> Plan {
    let primary = situation.state.primary();
    let Some(server) = primary.server.as_deref() else { return Plan::default() };
    let found = situation.view.find(server);
    if let Some((_, detail)) = found
        && let Some(facts) = detail.facts.as_deref().filter(|_| detail.failures == 0)
        && !facts.in_recovery
    {
        let change = Change::ConfirmPrimary { epoch: primary.epoch, timeline: facts.timeline };
        return Plan::step(Step::new(change, Reason::Promoted));
    }
    let answers = found.is_some_and(|(state, detail)| state.health == Health::Up && detail.failures == 0);
    let timeout_ms = situation.policy.failover.promote_timeout_ms;
    let waited_ms = match answers {
        true => situation.memory.stuck_for_ms(situation.now_ms),
        false => situation.memory.phase_for_ms(situation.now_ms),
    };
    if waited_ms >= timeout_ms + ORDER_ENDS_MS {
        let kind = kind_after(failover.kind);
        let may_obey = situation.memory.promotion_ordered(primary.epoch, ORDER_ENDS_MS, situation.now_ms);
        return match candidate::choose(situation, kind, None) {
            Ok(_) if may_obey => Plan::default(),
            Ok(_) => {
                let change = Change::BeginFailover { epoch: primary.epoch, kind, to: None };
                Plan::step(Step::new(change, Reason::PromotionFailed))
            }
            // There is nobody else, so it is asked until it can.
            Err(reason) => {
                let mut plan = stand_still(situation, Some(reason));
                plan.extend(order_promotion(situation, server));
                plan
            }
        };
    }
    if waited_ms >= timeout_ms {
        return Plan::default();
    }
    order_promotion(situation, server)
}

/// By what setting it acknowledges commits must be known first, if the cluster counts on others for them.
fn order_promotion(situation: &Situation<'_>, server: &str) -> Plan {
    let epoch = situation.state.primary().epoch;
    let is_known = situation.view.find(server).is_some_and(|(_, detail)| detail.facts.is_some());
    if (situation.promises() || situation.requires()) && !is_known {
        return Plan::default();
    }
    match synchronous_for(situation, server) {
        Some(names) => Plan::action(Action::new(server, What::SetSynchronous { epoch, names })),
        None => Plan::action(Action::new(server, What::Promote { epoch })),
    }
}

/// What a server must have as `synchronous_standby_names` before it is one, lest it acknowledge alone what the
/// cluster counts on others for. None: it will do.
pub(super) fn synchronous_for(situation: &Situation<'_>, server: &str) -> Option<String> {
    let agreed = synchronous::counted_on(situation);
    let facts = situation.view.find(server).and_then(|(_, detail)| detail.facts.as_deref())?;
    let seen = SyncSet::parse(&facts.synchronous_standby_names);
    let others: Vec<_> = agreed.names.iter().filter(|name| *name != server).cloned().collect();
    // For itself it would wait in vain.
    let may_name_itself = others.len() < agreed.count as usize;
    let keeps = seen.is_some_and(|seen| {
        seen.names.is_subset(&agreed.names)
            && seen.count >= agreed.count
            && (may_name_itself || !seen.names.contains(server))
    });
    if !agreed.promises() || keeps {
        return None;
    }
    let set = match others.len() >= agreed.count as usize {
        true => SyncSet::new(others, agreed.count),
        false => agreed.clone(),
    };
    Some(set.to_string())
}

/// Whoever was ordered is lost: the next one follows by what is known, not by order.
fn kind_after(kind: FailoverKind) -> FailoverKind {
    match kind {
        FailoverKind::Restart | FailoverKind::Switchover | FailoverKind::Automatic => FailoverKind::Automatic,
        FailoverKind::Forced => FailoverKind::Forced,
    }
}

#[cfg(test)]
pub(super) mod tests;
