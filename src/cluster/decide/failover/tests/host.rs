//! Stopping the host of a lost primary.

use super::*;
use crate::cluster::decide::host;

#[test]
fn the_host_of_a_lost_primary_is_stopped_as_the_configuration_wants() {
    use config::FenceHost::{self, Off, Prefer, Require};
    let lost = |fence_host: FenceHost, kind: FailoverKind, answers: bool| {
        let mut world = World::new();
        world.policy.failover.fence_host = fence_host;
        world
            .policy
            .servers
            .iter_mut()
            .for_each(|server| server.instance_id = Some(format!("i-{}", server.id)));
        world.is_silent("pg1", true);
        if answers {
            world.view.details[0].failure = Some(Reason::ConnectRefused);
        }
        world.standbys_hear_nothing();
        if kind == FailoverKind::Forced {
            world.order(kind, None);
        }
        let mut reasons = world.reasons();
        world.pass(RECEIVERS_END_MS);
        let (more, actions) = world.settle();
        reasons.extend(more);
        let epoch = world.state.failover().unwrap().epoch;
        let stops = actions.contains(&Action::new("pg1", What::StopHost { epoch }));
        (world, stops, reasons.contains(&Reason::LacksLeast))
    };
    let automatic = FailoverKind::Automatic;
    for (fence_host, kind, answers, stops, names) in [
        (Off, automatic, false, false, true),
        (Prefer, automatic, false, true, true),
        (Prefer, automatic, true, false, true),
        (Require, automatic, false, true, false),
        (Require, automatic, true, true, false),
        (Require, FailoverKind::Forced, false, true, true),
    ] {
        let (_, stopped, named) = lost(fence_host, kind, answers);
        assert_eq!((stopped, named), (stops, names), "{fence_host:?} {kind:?} {answers}");
    }

    let (mut world, ..) = lost(Require, automatic, false);
    assert_eq!(world.state.standstill(), Some(Reason::HostNotStopped.code()));
    let epoch = world.state.failover().unwrap().epoch;
    let now_ms = world.now_ms;
    world.memory.stops_host("pg1", epoch, now_ms, false);
    assert_eq!(world.reasons(), [], "AWS is at it");
    world.memory.stops_host("pg1", epoch, now_ms, true);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::LacksLeast]);
    assert!(!actions.iter().any(|action| matches!(action.what, What::StopHost { .. })), "{actions:?}");
}

#[test]
fn the_host_of_one_that_is_not_lost_is_left_alone() {
    use config::FenceHost::{Prefer, Require};
    let stops = |fence_host, kind, failure, is_down: bool| {
        let mut world = World::new();
        world.policy.failover.fence_host = fence_host;
        world.policy.servers[0].instance_id = Some("i-1".to_owned());
        world.order(kind, None);
        world.is_silent("pg1", is_down);
        world.view.details[0].failure = Some(failure);
        let (_, actions) = world.settle();
        actions.iter().any(|action| matches!(action.what, What::StopHost { .. }))
    };
    let (forced, silent) = (FailoverKind::Forced, Reason::Timeout);
    assert!(stops(Prefer, forced, silent, true) && stops(Require, forced, silent, false));
    assert!(!stops(Prefer, forced, silent, false), "one look was late");
    assert!(!stops(Prefer, forced, Reason::TooManyConnections, true), "it answers");
    for kind in [FailoverKind::Switchover, FailoverKind::Restart] {
        assert!(!stops(Require, kind, silent, true), "{kind:?}");
    }
}

#[test]
fn a_promotion_waits_for_a_host_as_long_as_it_is_told() {
    let mut world = World::new();
    (world.policy.failover.fence_host, world.policy.failover.fence_host_wait_ms) =
        (config::FenceHost::Prefer, RECEIVERS_END_MS + 2_000);
    world.policy.servers[0].instance_id = Some("i-1".to_owned());
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.settle();
    world.pass(RECEIVERS_END_MS);
    assert_eq!(world.reasons(), [Reason::HostNotStopped]);
    world.pass(2_000);
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
}

#[test]
fn a_host_that_is_being_stopped_is_asked_after_when_the_failover_is_over() {
    let mut world = World::new();
    world.policy.failover.fence_host = config::FenceHost::Prefer;
    world.policy.servers[0].instance_id = Some("i-1".to_owned());
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.settle();
    let epoch = world.state.failover().unwrap().epoch;
    let now_ms = world.now_ms;
    world.memory.stops_host("pg1", epoch, now_ms, false);
    world.pass(RECEIVERS_END_MS);
    world.settle();
    let named = world.state.primary().server.clone().unwrap();
    world.is_primary(&named, 2);
    let (_, actions) = world.settle();
    assert!(world.state.failover().is_none());
    let stop = Action::new("pg1", What::StopHost { epoch });
    assert!(actions.contains(&stop), "{actions:?}");
    world.pass(host::STOPPED_WITHIN_MS);
    assert!(!world.settle().1.contains(&stop), "at some time it is given up");
}
