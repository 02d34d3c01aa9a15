//! What a client asks for next, looked at before any server is chosen.
//!
//! A pipeline up to one Sync is one implicit transaction, so all of it goes to one server, and a read in
//! front of a write must not go to a standby: the whole batch is looked at first. Never consumes what it
//! looks at. Invariant: a batch not seen to its end is treated as one that may go on to write.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::gateway::{Database, Settled};
use super::prepared::Names;
use super::session::{End, Unnamed};
use super::transaction::Opening;
use crate::backend::settings::Settings;
use crate::backend::statement::kept;
use crate::net::Buffer;
use crate::net::buffer::SMALL;
use crate::route::statement::{Isolation, TransactionModes};
use crate::route::{Analyzed, Class, Effects, Reading, StatementKind};
use crate::wire::frame::{HEADER_LEN, Header, header, split_cstr};

/// A batch longer than this is routed by what has been seen of it.
const LOOK_AHEAD: usize = 64 * 1024;

/// Statements classified while looking ahead, to be used again when they are sent.
#[derive(Debug, Default)]
pub struct Batch {
    known: VecDeque<Arc<Analyzed>>,
    /// Where the look at the front of the input goes on once there is more of it.
    seen: Option<Box<Seen>>,
}

/// What a look ahead has found so far.
#[derive(Debug, Default)]
struct Seen {
    /// All before this was looked at.
    at: usize,
    fold: Fold,
    /// Of the statements that the batch itself parses: the unnamed, and those with names.
    unnamed: Option<Arc<Analyzed>>,
    named: Option<HashMap<Box<[u8]>, Arc<Analyzed>, RandomState>>,
    /// Of the database when the look began: what was known of statements may be other now.
    generation: u64,
}

impl Batch {
    /// The class of the next Query or Parse, if it was looked at.
    pub fn next(&mut self) -> Option<Arc<Analyzed>> {
        self.known.pop_front()
    }

    pub fn clear(&mut self) {
        self.known.clear();
        self.seen = None;
    }
}

/// What a server is needed for.
#[derive(Debug, Clone)]
pub struct Request {
    pub class: Class,
    /// The statement that decides, if there is one.
    pub decisive: Option<Arc<Analyzed>>,
    pub opening: Opening,
    pub effects: Effects,
    /// Seen to its end: a Query, or all up to a Sync.
    pub whole: bool,
    /// A simple Query rather than a batch of the extended protocol.
    pub is_query: bool,
    /// Bytes of the input it takes, if whole.
    pub len: usize,
}

#[derive(Debug)]
pub enum Scan {
    /// The input must hold this many bytes first.
    NeedMore {
        room: usize,
    },
    Request(Request),
}

/// What of a session matters for looking ahead.
pub struct Context<'a> {
    pub database: &'a Database,
    pub settled: &'a Settled,
    pub names: &'a Names,
    pub unnamed: Option<&'a Unnamed>,
    pub reading: Reading,
    /// Whether classes matter yet: not where everything goes to the primary.
    pub classify: bool,
    pub settings: &'a Settings,
}

impl Context<'_> {
    /// What a BEGIN that does not say otherwise goes by.
    fn is_read_only(&self) -> bool {
        self.settings.get("default_transaction_read_only") == Some("on")
    }
}

impl Batch {
    /// Looks at the input, which begins with a Query, FunctionCall or message of the extended protocol. Goes on where it
    /// was left if it needed more: whoever takes something away from the front of the input before clears the batch.
    pub fn scan(&mut self, input: &Buffer, context: &Context<'_>) -> Result<Scan, End> {
        let generation = context.database.generation(context.settled);
        let mut seen = match self.seen.take() {
            Some(seen) if seen.generation == generation && seen.at <= input.len() => *seen,
            _ => {
                self.clear();
                Seen { generation, ..Seen::default() }
            }
        };
        let scanned = self.scan_on(input, context, &mut seen);
        if let Ok(Scan::NeedMore { .. }) = scanned
            && seen.at > 0
        {
            self.seen = Some(Box::new(seen));
        }
        scanned
    }

    fn scan_on(&mut self, input: &Buffer, context: &Context<'_>, seen: &mut Seen) -> Result<Scan, End> {
        let limits = &context.settled.config.limits;
        let bytes = input.bytes();
        loop {
            let at = seen.at;
            let rest = &bytes[at..];
            let found = header(rest, limits.max_message_bytes).map_err(|e| End::violation(e.to_string()))?;
            let Some(found) = found else {
                return Ok(seen.more_or(at + HEADER_LEN, input));
            };
            let complete = rest.len() >= found.len;
            if found.tag == b'P' && found.len > limits.max_inspected_statement_bytes {
                // It pins.
                return Ok(Scan::Request(seen.fold().write().request(false, 0)));
            }
            match found.tag {
                b'Q' if at == 0 => return Ok(self.scan_query(rest, found, context)),
                b'F' if at == 0 => return Ok(Scan::Request(seen.fold().write().request(true, 0))),
                b'S' if complete => {
                    return Ok(Scan::Request(seen.fold().request(false, at + found.len).whole()));
                }
                b'P' | b'B' | b'D' | b'E' | b'C' => {}
                // A Flush wants its answers now: what follows cannot be seen.
                _ => return Ok(Scan::Request(seen.fold().request(false, 0))),
            }
            if !complete
                && at + found.len <= LOOK_AHEAD.max(limits.max_inspected_statement_bytes)
                && at < LOOK_AHEAD
            {
                return Ok(Scan::NeedMore { room: at + found.len });
            }
            if !complete && found.tag == b'P' {
                return Ok(Scan::Request(seen.fold().write().request(false, 0)));
            }
            if context.classify {
                let body = &rest[HEADER_LEN..found.len.min(rest.len())];
                self.scan_extended(found.tag, body, context, seen);
            }
            if !complete {
                return Ok(Scan::Request(seen.fold().request(false, 0)));
            }
            seen.at += found.len;
        }
    }

    fn scan_query(&mut self, rest: &[u8], found: Header, context: &Context<'_>) -> Scan {
        if found.len > context.settled.config.limits.max_inspected_statement_bytes {
            return Scan::Request(Fold::default().write().request(true, 0));
        }
        if rest.len() < found.len {
            return Scan::NeedMore { room: found.len };
        }
        let mut fold = Fold::default();
        if context.classify {
            let sql = text(&rest[HEADER_LEN..found.len]);
            let analyzed = context.database.classify(sql, context.settled, context.reading);
            fold.add(&analyzed, context);
            self.known.push_back(analyzed);
        }
        Scan::Request(fold.request(true, found.len).whole())
    }

    fn scan_extended(&mut self, tag: u8, body: &[u8], context: &Context<'_>, seen: &mut Seen) {
        match tag {
            b'P' => {
                let Some((name, rest)) = split_cstr(body) else { return };
                let Some((sql, _)) = split_cstr(rest) else { return };
                let analyzed = context.database.classify(sql, context.settled, context.reading);
                seen.fold.add(&analyzed, context);
                self.known.push_back(analyzed.clone());
                match name {
                    b"" => seen.unnamed = Some(analyzed),
                    name => drop(seen.named.get_or_insert_default().insert(kept(name).into(), analyzed)),
                }
            }
            b'B' => {
                let name = split_cstr(body).and_then(|(_, rest)| split_cstr(rest)).map(|(name, _)| name);
                if let Some(analyzed) = name.and_then(|name| seen.statement(name, context)) {
                    seen.fold.add(&analyzed, context);
                }
            }
            b'D' if body.first() == Some(&b'S') => {
                let name = split_cstr(&body[1..]).map(|(name, _)| name);
                if let Some(analyzed) = name.and_then(|name| seen.statement(name, context)) {
                    seen.fold.add(&analyzed, context);
                }
            }
            _ => {}
        }
    }
}

impl Seen {
    fn fold(&mut self) -> Fold {
        std::mem::take(&mut self.fold)
    }

    /// What the batch means by the name.
    fn statement(&self, name: &[u8], context: &Context<'_>) -> Option<Arc<Analyzed>> {
        let here = match name {
            b"" => self.unnamed.as_ref(),
            name => self.named.as_ref().and_then(|named| named.get(kept(name))),
        };
        if let Some(analyzed) = here {
            return Some(analyzed.clone());
        }
        match name {
            b"" => context
                .unnamed
                .map(|unnamed| unnamed.classify(context.database, context.settled, context.reading)),
            _ => {
                let prepared = context.names.get(name)?;
                Some(context.database.classify_prepared(prepared, context.settled, context.reading))
            }
        }
    }

    fn more_or(&mut self, room: usize, input: &Buffer) -> Scan {
        if input.len() >= LOOK_AHEAD {
            return Scan::Request(self.fold().request(false, 0));
        }
        Scan::NeedMore { room: room.max((input.len() + 1).next_multiple_of(SMALL)) }
    }
}

/// The statement of a Query's body, without its terminator.
pub fn text(body: &[u8]) -> &[u8] {
    split_cstr(body).map_or(body, |(sql, _)| sql)
}

#[derive(Debug, Default)]
struct Fold {
    class: Option<Class>,
    decisive: Option<Arc<Analyzed>>,
    opening: Opening,
    effects: Effects,
}

impl Fold {
    fn add(&mut self, analyzed: &Arc<Analyzed>, context: &Context<'_>) {
        let begins_by_default = matches!(
            analyzed.analysis.kind,
            StatementKind::Begin(TransactionModes { read_only: None, isolation, .. })
                if isolation != Some(Isolation::Serializable)
        );
        let class = match analyzed.routed.class {
            _ if begins_by_default && context.is_read_only() => Class::Read,
            class => class,
        };
        if self.class.is_none_or(|present| present < class) {
            self.class = Some(class);
            self.decisive = Some(analyzed.clone());
        }
        self.opening = self.opening.and(Opening::of(analyzed));
        let effects = analyzed.analysis.effects;
        if effects.intersects(Effects::BEGINS.union(Effects::ENDS_TRANSACTION)) {
            // The last of them decides.
            self.effects = self.effects.without(Effects::LEAVES_OPEN);
        }
        self.effects |= effects;
    }

    fn write(mut self) -> Self {
        self.class = Some(Class::Write);
        self
    }

    fn request(self, is_query: bool, len: usize) -> Request {
        Request {
            class: self.class.unwrap_or(Class::Read),
            decisive: self.decisive,
            opening: self.opening,
            effects: self.effects,
            whole: false,
            is_query,
            len,
        }
    }
}

impl Request {
    pub fn is_for_komainu(&self) -> bool {
        let decisive = self.decisive.as_ref();
        decisive.is_some_and(|analyzed| matches!(analyzed.analysis.kind, StatementKind::ShowPool(_)))
    }

    fn whole(mut self) -> Self {
        self.whole = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::gateway::Databases;

    fn settled() -> Arc<Settled> {
        let text = "[listen]\naddresses = ['127.0.0.1:9999']\n[auth]\nhba_file = 'hba'\n[health]\nuser = 'k'\n\
                    [[server]]\nid = 'pg1'\nhost = 'db'\n";
        let config =
            crate::config::file::parse(text, std::path::Path::new("/etc/komainu.toml"), 1).unwrap().0;
        Settled::new(Arc::new(config))
    }

    fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let mut all = vec![tag];
        all.extend((body.len() as u32 + 4).to_be_bytes());
        all.extend(body);
        all
    }

    /// From its front each time, with each name looked for among all, this would take an hour.
    #[test]
    fn a_batch_that_comes_in_pieces_is_looked_at_once() {
        let (settled, names) = (settled(), Names::default());
        let database = Databases::default().get("app");
        let context = Context {
            database: &database,
            settled: &settled,
            names: &names,
            unnamed: None,
            reading: Reading::default(),
            classify: true,
            settings: &Settings::default(),
        };
        let name = |n: usize| format!("{n:05}").into_bytes();
        let mut sent = Vec::new();
        for n in 0..1000 {
            sent.extend(message(b'P', &[&name(n), b"\0select 1\0\0\0"]));
        }
        sent.extend(message(b'P', &[b"\0update t set a = 1\0\0\0"]));
        while sent.len() < LOOK_AHEAD - 100 {
            sent.extend(message(b'B', &[b"\0", &name(sent.len()), b"\0\0\0\0\0\0\0"]));
        }
        sent.extend(message(b'B', &[b"\0", &name(7), b"\0\0\0\0\0\0\0"]));
        sent.extend(message(b'S', &[]));
        let mut batch = Batch::default();
        let mut piecemeal = None;
        for have in 1..=sent.len() {
            let mut input = Buffer::default();
            input.prepend(&sent[..have]);
            match batch.scan(&input, &context).unwrap() {
                Scan::NeedMore { room } => assert!(room > have && have < sent.len()),
                Scan::Request(request) => piecemeal = Some(request),
            }
        }
        let mut input = Buffer::default();
        input.prepend(&sent);
        let Scan::Request(at_once) = Batch::default().scan(&input, &context).unwrap() else {
            panic!("it is whole")
        };
        assert_eq!((at_once.class, at_once.len, at_once.whole), (Class::Write, sent.len(), true));
        assert_eq!(format!("{:?}", piecemeal.unwrap()), format!("{at_once:?}"));
        assert_eq!(batch.known.len(), 1001, "each is sent with the class it was found to have");
    }
}
