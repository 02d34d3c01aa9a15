//! What may happen very often, and is told of now and then: whoever causes it does not fill the log.

use std::sync::atomic::{AtomicU64, Ordering};

/// Between two lines of the log.
const TOLD_EVERY_MS: u64 = 10_000;

#[derive(Debug, Default)]
pub struct Seldom {
    count: AtomicU64,
    told_at_ms: AtomicU64,
}

impl Seldom {
    /// It happens. How often it has so far, if that is to be told now.
    pub fn happens(&self, now_ms: u64) -> Option<u64> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let told_at_ms = self.told_at_ms.load(Ordering::Relaxed);
        let is_due = count == 1 || now_ms.saturating_sub(told_at_ms) >= TOLD_EVERY_MS;
        is_due.then(|| {
            self.told_at_ms.store(now_ms, Ordering::Relaxed);
            count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_then_how_many_there_were() {
        let seldom = Seldom::default();
        let told = [5, 6, 10_004, 10_005, 10_006].map(|at| seldom.happens(at));
        assert_eq!(told, [Some(1), None, None, Some(4), None]);
    }
}
