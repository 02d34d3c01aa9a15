//! The standbys that acknowledge commits, and how `synchronous_standby_names` says so.
//!
//! Pure. Invariant: `ANY n` over N names means that any N−n+1 of them have, between them, all that was acknowledged.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A commit waits until `count` of `names` have flushed it. With a count of 0 nobody is waited for, and nothing follows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SyncSet {
    pub names: BTreeSet<String>,
    pub count: u32,
}

impl SyncSet {
    pub fn new<T: Into<String>>(names: impl IntoIterator<Item = T>, count: u32) -> Self {
        SyncSet { names: names.into_iter().map(Into::into).collect(), count }
    }

    /// Whether it promises anything.
    pub fn promises(&self) -> bool {
        self.count > 0
    }

    /// How many of its members have all that was acknowledged, between them, whichever they are.
    pub fn quorum(&self) -> usize {
        match self.count as usize {
            0 => 0,
            count => (self.names.len() + 1).saturating_sub(count).max(1),
        }
    }

    /// Whether so many of it answer that the furthest of all who answer has every acknowledged commit. Without a promise
    /// that is true of nobody, and how much may be lost is for another rule to say.
    pub fn enough_answer<'a>(&self, answering: impl IntoIterator<Item = &'a str>) -> bool {
        let members: BTreeSet<&str> =
            answering.into_iter().filter(|name| self.names.contains(*name)).collect();
        members.len() >= self.quorum()
    }

    /// From the value of `synchronous_standby_names`. `FIRST n` waits for n members as well. None: it names whoever comes
    /// (`*`), or is none of PostgreSQL's values.
    pub fn parse(setting: &str) -> Option<Self> {
        let text = setting.trim();
        if text.is_empty() {
            return Some(SyncSet::default());
        }
        let (count, list) = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            Some((head, list)) => {
                let mut words: Vec<&str> = head.split_whitespace().collect();
                let number = words.pop()?.parse().ok()?;
                let known =
                    |word: &str| ["ANY", "FIRST"].iter().any(|known| known.eq_ignore_ascii_case(word));
                match words[..] {
                    [] => {}
                    [word] if known(word) => {}
                    _ => return None,
                }
                (number, list)
            }
            None => (1, text),
        };
        let names: Option<BTreeSet<String>> = list.split(',').map(|name| unquoted(name.trim())).collect();
        names.map(|names| SyncSet { names, count })
    }

    /// Whether a setting says just this, in the way that komainu says it.
    pub fn is_said_by(&self, setting: &str) -> bool {
        let by_quorum = setting.trim_start().get(..3).is_some_and(|word| word.eq_ignore_ascii_case("ANY"));
        match SyncSet::parse(setting) {
            Some(parsed) if self.promises() => by_quorum && parsed == *self,
            Some(parsed) => !parsed.promises(),
            None => false,
        }
    }
}

/// Of an identifier; ids of servers hold no quotes.
fn unquoted(name: &str) -> Option<String> {
    let inner = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(name);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
    (!inner.is_empty() && inner.chars().all(fits)).then(|| inner.to_owned())
}

/// The value of `synchronous_standby_names`.
impl fmt::Display for SyncSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.promises() {
            return Ok(());
        }
        let names: Vec<String> = self.names.iter().map(|name| format!("\"{name}\"")).collect();
        write!(f, "ANY {} ({})", self.count, names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_written_and_read() {
        let set = SyncSet::new(["pg-1", "pg2"], 1);
        assert_eq!(set.to_string(), "ANY 1 (\"pg-1\", \"pg2\")");
        assert_eq!(SyncSet::default().to_string(), "");
        for (text, said) in [
            ("ANY 1 (\"pg-1\", \"pg2\")", true),
            ("any 1 (pg2,\"pg-1\")", true),
            ("FIRST 1 (\"pg-1\", pg2)", false),
            ("1 (\"pg-1\", pg2)", false),
            ("\"pg-1\", pg2", false),
        ] {
            assert_eq!(SyncSet::parse(text), Some(set.clone()), "{text}");
            assert_eq!(set.is_said_by(text), said, "{text}");
        }
        for text in ["*", "ANY 1 (*)", "ALL 1 (a)", "ANY x (a)", "ANY 1 ()", "a,,b"] {
            assert_eq!(SyncSet::parse(text), None, "{text}");
        }
        assert!(SyncSet::default().is_said_by(" ") && !SyncSet::default().is_said_by("a"));
    }

    #[test]
    fn enough_are_those_who_cannot_all_lack_a_commit() {
        let set = |count| SyncSet::new(["a", "b", "c"], count);
        for (count, quorum) in [(0, 0), (1, 3), (2, 2), (3, 1), (4, 1)] {
            assert_eq!(set(count).quorum(), quorum, "{count}");
        }
        assert!(!set(2).enough_answer(["a", "x", "y"]) && set(2).enough_answer(["a", "x", "c"]));
        assert!(!set(2).enough_answer(["a", "a"]), "one is one");
        assert!(set(0).enough_answer([]) && !set(1).enough_answer(["a", "b"]));
    }
}
