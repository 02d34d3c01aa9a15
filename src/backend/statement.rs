//! A prepared statement's content, and what servers call it.
//!
//! Pure. Owns what a server connection must know of the statements it was taught; which session calls one how is
//! `session::prepared`. Invariant: a statement's content never changes, so a server that knows `_k7` knows exactly this
//! text, these types, parsed under these settings.

use std::sync::{Arc, Mutex, PoisonError};

use crate::route::{Analysis, Analyzed};

/// Never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatementId(pub u64);

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

/// One statement's content.
#[derive(Debug)]
pub struct Prepared {
    pub id: StatementId,
    /// Its name on servers.
    pub server_name: Box<[u8]>,
    pub origin: Origin,
    pub text: Box<[u8]>,
    /// The tail of the Parse message: parameter type count and OIDs.
    pub types: Box<[u8]>,
    /// As of the catalog that was known last; see `Database::classify_prepared`.
    analyzed: Mutex<Arc<Analyzed>>,
    /// What is known of it takes so much memory, about: a text of a megabyte may name a hundred thousand functions.
    analysis_bytes: usize,
}

impl Prepared {
    /// `text_for` is given the name, which is in the text of a SQL PREPARE.
    pub fn new(
        id: StatementId,
        origin: Origin,
        text_for: impl FnOnce(&str) -> Box<[u8]>,
        types: &[u8],
        analyzed: &Arc<Analyzed>,
    ) -> Self {
        let server_name = format!("{NAME_PREFIX}{}", id.0);
        Prepared {
            id,
            text: text_for(&server_name),
            server_name: server_name.into_bytes().into(),
            origin,
            types: types.into(),
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

    pub fn analyzed(&self) -> Arc<Analyzed> {
        self.analyzed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn renew(&self, analyzed: &Arc<Analyzed>) {
        *self.analyzed.lock().unwrap_or_else(PoisonError::into_inner) = analyzed.clone();
    }
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
