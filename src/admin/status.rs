//! The `/status` document: the view as JSON, for people, scripts and the sandbox.
//!
//! Pure. Invariant: keys are only ever added; ages are in milliseconds before the answer.

use serde::Serialize;

use super::cluster_status::{ClusterKeys, ClusterNow, busy_on, cluster_keys, of_server};
use super::rejoining::{self, JobKeys};
use crate::cluster::missing_standbys::missing_standbys;
use crate::cluster::model::{Detail, Facts, View};
use crate::cluster::state::{Administrative, Observed};
use crate::topology::{Health, Role, ServerState};

#[derive(Debug, Serialize)]
pub struct Status<'a> {
    version: &'static str,
    epoch: u64,
    /// The primary's id.
    primary: Option<&'a str>,
    /// It, if it is paused by order: `primary` is none, then.
    paused_primary: Option<&'a str>,
    /// Why there is none.
    reason: Option<&'static str>,
    /// How many more standbys commits wait for than stream from the primary. None: it does not answer, or they wait for none.
    standbys_missing: Option<u32>,
    /// How long the process has run.
    uptime_ms: u64,
    servers: Vec<Server<'a>>,
    #[serde(flatten)]
    cluster: ClusterKeys<'a>,
}

#[derive(Debug, Serialize)]
struct Server<'a> {
    id: &'a str,
    host: &'a str,
    port: u16,
    weight: u32,
    zone: Option<&'a str>,
    role: &'static str,
    /// The role it claims itself.
    says: &'static str,
    health: &'static str,
    reason: Option<&'static str>,
    message: &'a str,
    timeline: u32,
    lsn: String,
    lag_bytes: Option<u64>,
    lag_ms: Option<u64>,
    replication_state: Option<&'a str>,
    sync_state: Option<&'a str>,
    /// Of a primary that archives.
    archive: Option<Archived<'a>>,
    postgres_version: Option<u32>,
    system_identifier: Option<String>,
    /// How long role, health and reason have been as they are.
    since_ms: u64,
    /// Age of the last answer; none if there never was one.
    observed_ms: Option<u64>,
    /// What was ordered of it; none outside a cluster.
    administrative: Option<Administrative>,
    paused: Option<bool>,
    /// Of one that is paused, drained or detached: the nodes that may still have clients' connections to it.
    busy_on: Option<Vec<&'a str>>,
    /// How most voters find it.
    observed: Option<Observed>,
    /// What its agent is at to make it a standby again, if it is out of use or down.
    job: Option<JobKeys<'a>>,
}

#[derive(Debug, Serialize)]
struct Archived<'a> {
    /// The last file.
    last: Option<&'a str>,
    age_ms: Option<u64>,
    /// The last attempt failed.
    fails: bool,
}

/// `cluster`: none on a node of its own.
pub fn status<'a>(view: &'a View, now_ms: u64, cluster: Option<ClusterNow<'a>>) -> Status<'a> {
    let snapshot = &view.snapshot;
    let servers = snapshot.servers.iter().zip(&view.details);
    Status {
        version: env!("CARGO_PKG_VERSION"),
        epoch: snapshot.epoch.0,
        primary: snapshot.primary_server().map(|server| &*server.id),
        paused_primary: view.paused_primary.and_then(|it| snapshot.server(it)).map(|server| &*server.id),
        reason: view.no_primary.map(|reason| reason.code()),
        standbys_missing: missing_standbys(view),
        uptime_ms: now_ms,
        servers: servers.map(|(state, detail)| server(state, detail, now_ms, cluster)).collect(),
        cluster: cluster.map(cluster_keys).unwrap_or_default(),
    }
}

fn server<'a>(
    state: &'a ServerState,
    detail: &'a Detail,
    now_ms: u64,
    cluster: Option<ClusterNow<'a>>,
) -> Server<'a> {
    let answered = detail.system_identifier.is_some();
    let agreed = cluster.and_then(|cluster| of_server(cluster, &state.id));
    Server {
        id: &state.id,
        host: &state.host,
        port: state.port,
        weight: state.weight,
        zone: state.zone.as_deref(),
        role: role(state.role),
        says: role(detail.says),
        health: match state.health {
            Health::Up => "up",
            Health::Down => "down",
            Health::Unknown => "unknown",
        },
        reason: detail.reason.map(|reason| reason.code()),
        message: &state.reason,
        timeline: state.timeline,
        lsn: state.lsn.to_string(),
        lag_bytes: state.lag_bytes,
        lag_ms: state.lag_ms,
        replication_state: detail.replication_state.as_deref(),
        sync_state: detail.sync_state.as_deref(),
        archive: detail.facts.as_deref().and_then(|facts| archived(facts, now_ms)),
        postgres_version: detail.version,
        // 64 bits do not fit JavaScript's numbers.
        system_identifier: detail.system_identifier.map(|identifier| identifier.to_string()),
        since_ms: now_ms.saturating_sub(detail.since_ms),
        observed_ms: answered.then(|| now_ms.saturating_sub(state.observed_at_ms)),
        administrative: agreed.map(|agreed| agreed.administrative),
        paused: agreed.map(|agreed| agreed.paused),
        busy_on: cluster.zip(agreed).and_then(|(cluster, agreed)| busy_on(cluster, agreed)),
        observed: agreed.map(|agreed| agreed.observed),
        job: cluster.and_then(|cluster| cluster.jobs.get(&*state.id)).map(rejoining::job),
    }
}

fn archived(facts: &Facts, now_ms: u64) -> Option<Archived<'_>> {
    let archive = facts.archive.as_ref()?;
    Some(Archived {
        last: archive.last.as_deref(),
        age_ms: facts.archived_ms_ago(now_ms),
        fails: archive.fails,
    })
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Standby => "standby",
        Role::Unknown => "unknown",
    }
}
