//! Tables for one node, and a simulation of several (`model`).

mod model;
mod simulation;

use super::*;

const CLUSTER: &str = "c1";

fn settings() -> LeaseSettings {
    LeaseSettings::default()
}

fn position(term: u64, index: u64) -> LogPosition<u8> {
    LogPosition { term, leader: 1, index }
}

fn request(last_log: Option<LogPosition<u8>>) -> PreVoteRequest<u8> {
    PreVoteRequest { candidate: 2, term: 8, last_log, incarnation: 3, cluster_id: CLUSTER.to_owned() }
}

#[test]
fn a_node_neither_votes_nor_campaigns_after_its_start() {
    let mut election = Election::new(settings(), 1000, 1);
    let mine = Standing { cluster_id: CLUSTER, last_log: None, incarnation: None };
    let refusal = Refusal::JustStarted { for_ms: 1 };
    assert_eq!(election.judge_pre_vote(2199, &request(None), &mine), Err(refusal));
    assert_eq!(election.judge_vote(2199), Err(refusal));
    assert!(!election.campaign(2199));
    assert!((2200..2500).contains(&election.due_at_ms()), "{}", election.due_at_ms());
    assert_eq!(election.judge_pre_vote(2200, &request(None), &mine), Ok(()));
    assert!(election.campaign(2200));
}

#[test]
fn whoever_heard_a_leader_votes_for_nobody() {
    let mut election = Election::new(settings(), 0, 1);
    assert!(election.incoming(5000, 7));
    assert!(!election.campaign(9000), "the library may be accepting it this moment");
    election.answered(5010, true);
    let refusal = Refusal::LeaderIsAlive { for_ms: 1 };
    assert_eq!(election.judge_vote(6209), Err(refusal));
    assert!((6210..6510).contains(&election.due_at_ms()), "{}", election.due_at_ms());
    assert!(!election.campaign(6209));
    // What a leader of an earlier term sends is no sign of life, unless the library says so.
    assert!(election.incoming(6205, 6));
    election.answered(6206, false);
    assert_eq!(election.judge_vote(6210), Ok(()));
    assert!(election.due_at_ms() >= 6210 + 900, "the one voted for gets its time");
}

#[test]
fn a_campaign_and_the_old_leader_s_messages_do_not_overlap() {
    let mut election = Election::new(settings(), 0, 1);
    assert!(election.campaign(5000));
    assert!(!election.incoming(5001, 7), "accepted before the campaign is queued, it would count");
    assert!(!election.incoming(5002, 9), "somebody else has won, but the campaign is as good as begun");
    election.begun();
    assert!(election.incoming(5003, 9));
    election.answered(5004, true);
    assert!(election.incoming(5005, 7), "the library refuses it itself");
    election.answered(5006, false);
    assert!((6204..6504).contains(&election.due_at_ms()), "{}", election.due_at_ms());
}

#[test]
fn a_candidate_must_belong_here_and_have_the_log() {
    let election = Election::new(settings(), 0, 1);
    let last_log = position(5, 10);
    let mine = Standing { cluster_id: CLUSTER, last_log: Some(&last_log), incarnation: Some(3) };
    let judge = |request: PreVoteRequest<u8>| election.judge_pre_vote(5000, &request, &mine);
    assert_eq!(judge(request(Some(position(5, 10)))), Ok(()));
    assert_eq!(judge(request(Some(position(6, 1)))), Ok(()));
    assert_eq!(judge(request(Some(position(5, 9)))), Err(Refusal::LogBehind));
    assert_eq!(judge(request(Some(position(4, 90)))), Err(Refusal::LogBehind));
    assert_eq!(judge(request(None)), Err(Refusal::LogBehind));
    let other = PreVoteRequest { incarnation: 2, ..request(Some(position(9, 99))) };
    assert_eq!(judge(other), Err(Refusal::AnotherIncarnation));
    let other = PreVoteRequest { cluster_id: "c2".to_owned(), ..request(Some(position(9, 99))) };
    assert_eq!(judge(other), Err(Refusal::AnotherCluster));
}

#[test]
fn who_is_refused_asks_again_when_it_may_help() {
    let mut election = Election::new(settings(), 0, 1);
    election.refused(5000, &[Refusal::LogBehind, Refusal::LeaderIsAlive { for_ms: 400 }]);
    assert!((5400..5550).contains(&election.due_at_ms()), "{}", election.due_at_ms());
    election.refused(6000, &[]);
    assert!((6075..6225).contains(&election.due_at_ms()), "{}", election.due_at_ms());
}

#[test]
fn a_quorum_is_a_majority_of_each_set() {
    let set = |nodes: &[u8]| nodes.iter().copied().collect::<BTreeSet<_>>();
    assert!(is_quorum(&[set(&[1, 2, 3])], &set(&[1, 3, 9])));
    assert!(!is_quorum(&[set(&[1, 2, 3])], &set(&[1, 8, 9])));
    assert!(!is_quorum(&[set(&[1, 2])], &set(&[1])));
    assert!(!is_quorum(&[set(&[1, 2, 3]), set(&[3, 4, 5])], &set(&[1, 2, 3])));
    assert!(!is_quorum(&[], &set(&[1])));
}
