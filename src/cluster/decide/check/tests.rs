//! Plans that must not be carried out, made by hand.

use super::*;
use crate::cluster::decide::Step;
use crate::cluster::decide::action::Action;
use crate::cluster::decide::failover::tests::World;
use crate::cluster::model::{Facts, Sender};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, FailoverKind};
use crate::cluster::sync_set::SyncSet;
use crate::config::SyncMode;
use crate::topology::{Epoch, Lsn};

/// What is rejected of a plan with one step, or one action.
fn of_step(world: &mut World, change: Change) -> Option<Rule> {
    judged(world, Plan::step(Step::new(change, Reason::LacksLeast)))
}

fn of_action(world: &mut World, server: &str, what: What) -> Option<Rule> {
    judged(world, Plan::action(Action::new(server, what)))
}

fn judged(world: &mut World, plan: Plan) -> Option<Rule> {
    let (checked, rejected) = world.knows(|situation| check(situation, Some(situation.now_ms), plan.clone()));
    let is_done = checked == plan;
    assert!(is_done == rejected.is_empty() && (is_done || checked == Plan::default()), "{rejected:?}");
    rejected.first().map(|rejected| rejected.rule)
}

fn name(epoch: u64, server: &str) -> Change {
    Change::NamePrimary { epoch: Epoch(epoch), server: server.to_owned(), promotes: true }
}

fn order(server: &str, version: u64, state: Administrative) -> Change {
    Change::SetAdministrative { server: server.to_owned(), version, state, within_ms: None }
}

/// pg1 is lost, the fence has passed, and the standbys have been compared: pg2 has most.
fn about_to_name() -> World {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.fence_passes = false;
    world.settle();
    world.fence_passes = true;
    world.apply(Change::PassFence { fenced: Fenced::Primary, epoch: Epoch(1) });
    world.knows(|_| ());
    world.is_stopped("pg2", 1, 5000);
    world.is_stopped("pg3", 1, 4990);
    world.pass(10);
    world
}

/// The log counts on these for commits.
fn promises(world: &mut World, names: &[&str], count: u32) {
    world.policy.failover.sync_mode = SyncMode::Require;
    let (before, set) = (world.state.synchronous().clone(), SyncSet::new(names.to_vec(), count));
    world.apply(Change::SetSynchronous { before, set });
}

#[test]
fn nothing_is_done_without_a_quorum_and_nobody_is_named_twice() {
    let mut world = about_to_name();
    let plan = Plan {
        steps: vec![Step::new(name(1, "pg2"), Reason::LacksLeast)],
        actions: vec![Action::new("pg2", What::StopReceiving)],
    };
    for (heard_ms, is_rejected) in [(Some(0), false), (Some(100_000), true), (None, true)] {
        let (checked, rejected) = world.knows(|situation| {
            let heard_ms = heard_ms.map(|ago_ms| situation.now_ms - ago_ms);
            check(situation, heard_ms, plan.clone())
        });
        assert_eq!((checked == plan, rejected.len()), (!is_rejected, if is_rejected { 2 } else { 0 }));
        assert!(rejected.iter().all(|rejected| rejected.rule == Rule::Quorum));
    }
    let mut twice = plan.clone();
    twice.steps.push(Step::new(name(1, "pg3"), Reason::LacksLeast));
    let (checked, rejected) =
        world.knows(|situation| check(situation, Some(situation.now_ms), twice.clone()));
    assert_eq!((checked, rejected.len(), rejected[0].rule), (plan, 1, Rule::Once), "the rest is done");
}

#[test]
fn a_primary_is_named_over_a_fence_that_has_passed_and_in_the_next_epoch() {
    let mut world = about_to_name();
    assert_eq!(of_step(&mut world, name(1, "pg2")), None);
    assert_eq!(of_step(&mut world, name(2, "pg2")), Some(Rule::Epoch));
    assert_eq!(of_step(&mut world, name(0, "pg2")), Some(Rule::Epoch));

    let mut world = World::new();
    assert_eq!(of_step(&mut world, name(1, "pg2")), Some(Rule::Fence), "nobody has ended the epoch");
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.fence_passes = false;
    world.settle();
    assert_eq!(of_step(&mut world, name(1, "pg2")), Some(Rule::Fence), "it has not passed");
    let pass = Change::PassFence { fenced: Fenced::Primary, epoch: Epoch(1) };
    assert_eq!(of_step(&mut world, pass), Some(Rule::Fence), "a node may still act");
}

#[test]
fn only_one_that_may_be_and_lacks_nothing_is_named() {
    type Spoil = fn(&mut World);
    let cases: [(Spoil, Rule); 8] = [
        (|world| world.apply(order("pg2", 0, Administrative::Quarantined)), Rule::Trust),
        (|world| world.apply(order("pg2", 0, Administrative::Detached)), Rule::Trust),
        (|world| world.policy.servers[1].disallow_failover = true, Rule::Candidate),
        (|world| world.is_silent("pg2", true), Rule::Candidate),
        (|world| world.is_stopped("pg2", 2, 5000), Rule::Candidate),
        (|world| world.is_primary("pg2", 1), Rule::Candidate),
        (|world| world.view.primary_lsn = Lsn(6001), Rule::Loss),
        (|world| world.streams("pg3", "pg1", 1, 4990), Rule::Fence),
    ];
    for (at, (spoil, rule)) in cases.into_iter().enumerate() {
        let mut world = about_to_name();
        spoil(&mut world);
        assert_eq!(of_step(&mut world, name(1, "pg2")), Some(rule), "case {at}");
    }
    let mut world = about_to_name();
    assert_eq!(of_step(&mut world, name(1, "pg1")), Some(Rule::Candidate), "it is what was lost");
    let goes_on =
        |server: &str| Change::NamePrimary { epoch: Epoch(1), server: server.to_owned(), promotes: false };
    assert_eq!(of_step(&mut world, goes_on("pg3")), Some(Rule::Candidate), "it was none");
    assert_eq!(of_step(&mut world, goes_on("pg1")), None);
}

#[test]
fn with_synchronous_commits_enough_must_answer_and_the_furthest_is_named() {
    let mut world = about_to_name();
    promises(&mut world, &["pg2", "pg3"], 1);
    assert_eq!(of_step(&mut world, name(1, "pg2")), None);
    assert_eq!(of_step(&mut world, name(1, "pg3")), Some(Rule::Loss), "pg2 has more");
    let later = world.now_ms + 5_000;
    let hangs = world.facts(true, 1, 4990);
    world.pass(5_000);
    world.see("pg3", Facts { asked_at_ms: later - 5_100, ..hangs });
    assert_eq!(of_step(&mut world, name(1, "pg2")), Some(Rule::Loss), "pg3 may have had more since");
    let replays = Facts { received_lsn: None, ..world.facts(true, 1, 4990) };
    world.see("pg3", replays);
    assert_eq!(of_step(&mut world, name(1, "pg2")), Some(Rule::Loss), "pg3 may have more than it says");
    world.is_silent("pg3", true);
    assert_eq!(of_step(&mut world, name(1, "pg2")), Some(Rule::Loss), "pg3 may have more");

    let mut world = World::new();
    promises(&mut world, &["pg2", "pg3"], 1);
    world.order(FailoverKind::Forced, None);
    world.settle();
    world.is_stopped("pg3", 1, 4990);
    world.is_silent("pg2", true);
    world.pass(10);
    assert_eq!(of_step(&mut world, name(1, "pg3")), None, "whoever forces it accepts a loss");
}

#[test]
fn where_commits_must_wait_nothing_is_done_that_could_lose_one_before_it_is_promised() {
    let mut world = about_to_name();
    world.policy.failover.sync_mode = SyncMode::Require;
    assert_eq!(of_step(&mut world, name(1, "pg2")), Some(Rule::Loss), "nobody knows who has what");
    world.apply(Change::BeginFailover { epoch: Epoch(1), kind: FailoverKind::Forced, to: None });
    assert_eq!(of_step(&mut world, name(1, "pg2")), None, "whoever forces it accepts a loss");
    world.settle();
    let promote = What::Promote { epoch: Epoch(2) };
    assert_eq!(
        of_action(&mut world, "pg2", promote.clone()),
        Some(Rule::Synchronous),
        "it would wait for nobody"
    );
    let set = |names: &str| What::SetSynchronous { epoch: Epoch(2), names: names.to_owned() };
    assert_eq!(of_action(&mut world, "pg2", set("")), Some(Rule::Synchronous));
    assert_eq!(of_action(&mut world, "pg2", set("ANY 1 (pg3)")), None);
    // There is nobody to wait for.
    for other in ["pg1", "pg3"] {
        let at = world.policy.servers.iter().position(|server| server.id == other).unwrap();
        world.policy.servers[at].replication = crate::config::Replication::LogShipping;
    }
    assert_eq!(of_action(&mut world, "pg2", promote), None);
}

#[test]
fn a_switchover_needs_the_last_word_of_the_old_primary() {
    let mut world = World::new();
    world.begin_switchover(None);
    world.pass(60_000);
    world.settle();
    assert_eq!(of_step(&mut world, name(1, "pg2")), Some(Rule::Loss), "it was not stopped cleanly");
    world.memory.stopped(Epoch(1), Lsn(5000));
    assert_eq!(of_step(&mut world, name(1, "pg2")), Some(Rule::Loss), "it lacks the last record");
    world.memory.stopped(Epoch(1), Lsn(4999));
    assert_eq!(of_step(&mut world, name(1, "pg2")), None);
    let stop = |epoch| What::Stop { epoch: Epoch(epoch) };
    assert_eq!(of_action(&mut world, "pg1", stop(1)), None);
    assert_eq!(of_action(&mut world, "pg1", stop(2)), Some(Rule::Epoch));
    assert_eq!(of_action(&mut world, "pg2", stop(1)), Some(Rule::Named));
}

#[test]
fn a_primary_that_lives_is_not_replaced_and_an_order_that_may_be_obeyed_is_waited_for() {
    let begin =
        |epoch| Change::BeginFailover { epoch: Epoch(epoch), kind: FailoverKind::Automatic, to: None };
    let mut world = World::new();
    assert_eq!(of_step(&mut world, begin(1)), Some(Rule::Lives));
    world.is_silent("pg1", true);
    assert_eq!(of_step(&mut world, begin(1)), None);
    assert_eq!(of_step(&mut world, begin(7)), Some(Rule::Epoch));
    world.policy.failover.automatic = false;
    assert_eq!(of_step(&mut world, begin(1)), Some(Rule::Order));
    let forced = Change::BeginFailover { epoch: Epoch(1), kind: FailoverKind::Forced, to: None };
    assert_eq!(of_step(&mut world, forced), Some(Rule::Order), "that is an operator's");
    let paused = Change::PauseFailover { paused: true };
    assert_eq!(of_step(&mut world, paused), Some(Rule::Order), "so is that");

    let mut world = about_to_name();
    world.settle();
    assert_eq!(world.state.primary().epoch, Epoch(2));
    let now_ms = world.now_ms;
    world.memory.orders_promotion(Epoch(2), now_ms);
    assert_eq!(of_step(&mut world, begin(2)), Some(Rule::Once));
    world.pass(ORDERS_END_MS);
    assert_eq!(of_step(&mut world, begin(2)), None);

    // An order in which the primary is lost is none to promote without its last word.
    let mut world = World::new();
    world.begin_switchover(None);
    assert_eq!(of_step(&mut world, begin(1)), None);
    world.apply(Change::PauseFailover { paused: true });
    assert_eq!(of_step(&mut world, begin(1)), Some(Rule::Order));
}

const ORDERS_END_MS: u64 = 1_000;

#[test]
fn only_the_named_server_is_promoted_once_and_by_a_setting_that_keeps_the_promise() {
    let promote = |epoch| What::Promote { epoch: Epoch(epoch) };
    let mut world = about_to_name();
    assert_eq!(of_action(&mut world, "pg2", promote(1)), Some(Rule::Named), "nobody has named it");
    assert_eq!(of_action(&mut world, "pg1", promote(1)), Some(Rule::Fence));
    promises(&mut world, &["pg2", "pg3"], 1);
    world.settle();
    assert_eq!(world.state.primary().server.as_deref(), Some("pg2"));
    assert_eq!(of_action(&mut world, "pg2", promote(1)), Some(Rule::Epoch));
    assert_eq!(of_action(&mut world, "pg3", promote(2)), Some(Rule::Named));
    assert_eq!(of_action(&mut world, "pg2", promote(2)), Some(Rule::Synchronous), "it would wait for nobody");
    let set = |names: &str| What::SetSynchronous { epoch: Epoch(2), names: names.to_owned() };
    assert_eq!(of_action(&mut world, "pg2", set("")), Some(Rule::Synchronous));
    assert_eq!(of_action(&mut world, "pg2", set("ANY 1 (pg1, pg3)")), Some(Rule::Synchronous));
    assert_eq!(of_action(&mut world, "pg2", set("ANY 1 (pg3)")), None);
    let mut facts = world.facts(true, 1, 5000);
    facts.synchronous_standby_names = "ANY 1 (pg3)".to_owned();
    world.see("pg2", facts);
    assert_eq!(of_action(&mut world, "pg2", promote(2)), None);
    let confirm = |timeline| Change::ConfirmPrimary { epoch: Epoch(2), timeline };
    assert_eq!(of_step(&mut world, confirm(2)), Some(Rule::Candidate), "it is a standby");
    world.is_primary("pg2", 2);
    world.settle();
    assert_eq!(of_action(&mut world, "pg2", promote(2)), Some(Rule::Fence), "it is one");
    assert_eq!(of_step(&mut world, confirm(2)), Some(Rule::Once));
}

#[test]
fn who_acknowledges_commits_changes_in_the_safe_order_only() {
    let mut world = World::new();
    promises(&mut world, &["pg2", "pg3"], 1);
    let set = |world: &World, names: &[&str], count| Change::SetSynchronous {
        before: world.state.synchronous().clone(),
        set: SyncSet::new(names.to_vec(), count),
    };
    let wider = set(&world, &["pg1", "pg2", "pg3"], 1);
    assert_eq!(of_step(&mut world, wider), None);
    let given_up = set(&world, &[], 0);
    assert_eq!(of_step(&mut world, given_up), Some(Rule::Synchronous));
    let stale = Change::SetSynchronous { before: SyncSet::default(), set: SyncSet::new(["pg2"], 1) };
    assert_eq!(of_step(&mut world, stale), Some(Rule::Epoch));
    // The primary first, and no wider than what the log counts on.
    let on_primary = |names: &str| What::SetSynchronous { epoch: Epoch(1), names: names.to_owned() };
    assert_eq!(of_action(&mut world, "pg1", on_primary("ANY 1 (pg2)")), None);
    assert_eq!(of_action(&mut world, "pg1", on_primary("ANY 1 (pg2, pg4)")), Some(Rule::Synchronous));
    // A standby may be the next one, and is prepared for that.
    assert_eq!(of_action(&mut world, "pg2", on_primary("ANY 1 (pg3)")), None);
    assert_eq!(of_action(&mut world, "pg2", on_primary("")), Some(Rule::Synchronous));
    world.is_primary("pg3", 1);
    assert_eq!(of_action(&mut world, "pg3", on_primary("ANY 1 (pg2)")), Some(Rule::Named));
    world.streams("pg3", "pg1", 1, 5000);

    let narrower = set(&world, &["pg2"], 1);
    assert_eq!(of_step(&mut world, narrower.clone()), Some(Rule::Synchronous), "the primary goes by another");
    let goes_by = |world: &World, flushed: u64| {
        let sender = |name: &str, sync_state: &str| Sender {
            name: name.to_owned(),
            state: "streaming".to_owned(),
            sync_state: sync_state.to_owned(),
            sent_lsn: None,
            flush_lsn: Some(Lsn(flushed)),
        };
        Facts {
            synchronous_standby_names: "ANY 1 (\"pg2\")".to_owned(),
            senders: vec![sender("pg2", "quorum"), sender("pg3", "async")],
            ..world.facts(false, 1, 5000)
        }
    };
    for _ in 0..4 {
        let facts = goes_by(&world, 4_990);
        world.see("pg1", facts);
        assert_eq!(of_step(&mut world, narrower.clone()), Some(Rule::Synchronous), "pg2 has not caught up");
        world.pass(400);
    }
    let looks = |world: &mut World| {
        for _ in 0..4 {
            let facts = goes_by(world, 5_000);
            world.see("pg1", facts);
            world.knows(|_| ());
            world.pass(400);
        }
    };
    looks(&mut world);
    assert_eq!(
        of_step(&mut world, narrower.clone()),
        Some(Rule::Synchronous),
        "who knows whether commits wait?"
    );
    let now_ms = world.now_ms;
    world.memory.note_backends_told(Epoch(1), now_ms, now_ms);
    looks(&mut world);
    assert_eq!(of_step(&mut world, narrower), None);
}

#[test]
fn quarantine_is_left_by_who_streams_and_nothing_is_rewound_outside_of_it() {
    let mut world = World::new();
    let rejoin = |world: &World, server: &str, (allow_rewind, may_rebuild)| What::Rejoin {
        epoch: Epoch(1),
        primary: "pg1".to_owned(),
        timeline: 1,
        allow_rewind,
        rebuild_from: None,
        order: world.state.servers()[server].version,
        may_rebuild,
    };
    let quarantined = order("pg1", 0, Administrative::Quarantined);
    assert_eq!(of_step(&mut world, quarantined), Some(Rule::Primary));
    world.is_stopped("pg3", 2, 5000);
    let asked = rejoin(&world, "pg3", (true, false));
    assert_eq!(of_action(&mut world, "pg3", asked), Some(Rule::Trust), "nobody would know of it");
    world.is_stopped("pg3", 1, 5000);
    let asked = rejoin(&world, "pg3", (true, false));
    assert_eq!(of_action(&mut world, "pg3", asked), None, "it is on the timeline");
    let asked = rejoin(&world, "pg3", (true, true));
    assert_eq!(of_action(&mut world, "pg3", asked), Some(Rule::Trust), "commits may count on it");
    let asked = rejoin(&world, "pg1", (true, false));
    assert_eq!(of_action(&mut world, "pg1", asked), Some(Rule::Primary));
    world.apply(order("pg3", 0, Administrative::Quarantined));
    let asked = rejoin(&world, "pg3", (true, false));
    assert_eq!(of_action(&mut world, "pg3", asked), Some(Rule::Trust), "what it has may be nobody's");
    let asked = rejoin(&world, "pg3", (false, true));
    assert_eq!(of_action(&mut world, "pg3", asked), None);
    let attach = order("pg3", 1, Administrative::Attached);
    assert_eq!(of_step(&mut world, attach.clone()), Some(Rule::Trust), "it does not stream");
    world.streams("pg3", "pg1", 1, 5000);
    assert_eq!(of_step(&mut world, attach), None);
    let stale = order("pg3", 0, Administrative::Attached);
    assert_eq!(of_step(&mut world, stale), Some(Rule::Epoch));
    let drain = order("pg2", 0, Administrative::Draining);
    assert_eq!(of_step(&mut world, drain), Some(Rule::Order), "that is an operator's");
}

#[test]
fn the_primary_is_neither_repointed_nor_stopped_and_only_it_is_started() {
    let mut world = World::new();
    let follow = What::Follow { primary: "pg1".to_owned() };
    assert_eq!(of_action(&mut world, "pg2", follow.clone()), None);
    assert_eq!(of_action(&mut world, "pg1", follow), Some(Rule::Primary));
    assert_eq!(of_action(&mut world, "pg3", What::Follow { primary: "pg2".to_owned() }), Some(Rule::Named));
    assert_eq!(of_action(&mut world, "pg2", What::StopReceiving), Some(Rule::Fence));
    assert_eq!(of_action(&mut world, "pg1", What::Stop { epoch: Epoch(1) }), Some(Rule::Epoch));
    assert_eq!(of_action(&mut world, "pg1", What::StopHost { epoch: Epoch(1) }), Some(Rule::Primary));
    let restart = What::Restart { epoch: Epoch(1), started_by_ms: 1 };
    assert_eq!(of_action(&mut world, "pg2", restart), Some(Rule::Order));
    let start = |epoch| What::Start { epoch: Epoch(epoch) };
    assert_eq!(of_action(&mut world, "pg1", start(1)), None);
    assert_eq!(of_action(&mut world, "pg1", start(0)), Some(Rule::Epoch));
    assert_eq!(of_action(&mut world, "pg2", start(1)), Some(Rule::Named));
    let slots = What::Slots { wanted: Vec::new(), unwanted: vec!["somebody_elses".to_owned()] };
    assert_eq!(of_action(&mut world, "pg2", slots), Some(Rule::Order));
    assert_eq!(of_action(&mut world, "pg1", What::RestartPoint), Some(Rule::Primary));
}
