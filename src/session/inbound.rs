//! From the client to the server: each message looked at, renamed where it must be, and sent on.
//!
//! Never waits. Invariant: what is pushed to the connection's expected replies is exactly what is put into
//! its output, in the same order.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::batch::{Batch, Context, Request, Scan};
use super::session::{End, MAX_TO_SERVER, Passing, Session};
use crate::backend::expect::{Owed, Reply};
use crate::net::Buffer;
use crate::route::{Analyzed, Effects, Reading};
use crate::telemetry::labels::QueryClass;
use crate::wire::frame::{HEADER_LEN, Header, header};
use crate::wire::message::{self, TransactionStatus, ready_for_query};

pub(super) const FITS: &str = "a message that came in one frame, with a short name for a name, fits one";

/// What became of the message at the front of the input.
pub(super) enum Step {
    /// Consumed.
    Done,
    /// It is not complete; the input must hold this many bytes.
    NeedMore { room: usize },
    /// It cannot be sent before what is under way is answered.
    Wait,
}

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
            let before = input.len();
            if self.passing.left > 0 {
                let has_room = self.pass(input);
                self.note_taken(before, input);
                if !has_room {
                    return Ok(());
                }
                if self.passing.left == 0 && self.passing.forward {
                    self.passed_on()?;
                }
                continue;
            }
            let step = match &self.lease {
                _ if self.discarding => self.drop_up_to_sync(input)?,
                Some(lease) if lease.ours_first || lease.redirect => return Ok(()),
                Some(lease) if lease.discarded && !lease.conn.expected.has_open_batch() => return Ok(()),
                Some(lease) if lease.is_complete && lease.is_standby => return Ok(()),
                Some(lease) if lease.conn.output.len() > MAX_TO_SERVER => return Ok(()),
                // Much is answered without the server, and it does not take the answers.
                _ if !self.client_keeps_up() => return Ok(()),
                Some(lease) if lease.conn.expected.is_full() => self.wait_for_answers(),
                // Its BEGIN was refused although the connection is kept.
                Some(lease)
                    if self.status == TransactionStatus::Failed
                        && lease.conn.status == TransactionStatus::Idle
                        && lease.is_quiet() =>
                {
                    self.without_server(input)?
                }
                Some(_) => {
                    if self.begins_on_lease(input) && self.is_held_back() {
                        self.hold_back(input)?
                    } else {
                        self.begin_next_of_pipeline();
                        self.send_on(input)?
                    }
                }
                None => self.without_server(input)?,
            };
            self.note_taken(before, input);
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

    /// What is kept of a request may still be in the input, too.
    fn note_taken(&mut self, before: usize, input: &Buffer) {
        if let Some(lease) = &mut self.lease {
            lease.untaken = lease.untaken.saturating_sub(before.saturating_sub(input.len()));
        }
    }

    /// Moves on the body of a message that is not looked at. False when the server must first take more.
    pub(super) fn pass(&mut self, input: &mut Buffer) -> bool {
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

    pub(super) fn drop_message(&mut self, found: Header) -> Step {
        self.passing = Passing { left: found.len, forward: false };
        Step::Done
    }

    pub(super) fn frame(&self, input: &Buffer) -> Result<Option<Header>, End> {
        let limit = self.settled.config.limits.max_message_bytes;
        header(input.bytes(), limit).map_err(|e| End::violation(e.to_string()))
    }

    /// No server connection is held: either the message needs none, or one is asked for.
    fn without_server(&mut self, input: &mut Buffer) -> Result<Step, End> {
        let Some(found) = self.frame(input)? else {
            return Ok(Step::NeedMore { room: HEADER_LEN });
        };
        if self.is_orphaned()
            && let Some(step) = self.answer_orphan(found, input)?
        {
            return Ok(step);
        }
        match found.tag {
            b'X' => return Err(End::Terminated),
            b'S' => {
                require_empty(found)?;
                input.consume(found.len.min(input.len()));
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
            b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' => {}
            other => return Err(unexpected(other)),
        }
        match self.scan(input)? {
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

    /// The client was told that its batch has failed: as with PostgreSQL, the rest of it is ignored, whether a
    /// server connection is held or not.
    fn drop_up_to_sync(&mut self, input: &mut Buffer) -> Result<Step, End> {
        let Some(found) = self.frame(input)? else {
            return Ok(Step::NeedMore { room: HEADER_LEN });
        };
        match found.tag {
            b'X' => Err(End::Terminated),
            b'S' => {
                require_empty(found)?;
                input.consume(found.len.min(input.len()));
                self.discarding = false;
                self.unmark();
                ready_for_query(&mut self.to_client, self.status);
                Ok(Step::Done)
            }
            tag if is_known(tag) => Ok(self.drop_message(found)),
            other => Err(unexpected(other)),
        }
    }

    fn scan(&mut self, input: &Buffer) -> Result<Scan, End> {
        let mut batch = std::mem::take(&mut self.batch);
        let scanned = batch.scan(input, &self.context(!self.identity.session_mode));
        self.batch = batch;
        scanned
    }

    fn context(&self, classify: bool) -> Context<'_> {
        Context {
            database: &self.identity.database,
            settled: &self.settled,
            names: &self.names,
            unnamed: self.unnamed.as_ref(),
            reading: self.believed.reading(),
            classify,
            settings: &self.settings,
        }
    }

    /// Whether a request that is refused was to begin a block of which the client has sent more already. Alone that
    /// would last at once, statement by statement.
    pub(super) fn begins_what_follows(&self, request: &Request) -> bool {
        if !request.whole || self.input.len() <= request.len {
            return false;
        }
        let leaves_open = |request: &Request| request.effects.intersects(Effects::LEAVES_OPEN);
        if !self.identity.session_mode {
            return leaves_open(request);
        }
        let scanned = Batch::default().scan(&self.input, &self.context(true));
        matches!(scanned, Ok(Scan::Request(request)) if leaves_open(&request))
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
        if !matches!(found.tag, b'S' | b'H' | b'X') {
            if expected.is_forgetting() {
                return Ok(self.wait_for_answers());
            }
            if let Some(step) = self.batch_goes_on_elsewhere() {
                return Ok(step);
            }
        }
        let lease = self.lease.as_mut().expect("called with a lease");
        let expected = &lease.conn.expected;
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
                lease.note_complete_request();
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
                self.transaction.note_opaque(false);
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
    pub(super) fn wait_for_answers(&mut self) -> Step {
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

    /// Whether the next message begins something new on the connection to the primary that is held anyway.
    fn begins_on_lease(&self, input: &Buffer) -> bool {
        let Some(lease) = self.lease.as_ref().filter(|lease| !lease.is_standby) else { return false };
        let expected = &lease.conn.expected;
        lease.conn.status == TransactionStatus::Idle
            && !expected.has_open_batch()
            && !expected.is_copy_in()
            && input.bytes().first().is_some_and(|tag| b"QFPBDEC".contains(tag))
    }

    /// Whether nothing new may begin on that server now: it is not the primary any more, or is about to be
    /// none.
    pub(super) fn is_held_back(&mut self) -> bool {
        let Some((server, epoch)) = self.lease.as_ref().map(|lease| (lease.conn.server, lease.conn.epoch))
        else {
            return false;
        };
        self.handle.begins(server, epoch);
        self.look_at_topology();
        (self.topology.primary, self.topology.epoch) != (Some(server), epoch)
    }

    /// Nothing new begins on the connection. It goes back when all is answered, and then the request waits as
    /// any other; a session that is pinned waits with it.
    fn hold_back(&mut self, input: &mut Buffer) -> Result<Step, End> {
        if self.pins.is_empty() || self.lease.as_ref().is_some_and(|lease| !lease.is_quiet()) {
            return Ok(Step::Wait);
        }
        // Messages may have been sent on since it was looked at last.
        self.batch.clear();
        match self.scan(input)? {
            Scan::NeedMore { room } => Ok(Step::NeedMore { room }),
            Scan::Request(request) => {
                self.input = std::mem::take(input);
                self.hold_with_lease(request);
                *input = std::mem::take(&mut self.input);
                Ok(Step::Wait)
            }
        }
    }

    /// The client does not wait for the answer to its request before it sends the next: then neither is asked
    /// again elsewhere, for only the first is kept.
    fn begin_next_of_pipeline(&mut self) {
        if let Some(lease) = &mut self.lease
            && lease.is_complete
            && !lease.is_standby
        {
            lease.forget_request();
            lease.is_complete = false;
        }
    }

    pub(super) fn classify(&mut self, sql: &[u8]) -> Arc<Analyzed> {
        let reading = self.reading();
        match self.batch.next() {
            Some(known) if reading.is_ours(sql) => known,
            _ => self.identity.database.classify(sql, &self.settled, reading),
        }
    }

    /// How the server reads what is sent now. A setting that was sent ahead is reported when it is answered: until then
    /// either may be so. What it takes to make use of it is a backslash, also in a multibyte encoding; or what is beyond
    /// ASCII where that is not UTF-8.
    pub(super) fn reading(&self) -> Reading {
        let reading = self.believed.reading();
        let is_unanswered = || self.lease.as_ref().is_some_and(|lease| !lease.conn.expected.is_empty());
        match self.transaction.may_set_reading && is_unanswered() {
            true => reading.in_doubt(),
            false => reading,
        }
    }
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
