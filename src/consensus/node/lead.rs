//! What only the leader does for others: takes commands into the log, carries out orders, keeps raft's membership as
//! the log has the members.
//!
//! Invariant: the voters change only by an order in the log, and the library's membership follows it, never the other
//! way round; so a leader that dies half-way leaves nothing that the next one does not finish.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};

use super::core::{Core, Metrics};
use super::wire::{Order, Response};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Change, ClusterState, Command, Member, MemberRole, Outcome, Refusal};
use crate::consensus::types::Peer;
use crate::fault;

/// Entries that a node may lack and still be taken for one that has the log: there are always some on their way.
const MAY_LACK: u64 = 16;

pub(super) async fn propose(core: &Core, command: Command) -> Response {
    let change = command.change.clone();
    // Who proposes it knows it. Whether all others do, the state says: nothing that they do not know is ever written.
    if let Err(refusal) = core.published.borrow().state.check_proposal(&change) {
        return Response::Proposed(Outcome::Refused(refusal));
    }
    match core.raft.client_write(command).await {
        Ok(written) => {
            fault::may_die("log", &change);
            Response::Proposed(written.data)
        }
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Response::NotLeader(forward.leader_node.map(|leader| leader.id))
        }
        Err(error) => Response::Refused(error.to_string()),
    }
}

/// `from`: the node that asks; who is behind it is in the order.
pub(super) async fn carry_out(core: &Core, from: &str, order: Order) -> Response {
    if core.rights().leading(core.now_ms()).is_none() {
        return Response::NotLeader(core.leader().map(|(_, leader)| leader.node));
    }
    let state = core.published.borrow().clone();
    let done = match order {
        Order::MoveEndpoint { endpoint, to, or, cause } => {
            move_endpoint(core, &state.state, endpoint, to, or, cause)
        }
        Order::ReplaceNode { id, cause } => replace(core, &state.state, &id, &cause).await,
        Order::AddVoter { id, address, cause } => {
            let voting = state.membership.voter_ids().collect();
            add_voter(core, &state.state, &voting, &id, address, &cause).await
        }
        Order::Join { address } => join(core, &state.state, from, address).await,
        Order::Leave { id, cause } => leave(core, &state.state, &id, &cause).await,
    };
    Response::Ordered(done)
}

fn move_endpoint(
    core: &Core,
    state: &ClusterState,
    endpoint: String,
    to: String,
    or: BTreeSet<String>,
    cause: String,
) -> Result<String, String> {
    let Some(present) = state.endpoints().get(&endpoint) else {
        let known: Vec<_> = state.endpoints().keys().map(String::as_str).collect();
        return Err(format!("there is no endpoint {endpoint}; there are: {}", known.join(", ")));
    };
    match state.members().get(&to) {
        Some(member) if member.role == MemberRole::Voter => {}
        Some(_) => return Err(format!("{to} is a proxy: only voters own endpoints")),
        None => {
            let voters = state.members().values().filter(|member| member.role == MemberRole::Voter);
            let known: Vec<_> = voters.map(|member| member.id.as_str()).collect();
            return Err(format!("there is no node {to}; there are: {}", known.join(", ")));
        }
    }
    if present.owner.as_deref() == Some(&*to) {
        return Ok(format!("{to} owns {endpoint} already"));
    }
    let mut among = or;
    among.insert(to);
    let said =
        format!("{endpoint} moves to {}", Vec::from_iter(among.iter().map(String::as_str)).join(" or "));
    core.wish(endpoint, among, cause);
    Ok(said)
}

async fn replace(core: &Core, state: &ClusterState, id: &str, cause: &str) -> Result<String, String> {
    let member = state.members().get(id).ok_or_else(|| format!("there is no node {id}"))?;
    if member.raft_id == core.identity.raft_id {
        return Err(format!("{id} leads and lives: stop it first, and ask another node"));
    }
    let incarnation = member.incarnation;
    let new = Member { incarnation: incarnation + 1, raft_id: 0, ..member.clone() };
    with_new_raft_id(core, state, new, cause, "node_replaced", |member| Change::ReplaceMember {
        incarnation,
        member,
    })
    .await?;
    Ok(format!("{id} is now incarnation {}: start it with an empty directory", incarnation + 1))
}

/// One at a time: the majority grows with each, and a new one counts in it only once it has the log.
async fn add_voter(
    core: &Core,
    state: &ClusterState,
    voting: &BTreeSet<u64>,
    id: &str,
    address: String,
    cause: &str,
) -> Result<String, String> {
    if let Some(member) = state.members().get(id) {
        return Err(match member.role {
            MemberRole::Voter => format!("{id} is a voter already"),
            MemberRole::Proxy => format!("{id} is a proxy: remove it first, or give the voter another id"),
        });
    }
    let voters = || state.members().values().filter(|member| member.role == MemberRole::Voter);
    if let Some(learning) = voters().find(|member| !voting.contains(&member.raft_id)) {
        return Err(format!(
            "{} does not vote yet: one is taken in after the other; start it, and wait until `komainu status` has it",
            learning.id
        ));
    }
    let (role, now) = (MemberRole::Voter, voters().count() + 1);
    let new = Member { id: id.to_owned(), raft_id: 0, incarnation: 1, address, role };
    let reason = Reason::VoterAdded.code();
    with_new_raft_id(core, state, new, cause, reason, |member| Change::AddMember { member }).await?;
    let even = match now % 2 {
        0 => format!("; {now} voters survive no more failures than {}: add another one", now - 1),
        _ => String::new(),
    };
    Ok(format!("{id} is a voter as soon as it has the log: start it{even}"))
}

async fn join(core: &Core, state: &ClusterState, from: &str, address: String) -> Result<String, String> {
    let done = |member: &Member| format!("{from} is incarnation {}", member.incarnation);
    match state.members().get(from) {
        Some(member) if member.role == MemberRole::Voter => {
            Err(format!("{from} is a voter of this cluster: a proxy needs another id"))
        }
        Some(member) => {
            let incarnation = member.incarnation;
            let new = Member { incarnation: incarnation + 1, raft_id: 0, address, ..member.clone() };
            let said = done(&new);
            with_new_raft_id(core, state, new, "proxy", "proxy_joined", |member| Change::ReplaceMember {
                incarnation,
                member,
            })
            .await?;
            Ok(said)
        }
        None => {
            let new =
                Member { id: from.to_owned(), raft_id: 0, incarnation: 1, address, role: MemberRole::Proxy };
            let said = done(&new);
            with_new_raft_id(core, state, new, "proxy", "proxy_joined", |member| Change::AddMember {
                member,
            })
            .await?;
            Ok(said)
        }
    }
}

async fn leave(core: &Core, state: &ClusterState, id: &str, cause: &str) -> Result<String, String> {
    let member = state.members().get(id).ok_or_else(|| format!("there is no node {id}"))?;
    if member.role == MemberRole::Voter {
        return Err(format!(
            "{id} is a voter: voters are replaced, not removed, or fewer failures would be survived"
        ));
    }
    let change = Change::RemoveMember { id: id.to_owned(), incarnation: member.incarnation };
    accepted(propose(core, core.command(change, cause, "proxy_left")).await)?;
    Ok(format!("{id} has left"))
}

/// Raft ids are never used twice, and only the log knows which were.
async fn with_new_raft_id(
    core: &Core,
    state: &ClusterState,
    mut member: Member,
    cause: &str,
    reason: &str,
    change: impl Fn(Member) -> Change,
) -> Result<(), String> {
    member.raft_id = state.members().values().map(|member| member.raft_id).max().unwrap_or(0) + 1;
    loop {
        match propose(core, core.command(change(member.clone()), cause, reason)).await {
            Response::Proposed(Outcome::Refused(Refusal::RaftIdUsed { next, .. })) => member.raft_id = next,
            other => return accepted(other),
        }
    }
}

fn accepted(response: Response) -> Result<(), String> {
    match response {
        Response::Proposed(Outcome::Refused(refusal)) => Err(refusal.to_string()),
        Response::Proposed(_) => Ok(()),
        Response::NotLeader(_) => Err("the leader has changed: try again".to_owned()),
        Response::Refused(reason) => Err(reason),
        other => Err(format!("an unexpected answer: {other:?}")),
    }
}

/// Makes the library's membership what the log says of the members, one step at a time. To be called now and then by a
/// leader, when the state is there.
pub(super) async fn align_membership(core: &Core) {
    let state = core.published.borrow().clone();
    if state.state.cluster_id().is_empty() {
        return;
    }
    let metrics = core.metrics();
    let membership = metrics.membership_config.membership().clone();
    let wanted: BTreeMap<u64, Peer> =
        state.state.members().values().map(|member| (member.raft_id, peer(member))).collect();
    let voters: BTreeSet<u64> = state
        .state
        .members()
        .values()
        .filter(|member| member.role == MemberRole::Voter)
        .map(|member| member.raft_id)
        .collect();
    let new: BTreeMap<u64, Peer> = wanted
        .iter()
        .filter(|(id, peer)| membership.get_node(id) != Some(*peer))
        .map(|(id, peer)| (*id, peer.clone()))
        .collect();
    let present: BTreeSet<u64> = membership.voter_ids().collect();
    let gone: BTreeSet<u64> = membership.learner_ids().filter(|id| !wanted.contains_key(id)).collect();
    let change = if !new.is_empty() {
        let known: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
        match new.keys().all(|id| known.contains(id)) {
            true => ChangeMembers::SetNodes(new),
            false => ChangeMembers::AddNodes(new.into_iter().filter(|(id, _)| !known.contains(id)).collect()),
        }
    } else if let voters = ready(&metrics, &present, voters)
        && present != voters
    {
        ChangeMembers::ReplaceAllVoters(voters)
    } else if !gone.is_empty() {
        ChangeMembers::RemoveNodes(gone)
    } else {
        return;
    };
    tracing::info!(?change, "the raft membership follows the log");
    if let Err(error) = core.raft.change_membership(change, false).await {
        tracing::warn!(%error, "the raft membership could not be changed; it is tried again");
    }
}

/// Who is to vote now. Where the voters become more, a new one first learns the log: until then it would be missing in
/// every majority that counts it. One that takes another's place need not, since that one is missing already. Never fewer
/// than there are.
fn ready(metrics: &Metrics, present: &BTreeSet<u64>, wanted: BTreeSet<u64>) -> BTreeSet<u64> {
    if wanted.len() <= present.len() {
        return wanted;
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let has_log = |id: &u64| {
        let progress = metrics.replication.as_ref().and_then(|progress| progress.get(id)?.as_ref());
        progress.is_some_and(|matched| matched.index + MAY_LACK >= last)
    };
    let ready: BTreeSet<u64> = wanted.into_iter().filter(|id| present.contains(id) || has_log(id)).collect();
    if ready.len() < present.len() { present.clone() } else { ready }
}

pub(super) fn peer(member: &Member) -> Peer {
    Peer { id: member.id.clone(), address: member.address.clone(), incarnation: member.incarnation }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, LogId};

    use super::*;

    fn metrics(last: u64, progress: &[(u64, u64)]) -> Metrics {
        let mut metrics = Metrics::new_initial(1);
        metrics.last_log_index = Some(last);
        let matched = |&(id, index): &(u64, u64)| (id, Some(LogId::new(CommittedLeaderId::new(1, 1), index)));
        metrics.replication = Some(progress.iter().map(matched).collect());
        metrics
    }

    #[test]
    fn a_new_voter_counts_once_it_has_the_log_and_one_that_replaces_another_at_once() {
        let present = BTreeSet::from([1, 2, 3]);
        let ready = |wanted: &[u64], progress: &[(u64, u64)]| {
            ready(&metrics(100, progress), &present, wanted.iter().copied().collect())
        };
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        assert_eq!(ready(&[1, 2, 3, 4], &[]), present);
        assert_eq!(ready(&[1, 2, 3, 4], &[(4, 10)]), present);
        assert_eq!(ready(&[1, 2, 3, 4], &[(4, 90)]), set(&[1, 2, 3, 4]));
        assert_eq!(ready(&[1, 2, 4], &[]), set(&[1, 2, 4]));
        // Both at once: never fewer than there are.
        assert_eq!(ready(&[1, 2, 4, 5], &[]), present);
        assert_eq!(ready(&[1, 2, 4, 5], &[(5, 100)]), set(&[1, 2, 5]));
    }
}
