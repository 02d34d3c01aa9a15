//! Cancel keys: which running statement a CancelRequest means.
//!
//! Owns the map from the keys we gave out to what their sessions run now. Invariant: between the moment a
//! cancel was started for a server connection and the moment the server has taken it, that connection is
//! not lent to anybody else, and never again if that is not known; so a late cancel never hits another client's
//! statement.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::rand;
use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::Notify;

use super::registry::{Order, SessionHandle};
use crate::backend::ServerConn;
use crate::backend::conn::CancelAddress;
use crate::pool::Pool;

/// Secret of the protocol's version 3.0, in bytes; 3.2 allows up to 256.
const SHORT_SECRET: usize = 4;
const LONG_SECRET: usize = 32;

/// What a client gets as BackendKeyData.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    pub pid: i32,
    pub secret: Bytes,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey({})", self.pid)
    }
}

/// One session's entry: what a cancel would end now.
#[derive(Debug, Default)]
pub struct CancelSlot {
    state: Mutex<SlotState>,
    settled: Notify,
}

#[derive(Debug, Default)]
struct SlotState {
    running: Option<Arc<CancelAddress>>,
    /// The session whose request waits for a server, to be told.
    waiting: Option<Arc<SessionHandle>>,
    /// That request is to be refused.
    refused: bool,
    /// Where cancels are on their way to, one for each.
    under_way: Vec<Arc<CancelAddress>>,
}

impl SlotState {
    fn is_hit_by_none(&self, address: &Arc<CancelAddress>) -> bool {
        !self.under_way.iter().any(|hit| Arc::ptr_eq(hit, address))
    }

    fn end_wait(&mut self) {
        (self.waiting, self.refused) = (None, false);
    }
}

impl CancelSlot {
    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lease_began(&self, address: &Arc<CancelAddress>) {
        let mut state = self.state();
        state.end_wait();
        state.running = Some(address.clone());
    }

    /// A request waits, and nothing of it is anywhere yet.
    pub fn wait_began(&self, session: &Arc<SessionHandle>) {
        let mut state = self.state();
        // It may wait for one thing after the other.
        state.waiting.get_or_insert_with(|| session.clone());
    }

    /// It waits no longer.
    pub fn wait_ended(&self) {
        self.state().end_wait();
    }

    /// Whether the request that waits was cancelled.
    pub fn is_refused(&self) -> bool {
        self.state().refused
    }

    /// Cancels a request that no server has yet. False: there is none.
    pub fn refuse_waiting(&self) -> bool {
        let mut state = self.state();
        let Some(session) = state.waiting.clone() else { return false };
        state.refused = true;
        drop(state);
        session.tell(Order::Look);
        true
    }

    /// Ends the lease; false when a cancel is on its way and the connection must wait for it.
    fn lease_ended(&self, address: &Arc<CancelAddress>) -> bool {
        let mut state = self.state();
        state.running = None;
        state.is_hit_by_none(address)
    }

    /// Gives a connection back, once no cancel can hit it any more. Those that are on their way to another, which the
    /// session had before, do not matter.
    pub fn release(self: &Arc<Self>, pool: &Arc<Pool>, conn: Box<ServerConn>) {
        if self.lease_ended(&conn.cancel) {
            give_back(pool, conn);
            return;
        }
        let (slot, pool) = (self.clone(), pool.clone());
        tokio::spawn(async move {
            slot.no_cancel_under_way(&conn.cancel).await;
            give_back(&pool, conn);
        });
    }

    async fn no_cancel_under_way(&self, address: &Arc<CancelAddress>) {
        loop {
            let settled = self.settled.notified();
            if self.state().is_hit_by_none(address) {
                return;
            }
            settled.await;
        }
    }

    /// What to cancel, if anything runs. The guard keeps the connection from its next user.
    pub fn begin_cancel(self: &Arc<Self>) -> Option<CancelUnderWay> {
        let mut state = self.state();
        let address = state.running.clone()?;
        state.under_way.push(address.clone());
        Some(CancelUnderWay { slot: self.clone(), address, taken: false })
    }
}

fn give_back(pool: &Arc<Pool>, mut conn: Box<ServerConn>) {
    conn.doomed |= conn.cancel.is_in_doubt();
    pool.release(conn);
}

/// A cancel on its way to the server. Dropped before the server is known to have taken it, it ends the
/// connection's use.
#[derive(Debug)]
pub struct CancelUnderWay {
    slot: Arc<CancelSlot>,
    pub address: Arc<CancelAddress>,
    taken: bool,
}

impl CancelUnderWay {
    /// The server has taken it.
    pub fn taken(mut self) {
        self.taken = true;
    }
}

impl Drop for CancelUnderWay {
    fn drop(&mut self) {
        if !self.taken {
            self.address.doubt();
        }
        {
            let mut state = self.slot.state();
            let at = state.under_way.iter().position(|hit| Arc::ptr_eq(hit, &self.address));
            state.under_way.swap_remove(at.expect("each is there until it is dropped"));
        }
        self.slot.settled.notify_waiters();
    }
}

/// All keys given out by this process.
#[derive(Debug, Default)]
pub struct CancelKeys {
    slots: Mutex<HashMap<CancelKey, Arc<CancelSlot>, RandomState>>,
}

impl CancelKeys {
    fn slots(&self) -> MutexGuard<'_, HashMap<CancelKey, Arc<CancelSlot>, RandomState>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new key that nobody else holds. Both its halves are random: the process id is none.
    pub fn issue(&self, protocol_minor: u32) -> (CancelKey, Arc<CancelSlot>) {
        let secret_len = if protocol_minor >= 2 { LONG_SECRET } else { SHORT_SECRET };
        let mut slots = self.slots();
        loop {
            let mut random = [0; 4 + LONG_SECRET];
            rand::fill(&mut random).expect("the operating system's random source works");
            let (pid, secret) = random.split_at(4);
            let pid = i32::from_be_bytes([pid[0] & 0x7F, pid[1], pid[2], pid[3]]);
            let key = CancelKey { pid, secret: Bytes::copy_from_slice(&secret[..secret_len]) };
            if let std::collections::hash_map::Entry::Vacant(entry) = slots.entry(key.clone()) {
                return (key, entry.insert(Arc::default()).clone());
            }
        }
    }

    pub fn forget(&self, key: &CancelKey) {
        self.slots().remove(key);
    }

    pub fn find(&self, pid: i32, secret: &[u8]) -> Option<Arc<CancelSlot>> {
        let key = CancelKey { pid, secret: Bytes::copy_from_slice(secret) };
        self.slots().get(&key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::ServerIndex;

    fn address() -> Arc<CancelAddress> {
        Arc::new(CancelAddress::new(ServerIndex(0), None, 1, Bytes::from_static(b"k")))
    }

    #[test]
    fn only_the_whole_key_finds_a_session_and_only_while_it_lives() {
        let keys = CancelKeys::default();
        let (key, _slot) = keys.issue(0);
        assert_eq!(key.secret.len(), SHORT_SECRET);
        assert!(keys.find(key.pid, &key.secret).is_some());
        assert!(keys.find(key.pid, &key.secret[..3]).is_none());
        assert!(keys.find(key.pid ^ 1, &key.secret).is_none());
        keys.forget(&key);
        assert!(keys.find(key.pid, &key.secret).is_none());
        assert_eq!(keys.issue(2).0.secret.len(), LONG_SECRET);
    }

    #[test]
    fn an_idle_session_has_nothing_to_cancel() {
        let slot = Arc::new(CancelSlot::default());
        assert!(slot.begin_cancel().is_none() && !slot.refuse_waiting());
        slot.wait_began(&Arc::default());
        assert!(slot.refuse_waiting() && slot.is_refused());
        slot.wait_ended();
        assert!(!slot.refuse_waiting() && !slot.is_refused());
        slot.lease_began(&address());
        let under_way = slot.begin_cancel().unwrap();
        let address = under_way.address.clone();
        let another = slot.begin_cancel().unwrap();
        assert!(!slot.lease_ended(&address), "the connection waits for the cancel");
        let next = self::address();
        slot.lease_began(&next);
        assert!(slot.lease_ended(&next), "another one does not");
        another.taken();
        assert!(!slot.lease_ended(&address), "one is still on its way");
        under_way.taken();
        assert!(slot.lease_ended(&address) && !address.is_in_doubt());
        slot.lease_began(&address);
        drop(slot.begin_cancel());
        assert!(slot.lease_ended(&address) && address.is_in_doubt(), "nobody knows whether it was taken");
        assert!(slot.begin_cancel().is_none());
    }
}
