//! What one server can be asked of by all its pools together: connections in all, and new ones a second.
//!
//! Invariant: a permit is held by every open connection to the server, and given back by its drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub struct ServerGate {
    max_connections: AtomicUsize,
    open: AtomicUsize,
    pacing: Mutex<Pacing>,
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

    /// How long from now, in milliseconds, the attempt must wait for its turn.
    pub fn turn(&mut self, now_ms: u64) -> u64 {
        let now_us = now_ms * 1000;
        let earliest = now_us.saturating_sub(self.burst * self.interval_us);
        let turn = self.next_us.max(earliest);
        self.next_us = turn + self.interval_us;
        turn.saturating_sub(now_us).div_ceil(1000)
    }
}

/// One open connection's share of the server.
#[derive(Debug)]
pub struct Permit(Arc<ServerGate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ServerGate {
    pub fn new(max_connections: usize, per_second: u32) -> Arc<Self> {
        Arc::new(ServerGate {
            max_connections: AtomicUsize::new(max_connections),
            open: AtomicUsize::new(0),
            pacing: Mutex::new(Pacing::new(per_second)),
        })
    }

    pub fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max_connections.load(Ordering::Relaxed);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < max).then_some(open + 1))
            .ok()?;
        Some(Permit(self.clone()))
    }

    pub fn turn_ms(&self, now_ms: u64) -> u64 {
        self.pacing.lock().unwrap_or_else(PoisonError::into_inner).turn(now_ms)
    }

    pub fn set_limits(&self, max_connections: usize, per_second: u32) {
        self.max_connections.store(max_connections, Ordering::Relaxed);
        *self.pacing.lock().unwrap_or_else(PoisonError::into_inner) = Pacing::new(per_second);
    }

    pub fn is_full(&self) -> bool {
        self.open_count() >= self.max_connections()
    }

    pub fn max_connections(&self) -> usize {
        self.max_connections.load(Ordering::Relaxed)
    }

    pub fn open_count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
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
    fn a_closed_connection_makes_room() {
        let gate = ServerGate::new(1, 1);
        let permit = gate.try_enter();
        assert!(permit.is_some() && gate.try_enter().is_none());
        drop(permit);
        assert!(gate.try_enter().is_some());
    }
}
