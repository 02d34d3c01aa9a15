use super::*;
use crate::cluster::state::{Claim, Command, Observed, Outcome};
use crate::topology::Epoch;

const NODES: [&str; 3] = ["a", "b", "c"];

/// A state, changed as the log would change it.
struct World {
    state: ClusterState,
    now_ms: u64,
    asked: BTreeMap<u64, u64>,
    unable: BTreeMap<u64, BTreeSet<String>>,
    wishes: BTreeMap<String, (BTreeSet<String>, String)>,
    endpoints: Vec<String>,
    addresses: BTreeMap<String, String>,
    passed: bool,
    policy: Policy,
}

impl World {
    fn new() -> Self {
        let mut world = World {
            state: ClusterState::default(),
            now_ms: 10_000,
            asked: BTreeMap::new(),
            unable: BTreeMap::new(),
            wishes: BTreeMap::new(),
            endpoints: vec!["app".to_owned()],
            addresses: BTreeMap::new(),
            passed: false,
            policy: Policy::off(),
        };
        let member = |(index, id): (usize, &&str)| Member {
            id: id.to_string(),
            raft_id: index as u64 + 1,
            incarnation: 1,
            address: format!("{id}:1"),
            role: MemberRole::Voter,
        };
        let members = NODES.iter().enumerate().map(member).collect();
        let cluster_id = "x".to_owned();
        world.apply(Change::CreateCluster { cluster_id, members, configuration: String::new() });
        world.all_ask();
        world
    }

    fn apply(&mut self, change: Change) {
        self.apply_as("a", change);
    }

    fn apply_as(&mut self, node: &str, change: Change) {
        let (node, cause, reason) = (node.to_owned(), "test".to_owned(), String::new());
        let outcome = self.state.apply(Command { at_ms: 0, node, cause, reason, change });
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }

    fn all_ask(&mut self) {
        self.asked = (1..=3).map(|raft_id| (raft_id, self.now_ms)).collect();
    }

    fn decide(&self) -> Vec<Step> {
        let passed = self.passed;
        let plan = decide(&Situation {
            state: &self.state,
            now_ms: self.now_ms,
            me: "a",
            leading_since_ms: 5_000,
            asked: &self.asked,
            unable: &self.unable,
            lease: &LeaseSettings::default(),
            endpoints: &self.endpoints,
            servers: &["pg1".to_owned(), "pg2".to_owned()],
            addresses: &self.addresses,
            wishes: &self.wishes,
            passed: &move |_| passed,
            policy: &self.policy,
            is_agreed: true,
            view: &View::default(),
            memory: &Memory::default(),
        });
        assert_eq!(plan.actions, []);
        plan.steps
    }

    /// Does what is decided until nothing is; says why each time.
    fn settle(&mut self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for _ in 0..20 {
            let steps = self.decide();
            if steps.is_empty() {
                return reasons;
            }
            for step in steps {
                reasons.push(step.reason);
                self.apply(step.change);
            }
        }
        panic!("it never settles: {reasons:?}");
    }

    fn owner(&self) -> Option<&str> {
        self.state.endpoints()["app"].owner.as_deref()
    }

    /// All of them, each of one life of the server; none: it is no writer.
    fn hear(&mut self, server: &str, lives: [Option<u64>; 3]) {
        for (node, primary_since_ms) in NODES.into_iter().zip(lives) {
            let primary_on = primary_since_ms.map(|_| 1);
            let claim = Claim { observed: Observed::Up, primary_on, primary_since_ms, ..Claim::default() };
            self.apply_as(node, Change::ServerReport { server: server.to_owned(), claim });
        }
    }

    fn hears(&mut self, node: &str, server: &str, primary_on: Option<u32>) {
        let claim = Claim { observed: Observed::Up, primary_on, ..Claim::default() };
        self.apply_as(node, Change::ServerReport { server: server.to_owned(), claim });
    }
}

#[test]
fn an_endpoint_is_given_to_a_node_that_lives_and_does_not_lead() {
    let mut world = World::new();
    assert_eq!(world.settle(), [Reason::ServersConfigured, Reason::EndpointAssigned]);
    assert_eq!(world.owner(), Some("b"));
    assert_eq!(world.settle(), []);
}

#[test]
fn several_endpoints_are_spread() {
    let mut world = World::new();
    world.endpoints = vec!["app".to_owned(), "reports".to_owned()];
    world.settle();
    let owners: Vec<_> = world.state.endpoints().values().map(|endpoint| endpoint.owner.clone()).collect();
    assert_eq!(owners, [Some("b".to_owned()), Some("c".to_owned())]);
}

#[test]
fn an_endpoint_is_rather_given_to_a_node_that_could_take_it() {
    let mut world = World::new();
    let unable = || BTreeSet::from(["app".to_owned()]);
    world.unable.insert(2, unable());
    world.unable.insert(3, BTreeSet::from(["reports".to_owned()]));
    world.settle();
    assert_eq!(world.owner(), Some("c"), "what c could not take is another one");
    // One that could not take it is better than nobody.
    world.unable = (1..=3).map(|raft_id| (raft_id, unable())).collect();
    world.now_ms += 2_000;
    world.asked = BTreeMap::from([(2, world.now_ms)]);
    world.passed = true;
    world.settle();
    assert_eq!(world.owner(), Some("b"));
}

#[test]
fn an_owner_that_falls_silent_is_fenced_first() {
    let mut world = World::new();
    world.settle();
    world.now_ms += 899;
    assert_eq!(world.decide(), [], "its lease may still last");
    world.now_ms += 1;
    world.asked.insert(1, world.now_ms);
    world.asked.insert(3, world.now_ms);
    assert_eq!(world.settle(), [Reason::OwnerSilent]);
    assert_eq!(world.owner(), Some("b"), "its fence has not passed");
    world.passed = true;
    assert_eq!(world.settle(), [Reason::FencePassed, Reason::OwnerSilent]);
    assert_eq!(world.owner(), Some("c"));
    assert_eq!(world.state.endpoints()["app"].epoch, Epoch(2));
}

#[test]
fn the_leader_itself_takes_over_if_nobody_else_lives() {
    let mut world = World::new();
    world.settle();
    world.now_ms += 2_000;
    world.asked.clear();
    world.passed = true;
    world.settle();
    assert_eq!(world.owner(), Some("a"));
}

#[test]
fn a_new_leader_waits_for_the_owner_to_say_that_it_lives() {
    let mut world = World::new();
    world.settle();
    world.asked.clear();
    world.now_ms = 5_000 + 4 * 150 - 1;
    assert_eq!(world.decide(), []);
    world.now_ms += 1;
    assert!(!world.decide().is_empty());
}

#[test]
fn a_wish_moves_an_endpoint_over_a_fence_to_a_node_that_lives() {
    let mut world = World::new();
    world.settle();
    world.wishes.insert("app".to_owned(), (BTreeSet::from(["c".to_owned()]), "operator:eve".to_owned()));
    world.asked.remove(&3);
    assert_eq!(world.decide(), [], "it is not there");
    world.all_ask();
    let steps = world.decide();
    assert_eq!((steps[0].reason, &*steps[0].cause), (Reason::EndpointMoved, "operator:eve"));
    world.passed = true;
    world.settle();
    assert_eq!(world.owner(), Some("c"));
}

#[test]
fn of_several_nodes_it_is_wanted_on_the_one_that_could_take_it_is_chosen() {
    let mut world = World::new();
    world.endpoints = vec!["app".to_owned(), "reports".to_owned()];
    world.unable = [1, 3].map(|raft_id| (raft_id, world.endpoints.iter().cloned().collect())).into();
    world.settle();
    let owners = |world: &World| -> Vec<_> {
        world.state.endpoints().values().filter_map(|endpoint| endpoint.owner.clone()).collect()
    };
    assert_eq!(owners(&world), ["b", "b"]);
    // b is stopped, and says who answers.
    let wish = || (BTreeSet::from(["a".to_owned(), "c".to_owned()]), "stop:b".to_owned());
    world.wishes = world.endpoints.iter().map(|endpoint| (endpoint.clone(), wish())).collect();
    world.unable.remove(&3);
    world.passed = true;
    assert!(!world.settle().contains(&Reason::OwnerSilent));
    assert_eq!(owners(&world), ["c", "c"], "a could not take them");
}

#[test]
fn whoever_stops_gets_nothing_back_if_nobody_else_could_take_it() {
    let mut world = World::new();
    world.settle();
    world.unable = [1, 3].map(|raft_id| (raft_id, BTreeSet::from(["app".to_owned()]))).into();
    world.wishes =
        [("app".to_owned(), (BTreeSet::from(["a", "c"].map(str::to_owned)), "stop:b".to_owned()))].into();
    world.asked.remove(&3);
    world.passed = true;
    world.settle();
    assert_eq!(world.owner(), Some("a"), "c answered and does not take part yet");
}

#[test]
fn an_endpoint_that_is_no_longer_configured_is_given_up_and_forgotten() {
    let mut world = World::new();
    world.settle();
    world.endpoints.clear();
    world.settle();
    assert_eq!(world.owner(), Some("b"), "its fence has not passed");
    world.passed = true;
    world.settle();
    assert!(world.state.endpoints().is_empty());
}

#[test]
fn a_primary_is_named_when_most_hear_of_it_and_followed_over_a_fence() {
    let mut world = World::new();
    world.settle();
    world.hears("a", "pg1", Some(1));
    assert_eq!(world.settle(), []);
    world.hears("b", "pg1", Some(1));
    assert_eq!(world.settle(), [Reason::PrimaryFound, Reason::PrimaryFound]);
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.epoch, primary.timeline), (Some("pg1"), Epoch(1), 1));

    // A second one on the same timeline is no reason to change.
    for node in NODES {
        world.hears(node, "pg2", Some(1));
    }
    assert_eq!(world.settle(), []);
    world.hears("a", "pg2", Some(2));
    assert_eq!(world.settle(), [], "one node's word");
    world.hears("c", "pg2", Some(2));
    assert_eq!(world.settle(), [Reason::PromotedElsewhere]);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg1"), "its fence has not passed");
    world.passed = true;
    world.settle();
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.epoch, primary.timeline), (Some("pg2"), Epoch(2), 2));
}

#[test]
fn a_primary_that_is_down_stays_the_named_one() {
    let mut world = World::new();
    world.settle();
    for node in NODES {
        world.hears(node, "pg1", Some(1));
    }
    world.settle();
    for node in NODES {
        let claim = Claim { observed: Observed::Down, primary_on: None, ..Claim::default() };
        world.apply_as(node, Change::ServerReport { server: "pg1".to_owned(), claim });
    }
    assert_eq!(world.settle(), []);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg1"));
}

#[test]
fn a_node_that_stays_silent_is_no_witness() {
    let mut world = World::new();
    world.settle();
    world.hears("c", "pg1", Some(1));
    world.now_ms += 5 * 900;
    world.asked.insert(2, world.now_ms);
    assert_eq!(world.settle(), [Reason::NodeSilent]);
}

#[test]
fn a_node_is_looked_for_where_the_configuration_has_it() {
    let mut world = World::new();
    world.addresses = [("a", "a:1"), ("b", "b:2")].map(|(id, at)| (id.to_owned(), at.to_owned())).into();
    assert!(world.settle().contains(&Reason::NodeReaddressed));
    assert_eq!(world.state.members()["b"].address, "b:2");
    assert_eq!(world.settle(), []);
}

/// Where AWS makes the writer, and pg1 is it.
fn managed() -> World {
    let mut world = World::new();
    world.policy.failover.mode = crate::config::FailoverMode::Rds;
    world.settle();
    world.hear("pg1", [Some(7); 3]);
    assert_eq!(world.settle(), [Reason::PrimaryFound, Reason::PrimaryFound]);
    assert_eq!((world.state.primary().epoch, world.state.primary().life), (Epoch(1), Some(7)));
    world
}

#[test]
fn another_server_at_the_writers_name_begins_an_epoch_when_most_hear_it() {
    let mut world = managed();
    world.hear("pg1", [Some(7), Some(7), Some(8)]);
    assert_eq!(world.settle(), [], "one node alone has followed the name");
    world.hear("pg1", [Some(7), Some(8), Some(8)]);
    assert_eq!(world.settle(), [Reason::WriterReplaced]);
    assert!(world.state.is_fenced(&Fenced::Primary));
    world.passed = true;
    let found = [Reason::FencePassed, Reason::PrimaryFound, Reason::PrimaryFound];
    assert_eq!(world.settle(), found);
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.epoch, primary.life), (Some("pg1"), Epoch(2), Some(8)));
    assert_eq!(world.settle(), []);

    // Each node means another one.
    world.hear("pg1", [Some(8), Some(9), Some(10)]);
    assert_eq!(world.settle(), []);
}

#[test]
fn the_writer_is_followed_on_the_same_timeline_once_nobody_hears_the_one_before() {
    let mut world = managed();
    world.passed = true;
    world.hear("pg2", [Some(9); 3]);
    assert_eq!(world.settle(), [], "two say so, and nobody knows better");
    world.hear("pg1", [None, None, Some(7)]);
    let followed = [Reason::WriterMoved, Reason::FencePassed, Reason::PrimaryFound, Reason::PrimaryFound];
    assert_eq!(world.settle(), followed);
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.epoch), (Some("pg2"), Epoch(2)));

    // Nobody hears of any writer: it stays as it is.
    world.hear("pg2", [None; 3]);
    assert_eq!(world.settle(), []);
}

#[test]
fn who_makes_no_primary_by_aws_follows_later_timelines_only() {
    let mut world = managed();
    world.policy = Policy::off();
    world.hear("pg1", [Some(8); 3]);
    assert_eq!(world.settle(), []);
    world.hear("pg1", [None; 3]);
    world.hear("pg2", [Some(9); 3]);
    assert_eq!(world.settle(), []);
}
