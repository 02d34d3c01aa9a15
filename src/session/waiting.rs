//! From a request to a server connection: asking for one, and waiting for what is missing.
//!
//! Invariant: a request waits for one thing at a time, and for all of them together no longer than
//! `pool.acquire_timeout_ms`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::batch::Request;
use super::glimpse::WaitsFor;
use super::session::{End, Session};
use crate::backend::connect::ConnectError;
use crate::clock::{coarse_ms, now_ms};
use crate::pool::{Acquire, AcquireError, Pool, PoolKey};
use crate::route::Target;
use crate::topology::{ServerIndex, Snapshot};
use crate::wire::message::Report;
use crate::wire::sqlstate;

/// Between two tries to reach the primary.
const RETRY_MS: u64 = 100;

/// What a request waits for before it has a connection.
#[derive(Debug)]
pub struct Waiting {
    pub request: Request,
    /// By the coarse clock.
    since_ms: u64,
    timeout_ms: u64,
    /// What it was decided by; a newer one may decide otherwise.
    topology: Arc<Snapshot>,
    on: On,
}

#[derive(Debug)]
enum On {
    /// And whether it is one to a standby.
    Connection(Acquire, bool),
    /// For a newer topology, or a moment.
    Pause(Pin<Box<Sleep>>, &'static str),
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

    pub fn wake_at_ms(&self) -> u64 {
        self.since_ms + self.timeout_ms
    }
}

impl Session {
    /// Finds a server for the request and begins to get a connection to it.
    pub(super) fn begin_request(&mut self, request: Request) -> Result<(), End> {
        self.begin_request_since(request, coarse_ms(), true)
    }

    fn begin_request_since(&mut self, request: Request, since_ms: u64, may_wait: bool) -> Result<(), End> {
        self.look_at_topology();
        // What komainu itself answers shows nothing that a standby could lack.
        let may_wait = may_wait && !request.is_for_komainu();
        let (target, reason) = self.choose(&request, may_wait);
        self.route_reason = reason;
        let wait = |on| {
            Some(Waiting {
                request: request.clone(),
                since_ms,
                timeout_ms: self.acquire_timeout(),
                topology: self.topology.clone(),
                on,
            })
        };
        let to_primary = match target {
            Target::Primary => self.topology.primary.is_some(),
            Target::Server(server) => self.topology.primary == Some(server),
            _ => false,
        };
        if to_primary && !self.gateway.right.allows(self.topology.epoch, now_ms) {
            // The lease has just ended: nothing was sent, so the request waits as without a primary.
            self.waiting = wait(On::Pause(pause(RETRY_MS), "this node has no lease"));
            return Ok(());
        }
        match target {
            Target::Primary => match self.topology.primary {
                Some(primary) => self.acquire(primary, request, since_ms),
                None => {
                    self.waiting = wait(On::Pause(pause(RETRY_MS), "no primary is known"));
                    Ok(())
                }
            },
            Target::Server(server) => self.acquire(server, request, since_ms),
            Target::WaitForFloor { .. } => {
                self.gateway.looks.all();
                // Of all the time there is, what is left: every look at the servers leads here again.
                let until = since_ms + self.settled.config.split.floor_wait_ms;
                self.waiting = wait(On::Floor(pause(until.saturating_sub(now_ms()))));
                Ok(())
            }
            Target::None => {
                tracing::debug!(parent: &self.identity.span(self.id), ?reason, "request waits: no server can take it");
                self.waiting = wait(On::Pause(pause(RETRY_MS), "no primary is known"));
                Ok(())
            }
        }
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
        let pool = self.gateway.pools.get(&key, &self.topology, &self.identity.credential);
        self.pools.push(pool.clone());
        pool
    }

    fn acquire(&mut self, server: ServerIndex, request: Request, since_ms: u64) -> Result<(), End> {
        let pool = self.pool_for(server);
        let is_standby = self.topology.primary != Some(server);
        if let Some(conn) = pool.try_acquire(&self.settings) {
            self.gateway.counters.acquired_at_once();
            return self.begin_lease(conn, pool, request, is_standby);
        }
        if is_standby && pool.is_failing() {
            // Waiting for the next attempt would cost each read that pause.
            self.force_primary = true;
            return self.begin_request_since(request, since_ms, false);
        }
        pool.offer_credential_if_none(&self.identity.credential);
        let acquire = match self.waiter.take() {
            Some(waiter) => pool.wait_as(waiter),
            None => pool.wait(),
        };
        let on = On::Connection(acquire, is_standby);
        let timeout_ms = self.acquire_timeout();
        let topology = self.topology.clone();
        self.waiting = Some(Waiting { request, since_ms, timeout_ms, topology, on });
        Ok(())
    }

    /// Moves on what waits for a connection.
    pub(super) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(waiting) = &mut self.waiting else { return Ok(false) };
        let expired = coarse_ms() >= waiting.since_ms + waiting.timeout_ms;
        match &mut waiting.on {
            On::Connection(acquire, _) => match acquire.poll(cx) {
                Poll::Pending if !expired => return Ok(false),
                Poll::Pending => {
                    let waiting = self.waiting.take().expect("looked at above");
                    self.acquire_expired(waiting);
                }
                Poll::Ready(result) => {
                    let waiting = self.waiting.take().expect("looked at above");
                    let On::Connection(acquire, is_standby) = waiting.on else {
                        unreachable!("matched above")
                    };
                    match result {
                        Ok(conn) => {
                            let waited = now_ms().saturating_sub(acquire.since_ms());
                            let pool = acquire.pool().clone();
                            self.waiter = Some(acquire.into_waiter());
                            if !is_standby && !self.gateway.right.allows(pool.epoch(), now_ms) {
                                pool.release(conn);
                                self.begin_request_since(waiting.request, waiting.since_ms, true)?;
                                return Ok(true);
                            }
                            self.gateway.counters.acquired_after(Duration::from_millis(waited));
                            self.begin_lease(conn, pool, waiting.request, is_standby)?;
                        }
                        Err(error) => {
                            self.acquire_failed(error, waiting.request, waiting.since_ms, is_standby)?
                        }
                    }
                }
            },
            On::Floor(sleep) => {
                let over = sleep.as_mut().poll(cx).is_ready();
                let seen = waiting.topology.clone();
                if !over && !self.topology_is_newer_than(&seen) {
                    return Ok(false);
                }
                let waiting = self.waiting.take().expect("looked at above");
                self.begin_request_since(waiting.request, waiting.since_ms, !over)?;
            }
            On::Pause(sleep, why) => {
                if expired {
                    let message =
                        format!("no server could take the statement within {} ms: {why}", waiting.timeout_ms);
                    let waiting = self.waiting.take().expect("looked at above");
                    self.refuse(&waiting.request, &Report::error(sqlstate::CANNOT_CONNECT_NOW, &message));
                    return Ok(true);
                }
                let over = sleep.as_mut().poll(cx).is_ready();
                let seen = waiting.topology.clone();
                if !over && !self.topology_is_newer_than(&seen) {
                    return Ok(false);
                }
                let waiting = self.waiting.take().expect("looked at above");
                self.begin_request_since(waiting.request, waiting.since_ms, true)?;
            }
        }
        Ok(true)
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
        let counts = pool.counts();
        let message = format!(
            "no server connection became free within {} ms: {} are open for user \"{}\" and database \"{}\", {} clients wait",
            waiting.timeout_ms, counts.open, pool.key.user, pool.key.database, counts.waiting
        );
        let hint = "raise pool.size or pool.acquire_timeout_ms, or look for transactions left open";
        self.refuse(&waiting.request, &Report::error(sqlstate::TOO_MANY_CONNECTIONS, &message).hint(hint));
    }

    fn acquire_failed(
        &mut self,
        error: AcquireError,
        request: Request,
        since_ms: u64,
        is_standby: bool,
    ) -> Result<(), End> {
        let error = match error {
            AcquireError::Retired => return self.begin_request_since(request, since_ms, true),
            AcquireError::Connect(error) => error,
        };
        self.gateway.looks.all();
        if is_standby {
            // A new database, role or password may not be replayed yet; or the standby is down.
            self.force_primary = true;
            return self.begin_request_since(request, since_ms, false);
        }
        if let ConnectError::Refused(refusal) = &*error
            && !error.is_starting_up()
        {
            let message = error.client_message();
            self.refuse(&request, &Report::error(refusal.sqlstate, &message));
            return Ok(());
        }
        if !error.is_credential() && coarse_ms() < since_ms + self.acquire_timeout() {
            let timeout_ms = self.acquire_timeout();
            let on = On::Pause(pause(RETRY_MS), "the primary could not be reached");
            let topology = self.topology.clone();
            self.waiting = Some(Waiting { request, since_ms, timeout_ms, topology, on });
            return Ok(());
        }
        let message = error.client_message();
        self.refuse(&request, &Report::error(error.sqlstate(), &message));
        Ok(())
    }
}

fn pause(ms: u64) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(Duration::from_millis(ms)))
}
