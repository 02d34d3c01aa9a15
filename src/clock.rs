//! This process's clock: the one place the data path reads the time.
//!
//! Everything that compares times within a process uses it, the observers of `cluster` too, so that
//! "seen after" means something. Pure modules get `now_ms` as an argument.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

pub use crate::cluster::clock::Clock;

static PROCESS: LazyLock<Clock> = LazyLock::new(Clock::start);

pub fn process() -> Clock {
    *PROCESS
}

static COARSE: AtomicU64 = AtomicU64::new(0);

/// Milliseconds since the process started, as of the last tick: for deadlines of seconds, at the price of
/// one load. Late by up to a tick, never early.
pub fn coarse_ms() -> u64 {
    COARSE.load(Ordering::Relaxed)
}

/// To be called by the one task that ticks.
pub fn tick() -> u64 {
    let now = now_ms();
    COARSE.store(now, Ordering::Relaxed);
    now
}

/// Milliseconds since the process started.
pub fn now_ms() -> u64 {
    PROCESS.now_ms()
}
