//! One standby reads the archive: it is the last resort, and is told nothing.

use super::*;
use crate::cluster::decide::log_shipping::LAST_RESORT_MS;

/// pg3 does, and has replayed up to there.
fn world(lsn: u64) -> World {
    let mut world = World::new();
    world.policy.servers[2].replication = config::Replication::LogShipping;
    let mut primary = world.facts(false, 1, 5000);
    primary.archive =
        Some(Archive { last: Some("000000010000000000000001".to_owned()), age_ms: Some(700), fails: false });
    primary.slots = vec![slot("pg2")];
    world.see("pg1", primary);
    reads_archive(&mut world, 1, lsn);
    world.settle();
    world
}

fn reads_archive(world: &mut World, timeline: u32, lsn: u64) {
    let mut facts = world.facts(true, timeline, lsn);
    facts.received_lsn = None;
    world.see("pg3", facts);
}

fn lose(world: &mut World, id: &str) {
    world.is_silent(id, true);
}

/// pg2 receives nothing more.
fn pg2_hears_nothing(world: &mut World) {
    let mut facts = world.facts(true, 1, 5000);
    facts.upstream = upstream("pg1.db");
    world.see("pg2", facts);
}

fn incidents(world: &World) -> Vec<String> {
    world.state.incidents().iter().map(|incident| incident.text.clone()).collect()
}

#[test]
fn one_that_streams_is_promoted_whatever_the_archive_has() {
    let mut world = world(6000);
    world.policy.failover.promote_log_shipped = true;
    lose(&mut world, "pg1");
    pg2_hears_nothing(&mut world);
    assert_eq!(world.reasons(), [Reason::PrimaryLost, Reason::FencePassed]);
    world.is_stopped("pg2", 1, 5000);
    world.pass(10);
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg2"));
}

#[test]
fn it_is_promoted_last_by_consent_or_by_order() {
    let mut world = world(2000);
    lose(&mut world, "pg1");
    lose(&mut world, "pg2");
    assert_eq!(world.reasons(), [Reason::OnlyLogShipped]);
    world.policy.failover.promote_log_shipped = true;
    assert_eq!(world.reasons(), [Reason::AwaitsStreaming]);
    world.pass(LAST_RESORT_MS);
    assert_eq!(world.reasons(), [Reason::PrimaryLost, Reason::FencePassed]);
    world.pass(10);
    // However far it lags: that was accepted.
    assert_eq!(world.reasons(), [Reason::LastResort, Reason::LastResort]);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg3"));
    let told = incidents(&world);
    let note = told.iter().find(|text| text.starts_with("pg3 reads the archive")).unwrap();
    assert!(note.contains("up to 0/7D0; pg1 was last seen at 0/1388, 3000 bytes further"), "{note}");
    assert!(note.contains("; it archived 000000010000000000000001 "), "{note}");
    assert!(note.ends_with("is lost"), "{note}");
}

#[test]
fn an_order_is_consent_and_a_switchover_is_none() {
    let mut world = world(2000);
    lose(&mut world, "pg2");
    world.order(FailoverKind::Forced, None);
    assert_eq!(world.reasons(), [Reason::FencePassed]);
    world.pass(10);
    assert_eq!(world.reasons(), [Reason::LastResort, Reason::LastResort]);

    let mut world = self::world(2000);
    world.begin_switchover(Some("pg3"));
    world.pass(HOLD_MS + 1);
    assert_eq!(world.reasons(), [Reason::SwitchoverAbandoned]);
}

#[test]
fn the_guarantee_of_synchronous_commits_is_no_less_for_it() {
    let mut world = world(2000);
    world.policy.failover.promote_log_shipped = true;
    world.policy.failover.sync_mode = config::SyncMode::Require;
    let set = SyncSet::new(["pg2".to_owned()], 1);
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set });
    lose(&mut world, "pg1");
    lose(&mut world, "pg2");
    world.pass(LAST_RESORT_MS);
    assert_eq!(world.reasons(), [Reason::TooFewSynchronous]);
}

#[test]
fn it_gets_no_slot_follows_nobody_and_is_not_rebuilt() {
    let mut world = world(2000);
    world.pass(60_000);
    let (reasons, actions) = world.settle();
    assert_eq!((reasons, actions), (Vec::new(), Vec::new()));
    // The primary is another one, on a timeline that it has not come to.
    lose(&mut world, "pg1");
    pg2_hears_nothing(&mut world);
    world.settle();
    world.is_stopped("pg2", 1, 5000);
    world.pass(10);
    world.settle();
    world.is_primary("pg2", 2);
    world.settle();
    let about = |actions: &[Action]| {
        actions
            .iter()
            .filter(|action| action.server == "pg3")
            .map(|action| action.what.clone())
            .collect::<Vec<_>>()
    };
    world.pass(60_000);
    assert_eq!(about(&world.settle().1), [What::RestartPoint]);
    reads_archive(&mut world, 2, 7000);
    assert_eq!(about(&world.settle().1), []);
    assert_eq!(world.administrative("pg3"), Administrative::Attached);
}

#[test]
fn a_former_primary_that_reads_the_archive_is_used_when_it_has_come_to_the_new_timeline() {
    let mut world = World::new();
    world.policy.servers[0].replication = config::Replication::LogShipping;
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.settle();
    world.is_stopped("pg2", 1, 5000);
    world.is_stopped("pg3", 1, 5000);
    world.pass(10);
    world.settle();
    let new = world.state.primary().server.clone().unwrap();
    world.is_primary(&new, 2);
    world.settle();
    for (timeline, expected) in [(1, Administrative::Quarantined), (2, Administrative::Attached)] {
        let mut facts = world.facts(true, timeline, 7000);
        facts.received_lsn = None;
        world.see("pg1", facts);
        world.settle();
        assert_eq!(world.administrative("pg1"), expected);
    }
}
