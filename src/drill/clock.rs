//! One moment by two clocks: the one that durations are measured by, and the one that timelines are written by.

use std::time::{Duration, Instant, SystemTime};

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pub origin: Instant,
    /// Since 1970.
    origin_ms: f64,
}

impl Clock {
    pub fn start() -> Self {
        let origin_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64() * 1e3);
        Self { origin: Instant::now(), origin_ms }
    }

    /// Since it began.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// A moment since it began, as wall clocks have it.
    pub fn wall_ms(&self, since_origin: Duration) -> f64 {
        self.origin_ms + since_origin.as_secs_f64() * 1e3
    }
}
