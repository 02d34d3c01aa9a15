//! Prepared statements that outlive the server connection they were parsed on.
//!
//! Owns the statements there are (sessions that prepare the same share one) and a session's names for
//! them. Pure. Invariant: a statement's id is never used again for another content.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use foldhash::fast::RandomState;

use crate::backend::statement::{InForce, NameChange, Origin, Prepared, StatementId, kept};
use crate::route::Analyzed;

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
    pub settings: InForce,
    pub schema_generation: u64,
    /// Of one that is like no other: a number of its own. 0 for all others.
    pub alone: u64,
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
        let id = StatementId(self.next.fetch_add(1, Ordering::Relaxed));
        let Content { origin, types, context, .. } = content;
        let prepared = Arc::new(Prepared::new(
            id,
            origin,
            context.settings,
            context.schema_generation,
            text_for,
            types,
            analyzed,
        ));
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
        if held.bytes + prepared.held_bytes() > max_bytes {
            return Err(TooMany::Bytes(max_bytes));
        }
        held.bytes += prepared.held_bytes();
        let name = kept(name);
        let before = held.by_name.insert(name.into(), prepared);
        Ok(NameChange { name: name.into(), before, earlier: None })
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<NameChange> {
        let held = self.map.as_mut()?;
        let (name, before) = held.by_name.remove_entry(kept(name))?;
        held.bytes -= before.held_bytes();
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
            held.bytes += before.held_bytes();
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
            context: Context { settings: InForce::Known(settings), ..Context::default() },
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
