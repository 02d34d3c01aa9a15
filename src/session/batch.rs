//! What a client asks for next, looked at before any server is chosen.
//!
//! A pipeline up to one Sync is one implicit transaction, so all of it goes to one server, and a read in
//! front of a write must not go to a standby: the whole batch is looked at first. Never consumes what it
//! looks at. Invariant: a batch not seen to its end is treated as one that may go on to write.

use std::collections::VecDeque;
use std::sync::Arc;

use super::gateway::{Database, Settled};
use super::prepared::Names;
use super::session::{End, Unnamed};
use super::transaction::Opening;
use crate::net::Buffer;
use crate::net::buffer::SMALL;
use crate::route::statement::{Isolation, TransactionModes};
use crate::route::{Analyzed, Class, Effects, StatementKind};
use crate::wire::frame::{HEADER_LEN, Header, header, split_cstr};

/// A batch longer than this is routed by what has been seen of it.
const LOOK_AHEAD: usize = 64 * 1024;

/// Statements classified while looking ahead, to be used again when they are sent.
#[derive(Debug, Default)]
pub struct Batch {
    known: VecDeque<Arc<Analyzed>>,
}

impl Batch {
    /// The class of the next Query or Parse, if it was looked at.
    pub fn next(&mut self) -> Option<Arc<Analyzed>> {
        self.known.pop_front()
    }

    pub fn clear(&mut self) {
        self.known.clear();
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
    /// Whether classes matter yet: not where everything goes to the primary.
    pub classify: bool,
    /// `default_transaction_read_only`, which a BEGIN that does not say otherwise goes by.
    pub read_only: bool,
}

impl Batch {
    /// Looks at the input, which begins with a Query, FunctionCall or message of the extended protocol.
    pub fn scan(&mut self, input: &Buffer, context: &Context<'_>) -> Result<Scan, End> {
        self.clear();
        let limits = &context.settled.config.limits;
        let bytes = input.bytes();
        let mut fold = Fold::default();
        let mut prepared_here: Vec<(&[u8], Arc<Analyzed>)> = Vec::new();
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let found = header(rest, limits.max_message_bytes).map_err(|e| End::violation(e.to_string()))?;
            let Some(found) = found else {
                return Ok(more_or(fold, at + HEADER_LEN, input));
            };
            let complete = rest.len() >= found.len;
            match found.tag {
                b'Q' if at == 0 => return Ok(self.scan_query(rest, found, context)),
                b'F' if at == 0 => return Ok(Scan::Request(fold.write().request(true, 0))),
                b'S' if complete => return Ok(Scan::Request(fold.request(false, at + found.len).whole())),
                b'P' | b'B' | b'D' | b'E' | b'C' => {}
                // A Flush wants its answers now: what follows cannot be seen.
                _ => return Ok(Scan::Request(fold.request(false, 0))),
            }
            if !complete
                && at + found.len <= LOOK_AHEAD.max(limits.max_inspected_statement_bytes)
                && at < LOOK_AHEAD
            {
                return Ok(Scan::NeedMore { room: at + found.len });
            }
            if !complete && found.tag == b'P' {
                return Ok(Scan::Request(fold.write().request(false, 0)));
            }
            if context.classify {
                let body = &rest[HEADER_LEN..found.len.min(rest.len())];
                self.scan_extended(found.tag, body, context, &mut prepared_here, &mut fold);
            }
            if !complete {
                return Ok(Scan::Request(fold.request(false, 0)));
            }
            at += found.len;
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
            let analyzed = context.database.classify(sql, context.settled);
            fold.add(&analyzed, context);
            self.known.push_back(analyzed);
        }
        Scan::Request(fold.request(true, found.len).whole())
    }

    fn scan_extended<'a>(
        &mut self,
        tag: u8,
        body: &'a [u8],
        context: &Context<'_>,
        prepared_here: &mut Vec<(&'a [u8], Arc<Analyzed>)>,
        fold: &mut Fold,
    ) {
        let lookup = |name: &[u8]| {
            if let Some((_, analyzed)) = prepared_here.iter().rev().find(|(n, _)| *n == name) {
                return Some(analyzed.clone());
            }
            match name {
                b"" => context.unnamed.map(|unnamed| unnamed.classify(context.database, context.settled)),
                _ => {
                    let prepared = context.names.get(name)?;
                    Some(context.database.classify_prepared(prepared, context.settled))
                }
            }
        };
        match tag {
            b'P' => {
                let Some((name, rest)) = split_cstr(body) else { return };
                let Some((sql, _)) = split_cstr(rest) else { return };
                let analyzed = context.database.classify(sql, context.settled);
                fold.add(&analyzed, context);
                self.known.push_back(analyzed.clone());
                prepared_here.push((name, analyzed));
            }
            b'B' => {
                let name = split_cstr(body).and_then(|(_, rest)| split_cstr(rest)).map(|(name, _)| name);
                if let Some(analyzed) = name.and_then(lookup) {
                    fold.add(&analyzed, context);
                }
            }
            b'D' if body.first() == Some(&b'S') => {
                if let Some(analyzed) = split_cstr(&body[1..]).and_then(|(name, _)| lookup(name)) {
                    fold.add(&analyzed, context);
                }
            }
            _ => {}
        }
    }
}

/// The statement of a Query's body, without its terminator.
pub fn text(body: &[u8]) -> &[u8] {
    split_cstr(body).map_or(body, |(sql, _)| sql)
}

fn more_or(fold: Fold, room: usize, input: &Buffer) -> Scan {
    if input.len() >= LOOK_AHEAD {
        return Scan::Request(fold.request(false, 0));
    }
    Scan::NeedMore { room: room.max((input.len() + 1).next_multiple_of(SMALL)) }
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
            _ if begins_by_default && context.read_only => Class::Read,
            class => class,
        };
        if self.class.is_none_or(|present| present < class) {
            self.class = Some(class);
            self.decisive = Some(analyzed.clone());
        }
        self.opening = self.opening.and(Opening::of(analyzed));
        self.effects |= analyzed.analysis.effects;
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
