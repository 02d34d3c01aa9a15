mod astray;
mod cascade;
mod damped;
mod disk;
mod gone;
mod host;
mod in_a_row;
mod naming;
mod planned;
mod returning;
mod slots;
mod stopped;
mod synchronous;
mod taken_back;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::planned::{HOLD_MS, STOP_MS};
use super::*;
use crate::cluster::conninfo::Upstream;
use crate::cluster::decide::check::check;
use crate::cluster::decide::{Memory, Policy, decide};
use crate::cluster::model::{Archive, Facts, Identity, Receiver, Sender, Slot, View};
use crate::cluster::operate::slots::slot_name;
use crate::cluster::state::{
    Administrative, Claim, ClusterState, Command, Member, MemberRole, Observed, Outcome,
};
use crate::config::{self, FailoverMode};
use crate::consensus::lease::LeaseSettings;
use crate::topology::{Lsn, Role};

mod log_shipping;

pub(in crate::cluster::decide) const NODES: [&str; 3] = ["a", "b", "c"];
const SERVERS: [&str; 3] = ["pg1", "pg2", "pg3"];

/// A cluster of servers as the leader, node a, knows it, and the log as it would be.
pub(in crate::cluster::decide) struct World {
    pub state: ClusterState,
    pub view: View,
    pub memory: Memory,
    pub policy: Policy,
    pub is_agreed: bool,
    pub now_ms: u64,
    pub fence_passes: bool,
}

fn server(id: &str) -> config::Server {
    config::Server {
        agent: Some(format!("{id}.db:7401")),
        ..config::Server::at(id, format!("{id}.db"), 5432)
    }
}

fn policy() -> Policy {
    let failover =
        config::Failover { mode: FailoverMode::Streaming, max_lag_bytes: 1000, ..Policy::off().failover };
    Policy { failover, servers: SERVERS.map(server).to_vec() }
}

impl World {
    /// pg1 is the primary of epoch 1, the others stream from it, and all of it has been so for a while.
    pub fn new() -> Self {
        let mut world = World {
            state: ClusterState::default(),
            view: View::new(&SERVERS.map(server)),
            memory: Memory::default(),
            policy: policy(),
            is_agreed: true,
            now_ms: 100_000,
            fence_passes: true,
        };
        let member = |(index, id): (usize, &&str)| Member {
            id: id.to_string(),
            raft_id: index as u64 + 1,
            incarnation: 1,
            address: format!("{id}:1"),
            role: MemberRole::Voter,
        };
        let members = NODES.iter().enumerate().map(member).collect();
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        world.apply(Change::CreateCluster { cluster_id, members, configuration });
        world.apply(Change::SetServers { servers: SERVERS.map(str::to_owned).to_vec() });
        world.view.identity = Identity::Pinned(77);
        world.view.primary_lsn = Lsn(5000);
        world.is_primary("pg1", 1);
        world.streams("pg2", "pg1", 1, 5000);
        world.streams("pg3", "pg1", 1, 5000);
        world.settle();
        world.pass(60_000);
        assert_eq!(world.state.primary().server.as_deref(), Some("pg1"));
        world
    }

    pub fn apply(&mut self, change: Change) {
        self.apply_as("a", change, "");
    }

    fn apply_as(&mut self, node: &str, change: Change, reason: &str) {
        let (node, cause, reason) = (node.to_owned(), "test".to_owned(), reason.to_owned());
        let outcome = self.state.apply(Command { at_ms: 0, node, cause, reason, change });
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        self.state.check().unwrap();
    }

    pub fn is_refused(&mut self, change: Change) -> bool {
        let (node, cause, reason) = ("a".to_owned(), "test".to_owned(), String::new());
        matches!(self.state.apply(Command { at_ms: 0, node, cause, reason, change }), Outcome::Refused(_))
    }

    pub fn claim(&mut self, id: &str, claim: Claim) {
        for node in NODES {
            self.claim_as(node, id, claim);
        }
    }

    fn claim_as(&mut self, node: &str, id: &str, claim: Claim) {
        self.apply_as(node, Change::ServerReport { server: id.to_owned(), claim }, "");
    }

    pub fn facts(&self, in_recovery: bool, timeline: u32, lsn: u64) -> Facts {
        Facts {
            asked_at_ms: self.now_ms,
            answered_at_ms: self.now_ms,
            received_lsn: in_recovery.then_some(Lsn(lsn)),
            system_identifier: 77,
            ..Facts::bare(in_recovery, timeline, lsn)
        }
    }

    /// As it was last seen.
    pub fn facts_of(&self, id: &str) -> Facts {
        self.view.find(id).unwrap().1.facts.as_deref().unwrap().clone()
    }

    pub fn see(&mut self, id: &str, facts: Facts) {
        let index = SERVERS.iter().position(|known| *known == id).unwrap();
        let (state, detail) = (&mut self.view.snapshot.servers[index], &mut self.view.details[index]);
        state.health = Health::Up;
        (detail.failures, detail.failing_since_ms, detail.failure, detail.reason) = (0, None, None, None);
        detail.says = if facts.in_recovery { Role::Standby } else { Role::Primary };
        let primary_on = (!facts.in_recovery).then_some(facts.timeline);
        detail.facts = Some(Arc::new(facts));
        self.claim(id, Claim { observed: Observed::Up, primary_on, ..Claim::default() });
    }

    pub fn is_primary(&mut self, id: &str, timeline: u32) {
        let mut facts = self.facts(false, timeline, 5000);
        let sender = |name: &str| Sender {
            name: name.to_owned(),
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
            sent_lsn: None,
            flush_lsn: None,
        };
        facts.senders = SERVERS.iter().filter(|other| **other != id).map(|id| sender(id)).collect();
        facts.slots = SERVERS.iter().filter(|other| **other != id).map(|id| slot(id)).collect();
        self.see(id, facts);
    }

    pub fn streams(&mut self, id: &str, from: &str, timeline: u32, lsn: u64) {
        let mut facts = self.facts(true, timeline, lsn);
        facts.upstream = upstream(&format!("{from}.db"));
        facts.receiver = Some(Receiver {
            status: "streaming".to_owned(),
            name: id.to_owned(),
            message_age_ms: Some(10),
            timeline: Some(timeline),
        });
        facts.slots = SERVERS.iter().filter(|other| **other != id).map(|id| slot(id)).collect();
        self.see(id, facts);
    }

    /// It was told to receive nothing, and does not.
    pub fn is_stopped(&mut self, id: &str, timeline: u32, lsn: u64) {
        let mut facts = self.facts(true, timeline, lsn);
        facts.upstream = upstream(crate::cluster::conninfo::NOWHERE);
        self.see(id, facts);
    }

    pub fn is_silent(&mut self, id: &str, refused: bool) {
        let index = SERVERS.iter().position(|known| *known == id).unwrap();
        let detail = &mut self.view.details[index];
        (detail.failures, detail.failing_since_ms) = (2, Some(self.now_ms - 1_500));
        detail.failure = Some(Reason::Timeout);
        let observed = if refused { Observed::Down } else { Observed::Unknown };
        if refused {
            self.view.snapshot.servers[index].health = Health::Down;
        }
        self.claim(id, Claim { observed, suspect: true, ..Claim::default() });
    }

    /// The standbys have lost their receivers.
    pub fn standbys_hear_nothing(&mut self) {
        for id in ["pg2", "pg3"] {
            let mut facts = self.facts(true, 1, 5000);
            facts.upstream = upstream("pg1.db");
            self.see(id, facts);
        }
    }

    /// What is decided. Of what is decided rightly the checker rejects nothing.
    fn plan(&mut self) -> Plan {
        self.knows(|situation| {
            let (plan, rejected) = check(situation, Some(situation.now_ms), decide(situation));
            assert_eq!(rejected, []);
            plan
        })
    }

    pub fn knows<T>(&mut self, what: impl FnOnce(&Situation<'_>) -> T) -> T {
        let asked: BTreeMap<u64, u64> = (1..=3).map(|id| (id, self.now_ms)).collect();
        let passes = self.fence_passes;
        self.memory.look(&self.state, &self.view, self.now_ms);
        what(&Situation {
            state: &self.state,
            now_ms: self.now_ms,
            me: "a",
            leading_since_ms: 5_000,
            asked: &asked,
            unable: &BTreeMap::new(),
            lease: &LeaseSettings::default(),
            endpoints: &[],
            servers: &SERVERS.map(str::to_owned),
            addresses: &BTreeMap::new(),
            wishes: &BTreeMap::new(),
            passed: &move |_| passes,
            policy: &self.policy,
            is_agreed: self.is_agreed,
            view: &self.view,
            memory: &self.memory,
        })
    }

    /// Proposes what is decided until there is nothing to propose; says why each time, and what is to be done then.
    pub fn settle(&mut self) -> (Vec<Reason>, Vec<Action>) {
        let mut reasons = Vec::new();
        for _ in 0..20 {
            let plan = self.plan();
            if plan.steps.is_empty() {
                return (reasons, plan.actions);
            }
            for step in plan.steps {
                reasons.push(step.reason);
                self.apply_as("a", step.change, step.reason.code());
            }
        }
        panic!("it never settles: {reasons:?}");
    }

    pub fn reasons(&mut self) -> Vec<Reason> {
        self.settle().0
    }

    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        // Who answers goes on answering.
        for (state, detail) in self.view.snapshot.servers.iter().zip(&mut self.view.details) {
            if let Some(facts) =
                detail.facts.as_mut().filter(|_| state.health == Health::Up && detail.failures == 0)
            {
                let facts = Arc::make_mut(facts);
                (facts.asked_at_ms, facts.answered_at_ms) = (self.now_ms, self.now_ms);
            }
        }
    }

    pub fn order(&mut self, kind: FailoverKind, to: Option<&str>) {
        let epoch = self.state.primary().epoch;
        self.apply(Change::BeginFailover { epoch, kind, to: to.map(str::to_owned) });
    }

    pub fn begin_switchover(&mut self, to: Option<&str>) {
        self.order(FailoverKind::Switchover, to);
        self.memory.note_checkpoint(self.state.primary().epoch);
        assert_eq!(self.reasons(), [Reason::SwitchoverOrdered]);
    }

    pub fn administrative(&self, id: &str) -> Administrative {
        self.state.servers()[id].administrative
    }
}

fn slot(id: &str) -> Slot {
    Slot { name: slot_name(id), active: true, restart_lsn: None }
}

fn upstream(host: &str) -> Option<Upstream> {
    Some(Upstream { host: host.to_owned(), port: 5432, application_name: None })
}

pub(in crate::cluster::decide) fn did(actions: &[Action]) -> Vec<(&str, &What)> {
    actions.iter().map(|action| (action.server.as_str(), &action.what)).collect()
}

#[test]
fn a_primary_that_refuses_is_replaced_by_the_standby_that_lacks_least() {
    let mut world = World::new();
    world.fence_passes = false;
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::PrimaryLost]);
    assert_eq!(did(&actions), [("pg2", &What::StopReceiving), ("pg3", &What::StopReceiving)]);
    assert_eq!(world.reasons(), [], "nobody is named before the fence has passed");
    world.fence_passes = true;
    world.is_stopped("pg2", 1, 4900);
    world.is_stopped("pg3", 1, 5000);
    assert_eq!(world.reasons(), [Reason::FencePassed], "they were asked before");
    world.pass(10);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::LacksLeast]);
    let epoch = world.state.primary().epoch;
    assert_eq!(did(&actions), [("pg3", &What::Promote { epoch })]);
    assert_eq!(world.administrative("pg1"), Administrative::Quarantined);
    world.is_primary("pg3", 2);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::Promoted]);
    assert_eq!((world.state.primary().timeline, world.state.failover()), (2, None));
    let follow = What::Follow { primary: "pg3".to_owned() };
    let rejoin = What::Rejoin {
        epoch,
        primary: "pg3".to_owned(),
        timeline: 2,
        allow_rewind: true,
        rebuild_from: Some("pg2".to_owned()),
        order: 1,
        may_rebuild: true,
    };
    assert_eq!(did(&actions), [("pg2", &follow)], "commits wait for it");
    world.streams("pg2", "pg3", 2, 5100);
    let (reasons, actions) = world.settle();
    assert_eq!((reasons, did(&actions)), (Vec::new(), vec![("pg1", &rejoin)]));
    world.streams("pg1", "pg3", 2, 5100);
    assert_eq!(world.settle(), (vec![Reason::Rejoined], Vec::new()));
    assert_eq!(world.administrative("pg1"), Administrative::Attached);
}

#[test]
fn silence_is_believed_only_when_the_standbys_hear_nothing_either() {
    let mut world = World::new();
    world.is_silent("pg1", false);
    assert_eq!(world.reasons(), [Reason::StandbysStillHear]);
    // One of them was asked again, and hears it.
    world.pass(1000);
    assert_eq!(world.reasons(), []);
    let mut facts = world.facts(true, 1, 5000);
    facts.upstream = upstream("pg1.db");
    facts.receiver = Some(Receiver {
        status: "streaming".to_owned(),
        name: "pg2".to_owned(),
        message_age_ms: Some(2_500),
        timeline: Some(1),
    });
    world.see("pg2", facts.clone());
    assert_eq!(world.reasons(), [], "pg3 still hears");
    world.see("pg3", facts);
    world.fence_passes = false;
    assert_eq!(world.reasons(), [Reason::PrimaryLost]);
}

#[test]
fn a_refusal_is_no_loss_while_a_standby_hears_the_primary() {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.streams("pg2", "pg1", 1, 5000);
    assert_eq!(world.reasons(), [Reason::StandbysStillHear]);
    assert_eq!(world.state.standstill(), Some("standbys_still_hear"));
    world.is_primary("pg1", 1);
    assert_eq!(world.reasons(), [Reason::ServerObserved]);
    assert_eq!(world.state.standstill(), None);
}

#[test]
fn one_nodes_bad_network_is_its_own() {
    let mut world = World::new();
    world.standbys_hear_nothing();
    let down = Claim { observed: Observed::Down, suspect: true, ..Claim::default() };
    world.claim_as("b", "pg1", down);
    assert_eq!(world.reasons(), []);
    world.claim_as("c", "pg1", down);
    assert_eq!(world.reasons(), [Reason::LeaderReachesIt]);
}

#[test]
fn what_stands_in_the_way_is_named_and_nothing_is_fenced() {
    type Obstacle = (fn(&mut World), Reason);
    let obstacles: [Obstacle; 8] = [
        (|world| world.policy.servers[0].always_primary = true, Reason::AlwaysPrimary),
        (|world| world.policy.failover.automatic = false, Reason::FailoverNotAutomatic),
        (|world| world.apply(Change::PauseFailover { paused: true }), Reason::FailoverPaused),
        (
            |world| world.policy.servers[1..].iter_mut().for_each(|s| s.disallow_failover = true),
            Reason::NoCandidate,
        ),
        (|world| world.view.primary_lsn = Lsn(6001), Reason::CandidateLags),
        (|world| ["pg2", "pg3"].into_iter().for_each(|id| world.is_silent(id, true)), Reason::NoCandidate),
        (
            |world| {
                let claim = Claim { starting_up: true, ..Claim::default() };
                world.claim_as("b", "pg1", claim);
            },
            Reason::CrashRecovery,
        ),
        (
            |world| {
                let facts = |world: &World, id| {
                    let mut facts = world.facts(true, 1, 5000);
                    facts.system_identifier = 78;
                    (id, facts)
                };
                for (id, facts) in ["pg2", "pg3"].map(|id| facts(world, id)) {
                    world.see(id, facts);
                }
            },
            Reason::NoCandidate,
        ),
    ];
    for (hinder, reason) in obstacles {
        let mut world = World::new();
        world.is_silent("pg1", true);
        world.standbys_hear_nothing();
        hinder(&mut world);
        assert_eq!(world.reasons(), [reason]);
        assert!(world.state.fences().is_empty() && world.state.failover().is_none());
    }
}

#[test]
fn with_failover_off_nothing_is_touched() {
    let mut world = World::new();
    world.policy.failover.mode = FailoverMode::Off;
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    assert_eq!(world.settle(), (Vec::new(), Vec::new()));
}

#[test]
fn a_crash_is_recovered_from_within_its_grace_and_not_waited_for_longer() {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.claim("pg1", Claim { starting_up: true, ..Claim::default() });
    assert_eq!(world.reasons(), [Reason::CrashRecovery]);
    world.pass(29_000);
    assert_eq!(world.reasons(), []);
    world.pass(2_000);
    world.fence_passes = false;
    assert_eq!(world.reasons(), [Reason::PrimaryLost]);
}

#[test]
fn a_new_leader_finishes_what_it_finds() {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    // After each two decisions comes a leader that remembers nothing.
    for round in 0..20 {
        if round % 2 == 0 {
            world.memory = Memory::default();
        }
        let plan = world.plan();
        for step in plan.steps {
            world.apply(step.change);
        }
        for action in plan.actions {
            match action.what {
                What::StopReceiving => world.is_stopped(&action.server, 1, 5000),
                What::Promote { epoch } => {
                    assert_eq!(world.state.primary().epoch, epoch);
                    world.is_primary(&action.server, 2);
                }
                _ => {}
            }
        }
        world.pass(10);
    }
    assert_eq!((world.state.primary().server.as_deref(), world.state.primary().timeline), (Some("pg2"), 2));
    assert_eq!(world.state.primary().epoch, Epoch(2), "one promotion, one epoch");
}

#[test]
fn one_that_cannot_be_promoted_is_given_up_in_an_epoch_of_its_own() {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.is_stopped("pg2", 1, 5000);
    world.is_stopped("pg3", 1, 4990);
    world.settle();
    world.pass(10);
    let (reasons, actions) = world.settle();
    assert_eq!((reasons, actions.len()), (vec![Reason::LacksLeast], 1));
    assert_eq!(world.state.primary().server.as_deref(), Some("pg2"));
    world.is_silent("pg2", true);
    world.pass(5_000);
    assert_eq!(world.reasons(), [], "an order may still be on its way");
    world.pass(6_001);
    assert_eq!(world.reasons()[..2], [Reason::PromotionFailed, Reason::FencePassed]);
    world.pass(10);
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
    assert_eq!(
        (world.state.primary().server.as_deref(), world.state.primary().epoch),
        (Some("pg3"), Epoch(3))
    );
    assert_eq!(world.administrative("pg2"), Administrative::Quarantined);

    // It was never made one, so without an agent SQL does.
    world.policy.servers.iter_mut().for_each(|server| server.agent = None);
    world.is_primary("pg3", 2);
    world.is_stopped("pg2", 1, 4980);
    let follow = What::Follow { primary: "pg3".to_owned() };
    let (reasons, actions) = world.settle();
    assert_eq!((reasons, did(&actions)), (vec![Reason::Promoted], vec![("pg2", &follow)]));
    world.streams("pg2", "pg3", 2, 5100);
    assert_eq!(world.settle(), (vec![Reason::Rejoined], Vec::new()));
}

#[test]
fn who_comes_back_is_named_only_when_no_order_to_promote_the_other_one_is_on_its_way() {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.is_stopped("pg2", 1, 5000);
    world.is_stopped("pg3", 1, 4990);
    world.settle();
    world.pass(10);
    world.settle();
    world.is_silent("pg2", true);
    world.is_silent("pg3", true);
    world.pass(11_001);
    let (reasons, actions) = world.settle();
    assert_eq!((reasons, actions.len()), (vec![Reason::NoCandidate], 1), "it is asked until it can");
    world.memory.orders_promotion(Epoch(2), world.now_ms);
    world.is_stopped("pg3", 1, 4990);
    world.pass(ORDER_ENDS_MS - 1);
    assert_eq!(world.settle(), (Vec::new(), Vec::new()));
    world.pass(1);
    assert_eq!(world.reasons()[..2], [Reason::PromotionFailed, Reason::FencePassed]);
}

#[test]
fn a_switchover_waits_for_transactions_for_the_last_word_and_then_promotes() {
    let mut world = World::new();
    world.order(FailoverKind::Switchover, Some("pg3"));
    let (reasons, actions) = world.settle();
    assert_eq!(did(&actions), [("pg1", &What::Checkpoint { epoch: Epoch(1) })]);
    assert!(reasons.is_empty() && !world.state.holds());
    world.memory.note_checkpoint(Epoch(1));
    assert_eq!(world.settle(), (vec![Reason::SwitchoverOrdered], Vec::new()));
    assert!(world.state.holds());
    for node in NODES {
        world.apply(Change::ConfirmHold { epoch: Epoch(1), node: node.to_owned() });
    }
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::SwitchoverOrdered, Reason::FencePassed]);
    assert_eq!(did(&actions), [("pg1", &What::Stop { epoch: Epoch(1) })]);
    world.memory.stopped(Epoch(1), Lsn(5200));
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    assert_eq!(world.reasons(), [], "it has not arrived");
    let mut facts = world.facts(true, 1, 5300);
    facts.upstream = upstream("pg1.db");
    world.see("pg3", facts);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::LacksLeast]);
    assert_eq!(did(&actions), [("pg3", &What::Promote { epoch: Epoch(2) })]);
}

#[test]
fn a_transaction_that_does_not_end_delays_a_switchover_for_so_long_only() {
    let mut world = World::new();
    world.begin_switchover(None);
    assert_eq!(world.reasons(), []);
    world.pass(HOLD_MS + 1);
    assert_eq!(world.reasons(), [Reason::SwitchoverOrdered, Reason::FencePassed]);
}

#[test]
fn a_switchover_whose_target_is_gone_is_given_up_before_anything_was_ended() {
    let mut world = World::new();
    world.begin_switchover(Some("pg3"));
    world.is_silent("pg3", true);
    world.pass(HOLD_MS + 1);
    assert_eq!(world.reasons(), [Reason::SwitchoverAbandoned]);
    assert_eq!((world.state.failover(), world.state.primary().epoch), (None, Epoch(1)));
}

#[test]
fn a_primary_that_its_agent_cannot_stop_goes_on() {
    let mut world = World::new();
    world.begin_switchover(None);
    world.pass(HOLD_MS + 1);
    world.settle();
    world.pass(STOP_MS + 1);
    world.settle();
    let primary = world.state.primary();
    assert_eq!(
        (primary.server.as_deref(), primary.epoch, primary.stage),
        (Some("pg1"), Epoch(2), Stage::Confirmed)
    );
    assert_eq!(world.administrative("pg1"), Administrative::Attached);
}

#[test]
fn a_primary_that_is_lost_while_it_is_about_to_be_stopped_is_replaced() {
    let mut world = World::new();
    world.begin_switchover(None);
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    assert_eq!(world.reasons(), [Reason::PrimaryLost, Reason::FencePassed]);
    assert_eq!(world.state.failover().unwrap().kind, FailoverKind::Automatic);
}

#[test]
fn an_order_replaces_a_primary_that_lives() {
    let mut world = World::new();
    world.order(FailoverKind::Forced, Some("pg2"));
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::FencePassed]);
    assert_eq!(did(&actions), [("pg2", &What::StopReceiving), ("pg3", &What::StopReceiving)]);
    world.is_stopped("pg2", 1, 4000);
    world.is_stopped("pg3", 1, 5000);
    world.pass(10);
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg2"));
}

#[test]
fn one_that_calls_itself_a_primary_stays_out() {
    let mut world = World::new();
    world.is_primary("pg3", 1);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::FalsePrimary]);
    let rejoin = What::Rejoin {
        epoch: Epoch(1),
        primary: "pg1".to_owned(),
        timeline: 1,
        allow_rewind: false,
        rebuild_from: Some("pg2".to_owned()),
        order: 1,
        may_rebuild: true,
    };
    assert_eq!(did(&actions), [("pg3", &rejoin)]);
    world.policy.servers.iter_mut().for_each(|server| server.agent = None);
    assert_eq!(world.settle(), (Vec::new(), Vec::new()), "without an agent it waits for somebody");
}

#[test]
fn standbys_of_standbys_are_left_alone_and_missing_slots_are_made() {
    let mut world = World::new();
    world.streams("pg3", "pg2", 1, 5000);
    assert_eq!(world.settle(), (Vec::new(), Vec::new()));
    let mut facts = world.facts(false, 1, 5000);
    let servers = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    world.apply(Change::SetServers { servers: servers(&["pg1", "pg2", "pg3", "pg7", "pg8", "pg9"]) });
    world.apply(Change::SetServers { servers: servers(&SERVERS) });
    let unused = |id: &str| Slot { name: slot_name(id), active: false, restart_lsn: None };
    // pg7 to pg9 were removed, and pg8 still streams; pg4 is about to be added.
    facts.slots = vec![slot("pg2"), unused("pg1"), slot("pg8"), unused("pg9"), unused("pg4")];
    world.see("pg1", facts);
    let slots =
        What::Slots { wanted: vec![slot_name("pg3")], unwanted: vec![slot_name("pg1"), slot_name("pg9")] };
    assert_eq!(did(&world.settle().1), [("pg1", &slots)]);
    assert_eq!(
        world.state.former_servers().iter().collect::<Vec<_>>(),
        ["pg8", "pg9"],
        "of pg7 nothing is left"
    );
}

#[test]
fn a_primary_that_was_to_go_on_and_is_gone_is_replaced() {
    let mut world = World::new();
    world.begin_switchover(None);
    world.pass(HOLD_MS + 1);
    world.settle();
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.pass(STOP_MS + 1);
    let (reasons, _) = world.settle();
    assert!(reasons.starts_with(&[Reason::SwitchoverAbandoned]), "{reasons:?}");
    for _ in 0..3 {
        world.pass(1_500);
        world.settle();
    }
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.stage), (Some("pg2"), Stage::Named));
}

#[test]
fn a_primary_that_was_named_again_and_has_ended_is_started_by_its_agent() {
    let mut world = World::new();
    world.begin_switchover(None);
    world.pass(HOLD_MS + 1);
    world.settle();
    // Its agent has stopped it, and not cleanly.
    world.is_silent("pg1", true);
    world.view.details[0].failure = Some(Reason::ConnectRefused);
    world.standbys_hear_nothing();
    world.pass(STOP_MS + 1);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::SwitchoverAbandoned, Reason::FailoverSettling]);
    let start = What::Start { epoch: Epoch(2) };
    assert_eq!(did(&actions), [("pg1", &start)]);
    // Whoever has paused failovers has not asked for that.
    world.apply(Change::PauseFailover { paused: true });
    world.pass(60_000);
    let (reasons, actions) = world.settle();
    assert_eq!((reasons, did(&actions)), (vec![Reason::FailoverPaused], vec![("pg1", &start)]));
    world.claim("pg1", Claim { starting_up: true, ..Claim::default() });
    assert_eq!(world.settle(), (vec![Reason::CrashRecovery], Vec::new()));
    world.is_primary("pg1", 1);
    world.settle();
    assert_eq!(world.state.primary().stage, Stage::Confirmed);
    // One that was confirmed may have been shut down by its operator.
    world.is_silent("pg1", true);
    world.view.details[0].failure = Some(Reason::ConnectRefused);
    world.standbys_hear_nothing();
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::FailoverPaused]);
    assert!(!actions.iter().any(|action| action.server == "pg1"), "{actions:?}");
}

#[test]
fn nobody_can_be_promoted_and_the_old_primary_is_back_so_it_goes_on() {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.fence_passes = false;
    world.settle();
    ["pg2", "pg3"].into_iter().for_each(|id| world.is_silent(id, true));
    world.fence_passes = true;
    world.pass(RECEIVERS_END_MS + 1);
    assert_eq!(world.reasons(), [Reason::FencePassed, Reason::NoCandidate]);
    world.is_primary("pg1", 1);
    world.settle();
    let primary = world.state.primary();
    assert_eq!(
        (primary.server.as_deref(), primary.epoch, primary.stage),
        (Some("pg1"), Epoch(2), Stage::Confirmed)
    );
    assert_eq!(world.administrative("pg1"), Administrative::Attached);
}

#[test]
fn a_commit_that_only_one_has_who_may_not_be_promoted_is_not_lost() {
    use crate::cluster::sync_set::SyncSet;
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set: SyncSet::new(["pg2", "pg3"], 1) });
    world.policy.servers[2].disallow_failover = true;
    world.is_silent("pg1", true);
    world.is_stopped("pg2", 1, 4900);
    world.is_stopped("pg3", 1, 5000);
    assert_eq!(world.reasons(), [Reason::TooFewSynchronous]);
}

#[test]
fn one_that_somebody_promoted_in_place_of_a_lost_primary_is_its_heir() {
    let mut world = World::new();
    world.apply(Change::PauseFailover { paused: true });
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.settle();
    world.is_primary("pg2", 2);
    world.settle();
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.timeline), (Some("pg2"), 2));
    assert_eq!(world.administrative("pg2"), Administrative::Attached);
}

#[test]
fn a_standby_is_not_astray_while_there_is_no_primary_to_stream_from() {
    let mut world = World::new();
    world.policy.failover.automatic = false;
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.settle();
    world.pass(60_000);
    assert_eq!(did(&world.settle().1), [], "nobody is made to copy from one that is gone");
    world.is_primary("pg1", 1);
    world.settle();
    world.pass(14_000);
    assert_eq!(did(&world.settle().1), []);
    world.pass(2_000);
    let actions = world.settle().1;
    assert!(
        matches!(did(&actions)[..], [("pg2", What::Rejoin { .. }), ("pg3", What::Rejoin { .. })]),
        "{actions:?}"
    );
}
