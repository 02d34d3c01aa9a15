//! This process's clock: the one place the data path reads the time.
//!
//! Everything that compares times within a process uses it, the observers of `cluster` too, so that
//! "seen after" means something. Pure modules get `now_ms` as an argument.

use std::sync::LazyLock;

pub use crate::cluster::clock::Clock;

static PROCESS: LazyLock<Clock> = LazyLock::new(Clock::start);

pub fn process() -> Clock {
    *PROCESS
}

/// Milliseconds since the process started.
pub fn now_ms() -> u64 {
    PROCESS.now_ms()
}
