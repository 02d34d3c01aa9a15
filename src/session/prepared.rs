//! Prepared statements that outlive the server connection they were parsed on.
//!
//! Owns the content of statements (`Prepared`, shared by all sessions that prepare the same), a
//! session's names for them, and the names servers know them by. Pure. Invariant: a statement's id is
//! never used again for another content, so a server that knows `_k7` knows exactly this text, these
//! types, parsed under these settings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use foldhash::fast::RandomState;

use crate::route::Analyzed;

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
}

impl Prepared {
    pub fn bytes(&self) -> usize {
        self.text.len() + self.types.len()
    }

    pub fn analyzed(&self) -> Arc<Analyzed> {
        self.analyzed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn renew(&self, analyzed: &Arc<Analyzed>) {
        *self.analyzed.lock().unwrap_or_else(PoisonError::into_inner) = analyzed.clone();
    }
}

/// What makes two statements the same: besides text and types the settings they were parsed under
/// (`search_path` decides which table is meant, `TimeZone` what a literal says), the database, and how
/// often that database's schema has changed under us.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    pub origin: Origin,
    pub text: &'a [u8],
    pub types: &'a [u8],
    pub context: Context,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Context {
    pub database: u64,
    pub settings: u64,
    pub schema_generation: u64,
}

/// All statements any session holds. An entry lives as long as a session or a server connection needs it.
#[derive(Debug, Default)]
pub struct StatementStore {
    next: AtomicU64,
    hasher: RandomState,
    entries: Mutex<HashMap<u128, Weak<Prepared>, RandomState>>,
}

impl StatementStore {
    /// The statement with this content; made if nobody has it. `name` puts the server's name into the
    /// text of a SQL PREPARE; for others it returns the text as it is.
    pub fn intern(
        &self,
        content: Content<'_>,
        analyzed: &Arc<Analyzed>,
        text_for: impl FnOnce(&str) -> Box<[u8]>,
    ) -> Arc<Prepared> {
        let key = self.key(&content);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = entries.get(&key).and_then(Weak::upgrade) {
            found.renew(analyzed);
            return found;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let server_name = format!("{NAME_PREFIX}{id}");
        let prepared = Arc::new(Prepared {
            id: StatementId(id),
            text: text_for(&server_name),
            server_name: server_name.into_bytes().into(),
            origin: content.origin,
            types: content.types.into(),
            analyzed: Mutex::new(analyzed.clone()),
        });
        entries.insert(key, Arc::downgrade(&prepared));
        prepared
    }

    /// Forgets statements nobody holds any more; returns how many are left.
    pub fn sweep(&self) -> usize {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, statement| statement.strong_count() > 0);
        entries.len()
    }

    fn key(&self, content: &Content<'_>) -> u128 {
        use std::hash::BuildHasher;
        let half = |salt: u8| {
            let item = (salt, content.origin, content.text, content.types, content.context);
            u128::from(self.hasher.hash_one(item))
        };
        half(1) << 64 | half(2)
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    #[error("too many prepared statements in this session: the limit is {0}")]
    Statements(usize),
    #[error("the texts of this session's prepared statements are longer than the limit of {0} bytes")]
    Bytes(usize),
}

/// One session's names for its statements. Empty costs one pointer.
#[derive(Debug, Default)]
pub struct Names {
    map: Option<Box<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    by_name: HashMap<Box<[u8]>, Arc<Prepared>, RandomState>,
    bytes: usize,
}

impl Names {
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        self.map.as_ref()?.by_name.get(kept(name))
    }

    pub fn is_empty(&self) -> bool {
        self.map.as_ref().is_none_or(|held| held.by_name.is_empty())
    }

    pub fn insert(
        &mut self,
        name: &[u8],
        prepared: Arc<Prepared>,
        max_statements: usize,
        max_bytes: usize,
    ) -> Result<NameChange, TooMany> {
        let held = self.map.get_or_insert_default();
        if held.by_name.len() >= max_statements {
            return Err(TooMany::Statements(max_statements));
        }
        if held.bytes + prepared.bytes() > max_bytes {
            return Err(TooMany::Bytes(max_bytes));
        }
        held.bytes += prepared.bytes();
        let name = kept(name);
        let before = held.by_name.insert(name.into(), prepared);
        Ok(NameChange { name: name.into(), before, earlier: None })
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<NameChange> {
        let held = self.map.as_mut()?;
        let (name, before) = held.by_name.remove_entry(kept(name))?;
        held.bytes -= before.bytes();
        if held.by_name.is_empty() {
            self.map = None;
        }
        Some(NameChange { name, before: Some(before), earlier: None })
    }

    /// Takes a change back that the server did not follow.
    pub fn undo(&mut self, change: NameChange) {
        self.remove(&change.name);
        if let Some(before) = change.before {
            let held = self.map.get_or_insert_default();
            held.bytes += before.bytes();
            held.by_name.insert(change.name, before);
        }
        if let Some(earlier) = change.earlier {
            self.undo(*earlier);
        }
    }

    pub fn clear(&mut self) {
        self.map = None;
    }

    /// The one that servers call so.
    pub fn by_its_server_name(&self, server_name: &[u8]) -> Option<&Arc<Prepared>> {
        let held = self.map.as_ref()?;
        held.by_name.values().find(|prepared| *prepared.server_name == *server_name)
    }

    /// The client's names by what servers call them, for the texts of errors.
    pub fn by_server_name(&self) -> HashMap<&[u8], &[u8], RandomState> {
        let held = self.map.iter().flat_map(|held| &held.by_name);
        held.map(|(name, prepared)| (&*prepared.server_name, &**name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_and(text: &[u8], settings: u64, store: &StatementStore) -> Arc<Prepared> {
        let content = Content {
            origin: Origin::Parse,
            text,
            types: &[0, 0],
            context: Context { settings, ..Context::default() },
        };
        store.intern(content, &analyzed(), |_| text.into())
    }

    fn analyzed() -> Arc<Analyzed> {
        let analysis = crate::route::analyze("select 1");
        let routed = crate::route::resolve(&analysis, None, &crate::route::FunctionLists::default());
        Arc::new(Analyzed { analysis, routed, generation: 0 })
    }

    #[test]
    fn the_same_content_is_shared_and_other_settings_are_other_content() {
        let store = StatementStore::default();
        let a = store_and(b"select 1", 0, &store);
        assert!(Arc::ptr_eq(&a, &store_and(b"select 1", 0, &store)));
        assert_ne!(a.id, store_and(b"select 1", 1, &store).id);
        assert_ne!(a.id, store_and(b"select 2", 0, &store).id);
    }

    #[test]
    fn nothing_is_kept_that_nobody_holds() {
        let store = StatementStore::default();
        let a = store_and(b"select 1", 0, &store);
        assert_eq!(store.sweep(), 1);
        let id = a.id;
        drop(a);
        assert_eq!(store.sweep(), 0);
        assert_ne!(store_and(b"select 1", 0, &store).id, id, "an id is never used twice");
    }

    #[test]
    fn undoing_restores_what_a_name_meant() {
        let store = StatementStore::default();
        let (a, b) = (store_and(b"a", 0, &store), store_and(b"b", 0, &store));
        let mut names = Names::default();
        names.insert(b"s", a.clone(), 10, 100).unwrap();
        let closed = names.remove(b"s").unwrap();
        let again = names.insert(b"s", b, 10, 100).unwrap();
        names.undo(again);
        assert!(names.get(b"s").is_none());
        names.undo(closed);
        assert_eq!(names.get(b"s").unwrap().id, a.id);
        assert_eq!(names.by_server_name().get(&*a.server_name), Some(&&b"s"[..]));
    }

    #[test]
    fn a_name_is_kept_as_far_as_postgresql_keeps_it() {
        let store = StatementStore::default();
        let mut names = Names::default();
        let (long, longer) = ([b'x'; 64], [b'x'; 1000]);
        let change = names.insert(&longer, store_and(b"a", 0, &store), 10, 100).unwrap();
        assert_eq!(&*change.name, &long[..63]);
        assert!(names.get(&long).is_some() && names.get(&long[..63]).is_some());
        assert!(names.get(&long[..62]).is_none());
        assert!(names.remove(&long).is_some() && names.is_empty());
    }

    #[test]
    fn a_session_holds_a_bounded_number_and_size() {
        let store = StatementStore::default();
        let mut names = Names::default();
        names.insert(b"1", store_and(b"aaaa", 0, &store), 2, 14).unwrap();
        names.insert(b"2", store_and(b"bbbb", 0, &store), 2, 14).unwrap();
        let third = store_and(b"c", 0, &store);
        assert_eq!(names.insert(b"3", third.clone(), 2, 14).unwrap_err(), TooMany::Statements(2));
        assert_eq!(names.insert(b"3", third, 3, 14).unwrap_err(), TooMany::Bytes(14));
        names.remove(b"1");
        assert!(names.insert(b"3", store_and(b"c", 0, &store), 2, 14).is_ok());
    }
}
