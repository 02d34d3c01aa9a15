//! The process's monotonic clock, in milliseconds since it was made.
//!
//! A value that is passed on, so that every time in one process counts from the same start.
//! Invariant: it never goes back, and it goes on while the machine is suspended.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Boot time of the machine's clock when this one started.
    start: Duration,
    /// Wall-clock time of the same moment; only ever shown to people.
    started_at: SystemTime,
}

impl Clock {
    pub fn start() -> Self {
        Clock { start: since_boot(), started_at: SystemTime::now() }
    }

    pub fn now_ms(&self) -> u64 {
        u64::try_from(since_boot().saturating_sub(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// The wall-clock time of a reading, as it was when the clock started: a later step of the wall
    /// clock does not move what has been shown.
    pub fn wall_time(&self, ms: u64) -> SystemTime {
        self.started_at + Duration::from_millis(ms)
    }

    /// The same in milliseconds since 1970.
    pub fn wall_ms(&self, ms: u64) -> u64 {
        let since = self.wall_time(ms).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// `CLOCK_BOOTTIME` and not `Instant`: a suspended machine must find its old facts old.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_its_start_and_never_back() {
        let clock = Clock::start();
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        let mut last = clock.now_ms();
        assert!(last < 1000, "{last}");
        while last < 3 {
            let now = clock.now_ms();
            assert!(now >= last);
            last = now;
            assert!(std::time::Instant::now() < deadline, "the clock stands still");
        }
        assert_eq!(clock.wall_time(1500), clock.wall_time(0) + Duration::from_millis(1500));
    }
}
