//! A switchover whose orders fail.

use super::*;
use crate::cluster::decide::memory::Planned;

fn fails(world: &mut World, what: Planned, times: u32) {
    (0..times).for_each(|_| world.memory.planned_failed(Epoch(1), what));
}

#[test]
fn a_checkpoint_that_is_refused_is_done_without() {
    let mut world = World::new();
    world.order(FailoverKind::Switchover, Some("pg3"));
    fails(&mut world, Planned::Checkpoint, 2);
    assert_eq!(did(&world.settle().1), [("pg1", &What::Checkpoint { epoch: Epoch(1) })]);
    fails(&mut world, Planned::Checkpoint, 1);
    assert_eq!(world.settle(), (vec![Reason::SwitchoverOrdered], Vec::new()));
    assert!(world.state.holds());
}

#[test]
fn an_agent_that_does_not_answer_stops_a_switchover_and_not_the_writes() {
    let mut world = World::new();
    world.begin_switchover(Some("pg3"));
    world.pass(HOLD_MS + 1);
    world.is_primary("pg1", 1);
    fails(&mut world, Planned::Stop, 2);
    assert_eq!(did(&world.settle().1), [("pg1", &What::Stop { epoch: Epoch(1) })]);
    fails(&mut world, Planned::Stop, 1);
    let (reasons, _) = world.settle();
    assert_eq!(reasons, [Reason::SwitchoverAbandoned, Reason::PrimaryFound]);
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.epoch), (Some("pg1"), Epoch(2)));
}

#[test]
fn a_stop_that_may_be_under_way_is_waited_for() {
    let mut world = World::new();
    world.begin_switchover(Some("pg3"));
    world.pass(HOLD_MS + 1);
    world.settle();
    world.is_silent("pg1", true);
    fails(&mut world, Planned::Stop, 9);
    assert_eq!(did(&world.settle().1), [("pg1", &What::Stop { epoch: Epoch(1) })]);
    assert_eq!(world.state.primary().epoch, Epoch(1));
}
