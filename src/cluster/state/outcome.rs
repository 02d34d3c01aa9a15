//! What became of a command.
//!
//! Pure. Invariant: a refusal is an answer, the same on every node, and never a failure of the log.

use serde::{Deserialize, Serialize};

use crate::topology::Epoch;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The entry was the log's own: a leader's first, or a change of its membership.
    #[default]
    Nothing,
    Accepted(Accepted),
    Refused(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accepted {
    Changed,
    /// It was so already.
    Unchanged,
    /// The epoch that begins.
    Epoch(Epoch),
    Version(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error("the cluster has not been created yet")]
    NoCluster,
    #[error("the cluster exists already, as {cluster_id}")]
    ClusterExists { cluster_id: String },
    #[error("{name:?} is no valid name: letters, digits, '-', '_' and '.', at most 63")]
    BadName { name: String },
    #[error("there is no member {id}: `komainu node list` has those that there are")]
    NoMember { id: String },
    #[error("{id} is no voter: only voters report servers")]
    NoVoter { id: String },
    #[error("there is a member {id} already")]
    MemberExists { id: String },
    #[error("member {id} is in incarnation {current}, not {expected}")]
    StaleIncarnation { id: String, expected: u64, current: u64 },
    #[error("a new life of {id} needs an incarnation above {current}")]
    IncarnationNotNew { id: String, current: u64 },
    #[error("the raft id {raft_id} was used already: the next free one is {next}")]
    RaftIdUsed { raft_id: u64, next: u64 },
    #[error("{id} owns endpoint {endpoint}: move it first")]
    OwnsEndpoint { id: String, endpoint: String },
    #[error("there is no server {server}")]
    NoServer { server: String },
    #[error("{server} is the primary: `komainu switchover` makes another one the primary first")]
    PrimaryInUse { server: String },
    #[error("{server} is draining, detached or quarantined")]
    NotAttached { server: String },
    #[error("epoch {} was expected, it is {}", expected.0, current.0)]
    StaleEpoch { expected: Epoch, current: Epoch },
    #[error("version {expected} was expected, it is {current}: `komainu config history` has it")]
    StaleVersion { expected: u64, current: u64 },
    #[error("there is no endpoint {endpoint}")]
    NoEndpoint { endpoint: String },
    #[error("endpoint {endpoint} is owned: it must be fenced and given to nobody first")]
    EndpointOwned { endpoint: String },
    #[error("nobody holds what would be fenced")]
    NothingToFence,
    #[error("no fence of this epoch was opened")]
    NoFence,
    #[error("the fence of this epoch has not passed yet")]
    FenceNotPassed,
    #[error("a failover is under way already, from {from}")]
    FailoverUnderWay { from: String },
    #[error("the synchronous standbys are {current} by now")]
    OtherSynchronous { current: String },
    #[error("servers are being restarted already: wait for it, or `komainu server restart --cancel`")]
    RestartUnderWay,
    #[error("no such restart is under way, or it has come further meanwhile")]
    NoRestart,
    #[error("no failover is under way")]
    NoFailover,
    #[error("the epoch is fenced: it cannot go on")]
    Fenced,
    #[error("no primary was named in this epoch")]
    NoPrimaryNamed,
    #[error("the primary of this epoch is on timeline {current} already")]
    OtherTimeline { current: u32 },
    #[error("configuration {version} is not kept any more, or never was")]
    NoSuchVersion { version: u64 },
    #[error("the event {id} of a hook is over, or never was")]
    NoHookEvent { id: u64 },
    #[error("{node} has that event of a hook in its hands")]
    HookTaken { node: String },
    #[error("nobody has the event {id} of a hook in its hands")]
    HookNotTaken { id: u64 },
    #[error(
        "a node runs a komainu that does not know it yet (log format {current}, this needs {needed}): upgrade all nodes"
    )]
    LogFormat { needed: u32, current: u32 },
    #[error("{what} may be at most {limit}")]
    TooMuch { what: String, limit: u64 },
}
