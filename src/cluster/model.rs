//! The words of the control flow: what was asked, what was answered, and what it is taken to mean.
//!
//! Pure. Invariant: facts are what a server said, with the time it was asked; a `View` is what we
//! conclude, and only `primary::next` makes a new one.

use std::sync::Arc;

use crate::config;
use crate::topology::{Health, Lsn, Role, ServerState, Snapshot};

use super::reason::Reason;

/// What one server said of itself, in one round trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When the question was sent: whatever the server says was true no earlier, so a bound built on
    /// it is safe however long the answer took.
    pub asked_at_ms: u64,
    pub answered_at_ms: u64,
    pub in_recovery: bool,
    pub timeline: u32,
    /// Primary: inserted so far. Standby: replayed so far.
    pub lsn: Lsn,
    /// Standby: received and flushed so far.
    pub received_lsn: Option<Lsn>,
    /// Standby: age of what it has replayed.
    pub replay_lag_ms: Option<u64>,
    pub system_identifier: u64,
    /// As `server_version_num`: 150004 is 15.4.
    pub version: u32,
    /// Standby: its WAL receiver, if one runs.
    pub receiver: Option<Receiver>,
    /// Those that stream from this server.
    pub senders: Vec<Sender>,
}

/// A row of `pg_stat_wal_receiver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    pub status: String,
    /// The `application_name` under which it appears in its primary's `pg_stat_replication`.
    pub name: String,
    /// Age of the last message from its primary.
    pub message_age_ms: Option<u64>,
}

/// A row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub name: String,
    pub state: String,
    pub sync_state: String,
}

/// A look that brought no facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    /// What exactly was seen; never a secret.
    pub detail: String,
    pub at_ms: u64,
}

/// All that is known of one server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// The last answer, however old.
    pub facts: Option<Facts>,
    /// Looks in a row that failed since.
    pub failures: u32,
    /// The last of them.
    pub failure: Option<Failure>,
}

impl Observation {
    pub fn record(&mut self, look: Result<Facts, Failure>) {
        match look {
            Ok(facts) => *self = Observation { facts: Some(facts), failures: 0, failure: None },
            Err(failure) => {
                self.failures = self.failures.saturating_add(1);
                self.failure = Some(failure);
            }
        }
    }

    pub fn looked_at(&self) -> bool {
        self.facts.is_some() || self.failures > 0
    }
}

/// Which cluster the servers must belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    #[default]
    Unknown,
    /// Most of those that answered have it, but they are no majority of all: may yet change.
    Provisional(u64),
    /// A majority of all servers had it once: never changes again.
    Pinned(u64),
}

impl Identity {
    pub fn get(self) -> Option<u64> {
        match self {
            Identity::Unknown => None,
            Identity::Provisional(identifier) | Identity::Pinned(identifier) => Some(identifier),
        }
    }
}

/// What we conclude, as the data path sees it (`snapshot`) and what only people and the next
/// conclusion need.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    pub snapshot: Snapshot,
    pub identity: Identity,
    /// Timeline of the last primary; one of a lower timeline is never taken again.
    pub timeline: u32,
    /// Where the last primary was last seen.
    pub primary_lsn: Lsn,
    /// When it was asked for that.
    pub primary_asked_at_ms: u64,
    /// Why `snapshot.primary` is none.
    pub no_primary: Option<Reason>,
    pub changed_at_ms: u64,
    /// One for each of `snapshot.servers`.
    pub details: Vec<Detail>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Detail {
    pub reason: Option<Reason>,
    /// The role the server itself claims.
    pub says: Role,
    /// Since when role, health and reason are as they are.
    pub since_ms: u64,
    pub system_identifier: Option<u64>,
    pub version: Option<u32>,
    /// `streaming`, …, as the standby says.
    pub replication_state: Option<String>,
    /// `sync`, `async`, …, as the primary says.
    pub sync_state: Option<String>,
}

impl View {
    /// Takes over what the configuration says of the servers and may change while they are looked at.
    pub fn share_out(&mut self, servers: &[config::Server]) {
        for (state, config) in self.snapshot.servers.iter_mut().zip(servers) {
            state.weight = config.weight;
            if state.zone.as_deref() != config.zone.as_deref() {
                state.zone = config.zone.as_deref().map(Arc::from);
            }
        }
    }

    /// Nothing known yet of these servers.
    pub fn new(servers: &[config::Server]) -> Self {
        let servers = servers.iter().map(|server| ServerState {
            id: server.id.as_str().into(),
            host: server.host.as_str().into(),
            port: server.port,
            weight: server.weight,
            zone: server.zone.as_deref().map(Arc::from),
            role: Role::Unknown,
            health: Health::Unknown,
            timeline: 0,
            lsn: Lsn::default(),
            lag_bytes: None,
            lag_ms: None,
            observed_at_ms: 0,
            reason: Reason::NotLookedAt.sentence().into(),
        });
        let snapshot = Snapshot { servers: servers.collect(), ..Snapshot::default() };
        let detail = Detail {
            reason: Some(Reason::NotLookedAt),
            says: Role::Unknown,
            since_ms: 0,
            system_identifier: None,
            version: None,
            replication_state: None,
            sync_state: None,
        };
        View {
            details: vec![detail; snapshot.servers.len()],
            snapshot,
            no_primary: Some(Reason::StillLooking),
            ..View::default()
        }
    }
}
