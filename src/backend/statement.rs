//! A prepared statement's content, and what servers call it.
//!
//! Pure. Owns what a server connection must know of the statements it was taught; which session calls one how is
//! `session::prepared`. Invariant: a statement's content never changes, so a server that knows `_k7` knows exactly this
//! text and these types. Under which settings it has read them differs from one connection to the next:
//! `conn::KnownStatements` notes that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::SessionId;
use crate::route::lexer::{Lexer, TokenKind};
use crate::route::{Analysis, Analyzed};

/// Never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatementId(pub u64);

impl StatementId {
    /// Of a statement's name on servers.
    pub fn of(server_name: &[u8]) -> Option<StatementId> {
        let number = server_name.strip_prefix(NAME_PREFIX.as_bytes())?;
        std::str::from_utf8(number).ok()?.parse().ok().map(StatementId)
    }
}

/// The prefix of every statement name komainu gives on a server.
pub const NAME_PREFIX: &str = "_k";

/// What begins a name no server ever knows, with the client's own name behind it: sent for a name that does
/// not exist here but might exist there, so that the server itself says so, with the right effect on the
/// transaction.
pub const UNKNOWN_PREFIX: &str = "_k?";

/// How much of a name PostgreSQL keeps, of a statement or a portal: NAMEDATALEN without its terminator.
const MAX_NAME_BYTES: usize = 63;

/// The name as PostgreSQL keeps it, so that two that differ behind that are one here as well.
pub fn kept(name: &[u8]) -> &[u8] {
    &name[..name.len().min(MAX_NAME_BYTES)]
}

/// How the statement was made, which is how it is made again elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A Parse message.
    Parse,
    /// The SQL command PREPARE; `Prepared::text` is the command with our name in it.
    Sql,
}

/// The settings in force where a statement is named, as far as they say what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InForce {
    /// By their hash.
    Known(u64),
    /// Something was sent that may have set others: whatever they are, they are this session's, in its transaction of that
    /// number.
    Unknown { session: SessionId, transaction: u64 },
}

impl InForce {
    fn is_of_session(self, other: InForce) -> bool {
        match (self, other) {
            (InForce::Unknown { session: one, .. }, InForce::Unknown { session: another, .. }) => {
                one == another
            }
            _ => false,
        }
    }
}

impl Default for InForce {
    fn default() -> Self {
        InForce::Known(0)
    }
}

/// One statement's content.
#[derive(Debug)]
pub struct Prepared {
    pub id: StatementId,
    /// Its name on servers.
    pub server_name: Box<[u8]>,
    pub origin: Origin,
    /// Those that it was first parsed under. If they are not known it is that session's alone.
    pub settings: InForce,
    pub text: Box<[u8]>,
    /// The tail of the Parse message: parameter type count and OIDs.
    pub types: Box<[u8]>,
    /// Of its database when it was prepared.
    pub schema_generation: u64,
    /// What clients were told of its parameters and columns: see `description`. 0: nobody has asked.
    told: AtomicU64,
    /// Its text means nothing to a server, which is told the answer in its place, anew at each use.
    pub is_answered_here: bool,
    /// As of the catalog that was known last; see `Database::classify_prepared`.
    analyzed: Mutex<Arc<Analyzed>>,
    /// Found out when it is first asked: a text may be long, and most are never asked about.
    is_read_by_settings: OnceLock<bool>,
    /// What is known of it takes so much memory, about: a text of a megabyte may name a hundred thousand functions.
    analysis_bytes: usize,
}

impl Prepared {
    /// `text_for` is given the name, which is in the text of a SQL PREPARE.
    pub fn new(
        id: StatementId,
        origin: Origin,
        settings: InForce,
        schema_generation: u64,
        text_for: impl FnOnce(&str) -> Box<[u8]>,
        types: &[u8],
        analyzed: &Arc<Analyzed>,
    ) -> Self {
        let server_name = format!("{NAME_PREFIX}{}", id.0);
        let text = text_for(&server_name);
        Prepared {
            id,
            is_read_by_settings: OnceLock::new(),
            text,
            server_name: server_name.into_bytes().into(),
            origin,
            settings,
            schema_generation,
            told: AtomicU64::new(0),
            types: types.into(),
            is_answered_here: analyzed.analysis.is_answered_here(),
            analyzed: Mutex::new(analyzed.clone()),
            analysis_bytes: analyzed.analysis.bytes() - size_of::<Analysis>(),
        }
    }

    pub fn bytes(&self) -> usize {
        self.text.len() + self.types.len()
    }

    /// What it costs a session to hold it. What is known of it counts where that is more than the text.
    pub fn held_bytes(&self) -> usize {
        self.bytes().max(self.analysis_bytes)
    }

    /// Whether settings say what is in its text, besides whom its names mean, of which a server makes sure at each use.
    pub fn is_read_by_settings(&self) -> bool {
        *self.is_read_by_settings.get_or_init(|| is_read_by_settings(&self.text))
    }

    /// Whether a client may decode its rows by what it was told before.
    pub fn was_described(&self) -> bool {
        self.told.load(Ordering::Relaxed) != 0
    }

    /// A server describes it so: whether that is what clients were told, or the first that they are.
    pub fn is_described_alike(&self, description: u64) -> bool {
        let description = description.max(1);
        match self.told.compare_exchange(0, description, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(told) => told == description,
        }
    }

    pub fn is_nobody_elses(&self) -> bool {
        matches!(self.settings, InForce::Unknown { .. })
    }

    /// Whether a server that has read it under `read`, which are not its own, has read it as it is read under `in_force`.
    pub fn is_read_alike(&self, read: InForce, in_force: InForce) -> bool {
        read == in_force || !self.is_read_by_settings() && read.is_of_session(in_force)
    }

    pub fn analyzed(&self) -> Arc<Analyzed> {
        self.analyzed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn renew(&self, analyzed: &Arc<Analyzed>) {
        *self.analyzed.lock().unwrap_or_else(PoisonError::into_inner) = analyzed.clone();
    }
}

/// A string that settings may read otherwise is a date, a time or an amount of money, which has a digit, an array or XML.
/// (`transform_null_equals`, made for one old client, is not thought of.)
fn is_read_by_settings(text: &[u8]) -> bool {
    Lexer::new(text).any(|token| {
        matches!(token.kind, TokenKind::String | TokenKind::Unterminated)
            && text[token.start..token.end].iter().any(|byte| matches!(byte, b'0'..=b'9' | b'{' | b'<'))
    })
}

/// A change of a session's names, and what was there before.
#[derive(Debug)]
pub struct NameChange {
    pub name: Box<[u8]>,
    pub before: Option<Arc<Prepared>>,
    /// What the same message changed before.
    pub earlier: Option<Box<NameChange>>,
}

impl NameChange {
    pub fn concerns(&self, name: &[u8]) -> bool {
        *self.name == *name || self.earlier.as_ref().is_some_and(|earlier| earlier.concerns(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_string_that_may_be_a_value_of_many_readings_is_read_by_settings() {
        for sql in
            ["select '01/02/2020'::date", "select $$12:00$$", "select '{NULL}'::int[]", "select E'a\\x31'"]
        {
            assert!(is_read_by_settings(sql.as_bytes()), "{sql}");
        }
        for sql in ["select 1 + $1", "select a1 from \"t2\" where b = 'active'", "select 1 -- '2'"] {
            assert!(!is_read_by_settings(sql.as_bytes()), "{sql}");
        }
    }
}
