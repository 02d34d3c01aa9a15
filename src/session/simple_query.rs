//! A Query of the client: sent as it is, or with the names of statements that PREPARE, EXECUTE and
//! DEALLOCATE mention replaced by the server's.
//!
//! Invariant: a simple Query ends the unnamed statement, here as on the server.

use std::sync::Arc;

use super::batch::text;
use super::effects::{BY_NAME, alters};
use super::inbound::{FITS, Step};
use super::pins::PinReason;
use super::prepared::{Content, Context, StatementStore};
use super::rewrite;
use super::session::{End, Passing, Session};
use super::tally::class_of;
use super::teach::{note_known, teach};
use crate::backend::expect::{Alters, For, Forgets, Owed, Question, Reply};
use crate::backend::statement::{NAME_PREFIX, Origin, Prepared, UNKNOWN_PREFIX};
use crate::net::Buffer;
use crate::route::prepared::{Verb, is_escaped};
use crate::route::{Analyzed, Effects, StatementKind};
use crate::telemetry::labels::QueryClass;
use crate::wire::frame::{HEADER_LEN, Header, split_cstr};
use crate::wire::message::{self, Report, TransactionStatus, ready_for_query};
use crate::wire::sqlstate::{self, SqlState};

impl Session {
    pub(super) fn send_query(&mut self, found: Header, input: &mut Buffer) -> Result<Step, End> {
        if found.len > self.settled.config.limits.max_inspected_statement_bytes {
            let lease = self.lease.as_mut().expect("called with a lease");
            lease.conn.expected.push(Owed::client(Reply::Query).alters(Some(Alters::InParts)));
            lease.conn.unnamed = None;
            self.unnamed = None;
            self.tally.sent(QueryClass::Write);
            self.transaction.note_opaque(true);
            self.note_pins();
            self.passing = Passing { left: found.len, forward: true };
            return Ok(Step::Done);
        }
        if input.len() < found.len {
            return Ok(Step::NeedMore { room: found.len });
        }
        let body = &input.bytes()[HEADER_LEN..found.len];
        let Some((sql, [])) = split_cstr(body) else {
            return Err(End::violation("invalid message format: a query is one string"));
        };
        let analyzed = self.classify(sql);
        let effects = analyzed.analysis.effects;
        if self.waits_for_floor(&analyzed) {
            return Ok(Step::Wait);
        }
        if let Some(step) = self.goes_on_elsewhere(found, &analyzed, input) {
            return Ok(step);
        }
        // Without its terminator.
        let sql = &input.bytes()[HEADER_LEN..found.len - 1];
        self.report_hints(&analyzed);
        if let Some(answer) = self.own_answer(&analyzed, sql) {
            let lease = self.lease.as_mut().expect("called with a lease");
            message::query(&mut lease.conn.output, answer.as_bytes()).expect(FITS);
            lease.conn.expected.push(Owed::client(Reply::Query));
            lease.note_complete_request();
            lease.conn.unnamed = None;
            self.unnamed = None;
            self.tally.sent(class_of(&analyzed));
            input.consume(found.len);
            return Ok(Step::Done);
        }
        if effects.intersects(BY_NAME) {
            return self.send_query_by_name(found, input, &analyzed);
        }
        self.note_custom_settings(sql, effects);
        self.discard_foreign_sequences(effects, true);
        let ends_surely = effects.contains(Effects::IS_SURE_END)
            && (self.is_idle() || matches!(analyzed.analysis.kind, StatementKind::Commit { .. }));
        let wants_floor = self.tracks_floor();
        let mut owed = Owed::client(Reply::Query).alters(alters(effects));
        owed.forgets = self.resets(sql, effects).then_some(Forgets::Settings);
        let lease = self.lease.as_mut().expect("called with a lease");
        let alone = lease.conn.expected.is_empty();
        lease.conn.output.extend_from_slice(&input.bytes()[..found.len]);
        lease.conn.expected.push(owed);
        // A simple Query ends the unnamed statement, here and in the client's eyes.
        lease.conn.unnamed = None;
        lease.note_complete_request();
        self.unnamed = None;
        input.consume(found.len);
        self.tally.sent(class_of(&analyzed));
        self.note_statement(&analyzed);
        self.transaction.contained |= alone && matches!(analyzed.analysis.kind, StatementKind::Begin(_));
        let lease = self.lease.as_mut().expect("called with a lease");
        if wants_floor && self.transaction.may_write && ends_surely && alone && !lease.is_standby {
            lease.conn.ask(Question::Floor, self.settled.floor, &[]);
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
        if self.lease.as_ref().is_some_and(|lease| !lease.is_answered()) {
            return Ok(self.wait_for_answers());
        }
        let sql = text(&input.bytes()[HEADER_LEN..found.len]).to_vec();
        if self.ends_failed_first(found, &sql, input) {
            return Ok(Step::Done);
        }
        let one_prepare = analyzed.analysis.kind == StatementKind::Prepare;
        self.note_custom_settings(&sql, analyzed.analysis.effects);
        self.discard_foreign_sequences(self.effects_of_executed(&sql), true);
        if analyzed.analysis.effects.intersects(Effects::SQL_PREPARE) && !one_prepare {
            self.pin(PinReason::SqlPrepare);
        }
        input.consume(found.len);
        self.unnamed = None;
        // The Query also ends what was sent before it without a Sync, so that the server has to hear of it.
        let has_open_batch = self.lease.as_ref().is_some_and(|lease| lease.conn.expected.has_open_batch());
        match analyzed.analysis.kind {
            _ if has_open_batch => {}
            StatementKind::Deallocate { name: None }
                if self.status != TransactionStatus::Failed && self.pins_no_sql() =>
            {
                self.names.clear();
                self.unmark();
                message::command_complete(&mut self.to_client, "DEALLOCATE ALL");
                ready_for_query(&mut self.to_client, self.status);
                return Ok(Step::Done);
            }
            StatementKind::Deallocate { name: Some(_) } if self.status != TransactionStatus::Failed => {
                let name = rewrite::first_name(&sql);
                if let Some(name) = name
                    && self.names.remove(&name).is_some()
                {
                    self.unmark();
                    message::command_complete(&mut self.to_client, "DEALLOCATE");
                    ready_for_query(&mut self.to_client, self.status);
                    return Ok(Step::Done);
                }
            }
            _ => {}
        }
        let mut owed = Owed::client(Reply::Query).alters(alters(analyzed.analysis.effects));
        let rewritten = if one_prepare && !self.pins.has(PinReason::SqlPrepare) {
            self.rewrite_prepare(&sql, analyzed, &mut owed)
        } else {
            self.rewrite_names(&sql, For::Ahead)
        };
        if analyzed.analysis.effects.intersects(Effects::SQL_DEALLOCATE) {
            self.note_deallocated(&sql, analyzed, &mut owed);
        }
        if owed.forgets.is_none() && self.resets(&sql, analyzed.analysis.effects) {
            owed.forgets = Some(Forgets::Settings);
        }
        let lease = self.lease.as_mut().expect("called with a lease");
        message::query(&mut lease.conn.output, &rewritten).expect(FITS);
        lease.conn.unnamed = None;
        lease.conn.expected.push(owed);
        lease.note_complete_request();
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

    /// A text that ends a failed transaction, and then executes what this connection does not know: nothing can be parsed
    /// there before. So its end goes ahead.
    fn ends_failed_first(&mut self, found: Header, sql: &[u8], input: &mut Buffer) -> bool {
        if self.status != TransactionStatus::Failed || !self.lacks_executed(sql) {
            return false;
        }
        self.end_goes_ahead(found, sql, input)
    }

    /// Whether a text executes what is still to be made known to the server.
    fn lacks_executed(&mut self, sql: &[u8]) -> bool {
        let in_force = self.in_force();
        let Session { lease, names, .. } = self;
        let known = &mut lease.as_mut().expect("called with a lease").conn.known;
        let mut lacks = false;
        rewrite::names(sql, |name, verb| {
            let prepared = names.get(name).filter(|_| verb == Verb::Execute);
            lacks |= prepared
                .is_some_and(|prepared| prepared.is_answered_here || !known.serves(prepared, in_force));
            None
        });
        lacks
    }

    /// What a text of several statements deallocates, or one that is for the server to answer. If it fails, all names
    /// are believed to be as before: how far it came is not known.
    fn note_deallocated(&mut self, sql: &[u8], analyzed: &Analyzed, owed: &mut Owed) {
        if analyzed.analysis.kind != StatementKind::Many && self.status == TransactionStatus::Failed {
            return;
        }
        for name in rewrite::deallocated(sql) {
            if let Some(mut change) = self.names.remove(&name) {
                change.earlier = owed.change.take();
                owed.change = Some(Box::new(change));
            }
        }
        let among_others = analyzed.analysis.kind == StatementKind::Many;
        owed.forgets = match analyzed.analysis.kind {
            StatementKind::DiscardAll => Some(Forgets::Everything),
            _ => rewrite::deallocates_all(sql).then_some(Forgets::Statements { among_others }),
        };
        self.transaction.forgets |= owed.forgets.is_some();
    }

    /// Whether the server goes back to other settings than the session began with.
    fn resets(&self, sql: &[u8], effects: Effects) -> bool {
        effects.intersects(Effects::CHANGES_SETTINGS)
            && self.startup_settings.iter().any(|(name, _)| name != "application_name")
            && rewrite::resets_settings(sql)
    }

    /// What the statements that a text executes do.
    fn note_executed(&mut self, sql: &[u8]) {
        for analyzed in self.executed(sql) {
            self.note_statement(&analyzed);
        }
    }

    pub(super) fn executed(&self, sql: &[u8]) -> Vec<Arc<Analyzed>> {
        let mut executed = Vec::new();
        rewrite::names(sql, |name, _| {
            executed.extend(self.names.get(name).map(|prepared| {
                self.identity.database.classify_prepared(prepared, &self.settled, self.reading())
            }));
            None
        });
        executed
    }

    fn effects_of_executed(&self, sql: &[u8]) -> Effects {
        self.executed(sql).iter().fold(Effects::NONE, |effects, one| effects | one.analysis.effects)
    }

    /// Makes a virtual statement of a PREPARE; the text with the server's name for it.
    fn rewrite_prepare(&mut self, sql: &[u8], analyzed: &Arc<Analyzed>, owed: &mut Owed) -> Vec<u8> {
        let Some(name) = rewrite::first_name(sql) else { return sql.to_vec() };
        if self.names.get(&name).is_some() {
            let name = String::from_utf8_lossy(&name);
            let message = format!("prepared statement \"{name}\" already exists");
            return self.refuse_prepare(sqlstate::DUPLICATE_PREPARED_STATEMENT, &message, owed);
        }
        // What it executes is classified now, so that EXECUTE is routed by it.
        let body = rewrite::prepared_body(sql).unwrap_or(sql);
        let body = self.identity.database.classify(body, &self.settled, self.reading());
        let analyzed = if body.analysis.kind == StatementKind::Many { analyzed.clone() } else { body };
        // SQL PREPARE answers with an error where the server knows the name, so it is never shared: not even with
        // the same PREPARE of this session before a DEALLOCATE.
        let context = self.own_context();
        let content = Content { origin: Origin::Sql, text: sql, types: &name, context };
        let prepared = self
            .gateway
            .statements
            .intern(content, &analyzed, |server_name| rewrite::with_name(sql, server_name.as_bytes()).into());
        let change = match self.add_name(&name, prepared.clone()) {
            Ok(change) => change,
            Err(error) => {
                return self.refuse_prepare(sqlstate::PROGRAM_LIMIT_EXCEEDED, &error.to_string(), owed);
            }
        };
        let lease = self.lease.as_mut().expect("called with a lease");
        note_known(&mut lease.conn, &prepared, prepared.settings);
        owed.learns = Some(prepared.id);
        owed.change = Some(Box::new(change));
        prepared.text.to_vec()
    }

    /// In place of a PREPARE: what fails as well, with the same effect on the transaction, while the client is told
    /// why. A transaction that has failed already is what the server speaks of.
    fn refuse_prepare(&self, state: SqlState, message: &str, owed: &mut Owed) -> Vec<u8> {
        if self.status != TransactionStatus::Failed {
            owed.instead = Some(Report::error(state, message).body());
        }
        format!("EXECUTE \"{UNKNOWN_PREFIX}\"").into_bytes()
    }

    /// The text with every known name replaced; each is made known to the server first. What is deallocated is a
    /// statement made for that: the one of the name may be other clients' as well.
    pub(super) fn rewrite_names(&mut self, sql: &[u8], audience: For) -> Vec<u8> {
        let unique = self.new_unnamed_id();
        let in_force = self.in_force();
        let Session { lease, names, pins, gateway, .. } = self;
        let conn = &mut lease.as_mut().expect("called with a lease").conn;
        let raw_is_fine = pins.has(PinReason::SqlPrepare);
        let mut taught = false;
        let mut answered = Vec::new();
        let mut gone: Vec<Vec<u8>> = Vec::new();
        let rewritten = rewrite::names(sql, |name, verb| {
            let is_gone = gone.iter().any(|earlier| earlier == name);
            match names.get(name) {
                Some(prepared) if !is_gone => {
                    let named = match verb {
                        Verb::Deallocate => {
                            gone.push(name.to_owned());
                            stand_in(&gateway.statements, unique + gone.len() as u64, prepared)
                        }
                        _ => prepared.clone(),
                    };
                    let server_name = named.server_name.to_vec();
                    match verb {
                        Verb::Execute | Verb::Prepare if named.is_answered_here => answered.push(named),
                        _ => taught |= teach(conn, &named, in_force, audience),
                    }
                    Some(server_name)
                }
                Some(_) if !raw_is_fine => Some(unknown(name)),
                // Another client's statement has such a name on the server; no client's own may.
                None if may_be_ours(name) && !raw_is_fine => Some(unknown(name)),
                _ => None,
            }
        });
        for prepared in &answered {
            taught |= self.make_known(prepared, audience);
        }
        if taught && audience == For::Ahead {
            let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
            message::sync(&mut conn.output);
            conn.expected.push(Owed::before(Reply::Sync, For::Ahead));
        }
        self.next_unnamed += gone.len() as u64;
        rewritten
    }
}

fn may_be_ours(name: &[u8]) -> bool {
    name.starts_with(NAME_PREFIX.as_bytes()) || is_escaped(name)
}

/// A name that no server knows, for the one the client has said, in quotes.
fn unknown(name: &[u8]) -> Vec<u8> {
    let mut quoted = format!("\"{UNKNOWN_PREFIX}").into_bytes();
    for byte in name {
        quoted.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    quoted
}

/// A statement of nothing, which nobody else has: to be deallocated in another one's place.
fn stand_in(statements: &StatementStore, unique: u64, of: &Prepared) -> Arc<Prepared> {
    let context = Context { alone: unique, ..Context::default() };
    let content = Content { origin: Origin::Parse, text: b"", types: &[0, 0], context };
    statements.intern(content, &of.analyzed(), |_| Box::default())
}
