//! What the integration tests stand on: real servers, a real komainu before them, real and raw clients.
//!
//! Everything binds to free ports, waits with deadlines and is gone when dropped or when the test
//! process ends. Run with `cargo test`: the tests are threads of one process and share `Cluster::shared()`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, unused_imports, reason = "not every helper is used by every version of the tests")]

mod agent;
mod aurora;
/// The double of AWS.
#[path = "../../escalation/tests/escalation/support/mod.rs"]
pub mod aws;
mod certificates;
mod clients;
mod cluster;
mod extended;
mod failover;
mod managed;
mod node;
mod nodes;
pub mod rds_login;
mod redshift;
mod sandbox;
mod slow_relay;
mod tests;
mod wire;

pub use agent::{Agent, Asking, rejoin, source};
pub use aurora::{dress_as_aurora, dress_as_aurora_called, say};
pub use certificates::Certificates;
pub use clients::{Finished, connect, pgbench, pgbench_for, psql, python, run};
pub use cluster::{APP_PASSWORD, APP_USER, Cluster};
pub use extended::{Pipeline, assert_same, first_value, same_as_postgresql, transcript};
pub use failover::{Failover, FailoverBuilder, REJOINED_WITHIN};
pub use managed::{Address, Managed};
pub use node::{Komainu, KomainuBuilder, this_version};
pub use nodes::{Mount, Nodes, NodesBuilder};
pub use redshift::Redshift;
pub use sandbox::{SANDBOX_READY_WITHIN, Sandbox};
pub use slow_relay::{SlowRelay, Slowness};
pub use wire::{Message, Wire, tags};

use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a busy two-core machine, short enough to notice a hang.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds; panics at the deadline.
#[track_caller]
pub fn eventually(within: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// As [`eventually`], for a condition that has to ask.
pub async fn eventually_async<F: Future<Output = bool>>(
    within: Duration,
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let deadline = Instant::now() + within;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
