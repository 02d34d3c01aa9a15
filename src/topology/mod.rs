//! The cluster as the data path sees it: an immutable snapshot, replaced whole.
//!
//! Pure. Owns `Snapshot` and the numbers in it. Never decides: `cluster` publishes,
//! `route` and `pool` borrow. Invariant: a snapshot names at most one primary, with its epoch.

mod register;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use register::Register;

/// A position in the write-ahead log, as PostgreSQL's `pg_lsn`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a log position: expected two hexadecimal numbers as in 16/B374D848")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let part = |digits: &str| match digits.len() {
            1..=8 => u32::from_str_radix(digits, 16).map_err(|_| ParseLsnError),
            _ => Err(ParseLsnError),
        };
        Ok(Lsn(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

/// Raised each time the cluster gets a primary; connections and floors carry it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Epoch(pub u64);

/// A server at one address, as long as this process lives: one that comes or goes changes no other's, and one that moves
/// gets another. It is no position in `Snapshot::servers`; [`Register`] gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerIndex(pub u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary,
    Standby,
    /// Not known yet, or not for a while: neither healthy nor dead.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Up,
    /// Failed `health.retries` looks in a row.
    Down,
    /// Not looked at yet.
    Unknown,
}

/// Whether work may begin on a server, and go on, as far as that is ordered and no other role or health says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admission {
    #[default]
    Open,
    /// What begins waits.
    Paused,
    /// What begins goes elsewhere.
    Withdrawn,
    /// What is still under way is ended.
    Closed,
}

/// One server as last observed.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerState {
    pub index: ServerIndex,
    pub id: Arc<str>,
    pub host: Arc<str>,
    pub port: u16,
    pub weight: u32,
    pub zone: Option<Arc<str>>,
    pub role: Role,
    pub health: Health,
    pub timeline: u32,
    /// Standby: replayed so far. Primary: inserted so far.
    pub lsn: Lsn,
    /// Standby: bytes of WAL not yet replayed; `None`: not known.
    pub lag_bytes: Option<u64>,
    /// Standby: age in milliseconds of what it has replayed; `None`: not known.
    pub lag_ms: Option<u64>,
    /// When this server was last seen to be as stated, in milliseconds of the process's monotonic clock.
    pub observed_at_ms: u64,
    /// Why it is not used, or the empty string.
    pub reason: Arc<str>,
    pub admission: Admission,
}

impl ServerState {
    pub fn is_up(&self, role: Role) -> bool {
        self.health == Health::Up && self.role == role
    }
}

/// The whole cluster at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    pub epoch: Epoch,
    /// `None`: nobody is known to be the primary; writes wait.
    pub primary: Option<ServerIndex>,
    pub servers: Vec<ServerState>,
}

impl Snapshot {
    /// None: it is not, or no longer, one of the cluster's.
    pub fn server(&self, index: ServerIndex) -> Option<&ServerState> {
        self.position(index).map(|position| &self.servers[position])
    }

    /// Whether what would begin on that server waits.
    pub fn is_paused(&self, index: ServerIndex) -> bool {
        self.server(index).is_some_and(|server| server.admission == Admission::Paused)
    }

    /// Where in `servers` it is.
    pub fn position(&self, index: ServerIndex) -> Option<usize> {
        // Where it is as long as no server has gone.
        let usual = usize::from(index.0);
        match self.servers.get(usual) {
            Some(server) if server.index == index => Some(usual),
            _ => self.servers.iter().position(|server| server.index == index),
        }
    }

    pub fn primary_server(&self) -> Option<&ServerState> {
        self.server(self.primary?)
    }

    pub fn indexed(&self) -> impl Iterator<Item = (ServerIndex, &ServerState)> {
        self.servers.iter().map(|server| (server.index, server))
    }

    /// Standbys that are up, whatever their lag.
    pub fn standbys(&self) -> impl Iterator<Item = (ServerIndex, &ServerState)> {
        self.indexed().filter(|(_, s)| s.is_up(Role::Standby))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_reads_what_it_prints() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "/", "1", "1/", "1/123456789", "g/0", "1/2/3"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
