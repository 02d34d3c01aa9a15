//! What nodes tell each other of themselves, for people: version and time of day.
//!
//! Pure. Nothing is decided by it. Invariant: how far clocks are apart is never given without how well that is known.

use serde::{Deserialize, Serialize};

/// A node's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub version: String,
    /// Milliseconds since 1970 by its wall clock when it answered.
    pub wall_ms: u64,
}

/// What is known of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub version: String,
    pub clock: ClockApart,
}

/// How far another node's wall clock is ahead of this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockApart {
    pub ahead_ms: i64,
    /// So much it may be more or less: the answer was given somewhere between question and arrival.
    pub give_or_take_ms: u64,
}

impl Known {
    /// `asked_wall_ms` is this node's wall clock when it asked, `took_ms` how long the answer took.
    pub fn new(about: About, asked_wall_ms: u64, took_ms: u64) -> Known {
        let middle = asked_wall_ms.saturating_add(took_ms / 2);
        let ahead_ms = i64::try_from(i128::from(about.wall_ms) - i128::from(middle)).unwrap_or(i64::MAX);
        Known { version: about.version, clock: ClockApart { ahead_ms, give_or_take_ms: took_ms.div_ceil(2) } }
    }
}

impl ClockApart {
    /// Surely so far apart, in whichever direction.
    pub fn at_least_ms(self) -> u64 {
        self.ahead_ms.unsigned_abs().saturating_sub(self.give_or_take_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_with_the_middle_of_the_exchange() {
        let known = |wall_ms, took_ms| {
            Known::new(About { version: "1".to_owned(), wall_ms }, 1_000_000, took_ms).clock
        };
        assert_eq!(known(1_000_050, 100), ClockApart { ahead_ms: 0, give_or_take_ms: 50 });
        assert_eq!(known(998_000, 1).ahead_ms, -2_000);
        assert_eq!(known(998_000, 1).at_least_ms(), 1_999);
        assert_eq!(known(1_002_000, 3_000).at_least_ms(), 0, "a slow answer shows nothing");
        assert_eq!(known(u64::MAX, 0).ahead_ms, i64::MAX);
    }
}
