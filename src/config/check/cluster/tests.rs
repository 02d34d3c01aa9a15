//! Whole files with a cluster, broken in one way each.

use std::path::Path;

use komainu_escalation::program::ProgramSettings;
use komainu_escalation::{AwsSettings, MethodSettings};

use crate::config::every_key::{SMALLEST, config};
use crate::config::file::parse;
use crate::config::report::Finding;
use crate::consensus::lease::LeaseSettings;

/// From line 11 on, three lines each.
fn nodes(count: usize) -> String {
    (1..=count).map(|n| format!("[[node]]\nid = 'n{n}'\nhost = 'h{n}'\n")).collect()
}

/// `keys` are on line 11, the three nodes after them, `rest` on line 20 if there are no `keys`.
fn of_three(keys: &str, rest: &str) -> String {
    format!("{SMALLEST}[cluster]\nname = 'shop'\n{keys}{}{rest}", nodes(3))
}

fn found(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

/// The one problem of a text.
fn problem(text: &str) -> String {
    let report = parse(text, Path::new("k.toml"), 1).expect_err(text);
    let problems = found(&report.problems);
    assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
    problems.concat()
}

fn warnings(text: &str) -> Vec<String> {
    found(&parse(text, Path::new("k.toml"), 1).unwrap_or_else(|report| panic!("{report}")).1)
}

fn app(keys: &str) -> String {
    format!("[[endpoint]]\nname = 'app'\n{keys}\n")
}

const ELASTIC: &str = "method.elastic-ip = { allocation_id = 'eipalloc-1' }";

#[test]
fn without_its_sections_a_node_is_on_its_own() {
    let config = config(SMALLEST);
    assert_eq!((config.cluster, config.endpoints.len()), (None, 0));
    assert_eq!(config.aws, AwsSettings::default());
}

#[test]
fn a_cluster_has_the_defaults_of_its_parts() {
    let text = of_three("", &app(ELASTIC)).replace("'h3'", "'fd00::3'");
    let config = config(&text);
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.lease, LeaseSettings::default());
    assert_eq!(cluster.directory, Path::new("/etc/raft"));
    assert_eq!(cluster.pki_directory, Path::new("/etc/pki"));
    let listen: Vec<_> = cluster.nodes.iter().map(|node| node.listen.to_string()).collect();
    assert_eq!(listen, ["0.0.0.0:7400", "0.0.0.0:7400", "[::]:7400"]);
    assert_eq!((cluster.nodes[0].id.as_str(), cluster.nodes[0].port), ("n1", 7400));
    assert!(!config.endpoints[0].refuse_when_not_owner);
    assert_eq!(warnings(&text), [""; 0]);
}

#[test]
fn an_endpoint_is_read_however_its_tables_are_written() {
    let inline = "method.command = { command = ['/m'], deadline_ms = 7 }\npre = { command = ['/p'] }\n\
                  refuse_when_not_owner = true";
    let sections = "refuse_when_not_owner = true\n[endpoint.method.command]\ncommand = ['/m']\ndeadline_ms = 7\n\
                    [endpoint.pre]\ncommand = ['/p']";
    for keys in [inline, sections] {
        let endpoint = config(&of_three("", &app(keys))).endpoints.remove(0);
        assert!(endpoint.refuse_when_not_owner);
        assert_eq!(endpoint.settings.name, "app");
        let program =
            |path: &str, deadline_ms| ProgramSettings { command: vec![path.to_owned()], deadline_ms };
        assert_eq!(endpoint.settings.method, MethodSettings::Command(program("/m", 7)));
        assert_eq!((endpoint.settings.pre, endpoint.settings.post), (Some(program("/p", 5000)), None));
    }
}

#[test]
fn times_that_could_elect_two_are_refused_where_they_are_written() {
    for (keys, expected) in [
        (
            "lease_ms = 1000\n",
            ":11: cluster.lease_ms: lease_ms (1000) and drift_margin_ms (200) together must be less",
        ),
        (
            "election_timeout_max_ms = 1100\n",
            ":11: cluster.election_timeout_max_ms: lease_ms (900) and drift_margin_ms",
        ),
        (
            "election_timeout_max_ms = 900\n",
            ":11: cluster.election_timeout_max_ms: election_timeout_min_ms (900) must",
        ),
        (
            "heartbeat_ms = 300\n",
            ":11: cluster.heartbeat_ms: lease_ms (900) must be at least 4 times heartbeat_ms (300)",
        ),
        ("drift_margin_ms = 50\n", ":11: cluster.drift_margin_ms: drift_margin_ms (50) must be at least 94"),
        ("heartbeat_ms = 0\n", ":11: cluster.heartbeat_ms: 0 is out of range"),
    ] {
        let problem = problem(&of_three(keys, ""));
        assert!(problem.contains(expected), "{keys}: {problem}");
    }
}

#[test]
fn names_and_addresses_of_nodes_are_such_and_different() {
    let long = format!("'{}'", "a".repeat(254));
    for (from, to, expected) in [
        (
            "'shop'",
            "'Shop'",
            ":10: cluster.name: \"Shop\" is no name for a cluster: 1 to 63 lower-case letters",
        ),
        ("'n2'", "'N2'", ":15: node.id: \"N2\" is no name for a node: 1 to 63 lower-case letters"),
        ("'n2'", "'ca'", ":15: node.id: a node cannot be called \"ca\""),
        ("'n2'", "'n1'", ":15: node.id: \"n1\" is the node on line 12 already"),
        ("'h2'", "'H1'", ":16: node.host: H1:7400 is the node on line 13 already"),
        ("'h2'", "'h2:7400'", ":16: node.host: \"h2:7400\" is more than a host"),
        ("'h2'", "'/run'", ":16: node.host: \"/run\" is no host; write one name or one address"),
        ("'h2'", "'a b'", ":16: node.host: \"a b\" is no host"),
        ("'h2'", &long, "is no host"),
        ("'h2'", "'0.0.0.0'", ":16: node.host: \"0.0.0.0\" is an address to listen on, and none to reach"),
        ("'h2'", "'::'", ":16: node.host: \"::\" is an address to listen on"),
        ("host = 'h2'\n", "", ":14: node.host: it is missing; write host = … under [[node]]"),
    ] {
        let problem = problem(&of_three("", "").replace(from, to));
        assert!(problem.contains(expected), "{to}: {problem}");
    }
    let text = of_three("", "").replace("'h2'", "'h1'\nport = 7401");
    assert!(parse(&text, Path::new("k.toml"), 1).is_ok());
}

#[test]
fn so_many_nodes_that_a_majority_is_worth_having() {
    let with = |count| format!("{SMALLEST}[cluster]\nname = 'shop'\n{}", nodes(count));
    for (count, expected) in [
        (0, ":9: cluster: it has no node"),
        (2, ":14: node: with two nodes, losing either one stops both"),
        (8, ":32: node: 8 nodes are more than 7"),
    ] {
        assert!(problem(&with(count)).contains(expected), "{}", problem(&with(count)));
    }
    for (count, expected) in [
        (1, ":11: node: with one node, nobody takes over"),
        (4, ":20: node: 4 nodes survive the loss of 1, as 3 would"),
        (6, ":26: node: 6 nodes survive the loss of 2, as 5 would"),
    ] {
        let warnings = warnings(&with(count));
        assert!(matches!(warnings.as_slice(), [only] if only.contains(expected)), "{warnings:?}");
    }
    for count in [3, 5, 7] {
        assert_eq!(warnings(&with(count)), [""; 0]);
    }
}

#[test]
fn nodes_and_endpoints_need_a_cluster() {
    let problem_of = |rest: &str| problem(&format!("{SMALLEST}{rest}"));
    assert!(problem_of(&nodes(3)).contains(":9: node: there is no [cluster] whose node it could be; add"));
    assert!(
        problem_of(&app(ELASTIC)).contains(":9: endpoint: there is no [cluster] that could say who owns it")
    );
}

#[test]
fn more_than_the_nodes_can_agree_on_is_refused() {
    let endpoints: String = (0..65).map(|n| app(ELASTIC).replace("app", &format!("app{n}"))).collect();
    let problem_of = |rest: &str| problem(&of_three("", rest));
    assert!(
        problem_of(&endpoints).contains(":212: endpoint: a cluster can have 64 of these, and there are 65")
    );
    let servers: String = (2..=129).map(|n| format!("[[server]]\nid = 's{n}'\nhost = 'db{n}'\n")).collect();
    assert!(problem_of(&servers).contains(": server: a cluster can have 128 of these, and there are 129"));
}

#[test]
fn endpoints_that_could_not_be_moved_are_refused_where_it_is_written() {
    let record = "method.route53 = { hosted_zone_id = 'Z', name = 'x', ttl_s = 60 }";
    for (endpoint, expected) in [
        (app(""), ":20: endpoint.method: it is missing; write method = … under [[endpoint]]"),
        (
            app("method = 'elastic-ip'"),
            ":22: endpoint.method: expected a method with its keys, found text in quotes",
        ),
        (
            app("method.teleport = {}"),
            ":22: endpoint.method: unknown variant `teleport`, expected one of `elastic-ip`",
        ),
        (
            app("method.elastic-ip = { allocation_id = '' }"),
            ":22: endpoint.method: endpoint app: allocation_id must be given; docs/escalation.md",
        ),
        (app(record), ":22: endpoint.method: endpoint app: ttl_s must be from 0 to 5"),
        (
            app("[endpoint.method.elastic-ip]\nallocation_id = 'e'\nallocation = 3"),
            ":24: endpoint.method: unknown field `allocation`, expected `allocation_id`",
        ),
        (
            app("[endpoint.method.interface]\ndevice = 'eth0'\naddress = '10.0.0.9'"),
            ":24: endpoint.method: invalid IP address syntax",
        ),
        (
            app(&format!("{ELASTIC}\npre = {{ command = [] }}")),
            ":23: endpoint.pre: endpoint app: command must be given",
        ),
        (
            app(&format!("{ELASTIC}\npost = {{ command = ['/p'], deadline_ms = 60001 }}")),
            ":23: endpoint.post: endpoint app: deadline_ms must be from 1 to 60000",
        ),
        (
            app(&format!("{ELASTIC}\npost = '/p'")),
            ":23: endpoint.post: expected keys with values, found text in quotes",
        ),
        (app(ELASTIC).replace("app", "App"), ":21: endpoint.name: \"App\" is no name for an endpoint"),
        (app(ELASTIC).repeat(2), ":24: endpoint.name: \"app\" is the endpoint on line 21 already"),
        (format!("[[endpoint]]\n{ELASTIC}\n"), ":20: endpoint.name: it is missing"),
    ] {
        let problem = problem(&of_three("", &endpoint));
        assert!(problem.contains(expected), "{endpoint}: {problem}");
    }
}

#[test]
fn everything_that_is_wrong_with_an_endpoint_is_told_at_once() {
    let keys =
        "method.elastic-ip = { allocation_id = '' }\npre = { command = [] }\npost = { command = [''] }";
    let report = parse(&of_three("", &app(keys)), Path::new("k.toml"), 1).unwrap_err();
    let keys: Vec<_> = report.problems.iter().map(|finding| finding.key.as_str()).collect();
    assert_eq!(keys, ["endpoint.method", "endpoint.pre", "endpoint.post"]);
}

#[test]
fn what_reaches_aws_is_a_url_and_has_its_limit() {
    for (key, expected) in [
        (
            "endpoint_url = 'localhost:5000'",
            ":10: aws.endpoint_url: \"localhost:5000\" is no URL; write it with https",
        ),
        ("route53_endpoint_url = 'https://'", ":10: aws.route53_endpoint_url: \"https://\" is no URL"),
        ("metadata_endpoint = 'http:///latest'", ":10: aws.metadata_endpoint: \"http:///latest\" is no URL"),
        (
            "attempt_timeout_ms = 3001",
            ":10: aws.attempt_timeout_ms: 3001 is out of range; choose from 1 to 3000",
        ),
    ] {
        let problem = problem(&format!("{SMALLEST}[aws]\n{key}\n"));
        assert!(problem.contains(expected), "{key}: {problem}");
    }
    let config =
        config(&format!("{SMALLEST}[aws]\nendpoint_url = 'http://127.0.0.1:5000'\nregion = 'eu-west-1'\n"));
    assert_eq!(config.aws.endpoint_url.as_deref(), Some("http://127.0.0.1:5000"));
    assert_eq!(config.aws.region.as_deref(), Some("eu-west-1"));
}

#[test]
fn an_agent_can_be_reached_and_can_have_a_certificate() {
    let with = |server: &str| {
        let text = of_three("", "");
        text.replace("id = 's1'\nhost = 'db1'\n", &format!("{server}\nhost = 'db1'\n"))
    };
    assert!(parse(&with("id = 's1'\nagent = 'db1:7401'"), Path::new("k.toml"), 1).is_ok());
    assert!(problem(&with("id = 's1'\nagent = 'db1'")).contains("\"db1\" is not of the form host:port"));
    let upper = problem(&with("id = 'S_1'\nagent = 'db1:7401'"));
    assert!(upper.contains("the agent of \"S_1\" cannot have a certificate for \"agent-S_1\""), "{upper}");
    let alone = SMALLEST.replace("host = 'db1'\n", "host = 'db1'\nagent = 'db1:7401'\n");
    assert!(problem(&alone).contains("there is no [cluster] whose nodes could ask it"));
    let alone = format!("{SMALLEST}[agent]\ndata_directory = '/d'\n");
    assert!(problem(&alone).contains("there is no [cluster] whose nodes it could obey"));
    let node = of_three("", "").replace("id = 'n2'", "id = 'agent-s1'");
    assert!(problem(&node).contains("\"agent-s1\" is a name for the agent of a server"));
}
