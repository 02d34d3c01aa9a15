//! What every method that moves something in AWS must do, tried on each of them.

use crate::support::proxy::{CHANGES, Call};
use crate::support::world::until_holder;
use crate::support::{Fault, Kind, World, until};
use komainu_escalation::reconcile::pace::Pace;
use komainu_escalation::{Owner, Reason, State};
use std::time::{Duration, Instant};

/// What a former owner left on its way does no harm for longer: an owner that is exposed to it looks every 3 s, and one
/// that is not every 15 to 30 s.
const UNDONE_WITHIN: Duration = Duration::from_secs(10);

macro_rules! for_each_kind {
    ($($test:ident)*) => { $(
        mod $test {
            use super::*;

            #[tokio::test]
            async fn elastic_ip() {
                super::$test(Kind::ElasticIp).await;
            }

            #[tokio::test]
            async fn route53() {
                super::$test(Kind::Route53).await;
            }

            #[tokio::test]
            async fn route53_with_ipv6() {
                super::$test(Kind::Route53Ipv6).await;
            }

            #[tokio::test]
            async fn route_table() {
                super::$test(Kind::RouteTable).await;
            }

            #[tokio::test]
            async fn secondary_ip() {
                super::$test(Kind::SecondaryIp).await;
            }
        }
    )* };
}

for_each_kind! {
    it_is_taken_once
    it_is_taken_over
    only_what_is_still_mine_is_given_up
    a_lost_reply_does_no_harm
    throttling_is_outlasted
    errors_and_broken_connections_are_outlasted
    a_missing_permission_is_said
    drift_is_repaired
    without_a_lease_nothing_is_sent
    an_owner_keeps_it_while_the_api_is_down
    a_late_request_is_undone
}

async fn it_is_taken_once(kind: Kind) {
    let world = World::new().await;
    let first = world.contend(0, kind);
    let status = first.take(1).await;
    assert_eq!(world.holder(kind).await, Some(0));
    assert!(status.holding.all() && status.holding.of > 0, "{status:?}");
    assert!(status.phases.iter().any(|phase| phase.name == "read back"), "{status:?}");
    drop(first);

    let changes = world.proxy.changes(&world.nodes[0].access_key).len();
    let restarted = world.contend(0, kind);
    restarted.take(1).await;
    assert_eq!(world.proxy.changes(&world.nodes[0].access_key).len(), changes, "it was this node's already");
}

async fn it_is_taken_over(kind: Kind) {
    let world = World::new().await;
    let (first, second) = (world.contend(0, kind), world.contend(1, kind));
    first.take(1).await;
    second.release(1).await;

    second.claim(Owner::This, 2);
    first.claim(Owner::Other, 2);
    second.until_state(State::Held).await;
    first.until_state(State::Released).await;
    assert_eq!(world.holder(kind).await, Some(1));

    // And back, with the old owner gone without a word.
    drop(second);
    first.take(3).await;
    assert_eq!(world.holder(kind).await, Some(0));
}

async fn only_what_is_still_mine_is_given_up(kind: Kind) {
    let world = World::new().await;
    let first = world.contend(0, kind);
    first.take(1).await;
    first.release(2).await;
    let stays = matches!(kind, Kind::Route53 | Kind::Route53Ipv6 | Kind::RouteTable);
    assert_eq!(
        world.holder(kind).await,
        stays.then_some(0),
        "names and routes go on leading to a node that serves"
    );

    first.take(3).await;
    world.proxy.fault(&[], Fault::Reset, None);
    world.give_to(kind, 1).await;
    let before = world.proxy.changes(&world.nodes[0].access_key).len();
    first.claim(Owner::Other, 4);
    world.proxy.heal();
    first.until("released", |status| status.state == State::Released && status.epoch == 4).await;
    assert_eq!(world.holder(kind).await, Some(1));
    assert_eq!(world.proxy.changes(&world.nodes[0].access_key).len(), before, "it was the other's already");
}

async fn a_lost_reply_does_no_harm(kind: Kind) {
    let world = World::new().await;
    world.give_to(kind, 1).await;
    for operation in CHANGES {
        world.proxy.fault(&[operation], Fault::LoseReply, Some(1));
    }
    let first = world.contend(0, kind);
    first.take(1).await;
    assert_eq!(world.holder(kind).await, Some(0));
    assert!(world.proxy.calls().iter().any(|call| CHANGES.contains(&call.operation.as_str()) && call.done));
}

async fn throttling_is_outlasted(kind: Kind) {
    let world = World::new().await;
    let mut first = world.contend(0, kind);
    world.proxy.fault(&[], Fault::Throttle, None);
    first.claim(Owner::This, 1);
    first.event(Reason::Throttled).await;
    first.until_state(State::Failed).await;
    assert_eq!(world.holder(kind).await, None);
    world.proxy.heal();
    first.until_state(State::Held).await;
    assert_eq!(world.holder(kind).await, Some(0));
}

async fn errors_and_broken_connections_are_outlasted(kind: Kind) {
    let world = World::new().await;
    world.proxy.fault(&[], Fault::ServerError, Some(3));
    world.proxy.fault(&[], Fault::Reset, Some(3));
    let first = world.contend(0, kind);
    first.take(1).await;
    assert_eq!(world.holder(kind).await, Some(0));
}

async fn a_missing_permission_is_said(kind: Kind) {
    let world = World::new().await;
    world.proxy.fault(&CHANGES, Fault::Deny, None);
    let first = world.contend(0, kind);
    first.claim(Owner::This, 1);
    let status = first.until_state(State::Blocked).await;
    assert_eq!(status.reason, Reason::NotPermitted, "{status:?}");
    assert!(CHANGES.iter().any(|operation| status.detail.contains(operation)), "{status:?}");
    world.proxy.heal();
    first.until_state(State::Held).await;
}

async fn drift_is_repaired(kind: Kind) {
    let world = World::new().await;
    let mut first = world.contend(0, kind);
    first.take(1).await;
    first.event(Reason::Held).await;
    world.give_to(kind, 1).await;
    first.event(Reason::Drift).await;
    first.event(Reason::Held).await;
    assert_eq!(world.holder(kind).await, Some(0));
}

async fn without_a_lease_nothing_is_sent(kind: Kind) {
    let world = World::new().await;
    let first = world.contend(0, kind);
    first.lease(false);
    first.claim(Owner::This, 1);
    first.until("without a lease", |status| status.reason == Reason::LeaseMissing).await;

    let looks = world.proxy.calls().len();
    until("it looks all the same", async || world.proxy.calls().len() > looks + 3).await;
    assert!(world.proxy.changes(&world.nodes[0].access_key).is_empty());

    first.lease(true);
    first.until_state(State::Held).await;
    first.lease(false);
    first.until("without a lease", |status| status.reason == Reason::LeaseMissing).await;
    let changes = world.proxy.changes(&world.nodes[0].access_key);
    world.give_to(kind, 1).await;
    let looks = world.proxy.calls().len();
    until("it looked again", async || world.proxy.calls().len() > looks + 3).await;
    assert_eq!(world.proxy.changes(&world.nodes[0].access_key), changes);
    assert_eq!(world.holder(kind).await, Some(1));
}

async fn an_owner_keeps_it_while_the_api_is_down(kind: Kind) {
    let world = World::new().await;
    let first = world.contend(0, kind);
    first.take(1).await;
    world.proxy.fault(&[], Fault::Reset, None);
    let status = first.until("it notices", |status| status.reason != Reason::Held).await;
    assert_eq!(status.state, State::Held, "{status:?}");
    world.proxy.heal();
    first.until("it recovers", |status| status.reason == Reason::Held).await;
}

/// The old owner's request is on its way while the new one takes over.
async fn a_late_request_is_undone(kind: Kind) {
    let world = World::new().await;
    world.give_to(kind, 1).await;
    // At the pace of a real node: that is what keeps the promise.
    let pace = Pace::new(900, 3_000);
    let first = world.contend(0, kind);
    let second = world.contend_at(1, &world.endpoint(kind), pace);
    world.proxy.fault(&CHANGES, Fault::Hold, Some(4));
    first.claim(Owner::This, 1);
    first.until_state(State::Taking).await;
    until("its request has left", async || world.proxy.waiting() > 0).await;
    drop(first);
    world.proxy.heal();

    second.claim(Owner::This, 2);
    second.until_state(State::Held).await;
    // Until it looks only now and then, as an owner does for days.
    tokio::time::sleep(Duration::from_millis(pace.watch_for_ms)).await;
    let first_key = &world.nodes[0].access_key;
    let (let_go, before) = (Instant::now(), world.proxy.calls().len());
    world.proxy.let_go();
    until("the late request has arrived", async || world.proxy.waiting() == 0).await;
    assert!(!world.proxy.changes(first_key).is_empty());
    until_holder(&world, kind, Some(1)).await;
    let is_repair =
        |call: &Call| call.by != *first_key && call.accepted && CHANGES.contains(&&*call.operation);
    let repairs =
        || world.proxy.calls()[before..].iter().filter(|call| is_repair(call)).cloned().collect::<Vec<_>>();
    let refused = matches!(kind, Kind::Route53 | Kind::Route53Ipv6);
    if !refused {
        // What it does is there before its answer has come back.
        until("the repair is answered", async || !repairs().is_empty()).await;
    }
    let repairs = repairs();
    for repair in &repairs {
        let after = repair.at - let_go;
        assert!(after < UNDONE_WITHIN, "{repair:?} {after:?} after the late request");
    }
    assert_eq!(repairs.is_empty(), refused, "{repairs:?}");
    assert_eq!(world.holder(kind).await, Some(1));
    second.until_state(State::Held).await;
}
