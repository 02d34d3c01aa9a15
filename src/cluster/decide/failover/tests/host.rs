//! Stopping the host of a lost primary.

use super::*;
use crate::cluster::decide::{HostStop, host};

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
    world.memory.stops_host("pg1", epoch, now_ms, HostStop::UnderWay);
    assert_eq!(world.reasons(), [], "AWS is at it");
    world.memory.stops_host("pg1", epoch, now_ms, HostStop::Stopped);
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
    world.memory.stops_host("pg1", epoch, now_ms, HostStop::UnderWay);
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

/// The API is down, or the permission is missing: nobody is named until it works, and the primary is there again.
#[test]
fn a_primary_that_is_there_again_goes_on_if_its_host_cannot_be_stopped() {
    let back = |went: Option<HostStop>, disk: Option<crate::cluster::state::Disk>| {
        let mut world = World::new();
        world.policy.failover.fence_host = config::FenceHost::Require;
        world.policy.servers[0].instance_id = Some("i-1".to_owned());
        world.is_silent("pg1", true);
        world.standbys_hear_nothing();
        world.settle();
        world.pass(RECEIVERS_END_MS);
        world.settle();
        assert_eq!(world.state.standstill(), Some(Reason::HostNotStopped.code()));
        let (epoch, now_ms) = (Epoch(1), world.now_ms);
        if let Some(went) = went {
            world.memory.stops_host("pg1", epoch, now_ms, went);
        }
        assert_eq!(world.settle().0, [], "it is not there");
        world.is_primary("pg1", 1);
        if disk.is_some() {
            let claim = Claim { observed: Observed::Up, primary_on: Some(1), disk, ..Claim::default() };
            world.claim("pg1", claim);
        }
        world.settle();
        let primary = world.state.primary();
        (primary.server.clone().unwrap(), primary.epoch, primary.stage)
    };
    let (goes_on, waits) =
        (("pg1".to_owned(), Epoch(2), Stage::Confirmed), ("pg1".to_owned(), Epoch(1), Stage::Confirmed));
    assert_eq!(back(Some(HostStop::Failed), None), goes_on);
    assert_eq!(back(None, None), waits, "AWS may be about to say yes");
    assert_eq!(back(Some(HostStop::UnderWay), None), waits, "it is about to be gone");
    let hangs = Some(crate::cluster::state::Disk::Hangs);
    assert_eq!(back(Some(HostStop::Failed), hangs), waits, "it answers, and cannot write");
}
