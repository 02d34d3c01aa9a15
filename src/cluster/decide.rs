//! What the leader has to do now: from the agreed state, the configuration and who was heard to the next changes.
//!
//! Pure. Called again after each change, so it names only what can be done at once; whatever was half done by an earlier
//! leader looks like something half done by this one. Invariant: an epoch that somebody holds is ended by a fence, and
//! nothing is given to anybody before that fence has passed.

pub mod action;
mod candidate;
pub mod check;
mod endpoint;
mod failover;
mod host;
mod log_shipping;
mod loss;
mod memory;
mod orders_end;
mod primary;
mod replicas;
mod restart;
mod returning;
mod slots;
pub mod sync_standby;
mod synchronous;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Facts, View};
use super::reason::Reason;
use super::state::{Change, ClusterState, Fence, Fenced, Member, MemberRole};
use crate::config;
use crate::consensus::lease::LeaseSettings;
use crate::topology::Health;

use action::Action;
pub use loss::to_be_asked;
pub use memory::{HostStop, Memory, OPERATIONS_END_MS, Planned};

/// A new leader gives the others so many heartbeats to say that they live.
const GRACE_HEARTBEATS: u64 = 4;
/// A node is forgotten as an observer after so many leases of silence: a hiccup does not change who is up.
const FORGET_AFTER_LEASES: u64 = 5;

/// Everything a decision follows from.
pub struct Situation<'a> {
    pub state: &'a ClusterState,
    pub now_ms: u64,
    /// This node, which leads.
    pub me: &'a str,
    pub leading_since_ms: u64,
    /// When each node last asked for its lease, by raft id.
    pub asked: &'a BTreeMap<u64, u64>,
    /// Endpoints that a node could not take, as it says itself, by raft id.
    pub unable: &'a BTreeMap<u64, BTreeSet<String>>,
    pub lease: &'a LeaseSettings,
    /// As configured, in that order.
    pub endpoints: &'a [String],
    pub servers: &'a [String],
    /// Where each voter is reached, as configured.
    pub addresses: &'a BTreeMap<String, String>,
    /// Endpoints that are wanted elsewhere: on one of which nodes, and who asked.
    pub wishes: &'a BTreeMap<String, (BTreeSet<String>, String)>,
    /// Whether nobody can act any more on what a fence ends.
    pub passed: &'a dyn Fn(&Fence) -> bool,
    pub policy: &'a Policy,
    /// The policy is of the configuration that all have agreed on; else of one before it, since this node cannot use that.
    pub is_agreed: bool,
    /// What this node sees of the servers.
    pub view: &'a View,
    pub memory: &'a Memory,
}

/// What the configuration says of failovers.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub failover: config::Failover,
    pub servers: Vec<config::Server>,
}

impl Policy {
    /// Of a configuration that says nothing of it.
    #[cfg(test)]
    pub fn off() -> Self {
        let failover = config::Failover {
            mode: config::FailoverMode::Off,
            automatic: true,
            user: "komainu_operator".to_owned(),
            password_file: None,
            database: "postgres".to_owned(),
            replication_user: "replicator".to_owned(),
            replication_passfile: None,
            sync_mode: config::SyncMode::Off,
            sync_count: 1,
            max_lag_bytes: 0,
            promote_log_shipped: false,
            crash_recovery_grace_ms: 30_000,
            promote_timeout_ms: 10_000,
            silence_ms: 2_000,
            max_slot_bytes: 1 << 34,
            write_timeout_ms: 10_000,
            fence_host: config::FenceHost::Off,
            fence_host_wait_ms: 0,
            cluster_id: None,
            cluster_refresh_ms: 30_000,
        };
        Policy { failover, servers: Vec::new() }
    }

    pub fn server(&self, id: &str) -> Option<&config::Server> {
        self.servers.iter().find(|server| server.id == id)
    }
}

/// Changes to propose, and what to do to servers meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub actions: Vec<Action>,
}

impl Plan {
    fn step(step: Step) -> Self {
        Plan { steps: vec![step], actions: Vec::new() }
    }

    fn action(action: Action) -> Self {
        Plan::actions(vec![action])
    }

    fn actions(actions: Vec<Action>) -> Self {
        Plan { steps: Vec::new(), actions }
    }

    fn extend(&mut self, other: Plan) {
        self.steps.extend(other.steps);
        self.actions.extend(other.actions);
    }
}

/// One change to propose, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub change: Change,
    pub reason: Reason,
    /// Who or what is behind it.
    pub cause: String,
}

impl Step {
    fn new(change: Change, reason: Reason) -> Self {
        Step { change, reason, cause: "decision".to_owned() }
    }
}

/// What to propose and to do now, each independent of the others.
pub fn decide(situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let steps = &mut plan.steps;
    let state = situation.state;
    if !state.servers().keys().eq(sorted(situation.servers)) {
        let change = Change::SetServers { servers: situation.servers.to_vec() };
        let reason = match situation.policy.failover.finds_servers() {
            true => Reason::InstancesFound,
            false => Reason::ServersConfigured,
        };
        steps.push(Step::new(change, reason));
    }
    for fence in state.fences().iter().filter(|fence| !fence.passed && (situation.passed)(fence)) {
        let change = Change::PassFence { fenced: fence.fenced.clone(), epoch: fence.epoch };
        steps.push(Step::new(change, Reason::FencePassed));
    }
    steps.extend(endpoint::decide(situation));
    steps.extend(primary::decide(situation));
    steps.extend(situation.readdressed());
    steps.extend(
        situation
            .silent_observers()
            .map(|node| Step::new(Change::ForgetReports { node: node.to_owned() }, Reason::NodeSilent)),
    );
    plan.extend(failover::decide(situation));
    plan.extend(replicas::decide(situation));
    plan.extend(synchronous::decide(situation));
    plan.extend(restart::decide(situation));
    plan
}

fn sorted(names: &[String]) -> impl Iterator<Item = &String> {
    let mut names: Vec<_> = names.iter().collect();
    names.sort();
    names.dedup();
    names.into_iter()
}

impl Situation<'_> {
    /// For how long nothing was heard of a node. None: nothing yet, and this leader is too new to make anything of it.
    fn silence_ms(&self, member: &Member) -> Option<u64> {
        if member.id == self.me {
            return Some(0);
        }
        let led_for_ms = self.now_ms.saturating_sub(self.leading_since_ms);
        match self.asked.get(&member.raft_id) {
            Some(at_ms) => Some(self.now_ms.saturating_sub(*at_ms)),
            None if led_for_ms < self.lease.heartbeat_ms * GRACE_HEARTBEATS => None,
            // Since before this node led, so for longer than an election takes.
            None => Some(led_for_ms + self.lease.election_timeout_max_ms),
        }
    }

    /// Heard of lately, so that it can hold a lease.
    fn lives(&self, node: &str) -> bool {
        let member = self.state.members().get(node);
        member.and_then(|member| self.silence_ms(member)).is_some_and(|ms| ms < self.lease.lease_ms)
    }

    /// So long unheard of that its lease has ended, if it has not lost it before.
    fn is_silent(&self, node: &str) -> bool {
        let member = self.state.members().get(node);
        member.is_none_or(|member| self.silence_ms(member).is_some_and(|ms| ms >= self.lease.lease_ms))
    }

    fn is_fenced(&self) -> bool {
        self.state.is_fenced(&Fenced::Primary)
    }

    /// Of the primary whose epoch ends, or has ended; 0: none was ever confirmed.
    fn last_timeline(&self) -> u32 {
        self.state.last_timeline()
    }

    /// Whether one of these surely has every commit that was acknowledged.
    fn enough_synchronous(&self, answering: &[&str]) -> bool {
        self.state.synchronous().enough_answer(answering.iter().copied())
    }

    /// The primary that komainu looks after, while nothing about it is changing.
    fn settled_primary(&self) -> Option<&str> {
        self.state.settled_primary().filter(|_| self.promotes())
    }

    /// What a server last said, if it answers.
    fn answering(&self, server: &str) -> Option<&Facts> {
        let (state, detail) = self.view.find(server)?;
        detail.facts.as_deref().filter(|_| state.health == Health::Up && detail.failures == 0)
    }

    /// Whether primaries are made by komainu.
    fn promotes(&self) -> bool {
        self.policy.failover.mode.promotes()
    }

    /// Whether they are made by AWS.
    fn is_managed(&self) -> bool {
        self.policy.failover.mode.is_managed()
    }

    /// Whether a commit is acknowledged only when standbys have it.
    fn promises(&self) -> bool {
        self.state.synchronous().promises()
    }

    /// Whether no commit is to be acknowledged that a standby does not have, promised in the log already or not.
    fn requires(&self) -> bool {
        self.policy.failover.sync_mode == config::SyncMode::Require
    }

    /// Whether most nodes hear that server say that it is a primary.
    fn is_heard(&self, server: &str) -> bool {
        let server = self.state.servers().get(server);
        server.is_some_and(|server| server.says_primary(self.state.member_list()))
    }

    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.state.members().values().filter(|member| member.role == MemberRole::Voter)
    }

    /// Voters that the configuration has at another address than the log.
    fn readdressed(&self) -> impl Iterator<Item = Step> {
        self.voters().filter_map(|member| {
            let address = self.addresses.get(&member.id).filter(|address| **address != member.address)?;
            let change = Change::UpdateMember {
                id: member.id.clone(),
                incarnation: member.incarnation,
                address: address.clone(),
                role: member.role,
            };
            Some(Step::new(change, Reason::NodeReaddressed))
        })
    }

    fn silent_observers(&self) -> impl Iterator<Item = &str> {
        let reported =
            |node: &str| self.state.servers().values().any(|server| server.reports.contains_key(node));
        let limit_ms = self.lease.lease_ms * FORGET_AFTER_LEASES;
        self.voters()
            .filter(move |member| self.silence_ms(member).is_some_and(|ms| ms >= limit_ms))
            .map(|member| member.id.as_str())
            .filter(move |node| reported(node))
    }
}
