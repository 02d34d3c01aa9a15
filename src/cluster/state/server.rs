//! The PostgreSQL servers: what was ordered of them, and what the nodes find.
//!
//! Pure. Owns the verdict: a server is up or down if most of the voters say so, counted over all voters, silent ones
//! included; anything else is unknown, which is neither. What changes all the time (positions, lag) is not here.
//! Invariant: the verdict follows from the reports alone, and only a change of it is noted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::reason::Reason;

use super::incidents::Entry;
use super::{Accepted, Members, Refusal};

pub const MAX_SERVERS: usize = 128;

/// What the operator, or komainu on its own, has ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Administrative {
    #[default]
    Attached,
    /// Gets nothing new; what is under way ends in its own time.
    Draining,
    /// The same, and what has not ended in time is closed.
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

/// What a server's disk does to what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    Hangs,
    Full,
    Fails,
}

impl Disk {
    pub fn reason(self) -> Reason {
        match self {
            Disk::Hangs => Reason::DiskHangs,
            Disk::Full => Reason::DiskFull,
            Disk::Fails => Reason::DiskFails,
        }
    }
}

/// What one node found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Claim {
    pub observed: Observed,
    /// The server says that it is a primary, on that timeline.
    #[serde(default)]
    pub primary_on: Option<u32>,
    /// And when it was started, by its own clock: another time is another life, or another server at its name.
    #[serde(default)]
    pub primary_since_ms: Option<u64>,
    /// It has not answered the last look, and nothing says that it lives.
    #[serde(default)]
    pub suspect: bool,
    /// It says that it is starting up, recovering or shutting down: it lives, and is of no use now.
    #[serde(default)]
    pub starting_up: bool,
    /// A primary that answers: what is written there does not reach its disk.
    #[serde(default)]
    pub disk: Option<Disk>,
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
    /// Raised by that, and by each pause and its end.
    #[serde(default)]
    pub orders: u64,
    /// When it had been started, by its own clock, when its recovery was ordered: until it was started since, it is as
    /// it was.
    #[serde(default)]
    pub ran_since_ms: Option<u64>,
    /// New work on it waits, by order.
    #[serde(default)]
    pub paused: bool,
    /// Of the order: what has not ended by then is closed.
    #[serde(default)]
    pub within_ms: Option<u64>,
    /// Nodes that have no connection of their clients to it any more since that order.
    #[serde(default)]
    pub quiet: BTreeSet<String>,
    /// The latest of each node.
    pub reports: BTreeMap<String, Report>,
}

impl Server {
    /// Since its recovery was ordered, if it was.
    pub fn has_been_started(&self, started_at_ms: u64) -> bool {
        self.ran_since_ms != Some(started_at_ms)
    }

    /// Of a quarantined one: its own history is a part of the primary's, or a branch that can be told from it. Of one that
    /// the log has not made a primary, and that is one, nobody can say so.
    pub fn may_keep_data(&self) -> bool {
        let kept = [Reason::FormerPrimary, Reason::Astray, Reason::MissingWal, Reason::RecoveryOrdered]
            .map(Reason::code);
        kept.contains(&&*self.order_reason)
    }

    /// Whether most voters hear the server say that it is a primary.
    pub fn says_primary(&self, members: &Members) -> bool {
        self.majority(members, |claim| claim.primary_on.is_some())
    }

    /// Which life of it most voters hear say that it is a primary.
    pub fn life(&self, members: &Members) -> Option<u64> {
        let mut heard =
            members.voters().filter_map(|voter| self.reports.get(&voter.id)?.claim.primary_since_ms);
        heard.find(|life| self.majority(members, |claim| claim.primary_since_ms == Some(*life)))
    }

    /// Whether no new work begins there, by an order that lets what is under way end.
    pub fn empties(&self) -> bool {
        self.paused || matches!(self.administrative, Administrative::Draining | Administrative::Detached)
    }

    /// Something else was ordered: what nodes have said of the order before counts no more.
    fn ordered(&mut self, reason: &str, at_ms: u64) {
        self.orders += 1;
        self.quiet.clear();
        self.reason = reason.to_owned();
        self.since_ms = at_ms;
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

/// Whether a server is used, and why.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ordered<'a> {
    pub state: Administrative,
    pub within_ms: Option<u64>,
    pub reason: &'a str,
    pub at_ms: u64,
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

    pub(super) fn check_count(servers: &[String]) -> Result<(), Refusal> {
        let count = servers.iter().collect::<BTreeSet<_>>().len();
        match count > MAX_SERVERS {
            true => {
                Err(Refusal::TooMuch { what: "the number of servers".to_owned(), limit: MAX_SERVERS as u64 })
            }
            false => Ok(()),
        }
    }

    pub(super) fn set(
        &mut self,
        servers: &[String],
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        Self::check_count(servers)?;
        let wanted: BTreeSet<&String> = servers.iter().collect();
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

    /// As `order`, for as long as it takes.
    pub(super) fn set_administrative(
        &mut self,
        id: &str,
        expected: u64,
        state: Administrative,
        reason: &str,
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        self.order(id, expected, Ordered { state, within_ms: None, reason, at_ms })
    }

    pub(super) fn order(
        &mut self,
        id: &str,
        expected: u64,
        order: Ordered<'_>,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let Ordered { state, within_ms, reason, at_ms } = order;
        let server = self.get_mut(id)?;
        if server.version != expected {
            return Err(Refusal::StaleVersion { expected, current: server.version });
        }
        if (server.administrative, server.within_ms) == (state, within_ms) {
            return Ok((Accepted::Unchanged, None));
        }
        server.administrative = state;
        server.ran_since_ms = None;
        server.within_ms = within_ms;
        server.order_reason = reason.to_owned();
        server.version += 1;
        server.ordered(reason, at_ms);
        let text = match state {
            Administrative::Attached => "attached",
            Administrative::Draining => "draining",
            Administrative::Detached => "detached",
            Administrative::Quarantined => "quarantined",
        };
        let entry = Entry { subject: id.to_owned(), text: text.to_owned() };
        Ok((Accepted::Version(server.version), Some(entry)))
    }

    /// Its agent is to make it a standby again. Ordered once more, it is begun anew.
    pub(super) fn recover(
        &mut self,
        id: &str,
        expected: u64,
        ran_since_ms: Option<u64>,
        (reason, at_ms): (&str, u64),
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let server = self.get_mut(id)?;
        if server.version != expected {
            return Err(Refusal::StaleVersion { expected, current: server.version });
        }
        // What its history is worth is not for a later order to say.
        let is_trusted = server.administrative != Administrative::Quarantined;
        let reason = match is_trusted || server.may_keep_data() {
            true => reason,
            false => Reason::RebuildOrdered.code(),
        };
        self.quarantine(id, reason, at_ms);
        let server = self.get_mut(id)?;
        server.ran_since_ms = ran_since_ms;
        let entry = Entry { subject: id.to_owned(), text: "is being made a standby again".to_owned() };
        Ok((Accepted::Version(server.version), Some(entry)))
    }

    /// Whatever was ordered of it before.
    pub(super) fn quarantine(&mut self, id: &str, reason: &str, at_ms: u64) {
        if let Some(server) = self.0.get_mut(id) {
            server.order_reason = reason.to_owned();
            server.administrative = Administrative::Quarantined;
            server.ran_since_ms = None;
            server.within_ms = None;
            server.version += 1;
            server.ordered(reason, at_ms);
        }
    }

    pub(super) fn pause(
        &mut self,
        id: &str,
        paused: bool,
        reason: &str,
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let server = self.get_mut(id)?;
        if server.paused == paused {
            return Ok((Accepted::Unchanged, None));
        }
        server.paused = paused;
        server.ordered(reason, at_ms);
        let text = if paused { "paused: new work on it waits" } else { "resumed: what has waited goes on" };
        let entry = Entry { subject: id.to_owned(), text: text.to_owned() };
        Ok((Accepted::Changed, Some(entry)))
    }

    pub(super) fn confirm_quiet(
        &mut self,
        id: &str,
        expected: u64,
        node: &str,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let server = self.get_mut(id)?;
        if server.orders != expected {
            return Err(Refusal::StaleVersion { expected, current: server.orders });
        }
        match server.quiet.insert(node.to_owned()) {
            true => Ok((Accepted::Changed, None)),
            false => Ok((Accepted::Unchanged, None)),
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
            server.quiet.remove(node);
        }
    }

    /// After the voters, or what they said, changed otherwise than by a report.
    pub(super) fn judge_all(&mut self, members: &Members, at_ms: u64) {
        for server in self.0.values_mut() {
            server.judge(members, "voters_changed", at_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_keeps_what_is_trusted_and_waits_for_another_life_of_the_server() {
        let recovery = Reason::RecoveryOrdered.code();
        for (before, expected) in [
            (None, recovery),
            (Some(Reason::FormerPrimary), recovery),
            (Some(Reason::Astray), recovery),
            (Some(Reason::MissingWal), recovery),
            (Some(Reason::FalsePrimary), Reason::RebuildOrdered.code()),
        ] {
            let mut servers = Servers::default();
            servers.set(&["pg1".to_owned()], 0).unwrap();
            if let Some(before) = before {
                servers.quarantine("pg1", before.code(), 1);
            }
            let version = servers.get("pg1").unwrap().version;
            let stale = servers.recover("pg1", version + 1, Some(7), (recovery, 2));
            assert!(matches!(stale, Err(Refusal::StaleVersion { .. })));
            servers.recover("pg1", version, Some(7), (recovery, 2)).unwrap();
            let server = servers.get("pg1").unwrap();
            assert_eq!(
                (server.administrative, &*server.order_reason),
                (Administrative::Quarantined, expected)
            );
            assert!(!server.has_been_started(7) && server.has_been_started(8));
            servers.set_administrative("pg1", version + 1, Administrative::Attached, "rejoined", 3).unwrap();
            assert!(servers.get("pg1").unwrap().has_been_started(7), "it is over");
        }
    }
}
