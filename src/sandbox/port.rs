//! Free TCP ports on 127.0.0.1, reserved across processes.
//!
//! Owns the choice of a port. Invariant: no two live `ReservedPort`s of one machine and user are
//! equal, even while nothing listens on them, so a stopped server can start again where it was.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use super::private;

/// Below Linux's ephemeral range (32768 and up), where any outgoing connection could take the port
/// of a stopped server.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    /// Its lock is the reservation.
    _lock: File,
}

impl ReservedPort {
    pub fn any() -> io::Result<Self> {
        let directory = private::directory("komainu-ports")?;
        let span = LAST - FIRST;
        let mut seed = [0_u8; 2];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| io::Error::other("no randomness"))?;
        let start = u16::from_ne_bytes(seed) % span;
        for step in 0..span {
            let number = FIRST + (start + step) % span;
            let lock = File::create(directory.join(number.to_string()))?;
            if lock.try_lock().is_ok() && is_free(number) {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no free port from {FIRST} to {LAST}")))
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Whether nothing listens on this port of 127.0.0.1.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn reserved_ports_differ() {
        let ports: Vec<_> = (0..50).map(|_| ReservedPort::any().unwrap()).collect();
        let numbers: HashSet<_> = ports.iter().map(ReservedPort::number).collect();
        assert_eq!(numbers.len(), ports.len());
    }
}
