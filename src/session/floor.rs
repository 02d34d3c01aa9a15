//! What a session has written and read, so that it never sees less than that again.
//!
//! A session's position can be carried to another by the application: `SHOW komainu.token` in one gives it,
//! once the last write's is known; `SET komainu.token = '…'` in the other takes it over. It holds from the
//! end of the transaction that set it (a ROLLBACK or SET LOCAL takes over nothing), only raises the floor,
//! is not kept as a setting, and says where the first session's *writes* are, not what it has read. It
//! matters in consistency `session` only; another komainu, or one that was started anew, may count epochs
//! otherwise, and then sends the session's reads to the primary rather than too early to a standby.
//!
//! Pure. Invariant: from the moment a transaction that may have written ends until its position is known,
//! `pending` is true, and reads go to the primary.

use crate::route::LastRead;
use crate::topology::{Epoch, Lsn, ServerIndex, Snapshot};

/// The parameter a position is carried by.
pub const TOKEN: &str = "komainu.token";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor {
    known: Option<(Epoch, Lsn)>,
    pub pending: bool,
    pub last_read: Option<LastRead>,
    /// When it last may have written.
    pub wrote_at_ms: Option<u64>,
    /// When the primary was last asked behind a read or a transaction.
    pub asked_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a consistency token: expected `<epoch>:<log position>` as in 3:16/B374D848")]
pub struct InvalidToken;

impl Floor {
    pub fn known(&self) -> Option<(Epoch, Lsn)> {
        self.known
    }

    /// Whether it has written so lately that no standby is to be asked, whatever it says that it has.
    pub fn is_fresh(&self, window_ms: u64, now_ms: impl FnOnce() -> u64) -> bool {
        self.wrote_at_ms.is_some_and(|at_ms| now_ms() < at_ms + window_ms)
    }

    /// The primary answered what its position was after all that the session has done so far, which covers
    /// what it has read, too. Returns whether that is less than the session has once had: the primary of a
    /// later epoch does not have all of it.
    pub fn raise(&mut self, epoch: Epoch, lsn: Lsn) -> bool {
        let lowered = self.known.is_some_and(|(before, had)| before < epoch && had > lsn);
        self.pending = false;
        self.last_read = None;
        self.rise(epoch, lsn);
        lowered
    }

    fn rise(&mut self, epoch: Epoch, lsn: Lsn) {
        if self.known.is_none_or(|known| known < (epoch, lsn)) {
            self.known = Some((epoch, lsn));
        }
    }

    /// A statement that only reads was answered by `server`.
    pub fn read_from(&mut self, epoch: Epoch, server: ServerIndex, now_ms: u64) {
        self.last_read = Some(LastRead { epoch, server, at_ms: now_ms, bound: None });
    }

    /// Learns from a newer snapshot how far the server of the last read was at most: what it had replayed
    /// when it was looked at after that read.
    pub fn learn(&mut self, snapshot: &Snapshot) {
        let Some(last) = &mut self.last_read else { return };
        let Some(server) = snapshot.server(last.server) else { return };
        // Of a server that has changed sides since, the position says nothing of that read.
        if last.bound.is_none() && snapshot.epoch == last.epoch && server.observed_at_ms > last.at_ms {
            last.bound = Some(server.lsn);
        }
    }

    /// The session's position, for another session to continue from.
    pub fn token(&self) -> String {
        let (epoch, lsn) = self.known.unwrap_or_default();
        format!("{}:{lsn}", epoch.0)
    }

    /// Takes over another session's position.
    pub fn take_token(&mut self, token: &str) -> Result<(), InvalidToken> {
        let (epoch, lsn) = read_token(token)?;
        self.rise(epoch, lsn);
        Ok(())
    }
}

pub fn read_token(token: &str) -> Result<(Epoch, Lsn), InvalidToken> {
    let (epoch, lsn) = token.split_once(':').ok_or(InvalidToken)?;
    let epoch = epoch.parse().map_err(|_| InvalidToken)?;
    Ok((Epoch(epoch), lsn.parse().map_err(|_| InvalidToken)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_only_rises_and_an_older_epoch_is_lower() {
        let mut floor = Floor { pending: true, ..Floor::default() };
        floor.raise(Epoch(2), Lsn(10));
        assert!(!floor.pending);
        floor.raise(Epoch(2), Lsn(5));
        floor.raise(Epoch(1), Lsn(99));
        assert_eq!(floor.known(), Some((Epoch(2), Lsn(10))));
        assert!(floor.raise(Epoch(3), Lsn(1)), "what the old primary had alone is gone");
        assert!(!floor.raise(Epoch(4), Lsn(1)));
        floor.known = Some((Epoch(3), Lsn(1)));
        assert_eq!(floor.known(), Some((Epoch(3), Lsn(1))));
    }

    #[test]
    fn a_token_carries_the_floor_to_another_session() {
        let (mut writer, mut reader) = (Floor::default(), Floor::default());
        writer.raise(Epoch(4), Lsn(0x1_0000_00A0));
        assert_eq!(writer.token(), "4:1/A0");
        reader.pending = true;
        reader.take_token(&writer.token()).unwrap();
        assert_eq!(reader.known(), writer.known());
        assert!(reader.pending, "its own write is still unknown");
        for nonsense in ["", "4", "x:1/A0", "4:1", "4:1/A0:"] {
            assert_eq!(reader.take_token(nonsense), Err(InvalidToken), "{nonsense}");
        }
    }

    #[test]
    fn a_bound_comes_only_from_a_later_look() {
        let mut floor = Floor::default();
        floor.read_from(Epoch(1), ServerIndex(0), 100);
        let mut snapshot = Snapshot { epoch: Epoch(1), ..Snapshot::default() };
        snapshot.servers.push(crate::session::floor::tests::server(100, 7));
        floor.learn(&snapshot);
        assert_eq!(floor.last_read.unwrap().bound, None);
        snapshot.servers[0].observed_at_ms = 101;
        snapshot.epoch = Epoch(2);
        floor.learn(&snapshot);
        assert_eq!(floor.last_read.unwrap().bound, None, "it may have been rewound");
        snapshot.epoch = Epoch(1);
        floor.learn(&snapshot);
        assert_eq!(floor.last_read.unwrap().bound, Some(Lsn(7)));
    }

    #[test]
    fn a_write_is_fresh_for_its_window() {
        let mut floor = Floor::default();
        assert!(!floor.is_fresh(100, || panic!("no clock is needed")));
        floor.wrote_at_ms = Some(1000);
        assert!(floor.is_fresh(100, || 1099) && !floor.is_fresh(100, || 1100));
    }

    fn server(observed_at_ms: u64, lsn: u64) -> crate::topology::ServerState {
        crate::topology::ServerState {
            index: ServerIndex(0),
            id: "a".into(),
            host: "h".into(),
            port: 1,
            weight: 1,
            zone: None,
            role: crate::topology::Role::Standby,
            health: crate::topology::Health::Up,
            timeline: 1,
            lsn: Lsn(lsn),
            lag_bytes: None,
            lag_ms: None,
            observed_at_ms,
            reason: "".into(),
            admission: Default::default(),
        }
    }
}
