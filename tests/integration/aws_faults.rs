//! Three nodes before a double of AWS that does not do as it should.

use std::time::{Duration, Instant};

use super::aws::{KINDS, before, three, until_aws_agrees};
use super::support::aws::proxy::CHANGES;
use super::support::aws::{Fault, Kind, World};
use super::support::*;
use aws_sdk_route53::types::RrType;
use komainu_aws_double::Call;
use komainu_escalation::route53::{Fence, fence_name};
use serde_json::{Value, json};

/// A settled endpoint is looked at every 15 to 30 s.
const REPAIRED_WITHIN: Duration = Duration::from_secs(90);
const THROTTLED_FOR: Duration = Duration::from_secs(30);
/// What a former owner left on its way does no harm for longer.
/// Five are promised, and a busy machine takes longer; but not as long as what undoes only what somebody changed by hand.
const UNDONE_WITHIN: Duration = Duration::from_secs(15);

fn key(world: &World, id: &str) -> String {
    world.nodes[Nodes::index(id)].access_key.clone()
}

/// What a node says of an endpoint's loop.
fn reason(nodes: &Nodes, id: &str, endpoint: &str) -> Option<String> {
    let status = nodes.status(id);
    let found = status["endpoints"].as_array()?.iter().find(|known| known["name"] == endpoint)?.clone();
    Some(found["reason"].as_str()?.to_owned())
}

fn order_move(nodes: &Nodes, asked: &str, endpoint: &str, to: &str) {
    let order = json!({ "endpoint": endpoint, "to": to, "cause": "operator:test" });
    let answer = nodes.post(asked, "/endpoint/move", &order);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn until_held_by(world: &World, kind: Kind, id: &str) {
    let what = format!("{kind:?} is at {id}");
    eventually_async(REPAIRED_WITHIN, &what, async || world.holder(kind).await == Some(Nodes::index(id)))
        .await;
}

/// What a node sends of each of `KINDS` to take it.
const GIVEN: [(&str, usize); 4] = [
    ("AssociateAddress", 1),
    ("ChangeResourceRecordSets", 1),
    ("ReplaceRoute", 4),
    ("AssignPrivateIpAddresses", 1),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frozen_node_left_on_its_way_is_refused_or_undone() {
    let (world, nodes) = three().await;
    let owners = KINDS.map(|(_, name)| nodes.owner_of(&nodes.ids(), name));
    let frozen = nodes.others(&owners[2]).swap_remove(0);
    let others = nodes.others(&frozen);
    let by = key(&world, &frozen);
    world.proxy.fault_of(&by, &CHANGES, Fault::Hold, None);
    let before_it = world.proxy.changes(&by).len();
    for ((_, name), owner) in KINDS.iter().zip(&owners) {
        if *owner != frozen {
            order_move(&nodes, &others[0], name, &frozen);
        }
    }
    // All that it was given, of the routes four: what has its permit and is about to be sent when the node freezes leaves it
    // when it goes on. One that has waited in vain is sent again, and does not stand for another.
    let given: Vec<_> = owners.iter().zip(GIVEN).filter(|(owner, _)| **owner != frozen).collect();
    eventually(PATIENCE, "its changes are on their way", || {
        given.iter().all(|(_, (operation, changes))| world.proxy.waiting_of(&by, operation) >= *changes)
    });
    nodes.freeze(&frozen);
    until_aws_agrees(&world, &nodes, &others).await;

    let done = || world.proxy.calls().iter().filter(|call| call.by == by && call.done).count();
    let done_before = done();
    let waiting = world.proxy.waiting();
    let (let_go, logged) = (Instant::now(), world.proxy.calls().len());
    world.proxy.let_go();
    eventually(PATIENCE, "its changes arrive", || done() >= done_before + waiting);
    // Each owner still looks, and takes back what was taken from it.
    until_aws_agrees(&world, &nodes, &others).await;
    let mut repairs = world.proxy.calls()[logged..].to_vec();
    repairs.retain(|call| call.by != by && call.accepted && CHANGES.contains(&&*call.operation));
    assert!(repairs.iter().any(|call| call.operation == "ReplaceRoute"), "nothing refuses a route");
    for repair in repairs {
        let after = repair.at - let_go;
        assert!(after < UNDONE_WITHIN, "{repair:?} {after:?} after the late change");
    }
    world.proxy.heal();

    let sent = world.proxy.changes(&by).len();
    assert!(sent > before_it, "it had changes on their way");
    nodes.go_on(&frozen);
    eventually(PATIENCE, "it has its lease again", || {
        nodes.status(&frozen)["lease_remaining_ms"].as_u64().is_some_and(|ms| ms > 0)
    });
    until_aws_agrees(&world, &nodes, &nodes.ids()).await;
    assert_eq!(world.proxy.changes(&by)[sent..], [] as [&str; 0], "it starts no change after it went on");
}

/// How often the record was written, by its TXT record.
async fn writes(world: &World) -> u64 {
    let fence = world.record_value(RrType::Txt, &fence_name(&world.name)).await.unwrap();
    Fence { values: vec![fence], ttl_s: 5 }.mark().unwrap().write
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_whose_changes_arrive_together_one_wins_and_the_owner_has_it_in_the_end() {
    const RACING: [(&str, &str); 2] = [("address", "AssociateAddress"), ("name", "ChangeResourceRecordSets")];
    let (world, nodes) = three().await;
    let leader = nodes.leader();
    let [stale, rightful] = &nodes.others(&leader)[..] else { panic!("three nodes") };
    for (endpoint, _) in RACING {
        if nodes.owner_of(&nodes.ids(), endpoint) != leader {
            order_move(&nodes, &leader, endpoint, &leader);
        }
        eventually(PATIENCE, "the third node has it", || {
            nodes.owner(&leader, endpoint).as_deref() == Some(&*leader)
        });
    }
    until_aws_agrees(&world, &nodes, &nodes.ids()).await;

    // First one is made the owner and hangs, then the other; neither's last step has arrived yet.
    for id in [stale, rightful] {
        let by = key(&world, id);
        world.proxy.fault_of(&by, &RACING.map(|(_, operation)| operation), Fault::Hold, None);
        for (endpoint, operation) in RACING {
            order_move(&nodes, &leader, endpoint, id);
            eventually(PATIENCE, &format!("{operation} of {id} is on its way"), || {
                world.proxy.waiting_of(&by, operation) > 0
            });
        }
        if id == stale {
            nodes.freeze(stale);
        }
    }
    let (logged, written) = (world.proxy.calls().len(), writes(&world).await);
    world.proxy.heal();
    world.proxy.let_go();
    until_aws_agrees(&world, &nodes, &[leader.clone(), rightful.clone()]).await;
    for (endpoint, _) in RACING {
        assert_eq!(nodes.owner(&leader, endpoint).as_ref(), Some(rightful), "as the log says");
    }

    let calls = world.proxy.calls()[logged..].to_vec();
    let mut holder = None;
    for call in calls.iter().filter(|call| call.accepted) {
        match call.operation.as_str() {
            "AssociateAddress" => {
                let before = holder.replace(call.by.clone());
                assert!(before.is_none_or(|before| before == call.by), "two have won: {calls:?}");
            }
            "DisassociateAddress" => holder = None,
            _ => {}
        }
    }
    assert_eq!(holder, Some(key(&world, rightful)), "{calls:?}");
    let records = calls.iter().filter(|call| call.accepted && call.operation == RACING[1].1).count();
    assert_eq!(writes(&world).await - written, records as u64, "each write saw the one before it: {calls:?}");
    for (_, operation) in RACING {
        let refused = |call: &&Call| call.operation == operation && call.done && !call.accepted;
        assert!(calls.iter().any(|call| refused(&call)), "one {operation} is refused: {calls:?}");
    }

    let sent = world.proxy.changes(&key(&world, stale)).len();
    nodes.go_on(stale);
    eventually(PATIENCE, "it has its lease again", || {
        nodes.status(stale)["lease_remaining_ms"].as_u64().is_some_and(|ms| ms > 0)
    });
    until_aws_agrees(&world, &nodes, &nodes.ids()).await;
    assert_eq!(world.proxy.changes(&key(&world, stale))[sent..], [] as [&str; 0], "it changes nothing more");
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_for_half_a_minute_delays_a_move_and_nothing_else() {
    let (world, nodes) = three().await;
    let killed = nodes.owner_of(&nodes.ids(), "routes");
    let alive = nodes.others(&killed);
    world.proxy.fault(&[], Fault::Throttle, None);
    let began = Instant::now();
    nodes.node(&killed).kill();
    let next = nodes.owner_of(&alive, "routes");
    eventually(PATIENCE, "it says so", || reason(&nodes, &next, "routes").as_deref() == Some("throttled"));
    let asked = world.proxy.calls().len();
    while began.elapsed() < THROTTLED_FOR {
        for id in &alive {
            assert_eq!(psql(&nodes.node(id).url("postgres"), &["SELECT 1"]).output(), "1", "{id} serves");
        }
        assert_eq!(nodes.owner_of(&alive, "routes"), next, "nobody else is made the owner for it");
        assert_eq!(world.holder(Kind::RouteTable).await, Some(Nodes::index(&killed)), "nothing was changed");
    }
    // Four endpoints, each at most every two seconds once it goes on more slowly, and their checks.
    let calls = world.proxy.calls().len() - asked;
    assert!(calls < 200, "{calls} calls although they were refused");
    world.proxy.heal();
    until_aws_agrees(&world, &nodes, &alive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_replies_and_broken_connections_do_not_stop_a_move() {
    let (world, nodes) = three().await;
    let killed = nodes.owner_of(&nodes.ids(), "address");
    world.proxy.fault(&CHANGES, Fault::LoseReply, Some(8));
    world.proxy.fault(&CHANGES, Fault::Reset, Some(4));
    world.proxy.fault(&CHANGES, Fault::ServerError, Some(4));
    nodes.node(&killed).kill();
    until_aws_agrees(&world, &nodes, &nodes.others(&killed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_moved_by_hand_comes_back() {
    let (world, nodes) = three().await;
    for (kind, name) in KINDS {
        let owner = nodes.owner_of(&nodes.ids(), name);
        let other = nodes.others(&owner).swap_remove(0);
        world.give_to(kind, Nodes::index(&other)).await;
        until_held_by(&world, kind, &owner).await;
        assert_eq!(nodes.owner_of(&nodes.ids(), name), owner);
        eventually(PATIENCE, "the timeline tells of it", || {
            let events = nodes.node(&owner).admin("/events?after=0").unwrap();
            let events: Value = serde_json::from_str(&events.body).unwrap();
            let mut events = events["events"].as_array().unwrap().iter();
            // An owner whose lease has ended meanwhile takes the endpoint anew.
            let mends = [json!("drift"), json!("lease_missing")];
            events.any(|event| mends.contains(&event["reason"]) && event["subject"] == name)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_an_alarm_beforehand_and_said_when_it_matters() {
    let world = World::of(&["n1", "n2", "n3"]).await;
    let without = "node2";
    world.proxy.fault_of(&key(&world, without), &CHANGES, Fault::Deny, None);
    let nodes = before(&world);
    // Nothing is wrong yet, and what will be is known. A secondary address cannot be tried.
    for name in ["address", "name", "routes"] {
        eventually(REPAIRED_WITHIN, &format!("{without} warns of {name}"), || {
            let found: Value =
                serde_json::from_str(&nodes.node(without).admin("/doctor").unwrap().body).unwrap();
            found["findings"].as_array().unwrap().iter().any(|finding| {
                let text = finding["text"].as_str().unwrap_or_default();
                finding["subject"] == name && finding["verdict"] == "wrong" && text.contains("permission")
            })
        });
    }
    // By itself nothing goes where it could not be taken, once the leader has heard of that.
    order_move(&nodes, "node3", "address", "node1");
    until_held_by(&world, Kind::ElasticIp, "node1").await;
    let told = "the leader is told what this node could not take";
    eventually(PATIENCE, "it is told", || {
        nodes.node(without).log().lines().any(|line| line.contains(told) && line.contains("address"))
    });
    nodes.node("node1").kill();
    assert_eq!(nodes.owner_of(&nodes.others("node1"), "address"), "node3");
    until_held_by(&world, Kind::ElasticIp, "node3").await;
    nodes.node("node1").start_again();
    nodes.wait_until_ready(&nodes.ids());
    for (kind, name) in KINDS {
        order_move(&nodes, "node1", name, without);
        eventually(PATIENCE, &format!("it says why it has not {name}"), || {
            reason(&nodes, without, name).as_deref() == Some("not_permitted")
        });
        order_move(&nodes, "node1", name, "node3");
        until_held_by(&world, kind, "node3").await;
    }
}
