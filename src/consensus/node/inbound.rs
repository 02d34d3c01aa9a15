//! What the other nodes ask of this one.
//!
//! Invariant: nothing that decides about a leader reaches raft but through `election`, in the order of calls that
//! `docs/decisions/0015-elections-are-ours-to-start.md` gives, and whatever was begun there is ended there, even if the
//! connection that brought it is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest};
use tokio::sync::watch;

use super::about::About;
use super::core::{Core, known_life, wall_ms};
use super::lead;
use super::wire::{Request, Response};
use crate::consensus::election::{PreVoteReply, PreVoteRequest, Standing as Compared};
use crate::consensus::lease::Question;
use crate::consensus::store::identity::{Identity, Progress, Remembered, Standing};
use crate::consensus::store::{Applied, Store};
use crate::consensus::types::TypeConfig;

/// What is asked of the process and not of its raft.
pub type CancelHere =
    Arc<dyn Fn(i32, Vec<u8>) -> futures_util::future::BoxFuture<'static, bool> + Send + Sync>;

/// Open from the moment the store is: before the node has joined, only what it knows of others can be asked.
pub(super) struct Door {
    pub store: Arc<Store>,
    pub applied: watch::Receiver<Arc<Applied>>,
    pub core: OnceLock<Arc<Core>>,
    pub cancel: CancelHere,
}

const NOT_JOINED: &str = "this node has not joined its cluster yet";

impl Door {
    pub async fn answer(self: Arc<Self>, from: String, request: Request) -> Response {
        match request {
            Request::Remember { identity, progress } => {
                self.remember(&from, identity.as_ref(), progress).await
            }
            Request::Cancel { pid, key } => Response::Cancelled((self.cancel)(pid, key).await),
            Request::About => {
                Response::About(About { version: env!("CARGO_PKG_VERSION").to_owned(), wall_ms: wall_ms() })
            }
            other => match self.core.get() {
                Some(core) => joined(core.clone(), from, other).await,
                None => Response::Refused(NOT_JOINED.to_owned()),
            },
        }
    }

    /// What this node knows of the one that asks; if it is who it should be, what it says is kept first.
    async fn remember(&self, node: &str, identity: Option<&Identity>, progress: Progress) -> Response {
        let own = match self.store.identity().await {
            Ok(Some(own)) => own,
            Ok(None) => return Response::Remember(Remembered::default()),
            Err(error) => return Response::Refused(error.to_string()),
        };
        let applied = self.applied.borrow().clone();
        let peers: Vec<_> = match self.core.get() {
            Some(core) => {
                core.metrics().membership_config.nodes().map(|(id, peer)| (*id, peer.clone())).collect()
            }
            None => applied.membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
        };
        let nothing_known = applied.state.cluster_id().is_empty() && peers.is_empty();
        let member = match identity {
            // This node has just joined and knows no better than who asks.
            Some(identity) if nothing_known && identity.cluster_id == own.cluster_id => {
                Some((identity.raft_id, identity.incarnation))
            }
            None if nothing_known => return Response::Remember(Remembered::default()),
            _ => known_life(&applied.state, &peers, node),
        };
        let seen = match member {
            Some((raft_id, _)) => match self.store.seen(raft_id).await {
                Ok(seen) => seen,
                Err(error) => return Response::Refused(error.to_string()),
            },
            None => None,
        };
        let remembered = Remembered { cluster_id: own.cluster_id, member, progress: seen };
        let standing = Standing::judge(identity, &progress, &remembered);
        if let (Standing::Good, Some(identity)) = (standing, identity)
            && let Err(error) = self.store.note_seen(identity.raft_id, progress).await
        {
            return Response::Refused(error.to_string());
        }
        Response::Remember(remembered)
    }
}

async fn joined(core: Arc<Core>, from: String, request: Request) -> Response {
    // What is for another life of this node it could not answer either, a pre-vote no more than a vote.
    if let Some(to) = request.addressee().filter(|to| *to != core.identity.raft_id) {
        return Response::Refused(format!("this is raft id {}, not {to}", core.identity.raft_id));
    }
    match request {
        Request::Append { rpc, .. } => append(core, rpc).await,
        Request::Snapshot { rpc, .. } => snapshot(core, rpc).await,
        Request::Vote { rpc, .. } => vote(core, rpc).await,
        Request::PreVote { request, .. } => Response::PreVote(pre_vote(&core, &request).await),
        Request::Lease { node, question, unable, log_format, configuration } => {
            lease(&core, &from, question, (node, unable, log_format, configuration))
        }
        Request::Propose(command) => lead::propose(&core, command).await,
        Request::Order(order) => lead::carry_out(&core, &from, order).await,
        Request::Remember { .. } | Request::Cancel { .. } | Request::About => {
            Response::Refused("this is answered elsewhere".to_owned())
        }
    }
}

const CAMPAIGNING: &str = "this node is about to campaign";

async fn append(core: Arc<Core>, rpc: AppendEntriesRequest<TypeConfig>) -> Response {
    let term = rpc.vote.leader_id().get_term();
    if !core.rights().election.incoming(core.now_ms(), term) {
        return Response::Refused(CAMPAIGNING.to_owned());
    }
    let task = tokio::spawn(async move {
        let answer = core.raft.append_entries(rpc).await;
        let accepted =
            matches!(&answer, Ok(answer) if !matches!(answer, AppendEntriesResponse::HigherVote(_)));
        core.rights().election.answered(core.now_ms(), accepted);
        answer
    });
    match task.await {
        Ok(Ok(answer)) => Response::Append(answer),
        Ok(Err(error)) => Response::Refused(error.to_string()),
        Err(error) => Response::Refused(error.to_string()),
    }
}

async fn snapshot(core: Arc<Core>, rpc: InstallSnapshotRequest<TypeConfig>) -> Response {
    let term = rpc.vote.leader_id().get_term();
    if !core.rights().election.incoming(core.now_ms(), term) {
        return Response::Refused(CAMPAIGNING.to_owned());
    }
    let task = tokio::spawn(async move {
        let vote = rpc.vote;
        let answer = core.raft.install_snapshot(rpc).await;
        let accepted = matches!(&answer, Ok(answer) if answer.vote == vote);
        core.rights().election.answered(core.now_ms(), accepted);
        answer
    });
    match task.await {
        Ok(Ok(answer)) => Response::Snapshot(answer),
        Ok(Err(error)) => Response::Refused(error.to_string()),
        Err(error) => Response::Refused(error.to_string()),
    }
}

async fn vote(core: Arc<Core>, rpc: VoteRequest<u64>) -> Response {
    if let Err(refusal) = core.rights().election.judge_vote(core.now_ms()) {
        return Response::Refused(refusal.to_string());
    }
    let term = rpc.vote.leader_id().get_term();
    let task = tokio::spawn(async move {
        let answer = core.raft.vote(rpc).await;
        // Not to know is to have granted it.
        let granted = answer.as_ref().map_or(true, |answer| answer.vote_granted);
        core.rights().election.vote_answered(term, granted);
        answer
    });
    match task.await {
        Ok(Ok(answer)) => Response::Vote(answer),
        Ok(Err(error)) => Response::Refused(error.to_string()),
        Err(error) => Response::Refused(error.to_string()),
    }
}

async fn pre_vote(core: &Core, request: &PreVoteRequest<u64>) -> PreVoteReply {
    let last_log = core.log_end().await;
    let metrics = core.metrics();
    let incarnation =
        metrics.membership_config.membership().get_node(&request.candidate).map(|peer| peer.incarnation);
    let mine = Compared { cluster_id: &core.identity.cluster_id, last_log: last_log.as_ref(), incarnation };
    core.rights().election.judge_pre_vote(core.now_ms(), request, &mine)
}

fn lease(
    core: &Core,
    from: &str,
    question: Question,
    (node, unable, log_format, configuration): (u64, BTreeSet<String>, u32, u64),
) -> Response {
    if core.address_of(node).is_none_or(|address| address.node != from) {
        return Response::Refused(format!("raft id {node} is not that of {from}"));
    }
    let mut rights = core.rights();
    rights.cannot_take(node, unable);
    rights.knows(node, log_format);
    rights.goes_by(node, configuration);
    match rights.grant(core.now_ms(), node, question) {
        Some(answer) => Response::Lease(answer.map_err(|refusal| refusal.to_string())),
        None => Response::NotLeader(core.leader().map(|(_, leader)| leader.node)),
    }
}
