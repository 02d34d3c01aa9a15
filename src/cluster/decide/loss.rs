//! Whether the primary is lost.
//!
//! Pure. A majority of the voters must get no answer, the leader among them, and no standby may still hear from the
//! primary; or a majority must find, the leader among them, that what they write there does not reach its disk. What a refusal proves at once, silence proves only together with the standbys' own silence. Invariant: in
//! doubt it is not lost, and the reason for the doubt is named.

use super::{Situation, replicas};
use crate::cluster::model::{Detail, Facts, View};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Claim, ClusterState, Observed, Server};
use crate::topology::{Health, ServerIndex};

/// What a standby said longer ago is no evidence. Standbys are looked at at once when a primary is in doubt.
const EVIDENCE_MS: u64 = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Most nodes reach it.
    Lives,
    /// Something is wrong, and it is not certain enough, or it is waited for.
    Doubt(Reason),
    Lost(Reason),
}

pub(super) fn of_primary(situation: &Situation<'_>, id: &str) -> Loss {
    let Some(server) = situation.state.servers().get(id) else { return Loss::Lives };
    let most = |says: &dyn Fn(&Claim) -> bool| most(situation, server, says);
    let silent = |claim: &Claim| claim.suspect || claim.observed == Observed::Down;
    let is_down = most(&|claim| claim.observed == Observed::Down);
    // The standbys still hear from one that cannot write. A node that can is right, whatever others find.
    let cannot_write = most(&|claim| claim.disk.is_some());
    let by_leader = server.reports.get(situation.me).and_then(|report| report.claim.disk);
    if let Some(disk) = by_leader.filter(|_| cannot_write) {
        return Loss::Lost(disk.reason());
    }
    if most(&|claim| claim.observed == Observed::Up && !claim.suspect) {
        return Loss::Lives;
    }
    if let Some(starting_for_ms) = situation.memory.starting_up_for_ms(situation.now_ms) {
        let grace_ms = situation.policy.failover.crash_recovery_grace_ms;
        return match starting_for_ms >= grace_ms && most(&|claim| silent(claim) || claim.starting_up) {
            true => Loss::Lost(Reason::PrimaryLost),
            false => Loss::Doubt(Reason::CrashRecovery),
        };
    }
    if !is_down && !most(&silent) {
        return Loss::Lives;
    }
    let Some((state, detail)) = situation.view.find(id) else { return Loss::Lives };
    if state.health == Health::Up && detail.failures == 0 {
        return Loss::Doubt(Reason::LeaderReachesIt);
    }
    let Some(since_ms) = detail.failing_since_ms else { return Loss::Doubt(Reason::LeaderReachesIt) };
    let mut evidence = evidence(situation, id, since_ms);
    match evidence.any(|heard| heard == Heard::Lately) {
        true => Loss::Doubt(Reason::StandbysStillHear),
        false if is_down || was_heard(detail) => Loss::Lost(Reason::PrimaryLost),
        // Some looks were late, and nobody else knows anything: it goes on, or becomes down.
        false => Loss::Lives,
    }
}

fn most(situation: &Situation<'_>, server: &Server, says: &dyn Fn(&Claim) -> bool) -> bool {
    let voters = situation.voters().count();
    let claims = situation.voters().filter_map(|voter| server.reports.get(&voter.id));
    claims.filter(|report| says(&report.claim)).count() > voters / 2
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Lately,
    NotLately,
}

/// What the standbys, asked since then, have heard of it. One that receives from another standby hears from that one.
fn evidence<'a>(
    situation: &'a Situation<'_>,
    primary: &'a str,
    since_ms: u64,
) -> impl Iterator<Item = Heard> + use<'a> {
    let others = situation.state.servers().iter();
    others
        .filter(move |(id, server)| *id != primary && server.administrative == Administrative::Attached)
        .filter_map(move |(id, _)| {
            let (state, detail) = situation.view.find(id)?;
            let facts = detail.facts.as_deref().filter(|_| state.health == Health::Up)?;
            let others = situation.policy.servers.iter().filter(|server| server.id != primary);
            if others.into_iter().any(|other| replicas::follows(other, facts)) {
                return None;
            }
            let fresh = facts.asked_at_ms >= since_ms
                && situation.now_ms.saturating_sub(facts.answered_at_ms) <= EVIDENCE_MS;
            // Of one that has not been asked yet since then, what it last said counts as if it still heard.
            match fresh {
                true => Some(heard(facts, situation)),
                false if detail.failures == 0 => Some(heard_then(facts)),
                false => None,
            }
        })
}

fn heard(facts: &Facts, situation: &Situation<'_>) -> Heard {
    let silence_ms = situation.policy.failover.silence_ms;
    let age_ms = facts.receiver.as_ref().filter(|receiver| receiver.status == "streaming").map(|receiver| {
        // It was so old when it was asked.
        receiver.message_age_ms.unwrap_or(u64::MAX)
    });
    match age_ms {
        Some(age_ms) if facts.in_recovery && age_ms < silence_ms => Heard::Lately,
        _ => Heard::NotLately,
    }
}

fn heard_then(facts: &Facts) -> Heard {
    match facts.in_recovery && facts.receiver.is_some() {
        true => Heard::Lately,
        false => Heard::NotLately,
    }
}

/// Whether anybody streamed from it when it last answered, so that silence there says something.
fn was_heard(primary: &Detail) -> bool {
    let facts = primary.facts.as_deref();
    facts.is_some_and(|facts| facts.senders.iter().any(|sender| sender.state == "streaming"))
}

/// The primary is in doubt, and what these would say of it is not known, or about to be too old. They may be looked at
/// seldom, and one that was not asked since counts as if it still heard.
pub fn to_be_asked(state: &ClusterState, view: &View, now_ms: u64) -> Vec<ServerIndex> {
    let Some(primary) = state.primary().server.as_deref() else { return Vec::new() };
    let Some((_, doubted)) = view.find(primary) else { return Vec::new() };
    let Some(since_ms) = doubted.failing_since_ms else { return Vec::new() };
    let is_old = |facts: &Facts| {
        facts.asked_at_ms < since_ms || now_ms.saturating_sub(facts.answered_at_ms) >= EVIDENCE_MS / 2
    };
    let others = view.snapshot.servers.iter().zip(&view.details).filter(|(server, _)| &*server.id != primary);
    let old = others.filter(|(_, detail)| {
        detail.failures == 0
            && detail.facts.as_deref().is_some_and(|facts| facts.in_recovery && is_old(facts))
    });
    old.map(|(server, _)| server.index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::failover::tests::World;

    /// With a `health.period_ms` of a minute it would be asked within twelve seconds.
    #[test]
    fn standbys_that_are_looked_at_seldom_are_asked_when_the_primary_is_in_doubt() {
        let mut world = World::new();
        let asked = |world: &World| {
            let indexes = to_be_asked(&world.state, &world.view, world.now_ms);
            indexes.into_iter().map(|index| index.0).collect::<Vec<_>>()
        };
        world.now_ms += 30_000;
        assert!(asked(&world).is_empty(), "the primary is in no doubt");
        world.is_silent("pg1", false);
        assert_eq!(asked(&world), [1, 2]);
        world.streams("pg2", "pg1", 1, 5000);
        assert_eq!(asked(&world), [2]);
        world.now_ms += EVIDENCE_MS / 2;
        assert_eq!(asked(&world), [1, 2]);
        world.is_silent("pg3", true);
        assert_eq!(asked(&world), [1], "one that does not answer is looked at anyway");
    }
}
