//! A client whose transaction was lost with its server connection: answered as PostgreSQL answers in a
//! transaction that has failed, without a server.
//!
//! Everything gets 25P02 until the client ends the transaction; the very first statement gets the loss itself
//! (08006) if the client was not told yet. Savepoints are gone too: ROLLBACK TO gets 3B001, as for one that was
//! never made, so that drivers which nest transactions give up the outer one. Invariant: no COMMIT is answered with
//! success before the client was told of the loss.

use std::sync::Arc;

use super::batch::text;
use super::inbound::Step;
use super::prepared::Content;
use super::session::{End, Session, Unnamed};
use crate::backend::conn::MAX_INSPECTED;
use crate::backend::statement::Origin;
use crate::net::Buffer;
use crate::route::lexer::{Lexer, TokenKind};
use crate::route::{Analyzed, StatementKind};
use crate::wire::frame::{HEADER_LEN, Header, split_cstr};
use crate::wire::message::{self, Report, TransactionStatus, ready_for_query};
use crate::wire::sqlstate;

/// What a statement does to a transaction that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    /// Ends it, as asked.
    RollsBack,
    /// Ends it otherwise than asked.
    Commits,
    RollsBackTo,
    /// Is refused.
    Other,
}

impl Part {
    fn of(analyzed: &Analyzed) -> Part {
        match analyzed.analysis.kind {
            StatementKind::Empty => Part::Nothing,
            StatementKind::Rollback { chain: false } => Part::RollsBack,
            StatementKind::Commit { chain: false } | StatementKind::PrepareTransaction => Part::Commits,
            StatementKind::RollbackTo => Part::RollsBackTo,
            // AND CHAIN would begin the next transaction on no server: ROLLBACK and BEGIN do.
            _ => Part::Other,
        }
    }
}

impl Session {
    /// Whether the client must first hear of a loss, or end a transaction that is lost.
    pub(super) fn is_orphaned(&self) -> bool {
        self.untold_loss || self.status == TransactionStatus::Failed
    }

    /// Answers a message in a server's place. `None`: it is none that a server is needed for.
    pub(super) fn answer_orphan(&mut self, found: Header, input: &mut Buffer) -> Result<Option<Step>, End> {
        if !matches!(found.tag, b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S') {
            return Ok(None);
        }
        if found.tag == b'S' {
            if self.untold_loss {
                self.tell_failed();
            }
            return Ok(None);
        }
        if found.len > MAX_INSPECTED {
            self.refuse_orphan(found.tag);
            return Ok(Some(self.drop_message(found)));
        }
        if input.len() < found.len {
            return Ok(Some(Step::NeedMore { room: found.len }));
        }
        let body = input.bytes()[HEADER_LEN..found.len].to_vec();
        input.consume(found.len);
        if found.tag == b'Q' {
            self.query_of_orphan(&body, input);
            return Ok(Some(Step::Done));
        }
        // Without a block there is nothing to end: only the loss is to be told.
        let done = self.status == TransactionStatus::Failed && self.extended_of_orphan(found.tag, &body)?;
        if !done {
            self.refuse_orphan(found.tag);
        }
        Ok(Some(Step::Done))
    }

    fn refuse_orphan(&mut self, tag: u8) {
        self.tell_failed();
        self.end_cycle(tag);
    }

    /// Behind an error: the answer of a simple message ends here, that of others with their Sync.
    fn end_cycle(&mut self, tag: u8) {
        match tag {
            b'Q' | b'F' => ready_for_query(&mut self.to_client, self.status),
            _ => self.discarding = true,
        }
    }

    fn query_of_orphan(&mut self, body: &[u8], input: &mut Buffer) {
        self.unnamed = None;
        let (first, rest) = first_statement(text(body));
        let part = Part::of(&self.identity.database.classify(first, &self.settled, self.reading()));
        if self.status != TransactionStatus::Failed || !self.answer_part(part) {
            return self.end_query(part);
        }
        if part != Part::Nothing && Lexer::new(rest).any(|token| token.kind != TokenKind::Semicolon) {
            // The block has ended: what follows runs as if it stood alone.
            let mut query = bytes::BytesMut::new();
            if message::query(&mut query, rest).is_ok() {
                input.prepend(&query);
                return;
            }
        }
        ready_for_query(&mut self.to_client, self.status);
    }

    fn end_query(&mut self, part: Part) {
        self.tell_refused(part);
        ready_for_query(&mut self.to_client, self.status);
    }

    /// Answers a statement that may run, with success. False: it is to be told why not.
    fn answer_part(&mut self, part: Part) -> bool {
        match part {
            Part::Nothing => self.to_client.extend_from_slice(&[b'I', 0, 0, 0, 4]),
            Part::Commits if self.untold_loss => return false,
            Part::RollsBack | Part::Commits => {
                message::command_complete(&mut self.to_client, "ROLLBACK");
                self.end_lost_transaction();
            }
            Part::RollsBackTo | Part::Other => return false,
        }
        true
    }

    fn tell_refused(&mut self, part: Part) {
        let savepoint = part == Part::RollsBackTo && !self.untold_loss;
        let ends = part == Part::Commits && self.untold_loss;
        if savepoint {
            Report::error(sqlstate::INVALID_SAVEPOINT, "savepoint does not exist")
                .detail("It was lost with the connection to the PostgreSQL server; ROLLBACK ends the transaction.")
                .encode(&mut self.to_client);
        } else {
            self.tell_failed();
        }
        if ends {
            // A COMMIT that fails has ended its transaction.
            self.end_lost_transaction();
        }
    }

    fn end_lost_transaction(&mut self) {
        self.untold_loss = false;
        self.status = TransactionStatus::Idle;
        self.transaction.end();
    }

    /// A message of the extended protocol. False: it is refused as anything in a failed transaction.
    fn extended_of_orphan(&mut self, tag: u8, body: &[u8]) -> Result<bool, End> {
        let malformed = || End::violation("invalid message format");
        match tag {
            b'P' => {
                let (name, rest) = split_cstr(body).ok_or_else(malformed)?;
                let (sql, types) = split_cstr(rest).ok_or_else(malformed)?;
                self.parse_of_orphan(name, sql, types, body)
            }
            b'B' => {
                let (portal, rest) = split_cstr(body).ok_or_else(malformed)?;
                let (name, _) = split_cstr(rest).ok_or_else(malformed)?;
                let Some(analyzed) = self.ending_statement(name) else { return Ok(false) };
                self.transaction.bind_portal(portal, &analyzed);
                self.to_client.extend_from_slice(&[b'2', 0, 0, 0, 4]);
                Ok(true)
            }
            b'D' => {
                let (&kind, rest) = body.split_first().ok_or_else(malformed)?;
                let (name, _) = split_cstr(rest).ok_or_else(malformed)?;
                let known = match kind {
                    b'S' => self.ending_statement(name).is_some(),
                    _ => self.transaction.portal(name).is_some(),
                };
                if known && kind == b'S' {
                    // No parameters.
                    self.to_client.extend_from_slice(&[b't', 0, 0, 0, 6, 0, 0]);
                }
                if known {
                    self.to_client.extend_from_slice(&[b'n', 0, 0, 0, 4]);
                }
                Ok(known)
            }
            b'E' => {
                let (portal, _) = split_cstr(body).ok_or_else(malformed)?;
                let Some(analyzed) = self.transaction.portal(portal) else { return Ok(false) };
                let part = Part::of(analyzed);
                if !self.answer_part(part) {
                    self.tell_refused(part);
                    self.discarding = true;
                }
                Ok(true)
            }
            b'C' => {
                let (&kind, rest) = body.split_first().ok_or_else(malformed)?;
                let (name, _) = split_cstr(rest).ok_or_else(malformed)?;
                match (kind, name.is_empty()) {
                    (b'S', true) => self.unnamed = None,
                    (b'S', false) => drop(self.names.remove(name)),
                    _ => {}
                }
                message::close_complete(&mut self.to_client);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn parse_of_orphan(&mut self, name: &[u8], sql: &[u8], types: &[u8], body: &[u8]) -> Result<bool, End> {
        let analyzed = self.identity.database.classify(sql, &self.settled, self.reading());
        if Part::of(&analyzed) == Part::Other {
            return Ok(false);
        }
        if name.is_empty() {
            let id = self.new_unnamed_id();
            self.unnamed = Some(Unnamed { id, body: body.into(), analyzed });
        } else if self.names.get(name).is_some() {
            let name = String::from_utf8_lossy(name);
            let message = format!("prepared statement \"{name}\" already exists");
            Report::error(sqlstate::DUPLICATE_PREPARED_STATEMENT, &message).encode(&mut self.to_client);
            self.discarding = true;
            return Ok(true);
        } else {
            let content =
                Content { origin: Origin::Parse, text: sql, types, context: self.content_context() };
            let prepared = self.gateway.statements.intern(content, &analyzed, |_| sql.into());
            if let Err(error) = self.add_name(name, prepared) {
                Report::error(sqlstate::PROGRAM_LIMIT_EXCEEDED, &error.to_string())
                    .encode(&mut self.to_client);
                self.discarding = true;
                return Ok(true);
            }
        }
        message::parse_complete(&mut self.to_client);
        Ok(true)
    }

    /// The prepared statement of this name, if it is one that may run now.
    fn ending_statement(&self, name: &[u8]) -> Option<Arc<Analyzed>> {
        let analyzed = match name {
            b"" => self.unnamed.as_ref()?.classify(&self.identity.database, &self.settled, self.reading()),
            _ => {
                self.identity.database.classify_prepared(self.names.get(name)?, &self.settled, self.reading())
            }
        };
        (Part::of(&analyzed) != Part::Other).then_some(analyzed)
    }
}

/// The first statement of a text, and what follows it. A statement that ends a transaction has no semicolon
/// inside, so it does not matter where another one is cut.
pub(super) fn first_statement(sql: &[u8]) -> (&[u8], &[u8]) {
    let mut begun = false;
    for token in Lexer::new(sql) {
        match token.kind {
            TokenKind::Semicolon if begun => return (&sql[..token.start], &sql[token.end..]),
            TokenKind::Semicolon => {}
            _ => begun = true,
        }
    }
    (sql, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_statement_is_what_stands_before_the_first_semicolon_behind_it() {
        for (sql, first, rest) in [
            ("ROLLBACK", "ROLLBACK", ""),
            (";; rollback; SELECT ';'", ";; rollback", " SELECT ';'"),
            ("/* a;b */ COMMIT ;", "/* a;b */ COMMIT ", ""),
            ("", "", ""),
        ] {
            assert_eq!(first_statement(sql.as_bytes()), (first.as_bytes(), rest.as_bytes()), "{sql}");
        }
    }
}
