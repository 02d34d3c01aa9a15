//! One failover soon after the other.

use super::*;
use crate::cluster::sync_set::SyncSet;
use crate::config::SyncMode;

/// Commits wait for one of two; pg1 is lost, and pg2 is the primary of epoch 2 in its place.
fn after_the_first(mode: SyncMode) -> World {
    let mut world = World::new();
    world.policy.failover.sync_mode = mode;
    let set = SyncSet::new(["pg2", "pg3"], 1);
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set });
    // Who has led for long knows how the standbys are set.
    world.heir_is_set();
    world.knows(|_| ());
    world.pass(10_000);
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    world.heir_is_set();
    world.settle();
    world.pass(10);
    assert_eq!(did(&world.settle().1), [("pg2", &What::Promote { epoch: Epoch(2) })]);
    world.pass(50);
    world.is_primary("pg2", 2);
    world.goes_by("ANY 1 (\"pg3\")", None);
    world.settle();
    assert_eq!(world.state.primary().stage, Stage::Confirmed);
    world
}

impl World {
    fn heir_is_set(&mut self) {
        let names = "ANY 1 (\"pg3\")".to_owned();
        let upstream = upstream("pg1.db");
        let facts = Facts { synchronous_standby_names: names, upstream, ..self.facts(true, 1, 5000) };
        self.see("pg2", facts);
    }

    /// pg2, as the primary, with pg3 if that has connected.
    fn goes_by(&mut self, names: &str, flushed: Option<u64>) {
        let facts = self.facts_of("pg2");
        let sender = flushed.map(|flushed| Sender {
            name: "pg3".to_owned(),
            state: "streaming".to_owned(),
            sync_state: if names.is_empty() { "async" } else { "quorum" }.to_owned(),
            sent_lsn: None,
            flush_lsn: Some(Lsn(flushed)),
        });
        let asked_at_ms = self.now_ms;
        let senders = sender.into_iter().collect();
        let synchronous_standby_names = names.to_owned();
        self.see(
            "pg2",
            Facts { asked_at_ms, answered_at_ms: asked_at_ms, senders, synchronous_standby_names, ..facts },
        );
    }
}

#[test]
fn the_promise_is_on_the_one_that_is_left_before_the_next_failover_may_come() {
    for mode in [SyncMode::Require, SyncMode::Prefer] {
        let mut world = after_the_first(mode);
        let begun_ms = world.now_ms;
        let promised = SyncSet::new(["pg3"], 1);
        while *world.state.synchronous() != promised {
            world.pass(50);
            if world.now_ms >= begun_ms + 300 {
                world.streams("pg3", "pg2", 2, 5200);
                world.goes_by("ANY 1 (\"pg3\")", Some(6000));
            } else {
                world.goes_by("ANY 1 (\"pg3\")", None);
            }
            let actions = world.settle().1;
            let told = actions
                .iter()
                .any(|action| action.server == "pg2" && matches!(action.what, What::SetSynchronous { .. }));
            assert!(!told && world.state.synchronous().promises(), "{mode:?}: it is waited for: {actions:?}");
            assert!(world.now_ms < begun_ms + SETTLE_FIRST_MS, "{mode:?}");
        }
        world.is_silent("pg2", true);
        world.see("pg3", Facts { upstream: upstream("pg2.db"), ..world.facts(true, 2, 6000) });
        assert_eq!(world.reasons(), [Reason::FailoverSettling]);
        world.pass(2_000);
        world.see("pg3", Facts { upstream: upstream("pg2.db"), ..world.facts(true, 2, 6000) });
        assert!(world.reasons().contains(&Reason::PrimaryLost), "{mode:?}");
        world.is_stopped("pg3", 2, 6000);
        world.pass(10);
        assert!(world.reasons().contains(&Reason::LacksLeast), "{mode:?}");
        assert_eq!(world.state.primary().server.as_deref(), Some("pg3"));
    }
}

#[test]
fn with_prefer_one_that_does_not_come_is_not_waited_for_for_long() {
    let mut world = after_the_first(SyncMode::Prefer);
    world.is_silent("pg3", true);
    world.goes_by("ANY 1 (\"pg3\")", None);
    let actions = world.settle().1;
    let names = String::new();
    assert!(actions.contains(&Action::new("pg2", What::SetSynchronous { epoch: Epoch(2), names })));
    assert!(!world.state.synchronous().promises());
}

/// What was sent to the heir a moment before may still be carried out, and change whom it waits for.
#[test]
fn what_was_sent_to_the_heir_before_is_waited_for() {
    let mut world = after_the_first(SyncMode::Require);
    let begun_ms = world.now_ms;
    world.memory = Memory::default();
    let promised = SyncSet::new(["pg3"], 1);
    while *world.state.synchronous() != promised {
        world.pass(50);
        world.streams("pg3", "pg2", 2, 5200);
        world.goes_by("ANY 1 (\"pg3\")", Some(6000));
        let now_ms = world.now_ms;
        if world.settle().1.contains(&Action::new("pg2", What::TellBackends { epoch: Epoch(2) })) {
            world.memory.note_backends_told(Epoch(2), now_ms, now_ms);
        }
        assert!(world.now_ms < begun_ms + 10_000);
    }
    assert!(world.now_ms >= begun_ms + crate::cluster::decide::OPERATIONS_END_MS);
}
