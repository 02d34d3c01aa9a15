//! From the server to the client: whole runs of messages passed on, a few looked into.
//!
//! Invariant: what is marked for the client is what the server sent, in its order; whatever is taken out
//! or put in is ours.

use std::io;
use std::task::{Context, Poll};

use super::lease::Unconfirmed;
use super::prepared::Names;
use super::session::{End, Session};
use super::suspended::Usable;
use super::teach::PLAN_CHANGED_ROUTINE;
use crate::backend::conn::{Alike, MAX_INSPECTED, parameter_status};
use crate::backend::description;
use crate::backend::expect::{For, Owed, Question, Reply, Verdict};
use crate::backend::settings::{IN_HOT_STANDBY, MAX_SETTINGS, report};
use crate::backend::statement::{NAME_PREFIX, UNKNOWN_PREFIX};
use crate::clock::now_ms;
use crate::net::buffer::{LARGE, SMALL};
use crate::telemetry::labels::Direction;
use crate::wire::fields;
use crate::wire::frame::{HEADER_LEN, Header, header};
use crate::wire::message::{self, Report, TransactionStatus};
use crate::wire::sqlstate::{self, SqlState};

/// Longest message a server may send; the protocol's own limit.
const MAX_SERVER_MESSAGE: usize = 1 << 31;
/// A standby ends a read that its replay conflicts with by this code; the primary has no such conflict.
const RECOVERY_CONFLICT: SqlState = SqlState(*b"40001");
/// Or by this one, when it holds the buffer that replay waits for while it waits for replay itself.
const BUFFER_DEADLOCK: (SqlState, &[u8]) = (SqlState(*b"40P01"), b"CheckRecoveryConflictDeadlock");
/// The routine that takes no snapshot for a serializable transaction on a standby (SQLSTATE 0A000 again).
const SERIALIZABLE_SNAPSHOT: &[u8] = b"GetSerializableTransactionSnapshot";
/// The one that finds a relation unlogged, of which a standby has nothing.
const UNLOGGED_RELATION: (SqlState, &[u8]) = (SqlState(*b"0A000"), b"get_relation_info");
/// The routine that waits for synchronous standbys, `src/backend/replication/syncrep.c`. All it ever says is that
/// it gave up waiting.
const SYNC_REP_WAIT: &[u8] = b"SyncRepWaitForLSN";
const UNCONFIRMED: &str = "the transaction was committed on the primary, but not as synchronous replication \
                           demands: whether it lasts is not known";

/// Whether a server refuses that only because it is a standby: the primary would do it.
fn is_of_recovery(state: SqlState, routine: Option<&[u8]>) -> bool {
    state == sqlstate::READ_ONLY_SQL_TRANSACTION
        || state == RECOVERY_CONFLICT
        || routine.is_some_and(|routine| {
            routine == SERIALIZABLE_SNAPSHOT
                || [BUFFER_DEADLOCK, UNLOGGED_RELATION].contains(&(state, routine))
        })
}

/// As many parameters as there can be take 262 kB, and as many columns half of that.
const MAX_DESCRIPTION: usize = 512 * 1024;

impl Session {
    /// Sends what waits for the server.
    pub(super) fn flush_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(lease) = &mut self.lease else { return Ok(false) };
        if lease.conn.output.is_empty() && !lease.conn.unflushed {
            return Ok(false);
        }
        match self.usable()? {
            Usable::Now => {}
            Usable::Later => return Ok(false),
            Usable::Gone => return Ok(true),
        }
        let Some(lease) = &mut self.lease else { return Ok(false) };
        let before = lease.conn.output.len();
        let flushed = lease.conn.poll_flush(cx);
        let wrote = before - lease.conn.output.len();
        if wrote > 0 {
            self.gateway.counters.bytes(Direction::ToServers, wrote as u64);
        }
        match flushed {
            Poll::Ready(Err(error)) => self.server_gone(error).map(|()| true),
            _ => Ok(wrote > 0),
        }
    }

    pub(super) fn read_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if let Some(progress) = self.hear_late()? {
            return Ok(progress);
        }
        let keeps_up = self.client_keeps_up();
        if self.lease.as_ref().is_some_and(|lease| lease.redirect && lease.conn.input.is_full()) {
            // It goes with what is held back.
            self.unmark();
        }
        let Some(lease) = &mut self.lease else { return Ok(false) };
        let conn = &mut *lease.conn;
        // If it is full, all of it is marked, and the client does not take it.
        if !lease.redirect && (!keeps_up || conn.input.is_full()) {
            conn.input.passed_over();
            // Nor could it, while the request might be asked again: there is more of the answer than is held back.
            lease.forget_request();
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
        // It may come from a server that is not the primary any more: then nobody is told.
        let usable = self.usable()?;
        let Some(lease) = self.lease.as_mut().filter(|_| usable != Usable::Gone) else { return Ok(true) };
        if usable == Usable::Later {
            lease.unheard = true;
            return Ok(false);
        }
        let conn = &mut *lease.conn;
        if conn.input.is_full() && conn.input.capacity() == SMALL {
            // The server has more than one read takes: a stream of rows.
            conn.input.reserve(LARGE);
        }
        self.process_server()?;
        Ok(true)
    }

    /// Looks at what the server has sent, message by message.
    pub(super) fn process_server(&mut self) -> Result<(), End> {
        while let Some((found, complete)) = self.next_of_server()? {
            if found.tag == b'E' {
                self.note_error(found.len.min(MAX_INSPECTED));
            }
            if complete && matches!(found.tag, b't' | b'T' | b'n') {
                self.note_description(found);
            }
            let Some(verdict) = self.judge(found.tag)? else { return Ok(()) };
            self.end_refused_batch();
            if !complete && verdict == Verdict::Answer(Question::Settings) {
                return Err(self.too_many_settings());
            }
            let is_read = verdict != Verdict::Forward || found.tag == b'S';
            if !complete && is_read {
                return self
                    .server_violation("a message of the server's is too long to be looked into".into());
            }
            self.relay(found, complete, verdict)?;
        }
        Ok(())
    }

    /// What a server says of a statement is what its clients go by from then on.
    fn note_description(&mut self, found: Header) {
        let Some(lease) = &mut self.lease else { return };
        let conn = &mut *lease.conn;
        let Some(prepared) = conn.expected.describes() else { return };
        let body = &conn.input.bytes()[lease.marked + HEADER_LEN..lease.marked + found.len];
        if found.tag == b't' {
            lease.parameters = description::parameters(body);
            return;
        }
        let alike = match prepared.is_described_alike(description::columns(lease.parameters, body)) {
            true => Alike::Yes,
            false => Alike::No,
        };
        let id = prepared.id;
        if conn.expected.next_audience() == Some(For::Prelude) {
            conn.known.is_alike(id, alike);
        }
    }

    /// What is to be asked elsewhere is not sent on, so its Sync is ours to send.
    fn end_refused_batch(&mut self) {
        if let Some(lease) = &mut self.lease
            && lease.redirect
            && lease.conn.expected.is_skipping()
        {
            message::sync(&mut lease.conn.output);
            lease.conn.expected.push(Owed::prelude(Reply::Sync));
        }
    }

    /// The next message to be judged, and whether it is there to its end; rows for the client go by unseen.
    /// None: the server must first send more.
    fn next_of_server(&mut self) -> Result<Option<(Header, bool)>, End> {
        loop {
            let Some(lease) = &mut self.lease else { return Ok(None) };
            let heard = lease.is_heard();
            let conn = &mut *lease.conn;
            let rest = &conn.input.bytes()[lease.marked..];
            if lease.server_passing > 0 {
                let count = lease.server_passing.min(rest.len());
                if count == 0 {
                    return Ok(None);
                }
                lease.marked += count;
                lease.passed += count;
                lease.server_passing -= count;
                self.drain_own_replies();
                continue;
            }
            let found = match header(rest, MAX_SERVER_MESSAGE) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(None),
                Err(error) => return self.server_violation(error.to_string()).map(|()| None),
            };
            if matches!(found.tag, b'D' | b'd') && heard && conn.expected.streams_to_client() {
                // Row after row: nothing about it can matter to us.
                lease.server_passing = found.len;
                lease.passed = 0;
                lease.forget_request();
                continue;
            }
            let complete = rest.len() >= found.len;
            let audience = conn.expected.next_audience();
            let longest = match audience {
                Some(For::Us(Question::Settings)) => MAX_SETTINGS,
                _ if conn.expected.describes().is_some() => MAX_DESCRIPTION,
                _ => MAX_INSPECTED,
            };
            let looked_into = match found.tag {
                b'Z' | b'S' | b'E' | b'N' => true,
                b'C' if lease.unconfirmed == Unconfirmed::Commit => true,
                b't' | b'T' if conn.expected.describes().is_some() => true,
                _ => !matches!(audience, Some(For::Client)),
            };
            if !complete && (looked_into || !heard) && found.len <= longest {
                let room = lease.marked + found.len;
                conn.input.reserve(room);
                return Ok(None);
            }
            if found.tag == b'Z' && !is_ready_for_query(&rest[..found.len.min(rest.len())]) {
                return self.server_violation("ReadyForQuery with an unknown status".into()).map(|()| None);
            }
            return Ok(Some((found, complete)));
        }
    }

    /// Does with a message what was judged of it.
    fn relay(&mut self, found: Header, complete: bool, verdict: Verdict) -> Result<(), End> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let body = &lease.conn.input.bytes()[lease.marked + HEADER_LEN..];
        let verdict = match verdict {
            Verdict::Keep if fields::is_fatal(body) => Verdict::Forward,
            Verdict::Instead if !is_of_unknown_statement(body) => Verdict::Forward,
            other => other,
        };
        let verdict = match verdict {
            _ if lease.redirect => Verdict::Swallow,
            Verdict::Forward if lease.unconfirmed == Unconfirmed::Told && !is_asynchronous(found.tag) => {
                Verdict::Swallow
            }
            // Of a channel that another session listened to there: of that the server tells until it is wiped.
            Verdict::Forward if found.tag == b'A' && lease.is_unused() => Verdict::Swallow,
            // It is what the others are told when one of them has crashed; the end of the connection follows.
            Verdict::Forward if found.tag == b'N' && complete && is_crash(body) => Verdict::Swallow,
            // The server goes, the client may stay: what that means for it is said when the end has come.
            Verdict::Forward if found.tag == b'E' && complete && is_shutdown(body) => Verdict::Swallow,
            // So does a server whose disk fails a commit, which may be there after its recovery or not.
            Verdict::Forward if found.tag == b'E' && complete && fields::is_panic(body) => Verdict::Swallow,
            other => other,
        };
        match (found.tag, verdict) {
            (b'S', _) => self.parameter_reported(found.len),
            (b'Z', verdict) => return self.server_is_ready(found, verdict),
            (b'N', Verdict::Forward) if complete && is_unconfirmed_commit(body) => {
                lease.unconfirmed = Unconfirmed::Commit;
                self.mark(found.len);
            }
            (b'C', Verdict::Forward) if lease.unconfirmed == Unconfirmed::Commit => {
                self.take_out(found.len);
                self.tell_unconfirmed();
            }
            (b'E', Verdict::Forward) if complete => {
                lease.told_fatal = fields::is_fatal(body);
                self.forward_error(found.len);
            }
            (b'E', Verdict::Keep) if complete => {
                let error = body[..found.len - HEADER_LEN].to_vec();
                lease.conn.expected.query_will_fail(&error);
                self.take_out(found.len);
            }
            (b'E', Verdict::Instead) if complete => {
                let instead = lease.conn.expected.take_instead().unwrap_or_default();
                self.say_instead(found.len, &instead);
            }
            // What comes before anything was done does not bind us to this server.
            (b'1' | b'2' | b'3' | b'T' | b't' | b'n', Verdict::Forward) if complete => {
                lease.marked += found.len;
            }
            (_, Verdict::Forward) if complete => self.mark(found.len),
            (_, Verdict::Forward) => {
                let have = lease.conn.input.len() - lease.marked;
                lease.server_passing = found.len - have;
                lease.passed = have;
                self.mark(have);
            }
            (_, Verdict::Swallow | Verdict::Keep | Verdict::Instead) if !complete => {
                return self.server_violation("a message of the server's is too long to be left out".into());
            }
            (_, Verdict::Swallow | Verdict::Keep | Verdict::Instead) => self.take_out(found.len),
            (tag, Verdict::Answer(question)) => {
                self.answered(question, tag, found.len);
                self.take_out(found.len);
            }
        }
        self.drain_own_replies();
        Ok(())
    }

    /// ReadyForQuery: what was owed up to here is paid.
    fn server_is_ready(&mut self, found: Header, verdict: Verdict) -> Result<(), End> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let status = lease.conn.input.bytes()[lease.marked + HEADER_LEN];
        let Some(status) = TransactionStatus::from_byte(status) else {
            return self.server_violation("ReadyForQuery with an unknown status".into());
        };
        lease.conn.status = status;
        self.status = status;
        let limits = &self.settled.config.limits;
        if limits.idle_in_transaction_timeout_ms != 0 || limits.client_idle_timeout_ms != 0 {
            // Idle begins when the answer is complete, however long it took.
            self.idle_since_ms = now_ms();
        }
        let unconfirmed = std::mem::take(&mut lease.unconfirmed);
        match verdict {
            Verdict::Forward => {
                // It was answered; what we ask by ourselves does not count.
                self.asked_again = 0;
                if unconfirmed == Unconfirmed::Commit {
                    // An Execute by itself is committed by its Sync, after it was answered.
                    self.tell_unconfirmed();
                }
                self.mark(found.len);
            }
            _ => self.take_out(found.len),
        }
        if let Some(lease) = &mut self.lease {
            lease.unconfirmed = Unconfirmed::No;
        }
        self.drain_own_replies();
        self.ready()
    }

    /// A commit that its standbys may never have got is none that the client may count on.
    fn tell_unconfirmed(&mut self) {
        self.unmark();
        Report::error(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, UNCONFIRMED)
            .detail("The wait for a synchronous standby was cancelled: after a failover it may be gone.")
            .encode(&mut self.to_client);
        self.transaction.failed = true;
        if let Some(lease) = &mut self.lease {
            lease.unconfirmed = Unconfirmed::Told;
        }
    }

    /// Passes a message on as it is.
    fn mark(&mut self, len: usize) {
        let Some(lease) = &mut self.lease else { return };
        lease.marked += len;
        lease.forget_request();
    }

    /// Takes a message out of the stream.
    fn take_out(&mut self, len: usize) {
        self.unmark();
        if let Some(lease) = &mut self.lease {
            lease.conn.input.consume(len);
        }
    }

    /// Copies what is marked out of the server's input, so that something of ours can follow it.
    pub(super) fn unmark(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        if lease.marked > 0 {
            self.to_client.extend_from_slice(&lease.conn.input.bytes()[..lease.marked]);
            lease.conn.input.consume(lease.marked);
            lease.marked = 0;
        }
    }

    /// Writes the replies of ours whose turn has come: never into a message of the server's that is still coming.
    pub(super) fn drain_own_replies(&mut self) {
        loop {
            let Some(lease) = self.lease.as_mut().filter(|lease| lease.server_passing == 0) else { return };
            let Some(owed) = lease.conn.expected.pop_own() else { return };
            if let (false, Some(change)) = (lease.retained.is_empty(), owed.change) {
                lease.undo.push(*change);
            }
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
        match parameter_status(body) {
            Some((IN_HOT_STANDBY, value)) => conn.in_hot_standby = value == "on",
            Some((name, value)) => {
                report(&mut conn.reported, name, value);
                // What changes while we make the connection fit is told when it fits.
                tell = !ours && !lease.redirect && report(&mut self.believed, name, value);
            }
            None => {}
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
        if fields::field(body, b'R') == Some(PLAN_CHANGED_ROUTINE.as_bytes()) {
            // The schema was changed past us: what is prepared from now on is another statement.
            self.identity.database.schema_changed();
        }
        if lease.is_standby && !lease.retained.is_empty() && is_of_recovery(state, fields::field(body, b'R'))
        {
            lease.redirect = true;
            self.writes_after_all = state == sqlstate::READ_ONLY_SQL_TRANSACTION;
        } else if state == sqlstate::READ_ONLY_SQL_TRANSACTION
            && !lease.is_standby
            && !lease.retained.is_empty()
            && self.transaction.may_write
            && body.len() + HEADER_LEN == have
        {
            lease.redirect = true;
            lease.conn.doomed = true;
            let (epoch, error) = (lease.conn.epoch, body.to_vec());
            self.note_refusal(epoch, error);
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
        let body = body.to_vec();
        self.say_instead(len, &body);
    }

    /// Passes `error` on, in the place of the server's.
    fn say_instead(&mut self, len: usize, error: &[u8]) {
        let Some(lease) = &mut self.lease else { return };
        let renamed = rename(error, &self.names);
        lease.forget_request();
        self.take_out(len);
        message::frame(&mut self.to_client, b'E', |out| out.extend_from_slice(&renamed))
            .expect("an error of 64 kB, with 63 bytes for each name of ours, fits one");
    }

    /// Puts a notice into the stream to the client, unless a message is half through.
    pub(super) fn notify_client(&mut self, report: &message::Report<'_>) {
        if self.lease.as_ref().is_some_and(|lease| lease.server_passing > 0) {
            tracing::info!(parent: &self.identity.span(self.id), message = report.message, "client is not told");
            return;
        }
        self.unmark();
        report.encode(&mut self.to_client);
    }
}

/// These come whenever they come, and answer nothing.
fn is_asynchronous(tag: u8) -> bool {
    matches!(tag, b'N' | b'S' | b'A' | b'Z')
}

/// A WARNING that a commit did not wait for its synchronous standbys to the end: it was cancelled, or the
/// server shuts down. Told by the routine, since the text is translated.
fn is_unconfirmed_commit(body: &[u8]) -> bool {
    fields::field(body, b'R') == Some(SYNC_REP_WAIT)
}

/// It does not exist, or is not looked for, since what should have made it has failed the transaction.
fn is_of_unknown_statement(body: &[u8]) -> bool {
    [sqlstate::INVALID_SQL_STATEMENT_NAME, sqlstate::IN_FAILED_SQL_TRANSACTION]
        .contains(&fields::sqlstate(body))
}

fn is_crash(body: &[u8]) -> bool {
    fields::sqlstate(body) == sqlstate::CRASH_SHUTDOWN
}

/// A FATAL of a server that is shut down or was told to end the connection.
fn is_shutdown(body: &[u8]) -> bool {
    fields::is_fatal(body) && fields::sqlstate(body).0.starts_with(b"57P")
}

/// To be known before it is taken for the answer to anything.
fn is_ready_for_query(message: &[u8]) -> bool {
    message.len() == HEADER_LEN + 1 && TransactionStatus::from_byte(message[HEADER_LEN]).is_some()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Replaces our names of statements by the client's in the fields of an error.
fn rename(body: &[u8], names: &Names) -> Vec<u8> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let names = names.by_server_name();
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
            out.extend_from_slice(names.get(ours).copied().unwrap_or(ours));
            rest = &rest[end..];
        } else {
            out.push(rest[0]);
            rest = &rest[1..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_standby_refuses_is_known_by_code_and_routine() {
        for (state, routine, expected) in [
            (*b"25006", "PreventCommandIfReadOnly", true),
            (*b"40001", "ProcessInterrupts", true),
            (*b"40P01", "CheckRecoveryConflictDeadlock", true),
            (*b"40P01", "DeadLockReport", false),
            (*b"0A000", "GetSerializableTransactionSnapshot", true),
            (*b"0A000", "get_relation_info", true),
            (*b"42809", "get_relation_info", false),
            (*b"0A000", "RevalidateCachedQuery", false),
            (*b"42P01", "parserOpenTable", false),
        ] {
            assert_eq!(is_of_recovery(SqlState(state), Some(routine.as_bytes())), expected, "{routine}");
        }
        assert!(!is_of_recovery(SqlState(*b"0A000"), None));
    }
}
