//! Where a server's name leads, asked again and again beside the looks, so that a slow resolver delays none of them.
//!
//! Never decides what follows. Invariant: what is known is the last answer that had an address in it; no answer is none.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::Settings;

#[derive(Debug, Clone, Default)]
pub(super) struct LeadsTo(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The addresses of one name, sorted; none: not known, or not asked for.
    addresses: Mutex<Vec<IpAddr>>,
    moved: Notify,
}

impl LeadsTo {
    /// Whether the name surely does not lead to that address.
    pub fn excludes(&self, peer: SocketAddr) -> bool {
        let known = self.addresses();
        !known.is_empty() && !known.contains(&peer.ip())
    }

    /// Until it leads elsewhere than it did.
    pub async fn moved(&self) {
        self.0.moved.notified().await;
    }

    /// Somebody was reached there by the name, so that it leads there as well.
    pub fn reached(&self, peer: SocketAddr) {
        let mut known = self.addresses();
        if !known.is_empty() && !known.contains(&peer.ip()) {
            known.push(peer.ip());
        }
    }

    fn set(&self, addresses: Vec<IpAddr>) -> bool {
        let mut known = self.addresses();
        let (is_first, is_new) = (known.is_empty(), *known != addresses);
        *known = addresses;
        if is_new && !is_first {
            self.0.moved.notify_waiters();
        }
        is_new
    }

    fn addresses(&self) -> MutexGuard<'_, Vec<IpAddr>> {
        self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the name as long as it is polled, where a service moves names; `wake` is told when it leads elsewhere.
pub(super) async fn follow(
    (host, port): (&str, u16),
    settings: watch::Receiver<Arc<Settings>>,
    leads_to: &LeadsTo,
    wake: &Notify,
) {
    loop {
        let settings = settings.borrow().clone();
        if settings.mode.is_managed() && !host.starts_with('/') {
            let within = Duration::from_millis(settings.health.connect_timeout_ms);
            // Where nobody answers, or a name has no address for now, nothing is known to have moved.
            if let Ok(Ok(found)) = timeout(within, settings.tls.names().resolve(host, port)).await
                && !found.is_empty()
            {
                let mut addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
                addresses.sort_unstable();
                if leads_to.set(addresses) {
                    wake.notify_one();
                }
            }
        }
        sleep(Duration::from_millis(settings.health.period_ms)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_excludes() {
        let leads_to = LeadsTo::default();
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 5432);
        assert!(!leads_to.excludes(at("10.0.0.1")));
        assert!(leads_to.set(vec!["10.0.0.1".parse().unwrap()]));
        assert!(!leads_to.set(vec!["10.0.0.1".parse().unwrap()]), "nothing new");
        assert!(!leads_to.excludes(at("10.0.0.1")) && leads_to.excludes(at("10.0.0.2")));
        leads_to.reached(at("10.0.0.2"));
        assert!(!leads_to.excludes(at("10.0.0.2")));
    }
}
