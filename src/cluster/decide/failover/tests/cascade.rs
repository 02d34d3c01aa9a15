//! A standby that receives from another standby.

use super::*;
use crate::cluster::sync_set::SyncSet;

#[test]
fn one_that_hears_from_another_standby_is_no_witness_that_the_primary_lives() {
    let mut world = World::new();
    world.is_silent("pg1", true);
    let mut facts = world.facts(true, 1, 5000);
    facts.upstream = upstream("pg1.db");
    world.see("pg2", facts);
    world.streams("pg3", "pg1", 1, 5000);
    world.settle();
    assert_eq!(world.state.standstill(), Some(Reason::StandbysStillHear.code()));
    world.streams("pg3", "pg2", 1, 5000);
    assert!(world.reasons().contains(&Reason::PrimaryLost));
}

#[test]
fn the_primary_does_not_wait_for_one_that_receives_from_another_standby() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    world.streams("pg3", "pg2", 1, 5000);
    // It is not among those that stream from the primary.
    let mut primary = world.facts_of("pg1");
    primary.senders.retain(|sender| sender.name == "pg2");
    world.see("pg1", primary);
    let actions = world.settle().1;
    let names = |action: &Action| match &action.what {
        What::SetSynchronous { names, .. } if action.server == "pg1" => SyncSet::parse(names),
        _ => None,
    };
    assert_eq!(actions.iter().find_map(names), Some(SyncSet::new(["pg2"], 1)), "{actions:?}");
}

/// Commits wait for both standbys, one of which is behind the other.
fn commits_wait() -> World {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    world.policy.failover.sync_count = 2;
    for (id, from) in [("pg2", "pg1"), ("pg3", "pg2")] {
        world.streams(id, from, 1, 5000);
        let mut facts = world.facts_of(id);
        facts.slot_name = Some(slot_name(id));
        world.see(id, facts);
    }
    let mut primary = world.facts_of("pg1");
    primary.senders.retain(|sender| sender.name == "pg2");
    primary.synchronous_standby_names = "ANY 2 (\"pg2\", \"pg3\")".to_owned();
    world.see("pg1", primary);
    world
}

fn is_told_to_follow(world: &mut World) -> bool {
    let follow = What::Follow { primary: "pg1".to_owned() };
    did(&world.settle().1).contains(&("pg3", &follow))
}

/// It followed the primary before, and that one is a standby now.
#[test]
fn one_behind_another_standby_is_told_to_follow_the_primary_once_commits_have_waited_for_it() {
    let mut world = commits_wait();
    assert!(!is_told_to_follow(&mut world), "it may be on its way");
    world.pass(14_999);
    assert!(!is_told_to_follow(&mut world));
    world.pass(1);
    assert!(is_told_to_follow(&mut world));
    world.policy.servers[2].disallow_failover = true;
    assert!(!is_told_to_follow(&mut world), "no commit could wait for it");
    world.policy.servers[2].disallow_failover = false;
    world.policy.failover.sync_mode = config::SyncMode::Prefer;
    assert!(!is_told_to_follow(&mut world), "the setting will name fewer");
    world.policy.failover.sync_mode = config::SyncMode::Require;
    world.is_agreed = false;
    assert!(!is_told_to_follow(&mut world));
}

#[test]
fn one_behind_another_standby_stays_there_while_nothing_is_missing_or_known_to_be() {
    let mut world = commits_wait();
    world.pass(20_000);
    assert!(!is_told_to_follow(&mut world));
    world.pass(20_000);
    assert!(is_told_to_follow(&mut world));
    let mut primary = world.facts_of("pg1");
    primary.synchronous_standby_names = "ANY 1 (\"pg2\")".to_owned();
    world.see("pg1", primary.clone());
    assert!(!is_told_to_follow(&mut world), "enough stream");
    primary.synchronous_standby_names = "ANY 2 (\"pg2\", \"pg3\")".to_owned();
    world.see("pg1", primary);
    assert!(!is_told_to_follow(&mut world));
    world.is_silent("pg1", true);
    world.pass(20_000);
    assert!(!is_told_to_follow(&mut world), "nothing streams from a primary that is not there");
}
