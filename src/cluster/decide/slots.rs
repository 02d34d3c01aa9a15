//! Replication slots: where there must be one, and how much log each may keep.
//!
//! Pure. The primary has one for each of the others. So has each standby that streams, but for the primary: it may be the
//! next one, and must then still have the log that a slower one lacks. Nobody uses those, so they are moved behind what
//! the others have. Invariant: no slot that nobody uses keeps more than `failover.max_slot_bytes`.

use super::action::{Action, What};
use super::replicas::{is_awaited, streams};
use super::{Plan, Situation, Step, log_shipping};
use crate::cluster::model::{Facts, Slot};
use crate::cluster::operate::slots::slot_name;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change};
use crate::config;
use crate::topology::Lsn;

/// Log goes by segments of 16 MB or more, so there is no use in moving a slot for less than some of them.
const MOVE_BYTES: u64 = 64 << 20;

pub(super) fn decide(situation: &Situation<'_>, primary: &config::Server) -> Plan {
    let of_primary = situation.answering(&primary.id).map(|facts| (primary.id.as_str(), facts));
    let others =
        situation.state.servers().iter().filter(|(id, server)| {
            **id != primary.id && server.administrative != Administrative::Quarantined
        });
    let of_standbys = others.filter_map(|(id, _)| {
        let facts = situation.answering(id).filter(|facts| streams(situation, primary, facts))?;
        Some((id.as_str(), facts))
    });
    let mut plan = Plan::default();
    if of_primary.is_some() {
        plan.steps.extend(forgotten(situation));
    }
    let servers = of_primary.into_iter().chain(of_standbys);
    let actions = servers.filter_map(|(id, facts)| one(situation, primary, id, facts));
    let is_awaited = is_awaited(situation, primary);
    plan.actions.extend(actions.filter(|action| !is_awaited || is_for_one_in_use(situation, action)));
    plan
}

/// Without its slot it does not come to stream.
fn is_for_one_in_use(situation: &Situation<'_>, action: &Action) -> bool {
    let What::Slots { wanted, .. } = &action.what else { return false };
    let servers = situation.state.servers().iter();
    let mut used = servers.filter(|(_, server)| server.administrative == Administrative::Attached);
    used.any(|(id, _)| wanted.contains(&slot_name(id)))
}

/// Servers that were removed and of which no slot is left: one that does not answer now may have one.
fn forgotten(situation: &Situation<'_>) -> Vec<Step> {
    let lacks = |id: &String, name: &str| {
        situation.answering(id).is_some_and(|facts| facts.slots.iter().all(|slot| slot.name != name))
    };
    let nobody_has = |name: &str| situation.state.servers().keys().all(|id| lacks(id, name));
    let former = situation.state.former_servers().iter().filter(|former| nobody_has(&slot_name(former)));
    former
        .map(|former| Step::new(Change::ForgetServer { server: former.clone() }, Reason::ServersConfigured))
        .collect()
}

fn one(situation: &Situation<'_>, primary: &config::Server, id: &str, facts: &Facts) -> Option<Action> {
    let state = situation.state;
    // What a slot keeps for a standby that never streams is kept for ever.
    let streams_by_slot = |other: &&String| {
        **other != id && **other != primary.id && !log_shipping::is_shipped(situation, other)
    };
    let others = || state.servers().keys().filter(streams_by_slot);
    let names: Vec<String> = others().map(|other| slot_name(other)).collect();
    // One that nobody here ever had to do with is left alone: somebody may be about to add a server.
    let known: Vec<String> =
        state.servers().keys().chain(state.former_servers()).map(|server| slot_name(server)).collect();
    let find = |name: &str| facts.slots.iter().find(|slot| slot.name == name);
    let is_used =
        state.servers().get(id).is_some_and(|server| server.administrative == Administrative::Attached);
    let lacking = names.iter().filter(|name| is_used && find(name).is_none());
    let wanted: Vec<String> = lacking.cloned().collect();
    let limit = situation.policy.failover.max_slot_bytes;
    let goes = |slot: &&Slot| match names.contains(&slot.name) {
        true => keeps_too_much(slot, facts.lsn, limit),
        false => known.contains(&slot.name),
    };
    let unused = facts.slots.iter().filter(|slot| !slot.active);
    let unwanted: Vec<String> = unused.filter(goes).map(|slot| slot.name.clone()).collect();
    if !wanted.is_empty() || !unwanted.is_empty() {
        return Some(Action::new(id, What::Slots { wanted, unwanted }));
    }
    if id == primary.id {
        return None;
    }
    let positions: Vec<(String, Lsn)> = others()
        .filter_map(|other| {
            let has = situation.answering(other).filter(|other| streams(situation, primary, other))?;
            let slot = find(&slot_name(other)).filter(|slot| !slot.active)?;
            // No further than what this one has replayed, which PostgreSQL sees to as well.
            let position = has.received_lsn?.min(facts.lsn);
            let gain = position.0.saturating_sub(slot.restart_lsn?.0);
            (gain >= MOVE_BYTES).then(|| (slot.name.clone(), position))
        })
        .collect();
    (!positions.is_empty()).then(|| Action::new(id, What::AdvanceSlots { positions }))
}

/// One without a position was given up by the server itself, for `max_slot_wal_keep_size`, and is of no use.
fn keeps_too_much(slot: &Slot, lsn: Lsn, limit: u64) -> bool {
    match slot.restart_lsn {
        Some(from) => limit > 0 && lsn.0.saturating_sub(from.0) > limit,
        None => true,
    }
}
