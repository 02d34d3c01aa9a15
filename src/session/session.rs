//! The session itself: its state, and the one loop that moves it.
//!
//! Invariant: each turn of the loop either makes progress or has registered for whatever could bring it.
//! Nothing is awaited here: client, server, queue and orders are polled side by side, because any of them
//! may be the next to move.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::sync::watch;

use super::SessionId;
use super::batch::{Batch, Request};
use super::cancel::{CancelKey, CancelSlot};
use super::choose::Route;
use super::custom::CustomSettings;
use super::floor::Floor;
use super::gateway::{Database, Gateway, Settled};
use super::glimpse::{Activity, Glimpse};
use super::lease::{Lease, PREPARE_DEADLINE_MS};
use super::pins::Pins;
use super::prepared::Names;
use super::refused::Refused;
use super::registry::{Order, SessionHandle};
use super::suspended::Usable;
use super::tally::Tally;
use super::transaction::Transaction;
use super::waiting::{RETRY_LEASE_MS, Waiting};
use crate::backend::connect::Credential;
use crate::backend::settings::{Reported, Settings};
use crate::clock::now_ms;
use crate::net::{Buffer, Stream};
use crate::pool::{Pool, Waiter};
use crate::route::{Analyzed, DecisionReason, Reading};
use crate::telemetry::labels::Direction;
use crate::telemetry::span;
use crate::topology::{Admission, Role, Snapshot};
use crate::wire::frame::split_cstr;
use crate::wire::message::{Report, TransactionStatus};
use crate::wire::sqlstate::{self, SqlState};

/// Bytes to the server that may wait before the client is not read any more.
pub(super) const MAX_TO_SERVER: usize = 256 * 1024;
/// Messages of ours to the client that may wait before the server is not read any more.
const MAX_TO_CLIENT: usize = 256 * 1024;

/// Who a session is; settled by login.
#[derive(Debug)]
pub struct Identity {
    pub user: Arc<str>,
    pub database: Arc<Database>,
    /// What its server connections log in with.
    pub credential: Credential,
    pub session_mode: bool,
    pub peer: Arc<str>,
}

impl Identity {
    /// For what is logged about this client.
    pub fn span(&self, id: SessionId) -> tracing::Span {
        span::client(Some(id.0), &self.peer, &self.user, &self.database.name)
    }
}

/// Everything a session begins with.
pub struct SessionStart {
    pub gateway: Arc<Gateway>,
    pub settled: Arc<Settled>,
    pub id: SessionId,
    pub handle: Arc<SessionHandle>,
    pub client: Stream,
    pub identity: Identity,
    pub key: CancelKey,
    pub slot: Arc<CancelSlot>,
    pub settings: Arc<Settings>,
    pub believed: Arc<Reported>,
    /// Greeting bytes not yet sent.
    pub to_client: BytesMut,
}

/// The last unnamed statement of the client, kept to be parsed again on another server connection.
#[derive(Debug)]
pub(super) struct Unnamed {
    /// What a server connection remembers it by.
    pub id: u64,
    /// The Parse message's body; empty if it is too long to be kept.
    pub body: Box<[u8]>,
    pub analyzed: Arc<Analyzed>,
}

impl Unnamed {
    /// Too long to be kept: only the server connection it was parsed on has it.
    pub fn is_long(&self) -> bool {
        self.body.is_empty()
    }

    pub fn text_and_types(&self) -> Option<(&[u8], &[u8])> {
        split_cstr(&self.body).and_then(|(_, rest)| split_cstr(rest))
    }

    /// What it is and does now: the catalog may have changed since it was parsed.
    pub fn classify(&self, database: &Database, settled: &Settled, reading: Reading) -> Arc<Analyzed> {
        // A long one counts as anything.
        match self.text_and_types() {
            Some((sql, _)) if !database.is_current(&self.analyzed, settled) || !reading.is_ours(sql) => {
                database.classify(sql, settled, reading)
            }
            _ => self.analyzed.clone(),
        }
    }
}

/// The rest of a message that goes by without being looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passing {
    pub left: usize,
    /// False: it is dropped.
    pub forward: bool,
}

impl Passing {
    /// The server reads what comes next as the rest of the message, whoever sends it.
    pub fn is_forwarded(self) -> bool {
        self.forward && self.left > 0
    }
}

pub struct Session {
    pub(super) gateway: Arc<Gateway>,
    pub(super) settled: Arc<Settled>,
    pub(super) id: SessionId,
    pub(super) handle: Arc<SessionHandle>,
    topology_changes: watch::Receiver<Arc<Snapshot>>,
    pub(super) topology: Arc<Snapshot>,

    pub(super) client: Stream,
    pub(super) input: Buffer,
    pub(super) passing: Passing,
    /// Of our own making, before what is marked in the server connection's input.
    pub(super) to_client: BytesMut,
    /// TLS may still hold encrypted bytes that the socket did not take.
    unflushed: bool,

    pub(super) identity: Identity,
    pub(super) key: CancelKey,
    pub(super) slot: Arc<CancelSlot>,

    pub(super) lease: Option<Lease>,
    pub(super) waiting: Option<Waiting>,
    /// Of the last wait that was served, for the next.
    pub(super) waiter: Option<Arc<Waiter>>,
    /// Statements classified by a look ahead, in the order they will be sent.
    pub(super) batch: Batch,
    /// After an error of ours, the client's messages are dropped up to its next Sync.
    pub(super) discarding: bool,

    pub(super) status: TransactionStatus,
    /// A transaction was lost with its server connection while nothing was to be answered: the client's next
    /// statement is.
    pub(super) untold_loss: bool,
    /// How often the present request was asked again because its server was lost.
    pub(super) asked_again: u8,
    /// When that was counted last.
    pub(super) asked_again_ms: u64,
    /// It waits, because the primary has refused it.
    pub(super) refused: Option<Refused>,
    pub(super) transaction: Transaction,
    pub(super) tally: Tally,
    pub(super) names: Names,
    pub(super) unnamed: Option<Unnamed>,
    pub(super) next_unnamed: u64,
    pub(super) pins: Pins,
    pub(super) settings: Arc<Settings>,
    pub(super) startup_settings: Arc<Settings>,
    /// Names only: settings that servers do not list.
    pub(super) custom: Option<Box<CustomSettings>>,
    pub(super) believed: Arc<Reported>,
    pub(super) floor: Floor,
    /// Why the last request went where it did, for `SHOW ROUTE`.
    pub(super) last_route: Option<Route>,
    /// Why the present one goes where it goes.
    pub(super) route_reason: Option<DecisionReason>,
    /// The next request goes to the primary whatever it is: a standby has refused it.
    pub(super) force_primary: bool,
    /// A standby has refused the present request since it writes, whatever it looked like.
    pub(super) writes_after_all: bool,
    /// For choices that need not be the same each time.
    pub(super) seed: u64,
    /// Pools this session has used in the present epoch.
    pub(super) pools: Vec<Arc<Pool>>,
    pub(super) idle_since_ms: u64,
    /// When it was last looked whether client and server still live.
    pub(super) looked_at_peers_ms: u64,
}

/// Whatever ends a session, a panic of its own included, nothing it holds is lost to others.
impl Drop for Session {
    fn drop(&mut self) {
        self.gateway.sessions.forget(self.id);
        self.gateway.cancels.forget(&self.key);
        self.leave();
    }
}

/// Of two moments that may be none (0).
fn earlier(one: u64, other: u64) -> u64 {
    if one == 0 || other == 0 { one.max(other) } else { one.min(other) }
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("the client hung up")]
    ClientGone,
    #[error("the client said goodbye")]
    Terminated,
    #[error("the client's connection failed: {0}")]
    Client(io::Error),
    /// The client would take whatever else it was sent for the rest of a row.
    #[error("the server was lost in the middle of a message to the client")]
    CutShort,
    /// The client is told why.
    #[error("{message}")]
    Fatal { state: SqlState, message: String },
}

impl End {
    pub(super) fn fatal(state: SqlState, message: impl Into<String>) -> Self {
        End::Fatal { state, message: message.into() }
    }

    pub(super) fn violation(message: impl Into<String>) -> Self {
        End::fatal(sqlstate::PROTOCOL_VIOLATION, message)
    }
}

impl Session {
    pub fn new(start: SessionStart) -> Self {
        let topology_changes = start.gateway.topology.clone();
        let topology = topology_changes.borrow().clone();
        Session {
            topology_changes,
            topology,
            gateway: start.gateway,
            settled: start.settled,
            id: start.id,
            handle: start.handle,
            client: start.client,
            input: Buffer::default(),
            passing: Passing::default(),
            to_client: start.to_client,
            unflushed: false,
            identity: start.identity,
            key: start.key,
            slot: start.slot,
            lease: None,
            waiting: None,
            waiter: None,
            batch: Batch::default(),
            discarding: false,
            status: TransactionStatus::Idle,
            untold_loss: false,
            asked_again: 0,
            asked_again_ms: 0,
            refused: None,
            transaction: Transaction::default(),
            tally: Tally::default(),
            names: Names::default(),
            unnamed: None,
            next_unnamed: 0,
            pins: Pins::default(),
            startup_settings: start.settings.clone(),
            custom: None,
            settings: start.settings,
            believed: start.believed,
            floor: Floor::default(),
            last_route: None,
            route_reason: None,
            force_primary: false,
            writes_after_all: false,
            seed: start.id.0,
            pools: Vec::new(),
            idle_since_ms: now_ms(),
            looked_at_peers_ms: now_ms(),
        }
    }

    pub fn note_login(&self) {
        tracing::debug!(parent: &self.identity.span(self.id), "client logged in");
    }

    /// Bytes the client sent before it was greeted.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.input.prepend(bytes);
        }
    }

    /// Serves the client until it leaves or must. Whatever is open is then cleaned up by a task of its own.
    /// Boxed: an idle client costs its session once, not once for every future around it.
    pub async fn run(mut self: Box<Self>) {
        poll_fn(|cx| {
            self.handle.attach(cx.waker());
            Poll::Ready(())
        })
        .await;
        let end = loop {
            match poll_fn(|cx| self.poll_turn(cx)).await {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        if let End::Fatal { state, message } = &end {
            Box::pin(self.say_goodbye(*state, message)).await;
        }
        tracing::debug!(parent: &self.identity.span(self.id), %end, "client left");
    }

    /// One turn: moves whatever can move. `Ready(Ok)` asks for another turn after yielding to others.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        // A session whose client and server are both fast must not starve the others of its thread.
        const TURNS: usize = 32;
        for _ in 0..TURNS {
            let mut progress = self.obey()?;
            progress |= self.read_client(cx)?;
            progress |= self.poll_waiting(cx)?;
            progress |= self.process_client()?;
            progress |= self.flush_server(cx)?;
            progress |= self.read_server(cx)?;
            // The connection goes back before the client is heard again: its next request may belong
            // elsewhere, and others wait.
            progress |= self.flush_client(cx)?;
            let settled = self.settle()?;
            progress |= settled;
            // What was settled may leave more to settle, unless the connection has gone back.
            let may_be_still = !settled || self.lease.is_none();
            if !progress || (may_be_still && self.is_still(cx)) {
                self.rest();
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether another look at everything would find nothing to do: no byte is kept, and both sockets have
    /// been read to their end. Saves the turn in which a query's turns would otherwise end.
    fn is_still(&mut self, cx: &mut Context<'_>) -> bool {
        let nothing_to_do = !self.handle.has_order()
            && self.waiting.is_none()
            && self.input.is_empty()
            && self.to_client.is_empty()
            && !self.unflushed
            && self.lease.as_ref().is_none_or(Lease::is_still);
        nothing_to_do
            && self.input.poll_drained(&self.client, cx)
            && self.lease.as_mut().is_none_or(|lease| {
                let conn = &mut *lease.conn;
                conn.input.poll_drained(&conn.stream, cx)
            })
    }

    /// Gives back what is not needed while nothing moves, and says when to be looked at.
    fn rest(&mut self) {
        let is_at_rest = |lease: &Lease| lease.is_quiet() && lease.conn.status == TransactionStatus::Idle;
        if self.lease.as_ref().is_none_or(is_at_rest) {
            self.handle.rests();
        }
        self.input.release();
        if self.waiting.is_some() {
            // A thousand clients that wait for a few connections must not hold a thousand buffers.
            self.input.shrink();
        }
        if let Some(lease) = &mut self.lease {
            lease.conn.input.release();
        }
        if self.to_client.is_empty() && self.to_client.capacity() > 0 && self.lease.is_none() {
            self.to_client = BytesMut::new();
        }
        self.handle.wake_at(earlier(self.wake_at(), self.next_look_at_peers()));
        if let Some(worked_ms) = self.handle.show(self.glimpse()) {
            self.gateway.counters.answered_after_ms(worked_ms);
        }
    }

    fn glimpse(&self) -> Glimpse {
        let (activity, server) = match (&self.waiting, &self.lease) {
            (Some(waiting), _) => {
                let (what, server) = waiting.waits_for();
                (Activity::Waits(what), server)
            }
            (None, Some(lease)) if !lease.is_quiet() => (Activity::Active, Some(lease.conn.server)),
            (None, lease) => {
                let activity = match self.status {
                    TransactionStatus::Idle => Activity::Idle,
                    TransactionStatus::InTransaction => Activity::IdleInTransaction,
                    TransactionStatus::Failed => Activity::IdleInFailed,
                };
                (activity, lease.as_ref().map(|lease| lease.conn.server))
            }
        };
        Glimpse { activity, server, pins: self.pins }
    }

    /// The next moment a deadline could have passed; 0: none.
    fn wake_at(&self) -> u64 {
        let is_suspended = self.lease.as_ref().is_some_and(|lease| lease.suspended_since_ms.is_some());
        let look_again = if is_suspended { now_ms() + RETRY_LEASE_MS } else { 0 };
        if let Some(waiting) = &self.waiting {
            return earlier(waiting.wake_at_ms(&self.settled.config), look_again);
        }
        if is_suspended {
            return look_again;
        }
        if let Some(since) = self.lease.as_ref().and_then(|lease| lease.preparing_since_ms) {
            return since + PREPARE_DEADLINE_MS;
        }
        let limits = &self.settled.config.limits;
        let timeout = match (&self.lease, self.status) {
            (None, TransactionStatus::Failed) => limits.idle_in_transaction_timeout_ms,
            (None, _) => limits.client_idle_timeout_ms,
            (Some(lease), TransactionStatus::Idle) if lease.is_quiet() => limits.client_idle_timeout_ms,
            (Some(lease), _) if lease.is_quiet() => limits.idle_in_transaction_timeout_ms,
            _ => 0,
        };
        if timeout == 0 { 0 } else { self.idle_since_ms + timeout }
    }

    /// Whether the server that it holds is none to be heard any more.
    fn looks_in_vain(&mut self) -> Result<bool, End> {
        self.look_at_topology();
        let epoch = self.topology.epoch;
        if self.lease.as_ref().is_some_and(|lease| lease.conn.epoch != epoch) {
            // Nothing that comes from this server counts any more.
            return self.server_gone(io::ErrorKind::ConnectionAborted.into()).map(|()| true);
        }
        if self.lease.is_some() && self.usable()? == Usable::Gone {
            return Ok(true);
        }
        if self.lease.as_ref().is_some_and(|lease| self.is_given_up(lease)) {
            return self.server_gone(io::ErrorKind::TimedOut.into()).map(|()| true);
        }
        Ok(false)
    }

    /// Orders from outside, and deadlines that have passed.
    fn obey(&mut self) -> Result<bool, End> {
        let order = self.handle.order();
        // Whoever drains is told to look as well, only not by a word of its own.
        if matches!(order, Order::Look | Order::Drain) && self.looks_in_vain()? {
            return Ok(true);
        }
        match order {
            Order::None => return Ok(false),
            Order::Look => {}
            Order::Drain => {
                if self.waiting.is_none()
                    && self.lease.as_ref().is_none_or(|l| l.is_quiet() && self.is_idle())
                {
                    return Err(End::fatal(
                        sqlstate::ADMIN_SHUTDOWN,
                        "terminating connection due to administrator command: komainu is shutting down",
                    ));
                }
            }
            Order::Stop => {
                return Err(End::fatal(
                    sqlstate::ADMIN_SHUTDOWN,
                    "terminating connection due to administrator command: komainu is shutting down",
                ));
            }
        }
        if self.waiting.is_some() {
            // Its deadline is looked at with it.
            return Ok(false);
        }
        if self.is_preparing_too_long() {
            return self.server_gone(io::ErrorKind::TimedOut.into()).map(|()| true);
        }
        let now_ms = now_ms();
        if self.look_at_peers(now_ms)? {
            return Ok(true);
        }
        let at = self.wake_at();
        if at == 0 || now_ms < at {
            return Ok(false);
        }
        Err(if self.is_idle() {
            End::fatal(sqlstate::IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout")
        } else {
            End::fatal(
                sqlstate::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
            )
        })
    }

    /// Whether what a standby still owes is not waited for any longer: its time is up by order, or it hangs, or is cut off.
    /// If nothing of its answer was passed on, another is asked, and soon; for what can only end with an error it must be
    /// certain.
    fn is_given_up(&self, lease: &Lease) -> bool {
        let server = lease.conn.server;
        let state = self.topology.server(server);
        lease.is_standby
            && (state.is_some_and(|state| state.admission == Admission::Closed)
                || !state.is_some_and(|state| state.is_up(Role::Standby))
                    && !self.gateway.is_withdrawn(server)
                    && (!lease.retained.is_empty() || self.gateway.is_silent(server)))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.status == TransactionStatus::Idle
    }

    /// The newest topology; costs one atomic load when nothing has changed.
    pub(super) fn look_at_topology(&mut self) {
        if self.topology_changes.has_changed().unwrap_or(false) {
            let had_standbys = self.topology.servers.len() > 1;
            self.topology = self.topology_changes.borrow_and_update().clone();
            self.floor.learn(&self.topology);
            // As long as there was one server, nobody asked where the session's writes are.
            self.floor.pending |= !had_standbys && self.tracks_floor();
        }
    }

    fn read_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let backlog = self.lease.as_ref().map_or(0, |lease| lease.conn.output.len());
        if self.input.is_full() || backlog > MAX_TO_SERVER {
            self.input.passed_over();
            return Ok(false);
        }
        match self.input.poll_fill(&mut self.client, cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(End::ClientGone),
            Poll::Ready(Ok(_)) => {
                if self.settled.config.limits.client_idle_timeout_ms != 0
                    || self.settled.config.limits.idle_in_transaction_timeout_ms != 0
                {
                    self.idle_since_ms = now_ms();
                }
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(End::Client(error)),
        }
    }

    fn flush_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        match self.poll_flush_client(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(wrote)) => Ok(wrote),
            Poll::Ready(Err(error)) => Err(End::Client(error)),
        }
    }

    /// Writes what is of our making, then what is marked in the server's input. Ready when nothing is left.
    fn poll_flush_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut wrote = 0;
        if self.lease.as_ref().is_some_and(|lease| !lease.retained.is_empty() && !lease.ours_first) {
            // The request may still be asked again elsewhere.
            return Poll::Ready(Ok(false));
        }
        while !self.to_client.is_empty() {
            let count = ready!(Pin::new(&mut self.client).poll_write(cx, &self.to_client))?;
            self.to_client.advance(count);
            wrote += count;
        }
        if let Some(lease) = &mut self.lease {
            while lease.marked > 0 {
                let bytes = &lease.conn.input.bytes()[..lease.marked];
                let count = ready!(Pin::new(&mut self.client).poll_write(cx, bytes))?;
                lease.conn.input.consume(count);
                lease.marked -= count;
                wrote += count;
            }
        }
        if wrote > 0 {
            self.to_client.clear();
            self.gateway.counters.bytes(Direction::ToClients, wrote as u64);
            self.unflushed = self.client.is_tls();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.client).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(wrote > 0))
    }

    /// Whether the client takes what it is sent; if not, the server is not read.
    pub(super) fn client_keeps_up(&self) -> bool {
        self.to_client.len() < MAX_TO_CLIENT
    }

    /// The last message, with a deadline: a client that does not read must not keep the session.
    async fn say_goodbye(&mut self, state: SqlState, message: &str) {
        const DEADLINE: std::time::Duration = std::time::Duration::from_secs(1);
        // Behind a message that was cut short nothing can be said.
        if self.lease.as_ref().is_none_or(|lease| lease.server_passing == 0) {
            if let Some(lease) = &mut self.lease {
                // Nothing will be asked again, so nothing is held back for that.
                lease.retained.clear();
            }
            let mut goodbye = BytesMut::new();
            Report::fatal(state, message).encode(&mut goodbye);
            let _ = tokio::time::timeout(DEADLINE, async {
                let _ = poll_fn(|cx| self.poll_flush_client(cx)).await;
                self.to_client = goodbye;
                let _ = poll_fn(|cx| self.poll_flush_client(cx)).await;
                let _ = poll_fn(|cx| Pin::new(&mut self.client).poll_shutdown(cx)).await;
            })
            .await;
        }
    }

    /// Answers a request that cannot be served with an error, and is ready for the next.
    pub(super) fn refuse(&mut self, request: &Request, report: &Report<'_>) {
        self.slot.wait_ended();
        self.asked_again = 0;
        self.refused = None;
        (self.force_primary, self.writes_after_all) = (false, false);
        self.idle_since_ms = now_ms();
        self.unmark();
        report.encode(&mut self.to_client);
        if self.begins_what_follows(request) {
            self.status = TransactionStatus::Failed;
        }
        self.drop_request(request);
    }
}
