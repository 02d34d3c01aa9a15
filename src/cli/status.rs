//! `komainu status`: the cluster as one of its nodes sees it, and what is wrong with it.

use std::io::{self, Write as _};

use clap::Args;
use serde::Deserialize;

use super::ask::{Ask, AskError, Done};
use super::text::{bytes, span, table};

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    ask: Ask,
}

/// `/status`, as far as people are shown it.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub version: String,
    pub node: Option<String>,
    pub leader: Option<String>,
    pub term: Option<u64>,
    pub lease_remaining_ms: Option<u64>,
    pub waiting_for: Option<String>,
    pub configuration_version: Option<u64>,
    #[serde(default)]
    pub configuration_unusable: Option<u64>,
    pub log_format: Option<u32>,
    pub log_format_known: Option<u32>,
    pub epoch: u64,
    pub primary: Option<String>,
    #[serde(default)]
    pub paused_primary: Option<String>,
    pub reason: Option<String>,
    #[serde(default)]
    pub standbys_missing: Option<u32>,
    pub uptime_ms: u64,
    pub nodes: Vec<Node>,
    pub servers: Vec<Server>,
    pub endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub failover: Option<Failover>,
    #[serde(default)]
    pub restart: Option<Restart>,
    pub plan_rejected: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Restart {
    pub under_way: Option<Restarting>,
    pub last: Option<RestartEnd>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Restarting {
    pub id: u64,
    pub steps: Vec<RestartStep>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RestartStep {
    pub server: String,
    pub stage: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RestartEnd {
    pub id: u64,
    pub reason: String,
    pub text: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Failover {
    pub paused: bool,
    pub standstill: Option<String>,
    pub under_way: Option<UnderWay>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct UnderWay {
    pub kind: String,
    pub from: String,
    pub to: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    pub id: String,
    pub role: String,
    pub incarnation: u64,
    pub address: String,
    pub reachable: bool,
    pub failure: Option<String>,
    pub version: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Server {
    pub id: String,
    pub role: String,
    pub health: String,
    pub reason: Option<String>,
    pub administrative: Option<String>,
    #[serde(default)]
    pub paused: Option<bool>,
    #[serde(default)]
    pub busy_on: Option<Vec<String>>,
    pub observed: Option<String>,
    pub lag_bytes: Option<u64>,
    pub since_ms: u64,
    #[serde(default)]
    pub job: Option<Job>,
}

/// Of its agent.
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    pub order: u64,
    pub way: Option<String>,
    pub phase: String,
    pub bytes_done: Option<u64>,
    pub bytes_total: Option<u64>,
    pub outcome: Option<String>,
    pub error: Option<String>,
}

impl Job {
    /// While it is under way: what it does, and how much of it is done.
    fn in_words(&self) -> String {
        match (self.bytes_done, self.bytes_total) {
            (Some(done), Some(total)) => format!("{} {} of {}", self.phase, bytes(done), bytes(total)),
            _ => self.phase.clone(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct Endpoint {
    pub name: String,
    pub method: String,
    pub owner: Option<String>,
    pub epoch: u64,
    pub fenced: bool,
    pub state: Option<String>,
    pub reason: Option<String>,
    pub detail: String,
}

impl Server {
    /// Why it is not used, or what was ordered of it.
    fn why(&self) -> Option<String> {
        let ordered = self.administrative.as_deref().filter(|ordered| *ordered != "attached");
        let is_empty = self.busy_on.as_ref().is_some_and(Vec::is_empty);
        let ordered = match ordered {
            Some("draining") if is_empty => Some("drained"),
            ordered => ordered,
        };
        let paused = (self.paused == Some(true)).then_some("paused");
        let mut words: Vec<String> = paused.into_iter().chain(ordered).map(str::to_owned).collect();
        if words.is_empty() {
            return self.reason.clone();
        }
        if let Some(busy_on) = self.busy_on.as_ref().filter(|busy_on| !busy_on.is_empty()) {
            words.push(format!("in use by {}", busy_on.join(", ")));
        }
        Some(words.join(", "))
    }
}

impl Status {
    /// The other nodes are asked first, so that it says how it is now.
    pub const PATH: &str = "/status?ask=true";

    /// What needs somebody.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(reason) = &self.waiting_for {
            problems.push(format!("this node does not take part: {reason}"));
        }
        if let Some(version) = self.configuration_unusable {
            problems.push(format!(
                "this node cannot use version {version} of the cluster's configuration: its log names what it does not know"
            ));
        }
        if self.node.is_some() && self.leader.is_none() {
            problems.push("there is no leader: most voters must reach each other".to_owned());
        }
        if let Some(id) = &self.paused_primary {
            problems.push(format!(
                "{id} is paused by order: what begins there waits; `komainu server resume {id}` ends that"
            ));
        } else if self.primary.is_none() {
            let reason = self.reason.as_deref().unwrap_or("unknown");
            problems.push(format!("there is no primary: {reason}"));
        }
        if let Some(missing @ 1..) = self.standbys_missing {
            let more = match missing {
                1 => "one more standby streams".to_owned(),
                more => format!("{more} more standbys stream"),
            };
            problems.push(format!("commits wait until {more} from the primary"));
        }
        if let Some(reason) = self.failover.as_ref().and_then(|failover| failover.standstill.as_deref()) {
            problems.push(format!("the primary is not replaced: {reason}"));
        }
        if let Some(what) = &self.plan_rejected {
            problems.push(format!("a decision was rejected: {what}"));
        }
        let without_owner = self.endpoints.iter().filter(|endpoint| endpoint.owner.is_none());
        problems.extend(without_owner.map(|endpoint| format!("nobody owns endpoint {}", endpoint.name)));
        let silent = self.nodes.iter().filter(|node| !node.reachable);
        problems.extend(silent.map(|node| {
            format!("{} cannot be reached: {}", node.id, node.failure.as_deref().unwrap_or("unknown"))
        }));
        problems
    }
}

pub fn run(args: &StatusArgs) -> Result<Done, AskError> {
    let answer = args.ask.get::<Status>(Status::PATH)?;
    args.ask.print(&answer, render)?;
    let problems = answer.content.problems();
    for problem in &problems {
        writeln!(io::stderr(), "problem: {problem}")?;
    }
    Ok(if problems.is_empty() { Done::Fine } else { Done::Alarm })
}

/// What is out of the ordinary.
fn failover(status: &Status) -> String {
    let Some(failover) = &status.failover else { return String::new() };
    let paused = if failover.paused { ", automatic failover is paused" } else { "" };
    match &failover.under_way {
        Some(UnderWay { kind, from, to }) => {
            let to = to.as_deref().map_or(String::new(), |to| format!(" to {to}"));
            let what = match &**kind {
                "switchover" | "restart" => kind.clone(),
                _ => format!("{kind} failover"),
            };
            format!(", {what} from {from}{to} is under way{paused}")
        }
        None => paused.to_owned(),
    }
}

/// Which of how many servers is being restarted.
fn restart(status: &Status) -> String {
    let Some(Restarting { steps, .. }) = status.restart.as_ref().and_then(|it| it.under_way.as_ref()) else {
        return String::new();
    };
    let done = steps.iter().filter(|step| step.stage == "done").count();
    match steps.iter().find(|step| step.stage != "done") {
        Some(RestartStep { server, stage }) => {
            format!(", restart of {server} ({} of {}, {stage}) is under way", done + 1, steps.len())
        }
        None => String::new(),
    }
}

/// Only while it is behind what this node knows: an older version may still come back, and something new waits.
fn log_format(status: &Status) -> String {
    match (status.log_format, status.log_format_known) {
        (Some(now), Some(known)) if now < known => format!(" (log format {now}, it knows {known})"),
        _ => String::new(),
    }
}

fn render(status: &Status) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let mut text = match &status.node {
        Some(node) => format!(
            "node {node}, leader {}, term {}, lease {} ms, configuration {}, komainu {}{}, up {}\n",
            status.leader.as_deref().unwrap_or("-"),
            number(status.term),
            number(status.lease_remaining_ms),
            number(status.configuration_version),
            status.version,
            log_format(status),
            span(status.uptime_ms)
        ),
        None => format!("a node of its own, komainu {}, up {}\n", status.version, span(status.uptime_ms)),
    };
    let primary = status.primary.as_deref().or(status.paused_primary.as_deref()).unwrap_or("-");
    let paused = if status.paused_primary.is_some() { ", paused by order" } else { "" };
    let under_way = failover(status) + &restart(status);
    text += &format!("primary {primary}, epoch {}{paused}{under_way}\n", status.epoch);
    if !status.nodes.is_empty() {
        text += &format!("\n{}", nodes(status));
    }
    text += &format!("\n{}", servers(status));
    if !status.endpoints.is_empty() {
        text += &format!("\n{}", endpoints(status));
    }
    text
}

pub fn nodes(status: &Status) -> String {
    let row = |node: &Node| {
        let is = |id: &Option<String>| id.as_deref() == Some(&*node.id);
        let place = match (is(&status.leader), is(&status.node)) {
            (true, true) => "leads, this one",
            (true, false) => "leads",
            (false, true) => "this one",
            (false, false) => "",
        };
        let reached = match &node.failure {
            Some(failure) => format!("no: {failure}"),
            None => "yes".to_owned(),
        };
        let incarnation = node.incarnation.to_string();
        let version = node.version.clone().unwrap_or_default();
        [
            node.id.clone(),
            node.role.clone(),
            place.to_owned(),
            incarnation,
            version,
            node.address.clone(),
            reached,
        ]
    };
    let rows: Vec<_> = status.nodes.iter().map(row).collect();
    table(["NODE", "ROLE", "", "LIFE", "VERSION", "ADDRESS", "REACHED"], &rows)
}

fn servers(status: &Status) -> String {
    let row = |server: &Server| {
        let at = match &server.job {
            Some(Job { error: Some(_), .. }) => Some("rejoin_failed".to_owned()),
            Some(job) if job.outcome.is_none() => Some(job.in_words()),
            _ => None,
        };
        let why: Vec<String> = server.why().into_iter().chain(at).collect();
        [
            server.id.clone(),
            server.role.clone(),
            server.health.clone(),
            server.observed.clone().unwrap_or_default(),
            server.lag_bytes.map(bytes).unwrap_or_default(),
            span(server.since_ms),
            why.join(", "),
        ]
    };
    let rows: Vec<_> = status.servers.iter().map(row).collect();
    table(["SERVER", "ROLE", "HEALTH", "MOST FIND IT", "LAG", "SINCE", "REASON"], &rows)
}

pub fn endpoints(status: &Status) -> String {
    let row = |endpoint: &Endpoint| {
        let owner = endpoint.owner.clone().unwrap_or_default();
        let here = match (&endpoint.state, &endpoint.reason) {
            (Some(state), Some(reason)) if state != reason => format!("{state}: {reason}"),
            (Some(state), _) => state.clone(),
            (None, _) => endpoint.detail.clone(),
        };
        let owner = if endpoint.fenced { format!("{owner} (moving)") } else { owner };
        [endpoint.name.clone(), endpoint.method.clone(), owner, endpoint.epoch.to_string(), here]
    };
    let rows: Vec<_> = status.endpoints.iter().map(row).collect();
    table(["ENDPOINT", "METHOD", "OWNER", "EPOCH", "ON THIS NODE"], &rows)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn sample() -> Status {
        serde_json::from_str(
            r#"{"version": "0.1.0", "node": "a", "leader": "b", "term": 4, "lease_remaining_ms": 743,
            "waiting_for": null, "configuration_version": 2, "epoch": 1, "primary": "pg1", "reason": null,
            "uptime_ms": 125000,
            "nodes": [
              {"id": "a", "role": "voter", "incarnation": 1, "address": "10.0.1.10:7400", "reachable": true,
               "failure": null, "version": "0.1.0", "clock_ahead_ms": null},
              {"id": "b", "role": "voter", "incarnation": 2, "address": "10.0.2.10:7400", "reachable": true,
               "failure": null, "version": null, "clock_ahead_ms": null}],
            "servers": [
              {"id": "pg1", "role": "primary", "health": "up", "reason": null, "administrative": "attached",
               "observed": "up", "lag_bytes": null, "since_ms": 5000},
              {"id": "pg2", "role": "standby", "health": "down", "reason": "timeout",
               "administrative": "attached", "observed": "unknown", "lag_bytes": 20480, "since_ms": 1000}],
            "endpoints": [
              {"name": "app", "method": "route-table", "owner": "b", "epoch": 3, "fenced": false,
               "state": "released", "reason": "released", "detail": ""}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn people_see_the_cluster_at_a_glance() {
        assert_eq!(
            render(&sample()),
            "node a, leader b, term 4, lease 743 ms, configuration 2, komainu 0.1.0, up 2 min\n\
             primary pg1, epoch 1\n\n\
             NODE  ROLE             LIFE  VERSION  ADDRESS         REACHED\n\
             a     voter  this one  1     0.1.0    10.0.1.10:7400  yes\n\
             b     voter  leads     2     -        10.0.2.10:7400  yes\n\n\
             SERVER  ROLE     HEALTH  MOST FIND IT  LAG     SINCE  REASON\n\
             pg1     primary  up      up            -       5 s    -\n\
             pg2     standby  down    unknown       20 KiB  1 s    timeout\n\n\
             ENDPOINT  METHOD       OWNER  EPOCH  ON THIS NODE\n\
             app       route-table  b      3      released\n"
        );
        assert_eq!(sample().problems(), [""; 0], "a standby that is down is no alarm of the cluster's");
    }

    #[test]
    fn what_is_restarted_and_what_rejoins_is_told() {
        let mut status = sample();
        status.restart = serde_json::from_str(
            r#"{"under_way": {"id": 3, "steps": [{"server": "pg2", "stage": "done"}, {"server": "pg1", "stage": "switching"}]},
                "last": null}"#,
        )
        .unwrap();
        let job = r#"{"order": 5, "way": "rebuild", "phase": "copying", "bytes_done": 2048, "bytes_total": 20480,
                      "outcome": null, "error": null}"#;
        status.servers[1].job = serde_json::from_str(job).unwrap();
        let text = render(&status);
        assert!(text.contains("epoch 1, restart of pg1 (2 of 2, switching) is under way\n"), "{text}");
        assert!(text.contains("timeout, copying 2048 B of 20 KiB\n"), "{text}");
        status.servers[1].job.as_mut().unwrap().error = Some("no space left".to_owned());
        assert!(render(&status).contains("timeout, rejoin_failed\n"));
        status.servers[1].reason = None;
        assert!(render(&status).contains("  rejoin_failed\n"), "{}", render(&status));
    }

    #[test]
    fn whatever_needs_somebody_is_a_problem() {
        let with = |change: fn(&mut Status)| {
            let mut status = sample();
            change(&mut status);
            status.problems().join("; ")
        };
        assert!(with(|status| status.leader = None).contains("no leader"));
        assert!(with(|status| status.primary = None).contains("no primary"));
        let pause = |status: &mut Status| status.paused_primary = status.primary.take();
        let told = with(pause);
        assert!(told.starts_with("pg1 is paused by order") && !told.contains("no primary"), "{told}");
        let mut paused = sample();
        pause(&mut paused);
        assert!(render(&paused).contains("\nprimary pg1, epoch 1, paused by order\n"));
        assert_eq!(
            with(|status| status.standbys_missing = Some(1)),
            "commits wait until one more standby streams from the primary"
        );
        assert_eq!(with(|status| status.standbys_missing = Some(0)), "");
        assert!(with(|status| status.endpoints[0].owner = None).contains("nobody owns endpoint app"));
        assert!(with(|status| status.waiting_for = Some("the disk is full".to_owned())).contains("full"));
        assert!(with(|status| status.configuration_unusable = Some(3)).contains("cannot use version 3 of"));
        let unreachable = with(|status| {
            status.nodes[1].reachable = false;
            status.nodes[1].failure = Some("connection refused".to_owned());
        });
        assert_eq!(unreachable, "b cannot be reached: connection refused");
    }

    #[test]
    fn a_node_of_its_own_has_no_cluster_to_be_wrong() {
        let mut status = sample();
        (status.node, status.leader) = (None, None);
        (status.nodes, status.endpoints) = (Vec::new(), Vec::new());
        assert_eq!(status.problems(), [""; 0]);
        let text = render(&status);
        assert!(
            text.starts_with("a node of its own, komainu 0.1.0, up 2 min\nprimary pg1, epoch 1\n\nSERVER")
        );
    }
}
