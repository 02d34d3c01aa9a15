//! Parse, Bind, Describe, Execute and Close: statements under the client's names, which the server has under
//! ours.
//!
//! Invariant: before a message names a statement to a server connection, that connection knows it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BufMut;

use super::effects::{BY_NAME, alters};
use super::inbound::{FITS, Step};
use super::pins::PinReason;
use super::prepared::Content;
use super::rewrite;
use super::session::{End, Passing, Session, Unnamed};
use super::tally::class_of;
use super::teach::{note_known, plan_changed};
use crate::backend::conn::{Alike, MAX_INSPECTED};
use crate::backend::expect::{Alters, For, Forgets, Owed, Reply};
use crate::backend::statement::{NAME_PREFIX, Origin, Prepared, StatementId, UNKNOWN_PREFIX};
use crate::net::Buffer;
use crate::route::{Analysis, Analyzed, Effects, StatementKind};
use crate::telemetry::labels::QueryClass;
use crate::wire::frame::{HEADER_LEN, Header, split_cstr};
use crate::wire::message::{self, Report};
use crate::wire::sqlstate;

/// What the server calls a statement, and what is behind it.
#[derive(Default)]
struct Resolved {
    name: Cow<'static, [u8]>,
    analyzed: Option<Arc<Analyzed>>,
    prepared: Option<Arc<Prepared>>,
    /// It is not to be used here: no server knows the name, and the client is told this.
    instead: Option<Box<[u8]>>,
}

impl Session {
    pub(super) fn send_parse(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        if found.len > self.settled.config.limits.max_inspected_statement_bytes {
            return self.send_opaque_parse(found, input);
        }
        if input.len() < found.len {
            return Ok(Step::NeedMore { room: found.len });
        }
        let bytes = &input.bytes()[..found.len];
        let malformed = || End::violation("invalid message format: Parse");
        let (name, rest) = split_cstr(&bytes[HEADER_LEN..]).ok_or_else(malformed)?;
        let (sql, types) = split_cstr(rest).ok_or_else(malformed)?;
        check_types(types).ok_or_else(malformed)?;
        if !name.is_empty() && self.lease.as_ref().is_some_and(|lease| lease.conn.expected.may_change(name)) {
            // Whether the name is taken depends on a Parse or Close that is still under way.
            return Ok(self.wait_for_answers());
        }
        let analyzed = self.classify(sql);
        self.note_custom_settings(sql, analyzed.analysis.effects);
        if self.waits_for_floor(&analyzed) {
            return Ok(Step::Wait);
        }
        self.report_hints(&analyzed);
        if let Some(answer) = self.own_answer(&analyzed, sql) {
            let (name, sql, types) = (name.to_vec(), sql.to_vec(), types.to_vec());
            // An answer that is the same each time is all there is to keep.
            let kept = if analyzed.analysis.is_answered_here() { &*sql } else { answer.as_bytes() };
            self.parse_as(&name, kept, answer.as_bytes(), &types, &analyzed)?;
        } else if analyzed.analysis.effects.intersects(BY_NAME) {
            let (name, sql, types) = (name.to_vec(), sql.to_vec(), types.to_vec());
            if analyzed.analysis.effects.intersects(Effects::SQL_PREPARE) {
                self.pin(PinReason::SqlPrepare);
            }
            let rewritten = self.rewrite_names(&sql, For::Prelude);
            self.parse_as(&name, &rewritten, &rewritten, &types, &analyzed)?;
        } else if name.is_empty() {
            let id = unnamed_id(self.id.0, self.next_unnamed + 1);
            self.next_unnamed += 1;
            let lease = self.lease.as_mut().expect("called with a lease");
            lease.conn.output.extend_from_slice(bytes);
            lease.conn.unnamed = Some(id);
            lease.conn.expected.push(Owed::client(Reply::ParseComplete).parses_unnamed(id));
            let body = &bytes[HEADER_LEN..];
            match &mut self.unnamed {
                // The same text again: no new copy.
                Some(unnamed) if *unnamed.body == *body => {
                    unnamed.id = id;
                    unnamed.analyzed = analyzed;
                }
                unnamed => *unnamed = Some(Unnamed { id, body: body.into(), analyzed }),
            }
        } else {
            let (name, sql, types) = (name.to_vec(), sql.to_vec(), types.to_vec());
            self.parse_as(&name, &sql, &sql, &types, &analyzed)?;
        }
        input.consume(found.len);
        Ok(Step::Done)
    }

    /// A Parse of `sql` under the client's `name`, virtual unless unnamed. The server is sent `sent`.
    fn parse_as(
        &mut self,
        name: &[u8],
        sql: &[u8],
        sent: &[u8],
        types: &[u8],
        analyzed: &Arc<Analyzed>,
    ) -> Result<(), End> {
        if name.is_empty() {
            self.next_unnamed += 1;
            let id = unnamed_id(self.id.0, self.next_unnamed);
            let lease = self.lease.as_mut().expect("called with a lease");
            message::parse(&mut lease.conn.output, b"", sent, types).expect(FITS);
            lease.conn.unnamed = Some(id);
            lease.conn.expected.push(Owed::client(Reply::ParseComplete).parses_unnamed(id));
            let mut body = vec![0];
            body.extend_from_slice(sql);
            body.push(0);
            body.extend_from_slice(types);
            self.unnamed = Some(Unnamed { id, body: body.into(), analyzed: analyzed.clone() });
            return Ok(());
        }
        if let Some(present) = self.names.get(name).cloned() {
            // 42P05, said by the server: parse it where it surely is.
            self.make_known(&present, For::Prelude);
            let lease = self.lease.as_mut().expect("called with a lease");
            message::parse(&mut lease.conn.output, &present.server_name, sent, types).expect(FITS);
            lease.conn.expected.push(Owed::client(Reply::ParseComplete));
            return Ok(());
        }
        let context = match analyzed.analysis.is_answered_here() {
            // Another session is answered otherwise.
            true => self.own_context(),
            false => self.content_context(),
        };
        let content = Content { origin: Origin::Parse, text: sql, types, context };
        let prepared = self.gateway.statements.intern(content, analyzed, |_| sql.into());
        let change = match self.add_name(name, prepared.clone()) {
            Ok(change) => change,
            Err(error) => {
                self.refuse_parse(&Report::error(sqlstate::PROGRAM_LIMIT_EXCEEDED, &error.to_string()));
                return Ok(());
            }
        };
        let lease = self.lease.as_mut().expect("called with a lease");
        let conn = &mut lease.conn;
        let mut owed = Owed::client(Reply::OwnParseComplete);
        if !conn.known.serves(&prepared, prepared.settings) {
            note_known(conn, &prepared, prepared.settings);
            // Whatever the schema becomes, from now on the server itself sees that.
            conn.known.is_alike(prepared.id, Alike::Yes);
            message::parse(&mut conn.output, &prepared.server_name, sent, types).expect(FITS);
            owed.reply = Reply::ParseComplete;
            owed.learns = Some(prepared.id);
        }
        owed.change = Some(Box::new(change));
        conn.expected.push(owed);
        self.drain_own_replies();
        Ok(())
    }

    /// A Parse too long to be kept: only the unnamed statement may be that, and it pins as long as it is the one.
    fn send_opaque_parse(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        // What was classified ahead begins with this one.
        self.batch.clear();
        let Some(&first) = input.bytes().get(HEADER_LEN) else {
            return Ok(Step::NeedMore { room: HEADER_LEN + 1 });
        };
        if first != 0 {
            let limit = self.settled.config.limits.max_inspected_statement_bytes;
            let message = format!(
                "a named prepared statement of {} bytes is longer than the limit of {limit} \
                 (limits.max_inspected_statement_bytes)",
                found.len
            );
            self.refuse_parse(&Report::error(sqlstate::PROGRAM_LIMIT_EXCEEDED, &message));
            return Ok(self.drop_message(found));
        }
        self.next_unnamed += 1;
        let id = unnamed_id(self.id.0, self.next_unnamed);
        let analysis = Analysis::opaque();
        let routed = crate::route::resolve(&analysis, None, &self.settled.functions);
        self.unnamed = Some(Unnamed {
            id,
            body: Box::default(),
            analyzed: Arc::new(Analyzed { analysis, routed, generation: 0 }),
        });
        self.pin(PinReason::LongStatement);
        let lease = self.lease.as_mut().expect("called with a lease");
        lease.conn.unnamed = Some(id);
        lease.conn.expected.push(Owed::client(Reply::ParseComplete).parses_unnamed(id));
        self.passing = Passing { left: found.len, forward: true };
        Ok(Step::Done)
    }

    pub(super) fn new_unnamed_id(&mut self) -> u64 {
        self.next_unnamed += 1;
        unnamed_id(self.id.0, self.next_unnamed)
    }

    fn renew_unnamed(&mut self) {
        let reading = self.reading();
        if let Some(unnamed) = &mut self.unnamed
            && (reading.differs() || !self.identity.database.is_current(&unnamed.analyzed, &self.settled))
        {
            unnamed.analyzed = unnamed.classify(&self.identity.database, &self.settled, reading);
        }
    }

    /// What an EXECUTE or a DEALLOCATE names, as the server calls it, is made known there.
    fn teach_named(&mut self, sql: &[u8], analyzed: &Analyzed) {
        match executes(analyzed) {
            true => self.teach_executed(sql),
            false => self.teach_deallocated(sql, analyzed),
        }
    }

    fn teach_executed(&mut self, sql: &[u8]) {
        let mut executed = Vec::new();
        rewrite::names(sql, |server_name, _| {
            executed.extend(self.names.by_its_server_name(server_name).cloned());
            None
        });
        for prepared in &executed {
            self.make_known(prepared, For::Prelude);
        }
    }

    /// The statement was made for the DEALLOCATE where that was parsed, and is made again elsewhere.
    fn teach_deallocated(&mut self, sql: &[u8], analyzed: &Analyzed) {
        let StatementKind::Deallocate { name: Some(name) } = &analyzed.analysis.kind else { return };
        if self.names.get(&analyzed.analysis.raw(name)).is_none() {
            return;
        }
        let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
        rewrite::names(sql, |server_name, _| {
            if StatementId::of(server_name).is_some_and(|id| !conn.known.has(id)) {
                message::parse(&mut conn.output, server_name, b"", &[0, 0]).expect(FITS);
                conn.expected.push(Owed::prelude(Reply::ParseComplete));
            }
            None
        });
    }

    /// The server's name for the client's, made known there first; and what is behind it. `None`: what komainu is to answer
    /// is still to be asked for, or whether it is still what it was.
    fn resolve_name(&mut self, name: &[u8]) -> Option<Resolved> {
        if name.is_empty() {
            return self.resolve_unnamed();
        }
        let Some(prepared) = self.names.get(name).cloned() else {
            // Prepared by SQL on this very connection, or unknown: the server knows which.
            let is_raw = !self.pins_no_sql() || !name.starts_with(NAME_PREFIX.as_bytes());
            let prefix = if is_raw { "" } else { UNKNOWN_PREFIX };
            let name = Cow::Owned([prefix.as_bytes(), name].concat());
            return Some(Resolved { name, ..Resolved::default() });
        };
        let reading = self.reading();
        let mut analyzed = self.identity.database.classify_prepared(&prepared, &self.settled, reading);
        if prepared.is_answered_here {
            analyzed = prepared.analyzed();
            if self.waits_for_floor(&analyzed) {
                return None;
            }
        } else {
            self.teach_named(&prepared.text, &analyzed);
        }
        match self.answers_alike(&prepared) {
            Alike::Yes => {}
            Alike::Asked | Alike::Unknown => {
                self.wait_for_answers();
                return None;
            }
            Alike::No => {
                let name = Cow::Owned([UNKNOWN_PREFIX.as_bytes(), name].concat());
                return Some(Resolved { name, instead: Some(plan_changed()), ..Resolved::default() });
            }
        }
        self.make_known(&prepared, For::Prelude);
        let name = Cow::Owned(prepared.server_name.to_vec());
        Some(Resolved { name, analyzed: Some(analyzed), prepared: Some(prepared), instead: None })
    }

    fn resolve_unnamed(&mut self) -> Option<Resolved> {
        self.renew_unnamed();
        let conn_unnamed = self.lease.as_ref().and_then(|lease| lease.conn.unnamed);
        if self.unnamed.as_ref().is_some_and(|unnamed| unnamed.is_long() && conn_unnamed != Some(unnamed.id))
        {
            // It was lost with its connection.
            self.unnamed = None;
        }
        let Some(unnamed) = &self.unnamed else {
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            // The server may have another client's.
            if conn.unnamed.take().is_some() {
                message::close_statement(&mut conn.output, b"").expect(FITS);
                conn.expected.push(Owed::prelude(Reply::CloseComplete));
            }
            return Some(Resolved::default());
        };
        let analyzed = unnamed.analyzed.clone();
        let mut answer = None;
        if analyzed.analysis.is_answered_here() {
            if self.waits_for_floor(&analyzed) {
                return None;
            }
            answer = Some(self.own_rows(&analyzed));
        } else if analyzed.analysis.effects.intersects(BY_NAME)
            && let Some((sql, _)) = unnamed.text_and_types()
        {
            let sql = sql.to_vec();
            self.teach_named(&sql, &analyzed);
        }
        let Session { lease, unnamed, .. } = self;
        let conn = &mut lease.as_mut().expect("called with a lease").conn;
        if let Some(unnamed) = unnamed
            && let Some((sql, types)) = unnamed.text_and_types()
            && (answer.is_some() || conn.unnamed != Some(unnamed.id))
        {
            let sent = answer.as_deref().map_or(sql, str::as_bytes);
            message::parse(&mut conn.output, b"", sent, types).expect(FITS);
            conn.expected.push(Owed::prelude(Reply::ParseComplete).parses_unnamed(unnamed.id));
            conn.unnamed = Some(unnamed.id);
        }
        Some(Resolved { analyzed: Some(analyzed), ..Resolved::default() })
    }

    pub(super) fn send_bind(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        let have = input.len().min(found.len);
        let body = &input.bytes()[HEADER_LEN..have];
        let Some((portal, rest)) = split_cstr(body) else { return self.more_of_names(found, have) };
        let Some((name, rest)) = split_cstr(rest) else { return self.more_of_names(found, have) };
        let rest_at = have - rest.len();
        if name.is_empty() {
            self.renew_unnamed();
        }
        // The common case by far: both unnamed, parsed on this connection, and no more to be said for it.
        let conn_unnamed = self.lease.as_ref().and_then(|lease| lease.conn.unnamed);
        if name.is_empty()
            && let Some(unnamed) = &self.unnamed
            && conn_unnamed == Some(unnamed.id)
            && !executes(&unnamed.analyzed)
            && !unnamed.analyzed.analysis.is_answered_here()
        {
            self.transaction.bind_portal(portal, &unnamed.analyzed);
            let effects = unnamed.analyzed.analysis.effects;
            self.discard_foreign_sequences(effects, false);
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            conn.output.extend_from_slice(&input.bytes()[..have]);
            conn.expected.push(Owed::client(Reply::BindComplete));
        } else {
            let (portal, name) = (portal.to_vec(), name.to_vec());
            let Some(resolved) = self.resolve_name(&name) else { return Ok(Step::Wait) };
            let server_name = resolved.name;
            if let Some(analyzed) = &resolved.analyzed {
                self.transaction.bind_portal(&portal, analyzed);
                self.discard_foreign_sequences(analyzed.analysis.effects, false);
            }
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            let len = found.len - 1 - name.len() + server_name.len();
            let Ok(len) = i32::try_from(len) else {
                return Err(End::violation("a Bind message is too long"));
            };
            conn.output.reserve(have + server_name.len());
            conn.output.put_u8(b'B');
            conn.output.put_i32(len);
            conn.output.put_slice(&portal);
            conn.output.put_u8(0);
            conn.output.put_slice(&server_name);
            conn.output.put_u8(0);
            conn.output.put_slice(&input.bytes()[rest_at..have]);
            conn.expected.push(Owed { instead: resolved.instead, ..Owed::client(Reply::BindComplete) });
        }
        input.consume(have);
        self.passing = Passing { left: found.len - have, forward: true };
        Ok(Step::Done)
    }

    fn more_of_names(&self, found: Header, have: usize) -> Result<Step, End> {
        if have == found.len || have >= MAX_INSPECTED {
            return Err(End::violation("invalid message format: a name is not terminated"));
        }
        Ok(Step::NeedMore { room: found.len.min(MAX_INSPECTED) })
    }

    pub(super) fn send_describe(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        let Some((kind, name)) = target(found, input)? else {
            return Ok(Step::NeedMore { room: found.len });
        };
        let mut owed = Owed::client(Reply::Description);
        if kind == b'S' {
            let Some(resolved) = self.resolve_name(&name) else { return Ok(Step::Wait) };
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            message::describe_statement(&mut conn.output, &resolved.name).expect(FITS);
            owed.instead = resolved.instead;
            owed.describes = resolved.prepared.filter(|prepared| !prepared.was_described());
        } else {
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            conn.output.extend_from_slice(&input.bytes()[..found.len]);
        }
        let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
        conn.expected.push(owed);
        input.consume(found.len);
        Ok(Step::Done)
    }

    pub(super) fn send_execute(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        if found.len > MAX_INSPECTED {
            return Err(End::violation("invalid message format: Execute"));
        }
        if input.len() < found.len {
            return Ok(Step::NeedMore { room: found.len });
        }
        let body = &input.bytes()[HEADER_LEN..found.len];
        let Some((portal, rest)) = split_cstr(body) else {
            return Err(End::violation("invalid message format: Execute"));
        };
        if rest.len() != 4 {
            return Err(End::violation("invalid message format: Execute"));
        }
        let mut owed = Owed::client(Reply::Execution);
        if let Some(analyzed) = self.transaction.portal(portal).cloned() {
            // It is one statement.
            owed.alters = alters(analyzed.analysis.effects).map(|_| Alters::Whole);
            self.tally.sent(class_of(&analyzed));
            self.transaction.note_execution(&analyzed);
            self.note_pins();
            if executes(&analyzed) {
                // What it executes may be another statement by now than when it was parsed.
                self.transaction.note_opaque(false);
                self.note_pins();
            }
            match &analyzed.analysis.kind {
                StatementKind::DiscardAll => owed = owed.forgets(Forgets::Everything),
                StatementKind::Deallocate { name: None } => {
                    owed = owed.forgets(Forgets::Statements { among_others: false });
                }
                // At once, whatever becomes of the transaction.
                StatementKind::Deallocate { name: Some(name) } => {
                    owed.change = self.names.remove(&analyzed.analysis.raw(name)).map(Box::new);
                }
                _ => {}
            }
            self.transaction.forgets |= owed.forgets.is_some();
        } else {
            // Not bound in our sight: a cursor of DECLARE, one whose Close the server has skipped, or nothing at all.
            self.tally.sent(QueryClass::Write);
            self.transaction.hidden_state = true;
            self.transaction.wrote();
            self.note_pins();
        }
        let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
        conn.output.extend_from_slice(&input.bytes()[..found.len]);
        conn.expected.push(owed);
        input.consume(found.len);
        Ok(Step::Done)
    }

    pub(super) fn send_close(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        let Some((kind, name)) = target(found, input)? else {
            return Ok(Step::NeedMore { room: found.len });
        };
        let is_named = kind == b'S' && !name.is_empty();
        let of_ours = is_named.then(|| self.names.remove(&name)).flatten().map(Box::new);
        // Servers keep the statement for whoever prepares the same. What the client prepared by SQL they have by its name.
        if of_ours.is_some() || is_named && self.pins_no_sql() {
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            let mut owed = Owed::client(Reply::OwnCloseComplete);
            owed.change = of_ours;
            conn.expected.push(owed);
            self.drain_own_replies();
        } else {
            match kind {
                b'S' if name.is_empty() => self.unnamed = None,
                b'P' => self.transaction.close_portal(&name),
                _ => {}
            }
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            if kind == b'S' && name.is_empty() {
                conn.unnamed = None;
            }
            conn.output.extend_from_slice(&input.bytes()[..found.len]);
            conn.expected.push(Owed::client(Reply::CloseComplete));
        }
        input.consume(found.len);
        Ok(Step::Done)
    }
}

fn executes(analyzed: &Analyzed) -> bool {
    analyzed.analysis.effects.intersects(Effects::SQL_EXECUTE)
}

/// Unnamed statements are told apart by session and count.
fn unnamed_id(session: u64, count: u64) -> u64 {
    session << 32 | (count & 0xFFFF_FFFF)
}

/// Kind and name of a Describe or Close; `None` while it is incomplete.
fn target(found: Header, input: &Buffer) -> Result<Option<(u8, Vec<u8>)>, End> {
    let malformed = || End::violation("invalid message format: Describe or Close");
    if found.len > MAX_INSPECTED || found.body_len() < 2 {
        return Err(malformed());
    }
    if input.len() < found.len {
        return Ok(None);
    }
    let body = &input.bytes()[HEADER_LEN..found.len];
    let (name, rest) = split_cstr(&body[1..]).ok_or_else(malformed)?;
    if !rest.is_empty() || !matches!(body[0], b'S' | b'P') {
        return Err(malformed());
    }
    Ok(Some((body[0], name.to_vec())))
}

/// The types at the end of a Parse: a count and that many OIDs, nothing behind.
fn check_types(types: &[u8]) -> Option<()> {
    let (count, oids) = types.split_first_chunk::<2>()?;
    let count = usize::try_from(i16::from_be_bytes(*count)).ok()?;
    (oids.len() == count * 4).then_some(())
}
