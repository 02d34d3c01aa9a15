//! The process's monotonic clock, in milliseconds since it started.
//!
//! The one place that reads it for the data path; pure modules get `now_ms` as an argument.

use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Never zero, so that zero can mean "never".
pub fn now_ms() -> u64 {
    START.elapsed().as_millis() as u64 + 1
}
