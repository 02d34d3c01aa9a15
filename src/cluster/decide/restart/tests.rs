use std::sync::Arc;

use super::*;
use crate::cluster::decide::failover::tests::{NODES, World, did};
use crate::cluster::state::ToRestart;
use crate::topology::{Epoch, Lsn};

const BEFORE: u64 = 1;
const SINCE: u64 = 2;

fn order(world: &mut World, servers: &[&str], rolling: bool) {
    let to = |server: &&str| ToRestart { server: server.to_string(), started_at_ms: BEFORE };
    world.apply(Change::BeginRestart { servers: servers.iter().map(to).collect(), rolling });
}

fn is_clear(world: &mut World, server: &str) {
    for node in NODES {
        world.apply(Change::ConfirmClear { id: 1, server: server.to_owned(), node: node.to_owned() });
    }
}

fn was_started(world: &mut World, server: &str) {
    let index = world.view.snapshot.servers.iter().position(|known| &*known.id == server).unwrap();
    Arc::make_mut(world.view.details[index].facts.as_mut().unwrap()).started_at_ms = SINCE;
}

fn restart(epoch: u64) -> What {
    What::Restart { epoch: Epoch(epoch), started_by_ms: BEFORE }
}

fn stages(world: &World) -> Vec<RestartStage> {
    world.state.restart().unwrap().steps.iter().map(|step| step.stage).collect()
}

fn ended(world: &World) -> (&str, &str) {
    assert_eq!(world.state.restart(), None);
    let last = world.state.last_restart().unwrap();
    (&last.reason, &last.text)
}

/// Out of use, clear, and told to restart.
fn begun(world: &mut World, server: &str) {
    assert_eq!(world.administrative(server), Administrative::Draining);
    is_clear(world, server);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::RestartOrdered]);
    assert_eq!(did(&actions), [(server, &restart(1))]);
}

#[test]
fn the_next_begins_when_the_one_before_has_caught_up_and_the_primary_is_replaced_at_last() {
    use RestartStage::{Done, Draining, Switching, Waiting};
    let mut world = World::new();
    order(&mut world, &["pg2", "pg3", "pg1"], true);
    assert_eq!(world.settle(), (vec![Reason::RestartOrdered], Vec::new()), "what is under way may end");
    begun(&mut world, "pg2");
    world.is_silent("pg2", true);
    assert_eq!(did(&world.settle().1), [("pg2", &restart(1))]);
    world.streams("pg2", "pg1", 1, 4_900);
    was_started(&mut world, "pg2");
    assert_eq!(world.settle(), (vec![], vec![]), "it has not replayed what there was");
    world.streams("pg2", "pg1", 1, 5_000);
    was_started(&mut world, "pg2");
    assert_eq!(world.reasons(), [Reason::Restarted, Reason::RestartOrdered]);
    assert_eq!(world.administrative("pg2"), Administrative::Attached);
    assert_eq!(stages(&world), [Done, Draining, Waiting]);
    begun(&mut world, "pg3");
    was_started(&mut world, "pg3");
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::Restarted, Reason::RestartOrdered, Reason::RestartOrdered]);
    assert_eq!(did(&actions), [("pg1", &What::Checkpoint { epoch: Epoch(1) })]);
    assert_eq!(world.state.failover().unwrap().kind, FailoverKind::Switchover);
    assert_eq!(stages(&world), [Done, Done, Switching]);

    // As a switchover leaves it.
    let epoch = Epoch(1);
    let fenced = crate::cluster::state::Fenced::Primary;
    world.apply(Change::OpenFence { fenced: fenced.clone(), epoch });
    world.apply(Change::PassFence { fenced, epoch });
    world.apply(Change::NamePrimary { epoch, server: "pg2".to_owned(), promotes: true });
    world.is_primary("pg2", 2);
    was_started(&mut world, "pg2");
    world.streams("pg3", "pg2", 2, 5_000);
    was_started(&mut world, "pg3");
    world.is_silent("pg1", true);
    world.settle();
    assert_eq!(stages(&world), [Done, Done, Waiting], "it has to rejoin");
    world.streams("pg1", "pg2", 2, 5_000);
    was_started(&mut world, "pg1");
    world.settle();
    assert_eq!(ended(&world).0, "restarted", "it was started by its agent");
    assert_eq!(world.administrative("pg1"), Administrative::Attached);
}

#[test]
fn what_cannot_be_restarted_ends_the_plan_with_the_reason() {
    let mut world = World::new();
    order(&mut world, &["pg2", "pg3", "pg1"], true);
    world.settle();
    begun(&mut world, "pg2");
    for _ in 0..TRIES {
        world.memory.restart_failed("pg2", "no space left");
    }
    world.memory.restart_failed("pg3", "another's");
    assert_eq!(world.reasons(), [], "it may be a hiccup");
    world.pass(TRY_MS);
    assert_eq!(world.reasons(), [Reason::RestartFailed]);
    assert_eq!(ended(&world), ("restart_failed", "pg2 was not restarted: no space left"));
    assert_eq!(world.administrative("pg2"), Administrative::Attached);
}

#[test]
fn what_is_under_way_on_a_standby_is_waited_for_for_so_long_only() {
    let mut world = World::new();
    order(&mut world, &["pg2"], false);
    world.settle();
    world.pass(DRAIN_MS - 1);
    assert_eq!(world.settle(), (vec![], vec![]));
    world.pass(1);
    assert_eq!(did(&world.settle().1), [("pg2", &restart(1))]);
}

#[test]
fn a_server_that_was_restarted_by_others_meanwhile_is_not_restarted_again() {
    let mut world = World::new();
    order(&mut world, &["pg2"], false);
    was_started(&mut world, "pg2");
    assert_eq!(world.settle(), (vec![Reason::Restarted], vec![]));
    assert_eq!(ended(&world).0, "restarted");
}

#[test]
fn a_primary_whose_switchover_is_given_up_is_not_restarted() {
    let mut world = World::new();
    order(&mut world, &["pg1"], true);
    world.settle();
    assert_eq!(world.state.failover().unwrap().kind, FailoverKind::Switchover);
    world.apply(Change::AbandonFailover { epoch: Epoch(1) });
    assert_eq!(ended(&world), ("restart_failed", "pg1 was not restarted: its epoch could not be ended"));

    let mut world = World::new();
    order(&mut world, &["pg1"], true);
    for id in ["pg2", "pg3"] {
        world.is_silent(id, true);
    }
    assert_eq!(world.reasons(), [Reason::RestartFailed]);
    assert!(ended(&world).1.starts_with("no standby can take over from pg1"));
}

/// Transactions have run out, and its epoch has ended.
fn in_place() -> World {
    let mut world = World::new();
    order(&mut world, &["pg1"], false);
    assert_eq!(world.reasons(), [Reason::RestartOrdered; 2]);
    world.memory.note_checkpoint(Epoch(1));
    world.settle();
    for node in NODES {
        world.apply(Change::ConfirmHold { epoch: Epoch(1), node: node.to_owned() });
    }
    let (_, actions) = world.settle();
    assert_eq!(did(&actions), [("pg1", &restart(1))]);
    let cancel = Change::EndRestart { id: 1, text: "no".to_owned() };
    assert!(world.is_refused(cancel), "it is stopped already");
    world
}

#[test]
fn a_primary_that_is_restarted_goes_on_in_an_epoch_of_its_own() {
    let mut world = in_place();
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    let (reasons, actions) = world.settle();
    assert!(reasons.is_empty(), "it is not lost: {reasons:?}");
    assert_eq!(did(&actions), [("pg1", &restart(1))]);
    world.is_primary("pg1", 1);
    was_started(&mut world, "pg1");
    assert_eq!(world.reasons(), [Reason::Restarted, Reason::PrimaryFound, Reason::Restarted]);
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.epoch, primary.timeline), (Some("pg1"), Epoch(2), 1));
    assert_eq!(ended(&world).0, "restarted");
}

#[test]
fn a_primary_that_its_agent_does_not_restart_goes_on_and_one_that_does_not_come_back_is_replaced() {
    let mut world = in_place();
    for _ in 0..TRIES {
        world.memory.restart_failed("pg1", "its configuration is wrong");
    }
    world.settle();
    assert_eq!(world.state.primary().server.as_deref(), Some("pg1"));
    assert_eq!(ended(&world), ("restart_failed", "pg1 goes on without having been restarted"));

    let mut world = in_place();
    world.is_silent("pg1", true);
    world.view.primary_lsn = Lsn(5_000);
    world.standbys_hear_nothing();
    world.pass(60_000);
    let (_, actions) = world.settle();
    assert_eq!(world.state.failover().unwrap().kind, FailoverKind::Automatic);
    let stop = What::StopReceiving;
    assert_eq!(
        did(&actions),
        [("pg2", &stop), ("pg3", &stop)],
        "nobody is named who may still be sent something"
    );

    let mut world = in_place();
    world.apply(Change::PauseFailover { paused: true });
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.pass(60_000);
    let (reasons, actions) = world.settle();
    assert_eq!((reasons, did(&actions)), (vec![Reason::FailoverPaused], vec![("pg1", &restart(1))]));
    assert_eq!(world.state.failover().unwrap().kind, FailoverKind::Restart);
}

#[test]
fn one_that_receives_from_another_standby_is_restarted_like_the_others() {
    let mut world = World::new();
    world.streams("pg2", "pg3", 1, 5_000);
    order(&mut world, &["pg2"], false);
    world.settle();
    begun(&mut world, "pg2");
    world.streams("pg2", "pg3", 1, 5_000);
    was_started(&mut world, "pg2");
    assert_eq!(world.reasons(), [Reason::Restarted]);
    assert_eq!(world.administrative("pg2"), Administrative::Attached);
}

/// It may be the only one that can take the primary's place.
#[test]
fn a_standby_that_is_restarted_is_used_again_when_the_primary_is_lost() {
    for restarts in [false, true] {
        let mut world = World::new();
        order(&mut world, &["pg2", "pg3"], true);
        world.settle();
        if restarts {
            begun(&mut world, "pg2");
        }
        world.pass(2_000);
        world.is_silent("pg1", true);
        world.standbys_hear_nothing();
        assert_eq!(world.settle().0[..2], [Reason::PrimaryLost, Reason::RestartFailed]);
        assert_eq!(ended(&world).1, "the primary was lost meanwhile");
        assert_eq!(world.administrative("pg2"), Administrative::Attached);
    }
}
