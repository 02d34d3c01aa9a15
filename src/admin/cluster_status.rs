//! What `/status` says of the cluster: its nodes, who leads, and whose the endpoints are.
//!
//! Pure. Invariant: keys are only ever added; on a node of its own all of them are there, and null or empty.

use std::collections::{BTreeMap, BTreeSet};

use komainu_escalation::{Finding, Phase, State, Status};
use serde::Serialize;

use crate::agent::wire::Job;
use crate::cluster::state::{
    ClusterState, Failover, Fenced, HookEvent, LOG_FORMAT, Member, MemberRole, Observed, Restart, RestartEnd,
    Server,
};
use crate::cluster::sync_set::SyncSet;
use crate::consensus::node::NodeStatus;

/// One endpoint as this node sees it.
#[derive(Debug, Clone)]
pub struct EndpointHere {
    pub name: String,
    pub method: &'static str,
    pub status: Option<Status>,
    /// Why it could not be begun.
    pub error: Option<String>,
    pub findings: Vec<Finding>,
}

/// The cluster at one moment.
#[derive(Debug, Clone, Copy)]
pub struct ClusterNow<'a> {
    pub node: &'a NodeStatus,
    pub state: &'a ClusterState,
    pub endpoints: &'a [EndpointHere],
    /// By server.
    pub jobs: &'a BTreeMap<String, Job>,
}

#[derive(Debug, Default, Serialize)]
pub struct ClusterKeys<'a> {
    /// This node.
    node: Option<&'a str>,
    leader: Option<&'a str>,
    term: Option<u64>,
    /// None: this node does not lead.
    leading_for_ms: Option<u64>,
    lease_remaining_ms: Option<u64>,
    /// Why this node does not take part.
    waiting_for: Option<&'a str>,
    configuration_version: Option<u64>,
    /// The version of which this node cannot use the text; it goes by the one before.
    configuration_unusable: Option<u64>,
    log_format: Option<u32>,
    /// The highest that this node knows.
    log_format_known: Option<u32>,
    nodes: Vec<Node<'a>>,
    endpoints: Vec<Endpoint<'a>>,
    failover: Option<FailoverKeys<'a>>,
    /// What the operator's programs are being told, or are still to be told.
    hooks: Vec<&'a HookEvent>,
    restart: Option<RestartKeys<'a>>,
    /// What a leader decided lately and did not do, since it would have broken an invariant.
    plan_rejected: Option<&'a str>,
}

/// What is restarted by order.
#[derive(Debug, Serialize)]
struct RestartKeys<'a> {
    under_way: Option<&'a Restart>,
    /// How the last one ended.
    last: Option<&'a RestartEnd>,
}

/// What komainu does, or would do, about a lost primary.
#[derive(Debug, Serialize)]
struct FailoverKeys<'a> {
    /// Nothing is begun without an order.
    paused: bool,
    /// The code of why a lost primary is not replaced.
    standstill: Option<&'a str>,
    under_way: Option<&'a Failover>,
    /// Which standbys acknowledge commits, and how many of them must: what a failover relies on.
    synchronous: &'a SyncSet,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    id: &'a str,
    role: &'static str,
    /// A replaced voter does once the leader has taken it in.
    votes: bool,
    incarnation: u64,
    raft_id: u64,
    address: &'a str,
    /// By this node, at the last attempt.
    reachable: bool,
    failure: Option<&'a str>,
    /// Of komainu there, and how far its clock is ahead of this node's, when it was asked last.
    version: Option<&'a str>,
    clock_ahead_ms: Option<i64>,
    /// How it finds each server.
    observes: BTreeMap<&'a str, Observed>,
}

#[derive(Debug, Serialize)]
struct Endpoint<'a> {
    name: &'a str,
    method: &'a str,
    owner: Option<&'a str>,
    epoch: u64,
    fenced: bool,
    /// Of this node's own loop, as are those that follow.
    state: Option<State>,
    reason: Option<&'static str>,
    detail: &'a str,
    phases: &'a [Phase],
}

pub fn cluster_keys<'a>(cluster: ClusterNow<'a>) -> ClusterKeys<'a> {
    let ClusterNow { node, state, .. } = cluster;
    let waiting_for = match (&*node.waiting_for, node.raft_id) {
        ("", None) => Some("the other nodes are being asked who this node is to them"),
        ("", Some(_)) => None,
        (reason, _) => Some(reason),
    };
    ClusterKeys {
        node: Some(&node.node),
        leader: node.leader.as_deref(),
        term: Some(node.term),
        leading_for_ms: node.leading_for_ms,
        lease_remaining_ms: Some(node.lease_remaining_ms),
        waiting_for,
        configuration_version: Some(state.configuration().version()),
        configuration_unusable: node.configuration_unusable,
        log_format: Some(state.log_format()),
        log_format_known: Some(LOG_FORMAT),
        nodes: state.members().values().map(|member| of_member(cluster, member)).collect(),
        endpoints: endpoints(cluster),
        failover: Some(FailoverKeys {
            paused: state.failover_paused(),
            standstill: state.standstill(),
            under_way: state.failover(),
            synchronous: state.synchronous(),
        }),
        hooks: state.hooks().events().collect(),
        restart: Some(RestartKeys { under_way: state.restart(), last: state.last_restart() }),
        plan_rejected: state.rejected(),
    }
}

/// What was ordered of a server, and how most voters find it.
pub fn of_server<'a>(cluster: ClusterNow<'a>, server: &str) -> Option<&'a Server> {
    cluster.state.servers().get(server)
}

/// The members that have not said that nothing of theirs is under way on a server that gets nothing new. None: it does.
pub fn busy_on<'a>(cluster: ClusterNow<'a>, server: &Server) -> Option<Vec<&'a str>> {
    let members = cluster.state.members().keys().map(String::as_str);
    server.empties().then(|| members.filter(|member| !server.quiet.contains(*member)).collect())
}

fn of_member<'a>(cluster: ClusterNow<'a>, member: &'a Member) -> Node<'a> {
    let peer = cluster.node.peers.iter().find(|peer| peer.id == member.id);
    let failure = peer.and_then(|peer| peer.failure.as_deref());
    let known = peer.and_then(|peer| peer.known.as_ref());
    let is_this = cluster.node.node == member.id;
    let observes =
        cluster.state.servers().iter().filter_map(|(server, known)| {
            Some((server.as_str(), known.reports.get(&member.id)?.claim.observed))
        });
    Node {
        id: &member.id,
        role: match member.role {
            MemberRole::Voter => "voter",
            MemberRole::Proxy => "proxy",
        },
        votes: cluster.node.voters.contains(&member.raft_id),
        incarnation: member.incarnation,
        raft_id: member.raft_id,
        address: &member.address,
        reachable: failure.is_none(),
        failure,
        version: if is_this { Some(env!("CARGO_PKG_VERSION")) } else { known.map(|known| &*known.version) },
        clock_ahead_ms: known.map(|known| known.clock.ahead_ms),
        observes: observes.collect(),
    }
}

/// Those that have an owner or had one, and those that only the configuration knows yet.
fn endpoints<'a>(cluster: ClusterNow<'a>) -> Vec<Endpoint<'a>> {
    let agreed = cluster.state.endpoints();
    let names: BTreeSet<&str> = agreed
        .keys()
        .map(String::as_str)
        .chain(cluster.endpoints.iter().map(|endpoint| &*endpoint.name))
        .collect();
    let endpoint = |name: &'a str| {
        let known = agreed.get(name);
        let here = cluster.endpoints.iter().find(|endpoint| endpoint.name == name);
        let status = here.and_then(|here| here.status.as_ref());
        let error = here.and_then(|here| here.error.as_deref());
        Endpoint {
            name,
            method: here.map_or("unknown", |here| here.method),
            owner: known.and_then(|known| known.owner.as_deref()),
            epoch: known.map_or(0, |known| known.epoch.0),
            fenced: cluster.state.is_fenced(&Fenced::Endpoint(name.to_owned())),
            state: status.map(|status| status.state),
            reason: status.map(|status| status.reason.code()),
            detail: error.or(status.map(|status| &*status.detail)).unwrap_or_default(),
            phases: status.map_or(&[], |status| &status.phases),
        }
    };
    names.into_iter().map(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::state::{Change, Claim, Command};
    use crate::consensus::node::{About, Known, PeerStatus};
    use crate::topology::Epoch;

    fn state() -> ClusterState {
        let member = |id: &str, raft_id, role| Member {
            id: id.to_owned(),
            raft_id,
            incarnation: 1,
            address: format!("h{id}:7400"),
            role,
        };
        let members = vec![
            member("a", 1, MemberRole::Voter),
            member("b", 2, MemberRole::Voter),
            member("p", 3, MemberRole::Proxy),
        ];
        let claim = Claim { observed: Observed::Down, primary_on: None, ..Claim::default() };
        let mut state = ClusterState::default();
        for change in [
            Change::CreateCluster { cluster_id: "x".to_owned(), members, configuration: "text".to_owned() },
            Change::SetServers { servers: vec!["pg1".to_owned()] },
            Change::ServerReport { server: "pg1".to_owned(), claim },
            Change::AssignEndpoint {
                endpoint: "app".to_owned(),
                epoch: Epoch(0),
                owner: Some("b".to_owned()),
            },
            Change::OpenFence { fenced: Fenced::Endpoint("app".to_owned()), epoch: Epoch(1) },
        ] {
            let (node, cause, reason) = ("a".to_owned(), String::new(), String::new());
            state.apply(Command { at_ms: 0, node, cause, reason, change });
        }
        state
    }

    fn node() -> NodeStatus {
        let peer = |id: &str, failure: Option<&str>| PeerStatus {
            id: id.to_owned(),
            address: format!("h{id}:7400"),
            failure: failure.map(str::to_owned),
            known: (id == "b").then(|| {
                let about = About { version: "0.0.9".to_owned(), wall_ms: 960 };
                Known::new(about, 1_000, 0)
            }),
        };
        NodeStatus {
            node: "a".to_owned(),
            raft_id: Some(1),
            term: 3,
            leader: Some("b".to_owned()),
            lease_remaining_ms: 0,
            voters: BTreeSet::from([1, 2]),
            peers: vec![peer("b", None), peer("p", Some("connection refused"))],
            ..NodeStatus::default()
        }
    }

    fn keys(node: &NodeStatus, endpoints: &[EndpointHere]) -> Value {
        serde_json::to_value(cluster_keys(ClusterNow {
            node,
            state: &state(),
            endpoints,
            jobs: &BTreeMap::new(),
        }))
        .unwrap()
    }

    #[test]
    fn the_cluster_is_told_with_ids_as_text() {
        let told = keys(&node(), &[]);
        assert_eq!((&told["node"], &told["leader"]), (&json!("a"), &json!("b")));
        assert_eq!((&told["term"], &told["lease_remaining_ms"]), (&json!(3), &json!(0)));
        assert_eq!((&told["waiting_for"], &told["configuration_version"]), (&Value::Null, &json!(1)));
        assert_eq!(
            told["nodes"][0],
            json!({ "id": "a", "role": "voter", "votes": true, "incarnation": 1, "raft_id": 1, "address": "ha:7400",
                    "reachable": true, "failure": null, "version": env!("CARGO_PKG_VERSION"),
                    "clock_ahead_ms": null, "observes": { "pg1": "down" } })
        );
        let b = &told["nodes"][1];
        assert_eq!((&b["version"], &b["clock_ahead_ms"]), (&json!("0.0.9"), &json!(-40)));
        let proxy = &told["nodes"][2];
        assert_eq!((&proxy["role"], &proxy["reachable"]), (&json!("proxy"), &json!(false)));
        assert_eq!(proxy["votes"], false);
        assert_eq!(proxy["failure"], "connection refused");
    }

    #[test]
    fn an_endpoint_is_told_by_the_log_and_by_this_node_s_own_loop() {
        let here = |name: &str, error: Option<&str>| EndpointHere {
            name: name.to_owned(),
            method: "command",
            status: None,
            error: error.map(str::to_owned),
            findings: Vec::new(),
        };
        let told = keys(&node(), &[here("app", Some("no metadata")), here("new", None)]);
        assert_eq!(
            told["endpoints"],
            json!([
                { "name": "app", "method": "command", "owner": "b", "epoch": 1, "fenced": true,
                  "state": null, "reason": null, "detail": "no metadata", "phases": [] },
                { "name": "new", "method": "command", "owner": null, "epoch": 0, "fenced": false,
                  "state": null, "reason": null, "detail": "", "phases": [] },
            ])
        );
    }

    #[test]
    fn a_node_that_does_not_take_part_says_why() {
        let mut waiting = node();
        waiting.raft_id = None;
        assert!(keys(&waiting, &[])["waiting_for"].as_str().unwrap().contains("being asked"));
        waiting.waiting_for = "the directory is empty: replace the node".to_owned();
        assert_eq!(keys(&waiting, &[])["waiting_for"], "the directory is empty: replace the node");
    }
}
