//! What the API of RDS says of clusters, and that its silence changes nothing of what is known.

use crate::support::{Fault, World, moto, until, within};
use komainu_aws_double::Api;
use komainu_aws_double::api::REGION;
use komainu_escalation::finding::Verdict;
use komainu_escalation::rds::cluster::{AURORA, RDS};
use komainu_escalation::rds::{Cluster, ClusterWatch, Rds};
use komainu_escalation::{AwsSettings, Fault as Whose, Reason};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const OFTEN: Duration = Duration::from_millis(200);

fn settings(world: &World) -> AwsSettings {
    AwsSettings {
        region: Some(REGION.to_owned()),
        endpoint_url: Some(world.proxy.url()),
        metadata_endpoint: Some(world.nodes[0].imds.url()),
        ..AwsSettings::default()
    }
}

fn name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("shop-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst))
}

fn api() -> Api {
    Api { moto: moto().address() }
}

/// With these instances, the first of which writes.
async fn aurora(instances: &[&str]) -> String {
    let id = name();
    let create = [
        ("DBClusterIdentifier", &*id),
        ("Engine", "aurora-postgresql"),
        ("MasterUsername", "postgres"),
        ("MasterUserPassword", "the%20password"),
    ];
    api().rds("CreateDBCluster", &create).await.unwrap();
    for instance in instances {
        add(&id, instance).await;
    }
    id
}

async fn add(cluster: &str, instance: &str) {
    let create = [
        ("DBInstanceIdentifier", &*format!("{cluster}-{instance}")),
        ("DBClusterIdentifier", cluster),
        ("Engine", "aurora-postgresql"),
        ("DBInstanceClass", "db.r6g.large"),
    ];
    api().rds("CreateDBInstance", &create).await.unwrap();
}

/// Of no cluster.
async fn instance(multi_az: &str) -> String {
    let id = name();
    let create = [
        ("DBInstanceIdentifier", &*id),
        ("Engine", "postgres"),
        ("DBInstanceClass", "db.m6g.large"),
        ("AllocatedStorage", "20"),
        ("MultiAZ", multi_az),
        ("MasterUsername", "postgres"),
        ("MasterUserPassword", "the%20password"),
    ];
    api().rds("CreateDBInstance", &create).await.unwrap();
    id
}

fn writers(cluster: &Cluster) -> Vec<&str> {
    cluster.instances.iter().filter(|instance| instance.is_writer).map(|instance| &*instance.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_aurora_is_its_instances_and_their_own_names() {
    let world = World::of(&["n1"]).await;
    let (id, _other) = (aurora(&["a", "b", "c"]).await, aurora(&["x"]).await);
    let rds = Rds::connect(&settings(&world)).await;
    let cluster = rds.cluster(&id).await.unwrap();
    assert!(cluster.is_aurora() && cluster.status == "available", "{cluster:?}");
    let ids: Vec<_> = cluster.reachable().map(|instance| instance.id.clone()).collect();
    assert_eq!(
        ids,
        ["a", "b", "c"].map(|instance| format!("{id}-{instance}")),
        "the other's are not among them"
    );
    assert_eq!(writers(&cluster), [format!("{id}-a")]);
    for instance in cluster.reachable() {
        let host = instance.host.as_deref().unwrap();
        assert!(host.starts_with(&format!("{}.", instance.id)) && instance.port > 0, "{instance:?}");
        assert!(instance.zone.as_deref().is_some_and(|zone| zone.starts_with(REGION)), "{instance:?}");
    }

    let fail_over = [("DBClusterIdentifier", &*id), ("TargetDBInstanceIdentifier", &*format!("{id}-b"))];
    api().rds("FailoverDBCluster", &fail_over).await.unwrap();
    assert_eq!(writers(&rds.cluster(&id).await.unwrap()), [format!("{id}-b")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_rds_comes_with_its_read_replicas() {
    let world = World::of(&["n1"]).await;
    let id = instance("false").await;
    let replica = [("DBInstanceIdentifier", &*format!("{id}-r")), ("SourceDBInstanceIdentifier", &*id)];
    api().rds("CreateDBInstanceReadReplica", &replica).await.unwrap();
    let cluster = Rds::connect(&settings(&world)).await.cluster(&id).await.unwrap();
    assert!(!cluster.is_aurora());
    assert_eq!(cluster.instances.len(), 2, "{cluster:?}");
    assert_eq!(writers(&cluster), [&*id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_is_ordered_is_of_a_cluster_or_of_an_instance_that_has_a_standby() {
    let world = World::of(&["n1"]).await;
    let id = aurora(&["a", "b"]).await;
    let rds = Rds::connect(&settings(&world)).await;
    assert_eq!(rds.fail_over(&id).await.unwrap(), "FailoverDBCluster");
    assert_eq!(writers(&rds.cluster(&id).await.unwrap()), [format!("{id}-b")]);

    for (multi_az, expected) in [("false", None), ("true", Some("RebootDBInstance"))] {
        let id = instance(multi_az).await;
        let asked = rds.fail_over(&id).await;
        assert_eq!(asked.as_ref().ok(), expected.as_ref(), "{multi_az}: {asked:?}");
        if let Err(error) = asked {
            assert!(error.to_string().contains("no standby in another zone"), "{error}");
        }
    }
    let missing = rds.fail_over("nobody").await.unwrap_err();
    assert_eq!(missing.fault, Whose::Missing, "{missing}");
    let reboots = world.proxy.calls().into_iter().filter(|call| call.operation == "RebootDBInstance").count();
    assert_eq!(reboots, 1, "an outage that is no failover is not asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_outlives_the_api_and_changes_are_seen_when_it_is_back() {
    let world = World::of(&["n1"]).await;
    let id = aurora(&["a"]).await;
    let watch = ClusterWatch::new(&*id, AURORA);
    let (keeper, settings_of) = (watch.clone(), settings(&world));
    tokio::spawn(async move { keeper.keep(&settings_of, OFTEN).await });
    let (first, _) = within("it is described", watch.later_than(None)).await;
    assert_eq!(first.instances.len(), 1);
    for (fault, expected) in [
        (Fault::Throttle, Reason::Throttled),
        (Fault::ServerError, Reason::OutcomeUnknown),
        (Fault::Deny, Reason::NotPermitted),
        (Fault::Reset, Reason::OutcomeUnknown),
    ] {
        let what = format!("{fault:?} is told");
        world.proxy.fault(&["DescribeDBClusters", "DescribeDBInstances"], fault, None);
        until(
            &what,
            async || matches!(watch.finding().verdict, Verdict::Wrong { reason, .. } if reason == expected),
        )
        .await;
        assert_eq!(watch.cluster().as_deref(), Some(&*first));
        world.proxy.heal();
        until("it is described again", async || watch.finding().verdict == Verdict::Fine).await;
    }
    world.proxy.fault(&["DescribeDBInstances"], Fault::Throttle, None);
    add(&id, "b").await;
    until("it is throttled", async || watch.finding().is_wrong()).await;
    // Whoever asks now gets what was known before.
    let (known, described_at) = within("it is known", watch.later_than(None)).await;
    assert_eq!(known, first);
    assert_eq!(watch.cluster().as_deref(), Some(&*first), "half an answer is none");
    world.proxy.heal();
    let (second, _) = within("the new one is there", watch.later_than(Some(described_at))).await;
    assert_eq!(second.instances.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_another_engine_is_told_of_and_not_taken() {
    let world = World::of(&["n1"]).await;
    let watch = ClusterWatch::new(aurora(&["a"]).await, RDS);
    let (keeper, settings_of) = (watch.clone(), settings(&world));
    tokio::spawn(async move { keeper.keep(&settings_of, OFTEN).await });
    until("it is told", async || {
        matches!(watch.finding().verdict, Verdict::Wrong { reason: Reason::OtherEngine, .. })
    })
    .await;
    assert_eq!(watch.cluster(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_there_is_an_error_with_its_name() {
    let world = World::of(&["n1"]).await;
    let error = Rds::connect(&settings(&world)).await.cluster("nobody").await.unwrap_err();
    assert_eq!(error.fault, Whose::Missing);
    assert!(error.to_string().contains("nobody"), "{error}");
}
