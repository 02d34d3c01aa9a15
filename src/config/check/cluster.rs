//! The rules of a cluster: its nodes, its lease, its endpoints, and how AWS is reached.
//!
//! Owns what nodes must be for a majority of them to decide. Pure. Invariant: names and numbers that pass
//! here are none that the replicated state would refuse.

use std::collections::BTreeMap;
use std::net::IpAddr;

use komainu_escalation::{EndpointSettings, MethodSettings};

use super::one_host;
use crate::cluster::state::{MAX_ENDPOINTS, MAX_SERVERS, MAX_VOTERS};
use crate::config::document::{Document, Table};
use crate::config::report::Findings;
use crate::config::{Cluster, Config, Node};
use crate::consensus::lease::{LeaseSettings, SettingsError};
use crate::net::address::split_address;
use crate::pki::{AGENT_PREFIX, NameError, NodeName, check_label, name_of_agent};

pub(super) fn check(document: &Document, config: &Config, findings: &mut Findings) {
    let (nodes, endpoints) = (document.list("node"), document.list("endpoint"));
    match (document.optional("cluster"), &config.cluster) {
        (Some(table), Some(cluster)) => {
            name(table, &cluster.name, findings);
            lease(table, &cluster.lease, findings);
            number_of_nodes(table, nodes, findings);
            each_node(nodes, cluster, findings);
            too_many("server", document.list("server"), MAX_SERVERS, findings);
        }
        _ => without_cluster(nodes, endpoints, findings),
    }
    agents(document, config, findings);
    too_many("endpoint", endpoints, MAX_ENDPOINTS, findings);
    each_endpoint(endpoints, findings);
    hooks(document, config, findings);
    aws(document.table("aws"), findings);
}

fn without_cluster(nodes: &[Table], endpoints: &[Table], findings: &mut Findings) {
    if let Some(first) = nodes.first() {
        let problem = "there is no [cluster] whose node it could be";
        let remedy = "add [cluster] with its name, or remove every [[node]]";
        findings.problems.add(first.line(""), "node", problem, remedy);
    }
    if let Some(first) = endpoints.first() {
        let problem = "there is no [cluster] that could say who owns it";
        let remedy = "add [cluster] and three [[node]], or remove every [[endpoint]]";
        findings.problems.add(first.line(""), "endpoint", problem, remedy);
    }
}

fn name(table: &Table, name: &str, findings: &mut Findings) {
    if table.has("name")
        && let Err(error) = check_label(name, "cluster")
    {
        let remedy = "take the name that you gave to komainu pki init";
        findings.problems.add(table.line("name"), "cluster.name", error.to_string(), remedy);
    }
}

fn lease(table: &Table, settings: &LeaseSettings, findings: &mut Findings) {
    const ALL: [&str; 5] =
        ["heartbeat_ms", "lease_ms", "drift_margin_ms", "election_timeout_min_ms", "election_timeout_max_ms"];
    if ALL.iter().any(|name| table.is_bad(name)) {
        return;
    }
    let Err(error) = settings.check() else { return };
    let (about, remedy) = match error {
        SettingsError::LeaseOutlivesLeader { .. } => (
            vec!["lease_ms", "drift_margin_ms", "election_timeout_max_ms"],
            "lower one of the first two, or raise the last",
        ),
        SettingsError::NoSpread { .. } => (
            vec!["election_timeout_min_ms", "election_timeout_max_ms"],
            "lower the first, or raise the second",
        ),
        SettingsError::TooFewHeartbeats { name, .. } => {
            (vec![name, "heartbeat_ms"], "raise the one, or lower the other")
        }
        SettingsError::MarginTooSmall { .. } => {
            (vec!["drift_margin_ms", "lease_ms"], "raise drift_margin_ms, or lower lease_ms")
        }
        SettingsError::NoHeartbeat => (vec!["heartbeat_ms"], "raise it"),
    };
    // The defaults agree with each other, so one of these is written.
    let key = about.iter().find(|name| table.has(name)).unwrap_or(&about[0]);
    findings.problems.add(table.line(key), format!("cluster.{key}"), error.to_string(), remedy);
}

fn number_of_nodes(cluster: &Table, nodes: &[Table], findings: &mut Findings) {
    let survives = nodes.len().saturating_sub(1) / 2;
    match nodes {
        [] => {
            let remedy = "add [[node]] with id and host for each of three nodes";
            findings.problems.add(cluster.line(""), "cluster", "it has no node", remedy);
        }
        [only] => {
            let problem = "with one node, nobody takes over when it dies";
            findings.warnings.add(only.line(""), "node", problem, "name three nodes");
        }
        [_, second] => {
            let problem = "with two nodes, losing either one stops both: one of two is no majority";
            let remedy = "add a third, which needs no database beside it, or stay with one";
            findings.problems.add(second.line(""), "node", problem, remedy);
        }
        [.., last] if nodes.len() > MAX_VOTERS => {
            let problem = format!("{} nodes are more than {MAX_VOTERS}, which is the limit", nodes.len());
            let remedy = "name three or five: every decision waits for a majority of them";
            findings.problems.add(last.line(""), "node", problem, remedy);
        }
        [.., last] if nodes.len().is_multiple_of(2) => {
            let fewer = nodes.len() - 1;
            let problem = format!("{} nodes survive the loss of {survives}, as {fewer} would", nodes.len());
            findings.warnings.add(last.line(""), "node", problem, "name one fewer, or one more");
        }
        _ => {}
    }
}

fn each_node(tables: &[Table], cluster: &Cluster, findings: &mut Findings) {
    let (mut ids, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for (table, node) in tables.iter().zip(&cluster.nodes) {
        if table.has("id") {
            node_id(table, node, cluster, findings);
            if let Some(first) = ids.insert(&node.id, table.line("id").unwrap_or_default()) {
                let problem = format!("\"{}\" is the node on line {first} already", node.id);
                findings.problems.add(
                    table.line("id"),
                    "node.id",
                    problem,
                    "give each node an id of its own",
                );
            }
        }
        if table.has("host") && !table.is_bad("port") {
            node_host(table, &node.host, findings);
            let address = (node.host.to_ascii_lowercase(), node.port);
            if let Some(first) = addresses.insert(address, table.line("host").unwrap_or_default()) {
                let problem = format!("{}:{} is the node on line {first} already", node.host, node.port);
                findings.problems.add(table.line("host"), "node.host", problem, "name each node once");
            }
        }
    }
}

fn node_id(table: &Table, node: &Node, cluster: &Cluster, findings: &mut Findings) {
    if node.id.starts_with(AGENT_PREFIX) {
        let problem = format!("\"{}\" is a name for the agent of a server", node.id);
        findings.problems.add(table.line("id"), "node.id", problem, "choose one that begins otherwise");
    }
    match NodeName::new(&node.id, &cluster.name) {
        // That is about the cluster's name, and was said there.
        Ok(_) | Err(NameError::Label(_, "cluster")) => {}
        Err(error) => {
            let remedy = "choose another, and make its certificate with komainu pki node --id";
            findings.problems.add(table.line("id"), "node.id", error.to_string(), remedy);
        }
    }
}

fn node_host(table: &Table, host: &str, findings: &mut Findings) {
    one_host(table, "node.host", host, "write one name or one address", findings);
    if host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()) {
        let problem = format!("\"{host}\" is an address to listen on, and none to reach a node by");
        let remedy = "name the node's own address; where it listens is node.listen";
        findings.problems.add(table.line("host"), "node.host", problem, remedy);
    }
}

/// The agents beside the servers: where each is, and that it can have a certificate.
fn agents(document: &Document, config: &Config, findings: &mut Findings) {
    for (table, server) in document.list("server").iter().zip(&config.servers) {
        let Some(address) = &server.agent else { continue };
        let line = table.line("agent");
        if split_address(address).is_none_or(|(host, port)| host.is_empty() || port == 0) {
            let problem = format!("\"{address}\" is not of the form host:port");
            let remedy = "write the address of the database host and the agent's port";
            findings.problems.add(line, "server.agent", problem, remedy);
        }
        match &config.cluster {
            Some(cluster) => {
                if let Err(NameError::Label(label, "node")) = name_of_agent(&server.id, &cluster.name) {
                    let problem =
                        format!("the agent of \"{}\" cannot have a certificate for {label:?}", server.id);
                    let remedy =
                        "a server with an agent needs an id of lower-case letters, digits and hyphens";
                    findings.problems.add(line, "server.agent", problem, remedy);
                }
            }
            None => {
                let problem = "there is no [cluster] whose nodes could ask it";
                findings.problems.add(line, "server.agent", problem, "add [cluster], or remove it");
            }
        }
    }
    if let Some(table) = document.optional("agent").filter(|_| config.cluster.is_none()) {
        let problem = "there is no [cluster] whose nodes it could obey";
        findings.problems.add(table.line(""), "agent", problem, "add [cluster] and its nodes, or remove it");
    }
}

/// More than the nodes can agree on.
fn too_many(section: &str, tables: &[Table], limit: usize, findings: &mut Findings) {
    if let Some(first) = tables.get(limit) {
        let problem = format!("a cluster can have {limit} of these, and there are {}", tables.len());
        findings.problems.add(first.line(""), section, problem, "remove some");
    }
}

fn each_endpoint(tables: &[Table], findings: &mut Findings) {
    let mut names = BTreeMap::new();
    for table in tables {
        if let Some(name) = table.optional_text("name") {
            let line = table.line("name");
            if check_label(&name, "endpoint").is_err() {
                let problem = format!("\"{name}\" is no name for an endpoint");
                let remedy = "use 1 to 63 lower-case letters, digits and inner hyphens";
                findings.problems.add(line, "endpoint.name", problem, remedy);
            }
            if let Some(first) = names.insert(name.clone(), line.unwrap_or_default()) {
                let problem = format!("\"{name}\" is the endpoint on line {first} already");
                findings.problems.add(line, "endpoint.name", problem, "give each endpoint a name of its own");
            }
        }
        if let Some(method) = table.method("method") {
            endpoint_method(table, "method", method, findings);
        }
        for around in ["pre", "post"] {
            // Judged as a program is that moves the endpoint itself.
            if let Some(program) = table.program(around) {
                endpoint_method(table, around, MethodSettings::Command(program), findings);
            }
        }
    }
}

/// One at a time, so that each has its own finding on its own line.
fn endpoint_method(table: &Table, key: &str, method: MethodSettings, findings: &mut Findings) {
    // One whose name was refused is judged all the same.
    let name = table.optional_text("name").unwrap_or_else(|| "without a name".to_owned());
    let settings = EndpointSettings { name, method, pre: None, post: None };
    if let Err(error) = settings.check() {
        let remedy = "docs/escalation.md says what it needs";
        findings.problems.add(table.line(key), format!("endpoint.{key}"), error.to_string(), remedy);
    }
}

/// Programs that are told what the cluster did.
fn hooks(document: &Document, config: &Config, findings: &mut Findings) {
    let table = document.table("hooks");
    for key in ["on_failover", "on_switchover", "on_detach", "on_attach", "on_recovered"] {
        let Some(program) = table.program(key) else { continue };
        let (line, about) = (table.line(key), format!("hooks.{key}"));
        if let Err(error) = program.check() {
            let remedy = "write it as { command = [\"/path/to/program\"], deadline_ms = 5000 }";
            findings.problems.add(line, &about, error.to_string(), remedy);
        }
        if config.cluster.is_none() {
            let problem = "there is no [cluster] whose leader could run it";
            findings.problems.add(line, about, problem, "add [cluster] and its nodes, or remove it");
        }
    }
}

fn aws(table: &Table, findings: &mut Findings) {
    for name in ["endpoint_url", "route53_endpoint_url", "metadata_endpoint"] {
        let Some(url) = table.optional_text(name) else { continue };
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let names_a_host = |rest: &str| !rest.starts_with(['/', ':']) && !rest.contains(char::is_whitespace);
        if !rest.is_some_and(|rest| !rest.is_empty() && names_a_host(rest)) {
            let problem = format!("\"{url}\" is no URL");
            let remedy = "write it with https:// or http://, a host and perhaps a port";
            findings.problems.add(table.line(name), format!("aws.{name}"), problem, remedy);
        }
    }
}

#[cfg(test)]
mod tests;
