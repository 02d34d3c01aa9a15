//! What one server can be asked of by all its pools together: connections in all, and new ones a second.
//!
//! Invariants: a permit is held by every open connection to the server, and given back by its drop. A pool that has no
//! connection gets the next permit before those that have some, and of these who waits before who has just come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::pool::Pool;

/// More connections than any pool has.
const NOBODY: usize = usize::MAX;
/// As long as nothing is given up, so often pools with half as many connections are asked, too.
const ASKED_EVERY_MS: u64 = 200;

#[derive(Debug)]
pub struct ServerGate {
    share: Mutex<Share<Weak<Pool>>>,
    /// A pool with at least as many connections gives one up when it comes back, if one is owed. Looked at whenever one
    /// does, so it stands outside the lock.
    asked_from: AtomicUsize,
    pacing: Mutex<Pacing>,
}

/// How many connections are open, and who gets the next. Pure.
#[derive(Debug)]
struct Share<P> {
    max: usize,
    open: usize,
    /// Pools that have none and somebody who waits, in the order in which they came, and since when.
    starved: VecDeque<(P, u64)>,
    /// Pools that have some and too few, in the order in which they came.
    short: VecDeque<P>,
    /// How many the pools are to give up when they come back.
    owed: usize,
}

impl<P> Share<P> {
    /// Nobody overtakes those who wait.
    fn try_enter(&mut self) -> bool {
        let enters = self.open < self.max && self.waiting() == 0;
        self.open += usize::from(enters);
        enters
    }

    /// A connection has been closed. Whom its place belongs to from now on; none: it is free.
    fn leave(&mut self) -> Option<P> {
        if self.open <= self.max
            && let Some(next) = self.next()
        {
            return Some(next);
        }
        self.open -= 1;
        None
    }

    /// Whom a place that is free belongs to from now on.
    fn enter_waiting(&mut self) -> Option<P> {
        if self.open >= self.max {
            return None;
        }
        let next = self.next()?;
        self.open += 1;
        Some(next)
    }

    fn next(&mut self) -> Option<P> {
        self.starved.pop_front().map(|(pool, _)| pool).or_else(|| self.short.pop_front())
    }

    fn waiting(&self) -> usize {
        self.starved.len() + self.short.len()
    }

    /// How many are open above the limit, which was lowered.
    fn excess(&self) -> usize {
        self.open.saturating_sub(self.max)
    }

    /// How many connections a pool must have to be asked for one, if the largest has `most`: half as many with each
    /// `ASKED_EVERY_MS` that the first of the starved has waited. Of an excess any pool is asked.
    fn ask(&mut self, most: usize, now_ms: u64) -> usize {
        self.owed = self.starved.len() + self.excess();
        if self.excess() > 0 {
            return 1;
        }
        let Some((_, since_ms)) = self.starved.front() else { return NOBODY };
        let halvings = now_ms.saturating_sub(*since_ms) / ASKED_EVERY_MS;
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        most.checked_shr(halvings).unwrap_or(0).max(1)
    }

    /// Whether a pool that was asked is to give one up now.
    fn claim(&mut self) -> bool {
        let claimed = self.owed > 0;
        self.owed -= usize::from(claimed);
        claimed
    }
}

/// A token bucket in whole milliseconds: no timer, the caller sleeps for what it is told.
#[derive(Debug)]
pub struct Pacing {
    interval_us: u64,
    burst: u64,
    /// When the next attempt is free, in microseconds; may lie in the past by `burst` intervals.
    next_us: u64,
}

impl Pacing {
    pub fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second.max(1));
        Pacing { interval_us: 1_000_000 / per_second, burst: per_second, next_us: 0 }
    }

    /// The same rate as before brings no new burst: who reloads in the middle of a storm does not want another.
    pub fn set_rate(&mut self, per_second: u32) {
        let new = Pacing::new(per_second);
        if (new.interval_us, new.burst) != (self.interval_us, self.burst) {
            *self = new;
        }
    }

    /// How long from now, in milliseconds, the attempt must wait for its turn.
    pub fn turn(&mut self, now_ms: u64) -> u64 {
        let now_us = now_ms * 1000;
        let earliest = now_us.saturating_sub(self.burst * self.interval_us);
        let turn = self.next_us.max(earliest);
        self.next_us = turn + self.interval_us;
        turn.saturating_sub(now_us).div_ceil(1000)
    }
}

/// One open connection's share of the server. To be dropped under no pool's lock: another pool may get it.
#[derive(Debug)]
pub struct Permit(Option<Arc<ServerGate>>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.pass_on();
        }
    }
}

impl ServerGate {
    pub fn new(max_connections: usize, per_second: u32) -> Arc<Self> {
        let share = Share {
            max: max_connections,
            open: 0,
            starved: VecDeque::new(),
            short: VecDeque::new(),
            owed: 0,
        };
        Arc::new(ServerGate {
            share: Mutex::new(share),
            asked_from: AtomicUsize::new(NOBODY),
            pacing: Mutex::new(Pacing::new(per_second)),
        })
    }

    fn share(&self) -> MutexGuard<'_, Share<Weak<Pool>>> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        self.share().try_enter().then(|| Permit(Some(self.clone())))
    }

    /// This pool has no connection and somebody who waits for one: it is given the next that is to be had, in its turn.
    pub fn starves(&self, pool: Weak<Pool>, now_ms: u64) {
        self.waits_no_more(&pool);
        self.share().starved.push_back((pool, now_ms));
    }

    /// This pool has some connections and somebody who waits for another: it is given one when no pool starves.
    pub fn wants_more(&self, pool: Weak<Pool>) {
        self.share().short.push_back(pool);
    }

    pub fn waits_no_more(&self, pool: &Weak<Pool>) {
        let mut share = self.share();
        share.starved.retain(|(starved, _)| !starved.ptr_eq(pool));
        share.short.retain(|short| !short.ptr_eq(pool));
    }

    /// How many pools wait for a place.
    pub fn waiting_count(&self) -> usize {
        self.share().waiting()
    }

    /// A place is free: the first pool that waits and can use it gets it.
    fn pass_on(self: Arc<Self>) {
        loop {
            // A statement of its own: the lock is not held below.
            let next = self.share().leave();
            match next {
                None => return,
                Some(pool) if self.give(&pool) => return,
                Some(_) => {}
            }
        }
    }

    /// Gives places that are free to those who wait: the limit was raised.
    pub fn fill(self: &Arc<Self>) {
        loop {
            let next = self.share().enter_waiting();
            match next {
                None => return,
                Some(pool) if self.give(&pool) => {}
                Some(_) => return self.clone().pass_on(),
            }
        }
    }

    /// A place that is counted already. Returns whether it is used.
    fn give(self: &Arc<Self>, pool: &Weak<Pool>) -> bool {
        let Some(pool) = pool.upgrade() else { return false };
        let Err(mut permit) = pool.feed(Permit(Some(self.clone()))) else { return true };
        permit.0 = None;
        false
    }

    /// Called by a coarse tick: has the pools with many connections give some up when they come back.
    pub fn ask(&self, most: usize, now_ms: u64) {
        let from = self.share().ask(most, now_ms);
        self.asked_from.store(from, Ordering::Relaxed);
    }

    /// Whether a pool with so many connections is to close one that has come back, for a pool that has none or because
    /// the limit was lowered.
    pub fn asks_for_one(&self, open: usize) -> bool {
        open >= self.asked_from.load(Ordering::Relaxed) && self.share().claim()
    }

    pub fn excess(&self) -> usize {
        self.share().excess()
    }

    pub fn turn_ms(&self, now_ms: u64) -> u64 {
        self.pacing.lock().unwrap_or_else(PoisonError::into_inner).turn(now_ms)
    }

    pub fn set_limits(&self, max_connections: usize, per_second: u32) {
        self.share().max = max_connections;
        self.pacing.lock().unwrap_or_else(PoisonError::into_inner).set_rate(per_second);
    }

    pub fn max_connections(&self) -> usize {
        self.share().max
    }

    pub fn open_count(&self) -> usize {
        self.share().open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_a_second_is_free_and_the_rest_is_paced() {
        let mut pacing = Pacing::new(10);
        let now = 100_000;
        let free = (0..10).filter(|_| pacing.turn(now) == 0).count();
        assert_eq!(free, 10);
        assert_eq!(pacing.turn(now), 0, "the one due right now");
        assert_eq!(pacing.turn(now), 100);
        assert_eq!(pacing.turn(now), 200);
        assert_eq!(pacing.turn(now + 1000), 0);
    }

    #[test]
    fn a_reload_with_the_same_rate_is_no_reason_for_another_burst() {
        let mut pacing = Pacing::new(2);
        let now = 100_000;
        while pacing.turn(now) == 0 {}
        pacing.set_rate(2);
        assert_eq!(pacing.turn(now), 1000);
        pacing.set_rate(1000);
        assert_eq!(pacing.turn(now), 0, "it was raised");
    }

    #[test]
    fn a_closed_connection_makes_room() {
        let gate = ServerGate::new(1, 1);
        let permit = gate.try_enter();
        assert!(permit.is_some() && gate.try_enter().is_none());
        drop(permit);
        assert!(gate.try_enter().is_some());
    }

    fn share(max: usize) -> Share<usize> {
        Share { max, open: 0, starved: VecDeque::new(), short: VecDeque::new(), owed: 0 }
    }

    #[test]
    fn a_place_goes_to_the_starved_in_their_order_and_nobody_overtakes() {
        let mut share = share(1);
        assert!(share.try_enter());
        share.starved.extend([(7, 0), (8, 0)]);
        assert_eq!(share.leave(), Some(7));
        assert!(!share.try_enter(), "it is 7's");
        share.max = 3;
        assert!(!share.try_enter(), "8 is first");
        assert_eq!((share.enter_waiting(), share.enter_waiting()), (Some(8), None));
        assert!(share.try_enter());
        share.starved.push_back((9, 0));
        share.max = 1;
        assert_eq!((share.leave(), share.leave()), (None, None), "more are open than may be");
        assert_eq!((share.leave(), share.open), (Some(9), 1));
    }

    #[test]
    fn who_has_none_comes_before_who_has_too_few_and_nobody_else_is_asked_for_these() {
        let mut share = share(2);
        assert!(share.try_enter() && share.try_enter());
        share.short.push_back(7);
        assert_eq!(
            (share.ask(2, 90_000), share.claim()),
            (NOBODY, false),
            "what is lent is not taken for it"
        );
        share.starved.push_back((8, 0));
        assert_eq!((share.leave(), share.leave(), share.leave()), (Some(8), Some(7), None));
        share.short.push_back(9);
        assert!(!share.try_enter(), "it is 9's");
        assert_eq!((share.enter_waiting(), share.open), (Some(9), 2));
    }

    #[test]
    fn what_is_above_a_lowered_limit_is_asked_of_all_and_then_what_the_starved_need() {
        let mut share = share(3);
        assert!([(); 3].iter().all(|()| share.try_enter()));
        (share.max, share.starved) = (1, VecDeque::from([(7, 0)]));
        assert_eq!((share.excess(), share.ask(2, 0)), (2, 1));
        let closed = [(); 4].map(|()| share.claim().then(|| share.leave()));
        assert_eq!(closed, [Some(None), Some(None), Some(Some(7)), None]);
        assert_eq!((share.open, share.ask(1, 0)), (1, NOBODY));
    }

    #[test]
    fn the_largest_pool_is_asked_first_and_one_connection_for_each_who_starves() {
        let mut share = share(20);
        assert_eq!(share.ask(20, 0), NOBODY);
        share.starved.extend([(7, 1000), (8, 1100)]);
        let asked = |share: &mut Share<_>| [1000, 1199, 1200, 1400, 1900, 90_000].map(|at| share.ask(20, at));
        assert_eq!(asked(&mut share), [20, 20, 10, 5, 1, 1]);
        assert_eq!([(); 3].map(|()| share.claim()), [true, true, false]);
    }

    proptest::proptest! {
        #![proptest_config(crate::properties::properties())]

        /// As many pools as there are places would have one each; there are more, and all are always busy.
        #[test]
        fn every_pool_gets_its_turn(
            max in 1usize..6,
            more in 1usize..12,
            returns in proptest::collection::vec(0usize..1000, 400),
        ) {
            let pools = max + more;
            let mut share = share(max);
            let mut open = vec![0usize; pools];
            let mut since = vec![0u64; pools];
            let mut now = 0;
            for at in returns {
                now += ASKED_EVERY_MS;
                // Whoever is busiest asks first, and for all there is.
                for (pool, has) in open.iter_mut().enumerate() {
                    while share.try_enter() {
                        *has += 1;
                    }
                    if *has == 0 && !share.starved.iter().any(|(starved, _)| *starved == pool) {
                        share.starved.push_back((pool, now));
                    }
                }
                let from = share.ask(open.iter().copied().max().unwrap_or(0), now);
                // One connection comes back.
                let having: Vec<_> = (0..pools).filter(|pool| open[*pool] > 0).collect();
                let back = having[at % having.len()];
                if open[back] >= from && share.claim() {
                    open[back] -= 1;
                    since[back] = now;
                    if let Some(next) = share.leave() {
                        open[next] += 1;
                    }
                }
                proptest::prop_assert_eq!(open.iter().sum::<usize>(), share.open);
                proptest::prop_assert!(share.open <= max);
                for pool in (0..pools).filter(|pool| open[*pool] == 0) {
                    // All before it are served one by one, and each asks less and less of the others.
                    let bound = (pools as u64 + 1) * 5 * ASKED_EVERY_MS;
                    proptest::prop_assert!(now - since[pool] <= bound, "{} waits since {}", pool, since[pool]);
                }
            }
        }
    }
}
