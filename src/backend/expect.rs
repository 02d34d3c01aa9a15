//! The replies a server still owes, in order, and who each is for.
//!
//! Owns the one fact a pooler must never get wrong: which message of a server answers which message of
//! a client. Pure. Invariant: when `is_empty`, the server has nothing more to say about anything
//! it was sent, so another session may use the connection.
//!
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>: after an
//! error in the extended protocol a server skips everything up to the next Sync.

use std::collections::VecDeque;
use std::sync::Arc;

use super::statement::{NameChange, Prepared, StatementId, kept};

/// Replies that may be owed before the client is not heard any more: 400 kB of memory. A pipeline that is longer
/// flows no slower for it.
const MAX_OWED: usize = 8192;

/// What a sent message will be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    ParseComplete,
    BindComplete,
    CloseComplete,
    /// RowDescription or NoData, with a ParameterDescription before it for a statement.
    Description,
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended; or a COPY.
    Execution,
    /// ReadyForQuery.
    Sync,
    /// All that a simple Query answers, up to ReadyForQuery.
    Query,
    /// FunctionCallResponse and ReadyForQuery.
    FunctionCall,
    /// We answer it ourselves when its turn comes: ParseComplete.
    OwnParseComplete,
    /// We answer it ourselves when its turn comes: CloseComplete.
    OwnCloseComplete,
}

/// Who sent the message, so who reads the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    Client,
    /// Put before a client's message to make it work (a Parse the client sent to another server):
    /// its success is nobody's business, its error is the client's.
    Prelude,
    /// The same before a simple Query, with a Sync of its own behind it, or the server would not hear the Query
    /// after an error. Its error is kept: the Query fails by it.
    Ahead,
    /// A question of ours; rows are handed to whoever asked.
    Us(Question),
}

/// What komainu asks a server on a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The WAL insert position behind a write.
    Floor,
    /// Which settings the session now has.
    Settings,
    /// What still pins the session.
    Pins,
    /// Make the connection as this session left its last one.
    Apply,
    /// Wipe what another session may have left.
    Reset,
    /// Whether the connection lives.
    Liveness,
    /// Whether the role may still log in.
    LoginRight,
    /// End the transaction of a client that left.
    Rollback,
}

/// What the server knows no more once a message of the client's has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgets {
    /// DISCARD ALL.
    Everything,
    /// DEALLOCATE ALL. Among other statements it may have been executed although the text fails.
    Statements { among_others: bool },
    /// What a session began with, by a RESET: the server goes back to what its connection began with.
    Settings,
}

/// What a message of the client's may do to the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alters {
    /// Nothing, if it fails.
    Whole,
    /// Of its statements some may last although it fails: it may end a transaction between them.
    InParts,
}

#[derive(Debug)]
pub struct Owed {
    pub reply: Reply,
    pub audience: For,
    /// The statement the server knows once this succeeds; or which this closes, to be parsed anew behind it.
    pub learns: Option<StatementId>,
    /// What this did to the session's names, to be undone if the server skips it.
    pub change: Option<Box<NameChange>>,
    /// The unnamed statement that the server has once this succeeds.
    pub unnamed: Option<u64>,
    /// What the client is told, should this fail because the server does not know a statement: the body of an
    /// ErrorResponse.
    pub instead: Option<Box<[u8]>>,
    pub forgets: Option<Forgets>,
    pub alters: Option<Alters>,
    /// Part of what makes the connection forget the sequence values of another session: it has them still if this fails.
    pub discards: bool,
    /// The statement that is described, where that matters later.
    pub describes: Option<Arc<Prepared>>,
}

impl Owed {
    pub fn client(reply: Reply) -> Self {
        Owed {
            reply,
            audience: For::Client,
            learns: None,
            change: None,
            unnamed: None,
            instead: None,
            forgets: None,
            alters: None,
            discards: false,
            describes: None,
        }
    }

    pub fn before(reply: Reply, audience: For) -> Self {
        Owed { audience, ..Owed::client(reply) }
    }

    pub fn us(reply: Reply, question: Question) -> Self {
        Owed::before(reply, For::Us(question))
    }

    pub fn parses_unnamed(mut self, id: u64) -> Self {
        self.unnamed = Some(id);
        self
    }

    pub fn prelude(reply: Reply) -> Self {
        Owed::before(reply, For::Prelude)
    }

    /// Its reply is the client's, whoever gives it, and not an answer to a question of ours.
    fn is_clients(&self) -> bool {
        !matches!(self.audience, For::Us(_))
    }

    /// It is answered with ReadyForQuery.
    pub fn ends_batch(&self) -> bool {
        matches!(self.reply, Reply::Sync | Reply::Query | Reply::FunctionCall)
    }

    pub fn forgets(mut self, what: Forgets) -> Self {
        self.forgets = Some(what);
        self
    }

    pub fn alters(mut self, how: Option<Alters>) -> Self {
        self.alters = how;
        self
    }

    fn is_unsettled(&self) -> bool {
        self.learns.is_some() || self.change.is_some()
    }
}

/// What to do with a message of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Forward,
    Swallow,
    /// A row, or an error, that answers a question of ours.
    Answer(Question),
    /// An error that is to be said of the Query behind it.
    Keep,
    /// An error, in whose place the client may have to be told something else: see `take_instead`.
    Instead,
}

/// What a message of the server means for what is owed.
#[derive(Debug)]
pub enum Outcome {
    /// There is more to come, as after most messages.
    Open,
    Finished {
        owed: Owed,
        succeeded: bool,
    },
    /// By an error. Last first, so that undoing them in turn restores the past.
    Skipped(Vec<Owed>),
}

impl Outcome {
    /// Each of them, and whether it succeeded.
    pub fn for_each(self, mut settle: impl FnMut(Owed, bool)) {
        match self {
            Outcome::Open => {}
            Outcome::Finished { owed, succeeded } => settle(owed, succeeded),
            Outcome::Skipped(all) => all.into_iter().for_each(|owed| settle(owed, false)),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent message {tag:?} when {expected} was due")]
pub struct UnexpectedMessage {
    pub tag: char,
    pub expected: &'static str,
}

#[derive(Debug, Default)]
pub struct ExpectedReplies {
    owed: VecDeque<Owed>,
    /// How many of them change what statements there are.
    unsettled: usize,
    /// How many of them make the server forget something.
    forgetting: usize,
    /// An error came and no Sync was sent yet: the server ignores all until it is.
    skipping: bool,
    /// The server waits for CopyData.
    copy_in: bool,
    /// The simple Query at the front has failed; its ReadyForQuery is still to come.
    query_failed: bool,
    /// One of its statements is done.
    query_begun: bool,
    /// Messages of the extended protocol were sent that no Sync has followed yet: even when all of them are
    /// answered, their transaction is open.
    open_batch: bool,
    /// Nothing was sent since the server was told to say what it has to say.
    flushed: bool,
    /// Of the message that was judged last.
    instead: Option<Box<[u8]>>,
}

impl ExpectedReplies {
    pub fn is_empty(&self) -> bool {
        self.is_answered() && !self.open_batch
    }

    /// Whatever was sent is answered; but the transaction of a batch without its Sync may be open.
    pub fn is_answered(&self) -> bool {
        self.owed.is_empty() && !self.skipping
    }

    /// A Sync is missing.
    pub fn has_open_batch(&self) -> bool {
        self.open_batch
    }

    /// Whether the server must be told to flush before its answers can be waited for; true once.
    pub fn must_flush(&mut self) -> bool {
        self.open_batch && !self.owed.is_empty() && !std::mem::replace(&mut self.flushed, true)
    }

    /// Whether what the name means depends on answers still to come.
    pub fn may_change(&self, name: &[u8]) -> bool {
        let name = kept(name);
        self.owed.iter().any(|owed| owed.change.as_ref().is_some_and(|change| change.concerns(name)))
    }

    /// Whether a COPY from the client may be about to begin.
    pub fn may_begin_copy(&self) -> bool {
        self.owed
            .iter()
            .any(|owed| owed.audience == For::Client && matches!(owed.reply, Reply::Query | Reply::Execution))
    }

    /// Whether that question of ours is still to be answered.
    pub fn asks(&self, question: Question) -> bool {
        self.owed.iter().any(|owed| owed.audience == For::Us(question))
    }

    /// The server ignores whatever is sent until a Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    pub fn is_copy_in(&self) -> bool {
        self.copy_in
    }

    /// CopyDone or CopyFail was sent.
    pub fn copy_in_ended(&mut self) {
        self.copy_in = false;
    }

    /// So much is owed that nothing more should be sent before some of it was answered.
    pub fn is_full(&self) -> bool {
        self.owed.len() >= MAX_OWED && !self.copy_in
    }

    /// Something was sent that `owed` will answer.
    pub fn push(&mut self, owed: Owed) {
        match owed.reply {
            Reply::Sync => (self.skipping, self.open_batch) = (false, false),
            Reply::Query | Reply::FunctionCall => self.open_batch = false,
            // Nothing is sent for these.
            Reply::OwnParseComplete | Reply::OwnCloseComplete => {}
            _ => self.open_batch = true,
        }
        self.unsettled += usize::from(owed.is_unsettled());
        self.forgetting += usize::from(owed.forgets.is_some());
        self.flushed = false;
        self.owed.push_back(owed);
    }

    /// How many of the messages that may change the schema are still to be answered.
    pub fn altering(&self) -> u32 {
        self.owed.iter().map(|owed| u32::from(owed.alters.is_some())).sum()
    }

    /// Whether something was sent that makes the server forget: what is sent behind it depends on how that fares.
    pub fn is_forgetting(&self) -> bool {
        self.forgetting > 0
    }

    fn no_more_owed(&mut self, owed: &Owed) {
        self.unsettled -= usize::from(owed.is_unsettled());
        self.forgetting -= usize::from(owed.forgets.is_some());
    }

    /// Something sent before the last Sync changes what statements there are, and may yet fail and change
    /// nothing. What comes behind that Sync can be given its names only once that is known.
    pub fn has_unsettled_batch(&self) -> bool {
        if self.unsettled == 0 {
            return false;
        }
        let last = self.owed.iter().rposition(Owed::ends_batch);
        last.is_some_and(|last| self.owed.range(..=last).any(Owed::is_unsettled))
    }

    /// Whether any reply is owed to the client (rather than to us).
    pub fn owes_client(&self) -> bool {
        self.skipping || self.owes_answers()
    }

    /// The same, but for the end of a batch that has failed.
    pub fn owes_answers(&self) -> bool {
        self.owed.iter().any(Owed::is_clients)
    }

    /// The client was told of an error, and nothing else is due to it before the end of its batch.
    pub fn only_skips(&self) -> bool {
        self.skipping && !self.owes_answers()
    }

    /// Part of a batch was sent behind the last Query or Sync.
    pub fn has_begun_another_batch(&self) -> bool {
        let last = self.owed.iter().rposition(|owed| owed.ends_batch() && owed.is_clients());
        last.is_some_and(|last| self.owed.range(last + 1..).any(Owed::is_clients))
    }

    /// Rows and COPY data that come now are the client's.
    pub fn streams_to_client(&self) -> bool {
        self.owed.front().is_some_and(|owed| {
            owed.audience == For::Client && matches!(owed.reply, Reply::Execution | Reply::Query)
        })
    }

    /// The statement that the next message of the server describes.
    pub fn describes(&self) -> Option<&Arc<Prepared>> {
        self.owed.front()?.describes.as_ref()
    }

    /// Who the next message of the server is for.
    pub fn next_audience(&self) -> Option<For> {
        self.owed.front().map(|owed| owed.audience)
    }

    /// The connection is lost: nothing owed will come. Last first, as `on_message` does.
    pub fn abandon(&mut self, mut settle: impl FnMut(Owed, bool)) {
        for owed in self.owed.drain(..).rev() {
            settle(owed, false);
        }
        (self.skipping, self.open_batch) = (false, false);
        (self.unsettled, self.forgetting) = (0, 0);
    }

    /// A reply of ours whose turn has come: to be written to the client now.
    pub fn pop_own(&mut self) -> Option<Owed> {
        match self.owed.front()?.reply {
            Reply::OwnParseComplete | Reply::OwnCloseComplete => self.pop_front(),
            _ => None,
        }
    }

    fn pop_front(&mut self) -> Option<Owed> {
        let owed = self.owed.pop_front()?;
        self.no_more_owed(&owed);
        Some(owed)
    }

    /// The Query that this was put before is going to fail, by this.
    pub fn query_will_fail(&mut self, error: &[u8]) {
        let query =
            self.owed.iter_mut().find(|owed| owed.reply == Reply::Query && owed.audience == For::Client);
        if let Some(query) = query {
            query.instead.get_or_insert_with(|| error.into());
        }
    }

    /// What `Verdict::Instead` speaks of.
    pub fn take_instead(&mut self) -> Option<Box<[u8]>> {
        self.instead.take()
    }

    /// Judges one message of the server, and says what is no longer owed.
    pub fn on_message(&mut self, tag: u8) -> Result<(Verdict, Outcome), UnexpectedMessage> {
        // These may come at any time and answer nothing.
        if matches!(tag, b'N' | b'S' | b'A') {
            let verdict = match self.owed.front() {
                Some(Owed { audience: For::Us(_), .. }) if tag == b'N' => Verdict::Swallow,
                _ => Verdict::Forward,
            };
            return Ok((verdict, Outcome::Open));
        }
        let Some(front) = self.owed.front_mut() else {
            return match tag {
                // A server that is shut down says so before it hangs up.
                b'E' => Ok((Verdict::Forward, Outcome::Open)),
                _ => Err(UnexpectedMessage { tag: char::from(tag), expected: "nothing" }),
            };
        };
        let reply = front.reply;
        if tag == b'E' {
            self.instead = front.instead.take();
        }
        let verdict = match front.audience {
            For::Client if tag == b'E' && self.instead.is_some() => Verdict::Instead,
            For::Client => Verdict::Forward,
            For::Prelude if tag == b'E' => Verdict::Forward,
            For::Ahead if tag == b'E' => Verdict::Keep,
            For::Prelude | For::Ahead => Verdict::Swallow,
            For::Us(question) if matches!(tag, b'D' | b'E') => Verdict::Answer(question),
            For::Us(_) => Verdict::Swallow,
        };
        let finished = match (tag, reply) {
            (b'1', Reply::ParseComplete) | (b'2', Reply::BindComplete) | (b'3', Reply::CloseComplete) => true,
            (b't', Reply::Description) => false,
            (b'T' | b'n', Reply::Description) => true,
            (b'C' | b'I' | b's', Reply::Execution) => {
                self.copy_in = false;
                true
            }
            (b'D' | b'H' | b'd' | b'c', Reply::Execution | Reply::Query) => false,
            (b'G' | b'W', Reply::Execution) => {
                self.copy_in = true;
                // The server ignores a Sync that reaches it during COPY; the client sends one more after, and only
                // that commits.
                while self.owed.get(1).is_some_and(|owed| owed.reply == Reply::Sync) {
                    self.owed.remove(1);
                    self.open_batch |= !self.owed.iter().any(Owed::ends_batch);
                }
                false
            }
            (b'G' | b'W', Reply::Query) => {
                self.copy_in = true;
                false
            }
            (b'T' | b'I' | b's', Reply::Query) | (b'V', Reply::FunctionCall) => false,
            (b'C', Reply::Query) => {
                (self.copy_in, self.query_begun) = (false, true);
                false
            }
            (b'Z', Reply::Sync | Reply::Query | Reply::FunctionCall) => true,
            (b'E', Reply::Query | Reply::FunctionCall) => {
                self.copy_in = false;
                self.query_failed = true;
                false
            }
            (b'E', _) => {
                self.copy_in = false;
                return Ok((verdict, self.skip_to_sync()));
            }
            _ => return Err(UnexpectedMessage { tag: char::from(tag), expected: expected(reply) }),
        };
        let outcome = match finished {
            true => self.finish(),
            false => Outcome::Open,
        };
        Ok((verdict, outcome))
    }

    fn finish(&mut self) -> Outcome {
        let succeeded = !std::mem::take(&mut self.query_failed);
        let begun = std::mem::take(&mut self.query_begun);
        let Some(mut owed) = self.pop_front() else { return Outcome::Open };
        if !begun {
            owed.alters = owed.alters.map(|_| Alters::Whole);
        }
        Outcome::Finished { owed, succeeded }
    }

    fn skip_to_sync(&mut self) -> Outcome {
        let sync = self.owed.iter().position(|owed| owed.reply == Reply::Sync);
        self.skipping = sync.is_none();
        let skipped = sync.unwrap_or(self.owed.len());
        let mut skipped: Vec<_> = self.owed.drain(..skipped).rev().collect();
        skipped.iter().for_each(|owed| self.no_more_owed(owed));
        // Only the one that failed was begun.
        skipped.iter_mut().rev().skip(1).for_each(|owed| owed.forgets = None);
        Outcome::Skipped(skipped)
    }
}

fn expected(reply: Reply) -> &'static str {
    match reply {
        Reply::ParseComplete => "ParseComplete",
        Reply::BindComplete => "BindComplete",
        Reply::CloseComplete => "CloseComplete",
        Reply::Description => "a description",
        Reply::Execution => "the result of Execute",
        Reply::Sync => "ReadyForQuery",
        Reply::Query => "the result of Query",
        Reply::FunctionCall => "FunctionCallResponse",
        Reply::OwnParseComplete | Reply::OwnCloseComplete => "a reply of our own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(replies: &[Reply]) -> ExpectedReplies {
        let mut queue = ExpectedReplies::default();
        for &reply in replies {
            queue.push(Owed::client(reply));
        }
        queue
    }

    fn feed(queue: &mut ExpectedReplies, tags: &[u8]) -> Vec<Reply> {
        let mut skipped = Vec::new();
        for &tag in tags {
            let (_, outcome) = queue.on_message(tag).unwrap();
            outcome.for_each(|owed, done| {
                if !done {
                    skipped.push(owed.reply);
                }
            });
        }
        skipped
    }

    #[test]
    fn a_pipeline_is_settled_message_by_message() {
        use Reply::*;
        let mut q = queue(&[ParseComplete, BindComplete, Description, Execution, Sync]);
        assert!(feed(&mut q, b"12TDDC").is_empty());
        assert!(!q.is_empty());
        feed(&mut q, b"Z");
        assert!(q.is_empty());
    }

    #[test]
    fn an_error_skips_to_the_next_sync_and_no_further() {
        use Reply::*;
        let mut q = queue(&[ParseComplete, BindComplete, Execution, Sync, BindComplete, Execution, Sync]);
        assert_eq!(feed(&mut q, b"1E"), vec![Execution, BindComplete]);
        feed(&mut q, b"Z2CZ");
        assert!(q.is_empty());
    }

    #[test]
    fn an_error_before_the_sync_was_sent_keeps_the_connection_busy() {
        use Reply::*;
        let mut q = queue(&[BindComplete, Execution]);
        feed(&mut q, b"E");
        assert!(q.is_skipping() && !q.is_empty());
        q.push(Owed::client(Sync));
        assert!(!q.is_skipping());
        feed(&mut q, b"Z");
        assert!(q.is_empty());
    }

    #[test]
    fn what_an_earlier_batch_changes_is_unsettled_until_it_is_answered() {
        use Reply::*;
        let mut q = queue(&[BindComplete]);
        let mut parse = Owed::client(ParseComplete);
        parse.learns = Some(StatementId(1));
        q.push(parse);
        assert!(!q.has_unsettled_batch(), "what follows in the same batch fails with it");
        q.push(Owed::client(Sync));
        assert!(q.has_unsettled_batch());
        feed(&mut q, b"2");
        assert!(q.has_unsettled_batch());
        feed(&mut q, b"E");
        assert!(!q.has_unsettled_batch());
        feed(&mut q, b"Z");
        assert!(q.is_empty());
    }

    #[test]
    fn a_sync_sent_ahead_of_copy_data_is_not_answered() {
        use Reply::*;
        let mut q = queue(&[BindComplete, Execution, Sync]);
        feed(&mut q, b"2G");
        assert!(q.is_copy_in());
        q.copy_in_ended();
        feed(&mut q, b"C");
        assert!(q.is_answered() && !q.is_empty(), "its transaction is open until there is a Sync");
        q.push(Owed::client(Sync));
        feed(&mut q, b"Z");
        assert!(q.is_empty());
    }

    #[test]
    fn what_we_asked_is_kept_from_the_client() {
        let mut q = queue(&[Reply::Query]);
        for reply in [Reply::BindComplete, Reply::Execution, Reply::Sync] {
            q.push(Owed::us(reply, Question::Floor));
        }
        let mut verdicts = Vec::new();
        for &tag in b"TDCZ2DCZ" {
            verdicts.push(q.on_message(tag).unwrap().0);
        }
        use Verdict::*;
        let answer = Answer(Question::Floor);
        assert_eq!(
            verdicts,
            [Forward, Forward, Forward, Forward, Swallow, answer, Swallow, Swallow],
            "only the row is an answer"
        );
        assert!(q.is_empty());
    }

    #[test]
    fn a_copy_with_another_batch_behind_it_ends_with_that() {
        use Reply::*;
        let mut q = queue(&[Execution, Sync, BindComplete, Execution, Sync]);
        feed(&mut q, b"G");
        q.copy_in_ended();
        feed(&mut q, b"EZ");
        assert!(q.is_empty(), "the server has read the last Sync");
    }

    #[test]
    fn a_text_that_fails_may_have_altered_something_once_a_statement_of_it_is_done() {
        for (tags, alters) in [(b"TEZ", Alters::Whole), (b"CEZ", Alters::InParts)] {
            let mut q = queue(&[Reply::Query, Reply::Sync]);
            feed(&mut q, b"CZ");
            q.push(Owed::client(Reply::Query).alters(Some(Alters::InParts)));
            assert_eq!(q.altering(), 1);
            feed(&mut q, b"Z");
            let mut last = None;
            for &tag in tags {
                q.on_message(tag).unwrap().1.for_each(|owed, done| last = Some((owed.alters, done)));
            }
            assert_eq!(last, Some((Some(alters), false)));
            assert_eq!(q.altering(), 0);
        }
    }

    #[test]
    fn a_query_is_heard_after_what_was_put_before_it_failed() {
        let mut q = ExpectedReplies::default();
        q.push(Owed::before(Reply::ParseComplete, For::Ahead));
        q.push(Owed::before(Reply::Sync, For::Ahead));
        q.push(Owed::client(Reply::Query));
        let on = |q: &mut ExpectedReplies, tag| q.on_message(tag).unwrap().0;
        assert_eq!(on(&mut q, b'E'), Verdict::Keep);
        q.query_will_fail(b"because");
        assert_eq!(on(&mut q, b'Z'), Verdict::Swallow);
        assert_eq!(on(&mut q, b'C'), Verdict::Forward, "of a statement in front of the one that fails");
        assert_eq!(on(&mut q, b'E'), Verdict::Instead);
        assert_eq!(q.take_instead().as_deref(), Some(&b"because"[..]));
        assert_eq!(on(&mut q, b'Z'), Verdict::Forward);
        assert!(q.is_empty());
    }

    #[test]
    fn a_message_out_of_turn_is_a_violation() {
        let mut q = queue(&[Reply::BindComplete]);
        assert!(q.on_message(b'Z').is_err());
        let mut q = queue(&[]);
        assert!(q.on_message(b'D').is_err());
        assert!(matches!(q.on_message(b'S'), Ok((Verdict::Forward, Outcome::Open))));
    }
}
