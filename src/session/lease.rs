//! Getting a server connection for a request, and making it what the session needs.
//!
//! Invariant: no byte of the client's is sent before the connection has the session's settings and nothing
//! of another session's is left on it.

use std::sync::Arc;

use super::SessionId;
use super::batch::Request;
use super::pins::Pins;
use super::session::{End, Session};
use super::waiting::Wait;
use crate::backend::ServerConn;
use crate::backend::conn::OwnStatement;
use crate::backend::expect::Question;
use crate::backend::settings::report;
use crate::backend::statement::NameChange;
use crate::clock::{coarse_ms, now_ms};
use crate::cluster::reason::Reason;
use crate::cluster::right::{Standing, WriteRight};
use crate::pool::Pool;
use crate::route::{Analyzed, Class, DecisionReason, StatementKind};
use crate::wire::message;
use crate::wire::sqlstate::SqlState;

/// How long a connection may take to become what the session needs; it is a matter of one round trip.
pub(super) const PREPARE_DEADLINE_MS: u64 = 5_000;
/// A server that told a younger connection that it is a standby is one now.
const SAID_JUST_NOW_MS: u64 = 1_000;

/// For the copy of a request as most are.
const KEPT_ROOM: usize = 512;

/// A server connection while this session has it.
#[derive(Debug)]
pub struct Lease {
    pub conn: Box<ServerConn>,
    pub pool: Arc<Pool>,
    /// Bytes at the front of the connection's input that go to the client as they are.
    pub marked: usize,
    /// Bytes of the server's present message still to come, which go to the client unseen.
    pub server_passing: usize,
    /// Bytes of that message marked so far.
    pub passed: usize,
    /// Questions of ours are under way that the client's next message must wait for.
    pub ours_first: bool,
    /// When the connection began to be prepared; `None` once it is.
    pub preparing_since_ms: Option<u64>,
    /// The client's bytes of this request, as long as it could be asked again elsewhere.
    pub retained: Vec<u8>,
    /// How many bytes at the end of it were not taken from the input yet.
    pub untaken: usize,
    /// From here on what waits for the client belongs to the retained request: it is not sent while that
    /// could be asked again.
    pub held_from: usize,
    /// What the retained request has done to the session's names so far.
    pub undo: Vec<NameChange>,
    pub request: Option<Request>,
    /// The server is a standby.
    pub is_standby: bool,
    /// The request was sent to its end. To a standby: what the client sends next is routed anew, once this
    /// is answered and unless it has opened a transaction. To the primary: it goes there too, and ends that this
    /// one could be asked again.
    pub is_complete: bool,
    /// The standby has refused the request; what it still says is dropped and the primary is asked.
    pub redirect: bool,
    /// Of the statement that is being described.
    pub parameters: u64,
    /// Rows of a question of ours.
    pub collected: Vec<(Box<str>, Box<str>)>,
    /// What the session has set is asked for: until it is known, only this connection has it.
    pub settings_asked: Option<SettingsAsked>,
    /// Questions that have failed: a cancel that came late, for instance.
    pub unanswered: Unanswered,
    /// What was sent sets something, of which the client may have been told; but what is sent behind that is still
    /// to be answered before it can be asked for.
    pub settings_unread: bool,
    /// DISCARD ALL has taken from it what the session began with: nothing else of the client's runs before it has that
    /// again.
    pub discarded: bool,
    /// The primary serves a read only because the session must not see less than it has: once it is known
    /// how much that is, standbys may serve it again.
    pub stands_in: bool,
    /// Why the connection could not be given the session's settings.
    pub apply_error: Option<(SqlState, String)>,
    /// DISCARD ALL has failed.
    pub is_unwiped: bool,
    /// Somebody has had the connection before.
    pub was_lent: bool,
    pub login_right: Option<bool>,
    /// The client was sent the FATAL with which the server ends the connection.
    pub told_fatal: bool,
    pub unconfirmed: Unconfirmed,
    /// Since when this node may not use the primary, although it is one still: see `suspended`.
    pub suspended_since_ms: Option<u64>,
    /// The server has said something since then.
    pub unheard: bool,
}

/// The question for the session's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingsAsked {
    pub tries: u8,
    pub failed: bool,
    /// Bytes of what was told so far.
    pub told: usize,
    /// It holds what is not UTF-8, and so cannot be given to another connection.
    pub unreadable: bool,
}

/// Which questions are to be asked anew, and how often that was done already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unanswered {
    pub floor: bool,
    pub pins: bool,
    pub tries: u8,
}

/// Whether a commit was made without the guarantee that its completion stands for: see `outbound`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unconfirmed {
    #[default]
    No,
    /// The server has said so; the completion is still to come.
    Commit,
    /// The client was told instead of the completion; up to ReadyForQuery it hears no more.
    Told,
}

impl Lease {
    /// Whether this node may use the server: a primary only in its epoch, and only while this node has its lease.
    pub fn standing(&self, right: &WriteRight) -> Standing {
        match self.is_standby {
            true => Standing::Good,
            false => right.standing(self.conn.epoch, now_ms),
        }
    }

    /// The client has begun to see the answer: the request cannot be asked again elsewhere.
    pub fn forget_request(&mut self) {
        if !self.retained.is_empty() {
            self.retained.clear();
            self.retained.shrink_to(KEPT_ROOM);
            self.undo = Vec::new();
        }
    }

    /// What the server says now may reach the client.
    pub fn is_heard(&self) -> bool {
        !self.redirect && self.unconfirmed != Unconfirmed::Told
    }

    /// It is still being prepared: nothing of the client's was sent there yet.
    pub fn is_unused(&self) -> bool {
        self.preparing_since_ms.is_some() && self.request.is_some()
    }

    /// See `is_complete`.
    pub fn note_complete_request(&mut self) {
        self.is_complete = self.is_standby || !self.retained.is_empty();
    }

    /// The client has got the first part of a message that the server did not send to its end.
    pub fn has_cut_message(&self) -> bool {
        self.server_passing > 0 && self.passed > self.marked
    }

    /// Of such a message nothing may have gone to the client yet.
    pub fn take_back_cut_message(&mut self) {
        if self.server_passing > 0 && !self.has_cut_message() {
            self.marked -= self.passed;
            self.server_passing = 0;
        }
    }

    /// Only the server can change what there is to do: no byte waits for anyone, and nothing of ours is under way.
    pub fn is_still(&self) -> bool {
        let conn = &self.conn;
        conn.output.is_empty()
            && !conn.unflushed
            && conn.input.is_empty()
            && !self.ours_first
            && !self.redirect
            && self.preparing_since_ms.is_none()
    }

    /// All that was sent is answered, and the answers have come to their end.
    pub fn is_answered(&self) -> bool {
        self.conn.expected.is_answered() && self.server_passing == 0
    }

    /// Nothing is under way in either direction.
    pub fn is_quiet(&self) -> bool {
        self.conn.expected.is_empty() && self.conn.output.is_empty() && self.marked == 0
    }
}

/// A read, or what begins a transaction: whatever of it was done is nothing once its connection is lost.
fn may_be_asked_again(request: &Request, is_standby: bool) -> bool {
    if is_standby {
        return !request.opening.opens;
    }
    let begins = |analyzed: &Arc<Analyzed>| matches!(analyzed.analysis.kind, StatementKind::Begin(_));
    let is_harmless = match &request.decisive {
        Some(decisive) => request.class == Class::Read || begins(decisive),
        None => false,
    };
    is_harmless && Pins::from_effects(request.effects).is_empty()
}

impl Session {
    /// Takes the connection over, and asks for whatever it lacks.
    pub(super) fn begin_lease(
        &mut self,
        mut conn: Box<ServerConn>,
        pool: Arc<Pool>,
        request: Request,
        is_standby: bool,
        wait: Wait,
    ) -> Result<(), End> {
        self.handle.begins(pool.key.server, pool.key.epoch);
        self.look_at_topology();
        let chosen = (Some(pool.key.server), pool.key.epoch);
        let is_changed = match is_standby {
            true => !self.may_serve(pool.key.server, true),
            false => (self.topology.primary, self.topology.epoch) != chosen,
        };
        if is_changed {
            // It was to be used for this when it was chosen.
            pool.release(conn);
            return self.begin_request_since(request, wait, true);
        }
        if !is_standby && conn.in_hot_standby {
            // Its name led to a server that is no primary, or no more; or it was none when it said so.
            let is_new = now_ms().saturating_sub(conn.opened_at_ms) < SAID_JUST_NOW_MS;
            pool.discard(conn);
            if !is_new {
                return self.begin_request_since(request, wait, true);
            }
            self.gateway.looks.all();
            self.hold_for_primary(request, wait, Reason::PrimaryDemoted);
            return Ok(());
        }
        let idled = coarse_ms().saturating_sub(conn.idle_since_ms);
        let mut ours_first = false;
        if conn.leftover_of.is_some_and(|session| session != self.id) {
            conn.wipe();
            // It may fail, by a timeout that was left there for instance.
            ours_first = true;
        } else if ![self.id, SessionId::NONE].contains(&conn.last_session) {
            conn.foreign_sequences = true;
        }
        if conn.settings.hash() != self.settings.hash() {
            let present = conn.settings.clone();
            for change in self.settings.changes_from(&present) {
                let parameters = [Some(change.name.as_bytes()), change.value.map(str::as_bytes)];
                conn.ask_without_sync(Question::Apply, OwnStatement::Apply, &parameters);
            }
            conn.push_sync(Question::Apply);
            conn.settings = self.settings.clone();
            ours_first = true;
        } else if idled >= self.settled.config.pool.check_after_idle_ms {
            conn.push_sync(Question::Liveness);
            ours_first = true;
        }
        let was_lent = std::mem::replace(&mut conn.was_lent, true);
        conn.last_session = self.id;
        conn.forgets = !self.settled.config.failover.mode.is_redshift();
        self.slot.lease_began(&conn.cancel);
        self.note_route(&conn, &request, is_standby);
        let stands_in = !is_standby
            && matches!(
                self.route_reason,
                Some(
                    DecisionReason::FloorPending
                        | DecisionReason::FloorNotReached
                        | DecisionReason::NotMonotonic
                )
            );
        let retained = std::mem::take(&mut conn.room);
        let mut lease = Lease {
            conn,
            pool,
            marked: 0,
            server_passing: 0,
            passed: 0,
            ours_first,
            preparing_since_ms: ours_first.then(coarse_ms),
            retained,
            untaken: 0,
            held_from: 0,
            undo: Vec::new(),
            request: None,
            is_standby,
            is_complete: false,
            redirect: false,
            parameters: 0,
            collected: Vec::new(),
            settings_asked: None,
            unanswered: Unanswered::default(),
            settings_unread: false,
            discarded: false,
            stands_in,
            apply_error: None,
            is_unwiped: false,
            was_lent,
            login_right: None,
            told_fatal: false,
            unconfirmed: Unconfirmed::No,
            suspended_since_ms: None,
            unheard: false,
        };
        let may_come_back =
            may_be_asked_again(&request, is_standby) || !is_standby && self.may_be_refused(&request);
        if request.whole && self.may_ask_again() && may_come_back {
            lease.retained.extend_from_slice(&self.input.bytes()[..request.len]);
            lease.untaken = request.len;
        }
        lease.request = Some(request);
        self.lease = Some(lease);
        self.force_primary = false;
        if std::mem::take(&mut self.writes_after_all) {
            self.transaction.wrote();
        }
        if !ours_first {
            self.tell_what_differs();
        }
        if let Some(lease) = &mut self.lease {
            lease.held_from = self.to_client.len();
        }
        Ok(())
    }

    /// Makes the connection, which this session keeps, what the session's settings now say.
    pub(super) fn apply_settings(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        let present = lease.conn.settings.clone();
        for change in self.settings.changes_from(&present) {
            let parameters = [Some(change.name.as_bytes()), change.value.map(str::as_bytes)];
            lease.conn.ask_without_sync(Question::Apply, OwnStatement::Apply, &parameters);
        }
        lease.conn.push_sync(Question::Apply);
        lease.conn.settings = self.settings.clone();
        lease.ours_first = true;
        lease.preparing_since_ms = Some(now_ms());
        // It was answered: whatever becomes of this, it is not to be sent again.
        lease.request = None;
    }

    /// Brings the client's picture of the server's parameters up to date with this server connection.
    pub(super) fn tell_what_differs(&mut self) {
        let Some(lease) = &self.lease else { return };
        if lease.conn.reported.hash() == self.believed.hash() {
            return;
        }
        let reported = lease.conn.reported.clone();
        self.unmark();
        for (name, value) in reported.iter() {
            if report(&mut self.believed, name, value) {
                message::parameter_status(&mut self.to_client, name, value);
            }
        }
        // Sharing one value keeps the next comparison, and the memory of many sessions, small.
        if self.believed.hash() == reported.hash() {
            self.believed = reported;
        }
    }

    /// The connection did not become what the session needs in time.
    pub(super) fn is_preparing_too_long(&self) -> bool {
        let waiting = self.lease.as_ref().filter(|lease| lease.suspended_since_ms.is_none());
        waiting
            .and_then(|lease| lease.preparing_since_ms)
            .is_some_and(|since_ms| now_ms() >= since_ms + PREPARE_DEADLINE_MS)
    }

    /// Gives the connection back.
    pub(super) fn end_lease(&mut self) {
        if let Some(mut lease) = self.lease.take() {
            self.tally.hand_over(&self.gateway.counters, lease.conn.server);
            lease.forget_request();
            lease.conn.room = lease.retained;
            self.slot.release(&lease.pool, lease.conn);
        }
    }

    /// Throws the connection away.
    pub(super) fn abandon_lease(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.conn.doomed = true;
            lease.conn.is_midway |= self.passing.is_forwarded();
        }
        self.end_lease();
    }
}
