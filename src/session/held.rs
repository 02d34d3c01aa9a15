//! Clients that wait for a primary: how many, with how much that was read from them, and for how long each may.
//!
//! A request and a login wait alike. Pure but for the counts, which are shared. Invariant: a client is counted from the
//! moment it must wait until it is served, refused or gone, and who has proved nothing yet takes no place of those who
//! have.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Limits;

/// All that wait now.
#[derive(Debug, Default)]
pub struct HeldClients {
    known: AtomicUsize,
    /// Have proved nothing yet. They are bounded with all of whom that is so, and not here.
    strangers: AtomicUsize,
    /// What has been read from them.
    bytes: AtomicUsize,
}

impl HeldClients {
    pub fn count(&self) -> usize {
        self.known.load(Ordering::Relaxed) + self.strangers.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn of(&self, is_stranger: bool) -> &AtomicUsize {
        if is_stranger { &self.strangers } else { &self.known }
    }

    fn enter(self: &Arc<Self>, is_stranger: bool, bytes: usize, limits: &Limits) -> Result<Held, Impatience> {
        let max = if is_stranger { usize::MAX } else { limits.max_held_clients };
        let max_bytes = limits.max_held_bytes;
        add(self.of(is_stranger), 1, max).ok_or(Impatience::TooMany { max })?;
        let mut held = Held { clients: self.clone(), is_stranger, bytes: 0 };
        add(&self.bytes, bytes, max_bytes).ok_or(Impatience::OutOfRoom { max: max_bytes })?;
        held.bytes = bytes;
        Ok(held)
    }
}

/// Unless it would be more than may be.
fn add(sum: &AtomicUsize, more: usize, max: usize) -> Option<usize> {
    let added = |sum: usize| sum.checked_add(more).filter(|sum| *sum <= max);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added).ok()
}

/// One of them, as long as it lives.
#[derive(Debug)]
struct Held {
    clients: Arc<HeldClients>,
    is_stranger: bool,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clients.of(self.is_stranger).fetch_sub(1, Ordering::Relaxed);
        self.clients.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What one client has waited so far.
#[derive(Debug, Default)]
pub struct Patience {
    is_stranger: bool,
    held: Option<(Held, u64)>,
}

/// Why it does not wait any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impatience {
    TooLong {
        ms: u64,
    },
    TooMany {
        max: usize,
    },
    /// Bytes.
    OutOfRoom {
        max: usize,
    },
}

impl Patience {
    /// Of one who has proved nothing yet.
    pub fn of_stranger() -> Self {
        Patience { is_stranger: true, held: None }
    }

    /// There is no primary to be had at this moment. An error: there was none for too long. `bytes` is what the client
    /// occupies while it waits.
    pub fn hold(
        &mut self,
        clients: &Arc<HeldClients>,
        limits: &Limits,
        bytes: usize,
        now_ms: u64,
    ) -> Result<(), Impatience> {
        let too_long = Impatience::TooLong { ms: limits.hold_timeout_ms };
        let since_ms = match &self.held {
            Some((_, since_ms)) => *since_ms,
            None if limits.hold_timeout_ms == 0 => return Err(too_long),
            None => {
                self.held = Some((clients.enter(self.is_stranger, bytes, limits)?, now_ms));
                now_ms
            }
        };
        if now_ms >= since_ms + limits.hold_timeout_ms { Err(too_long) } else { Ok(()) }
    }

    /// When it ends; `None`: it has not begun.
    pub fn ends_at_ms(&self, limits: &Limits) -> Option<u64> {
        self.held.as_ref().map(|(_, since_ms)| since_ms + limits.hold_timeout_ms)
    }
}

impl Impatience {
    /// `what` it was that waited, and `why` there was nobody to serve it.
    pub fn message(self, what: &str, why: impl fmt::Display) -> String {
        match self {
            Impatience::TooLong { ms } => format!("no server could take the {what} within {ms} ms: {why}"),
            Impatience::TooMany { max } => {
                format!("no server can take the {what} now: {why}; and {max} clients wait already")
            }
            Impatience::OutOfRoom { max } => format!(
                "no server can take the {what} now: {why}; and it is too long to wait beside what waits already, with {max} bytes at most (limits.max_held_bytes)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(hold_timeout_ms: u64, max_held_clients: usize) -> Limits {
        Limits {
            peer_gone_after_ms: 45_000,
            hold_timeout_ms,
            max_held_clients,
            max_held_bytes: 100,
            max_client_connections: 1,
            max_unauthenticated_per_address: 1,
            startup_timeout_ms: 1,
            client_idle_timeout_ms: 0,
            idle_in_transaction_timeout_ms: 0,
            shutdown_timeout_ms: 0,
            max_message_bytes: 1,
            max_inspected_statement_bytes: 1,
            max_prepared_statements_per_session: 1,
            max_prepared_bytes_per_session: 1,
        }
    }

    #[test]
    fn a_client_waits_its_time_and_no_more_of_them_than_may() {
        let (clients, limits) = (Arc::default(), limits(100, 1));
        let (mut first, mut second) = (Patience::default(), Patience::default());
        assert_eq!(first.hold(&clients, &limits, 60, 10), Ok(()));
        assert_eq!(first.hold(&clients, &limits, 60, 109), Ok(()));
        assert_eq!((clients.count(), first.ends_at_ms(&limits)), (1, Some(110)));
        assert_eq!(second.hold(&clients, &limits, 60, 50), Err(Impatience::TooMany { max: 1 }));
        assert_eq!(first.hold(&clients, &limits, 60, 110), Err(Impatience::TooLong { ms: 100 }));
        drop(first);
        assert_eq!(second.hold(&clients, &limits, 60, 200), Ok(()));
        drop(second);
        assert_eq!((clients.count(), clients.bytes()), (0, 0));
    }

    #[test]
    fn who_has_proved_nothing_takes_no_place() {
        let (clients, limits) = (Arc::default(), limits(100, 1));
        let mut strangers = [Patience::of_stranger(), Patience::of_stranger()];
        let mut known = Patience::default();
        for patience in strangers.iter_mut().chain([&mut known]) {
            assert_eq!(patience.hold(&clients, &limits, 0, 10), Ok(()));
        }
        assert_eq!(clients.count(), 3);
        assert_eq!(strangers[0].hold(&clients, &limits, 0, 110), Err(Impatience::TooLong { ms: 100 }));
        drop(strangers);
        assert_eq!(clients.count(), 1);
    }

    #[test]
    fn what_waits_has_no_more_bytes_together_than_it_may() {
        let (clients, limits) = (Arc::default(), limits(100, 9));
        let (mut first, mut second, mut third) =
            (Patience::default(), Patience::default(), Patience::default());
        assert_eq!(first.hold(&clients, &limits, 60, 10), Ok(()));
        assert_eq!(second.hold(&clients, &limits, 41, 10), Err(Impatience::OutOfRoom { max: 100 }));
        assert_eq!(third.hold(&clients, &limits, 40, 10), Ok(()));
        assert_eq!((clients.count(), clients.bytes()), (2, 100), "who was refused left nothing behind");
        assert_eq!(first.hold(&clients, &limits, 60, 20), Ok(()), "counted once");
        drop(first);
        assert_eq!(second.hold(&clients, &limits, 41, 10), Ok(()));
        drop((second, third));
        assert_eq!((clients.count(), clients.bytes()), (0, 0));
    }

    #[test]
    fn without_time_to_wait_nobody_does() {
        let mut patience = Patience::default();
        let refused = patience.hold(&Arc::default(), &limits(0, 9), 60, 10);
        assert_eq!(refused, Err(Impatience::TooLong { ms: 0 }));
    }
}
