//! A whole cluster on one machine: real PostgreSQL servers, komainu nodes before them, and the address
//! clients use.
//!
//! Owns how such a cluster is laid out, started, broken and ended; the tests build theirs from the same
//! parts. Never used by `komainu serve`. Invariant: nothing started here outlives the process.

mod agent;
mod args;
mod ask;
mod aws;
mod control;
mod daemon;
mod endpoint;
mod error;
mod front;
mod making;
mod managed;
mod network;
mod node;
mod node_files;
mod part;
mod place;
mod port;
mod postgres;
mod postmaster;
mod private;
mod ready;
mod relay;
mod roles;
mod run;
mod scratch;
mod servers;
mod stop_signals;
mod sweep;
mod traffic;
mod whole;

pub use crate::admin::client as admin;
pub use crate::postgres::{Installation, process};
pub use agent::{Agent, program_for_servers};
pub use args::{Method, SandboxArgs, Sync};
pub use ask::{AskError, ask, describe, fail_over, newest, of_nodes, tell};
pub use control::Request;
pub use error::SandboxError;
pub use managed::{AURORA_FUNCTIONS, FailoverOrder, FailoverTold, ManagedMode, RDS_FUNCTIONS};
pub use node_files::PATIENT_LEASE;
pub use port::{ReservedPort, is_free};
pub use postgres::{Host, Postgres, PostgresError, PostgresOptions, REPLICATION_USER, SUPERUSER, StopMode};
pub use ready::{Ready, ReadyManaged, ReadyNode};
pub use roles::{DATABASE, Login, OPERATOR, REWINDER};
pub use run::{Running, run};
pub use scratch::Scratch;
pub use servers::Servers;
pub use stop_signals::StopSignals;
