//! What nodes ask each other, and the road it takes.
//!
//! The road is a trait, so that a simulation brings one of its own; what is said is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::about::About;
use crate::cluster::state::{Command, Outcome};
use crate::consensus::election::{PreVoteReply, PreVoteRequest};
use crate::consensus::lease::{Grant, Question};
use crate::consensus::peer::{CallError, Lane, Link, PeerContext};
use crate::consensus::store::identity::{Identity, Progress, Remembered};
use crate::consensus::types::{Peer, TypeConfig};
use crate::net::address::split_address;
use crate::pki::NodeName;

/// Raft's own messages name the raft id they are for: a node that was replaced has another one.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Append {
        to: u64,
        rpc: AppendEntriesRequest<TypeConfig>,
    },
    Snapshot {
        to: u64,
        rpc: InstallSnapshotRequest<TypeConfig>,
    },
    Vote {
        to: u64,
        rpc: VoteRequest<u64>,
    },
    PreVote {
        to: u64,
        request: PreVoteRequest<u64>,
    },
    Lease {
        node: u64,
        question: Question,
        /// Endpoints that it could not take.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        unable: BTreeSet<String>,
        /// The highest format of the log that it knows.
        #[serde(default)]
        log_format: u32,
        /// The version of the cluster's configuration that it goes by.
        #[serde(default)]
        configuration: u64,
    },
    /// Who am I to you? Asked by a node that starts, and now and then; what it says of itself is kept.
    Remember {
        identity: Option<Identity>,
        progress: Progress,
    },
    /// To the leader.
    Propose(Command),
    /// To the leader: what is more than one command.
    Order(Order),
    /// A cancel request whose key none of the asking node's sessions has.
    Cancel {
        pid: i32,
        key: Vec<u8>,
    },
    /// Version and time of day, for people.
    About,
}

/// What an operator, or a node, wants of the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    MoveEndpoint {
        endpoint: String,
        to: String,
        /// Nodes that will do as well: then the leader chooses. One that does not know of them takes `to`.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        or: BTreeSet<String>,
        cause: String,
    },
    /// A new life for a node that lost its state.
    ReplaceNode {
        id: String,
        cause: String,
    },
    /// One more voter.
    AddVoter {
        id: String,
        address: String,
        cause: String,
    },
    /// A proxy that belongs to no quorum.
    Join {
        address: String,
    },
    Leave {
        id: String,
        cause: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    Append(AppendEntriesResponse<u64>),
    Snapshot(InstallSnapshotResponse<u64>),
    Vote(VoteResponse<u64>),
    PreVote(PreVoteReply),
    Lease(Result<Grant, String>),
    Remember(Remembered),
    Proposed(Outcome),
    Ordered(Result<String, String>),
    Cancelled(bool),
    About(About),
    /// The node asked does not lead; perhaps this one does.
    NotLeader(Option<String>),
    /// Not now, and why.
    Refused(String),
}

impl Request {
    /// The raft id it is for, if it is one of raft's own.
    pub(super) fn addressee(&self) -> Option<u64> {
        match self {
            Request::Append { to, .. }
            | Request::Snapshot { to, .. }
            | Request::Vote { to, .. }
            | Request::PreVote { to, .. } => Some(*to),
            _ => None,
        }
    }

    pub(super) fn lane(&self) -> Lane {
        match self {
            Request::Append { .. }
            | Request::Vote { .. }
            | Request::PreVote { .. }
            | Request::Lease { .. } => Lane::Urgent,
            Request::Snapshot { .. } => Lane::Bulk,
            _ => Lane::Ordinary,
        }
    }
}

/// A node, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub node: String,
    /// `host:port`
    pub address: String,
}

impl Address {
    pub(super) fn of(peer: &Peer) -> Self {
        Address { node: peer.id.clone(), address: peer.address.clone() }
    }
}

pub trait Wire: Send + Sync + 'static {
    /// Asks, and waits for the answer at most so long. Dropping it is safe.
    fn call(
        &self,
        to: &Address,
        request: Request,
        within: Duration,
    ) -> BoxFuture<'static, Result<Response, CallError>>;

    /// Why the node could not be reached at the last attempt. None: it could, or was not tried.
    fn failure(&self, to: &Address) -> Option<String>;
}

/// Over mutual TLS.
pub struct Links {
    context: Arc<PeerContext>,
    links: Mutex<BTreeMap<Address, Arc<Link>>>,
}

impl Links {
    pub fn new(context: Arc<PeerContext>) -> Self {
        Links { context, links: Mutex::default() }
    }

    fn link(&self, to: &Address) -> Result<Arc<Link>, String> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(to) {
            return Ok(link.clone());
        }
        let (host, port) = split_address(&to.address).ok_or("the address is not of the form host:port")?;
        let name =
            NodeName::new(&to.node, &self.context.local.name().cluster).map_err(|error| error.to_string())?;
        let link = Arc::new(Link::new(self.context.clone(), name, host.to_owned(), port));
        // An address that has changed is not gone back to.
        links.retain(|other, _| other.node != to.node);
        links.insert(to.clone(), link.clone());
        Ok(link)
    }
}

impl Wire for Links {
    fn call(
        &self,
        to: &Address,
        request: Request,
        within: Duration,
    ) -> BoxFuture<'static, Result<Response, CallError>> {
        let link = self.link(to);
        let to = to.clone();
        Box::pin(async move {
            match link {
                Ok(link) => link.call(request.lane(), &request, within).await,
                Err(reason) => Err(CallError::Unreachable { node: to.node, address: to.address, reason }),
            }
        })
    }

    fn failure(&self, to: &Address) -> Option<String> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.get(to).and_then(|link| link.failure())
    }
}
