//! Which server is the primary of which epoch, as long as it is not komainu that makes it one.
//!
//! Pure. Names what most voters hear say that it is the primary, and follows a promotion that somebody else made: on a
//! later timeline, when most hear of it. Where AWS makes the writer, whoever says that it is the writer is, once most hear
//! it and the one before no more; and one that was started since is another one, since a name may lead elsewhere by
//! now. It promotes nothing: that is `failover`.

use super::{Situation, Step};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change, Fenced, Observed, Server, Stage};
use crate::topology::Health;

pub(super) fn decide(situation: &Situation<'_>) -> Option<Step> {
    let state = situation.state;
    if state.failover().is_some() && situation.promotes() {
        // What komainu makes itself it does not look for. What it had begun in another mode it does not finish.
        return None;
    }
    let primary = state.primary();
    let heard = heard(situation);
    if heard.is_none() && is_gone(situation) {
        return Some(end(situation, Reason::WriterGone));
    }
    let Heard { server: heard, timeline, life } = heard?;
    let fence = state.fences().iter().find(|fence| fence.fenced == Fenced::Primary);
    let epoch = primary.epoch;
    match (&primary.server, fence) {
        (Some(_), Some(fence)) if !fence.passed => None,
        (None, _) | (Some(_), Some(_)) => {
            let change = Change::NamePrimary { epoch, server: heard.to_owned(), promotes: false };
            Some(Step::new(change, Reason::PrimaryFound))
        }
        (Some(named), None) if named == heard => match primary.stage {
            // Most must mean the same one, or the epoch would be of whichever.
            Stage::Named if situation.is_managed() && life.is_none() => None,
            Stage::Named => Some(Step::new(Change::ConfirmPrimary { epoch, timeline }, Reason::PrimaryFound)),
            // It was promoted again, or restored to another past: what was read from it before may be undone.
            Stage::Confirmed if primary.timeline < timeline => {
                Some(end(situation, Reason::PromotedElsewhere))
            }
            Stage::Confirmed if situation.is_managed() && is_another(primary.life, life) => {
                Some(end(situation, Reason::WriterReplaced))
            }
            Stage::Confirmed => None,
        },
        // What komainu has named and most nodes hear is not given up because another calls itself one: in the modes of AWS a
        // read replica that somebody promoted is a copy.
        (Some(named), None)
            if (situation.promotes() || situation.is_managed()) && situation.is_heard(named) =>
        {
            None
        }
        (Some(_), None) if primary.timeline < timeline => Some(end(situation, Reason::PromotedElsewhere)),
        (Some(named), None) if situation.is_managed() && !situation.is_heard(named) => {
            Some(end(situation, Reason::WriterMoved))
        }
        (Some(_), None) => None,
    }
}

/// Whether the writer's process has surely ended: most find it down, and here nothing accepts connections. No connection to
/// it is left, and a new start begins an epoch in any case. So this one ends while the service still works, and whoever is
/// the writer next is named as soon as it is heard. Silence is no such proof: connections may outlive it.
fn is_gone(situation: &Situation<'_>) -> bool {
    let state = situation.state;
    let Some(named) = state.primary().server.as_deref() else { return false };
    let most_find_it_down =
        state.servers().get(named).is_some_and(|server| server.observed == Observed::Down);
    let is_refused = situation.view.find(named).is_some_and(|(server, detail)| {
        server.health == Health::Down && detail.failure == Some(Reason::ConnectRefused)
    });
    situation.policy.failover.mode.is_of_rds() && !situation.is_fenced() && most_find_it_down && is_refused
}

fn end(situation: &Situation<'_>, reason: Reason) -> Step {
    let epoch = situation.state.primary().epoch;
    Step::new(Change::OpenFence { fenced: Fenced::Primary, epoch }, reason)
}

/// Whether two lives are known and differ.
fn is_another(before: Option<u64>, now: Option<u64>) -> bool {
    before.is_some() && now.is_some() && before != now
}

struct Heard<'a> {
    server: &'a str,
    timeline: u32,
    /// When it was started. None: most do not name the same time.
    life: Option<u64>,
}

/// The one server of which most voters hear that it is the primary, with the timeline most of them name. Of several,
/// the one on the latest; none, if that is on no single one.
fn heard<'a>(situation: &'a Situation<'_>) -> Option<Heard<'a>> {
    let voters = situation.voters().count();
    let says = |server: &Server| {
        let mut timelines: Vec<u32> =
            situation.voters().filter_map(|voter| server.reports.get(&voter.id)?.claim.primary_on).collect();
        timelines.sort_unstable();
        // Sorted, the middle one is named, or exceeded, by most.
        (timelines.len() > voters / 2).then(|| timelines[timelines.len() - voters / 2 - 1])
    };
    let mut claims: Vec<(u32, &str)> = situation
        .state
        .servers()
        .iter()
        .filter(|(_, server)| server.administrative == Administrative::Attached)
        .filter_map(|(id, server)| Some((says(server)?, id.as_str())))
        .collect();
    claims.sort_unstable();
    match claims.as_slice() {
        [.., (second, _), (latest, _)] if second == latest => None,
        [.., (timeline, id)] => {
            let life = situation.state.servers()[*id].life(situation.state.member_list());
            Some(Heard { server: id, timeline: *timeline, life })
        }
        [] => None,
    }
}
