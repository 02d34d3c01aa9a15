//! What the nodes agree on, and how they talk about it.
//!
//! `lease` and `election` are pure; `peer` is the wire between nodes.

pub mod election;
pub mod lease;
pub mod peer;
