//! Whom the next primary waits for.

use super::*;
use crate::cluster::sync_set::SyncSet;

#[test]
fn standbys_are_told_to_wait_for_somebody_before_they_are_primaries() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    let set = SyncSet::new(["pg2", "pg3"], 1);
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set: set.clone() });
    let mut primary = world.facts_of("pg1");
    primary.synchronous_standby_names = set.to_string();
    world.see("pg1", primary);
    let told = |actions: &[Action]| -> Vec<(String, String)> {
        let names = actions.iter().filter_map(|action| match &action.what {
            What::SetSynchronous { names, .. } => Some((action.server.clone(), names.clone())),
            _ => None,
        });
        names.collect()
    };
    let of = |server: &str, names: &str| (server.to_owned(), names.to_owned());
    let expected = [of("pg2", "ANY 1 (\"pg3\")"), of("pg3", "ANY 1 (\"pg2\")")];
    assert_eq!(told(&world.settle().1), expected);
    for (index, (_, names)) in expected.into_iter().enumerate() {
        let mut facts = world.view.details[index + 1].facts.as_deref().unwrap().clone();
        facts.synchronous_standby_names = names;
        world.see(SERVERS[index + 1], facts);
    }
    assert_eq!(told(&world.settle().1), [], "whatever they wait for then is set with their promotion");
    world.policy.failover.sync_mode = config::SyncMode::Off;
    for index in [1, 2] {
        let mut facts = world.view.details[index].facts.as_deref().unwrap().clone();
        facts.synchronous_standby_names = String::new();
        world.see(SERVERS[index], facts);
    }
    assert_eq!(told(&world.settle().1), [], "it is somebody else's");
}

#[test]
fn standbys_are_told_anew_whom_to_wait_for_when_that_has_changed() {
    for (names, told) in [("pg3", false), ("pg1, pg3", true), ("pg2", true), ("pg2, pg3", true)] {
        let mut world = World::new();
        world.policy.failover.sync_mode = config::SyncMode::Require;
        let set = SyncSet::new(["pg2", "pg3"], 1);
        world.apply(Change::SetSynchronous { before: SyncSet::default(), set: set.clone() });
        for (server, names) in [("pg1", "pg2, pg3"), ("pg2", names), ("pg3", "pg2")] {
            let mut facts = world.facts_of(server);
            facts.synchronous_standby_names = format!("ANY 1 ({names})");
            world.see(server, facts);
        }
        let expected = What::SetSynchronous { epoch: Epoch(1), names: "ANY 1 (\"pg3\")".to_owned() };
        let expected = if told { vec![("pg2", &expected)] } else { Vec::new() };
        assert_eq!(did(&world.settle().1), expected, "{names}");
    }
}

#[test]
fn the_next_primary_waits_for_those_whom_the_cluster_counts_on_from_its_first_commit_on() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    let set = SyncSet::new(["pg2", "pg3"], 1);
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set });
    world.is_silent("pg1", true);
    world.is_stopped("pg2", 1, 5000);
    world.is_silent("pg3", true);
    assert_eq!(world.reasons(), [Reason::TooFewSynchronous]);
    world.is_stopped("pg3", 1, 4000);
    world.settle();
    world.pass(10);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::LacksLeast]);
    let names = "ANY 1 (\"pg3\")".to_owned();
    assert_eq!(did(&actions), [("pg2", &What::SetSynchronous { epoch: Epoch(2), names: names.clone() })]);
    let mut facts = world.facts(true, 1, 5000);
    facts.synchronous_standby_names = names;
    world.see("pg2", facts);
    assert_eq!(did(&world.settle().1), [("pg2", &What::Promote { epoch: Epoch(2) })]);
}

/// What the primary acknowledged alone some standby may have, or none.
#[test]
fn where_commits_must_wait_nobody_is_named_before_that_is_promised_but_by_order() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    let told = did(&world.settle().1)
        .into_iter()
        .map(|(server, what)| (server.to_owned(), what.clone()))
        .collect::<Vec<_>>();
    for (server, names) in
        [("pg1", "ANY 1 (\"pg2\", \"pg3\")"), ("pg2", "ANY 1 (\"pg3\")"), ("pg3", "ANY 1 (\"pg2\")")]
    {
        let what = What::SetSynchronous { epoch: Epoch(1), names: names.to_owned() };
        assert!(told.contains(&(server.to_owned(), what)), "{server}: {told:?}");
    }
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    assert_eq!(world.reasons(), [Reason::NothingPromised]);
    assert_eq!(world.reasons(), []);
    world.order(FailoverKind::Forced, None);
    world.settle();
    world.is_stopped("pg2", 1, 5000);
    world.is_stopped("pg3", 1, 4000);
    world.pass(10);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::LacksLeast]);
    // It does not acknowledge alone all the same.
    let names = "ANY 1 (\"pg1\", \"pg3\")".to_owned();
    assert_eq!(did(&actions), [("pg2", &What::SetSynchronous { epoch: Epoch(2), names })]);
    let mut facts = world.facts(true, 1, 5000);
    facts.synchronous_standby_names = "ANY 1 (\"pg3\")".to_owned();
    world.see("pg2", facts);
    assert_eq!(did(&world.settle().1), [("pg2", &What::Promote { epoch: Epoch(2) })]);
}

#[test]
fn what_an_earlier_leader_may_have_asked_for_is_waited_for_unless_there_was_no_primary() {
    let promised_after_ms = |saw_no_primary: bool| {
        let mut world = World::new();
        world.policy.failover.sync_mode = config::SyncMode::Require;
        let begun_ms = world.now_ms;
        world.memory = Memory::default();
        if saw_no_primary {
            world.memory.look(&ClusterState::default(), &world.view, begun_ms);
        }
        let set = SyncSet::new(["pg2", "pg3"], 1);
        while !world.state.synchronous().promises() {
            let mut primary = world.facts(false, 1, 5000);
            primary.senders = world.view.details[0].facts.as_deref().unwrap().senders.clone();
            primary.synchronous_standby_names = set.to_string();
            for sender in &mut primary.senders {
                (sender.sync_state, sender.flush_lsn) = ("quorum".to_owned(), Some(Lsn(6000)));
            }
            world.see("pg1", primary);
            let tells = Action::new("pg1", What::TellBackends { epoch: Epoch(1) });
            if world.settle().1.contains(&tells) {
                let (epoch, now_ms) = (Epoch(1), world.now_ms);
                world.memory.note_backends_told(epoch, now_ms, now_ms);
            }
            world.pass(100);
            assert!(world.now_ms < begun_ms + 10_000);
        }
        world.now_ms - begun_ms
    };
    let (first, later) = (promised_after_ms(true), promised_after_ms(false));
    assert!(later >= crate::cluster::decide::OPERATIONS_END_MS + 1_000, "{later}");
    assert!(first < crate::cluster::decide::OPERATIONS_END_MS, "{first}");
}

/// It hangs, and no look at it has failed yet: what it said before the fence may be of before the last commit.
#[test]
fn what_a_standby_said_before_the_epoch_ended_counts_for_nothing_however_long_it_hangs() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    let set = SyncSet::new(["pg2", "pg3"], 1);
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set });
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.settle();
    let said_ms = world.now_ms;
    for waited_ms in [10, 3_000, 4_900] {
        world.pass(waited_ms);
        world.is_stopped("pg2", 1, 5000);
        let hangs = Facts { asked_at_ms: said_ms, answered_at_ms: said_ms, ..world.facts(true, 1, 4990) };
        world.see("pg3", hangs);
        let reasons = world.reasons();
        assert!(reasons.iter().all(|reason| *reason == Reason::TooFewSynchronous), "{reasons:?}");
        assert_eq!(world.state.primary().server.as_deref(), Some("pg1"));
    }
    assert_eq!(world.state.standstill(), Some("too_few_synchronous"));
    world.is_stopped("pg3", 1, 6000);
    world.reasons();
    assert_eq!(world.state.primary().server.as_deref(), Some("pg3"), "it had more");
}

/// It was restarted, and what it has replayed is less than what it has.
#[test]
fn a_synchronous_standby_that_replays_its_own_log_counts_when_it_is_through() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    let set = SyncSet::new(["pg2", "pg3"], 1);
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set });
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.settle();
    world.pass(10);
    world.is_stopped("pg2", 1, 5000);
    let replays = Facts { received_lsn: None, ..world.facts(true, 1, 4000) };
    world.see("pg3", replays);
    assert_eq!(world.reasons(), [Reason::TooFewSynchronous]);
    let through = Facts { received_lsn: Some(Lsn(4096)), ..world.facts(true, 1, 5010) };
    world.see("pg3", through);
    world.reasons();
    assert_eq!(world.state.primary().server.as_deref(), Some("pg3"), "it had more");
}

/// The leader cannot read what was agreed on, and its own `sync_mode` is of before.
#[test]
fn a_promise_is_not_taken_back_by_a_configuration_that_is_not_the_agreed_one() {
    let mut world = World::new();
    let set = SyncSet::new(["pg2", "pg3"], 1);
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set: set.clone() });
    world.is_agreed = false;
    assert_eq!(world.settle(), (vec![], vec![]));
    assert_eq!(*world.state.synchronous(), set);
    world.policy.failover.sync_mode = config::SyncMode::Require;
    assert_eq!(world.settle(), (vec![], vec![]), "nor is anybody told to wait");
    world.policy.failover.sync_mode = config::SyncMode::Off;
    world.is_agreed = true;
    assert_eq!(world.reasons(), [Reason::SynchronousSet]);
    assert!(!world.state.synchronous().promises());
}

/// Its sessions show the setting at once, and its checkpointer may tell them later that they are to wait.
#[test]
fn nobody_is_dropped_by_a_primary_that_may_have_learnt_to_wait_only_with_its_promotion() {
    for long_before in [true, false] {
        let mut world = World::new();
        world.policy.failover.sync_mode = config::SyncMode::Require;
        let both = SyncSet::new(["pg2", "pg3"], 1);
        world.apply(Change::SetSynchronous { before: SyncSet::default(), set: both.clone() });
        let heir = |world: &mut World| {
            let upstream = upstream("pg1.db");
            let names = "ANY 1 (\"pg3\")".to_owned();
            let facts = Facts { synchronous_standby_names: names, upstream, ..world.facts(true, 1, 5000) };
            world.see("pg2", facts);
            world.knows(|_| ());
        };
        heir(&mut world);
        world.pass(if long_before { 6_000 } else { 1_000 });
        world.is_silent("pg1", true);
        world.standbys_hear_nothing();
        heir(&mut world);
        world.settle();
        world.pass(10);
        assert_eq!(did(&world.settle().1), [("pg2", &What::Promote { epoch: Epoch(2) })]);
        world.is_primary("pg2", 2);
        world.streams("pg3", "pg2", 2, 6000);
        let mut actions = Vec::new();
        for _ in 0..60 {
            let known = world.view.details[1].facts.as_deref().unwrap();
            let mut facts = Facts { senders: known.senders.clone(), ..world.facts(false, 2, 5000) };
            facts.synchronous_standby_names = "ANY 1 (\"pg3\")".to_owned();
            facts.senders.retain(|sender| sender.name == "pg3");
            facts.senders[0].sync_state = "quorum".to_owned();
            facts.senders[0].flush_lsn = Some(Lsn(6000));
            world.see("pg2", facts);
            actions.extend(world.settle().1);
            world.pass(200);
        }
        let tells = actions.contains(&Action::new("pg2", What::TellBackends { epoch: Epoch(2) }));
        let dropped = *world.state.synchronous() == SyncSet::new(["pg3"], 1);
        assert_eq!((tells, dropped), (!long_before, long_before));
        let now_ms = world.now_ms;
        world.memory.note_backends_told(Epoch(2), now_ms, now_ms);
        for _ in 0..20 {
            let facts = world.facts_of("pg2");
            world.see("pg2", Facts { asked_at_ms: world.now_ms, ..facts });
            world.settle();
            world.pass(200);
        }
        assert_eq!(*world.state.synchronous(), SyncSet::new(["pg3"], 1));
    }
}

/// Whether commits wait at all is not told by the setting.
#[test]
fn nothing_is_promised_before_the_backends_of_the_primary_are_known_to_wait() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    let epoch = world.state.primary().epoch;
    let looks = |world: &mut World| {
        let (mut reasons, mut actions) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            let mut primary = world.facts(false, 1, 5000);
            let known = world.view.details[0].facts.as_deref().unwrap();
            (primary.senders, primary.slots) = (known.senders.clone(), known.slots.clone());
            primary.synchronous_standby_names = SyncSet::new(["pg2", "pg3"], 1).to_string();
            for sender in &mut primary.senders {
                (sender.sync_state, sender.flush_lsn) = ("quorum".to_owned(), Some(Lsn(6000)));
            }
            world.see("pg1", primary);
            let (decided, named) = world.settle();
            reasons.extend(decided);
            actions.extend(named);
            world.pass(600);
        }
        let tells = actions.contains(&Action::new("pg1", What::TellBackends { epoch }));
        (reasons.contains(&Reason::SynchronousSet), tells)
    };
    assert_eq!(looks(&mut world), (false, true));
    assert!(!world.state.synchronous().promises());
    // It took its time, and meanwhile the setting was changed: who knows of which one they were told?
    let begun_ms = world.now_ms;
    world.pass(600);
    let changed_ms = world.now_ms;
    world.memory.setting_changed(epoch, changed_ms);
    world.pass(600);
    let now_ms = world.now_ms;
    world.memory.note_backends_told(epoch, begun_ms, now_ms);
    assert_eq!(looks(&mut world), (false, true));
    let now_ms = world.now_ms;
    world.memory.note_backends_told(epoch, now_ms, now_ms);
    assert_eq!(looks(&mut world), (true, false));
    assert_eq!(*world.state.synchronous(), SyncSet::new(["pg2", "pg3"], 1));
}

/// It has two walsenders for a while when it connects anew, and `ANY 2` would take them for two standbys.
#[test]
fn where_commits_wait_for_two_a_standby_counts_only_if_it_streams_by_a_slot() {
    let mut world = World::new();
    (world.policy.failover.sync_mode, world.policy.failover.sync_count) = (config::SyncMode::Require, 2);
    let streams_by_slot = |world: &mut World, id: &str| {
        let index = SERVERS.iter().position(|known| *known == id).unwrap();
        let facts = world.view.details[index].facts.as_deref().unwrap().clone();
        world.see(id, Facts { slot_name: Some(slot_name(id)), ..facts });
    };
    streams_by_slot(&mut world, "pg2");
    let actions = world.settle().1;
    let told = |actions: &[Action]| {
        let set = actions.iter().find_map(|action| match &action.what {
            What::SetSynchronous { names, .. } if action.server == "pg1" => Some(names.clone()),
            _ => None,
        });
        (set, actions.contains(&Action::new("pg3", What::Follow { primary: "pg1".to_owned() })))
    };
    assert_eq!(told(&actions), (Some("ANY 2 (\"pg2\")".to_owned()), true), "it is given its slot first");
    streams_by_slot(&mut world, "pg3");
    let actions = world.settle().1;
    assert_eq!(told(&actions), (Some("ANY 2 (\"pg2\", \"pg3\")".to_owned()), false));
}

/// Made by `pg_basebackup -R`, and the primary knows it by no name of its own: nobody would ever answer to its id.
#[test]
fn no_commit_waits_for_a_standby_that_the_primary_knows_by_another_name_before_it_has_its_own() {
    let named = |world: &mut World, name: &str| {
        for id in ["pg2", "pg3"] {
            world.streams(id, "pg1", 1, 5000);
            let mut facts = world.facts_of(id);
            facts.receiver.as_mut().unwrap().name = if name.is_empty() { id } else { name }.to_owned();
            world.see(id, facts);
        }
        let mut primary = world.facts_of("pg1");
        for (sender, id) in primary.senders.iter_mut().zip(["pg2", "pg3"]) {
            sender.name = if name.is_empty() { id } else { name }.to_owned();
        }
        world.see("pg1", primary);
    };
    let follow = What::Follow { primary: "pg1".to_owned() };
    let waits = |actions: &[Action]| {
        let sets = |action: &Action| match &action.what {
            What::SetSynchronous { names, .. } if action.server == "pg1" => Some(names.clone()),
            _ => None,
        };
        actions.iter().find_map(sets)
    };
    let mut world = World::new();
    for name in ["walreceiver", "15/main"] {
        named(&mut world, name);
        assert_eq!(world.settle().1, [], "without sync_mode the name is their own affair");
        world.policy.failover.sync_mode = config::SyncMode::Prefer;
        assert_eq!(did(&world.settle().1), [("pg2", &follow), ("pg3", &follow)], "{name}");
        world.policy.failover.sync_mode = config::SyncMode::Off;
    }
    world.policy.failover.sync_mode = config::SyncMode::Prefer;
    // It was told, and its receiver has not ended yet.
    let mut facts = world.facts_of("pg2");
    facts.upstream.as_mut().unwrap().application_name = Some("pg2".to_owned());
    world.see("pg2", facts);
    assert_eq!(did(&world.settle().1), [("pg3", &follow)]);
    named(&mut world, "");
    assert_eq!(waits(&world.settle().1).as_deref(), Some("ANY 1 (\"pg2\", \"pg3\")"));
    // The primary says that one of them catches up: until it has, nobody waits for it.
    let mut primary = world.facts_of("pg1");
    primary.senders[1].state = "catchup".to_owned();
    world.see("pg1", primary);
    assert_eq!(waits(&world.settle().1).as_deref(), Some("ANY 1 (\"pg2\")"));
}

/// Behind another standby it is known to that one, whatever its name.
#[test]
fn one_that_receives_from_another_standby_keeps_its_name() {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Prefer;
    world.streams("pg3", "pg2", 1, 5000);
    let mut facts = world.facts_of("pg3");
    facts.receiver.as_mut().unwrap().name = "walreceiver".to_owned();
    world.see("pg3", facts);
    // Somebody else's backup, say, has the same name there.
    let mut primary = world.facts_of("pg1");
    primary.senders[1].name = "walreceiver".to_owned();
    world.see("pg1", primary);
    let follows = |action: &Action| matches!(action.what, What::Follow { .. });
    assert!(!world.settle().1.iter().any(follows));
}
