//! A server connection that is lost, or that must not be believed any more.
//!
//! Invariant: nothing that may write is sent twice, and the client is told no more and no less than is known.
//! The session goes on wherever it can: see [`super::orphaned`] for what a client may say afterwards.

use std::io;

use super::SessionId;
use super::loss::{Loss, Then, Told, Verdict};
use super::pins::Pins;
use super::session::{End, Passing, Session};
use super::settle::Settling;
use crate::backend::expect::For;
use crate::clock::now_ms;
use crate::route::Effects;
use crate::telemetry::labels::Label;
use crate::topology::Role;
use crate::wire::message::{Report, TransactionStatus, ready_for_query};
use crate::wire::sqlstate;

const UNKNOWN_OUTCOME: &str = "the connection to the PostgreSQL server was lost before it answered: \
                               whether the statement took effect is not known";
const LOST: &str = "the connection to the PostgreSQL server was lost";
const ROLLED_BACK: &str = "the connection to the PostgreSQL server was lost, and the transaction with it: \
                           it was rolled back";
/// A read that is lost each time it is asked may be what breaks the server.
const MAX_ASKED_AGAIN: u8 = 2;
/// Other connections that were idle when a server ended are lost with it, and found so one after the other. Whatever ends a
/// server by itself each time takes longer, since that has to start again.
const SAME_LOSS_MS: u64 = 500;

impl Session {
    /// Asks the primary what a standby has refused.
    pub(super) fn ask_again(&mut self) -> Result<(), End> {
        self.force_primary = true;
        self.take_back_request()
    }

    /// Asks another server, or another connection, for what was lost.
    fn ask_elsewhere(&mut self) -> Result<(), End> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        lease.conn.doomed = true;
        lease.redirect = true;
        let now_ms = now_ms();
        if now_ms >= self.asked_again_ms + SAME_LOSS_MS {
            self.asked_again += 1;
            self.asked_again_ms = now_ms;
        }
        // Any server may answer that could have from the start, but for this one: the choice knows by itself if it is not
        // up.
        let server = self.topology.server(lease.pool.key.server);
        let is_up = server.is_some_and(|state| state.is_up(Role::Standby));
        self.force_primary = lease.is_standby && is_up;
        self.take_back_request()
    }

    /// Puts the request back as if it had never been sent.
    fn take_back_request(&mut self) -> Result<(), End> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let retained = std::mem::take(&mut lease.retained);
        let untaken = std::mem::take(&mut lease.untaken);
        let done = &self.transaction;
        if done.hidden_state || done.effects.intersects(Effects::CHANGES_SETTINGS) || !done.pinned.is_empty()
        {
            // What a function did before it was refused, a lock for instance, is nobody's.
            lease.conn.leftover_of = Some(SessionId::NONE);
        }
        self.to_client.truncate(lease.held_from);
        for change in std::mem::take(&mut lease.undo).into_iter().rev() {
            self.names.undo(change);
        }
        self.end_lease();
        self.transaction.end();
        self.batch.clear();
        self.status = TransactionStatus::Idle;
        if untaken > 0 {
            // It was to be sent when answers had come, or the server had taken more.
            self.input.consume(untaken);
            self.passing = Passing::default();
        }
        self.input.prepend(&retained);
        Ok(())
    }

    /// Whether the request may be kept to be asked again.
    pub(super) fn may_ask_again(&self) -> bool {
        self.asked_again < MAX_ASKED_AGAIN
    }

    pub(super) fn server_violation(&mut self, what: String) -> Result<(), End> {
        tracing::error!(parent: &self.identity.span(self.id), what, "server broke the protocol");
        self.server_gone(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// The server connection is lost: does what `loss` says.
    pub(super) fn server_gone(&mut self, error: io::Error) -> Result<(), End> {
        self.gateway.looks.all();
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let (server, epoch) = (lease.pool.key.server, lease.conn.epoch);
        let span = self.identity.span(self.id);
        let name = self.topology.server(server).map_or("?", |server| &server.id);
        tracing::warn!(parent: &span, server = name, %error, "server connection lost");
        let lost = self.pins.lost_unseen(self.transaction.pinned);
        let settings_lost = lease.settings_asked.is_some() || lease.settings_unread;
        let skips = lease.conn.expected.only_skips();
        let owes = lease.conn.expected.owes_answers();
        let has_begun_another = lease.conn.expected.has_begun_another_batch();
        let done = &self.transaction;
        let loss = Loss {
            told_fatal: lease.told_fatal,
            nothing_sent: lease.is_unused() && !owes && !skips,
            owes,
            open_batch: !owes && !skips && lease.conn.expected.has_open_batch(),
            retained: !lease.retained.is_empty(),
            status: lease.conn.status,
            contained: done.contained,
            leaves_open: done.leaves_open,
            may_write: done.may_write,
            may_commit: done.may_commit,
            cut_short: lease.has_cut_message(),
            lost_unseen: settings_lost || !lost.is_empty(),
        };
        let verdict = loss.verdict();
        let is_undone = (loss.status != TransactionStatus::Idle || loss.contained) && !loss.may_commit;
        if done.alters > 0 && !is_undone {
            // Whether it was done, nobody will say.
            self.gateway.schema_changed(&self.identity.database);
        }
        if verdict == Verdict::LastWord {
            return Err(End::Terminated);
        }
        let mut settled = Settling::new(&mut self.names);
        let mut ready_due = 0;
        lease.conn.expected.abandon(|owed, done| {
            ready_due += usize::from(owed.ends_batch() && owed.audience == For::Client);
            settled.settle(owed, done);
        });
        match verdict {
            Verdict::LastWord => Err(End::Terminated),
            Verdict::AnotherConnection => {
                let request = lease.request.clone().expect("the verdict is of a request");
                self.abandon_lease();
                self.begin_request(request)
            }
            Verdict::AskAgain => self.ask_elsewhere(),
            Verdict::Lost { outcome_unknown, then } => {
                lease.take_back_cut_message();
                if self.transaction.ran && self.tracks_floor() {
                    // What the client was shown before the loss is not to be unseen.
                    self.floor.read_from(epoch, server, now_ms());
                }
                self.unmark();
                self.abandon_lease();
                self.transaction.end();
                self.batch.clear();
                self.asked_again = 0;
                // Until it is asked again: what was written may be there.
                self.floor.pending |= outcome_unknown && self.tracks_floor();
                match then {
                    Then::CutShort => Err(End::CutShort),
                    Then::Farewell => Err(farewell(outcome_unknown, lost, settings_lost)),
                    Then::GoOn { status, untold } => {
                        self.unpin_all();
                        self.status = status;
                        self.untold_loss = untold;
                        self.discarding |= skips;
                        Ok(())
                    }
                    Then::Tell { status, error } => {
                        self.unpin_all();
                        self.status = status;
                        self.tell_lost(error, ready_due, has_begun_another);
                        Ok(())
                    }
                }
            }
        }
    }

    /// Each Query or Sync that was sent, so many, gets its own answer, and so does a batch that was begun behind them: the
    /// rest of it, if that were sent now, would be another one.
    fn tell_lost(&mut self, error: Told, ready_due: usize, has_begun_another: bool) {
        self.idle_since_ms = now_ms();
        let report = match error {
            Told::OutcomeUnknown => Report::error(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, UNKNOWN_OUTCOME),
            Told::RolledBack => Report::error(sqlstate::CONNECTION_FAILURE, ROLLED_BACK),
            Told::Lost => Report::error(sqlstate::CONNECTION_FAILURE, LOST),
        };
        report.encode(&mut self.to_client);
        if ready_due == 0 {
            self.discarding = true;
            return;
        }
        ready_for_query(&mut self.to_client, self.status);
        for _ in 1..ready_due {
            self.tell_lost_behind(&report);
            ready_for_query(&mut self.to_client, self.status);
        }
        if has_begun_another {
            self.tell_lost_behind(&report);
            self.discarding = true;
        }
    }

    fn tell_lost_behind(&mut self, report: &Report<'_>) {
        match self.status {
            TransactionStatus::Failed => self.tell_failed(),
            _ => report.encode(&mut self.to_client),
        }
    }

    /// Says what happened to the transaction, or once it was told that it has failed.
    pub(super) fn tell_failed(&mut self) {
        const IGNORED: &str =
            "current transaction is aborted, commands ignored until end of transaction block";
        let report = match std::mem::take(&mut self.untold_loss) {
            true => Report::error(sqlstate::CONNECTION_FAILURE, ROLLED_BACK),
            false => Report::error(sqlstate::IN_FAILED_SQL_TRANSACTION, IGNORED),
        };
        report.encode(&mut self.to_client);
    }

    pub(super) fn unpin_all(&mut self) {
        for reason in std::mem::take(&mut self.pins).iter() {
            self.gateway.counters.unpinned(reason);
        }
    }
}

/// What the client believes to have, a lock for instance, is gone, and it could not see it.
fn farewell(outcome_unknown: bool, lost: Pins, settings_lost: bool) -> End {
    if outcome_unknown {
        return End::fatal(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, UNKNOWN_OUTCOME);
    }
    let lost = lost.iter().map(|reason| reason.as_str()).chain(settings_lost.then_some("settings"));
    let what = lost.collect::<Vec<_>>().join(", ");
    End::fatal(
        sqlstate::ADMIN_SHUTDOWN,
        format!(
            "terminating connection: {LOST}, and with it what only that had of this session ({what}); reconnect"
        ),
    )
}
