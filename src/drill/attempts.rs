//! What the client's attempts to write say about an outage.
//!
//! Pure. Times are since the drill began. Invariant: an attempt counts only if its row was acknowledged, and
//! then from the moment the client knew.

use std::collections::BTreeSet;
use std::time::Duration;

/// One try to write one numbered row. No number is tried twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub number: u64,
    pub began: Duration,
    pub ended: Duration,
    /// False: refused, given up, or nobody knows.
    pub acknowledged: bool,
}

/// From the last row that was acknowledged to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub from: Duration,
    pub to: Duration,
}

impl Gap {
    pub fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// The longest time without an acknowledged row that reaches beyond `from` and is over by `to`.
pub fn longest_gap(attempts: &[Attempt], from: Duration, to: Duration) -> Option<Gap> {
    let ends: Vec<Duration> =
        attempts.iter().filter(|attempt| attempt.acknowledged).map(|attempt| attempt.ended).collect();
    ends.windows(2)
        .map(|pair| Gap { from: pair[0], to: pair[1] })
        .filter(|gap| gap.to > from && gap.to <= to)
        // The first of equal ones: it is the one nearest to the break.
        .rev()
        .max_by_key(|gap| gap.length())
}

/// The first row acknowledged of those that were begun after `moment`.
pub fn first_begun_after(attempts: &[Attempt], moment: Duration) -> Option<Attempt> {
    attempts.iter().find(|attempt| attempt.acknowledged && attempt.began > moment).copied()
}

pub fn acknowledged(attempts: &[Attempt]) -> BTreeSet<u64> {
    attempts.iter().filter(|attempt| attempt.acknowledged).map(|attempt| attempt.number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Each takes 5 ms; those marked succeed.
    fn attempts(begun_at: &[(u64, bool)]) -> Vec<Attempt> {
        let attempt = |(number, (at, acknowledged)): (usize, &(u64, bool))| Attempt {
            number: number as u64,
            began: ms(*at),
            ended: ms(*at + 5),
            acknowledged: *acknowledged,
        };
        begun_at.iter().enumerate().map(attempt).collect()
    }

    #[test]
    fn a_gap_is_from_the_last_acknowledged_row_to_the_next() {
        let attempts = attempts(&[(0, true), (20, true), (40, false), (60, false), (900, true), (920, true)]);
        let gap = longest_gap(&attempts, ms(30), ms(1_000)).unwrap();
        assert_eq!((gap.from, gap.to, gap.length()), (ms(25), ms(905), ms(880)));
        assert_eq!(acknowledged(&attempts), BTreeSet::from([0, 1, 4, 5]));
    }

    #[test]
    fn gaps_before_the_break_and_after_the_recovery_do_not_count() {
        let attempts = attempts(&[(0, true), (500, true), (520, true), (700, true), (2_000, true)]);
        let gap = longest_gap(&attempts, ms(510), ms(1_000)).unwrap();
        assert_eq!(gap, Gap { from: ms(525), to: ms(705) });
        // One that was open at the break counts whole.
        assert_eq!(longest_gap(&attempts, ms(600), ms(1_000)).unwrap().from, ms(525));
    }

    #[test]
    fn an_owner_that_served_on_for_a_while_does_not_hide_the_outage() {
        // Broken at 30, but writes went on until its lease ended.
        let attempts = attempts(&[(0, true), (20, true), (40, true), (600, true), (2_000, true)]);
        let gap = longest_gap(&attempts, ms(30), ms(3_000)).unwrap();
        assert_eq!(gap, Gap { from: ms(605), to: ms(2_005) });
    }

    #[test]
    fn without_a_success_after_the_break_there_is_no_end() {
        assert_eq!(longest_gap(&attempts(&[(0, true), (20, false)]), ms(10), ms(1_000)), None);
        assert_eq!(longest_gap(&[], ms(0), ms(1_000)), None);
        let attempts = attempts(&[(0, true), (20, false), (30, true)]);
        assert_eq!(first_begun_after(&attempts, ms(10)).unwrap().number, 2);
        assert_eq!(first_begun_after(&attempts, ms(30)), None, "it may have been on its way before");
    }
}
