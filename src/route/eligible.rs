//! Whether a standby may serve a session's read now.
//!
//! Owns the rules of lag, floor and monotonic reads. Never chooses among those that may. Invariant: in mode
//! `session`, a standby that passes has replayed all that the session wrote and all that it has read.

use crate::config::Consistency;
use crate::topology::{Epoch, Health, Lsn, Role, ServerIndex, ServerState, Snapshot};

/// The server that answered the session's last read, and when.
///
/// A session that read on the primary returns to a standby only once both were observed after that read, so
/// one that reads more often than servers are looked at would stay on the primary. The way back for it is to
/// ask the primary for its position after a read, as after a write: the floor then says all, and
/// `last_read` is to be forgotten. The same goes for a transaction that wrote: once its floor is known,
/// the floor covers what the transaction read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRead {
    pub server: ServerIndex,
    /// Of the snapshot by which the read was routed.
    pub epoch: Epoch,
    /// Taken when the answer's ReadyForQuery had arrived, never before.
    pub at_ms: u64,
    /// What the server had replayed (inserted, on the primary) at some moment after `at_ms`, once known.
    /// After a failover to be lowered like a floor.
    pub bound: Option<Lsn>,
}

impl LastRead {
    pub fn new(server: ServerIndex, epoch: Epoch, at_ms: u64) -> LastRead {
        LastRead { server, epoch, at_ms, bound: None }
    }

    /// With the bound that `topology` gives, if there was none yet. Worth keeping: under a steady load of
    /// writes the primary is ahead in every snapshot, but a standby soon passes where the primary *was*.
    ///
    /// Why it is a bound: `observed_at_ms` is the moment a look *began* that then succeeded, so the position
    /// was taken after it; if that moment is after `at_ms`, the position was taken after the read, and
    /// positions do not go back. Both are whole milliseconds, hence greater and not equal.
    pub fn settled(self, topology: &Snapshot) -> LastRead {
        let server = topology.server(self.server);
        let bound = server
            .filter(|server| {
                topology.epoch == self.epoch
                    && server.health == Health::Up
                    && server.role != Role::Unknown
                    && server.observed_at_ms > self.at_ms
            })
            .map(|server| server.lsn);
        LastRead { bound: self.bound.or(bound), ..self }
    }
}

/// Why a standby may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    NotUp,
    Lag,
    /// May show less than the session's last read did.
    NotMonotonic,
    /// Has not replayed what the session wrote: the only thing worth waiting for.
    Floor(Lsn),
}

/// What a standby is measured against, for one read of one session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demands {
    pub consistency: Consistency,
    /// 0: no limit.
    pub max_lag_bytes: u64,
    pub max_lag_ms: u64,
    pub floor: Option<Lsn>,
    /// Settled.
    pub last_read: Option<LastRead>,
    pub epoch: Epoch,
    pub now_ms: u64,
}

impl Demands {
    pub fn check(&self, index: ServerIndex, server: &ServerState) -> Result<(), Refusal> {
        if !server.is_up(Role::Standby) {
            return Err(Refusal::NotUp);
        }
        if !self.lag_allowed(server) {
            return Err(Refusal::Lag);
        }
        if self.consistency != Consistency::Session {
            return Ok(());
        }
        if !self.is_monotonic(index, server) {
            return Err(Refusal::NotMonotonic);
        }
        match self.floor {
            // A standby replays onwards, so what it had replayed when last seen it still has.
            Some(floor) if server.lsn < floor => Err(Refusal::Floor(floor)),
            _ => Ok(()),
        }
    }

    /// A lag that is not known is beyond any limit.
    fn lag_allowed(&self, server: &ServerState) -> bool {
        // In mode `bounded` the promise is about now, and since it was seen it may have stood still.
        let age = match self.consistency {
            Consistency::Bounded => self.now_ms.saturating_sub(server.observed_at_ms),
            _ => 0,
        };
        let bytes = self.max_lag_bytes == 0 || server.lag_bytes.is_some_and(|lag| lag <= self.max_lag_bytes);
        let time = self.max_lag_ms == 0
            || server.lag_ms.is_some_and(|lag| lag.saturating_add(age) <= self.max_lag_ms);
        bytes && time
    }

    /// A session stays on its standby, unless that is seen to have less than it had: it was set back, from a copy of its
    /// disk say, and came back under its name. Another may take over if it was seen, since the session's last read,
    /// to have replayed at least what the server of that read had: at most `bound`.
    ///
    /// After a change of epoch not even the same server is above doubt: it may have been the primary and
    /// been rewound. Then only a bound that was known before helps, or the primary.
    fn is_monotonic(&self, index: ServerIndex, server: &ServerState) -> bool {
        let Some(last) = self.last_read else { return true };
        if last.server == index && last.epoch == self.epoch {
            return last.bound.is_none_or(|bound| server.lsn >= bound);
        }
        server.observed_at_ms > last.at_ms && last.bound.is_some_and(|bound| server.lsn >= bound)
    }
}
