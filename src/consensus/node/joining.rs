//! Finding out who this node is before it takes part: the directory it has, and what the others remember of it.
//!
//! Owns adopting an identity and founding a cluster. Invariant: a node takes part only after another one has written
//! down that this life of it has begun; and an empty directory becomes a member's only if every other voter has been
//! asked and none has ever seen that life. So a life that was begun is never begun again with less than it had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::wire::{Address, Order, Request, Response, Wire};
use super::{NodeSettings, Standings};
use crate::cluster::state::MemberRole;
use crate::consensus::store::identity::{Identity, Progress, Remembered, Standing};
use crate::consensus::store::{Store, StoreError};
use crate::consensus::types::Peer;

/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// For one of them.
const ASK_WITHIN: Duration = Duration::from_millis(1_500);
const FIRST_INCARNATION: u64 = 1;

type Answers = BTreeMap<String, Remembered>;

/// The voters as the configuration has them, with the raft ids they have in a new cluster.
pub(super) fn founders(settings: &NodeSettings) -> BTreeMap<u64, Peer> {
    let peer = |(index, node): (usize, &Address)| {
        let peer =
            Peer { id: node.node.clone(), address: node.address.clone(), incarnation: FIRST_INCARNATION };
        (index as u64 + 1, peer)
    };
    settings.voters.iter().enumerate().map(peer).collect()
}

/// Whether it is this node that founds a cluster: the first in the configuration, so that there are never two.
pub(super) fn is_founder(settings: &NodeSettings) -> bool {
    settings.voters.first().is_some_and(|first| first.node == settings.name.node)
}

/// Asks until this node knows who it is and has been seen. Says what it waits for.
pub(super) async fn join(
    settings: &NodeSettings,
    store: &Store,
    wire: &Arc<dyn Wire>,
    standings: &Standings,
) -> Result<Identity, StoreError> {
    loop {
        let own = store.identity().await?;
        let progress = store.progress().await?;
        let answers = ask_all(settings, wire, own.as_ref(), progress).await;
        let others = settings.voters.iter().filter(|voter| voter.node != settings.name.node).count();
        let next = match &own {
            Some(own) => come_back(own, &progress, &answers, others),
            None => begin(settings, &answers, others),
        };
        match next {
            Next::TakePart(mut identity) => {
                if own.is_none() {
                    if identity.cluster_id.is_empty() {
                        identity.cluster_id = draw_cluster_id();
                        tracing::info!(cluster_id = identity.cluster_id, "this node founds the cluster");
                    }
                    store.adopt(identity.clone()).await?;
                    // Once more, now with a name: another node must write it down first.
                    if others > 0 && !is_new_cluster(&answers) {
                        continue;
                    }
                }
                standings.say("");
                return Ok(identity);
            }
            Next::Introduce => {
                let order = Order::Join { address: settings.address.clone() };
                introduce(settings, wire, order).await;
            }
            Next::Wait(why) => standings.say(&why),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    TakePart(Identity),
    /// The cluster must be asked to take this node in.
    Introduce,
    Wait(String),
}

fn is_new_cluster(answers: &Answers) -> bool {
    answers.values().all(|answer| answer.cluster_id.is_empty())
}

/// With a directory that has a name.
fn come_back(own: &Identity, progress: &Progress, answers: &Answers, others: usize) -> Next {
    let verdict = verdict(own, progress, answers);
    match verdict {
        Verdict::Against(why) => Next::Wait(why),
        Verdict::Known => Next::TakePart(own.clone()),
        Verdict::Unknown if others == 0 || is_new_cluster(answers) && answers.len() == others => {
            Next::TakePart(own.clone())
        }
        Verdict::Unknown => Next::Wait("no other voter answers that knows this cluster".to_owned()),
    }
}

enum Verdict {
    /// Somebody knows better, in words.
    Against(String),
    /// Somebody has written this start down, and nobody knows better.
    Known,
    /// Nobody knows this cluster.
    Unknown,
}

/// What the others make of who this node says it is.
fn verdict(own: &Identity, progress: &Progress, answers: &Answers) -> Verdict {
    let mut known = false;
    let mut not_a_member = None;
    for (node, remembered) in answers {
        match Standing::judge(Some(own), progress, remembered) {
            // A peer that has no cluster yet has written nothing down.
            Standing::Good => known |= !remembered.cluster_id.is_empty(),
            // It may only be behind: voters are never removed, and a proxy promises nothing.
            Standing::Removed => not_a_member = Some(format!("{node} says: {}", Standing::Removed)),
            other => return Verdict::Against(format!("{node} says: {other}")),
        }
    }
    match (known, not_a_member) {
        (true, _) => Verdict::Known,
        (false, Some(why)) => Verdict::Against(why),
        (false, None) => Verdict::Unknown,
    }
}

/// With an empty directory.
fn begin(settings: &NodeSettings, answers: &Answers, others: usize) -> Next {
    let is_voter = settings.role == MemberRole::Voter;
    let silent: Vec<&str> = settings
        .voters
        .iter()
        .map(|voter| voter.node.as_str())
        .filter(|node| *node != settings.name.node && !answers.contains_key(*node))
        .collect();
    let knows: Vec<&Remembered> = answers.values().filter(|answer| !answer.cluster_id.is_empty()).collect();
    let all = answers.len() >= others;
    let Some(first) = knows.first() else {
        return match (is_voter, is_founder(settings), all) {
            // The identifier is drawn by whoever has a source of randomness.
            (true, true, true) => Next::TakePart(Identity {
                cluster_id: String::new(),
                node: settings.name.node.clone(),
                raft_id: 1,
                incarnation: FIRST_INCARNATION,
            }),
            (true, true, false) => Next::Wait(format!(
                "a cluster is founded once all voters answer; silent: {}",
                silent.join(", ")
            )),
            _ => Next::Wait("no node knows a cluster yet".to_owned()),
        };
    };
    if let Some(other) = knows.iter().find(|other| other.cluster_id != first.cluster_id) {
        return Next::Wait(format!(
            "the others belong to different clusters, {} and {}",
            first.cluster_id, other.cluster_id
        ));
    }
    let Some((raft_id, incarnation)) = knows.iter().filter_map(|answer| answer.member).max() else {
        return match is_voter {
            false => Next::Introduce,
            true => Next::Wait(Standing::Stranger.to_string()),
        };
    };
    let seen =
        knows.iter().any(|answer| answer.member == Some((raft_id, incarnation)) && answer.progress.is_some());
    match (seen, is_voter) {
        // A proxy has promised nothing: it is taken in anew.
        (true, false) => Next::Introduce,
        (true, true) => Next::Wait(Standing::Empty { incarnation }.to_string()),
        (false, true) if !all => {
            Next::Wait(format!("all other voters must be asked first; silent: {}", silent.join(", ")))
        }
        (false, _) => Next::TakePart(Identity {
            cluster_id: first.cluster_id.clone(),
            node: settings.name.node.clone(),
            raft_id,
            incarnation,
        }),
    }
}

fn draw_cluster_id() -> String {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).expect("the operating system's random source works");
    format!("{:032x}", u128::from_ne_bytes(random))
}

async fn ask_all(
    settings: &NodeSettings,
    wire: &Arc<dyn Wire>,
    own: Option<&Identity>,
    progress: Progress,
) -> Answers {
    let others = settings.voters.iter().filter(|voter| voter.node != settings.name.node);
    let calls = others.map(|voter| {
        let call = wire.call(voter, Request::Remember { identity: own.cloned(), progress }, ASK_WITHIN);
        async move { (voter.node.clone(), call.await) }
    });
    let mut answers = Answers::new();
    for (node, answer) in join_all(calls).await {
        match answer {
            Ok(Response::Remember(remembered)) => {
                answers.insert(node, remembered);
            }
            Ok(other) => tracing::debug!(node, ?other, "does not say what it remembers"),
            Err(error) => tracing::debug!(node, %error, "does not answer"),
        }
    }
    answers
}

/// Whoever is not the leader says who is.
async fn introduce(settings: &NodeSettings, wire: &Arc<dyn Wire>, order: Order) {
    for voter in &settings.voters {
        match wire.call(voter, Request::Order(order.clone()), ASK_WITHIN).await {
            Ok(Response::Ordered(Ok(said))) => return tracing::info!(said, "this proxy was taken in"),
            Ok(Response::Ordered(Err(why))) => {
                return tracing::warn!(why, "this proxy was not taken in; it asks again");
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Asks once more, while it takes part: what it has promised since is written down by the others, and a node that was
/// replaced meanwhile learns it. The text says what is wrong; empty: nothing.
pub(super) async fn be_seen(
    settings: &NodeSettings,
    store: &Store,
    wire: &Arc<dyn Wire>,
    own: &Identity,
) -> Result<String, StoreError> {
    let progress = store.progress().await?;
    let answers = ask_all(settings, wire, Some(own), progress).await;
    Ok(match verdict(own, &progress, &answers) {
        Verdict::Against(why) => why,
        Verdict::Known | Verdict::Unknown => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::node::tests::settings;

    fn identity(cluster_id: &str, raft_id: u64, incarnation: u64) -> Identity {
        Identity { cluster_id: cluster_id.to_owned(), node: "b".to_owned(), raft_id, incarnation }
    }

    fn remembers(member: Option<(u64, u64)>, progress: Option<Progress>) -> Remembered {
        Remembered { cluster_id: "x".to_owned(), member, progress }
    }

    fn answers<const N: usize>(answers: [(&str, Remembered); N]) -> Answers {
        answers.map(|(node, answer)| (node.to_owned(), answer)).into_iter().collect()
    }

    const SEEN: Option<Progress> = Some(Progress { starts: 1, vote: None, last: None });

    #[test]
    fn a_cluster_is_founded_by_the_first_and_only_when_all_are_there() {
        let fresh = Remembered::default;
        let all = answers([("b", fresh()), ("c", fresh())]);
        let Next::TakePart(own) = begin(&settings("a"), &all, 2) else { panic!("it founds") };
        assert_eq!((own.raft_id, own.incarnation), (1, 1));
        assert!(matches!(begin(&settings("a"), &answers([("b", fresh())]), 2), Next::Wait(_)));
        assert!(matches!(
            begin(&settings("b"), &answers([("a", fresh()), ("c", fresh())]), 2),
            Next::Wait(_)
        ));
    }

    #[test]
    fn an_empty_directory_becomes_a_member_s_only_if_no_voter_has_ever_seen_that_life() {
        let b = settings("b");
        let known = || remembers(Some((2, 1)), None);
        let all = answers([("a", known()), ("c", Remembered::default())]);
        assert_eq!(begin(&b, &all, 2), Next::TakePart(identity("x", 2, 1)));
        assert!(matches!(begin(&b, &answers([("a", known())]), 2), Next::Wait(_)), "one was not asked");
        let seen = answers([("a", known()), ("c", remembers(Some((2, 1)), SEEN))]);
        assert!(matches!(begin(&b, &seen, 2), Next::Wait(why) if why.contains("replace the node")));
        // One is behind and knows the life before, which it has seen.
        let replaced = answers([("a", remembers(Some((4, 2)), None)), ("c", remembers(Some((2, 1)), SEEN))]);
        assert_eq!(begin(&b, &replaced, 2), Next::TakePart(identity("x", 4, 2)));
        let stranger = answers([("a", remembers(None, None)), ("c", remembers(None, None))]);
        assert!(matches!(begin(&b, &stranger, 2), Next::Wait(_)));
    }

    #[test]
    fn a_directory_with_a_name_takes_part_once_another_has_written_it_down() {
        let own = identity("x", 2, 1);
        let now = Progress { starts: 2, ..Progress::default() };
        let back = |all: &Answers| come_back(&own, &now, all, 2);
        assert_eq!(back(&answers([("a", remembers(Some((2, 1)), SEEN))])), Next::TakePart(own.clone()));
        assert!(matches!(back(&answers([])), Next::Wait(_)));
        assert!(matches!(back(&answers([("a", Remembered::default())])), Next::Wait(_)));
        let older = Some(Progress { starts: 3, ..Progress::default() });
        let one_knows =
            answers([("a", remembers(Some((2, 1)), SEEN)), ("c", remembers(Some((2, 1)), older))]);
        assert!(matches!(back(&one_knows), Next::Wait(why) if why.contains("older")));
        let replaced = answers([("a", remembers(Some((4, 2)), None))]);
        assert!(matches!(back(&replaced), Next::Wait(_)));
        let one_is_behind = answers([("a", remembers(Some((2, 1)), SEEN)), ("c", remembers(None, None))]);
        assert_eq!(back(&one_is_behind), Next::TakePart(own.clone()));
        assert!(matches!(back(&answers([("c", remembers(None, None))])), Next::Wait(_)));
    }

    #[test]
    fn a_founder_that_crashed_half_way_goes_on_alone() {
        let own = Identity { node: "a".to_owned(), ..identity("x", 1, 1) };
        let fresh = answers([("b", Remembered::default()), ("c", Remembered::default())]);
        assert_eq!(come_back(&own, &Progress::default(), &fresh, 2), Next::TakePart(own.clone()));
    }

    #[test]
    fn a_proxy_is_taken_in_by_the_cluster() {
        let proxy = NodeSettings { role: MemberRole::Proxy, ..settings("p") };
        let unknown = answers([("a", remembers(None, None))]);
        assert_eq!(begin(&proxy, &unknown, 3), Next::Introduce);
        let known = answers([("a", remembers(Some((9, 1)), None))]);
        assert!(matches!(begin(&proxy, &known, 3), Next::TakePart(own) if own.raft_id == 9));
        let seen = answers([("a", remembers(Some((9, 1)), SEEN))]);
        assert_eq!(begin(&proxy, &seen, 3), Next::Introduce);
    }
}
