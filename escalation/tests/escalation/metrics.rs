//! Metrics are sent to CloudWatch, and found there again as they were.

use crate::support::{Fault, World, moto, within};
use komainu_aws_double::api::{Api, REGION, element};
use komainu_escalation::aws::CloudWatch;
use komainu_escalation::metrics::{Datum, MetricSink};
use komainu_escalation::{AwsSettings, Reason, aws::AwsError};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

fn settings(world: &World) -> AwsSettings {
    AwsSettings {
        region: Some(REGION.into()),
        endpoint_url: Some(world.proxy.url()),
        metadata_endpoint: Some(world.nodes[0].imds.url()),
        ..AwsSettings::default()
    }
}

fn datum(server: &str, value: f64) -> Datum {
    let dimensions = vec![("Cluster", "shop".to_owned()), ("Server", server.to_owned())];
    Datum { name: "ReplicationLag", unit: "Seconds", dimensions, value }
}

async fn put(sink: &CloudWatch, at: SystemTime, data: &[Datum]) -> Result<(), AwsError> {
    within("CloudWatch's answer", sink.put(at, data)).await
}

/// The sum of what is there in the minutes around now.
async fn sum(namespace: &str, server: &str) -> Option<f64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let member = "MetricDataQueries.member.1";
    let metric = format!("{member}.MetricStat.Metric");
    let fields = [
        ("StartTime".to_owned(), (now - 600).to_string()),
        ("EndTime".to_owned(), (now + 600).to_string()),
        (format!("{member}.Id"), "m".to_owned()),
        (format!("{member}.MetricStat.Period"), "1200".to_owned()),
        (format!("{member}.MetricStat.Stat"), "Sum".to_owned()),
        (format!("{metric}.Namespace"), namespace.to_owned()),
        (format!("{metric}.MetricName"), "ReplicationLag".to_owned()),
        (format!("{metric}.Dimensions.member.1.Name"), "Cluster".to_owned()),
        (format!("{metric}.Dimensions.member.1.Value"), "shop".to_owned()),
        (format!("{metric}.Dimensions.member.2.Name"), "Server".to_owned()),
        (format!("{metric}.Dimensions.member.2.Value"), server.to_owned()),
    ];
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let api = Api { moto: moto().address() };
    let answer = api.cloudwatch("GetMetricData", &fields).await.unwrap();
    // Periods begin where the service wants them to: there may be two.
    let values = element(&answer, "Values")?.split("<member>").skip(1);
    let numbers = values.map(|value| value.split('<').next().unwrap().trim().parse::<f64>().unwrap());
    numbers.reduce(|sum, value| sum + value)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_found_there_again() {
    let world = World::new().await;
    let namespace = format!("sent-{}", world.name);
    let sink = CloudWatch::new(settings(&world), &namespace, true);
    let now = SystemTime::now();
    let many: Vec<_> = (0..400).map(|number| datum(&format!("s{number}"), f64::from(number))).collect();
    put(&sink, now, &many).await.unwrap();
    put(&sink, now + Duration::from_secs(1), &[datum("pg 1 & co", 1.5), datum("s7", 2.25)]).await.unwrap();
    assert_eq!(sum(&namespace, "s399").await, Some(399.0));
    assert_eq!(sum(&namespace, "s7").await, Some(9.25));
    let api = Api { moto: moto().address() };
    let listed = api.cloudwatch("ListMetrics", &[("Namespace", &namespace)]).await.unwrap();
    let servers = listed.split("<Name>Server</Name><Value>").skip(1).map(|rest| rest.split('<').next());
    assert_eq!(servers.collect::<BTreeSet<_>>().len(), 401, "{listed}");
    assert!(listed.contains("<Value>pg 1 &amp; co</Value>"), "{listed}");
    let calls = world.proxy.calls();
    let by = calls.iter().filter(|call| call.operation == "PutMetricData").map(|call| call.by.clone());
    assert_eq!(
        by.collect::<Vec<_>>(),
        vec![world.nodes[0].access_key.clone(); 2],
        "signed by the instance's role"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_says_why_and_is_not_made_again() {
    let world = World::new().await;
    let namespace = format!("failing-{}", world.name);
    let sink = CloudWatch::new(settings(&world), &namespace, false);
    let faults = [
        (Fault::Throttle, Some(Reason::Throttled)),
        (Fault::Deny, Some(Reason::NotPermitted)),
        (Fault::Reset, Some(Reason::OutcomeUnknown)),
    ];
    let asked = || world.proxy.calls().iter().filter(|call| call.operation == "PutMetricData").count();
    for (number, (fault, reason)) in (1..).zip(faults) {
        world.proxy.fault(&["PutMetricData"], fault, Some(1));
        let error = put(&sink, SystemTime::now(), &[datum("pg1", 1.0)]).await.unwrap_err();
        assert_eq!(Some(error.fault.reason()), reason, "{error}");
        assert!(error.to_string().starts_with(&format!("PutMetricData on {namespace}: ")), "{error}");
        assert_eq!(asked(), number);
    }
    put(&sink, SystemTime::now(), &[datum("pg1", 1.0)]).await.unwrap();
    assert_eq!(sum(&namespace, "pg1").await, Some(1.0));
}
