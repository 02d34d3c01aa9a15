//! Two nodes at once, and what refuses the one that is late.

use crate::support::world::{FLOATING, quick, until_holder};
use crate::support::{Fault, HERE, Kind, World, moto, until, within};
use aws_sdk_route53::types::RrType;
use komainu_aws_double::dns::Answer;
use komainu_aws_double::{Api, NameServer, RecordType, Zone};
use komainu_escalation::elastic_ip::{self, ElasticIp, ElasticIpRules, ElasticIpSettings};
use komainu_escalation::endpoint::Host;
use komainu_escalation::route_table::{self, RouteTable, RouteTableRules};
use komainu_escalation::route53::{self, Mark, Route53, Route53Rules};
use komainu_escalation::secondary_ip::{self, SecondaryIp, SecondaryIpRules};
use komainu_escalation::{
    Applied, Claim, Desired, Endpoint, EndpointSettings, Error, Fault as Fate, Intent, Method,
    MethodSettings, Outlet, Owner, Permit, Reason, Rules, State,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A permit that holds, whatever happens: what a node has that does not know yet that it is late.
fn permit(epoch: u64) -> Permit {
    permit_if(epoch, true)
}

fn permit_if(epoch: u64, allowed: bool) -> Permit {
    let (_, claim) = watch::channel(Claim { owner: Owner::This, epoch });
    Permit::new("app".into(), Intent::Take, epoch, claim, Arc::new(move |_: &str, _: u64| allowed))
}

fn elastic_ip(world: &World, node: usize) -> ElasticIp {
    let node = &world.nodes[node];
    let settings = ElasticIpSettings { allocation_id: world.allocation.clone() };
    let rules = ElasticIpRules { interface: node.interface.clone(), private_ip: node.private_ip };
    ElasticIp::new(node.cloud.aws.clone(), &settings, rules)
}

fn record(world: &World, node: usize) -> Route53 {
    let node = &world.nodes[node];
    let rules = Route53Rules { addresses: vec![node.private_ip.into()], ttl_s: 5 };
    Route53::new(node.cloud.aws.clone(), &world.record(), rules)
}

fn routes(world: &World, node: usize) -> RouteTable {
    let node = &world.nodes[node];
    let rules = RouteTableRules {
        interface: node.interface.clone(),
        tables: world.tables.clone(),
        destinations: vec![FLOATING.parse().unwrap()],
    };
    RouteTable::new(node.cloud.aws.clone(), rules)
}

fn secondary(world: &World, node: usize) -> SecondaryIp {
    let node = &world.nodes[node];
    let rules =
        SecondaryIpRules { interface: node.interface.clone(), address: crate::support::world::SECONDARY };
    SecondaryIp::new(node.cloud.aws.clone(), rules, node.cloud.identity.interface.subnet_id.clone())
}

async fn all_steps<M: Method>(method: &M, epoch: u64) -> Vec<<M::Rules as Rules>::Step> {
    let seen = method.inspect().await.unwrap();
    let plan = method.rules().plan(&seen, Desired::Hold { epoch });
    plan.stages.into_iter().flat_map(|stage| stage.steps).collect()
}

#[tokio::test]
async fn a_permit_that_ended_lets_nothing_out() {
    async fn withheld<M: Method>(world: &World, method: M) {
        let steps = all_steps(&method, 1).await;
        assert!(!steps.is_empty());
        for step in steps {
            let error = method.apply(&step, &permit_if(1, false)).await.unwrap_err();
            assert!(matches!(error, Error::Withdrawn(_)), "{error}");
        }
        assert!(world.proxy.changes(&world.nodes[0].access_key).is_empty());
    }
    let world = World::new().await;
    world.give_to(Kind::ElasticIp, 1).await;
    withheld(&world, elastic_ip(&world, 0)).await;
    withheld(&world, record(&world, 0)).await;
    withheld(&world, routes(&world, 0)).await;
    withheld(&world, secondary(&world, 0)).await;
}

fn one_wins(results: [Result<Applied, Error>; 2]) -> usize {
    let winners: Vec<usize> = (0..2).filter(|&index| results[index].is_ok()).collect();
    let loser = results.into_iter().find_map(Result::err).expect("one loses");
    assert_eq!((winners.len(), loser.fault()), (1, Fate::Conflict), "{loser}");
    winners[0]
}

#[tokio::test]
async fn of_two_that_race_for_an_address_one_wins() {
    for _ in 0..5 {
        let world = World::new().await;
        let (first, second) = (elastic_ip(&world, 0), elastic_ip(&world, 1));
        let step = elastic_ip::Step::Associate;
        let (one, two) = (permit(1), permit(2));
        let results = tokio::join!(first.apply(&step, &one), second.apply(&step, &two));
        let winner = one_wins([results.0, results.1]);
        assert_eq!(world.holder(Kind::ElasticIp).await, Some(winner));
    }
}

#[tokio::test]
async fn of_two_that_race_for_a_record_one_wins() {
    for present in [None, Some(7)] {
        let world = World::new().await;
        if let Some(epoch) = present {
            let setup = record(&world, 0);
            for step in all_steps(&setup, epoch).await {
                setup.apply(&step, &permit(epoch)).await.unwrap();
            }
        }
        let (first, second) = (record(&world, 0), record(&world, 1));
        let (steps, others) = (all_steps(&first, 8).await, all_steps(&second, 9).await);
        let (one, two) = (permit(8), permit(9));
        let results = tokio::join!(first.apply(&steps[0], &one), second.apply(&others[0], &two));
        let winner = one_wins([results.0, results.1]);
        assert_eq!(world.holder(Kind::Route53).await, Some(winner));
        let fence = world.record_value(RrType::Txt, &route53::fence_name(&world.name)).await;
        let mark = Mark { epoch: 8 + winner as u64, write: 1 + u64::from(present.is_some()) };
        assert_eq!(fence, Some(mark.text()), "fence and address are of one hand");
    }
}

#[tokio::test]
async fn a_late_swap_of_an_address_is_refused() {
    let world = World::new().await;
    let (old, new) = (elastic_ip(&world, 0), elastic_ip(&world, 1));
    world.give_to(Kind::ElasticIp, 0).await;
    let late = all_steps(&new, 1).await;
    assert_eq!(late.len(), 2);
    // Meanwhile everybody moved on: a new association, to which the old id means nothing.
    world.give_to(Kind::ElasticIp, 1).await;
    world.give_to(Kind::ElasticIp, 0).await;
    new.apply(&late[0], &permit(1)).await.unwrap();
    let error = new.apply(&late[1], &permit(1)).await.unwrap_err();
    assert_eq!(error.fault(), Fate::Conflict, "{error}");
    assert_eq!(world.holder(Kind::ElasticIp).await, Some(0));
    drop(old);
}

#[tokio::test]
async fn a_stale_epoch_is_refused_by_the_record() {
    let world = World::new().await;
    let old = record(&world, 0);
    let late = all_steps(&old, 3).await;
    let new = world.contend(1, Kind::Route53);
    new.take(4).await;
    let error = old.apply(&late[0], &permit(3)).await.unwrap_err();
    assert_eq!(error.fault(), Fate::Conflict, "{error}");
    assert_eq!(world.holder(Kind::Route53).await, Some(1));

    // And one that looks first sees that it is late.
    let contender = world.contend(0, Kind::Route53);
    contender.claim(Owner::This, 3);
    let status = contender.until_state(State::Blocked).await;
    assert_eq!(status.reason, Reason::Superseded, "{status:?}");
    assert_eq!(world.holder(Kind::Route53).await, Some(1));
}

#[tokio::test]
async fn both_believe_for_a_while_and_the_rightful_one_has_it_in_the_end() {
    for kind in [Kind::ElasticIp, Kind::Route53, Kind::Route53Ipv6, Kind::RouteTable, Kind::SecondaryIp] {
        let world = World::new().await;
        let (stale, rightful) = (world.contend(0, kind), world.contend(1, kind));
        stale.claim(Owner::This, 1);
        rightful.claim(Owner::This, 2);
        rightful.until_state(State::Held).await;
        stale.lease(false);
        rightful.until_state(State::Held).await;
        until_holder(&world, kind, Some(1)).await;
    }
}

#[tokio::test]
async fn a_route_is_created_or_replaced_whatever_was_seen() {
    let world = World::new().await;
    let (first, second) = (routes(&world, 0), routes(&world, 1));
    let step = |create| route_table::Step {
        table: world.tables[0].clone(),
        destination: FLOATING.parse().unwrap(),
        create,
    };
    first.apply(&step(false), &permit(1)).await.unwrap();
    second.apply(&step(true), &permit(2)).await.unwrap();
    let seen = second.inspect().await.unwrap();
    let table = seen.0.iter().find(|table| table.id == world.tables[0]).unwrap();
    let route = table.routes.iter().find(|route| !route.local).unwrap();
    assert_eq!(route.interface.as_ref(), Some(&world.nodes[1].interface));
    let all: Vec<String> = world
        .proxy
        .calls()
        .into_iter()
        .map(|call| call.operation)
        .filter(|name| name.ends_with("Route"))
        .collect();
    assert_eq!(all, ["ReplaceRoute", "CreateRoute", "CreateRoute", "ReplaceRoute"]);
}

#[tokio::test]
async fn the_tables_that_exist_are_moved_and_the_missing_one_is_said() {
    let world = World::new().await;
    let mut method = world.method(Kind::RouteTable);
    let MethodSettings::RouteTable(settings) = &mut method else { unreachable!() };
    settings.tables.push("rtb-00000000".into());
    let settings = EndpointSettings { name: "app".into(), method, pre: None, post: None };
    let contender = world.contend_with(0, &settings);
    contender.claim(Owner::This, 1);
    let status = contender.until_state(State::Blocked).await;
    assert_eq!((status.holding.mine, status.holding.of), (4, 6), "{status:?}");
    assert_eq!(status.reason, Reason::TargetMissing);
    assert_eq!(world.holder(Kind::RouteTable).await, Some(0));
}

#[tokio::test]
async fn a_black_hole_is_not_held() {
    let world = World::new().await;
    let mut contender = world.contend(0, Kind::RouteTable);
    contender.take(1).await;
    let active = "<state>active</state>";
    world.proxy.fault(&["DescribeRouteTables"], Fault::Rewrite(active, "<state>blackhole</state>"), None);
    contender.event(Reason::Drift).await;
    let status = contender.until_state(State::Blocked).await;
    assert_eq!(status.reason, Reason::RouteBlackholed, "{status:?}");
    world.proxy.heal();
    contender.until_state(State::Held).await;
}

/// One name server: what it answers, for any name asked.
async fn name_server(answers: watch::Receiver<IpAddr>) -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            let mut answer = question[..length].to_vec();
            answer[2] |= 0x80;
            answer[7] = 1;
            let IpAddr::V4(address) = *answers.borrow() else { unreachable!() };
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            answer.extend(address.octets());
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn it_is_told_when_dns_answers_the_new_address() {
    let world = World::new().await;
    let (answers, answered) = watch::channel(IpAddr::from([10, 9, 9, 9]));
    let mut settings = world.record();
    settings.resolver = name_server(answered).await;
    let method = MethodSettings::Route53(settings);
    let endpoint = EndpointSettings { name: "app".into(), method, pre: None, post: None };
    let contender = world.contend_with(0, &endpoint);
    let status = contender.take(1).await;
    assert!(!status.phases.iter().any(|phase| phase.name == "dns"), "it does not wait for that: {status:?}");
    answers.send_replace(world.nodes[0].private_ip.into());
    let told =
        |name| contender.until(name, move |status| status.phases.iter().any(|phase| phase.name == name));
    within("dns", told("dns")).await;
    told("in sync").await;
}

#[tokio::test]
async fn dns_is_asked_for_both_addresses_of_a_name_that_has_two() {
    let world = World::new().await;
    let zone = Zone { api: Api { moto: moto().address() }, id: world.zone.clone() };
    let names = NameServer::start(HERE, zone.clone()).await.unwrap();
    let mut endpoint = world.endpoint(Kind::Route53Ipv6);
    let MethodSettings::Route53(settings) = &mut endpoint.method else { unreachable!() };
    settings.resolver = names.address;
    let contender = world.contend_with(0, &endpoint);
    let status = contender.take(1).await;
    assert_eq!((status.holding.mine, status.holding.of), (2, 2), "{status:?}");
    contender.until("dns", |status| status.phases.iter().any(|phase| phase.name == "dns")).await;
    let node = &world.nodes[0];
    for (kind, address) in
        [(RecordType::A, IpAddr::from(node.private_ip)), (RecordType::Aaaa, node.ipv6.into())]
    {
        assert_eq!(zone.ask(&world.name, kind).await.unwrap(), Some(Answer { address, ttl_s: 5 }));
    }
    // One of the two is not enough.
    world.change_record(RrType::Aaaa, &world.name, "2001:db8::bad").await;
    until_holder(&world, Kind::Route53Ipv6, None).await;
    until_holder(&world, Kind::Route53Ipv6, Some(0)).await;
}

#[tokio::test]
async fn a_node_without_the_address_that_the_name_should_have_does_not_begin() {
    let world = World::new().await;
    let node = &world.nodes[0];
    let mut cloud = node.cloud.clone();
    cloud.identity.interface.ipv6 = None;
    let host = Host { node: node.id.into(), cloud: Some(cloud), pace: quick() };
    let (_claim, claim) = watch::channel(Claim::UNKNOWN);
    let (events, _events) = mpsc::channel(1);
    let outlet = Outlet { claim, authority: Arc::new(|_: &str, _: u64| true), events };
    let refused = Endpoint::start(&world.endpoint(Kind::Route53Ipv6), &host, outlet);
    let error = refused.err().expect("it has no IPv6 address").to_string();
    assert!(error.contains(&node.interface) && error.contains("IPv6"), "{error}");
}

#[tokio::test]
async fn the_gap_without_an_owner_is_measured() {
    let world = World::new().await;
    world.give_to(Kind::ElasticIp, 1).await;
    let contender = world.contend(0, Kind::ElasticIp);
    contender.release(0).await;
    let status = contender.take(1).await;
    let names: Vec<&str> = status.phases.iter().map(|phase| phase.name).collect();
    // No look came first: it acted on what it had seen before.
    assert_eq!(names, ["disassociate", "associate", "unassociated", "read back"], "{status:?}");
    let operations = world.proxy.changes(&world.nodes[0].access_key);
    assert_eq!(operations, ["DisassociateAddress", "AssociateAddress"]);
    until("nothing else happens", async || contender.status().state == State::Held).await;
}

#[tokio::test]
async fn a_secondary_address_that_is_a_primary_one_is_left_alone() {
    let world = World::new().await;
    let rules =
        SecondaryIpRules { interface: world.nodes[0].interface.clone(), address: world.nodes[1].private_ip };
    let node = &world.nodes[0];
    let subnet = node.cloud.identity.interface.subnet_id.clone();
    let method = SecondaryIp::new(node.cloud.aws.clone(), rules, subnet);
    let seen = method.inspect().await.unwrap();
    assert_eq!(
        seen,
        secondary_ip::Holder { interface: Some(world.nodes[1].interface.clone()), primary: true }
    );
    assert!(method.rules().plan(&seen, Desired::Hold { epoch: 1 }).stages.is_empty());
}

/// Longer than any test waits.
const FOR_EVER: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_look_that_hangs_does_not_keep_a_new_owner_waiting() {
    let world = World::new().await;
    let contender = world.contend(0, Kind::ElasticIp);
    contender.release(1).await;
    world.proxy.fault(&["DescribeAddresses"], Fault::Delay(FOR_EVER), None);
    until("a look hangs", async || world.proxy.waiting() > 0).await;
    contender.claim(Owner::This, 2);
    until_holder(&world, Kind::ElasticIp, Some(0)).await;
}

#[tokio::test]
async fn a_change_that_hangs_is_given_up() {
    let world = World::new().await;
    let mut contender = world.contend(0, Kind::ElasticIp);
    world.proxy.fault(&["AssociateAddress"], Fault::Delay(FOR_EVER), Some(1));
    contender.claim(Owner::This, 1);
    contender.event(Reason::OutcomeUnknown).await;
    contender.until_state(State::Held).await;
    assert_eq!(world.holder(Kind::ElasticIp).await, Some(0));
}

#[tokio::test]
async fn what_is_never_given_up_is_released_while_the_api_is_down() {
    let world = World::new().await;
    for kind in [Kind::Route53, Kind::RouteTable] {
        let contender = world.contend(0, kind);
        contender.take(1).await;
        world.proxy.fault(&[], Fault::Reset, None);
        contender.release(2).await;
        world.proxy.heal();
    }
}
