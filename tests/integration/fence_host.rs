//! The instance of a lost primary is stopped before another server is promoted, where the configuration wants it.

use aws_sdk_ec2::types::{InstanceStateName, InstanceType};
use serde_json::Value;

use super::failover::one_at_a_time;
use super::support::aws::{Fault, World};
use super::support::*;

async fn instances(world: &World, count: i32) -> Vec<String> {
    let run = world.ec2.run_instances().image_id("ami-12345678").instance_type(InstanceType::T3Micro);
    let answer = run.min_count(count).max_count(count).send().await.unwrap();
    answer.instances().iter().map(|instance| instance.instance_id().unwrap().to_owned()).collect()
}

async fn state(world: &World, instance: &str) -> InstanceStateName {
    let answer = world.ec2.describe_instances().instance_ids(instance).send().await.unwrap();
    answer.reservations()[0].instances()[0].state().unwrap().name().unwrap().clone()
}

fn reasons(failover: &Failover, node: &str) -> Vec<String> {
    let events = failover.nodes.node(node).admin("/events?after=0").unwrap();
    let events: Value = serde_json::from_str(&events.body).unwrap();
    events["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| Some(event["reason"].as_str()?.to_owned()))
        .collect()
}

#[test]
fn nobody_is_promoted_before_the_host_of_a_primary_that_hangs_has_stopped() {
    let _alone = one_at_a_time();
    tokio::runtime::Runtime::new().unwrap().block_on(with_require());
}

async fn with_require() {
    let world = World::of(&["n1", "n2", "n3"]).await;
    let ids = instances(&world, 3).await;
    let metadata = world.nodes.iter().map(|node| node.imds.url()).collect();
    let failover = Failover::builder()
        .failover("fence_host = \"require\"")
        .on_instances(&ids, metadata)
        .config(&format!("[aws]\nendpoint_url = \"{}\"\n", world.proxy.url()))
        .start();
    let (primary, epoch) = failover.primary();
    let index = failover.cluster.servers().all().iter().position(|server| server.id() == primary).unwrap();
    let node = failover.nodes.ids()[0].clone();

    world.proxy.fault(&["StopInstances"], Fault::Throttle, None);
    failover.server(&primary).freeze();
    failover.agent(&primary).freeze();
    eventually(PATIENCE, "it stands still and says why", || {
        failover.nodes.status(&node)["failover"]["standstill"] == "host_not_stopped"
    });
    eventually(PATIENCE, "what failed is told", || {
        reasons(&failover, &node).contains(&"action_failed".into())
    });
    assert!(failover.nodes.status(&node)["epoch"].as_u64() <= Some(epoch), "nobody is named");
    assert_eq!(state(&world, &ids[index]).await, InstanceStateName::Running);

    world.proxy.heal();
    let (next, _) = failover.primary_above(epoch, &failover.nodes.ids());
    assert_ne!(next, primary);
    for (n, id) in ids.iter().enumerate() {
        let is_stopped = state(&world, id).await == InstanceStateName::Stopped;
        assert_eq!(is_stopped, n == index, "{id}");
    }
    let told = reasons(&failover, &node);
    let at = |reason: &str| told.iter().position(|known| known == reason);
    assert!(at("host_stopped").is_some() && at("host_stopped") < at("promoted"), "{told:?}");

    // As when somebody starts the instance: all is new there, and its agent brings the server back.
    failover.server(&primary).kill();
    failover.agent(&primary).kill();
    failover.agent(&primary).start().unwrap();
    failover.wait_until_whole();
    assert_eq!(failover.primary().0, next);
}
