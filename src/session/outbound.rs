//! From the server to the client: whole runs of messages passed on, a few looked into.
//!
//! Invariant: what is marked for the client is what the server sent, in its order; whatever is taken out
//! or put in is ours.

use std::io;
use std::task::{Context, Poll};

use super::custom::CustomSettings;
use super::floor::{InvalidToken, TOKEN};
use super::pins::Found;
use super::session::{End, Session};
use super::settings::{IN_HOT_STANDBY, Settings, report};
use crate::backend::conn::{MAX_INSPECTED, OwnStatement, parameter_status};
use crate::backend::expect::{For, Owed, Question, Reply, Verdict};
use crate::clock::now_ms;
use crate::cluster::observe::question::end_of_record;
use crate::net::buffer::{LARGE, SMALL};
use crate::route::Effects;
use crate::session::prepared::{NAME_PREFIX, NameChange, Names, StatementId, UNKNOWN_PREFIX};
use crate::topology::Lsn;
use crate::wire::fields;
use crate::wire::frame::{HEADER_LEN, data_row, header};
use crate::wire::message::{self, TransactionStatus, ready_for_query};
use crate::wire::sqlstate::{self, SqlState};

/// Longest message a server may send; the protocol's own limit.
const MAX_SERVER_MESSAGE: usize = 1 << 31;
/// PostgreSQL's defaults; another segment size costs a floor that is met a little late, never one too low.
const WAL_BLOCK: u64 = 8192;
const WAL_SEGMENT: u64 = 16 * 1024 * 1024;
/// An unnamed statement that is nobody's for certain.
pub(super) const UNKNOWN_UNNAMED: u64 = u64::MAX;
/// A standby ends a read that its replay conflicts with by this code; the primary has no such conflict.
const RECOVERY_CONFLICT: SqlState = SqlState(*b"40001");
/// The routine that refuses a prepared statement whose result would have other columns than it had
/// (SQLSTATE 0A000, which by itself says much else).
const CACHED_PLAN_CHANGED: &[u8] = b"RevalidateCachedQuery";

const UNKNOWN_OUTCOME: &str = "the connection to the PostgreSQL server was lost before it answered: \
                               whether the statement took effect is not known";

impl Session {
    /// Sends what waits for the server.
    pub(super) fn flush_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(lease) = &mut self.lease else { return Ok(false) };
        if lease.conn.output.is_empty() && !lease.conn.unflushed {
            return Ok(false);
        }
        let before = lease.conn.output.len();
        match lease.conn.poll_flush(cx) {
            Poll::Ready(Err(error)) => self.server_gone(error).map(|()| true),
            _ => Ok(self.lease.as_ref().is_some_and(|lease| lease.conn.output.len() < before)),
        }
    }

    pub(super) fn read_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.client_keeps_up() {
            return Ok(false);
        }
        let Some(lease) = &mut self.lease else { return Ok(false) };
        let conn = &mut *lease.conn;
        if conn.input.is_full() {
            // All of it is marked, and the client does not take it.
            return Ok(false);
        }
        match conn.input.poll_fill(&mut conn.stream, cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(0)) => {
                return self.server_gone(io::ErrorKind::UnexpectedEof.into()).map(|()| true);
            }
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return self.server_gone(error).map(|()| true),
        }
        if conn.input.is_full() && conn.input.capacity() == SMALL {
            // The server has more than one read takes: a stream of rows.
            conn.input.reserve(LARGE);
        }
        self.process_server()?;
        Ok(true)
    }

    /// Looks at what the server has sent, message by message.
    fn process_server(&mut self) -> Result<(), End> {
        while let Some(lease) = &mut self.lease {
            let conn = &mut *lease.conn;
            let rest = &conn.input.bytes()[lease.marked..];
            if lease.server_passing > 0 {
                let count = lease.server_passing.min(rest.len());
                if count == 0 {
                    return Ok(());
                }
                lease.marked += count;
                lease.server_passing -= count;
                continue;
            }
            let found = match header(rest, MAX_SERVER_MESSAGE) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(()),
                Err(error) => return self.server_violation(error.to_string()),
            };
            let complete = rest.len() >= found.len;
            if matches!(found.tag, b'D' | b'd') && !lease.redirect && conn.expected.streams_to_client() {
                // Row after row: nothing about it can matter to us.
                lease.server_passing = found.len;
                lease.is_relayed();
                continue;
            }
            let looked_into = match found.tag {
                b'Z' | b'S' | b'E' | b'N' => true,
                _ => !matches!(conn.expected.next_audience(), Some(For::Client)),
            };
            if !complete && (looked_into || lease.redirect) && found.len <= MAX_INSPECTED {
                let room = lease.marked + found.len;
                conn.input.reserve(room);
                return Ok(());
            }
            if found.tag == b'Z' && !is_ready_for_query(&rest[..found.len.min(rest.len())]) {
                return self.server_violation("ReadyForQuery with an unknown status".into());
            }
            if found.tag == b'E' {
                self.note_error(found.len.min(MAX_INSPECTED));
            }
            let Some(lease) = &mut self.lease else { return Ok(()) };
            let conn = &mut *lease.conn;
            let undo = if lease.retained.is_empty() { None } else { Some(&mut lease.undo) };
            let mut settled = Settling {
                names: &mut self.names,
                forgotten: Vec::new(),
                doom: false,
                undo,
                unnamed: Vec::new(),
            };
            let verdict = conn.expected.on_message(found.tag, |owed, done| settled.settle(owed, done));
            let (forgotten, doom, unnamed) = (settled.forgotten, settled.doom, settled.unnamed);
            forgotten.into_iter().for_each(|id| conn.known.remove(id));
            for (id, audience) in unnamed {
                if conn.unnamed == id {
                    // It has none, an older one, or another client's.
                    conn.unnamed = Some(UNKNOWN_UNNAMED);
                }
                if audience == For::Client
                    && id.is_some()
                    && self.unnamed.as_ref().map(|unnamed| unnamed.id) == id
                {
                    self.unnamed = None;
                }
            }
            conn.doomed |= doom;
            let verdict = match verdict {
                Ok(verdict) => verdict,
                Err(error) => return self.server_violation(error.to_string()),
            };
            if !complete && verdict != Verdict::Forward {
                return self
                    .server_violation("a message of the server's is too long to be looked into".into());
            }
            let verdict = if lease.redirect { Verdict::Swallow } else { verdict };
            let verdict = match (found.tag, verdict) {
                // The server goes, the client may stay: what that means for it is said when the end has come.
                (b'E', Verdict::Forward)
                    if complete && is_shutdown(&conn.input.bytes()[lease.marked + HEADER_LEN..]) =>
                {
                    Verdict::Swallow
                }
                _ => verdict,
            };
            if found.tag == b'E' && verdict == Verdict::Forward && complete {
                lease.told_fatal = fields::is_fatal(&conn.input.bytes()[lease.marked + HEADER_LEN..]);
            }
            match (found.tag, verdict) {
                (b'S', _) => self.parameter_reported(found.len),
                (b'Z', verdict) => {
                    let body = &conn.input.bytes()[lease.marked + HEADER_LEN..lease.marked + found.len];
                    let &[status] = body else {
                        return self.server_violation("ReadyForQuery of another length".into());
                    };
                    let Some(status) = TransactionStatus::from_byte(status) else {
                        return self.server_violation("ReadyForQuery with an unknown status".into());
                    };
                    conn.status = status;
                    self.status = status;
                    let limits = &self.settled.config.limits;
                    if limits.idle_in_transaction_timeout_ms != 0 || limits.client_idle_timeout_ms != 0 {
                        // Idle begins when the answer is complete, however long it took.
                        self.idle_since_ms = now_ms();
                    }
                    match verdict {
                        Verdict::Forward => self.mark(found.len),
                        _ => self.take_out(found.len),
                    }
                    self.drain_own_replies();
                    self.ready()?;
                    continue;
                }
                (b'E', Verdict::Forward) if complete => self.forward_error(found.len),
                // What comes before anything was done does not bind us to this server.
                (b'1' | b'2' | b'3' | b'T' | b't' | b'n', Verdict::Forward) if complete => {
                    lease.marked += found.len;
                }
                (_, Verdict::Forward) if complete => self.mark(found.len),
                (_, Verdict::Forward) => {
                    let have = rest_len(lease.conn.input.len(), lease.marked);
                    lease.server_passing = found.len - have;
                    self.mark(have);
                }
                (_, Verdict::Swallow) => self.take_out(found.len),
                (tag, Verdict::Answer(question)) => {
                    self.answered(question, tag, found.len);
                    self.take_out(found.len);
                }
            }
            self.drain_own_replies();
        }
        Ok(())
    }

    /// Passes a message on as it is.
    fn mark(&mut self, len: usize) {
        let Some(lease) = &mut self.lease else { return };
        lease.marked += len;
        lease.is_relayed();
    }

    /// Takes a message out of the stream.
    fn take_out(&mut self, len: usize) {
        self.unmark();
        if let Some(lease) = &mut self.lease {
            lease.conn.input.consume(len);
        }
    }

    /// Copies what is marked out of the server's input, so that something of ours can follow it.
    fn unmark(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        if lease.marked > 0 {
            self.to_client.extend_from_slice(&lease.conn.input.bytes()[..lease.marked]);
            lease.conn.input.consume(lease.marked);
            lease.marked = 0;
        }
    }

    /// Writes the replies of ours whose turn has come.
    pub(super) fn drain_own_replies(&mut self) {
        loop {
            let Some(lease) = &mut self.lease else { return };
            let Some(owed) = lease.conn.expected.pop_own() else { return };
            if lease.redirect {
                continue;
            }
            self.unmark();
            match owed.reply {
                Reply::OwnParseComplete => message::parse_complete(&mut self.to_client),
                _ => message::close_complete(&mut self.to_client),
            }
        }
    }

    fn parameter_reported(&mut self, len: usize) {
        let Some(lease) = &mut self.lease else { return };
        let conn = &mut *lease.conn;
        let ours = matches!(conn.expected.next_audience(), Some(For::Us(_)));
        let body = &conn.input.bytes()[lease.marked + HEADER_LEN..lease.marked + len];
        let mut tell = false;
        if let Some((name, value)) = parameter_status(body)
            && name != IN_HOT_STANDBY
        {
            report(&mut conn.reported, name, value);
            // What changes while we make the connection fit is told when it fits.
            tell = !ours && !lease.redirect && report(&mut self.believed, name, value);
        }
        if tell {
            self.mark(len);
        } else {
            self.take_out(len);
        }
    }

    /// Looks at an error before anything else does.
    fn note_error(&mut self, have: usize) {
        let Some(lease) = &mut self.lease else { return };
        let end = lease.conn.input.len().min(lease.marked + have);
        let body = &lease.conn.input.bytes()[lease.marked + HEADER_LEN..end];
        let state = fields::sqlstate(body);
        if fields::is_fatal(body) {
            lease.conn.doomed = true;
        }
        if state == sqlstate::READ_ONLY_SQL_TRANSACTION {
            self.gateway.looks.all();
        }
        let for_client = !matches!(lease.conn.expected.next_audience(), Some(For::Us(_)) | None);
        if !for_client {
            return;
        }
        if fields::field(body, b'R') == Some(CACHED_PLAN_CHANGED) {
            // The schema was changed past us: what is prepared from now on is another statement.
            self.identity.database.schema_changed();
        }
        let refused = state == sqlstate::READ_ONLY_SQL_TRANSACTION || state == RECOVERY_CONFLICT;
        if lease.is_standby && !lease.retained.is_empty() && refused {
            lease.redirect = true;
        } else {
            self.transaction.failed = true;
        }
    }

    /// Passes an error on, with the client's name for a statement instead of ours.
    fn forward_error(&mut self, len: usize) {
        let Some(lease) = &mut self.lease else { return };
        let body = &lease.conn.input.bytes()[lease.marked + HEADER_LEN..lease.marked + len];
        if !contains(body, NAME_PREFIX.as_bytes()) {
            return self.mark(len);
        }
        let renamed = rename(body, &self.names);
        lease.is_relayed();
        self.take_out(len);
        message::frame(&mut self.to_client, b'E', |out| out.extend_from_slice(&renamed))
            .expect("names are bounded, so a bounded text stays one");
    }

    /// A row, or an error, of a question of ours.
    fn answered(&mut self, question: Question, tag: u8, len: usize) {
        let Some(lease) = &mut self.lease else { return };
        let body = &lease.conn.input.bytes()[lease.marked + HEADER_LEN..lease.marked + len];
        if tag == b'E' {
            let state = fields::sqlstate(body);
            let text =
                fields::field(body, b'M').map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            lease.conn.doomed = true;
            tracing::warn!(session = self.id.0, ?question, %state, text, "a question of komainu's own failed");
            if question == Question::Apply {
                lease.apply_error = Some((state, text));
            }
            return;
        }
        let columns = data_row(body);
        let column = |i: usize| columns.get(i).copied().flatten().and_then(|v| std::str::from_utf8(v).ok());
        match question {
            Question::Floor => {
                if let Some(lsn) = column(0).and_then(|text| text.parse::<Lsn>().ok()) {
                    // A position behind a page's header is one no standby reports until there is more.
                    self.floor.raise(lease.conn.epoch, end_of_record(lsn, WAL_BLOCK, WAL_SEGMENT));
                }
            }
            Question::Settings => {
                if let (Some(name), Some(value)) = (column(0), column(1)) {
                    lease.collected.push((name.to_ascii_lowercase().into(), value.into()));
                }
            }
            Question::Pins => {
                let is = |i| column(i) == Some("t");
                let found = Found {
                    temporary_objects: is(0),
                    advisory_locks: is(1),
                    listening: is(2),
                    hold_cursors: is(3),
                };
                let left = self.pins.after(found);
                for gone in self.pins.without(left).iter() {
                    self.gateway.counters.unpinned(gone);
                }
                self.pins = left;
            }
            Question::LoginRight => lease.login_right = Some(column(0) == Some("t")),
            Question::Apply | Question::Reset | Question::Liveness | Question::Rollback => {}
        }
    }

    /// ReadyForQuery has come. If it ends the transaction and nothing of the client's is under way, asks
    /// what must be known before the connection may serve somebody else.
    fn ready(&mut self) -> Result<(), End> {
        let tracks_floor = self.tracks_floor();
        let stands_in = self.lease.as_ref().is_some_and(|lease| lease.stands_in);
        let is_worth_asking = tracks_floor && stands_in && self.position_is_worth_asking();
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let conn = &mut *lease.conn;
        if conn.status == TransactionStatus::Idle || self.tally.is_long() {
            self.tally.hand_over(&self.gateway.counters, conn.server);
        }
        if conn.status != TransactionStatus::Idle {
            lease.is_complete = false;
            return Ok(());
        }
        if conn.expected.owes_client() || lease.ours_first || lease.redirect {
            return Ok(());
        }
        let done = &self.transaction;
        let effects = done.effects;
        let mut asks_floor = done.may_write && tracks_floor && !done.floor_asked && !lease.is_standby;
        if tracks_floor && !done.may_write && done.ran {
            self.floor.read_from(conn.epoch, conn.server, now_ms());
            // Else a session that reads more often than servers are looked at never leaves the primary.
            // Not while no standby has even what the session wrote: the answer would only be too old.
            asks_floor = is_worth_asking;
        }
        // What follows on this connection before the position is known is read here too.
        lease.stands_in |= done.may_write;
        // In a transaction block DISCARD ALL is refused, so nothing is discarded.
        let refused = effects.contains(Effects::BEGINS | Effects::DISCARDS_ALL) && done.failed;
        if done.discards_all && !refused {
            if done.failed {
                // Which of several statements failed is not known; a new connection knows nothing.
                conn.doomed = true;
            } else {
                conn.forget_everything();
            }
            self.names.clear();
            if effects.intersects(Effects::DISCARDS_ALL) && !done.failed {
                self.unnamed = None;
                self.settings = self.startup_settings.clone();
            }
        }
        if done.deallocates {
            conn.doomed = true;
            if !done.failed {
                done.deallocated.iter().for_each(|name| drop(self.names.remove(name.as_bytes())));
            }
        }
        let unseen = effects.intersects(Effects::CHANGES_SETTINGS)
            && self.custom.as_ref().is_some_and(|custom| custom.unseen);
        if done.hidden_state || unseen || !self.pins.is_empty() {
            conn.leftover_of = Some(self.id);
        }
        if effects.intersects(Effects::DDL) {
            self.identity.database.schema_changed();
            self.gateway.catalogs.invalidate(&self.identity.database.name);
        }
        let discarded = effects.intersects(Effects::DISCARDS_ALL) && !done.failed;
        if effects.intersects(Effects::CHANGES_SETTINGS | Effects::UNKNOWN_EFFECTS) && !discarded {
            lease.collected.clear();
            let names = self.settings.iter().map(|(name, _)| name);
            let custom = CustomSettings::array(self.custom.as_deref(), names);
            let parameters = [Some(self.identity.user.as_bytes()), Some(custom.as_bytes())];
            conn.ask(Question::Settings, OwnStatement::Settings, &parameters);
            lease.settings_asked = true;
            lease.ours_first = true;
        }
        const MAY_UNPIN: Effects = Effects::TEMP_OBJECT
            .union(Effects::LISTENS)
            .union(Effects::UNLISTENS)
            .union(Effects::HOLD_CURSOR)
            .union(Effects::CLOSES_CURSOR)
            .union(Effects::SESSION_ADVISORY_LOCK)
            .union(Effects::ADVISORY_UNLOCK)
            .union(Effects::DDL)
            .union(Effects::DISCARDS_SOME)
            .union(Effects::DISCARDS_ALL)
            .union(Effects::UNKNOWN_EFFECTS);
        if (self.pins.can_end() || done.hidden_state) && effects.intersects(MAY_UNPIN) {
            conn.ask(Question::Pins, OwnStatement::Pins, &[]);
            lease.ours_first = true;
        }
        if asks_floor {
            self.floor.pending = true;
            self.floor.asked_at_ms = now_ms();
            conn.ask(Question::Floor, OwnStatement::Floor, &[]);
            lease.ours_first = true;
        }
        self.transaction.end();
        Ok(())
    }

    /// What there is to do once nothing is under way: the connection has become what we need, a refused
    /// read is asked again, or the connection goes back.
    pub(super) fn settle(&mut self) -> Result<bool, End> {
        let Some(lease) = &mut self.lease else { return Ok(false) };
        if !lease.conn.expected.is_empty() || !lease.conn.output.is_empty() {
            return Ok(false);
        }
        if lease.preparing_since_ms.take().is_some() {
            lease.ours_first = false;
            if let Some((state, text)) = lease.apply_error.take() {
                let request = lease.request.take();
                self.abandon_lease();
                if let Some(request) = request {
                    self.refuse(&request, &message::Report::error(state, &text));
                }
                return Ok(true);
            }
            self.tell_what_differs();
            if let Some(lease) = &mut self.lease {
                lease.held_from = self.to_client.len();
            }
            return Ok(true);
        }
        if lease.redirect {
            return self.ask_again().map(|()| true);
        }
        if lease.settings_asked {
            lease.settings_asked = false;
            let mut collected = std::mem::take(&mut lease.collected);
            let present = Settings::new(collected.clone());
            let token = collected.iter().position(|(name, _)| **name == *TOKEN);
            let token = token.map(|at| collected.swap_remove(at).1);
            // RESET goes back to what the session began with, which the server connection does not know;
            // and the connection has the token until it is made to fit again: the session does not keep it.
            self.settings = std::sync::Arc::new(Settings::new(collected).over(&self.startup_settings));
            lease.conn.settings = std::sync::Arc::new(present);
            if let Some(token) = token {
                self.take_token(&token);
            }
        }
        let Some(lease) = &mut self.lease else { return Ok(false) };
        let is_idle = lease.conn.status == TransactionStatus::Idle;
        if is_idle && !lease.conn.doomed && lease.conn.settings.hash() != self.settings.hash() {
            self.apply_settings();
            return Ok(true);
        }
        let Some(lease) = &mut self.lease else { return Ok(false) };
        let was_ours = std::mem::take(&mut lease.ours_first);
        if lease.marked > 0 || lease.conn.status != TransactionStatus::Idle || !self.pins.is_empty() {
            if !self.pins.is_empty() && lease.conn.doomed && lease.marked == 0 {
                return self.server_gone(io::ErrorKind::UnexpectedEof.into()).map(|()| true);
            }
            return Ok(was_ours);
        }
        if !lease.conn.input.is_empty() {
            return Ok(was_ours);
        }
        self.end_lease();
        Ok(true)
    }

    /// The session has set `komainu.token`: see [`super::floor`].
    fn take_token(&mut self, token: &str) {
        if self.floor.take_token(token).is_ok() {
            return;
        }
        // A plain SET is checked before it is sent; `set_config` and texts of several statements are not,
        // and theirs is done already.
        let message = format!("parameter \"{TOKEN}\" was set to {token:?}, which is ignored: {InvalidToken}");
        self.notify_client(&message::Report::warning(sqlstate::INVALID_PARAMETER_VALUE, &message));
    }

    /// Puts a notice into the stream to the client, unless a message is half through.
    pub(super) fn notify_client(&mut self, report: &message::Report<'_>) {
        if self.lease.as_ref().is_some_and(|lease| lease.server_passing > 0) {
            tracing::info!(session = self.id.0, message = report.message, "client is not told");
            return;
        }
        self.unmark();
        report.encode(&mut self.to_client);
    }

    /// Asks the primary what a standby has refused.
    fn ask_again(&mut self) -> Result<(), End> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let retained = std::mem::take(&mut lease.retained);
        self.to_client.truncate(lease.held_from);
        for change in std::mem::take(&mut lease.undo).into_iter().rev() {
            self.names.undo(change);
        }
        self.end_lease();
        self.transaction.end();
        self.batch.clear();
        self.force_primary = true;
        self.status = TransactionStatus::Idle;
        self.input.prepend(&retained);
        Ok(())
    }

    fn server_violation(&mut self, what: String) -> Result<(), End> {
        tracing::error!(session = self.id.0, what, "server broke the protocol");
        self.server_gone(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// The server connection is lost. Says what is known of what was under way; no more and no less.
    pub(super) fn server_gone(&mut self, error: io::Error) -> Result<(), End> {
        self.gateway.looks.all();
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let server = lease.pool.key.server;
        tracing::warn!(session = self.id.0, server = %self.topology.servers.get(usize::from(server.0))
            .map_or("?", |s| &s.id), %error, "server connection lost");
        if lease.told_fatal {
            // As with PostgreSQL, that was the last word.
            return Err(End::Terminated);
        }
        let owes = lease.conn.expected.owes_client();
        let mut settled = Settling {
            names: &mut self.names,
            forgotten: Vec::new(),
            doom: false,
            undo: None,
            unnamed: Vec::new(),
        };
        let mut ready_due = 0;
        lease.conn.expected.abandon(|owed, done| {
            let ends = matches!(owed.reply, Reply::Sync | Reply::Query | Reply::FunctionCall);
            ready_due += usize::from(ends && owed.audience == For::Client);
            settled.settle(owed, done);
        });
        let was_preparing = lease.preparing_since_ms.is_some();
        let nothing_sent_of_clients = was_preparing && !owes;
        let request = lease.request.clone();
        if nothing_sent_of_clients && let Some(request) = request {
            // Not a byte of the client's was sent: another connection serves as well.
            self.abandon_lease();
            return self.begin_request(request);
        }
        if owes && !lease.retained.is_empty() {
            lease.conn.doomed = true;
            lease.redirect = true;
            return self.ask_again();
        }
        let cut_short = lease.server_passing > 0;
        let in_transaction = lease.conn.status != TransactionStatus::Idle;
        let is_pinned = !self.pins.is_empty();
        // Inside a transaction block nothing is lasting before its end was sent.
        let ended = !in_transaction || self.transaction.effects.intersects(Effects::ENDS_TRANSACTION);
        let outcome_unknown = owes && ended && self.transaction.may_write;
        self.unmark();
        self.abandon_lease();
        self.transaction.end();
        self.batch.clear();
        if !owes && !in_transaction && !is_pinned {
            return Ok(());
        }
        let name = "the connection to the PostgreSQL server was lost";
        if cut_short || in_transaction || is_pinned {
            // What the client believes to have (a transaction, a lock, a half-sent row) is gone with it.
            if outcome_unknown {
                return Err(End::fatal(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, UNKNOWN_OUTCOME));
            }
            return Err(End::fatal(sqlstate::CONNECTION_FAILURE, format!("{name}; reconnect and try again")));
        }
        let report = if outcome_unknown {
            message::Report::error(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, UNKNOWN_OUTCOME)
        } else {
            message::Report::error(sqlstate::CONNECTION_FAILURE, name)
        };
        self.status = TransactionStatus::Idle;
        // Each Query or Sync that was sent gets its own answer.
        for _ in 0..ready_due {
            report.encode(&mut self.to_client);
            ready_for_query(&mut self.to_client, self.status);
        }
        if ready_due == 0 {
            report.encode(&mut self.to_client);
            self.discarding = true;
        }
        Ok(())
    }
}

/// A FATAL of a server that is shut down or was told to end the connection.
fn is_shutdown(body: &[u8]) -> bool {
    fields::is_fatal(body) && fields::sqlstate(body).0.starts_with(b"57P")
}

/// To be known before it is taken for the answer to anything.
fn is_ready_for_query(message: &[u8]) -> bool {
    message.len() == HEADER_LEN + 1 && TransactionStatus::from_byte(message[HEADER_LEN]).is_some()
}

fn rest_len(len: usize, marked: usize) -> usize {
    len - marked
}

/// What settling replies changes.
struct Settling<'a> {
    names: &'a mut Names,
    forgotten: Vec<StatementId>,
    doom: bool,
    /// Unnamed statements that were not parsed after all; `None`: what would have ended one did not succeed.
    unnamed: Vec<(Option<u64>, For)>,
    /// Where changes that were made go, while the request may still have to be asked again.
    undo: Option<&'a mut Vec<NameChange>>,
}

impl Settling<'_> {
    fn settle(&mut self, owed: Owed, succeeded: bool) {
        if succeeded {
            if let (Some(undo), Some(change)) = (&mut self.undo, owed.change) {
                undo.push(*change);
            }
            return;
        }
        if matches!(owed.reply, Reply::Query | Reply::CloseComplete) || owed.unnamed.is_some() {
            self.unnamed.push((owed.unnamed, owed.audience));
        }
        let of_ours = matches!(owed.audience, For::Us(_));
        if of_ours || owed.audience == For::Prelude && owed.reply == Reply::CloseComplete {
            // The connection is not what we believe it to be: a question was skipped, or the server still
            // knows what it should have forgotten.
            self.doom = true;
        }
        self.forgotten.extend(owed.learns);
        if let Some(change) = owed.change {
            self.names.undo(*change);
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Replaces our names of statements by the client's in the fields of an error.
fn rename(body: &[u8], names: &Names) -> Vec<u8> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while !rest.is_empty() {
        // Only a whole word is a name: `tab_key` has none.
        let begins = !out.last().is_some_and(is_part);
        if begins && rest.starts_with(UNKNOWN_PREFIX.as_bytes()) {
            rest = &rest[UNKNOWN_PREFIX.len()..];
        } else if begins && rest.starts_with(NAME_PREFIX.as_bytes()) {
            let end = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
            let ours = &rest[..end];
            out.extend_from_slice(names.client_name(ours).unwrap_or(ours));
            rest = &rest[end..];
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}
