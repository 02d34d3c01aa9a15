//! The drills: something is broken on purpose, and what a client notices of it is measured.
//!
//! Owns the measurement: clients that write numbered rows through the endpoint, the break, the clock, the
//! count of what is left. Never part of `komainu serve`. Invariant: what a drill broke it mends, also when
//! it is interrupted, and a row counts as acknowledged only if the server said so.

mod address;
mod attempts;
mod client;
mod clock;
mod endpoint;
mod error;
mod event;
mod failover;
mod grid;
mod nodes;
mod pgbouncer;
mod phases;
mod report;
mod rows;
mod subject;

pub use endpoint::{Settings, run};
pub use error::DrillError;
pub use event::{Event, FailoverEvent};
pub use failover::{FailoverReport, FailoverSettings, run as run_failover};
pub use report::{Report, Run};
