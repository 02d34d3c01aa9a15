//! A session's place in a pool's queue.
//!
//! Invariant: a connection delivered to a waiter that leaves is given back by whoever sees it last;
//! none is lost between the two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::AcquireError;
use super::book::Waiting;
use crate::backend::ServerConn;

#[derive(Debug)]
pub struct Waiter {
    since_ms: AtomicU64,
    seat: Mutex<Seat>,
}

#[derive(Debug)]
enum Seat {
    Waiting(Option<Waker>),
    Served(Result<Box<ServerConn>, AcquireError>),
    Gone,
}

impl Waiter {
    pub fn new() -> Arc<Self> {
        Arc::new(Waiter { since_ms: AtomicU64::new(0), seat: Mutex::new(Seat::Gone) })
    }

    /// Takes a seat. Only for a waiter that stands in no queue.
    pub fn begin(&self, since_ms: u64) {
        self.since_ms.store(since_ms, Ordering::Relaxed);
        *self.seat() = Seat::Waiting(None);
    }

    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Box<ServerConn>, AcquireError>> {
        let mut seat = self.seat();
        match std::mem::replace(&mut *seat, Seat::Gone) {
            Seat::Served(result) => Poll::Ready(result),
            Seat::Waiting(waker) => {
                let waker = waker.filter(|waker| waker.will_wake(cx.waker()));
                *seat = Seat::Waiting(Some(waker.unwrap_or_else(|| cx.waker().clone())));
                Poll::Pending
            }
            Seat::Gone => Poll::Pending,
        }
    }

    /// Leaves the queue; returns the connection if one had been delivered.
    pub fn leave(&self) -> Option<Box<ServerConn>> {
        match std::mem::replace(&mut *self.seat(), Seat::Gone) {
            Seat::Served(Ok(conn)) => Some(conn),
            _ => None,
        }
    }

    fn serve(&self, result: Result<Box<ServerConn>, AcquireError>) -> Result<(), Box<ServerConn>> {
        let mut seat = self.seat();
        match &mut *seat {
            Seat::Waiting(waker) => {
                let waker = waker.take();
                *seat = Seat::Served(result);
                drop(seat);
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(())
            }
            Seat::Served(_) | Seat::Gone => result.map_or(Ok(()), Err),
        }
    }

    pub fn fail(&self, error: AcquireError) {
        let refused = self.serve(Err(error));
        debug_assert!(refused.is_ok(), "an error is never handed back");
    }
}

impl Waiting<Box<ServerConn>> for Arc<Waiter> {
    fn deliver(&self, conn: Box<ServerConn>) -> Result<(), Box<ServerConn>> {
        self.serve(Ok(conn))
    }

    fn since_ms(&self) -> u64 {
        self.since_ms.load(Ordering::Relaxed)
    }

    fn is_gone(&self) -> bool {
        matches!(*self.seat(), Seat::Gone)
    }
}
