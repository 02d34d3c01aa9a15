//! A whole cluster on one machine: real PostgreSQL servers and komainu before them.
//!
//! Owns how such a cluster is laid out, started and ended; the tests build theirs from the same
//! parts. Never used by `komainu serve`. Invariant: nothing started here outlives the process.

pub mod admin;
mod installation;
mod node;
mod port;
mod postgres;
pub mod process;
mod ready;
mod run;
mod scratch;
mod servers;
mod traffic;

pub use installation::Installation;
pub use port::{ReservedPort, is_free};
pub use postgres::{Postgres, PostgresError, PostgresOptions, REPLICATION_USER, SUPERUSER, StopMode};
pub use run::{SandboxArgs, SandboxError, run};
pub use scratch::Scratch;
pub use servers::Servers;
