//! How often a server went down lately, and for how long it must be well before it is trusted again.
//!
//! Pure. Invariant: what happens once or twice, a restart say, costs nothing; and no wait is longer than `QUIET_LAST_MS`.

use crate::topology::Health;

/// Lapses that lie further apart have nothing to do with each other.
const FORGET_MS: u64 = 600_000;
/// After so many a server is believed at once.
const FORGIVEN: u32 = 2;
/// For the next one; it doubles with each.
const QUIET_FIRST_MS: u64 = 5_000;
const QUIET_LAST_MS: u64 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lapses {
    count: u32,
    /// When it went down last, and when it came back.
    down_ms: u64,
    back_ms: u64,
}

impl Lapses {
    #[must_use]
    pub fn look(mut self, before: Health, now: Health, now_ms: u64) -> Self {
        match (before, now) {
            (Health::Up, Health::Down) => {
                let goes_on = now_ms.saturating_sub(self.down_ms) <= FORGET_MS;
                self.count = if goes_on { self.count.saturating_add(1) } else { 1 };
                self.down_ms = now_ms;
            }
            (Health::Down, Health::Up) => self.back_ms = now_ms,
            _ => {}
        }
        self
    }

    /// Of a server that is up.
    pub fn is_steady(self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.back_ms) >= self.quiet_ms()
    }

    fn quiet_ms(self) -> u64 {
        match self.count.checked_sub(FORGIVEN + 1) {
            Some(more) => (QUIET_FIRST_MS << more.min(16)).min(QUIET_LAST_MS),
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_down_again_and_again_must_be_well_for_longer_and_longer() {
        let mut lapses = Lapses::default();
        let mut now_ms = 1_000;
        let mut waits = Vec::new();
        for _ in 0..9 {
            lapses =
                lapses.look(Health::Up, Health::Down, now_ms).look(Health::Down, Health::Down, now_ms + 1);
            lapses = lapses.look(Health::Down, Health::Up, now_ms + 500);
            let wait = (0..).step_by(1_000).find(|ms| lapses.is_steady(now_ms + 500 + ms)).unwrap();
            waits.push(wait / 1_000);
            now_ms += 100_000;
        }
        assert_eq!(waits, [0, 0, 5, 10, 20, 40, 60, 60, 60]);
        now_ms += FORGET_MS;
        lapses = lapses.look(Health::Up, Health::Down, now_ms).look(Health::Down, Health::Up, now_ms + 1);
        assert!(lapses.is_steady(now_ms + 1), "that was long ago");
        assert_eq!(Lapses::default().look(Health::Unknown, Health::Up, 5), Lapses::default());
    }
}
