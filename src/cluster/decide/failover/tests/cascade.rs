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
