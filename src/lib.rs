//! komainu: a pooling, read/write-splitting PostgreSQL proxy that does not go away.
//!
//! Data flows client → session → route → pool → backend; control flows observe → decide → act.
//! They meet in `topology` only. `docs/architecture.md` is the map.

pub mod admin;
pub mod agent;
pub mod backend;
pub mod backup;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod consensus;
pub mod drill;
mod fault;
pub mod net;
pub mod pki;
pub mod pool;
pub mod postgres;
#[cfg(test)]
mod properties;
pub mod route;
pub mod sandbox;
pub mod serve;
pub mod session;
pub mod telemetry;
pub mod topology;
pub mod wire;
