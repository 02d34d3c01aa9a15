//! What the rest of komainu gets to know: the present state, and what happened.

use crate::method::Holding;
use crate::reason::Reason;
use serde::Serialize;
use std::sync::Arc;

/// One endpoint as this node sees it now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    pub state: State,
    pub reason: Reason,
    /// What the reason's sentence cannot know: the subject, the service's own words. May be empty.
    pub detail: String,
    /// Of the claim last acted on.
    pub epoch: u64,
    pub holding: Holding,
    /// Of the last taking or releasing, in order.
    pub phases: Vec<Phase>,
    pub counts: Counts,
}

/// What has happened since this endpoint's loop began.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Looks and changes that the API refused for being too many.
    pub throttled: u64,
    /// Somebody else changed what is this node's, and it was put right.
    pub drift_corrected: u64,
    /// Of takings, by phase.
    pub moves: Vec<MoveTime>,
}

/// The time spent on one phase of all takings together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MoveTime {
    pub phase: &'static str,
    pub ms: f64,
    pub count: u64,
}

/// From the word of the log to having read back that this node has the endpoint.
pub const TOTAL: &str = "total";

/// Every phase of a taking, and what its time is.
pub const MOVE_PHASES: &[(&str, &str)] = &[
    (TOTAL, "from the cluster's word to having read back that this node has it"),
    ("inspect", "looking at what is there"),
    ("read back", "looking at it again after a change"),
    ("unassociated", "between two calls, while nobody has the Elastic IP"),
    ("disassociate", "taking the Elastic IP from its last owner"),
    ("associate", "giving it to this node"),
    ("change records", "the change of the Route 53 records"),
    ("in sync", "until Route 53 said that all its name servers had it; not in the total"),
    ("dns", "until the resolver answered the new address; not in the total"),
    ("replace routes", "the changes of all route tables, side by side"),
    ("assign", "taking the secondary address"),
    ("add address", "adding the address to the interface"),
    ("announce", "telling the network's neighbours"),
    ("renew", "announcing it again"),
    ("program takes", "the operator's program of the method `command`"),
    ("program before", "the operator's program before a taking"),
    ("program after", "the operator's program after it; not in the total"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing known, or no lease: this node leaves the endpoint alone.
    Waiting,
    Taking,
    Held,
    Releasing,
    Released,
    /// Somebody has to do something first. It is tried again all the same.
    Blocked,
    /// Goes wrong again and again; tried further.
    Failed,
}

/// How long one part of a move took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    pub name: &'static str,
    pub ms: f64,
}

/// Something for the timeline. Whoever receives it stamps it with the time.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub endpoint: Arc<str>,
    pub epoch: u64,
    pub state: State,
    pub reason: Reason,
    pub detail: String,
    pub phases: Vec<Phase>,
}
