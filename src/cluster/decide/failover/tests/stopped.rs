//! A switchover whose old primary is stopped already, and whose target is gone.

use super::*;
use crate::cluster::sync_set::SyncSet;

/// pg1 has ended cleanly, pg3 is to take its place and dies, and all of it has lasted too long.
fn heir_is_gone(promises: Option<SyncSet>) -> World {
    let mut world = World::new();
    if let Some(set) = promises {
        world.policy.failover.sync_mode = config::SyncMode::Require;
        world.apply(Change::SetSynchronous { before: SyncSet::default(), set });
    }
    world.begin_switchover(Some("pg3"));
    world.pass(HOLD_MS + 1);
    world.settle();
    world.memory.stopped(Epoch(1), Lsn(5200));
    world.is_silent("pg1", true);
    world.view.details[0].failure = Some(Reason::ConnectRefused);
    world.standbys_hear_nothing();
    world.is_silent("pg3", true);
    assert_eq!(world.reasons(), [], "it is waited for");
    world.pass(STOP_MS + 1);
    world
}

fn has(world: &mut World, id: &str, lsn: u64) {
    let mut facts = world.facts(true, 1, lsn);
    facts.upstream = upstream("pg1.db");
    world.see(id, facts);
}

#[test]
fn another_that_has_the_last_word_takes_its_place_whoever_acknowledges_commits() {
    for promises in [None, Some(SyncSet::new(["pg2", "pg3"], 1)), Some(SyncSet::new(["pg2", "pg3"], 2))] {
        let mut world = heir_is_gone(promises.clone());
        has(&mut world, "pg2", 5300);
        let reasons = world.reasons();
        assert_eq!(reasons, [Reason::LacksLeast], "{promises:?}");
        assert_eq!(world.state.primary().server.as_deref(), Some("pg2"));
        assert_eq!(world.administrative("pg1"), Administrative::Quarantined);
    }
}

#[test]
fn without_one_the_old_primary_is_started_and_goes_on() {
    for (promises, lsn) in [(None, 5000), (Some(SyncSet::new(["pg2", "pg3"], 1)), 5200)] {
        let mut world = heir_is_gone(promises);
        has(&mut world, "pg2", lsn);
        let (reasons, actions) = world.settle();
        assert_eq!(reasons, [Reason::SwitchoverAbandoned, Reason::FailoverSettling]);
        let start = What::Start { epoch: Epoch(2) };
        assert_eq!(did(&actions), [("pg1", &start)]);
        // It takes a moment, and nobody lacks nothing.
        world.pass(STARTS_MS - 1);
        has(&mut world, "pg2", lsn);
        let (reasons, actions) = world.settle();
        assert!(!reasons.contains(&Reason::PrimaryLost), "{reasons:?}");
        assert_eq!(did(&actions), [("pg1", &start)]);
        world.is_primary("pg1", 1);
        world.settle();
        let primary = world.state.primary();
        assert_eq!((primary.server.as_deref(), primary.epoch), (Some("pg1"), Epoch(2)));
        assert_eq!(primary.stage, Stage::Confirmed);
        assert_eq!((world.state.standstill(), world.administrative("pg1")), (None, Administrative::Attached));
    }
}

#[test]
fn a_primary_that_was_stopped_for_nobody_is_started_again() {
    let mut world = heir_is_gone(Some(SyncSet::new(["pg2", "pg3"], 1)));
    let (reasons, actions) = world.settle();
    assert_eq!(reasons[0], Reason::SwitchoverAbandoned);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg1"));
    assert_eq!(did(&actions), [("pg1", &What::Start { epoch: Epoch(2) })]);
}

#[test]
fn of_two_servers_the_one_that_is_left_goes_on() {
    let mut world = heir_is_gone(None);
    world.is_silent("pg2", true);
    let (_, actions) = world.settle();
    let start = What::Start { epoch: Epoch(2) };
    assert_eq!(did(&actions), [("pg1", &start)]);
    world.pass(60_000);
    assert_eq!(did(&world.settle().1), [("pg1", &start)], "there is nobody else, however long it takes");
    assert_eq!(world.state.standstill(), Some(Reason::NoCandidate.code()));
}

#[test]
fn one_that_cannot_be_started_is_lost_like_any_other() {
    let mut world = heir_is_gone(None);
    has(&mut world, "pg2", 5000);
    world.settle();
    world.pass(STARTS_MS);
    has(&mut world, "pg2", 5000);
    let reasons = world.reasons();
    assert_eq!(reasons[..1], [Reason::PrimaryLost], "{reasons:?}");
    assert_eq!(world.state.failover().unwrap().kind, FailoverKind::Automatic);
}
