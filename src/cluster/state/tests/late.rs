//! What comes late, or was decided by an old picture, changes nothing.

use super::*;

fn confirm(epoch: u64) -> Command {
    command(Change::ConfirmPrimary { epoch: Epoch(epoch), timeline: epoch as u32 })
}

fn open(epoch: u64) -> Command {
    command(Change::OpenFence { fenced: Fenced::Primary, epoch: Epoch(epoch) })
}

fn pass(epoch: u64) -> Command {
    command(Change::PassFence { fenced: Fenced::Primary, epoch: Epoch(epoch) })
}

fn all_accepted(state: &mut ClusterState, commands: Vec<Command>) {
    for command in commands {
        let outcome = state.apply(command);
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }
}

#[test]
fn what_is_said_of_an_earlier_fence_counts_for_none_of_a_later_one() {
    let mut state = created();
    all_accepted(
        &mut state,
        vec![name(0, "pg1"), confirm(1), open(1), pass(1), name(1, "pg2"), confirm(2), open(2)],
    );
    let stale = || Outcome::Refused(Refusal::StaleEpoch { expected: Epoch(1), current: Epoch(2) });
    let node = "b".to_owned();
    let late = Change::ConfirmFence { fenced: Fenced::Primary, epoch: Epoch(1), node };
    assert_eq!(state.apply(command(late)), stale());
    assert_eq!(state.apply(pass(1)), stale());
    let fence = &state.fences()[0];
    assert!(fence.confirmed_by.is_empty() && !fence.passed, "{fence:?}");
    assert_eq!(state.apply(confirm(1)), stale());
}

#[test]
fn whoever_does_not_know_the_present_set_of_synchronous_standbys_does_not_change_it() {
    let mut state = created();
    let set = |names: &[&str]| SyncSet::new(names.to_vec(), 1);
    let change = |before: SyncSet, set: SyncSet| command(Change::SetSynchronous { before, set });
    let both = set(&["pg1", "pg2"]);
    assert_eq!(state.apply(change(SyncSet::default(), both.clone())), CHANGED);
    for before in [SyncSet::default(), set(&["pg1"])] {
        let outcome = state.apply(change(before, set(&["pg2"])));
        assert_eq!(outcome, Outcome::Refused(Refusal::OtherSynchronous { current: both.to_string() }));
    }
    assert_eq!(*state.synchronous(), both);
}

#[test]
fn a_failover_of_an_epoch_begins_once_and_only_a_stronger_order_takes_its_place() {
    let mut state = created();
    all_accepted(&mut state, vec![name(0, "pg1"), confirm(1)]);
    let begin = |kind, to: Option<&str>| {
        command(Change::BeginFailover { epoch: Epoch(1), kind, to: to.map(str::to_owned) })
    };
    assert_eq!(state.apply(begin(FailoverKind::Automatic, None)), CHANGED);
    let under_way = || Outcome::Refused(Refusal::FailoverUnderWay { from: "pg1".to_owned() });
    for kind in [FailoverKind::Restart, FailoverKind::Switchover, FailoverKind::Automatic] {
        assert_eq!(state.apply(begin(kind, Some("pg2"))), under_way(), "{kind:?}");
    }
    assert_eq!(state.failover().and_then(|failover| failover.to.as_deref()), None);
    assert_eq!(state.apply(begin(FailoverKind::Forced, Some("pg2"))), CHANGED);
    assert_eq!(state.apply(begin(FailoverKind::Automatic, None)), under_way());
    assert_eq!(state.failover().and_then(|failover| failover.to.as_deref()), Some("pg2"));
}

/// It may be the one that is needed, and nobody could use it again before there is a primary.
#[test]
fn a_server_is_put_out_of_use_for_its_recovery_only_while_the_primary_is_not_being_replaced() {
    let mut state = created();
    state.apply(name(0, "pg1"));
    state.apply(command(Change::ConfirmPrimary { epoch: Epoch(1), timeline: 1 }));
    let recover = Change::RecoverServer { server: "pg2".to_owned(), version: 0, ran_since_ms: None };
    assert_eq!(state.check_proposal(&recover), Ok(()));
    let kind = FailoverKind::Automatic;
    state.apply(command(Change::BeginFailover { epoch: Epoch(1), kind, to: None }));
    let refused = Err(Refusal::FailoverUnderWay { from: "pg1".to_owned() });
    assert_eq!(state.check_proposal(&recover), refused);
    assert_eq!(state.check_proposal(&Change::PauseFailover { paused: true }), Ok(()));
    // One that is in the log already means the same to every version.
    assert!(matches!(state.apply(command(recover)), Outcome::Accepted(_)));
}
