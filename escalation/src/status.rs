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
}

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
