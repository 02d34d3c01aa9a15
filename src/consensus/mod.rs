//! What the nodes agree on, and how they talk about it.
//!
//! `lease` and `election` are pure; `peer` is the wire between nodes; `store` keeps vote, log and state on disk; `node`
//! runs them.
//! Never looks at PostgreSQL and never reaches AWS. Nothing outside of it uses openraft.

pub mod election;
pub mod lease;
pub mod node;
pub mod peer;
pub mod store;
pub mod types;
