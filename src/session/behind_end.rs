//! What a client sends behind the end of its transaction, in the same text or batch.
//!
//! To the server it is something new, which only looks like part of what was begun before: a transaction that a
//! standby serves may be followed by a write. So the end goes ahead, and what is behind it is routed as if it had come
//! by itself. Invariant: nothing that comes behind the end is sent before that has succeeded.

use super::batch::text;
use super::inbound::Step;
use super::orphaned::first_statement;
use super::session::Session;
use super::tally::class_of;
use crate::backend::expect::Question;
use crate::net::Buffer;
use crate::route::lexer::{Lexer, TokenKind};
use crate::route::{Analyzed, Class, StatementKind};
use crate::wire::frame::{HEADER_LEN, Header};
use crate::wire::message::{self, TransactionStatus};

impl Session {
    /// The front of the input is a text that ends the transaction of a standby, and goes on with what that cannot do.
    pub(super) fn goes_on_elsewhere(
        &mut self,
        found: Header,
        analyzed: &Analyzed,
        input: &mut Buffer,
    ) -> Option<Step> {
        let lease = self.lease.as_ref().filter(|lease| lease.is_standby)?;
        if analyzed.analysis.kind != StatementKind::Many || analyzed.routed.class == Class::Read {
            return None;
        }
        if !lease.is_answered() {
            return Some(self.wait_for_answers());
        }
        if lease.conn.status == TransactionStatus::Idle {
            return None;
        }
        let sql = text(&input.bytes()[HEADER_LEN..found.len]).to_vec();
        self.end_goes_ahead(found, &sql, input).then_some(Step::Done)
    }

    /// If the first statement of a text ends the transaction, it is sent, and the rest comes back as a text of its own,
    /// which is what it is to the server. All that was sent before must be answered.
    pub(super) fn end_goes_ahead(&mut self, found: Header, sql: &[u8], input: &mut Buffer) -> bool {
        let (first, rest) = first_statement(sql);
        let end = self.identity.database.classify(first, &self.settled, self.reading());
        let tag = match end.analysis.kind {
            // A failed transaction has no other end.
            StatementKind::Commit { chain: false } if self.status == TransactionStatus::Failed => "ROLLBACK",
            StatementKind::Commit { chain: false } => "COMMIT",
            StatementKind::Rollback { chain: false } => "ROLLBACK",
            _ => return false,
        };
        let mut query = bytes::BytesMut::new();
        if !Lexer::new(rest).any(|token| token.kind != TokenKind::Semicolon)
            || message::query(&mut query, rest).is_err()
        {
            return false;
        }
        let first = first.to_vec();
        input.consume(found.len);
        input.prepend(&query);
        self.unnamed = None;
        self.tally.sent(class_of(&end));
        self.note_statement(&end);
        self.unmark();
        message::command_complete(&mut self.to_client, tag);
        let lease = self.lease.as_mut().expect("called with a lease");
        lease.conn.ask_simple(Question::Rollback, &first);
        lease.note_complete_request();
        true
    }

    /// A batch has ended the transaction of a standby, and goes on without a Sync: the standby is sent one.
    pub(super) fn batch_goes_on_elsewhere(&mut self) -> Option<Step> {
        let lease = self.lease.as_mut().filter(|lease| lease.is_standby)?;
        // One that has begun its transaction, too, was looked at as a whole.
        if lease.conn.status == TransactionStatus::Idle
            || !lease.conn.expected.has_open_batch()
            || self.transaction.leaves_open != Some(false)
        {
            return None;
        }
        if lease.is_answered() {
            lease.conn.push_sync(Question::Rollback);
            lease.note_complete_request();
            return Some(Step::Done);
        }
        Some(self.wait_for_answers())
    }
}
