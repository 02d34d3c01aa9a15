//! Getting a server connection for a request, and making it what the session needs.
//!
//! Invariant: no byte of the client's is sent before the connection has the session's settings and nothing
//! of another session's is left on it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::SessionId;
use super::batch::Request;
use super::pins::Pins;
use super::prepared::NameChange;
use super::session::{End, Session};
use super::settings::report;
use crate::backend::ServerConn;
use crate::backend::conn::OwnStatement;
use crate::backend::connect::ConnectError;
use crate::backend::expect::Question;
use crate::clock::{coarse_ms, now_ms};
use crate::config::Consistency;
use crate::pool::{Acquire, AcquireError, Pool, PoolKey};
use crate::route::{self, Analyzed, Class, DecisionReason, SessionView, Target};
use crate::telemetry::labels::ReadToPrimary;
use crate::topology::{Lsn, ServerIndex, Snapshot};
use crate::wire::message::{self, Report, TransactionStatus};
use crate::wire::sqlstate::{self, SqlState};

/// How long a connection may take to become what the session needs; it is a matter of one round trip.
pub(super) const PREPARE_DEADLINE_MS: u64 = 5_000;
/// Between two tries to reach the primary.
const RETRY_MS: u64 = 100;

/// A server connection while this session has it.
#[derive(Debug)]
pub struct Lease {
    pub conn: Box<ServerConn>,
    pub pool: Arc<Pool>,
    /// Bytes at the front of the connection's input that go to the client as they are.
    pub marked: usize,
    /// Bytes of the server's present message still to come, which go to the client unseen.
    pub server_passing: usize,
    /// Questions of ours are under way that the client's next message must wait for.
    pub ours_first: bool,
    /// When the connection began to be prepared; `None` once it is.
    pub preparing_since_ms: Option<u64>,
    /// The client's bytes of this request, as long as it could be asked again elsewhere.
    pub retained: Vec<u8>,
    /// From here on what waits for the client belongs to the retained request: it is not sent while that
    /// could be asked again.
    pub held_from: usize,
    /// What the retained request has done to the session's names so far.
    pub undo: Vec<NameChange>,
    pub request: Option<Request>,
    /// The server is a standby.
    pub is_standby: bool,
    /// The request was sent to its end to a standby: what the client sends next is routed anew, once this
    /// is answered and unless it has opened a transaction.
    pub is_complete: bool,
    /// The standby has refused the request; what it still says is dropped and the primary is asked.
    pub redirect: bool,
    /// Rows of a question of ours.
    pub collected: Vec<(Box<str>, Box<str>)>,
    pub settings_asked: bool,
    /// The primary serves a read only because the session must not see less than it has: once it is known
    /// how much that is, standbys may serve it again.
    pub stands_in: bool,
    /// Why the connection could not be given the session's settings.
    pub apply_error: Option<(SqlState, String)>,
    pub login_right: Option<bool>,
    /// The client was sent the FATAL with which the server ends the connection.
    pub told_fatal: bool,
}

impl Lease {
    /// The client has begun to see the answer: it cannot be asked again elsewhere.
    pub fn is_relayed(&mut self) {
        if !self.retained.is_empty() {
            self.retained = Vec::new();
            self.undo = Vec::new();
        }
    }

    /// Nothing is under way in either direction.
    pub fn is_quiet(&self) -> bool {
        self.conn.expected.is_empty() && self.conn.output.is_empty() && self.marked == 0
    }
}

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

/// Where a request went, and why.
#[derive(Debug, Clone)]
pub struct Route {
    pub server: Option<ServerIndex>,
    /// None: a standby had refused it, so it was asked again on the primary.
    pub reason: Option<DecisionReason>,
    /// The statement that decided.
    pub decisive: Option<Arc<Analyzed>>,
}

impl Route {
    /// In words, for `SHOW ROUTE` and the explain hint.
    pub fn why(&self) -> String {
        let reason = self.reason.map_or_else(
            || "refused: the server first asked refused it or could not be reached".to_owned(),
            |reason| format!("{}: {reason}", reason.name()),
        );
        match &self.decisive {
            Some(analyzed) => format!("{reason} ({})", analyzed.routed.reason),
            None => reason,
        }
    }
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
    pub fn wake_at_ms(&self) -> u64 {
        self.since_ms + self.timeout_ms
    }
}

impl Session {
    /// Whether the position of this session's writes matters to anybody.
    pub(super) fn tracks_floor(&self) -> bool {
        let split = &self.settled.config.split;
        split.enabled && split.consistency == Consistency::Session && self.topology.servers.len() > 1
    }

    /// Whether asking the primary for its position may bring the session back to standbys: one of them was
    /// seen to have replayed all that the session is known to have written. Not for every read, though.
    pub(super) fn position_is_worth_asking(&self) -> bool {
        if now_ms() < self.floor.asked_at_ms + self.settled.config.health.period_ms {
            return false;
        }
        let floor = self.floor.known().map_or(Lsn(0), |(_, lsn)| lsn);
        self.topology
            .standbys()
            .any(|(index, server)| server.lsn >= floor && self.topology.primary != Some(index))
    }

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
                tracing::debug!(session = self.id.0, ?reason, "request waits: no server can take it");
                self.waiting = wait(On::Pause(pause(RETRY_MS), "no primary is known"));
                Ok(())
            }
        }
    }

    fn acquire_timeout(&self) -> u64 {
        self.settled.config.pool.acquire_timeout_ms
    }

    fn choose(&mut self, request: &Request, may_wait: bool) -> (Target, Option<DecisionReason>) {
        if self.force_primary {
            return (Target::Primary, None);
        }
        if !self.settled.config.split.enabled || self.identity.session_mode {
            return (Target::Primary, Some(DecisionReason::SplitOff));
        }
        let hint = request.decisive.as_ref().and_then(|analyzed| analyzed.analysis.hints.target.as_ref());
        let known = request.decisive.is_some() || request.whole;
        let class = if known && !pins(request) { request.class } else { Class::Write };
        let now = match self.settled.config.split.consistency {
            // The age of an observation counts against a bound.
            Consistency::Bounded => now_ms(),
            _ => coarse_ms(),
        };
        let seed = match self.settled.config.split.consistency {
            Consistency::Session => self.id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            // Any well-mixed number will do; it need not be secret.
            _ => self.next_seed(),
        };
        let view = SessionView {
            in_transaction: request.opening.opens || !request.whole,
            read_only: request.whole
                && (request.opening.read_only
                    || self.settings.get("default_transaction_read_only") == Some("on")),
            serializable: request.opening.serializable
                || self.settings.get("default_transaction_isolation") == Some("serializable"),
            floor: self.floor.known(),
            floor_pending: self.floor.pending,
            last_read: self.floor.last_read,
            database: &self.identity.database.name,
            user: &self.identity.user,
            application_name: self.settings.get("application_name").unwrap_or(""),
        };
        let wanted = route::Request { class, hint, may_wait };
        let decision = route::route(&wanted, &view, &self.topology, &self.settled.policy, seed, now);
        (decision.target, Some(decision.reason))
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Where a request would go now.
    pub(super) fn would_go(&mut self, request: &Request) -> Route {
        self.look_at_topology();
        let decisive = request.decisive.clone();
        if let Some(lease) = &self.lease
            && lease.conn.status != TransactionStatus::Idle
        {
            // A transaction stays where it began.
            return Route { server: Some(lease.conn.server), reason: self.route_reason, decisive };
        }
        let (target, reason) = self.choose(request, false);
        let server = match target {
            Target::Primary => self.topology.primary,
            Target::Server(index) | Target::WaitForFloor { server: index, .. } => Some(index),
            Target::None => None,
        };
        Route { server, reason, decisive }
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

    /// Takes the connection over, and asks for whatever it lacks.
    fn begin_lease(
        &mut self,
        mut conn: Box<ServerConn>,
        pool: Arc<Pool>,
        request: Request,
        is_standby: bool,
    ) -> Result<(), End> {
        let idled = coarse_ms().saturating_sub(conn.idle_since_ms);
        if conn.leftover_of.is_some_and(|session| session != self.id) {
            conn.ask_simple(Question::Reset, b"DISCARD ALL");
            conn.forget_everything();
        } else if ![self.id, SessionId::NONE].contains(&conn.last_session) {
            conn.foreign_sequences = true;
        }
        let mut ours_first = false;
        if conn.settings.hash() != self.settings.hash() {
            let present = conn.settings.clone();
            for change in self.settings.changes_from(&present) {
                let parameters = [Some(change.name.as_bytes()), change.value.map(str::as_bytes)];
                conn.ask_without_sync(Question::Apply, OwnStatement::Apply, &parameters);
            }
            conn.push_sync(Question::Apply);
            conn.settings = self.settings.clone();
            ours_first = true;
        } else if idled >= self.settled.config.pool.check_after_idle_ms {
            conn.push_sync(Question::Liveness);
            ours_first = true;
        }
        conn.last_session = self.id;
        self.slot.lease_began(&conn.cancel);
        self.note_route(&conn, &request, is_standby);
        let stands_in = !is_standby
            && matches!(
                self.route_reason,
                Some(
                    DecisionReason::FloorPending
                        | DecisionReason::FloorNotReached
                        | DecisionReason::NotMonotonic
                )
            );
        let mut lease = Lease {
            conn,
            pool,
            marked: 0,
            server_passing: 0,
            ours_first,
            preparing_since_ms: ours_first.then(coarse_ms),
            retained: Vec::new(),
            held_from: 0,
            undo: Vec::new(),
            request: None,
            is_standby,
            is_complete: false,
            redirect: false,
            collected: Vec::new(),
            settings_asked: false,
            stands_in,
            apply_error: None,
            login_right: None,
            told_fatal: false,
        };
        if is_standby && request.whole && !request.opening.opens {
            lease.retained.extend_from_slice(&self.input.bytes()[..request.len]);
        }
        lease.request = Some(request);
        self.lease = Some(lease);
        self.force_primary = false;
        if !ours_first {
            self.tell_what_differs();
        }
        if let Some(lease) = &mut self.lease {
            lease.held_from = self.to_client.len();
        }
        Ok(())
    }

    /// Makes the connection, which this session keeps, what the session's settings now say.
    pub(super) fn apply_settings(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        let present = lease.conn.settings.clone();
        for change in self.settings.changes_from(&present) {
            let parameters = [Some(change.name.as_bytes()), change.value.map(str::as_bytes)];
            lease.conn.ask_without_sync(Question::Apply, OwnStatement::Apply, &parameters);
        }
        lease.conn.push_sync(Question::Apply);
        lease.conn.settings = self.settings.clone();
        lease.ours_first = true;
        lease.preparing_since_ms = Some(now_ms());
        // It was answered: whatever becomes of this, it is not to be sent again.
        lease.request = None;
    }

    /// Counts why a read goes to the primary, and remembers where the request goes.
    fn note_route(&mut self, conn: &ServerConn, request: &Request, is_standby: bool) {
        let counters = &self.gateway.counters;
        // Without a decisive statement it was not looked into: splitting is off, or there is none in it.
        let is_read = request.decisive.is_some() && request.class == Class::Read;
        let reason = match self.route_reason {
            Some(reason) => ReadToPrimary::of(reason),
            None => Some(ReadToPrimary::Refused),
        };
        if let Some(reason) = reason.filter(|_| is_read && !is_standby) {
            counters.read_to_primary(reason);
        }
        if !request.is_for_komainu() {
            let decisive = request.decisive.clone();
            self.last_route = Some(Route { server: Some(conn.server), reason: self.route_reason, decisive });
        }
    }

    /// Brings the client's picture of the server's parameters up to date with this server connection.
    pub(super) fn tell_what_differs(&mut self) {
        let Some(lease) = &self.lease else { return };
        if lease.conn.reported.hash() == self.believed.hash() {
            return;
        }
        let reported = lease.conn.reported.clone();
        for (name, value) in reported.iter() {
            if report(&mut self.believed, name, value) {
                message::parameter_status(&mut self.to_client, name, value);
            }
        }
        // Sharing one value keeps the next comparison, and the memory of many sessions, small.
        if self.believed.hash() == reported.hash() {
            self.believed = reported;
        }
    }

    /// The connection did not become what the session needs in time.
    pub(super) fn is_preparing_too_long(&self) -> bool {
        self.lease
            .as_ref()
            .and_then(|lease| lease.preparing_since_ms)
            .is_some_and(|since| coarse_ms() > since + PREPARE_DEADLINE_MS)
    }

    /// Gives the connection back.
    pub(super) fn end_lease(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.tally.hand_over(&self.gateway.counters, lease.conn.server);
            self.slot.release(&lease.pool, lease.conn);
        }
    }

    /// Throws the connection away.
    pub(super) fn abandon_lease(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.conn.doomed = true;
        }
        self.end_lease();
    }
}

/// Whether the session will stay with the server connection, which must then be one to the primary.
fn pins(request: &Request) -> bool {
    let is_prepare =
        |analyzed: &Arc<route::Analyzed>| analyzed.analysis.kind == route::StatementKind::Prepare;
    let is_virtual = request.is_query && request.decisive.as_ref().is_some_and(is_prepare);
    !Pins::from_effects(request.effects).is_empty()
        || request.effects.intersects(route::Effects::SQL_PREPARE) && !is_virtual
}

fn pause(ms: u64) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(Duration::from_millis(ms)))
}
