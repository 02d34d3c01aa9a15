//! One server connection: what it was sent, what it owes, and what it has been made to be.
//!
//! Owns the state that stays with the connection when its client changes. Never decides who uses it.
//! Invariant: `is_clean` is true only if another session may use it as soon as its settings fit.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use lru::LruCache;
use tokio::io::AsyncWrite;

use super::SessionId;
use super::expect::{ExpectedReplies, For, Owed, Question, Reply};
use super::settings::{IN_HOT_STANDBY, Reported, Settings, report};
use super::statement::{InForce, Prepared, StatementId};
use crate::net::{Buffer, Stream};
use crate::topology::{Epoch, ServerIndex};
use crate::wire::frame::{HEADER_LEN, header, split_cstr};
use crate::wire::message::{self, TransactionStatus};

/// Longest message a server may send that we look into whole.
pub const MAX_INSPECTED: usize = 64 * 1024;

/// In which a statement of ours runs among the client's messages; no client's portal is called so.
const OWN_PORTAL: &[u8] = b"_k own";

/// Where a CancelRequest for this connection goes.
#[derive(Debug)]
pub struct CancelAddress {
    pub server: ServerIndex,
    /// The machine that it leads to; none over a Unix socket.
    pub peer: Option<SocketAddr>,
    pub pid: i32,
    pub key: Bytes,
    in_doubt: AtomicBool,
}

impl CancelAddress {
    pub fn new(server: ServerIndex, peer: Option<SocketAddr>, pid: i32, key: Bytes) -> Self {
        CancelAddress { server, peer, pid, key, in_doubt: AtomicBool::new(false) }
    }

    /// A cancel was sent, or half of it, and nobody knows whether the server is done with it: it may come at any
    /// time, and hit whatever the connection runs then.
    pub fn doubt(&self) {
        self.in_doubt.store(true, Ordering::Release);
    }

    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Acquire)
    }
}

/// The statements komainu keeps prepared on a connection for its own questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OwnStatement {
    Floor,
    /// The same of Aurora.
    VolumeFloor,
    Settings,
    Pins,
    Apply,
    LoginRight,
    /// The same of Redshift.
    OldLoginRight,
    DiscardSequences,
}

impl OwnStatement {
    fn bit(self) -> u8 {
        1 << self as u8
    }

    fn name(self) -> &'static [u8] {
        match self {
            OwnStatement::Floor => b"_kq_floor",
            OwnStatement::VolumeFloor => b"_kq_volume_floor",
            OwnStatement::Settings => b"_kq_settings",
            OwnStatement::Pins => b"_kq_pins",
            OwnStatement::Apply => b"_kq_apply",
            OwnStatement::LoginRight => b"_kq_login",
            OwnStatement::OldLoginRight => b"_kq_old_login",
            OwnStatement::DiscardSequences => b"_kq_sequences",
        }
    }

    /// Schema-qualified to the last operator: a session's `search_path` is its client's.
    fn sql(self) -> &'static [u8] {
        match self {
            // The insert position, not the write position: with synchronous_commit = off a commit is
            // acknowledged before it is written, and the write position is then too low.
            OwnStatement::Floor => b"SELECT pg_catalog.pg_current_wal_insert_lsn()",
            // What has been acknowledged is durable there.
            OwnStatement::VolumeFloor => {
                b"SELECT durable_lsn FROM pg_catalog.aurora_replica_status() \
                  WHERE session_id OPERATOR(pg_catalog.=) 'MASTER_SESSION_ID'"
            }
            OwnStatement::Settings => {
                // What SET TRANSACTION has said is that transaction's, whatever it is called afterwards.
                b"SELECT name, setting FROM pg_catalog.pg_settings \
                  WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.<>) ALL ( \
                    '{transaction_isolation,transaction_read_only,transaction_deferrable}'::pg_catalog.text[]) \
                  UNION ALL SELECT 'role', pg_catalog.current_setting('role') \
                  WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none' \
                  UNION ALL SELECT 'session_authorization', session_user \
                  WHERE session_user OPERATOR(pg_catalog.<>) $1::pg_catalog.name \
                  UNION ALL SELECT n, pg_catalog.current_setting(n, true) \
                  FROM pg_catalog.unnest($2::pg_catalog.text[]) AS n \
                  WHERE pg_catalog.current_setting(n, true) IS NOT NULL"
            }
            OwnStatement::Pins => {
                b"SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_depend \
                    WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
                    AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
                  OR EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE temporary \
                    AND active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()), \
                  EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
                    AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()), \
                  EXISTS (SELECT 1 FROM pg_catalog.pg_listening_channels()), \
                  EXISTS (SELECT 1 FROM pg_catalog.pg_cursors WHERE is_holdable)"
            }
            OwnStatement::DiscardSequences => b"DISCARD SEQUENCES",
            // Not its value, which may be long.
            OwnStatement::Apply => b"SELECT pg_catalog.set_config($1, $2, false) IS NULL",
            OwnStatement::LoginRight => {
                b"SELECT r.rolcanlogin AND (r.rolvaliduntil IS NULL OR r.rolvaliduntil \
                    OPERATOR(pg_catalog.>) pg_catalog.now()) AND pg_catalog.has_database_privilege( \
                    r.oid, d.oid, 'CONNECT') AND d.datallowconn AND (r.rolsuper OR r.rolconnlimit \
                    OPERATOR(pg_catalog.<>) 0 AND d.datconnlimit OPERATOR(pg_catalog.<>) 0) \
                  FROM pg_catalog.pg_roles r, pg_catalog.pg_database d \
                  WHERE r.rolname OPERATOR(pg_catalog.=) session_user \
                    AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
            }
            // Operators cannot be made there, so that none can be another's. It has no right to connect to a database.
            OwnStatement::OldLoginRight => {
                b"SELECT u.valuntil IS NULL OR u.valuntil > pg_catalog.now() \
                  FROM pg_catalog.pg_user u WHERE u.usename = session_user"
            }
        }
    }
}

/// Statements a server connection knows, least recently used first to go.
#[derive(Debug)]
pub struct KnownStatements {
    by_id: LruCache<StatementId, Known>,
    bytes: usize,
    max_bytes: usize,
}

/// Whether a statement answers on a connection as clients were told that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alike {
    Yes,
    No,
    /// The server is asked to describe it.
    Asked,
    /// It was parsed anew, maybe under another schema, and nobody has looked.
    Unknown,
}

#[derive(Debug)]
struct Known {
    prepared: Arc<Prepared>,
    /// Under which settings the server has read it. `None`: under any, or it does not know it at all.
    read: Option<InForce>,
    /// It was used under others than its own since, and may have been read again under these: PostgreSQL does that once
    /// something a statement names was changed or analyzed.
    has_strayed: bool,
    /// An earlier reading was closed for this one.
    is_anew: bool,
    alike: Alike,
}

impl KnownStatements {
    pub fn new(max_count: usize, max_bytes: usize) -> Self {
        let count = NonZeroUsize::new(max_count).unwrap_or(NonZeroUsize::MIN);
        KnownStatements { by_id: LruCache::unbounded(), bytes: 0, max_bytes }.with_count(count)
    }

    fn with_count(mut self, count: NonZeroUsize) -> Self {
        self.by_id.resize(count);
        self
    }

    /// Whether the server knows a statement as it is read under its own settings, or under those in force for whoever uses
    /// it now; notes that use. Who has its own gets none that may have been read under others.
    pub fn serves(&mut self, prepared: &Prepared, in_force: InForce) -> bool {
        let Some(known) = self.by_id.get_mut(&prepared.id) else { return false };
        let Some(read) = known.read else { return false };
        if prepared.is_nobody_elses() {
            return true;
        }
        if in_force == prepared.settings {
            return read == in_force && !known.has_strayed;
        }
        if read == prepared.settings {
            known.has_strayed |= prepared.is_read_by_settings();
            return true;
        }
        prepared.is_read_alike(read, in_force)
    }

    pub fn has(&self, id: StatementId) -> bool {
        self.by_id.contains(&id)
    }

    pub fn alike(&self, id: StatementId) -> Alike {
        self.by_id.peek(&id).map_or(Alike::Unknown, |known| known.alike)
    }

    pub fn is_alike(&mut self, id: StatementId, alike: Alike) {
        if let Some(known) = self.by_id.peek_mut(&id) {
            known.alike = alike;
        }
    }

    /// Adds one that the server reads under these settings; returns those that must be closed on the server before: an
    /// earlier reading of it, and what is too much.
    pub fn insert(&mut self, prepared: &Arc<Prepared>, read: InForce) -> Vec<Arc<Prepared>> {
        let mut evicted = Vec::new();
        self.bytes += prepared.bytes();
        let is_anew = self.by_id.contains(&prepared.id);
        let (prepared, alike) = (prepared.clone(), Alike::Unknown);
        let known = Known { prepared, read: Some(read), has_strayed: false, is_anew, alike };
        if let Some((_, old)) = self.by_id.push(known.prepared.id, known) {
            self.bytes -= old.prepared.bytes();
            evicted.push(old.prepared);
        }
        while self.bytes > self.max_bytes
            && self.by_id.len() > 1
            && let Some((_, old)) = self.by_id.pop_lru()
        {
            self.bytes -= old.prepared.bytes();
            evicted.push(old.prepared);
        }
        evicted
    }

    /// It was not parsed after all; an earlier reading may not even have been closed.
    pub fn not_parsed(&mut self, id: StatementId) {
        if let Some(known) = self.by_id.peek_mut(&id)
            && known.is_anew
        {
            known.read = None;
            return;
        }
        if let Some(known) = self.by_id.pop(&id) {
            self.bytes -= known.prepared.bytes();
        }
    }

    pub fn clear(&mut self) {
        self.by_id.clear();
        self.bytes = 0;
    }
}

#[derive(Debug)]
pub struct ServerConn {
    pub stream: Stream,
    /// Received and not yet passed on; without storage between uses.
    pub input: Buffer,
    /// To be sent.
    pub output: BytesMut,
    /// TLS may still hold encrypted bytes that the socket did not take.
    pub unflushed: bool,
    /// For the copy that a lease keeps of what it sends. Empty, and little, between leases.
    pub room: Vec<u8>,
    pub expected: ExpectedReplies,
    pub status: TransactionStatus,
    pub reported: Arc<Reported>,
    /// As the server last reported it, from PostgreSQL 14 on: it is no primary, whatever its name led to.
    pub in_hot_standby: bool,
    pub settings: Arc<Settings>,
    pub known: KnownStatements,
    /// Which unnamed statement the server has; see `session::Unnamed`.
    pub unnamed: Option<u64>,
    own: u8,
    /// The session whose hidden state (set inside functions, temporary objects) may be left here.
    pub leftover_of: Option<SessionId>,
    pub last_session: SessionId,
    /// Some session has had it, whatever was wiped since.
    pub was_lent: bool,
    /// `currval` may show a value that another session than the last drew.
    pub foreign_sequences: bool,
    pub server: ServerIndex,
    pub epoch: Epoch,
    pub cancel: Arc<CancelAddress>,
    pub opened_at_ms: u64,
    pub idle_since_ms: u64,
    /// DISCARD ALL makes it forget what a session has left on it. Redshift does not know that.
    pub forgets: bool,
    /// Not to be used again whatever its state: an error, a retired pool, a cancelled handover.
    pub doomed: bool,
    /// The server has half a message, and the rest of it will not come.
    pub is_midway: bool,
}

/// What an idle connection has to say when somebody wants it.
#[derive(Debug, PartialEq, Eq)]
pub enum IdleLook {
    Quiet,
    Dead,
}

impl ServerConn {
    /// Nothing under way in either direction and no transaction open.
    pub fn is_clean(&self) -> bool {
        !self.doomed
            && (self.forgets || self.leftover_of.is_none())
            && self.expected.is_empty()
            && self.status == TransactionStatus::Idle
            && self.input.is_empty()
            && self.output.is_empty()
            && !self.unflushed
    }

    /// Asks a question of ours behind whatever was sent before.
    pub fn ask(&mut self, question: Question, own: OwnStatement, parameters: &[Option<&[u8]>]) {
        self.ask_without_sync(question, own, parameters);
        self.push_sync(question);
    }

    pub fn ask_without_sync(&mut self, question: Question, own: OwnStatement, parameters: &[Option<&[u8]>]) {
        const FITS: &str = "a setting's value came in one message and fits one";
        if self.own & own.bit() == 0 {
            message::parse(&mut self.output, own.name(), own.sql(), &[0, 0]).expect(FITS);
            self.expected.push(Owed::us(Reply::ParseComplete, question));
            self.own |= own.bit();
        }
        message::bind_text(&mut self.output, b"", own.name(), parameters).expect(FITS);
        message::execute_unnamed(&mut self.output);
        self.expected.push(Owed::us(Reply::BindComplete, question));
        self.expected.push(Owed::us(Reply::Execution, question));
    }

    /// The next time it is asked it is parsed anew: whether the server knows it is not certain.
    pub fn forget_own(&mut self, question: Question, own: OwnStatement) {
        const FITS: &str = "names of ours are short";
        message::close_statement(&mut self.output, own.name()).expect(FITS);
        self.expected.push(Owed::us(Reply::CloseComplete, question));
        self.own &= !own.bit();
    }

    pub fn push_sync(&mut self, question: Question) {
        message::sync(&mut self.output);
        self.expected.push(Owed::us(Reply::Sync, question));
    }

    /// Wipes what `currval` and `lastval` would show of another session, before a message of the client's: whose portals
    /// and unnamed statement stay as they are, and who is told if this fails.
    pub fn discard_sequences(&mut self, audience: For) {
        const FITS: &str = "names of ours are short";
        let own = OwnStatement::DiscardSequences;
        let owed = |reply| Owed { discards: true, ..Owed::before(reply, audience) };
        let out = &mut self.output;
        if self.own & own.bit() == 0 {
            // It may be known there all the same: see `sequences_kept`.
            message::close_statement(out, own.name()).expect(FITS);
            message::parse(out, own.name(), own.sql(), &[0, 0]).expect(FITS);
            self.expected.push(owed(Reply::CloseComplete));
            self.expected.push(owed(Reply::ParseComplete));
            self.own |= own.bit();
        }
        message::bind_text(out, OWN_PORTAL, own.name(), &[]).expect(FITS);
        message::execute(out, OWN_PORTAL).expect(FITS);
        message::close_portal(out, OWN_PORTAL).expect(FITS);
        for reply in [Reply::BindComplete, Reply::Execution, Reply::CloseComplete] {
            self.expected.push(owed(reply));
        }
        if audience == For::Ahead {
            message::sync(out);
            self.expected.push(Owed::before(Reply::Sync, audience));
        }
        self.foreign_sequences = false;
    }

    /// They were not wiped, and how far that came is not known.
    pub fn sequences_kept(&mut self) {
        self.foreign_sequences = true;
        self.own &= !OwnStatement::DiscardSequences.bit();
    }

    /// Sends a simple Query of ours. It destroys the unnamed statement, as any does.
    pub fn ask_simple(&mut self, question: Question, sql: &[u8]) {
        message::query(&mut self.output, sql).expect("queries of ours are short");
        self.unnamed = None;
        self.expected.push(Owed::us(Reply::Query, question));
    }

    /// Wipes what a session has left.
    pub fn wipe(&mut self) {
        self.ask_simple(Question::Reset, b"DISCARD ALL");
        self.forget_everything();
    }

    /// The server was told DEALLOCATE ALL.
    pub fn forget_statements(&mut self) {
        self.known.clear();
        self.own = 0;
    }

    /// The server was told DISCARD ALL, as a simple Query: it knows nothing any more.
    pub fn forget_everything(&mut self) {
        self.forget_statements();
        self.unnamed = None;
        self.settings = Arc::default();
        self.leftover_of = None;
        self.foreign_sequences = false;
    }

    /// Sends what is to be sent; ready when nothing is left.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wrote = !self.output.is_empty();
        while !self.output.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(count);
        }
        if wrote {
            self.output.clear();
            self.unflushed = self.stream.is_tls();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// What came while nobody used the connection: a server that reloads its configuration reports
    /// parameters, one that shuts down says so. Costs no system call when there is nothing.
    pub fn look_while_idle(&mut self) -> IdleLook {
        if self.input.has_nothing(&self.stream) {
            return IdleLook::Quiet;
        }
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if self.input.is_full() {
                return IdleLook::Dead;
            }
            match self.input.poll_fill(&mut self.stream, &mut cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0) | Err(_)) => return IdleLook::Dead,
                Poll::Ready(Ok(_)) => {}
            }
        }
        while let Ok(Some(header)) = header(self.input.bytes(), MAX_INSPECTED) {
            if self.input.len() < header.len {
                break;
            }
            match header.tag {
                b'S' => {
                    let message = &self.input.bytes()[HEADER_LEN..header.len];
                    match parameter_status(message) {
                        Some((IN_HOT_STANDBY, value)) => self.in_hot_standby = value == "on",
                        Some((name, value)) => drop(report(&mut self.reported, name, value)),
                        None => {}
                    }
                }
                b'N' | b'A' => {}
                _ => return IdleLook::Dead,
            }
            self.input.consume(header.len);
        }
        let quiet = self.input.is_empty();
        self.input.release();
        if quiet { IdleLook::Quiet } else { IdleLook::Dead }
    }

    /// Says goodbye if that costs no waiting; the rest is the socket's end.
    pub fn close(mut self: Box<Self>) {
        // Behind half a message a goodbye would be taken for the rest of it.
        if self.output.is_empty() && !self.is_midway {
            message::terminate(&mut self.output);
            let mut cx = Context::from_waker(Waker::noop());
            let _ = self.poll_flush(&mut cx);
        }
    }
}

/// Name and value of a ParameterStatus body.
pub fn parameter_status(body: &[u8]) -> Option<(&str, &str)> {
    let (name, rest) = split_cstr(body)?;
    let (value, _) = split_cstr(rest)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

/// Everything a new connection starts with, as the connector knows it.
pub struct NewConn {
    pub stream: Stream,
    /// What came behind ReadyForQuery.
    pub received: BytesMut,
    pub server: ServerIndex,
    pub epoch: Epoch,
    pub pid: i32,
    pub key: Bytes,
    pub parameters: Vec<(String, String)>,
    pub max_prepared_statements: usize,
    pub max_prepared_bytes: usize,
    pub now_ms: u64,
}

impl From<NewConn> for ServerConn {
    fn from(new: NewConn) -> Self {
        let mut reported = Reported::default();
        let mut in_hot_standby = false;
        for (name, value) in &new.parameters {
            match name == IN_HOT_STANDBY {
                true => in_hot_standby = value == "on",
                false => drop(reported.set(name, value)),
            }
        }
        let mut input = Buffer::default();
        if !new.received.is_empty() {
            input.prepend(&new.received);
        }
        ServerConn {
            cancel: Arc::new(CancelAddress::new(new.server, new.stream.peer_address(), new.pid, new.key)),
            stream: new.stream,
            input,
            output: BytesMut::new(),
            unflushed: false,
            room: Vec::new(),
            expected: ExpectedReplies::default(),
            status: TransactionStatus::Idle,
            reported: Arc::new(reported),
            in_hot_standby,
            settings: Arc::default(),
            known: KnownStatements::new(new.max_prepared_statements, new.max_prepared_bytes),
            unnamed: None,
            own: 0,
            leftover_of: None,
            forgets: true,
            last_session: SessionId::NONE,
            was_lent: false,
            foreign_sequences: false,
            server: new.server,
            epoch: new.epoch,
            opened_at_ms: new.now_ms,
            idle_since_ms: new.now_ms,
            doomed: false,
            is_midway: false,
        }
    }
}
