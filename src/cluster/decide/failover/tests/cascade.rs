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
    let mut primary = world.view.details[0].facts.as_deref().unwrap().clone();
    primary.senders.retain(|sender| sender.name == "pg2");
    world.see("pg1", primary);
    let actions = world.settle().1;
    let names = |action: &Action| match &action.what {
        What::SetSynchronous { names, .. } if action.server == "pg1" => SyncSet::parse(names),
        _ => None,
    };
    assert_eq!(actions.iter().find_map(names), Some(SyncSet::new(["pg2"], 1)), "{actions:?}");
}

/// It followed the primary before, and that one is a standby now.
#[test]
fn one_behind_another_standby_is_told_to_follow_the_primary_if_commits_wait_for_it() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    world.policy.failover.sync_count = 2;
    let streams = |world: &mut World, id: &str, from: &str| {
        world.streams(id, from, 1, 5000);
        let index = if id == "pg2" { 1 } else { 2 };
        let mut facts = world.view.details[index].facts.as_deref().unwrap().clone();
        facts.slot_name = Some(slot_name(id));
        world.see(id, facts);
    };
    streams(&mut world, "pg2", "pg1");
    streams(&mut world, "pg3", "pg1");
    let follow = What::Follow { primary: "pg1".to_owned() };
    let told = |world: &mut World| {
        let actions = world.settle().1;
        did(&actions).contains(&("pg3", &follow))
    };
    assert!(!told(&mut world));
    streams(&mut world, "pg3", "pg2");
    let mut primary = world.view.details[0].facts.as_deref().unwrap().clone();
    primary.senders.retain(|sender| sender.name == "pg2");
    world.see("pg1", primary);
    assert!(told(&mut world));
    world.policy.servers[2].disallow_failover = true;
    assert!(!told(&mut world), "no commit waits for it");
    world.policy.servers[2].disallow_failover = false;
    world.policy.failover.sync_count = 1;
    assert!(!told(&mut world), "it is where somebody wants it");
    world.policy.failover.sync_mode = config::SyncMode::Off;
    world.policy.failover.sync_count = 2;
    assert!(!told(&mut world));
}
