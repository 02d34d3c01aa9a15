//! The question that comes before an election: would you vote for me?
//!
//! Pure data. Asking changes nothing at anybody, which is the point of it.

use serde::{Deserialize, Serialize};

/// Where a log ends. Ordered as the replication library orders it: the later leader, then the longer log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition<N> {
    pub term: u64,
    pub leader: N,
    pub index: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVoteRequest<N> {
    pub candidate: N,
    /// Of the vote it would ask for; for the log only.
    pub term: u64,
    pub last_log: Option<LogPosition<N>>,
    /// Which life of that node this is: raised when a node is replaced.
    pub incarnation: u64,
    pub cluster_id: String,
}

pub type PreVoteReply = Result<(), Refusal>;

/// What the one who is asked compares with.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a, N> {
    pub cluster_id: &'a str,
    pub last_log: Option<&'a LogPosition<N>>,
    /// The candidate's, as our log knows it. None: our log does not know that node (yet).
    pub incarnation: Option<u64>,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error("the candidate belongs to another cluster")]
    AnotherCluster,
    #[error(
        "the candidate is not the node that the log knows by that name: it was replaced, or lost its state"
    )]
    AnotherIncarnation,
    #[error("the candidate's log ends before ours")]
    LogBehind,
    #[error("a leader was heard; not for another {for_ms} ms")]
    LeaderIsAlive { for_ms: u64 },
    #[error("this node has just started and may have heard a leader before; not for another {for_ms} ms")]
    JustStarted { for_ms: u64 },
}

impl Refusal {
    /// When asking again may be answered differently.
    pub(super) fn retry_after_ms(&self) -> u64 {
        /// What time alone does not change is looked at again now and then.
        const SELDOM_MS: u64 = 1000;
        match self {
            Refusal::AnotherCluster | Refusal::AnotherIncarnation | Refusal::LogBehind => SELDOM_MS,
            Refusal::LeaderIsAlive { for_ms } | Refusal::JustStarted { for_ms } => *for_ms,
        }
    }
}
