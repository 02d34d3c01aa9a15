//! The servers that are not the primary: whom they follow, and whether they are used.
//!
//! Pure. A standby follows the primary, or another standby that does. Who was a primary, or says that it is one without
//! having been made one, stays out until it streams from the primary. So does a standby that cannot come to the primary's
//! timeline by itself: that it is to rejoin is in the log before its agent is told. Invariants: nothing is attached again
//! that does not stream on the primary's own timeline, or that the log counts on for commits which it may lack by now, and
//! nothing is rewound or rebuilt that is attached.

use super::action::{Action, What};
use super::{Plan, Situation, Step, log_shipping, slots, synchronous};
use crate::cluster::missing_standbys::missing_at;
use crate::cluster::model::{Facts, Slot};
use crate::cluster::operate::slots::slot_name;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change, Server};
use crate::config;

/// A standby that was told whom to follow and does not stream by then cannot: it needs its agent. Nor does one come by itself
/// for which commits have waited for so long.
const ASTRAY_MS: u64 = 15_000;

/// What `initdb` takes, in bytes.
const SMALLEST_SEGMENT: u64 = 1 << 20;

pub(super) fn decide(situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let state = situation.state;
    let Some(primary) = situation.settled_primary() else { return plan };
    let Some(target) = situation.policy.server(primary) else { return plan };
    for (id, server) in state.servers().iter().filter(|(id, _)| *id != primary) {
        plan.extend(one(situation, target, id, server));
    }
    plan.extend(slots::decide(situation, target));
    plan
}

fn one(situation: &Situation<'_>, primary: &config::Server, id: &str, server: &Server) -> Plan {
    // One of another system was configured by mistake: nothing is done to it.
    let is_ours = |facts: &&Facts| situation.view.identity.get() == Some(facts.system_identifier);
    let facts = situation.answering(id).filter(is_ours);
    let streams = facts.is_some_and(|facts| streams(situation, primary, facts));
    // A history of its own may have the same number.
    let shipped =
        log_shipping::is_shipped(situation, id) && server.order_reason == Reason::FormerPrimary.code();
    match server.administrative {
        Administrative::Quarantined
            if (streams || shipped && facts.is_some_and(|facts| reads_archive(situation, facts)))
                && facts.is_some_and(|facts| server.has_been_started(facts.started_at_ms))
                // What counts on it would be stopped with it.
                && !facts.is_some_and(|facts| situation.memory.is_about_to_rejoin(id, facts)) =>
        {
            match facts.is_some_and(|facts| has_what_it_acknowledged(situation, id, facts)) {
                true => order(id, server, Administrative::Attached, Reason::Rejoined),
                // It is on its way, and nothing is to be done to it meanwhile.
                false => Plan::default(),
            }
        }
        // Its own history is a part of the primary's, or a branch that can be told from it, only if it was made a primary
        // by the log.
        Administrative::Quarantined if has_agent(situation, id) => match is_awaited(situation, primary) {
            true => Plan::default(),
            false => rejoin(situation, primary, id, server, server.may_keep_data()),
        },
        // One that was named and never promoted is a standby that only has to be told. Whatever else it has, it streams
        // by that only if the primary leads on from it.
        Administrative::Quarantined if server.may_keep_data() => {
            repoint(situation, primary, id, facts, streams)
        }
        Administrative::Quarantined => Plan::default(),
        // While nobody hears the primary, it may be its heir, made one by somebody else.
        Administrative::Attached if situation.is_heard(id) && situation.is_heard(&primary.id) => {
            order(id, server, Administrative::Quarantined, Reason::FalsePrimary)
        }
        Administrative::Attached
            if facts.is_some_and(|facts| may_hold_a_cut_record(situation, facts))
                && (has_agent(situation, id) || situation.promises()) =>
        {
            let is_cut = facts.is_some_and(|facts| situation.memory.replays_nothing(id, facts));
            match is_cut && has_agent(situation, id) {
                true => order(id, server, Administrative::Quarantined, Reason::Astray),
                // It may be about to replay the rest.
                false => Plan::default(),
            }
        }
        Administrative::Attached
            if !log_shipping::is_shipped(situation, id)
                && situation.memory.astray_for_ms(id, situation.now_ms) >= ASTRAY_MS
                && has_agent(situation, id) =>
        {
            // Whoever leads when a rewind was cut short must know of it without having heard from the server. One that
            // is on the timeline is not rewound, and stays one that may be promoted, unless nothing but a rebuild is left.
            match is_on_timeline(situation, id) {
                true if situation.memory.is_missing_wal(id) => {
                    order(id, server, Administrative::Quarantined, Reason::MissingWal)
                }
                true => rejoin(situation, primary, id, server, true),
                false => order(id, server, Administrative::Quarantined, Reason::Astray),
            }
        }
        _ => {
            let lags =
                |facts: &&Facts| log_shipping::is_shipped(situation, id) && lags_behind(situation, facts);
            match repoint(situation, primary, id, facts, streams) {
                plan if plan == Plan::default() && facts.filter(lags).is_some() => {
                    Plan::action(Action::new(id, What::RestartPoint))
                }
                plan => plan,
            }
        }
    }
}

/// One that has all of a segment and not replayed it, of a timeline that has ended: its last record may go on in a segment that
/// nobody has. PostgreSQL asks the next primary for that segment first, and says that it has flushed up to there what it
/// lacks, by which commits are acknowledged; so it is not told to follow before its agent has erased that record.
fn may_hold_a_cut_record(situation: &Situation<'_>, facts: &Facts) -> bool {
    let ends_with_a_segment = facts.received_lsn.filter(|lsn| lsn.0 % SMALLEST_SEGMENT == 0);
    facts.in_recovery
        && facts.receiver.is_none()
        && facts.timeline < situation.state.primary().timeline
        && ends_with_a_segment.is_some_and(|received| facts.lsn < received)
}

/// By SQL, if it follows nobody who leads to the primary, or another standby while commits wait for it, or streams under
/// another name than it is to be waited for by, or by no slot.
fn repoint(
    situation: &Situation<'_>,
    primary: &config::Server,
    id: &str,
    facts: Option<&Facts>,
    streams: bool,
) -> Plan {
    let is_to_follow = |facts: &&Facts| {
        facts.in_recovery
            && (strays(situation, primary, facts)
                || commits_wait_for(situation, primary, id)
                || streams && needs_its_name(situation, primary, id, facts)
                || streams && needs_its_slot(situation, primary, id, facts))
    };
    match facts.filter(is_to_follow) {
        Some(_) => Plan::action(Action::new(id, What::Follow { primary: primary.id.clone() })),
        None => Plan::default(),
    }
}

/// Copied from a standby, it may lack what it had before, and what the log may know nobody else to have.
fn has_what_it_acknowledged(situation: &Situation<'_>, id: &str, facts: &Facts) -> bool {
    let counts = situation.promises() && situation.state.synchronous().names.contains(id);
    let must_have = situation.memory.must_have(id, facts);
    !counts || must_have.is_some_and(|must_have| facts.received_lsn >= Some(must_have))
}

/// Its name makes a difference only where commits are to wait for standbys, and for one that the primary could wait for.
fn needs_its_name(situation: &Situation<'_>, primary: &config::Server, id: &str, facts: &Facts) -> bool {
    let waits = situation.policy.failover.sync_mode != config::SyncMode::Off && situation.is_agreed;
    let may = !log_shipping::is_shipped(situation, id) && !follows_another(situation, primary, facts);
    waits && may && is_misnamed(id, facts)
}

/// The primary keeps a slot for it that it does not use: made by plain `pg_basebackup -R`, it streams by none. One that was
/// given another slot, or goes by an address of its own, is left alone.
fn needs_its_slot(situation: &Situation<'_>, primary: &config::Server, id: &str, facts: &Facts) -> bool {
    let slots = situation.answering(&primary.id).map_or(&[][..], |facts| &facts.slots);
    let is_free = |slot: &Slot| slot.name == slot_name(id) && !slot.active && slot.restart_lsn.is_some();
    facts.slot_name.is_none() && follows(primary, facts) && slots.iter().any(is_free)
}

fn order(id: &str, server: &Server, state: Administrative, reason: Reason) -> Plan {
    let (server, version) = (id.to_owned(), server.version);
    Plan::step(Step::new(Change::SetAdministrative { server, version, state, within_ms: None }, reason))
}

fn has_agent(situation: &Situation<'_>, id: &str) -> bool {
    situation.policy.server(id).is_some_and(|server| server.agent.is_some())
}

/// Whether a standby is just about to follow a new primary, and commits may wait for it: what else there is to do, and takes
/// the same disks and processors, comes after that.
pub(super) fn is_awaited(situation: &Situation<'_>, primary: &config::Server) -> bool {
    let is_used = |server: &Server| server.administrative == Administrative::Attached;
    let standbys = situation.state.servers().iter().filter(|(id, server)| {
        **id != primary.id && is_used(server) && !log_shipping::is_shipped(situation, id)
    });
    situation.memory.has_just_a_primary(situation.now_ms)
        && standbys
            .filter_map(|(id, _)| situation.answering(id))
            .any(|facts| facts.in_recovery && !receives_the_timeline(situation, facts))
}

/// By what was last heard of it.
fn is_on_timeline(situation: &Situation<'_>, id: &str) -> bool {
    let facts = situation.view.find(id).and_then(|(_, detail)| detail.facts.as_ref());
    facts.is_some_and(|facts| facts.timeline == situation.state.primary().timeline)
}

/// A standby by log shipping that has come to the primary's timeline.
fn reads_archive(situation: &Situation<'_>, facts: &Facts) -> bool {
    facts.in_recovery
        && facts.upstream.is_none()
        && situation.view.identity.get() == Some(facts.system_identifier)
        && facts.timeline == situation.state.primary().timeline
}

/// Without a receiver nothing but its control file says which timeline it replays.
fn lags_behind(situation: &Situation<'_>, facts: &Facts) -> bool {
    facts.in_recovery && facts.receiver.is_none() && facts.timeline < situation.state.primary().timeline
}

fn rejoin(
    situation: &Situation<'_>,
    primary: &config::Server,
    id: &str,
    server: &Server,
    allow_rewind: bool,
) -> Plan {
    let named = situation.state.primary();
    let what = What::Rejoin {
        epoch: named.epoch,
        primary: primary.id.clone(),
        timeline: named.timeline,
        allow_rewind,
        rebuild_from: copied_from(situation, primary, id),
        order: server.version,
        may_rebuild: server.administrative == Administrative::Quarantined,
    };
    Plan::action(Action::new(id, what))
}

/// A standby that is used and streams, so that the primary need not send all of it.
fn copied_from(situation: &Situation<'_>, primary: &config::Server, id: &str) -> Option<String> {
    let others = situation.state.servers().iter().filter(|(other, server)| {
        *other != id && **other != primary.id && server.administrative == Administrative::Attached
    });
    let streams =
        |other: &str| situation.answering(other).is_some_and(|facts| streams(situation, primary, facts));
    others.map(|(other, _)| other).find(|other| streams(other)).cloned()
}

/// Whether it is a standby of the settled primary, and receives from it.
pub(super) fn follows_the_primary(situation: &Situation<'_>, facts: &Facts) -> bool {
    let primary = situation.settled_primary().and_then(|primary| situation.policy.server(primary));
    primary.is_some_and(|primary| streams(situation, primary, facts))
}

/// Whether it receives the primary's own timeline from the primary.
pub(super) fn streams(situation: &Situation<'_>, primary: &config::Server, facts: &Facts) -> bool {
    receives_the_timeline(situation, facts)
        && (follows(primary, facts) || is_seen_there(situation, primary, facts))
}

/// Whether it receives the primary's own timeline, be it from another standby.
pub(super) fn receives_the_timeline(situation: &Situation<'_>, facts: &Facts) -> bool {
    let timeline = facts.receiver.as_ref().and_then(|receiver| receiver.timeline);
    facts.in_recovery
        && situation.view.identity.get() == Some(facts.system_identifier)
        && timeline == Some(situation.state.primary().timeline)
}

/// Whether the primary itself says that a server streams from it, under its id. By no other name a standby is waited for.
pub(super) fn is_known_there(situation: &Situation<'_>, primary: &str, id: &str) -> bool {
    situation.answering(primary).is_some_and(|facts| facts.sends_to(id))
}

/// Whether it streams under another name than its id, and was told no better. `synchronous_standby_names` holds ids: who is
/// named there and known by another name is waited for in vain.
pub(super) fn is_misnamed(id: &str, facts: &Facts) -> bool {
    let told = facts.upstream.as_ref().and_then(|upstream| upstream.application_name.as_deref());
    facts.receiver.as_ref().is_some_and(|receiver| receiver.name != id) && told != Some(id)
}

/// By another name of the primary's: then the primary says that it streams.
fn is_seen_there(situation: &Situation<'_>, primary: &config::Server, facts: &Facts) -> bool {
    let Some(receiver) = &facts.receiver else { return false };
    situation.answering(&primary.id).is_some_and(|facts| facts.sends_to(&receiver.name))
}

/// Whether it was told to receive from that server.
pub(super) fn follows(server: &config::Server, facts: &Facts) -> bool {
    facts
        .upstream
        .as_ref()
        .is_some_and(|upstream| upstream.host == server.host && upstream.port == server.port)
}

/// A standby that connects anew has two walsenders until the old one times out, and each of them counts. A slot has one.
pub(super) fn counts_twice(situation: &Situation<'_>, facts: &Facts) -> bool {
    let failover = &situation.policy.failover;
    failover.sync_mode != config::SyncMode::Off && failover.sync_count >= 2 && facts.slot_name.is_none()
}

/// Whether commits have waited for long for more standbys than stream from the primary, and it is one of so many that could
/// be among them, were they not behind others. A failover may have left it behind a former primary.
fn commits_wait_for(situation: &Situation<'_>, primary: &config::Server, id: &str) -> bool {
    let waited_ms = situation.memory.commits_wait_for_ms(situation.now_ms);
    if !situation.requires() || !situation.is_agreed || waited_ms < ASTRAY_MS {
        return false;
    }
    let missing = missing_at(situation.view, &primary.id).unwrap_or(0);
    let could_stream = |(id, server): &(&String, &Server)| {
        synchronous::may_be_waited_for(situation, id, server)
            && !log_shipping::is_shipped(situation, id)
            && situation.answering(id).is_some_and(|facts| {
                follows_another(situation, primary, facts) && receives_the_timeline(situation, facts)
            })
    };
    let mut behind = situation.state.servers().iter().filter(could_stream).take(missing as usize);
    behind.any(|(behind, _)| behind == id)
}

/// Whether it was told to receive from another standby.
fn follows_another(situation: &Situation<'_>, primary: &config::Server, facts: &Facts) -> bool {
    situation.policy.servers.iter().any(|other| other.id != primary.id && follows(other, facts))
}

/// Whether it was told to follow somebody who is neither the primary nor a standby of it.
fn strays(situation: &Situation<'_>, primary: &config::Server, facts: &Facts) -> bool {
    // One that reads an archive only is told nothing.
    let Some(upstream) = &facts.upstream else { return false };
    if follows(primary, facts) {
        return counts_twice(situation, facts);
    }
    if upstream.is_nowhere() {
        return true;
    }
    // By names of its own it may well follow the primary: what streams there is left alone.
    let streams_there = facts.receiver.as_ref().and_then(|receiver| receiver.timeline)
        == Some(situation.state.primary().timeline);
    let known = situation.policy.servers.iter().find(|server| follows(server, facts));
    match known {
        None => !streams_there,
        Some(other) => {
            let server = situation.state.servers().get(&other.id);
            let is_used = server.is_some_and(|server| server.administrative == Administrative::Attached);
            !is_used || situation.answering(&other.id).is_some_and(|facts| !facts.in_recovery)
        }
    }
}
