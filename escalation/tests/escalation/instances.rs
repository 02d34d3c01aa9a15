//! An instance is stopped only with the right to, and counts as stopped only when it is seen to be.

use crate::support::{Fault, World};
use aws_sdk_ec2::types::{InstanceStateName, InstanceType};
use komainu_escalation::aws::Instances;
use komainu_escalation::{Claim, Error, Intent, Owner, Permit, Reason};
use std::sync::Arc;
use tokio::sync::watch;

fn permit(allowed: bool) -> Permit {
    let claim = watch::channel(Claim { owner: Owner::This, epoch: 7 }).1;
    Permit::new("pg1".into(), Intent::Take, 7, claim, Arc::new(move |_: &str, _: u64| allowed))
}

async fn running(world: &World) -> String {
    let run = world.ec2.run_instances().image_id("ami-12345678").instance_type(InstanceType::T3Micro);
    let answer = run.min_count(1).max_count(1).send().await.unwrap();
    answer.instances()[0].instance_id().unwrap().to_owned()
}

async fn state(world: &World, instance: &str) -> InstanceStateName {
    let answer = world.ec2.describe_instances().instance_ids(instance).send().await.unwrap();
    answer.reservations()[0].instances()[0].state().unwrap().name().unwrap().clone()
}

fn instances(world: &World) -> Instances {
    Instances::new(world.nodes[0].cloud.aws.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_stopped_when_it_is_seen_to_be() {
    let world = World::new().await;
    let id = running(&world).await;
    let instances = instances(&world);
    world.proxy.fault(&["DescribeInstances"], Fault::Rewrite("<name>stopped<", "<name>stopping<"), Some(1));
    assert!(!instances.stop(&id, &permit(true)).await.unwrap(), "AWS is at it");
    assert!(instances.stop(&id, &permit(true)).await.unwrap());
    assert_eq!(state(&world, &id).await, InstanceStateName::Stopped);
    assert!(instances.stop(&id, &permit(true)).await.unwrap(), "once more does no harm");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_nothing_is_sent() {
    let world = World::new().await;
    let id = running(&world).await;
    let withheld = instances(&world).stop(&id, &permit(false)).await;
    assert!(matches!(withheld, Err(Error::Withdrawn(_))), "{withheld:?}");
    assert_eq!(world.proxy.changes(&world.nodes[0].access_key), [] as [&str; 0]);
    assert_eq!(state(&world, &id).await, InstanceStateName::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_made_up_for_by_the_look_and_a_refusal_is_told() {
    let world = World::new().await;
    let id = running(&world).await;
    let instances = instances(&world);
    for fault in [Fault::Throttle, Fault::Deny, Fault::Reset] {
        world.proxy.fault(&["StopInstances"], fault, Some(1));
        let error = instances.stop(&id, &permit(true)).await.unwrap_err();
        assert!(error.to_string().contains("StopInstances"), "{error}");
    }
    assert_eq!(state(&world, &id).await, InstanceStateName::Running);
    world.proxy.fault(&["StopInstances"], Fault::LoseReply, Some(1));
    assert!(instances.stop(&id, &permit(true)).await.unwrap());
    let error = instances.stop("i-00000000000000000", &permit(true)).await.unwrap_err();
    assert!(error.to_string().contains("i-00000000000000000"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permission_is_tried_without_stopping_anything() {
    let world = World::new().await;
    let id = running(&world).await;
    let instances = instances(&world);
    let findings = instances.probe(&id).await;
    assert!(findings.iter().all(|finding| !finding.is_wrong()), "{findings:?}");
    assert_eq!(state(&world, &id).await, InstanceStateName::Running);
    world.proxy.fault(&["StopInstances"], Fault::Deny, None);
    let findings = instances.probe(&id).await;
    let wrong: Vec<_> = findings.iter().filter(|finding| finding.is_wrong()).collect();
    assert_eq!(wrong.len(), 1, "{findings:?}");
    let missing = format!("{:?}", Reason::PermissionMissing);
    assert!(wrong[0].subject.contains("ec2:StopInstances") && format!("{wrong:?}").contains(&missing));
}
