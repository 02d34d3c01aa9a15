//! Tables of what holder and leader say; the simulation with clocks and elections is in `election/tests`.

use std::collections::BTreeSet;

use super::*;
use crate::consensus::election::Election;

const NODES: [u8; 3] = [1, 2, 3];

fn settings() -> LeaseSettings {
    LeaseSettings::default()
}

fn lessor(began: Began, now_ms: u64) -> Lessor<u8> {
    Lessor::new(settings(), 1, vec![BTreeSet::from(NODES)], began, 7, 10, now_ms)
}

fn election() -> Election {
    Election::new(settings(), 0, 1)
}

fn question(applied: u64) -> Question {
    Lease::asked(5000, applied)
}

#[test]
fn a_lease_runs_from_the_question() {
    let mut lease = Lease::none(&settings());
    assert!(!lease.holds(0));
    let question = Lease::asked(1000, 10);
    lease.granted(question, Grant { length_ms: 800 });
    assert!(lease.holds(1000) && lease.holds(1799) && !lease.holds(1800));
    assert_eq!((lease.remaining_ms(1500), lease.remaining_ms(9000)), (300, 0));
    // An older answer that comes late takes nothing away and adds nothing.
    lease.granted(Lease::asked(900, 10), Grant { length_ms: 800 });
    assert_eq!(lease.ends_at_ms(), 1800);
    // A leader with other settings is not believed for longer than ours.
    lease.granted(Lease::asked(1100, 10), Grant { length_ms: 60_000 });
    assert_eq!(lease.ends_at_ms(), 1100 + settings().lease_ms);
    lease.give_up();
    assert!(!lease.holds(1100));
}

#[test]
fn the_leader_grants_while_a_quorum_answered_something_young() {
    let mut lessor = lessor(Began::Elected, 5000);
    assert_eq!(lessor.grant(5000, &mut election(), 2, question(10)), Err(Refusal::NoQuorumYet));
    lessor.acknowledged(3, 4900);
    assert_eq!(lessor.contact_ms(5000), Some(4900));
    assert_eq!(lessor.grant(5000, &mut election(), 2, question(10)), Ok(Grant { length_ms: 800 }));
    // What matters is when it was sent; an answer to something older changes nothing.
    lessor.acknowledged(3, 4000);
    lessor.acknowledged(2, 4100);
    assert_eq!(lessor.contact_ms(5000), Some(4900));
    assert_eq!(lessor.grant(5799, &mut election(), 2, question(10)), Ok(Grant { length_ms: 1 }));
    assert_eq!(lessor.grant(5800, &mut election(), 2, question(10)), Err(Refusal::NoQuorum(900)));
}

#[test]
fn who_grants_votes_for_nobody_until_what_the_grant_rests_on_is_old() {
    let max_ms = settings().election_timeout_max_ms;
    let (mut lessor, mut election) = (lessor(Began::Elected, 1000), election());
    // Frozen for long, it would vote at once; it sends, is answered, and grants before it looks at anything else.
    lessor.acknowledged(3, 5000);
    assert_eq!(lessor.grant(5010, &mut election, 2, question(10)), Ok(Grant { length_ms: 890 }));
    assert!(election.judge_vote(5011).is_err() && !election.campaign(5011));
    assert!(election.judge_vote(5000 + max_ms - 1).is_err());
    assert_eq!(election.judge_vote(5000 + max_ms), Ok(()));
}

#[test]
fn while_the_membership_changes_both_majorities_count() {
    let mut lessor = lessor(Began::Elected, 0);
    lessor.set_voters(vec![BTreeSet::from(NODES), BTreeSet::from([3, 4, 5])]);
    lessor.acknowledged(2, 100);
    assert_eq!(lessor.contact_ms(200), None);
    lessor.acknowledged(4, 90);
    lessor.acknowledged(5, 80);
    assert_eq!(lessor.contact_ms(200), Some(80));
    lessor.set_voters(vec![BTreeSet::from([1])]);
    assert_eq!(lessor.contact_ms(200), Some(200));
    lessor.set_voters(Vec::new());
    assert_eq!(lessor.contact_ms(200), None);
}

#[test]
fn who_is_behind_a_fence_gets_nothing_and_is_waited_for() {
    let mut lessor = lessor(Began::Elected, 1000);
    lessor.acknowledged(2, 1000);
    assert_eq!(lessor.grant(1000, &mut election(), 3, question(9)), Err(Refusal::BehindFence { fence: 10 }));
    for node in NODES {
        assert_eq!(lessor.grant(1000, &mut election(), node, question(11)), Ok(Grant { length_ms: 900 }));
    }
    assert_eq!(lessor.fence_safe_at_ms(12), None);
    assert!(!lessor.fence_passed(12, 1_000_000), "it was never told of that fence");
    lessor.fence(12);
    assert_eq!(lessor.grant(1100, &mut election(), 3, question(11)), Err(Refusal::BehindFence { fence: 12 }));
    assert_eq!(lessor.fence_safe_at_ms(12), Some(1000 + 900 + 200));
    lessor.applied(1, 12);
    lessor.applied(2, 12);
    assert!(!lessor.fence_passed(12, 2099) && lessor.fence_passed(12, 2100));
    assert_eq!(lessor.grant(1200, &mut election(), 3, question(12)), Ok(Grant { length_ms: 700 }));
    assert!(lessor.fence_passed(12, 1200), "all have confirmed");
    lessor.fence(5);
    assert_eq!(lessor.grant(1200, &mut election(), 3, question(11)), Err(Refusal::BehindFence { fence: 12 }));
}

#[test]
fn a_restarted_leader_waits_for_what_it_forgot_and_one_that_votes_grants_nothing() {
    assert_eq!(lessor(Began::Elected, 1000).fence_safe_at_ms(10), Some(1000));
    let mut resumed = lessor(Began::Resumed, 1000);
    for node in NODES {
        resumed.applied(node, 10);
    }
    assert_eq!(resumed.fence_safe_at_ms(10), Some(1000 + 900 + 200));
    resumed.acknowledged(2, 1000);
    let mut voting = election();
    assert_eq!(voting.judge_vote(5000), Ok(()));
    assert_eq!(resumed.grant(1000, &mut voting, 2, question(10)), Err(Refusal::Voting));
    voting.vote_answered(8, false);
    assert!(resumed.grant(1000, &mut voting, 2, question(10)).is_ok());
    assert_eq!(voting.judge_vote(5000), Ok(()));
    voting.vote_answered(7, true);
    assert_eq!(resumed.grant(1000, &mut voting, 2, question(10)), Err(Refusal::Voting));
    assert!(voting.may_grant(8), "it was elected again later");
}

#[test]
fn settings_that_cannot_work_are_refused_with_a_reason() {
    let good = LeaseSettings::default();
    assert_eq!(good.check(), Ok(()));
    assert_eq!((good.drift_per_mille(), good.spread_ms()), (217, 300));
    let refused = |settings: LeaseSettings| settings.check().unwrap_err().to_string();
    assert_eq!(
        refused(LeaseSettings { lease_ms: 1000, ..good }),
        "lease_ms (1000) and drift_margin_ms (200) together must be less than election_timeout_max_ms (1200): \
         otherwise another leader could be elected while a node still acts on the lease of the old one"
    );
    let wrong = [
        (LeaseSettings { heartbeat_ms: 0, ..good }, "heartbeat_ms must be at least 1"),
        (LeaseSettings { heartbeat_ms: 226, ..good }, "lease_ms (900) must be at least 4 times heartbeat_ms"),
        (
            LeaseSettings { election_timeout_min_ms: 599, ..good },
            "election_timeout_min_ms (599) must be at least",
        ),
        (
            LeaseSettings { election_timeout_min_ms: 1200, ..good },
            "election_timeout_min_ms (1200) must be less",
        ),
        (LeaseSettings { drift_margin_ms: 93, ..good }, "drift_margin_ms (93) must be at least 94"),
        (LeaseSettings { lease_ms: u64::MAX, ..good }, "drift_margin_ms (200) must be at least"),
        (LeaseSettings { drift_margin_ms: u64::MAX, ..good }, "lease_ms (900) and drift_margin_ms"),
    ];
    for (settings, expected) in wrong {
        assert!(refused(settings).starts_with(expected), "{}", refused(settings));
    }
}
