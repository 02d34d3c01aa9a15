//! The connections to one server for one database and user.
//!
//! Owns lending and taking back. A connection is opened by a task of its own and goes to whoever waits
//! longest, not to whoever caused it, so a client that leaves wastes nothing. Invariant: only a clean
//! connection of the pool's epoch is lent again.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::book::Book;
use super::book::Waiting;
use super::gate::{Permit, ServerGate};
use super::pools::limits_for;
use super::waiter::Waiter;
use super::{AcquireError, PoolKey};
use crate::backend::ServerConn;
use crate::backend::conn::{IdleLook, NewConn};
use crate::backend::connect::{ConnectError, ConnectTarget, Credential, Login, connect};
use crate::backend::settings::{Reported, Settings};
use crate::clock::{coarse_ms, now_ms};
use crate::config::{self, PoolLimits};
use crate::telemetry::line::one_line;
use crate::topology::Epoch;

/// What every new connection is told, so that two of them are alike whoever caused them.
const STARTUP_PARAMETERS: [(&str, &str); 2] = [("application_name", "komainu"), ("client_encoding", "UTF8")];

/// A pool that has connections is said to have too few when somebody has waited so long for another.
const SHORT_AFTER_MS: u64 = 200;

/// An application with its drivers has a few; more are asked about each time.
const KINDS_OF_CLIENTS: usize = 8;

type PooledConn = Box<ServerConn>;

#[derive(Debug)]
struct Inner {
    book: Book<PooledConn, Arc<Waiter>>,
    config: Arc<config::Pool>,
    limits: PoolLimits,
    /// Permits of all open connections; which belongs to which does not matter.
    permits: Vec<Permit>,
    credential: Credential,
    /// For greeting clients without asking a server.
    greeting: Option<Greeting>,
    /// Where it waits for a place on the server.
    queued: Queued,
    /// Set after a failed attempt: no new one before this.
    not_before_ms: u64,
    failures: u32,
}

/// A queue of the server's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Queued {
    No,
    /// Of pools that have too few connections.
    Short,
    /// Of those that have none.
    Starved,
}

/// What a client may be greeted with.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// By new connections.
    pub reported: Arc<Reported>,
    /// When a server last confirmed that the role may log in.
    pub confirmed_at_ms: u64,
    /// What the last few kinds of clients were told, newest first: most clients of a pool are alike, and then they
    /// share their settings, too.
    pub told: Vec<Told>,
}

/// What clients that ask for these settings are told.
#[derive(Debug, Clone)]
pub struct Told {
    pub settings: Arc<Settings>,
    pub believed: Arc<Reported>,
    /// Then a server is to be asked again whether it takes them.
    pub good_until_ms: u64,
}

#[derive(Debug)]
pub struct Pool {
    pub key: PoolKey,
    target: ConnectTarget,
    gate: Arc<ServerGate>,
    inner: Mutex<Inner>,
    /// Places in the queue whose holders were not told how it ended.
    waiting: AtomicUsize,
    retired: AtomicBool,
    last_used_ms: AtomicU64,
}

/// Numbers of one pool for `SHOW POOL_POOLS` and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    pub open: usize,
    pub idle: usize,
    pub opening: usize,
    pub waiting: usize,
}

impl PoolCounts {
    /// In the hands of sessions.
    pub fn leased(&self) -> usize {
        self.open.saturating_sub(self.idle + self.opening)
    }
}

impl Pool {
    pub fn new(
        key: PoolKey,
        target: ConnectTarget,
        gate: Arc<ServerGate>,
        config: Arc<config::Pool>,
        credential: Credential,
    ) -> Arc<Self> {
        let limits = limits_for(&config, &key.database, &key.user).clone();
        Arc::new(Pool {
            key,
            target,
            gate,
            inner: Mutex::new(Inner {
                book: Book::default(),
                config,
                limits,
                permits: Vec::new(),
                credential,
                greeting: None,
                queued: Queued::No,
                not_before_ms: 0,
                failures: 0,
            }),
            waiting: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            last_used_ms: AtomicU64::new(now_ms()),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn epoch(&self) -> Epoch {
        self.key.epoch
    }

    pub fn target(&self) -> &ConnectTarget {
        &self.target
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// A client proved this; the next connection logs in with it.
    pub fn offer_credential(&self, credential: Credential) {
        if !matches!(credential, Credential::None) {
            self.inner().credential = credential;
        }
    }

    /// As `offer_credential`, where what there was has been refused: a standby may refuse for a while what the
    /// primary takes, and is not logged in to by clients.
    pub fn offer_credential_if_none(&self, credential: &Credential) {
        let mut inner = self.inner();
        if matches!(inner.credential, Credential::None) {
            inner.credential = credential.clone();
        }
    }

    /// Nothing is open, and the last attempt to open a connection failed just now.
    pub fn is_failing(&self) -> bool {
        let inner = self.inner();
        inner.book.open_count() == 0 && now_ms() < inner.not_before_ms
    }

    pub fn greeting(&self) -> Option<Greeting> {
        self.inner().greeting.clone()
    }

    /// What clients are told on the ground of `reported`.
    pub fn remember_told(&self, reported: &Arc<Reported>, told: Told) {
        if let Some(greeting) = &mut self.inner().greeting
            && Arc::ptr_eq(&greeting.reported, reported)
        {
            greeting.told.retain(|present| present.settings != told.settings);
            greeting.told.truncate(KINDS_OF_CLIENTS - 1);
            greeting.told.insert(0, told);
        }
    }

    pub fn confirm_login(&self, now_ms: u64) {
        if let Some(greeting) = &mut self.inner().greeting {
            greeting.confirmed_at_ms = now_ms;
        }
    }

    /// An idle connection at once, if there is one. Prefers one that was last made up as `settings`.
    pub fn try_acquire(&self, settings: &Settings) -> Option<PooledConn> {
        loop {
            let mut conn = {
                let mut inner = self.inner();
                inner.book.take_idle(|conn| conn.settings.hash() == settings.hash())?
            };
            match conn.look_while_idle() {
                IdleLook::Quiet => return Some(conn),
                IdleLook::Dead => self.discard(conn),
            }
        }
    }

    /// A connection, waiting for one in turn. Cancel safe: dropping it leaves the queue.
    pub fn wait(self: &Arc<Self>) -> Acquire {
        self.wait_as(Waiter::new())
    }

    /// The same with a waiter that has been served before, and so stands in no queue any more.
    pub fn wait_as(self: &Arc<Self>, waiter: Arc<Waiter>) -> Acquire {
        waiter.begin(now_ms());
        self.waiting.fetch_add(1, Ordering::Relaxed);
        {
            let mut inner = self.inner();
            // It is retired first, and who waits is sent away behind this lock.
            if self.is_retired() {
                waiter.fail(AcquireError::Retired);
            } else {
                inner.book.enqueue(waiter.clone());
                // One may have come back since none was found idle; who waits longest gets it.
                if let Some(conn) = inner.book.take_idle(|_| true) {
                    inner.book.give_back(conn);
                }
            }
        }
        self.open_for_waiters();
        Acquire { pool: self.clone(), waiter, waits: true }
    }

    /// Takes a connection back. What is not clean is closed.
    pub fn release(self: &Arc<Self>, conn: PooledConn) {
        self.take_in(conn, true);
    }

    fn take_in(self: &Arc<Self>, mut conn: PooledConn, was_lent: bool) {
        let now = coarse_ms();
        if !conn.is_clean() {
            self.discard(conn);
            self.open_for_waiters();
            return;
        }
        conn.input.release();
        conn.idle_since_ms = now;
        self.last_used_ms.store(now, Ordering::Relaxed);
        let mut inner = self.inner();
        let Inner { book, limits, config, .. } = &mut *inner;
        // The size was lowered, or the reserve is not needed any more.
        let is_excess = book.open_count() > limits.size && book.excess(limits, now) > 0;
        // One that is new has been given to this pool for those who wait here.
        let is_owed = was_lent && self.gate.asks_for_one(book.open_count());
        // It is retired first, and what is idle is taken behind this lock.
        if self.is_retired() || is_excess || is_owed || has_lived(&conn, config.lifetime_ms, now) {
            drop(inner);
            self.discard(conn);
            return self.open_for_waiters();
        }
        inner.book.give_back(conn);
    }

    /// A connection that is not to be used again.
    pub fn discard(&self, conn: PooledConn) {
        let permit = {
            let mut inner = self.inner();
            inner.book.closed();
            inner.permits.pop()
        };
        conn.close();
        drop(permit);
    }

    /// Closes idle connections now and leased ones as they come back; nobody is lent one any more.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.withdraw();
    }

    /// Closes idle connections, and has those who wait ask elsewhere.
    pub fn withdraw(&self) {
        let (idle, permits, waiters) = {
            let mut inner = self.inner();
            let idle = inner.book.expire(0, |_| true);
            let kept = inner.permits.len().saturating_sub(idle.len());
            (idle, inner.permits.split_off(kept), inner.book.all_waiters())
        };
        idle.into_iter().for_each(ServerConn::close);
        drop(permits);
        waiters.iter().for_each(|waiter| waiter.fail(AcquireError::Retired));
    }

    /// Housekeeping, called by a coarse tick: expiry, minimum, the reserve, retries.
    pub fn tick(self: &Arc<Self>) {
        let now = now_ms();
        let (expired, permits) = {
            let mut inner = self.inner();
            let minimum = inner.limits.min;
            let (idle_timeout, lifetime) = (inner.config.idle_timeout_ms, inner.config.lifetime_ms);
            let mut expired = inner.book.expire(0, |conn| has_lived(conn, lifetime, now));
            let idled = inner.book.expire(minimum, |conn| is_over(idle_timeout, conn.idle_since_ms, now));
            expired.extend(idled);
            let size = inner.limits.size;
            expired.extend(inner.book.expire(size, |_| true));
            let kept = inner.permits.len().saturating_sub(expired.len());
            (expired, inner.permits.split_off(kept))
        };
        expired.into_iter().for_each(ServerConn::close);
        drop(permits);
        self.drop_dead_idle();
        self.open_for_waiters();
        self.open_to_minimum();
    }

    /// Notices idle connections the server has closed, so that the counts are true.
    fn drop_dead_idle(&self) {
        // One at a time: the lock is not held while a connection is looked at, and the others are there for clients.
        let count = self.inner().book.idle_count();
        for _ in 0..count {
            let Some(mut conn) = self.inner().book.take_oldest_idle() else { break };
            match conn.look_while_idle() {
                // Behind all others: when each was looked at once, their order is as before.
                IdleLook::Quiet => {
                    let mut inner = self.inner();
                    // It is retired first, and what is idle is taken behind this lock.
                    if self.is_retired() {
                        drop(inner);
                        self.discard(conn);
                    } else {
                        inner.book.give_back(conn);
                    }
                }
                IdleLook::Dead => self.discard(conn),
            }
        }
    }

    fn open_for_waiters(self: &Arc<Self>) {
        if self.is_retired() {
            return;
        }
        let now = now_ms();
        let mut inner = self.inner();
        if now < inner.not_before_ms {
            return;
        }
        let limits = inner.limits.clone();
        let wanted = inner.book.wanted(&limits, now);
        if wanted == 0 && inner.queued != Queued::No {
            // Who waited was served otherwise, and nobody is to give up anything for it.
            inner.queued = Queued::No;
            self.gate.waits_no_more(&Arc::downgrade(self));
        }
        for _ in 0..wanted {
            if !self.open_one(&mut inner) {
                self.queue(&mut inner, now);
                break;
            }
        }
    }

    /// The server has as many connections as it may have.
    fn queue(self: &Arc<Self>, inner: &mut Inner, now_ms: u64) {
        let waited_ms = inner.book.waiting_since_ms().map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        let place = match inner.book.open_count() {
            0 => Queued::Starved,
            _ if waited_ms >= SHORT_AFTER_MS => Queued::Short,
            _ => Queued::No,
        };
        if place <= inner.queued {
            return;
        }
        inner.queued = place;
        match place {
            Queued::Starved => self.gate.starves(Arc::downgrade(self), now_ms),
            Queued::Short => self.gate.wants_more(Arc::downgrade(self)),
            Queued::No => {}
        }
    }

    /// Takes a permit that another pool has given up, if there still is use for it.
    pub(super) fn feed(self: &Arc<Self>, permit: Permit) -> Result<(), Permit> {
        let now = now_ms();
        let mut inner = self.inner();
        inner.queued = Queued::No;
        let limits = inner.limits.clone();
        let is_wanted =
            !self.is_retired() && now >= inner.not_before_ms && inner.book.wanted(&limits, now) > 0;
        // At the end of the process permits are dropped when nothing can be opened any more.
        if !is_wanted || tokio::runtime::Handle::try_current().is_err() {
            return Err(permit);
        }
        self.open_with(permit, &mut inner);
        Ok(())
    }

    fn open_to_minimum(self: &Arc<Self>) {
        let mut inner = self.inner();
        // Without a login there is nothing to open with; and a role nobody uses needs no connections.
        if self.is_retired() || inner.greeting.is_none() || now_ms() < inner.not_before_ms {
            return;
        }
        for _ in 0..inner.book.below_minimum(&inner.limits.clone()) {
            if !self.open_one(&mut inner) {
                break;
            }
        }
    }

    fn open_one(self: &Arc<Self>, inner: &mut Inner) -> bool {
        let Some(permit) = self.gate.try_enter() else { return false };
        self.open_with(permit, inner);
        true
    }

    fn open_with(self: &Arc<Self>, permit: Permit, inner: &mut Inner) {
        inner.book.opening();
        tokio::spawn(self.clone().open(permit));
    }

    async fn open(self: Arc<Self>, permit: Permit) {
        let pause = self.gate.turn_ms(now_ms());
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let (config, credential) = {
            let inner = self.inner();
            (inner.config.clone(), inner.credential.clone())
        };
        let (user, database) = (self.key.user.to_string(), self.key.database.to_string());
        let login = Login { user, database, credential };
        let deadline = Duration::from_millis(config.connect_timeout_ms);
        let result = tokio::time::timeout(deadline, connect(&self.target, &login, &STARTUP_PARAMETERS))
            .await
            .unwrap_or(Err(ConnectError::Timeout));
        match result {
            Ok(connected) => {
                let mut conn = Box::new(ServerConn::from(NewConn {
                    stream: connected.stream,
                    received: connected.buffered,
                    server: self.key.server,
                    epoch: self.key.epoch,
                    pid: connected.pid,
                    key: connected.cancel_key,
                    parameters: connected.parameters,
                    max_prepared_statements: config.max_prepared_statements,
                    max_prepared_bytes: config.max_prepared_bytes,
                    now_ms: now_ms(),
                }));
                match conn.look_while_idle() {
                    IdleLook::Quiet => self.opened(conn, permit),
                    // The server has ended it already, or has begun to say something.
                    IdleLook::Dead => {
                        conn.close();
                        let error = ConnectError::Lost(io::ErrorKind::UnexpectedEof.into());
                        self.opening_failed(error, &login.credential, permit);
                    }
                }
            }
            Err(error) => self.opening_failed(error, &login.credential, permit),
        }
    }

    fn opened(self: &Arc<Self>, conn: PooledConn, permit: Permit) {
        {
            let mut inner = self.inner();
            inner.book.opened();
            inner.permits.push(permit);
            inner.failures = 0;
            let reported = conn.reported.clone();
            let alike = inner.greeting.take().filter(|past| past.reported.hash() == reported.hash());
            let told = alike.map(|past| past.told).unwrap_or_default();
            inner.greeting = Some(Greeting { reported, confirmed_at_ms: now_ms(), told });
        }
        tracing::debug!(server = %self.target.host, port = self.target.port, database = &*self.key.database,
            user = &*self.key.user, pid = conn.cancel.pid, "server connection opened");
        self.take_in(conn, false);
        // The more there are, the more are opened at a time.
        self.open_for_waiters();
    }

    fn opening_failed(self: &Arc<Self>, error: ConnectError, tried: &Credential, permit: Permit) {
        const FIRST_PAUSE_MS: u64 = 50;
        const LONGEST_PAUSE_MS: u64 = 1000;
        drop(permit);
        tracing::warn!(server = %self.target.host, port = self.target.port, database = &*self.key.database,
            user = &*self.key.user, error = one_line(&error), "cannot open a server connection");
        let waiters = {
            let mut inner = self.inner();
            inner.book.opening_failed();
            let is_newer = !matches!(inner.credential, Credential::None) && !inner.credential.is_same(tried);
            if error.is_credential() && is_newer {
                // A client has proved it meanwhile, and nobody is answered for what it has replaced.
                drop(inner);
                return self.open_for_waiters();
            }
            if error.is_credential()
                && matches!(
                    inner.credential,
                    Credential::ScramKeys(_) | Credential::Md5(_) | Credential::Password(_)
                )
            {
                // The secret has changed on the server; the next login brings a new proof.
                inner.credential = Credential::None;
                inner.greeting = None;
            }
            inner.failures += 1;
            let pause = FIRST_PAUSE_MS << inner.failures.min(5);
            inner.not_before_ms = now_ms() + pause.min(LONGEST_PAUSE_MS);
            // Whoever could be served by a connection that is open waits on; with none, nobody can.
            if inner.book.open_count() == 0 { inner.book.all_waiters() } else { Default::default() }
        };
        let error = Arc::new(error);
        waiters.iter().for_each(|waiter| waiter.fail(AcquireError::Connect(error.clone())));
    }

    pub fn give_up_one_idle(&self) {
        let oldest = self.inner().book.take_oldest_idle();
        if let Some(conn) = oldest {
            self.discard(conn);
        }
    }

    /// Since when each idle connection is.
    pub fn idle_since_ms(&self) -> Vec<u64> {
        self.inner().book.idle().map(|conn| conn.idle_since_ms).collect()
    }

    /// Connections that are open are measured by it from now on, too.
    pub fn reconfigure(&self, config: &Arc<config::Pool>) {
        let mut inner = self.inner();
        inner.limits = limits_for(config, &self.key.database, &self.key.user).clone();
        inner.config = config.clone();
    }

    pub fn counts(&self) -> PoolCounts {
        let inner = self.inner();
        PoolCounts {
            open: inner.book.open_count(),
            idle: inner.book.idle_count(),
            opening: inner.book.opening_count(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    pub fn limits(&self) -> PoolLimits {
        self.inner().limits.clone()
    }

    /// What somebody can do about it who waits in vain.
    pub fn advice(&self) -> &'static str {
        let is_full = {
            let inner = self.inner();
            inner.book.open_count() >= inner.limits.size + inner.limits.reserve
        };
        match is_full || self.gate.open_count() < self.gate.max_connections() {
            true => "raise pool.size or pool.acquire_timeout_ms, or look for transactions left open",
            false => {
                "all of pool.max_server_connections are taken: raise that or pool.acquire_timeout_ms, or look for \
                 transactions left open and sessions that keep their connection"
            }
        }
    }

    /// Since when the first of those who wait does.
    pub fn waiting_since_ms(&self) -> Option<u64> {
        self.inner().book.waiting_since_ms()
    }

    /// Nothing open, nobody waiting, unused for `after_ms`, or for `without_greeting_ms` where no server has let anybody in,
    /// which begin when the pause after a failed attempt is over: the registry may forget it.
    pub fn is_forgettable(&self, now_ms: u64, after_ms: u64, without_greeting_ms: u64) -> bool {
        let counts = self.counts();
        let (is_greeted, not_before_ms) = {
            let inner = self.inner();
            (inner.greeting.is_some(), inner.not_before_ms)
        };
        let after_ms = if is_greeted { after_ms } else { without_greeting_ms };
        let used_ms = self.last_used_ms.load(Ordering::Relaxed).max(not_before_ms);
        counts == PoolCounts::default() && now_ms.saturating_sub(used_ms) > after_ms
    }
}

/// Whether a time limit, where there is one, has passed.
fn is_over(limit_ms: u64, since_ms: u64, now_ms: u64) -> bool {
    limit_ms != 0 && now_ms.saturating_sub(since_ms) > limit_ms
}

fn has_lived(conn: &ServerConn, lifetime_ms: u64, now_ms: u64) -> bool {
    is_over(lifetime_of(conn.cancel.pid, lifetime_ms), conn.opened_at_ms, now_ms)
}

/// Up to an eighth less than the limit: what was opened together, after a failover for one, is not closed together.
pub(super) fn lifetime_of(pid: i32, limit_ms: u64) -> u64 {
    // Multiplied so, numbers that follow each other lie far apart.
    let spread = pid.cast_unsigned().wrapping_mul(0x9E37_79B1);
    limit_ms - (limit_ms / 8).saturating_mul(u64::from(spread >> 16)) / (1 << 16)
}

/// A place in the queue. Dropping it leaves the queue and loses nothing.
#[derive(Debug)]
pub struct Acquire {
    pool: Arc<Pool>,
    waiter: Arc<Waiter>,
    waits: bool,
}

impl Acquire {
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<PooledConn, AcquireError>> {
        let served = self.waiter.poll(cx);
        if served.is_ready() {
            self.wait_is_over();
        }
        served
    }

    /// Returns whether it was not before.
    fn wait_is_over(&mut self) -> bool {
        let waited = std::mem::take(&mut self.waits);
        if waited {
            self.pool.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        waited
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub fn since_ms(&self) -> u64 {
        self.waiter.since_ms()
    }

    /// The waiter of one that was served, for the next wait.
    pub fn into_waiter(self) -> Arc<Waiter> {
        self.waiter.clone()
    }

    pub async fn served(mut self) -> Result<PooledConn, AcquireError> {
        poll_fn(|cx| self.poll(cx)).await
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let left = self.wait_is_over();
        match self.waiter.leave() {
            Some(conn) => self.pool.release(conn),
            None if left => self.pool.inner().book.left(),
            None => {}
        }
    }
}
