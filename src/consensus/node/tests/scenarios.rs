//! What three nodes do when one of them dies, is cut off, comes back or has lost its memory.

use std::sync::Arc;
use std::time::Duration;

use redb::backends::InMemoryBackend;

use super::harness::{NODES, TestCluster, TestNode, settings};
use crate::cluster::state::{Accepted, Change, Fenced, MemberRole};
use crate::consensus::node::wire::Order;
use crate::consensus::node::{GoesBy, NodeSettings};
use crate::topology::Epoch;

#[tokio::test(start_paused = true)]
async fn three_nodes_found_a_cluster_and_all_get_leases() {
    let cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    cluster
        .until("all have leases", || cluster.handles().all(|node| node.lease().holds()).then_some(()))
        .await;
    let proposer = cluster.handle(&cluster.others(&leader)[0]);
    let note = Change::NoteIncident { subject: "x".to_owned(), text: "y".to_owned() };
    assert_eq!(proposer.propose(note, "test", "").await, Ok(Accepted::Changed));
    for node in cluster.handles() {
        cluster
            .until("it is applied", || (node.applied().state.incidents().last_id() == 2).then_some(()))
            .await;
        assert_eq!(node.applied().state.members().len(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_loses_its_lease_before_another_can_have_one() {
    let cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    cluster.cut_off(&leader);
    let old = cluster.handle(&leader);
    let others = cluster.others(&leader);
    let new = cluster
        .until("another leads", || {
            let leads = |name: &&String| cluster.handle(name).leading().is_some();
            let found = others.iter().find(leads);
            assert!(found.is_none() || !old.lease().holds(), "two could act");
            found.cloned()
        })
        .await;
    assert!(old.propose(Change::ForgetReports { node: "a".to_owned() }, "test", "").await.is_err());
    let term = cluster.handle(&new).leading().unwrap().term;
    cluster.heal();
    cluster.until("the old one follows", || old.lease().holds().then_some(())).await;
    assert!(old.leading().is_none());
    assert_eq!(cluster.handle(&new).leading().map(|leading| leading.term), Some(term), "nobody was deposed");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stands_down_is_followed_by_one_that_can_use_the_configuration() {
    let cluster = TestCluster::start().boot_all();
    let mut leader = cluster.created().await;
    for _ in 0..6 {
        let (old, others) = (cluster.handle(&leader), cluster.others(&leader));
        // Whoever of the others comes first elsewhere: here it is this one, each time another.
        for (name, unusable) in [(&others[0], Some(2)), (&others[1], None)] {
            cluster.handle(name).goes_by(GoesBy { version: 1, unusable });
        }
        let term = old.leading().unwrap().term;
        old.stand_down();
        assert!(old.leading().is_none());
        let new = cluster
            .until("another leads", || {
                others.iter().find(|name| cluster.handle(name).leading().is_some()).cloned()
            })
            .await;
        assert_eq!(new, others[1]);
        assert!(cluster.handle(&new).leading().unwrap().term > term);
        cluster.until("the old one follows", || old.lease().holds().then_some(())).await;
        let note = Change::NoteIncident { subject: "x".to_owned(), text: "y".to_owned() };
        assert_eq!(old.propose(note, "test", "").await, Ok(Accepted::Changed));
        leader = new;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stands_down_and_is_followed_by_nobody_leads_on() {
    let cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    let handle = cluster.handle(&leader);
    let others = cluster.others(&leader);
    others.iter().for_each(|name| cluster.cut_off(name));
    handle.stand_down();
    assert!(handle.leading().is_none());
    cluster.until("its lease ends", || (!handle.lease().holds()).then_some(())).await;
    cluster.heal();
    // Of the others none reaches a quorum before that.
    cluster
        .until("somebody leads", || cluster.handles().any(|node| node.leading().is_some()).then_some(()))
        .await;
    cluster
        .until("all have leases", || cluster.handles().all(|node| node.lease().holds()).then_some(()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_cut_off_and_healed_or_restarted_deposes_nobody() {
    let mut cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    let term = cluster.handle(&leader).leading().unwrap().term;
    let follower = cluster.others(&leader)[0].clone();
    cluster.cut_off(&follower);
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.heal();
    cluster.until("it is back", || cluster.handle(&follower).lease().holds().then_some(())).await;
    cluster.kill(&follower).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.boot(&follower);
    cluster.until("it is back again", || cluster.handle(&follower).lease().holds().then_some(())).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let leading = cluster.handle(&leader).leading();
    assert_eq!(leading.map(|leading| leading.term), Some(term));
}

#[tokio::test(start_paused = true)]
async fn the_whole_cluster_comes_back_with_what_it_knew() {
    let mut cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    let assign =
        Change::AssignEndpoint { endpoint: "app".to_owned(), epoch: Epoch(0), owner: Some("b".to_owned()) };
    cluster.handle(&leader).propose(assign, "test", "").await.unwrap();
    for name in NODES {
        cluster.kill(name).await;
    }
    for name in NODES {
        cluster.boot(name);
    }
    let leader = cluster.leader().await;
    let state = cluster.handle(&leader).applied();
    assert_eq!(state.state.endpoints()["app"].owner.as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_fence_passes_when_the_owner_has_applied_it_or_cannot_act_any_more() {
    let cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    let handle = cluster.handle(&leader);
    let owner = cluster.others(&leader)[0].clone();
    let fenced = Fenced::Endpoint("app".to_owned());
    let assign =
        Change::AssignEndpoint { endpoint: "app".to_owned(), epoch: Epoch(0), owner: Some(owner.clone()) };
    handle.propose(assign, "test", "").await.unwrap();
    cluster.cut_off(&owner);
    let open = Change::OpenFence { fenced: fenced.clone(), epoch: Epoch(1) };
    handle.propose(open, "test", "").await.unwrap();
    let old = cluster.handle(&owner);
    cluster
        .until("the fence passes", || {
            let passed = handle.applied().state.fences().iter().all(|fence| handle.fence_passed(fence));
            assert!(!passed || !old.lease().holds(), "it could still act");
            passed.then_some(())
        })
        .await;
    assert!(!old.applied().state.is_fenced(&fenced), "it has not heard of it");
}

#[tokio::test(start_paused = true)]
async fn a_fence_passes_at_once_though_more_was_applied_before_the_leader_looked_at_it() {
    let cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    let handle = cluster.handle(&leader);
    let owner = cluster.others(&leader)[0].clone();
    let assign = Change::AssignEndpoint { endpoint: "app".to_owned(), epoch: Epoch(0), owner: Some(owner) };
    handle.propose(assign, "test", "").await.unwrap();
    let open = Change::OpenFence { fenced: Fenced::Endpoint("app".to_owned()), epoch: Epoch(1) };
    handle.propose(open, "test", "").await.unwrap();
    let note = Change::NoteIncident { subject: "app".to_owned(), text: "meanwhile".to_owned() };
    handle.propose(note, "test", "").await.unwrap();
    let looked = tokio::time::Instant::now();
    cluster
        .until("the fence passes", || {
            let applied = handle.applied();
            applied.state.fences().iter().all(|fence| handle.fence_passed(fence)).then_some(())
        })
        .await;
    // Of the paused clock.
    assert!(looked.elapsed().as_millis() < u128::from(settings(&leader).lease.heartbeat_ms / 2));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_directory_votes_for_nobody_until_it_is_replaced() {
    let mut cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    let lost = cluster.others(&leader)[0].clone();
    cluster.kill(&lost).await;
    cluster.nodes.get_mut(&lost).unwrap().disk = Arc::new(InMemoryBackend::new());
    cluster.boot(&lost);
    let waits = || cluster.handle(&lost).status().waiting_for;
    cluster.until("it says what to do", || waits().contains("replace the node").then_some(())).await;
    assert!(!cluster.handle(&lost).lease().holds());

    let order = Order::ReplaceNode { id: lost.clone(), cause: "test".to_owned() };
    cluster.handle(&leader).order(order).await.unwrap();
    let aligning = cluster.handle(&leader);
    cluster
        .until("it takes part again", || {
            let aligning = aligning.clone();
            tokio::spawn(async move { aligning.align_membership().await });
            cluster.handle(&lost).lease().holds().then_some(())
        })
        .await;
    let member = cluster.handle(&lost).applied().state.members()[&lost].clone();
    assert_eq!((member.incarnation, member.raft_id), (2, 4));
    cluster
        .until("it is a voter", || {
            let voters = cluster.handle(&leader).raft_voters();
            (voters.len() == 3 && voters.iter().any(|voter| voter.raft_id == 4)).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_proxy_learns_and_gets_leases_and_never_votes() {
    let mut cluster = TestCluster::start().boot_all();
    let leader = cluster.created().await;
    let proxy = NodeSettings { role: MemberRole::Proxy, ..settings("p") };
    cluster.nodes.insert("p".to_owned(), TestNode::new(proxy));
    cluster.boot("p");
    let aligning = cluster.handle(&leader);
    cluster
        .until("it has its lease", || {
            let aligning = aligning.clone();
            tokio::spawn(async move { aligning.align_membership().await });
            cluster.handle("p").lease().holds().then_some(())
        })
        .await;
    assert_eq!(cluster.handle(&leader).raft_voters().len(), 3);
    assert_eq!(cluster.handle("p").applied().state.members()["p"].role, MemberRole::Proxy);
}
