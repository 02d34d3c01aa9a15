//! Who owns each endpoint.
//!
//! Pure. An owner that lives keeps it. One that was not heard of for as long as its lease lasts loses it, if there is
//! somebody to take over.

use std::collections::BTreeSet;

use super::{Situation, Step};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Change, Endpoint, Fenced};
use crate::topology::Epoch;

pub(super) fn decide(situation: &Situation<'_>) -> Vec<Step> {
    let present = situation.state.endpoints();
    let mut steps: Vec<Step> = Vec::new();
    for name in situation.endpoints {
        let step = one(situation, name, present.get(name), &given(&steps));
        steps.extend(step);
    }
    let others = present.iter().filter(|(name, _)| !situation.endpoints.contains(name));
    steps.extend(others.filter_map(|(name, endpoint)| give_up(situation, name, endpoint)));
    steps
}

/// Who is given an endpoint by these steps.
fn given(steps: &[Step]) -> Vec<String> {
    let owner = |step: &Step| match &step.change {
        Change::AssignEndpoint { owner, .. } => owner.clone(),
        _ => None,
    };
    steps.iter().filter_map(owner).collect()
}

fn one(situation: &Situation<'_>, name: &str, present: Option<&Endpoint>, given: &[String]) -> Option<Step> {
    let fence = fence_of(situation, name);
    let wish = situation.wishes.get(name).filter(|(to, _)| to.iter().any(|node| situation.lives(node)));
    let epoch = present.map_or(Epoch(0), |endpoint| endpoint.epoch);
    let owner = present.and_then(|endpoint| endpoint.owner.as_deref());
    match (owner, fence) {
        // Not taken back, and not passed yet.
        (Some(_), Some(false)) => None,
        (owner, _) if owner.is_none() || fence == Some(true) => {
            let to = candidate(situation, name, owner, given, wish.map(|(to, _)| to))?;
            let (reason, cause) = match (wish, owner) {
                (Some((_, cause)), _) => (Reason::EndpointMoved, cause.clone()),
                (None, Some(_)) => (Reason::OwnerSilent, "decision".to_owned()),
                (None, None) => (Reason::EndpointAssigned, "decision".to_owned()),
            };
            let owner = Some(to.to_owned());
            let change = Change::AssignEndpoint { endpoint: name.to_owned(), epoch, owner };
            Some(Step { change, reason, cause })
        }
        (owner, _) => {
            let owner = owner?;
            let fenced = Fenced::Endpoint(name.to_owned());
            if let Some((_, cause)) = wish.filter(|(to, _)| !to.contains(owner)) {
                let change = Change::OpenFence { fenced, epoch };
                return Some(Step { change, reason: Reason::EndpointMoved, cause: cause.clone() });
            }
            let is_lost =
                situation.is_silent(owner) && candidate(situation, name, Some(owner), given, None).is_some();
            is_lost.then(|| Step::new(Change::OpenFence { fenced, epoch }, Reason::OwnerSilent))
        }
    }
}

fn give_up(situation: &Situation<'_>, name: &str, endpoint: &Endpoint) -> Option<Step> {
    let (endpoint_name, epoch) = (name.to_owned(), endpoint.epoch);
    let change = match (&endpoint.owner, fence_of(situation, name)) {
        (None, _) => Change::RemoveEndpoint { endpoint: endpoint_name, epoch },
        (Some(_), None) => Change::OpenFence { fenced: Fenced::Endpoint(endpoint_name), epoch },
        (Some(_), Some(false)) => return None,
        (Some(_), Some(true)) => Change::AssignEndpoint { endpoint: endpoint_name, epoch, owner: None },
    };
    Some(Step::new(change, Reason::EndpointUnconfigured))
}

/// Whether its fence has passed; None: there is none.
fn fence_of(situation: &Situation<'_>, name: &str) -> Option<bool> {
    let mut fences = situation.state.fences().iter();
    fences
        .find(|fence| matches!(&fence.fenced, Fenced::Endpoint(fenced) if fenced == name))
        .map(|fence| fence.passed)
}

/// A voter that lives, of those it is wanted on; rather one that could take it, and rather another than the one that lost
/// it. Rather not the leader, so that one failure is not both; and the one that owns least, so that several endpoints are
/// spread.
fn candidate<'a>(
    situation: &'a Situation<'_>,
    endpoint: &str,
    not: Option<&str>,
    given: &[String],
    among: Option<&BTreeSet<String>>,
) -> Option<&'a str> {
    let is_unable =
        |raft_id: u64| situation.unable.get(&raft_id).is_some_and(|unable| unable.contains(endpoint));
    let owned = |node: &str| {
        let endpoints = situation.state.endpoints().values();
        let given = given.iter().filter(|given| *given == node).count();
        endpoints.filter(|endpoint| endpoint.owner.as_deref() == Some(node)).count() + given
    };
    situation
        .voters()
        .filter(|member| situation.lives(&member.id) && among.is_none_or(|among| among.contains(&member.id)))
        .min_by_key(|member| {
            let node = member.id.as_str();
            (is_unable(member.raft_id), Some(node) == not, node == situation.me, owned(node))
        })
        .map(|member| member.id.as_str())
}
