//! Who is the primary, and what each server is good for: facts in, a view out.
//!
//! Pure: the same facts always give the same view. Invariant: a view names at most one primary, one
//! that says so itself, and its epoch never falls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::topology::{Epoch, Health, Lsn, Role, ServerIndex, ServerState, Snapshot};

use super::model::{Detail, Facts, Identity, Named, Observation, View};
use super::reason::Reason;

/// What the view that follows `previous` is. `observations` are those of `previous.snapshot.servers`,
/// in their order; `named` is whom the log has made the primary, of a node in a cluster.
pub fn next(previous: &View, observations: &[Observation], named: Option<&Named>, now_ms: u64) -> View {
    let identity = identify(previous, observations);
    // What was learnt of another cluster says nothing about this one.
    let same_cluster = identity.get() == previous.identity.get();
    let memory = if same_cluster { previous } else { &View::default() };
    let choice = choose(previous, observations, (identity, memory.timeline), named);
    let chosen = choice.ok().and_then(|index| Some((index, observations[index].facts.as_deref()?)));

    let mut view = View {
        snapshot: Snapshot { epoch: previous.snapshot.epoch, primary: None, servers: Vec::new() },
        identity,
        timeline: memory.timeline,
        primary_started_at_ms: memory.primary_started_at_ms,
        primary_lsn: memory.primary_lsn,
        primary_asked_at_ms: memory.primary_asked_at_ms,
        exchanged: exchanged(previous, observations, choice.ok()),
        no_primary: choice.err(),
        paused_primary: None,
        changed_at_ms: previous.changed_at_ms,
        details: Vec::with_capacity(observations.len()),
    };
    if let Some((index, facts)) = chosen {
        view.snapshot.primary = Some(at(previous, index));
        view.snapshot.epoch = epoch(previous, index, facts);
        view.timeline = facts.timeline;
        view.primary_started_at_ms = facts.started_at_ms;
        view.primary_lsn = facts.lsn;
        view.primary_asked_at_ms = facts.asked_at_ms;
    }
    for (index, observation) in observations.iter().enumerate() {
        let before = (&previous.snapshot.servers[index], &previous.details[index]);
        let health = health(observation);
        let lapses = before.1.lapses.look(before.0.health, health, now_ms);
        let judged = judge(&view, at(previous, index), observation, (health, lapses.is_steady(now_ms)));
        let senders = chosen.map_or(&[][..], |(_, facts)| &facts.senders);
        let (state, detail) = describe(before, observation, judged, senders, &view, now_ms);
        view.snapshot.servers.push(state);
        view.details.push(Detail { lapses, ..detail });
    }
    let settled = view.snapshot.primary == previous.snapshot.primary
        && view.snapshot.epoch == previous.snapshot.epoch
        && view.no_primary == previous.no_primary
        && view.details.iter().zip(&previous.details).all(|(new, old)| new.since_ms == old.since_ms);
    if !settled {
        view.changed_at_ms = now_ms;
    }
    view
}

/// Which server the observation of that position is of.
fn at(previous: &View, position: usize) -> ServerIndex {
    previous.snapshot.servers[position].index
}

/// Whether it is worth looking more often than usual.
pub fn unsettled(view: &View, now_ms: u64) -> bool {
    view.snapshot.primary.is_none()
        || view.exchanged.is_some()
        || now_ms.saturating_sub(view.changed_at_ms) < UNSETTLED_MS
}

/// After a change the rest of the cluster is about to follow; after this long it has, or will not soon.
const UNSETTLED_MS: u64 = 10_000;

/// What a server said, if it still counts: a server that is down has said nothing.
fn current_facts(observation: &Observation) -> Option<&Facts> {
    observation.facts.as_deref().filter(|_| !observation.is_down())
}

/// The cluster's system identifier is that of most servers. It is pinned once a majority had it, so
/// that neither the first to answer nor the last to live can make the others strangers.
fn identify(previous: &View, observations: &[Observation]) -> Identity {
    if let Some(green) = green(previous, observations) {
        return Identity::Pinned(green);
    }
    if matches!(previous.identity, Identity::Pinned(_)) {
        return previous.identity;
    }
    let mut counts = BTreeMap::<u64, usize>::new();
    for facts in observations.iter().filter_map(current_facts) {
        *counts.entry(facts.system_identifier).or_default() += 1;
    }
    let most = counts.values().copied().max().unwrap_or(0);
    let mut leading = counts.iter().filter(|&(_, &count)| count == most).map(|(&identifier, _)| identifier);
    match (leading.next(), leading.next()) {
        (Some(identifier), None) if most > observations.len() / 2 => Identity::Pinned(identifier),
        (Some(identifier), None) => Identity::Provisional(identifier),
        (None, _) => previous.identity,
        // A tie takes nothing away from a primary that was chosen before it.
        (Some(_), Some(_)) if previous.snapshot.epoch > Epoch::default() => previous.identity,
        (Some(_), Some(_)) => Identity::Unknown,
    }
}

/// Of a writer that has taken the last one's name, as that one had said beforehand. Its data may be in another cluster of
/// PostgreSQL's, as after an upgrade to another major version.
fn green(previous: &View, observations: &[Observation]) -> Option<u64> {
    let position = previous.snapshot.position(previous.exchanged?)?;
    let facts = current_facts(&observations[position]).filter(|facts| facts.says_primary())?;
    let is_new = previous.identity.get().is_some_and(|before| before != facts.system_identifier);
    is_new.then_some(facts.system_identifier)
}

/// Until the switchover is over, or called off.
fn exchanged(previous: &View, observations: &[Observation], primary: Option<usize>) -> Option<ServerIndex> {
    let Some(primary) = primary else {
        let gives_away = previous.snapshot.primary.filter(|&index| {
            let position = previous.snapshot.position(index);
            let facts = position.and_then(|position| observations[position].facts.as_deref());
            facts.is_some_and(|facts| facts.given_away || facts.blue_green.is_under_way())
        });
        return gives_away.or(previous.exchanged);
    };
    let facts = observations[primary].facts.as_deref()?;
    facts.blue_green.is_under_way().then(|| at(previous, primary))
}

fn choose(
    previous: &View,
    observations: &[Observation],
    (identity, last_timeline): (Identity, u32),
    named: Option<&Named>,
) -> Result<usize, Reason> {
    if observations.is_empty() {
        return Err(Reason::InstancesUnknown);
    }
    let members = || {
        observations.iter().enumerate().filter_map(|(index, observation)| {
            let facts = current_facts(observation)?;
            (Some(facts.system_identifier) == identity.get()).then_some((index, facts))
        })
    };
    let current = previous.snapshot.primary.and_then(|index| previous.snapshot.position(index));
    let highest = members().filter(|(_, f)| f.says_primary()).map(|(_, f)| f.timeline).max();
    let claimants: Vec<usize> = members()
        .filter(|(_, facts)| facts.says_primary() && Some(facts.timeline) == highest)
        .map(|(index, _)| index)
        .collect();
    let claimants = once_each(observations, claimants, current);
    // Where no timeline tells the later one from the earlier, nobody is right until one of them says otherwise.
    if claimants.len() > 1 && members().any(|(_, facts)| facts.aurora.is_some()) {
        return Err(Reason::TwoPrimaries);
    }
    // What the log has made the primary is no less one because another server claims to be one, were it on a later
    // timeline: that one nobody made.
    if let Some(named) = named {
        let is_named = |index: usize| *previous.snapshot.servers[index].id == *named.server;
        let found = members().find(|(index, facts)| is_named(*index) && facts.says_primary());
        match found {
            // Its name may lead elsewhere by now, and connections of the epoch to where it led before.
            Some((_, facts)) if named.life.is_some_and(|life| life != facts.started_at_ms) => {
                return Err(Reason::WriterReplaced);
            }
            Some((index, facts)) if facts.timeline == named.timeline => return Ok(index),
            _ => {}
        }
    }
    // Lower than it was: at the primary's address somebody else answers now.
    let current_stays = highest >= Some(last_timeline);
    if let Some(current) = current.filter(|index| current_stays && claimants.contains(index)) {
        return Ok(current);
    }
    // The first choice would otherwise fall on whoever answers first, an old primary for instance.
    if previous.snapshot.epoch == Epoch::default() && !observations.iter().all(Observation::looked_at) {
        return Err(Reason::StillLooking);
    }
    match claimants[..] {
        [index] => {
            // A standby that follows a later timeline proves a later primary as well as our memory does.
            let seen = members().map(|(_, facts)| facts.timeline).fold(last_timeline, u32::max);
            if highest >= Some(seen) { Ok(index) } else { Err(Reason::OldPrimary) }
        }
        [] => Err(match current {
            Some(index) if observations[index].is_down() => Reason::PrimaryDown,
            Some(index) if observations[index].facts.as_ref().is_some_and(|f| f.given_away) => {
                Reason::SwitchingOver
            }
            Some(index) if observations[index].facts.as_ref().is_some_and(|f| f.read_only) => {
                Reason::PrimaryReadOnly
            }
            Some(index) if observations[index].facts.as_ref().is_some_and(|f| f.in_recovery) => {
                Reason::PrimaryDemoted
            }
            _ if identity.get().is_none() && observations.iter().any(|o| current_facts(o).is_some()) => {
                Reason::SystemIdentifiersDiffer
            }
            // The reason it was lost for stays until there is another one.
            None if previous.no_primary.is_some_and(is_a_loss) => {
                previous.no_primary.unwrap_or(Reason::NoPrimary)
            }
            _ => Reason::NoPrimary,
        }),
        _ => Err(Reason::TwoPrimaries),
    }
}

/// An instance of Aurora that is here by two names is one: the primary so far, or the one that comes first.
fn once_each(observations: &[Observation], mut claimants: Vec<usize>, current: Option<usize>) -> Vec<usize> {
    let life = |index: usize| {
        let facts = observations[index].facts.as_ref()?;
        Some((facts.aurora.as_ref()?.me.clone(), facts.started_at_ms))
    };
    let kept = current.filter(|current| claimants.contains(current));
    let mut seen: BTreeSet<_> = kept.and_then(life).into_iter().collect();
    claimants.retain(|&index| Some(index) == kept || life(index).is_none_or(|life| seen.insert(life)));
    claimants
}

fn is_a_loss(reason: Reason) -> bool {
    use Reason::{PrimaryDemoted, PrimaryDown, PrimaryReadOnly, SwitchingOver};
    matches!(reason, PrimaryDown | PrimaryDemoted | PrimaryReadOnly | SwitchingOver)
}

/// Raised whenever what the last epoch promised may not hold: another server, another timeline, a server that was
/// started since, which may be another one at the same name, or a log that became shorter because the server crashed
/// before it had written all of it.
fn epoch(previous: &View, index: usize, facts: &Facts) -> Epoch {
    let epoch = previous.snapshot.epoch;
    let same = previous.snapshot.primary == Some(at(previous, index))
        && previous.timeline == facts.timeline
        && previous.primary_started_at_ms == facts.started_at_ms
        && previous.primary_lsn <= facts.lsn;
    if same { epoch } else { Epoch(epoch.0 + 1) }
}

struct Judgement {
    health: Health,
    role: Role,
    reason: Option<Reason>,
}

fn health(observation: &Observation) -> Health {
    match &observation.facts {
        _ if observation.is_down() => Health::Down,
        Some(_) => Health::Up,
        None => Health::Unknown,
    }
}

/// `is_steady`: it may be trusted as soon as it answers.
fn judge(
    view: &View,
    index: ServerIndex,
    observation: &Observation,
    (health, is_steady): (Health, bool),
) -> Judgement {
    let Some(facts) = observation.facts.as_deref().filter(|_| health == Health::Up) else {
        let reason = observation.failure.as_ref().map_or(Reason::NotLookedAt, |failure| failure.reason);
        return Judgement { health, role: Role::Unknown, reason: Some(reason) };
    };
    let is_primary = view.snapshot.primary == Some(index);
    let reason = match view.identity.get() {
        None if view.no_primary == Some(Reason::StillLooking) => Some(Reason::StillLooking),
        None => Some(Reason::SystemIdentifiersDiffer),
        Some(identifier) if identifier != facts.system_identifier => Some(Reason::WrongSystemIdentifier),
        Some(_) if is_primary => None,
        Some(_) if facts.given_away && !facts.in_recovery => Some(Reason::SwitchingOver),
        Some(_) if facts.read_only => Some(Reason::PrimaryReadOnly),
        Some(_) if !facts.in_recovery => Some(match (view.snapshot.primary, view.no_primary) {
            (None, Some(reason)) => reason,
            _ if facts.timeline < view.timeline => Reason::OldPrimary,
            _ => Reason::SecondPrimary,
        }),
        // Two forks can have passed the same log position: on another timeline it proves nothing.
        Some(_) if view.timeline != 0 && facts.timeline != view.timeline => Some(Reason::OtherTimeline),
        // It may hang. Others can be read from, so nobody waits until that is certain.
        Some(_) if observation.is_suspect() => observation.failure.as_ref().map(|failure| failure.reason),
        Some(_) if !is_steady => Some(Reason::Unsteady),
        Some(_) => None,
    };
    let role = match reason {
        Some(_) => Role::Unknown,
        None if is_primary => Role::Primary,
        None => Role::Standby,
    };
    Judgement { health: Health::Up, role, reason }
}

fn describe(
    (before, before_detail): (&ServerState, &Detail),
    observation: &Observation,
    Judgement { health, role, reason }: Judgement,
    senders: &[super::model::Sender],
    view: &View,
    now_ms: u64,
) -> (ServerState, Detail) {
    let mut state = ServerState { health, role, ..before.clone() };
    if let Some(facts) = &observation.facts {
        state.timeline = facts.timeline;
        state.lsn = facts.lsn;
        state.observed_at_ms = facts.asked_at_ms;
        let follows = role == Role::Standby && view.timeline != 0 && facts.aurora.is_none();
        // Without a primary the last one's position still is what a standby lacks at least.
        state.lag_bytes = follows.then(|| lag(facts, view.primary_lsn));
        state.lag_ms = if role == Role::Standby { lag_ms(facts, view) } else { None };
    }
    let sentence = sentence(reason, observation);
    if *state.reason != *sentence {
        state.reason = Arc::from(sentence);
    }
    let unchanged = (state.role, state.health, reason) == (before.role, before.health, before_detail.reason);
    let facts = observation.facts.as_deref();
    let is_ours = role == Role::Standby || reason == Some(Reason::Unsteady);
    let receiver = facts.filter(|_| is_ours).and_then(|facts| facts.receiver.as_ref());
    let detail = Detail {
        reason,
        says: facts.filter(|_| health == Health::Up).map_or(Role::Unknown, Facts::says),
        since_ms: if unchanged { before_detail.since_ms } else { now_ms },
        system_identifier: facts.map(|facts| facts.system_identifier),
        version: facts.map(|facts| facts.version),
        replication_state: receiver.map(|receiver| receiver.status.clone()).or_else(|| {
            // It has nobody to receive from.
            let reads_archive = facts.is_some_and(|facts| {
                role == Role::Standby && facts.upstream.is_none() && facts.aurora.is_none()
            });
            reads_archive.then(|| "archive".to_owned())
        }),
        sync_state: receiver.and_then(|receiver| {
            // Names need not be unique; what is not surely this standby's is not shown.
            let mut rows = senders.iter().filter(|sender| sender.name == receiver.name);
            let row = rows.next()?;
            rows.next().is_none().then(|| row.sync_state.clone())
        }),
        facts: observation.facts.clone(),
        failures: observation.failures,
        failing_since_ms: observation.failing_since_ms,
        failure: observation.failure.as_ref().map(|failure| failure.reason),
        lapses: before_detail.lapses,
    };
    (state, detail)
}

fn lag(standby: &Facts, primary: Lsn) -> u64 {
    let ahead = standby.received_lsn.map_or(primary, |received| received.max(primary));
    ahead.0.saturating_sub(standby.lsn.0)
}

/// What has replayed all that the primary had at some time is no further behind than that time, even
/// if it has lost its primary and its last transaction is a day old.
fn lag_ms(standby: &Facts, view: &View) -> Option<u64> {
    if standby.aurora.is_some() {
        // What a position there proves of another instance's is not for us to say.
        return standby.replay_lag_ms;
    }
    let since = standby.answered_at_ms.saturating_sub(view.primary_asked_at_ms);
    let bound = (view.timeline != 0 && standby.lsn >= view.primary_lsn).then_some(since);
    match (standby.replay_lag_ms, bound) {
        (Some(lag), Some(bound)) => Some(lag.min(bound)),
        (lag, bound) => lag.or(bound),
    }
}

fn sentence(reason: Option<Reason>, observation: &Observation) -> String {
    let Some(reason) = reason else { return String::new() };
    match &observation.failure {
        Some(failure) if failure.reason == reason && !failure.detail.is_empty() => {
            format!("{}: {}", reason.sentence(), failure.detail)
        }
        _ => reason.sentence().to_owned(),
    }
}

#[cfg(test)]
mod tests;
