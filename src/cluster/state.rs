//! What the nodes agree on: members, servers, who is primary, who owns which endpoint, the configuration.
//!
//! Pure. `apply` is the only way it changes, and it is given nothing but the command, so every node that has applied
//! the same log holds the same state. It reads no clock: times come with the command, stamped by who proposed it, and
//! are for people; nothing is decided by them. Invariant: epochs and versions only rise, a command that expects another
//! one is refused and changes nothing, and no epoch ever has two primaries or two owners.

mod command;
mod configuration;
mod configured;
mod failover;
mod format;
mod hooks;
mod incidents;
mod log_format;
mod member;
mod outcome;
mod ownership;
mod restart;
mod server;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use super::sync_set::SyncSet;
use crate::topology::Epoch;

pub use command::{Change, Command};
pub use configuration::{Configuration, MAX_CONFIGURATION_BYTES, MAX_CONFIGURATION_VERSIONS, Version};
pub use failover::{Failover, FailoverKind};
pub use format::{NEWEST, ReadError};
pub use hooks::{Hook, HookEvent, Hooks, Taken};
pub use incidents::{Incident, Incidents, MAX_INCIDENT_TEXT, MAX_INCIDENTS};
pub use log_format::LOG_FORMAT;
pub use member::{MAX_MEMBERS, MAX_VOTERS, Member, MemberRole, Members};
pub use outcome::{Accepted, Outcome, Refusal};
pub use ownership::{Endpoint, Fence, Fenced, MAX_ENDPOINTS, Primary, Stage};
pub use restart::{Restart, RestartEnd, RestartStage, RestartStep, ToRestart};
pub use server::{Administrative, Claim, Disk, MAX_SERVERS, Observed, Report, Server, Servers};

use failover::Failovers;
use incidents::Entry;
use ownership::Ownership;
use restart::Restarts;
use server::Ordered;

/// Names of nodes, servers and endpoints, and reason codes: what fits a DNS label.
pub const MAX_NAME: usize = 63;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// Drawn once, when the cluster was created; empty before.
    #[serde(default)]
    cluster_id: String,
    #[serde(default)]
    members: Members,
    #[serde(default)]
    servers: Servers,
    /// Servers that were removed, and of which something may be left on the others.
    #[serde(default)]
    former_servers: BTreeSet<String>,
    #[serde(default)]
    ownership: Ownership,
    #[serde(default)]
    failovers: Failovers,
    #[serde(default)]
    restarts: Restarts,
    #[serde(default)]
    synchronous: SyncSet,
    #[serde(default)]
    configuration: Configuration,
    /// What a leader decided lately and did not do.
    #[serde(default)]
    rejected: Option<String>,
    #[serde(default)]
    incidents: Incidents,
    #[serde(default)]
    hooks: Hooks,
    #[serde(default)]
    log_format: u32,
}

impl ClusterState {
    /// Carries out one command of the log, or refuses it and changes nothing.
    pub fn apply(&mut self, command: Command) -> Outcome {
        match self.change(&command) {
            Ok((accepted, noted)) => {
                if let Some(entry) = noted {
                    self.incidents.note(&command, entry);
                }
                Outcome::Accepted(accepted)
            }
            Err(refusal) => Outcome::Refused(refusal),
        }
    }

    fn change(&mut self, command: &Command) -> Result<(Accepted, Option<Entry>), Refusal> {
        if self.cluster_id.is_empty() && !matches!(command.change, Change::CreateCluster { .. }) {
            return Err(Refusal::NoCluster);
        }
        command.check_names()?;
        self.check_log_format(&command.change)?;
        let at_ms = command.at_ms;
        match &command.change {
            Change::CreateCluster { cluster_id, members, configuration } => {
                self.create(command, cluster_id, members, configuration)
            }
            Change::AddMember { member } => self.members.add(member),
            Change::UpdateMember { id, incarnation, address, role } => {
                let updated = self.members.update(id, *incarnation, address, *role)?;
                if *role == MemberRole::Proxy {
                    self.servers.forget(id);
                }
                self.servers.judge_all(&self.members, at_ms);
                Ok(updated)
            }
            Change::ReplaceMember { incarnation, member } => {
                self.ownership.check_unowned(&member.id)?;
                let replaced = self.members.replace(*incarnation, member)?;
                self.forget(&member.id, at_ms);
                Ok(replaced)
            }
            Change::RemoveMember { id, incarnation } => {
                self.ownership.check_unowned(id)?;
                let removed = self.members.remove(id, *incarnation)?;
                self.forget(id, at_ms);
                Ok(removed)
            }
            Change::SetServers { servers } => self.set_servers(servers, at_ms),
            Change::ForgetServer { server } => match self.former_servers.remove(server) {
                true => Ok((Accepted::Changed, None)),
                false => Ok((Accepted::Unchanged, None)),
            },
            Change::SetAdministrative { server, version, state, within_ms } => {
                if *state != Administrative::Attached && self.ownership.is_primary(server) {
                    return Err(Refusal::PrimaryInUse { server: server.clone() });
                }
                let order = Ordered { state: *state, within_ms: *within_ms, reason: &command.reason, at_ms };
                let before = self.servers.get(server)?.administrative;
                let done = self.servers.order(server, *version, order)?;
                let epoch = self.ownership.primary().epoch;
                self.hooks.ordered(command, epoch, (server, before, *state), &command.reason);
                Ok(done)
            }
            Change::RecoverServer { server, version, ran_since_ms } => {
                if self.ownership.is_primary(server) {
                    return Err(Refusal::PrimaryInUse { server: server.clone() });
                }
                let was = self.servers.get(server)?.administrative;
                let done = self.servers.recover(server, *version, *ran_since_ms, (&command.reason, at_ms))?;
                let epoch = self.ownership.primary().epoch;
                let orders = (server.as_str(), was, Administrative::Quarantined);
                self.hooks.ordered(command, epoch, orders, &command.reason);
                Ok(done)
            }
            Change::PauseServer { server, paused } => {
                self.servers.pause(server, *paused, &command.reason, at_ms)
            }
            Change::ConfirmQuiet { server, orders, node } => {
                self.members.get(node)?;
                self.servers.confirm_quiet(server, *orders, node)
            }
            Change::ServerReport { server, claim } => {
                // A proxy's view decides nothing, and there may be a thousand of them.
                if self.members.get(&command.node)?.role != MemberRole::Voter {
                    return Err(Refusal::NoVoter { id: command.node.clone() });
                }
                let report = Report { claim: *claim, reason: command.reason.clone(), at_ms };
                let reported = self.servers.report(&command.node, server, report, &self.members)?;
                self.ownership.note_life(server, self.servers.get(server)?.life(&self.members));
                Ok(reported)
            }
            Change::ForgetReports { node } => {
                self.forget(node, at_ms);
                Ok((Accepted::Changed, None))
            }
            Change::BeginFailover { epoch, kind, to } => {
                self.begin_failover(command, *epoch, *kind, to.as_deref())
            }
            Change::HoldTransactions { epoch } => self.failovers.hold(*epoch),
            Change::ConfirmHold { epoch, node } => {
                self.members.get(node)?;
                self.failovers.confirm_hold(*epoch, node)
            }
            Change::AbandonFailover { epoch } => {
                let is_fenced = self.ownership.is_fenced(&Fenced::Primary);
                let given_up = self.failovers.abandon(*epoch, is_fenced)?;
                self.restarts.not_switched(&mut self.servers, at_ms);
                Ok(given_up)
            }
            Change::BeginRestart { servers, rolling } => {
                self.restarts.begin(&self.servers, servers, *rolling, at_ms)
            }
            Change::AdvanceRestart { id, server, from, to } => {
                if *to == RestartStage::Draining && self.ownership.is_primary(server) {
                    return Err(Refusal::PrimaryInUse { server: server.clone() });
                }
                let now = (self.ownership.primary().epoch, at_ms);
                self.restarts.advance(&mut self.servers, (*id, server), (*from, *to), now)
            }
            Change::ConfirmClear { id, server, node } => {
                self.members.get(node)?;
                self.restarts.confirm_clear(*id, server, node)
            }
            Change::EndRestart { id, text } => {
                // The primary is stopped, or about to be: what is begun is finished.
                if let Some(failover) = self.failovers.under_way()
                    && failover.kind == FailoverKind::Restart
                {
                    return Err(Refusal::FailoverUnderWay { from: failover.from.clone() });
                }
                self.restarts.end(&mut self.servers, *id, (&command.reason, text), at_ms)
            }
            Change::SetSynchronous { before, set } => self.set_synchronous(before, set),
            Change::NoteRejected { what } => Ok(self.note_rejected(what.as_deref())),
            Change::PauseFailover { paused } => Ok(self.failovers.pause(*paused)),
            Change::StandStill { epoch, sentence } => {
                let primary = self.ownership.expect_primary(*epoch)?;
                let reason = sentence.as_ref().map(|_| command.reason.as_str());
                let sentence = sentence.as_deref().unwrap_or_default();
                Ok(self.failovers.stand_still(primary, reason, sentence))
            }
            Change::OpenFence { fenced, epoch } => self.ownership.open_fence(fenced, *epoch, at_ms),
            Change::ConfirmFence { fenced, epoch, node } => {
                self.members.get(node)?;
                self.ownership.confirm_fence(fenced, *epoch, node)
            }
            Change::PassFence { fenced, epoch } => self.ownership.pass_fence(fenced, *epoch),
            Change::NamePrimary { epoch, server, promotes } => {
                let named = self.servers.get(server)?;
                if named.administrative != Administrative::Attached {
                    return Err(Refusal::NotAttached { server: server.clone() });
                }
                let before = self.ownership.primary().server.clone();
                let done = self.ownership.name_primary(*epoch, server, at_ms)?;
                if let Some(before) = before.filter(|before| *promotes && before != server) {
                    let (reason, state) = (Reason::FormerPrimary.code(), Administrative::Quarantined);
                    let was = self.servers.all().get(&before).map_or(state, |server| server.administrative);
                    self.servers.quarantine(&before, reason, at_ms);
                    let epoch = self.ownership.primary().epoch;
                    self.hooks.ordered(command, epoch, (&before, was, state), reason);
                }
                if !promotes {
                    self.failovers.end();
                }
                Ok(done)
            }
            Change::ConfirmPrimary { epoch, timeline } => {
                let done = self.ownership.confirm_primary(*epoch, *timeline)?;
                let failover = self.failovers.end();
                let server = self.ownership.expect_primary(*epoch)?.to_owned();
                self.ownership.note_life(&server, self.servers.get(&server)?.life(&self.members));
                let server = &*server;
                let tells_the_last = self.log_format >= log_format::HOOKS_TELL_THE_LAST_CONFIRMED;
                self.hooks.confirmed(command, *epoch, server, failover, tells_the_last);
                Ok(done)
            }
            Change::AssignEndpoint { endpoint, epoch, owner } => {
                if let Some(owner) = owner {
                    self.members.get(owner)?;
                }
                self.ownership.assign_endpoint(endpoint, *epoch, owner.as_deref(), at_ms)
            }
            Change::RemoveEndpoint { endpoint, epoch } => self.ownership.remove_endpoint(endpoint, *epoch),
            Change::ApplyConfiguration { version, text, servers } => {
                servers.as_deref().map_or(Ok(()), |servers| self.check_servers(servers))?;
                let applied = self.configuration.apply(command, *version, text)?;
                Ok(self.with_servers(applied, servers.as_deref(), at_ms))
            }
            Change::RollBackConfiguration { version, to, servers } => {
                servers.as_deref().map_or(Ok(()), |servers| self.check_servers(servers))?;
                let applied = self.configuration.roll_back(command, *version, *to)?;
                Ok(self.with_servers(applied, servers.as_deref(), at_ms))
            }
            Change::TakeHook { id, deadline_ms } => self.hooks.take(*id, &command.node, *deadline_ms),
            Change::EndHook { id, text } => self.hooks.end(*id, text.as_deref()),
            Change::RaiseLogFormat { from, to } => self.raise_log_format(*from, *to),
            Change::NoteIncident { subject, text } => {
                Ok((Accepted::Changed, Some(Entry { subject: subject.clone(), text: text.clone() })))
            }
        }
    }

    fn create(
        &mut self,
        command: &Command,
        cluster_id: &str,
        members: &[Member],
        configuration: &str,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        if !self.cluster_id.is_empty() {
            return Err(Refusal::ClusterExists { cluster_id: self.cluster_id.clone() });
        }
        let mut created = ClusterState { cluster_id: cluster_id.to_owned(), ..ClusterState::default() };
        for member in members {
            created.members.add(member)?;
        }
        created.configuration.apply(command, 0, configuration)?;
        *self = created;
        let text = format!("cluster {cluster_id} created with {} members", members.len());
        Ok((Accepted::Changed, Some(Entry { subject: cluster_id.to_owned(), text })))
    }

    fn set_synchronous(
        &mut self,
        before: &SyncSet,
        set: &SyncSet,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        if self.synchronous != *before {
            return Err(Refusal::OtherSynchronous { current: self.synchronous.to_string() });
        }
        if before == set {
            return Ok((Accepted::Unchanged, None));
        }
        self.synchronous = set.clone();
        let text = match set.promises() {
            true => format!("commits are acknowledged by {set}"),
            false => "commits are acknowledged by the primary alone".to_owned(),
        };
        Ok((Accepted::Changed, Some(Entry { subject: "synchronous".to_owned(), text })))
    }

    fn note_rejected(&mut self, what: Option<&str>) -> (Accepted, Option<Entry>) {
        if self.rejected.as_deref() == what {
            return (Accepted::Unchanged, None);
        }
        self.rejected = what.map(str::to_owned);
        let text = match what {
            Some(what) => format!("not done: {what}"),
            None => "nothing was rejected for a while".to_owned(),
        };
        (Accepted::Changed, Some(Entry { subject: "plan".to_owned(), text }))
    }

    fn begin_failover(
        &mut self,
        command: &Command,
        epoch: Epoch,
        kind: FailoverKind,
        to: Option<&str>,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let from = self.ownership.expect_primary(epoch)?.to_owned();
        if let Some(to) = to
            && self.servers.get(to)?.administrative != Administrative::Attached
        {
            return Err(Refusal::NotAttached { server: to.to_owned() });
        }
        // What was begun for an earlier epoch came to nothing: the one it named is lost, too.
        if let Some(failover) = self.failovers.under_way().filter(|failover| failover.epoch == epoch)
            && kind <= failover.kind
        {
            return Err(Refusal::FailoverUnderWay { from: failover.from.clone() });
        }
        if matches!(kind, FailoverKind::Automatic | FailoverKind::Forced) {
            self.ownership.open_fence(&Fenced::Primary, epoch, command.at_ms)?;
        } else if self.ownership.is_fenced(&Fenced::Primary) {
            return Err(Refusal::Fenced);
        }
        Ok(self.failovers.begin(Failover {
            kind,
            epoch,
            from,
            to: to.map(str::to_owned),
            since_ms: command.at_ms,
            reason: command.reason.clone(),
            cause: command.cause.clone(),
            holds: false,
            held_by: Default::default(),
        }))
    }

    fn forget(&mut self, node: &str, at_ms: u64) {
        self.servers.forget(node);
        self.servers.judge_all(&self.members, at_ms);
    }

    /// Empty until the cluster was created.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub fn member_list(&self) -> &Members {
        &self.members
    }

    pub fn members(&self) -> &BTreeMap<String, Member> {
        self.members.all()
    }

    pub fn servers(&self) -> &BTreeMap<String, Server> {
        self.servers.all()
    }

    /// Those that were removed, as long as something of them may be left on the others.
    pub fn former_servers(&self) -> &BTreeSet<String> {
        &self.former_servers
    }

    pub fn primary(&self) -> &Primary {
        self.ownership.primary()
    }

    /// The standbys of which enough must answer before one of them is promoted.
    pub fn synchronous(&self) -> &SyncSet {
        &self.synchronous
    }

    /// Of the last primary that was confirmed; 0: there was none.
    pub fn last_timeline(&self) -> u32 {
        self.ownership.last_timeline()
    }

    /// What komainu itself is about to change.
    pub fn failover(&self) -> Option<&Failover> {
        self.failovers.under_way()
    }

    /// What is being restarted by order.
    pub fn restart(&self) -> Option<&Restart> {
        self.restarts.under_way()
    }

    /// How the last one ended.
    pub fn last_restart(&self) -> Option<&RestartEnd> {
        self.restarts.last()
    }

    /// Whether no failover is to begin by itself.
    pub fn failover_paused(&self) -> bool {
        self.failovers.paused()
    }

    /// The reason code for which a lost primary is not replaced.
    pub fn standstill(&self) -> Option<&str> {
        self.failovers.standstill()
    }

    /// Whether transactions on the primary are to run out and none to begin.
    pub fn holds(&self) -> bool {
        self.failovers.holds(self.ownership.primary().epoch)
    }

    /// What a leader decided lately and did not do, since it would have broken an invariant.
    pub fn rejected(&self) -> Option<&str> {
        self.rejected.as_deref()
    }

    pub fn endpoints(&self) -> &BTreeMap<String, Endpoint> {
        self.ownership.endpoints()
    }

    /// Those opened and not yet followed by a new epoch.
    pub fn fences(&self) -> &[Fence] {
        self.ownership.fences()
    }

    /// Whether a fence ends what this epoch allows: nobody acts on it any more, whatever lease it holds.
    pub fn is_fenced(&self, fenced: &Fenced) -> bool {
        self.ownership.is_fenced(fenced)
    }

    /// Whether nobody can act on what was ended any more, and nothing has begun since.
    pub fn has_passed(&self, fenced: &Fenced) -> bool {
        self.ownership.fences().iter().any(|fence| fence.fenced == *fenced && fence.passed)
    }

    /// Before it is in the log. What every version's `apply` takes may come at a bad moment all the same: a server that is
    /// put out of use while the primary is being replaced may be the one that is needed.
    pub fn check_proposal(&self, change: &Change) -> Result<(), Refusal> {
        self.check_log_format(change)?;
        match (change, self.failover()) {
            (Change::RecoverServer { .. }, Some(failover)) => {
                Err(Refusal::FailoverUnderWay { from: failover.from.clone() })
            }
            (Change::RecoverServer { .. }, None) if self.is_fenced(&Fenced::Primary) => Err(Refusal::Fenced),
            _ => Ok(()),
        }
    }

    /// The primary, while nothing about it is changing: the one that clients write to.
    pub fn settled_primary(&self) -> Option<&str> {
        let primary = self.primary();
        let settled = self.failover().is_none()
            && !self.is_fenced(&Fenced::Primary)
            && primary.stage == Stage::Confirmed;
        primary.server.as_deref().filter(|_| settled)
    }

    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    pub fn incidents(&self) -> &Incidents {
        &self.incidents
    }

    /// What the operator's programs are still to be told.
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// What must hold in every state. A state that was read and breaks it is not used.
    pub fn check(&self) -> Result<(), String> {
        self.members.check()?;
        self.ownership.check()?;
        self.failovers.check(self.ownership.primary().epoch)?;
        self.configuration.check()?;
        self.incidents.check()?;
        self.hooks.check()?;
        if let Some(server) = &self.ownership.primary().server
            && !self.servers.all().contains_key(server)
        {
            return Err(format!("the primary {server} is no server"));
        }
        for (name, endpoint) in self.ownership.endpoints() {
            if let Some(owner) = &endpoint.owner
                && !self.members.all().contains_key(owner)
            {
                return Err(format!("the owner {owner} of endpoint {name} is no member"));
            }
        }
        Ok(())
    }
}
