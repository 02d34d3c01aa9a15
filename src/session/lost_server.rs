//! A server connection that is lost, or that must not be believed any more.
//!
//! Invariant: nothing that may write is sent twice, and the client is told no more and no less than is known.

use std::io;

use super::session::{End, Session};
use super::settle::Settling;
use crate::backend::expect::{For, Reply};
use crate::route::Effects;
use crate::wire::message::{self, TransactionStatus, ready_for_query};
use crate::wire::sqlstate;

const UNKNOWN_OUTCOME: &str = "the connection to the PostgreSQL server was lost before it answered: \
                               whether the statement took effect is not known";

impl Session {
    /// Asks the primary what a standby has refused.
    pub(super) fn ask_again(&mut self) -> Result<(), End> {
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

    pub(super) fn server_violation(&mut self, what: String) -> Result<(), End> {
        tracing::error!(parent: &self.identity.span(self.id), what, "server broke the protocol");
        self.server_gone(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// The server connection is lost. Says what is known of what was under way; no more and no less.
    pub(super) fn server_gone(&mut self, error: io::Error) -> Result<(), End> {
        self.gateway.looks.all();
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let server = lease.pool.key.server;
        let span = self.identity.span(self.id);
        let name = self.topology.servers.get(usize::from(server.0)).map_or("?", |server| &server.id);
        tracing::warn!(parent: &span, server = name, %error, "server connection lost");
        if lease.told_fatal {
            // As with PostgreSQL, that was the last word.
            return Err(End::Terminated);
        }
        let owes = lease.conn.expected.owes_client();
        let mut settled = Settling::new(&mut self.names);
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
