//! Members of the promise that come back with less than they had.

use super::*;
use crate::cluster::sync_set::SyncSet;

/// pg2 is being made a standby again, and runs: a copy of pg3, with what that had.
fn copied(members: &[&str]) -> World {
    let mut world = World::new();
    world.policy.failover.sync_mode = config::SyncMode::Require;
    let set = SyncSet::new(members.iter().copied(), 1);
    world.apply(Change::SetSynchronous { before: SyncSet::default(), set });
    let version = world.state.servers()["pg2"].version;
    let change = Change::RecoverServer { server: "pg2".to_owned(), version, ran_since_ms: Some(1) };
    world.apply_as("a", change, Reason::RecoveryOrdered.code());
    world.writes(5000);
    world.settle();
    world.pass(1_000);
    world
}

impl World {
    /// The primary goes by the promise, and has flushed so much.
    fn writes(&mut self, flushed: u64) {
        let known = self.facts_of("pg1");
        let names = self.state.synchronous().to_string();
        let lsn = Lsn(flushed + 10);
        self.see(
            "pg1",
            Facts {
                asked_at_ms: self.now_ms,
                answered_at_ms: self.now_ms,
                lsn,
                flushed_lsn: Some(Lsn(flushed)),
                synchronous_standby_names: names,
                ..known
            },
        );
    }

    fn runs_again(&mut self, received: Option<u64>) {
        self.now_ms += 1;
        self.streams("pg2", "pg1", 1, 4000);
        let facts = self.facts_of("pg2");
        let received_lsn = received.map(Lsn);
        self.see("pg2", Facts { started_at_ms: 2, received_lsn, ..facts });
    }

    /// Whether it is attached by now; else nothing is done to it.
    fn is_used_again(&mut self) -> bool {
        let (reasons, actions) = self.settle();
        let rejoins = actions.iter().any(|action| matches!(action.what, What::Rejoin { .. }));
        assert!(!rejoins, "it is on its way");
        reasons.contains(&Reason::Rejoined)
    }
}

#[test]
fn a_member_that_was_copied_from_a_standby_counts_when_it_has_what_it_may_have_acknowledged() {
    let mut world = copied(&["pg2", "pg3"]);
    world.runs_again(Some(4_900));
    assert!(!world.is_used_again(), "the primary was last asked before");
    world.pass(100);
    world.writes(5_300);
    world.runs_again(Some(5_200));
    assert!(!world.is_used_again());
    world.pass(100);
    world.writes(9_000);
    world.runs_again(None);
    assert!(!world.is_used_again(), "it replays what it was copied with");
    // What it was not there for it has not acknowledged.
    world.runs_again(Some(5_300));
    assert!(world.is_used_again());
    assert_eq!(world.administrative("pg2"), Administrative::Attached);
}

#[test]
fn another_start_and_another_leader_begin_anew() {
    let mut world = copied(&["pg2", "pg3"]);
    world.runs_again(Some(4_000));
    world.pass(100);
    world.writes(5_300);
    assert!(!world.is_used_again());
    world.pass(100);
    world.writes(5_600);
    world.memory = Memory::default();
    world.runs_again(Some(5_400));
    assert!(!world.is_used_again());
    world.pass(100);
    world.runs_again(Some(5_400));
    assert!(!world.is_used_again(), "5,600 were there when this leader first saw it");
    world.runs_again(Some(5_600));
    assert!(world.is_used_again());
}

#[test]
fn one_that_the_log_does_not_count_on_is_used_as_soon_as_it_streams() {
    let mut world = copied(&["pg3"]);
    world.runs_again(Some(4_000));
    assert!(world.is_used_again());
}
