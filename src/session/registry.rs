//! All sessions of this process, for what concerns them from outside: deadlines, shutdown, a changed
//! topology.
//!
//! Owns the coarse tick: a session writes down when it began to wait, and one task looks at all of them
//! now and then, so that no query needs a timer. Invariant: what a session is told here it sees at its
//! next poll, and it is woken for it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use foldhash::fast::RandomState;

use super::SessionId;
use super::glimpse::{Activity, Glimpse, WaitsFor};
use super::pins::Pins;
use crate::clock::coarse_ms;
use crate::topology::{Epoch, ServerIndex};

/// What a session is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    None = 0,
    /// Look again: time has passed or the topology has changed.
    Look = 1,
    /// End once no transaction is open.
    Drain = 2,
    /// End now.
    Stop = 3,
}

/// Whose session it is.
#[derive(Debug)]
pub struct Who {
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub peer: Arc<str>,
    /// When it logged in.
    pub since_ms: u64,
}

/// One session as others see it.
#[derive(Debug, Default)]
pub struct SessionHandle {
    who: OnceLock<Who>,
    glimpse: AtomicU64,
    /// When the glimpse began to be as it is, by the coarse clock.
    glimpse_since_ms: AtomicU64,
    order: AtomicU8,
    /// When the session wants to be looked at, by its own reckoning; 0: never.
    wake_at_ms: AtomicU64,
    /// Where it has something under way, see [`under_way`]; 0: nowhere.
    under_way: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl SessionHandle {
    /// To be called once, by the session's own task.
    pub fn attach(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// To be called once, by whoever begins the session.
    pub fn introduce(&self, who: Who) {
        self.glimpse_since_ms.store(who.since_ms, Ordering::Relaxed);
        // A second call would be of the same session.
        let _ = self.who.set(who);
    }

    /// What the session does from now on. How long a server has worked for it, if none does any more, by the coarse
    /// clock.
    pub fn show(&self, glimpse: Glimpse) -> Option<u64> {
        let word = glimpse.pack();
        let before = self.glimpse.load(Ordering::Relaxed);
        // Nobody else writes it.
        if before == word {
            return None;
        }
        let now_ms = coarse_ms();
        let worked_ms = (Glimpse::is_active(before) && !Glimpse::is_active(word))
            .then(|| now_ms.saturating_sub(self.glimpse_since_ms.load(Ordering::Relaxed)));
        self.glimpse.store(word, Ordering::Relaxed);
        self.glimpse_since_ms.store(now_ms, Ordering::Relaxed);
        worked_ms
    }

    /// None: it has not begun.
    pub fn who(&self) -> Option<&Who> {
        self.who.get()
    }

    /// And since when it is so.
    pub fn glimpse(&self) -> (Glimpse, u64) {
        let glimpse = Glimpse::unpack(self.glimpse.load(Ordering::Relaxed));
        (glimpse, self.glimpse_since_ms.load(Ordering::Relaxed))
    }

    pub fn wake_at(&self, at_ms: u64) {
        self.wake_at_ms.store(at_ms, Ordering::Relaxed);
    }

    /// It is about to begin something on this server. To be said *before* it looks whether it still may: then
    /// whoever publishes that it may not, and then counts, misses nobody.
    pub fn begins(&self, server: ServerIndex, epoch: Epoch) {
        let now = under_way(server, epoch);
        // What was said already is ordered already before every later look.
        if self.under_way.load(Ordering::Relaxed) != now {
            self.under_way.store(now, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
    }

    /// It has nothing under way any more.
    pub fn rests(&self) {
        if self.under_way.load(Ordering::Relaxed) != 0 {
            self.under_way.store(0, Ordering::Release);
        }
    }

    /// Whether it is to do anything: `order` has not been asked since, or it stays.
    pub fn has_order(&self) -> bool {
        self.order.load(Ordering::Acquire) != Order::None as u8
    }

    /// What it was told since it last asked. `Drain` and `Stop` stay.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::None,
            1 => {
                let _ = self.order.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Acquire);
                Order::Look
            }
            2 => Order::Drain,
            _ => Order::Stop,
        }
    }

    pub fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }
}

/// Server and epoch as one number that is never 0. Epochs count failovers: 48 bits are enough.
fn under_way(server: ServerIndex, epoch: Epoch) -> u64 {
    epoch.0 << 16 | (u64::from(server.0) + 1)
}

#[derive(Debug, Default)]
pub struct SessionRegistry {
    sessions: Mutex<HashMap<SessionId, Arc<SessionHandle>, RandomState>>,
    next: AtomicU64,
    /// Those whose login waits: no session yet, so nothing is told to them.
    logins: Mutex<HashMap<SessionId, Arc<SessionHandle>, RandomState>>,
}

/// One whose login waits, as long as it lives.
#[derive(Debug)]
pub struct WaitingLogin<'a> {
    registry: &'a SessionRegistry,
    id: SessionId,
}

impl Drop for WaitingLogin<'_> {
    fn drop(&mut self) {
        self.registry.logins().remove(&self.id);
    }
}

impl SessionRegistry {
    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<SessionHandle>, RandomState>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn logins(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<SessionHandle>, RandomState>> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_id(&self) -> SessionId {
        SessionId(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// To be held while a login waits for a primary.
    pub fn login_waits(&self, who: Who) -> WaitingLogin<'_> {
        let id = self.new_id();
        let handle = SessionHandle::default();
        handle.introduce(who);
        let activity = Activity::LoginWaits;
        handle.show(Glimpse { activity, server: None, pins: Pins::default() });
        self.logins().insert(id, Arc::new(handle));
        WaitingLogin { registry: self, id }
    }

    pub fn register(&self) -> (SessionId, Arc<SessionHandle>) {
        let id = self.new_id();
        let handle = Arc::<SessionHandle>::default();
        self.sessions().insert(id, handle.clone());
        (id, handle)
    }

    pub fn forget(&self, id: SessionId) {
        self.sessions().remove(&id);
    }

    /// Oldest first, with those whose login waits.
    pub fn all(&self) -> Vec<(SessionId, Arc<SessionHandle>)> {
        let mut all: Vec<_> = self.sessions().iter().map(|(id, handle)| (*id, handle.clone())).collect();
        all.extend(self.logins().iter().map(|(id, handle)| (*id, handle.clone())));
        all.sort_unstable_by_key(|(id, _)| id.0);
        all
    }

    pub fn len(&self) -> usize {
        self.sessions().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many have something under way there.
    pub fn busy_on(&self, server: ServerIndex, epoch: Epoch) -> usize {
        fence(Ordering::SeqCst);
        let there = under_way(server, epoch);
        self.sessions().values().filter(|handle| handle.under_way.load(Ordering::Acquire) == there).count()
    }

    /// Wakes the sessions whose time has come.
    pub fn tick(&self, now_ms: u64) {
        for handle in self.sessions().values() {
            let at = handle.wake_at_ms.load(Ordering::Relaxed);
            if at != 0 && at <= now_ms {
                handle.tell(Order::Look);
            }
        }
    }

    /// The servers that have kept a session waiting, for an answer or for a connection, and when the last of those began
    /// to wait. Only those that began in the time named.
    pub fn kept_waiting(&self, began_ms: Range<u64>) -> BTreeMap<u16, u64> {
        let mut servers = BTreeMap::new();
        for handle in self.sessions().values() {
            let (glimpse, since_ms) = handle.glimpse();
            let waits = matches!(glimpse.activity, Activity::Active | Activity::Waits(WaitsFor::Connection));
            if let Some(server) = glimpse.server.filter(|_| waits && began_ms.contains(&since_ms)) {
                let last = servers.entry(server.0).or_insert(since_ms);
                *last = since_ms.max(*last);
            }
        }
        servers
    }

    pub fn tell_all(&self, order: Order) {
        self.sessions().values().for_each(|handle| handle.tell(order));
    }

    /// Wakes those who wait for something; the others need not know.
    pub fn look_if_waiting(&self) {
        for handle in self.sessions().values() {
            if handle.wake_at_ms.load(Ordering::Relaxed) != 0 {
                handle.tell(Order::Look);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_something_under_way_is_counted_by_server_and_epoch() {
        let registry = SessionRegistry::default();
        let (_, a) = registry.register();
        let (_, b) = registry.register();
        a.begins(ServerIndex(0), Epoch(3));
        b.begins(ServerIndex(1), Epoch(3));
        let busy = |server, epoch| registry.busy_on(ServerIndex(server), Epoch(epoch));
        assert_eq!((busy(0, 3), busy(1, 3), busy(0, 2)), (1, 1, 0));
        a.rests();
        assert_eq!((busy(0, 3), busy(1, 3)), (0, 1));
    }

    #[test]
    fn logins_that_wait_are_listed_and_are_no_sessions() {
        let registry = SessionRegistry::default();
        registry.register();
        let who = Who { user: "app".into(), database: "shop".into(), peer: "10.0.0.1:5".into(), since_ms: 1 };
        let waiting = registry.login_waits(who);
        let all = registry.all();
        let (glimpse, _) = all[1].1.glimpse();
        assert_eq!((glimpse.activity, &*all[1].1.who().unwrap().user), (Activity::LoginWaits, "app"));
        assert_eq!((registry.len(), all.len()), (1, 2), "a stop does not wait for it");
        drop(waiting);
        assert_eq!(registry.all().len(), 1);
    }

    #[test]
    fn servers_that_keep_sessions_waiting_are_named_once() {
        let registry = SessionRegistry::default();
        let all = [
            (Activity::Active, 1, 10),
            (Activity::Waits(WaitsFor::Connection), 1, 14),
            (Activity::Active, 2, 20),
            (Activity::Idle, 3, 12),
            (Activity::IdleInTransaction, 4, 12),
        ];
        for (activity, server, since_ms) in all {
            let (_, handle) = registry.register();
            handle.show(Glimpse { activity, server: Some(ServerIndex(server)), pins: Pins::default() });
            handle.glimpse_since_ms.store(since_ms, Ordering::Relaxed);
        }
        assert_eq!(registry.kept_waiting(10..20), [(1, 14)].into());
        assert_eq!(registry.kept_waiting(20..30), [(2, 20)].into());
        assert_eq!(registry.kept_waiting(30..40), BTreeMap::new());
    }

    #[test]
    fn only_those_whose_time_has_come_are_told_to_look() {
        let registry = SessionRegistry::default();
        let (a, early) = registry.register();
        let (b, late) = registry.register();
        assert_ne!(a, b);
        early.wake_at(10);
        late.wake_at(20);
        registry.tick(15);
        assert_eq!((early.order(), late.order()), (Order::Look, Order::None));
        assert_eq!(early.order(), Order::None, "told once");
        registry.tell_all(Order::Stop);
        registry.tell_all(Order::Drain);
        assert_eq!(late.order(), Order::Stop, "a weaker order does not take back a stronger one");
        registry.forget(a);
        assert_eq!(registry.len(), 1);
    }
}
