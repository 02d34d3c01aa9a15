//! `komainu agent`: does on a database host what SQL cannot do with a server's files and process.
//!
//! Owns one data directory and the server that runs in it: its state, stop and start, and its way back as a standby by
//! rewind or rebuild. It decides nothing about the cluster; it obeys the nodes that the configuration names, each
//! request in an epoch, and an epoch that is over is refused. Never runs a shell. Invariant: nothing is done to a data
//! directory other than its own, to one of another system identifier, or under a running postmaster.

mod argument;
mod client;
pub(crate) mod conninfo;
pub(crate) mod control;
mod cut_record;
mod directory;
mod error;
mod following;
pub(crate) mod history;
mod job;
mod kept_wal;
mod memory;
mod missing_wal;
mod own_files;
pub(crate) mod plan;
mod postmaster;
pub(crate) mod programs;
pub(crate) mod progress;
mod recovery_settings;
mod run;
mod service;
mod source;
mod wal;
pub mod wire;

pub use client::{AgentCallError, Agents, Beside, Within};
pub use error::{AgentError, WorkError};
pub use run::run;
