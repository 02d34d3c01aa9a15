//! How much was answered, second by second.
//!
//! Pure. Times are since the drill began; seconds are told from the break, so that the gap is where one looks.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;

/// Fine enough to be sorted into seconds from any moment on.
const SLICE: Duration = Duration::from_millis(50);
const BAR_CELLS: u32 = 30;

/// What some clients were answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Reads and writes by slice.
    answered: BTreeMap<u128, (u32, u32)>,
    pub errors: u32,
    /// How often which was seen.
    pub kinds: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Second {
    /// 0 begins with the break.
    pub second: i64,
    pub reads: u32,
    pub writes: u32,
}

impl Tally {
    pub fn note(&mut self, at: Duration, is_write: bool) {
        let (reads, writes) = self.answered.entry(at.as_millis() / SLICE.as_millis()).or_default();
        *(if is_write { writes } else { reads }) += 1;
    }

    pub fn note_error(&mut self, kind: String) {
        self.errors += 1;
        *self.kinds.entry(kind).or_default() += 1;
    }

    pub fn and(mut self, other: Self) -> Self {
        for (slice, (reads, writes)) in other.answered {
            let (all_reads, all_writes) = self.answered.entry(slice).or_default();
            *all_reads += reads;
            *all_writes += writes;
        }
        self.errors += other.errors;
        for (kind, times) in other.kinds {
            *self.kinds.entry(kind).or_default() += times;
        }
        self
    }

    /// Whole seconds between two moments, by how long after `broken` they are.
    pub fn seconds(&self, from: Duration, broken: Duration, to: Duration) -> Vec<Second> {
        let whole = |length: Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
        let (first, last) = (-whole(broken.saturating_sub(from)), whole(to.saturating_sub(broken)));
        let second = |second| {
            let start = broken.as_secs_f64() + second as f64;
            let slices = |at: f64| (at.max(0.0) / SLICE.as_secs_f64()).round() as u128;
            let within = self.answered.range(slices(start)..slices(start + 1.0));
            let (reads, writes) = within.fold((0, 0), |(r, w), (_, (reads, writes))| (r + reads, w + writes));
            Second { second, reads, writes }
        };
        (first..last).map(second).collect()
    }
}

/// A line for each second.
pub fn plot(f: &mut fmt::Formatter<'_>, seconds: &[Second]) -> fmt::Result {
    let most = |of: fn(&Second) -> u32| seconds.iter().map(of).max().unwrap_or(0).max(1);
    let (most_writes, most_reads) = (most(|second| second.writes), most(|second| second.reads));
    for Second { second, reads, writes } in seconds {
        let bar = |count: u32, most: u32| "#".repeat((count * BAR_CELLS).div_ceil(most) as usize);
        let mut line = format!("{second:>4} s  writes {writes:>6} {:<30}", bar(*writes, most_writes));
        write!(line, "  reads {reads:>6} {}", bar(*reads, most_reads))?;
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    struct Plotted(Vec<Second>);

    impl fmt::Display for Plotted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            plot(f, &self.0)
        }
    }

    #[test]
    fn seconds_are_told_from_the_break() {
        let mut tally = Tally::default();
        for (at, is_write) in [(1_600, true), (1_700, true), (1_800, false), (2_600, true), (4_000, true)] {
            tally.note(ms(at), is_write);
        }
        let other = {
            let mut tally = Tally::default();
            tally.note(ms(2_400), false);
            tally.note_error("08007".into());
            tally
        };
        let all = tally.and(other);
        let seconds = all.seconds(ms(1_400), ms(2_500), ms(4_600));
        let told: Vec<_> = seconds.iter().map(|one| (one.second, one.reads, one.writes)).collect();
        assert_eq!(told, [(-1, 2, 2), (0, 0, 1), (1, 0, 1)]);
        assert_eq!((all.errors, all.kinds["08007"]), (1, 1));
    }

    #[test]
    fn a_gap_is_seen() {
        let second = |second, reads, writes| Second { second, reads, writes };
        let drawn = Plotted(vec![second(-1, 10, 300), second(0, 20, 0), second(1, 20, 150)]).to_string();
        let bars = |line: &str| line.matches('#').count();
        assert_eq!(drawn.lines().map(bars).collect::<Vec<_>>(), [45, 30, 45]);
        assert!(drawn.starts_with("  -1 s  writes    300 ####"), "{drawn}");
    }
}
