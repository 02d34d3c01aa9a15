//! Clients that wait for a primary: how many, and for how long each may.
//!
//! A request and a login wait alike. Pure but for the count, which is shared. Invariant: a client is counted from the
//! moment it must wait until it is served, refused or gone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Limits;

/// All that wait now.
#[derive(Debug, Default)]
pub struct HeldClients(AtomicUsize);

impl HeldClients {
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>, max: usize) -> Option<Held> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1))
            .ok()?;
        Some(Held(self.clone()))
    }
}

/// One of them, as long as it lives.
#[derive(Debug)]
struct Held(Arc<HeldClients>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one client has waited so far.
#[derive(Debug, Default)]
pub struct Patience {
    held: Option<(Held, u64)>,
}

/// Why it does not wait any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impatience {
    TooLong { ms: u64 },
    TooMany { max: usize },
}

impl Patience {
    /// There is no primary to be had at this moment. An error: there was none for too long.
    pub fn hold(
        &mut self,
        clients: &Arc<HeldClients>,
        limits: &Limits,
        now_ms: u64,
    ) -> Result<(), Impatience> {
        let too_long = Impatience::TooLong { ms: limits.hold_timeout_ms };
        let since_ms = match &self.held {
            Some((_, since_ms)) => *since_ms,
            None if limits.hold_timeout_ms == 0 => return Err(too_long),
            None => {
                let max = limits.max_held_clients;
                let held = clients.enter(max).ok_or(Impatience::TooMany { max })?;
                self.held = Some((held, now_ms));
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(hold_timeout_ms: u64, max_held_clients: usize) -> Limits {
        Limits {
            hold_timeout_ms,
            max_held_clients,
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
        assert_eq!(first.hold(&clients, &limits, 10), Ok(()));
        assert_eq!(first.hold(&clients, &limits, 109), Ok(()));
        assert_eq!((clients.count(), first.ends_at_ms(&limits)), (1, Some(110)));
        assert_eq!(second.hold(&clients, &limits, 50), Err(Impatience::TooMany { max: 1 }));
        assert_eq!(first.hold(&clients, &limits, 110), Err(Impatience::TooLong { ms: 100 }));
        drop(first);
        assert_eq!(second.hold(&clients, &limits, 200), Ok(()));
        drop(second);
        assert_eq!(clients.count(), 0);
    }

    #[test]
    fn without_time_to_wait_nobody_does() {
        let mut patience = Patience::default();
        let refused = patience.hold(&Arc::default(), &limits(0, 9), 10);
        assert_eq!(refused, Err(Impatience::TooLong { ms: 0 }));
    }
}
