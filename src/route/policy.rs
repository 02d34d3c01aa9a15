//! Which server serves a statement.
//!
//! Owns the choice. Never talks to a server: it sees a snapshot. Invariant: in mode `session` no server is
//! chosen for a read that may show less than the session has already seen or written.

use crate::config;
use crate::topology::{Epoch, Lsn, ServerIndex, Snapshot};

use super::hint::HintTarget;
use super::reason::RouteReason;
use super::statement::Class;

/// The configuration's part in the choice, prepared so that a decision compares no server names.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    enabled: bool,
    consistency: config::Consistency,
}

/// What is asked for: `Routed`'s class and reason, and the text's hint.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub class: Class,
    pub reason: &'a RouteReason,
    pub hint: Option<&'a HintTarget>,
    /// The caller can wait for a standby to replay. False once it has waited: then the answer is a server.
    pub may_wait: bool,
}

/// What the choice needs to know of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionView<'a> {
    /// Inside an explicit transaction, or about to open one with this text.
    pub in_transaction: bool,
    /// That transaction (or the session's default) is declared READ ONLY.
    pub read_only: bool,
    /// That transaction, or the session's default, is SERIALIZABLE.
    pub serializable: bool,
    /// Positions are comparable only within an epoch; the caller lowers a floor of an older one first.
    pub floor: Option<(Epoch, Lsn)>,
    /// A transaction that may have written has ended and its position is not known yet.
    pub floor_pending: bool,
    pub last_read: Option<LastRead>,
    pub database: &'a str,
    pub user: &'a str,
    pub application_name: &'a str,
}

/// The server that answered the session's last read, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    pub server: ServerIndex,
    /// Taken when the answer's ReadyForQuery had arrived, never before.
    pub at_ms: u64,
    /// What the server had replayed (inserted, on the primary) at some moment after `at_ms`, once known.
    pub bound: Option<Lsn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Primary,
    Server(ServerIndex),
    /// Wait, up to `split.floor_wait_ms`, until this server has replayed `lsn`; then ask again.
    WaitForFloor {
        server: ServerIndex,
        lsn: Lsn,
    },
    /// No server can take it now.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    pub target: Target,
    pub reason: DecisionReason,
}

/// Why that server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionReason {
    /// A write, or not surely a read.
    Write,
    NoPrimary,
}

impl Policy {
    /// `servers` in the configuration's order, which is the order of `Snapshot::servers`.
    pub fn new(split: &config::Split, servers: &[config::Server], zone: Option<&str>) -> Policy {
        let _ = (servers, zone);
        Policy { enabled: split.enabled, consistency: split.consistency }
    }
}

/// `seed`: for a session with `Consistency::Session` a constant of the session's, else anew each time.
pub fn route(
    request: &Request<'_>,
    session: &SessionView<'_>,
    topology: &Snapshot,
    policy: &Policy,
    seed: u64,
    now_ms: u64,
) -> Decision {
    let _ = (request, session, policy, seed, now_ms);
    match topology.primary {
        Some(_) => Decision { target: Target::Primary, reason: DecisionReason::Write },
        None => Decision { target: Target::None, reason: DecisionReason::NoPrimary },
    }
}
