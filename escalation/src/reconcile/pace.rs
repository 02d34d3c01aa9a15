//! When to look again. Pure: randomness is a seed.

/// The times between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The longest wait while something is not as it should be; the first waits are shorter.
    pub unsettled_ms: u64,
    /// The wait when all is well is drawn from these two. Long, because Route 53 allows ten requests a second to a
    /// whole account; with jitter, so that three nodes do not ask in step.
    pub settled_min_ms: u64,
    pub settled_max_ms: u64,
    /// The same for an owner whose routes or addresses a late request could still take: short enough that the harm
    /// ends within five seconds, the calls of a busy machine included.
    pub exposed_ms: u64,
    /// A new owner of such things looks this often …
    pub watch_every_ms: u64,
    /// … for this long: until its predecessor's lease and last request are certainly over.
    pub watch_for_ms: u64,
}

impl Pace {
    pub fn new(lease_ms: u64, attempt_timeout_ms: u64) -> Pace {
        Pace {
            unsettled_ms: 2_000,
            settled_min_ms: 15_000,
            settled_max_ms: 30_000,
            exposed_ms: 3_000,
            watch_every_ms: 500,
            watch_for_ms: lease_ms + attempt_timeout_ms,
        }
    }
}

/// After a first setback; doubled with each further one.
const FIRST_WAIT_MS: u64 = 100;
/// Somebody asked for fewer requests: start from here.
const FIRST_WAIT_THROTTLED_MS: u64 = 500;

/// A small generator (splitmix64) for jitter: nothing here needs a better one, and a seed repeats a run.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    pub fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (x ^ (x >> 31)) % (high.saturating_sub(low) + 1)
    }

    pub fn setback(&mut self, pace: &Pace, setbacks: u32, throttled: bool) -> u64 {
        let first = if throttled { FIRST_WAIT_THROTTLED_MS } else { FIRST_WAIT_MS };
        let wait = (first << setbacks.saturating_sub(1).min(10)).min(pace.unsettled_ms.max(1));
        self.between(wait - wait / 4, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_below_the_limit() {
        let pace = Pace::new(1_000, 3_000);
        let mut jitter = Jitter::new(1);
        for setbacks in 1..60 {
            let wait = jitter.setback(&pace, setbacks, false);
            assert!((75..=2_000).contains(&wait), "{wait} after {setbacks}");
            assert!(jitter.setback(&pace, setbacks, true) >= 375);
        }
        assert!(jitter.setback(&pace, 1, false) <= 100);
        assert!(jitter.setback(&pace, 40, false) >= 1_500);
    }
}
