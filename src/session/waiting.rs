//! From a request to a server connection: asking for one, and waiting for what is missing.
//!
//! Invariant: a request waits for one thing at a time: for a connection of a busy pool no longer than
//! `pool.acquire_timeout_ms`, for a primary, over all its tries, no longer than `limits.hold_timeout_ms`.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::batch::Request;
use super::glimpse::WaitsFor;
use super::held::Patience;
use super::session::{End, Session};
use crate::clock::{coarse_ms, now_ms};
use crate::cluster::reason::Reason;
use crate::config::Config;
use crate::pool::{Acquire, AcquireError, Pool, PoolKey};
use crate::route::Target;
use crate::topology::{Admission, Role, ServerIndex, ServerState, Snapshot};
use crate::wire::message::Report;
use crate::wire::sqlstate;

/// Between two tries to reach the primary.
const RETRY_MS: u64 = 100;

/// A lease may be back before anybody has noticed that it had ended: then the topology does not change with it.
pub(super) const RETRY_LEASE_MS: u64 = 10;

/// How long a request has waited, and for what.
#[derive(Debug)]
pub struct Wait {
    /// By the coarse clock.
    begun_ms: u64,
    patience: Patience,
}

impl Wait {
    fn begin() -> Wait {
        Wait { begun_ms: coarse_ms(), patience: Patience::default() }
    }
}

/// What a request waits for before it has a connection.
#[derive(Debug)]
pub struct Waiting {
    pub request: Request,
    wait: Wait,
    /// What it was decided by; a newer one may decide otherwise.
    topology: Arc<Snapshot>,
    on: On,
}

#[derive(Debug)]
enum On {
    /// And whether it is one to a standby.
    Connection(Acquire, bool),
    /// For a primary: a newer topology, or a moment.
    Pause(Pin<Box<Sleep>>),
    /// For a standby to replay the session's floor.
    Floor(Pin<Box<Sleep>>),
}

impl Waiting {
    pub fn waits_for(&self) -> (WaitsFor, Option<ServerIndex>) {
        match &self.on {
            On::Connection(acquire, _) => (WaitsFor::Connection, Some(acquire.pool().key.server)),
            On::Pause(..) => (WaitsFor::Primary, None),
            On::Floor(_) => (WaitsFor::Replay, None),
        }
    }

    /// When its time is up; never 0, so that it is woken by what happens.
    pub fn wake_at_ms(&self, config: &Config) -> u64 {
        let acquire_timeout_ms = config.pool.acquire_timeout_ms;
        match &self.on {
            On::Connection(acquire, _) => acquire.since_ms() + acquire_timeout_ms,
            On::Pause(..) => self.wait.patience.ends_at_ms(&config.limits).unwrap_or(u64::MAX),
            On::Floor(..) => self.wait.begun_ms + acquire_timeout_ms,
        }
    }
}

impl Session {
    /// Finds a server for the request and begins to get a connection to it.
    pub(super) fn begin_request(&mut self, request: Request) -> Result<(), End> {
        self.begin_request_since(request, Wait::begin(), true)
    }

    pub(super) fn begin_request_since(
        &mut self,
        request: Request,
        wait: Wait,
        may_wait: bool,
    ) -> Result<(), End> {
        self.look_at_topology();
        // What komainu itself answers shows nothing that a standby could lack.
        let may_wait = may_wait && !request.is_for_komainu();
        let (target, reason) = self.choose(&request, may_wait);
        self.route_reason = reason;
        let to_primary = match target {
            Target::Primary => self.topology.primary.is_some(),
            Target::Server(server) => self.topology.primary == Some(server),
            _ => false,
        };
        let Some((request, wait)) = self.after_refusal(request, wait)? else { return Ok(()) };
        if to_primary && !self.gateway.right.allows(self.topology.epoch, now_ms) {
            // The lease has just ended: nothing was sent, so the request waits as without a primary.
            self.hold(request, wait, RETRY_LEASE_MS, "this node has no lease".into());
            return Ok(());
        }
        if let Target::Server(server) = target
            && self.topology.is_paused(server)
        {
            self.hold(request, wait, RETRY_MS, Reason::Paused.sentence().into());
            return Ok(());
        }
        match (target, self.topology.primary) {
            (Target::Primary, Some(primary)) => self.acquire(primary, request, wait),
            (Target::Server(server), _) => self.acquire(server, request, wait),
            (Target::WaitForFloor { .. }, _) => {
                self.gateway.looks.all();
                // Of all the time there is, what is left: every look at the servers leads here again.
                let until = wait.begun_ms + self.settled.config.split.floor_wait_ms;
                let on = On::Floor(pause(until.saturating_sub(now_ms())));
                self.wait_on(Waiting { request, wait, topology: self.topology.clone(), on });
                Ok(())
            }
            (Target::Primary, None) | (Target::None, _) => {
                let why = self.gateway.why_no_primary();
                self.hold(request, wait, RETRY_MS, why.into());
                Ok(())
            }
        }
    }

    /// Waits for a primary that can be used, as long as there is time.
    fn hold(&mut self, request: Request, mut wait: Wait, retry_ms: u64, why: Cow<'static, str>) {
        let limits = &self.settled.config.limits;
        let begins = wait.patience.ends_at_ms(limits).is_none();
        // What is counted is all that there is room for until it goes on.
        self.input.shrink();
        let bytes = self.input.capacity();
        if let Err(impatience) = wait.patience.hold(&self.gateway.held, limits, bytes, now_ms()) {
            let message = impatience.message("statement", &why);
            return self.refuse(&request, &Report::error(sqlstate::CANNOT_CONNECT_NOW, &message));
        }
        if begins {
            tracing::debug!(parent: &self.identity.span(self.id), %why, "request waits for a primary");
        }
        let on = On::Pause(pause(retry_ms));
        self.wait_on(Waiting { request, wait, topology: self.topology.clone(), on });
    }

    /// As `hold`, for one that is not what it was taken for.
    pub(super) fn hold_for_primary(&mut self, request: Request, wait: Wait, why: Reason) {
        self.hold(request, wait, RETRY_MS, why.sentence().into());
    }

    /// As `hold`, for a session that keeps its connection meanwhile.
    pub(super) fn hold_with_lease(&mut self, request: Request) {
        let why = self.gateway.why_no_primary();
        self.hold(request, Wait::begin(), RETRY_MS, why.into());
    }

    fn wait_on(&mut self, waiting: Waiting) {
        self.slot.wait_began(&self.handle);
        self.waiting = Some(waiting);
    }

    /// Tries again what has waited.
    fn resume(&mut self, request: Request, wait: Wait, may_wait: bool) -> Result<(), End> {
        if self.lease.is_none() {
            return self.begin_request_since(request, wait, may_wait);
        }
        if self.is_held_back() {
            let why = self.gateway.why_no_primary();
            self.hold(request, wait, RETRY_MS, why.into());
        } else {
            // It is still at the front of the input, and goes on as if it had never waited.
            self.batch.clear();
            self.slot.wait_ended();
        }
        Ok(())
    }

    fn acquire_timeout(&self) -> u64 {
        self.settled.config.pool.acquire_timeout_ms
    }

    pub(super) fn pool_for(&mut self, server: ServerIndex) -> Arc<Pool> {
        let epoch = self.topology.epoch;
        self.pools.retain(|pool| pool.epoch() == epoch && !pool.is_retired());
        if let Some(pool) = self.pools.iter().find(|pool| pool.key.server == server) {
            return pool.clone();
        }
        let key = PoolKey {
            server,
            epoch,
            database: self.identity.database.name.clone(),
            user: self.identity.user.clone(),
        };
        let server = self.topology.server(server).expect("it was chosen from this topology");
        let pool = self.gateway.pools.get(&key, server, &self.identity.credential);
        self.pools.push(pool.clone());
        pool
    }

    fn acquire(&mut self, server: ServerIndex, request: Request, wait: Wait) -> Result<(), End> {
        let pool = self.pool_for(server);
        let is_standby = self.topology.primary != Some(server);
        if let Some(conn) = pool.try_acquire(&self.settings) {
            self.gateway.counters.acquired_at_once();
            return self.begin_lease(conn, pool, request, is_standby, wait);
        }
        if is_standby && pool.is_failing() {
            // Waiting for the next attempt would cost each read that pause.
            self.force_primary = true;
            return self.begin_request_since(request, wait, false);
        }
        pool.offer_credential_if_none(&self.identity.credential);
        let acquire = match self.waiter.take() {
            Some(waiter) => pool.wait_as(waiter),
            None => pool.wait(),
        };
        let on = On::Connection(acquire, is_standby);
        self.wait_on(Waiting { request, wait, topology: self.topology.clone(), on });
        Ok(())
    }

    /// Moves on what waits for a connection.
    pub(super) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(mut waiting) = self.waiting.take() else { return Ok(false) };
        if self.slot.is_refused() {
            let report = Report::error(sqlstate::QUERY_CANCELED, "canceling statement due to user request");
            self.refuse(&waiting.request, &report);
            return Ok(true);
        }
        let expired = coarse_ms() >= waiting.wake_at_ms(&self.settled.config);
        match &mut waiting.on {
            On::Connection(acquire, is_standby) => match acquire.poll(cx) {
                Poll::Pending if expired => self.acquire_expired(waiting),
                Poll::Pending => {
                    let (server, is_standby) = (acquire.pool().key.server, *is_standby);
                    if self.topology_is_newer_than(&waiting.topology) && !self.may_serve(server, is_standby) {
                        // What it waits for would be of no use.
                        self.begin_request_since(waiting.request, waiting.wait, true)?;
                        return Ok(true);
                    }
                    waiting.topology = self.topology.clone();
                    self.waiting = Some(waiting);
                    return Ok(false);
                }
                Poll::Ready(result) => {
                    let On::Connection(acquire, is_standby) = waiting.on else {
                        unreachable!("matched above")
                    };
                    self.acquired(result, acquire, waiting.request, waiting.wait, is_standby)?;
                }
            },
            On::Floor(sleep) | On::Pause(sleep) => {
                let over = sleep.as_mut().poll(cx).is_ready();
                if !over && !expired && !self.topology_is_newer_than(&waiting.topology) {
                    self.waiting = Some(waiting);
                    return Ok(false);
                }
                let may_wait = !(over && matches!(waiting.on, On::Floor(_)));
                self.resume(waiting.request, waiting.wait, may_wait)?;
            }
        }
        Ok(true)
    }

    /// Whether a server still is what it was chosen for.
    pub(super) fn may_serve(&self, server: ServerIndex, is_standby: bool) -> bool {
        match is_standby {
            true => {
                let is_used =
                    |server: &ServerState| server.is_up(Role::Standby) && server.admission == Admission::Open;
                self.topology.server(server).is_some_and(is_used)
            }
            false => self.topology.primary == Some(server),
        }
    }

    fn acquired(
        &mut self,
        result: Result<Box<crate::backend::ServerConn>, AcquireError>,
        acquire: Acquire,
        request: Request,
        wait: Wait,
        is_standby: bool,
    ) -> Result<(), End> {
        let conn = match result {
            Ok(conn) => conn,
            Err(error) => return self.acquire_failed(error, request, wait, is_standby),
        };
        let waited = now_ms().saturating_sub(acquire.since_ms());
        let pool = acquire.pool().clone();
        self.waiter = Some(acquire.into_waiter());
        if !is_standby && !self.gateway.right.allows(pool.epoch(), now_ms) {
            pool.release(conn);
            return self.begin_request_since(request, wait, true);
        }
        self.gateway.counters.acquired_after(Duration::from_millis(waited));
        self.begin_lease(conn, pool, request, is_standby, wait)
    }

    /// By what a wait was decided on: whoever else looked meanwhile takes nothing away.
    fn topology_is_newer_than(&mut self, seen: &Arc<Snapshot>) -> bool {
        self.look_at_topology();
        !Arc::ptr_eq(seen, &self.topology)
    }

    fn acquire_expired(&mut self, waiting: Waiting) {
        let On::Connection(acquire, _) = waiting.on else { return };
        let pool = acquire.pool().clone();
        drop(acquire);
        let (counts, timeout_ms) = (pool.counts(), self.acquire_timeout());
        if counts.open > 0 && counts.open == counts.opening {
            let message = format!(
                "no server could take the statement within {timeout_ms} ms: the server does not answer"
            );
            return self.refuse(&waiting.request, &Report::error(sqlstate::CANNOT_CONNECT_NOW, &message));
        }
        let message = format!(
            "no server connection became free within {timeout_ms} ms: {} are open for user \"{}\" and database \"{}\", {} clients wait",
            counts.open, pool.key.user, pool.key.database, counts.waiting
        );
        let report = Report::error(sqlstate::TOO_MANY_CONNECTIONS, &message).hint(pool.advice());
        self.refuse(&waiting.request, &report);
    }

    fn acquire_failed(
        &mut self,
        error: AcquireError,
        request: Request,
        wait: Wait,
        is_standby: bool,
    ) -> Result<(), End> {
        let error = match error {
            AcquireError::Retired => return self.begin_request_since(request, wait, true),
            AcquireError::Connect(error) => error,
        };
        self.gateway.looks.all();
        if is_standby {
            // A new database, role or password may not be replayed yet; or the standby is down.
            self.force_primary = true;
            return self.begin_request_since(request, wait, false);
        }
        let message = error.client_message();
        if error.is_passing() {
            let why = format!("the primary could not be reached ({message})");
            self.hold(request, wait, RETRY_MS, why.into());
        } else {
            self.refuse(&request, &Report::error(error.sqlstate(), &message));
        }
        Ok(())
    }
}

fn pause(ms: u64) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(Duration::from_millis(ms)))
}
