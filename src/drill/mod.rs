//! The drill: breaks the endpoint's owner on purpose, and measures what a client notices of it.
//!
//! Owns the measurement: a client that writes numbered rows through the endpoint, the break, the clock, the
//! count of what is left. Never part of `komainu serve`. Invariant: what a drill broke it mends, also when
//! it is interrupted, and a row counts as acknowledged only if the server said so.

mod address;
mod attempts;
mod endpoint;
mod nodes;
mod phases;
mod report;
mod subject;
mod writer;

pub use endpoint::{DrillError, Settings, run};
pub use report::{Report, Run};
pub use subject::Event;
