//! The PostgreSQL servers: what was ordered of them, and what the nodes find.
//!
//! Pure. Owns the verdict: a server is up or down if most of the voters say so, counted over all voters, silent ones
//! included; anything else is unknown, which is neither. What changes all the time (positions, lag) is not here.
//! Invariant: the verdict follows from the reports alone, and only a change of it is noted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::incidents::Entry;
use super::{Accepted, Members, Refusal};

pub const MAX_SERVERS: usize = 128;

/// What the operator, or komainu on its own, has ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Administrative {
    #[default]
    Attached,
    /// Serves what it has, gets nothing new.
    Draining,
    /// Serves nothing, by order.
    Detached,
    /// Serves nothing: what it holds is not trusted, as an old primary's before it was rewound.
    Quarantined,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    #[default]
    Unknown,
    Up,
    Down,
}

/// What one node found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Claim {
    pub observed: Observed,
    /// The server says that it is a primary, on that timeline.
    #[serde(default)]
    pub primary_on: Option<u32>,
    /// It has not answered the last look, and nothing says that it lives.
    #[serde(default)]
    pub suspect: bool,
    /// It says that it is starting up, recovering or shutting down: it lives, and is of no use now.
    #[serde(default)]
    pub starting_up: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub claim: Claim,
    pub reason: String,
    pub at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Server {
    pub administrative: Administrative,
    pub observed: Observed,
    /// Why that was ordered.
    #[serde(default)]
    pub order_reason: String,
    /// Of the last change of either, with its time.
    pub reason: String,
    pub since_ms: u64,
    /// Raised by each change of `administrative`.
    pub version: u64,
    /// The latest of each node.
    pub reports: BTreeMap<String, Report>,
}

impl Server {
    /// Whether most voters hear the server say that it is a primary.
    pub fn says_primary(&self, members: &Members) -> bool {
        self.majority(members, |claim| claim.primary_on.is_some())
    }

    fn majority(&self, members: &Members, says: impl Fn(&Claim) -> bool) -> bool {
        let voters = members.voters().count();
        let agreeing = members
            .voters()
            .filter(|voter| self.reports.get(&voter.id).is_some_and(|report| says(&report.claim)))
            .count();
        agreeing > voters / 2
    }

    fn verdict(&self, members: &Members) -> Observed {
        let is = |observed| self.majority(members, |claim| claim.observed == observed);
        match () {
            () if is(Observed::Up) => Observed::Up,
            () if is(Observed::Down) => Observed::Down,
            () => Observed::Unknown,
        }
    }

    /// Whether the verdict is another one now.
    fn judge(&mut self, members: &Members, reason: &str, at_ms: u64) -> bool {
        let verdict = self.verdict(members);
        if verdict == self.observed {
            return false;
        }
        self.observed = verdict;
        self.reason = reason.to_owned();
        self.since_ms = at_ms;
        true
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Servers(BTreeMap<String, Server>);

impl Servers {
    pub fn all(&self) -> &BTreeMap<String, Server> {
        &self.0
    }

    pub fn get(&self, id: &str) -> Result<&Server, Refusal> {
        self.0.get(id).ok_or_else(|| Refusal::NoServer { server: id.to_owned() })
    }

    fn get_mut(&mut self, id: &str) -> Result<&mut Server, Refusal> {
        self.0.get_mut(id).ok_or_else(|| Refusal::NoServer { server: id.to_owned() })
    }

    pub(super) fn set(
        &mut self,
        servers: &[String],
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let wanted: BTreeSet<&String> = servers.iter().collect();
        if wanted.len() > MAX_SERVERS {
            return Err(Refusal::TooMuch {
                what: "the number of servers".to_owned(),
                limit: MAX_SERVERS as u64,
            });
        }
        if wanted.iter().copied().eq(self.0.keys()) {
            return Ok((Accepted::Unchanged, None));
        }
        self.0.retain(|id, _| wanted.contains(id));
        for &id in &wanted {
            self.0.entry(id.clone()).or_insert_with(|| Server { since_ms: at_ms, ..Server::default() });
        }
        let names: Vec<&str> = wanted.iter().map(|id| id.as_str()).collect();
        let text = format!("the servers are {}", names.join(", "));
        Ok((Accepted::Changed, Some(Entry { subject: "servers".to_owned(), text })))
    }

    pub(super) fn set_administrative(
        &mut self,
        id: &str,
        expected: u64,
        state: Administrative,
        reason: &str,
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let server = self.get_mut(id)?;
        if server.version != expected {
            return Err(Refusal::StaleVersion { expected, current: server.version });
        }
        if server.administrative == state {
            return Ok((Accepted::Unchanged, None));
        }
        server.administrative = state;
        server.order_reason = reason.to_owned();
        server.version += 1;
        server.reason = reason.to_owned();
        server.since_ms = at_ms;
        let text = match state {
            Administrative::Attached => "attached",
            Administrative::Draining => "draining",
            Administrative::Detached => "detached",
            Administrative::Quarantined => "quarantined",
        };
        let entry = Entry { subject: id.to_owned(), text: text.to_owned() };
        Ok((Accepted::Version(server.version), Some(entry)))
    }

    /// Whatever was ordered of it before.
    pub(super) fn quarantine(&mut self, id: &str, reason: &str, at_ms: u64) {
        if let Some(server) = self.0.get_mut(id) {
            server.order_reason = reason.to_owned();
            server.administrative = Administrative::Quarantined;
            server.version += 1;
            server.reason = reason.to_owned();
            server.since_ms = at_ms;
        }
    }

    pub(super) fn report(
        &mut self,
        node: &str,
        id: &str,
        report: Report,
        members: &Members,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let server = self.get_mut(id)?;
        let (reason, at_ms) = (report.reason.clone(), report.at_ms);
        server.reports.insert(node.to_owned(), report);
        if !server.judge(members, &reason, at_ms) {
            return Ok((Accepted::Changed, None));
        }
        let text = match server.observed {
            Observed::Up => "most nodes reach it",
            Observed::Down => "most nodes find it down",
            Observed::Unknown => "the nodes do not agree whether it is up",
        };
        Ok((Accepted::Changed, Some(Entry { subject: id.to_owned(), text: text.to_owned() })))
    }

    pub(super) fn forget(&mut self, node: &str) {
        for server in self.0.values_mut() {
            server.reports.remove(node);
        }
    }

    /// After the voters, or what they said, changed otherwise than by a report.
    pub(super) fn judge_all(&mut self, members: &Members, at_ms: u64) {
        for server in self.0.values_mut() {
            server.judge(members, "voters_changed", at_ms);
        }
    }
}
