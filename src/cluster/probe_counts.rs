//! How the looks at one server have gone so far: counted, for people.
//!
//! Pure. Nothing is decided by it. Invariant: it grows by numbers only, and keeps one failure, the last.

use std::time::Duration;

use super::model::Failure;

/// Since the process started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProbeCounts {
    pub made: u64,
    pub failed: u64,
    /// Up to the last one.
    pub failed_in_a_row: u64,
    /// When the last one ended, by the process's clock.
    pub last_at_ms: Option<u64>,
    pub last_answered_at_ms: Option<u64>,
    /// Of those that were answered, a new connection included where one was needed.
    pub last: Option<Duration>,
    pub shortest: Option<Duration>,
    pub longest: Option<Duration>,
    total: Duration,
    pub last_failure: Option<Failure>,
}

impl ProbeCounts {
    /// `failure`: none, if it was answered.
    pub fn record(&mut self, failure: Option<&Failure>, took: Duration, now_ms: u64) {
        self.made += 1;
        self.last_at_ms = Some(now_ms);
        match failure {
            None => {
                self.failed_in_a_row = 0;
                self.last_answered_at_ms = Some(now_ms);
                self.last = Some(took);
                self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
                self.longest = Some(self.longest.map_or(took, |longest| longest.max(took)));
                self.total = self.total.saturating_add(took);
            }
            Some(failure) => {
                self.failed += 1;
                self.failed_in_a_row += 1;
                self.last_failure = Some(failure.clone());
            }
        }
    }

    /// None before the first answer.
    pub fn average(&self) -> Option<Duration> {
        let answered = u128::from(self.made - self.failed);
        let nanos = self.total.as_nanos().checked_div(answered)?;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::reason::Reason;

    #[test]
    fn answers_are_measured_and_failures_are_kept_apart() {
        let mut looks = ProbeCounts::default();
        assert_eq!((looks.average(), looks.last_at_ms), (None, None));
        looks.record(None, Duration::from_millis(2), 10);
        looks.record(None, Duration::from_millis(6), 20);
        let failure = Failure { reason: Reason::Timeout, detail: String::new(), at_ms: 30 };
        for at in [30, 40] {
            looks.record(Some(&failure), Duration::from_secs(5), at);
        }
        assert_eq!((looks.made, looks.failed, looks.failed_in_a_row), (4, 2, 2));
        assert_eq!(looks.average(), Some(Duration::from_millis(4)));
        assert_eq!(looks.longest, Some(Duration::from_millis(6)), "a look that failed took no answer's time");
        assert_eq!((looks.last_at_ms, looks.last_answered_at_ms), (Some(40), Some(20)));
        looks.record(None, Duration::from_millis(1), 50);
        assert_eq!((looks.failed_in_a_row, looks.shortest), (0, Some(Duration::from_millis(1))));
        assert_eq!(looks.last_failure, Some(failure), "the last one is remembered");
    }
}
