//! The incident timeline: what happened, when, and who or what caused it.
//!
//! Pure. A ring: the oldest entries make room. Invariant: ids rise by one and are never given twice, so a reader that
//! remembers the last one it saw knows what it missed; order is by id, never by time.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Command;

/// Enough for a bad night; what is older is in the nodes' logs.
pub const MAX_INCIDENTS: usize = 1000;
/// Longer texts are cut.
pub const MAX_INCIDENT_TEXT: usize = 500;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    pub id: u64,
    pub at_ms: u64,
    pub node: String,
    pub cause: String,
    pub reason: String,
    pub subject: String,
    pub text: String,
}

/// What a change has to say of itself; the rest is in its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub subject: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Incidents {
    kept: VecDeque<Incident>,
    last_id: u64,
}

impl Incidents {
    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.kept.iter()
    }

    /// Those that came after this one, as far as they are kept.
    pub fn after(&self, id: u64) -> impl DoubleEndedIterator<Item = &Incident> {
        let first = self.kept.partition_point(|incident| incident.id <= id);
        self.kept.range(first..)
    }

    /// 0: there was none yet.
    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    pub(super) fn note(&mut self, command: &Command, entry: Entry) {
        self.last_id += 1;
        self.kept.push_back(Incident {
            id: self.last_id,
            at_ms: command.at_ms,
            node: command.node.clone(),
            cause: command.cause.clone(),
            reason: command.reason.clone(),
            subject: cut(entry.subject),
            text: cut(entry.text),
        });
        if self.kept.len() > MAX_INCIDENTS {
            self.kept.pop_front();
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let follow = self.kept.iter().zip(self.kept.iter().skip(1)).all(|(a, b)| a.id + 1 == b.id);
        let last = self.kept.back().map_or(0, |incident| incident.id);
        match follow && last == self.last_id {
            true => Ok(()),
            false => Err("the incidents' ids do not follow each other".to_owned()),
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_INCIDENT_TEXT {
        let end = (0..=MAX_INCIDENT_TEXT).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
    }
    text
}
