//! Standbys that do not come to the new primary by themselves.

use super::*;

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
