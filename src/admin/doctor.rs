//! What would go wrong tonight, as far as this node can tell: the findings that `komainu doctor` prints.
//!
//! Pure. Every node looks from its own place (its permissions, its disk, its certificate, its way to the others), so each
//! has to be asked. Invariant: what was not found out is `unknown`, never `fine`.

mod certificates;
mod failover;

use komainu_escalation::State;
use komainu_escalation::finding::Verdict as Probed;
use serde::Serialize;

use super::cluster_status::{ClusterNow, EndpointHere};
use crate::cluster::model::{Detail, View};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Fenced, MemberRole};
use crate::config::Config;
use crate::config::reload;
use crate::config::shared;
use crate::consensus::node::ClockApart;
use crate::topology::{Health, ServerState};

pub use certificates::Certificates;
pub use failover::Readiness;

/// With fewer the loss of one stops all.
const ENOUGH_VOTERS: usize = 3;

/// Further apart, and people are misled.
const CLOCKS_APART_MS: u64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Fine,
    Wrong,
    /// Could not be found out.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `cluster`, `node`, `clock`, `version`, `server`, `server_user`, `instances`, `endpoint`, `certificate`, `lease` or `configuration`.
    pub about: &'static str,
    pub subject: String,
    pub verdict: Verdict,
    pub text: String,
}

/// What a node of a cluster has beside its view of the servers.
pub struct Examined<'a> {
    pub now: ClusterNow<'a>,
    /// What is to be said of the one that this node shows its peers.
    pub certificate: Option<String>,
    pub local: &'a Config,
    pub in_force: &'a Config,
    /// What the cluster agreed on, or why this node cannot use it.
    pub agreed: Result<Config, String>,
    /// By server, whether AWS would stop its host.
    pub hosts: Vec<(String, Vec<komainu_escalation::Finding>)>,
    /// Of each server, if komainu fails over.
    pub readiness: Vec<Readiness>,
}

/// `examined`: none on a node of its own.
pub fn examine(view: &View, files: &Certificates, examined: Option<&Examined<'_>>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(examined) = examined {
        membership(&mut findings, examined.now);
        peers(&mut findings, examined.now);
        lease(&mut findings, examined);
    }
    certificates::certificates(&mut findings, files, examined);
    primary(&mut findings, view);
    if let Some(examined) = examined {
        connections(&mut findings, view, examined);
    }
    archive(&mut findings, view);
    view.snapshot
        .servers
        .iter()
        .zip(&view.details)
        .for_each(|(state, detail)| server(&mut findings, state, detail));
    if let Some(examined) = examined {
        examined.now.endpoints.iter().for_each(|here| endpoint(&mut findings, examined.now, here));
        for (server, found) in &examined.hosts {
            let mut say = |verdict, text: String| add(&mut findings, "server", server, verdict, text);
            found.iter().for_each(|found| probed(found, &mut say));
        }
        failover::failover(&mut findings, view, examined);
        configuration(&mut findings, examined);
    }
    findings
}

fn add(
    findings: &mut Vec<Finding>,
    about: &'static str,
    subject: &str,
    verdict: Verdict,
    text: impl Into<String>,
) {
    findings.push(Finding { about, subject: subject.to_owned(), verdict, text: text.into() });
}

fn membership(findings: &mut Vec<Finding>, now: ClusterNow<'_>) {
    let ClusterNow { node, state, .. } = now;
    let (verdict, text) = match (&*node.waiting_for, &node.leader) {
        ("", Some(leader)) => (Verdict::Fine, format!("{leader} leads, term {}", node.term)),
        ("", None) => (Verdict::Wrong, "no leader is known: most voters must reach each other".to_owned()),
        (reason, _) => (Verdict::Wrong, format!("this node does not take part: {reason}")),
    };
    add(findings, "cluster", state.cluster_id(), verdict, text);
    let voters = state.members().values().filter(|member| member.role == MemberRole::Voter).count();
    if voters < ENOUGH_VOTERS {
        let text = format!("{voters} voter(s): the loss of one stops all; have three, in three zones");
        add(findings, "cluster", "voters", Verdict::Wrong, text);
    }
    if let Some(what) = state.rejected() {
        let text =
            format!("a leader's decision would have broken an invariant and was not done: {what}; report it");
        add(findings, "cluster", "plan", Verdict::Wrong, text);
    }
    for peer in &node.peers {
        let (verdict, text) = match &peer.failure {
            None => (Verdict::Fine, format!("{} is reached", peer.address)),
            Some(failure) => {
                (Verdict::Wrong, format!("{} cannot be reached from here: {failure}", peer.address))
            }
        };
        add(findings, "node", &peer.id, verdict, text);
    }
}

/// Of those that answer now: what an old answer says may have been mended since.
fn peers(findings: &mut Vec<Finding>, now: ClusterNow<'_>) {
    const OURS: &str = env!("CARGO_PKG_VERSION");
    let answering = now.node.peers.iter().filter(|peer| peer.failure.is_none());
    for (id, known) in answering.filter_map(|peer| Some((&*peer.id, peer.known.as_ref()?))) {
        let ClockApart { ahead_ms, .. } = known.clock;
        let (verdict, text) = if known.clock.at_least_ms() > CLOCKS_APART_MS {
            let seconds = ahead_ms.unsigned_abs() as f64 / 1000.0;
            let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
            let text = format!(
                "its clock is {seconds:.1} s {way} this node's: the timeline and the logs do not fit together; run NTP on \
                 both (no decision depends on it)"
            );
            (Verdict::Wrong, text)
        } else {
            (Verdict::Fine, "its clock goes as this node's does".to_owned())
        };
        add(findings, "clock", id, verdict, text);
        let (verdict, text) = match known.version == OURS {
            true => (Verdict::Fine, format!("it runs komainu {OURS}, as this node does")),
            false => {
                let theirs = &known.version;
                (Verdict::Wrong, format!("it runs komainu {theirs}, this node {OURS}: finish the upgrade"))
            }
        };
        add(findings, "version", id, verdict, text);
    }
}

fn lease(findings: &mut Vec<Finding>, examined: &Examined<'_>) {
    let node = examined.now.node;
    let Some(cluster) = &examined.in_force.cluster else { return };
    let settings = &cluster.lease;
    let (verdict, text) = match settings.check() {
        Err(error) => (Verdict::Wrong, error.to_string()),
        Ok(()) if node.lease_remaining_ms == 0 => {
            (Verdict::Wrong, "this node has no lease: it writes nothing and owns no endpoint".to_owned())
        }
        Ok(()) => (
            Verdict::Fine,
            format!(
                "{} ms, {} ms margin: clocks may differ in rate by {} in a thousand",
                settings.lease_ms,
                settings.drift_margin_ms,
                settings.drift_per_mille()
            ),
        ),
    };
    add(findings, "lease", &node.node, verdict, text);
}

fn primary(findings: &mut Vec<Finding>, view: &View) {
    let paused = view.paused_primary.and_then(|index| view.snapshot.server(index));
    let (verdict, subject, text) = match (view.snapshot.primary_server(), paused) {
        (Some(primary), _) => {
            let text = format!("it is the primary of epoch {}", view.snapshot.epoch.0);
            (Verdict::Fine, primary.id.to_string(), text)
        }
        (None, Some(paused)) => {
            let id = &paused.id;
            let text = format!(
                "it is the primary and paused by order: what begins there waits; `komainu server resume {id}` ends that"
            );
            (Verdict::Wrong, id.to_string(), text)
        }
        (None, None) => {
            let why = view.no_primary.map_or("it is not known why".to_owned(), with_code);
            (Verdict::Wrong, "primary".to_owned(), format!("there is none: {why}"))
        }
    };
    add(findings, "server", &subject, verdict, text);
}

/// By the code it is found in the documentation.
fn with_code(reason: Reason) -> String {
    format!("{} ({})", reason.sentence(), reason.code())
}

/// Whether the pools of all nodes and proxies together fit.
fn connections(findings: &mut Vec<Finding>, view: &View, examined: &Examined<'_>) {
    let nodes = examined.now.state.members().len().max(1);
    let each = examined.in_force.pool.max_server_connections;
    for (server, detail) in view.snapshot.servers.iter().zip(&view.details) {
        let Some(there) = detail.facts.as_deref().and_then(|facts| facts.connections) else { continue };
        let there = usize::try_from(there).unwrap_or(usize::MAX);
        if nodes * each > there {
            let text = format!(
                "{nodes} nodes may open {} connections to it, and it has {there} (max_connections less the reserved ones): \
                 lower pool.max_server_connections from {each} to less than {}, or raise max_connections",
                nodes * each,
                (there / nodes).max(2)
            );
            add(findings, "server", &server.id, Verdict::Wrong, text);
        }
    }
}

/// What standbys by log shipping live on.
fn archive(findings: &mut Vec<Finding>, view: &View) {
    let Some(primary) = view.snapshot.primary_server() else { return };
    let Some((_, detail)) = view.find(&primary.id) else { return };
    let archive = detail.facts.as_deref().and_then(|facts| facts.archive.as_ref());
    let shipped: Vec<&str> = view
        .snapshot
        .servers
        .iter()
        .zip(&view.details)
        .filter(|(_, detail)| detail.replication_state.as_deref() == Some("archive"))
        .map(|(server, _)| &*server.id)
        .collect();
    let (verdict, text) = match archive {
        None if shipped.is_empty() => return,
        None => {
            let text = format!(
                "it archives nothing, and {} has nothing else to follow by: set archive_mode and archive_command",
                shipped.join(", ")
            );
            (Verdict::Wrong, text)
        }
        Some(archive) if archive.fails => {
            let text = "its archive_command fails, so WAL piles up there: its log says why".to_owned();
            (Verdict::Wrong, text)
        }
        Some(archive) => {
            let last = archive.last.as_deref().unwrap_or("nothing yet");
            (Verdict::Fine, format!("it archives; the last file was {last}"))
        }
    };
    add(findings, "server", &primary.id, verdict, text);
}

fn server(findings: &mut Vec<Finding>, state: &ServerState, detail: &Detail) {
    let (verdict, text) = match (state.health, detail.reason) {
        (Health::Up, None) => return,
        (Health::Unknown, _) => (Verdict::Unknown, state.reason.to_string()),
        (Health::Up, Some(reason)) => (Verdict::Wrong, with_code(reason)),
        (Health::Down, Some(reason)) => (Verdict::Wrong, format!("{} ({})", state.reason, reason.code())),
        (Health::Down, None) => (Verdict::Wrong, state.reason.to_string()),
    };
    add(findings, "server", &state.id, verdict, text);
}

fn endpoint(findings: &mut Vec<Finding>, now: ClusterNow<'_>, here: &EndpointHere) {
    let mut say = |verdict, text: String| add(findings, "endpoint", &here.name, verdict, text);
    let owner = now.state.endpoints().get(&here.name).and_then(|known| known.owner.as_deref());
    match owner {
        Some(_) if now.state.is_fenced(&Fenced::Endpoint(here.name.clone())) => {
            say(Verdict::Unknown, "it is on its way to another node".to_owned());
        }
        Some(owner) => say(Verdict::Fine, format!("{owner} owns it")),
        None => say(Verdict::Wrong, "nobody owns it".to_owned()),
    }
    if let Some(error) = &here.error {
        say(Verdict::Wrong, format!("this node could not take it: {error}"));
    }
    if let Some(status) = &here.status
        && matches!(status.state, State::Blocked | State::Failed)
    {
        let detail = if status.detail.is_empty() { String::new() } else { format!(" ({})", status.detail) };
        say(Verdict::Wrong, format!("{}{detail}", status.reason.sentence()));
    }
    for found in &here.findings {
        probed(found, &mut say);
    }
}

/// Of roles whose passwords AWS gives.
pub fn server_users(found: &[(String, komainu_escalation::Finding)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (user, found) in found {
        probed(found, |verdict, text| add(&mut findings, "server_user", user, verdict, text));
    }
    findings
}

/// Of the API that says which servers there are.
pub fn instances(found: &komainu_escalation::Finding) -> Vec<Finding> {
    let mut findings = Vec::new();
    probed(found, |verdict, text| add(&mut findings, "instances", "rds", verdict, text));
    findings
}

/// What was found when something was tried without doing it.
fn probed(found: &komainu_escalation::Finding, mut say: impl FnMut(Verdict, String)) {
    let subject = &found.subject;
    match &found.verdict {
        Probed::Fine => say(Verdict::Fine, subject.clone()),
        Probed::Wrong { reason, detail } if detail.is_empty() => {
            say(Verdict::Wrong, format!("{subject}: {}", reason.sentence()));
        }
        Probed::Wrong { reason, detail } => {
            say(Verdict::Wrong, format!("{subject}: {} ({detail})", reason.sentence()));
        }
        Probed::Unknown { detail } => say(Verdict::Unknown, format!("{subject}: {detail}")),
    }
}

fn configuration(findings: &mut Vec<Finding>, examined: &Examined<'_>) {
    let version = format!("version {}", examined.now.state.configuration().version());
    let agreed = match &examined.agreed {
        Ok(agreed) => agreed,
        Err(problem) => return add(findings, "configuration", &version, Verdict::Wrong, problem.clone()),
    };
    let differs = shared::differences(examined.local, agreed);
    let next = shared::in_force(examined.local, agreed.clone());
    let waiting = reload::diff(examined.in_force, &next).into_iter().filter(|change| !change.live);
    let waiting: Vec<_> = waiting.map(|change| change.key).collect();
    let before = findings.len();
    if !differs.is_empty() {
        let text = format!(
            "this node's file says otherwise, which does not count: {}; `komainu config show` has what counts",
            differs.join(", ")
        );
        add(findings, "configuration", &version, Verdict::Wrong, text);
    }
    if !waiting.is_empty() {
        let text = format!("this node must be restarted before these are in force: {}", waiting.join(", "));
        add(findings, "configuration", &version, Verdict::Wrong, text);
    }
    if findings.len() == before {
        add(
            findings,
            "configuration",
            &version,
            Verdict::Fine,
            "it is in force, and this node's file agrees",
        );
    }
}

#[cfg(test)]
mod tests;
