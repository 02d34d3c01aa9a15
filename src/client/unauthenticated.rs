//! How many connections may be unauthenticated at a time, of one address and of all together.
//!
//! Owns the count. Invariant: a `Guard` is counted for exactly as long as it lives, whatever ends the handshake.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by all listeners. Who comes over a Unix socket is of no address, and counts among all together only.
#[derive(Debug)]
pub struct Unauthenticated {
    per_address: usize,
    in_all: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    in_all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One connection that has not proved who it is. Drop it when the handshake is over.
#[derive(Debug)]
#[must_use = "the connection is no longer counted once this is dropped"]
pub struct Guard {
    counts: Arc<Unauthenticated>,
    address: Option<IpAddr>,
}

impl Unauthenticated {
    pub fn new(per_address: usize, in_all: usize) -> Arc<Self> {
        Arc::new(Unauthenticated { per_address, in_all, counts: Mutex::default() })
    }

    /// None: there are as many as may be; the connection should be closed without an answer.
    pub fn admit(self: &Arc<Self>, address: impl Into<Option<IpAddr>>) -> Option<Guard> {
        let address = address.into().map(origin);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.in_all >= self.in_all {
            return None;
        }
        if let Some(address) = address {
            let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
            if of_address >= self.per_address {
                return None;
            }
            counts.by_address.insert(address, of_address + 1);
        }
        counts.in_all += 1;
        Some(Guard { counts: Arc::clone(self), address })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut counts = self.counts.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.in_all -= 1;
        if let Some(address) = self.address
            && let Entry::Occupied(mut count) = counts.by_address.entry(address)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What one machine can vary at will counts as one: the lower half of an IPv6 address.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_counted_while_its_guards_live() {
        let unauthenticated = Unauthenticated::new(2, 9);
        let admit = |address: &str| unauthenticated.admit(address.parse::<IpAddr>().unwrap());
        let first = admit("192.0.2.1").unwrap();
        let second = admit("::ffff:192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none());
        assert!(admit("192.0.2.2").is_some());
        drop(first);
        assert!(admit("192.0.2.1").is_some());
        assert_eq!(unauthenticated.counts.lock().unwrap().by_address.len(), 1);
        drop(second);
        assert!(
            unauthenticated.counts.lock().unwrap().by_address.is_empty(),
            "nothing is kept of who has left"
        );
    }

    #[test]
    fn one_ipv6_network_counts_as_one() {
        let unauthenticated = Unauthenticated::new(1, 9);
        let admit = |address: &str| unauthenticated.admit(address.parse::<IpAddr>().unwrap());
        let _guard = admit("2001:db8::1").unwrap();
        assert!(admit("2001:db8::2:3:4:5").is_none());
        assert!(admit("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn a_limit_of_zero_admits_nobody_and_remembers_nobody() {
        let unauthenticated = Unauthenticated::new(0, 9);
        assert!(unauthenticated.admit("192.0.2.1".parse::<IpAddr>().unwrap()).is_none());
        assert!(unauthenticated.counts.lock().unwrap().by_address.is_empty());
    }

    #[test]
    fn all_addresses_together_have_a_limit_too() {
        let unauthenticated = Unauthenticated::new(2, 3);
        let admit = |address: &str| unauthenticated.admit(address.parse::<IpAddr>().unwrap());
        let guards = ["192.0.2.1", "192.0.2.1", "192.0.2.2"].map(|address| admit(address).unwrap());
        assert!(admit("192.0.2.3").is_none());
        assert!(unauthenticated.admit(None).is_none());
        drop(guards);
        assert!(admit("192.0.2.3").is_some());
        let local = [(); 3].map(|()| unauthenticated.admit(None).unwrap());
        assert!(admit("192.0.2.3").is_none() && unauthenticated.admit(None).is_none());
        drop(local);
        let counts = unauthenticated.counts.lock().unwrap();
        assert_eq!((counts.in_all, counts.by_address.len()), (0, 0));
    }
}
