//! Three nodes before a double of AWS: what the log says of the endpoints is what AWS has.

use super::support::aws::world::{FLOATING, FLOATING_V6, SECONDARY};
use super::support::aws::{Kind, World};
use super::support::*;

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
    Nodes::builder(3).config(&endpoints(world)).metadata(metadata).start(Cluster::shared())
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
    let mut since = world.proxy.changes(&world.nodes[Nodes::index(&killed)].access_key)[before..].to_vec();
    // Route 53 has no DryRun: a node that starts tries its permission by a change that must be refused.
    since.retain(|change| change != "ChangeResourceRecordSets");
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
