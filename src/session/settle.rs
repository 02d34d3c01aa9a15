//! When a server has answered: what must still be asked before the connection may serve somebody else, and
//! when it goes back.
//!
//! Invariant: a connection goes back only when its transaction is over and every question of ours about it is
//! answered.

use std::io;
use std::sync::Arc;

use super::custom::CustomSettings;
use super::floor::{InvalidToken, TOKEN};
use super::lease::{Lease, SettingsAsked, Unanswered};
use super::pins::{Found, Pins};
use super::prepared::Names;
use super::session::{End, Session};
use crate::backend::conn::{Alike, OwnStatement};
use crate::backend::expect::{Alters, For, Forgets, Outcome, Owed, Question, Reply, Verdict};
use crate::backend::settings::{MAX_SETTINGS, Settings};
use crate::backend::statement::{NameChange, StatementId};
use crate::clock::now_ms;
use crate::cluster::observe::question::end_of_record;
use crate::route::Effects;
use crate::topology::Lsn;
use crate::wire::fields;
use crate::wire::frame::{HEADER_LEN, data_row};
use crate::wire::message::{self, TransactionStatus};
use crate::wire::sqlstate;

/// PostgreSQL's defaults; another segment size costs a floor that is met a little late, never one too low.
const WAL_BLOCK: u64 = 8192;
const WAL_SEGMENT: u64 = 16 * 1024 * 1024;

/// Refused for good once the connection has had temporary tables, whoever made them.
const ONCE_ONLY: &str = "\"temp_buffers\"";

/// How often a question is asked that fails.
const TRIES: u8 = 3;

const SETTINGS_UNREAD: &str = "terminating connection: what the session has set could not be read from the \
                               server, so that another server connection cannot be given it; reconnect";

const SETTINGS_UNREADABLE: &str = "terminating connection: it has set a value that is not ASCII with a \
                                   client_encoding other than UTF8, which another server connection cannot be \
                                   given; set it in UTF8";

/// An unnamed statement that is nobody's for certain.
pub(super) const UNKNOWN_UNNAMED: u64 = u64::MAX;

impl Session {
    /// Matches a message of the server's with what is owed, and settles what it pays.
    /// None: it is a violation, and the connection that it came by is gone.
    pub(super) fn judge(&mut self, tag: u8) -> Result<Option<Verdict>, End> {
        let Some(lease) = &mut self.lease else { return Ok(None) };
        match lease.conn.expected.on_message(tag) {
            Ok((verdict, Outcome::Open)) => Ok(Some(verdict)),
            Ok((verdict, outcome)) => {
                self.settle_owed(outcome);
                Ok(Some(verdict))
            }
            Err(error) => self.server_violation(error.to_string()).map(|()| None),
        }
    }

    fn settle_owed(&mut self, outcome: Outcome) {
        let Some(lease) = &mut self.lease else { return };
        let conn = &mut *lease.conn;
        let mut settling = Settling::new(&mut self.names);
        if !lease.retained.is_empty() {
            settling.undo = Some(&mut lease.undo);
        }
        outcome.for_each(|owed, done| settling.settle(owed, done));
        let Settling {
            forgotten,
            doom,
            unnamed,
            forgot,
            not_forgot,
            unaltered,
            keeps_sequences,
            undescribed,
            ..
        } = settling;
        self.transaction.not_altered(unaltered);
        forgotten.into_iter().for_each(|id| conn.known.not_parsed(id));
        undescribed.into_iter().for_each(|id| conn.known.is_alike(id, Alike::Unknown));
        if keeps_sequences {
            conn.sequences_kept();
        }
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
        if let Some(forgets) = not_forgot {
            self.doom_if_forgotten(forgets);
        }
        if let Some(forgets) = forgot {
            self.forget(forgets);
        }
    }

    /// The server has done what makes it forget.
    fn forget(&mut self, forgets: Forgets) {
        let Some(lease) = &mut self.lease else { return };
        let conn = &mut *lease.conn;
        match forgets {
            Forgets::Everything => {
                // The unnamed statement is not among what it discards.
                let unnamed = conn.unnamed;
                conn.forget_everything();
                conn.unnamed = unnamed;
                lease.discarded = true;
                lease.settings_unread = false;
                self.names.clear();
                self.settings = self.startup_settings.clone();
                let done = &mut self.transaction;
                const DISCARDED: Effects = Effects::CHANGES_SETTINGS.union(Effects::UNKNOWN_EFFECTS);
                done.effects = done.effects.without(DISCARDED);
                done.hidden_state = false;
            }
            Forgets::Statements { .. } => {
                conn.forget_statements();
                self.names.clear();
            }
            // They are asked for when the transaction ends, and put back.
            Forgets::Settings => {}
        }
    }

    /// It has failed, or was skipped.
    fn doom_if_forgotten(&mut self, forgets: Forgets) {
        let Some(lease) = &mut self.lease else { return };
        lease.conn.doomed |= match forgets {
            // In a transaction block it is refused.
            Forgets::Everything => !self.transaction.effects.intersects(Effects::BEGINS),
            Forgets::Statements { among_others } => among_others,
            Forgets::Settings => false,
        };
    }

    /// A row, or an error, of a question of ours.
    pub(super) fn answered(&mut self, question: Question, tag: u8, len: usize) {
        let Some(lease) = &mut self.lease else { return };
        let body = &lease.conn.input.bytes()[lease.marked + HEADER_LEN..lease.marked + len];
        if tag == b'E' {
            let state = fields::sqlstate(body);
            let text =
                fields::field(body, b'M').map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            lease.conn.doomed |= !is_asked_again(question);
            let span = self.identity.span(self.id);
            tracing::warn!(parent: &span, ?question, %state, text, "a question of komainu's own failed");
            match (question, &mut lease.settings_asked) {
                (Question::Reset, _) => lease.is_unwiped = true,
                // What fails by what was left there, or by a cancel, may succeed on another connection.
                (Question::Apply, _) if lease.was_lent && text.contains(ONCE_ONLY) => {}
                (Question::Apply, _) if !lease.is_unwiped && state != sqlstate::QUERY_CANCELED => {
                    lease.apply_error = Some((state, text));
                }
                (Question::Settings, Some(asked)) => asked.failed = true,
                (Question::Floor, _) => lease.unanswered.floor = true,
                (Question::Pins, _) => lease.unanswered.pins = true,
                _ => {}
            }
            return;
        }
        let columns = data_row(body);
        let column = |i: usize| columns.get(i).copied().flatten().and_then(|v| std::str::from_utf8(v).ok());
        if matches!(question, Question::Floor | Question::Pins) {
            lease.unanswered.tries = 0;
        }
        match question {
            Question::Floor => {
                let position = match self.settled.floor {
                    // A position behind a page's header is one no standby reports until there is more.
                    OwnStatement::Floor => column(0)
                        .and_then(|text| text.parse::<Lsn>().ok())
                        .map(|lsn| end_of_record(lsn, WAL_BLOCK, WAL_SEGMENT)),
                    _ => column(0).and_then(|text| text.parse().ok()).map(Lsn),
                };
                if let Some(lsn) = position
                    && self.floor.raise(lease.conn.epoch, lsn)
                {
                    self.gateway.counters.floor_lowered();
                }
                // A write behind the one for which it was asked is under way.
                self.floor.pending |= self.transaction.may_write && !self.transaction.floor_asked;
            }
            Question::Settings => {
                let Some(asked) = &mut lease.settings_asked else { return };
                asked.told += body.len();
                match (column(0), column(1)) {
                    (Some(name), Some(value)) if asked.told <= MAX_SETTINGS => {
                        lease.collected.push((name.to_ascii_lowercase().into(), value.into()));
                    }
                    (Some(_), Some(_)) => {}
                    // Its own role may be called so, which the question could not tell in this client_encoding.
                    (Some("session_authorization"), None) => {}
                    _ => asked.unreadable = true,
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
    pub(super) fn ready(&mut self) -> Result<(), End> {
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
            if conn.expected.is_empty() {
                self.transaction.begin_anew();
            }
            return Ok(());
        }
        if self.transaction.alters > 0 {
            // What was answered lasts by now; the rest counts once it is.
            let unanswered = conn.expected.altering().min(self.transaction.alters);
            if self.transaction.alters > unanswered {
                self.gateway.schema_changed(&self.identity.database);
            }
            self.transaction.alters = unanswered;
        }
        if conn.expected.owes_client() || lease.ours_first || lease.redirect || self.passing.is_forwarded() {
            lease.settings_unread |= self.transaction.effects.intersects(Effects::CHANGES_SETTINGS);
            if !lease.ours_first {
                // What was pinned by what is answered lasts, whatever becomes of the rest.
                self.transaction.pinned = Pins::default();
            }
            return Ok(());
        }
        let done = &self.transaction;
        let effects = done.effects;
        // Where nothing can be written it was only read, whatever it was.
        let may_have_written = done.may_write && !lease.is_standby;
        let mut asks_floor = may_have_written && tracks_floor && !done.floor_asked;
        if tracks_floor && !may_have_written && (done.ran || done.may_write) {
            self.floor.read_from(conn.epoch, conn.server, now_ms());
            // Else a session that reads more often than servers are looked at never leaves the primary.
            // Not while no standby has even what the session wrote: the answer would only be too old.
            asks_floor = is_worth_asking;
        }
        // What follows on this connection before the position is known is read here too.
        lease.stands_in |= may_have_written;
        if may_have_written && tracks_floor && self.settled.window_ms > 0 {
            self.floor.wrote_at_ms = Some(now_ms());
        }
        if self.settled.config.failover.mode.is_redshift() {
            self.end_unasked();
            return Ok(());
        }
        let unseen = effects.intersects(Effects::CHANGES_SETTINGS)
            && self.custom.as_ref().is_some_and(|custom| custom.unseen);
        if done.hidden_state || unseen || !self.pins.is_empty() {
            conn.leftover_of = Some(self.id);
        }
        if effects.intersects(Effects::CHANGES_SETTINGS | Effects::UNKNOWN_EFFECTS) {
            let custom = self.custom.as_deref();
            ask_for_settings(lease, 1, &self.identity.user, &self.settings, custom);
        }
        let conn = &mut *lease.conn;
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
            conn.ask(Question::Floor, self.settled.floor, &[]);
            lease.ours_first = true;
        }
        lease.settings_unread = false;
        self.transaction.end();
        Ok(())
    }

    /// A message has gone to its end. If a COPY has failed in the middle of it, ReadyForQuery came before that.
    pub(super) fn passed_on(&mut self) -> Result<(), End> {
        match self.transaction.ran && self.lease.as_ref().is_some_and(|lease| lease.conn.expected.is_empty())
        {
            true => self.ready(),
            false => Ok(()),
        }
    }

    /// What there is to do once nothing is under way: the connection has become what we need, a refused
    /// read is asked again, or the connection goes back.
    pub(super) fn settle(&mut self) -> Result<bool, End> {
        let Some(lease) = &mut self.lease else { return Ok(false) };
        if !lease.conn.expected.is_empty() || !lease.conn.output.is_empty() || self.passing.is_forwarded() {
            return Ok(false);
        }
        if lease.preparing_since_ms.take().is_some() {
            lease.ours_first = false;
            if let Some((state, text)) = lease.apply_error.take() {
                let Some(request) = lease.request.take() else {
                    // The session is not told of what it did not ask for; but it may have pinned the connection.
                    return self.server_gone(io::ErrorKind::UnexpectedEof.into()).map(|()| true);
                };
                let was_standby = lease.is_standby;
                self.abandon_lease();
                if was_standby {
                    // It may not have replayed the role, or takes no SERIALIZABLE.
                    self.force_primary = true;
                    return self.begin_request(request).map(|()| true);
                }
                self.refuse(&request, &message::Report::error(state, &text));
                return Ok(true);
            }
            if lease.conn.doomed {
                // What another session left on it could not be wiped.
                let Some(request) = lease.request.take() else {
                    return self.server_gone(io::ErrorKind::UnexpectedEof.into()).map(|()| true);
                };
                self.abandon_lease();
                return self.begin_request(request).map(|()| true);
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
        if let Some(asked) = lease.settings_asked.take() {
            if asked.failed {
                return self.read_settings_again(asked.tries);
            }
            self.take_settings(asked)?;
        }
        if self.asks_anew() {
            return Ok(true);
        }
        self.unpin_long_statement();
        let Some(lease) = &mut self.lease else { return Ok(false) };
        let was_discarded = std::mem::take(&mut lease.discarded);
        let is_idle = lease.conn.status == TransactionStatus::Idle;
        if is_idle && !lease.conn.doomed && lease.conn.settings.hash() != self.settings.hash() {
            self.apply_settings();
            return Ok(true);
        }
        let Some(lease) = &mut self.lease else { return Ok(false) };
        let was_ours = std::mem::take(&mut lease.ours_first) | was_discarded;
        if lease.is_standby && is_idle && !self.pins.is_empty() {
            self.leave_pins_behind();
        }
        let Some(lease) = &mut self.lease else { return Ok(false) };
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

    /// Asks again what was not answered. In the end a position that stays unknown only keeps reads on the primary; but what
    /// is left on a connection must be known.
    fn asks_anew(&mut self) -> bool {
        let Some(lease) = &mut self.lease else { return false };
        let Unanswered { floor, pins, tries } = lease.unanswered;
        if !floor && !pins || lease.conn.status != TransactionStatus::Idle {
            return false;
        }
        if tries >= TRIES {
            lease.conn.doomed |= pins || self.pins.is_empty();
            lease.unanswered = Unanswered::default();
            return false;
        }
        lease.unanswered = Unanswered { tries: tries + 1, ..Unanswered::default() };
        if pins {
            lease.conn.forget_own(Question::Pins, OwnStatement::Pins);
            lease.conn.ask(Question::Pins, OwnStatement::Pins, &[]);
        }
        if floor {
            lease.conn.forget_own(Question::Floor, self.settled.floor);
            lease.conn.ask(Question::Floor, self.settled.floor, &[]);
        }
        lease.ours_first = true;
        true
    }

    /// What the session has set is known now.
    fn take_settings(&mut self, asked: SettingsAsked) -> Result<(), End> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let mut collected = std::mem::take(&mut lease.collected);
        if asked.told > MAX_SETTINGS || asked.unreadable {
            if self.identity.session_mode {
                // No other connection will have to be given it.
                lease.conn.leftover_of = Some(self.id);
                return Ok(());
            }
            lease.conn.doomed = true;
            return Err(match asked.unreadable {
                true => End::fatal(sqlstate::ADMIN_SHUTDOWN, SETTINGS_UNREADABLE),
                false => self.too_many_settings(),
            });
        }
        let present = Settings::new(collected.clone());
        let token = collected.iter().position(|(name, _)| **name == *TOKEN);
        let token = token.map(|at| collected.swap_remove(at).1);
        // RESET goes back to what the session began with, which the server connection does not know;
        // and the connection has the token until it is made to fit again: the session does not keep it.
        self.settings = Arc::new(Settings::new(collected).over(&self.startup_settings));
        lease.conn.settings = Arc::new(present);
        if let Some(token) = token {
            self.take_token(&token);
        }
        Ok(())
    }

    /// A cancel that came late, or a timeout that the session has set, has ended the question. What it would have
    /// told must not be lost in silence.
    fn read_settings_again(&mut self, tries: u8) -> Result<bool, End> {
        let Some(lease) = &mut self.lease else { return Ok(false) };
        if tries < TRIES {
            lease.conn.forget_own(Question::Settings, OwnStatement::Settings);
            let custom = self.custom.as_deref();
            ask_for_settings(lease, tries + 1, &self.identity.user, &self.settings, custom);
            return Ok(true);
        }
        if self.identity.session_mode {
            // As in `take_settings`.
            lease.conn.leftover_of = Some(self.id);
            return Ok(true);
        }
        lease.conn.doomed = true;
        Err(End::fatal(sqlstate::ADMIN_SHUTDOWN, SETTINGS_UNREAD))
    }

    /// Every other server connection would have to be given them. This one has what nobody else is to meet.
    pub(super) fn too_many_settings(&mut self) -> End {
        if let Some(lease) = &mut self.lease {
            lease.conn.doomed = true;
        }
        let message =
            format!("terminating connection: its settings are longer than {MAX_SETTINGS} bytes in all");
        End::fatal(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
    }

    /// The session has set `komainu.token`: see [`super::floor`].
    pub(super) fn take_token(&mut self, token: &str) {
        if self.floor.take_token(token).is_ok() {
            return;
        }
        // A plain SET is checked before it is sent; `set_config` and texts of several statements are not,
        // and theirs is done already.
        let message = format!("parameter \"{TOKEN}\" was set to {token:?}, which is ignored: {InvalidToken}");
        self.notify_client(&message::Report::warning(sqlstate::INVALID_PARAMETER_VALUE, &message));
    }
}

fn ask_for_settings(
    lease: &mut Lease,
    tries: u8,
    user: &str,
    present: &Settings,
    custom: Option<&CustomSettings>,
) {
    lease.collected.clear();
    let custom = CustomSettings::array(custom, present.iter().map(|(name, _)| name));
    let parameters = [Some(user.as_bytes()), Some(custom.as_bytes())];
    lease.conn.ask(Question::Settings, OwnStatement::Settings, &parameters);
    lease.settings_asked = Some(SettingsAsked { tries, failed: false, told: 0, unreadable: false });
    lease.settings_unread = false;
    lease.ours_first = true;
}

/// A cancel that came late, or a timeout that the session has set, may end a question, which costs nobody anything:
/// it is asked again.
fn is_asked_again(question: Question) -> bool {
    matches!(question, Question::Settings | Question::Floor | Question::Pins)
}

/// Whether the connection is not what we believe it to be once this has failed: a question was skipped, or the server
/// still knows what it should have forgotten.
pub(super) fn is_relied_upon(owed: &Owed) -> bool {
    match owed.audience {
        // What is asked anew is so from its Parse on.
        For::Us(question) => !is_asked_again(question),
        For::Prelude | For::Ahead => {
            owed.reply == Reply::CloseComplete && !owed.discards && owed.learns.is_none()
        }
        For::Client => false,
    }
}

/// What settling replies changes.
pub(super) struct Settling<'a> {
    names: &'a mut Names,
    forgotten: Vec<StatementId>,
    doom: bool,
    /// Unnamed statements that were not parsed after all; `None`: what would have ended one did not succeed.
    unnamed: Vec<(Option<u64>, For)>,
    /// What the server was made to forget, or was to be.
    forgot: Option<Forgets>,
    not_forgot: Option<Forgets>,
    /// How many messages have not changed the schema.
    unaltered: u32,
    keeps_sequences: bool,
    /// Statements that the server has not described.
    undescribed: Option<StatementId>,
    /// Where changes that were made go, while the request may still have to be asked again.
    undo: Option<&'a mut Vec<NameChange>>,
}

impl<'a> Settling<'a> {
    pub(super) fn new(names: &'a mut Names) -> Self {
        Settling {
            names,
            forgotten: Vec::new(),
            doom: false,
            unnamed: Vec::new(),
            forgot: None,
            not_forgot: None,
            unaltered: 0,
            keeps_sequences: false,
            undescribed: None,
            undo: None,
        }
    }

    pub(super) fn settle(&mut self, owed: Owed, succeeded: bool) {
        if succeeded {
            // At most one: what is sent behind it waits for it.
            self.forgot = owed.forgets;
            if let (Some(undo), Some(change)) = (&mut self.undo, owed.change) {
                undo.push(*change);
            }
            return;
        }
        if matches!(owed.reply, Reply::Query | Reply::CloseComplete) || owed.unnamed.is_some() {
            self.unnamed.push((owed.unnamed, owed.audience));
        }
        self.unaltered += u32::from(owed.alters == Some(Alters::Whole));
        self.keeps_sequences |= owed.discards;
        if owed.audience == For::Prelude {
            self.undescribed = self.undescribed.or(owed.describes.as_ref().map(|prepared| prepared.id));
        }
        self.doom |= is_relied_upon(&owed);
        self.not_forgot = self.not_forgot.take().or(owed.forgets);
        self.forgotten.extend(owed.learns);
        if let Some(change) = owed.change {
            self.names.undo(*change);
        }
    }
}
