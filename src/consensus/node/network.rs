//! Carries raft's messages to the others, and notes when what they acknowledged was sent.
//!
//! Invariant: what is acknowledged counts from a time read before the message was handed to the network, and only for
//! the term it was sent in.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};

use super::core::{Now, lock};
use super::rights::Rights;
use super::wire::{Address, Request, Response, Wire};
use crate::consensus::lease::LeaseSettings;
use crate::consensus::peer::CallError;
use crate::consensus::types::{Peer, TypeConfig};

type RpcError<E = openraft::error::Infallible> = RPCError<u64, Peer, RaftError<u64, E>>;

#[derive(Clone)]
pub(super) struct Network {
    pub wire: Arc<dyn Wire>,
    pub rights: Arc<Mutex<Rights>>,
    pub settings: LeaseSettings,
    pub now: Now,
}

pub(super) struct Target {
    network: Network,
    raft_id: u64,
    address: Address,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Target {
        Target { network: self.clone(), raft_id: target, address: Address::of(node) }
    }
}

impl Target {
    /// What a leader sends is not sent by one that stands down.
    fn may_lead(&self) -> Result<(), CallError> {
        let now_ms = (self.network.now)();
        if !lock(&self.network.rights).stands_down(now_ms) {
            return Ok(());
        }
        let (node, address) = (self.address.node.clone(), self.address.address.clone());
        Err(CallError::Unreachable {
            node,
            address,
            reason: "this node leaves the lead to another".to_owned(),
        })
    }

    /// In a task of its own: raft drops what takes longer than a heartbeat, and the connection would go with it. What
    /// is answered late counts all the same.
    async fn carry(&self, request: Request, within: Duration) -> Result<Response, CallError> {
        let call = self.network.wire.call(&self.address, request, within);
        self.carry_with(call, |_| ()).await
    }

    async fn carry_with<F>(
        &self,
        call: F,
        note: impl FnOnce(&Response) + Send + 'static,
    ) -> Result<Response, CallError>
    where
        F: Future<Output = Result<Response, CallError>> + Send + 'static,
    {
        let task = tokio::spawn(async move {
            let outcome = call.await;
            if let Ok(response) = &outcome {
                note(response);
            }
            outcome
        });
        task.await.unwrap_or_else(|error| {
            Err(CallError::Broken { node: String::new(), source: io::Error::other(error) })
        })
    }
}

fn unreachable<E: std::error::Error>(error: &CallError) -> RpcError<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn unexpected<E: std::error::Error>(response: &Response) -> RpcError<E> {
    let reason = match response {
        Response::Refused(reason) => reason.clone(),
        other => format!("an unexpected answer: {other:?}"),
    };
    RPCError::Network(NetworkError::new(&io::Error::other(reason)))
}

impl RaftNetwork<TypeConfig> for Target {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        self.may_lead().map_err(|error| unreachable(&error))?;
        let term = rpc.vote.leader_id().get_term();
        let sent_at_ms = (self.network.now)();
        let request = Request::Append { to: self.raft_id, rpc };
        let within = Duration::from_millis(self.network.settings.lease_ms);
        let call = self.network.wire.call(&self.address, request, within);
        let (rights, raft_id) = (self.network.rights.clone(), self.raft_id);
        let note = move |response: &Response| {
            if let Response::Append(answer) = response
                && !matches!(answer, AppendEntriesResponse::HigherVote(_))
            {
                lock(&rights).acknowledged(term, raft_id, sent_at_ms);
            }
        };
        match self.carry_with(call, note).await {
            Ok(Response::Append(answer)) => Ok(answer),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<InstallSnapshotError>> {
        self.may_lead().map_err(|error| unreachable(&error))?;
        let offset = rpc.offset;
        let request = Request::Snapshot { to: self.raft_id, rpc };
        match self.carry(request, option.hard_ttl()).await {
            Ok(Response::Snapshot(answer)) => Ok(answer),
            // The other end lost its place, as after a restart: from the beginning.
            Ok(Response::Refused(reason)) if offset > 0 => {
                tracing::debug!(reason, node = self.address.node, "a snapshot is sent anew");
                let mismatch = openraft::error::SnapshotMismatch {
                    expect: openraft::SnapshotSegmentId { id: String::new(), offset: 0 },
                    got: openraft::SnapshotSegmentId { id: String::new(), offset },
                };
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RPCError::RemoteError(RemoteError::new(self.raft_id, error)))
            }
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(unreachable(&error)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        let request = Request::Vote { to: self.raft_id, rpc };
        let within = Duration::from_millis(self.network.settings.election_timeout_min_ms);
        match self.carry(request, within).await {
            Ok(Response::Vote(answer)) => Ok(answer),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(unreachable(&error)),
        }
    }

    /// A peer that is back is followed within a heartbeat; the link itself does not dial in storms.
    fn backoff(&self) -> Backoff {
        let pause = Duration::from_millis(self.network.settings.heartbeat_ms);
        Backoff::new(std::iter::repeat(pause))
    }
}
