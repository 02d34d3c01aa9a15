//! The settings a session has changed, and the ones a server reports.
//!
//! Pure. Invariant: equal hashes mean equal contents for all that follows from them (a 64-bit hash with
//! a process's own seed), so that the common checkout compares two numbers and nothing else.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, LazyLock};

use foldhash::fast::RandomState;

use crate::route::Reading;

static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

pub(super) fn hash_of(item: impl Hash) -> u64 {
    SEED.hash_one(item)
}

/// Bytes of names and values that a session may carry from one server connection to the next.
pub const MAX_SETTINGS: usize = 1024 * 1024;

/// Who we are, in the order in which it is set, behind all else. To leave the first is to leave the second as well.
const WHO: [&str; 2] = ["session_authorization", "role"];

/// By this a server reads every value. All are sent in that of a new connection, UTF8.
const ENCODING: &str = "client_encoding";

/// Settings that say how long a statement may take, how its transaction ends, who asks and what is told of it.
const NO_MEANING: [&str; 11] = [
    "application_name",
    "client_min_messages",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "statement_timeout",
    "synchronous_commit",
    "transaction_timeout",
];

/// Whether a setting may change what a statement means. By a custom one (`my.own`) PostgreSQL reads no text.
pub fn changes_meaning(name: &str) -> bool {
    !name.contains('.') && !NO_MEANING.contains(&name)
}

/// What a session has set, sorted by name, differing from what a new connection has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    entries: Vec<(Box<str>, Box<str>)>,
    hash: u64,
    semantic: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings::new(Vec::new())
    }
}

/// One setting to change; `None` returns it to the connection's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    pub name: &'a str,
    pub value: Option<&'a str>,
}

impl Settings {
    pub fn new(mut entries: Vec<(Box<str>, Box<str>)>) -> Self {
        entries.sort();
        entries.dedup_by(|later, first| later.0 == first.0);
        let hash = if entries.is_empty() { 0 } else { hash_of(&entries) };
        let semantic = hash_of(entries.iter().filter(|(name, _)| changes_meaning(name)).collect::<Vec<_>>());
        Settings { entries, hash, semantic }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Of the settings that can change what a statement means.
    pub fn semantic_hash(&self) -> u64 {
        self.semantic
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.entries.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        Some(&self.entries[at].1)
    }

    /// With what is missing here as it is in `defaults`.
    pub fn over(&self, defaults: &Settings) -> Settings {
        let missing = defaults.iter().filter(|(name, _)| self.get(name).is_none());
        let all = self.iter().chain(missing).map(|(name, value)| (name.into(), value.into()));
        Settings::new(all.collect())
    }

    /// What to change on a connection that has `present` so that it has `self`.
    pub fn changes_from<'a>(&'a self, present: &'a Settings) -> Vec<Change<'a>> {
        let gone = present.iter().filter(|(name, _)| self.get(name).is_none());
        let new = self.iter().filter(|(name, value)| present.get(name) != Some(value));
        let mut changes: Vec<_> = gone
            .map(|(name, _)| Change { name, value: None })
            .chain(new.map(|(name, value)| Change { name, value: Some(value) }))
            .collect();
        let who = |name: &str| WHO.iter().position(|who| *who == name);
        // Only the login role may be sure to set the rest, so another one is left first, and taken on again.
        for (at, name) in WHO.into_iter().enumerate() {
            let is_first = |change: &Change<'_>| who(change.name).is_none_or(|other| other < at);
            if present.get(name).is_some() && changes.iter().any(is_first) {
                self.take_anew(name, &mut changes);
            }
        }
        let is_ascii = |change: &Change<'_>| change.name.is_ascii() && change.value.is_none_or(str::is_ascii);
        if present.get(ENCODING).is_some() && !changes.iter().all(is_ascii) {
            self.take_anew(ENCODING, &mut changes);
        }
        changes.sort_by_key(|change| match (who(change.name), change.value) {
            (None, None) if change.name == ENCODING => 0,
            (None, Some(_)) if change.name == ENCODING => 5,
            (Some(_), None) => 1,
            (None, _) => 2,
            (Some(at), Some(_)) => 3 + at,
        });
        changes
    }

    /// It is left, whatever it is to become.
    fn take_anew<'a>(&'a self, name: &'static str, changes: &mut Vec<Change<'a>>) {
        changes.retain(|change| change.name != name);
        changes.push(Change { name, value: None });
        changes.extend(self.get(name).map(|value| Change { name, value: Some(value) }));
    }
}

/// What ParameterStatus messages have said, as one value that compares by a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    entries: Vec<(Box<str>, Box<str>)>,
    hash: u64,
    reading: Reading,
}

/// Never told as it is: clients see one server, and that one is never in recovery.
pub const IN_HOT_STANDBY: &str = "in_hot_standby";

impl Reported {
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How texts are read with these settings.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(n, _)| **n == *name).map(|(_, value)| &**value)
    }

    /// Whether the setting is reported, and has this value; names count whatever their case.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.entries.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && **v == *value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns whether the value is new.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        match self.entries.iter_mut().find(|(n, _)| **n == *name) {
            Some((_, present)) if **present == *value => return false,
            Some((_, present)) => {
                self.hash ^= hash_of((name, &**present)) ^ hash_of((name, value));
                *present = value.into();
            }
            None => {
                self.hash ^= hash_of((name, value));
                self.entries.push((name.into(), value.into()));
            }
        }
        self.reading.set(name, value);
        true
    }
}

/// Sets one value in a shared `Reported`, copying it only if others share it.
pub fn report(reported: &mut Arc<Reported>, name: &str, value: &str) -> bool {
    if reported.get(name) == Some(value) {
        return false;
    }
    Arc::make_mut(reported).set(name, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|&(n, v)| (n.into(), v.into())).collect())
    }

    #[test]
    fn the_order_of_setting_does_not_matter() {
        let a = settings(&[("a", "1"), ("b", "2")]);
        let b = settings(&[("b", "2"), ("a", "1")]);
        assert_eq!(a.hash(), b.hash());
        assert_eq!(settings(&[]).hash(), 0);
        assert_ne!(a.hash(), settings(&[("a", "2"), ("b", "1")]).hash());
    }

    #[test]
    fn who_asks_and_for_how_long_does_not_change_what_a_statement_means() {
        let a = settings(&[("application_name", "x"), ("search_path", "s")]);
        let b = settings(&[("application_name", "y"), ("search_path", "s")]);
        assert_eq!(a.semantic_hash(), b.semantic_hash());
        let c = settings(&[("app.tenant", "7"), ("lock_timeout", "1s"), ("search_path", "s")]);
        assert_eq!(a.semantic_hash(), c.semantic_hash());
        assert_ne!(a.hash(), c.hash(), "each has its own all the same");
        assert_ne!(a.semantic_hash(), settings(&[("search_path", "t")]).semantic_hash());
    }

    #[test]
    fn changes_reset_what_is_gone_and_become_a_role_last() {
        let want = settings(&[("role", "r"), ("work_mem", "1"), ("same", "s")]);
        let have = settings(&[("old", "o"), ("same", "s"), ("session_authorization", "x")]);
        let changes: Vec<_> = want.changes_from(&have).iter().map(|c| (c.name, c.value)).collect();
        assert_eq!(
            changes,
            [("session_authorization", None), ("old", None), ("work_mem", Some("1")), ("role", Some("r"))]
        );
    }

    fn changes(have: &[(&str, &str)], want: &[(&str, &str)]) -> Vec<String> {
        let (have, want) = (settings(have), settings(want));
        let changes = want.changes_from(&have);
        changes.iter().map(|c| format!("{}={}", c.name, c.value.unwrap_or("-"))).collect()
    }

    #[test]
    fn what_another_role_may_not_set_is_set_without_it() {
        let (sa, role, level) = ("session_authorization", "role", "session_replication_role");
        assert_eq!(
            changes(&[(role, "app"), (sa, "bob")], &[(role, "app")]),
            ["session_authorization=-", "role=-", "role=app"],
            "the one takes the other with it"
        );
        assert_eq!(
            changes(&[(role, "app")], &[(role, "app"), (sa, "bob")]),
            ["role=-", "session_authorization=bob", "role=app"]
        );
        assert_eq!(
            changes(&[(role, "app"), (sa, "bob")], &[(role, "app"), (sa, "bob"), (level, "replica")]),
            [
                "session_authorization=-",
                "role=-",
                "session_replication_role=replica",
                "session_authorization=bob",
                "role=app"
            ]
        );
        assert_eq!(
            changes(&[], &[(sa, "bob"), (level, "replica")]),
            ["session_replication_role=replica", "session_authorization=bob"]
        );
        assert_eq!(changes(&[(role, "a")], &[(role, "b")]), ["role=b"]);
    }

    #[test]
    fn values_are_sent_in_the_encoding_in_which_they_are_kept() {
        let latin = (ENCODING, "LATIN1");
        assert_eq!(
            changes(&[latin], &[("app.tenant", "Zo\u{eb}"), (ENCODING, "UTF8")]),
            ["client_encoding=-", "app.tenant=Zo\u{eb}", "client_encoding=UTF8"]
        );
        assert_eq!(
            changes(&[latin], &[("app.tenant", "Zo\u{eb}")]),
            ["client_encoding=-", "app.tenant=Zo\u{eb}"]
        );
        assert_eq!(
            changes(&[], &[latin, ("role", "b\u{e4}r"), ("search_path", "a")]),
            ["search_path=a", "role=b\u{e4}r", "client_encoding=LATIN1"]
        );
        assert_eq!(
            changes(&[latin], &[latin, ("search_path", "sch\u{e9}ma")]),
            ["client_encoding=-", "search_path=sch\u{e9}ma", "client_encoding=LATIN1"]
        );
        assert_eq!(changes(&[latin], &[latin, ("search_path", "a")]), ["search_path=a"]);
    }

    #[test]
    fn reported_values_compare_by_hash_whatever_their_history() {
        let (mut a, mut b) = (Reported::default(), Reported::default());
        for (name, value) in [("TimeZone", "UTC"), ("DateStyle", "ISO"), ("TimeZone", "CET")] {
            a.set(name, value);
        }
        for (name, value) in [("DateStyle", "ISO"), ("TimeZone", "CET")] {
            b.set(name, value);
        }
        assert_eq!(a.hash(), b.hash());
        assert!(!a.set("TimeZone", "CET"));
        assert!(a.set("TimeZone", "UTC"));
        assert_ne!(a.hash(), b.hash());
    }
}
