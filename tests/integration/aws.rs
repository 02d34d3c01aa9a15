//! Three nodes before a double of AWS: what the log says of the endpoints is what AWS has.

use super::support::aws::world::{FLOATING, FLOATING_V6, SECONDARY};
use super::support::aws::{Kind, World};
use super::support::*;
use aws_sdk_route53::types::RrType;

pub const KINDS: [(Kind, &str); 4] = [
    (Kind::ElasticIp, "address"),
    (Kind::Route53, "name"),
    (Kind::RouteTable, "routes"),
    (Kind::SecondaryIp, "secondary"),
];

/// One endpoint of each method, at once.
pub fn endpoints(world: &World) -> String {
    let tables = world.tables.iter().map(|table| format!("\"{table}\"")).collect::<Vec<_>>().join(", ");
    let mut config = format!("[aws]\nendpoint_url = \"{}\"\n", world.proxy.url());
    let methods = [
        format!("elastic-ip = {{ allocation_id = \"{}\" }}", world.allocation),
        format!(
            "route53 = {{ hosted_zone_id = \"{}\", name = \"{}\", resolver = \"127.0.0.1:9\" }}",
            world.zone, world.name
        ),
        format!(
            "route-table = {{ tables = [{tables}], destinations = [\"{FLOATING}\", \"{FLOATING_V6}\"] }}"
        ),
        format!("secondary-ip = {{ address = \"{SECONDARY}\" }}"),
    ];
    for ((_, name), method) in KINDS.iter().zip(methods) {
        config += &format!("[[endpoint]]\nname = \"{name}\"\nmethod.{method}\n");
    }
    config
}

/// Waits until AWS has each endpoint where these nodes say it is.
pub async fn until_aws_agrees(world: &World, nodes: &Nodes, alive: &[String]) {
    for (kind, name) in KINDS {
        let owner = nodes.owner_of(alive, name);
        let index = Nodes::index(&owner);
        let what = format!("{name} is at {owner}");
        eventually_async(PATIENCE, &what, async || world.holder(kind).await == Some(index)).await;
    }
}

/// Three nodes with one endpoint of each method, each where its owner wants it.
pub async fn three() -> (World, Nodes) {
    let world = World::of(&["n1", "n2", "n3"]).await;
    let nodes = before(&world);
    until_aws_agrees(&world, &nodes, &nodes.ids()).await;
    (world, nodes)
}

/// The nodes of a world, ready.
pub fn before(world: &World) -> Nodes {
    let metadata = world.nodes.iter().map(|node| format!("http://{}", node.imds.address)).collect();
    Nodes::builder(3).patient().config(&endpoints(world)).metadata(metadata).start(Cluster::shared())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_follows_the_owner_when_nodes_die_and_come_back() {
    let (world, nodes) = three().await;
    let killed = nodes.owner_of(&nodes.ids(), "address");
    nodes.node(&killed).kill();
    let alive = nodes.others(&killed);
    until_aws_agrees(&world, &nodes, &alive).await;
    let changes = |id: &str| world.proxy.changes(&world.nodes[Nodes::index(id)].access_key).len();
    let before = changes(&killed);

    nodes.node(&killed).start_again();
    nodes.wait_until_ready(std::slice::from_ref(&killed));
    until_aws_agrees(&world, &nodes, &nodes.ids()).await;
    assert_ne!(nodes.owner(&killed, "address").as_deref(), Some(&*killed));
    let since = world.proxy.changes(&world.nodes[Nodes::index(&killed)].access_key)[before..].to_vec();
    assert_eq!(since, Vec::<String>::new(), "what is another's now is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owner_takes_nothing_back_when_it_goes_on() {
    let (world, nodes) = three().await;
    let frozen = nodes.owner_of(&nodes.ids(), "routes");
    nodes.freeze(&frozen);
    until_aws_agrees(&world, &nodes, &nodes.others(&frozen)).await;
    let changes = || world.proxy.changes(&world.nodes[Nodes::index(&frozen)].access_key);
    let before = changes().len();
    nodes.go_on(&frozen);
    eventually(PATIENCE, "it has its lease again", || {
        nodes.status(&frozen)["lease_remaining_ms"].as_u64().is_some_and(|ms| ms > 0)
    });
    until_aws_agrees(&world, &nodes, &nodes.ids()).await;
    let since = changes()[before..].to_vec();
    assert_eq!(since, Vec::<String>::new(), "what is another's now is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_hands_over_to_one_that_could_take_the_endpoint() {
    let world = World::of(&["n1", "n2", "n3"]).await;
    let mut metadata: Vec<_> =
        world.nodes.iter().map(|node| format!("http://{}", node.imds.address)).collect();
    metadata[0] = "http://127.0.0.1:9".to_owned();
    let config = format!(
        "[aws]\nendpoint_url = \"{}\"\n[[endpoint]]\nname = \"address\"\n\
         method.elastic-ip = {{ allocation_id = \"{}\" }}\n",
        world.proxy.url(),
        world.allocation
    );
    let nodes = Nodes::builder(3).config(&config).metadata(metadata).start(Cluster::shared());
    eventually(PATIENCE, "it could not take the endpoint", || {
        nodes.all[0].log().contains("the leader is told what this node could not take")
    });
    // A fence passes only when each node has asked for its lease, and said then what it could not take.
    let before = nodes.owner_of(&nodes.ids(), "address");
    let (stopped, next) = if before == "node2" { ("node3", "node2") } else { ("node2", "node3") };
    let order = serde_json::json!({ "endpoint": "address", "to": stopped, "cause": "operator:test" });
    assert_eq!(nodes.post(stopped, "/endpoint/move", &order).status, 200);
    eventually(PATIENCE, "it has moved", || nodes.owner_of(&nodes.ids(), "address") == stopped);

    nodes.node(stopped).signal(rustix::process::Signal::TERM);
    assert!(nodes.node(stopped).wait(PATIENCE).success());
    assert_eq!(nodes.owner_of(&nodes.others(stopped), "address"), next);
    let holds = async || world.holder(Kind::ElasticIp).await == Some(Nodes::index(next));
    eventually_async(PATIENCE, "it has taken the endpoint", holds).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_address_it_needs_leaves_aws_alone_until_it_has_one() {
    const PUBLIC: &str = "198.51.100.7";
    let world = World::of(&["n1"]).await;
    let imds = &world.nodes[0].imds;
    let config = format!(
        "[aws]\nendpoint_url = \"{}\"\n[[endpoint]]\nname = \"name\"\n\
         method.route53 = {{ hosted_zone_id = \"{}\", name = \"{}\", address = \"public\", resolver = \"127.0.0.1:9\" }}\n",
        world.proxy.url(),
        world.zone,
        world.name
    );
    let metadata = vec![format!("http://{}", imds.address)];
    let nodes = Nodes::builder(1).config(&config).metadata(metadata).start(Cluster::shared());
    eventually(PATIENCE, "it says what it lacks", || {
        nodes.status("node1")["endpoints"].to_string().contains("has no public IPv4 address")
    });
    let asked = || imds.asked().iter().filter(|page| page.ends_with("/public-ipv4s")).count();
    let before = asked();
    eventually(PATIENCE, "it asks again who it is, and once more", || asked() >= before + 2);
    let calls = world.proxy.calls();
    assert!(!calls.iter().any(|call| call.by == world.nodes[0].access_key), "{calls:?}");

    imds.give_public(PUBLIC);
    let leads_here = async || world.record_value(RrType::A, &world.name).await.as_deref() == Some(PUBLIC);
    eventually_async(PATIENCE, "it has taken the name", leads_here).await;
}
