//! From the client to the server: each message looked at, renamed where it must be, and sent on.
//!
//! Never waits. Invariant: what is pushed to the connection's expected replies is exactly what is put into
//! its output, in the same order.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::answers::rows_as_select;
use super::batch::{Context, Request, Scan, text};
use super::floor::{InvalidToken, TOKEN, read_token};
use super::lease::Route;
use super::pins::{PinReason, Pins};
use super::prepared::{self, Content, Origin, Prepared, UNKNOWN_PREFIX};
use super::rewrite;
use super::session::{End, MAX_TO_SERVER, Passing, Session, Unnamed};
use super::tally::class_of;
use crate::admin::show;
use crate::backend::ServerConn;
use crate::backend::conn::{MAX_INSPECTED, OwnStatement};
use crate::backend::expect::{Owed, Question, Reply};
use crate::clock;
use crate::net::Buffer;
use crate::route::statement::PoolShow;
use crate::route::{Analysis, Analyzed, Effects, StatementKind};
use crate::telemetry::labels::QueryClass;
use crate::wire::frame::{HEADER_LEN, Header, header, split_cstr};
use crate::wire::message::{self, Report, TransactionStatus, ready_for_query};
use crate::wire::sqlstate;

/// What became of the message at the front of the input.
enum Step {
    /// Consumed.
    Done,
    /// It is not complete; the input must hold this many bytes.
    NeedMore { room: usize },
    /// It cannot be sent before what is under way is answered.
    Wait,
}

const FITS: &str = "a message that came in one frame, with a short name for a name, fits one";

impl Session {
    /// Works off what the client has sent, as far as it can go now.
    pub(super) fn process_client(&mut self) -> Result<bool, End> {
        if self.input.is_empty() || self.waiting.is_some() {
            return Ok(false);
        }
        let mut input = std::mem::take(&mut self.input);
        let before = (input.len(), input.capacity());
        let result = self.process_input(&mut input);
        // New room counts: while there was none the client was not listened to.
        let progress = (input.len(), input.capacity()) != before || self.waiting.is_some();
        // The input may have been put back by a request that has to be asked again.
        debug_assert!(self.input.is_empty());
        self.input = input;
        result?;
        Ok(progress)
    }

    fn process_input(&mut self, input: &mut Buffer) -> Result<(), End> {
        while !input.is_empty() && self.waiting.is_none() {
            if self.passing.left > 0 {
                if !self.pass(input) {
                    return Ok(());
                }
                continue;
            }
            let step = match &self.lease {
                Some(lease) if lease.ours_first || lease.redirect => return Ok(()),
                Some(lease) if lease.is_complete && self.pins.is_empty() => return Ok(()),
                Some(lease) if lease.conn.output.len() > MAX_TO_SERVER => return Ok(()),
                Some(_) => self.send_on(input)?,
                None => self.without_server(input)?,
            };
            match step {
                Step::Done => {}
                Step::NeedMore { room } => {
                    if input.len() < room {
                        input.reserve(room);
                    }
                    return Ok(());
                }
                Step::Wait => return Ok(()),
            }
        }
        Ok(())
    }

    /// Moves on the body of a message that is not looked at. False when the server must first take more.
    fn pass(&mut self, input: &mut Buffer) -> bool {
        let count = self.passing.left.min(input.len());
        if self.passing.forward
            && let Some(lease) = &mut self.lease
        {
            if lease.conn.output.len() > MAX_TO_SERVER {
                return false;
            }
            lease.conn.output.extend_from_slice(&input.bytes()[..count]);
        }
        input.consume(count);
        self.passing.left -= count;
        true
    }

    fn drop_message(&mut self, found: Header) -> Step {
        self.passing = Passing { left: found.len, forward: false };
        Step::Done
    }

    fn frame(&self, input: &Buffer) -> Result<Option<Header>, End> {
        let limit = self.settled.config.limits.max_message_bytes;
        header(input.bytes(), limit).map_err(|e| End::violation(e.to_string()))
    }

    /// No server connection is held: either the message needs none, or one is asked for.
    fn without_server(&mut self, input: &mut Buffer) -> Result<Step, End> {
        let Some(found) = self.frame(input)? else {
            return Ok(Step::NeedMore { room: HEADER_LEN });
        };
        match found.tag {
            b'X' => return Err(End::Terminated),
            b'S' => {
                require_empty(found)?;
                input.consume(found.len.min(input.len()));
                self.discarding = false;
                ready_for_query(&mut self.to_client, self.status);
                return Ok(Step::Done);
            }
            b'H' => {
                require_empty(found)?;
                input.consume(found.len.min(input.len()));
                return Ok(Step::Done);
            }
            // What is left of a COPY that has failed meanwhile.
            b'd' | b'c' | b'f' => return Ok(self.drop_message(found)),
            b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' if self.discarding => {
                return Ok(self.drop_message(found));
            }
            b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' => {}
            other => return Err(unexpected(other)),
        }
        let mut batch = std::mem::take(&mut self.batch);
        let context = Context {
            database: &self.identity.database,
            settled: &self.settled,
            names: &self.names,
            unnamed: self.unnamed.as_ref(),
            classify: self.settled.config.split.enabled && !self.identity.session_mode,
            read_only: self.settings.get("default_transaction_read_only") == Some("on"),
        };
        let scanned = batch.scan(input, &context);
        self.batch = batch;
        match scanned? {
            Scan::NeedMore { room } => Ok(Step::NeedMore { room }),
            Scan::Request(request) => {
                // The lease may keep a copy of the request, so it must see the input.
                self.input = std::mem::take(input);
                let begun = self.begin_request(request);
                *input = std::mem::take(&mut self.input);
                begun?;
                Ok(if self.lease.is_some() { Step::Done } else { Step::Wait })
            }
        }
    }

    /// After an error of ours: drops the messages the error answers.
    pub(super) fn drop_request(&mut self, request: &Request) {
        self.batch.clear();
        if request.is_query {
            if let Ok(Some(found)) = self.frame(&self.input) {
                let here = found.len.min(self.input.len());
                self.input.consume(here);
                self.passing = Passing { left: found.len - here, forward: false };
            }
            ready_for_query(&mut self.to_client, self.status);
        } else {
            self.discarding = true;
        }
    }

    /// Sends the message at the front on to the leased connection.
    fn send_on(&mut self, input: &mut Buffer) -> Result<Step, End> {
        let Some(found) = self.frame(input)? else {
            return Ok(Step::NeedMore { room: HEADER_LEN });
        };
        let lease = self.lease.as_mut().expect("called with a lease");
        let expected = &lease.conn.expected;
        if expected.is_copy_in() {
            return self.send_copy_data(found, input);
        }
        // The server ignores everything up to the Sync, so what was sent need not reach it.
        if expected.is_skipping() && is_known(found.tag) && !matches!(found.tag, b'S' | b'X') {
            return Ok(self.drop_message(found));
        }
        match found.tag {
            b'P' | b'B' | b'D' | b'C' if expected.has_unsettled_batch() => Ok(Step::Wait),
            b'Q' => self.send_query(found, input),
            b'P' => self.send_parse(found, input),
            b'B' => self.send_bind(found, input),
            b'D' => self.send_describe(found, input),
            b'E' => self.send_execute(found, input),
            b'C' => self.send_close(found, input),
            b'S' => {
                require_empty(found)?;
                input.consume(found.len);
                message::sync(&mut lease.conn.output);
                lease.conn.expected.push(Owed::client(Reply::Sync));
                lease.is_complete = lease.is_standby;
                self.batch.clear();
                Ok(Step::Done)
            }
            b'H' => {
                require_empty(found)?;
                input.consume(found.len);
                lease.conn.output.extend_from_slice(&[b'H', 0, 0, 0, 4]);
                Ok(Step::Done)
            }
            b'F' => {
                self.tally.sent(QueryClass::Write);
                lease.conn.expected.push(Owed::client(Reply::FunctionCall));
                self.transaction.note_opaque();
                self.note_pins();
                self.passing = Passing { left: found.len, forward: true };
                Ok(Step::Done)
            }
            // Sent ahead: whether it belongs to a COPY is known when the server has answered.
            b'd' | b'c' | b'f' if expected.may_begin_copy() => Ok(self.wait_for_answers()),
            b'd' | b'c' | b'f' => Ok(self.drop_message(found)),
            b'X' => Err(End::Terminated),
            other => Err(unexpected(other)),
        }
    }

    /// The next message depends on how those before it fare.
    fn wait_for_answers(&mut self) -> Step {
        self.batch.clear();
        if let Some(lease) = &mut self.lease
            && lease.conn.expected.must_flush()
        {
            lease.conn.output.extend_from_slice(&[b'H', 0, 0, 0, 4]);
        }
        Step::Wait
    }

    fn send_copy_data(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        let lease = self.lease.as_mut().expect("called with a lease");
        match found.tag {
            b'd' => self.passing = Passing { left: found.len, forward: true },
            b'c' | b'f' => {
                lease.conn.expected.copy_in_ended();
                self.passing = Passing { left: found.len, forward: true };
            }
            // Ignored during COPY, as PostgreSQL does.
            b'S' | b'H' => self.passing = Passing { left: found.len, forward: false },
            b'X' => return Err(End::Terminated),
            // The server ends the COPY with an error of its own; the message is then handled as usual.
            _ => {
                let mut fail = BytesMut::new();
                message::frame(&mut fail, b'f', |out| out.put_slice(b"unexpected message during COPY\0"))
                    .expect("a short text fits");
                lease.conn.output.extend_from_slice(&fail);
                lease.conn.expected.copy_in_ended();
                return Ok(Step::Wait);
            }
        }
        let _ = input;
        Ok(Step::Done)
    }

    fn classify(&mut self, sql: &[u8]) -> Arc<Analyzed> {
        match self.batch.next() {
            Some(known) => known,
            None => self.identity.database.classify(sql, &self.settled),
        }
    }

    fn send_query(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        if found.len > self.settled.config.limits.max_inspected_statement_bytes {
            let lease = self.lease.as_mut().expect("called with a lease");
            lease.conn.expected.push(Owed::client(Reply::Query));
            lease.conn.unnamed = None;
            self.unnamed = None;
            self.tally.sent(QueryClass::Write);
            self.transaction.note_opaque();
            self.note_pins();
            self.passing = Passing { left: found.len, forward: true };
            return Ok(Step::Done);
        }
        if input.len() < found.len {
            return Ok(Step::NeedMore { room: found.len });
        }
        let body = &input.bytes()[HEADER_LEN..found.len];
        if body.last() != Some(&0) || body[..body.len() - 1].contains(&0) {
            return Err(End::violation("invalid message format: a query is one string"));
        }
        let sql = text(body);
        let analyzed = self.classify(sql);
        let effects = analyzed.analysis.effects;
        if self.waits_for_floor(&analyzed) {
            return Ok(Step::Wait);
        }
        self.report_hints(&analyzed);
        if let Some(answer) = self.own_answer(&analyzed, sql) {
            let lease = self.lease.as_mut().expect("called with a lease");
            message::query(&mut lease.conn.output, answer.as_bytes()).expect(FITS);
            lease.conn.expected.push(Owed::client(Reply::Query));
            lease.is_complete = lease.is_standby;
            lease.conn.unnamed = None;
            self.unnamed = None;
            self.tally.sent(class_of(&analyzed));
            input.consume(found.len);
            return Ok(Step::Done);
        }
        const BY_NAME: Effects =
            Effects::SQL_PREPARE.union(Effects::SQL_EXECUTE).union(Effects::SQL_DEALLOCATE);
        if effects.intersects(BY_NAME) {
            return self.send_query_by_name(found, input, &analyzed);
        }
        self.note_custom_settings(text(&input.bytes()[HEADER_LEN..found.len]), effects);
        self.discard_foreign_sequences(effects, true);
        let ends_surely = effects.contains(Effects::IS_SURE_END)
            && (self.is_idle() || matches!(analyzed.analysis.kind, StatementKind::Commit { .. }));
        let wants_floor = self.tracks_floor();
        let lease = self.lease.as_mut().expect("called with a lease");
        let alone = lease.conn.expected.is_empty();
        lease.conn.output.extend_from_slice(&input.bytes()[..found.len]);
        lease.conn.expected.push(Owed::client(Reply::Query));
        // A simple Query ends the unnamed statement, here and in the client's eyes.
        lease.conn.unnamed = None;
        lease.is_complete = lease.is_standby;
        self.unnamed = None;
        input.consume(found.len);
        self.tally.sent(class_of(&analyzed));
        self.note_statement(&analyzed);
        let lease = self.lease.as_mut().expect("called with a lease");
        if wants_floor && self.transaction.may_write && ends_surely && alone && !lease.is_standby {
            lease.conn.ask(Question::Floor, OwnStatement::Floor, &[]);
            self.floor.pending = true;
            self.transaction.floor_asked = true;
        }
        Ok(Step::Done)
    }

    /// PREPARE, EXECUTE and DEALLOCATE: the names in the text are the client's, the server has ours.
    fn send_query_by_name(
        &mut self,
        found: Header,
        input: &mut Buffer,
        analyzed: &Arc<Analyzed>,
    ) -> Result<Step, End> {
        if self.lease.as_ref().is_some_and(|lease| !lease.conn.expected.is_answered()) {
            return Ok(self.wait_for_answers());
        }
        let sql = text(&input.bytes()[HEADER_LEN..found.len]).to_vec();
        let one_prepare = analyzed.analysis.kind == StatementKind::Prepare;
        self.note_custom_settings(&sql, analyzed.analysis.effects);
        self.discard_foreign_sequences(self.effects_of_executed(&sql), true);
        if analyzed.analysis.effects.intersects(Effects::SQL_PREPARE) && !one_prepare {
            self.pin(PinReason::SqlPrepare);
        }
        input.consume(found.len);
        self.unnamed = None;
        match analyzed.analysis.kind {
            StatementKind::Deallocate { all: true }
                if self.status != TransactionStatus::Failed && self.pins_no_sql() =>
            {
                self.names.clear();
                message::command_complete(&mut self.to_client, "DEALLOCATE ALL");
                ready_for_query(&mut self.to_client, self.status);
                return Ok(Step::Done);
            }
            StatementKind::Deallocate { all: false } if self.status != TransactionStatus::Failed => {
                let name = rewrite::first_name(&sql);
                if let Some(name) = name
                    && self.names.remove(name.as_bytes()).is_some()
                {
                    message::command_complete(&mut self.to_client, "DEALLOCATE");
                    ready_for_query(&mut self.to_client, self.status);
                    return Ok(Step::Done);
                }
            }
            _ => {}
        }
        let mut owed = Owed::client(Reply::Query);
        let rewritten = if one_prepare && !self.pins.has(PinReason::SqlPrepare) {
            self.rewrite_prepare(&sql, analyzed, &mut owed)?
        } else {
            self.rewrite_names(&sql)
        };
        let lease = self.lease.as_mut().expect("called with a lease");
        message::query(&mut lease.conn.output, &rewritten).expect(FITS);
        lease.conn.unnamed = None;
        lease.conn.expected.push(owed);
        lease.is_complete = lease.is_standby;
        // EXECUTE is what it executes.
        let executes = analyzed.analysis.effects.intersects(Effects::SQL_EXECUTE);
        let executed = if executes { self.executed(&sql) } else { Vec::new() };
        let writes = executed.iter().find(|one| class_of(one) == QueryClass::Write);
        self.tally.sent(class_of(writes.or(executed.first()).unwrap_or(analyzed)));
        self.note_statement(analyzed);
        if executes {
            self.note_executed(&sql);
        }
        Ok(Step::Done)
    }

    /// What the statements that a text executes do.
    fn note_executed(&mut self, sql: &[u8]) {
        for analyzed in self.executed(sql) {
            self.note_statement(&analyzed);
        }
    }

    fn executed(&self, sql: &[u8]) -> Vec<Arc<Analyzed>> {
        let mut executed = Vec::new();
        rewrite::names(sql, |name| {
            executed.extend(
                self.names
                    .get(name.as_bytes())
                    .map(|prepared| self.identity.database.classify_prepared(prepared, &self.settled)),
            );
            None
        });
        executed
    }

    fn effects_of_executed(&self, sql: &[u8]) -> Effects {
        self.executed(sql).iter().fold(Effects::NONE, |effects, one| effects | one.analysis.effects)
    }

    /// Remembers the names of settings that servers do not list, to ask for them later.
    fn note_custom_settings(&mut self, sql: &[u8], effects: Effects) {
        if effects.intersects(Effects::CHANGES_SETTINGS | Effects::SQL_PREPARE) {
            self.custom.get_or_insert_default().note(sql);
        }
    }

    /// Better PostgreSQL's own "not yet defined in this session" than another client's value. Not where
    /// this transaction has drawn values already: those are asked for.
    fn discard_foreign_sequences(&mut self, effects: Effects, simple: bool) {
        if !effects.intersects(Effects::USES_SEQUENCE_STATE)
            || self.transaction.effects.intersects(Effects::ADVANCES_SEQUENCE)
            || self.status == TransactionStatus::Failed
        {
            return;
        }
        let Some(conn) = self.lease.as_mut().map(|lease| &mut lease.conn) else { return };
        if !std::mem::take(&mut conn.foreign_sequences) {
            return;
        }
        if simple {
            conn.ask_simple(Question::Reset, b"DISCARD SEQUENCES");
        } else {
            conn.ask_without_sync(Question::Reset, OwnStatement::DiscardSequences, &[]);
        }
    }

    fn pins_no_sql(&self) -> bool {
        !self.pins.has(PinReason::SqlPrepare)
    }

    /// Makes a virtual statement of a PREPARE; the text with the server's name for it.
    fn rewrite_prepare(
        &mut self,
        sql: &[u8],
        analyzed: &Arc<Analyzed>,
        owed: &mut Owed,
    ) -> Result<Vec<u8>, End> {
        let Some(name) = rewrite::first_name(sql) else { return Ok(sql.to_vec()) };
        if let Some(present) = self.names.get(name.as_bytes()).cloned() {
            // The server says that it exists, once it does there.
            let lease = self.lease.as_mut().expect("called with a lease");
            teach(&mut lease.conn, &present);
            return Ok(rewrite::with_name(sql, &present.server_name));
        }
        // What it executes is classified now, so that EXECUTE is routed by it.
        let body = rewrite::prepared_body(sql).unwrap_or(sql);
        let body = self.identity.database.classify(body, &self.settled);
        let analyzed = if body.analysis.kind == StatementKind::Many { analyzed.clone() } else { body };
        let mut context = self.content_context();
        // SQL PREPARE answers with an error where the server knows the name, so it is never shared.
        context.database = context.database.wrapping_mul(31).wrapping_add(self.id.0);
        let content = Content { origin: Origin::Sql, text: sql, types: name.as_bytes(), context };
        let prepared = self
            .gateway
            .statements
            .intern(content, &analyzed, |server_name| rewrite::with_name(sql, server_name.as_bytes()).into());
        let change = self.add_name(name.as_bytes(), prepared.clone())?;
        let lease = self.lease.as_mut().expect("called with a lease");
        note_known(&mut lease.conn, &prepared);
        owed.learns = Some(prepared.id);
        owed.change = Some(Box::new(change));
        Ok(prepared.text.to_vec())
    }

    /// The text with every known name replaced; each is made known to the server first.
    fn rewrite_names(&mut self, sql: &[u8]) -> Vec<u8> {
        let Session { lease, names, pins, .. } = self;
        let lease = lease.as_mut().expect("called with a lease");
        let raw_is_fine = pins.has(PinReason::SqlPrepare);
        rewrite::names(sql, |name| match names.get(name.as_bytes()) {
            Some(prepared) => {
                teach(&mut lease.conn, prepared);
                Some(prepared.server_name.to_vec())
            }
            // Another client's statement has such a name on the server; no client's own may.
            None if name.starts_with(prepared::NAME_PREFIX) && !raw_is_fine => {
                Some(format!("\"{UNKNOWN_PREFIX}{}\"", name.replace('"', "\"\"")).into_bytes())
            }
            None => None,
        })
    }

    fn content_context(&self) -> prepared::Context {
        prepared::Context {
            database: self.identity.database.id,
            settings: self.settings.semantic_hash(),
            schema_generation: self.identity.database.schema_generation(),
        }
    }

    fn add_name(&mut self, name: &[u8], prepared: Arc<Prepared>) -> Result<prepared::NameChange, End> {
        let limits = &self.settled.config.limits;
        self.names
            .insert(
                name,
                prepared,
                limits.max_prepared_statements_per_session,
                limits.max_prepared_bytes_per_session,
            )
            .map_err(|e| End::fatal(sqlstate::PROGRAM_LIMIT_EXCEEDED, e.to_string()))
    }

    fn send_parse(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
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
        const BY_NAME: Effects =
            Effects::SQL_PREPARE.union(Effects::SQL_EXECUTE).union(Effects::SQL_DEALLOCATE);
        if self.waits_for_floor(&analyzed) {
            return Ok(Step::Wait);
        }
        self.report_hints(&analyzed);
        if let Some(answer) = self.own_answer(&analyzed, sql) {
            let (name, types) = (name.to_vec(), types.to_vec());
            self.parse_as(&name, answer.as_bytes(), &types, &analyzed)?;
        } else if analyzed.analysis.effects.intersects(BY_NAME) {
            let (name, sql, types) = (name.to_vec(), sql.to_vec(), types.to_vec());
            if analyzed.analysis.effects.intersects(Effects::SQL_PREPARE) {
                self.pin(PinReason::SqlPrepare);
            }
            if analyzed.analysis.kind == (StatementKind::Deallocate { all: false }) {
                self.transaction.deallocated.extend(rewrite::first_name(&sql));
            }
            let rewritten = self.rewrite_names(&sql);
            self.parse_as(&name, &rewritten, &types, &analyzed)?;
        } else if name.is_empty() {
            self.next_unnamed += 1;
            let id = unnamed_id(self.id.0, self.next_unnamed);
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
            self.parse_as(&name, &sql, &types, &analyzed)?;
        }
        input.consume(found.len);
        Ok(Step::Done)
    }

    /// A Parse of `sql` under the client's `name`, virtual unless unnamed.
    fn parse_as(
        &mut self,
        name: &[u8],
        sql: &[u8],
        types: &[u8],
        analyzed: &Arc<Analyzed>,
    ) -> Result<(), End> {
        if name.is_empty() {
            self.next_unnamed += 1;
            let id = unnamed_id(self.id.0, self.next_unnamed);
            let lease = self.lease.as_mut().expect("called with a lease");
            message::parse(&mut lease.conn.output, b"", sql, types).expect(FITS);
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
            let lease = self.lease.as_mut().expect("called with a lease");
            teach(&mut lease.conn, &present);
            message::parse(&mut lease.conn.output, &present.server_name, sql, types).expect(FITS);
            lease.conn.expected.push(Owed::client(Reply::ParseComplete));
            return Ok(());
        }
        let content = Content { origin: Origin::Parse, text: sql, types, context: self.content_context() };
        let prepared = self.gateway.statements.intern(content, analyzed, |_| sql.into());
        let change = self.add_name(name, prepared.clone())?;
        let lease = self.lease.as_mut().expect("called with a lease");
        let conn = &mut lease.conn;
        let mut owed = Owed::client(Reply::OwnParseComplete);
        if !conn.known.touch(prepared.id) {
            note_known(conn, &prepared);
            message::parse(&mut conn.output, &prepared.server_name, sql, types).expect(FITS);
            owed.reply = Reply::ParseComplete;
            owed.learns = Some(prepared.id);
        }
        owed.change = Some(Box::new(change));
        conn.expected.push(owed);
        self.drain_own_replies();
        Ok(())
    }

    /// A Parse too long to be kept: only the unnamed statement may be that, and it pins.
    fn send_opaque_parse(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        let Some(&first) = input.bytes().get(HEADER_LEN) else {
            return Ok(Step::NeedMore { room: HEADER_LEN + 1 });
        };
        if first != 0 {
            let limit = self.settled.config.limits.max_inspected_statement_bytes;
            return Err(End::fatal(
                sqlstate::PROGRAM_LIMIT_EXCEEDED,
                format!(
                    "a named prepared statement of {} bytes is longer than the limit of {limit}",
                    found.len
                ),
            ));
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
        self.pin(PinReason::NotInspected);
        let lease = self.lease.as_mut().expect("called with a lease");
        lease.conn.unnamed = Some(id);
        lease.conn.expected.push(Owed::client(Reply::ParseComplete).parses_unnamed(id));
        self.passing = Passing { left: found.len, forward: true };
        Ok(Step::Done)
    }

    fn renew_unnamed(&mut self) {
        if let Some(unnamed) = &mut self.unnamed
            && !self.identity.database.is_current(&unnamed.analyzed)
        {
            unnamed.analyzed = unnamed.classify(&self.identity.database, &self.settled);
        }
    }

    /// The server's name for the client's, made known there first; and what is behind it.
    fn resolve_name(&mut self, name: &[u8]) -> (Cow<'static, [u8]>, Option<Arc<Analyzed>>) {
        self.renew_unnamed();
        let Session { lease, names, unnamed, pins, identity, settled, .. } = self;
        let conn = &mut lease.as_mut().expect("called with a lease").conn;
        if name.is_empty() {
            let Some(unnamed) = unnamed else {
                // The server may have another client's.
                if conn.unnamed.take().is_some() {
                    message::close_statement(&mut conn.output, b"").expect(FITS);
                    conn.expected.push(Owed::prelude(Reply::CloseComplete));
                }
                return (Cow::Borrowed(b""), None);
            };
            if conn.unnamed != Some(unnamed.id) && !unnamed.body.is_empty() {
                message::frame(&mut conn.output, b'P', |out| out.extend_from_slice(&unnamed.body))
                    .expect(FITS);
                conn.expected.push(Owed::prelude(Reply::ParseComplete).parses_unnamed(unnamed.id));
                conn.unnamed = Some(unnamed.id);
            }
            return (Cow::Borrowed(b""), Some(unnamed.analyzed.clone()));
        }
        match names.get(name) {
            Some(prepared) => {
                teach(conn, prepared);
                let analyzed = identity.database.classify_prepared(prepared, settled);
                (Cow::Owned(prepared.server_name.to_vec()), Some(analyzed))
            }
            // Prepared by SQL on this very connection, or unknown: the server knows which.
            None if pins.has(PinReason::SqlPrepare)
                || !name.starts_with(prepared::NAME_PREFIX.as_bytes()) =>
            {
                (Cow::Owned(name.to_vec()), None)
            }
            None => (Cow::Owned([UNKNOWN_PREFIX.as_bytes(), name].concat()), None),
        }
    }

    fn send_bind(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        let have = input.len().min(found.len);
        let body = &input.bytes()[HEADER_LEN..have];
        let Some((portal, rest)) = split_cstr(body) else { return self.more_of_names(found, have) };
        let Some((name, rest)) = split_cstr(rest) else { return self.more_of_names(found, have) };
        let rest_at = have - rest.len();
        if name.is_empty() {
            self.renew_unnamed();
        }
        // The common case by far: both unnamed, and parsed on this connection.
        let conn_unnamed = self.lease.as_ref().and_then(|lease| lease.conn.unnamed);
        if name.is_empty()
            && let Some(unnamed) = &self.unnamed
            && conn_unnamed == Some(unnamed.id)
        {
            self.transaction.bind_portal(portal, &unnamed.analyzed);
            let effects = unnamed.analyzed.analysis.effects;
            self.discard_foreign_sequences(effects, false);
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            conn.output.extend_from_slice(&input.bytes()[..have]);
            conn.expected.push(Owed::client(Reply::BindComplete));
        } else {
            let (portal, name) = (portal.to_vec(), name.to_vec());
            let (server_name, analyzed) = self.resolve_name(&name);
            if let Some(analyzed) = &analyzed {
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
            conn.expected.push(Owed::client(Reply::BindComplete));
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

    fn send_describe(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        let Some((kind, name)) = target(found, input)? else {
            return Ok(Step::NeedMore { room: found.len });
        };
        if kind == b'S' {
            let (server_name, _) = self.resolve_name(&name);
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            message::frame(&mut conn.output, b'D', |out| {
                out.put_u8(b'S');
                out.put_slice(&server_name);
                out.put_u8(0);
            })
            .expect(FITS);
        } else {
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            conn.output.extend_from_slice(&input.bytes()[..found.len]);
        }
        let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
        conn.expected.push(Owed::client(Reply::Description));
        input.consume(found.len);
        Ok(Step::Done)
    }

    fn send_execute(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
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
        if let Some(analyzed) = self.transaction.portal(portal).cloned() {
            self.tally.sent(class_of(&analyzed));
            self.note_statement(&analyzed);
            match analyzed.analysis.kind {
                StatementKind::Deallocate { all: true } => self.transaction.discards_all = true,
                StatementKind::Deallocate { all: false } => self.transaction.deallocates = true,
                _ => {}
            }
        } else {
            // Not bound in our sight: a cursor of DECLARE, or nothing at all.
            self.tally.sent(QueryClass::Write);
            self.transaction.wrote();
        }
        let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
        conn.output.extend_from_slice(&input.bytes()[..found.len]);
        conn.expected.push(Owed::client(Reply::Execution));
        input.consume(found.len);
        Ok(Step::Done)
    }

    fn send_close(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        let Some((kind, name)) = target(found, input)? else {
            return Ok(Step::NeedMore { room: found.len });
        };
        if kind == b'S' && !name.is_empty() && self.pins_no_sql() {
            // Servers keep the statement for whoever prepares the same.
            let change = self.names.remove(&name).map(Box::new);
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            let mut owed = Owed::client(Reply::OwnCloseComplete);
            owed.change = change;
            conn.expected.push(owed);
            self.drain_own_replies();
        } else {
            if kind == b'S' && name.is_empty() {
                self.unnamed = None;
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

    /// Notes what a statement does, as it is sent.
    fn note_statement(&mut self, analyzed: &Analyzed) {
        self.transaction.note(analyzed);
        self.note_pins();
    }

    fn note_pins(&mut self) {
        if self.transaction.effects.is_empty() {
            return;
        }
        let wanted = Pins::from_effects(self.transaction.effects);
        for reason in wanted.without(self.pins).iter() {
            self.pin(reason);
        }
    }

    pub(super) fn pin(&mut self, reason: PinReason) {
        if self.pins.insert(reason) {
            self.gateway.counters.pinned(reason);
            tracing::debug!(session = self.id.0, reason = ?reason, "session pinned to its server connection");
        }
    }

    /// The session's token is asked for before the position of its last write is known.
    fn waits_for_floor(&mut self, analyzed: &Analyzed) -> bool {
        let wants = matches!(&analyzed.analysis.kind,
            StatementKind::ShowPool(PoolShow::Komainu(name)) if **name == *"token");
        if !wants || !self.floor.pending || !self.is_idle() {
            return false;
        }
        let Some(lease) = &mut self.lease else { return false };
        if lease.conn.expected.is_empty() && !lease.is_standby {
            // The answer was lost with the connection it was asked on.
            lease.conn.ask(Question::Floor, OwnStatement::Floor, &[]);
            lease.ours_first = true;
        }
        self.batch.clear();
        !lease.is_standby
    }

    /// A comment that looks like a hint and is none must not be ignored in silence.
    fn report_hints(&mut self, analyzed: &Analyzed) {
        if let Some(error) = &analyzed.analysis.hints.error {
            self.notify_client(&Report::warning(sqlstate::INVALID_PARAMETER_VALUE, &error.to_string()));
        }
    }

    /// What komainu itself answers, as a query for the server; `None` if it is not asked.
    fn own_answer(&mut self, analyzed: &Arc<Analyzed>, sql: &[u8]) -> Option<String> {
        match &analyzed.analysis.kind {
            StatementKind::ShowPool(_) => {}
            StatementKind::Set { name, .. } if **name == *TOKEN => {
                let token = rewrite::set_value(sql).filter(|value| !value.is_empty())?;
                return read_token(&token).is_err().then(|| invalid_token(&token));
            }
            _ if analyzed.analysis.hints.explain => {}
            _ => return None,
        }
        Some(self.own_rows(analyzed))
    }

    fn own_rows(&mut self, analyzed: &Arc<Analyzed>) -> String {
        if analyzed.analysis.hints.explain {
            let request = Request {
                class: analyzed.routed.class,
                decisive: Some(analyzed.clone()),
                opening: super::transaction::Opening::of(analyzed),
                effects: analyzed.analysis.effects,
                whole: true,
                is_query: true,
                len: 0,
            };
            let route = self.would_go(&request);
            return self.show_route(Some(&route));
        }
        match &analyzed.analysis.kind {
            StatementKind::ShowPool(PoolShow::Nodes) => {
                let view = self.gateway.view.borrow().clone();
                let totals = self.gateway.counters.totals();
                let reads_from = self.floor.last_read.map(|read| read.server);
                let table = show::pool_nodes(&view, &totals, reads_from, |ms| clock::process().wall_time(ms));
                rows_as_select(table.columns, &table.rows)
            }
            StatementKind::ShowPool(PoolShow::Version) => {
                let table = show::pool_version();
                rows_as_select(table.columns, &table.rows)
            }
            StatementKind::ShowPool(PoolShow::Pools) => self.show_pools(),
            StatementKind::ShowPool(PoolShow::Processes) => {
                let clients = self.gateway.sessions.len().to_string();
                rows_as_select(&["clients"], &[vec![clients]])
            }
            StatementKind::ShowPool(PoolShow::Route) => {
                self.look_at_topology();
                self.show_route(self.last_route.as_ref())
            }
            StatementKind::ShowPool(PoolShow::Komainu(name)) => match &**name {
                "token" => rows_as_select(&["token"], &[vec![self.floor.token()]]),
                "pins" => {
                    let rows: Vec<_> = self.pins.iter().map(|r| vec![label(r)]).collect();
                    rows_as_select(&["reason"], &rows)
                }
                other => {
                    let text = format!("komainu has no \"{other}\": there are token and pins");
                    rows_as_select(&["error"], &[vec![text]])
                }
            },
            _ => rows_as_select(&["answer"], &[]),
        }
    }

    fn show_route(&self, route: Option<&Route>) -> String {
        let row = |route: &Route| {
            let server = route.server.and_then(|at| self.topology.servers.get(usize::from(at.0)));
            vec![server.map_or_else(|| "none".to_owned(), |server| server.id.to_string()), route.why()]
        };
        let rows: Vec<_> = route.map(row).into_iter().collect();
        rows_as_select(&["server", "reason"], &rows)
    }

    fn show_pools(&self) -> String {
        let mut rows: Vec<_> = self
            .gateway
            .pools
            .counts()
            .into_iter()
            .map(|(key, counts)| {
                let server = self.topology.servers.get(usize::from(key.server.0));
                vec![
                    server.map_or_else(String::new, |server| server.id.to_string()),
                    key.database.to_string(),
                    key.user.to_string(),
                    counts.open.to_string(),
                    counts.idle.to_string(),
                    counts.waiting.to_string(),
                ]
            })
            .collect();
        rows.sort();
        rows_as_select(&["server", "database", "user", "open", "idle", "waiting"], &rows)
    }
}

/// Fails on any server, with the effect an error has on the transaction.
fn invalid_token(token: &str) -> String {
    let message = format!("invalid value for parameter \"{TOKEN}\": \"{token}\"").replace('\'', "''");
    let mut tag = String::from("k");
    while message.contains(&tag) {
        tag.push('k');
    }
    format!(
        "DO ${tag}$ BEGIN RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = '{message}', \
         HINT = '{InvalidToken}'; END ${tag}$ LANGUAGE plpgsql"
    )
}

fn label(reason: PinReason) -> String {
    use crate::telemetry::labels::Label;
    reason.as_str().to_owned()
}

/// Unnamed statements are told apart by session and count.
fn unnamed_id(session: u64, count: u64) -> u64 {
    session << 32 | (count & 0xFFFF_FFFF)
}

/// Makes sure the server knows the statement before it is named to it.
fn teach(conn: &mut ServerConn, prepared: &Arc<Prepared>) {
    if conn.known.touch(prepared.id) {
        return;
    }
    note_known(conn, prepared);
    let mut owed = match prepared.origin {
        Origin::Parse => {
            message::parse(&mut conn.output, &prepared.server_name, &prepared.text, &prepared.types)
                .expect(FITS);
            Owed::prelude(Reply::ParseComplete)
        }
        Origin::Sql => {
            message::query(&mut conn.output, &prepared.text).expect(FITS);
            conn.unnamed = None;
            Owed::prelude(Reply::Query)
        }
    };
    owed.learns = Some(prepared.id);
    conn.expected.push(owed);
}

/// Notes that the server will know the statement, and closes what it should forget for it. To be called
/// before the statement's own message is written: what is closed is sent first.
fn note_known(conn: &mut ServerConn, prepared: &Arc<Prepared>) {
    for old in conn.known.insert(prepared) {
        message::close_statement(&mut conn.output, &old.server_name).expect(FITS);
        conn.expected.push(Owed::prelude(Reply::CloseComplete));
    }
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

fn require_empty(found: Header) -> Result<(), End> {
    match found.body_len() {
        0 => Ok(()),
        _ => Err(End::violation(format!("invalid message format: {:?} has no body", char::from(found.tag)))),
    }
}

/// What a client may send once it is logged in.
fn is_known(tag: u8) -> bool {
    matches!(tag, b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'H' | b'F' | b'd' | b'c' | b'f' | b'X')
}

fn unexpected(tag: u8) -> End {
    End::violation(format!("invalid frontend message type {tag}"))
}
