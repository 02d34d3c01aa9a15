//! The words of the control flow: what was asked, what was answered, and what it is taken to mean.
//!
//! Pure. Invariant: facts are what a server said, with the time it was asked; a `View` is what we
//! conclude, and only `primary::next` makes a new one.

use std::sync::Arc;

use crate::config;
use crate::topology::{Admission, Health, Lsn, Register, Role, ServerIndex, ServerState, Snapshot};

use super::aurora::Instances;
use super::blue_green::BlueGreen;
use super::conninfo::Upstream;
use super::instances::Described;
use super::lapses::Lapses;
use super::reason::Reason;

/// What one server said of itself, in one round trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When the question was sent: whatever the server says was true no earlier, so a bound built on
    /// it is safe however long the answer took.
    pub asked_at_ms: u64,
    pub answered_at_ms: u64,
    pub in_recovery: bool,
    /// Primary: it takes no writes, by its own configuration. Heeded where AWS makes primaries: it says so by that.
    pub read_only: bool,
    pub timeline: u32,
    /// Primary: inserted so far. Standby: replayed so far.
    pub lsn: Lsn,
    /// Primary: on its disk so far.
    pub flushed_lsn: Option<Lsn>,
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
    /// Standby: whom it is told to follow, whether or not it does.
    pub upstream: Option<Upstream>,
    /// Standby: the slot it uses there.
    pub slot_name: Option<String>,
    pub synchronous_standby_names: String,
    /// Physical replication slots on this server.
    pub slots: Vec<Slot>,
    /// Either is needed to rewind it.
    pub wal_log_hints: bool,
    pub data_checksums: bool,
    /// When its postmaster was started, by its own clock, in milliseconds since 1970: another time is another life.
    pub started_at_ms: u64,
    /// Primary: how its archiving fares, if it archives.
    pub archive: Option<Archive>,
    pub timeouts: ReplicationTimeouts,
    /// How many it has for roles that are no superuser's: `max_connections` less the reserved ones.
    pub connections: Option<u32>,
    /// Of Aurora: which instances there are, as it says. Positions are its volume's, then, and there is no timeline.
    pub aurora: Option<Arc<Instances>>,
    /// Of RDS and Aurora: how far the switchover of its blue/green deployment has come.
    pub blue_green: BlueGreen,
    /// The green side takes its place, or has taken it.
    pub given_away: bool,
    /// Of RDS: the members of its Multi-AZ DB cluster, as it says. Empty: there is none, or it does not say.
    pub members: Vec<Described>,
}

/// After how much silence on a replication connection its end gives it up; after half of that it asks the other end to
/// say something. 0: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplicationTimeouts {
    /// `wal_sender_timeout`
    pub sender_ms: u64,
    /// `wal_receiver_timeout`
    pub receiver_ms: u64,
}

impl Facts {
    /// What it says that it is.
    pub fn says(&self) -> Role {
        match self {
            _ if self.in_recovery => Role::Standby,
            _ if self.read_only || self.given_away => Role::Unknown,
            _ => Role::Primary,
        }
    }

    /// Whether it says of itself that it is the primary.
    pub fn says_primary(&self) -> bool {
        self.says() == Role::Primary
    }

    /// Whether a standby of that name streams from it.
    pub fn sends_to(&self, name: &str) -> bool {
        self.senders.iter().any(|sender| sender.name == name && sender.state == "streaming")
    }

    /// How long it is by now since the last file was archived, as far as is known.
    pub fn archived_ms_ago(&self, now_ms: u64) -> Option<u64> {
        Some(self.archive.as_ref()?.age_ms? + now_ms.saturating_sub(self.answered_at_ms))
    }

    /// A standby proves its timeline while it streams. Without a receiver its control file may still have the one before,
    /// although it has replayed no less than then.
    fn keep_timeline(&mut self, before: &Facts) {
        let same = self.in_recovery
            && before.in_recovery
            && self.system_identifier == before.system_identifier
            && self.lsn >= before.lsn;
        if same {
            self.timeline = self.timeline.max(before.timeline);
        }
    }
}

impl Facts {
    /// Of a primary that shows nothing of replication, since a service has its own.
    pub fn without_replication(asked_at_ms: u64, answered_at_ms: u64, version: u32) -> Self {
        Facts {
            asked_at_ms,
            answered_at_ms,
            in_recovery: false,
            read_only: false,
            timeline: 1,
            lsn: Lsn::default(),
            flushed_lsn: None,
            received_lsn: None,
            replay_lag_ms: None,
            system_identifier: 0,
            version,
            receiver: None,
            senders: Vec::new(),
            upstream: None,
            slot_name: None,
            synchronous_standby_names: String::new(),
            slots: Vec::new(),
            wal_log_hints: false,
            data_checksums: false,
            started_at_ms: 1,
            archive: None,
            timeouts: ReplicationTimeouts::default(),
            connections: None,
            aurora: None,
            blue_green: BlueGreen::None,
            given_away: false,
            members: Vec::new(),
        }
    }
}

#[cfg(test)]
impl Facts {
    /// Of a server of which nothing else is to be known.
    pub fn bare(in_recovery: bool, timeline: u32, lsn: u64) -> Self {
        Facts {
            in_recovery,
            timeline,
            lsn: Lsn(lsn),
            system_identifier: 1,
            wal_log_hints: true,
            ..Facts::without_replication(0, 0, 150_000)
        }
    }
}

/// `pg_stat_archiver`, when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The last file that was archived.
    pub last: Option<String>,
    /// How long before that was.
    pub age_ms: Option<u64>,
    /// The last attempt failed.
    pub fails: bool,
}

/// A row of `pg_stat_wal_receiver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    pub status: String,
    /// The `application_name` under which it appears in its primary's `pg_stat_replication`.
    pub name: String,
    /// Age of the last message from its primary.
    pub message_age_ms: Option<u64>,
    /// The one it receives, while it streams.
    pub timeline: Option<u32>,
}

/// A row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub name: String,
    pub state: String,
    pub sync_state: String,
    pub sent_lsn: Option<Lsn>,
    pub flush_lsn: Option<Lsn>,
}

/// A row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    /// Somebody streams by it now.
    pub active: bool,
    /// WAL from here on is kept; none before anybody used it.
    pub restart_lsn: Option<Lsn>,
}

/// Two refusals this far apart are no accident.
pub const REFUSALS_APART_MS: u64 = 50;

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
    pub facts: Option<Arc<Facts>>,
    /// Looks in a row that failed since.
    pub failures: u32,
    /// The last of them.
    pub failure: Option<Failure>,
    /// When the first of them failed.
    pub failing_since_ms: Option<u64>,
    /// When the first of those failed since when nothing but refusals came.
    pub refused_since_ms: Option<u64>,
    /// So many in a row make it down.
    pub retries: u32,
}

impl Observation {
    /// Of a server that was not looked at yet.
    pub fn of(retries: u32) -> Self {
        Observation { retries, ..Observation::default() }
    }

    pub fn record(&mut self, look: Result<Facts, Failure>) {
        match look {
            Ok(mut facts) => {
                if let Some(before) = &self.facts {
                    facts.keep_timeline(before);
                    facts.keep_given_away(before);
                }
                *self = Observation { facts: Some(Arc::new(facts)), ..Observation::of(self.retries) };
            }
            Err(failure) => {
                self.failures = self.failures.saturating_add(1);
                self.failing_since_ms = self.failing_since_ms.or(Some(failure.at_ms));
                self.refused_since_ms = match failure.reason {
                    Reason::ConnectRefused => self.refused_since_ms.or(Some(failure.at_ms)),
                    _ => None,
                };
                self.failure = Some(failure);
            }
        }
    }

    /// Down after `retries` failures, or after two refusals: a host that refuses is there, and says that nobody listens.
    /// One alone may be a backlog that was full for a moment.
    pub fn is_down(&self) -> bool {
        let refused_for_ms = match (self.refused_since_ms, &self.failure) {
            (Some(since_ms), Some(last)) => last.at_ms.saturating_sub(since_ms),
            _ => 0,
        };
        self.failures >= self.retries.max(1) || refused_for_ms >= REFUSALS_APART_MS
    }

    pub fn looked_at(&self) -> bool {
        self.facts.is_some() || self.failures > 0
    }

    /// It has not answered since, and nothing says that it lives.
    pub fn is_suspect(&self) -> bool {
        self.failures > 0 && self.failure.as_ref().is_some_and(|failure| is_silence(failure.reason))
    }
}

/// What is not the server's doing, a password that is not known here for instance, is none.
fn is_silence(reason: Reason) -> bool {
    use Reason::{ConnectRefused, ConnectionLost, Timeout, Unreachable};
    matches!(reason, Timeout | Unreachable | ConnectionLost | ConnectRefused)
}

/// The server lives, and lets in whom it knows, or those who came before: this node is not one of them.
pub(super) fn is_turned_away(reason: Reason) -> bool {
    use Reason::{AuthenticationFailed, CredentialMissing, TlsFailed, TooManyConnections};
    matches!(reason, AuthenticationFailed | CredentialMissing | TlsFailed | TooManyConnections)
}

/// Whom the log has made the primary, on the timeline of its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub server: String,
    pub timeline: u32,
    /// When it was started. Another start at the same name may be another server, and is no part of the same epoch. None: not
    /// known, or no service moves names here.
    pub life: Option<u64>,
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
    /// When the last primary's postmaster was started, by its own clock.
    pub primary_started_at_ms: u64,
    /// Where the last primary was last seen.
    pub primary_lsn: Lsn,
    /// When it was asked for that.
    pub primary_asked_at_ms: u64,
    /// The last primary has said that another server is about to answer at its name, or does so by now.
    pub exchanged: Option<ServerIndex>,
    /// Why `snapshot.primary` is none.
    pub no_primary: Option<Reason>,
    /// The primary that there would be, were it not paused by order: clients wait for it, and nothing is lost.
    pub paused_primary: Option<ServerIndex>,
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
    /// The last answer, however old: `Facts::asked_at_ms` says how old.
    pub facts: Option<Arc<Facts>>,
    /// Looks in a row that failed since.
    pub failures: u32,
    /// When the first of them failed.
    pub failing_since_ms: Option<u64>,
    /// What the last of them was.
    pub failure: Option<Reason>,
    pub lapses: Lapses,
}

impl Detail {
    /// See [`Observation::is_suspect`].
    pub fn is_suspect(&self) -> bool {
        self.failures > 0 && self.failure.is_some_and(is_silence)
    }
}

impl Detail {
    /// Of a server of which nothing is known yet.
    fn new(since_ms: u64) -> Self {
        Detail {
            reason: Some(Reason::NotLookedAt),
            says: Role::Unknown,
            since_ms,
            system_identifier: None,
            version: None,
            replication_state: None,
            sync_state: None,
            facts: None,
            failures: 0,
            failing_since_ms: None,
            failure: None,
            lapses: Lapses::default(),
        }
    }
}

impl View {
    /// Whether a server is kept out of use by an order and by nothing else, or is one of the cluster's no more.
    pub fn is_withdrawn(&self, server: ServerIndex) -> bool {
        let Some(position) = self.snapshot.position(server) else { return true };
        let reason = self.details[position].reason;
        matches!(reason, Some(Reason::Draining | Reason::Detached)) && self.snapshot.primary != Some(server)
    }

    /// Whether a server is down by this node's own looks, not by what others say of it.
    pub fn is_silent(&self, server: ServerIndex) -> bool {
        self.snapshot.position(server).is_some_and(|position| {
            self.snapshot.servers[position].health == Health::Down && self.details[position].is_suspect()
        })
    }

    /// Servers to which no connection is kept that nobody uses, by an order.
    pub fn withdrawn(&self) -> Vec<ServerIndex> {
        let ordered = self.snapshot.indexed().filter(|(_, server)| server.admission != Admission::Open);
        ordered.map(|(index, _)| index).collect()
    }

    /// What is known of the server of that name.
    pub fn find(&self, id: &str) -> Option<(&ServerState, &Detail)> {
        let index = self.snapshot.servers.iter().position(|server| &*server.id == id)?;
        Some((&self.snapshot.servers[index], &self.details[index]))
    }

    /// With the servers of a configuration. What is known of those that stay is kept.
    pub fn configured(&self, servers: &[config::Server], register: &mut Register, now_ms: u64) -> Self {
        let mut view = View {
            snapshot: Snapshot { servers: Vec::new(), ..self.snapshot },
            details: Vec::new(),
            ..*self
        };
        for server in servers {
            let config::Server { id, host, port, weight, zone, .. } = server;
            let index = register.index(id, host, *port);
            let known = self.snapshot.position(index);
            let (state, detail) = match known {
                Some(at) => (self.snapshot.servers[at].clone(), self.details[at].clone()),
                None => (nothing_known(index, server), Detail::new(now_ms)),
            };
            let zone = match &state.zone {
                same if same.as_deref() == zone.as_deref() => same.clone(),
                _ => zone.as_deref().map(Arc::from),
            };
            view.snapshot.servers.push(ServerState { weight: *weight, zone, ..state });
            view.details.push(detail);
        }
        view.snapshot.primary =
            self.snapshot.primary.filter(|&primary| view.snapshot.server(primary).is_some());
        view
    }

    /// Nothing known yet of these servers.
    pub fn new(servers: &[config::Server]) -> Self {
        let reason = if servers.is_empty() { Reason::InstancesUnknown } else { Reason::StillLooking };
        let nothing = View { no_primary: Some(reason), ..View::default() };
        nothing.configured(servers, &mut Register::default(), 0)
    }
}

fn nothing_known(index: ServerIndex, server: &config::Server) -> ServerState {
    ServerState {
        index,
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
        admission: Admission::Open,
    }
}
