//! What is measured leaves by three ways: the page, lines in the embedded metric format, and CloudWatch.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Instant;

use komainu::telemetry::catalogue::{ALL, Metric, View};
use komainu_aws_double::api::Api;
use serde_json::Value;

use super::support::aws::{World, moto};
use super::support::*;

/// The metrics of a page, by its TYPE lines.
fn declared(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

/// Names of metrics, and the names of their dimensions, in lines as far as they are whole.
fn told(lines: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut told = BTreeSet::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for directive in line["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
            let dimensions: BTreeSet<_> =
                directive["Dimensions"][0].as_array().unwrap().iter().map(text).collect();
            for metric in directive["Metrics"].as_array().unwrap() {
                assert!(line[text(&metric["Name"])].is_number(), "{line}");
                told.insert((text(&metric["Name"]), dimensions.clone()));
            }
        }
    }
    told
}

/// The same of what CloudWatch has.
async fn listed(namespace: &str) -> BTreeSet<(String, BTreeSet<String>)> {
    let api = Api { moto: moto().address() };
    let mut listed = BTreeSet::new();
    let mut next: Option<String> = None;
    loop {
        let mut fields = vec![("Namespace", namespace)];
        fields.extend(next.as_deref().map(|next| ("NextToken", next)));
        let answer = api.cloudwatch("ListMetrics", &fields).await.unwrap();
        let after = |text: &str, tag: &str| {
            text.split(&format!("<{tag}>"))
                .skip(1)
                .map(|rest| rest.split('<').next().unwrap().to_owned())
                .collect()
        };
        for metric in answer.split("<MetricName>").skip(1) {
            // The dimensions stand before or behind the name, within the same member.
            let name = metric.split('<').next().unwrap().to_owned();
            let dimensions: Vec<String> = after(metric, "Name");
            listed.insert((name, dimensions.into_iter().collect()));
        }
        let tokens: Vec<String> = after(&answer, "NextToken");
        next = tokens.into_iter().find(|token| !token.is_empty());
        if next.is_none() {
            return listed;
        }
    }
}

fn expected((_, view): (&Metric, &View), around: &[&str]) -> (String, BTreeSet<String>) {
    let dimensions = view.by.iter().map(|by| by.name).chain(around.iter().copied()).map(str::to_owned);
    (view.name.to_owned(), dimensions.collect())
}

/// Every whole line against a schema; how many there are. And that the schema refuses what is wrong.
const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
events = [json.loads(line) for line in open(sys.argv[2]) if line.endswith("\n")]
for event in events:
    validator.validate(event)
event["_aws"]["CloudWatchMetrics"][0]["Metrics"][0]["Unit"] = "Fortnights"
assert not validator.is_valid(event)
print(len(events))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_the_lines_and_cloudwatch_have_the_same_metrics() {
    let world = World::of(&["n1", "n2", "n3"]).await;
    let namespace = format!("three-ways-{}", std::process::id());
    let endpoint = format!(
        "[aws]\nendpoint_url = \"{}\"\n[[endpoint]]\nname = \"address\"\n\
         method.elastic-ip = {{ allocation_id = \"{}\" }}\n\
         [metrics]\nemf = \"metrics.emf\"\nput_metric_data = true\nperiod_ms = 1000\nnamespace = \"{namespace}\"\n",
        world.proxy.url(),
        world.allocation
    );
    let metadata = world.nodes.iter().map(|node| format!("http://{}", node.imds.address)).collect();
    let nodes = Nodes::builder(3).config(&endpoint).metadata(metadata).patient().start(Cluster::shared());
    let owner = nodes.owner_of(&nodes.ids(), "address");
    let node = nodes.node(&owner);
    let file = node.directory().join("metrics.emf");
    let lines = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        // The last one may be being written.
        text[..text.rfind('\n').map_or(0, |end| end + 1)].to_owned()
    };
    let views = || ALL.iter().flat_map(|metric| metric.views.iter().map(move |view| (metric, view)));
    let around = ["Cluster", "Node"];
    // What every node of a cluster has, whatever happens.
    let always =
        ["ClientConnections", "Epoch", "EndpointOwner", "QuorumLeaseRemaining", "CertificateDaysLeft"];
    let sure: BTreeSet<_> =
        views().filter(|(_, view)| always.contains(&view.name)).map(|view| expected(view, &around)).collect();
    assert_eq!(sure.len(), always.len());
    let client = RefCell::new(node.login("postgres"));
    eventually_async(PATIENCE, "both ways tell what is sure, and a read", async || {
        client.borrow_mut().query("SELECT 1");
        let (lines, listed) = (told(&lines()), listed(&namespace).await);
        let read = |all: &BTreeSet<(String, _)>| {
            ["QueryRequests", "ReadsByServer", "EndpointMoveTime", "DatabaseConnectionsBorrowLatency"]
                .iter()
                .all(|name| all.iter().any(|(known, _)| known == name))
        };
        sure.is_subset(&lines) && sure.is_subset(&listed) && read(&lines) && read(&listed)
    })
    .await;

    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/emf.schema.json");
    let before = lines().lines().count();
    let validated = python(VALIDATE, &[schema, &file.to_string_lossy()]).output();
    let events: usize = validated.parse().unwrap();
    assert!(events >= before && events > 1, "{events} events, {before} lines");

    let known: BTreeSet<_> = views().map(|view| expected(view, &around)).collect();
    let (by_lines, by_call) = (told(&lines()), listed(&namespace).await);
    assert!(by_lines.is_subset(&known), "{:?}", by_lines.difference(&known));
    assert!(by_call.is_subset(&known), "{:?}", by_call.difference(&known));
    let page = node.admin("/metrics").unwrap().body;
    assert_eq!(declared(&page), ALL.iter().map(|metric| metric.name).collect());
    // A name of one way is the name of one metric of the page, which has a sample.
    for (name, _) in by_lines.union(&by_call) {
        let (metric, _) = views().find(|(_, view)| view.name == name).unwrap();
        let has = |line: &str| !line.starts_with('#') && line.starts_with(metric.name);
        assert!(page.lines().any(has), "{name}: {} has no sample", metric.name);
    }
    assert!(node.metric("komainu_endpoint_owner{endpoint=\"address\"}") == Some(1.0));
    let total = "komainu_endpoint_move_seconds_count{method=\"elastic-ip\",phase=\"total\"}";
    assert!(node.metric(total) >= Some(1.0));
    assert!(node.metric("komainu_certificate_remaining_seconds") > Some(86_400.0));
    assert!(node.metric("komainu_quorum_lease_remaining_seconds") > Some(0.0));
    for other in nodes.others(&owner) {
        assert_eq!(nodes.node(&other).metric("komainu_endpoint_owner{endpoint=\"address\"}"), Some(0.0));
    }
}

#[test]
fn what_servers_take_to_answer_is_right_on_average() {
    let komainu = Komainu::start(Cluster::shared());
    let mut client = komainu.login("postgres");
    let waited = || {
        let of = |what| komainu.metric(&format!("komainu_response_seconds_{what}")).unwrap();
        (of("sum"), of("count"))
    };
    let (before, began) = (waited(), Instant::now());
    for n in 1..=4 {
        client.query("SELECT pg_sleep(1)");
        // A session that is asked again before it has come to rest counts both as one.
        eventually(PATIENCE, "it is counted", || waited().1 >= before.1 + f64::from(n));
    }
    // Each may be off by a step of the clock, and a busy machine takes its steps late; half of it is never lost.
    assert!(waited().0 >= before.0 + 2.0, "{before:?} {:?}", waited());
    let longest = 2.0 * began.elapsed().as_secs_f64();
    assert!(waited().0 - before.0 <= longest, "{before:?} {:?} in {longest} s", waited());
}
