//! Standbys that do not come to the new primary by themselves.

use super::*;
use crate::cluster::sync_set::SyncSet;

/// pg2 is the primary of epoch 2 on timeline 2; pg3 follows it, pg1 was rewound and streams.
fn after_a_failover() -> World {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.settle();
    world.is_stopped("pg2", 1, 5000);
    world.is_stopped("pg3", 1, 4990);
    world.pass(10);
    world.settle();
    world.is_primary("pg2", 2);
    world.streams("pg1", "pg2", 2, 5100);
    world.streams("pg3", "pg2", 2, 5100);
    world.settle();
    assert_eq!(world.state.primary().server.as_deref(), Some("pg2"));
    world
}

fn rejoin(version: u64, may_rebuild: bool) -> What {
    What::Rejoin {
        epoch: Epoch(2),
        primary: "pg2".to_owned(),
        timeline: 2,
        allow_rewind: true,
        rebuild_from: Some("pg1".to_owned()),
        order: version,
        may_rebuild,
    }
}

/// It was told to follow pg2, and cannot.
fn goes_astray(world: &mut World, id: &str, timeline: u32) {
    let mut facts = world.facts(true, timeline, 5050);
    facts.upstream = upstream("pg2.db");
    facts.slots = SERVERS.iter().filter(|other| **other != id).map(|id| slot(id)).collect();
    world.see(id, facts);
    assert_eq!(world.settle(), (Vec::new(), Vec::new()), "it may be on its way");
    world.pass(15_000);
}

#[test]
fn whoever_leads_knows_of_one_that_is_to_be_rewound_though_it_never_answers() {
    let mut world = after_a_failover();
    goes_astray(&mut world, "pg3", 1);
    let plan = world.plan();
    assert!(plan.actions.is_empty(), "the log comes first");
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::Astray]);
    let version = world.state.servers()["pg3"].version;
    assert_eq!(did(&actions), [("pg3", &rejoin(version, true))]);

    // The next leader has never had an answer from it.
    world.memory = Memory::default();
    world.view.details[2].facts = None;
    world.is_silent("pg3", true);
    let (reasons, actions) = world.settle();
    assert_eq!((reasons, did(&actions)), (Vec::new(), vec![("pg3", &rejoin(version, true))]));

    // On the timeline and not streaming is not enough.
    let mut facts = world.facts(true, 2, 5200);
    facts.upstream = upstream("pg2.db");
    world.see("pg3", facts);
    assert_eq!(world.reasons(), []);
    world.streams("pg3", "pg2", 2, 5200);
    assert_eq!(world.settle(), (vec![Reason::Rejoined], Vec::new()));
    assert_eq!(world.administrative("pg3"), Administrative::Attached);
}

#[test]
fn one_that_looks_as_if_it_streamed_at_every_attempt_is_astray_and_one_that_streams_is_not() {
    for (streams_for_ms, reasons) in [(600, vec![Reason::Astray]), (3_000, vec![])] {
        let mut world = after_a_failover();
        let mut facts = world.facts(true, 1, 5050);
        facts.upstream = upstream("pg2.db");
        for _ in 0..12 {
            world.see("pg3", facts.clone());
            assert_eq!(world.settle(), (Vec::new(), Vec::new()), "it may be on its way");
            world.pass(600);
            for _ in 0..streams_for_ms / 600 {
                world.streams("pg3", "pg2", 2, 5050);
                assert_eq!(world.settle(), (Vec::new(), Vec::new()), "it streams now");
                world.pass(600);
            }
        }
        world.pass(600);
        world.see("pg3", facts);
        assert_eq!(world.reasons(), reasons, "{streams_for_ms} ms");
    }
}

/// It had not streamed for long, and begins to when its agent has been told.
#[test]
fn one_that_its_agent_is_about_to_stop_is_not_attached_before() {
    for ends in [true, false] {
        let mut world = after_a_failover();
        goes_astray(&mut world, "pg3", 1);
        assert_eq!(world.reasons(), [Reason::Astray]);
        world.memory.rejoins("pg3", &world.view);
        world.streams("pg3", "pg2", 2, 5200);
        let version = world.state.servers()["pg3"].version;
        assert_eq!(did(&world.settle().1), [("pg3", &rejoin(version, true))]);
        assert_eq!(world.administrative("pg3"), Administrative::Quarantined);
        if ends {
            world.memory.rejoin_ended("pg3");
        } else {
            // Asked after once more, when it has been started again.
            let mut facts = world.facts_of("pg3");
            facts.started_at_ms += 1;
            world.see("pg3", facts);
            world.memory.rejoins("pg3", &world.view);
        }
        assert_eq!(world.settle(), (vec![Reason::Rejoined], Vec::new()), "{ends}");
    }
}

#[test]
fn one_that_is_on_the_timeline_can_still_be_promoted_while_it_is_made_to_stream() {
    let mut world = after_a_failover();
    goes_astray(&mut world, "pg3", 2);
    let (reasons, actions) = world.settle();
    let version = world.state.servers()["pg3"].version;
    assert_eq!((reasons, did(&actions)), (Vec::new(), vec![("pg3", &rejoin(version, false))]));
    assert_eq!(world.administrative("pg3"), Administrative::Attached);
}

#[test]
fn one_whose_log_the_primary_lacks_is_out_before_it_is_rebuilt() {
    let mut world = after_a_failover();
    world.memory.misses_wal("pg3");
    assert_eq!(world.settle(), (Vec::new(), Vec::new()), "it streams");
    goes_astray(&mut world, "pg3", 2);
    let version = world.state.servers()["pg3"].version;
    assert_eq!(did(&world.settle().1), [("pg3", &rejoin(version, false))]);
    world.memory.misses_wal("pg3");
    assert!(world.plan().actions.is_empty(), "the log comes first");
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::MissingWal]);
    assert_eq!(did(&actions), [("pg3", &rejoin(version + 1, true))]);
    assert_eq!(world.administrative("pg3"), Administrative::Quarantined);
    world.streams("pg3", "pg2", 2, 5200);
    assert_eq!(world.settle(), (vec![Reason::Rejoined], Vec::new()));
    world.pass(2_000);
    world.streams("pg3", "pg2", 2, 5200);
    assert_eq!(world.settle(), (Vec::new(), Vec::new()));

    // What was so of it once says nothing of the next time.
    goes_astray(&mut world, "pg3", 2);
    assert_eq!(did(&world.settle().1), [("pg3", &rejoin(version + 2, false))]);
}

#[test]
fn without_an_agent_nobody_is_quarantined_for_what_nobody_mends() {
    let mut world = after_a_failover();
    world.policy.servers.iter_mut().for_each(|server| server.agent = None);
    goes_astray(&mut world, "pg3", 1);
    assert_eq!(world.settle(), (Vec::new(), Vec::new()));
}

/// It asks for no more before it has replayed what it has.
#[test]
fn one_that_replays_what_it_has_is_not_astray() {
    let mut world = after_a_failover();
    for lsn in 0..30 {
        let mut facts = world.facts(true, 2, 5050 + lsn);
        facts.upstream = upstream("pg2.db");
        world.see("pg3", facts);
        assert_eq!(world.settle(), (Vec::new(), Vec::new()));
        world.pass(1_000);
    }
    world.pass(14_000);
    assert_eq!(did(&world.settle().1).len(), 1, "now it stands still");
}

/// What it says to have flushed would be what it lacks.
#[test]
fn one_whose_last_record_may_be_cut_follows_nobody_before_its_agent_has_erased_that() {
    const SEGMENT: u64 = 5 << 20;
    for (agents, replays) in [(true, false), (false, false), (true, true)] {
        let mut world = after_a_failover();
        let mut facts = world.facts(true, 1, SEGMENT - 16);
        facts.upstream = upstream(crate::cluster::conninfo::NOWHERE);
        facts.received_lsn = Some(Lsn(SEGMENT));
        if !agents {
            world.policy.servers.iter_mut().for_each(|server| server.agent = None);
            world.policy.failover.sync_mode = config::SyncMode::Require;
            let (before, set) = (world.state.synchronous().clone(), SyncSet::new(["pg3"], 1));
            world.apply(Change::SetSynchronous { before, set });
        }
        let follow = What::Follow { primary: "pg2".to_owned() };
        let follows = |actions: &[Action]| did(actions).contains(&("pg3", &follow));
        world.see("pg3", facts.clone());
        assert!(!follows(&world.settle().1), "it may have more to replay, or a record that is cut");
        world.pass(1_000);
        (facts.asked_at_ms, facts.answered_at_ms) = (world.now_ms, world.now_ms);
        if replays {
            facts.lsn = Lsn(SEGMENT);
        }
        world.see("pg3", facts);
        let (reasons, actions) = world.settle();
        assert_eq!(follows(&actions), replays, "agents: {agents}, {actions:?}");
        if agents && !replays {
            assert_eq!(reasons, [Reason::Astray]);
            assert!(matches!(did(&actions)[..], [("pg3", What::Rejoin { .. })]), "{actions:?}");
        }
    }
}
