//! What is found out before it is needed: permissions and the state of things.

use crate::support::{Fault, Kind, World};
use aws_sdk_route53::types::RrType;
use komainu_escalation::aws::{checks, permissions, quotas};
use komainu_escalation::finding::{Finding, Verdict};
use komainu_escalation::route_table::RouteTableSettings;
use komainu_escalation::secondary_ip::SecondaryIpSettings;
use komainu_escalation::{MethodSettings, Reason, preflight};
use tokio::sync::watch;

async fn probe(world: &World, kind: Kind) -> Vec<Finding> {
    let cloud = &world.nodes[0].cloud;
    permissions::probe(&cloud.aws, &cloud.identity, &world.method(kind)).await
}

#[tokio::test]
async fn a_permission_is_probed_without_changing_anything() {
    let world = World::new().await;
    for kind in [Kind::ElasticIp, Kind::Route53, Kind::RouteTable, Kind::SecondaryIp] {
        world.give_to(kind, 1).await;
        let findings = probe(&world, kind).await;
        assert!(findings.len() >= 2, "{findings:?}");
        let unknown = findings.iter().filter(|finding| finding.verdict != Verdict::Fine).count();
        // AWS has no DryRun for private addresses.
        assert_eq!(unknown, usize::from(kind == Kind::SecondaryIp), "{findings:?}");
        assert_eq!(world.holder(kind).await, Some(1));
    }
    let by = &world.nodes[0].access_key;
    assert_eq!(world.proxy.changes(by), [] as [&str; 0]);
}

#[tokio::test]
async fn a_missing_permission_names_the_action() {
    let world = World::new().await;
    for (kind, action) in [
        (Kind::ElasticIp, "ec2:AssociateAddress"),
        (Kind::RouteTable, "ec2:ReplaceRoute"),
        (Kind::Route53, "route53:ChangeResourceRecordSets"),
    ] {
        world.give_to(kind, 1).await;
        let operation = action.split_once(':').unwrap().1;
        world.proxy.fault(&[operation], Fault::Deny, None);
        let findings = probe(&world, kind).await;
        world.proxy.heal();
        let wrong: Vec<&Finding> = findings.iter().filter(|finding| finding.is_wrong()).collect();
        assert!(!wrong.is_empty(), "{findings:?}");
        for finding in wrong {
            assert!(finding.subject.starts_with(action), "{finding:?}");
            assert!(matches!(finding.verdict, Verdict::Wrong { reason: Reason::PermissionMissing, .. }));
        }
    }
}

fn reasons(findings: &[Finding]) -> Vec<Reason> {
    findings
        .iter()
        .filter_map(|finding| match finding.verdict {
            Verdict::Wrong { reason, .. } => Some(reason),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn what_a_route_needs_is_looked_at() {
    let world = World::new().await;
    let node = &world.nodes[0];
    let check = async |tables: Vec<String>, destination: &str| {
        let settings = RouteTableSettings { tables, destinations: vec![destination.parse().unwrap()] };
        let method = MethodSettings::RouteTable(settings);
        reasons(&checks::check(&node.cloud.aws, &node.cloud.identity, &method).await)
    };
    let on = check(world.tables.clone(), "127.0.0.1/32").await;
    assert_eq!(on, [Reason::SourceDestCheckOn]);
    world
        .ec2
        .modify_network_interface_attribute()
        .network_interface_id(&node.interface)
        .source_dest_check(aws_sdk_ec2::types::AttributeBooleanValue::builder().value(false).build())
        .send()
        .await
        .unwrap();
    assert_eq!(check(world.tables.clone(), "127.0.0.1/32").await, []);
    assert_eq!(check(world.tables.clone(), "192.0.2.99/32").await, [Reason::AddressNotOnHost]);
    let inside = check(world.tables.clone(), "10.1.0.77/32").await;
    assert_eq!(inside, [Reason::AddressInsideVpc, Reason::AddressInsideVpc, Reason::AddressNotOnHost]);
    assert_eq!(check(vec!["rtb-00000000".into()], "127.0.0.1/32").await, [Reason::TargetMissing]);
}

#[tokio::test]
async fn what_the_others_need_is_looked_at() {
    let world = World::new().await;
    let cloud = &world.nodes[0].cloud;
    let check =
        async |method: &MethodSettings| reasons(&checks::check(&cloud.aws, &cloud.identity, method).await);
    let secondary = |address: &str| {
        MethodSettings::SecondaryIp(SecondaryIpSettings { address: address.parse().unwrap() })
    };
    assert_eq!(check(&secondary("10.1.0.200")).await, [Reason::AddressNotOnHost]);
    assert_eq!(check(&secondary("127.0.0.1")).await, [Reason::OtherSubnet]);
    assert_eq!(check(&world.method(Kind::ElasticIp)).await, []);
    assert_eq!(check(&world.method(Kind::Route53)).await, []);
    let mut missing = world.record();
    missing.hosted_zone_id = "Z0000000".into();
    assert_eq!(check(&MethodSettings::Route53(missing)).await, [Reason::TargetMissing]);
}

#[tokio::test]
async fn it_is_looked_at_as_long_as_somebody_listens() {
    let world = World::new().await;
    let (sender, mut findings) = watch::channel(Vec::new());
    let cloud = world.nodes[0].cloud.clone();
    let method = world.method(Kind::ElasticIp);
    let watching = tokio::spawn(preflight::watch(cloud, "app".into(), method, sender));
    crate::support::within("findings", findings.changed()).await.unwrap();
    assert!(findings.borrow().len() >= 4);
    drop(findings);
    crate::support::within("its end", watching).await.unwrap();
}

#[tokio::test]
async fn what_could_not_be_found_out_is_looked_at_again_soon() {
    let world = World::new().await;
    let (sender, mut findings) = watch::channel(Vec::new());
    let cloud = world.nodes[0].cloud.clone();
    world.proxy.fault(&["AssociateAddress"], Fault::ServerError, None);
    let watching = tokio::spawn(preflight::watch(cloud, "app".into(), world.method(Kind::ElasticIp), sender));
    crate::support::within("findings", findings.changed()).await.unwrap();
    assert!(findings.borrow_and_update().iter().any(Finding::is_unknown), "{findings:?}");
    world.proxy.heal();
    crate::support::within("another look", findings.changed()).await.unwrap();
    assert!(findings.borrow().iter().all(|finding| finding.verdict == Verdict::Fine), "{findings:?}");
    watching.abort();
}

async fn quotas(world: &World, kind: Kind) -> Vec<Finding> {
    quotas::check(&world.nodes[0].cloud.aws, &world.method(kind)).await
}

#[tokio::test]
async fn a_quota_counts_when_a_move_would_make_something() {
    let world = World::new().await;
    for (kind, operation, full) in [
        (Kind::RouteTable, "GetServiceQuota", Fault::Rewrite("50", "1")),
        (Kind::Route53, "GetHostedZoneLimit", Fault::Rewrite("10000", "3")),
    ] {
        let fine = quotas(&world, kind).await;
        assert!(fine.iter().all(|found| found.verdict == Verdict::Fine), "{fine:?}");
        // Nothing of the endpoint is there yet, so a move would have to make it.
        world.proxy.fault(&[operation], full.clone(), None);
        let found = quotas(&world, kind).await;
        assert!(found.iter().any(Finding::is_wrong), "{found:?}");
        let wrong: Vec<_> = found.into_iter().filter(Finding::is_wrong).collect();
        assert!(reasons(&wrong).iter().all(|reason| *reason == Reason::QuotaReached), "{wrong:?}");
        // What is there is changed, however full the account is.
        world.give_to(kind, 1).await;
        if kind == Kind::Route53 {
            let fence = format!("_komainu.{}", world.name);
            world.change_record(RrType::Txt, &fence, "\"epoch=1 write=1\"").await;
        }
        assert_eq!(reasons(&quotas(&world, kind).await), []);
        world.proxy.heal();
    }
    let addresses = quotas(&world, Kind::ElasticIp).await;
    assert_eq!(addresses.len(), 1);
    assert_eq!(addresses[0].verdict, Verdict::Fine);
    assert!(addresses[0].subject.contains(" of 5 are used"), "{addresses:?}");
}

#[tokio::test]
async fn a_quota_that_may_not_be_asked_for_is_no_failure() {
    let world = World::new().await;
    for (kind, action) in [
        (Kind::ElasticIp, "ec2:DescribeAccountAttributes"),
        (Kind::RouteTable, "servicequotas:GetServiceQuota"),
        (Kind::Route53, "route53:GetHostedZoneLimit"),
    ] {
        world.proxy.fault(&[action.split_once(':').unwrap().1], Fault::Deny, None);
        let findings = quotas(&world, kind).await;
        assert!(!findings.is_empty());
        for found in findings {
            let Verdict::Unknown { detail } = found.verdict else { panic!("{kind:?}: {found:?}") };
            assert_eq!(detail, format!("not looked at: the role lacks {action}"));
        }
    }
    world.proxy.heal();
    world.proxy.fault(&["GetServiceQuota"], Fault::Reset, None);
    for found in quotas(&world, Kind::RouteTable).await {
        let Verdict::Unknown { detail } = found.verdict else { panic!("{found:?}") };
        assert!(detail.starts_with("not looked at: servicequotas:GetServiceQuota: "), "{detail}");
    }
}
