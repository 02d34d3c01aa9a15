//! What the nodes agree on, and how they talk about it.

pub mod store;
pub mod types;
