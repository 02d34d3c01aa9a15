//! The bookkeeping of one pool: who is idle, who waits, how many there are.
//!
//! Pure: a plain struct under its owner's short lock, no await and no clock. Generic over connection
//! and waiter, so that it can be tested without either. Invariant: `open` counts every connection that
//! is idle, leased or being opened, exactly once.

use std::collections::VecDeque;

use crate::config::PoolLimits;

/// So many are opened at a time while there are no more than that. A server that is dialled by all who wait at once, after a
/// failover for one, serves nobody before it has let in all of them; of the first few everybody is served sooner.
const FIRST: usize = 4;

/// Somebody in the queue. Delivery can fail because the waiter has left meanwhile.
pub trait Waiting<C> {
    fn deliver(&self, conn: C) -> Result<(), C>;
    fn since_ms(&self) -> u64;
    fn is_gone(&self) -> bool;
}

#[derive(Debug)]
pub struct Book<C, W> {
    idle: Vec<C>,
    waiters: VecDeque<W>,
    open: usize,
    opening: usize,
    /// How many have left since those who had were last taken out of the queue.
    left: usize,
}

impl<C, W> Default for Book<C, W> {
    fn default() -> Self {
        Book { idle: Vec::new(), waiters: VecDeque::new(), open: 0, opening: 0, left: 0 }
    }
}

impl<C, W: Waiting<C>> Book<C, W> {
    /// The most recently used idle connection, or a better fitting one among the last few.
    pub fn take_idle(&mut self, fits: impl Fn(&C) -> bool) -> Option<C> {
        // Further down the fit is not worth the search; the connection is adapted instead.
        const LOOKED_AT: usize = 8;
        let newest = self.idle.len().checked_sub(1)?;
        let oldest = self.idle.len().saturating_sub(LOOKED_AT);
        let at = (oldest..=newest).rev().find(|&i| fits(&self.idle[i])).unwrap_or(newest);
        Some(self.idle.remove(at))
    }

    pub fn take_oldest_idle(&mut self) -> Option<C> {
        (!self.idle.is_empty()).then(|| self.idle.remove(0))
    }

    pub fn enqueue(&mut self, waiter: W) {
        self.waiters.push_back(waiter);
    }

    /// One of those who wait has left. They stay in the queue until their turn, but never make up most of it: it is
    /// looked through often.
    pub fn left(&mut self) {
        self.left += 1;
        if self.left > self.waiters.len() / 2 {
            self.waiters.retain(|waiter| !waiter.is_gone());
            self.left = 0;
        }
    }

    /// Hands a usable connection to the first who still waits, else keeps it.
    pub fn give_back(&mut self, mut conn: C) {
        while let Some(waiter) = self.waiters.pop_front() {
            match waiter.deliver(conn) {
                Ok(()) => return,
                Err(back) => conn = back,
            }
        }
        self.idle.push(conn);
    }

    /// How many connections should be opened now for those who wait: as many at a time as there are. The reserve counts
    /// only once the first of them has waited long.
    pub fn wanted(&mut self, limits: &PoolLimits, now_ms: u64) -> usize {
        while self.waiters.front().is_some_and(Waiting::is_gone) {
            self.waiters.pop_front();
        }
        let Some(first) = self.waiters.front() else { return 0 };
        let waited = now_ms.saturating_sub(first.since_ms());
        let size = limits.size + if waited >= limits.reserve_after_ms { limits.reserve } else { 0 };
        let room = size.saturating_sub(self.open);
        let at_a_time = FIRST.max(self.open - self.opening);
        let room = room.min(at_a_time.saturating_sub(self.opening));
        let waiting = self.waiting().take(room + self.opening).count();
        waiting.saturating_sub(self.opening).min(room)
    }

    /// How many are open above what the limits allow; the reserve counts as in `wanted`.
    pub fn excess(&mut self, limits: &PoolLimits, now_ms: u64) -> usize {
        while self.waiters.front().is_some_and(Waiting::is_gone) {
            self.waiters.pop_front();
        }
        let waited = self.waiters.front().map(|first| now_ms.saturating_sub(first.since_ms()));
        let reserve =
            if waited.is_some_and(|waited| waited >= limits.reserve_after_ms) { limits.reserve } else { 0 };
        self.open.saturating_sub(limits.size + reserve)
    }

    /// How many to open to keep `limits.min`.
    pub fn below_minimum(&self, limits: &PoolLimits) -> usize {
        limits.min.min(limits.size).saturating_sub(self.open)
    }

    pub fn opening(&mut self) {
        self.open += 1;
        self.opening += 1;
    }

    pub fn opened(&mut self) {
        self.opening -= 1;
    }

    pub fn opening_failed(&mut self) {
        self.opening -= 1;
        self.open -= 1;
    }

    /// A connection left for good.
    pub fn closed(&mut self) {
        self.open -= 1;
    }

    pub fn all_waiters(&mut self) -> VecDeque<W> {
        std::mem::take(&mut self.waiters)
    }

    /// Takes out the idle connections that `expired` names, oldest first, but keeps `keep` of them.
    pub fn expire(&mut self, keep: usize, expired: impl Fn(&C) -> bool) -> Vec<C> {
        let mut out = Vec::new();
        let mut i = 0;
        while i < self.idle.len() {
            if self.open - out.len() > keep && expired(&self.idle[i]) {
                out.push(self.idle.remove(i));
            } else {
                i += 1;
            }
        }
        self.open -= out.len();
        out
    }

    pub fn idle(&self) -> impl Iterator<Item = &C> {
        self.idle.iter()
    }

    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    pub fn open_count(&self) -> usize {
        self.open
    }

    pub fn opening_count(&self) -> usize {
        self.opening
    }

    pub fn waiting_since_ms(&self) -> Option<u64> {
        self.waiting().next().map(Waiting::since_ms)
    }

    /// Without those who have left.
    fn waiting(&self) -> impl Iterator<Item = &W> {
        self.waiters.iter().filter(|waiter| !waiter.is_gone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PoolMode;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    #[derive(Default)]
    struct Seat {
        got: RefCell<Option<u32>>,
        gone: Cell<bool>,
        since: u64,
        looks: Cell<usize>,
    }

    impl Waiting<u32> for Rc<Seat> {
        fn deliver(&self, conn: u32) -> Result<(), u32> {
            if self.gone.get() {
                return Err(conn);
            }
            *self.got.borrow_mut() = Some(conn);
            Ok(())
        }
        fn since_ms(&self) -> u64 {
            self.since
        }
        fn is_gone(&self) -> bool {
            self.looks.set(self.looks.get() + 1);
            self.gone.get()
        }
    }

    fn limits(size: usize, min: usize, reserve: usize) -> PoolLimits {
        PoolLimits { mode: PoolMode::Transaction, size, min, reserve, reserve_after_ms: 1000 }
    }

    fn opened(book: &mut Book<u32, Rc<Seat>>, conn: u32) {
        book.opening();
        book.opened();
        book.give_back(conn);
    }

    #[test]
    fn those_who_wait_are_served_in_order_and_those_who_left_are_passed_over() {
        let mut book = Book::default();
        let seats: Vec<_> = (0..3).map(|_| Rc::new(Seat::default())).collect();
        seats.iter().for_each(|seat| book.enqueue(seat.clone()));
        seats[0].gone.set(true);
        opened(&mut book, 1);
        opened(&mut book, 2);
        opened(&mut book, 3);
        assert_eq!(*seats[0].got.borrow(), None);
        assert_eq!(*seats[1].got.borrow(), Some(1));
        assert_eq!(*seats[2].got.borrow(), Some(2));
        assert_eq!((book.idle_count(), book.open_count()), (1, 3));
    }

    #[test]
    fn the_newest_is_reused_unless_another_fits() {
        let mut book: Book<u32, Rc<Seat>> = Book::default();
        (1..=3).for_each(|conn| opened(&mut book, conn));
        assert_eq!(book.take_idle(|&conn| conn == 2), Some(2));
        assert_eq!(book.take_idle(|_| false), Some(3));
    }

    #[test]
    fn no_more_are_opened_than_wait_and_than_fit() {
        let mut book: Book<u32, Rc<Seat>> = Book::default();
        for _ in 0..5 {
            book.enqueue(Rc::new(Seat { since: 0, ..Seat::default() }));
        }
        assert_eq!(book.wanted(&limits(3, 0, 1), 10), 3);
        (0..3).for_each(|_| book.opening());
        assert_eq!(book.wanted(&limits(3, 0, 1), 10), 0);
        assert_eq!(book.wanted(&limits(3, 0, 1), 1000), 1, "the reserve, after a long wait");
        book.opening_failed();
        assert_eq!(book.wanted(&limits(3, 0, 0), 10), 1);
    }

    #[test]
    fn those_who_wait_for_a_pool_that_has_none_are_served_by_a_few_first() {
        let mut book: Book<u32, Rc<Seat>> = Book::default();
        let seats: Vec<_> = (0..30).map(|_| Rc::new(Seat::default())).collect();
        seats.iter().for_each(|seat| book.enqueue(seat.clone()));
        let limits = limits(20, 0, 0);
        let mut at_a_time = Vec::new();
        loop {
            let wanted = book.wanted(&limits, 10);
            (0..wanted).for_each(|_| book.opening());
            assert_eq!(book.wanted(&limits, 10), 0);
            if wanted == 0 {
                break;
            }
            at_a_time.push(wanted);
            for conn in 0..wanted {
                book.opened();
                book.give_back(conn as u32);
            }
        }
        assert_eq!(at_a_time, [4, 4, 8, 4]);
    }

    #[test]
    fn for_those_who_left_nothing_is_opened_wherever_they_stood() {
        let mut book: Book<u32, Rc<Seat>> = Book::default();
        let seats: Vec<_> = (0..4).map(|_| Rc::new(Seat::default())).collect();
        seats.iter().for_each(|seat| book.enqueue(seat.clone()));
        seats[1].gone.set(true);
        seats[3].gone.set(true);
        assert_eq!(book.wanted(&limits(9, 0, 0), 10), 2);
        book.opening();
        assert_eq!(book.wanted(&limits(9, 0, 0), 10), 1);
        seats[0].gone.set(true);
        assert_eq!(book.wanted(&limits(9, 0, 0), 10), 0);
    }

    #[test]
    fn the_queue_is_not_looked_through_for_each_who_leaves() {
        const MANY: usize = 20_000;
        let mut book: Book<u32, Rc<Seat>> = Book::default();
        let seats: Vec<_> = (0..MANY).map(|_| Rc::new(Seat::default())).collect();
        seats.iter().for_each(|seat| book.enqueue(seat.clone()));
        for (at, seat) in seats.iter().enumerate().skip(1) {
            seat.gone.set(true);
            book.left();
            assert!(book.waiters.len() <= 2 * (MANY - at), "{at}");
        }
        assert_eq!(book.waiters.len(), 1);
        let looks: usize = seats.iter().map(|seat| seat.looks.get()).sum();
        assert!(looks < 20 * MANY, "{looks}");
        opened(&mut book, 1);
        assert_eq!(*seats[0].got.borrow(), Some(1));
    }

    #[test]
    fn what_is_above_the_limits_is_excess() {
        let mut book: Book<u32, Rc<Seat>> = Book::default();
        (1..=4).for_each(|conn| opened(&mut book, conn));
        assert_eq!(book.excess(&limits(4, 0, 0), 0), 0);
        assert_eq!(book.excess(&limits(2, 0, 1), 2000), 2);
        book.enqueue(Rc::new(Seat { since: 0, ..Seat::default() }));
        assert_eq!(book.excess(&limits(2, 0, 1), 2000), 1, "the reserve serves who waits long");
    }

    #[test]
    fn expiry_keeps_the_minimum() {
        let mut book: Book<u32, Rc<Seat>> = Book::default();
        (1..=4).for_each(|conn| opened(&mut book, conn));
        assert_eq!(book.expire(3, |_| true), vec![1]);
        assert_eq!(book.open_count(), 3);
        assert_eq!(book.below_minimum(&limits(10, 5, 0)), 2);
    }
}
