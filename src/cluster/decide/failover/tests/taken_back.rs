//! What was ordered, and is not wanted any more, not possible, or not allowed without another order.

use super::*;

/// pg1 is gone for good, and its epoch has ended by order.
fn forced_to(to: &str) -> World {
    let mut world = World::new();
    world.policy.failover.automatic = false;
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.is_silent("pg2", true);
    world.order(FailoverKind::Forced, Some(to));
    world.settle();
    world.is_stopped("pg3", 1, 4000);
    world.pass(RECEIVERS_END_MS + 1);
    world
}

#[test]
fn whom_an_order_names_is_taken_back_by_detaching_it() {
    let mut world = forced_to("pg2");
    assert_eq!(world.reasons(), [Reason::NoCandidate]);
    world.pass(60_000);
    assert_eq!(world.reasons(), [], "nobody but the one that was ordered");
    let (server, version) = ("pg2".to_owned(), world.state.servers()["pg2"].version);
    let state = Administrative::Detached;
    world.apply(Change::SetAdministrative { server, version, state, within_ms: None });
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg3"));
}

type Forbid = fn(&mut World);
const FORBIDDEN: [(Forbid, Reason); 3] = [
    (|world| world.apply(Change::PauseFailover { paused: true }), Reason::FailoverPaused),
    (|world| world.policy.failover.automatic = false, Reason::FailoverNotAutomatic),
    (|world| world.policy.servers[0].always_primary = true, Reason::AlwaysPrimary),
];

#[test]
fn a_switchover_whose_primary_is_lost_is_given_up_where_nobody_is_promoted_without_an_order() {
    for (forbid, reason) in FORBIDDEN {
        let mut world = World::new();
        forbid(&mut world);
        world.begin_switchover(None);
        world.is_silent("pg1", true);
        world.standbys_hear_nothing();
        assert_eq!(world.reasons(), [Reason::SwitchoverAbandoned, reason]);
        assert!(world.state.failover().is_none() && world.state.fences().is_empty());
    }
}

/// The epoch of pg1 has ended by an order that is carried out in another mode by now.
fn left_over(kind: FailoverKind, mode: FailoverMode) -> World {
    let mut world = World::new();
    match kind {
        FailoverKind::Forced => world.order(kind, None),
        _ => world.begin_switchover(None),
    }
    world.policy.failover.mode = mode;
    world
}

#[test]
fn what_was_begun_in_another_mode_ends_with_whoever_is_heard() {
    for mode in [FailoverMode::Off, FailoverMode::Rds, FailoverMode::Aurora] {
        let mut world = left_over(FailoverKind::Forced, mode);
        world.settle();
        let primary = world.state.primary();
        assert_eq!((primary.server.as_deref(), primary.epoch), (Some("pg1"), Epoch(2)), "{mode:?}");
        assert!(world.state.failover().is_none() && world.state.fences().is_empty());

        let mut world = left_over(FailoverKind::Switchover, mode);
        assert!(world.state.holds());
        assert_eq!(world.reasons(), [Reason::SwitchoverAbandoned], "{mode:?}");
        assert!(world.state.failover().is_none() && !world.state.holds());
    }
    // Somebody promotes another one.
    let mut world = left_over(FailoverKind::Forced, FailoverMode::Off);
    world.is_silent("pg1", true);
    assert_eq!(world.reasons(), [Reason::FencePassed]);
    world.is_primary("pg3", 2);
    world.settle();
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.stage), (Some("pg3"), Stage::Confirmed));
    assert!(world.state.failover().is_none());
    // One was named, and never promoted.
    let mut world = left_over(FailoverKind::Forced, FailoverMode::Streaming);
    world.settle();
    world.is_stopped("pg2", 1, 5000);
    world.is_stopped("pg3", 1, 4000);
    world.pass(10);
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
    world.policy.failover.mode = FailoverMode::Off;
    assert_eq!(world.settle(), (Vec::new(), Vec::new()), "nobody promotes it");
    world.is_silent("pg1", true);
    world.is_primary("pg3", 2);
    world.settle();
    assert_eq!(world.state.primary().server.as_deref(), Some("pg3"));
    assert!(world.state.failover().is_none() && world.state.fences().is_empty());
}

#[test]
fn a_standstill_of_another_mode_is_forgotten() {
    let mut world = World::new();
    world.policy.failover.automatic = false;
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    assert_eq!(world.reasons(), [Reason::FailoverNotAutomatic]);
    world.policy.failover.mode = FailoverMode::Off;
    world.settle();
    assert_eq!(world.state.standstill(), None);
}
