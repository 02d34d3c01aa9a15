//! The order to restart servers.
//!
//! Never restarts anything: the plan goes into the log, and the leader carries it out. Invariant: what cannot be done is
//! refused before anything was begun, with what is missing.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::json;

use super::AdminState;
use super::change::{Answer, Cause, read};
use super::refused::Refused;
use crate::cluster::model::View;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Accepted, Administrative, Change, ClusterState, Stage, ToRestart};
use crate::config::{Config, Replication};

#[derive(Debug, Deserialize)]
pub struct Order {
    /// None: all, one after the other, and the primary behind a switchover.
    id: Option<String>,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct Cancel {
    #[serde(default)]
    cause: Cause,
}

/// Answered when it has begun.
pub async fn restart(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Order { id, cause: Cause(cause) } = read(&body)?;
    let handle = &state.in_cluster()?.handle;
    let (applied, view) = (handle.applied(), state.view.borrow().clone());
    let configured = state.configured.borrow().in_force.clone();
    let servers = to_restart(&configured, &applied.state, &view, id.as_deref()).map_err(Refused::conflict)?;
    let names: Vec<_> = servers.iter().map(|to| to.server.clone()).collect();
    let change = Change::BeginRestart { servers, rolling: id.is_none() };
    let id = match handle.propose(change, &cause, Reason::RestartOrdered.code()).await? {
        Accepted::Version(id) => Some(id),
        _ => None,
    };
    Ok(Json(json!({ "id": id, "servers": names })).into_response())
}

pub async fn cancel(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Cancel { cause: Cause(cause) } = read(&body)?;
    let handle = &state.in_cluster()?.handle;
    let applied = handle.applied();
    let id = applied.state.restart().map(|restart| restart.id);
    let id = id.ok_or_else(|| Refused::conflict("nothing is being restarted"))?;
    let change = Change::EndRestart { id, text: format!("cancelled by {cause}") };
    handle.propose(change, &cause, Reason::RestartCancelled.code()).await?;
    Ok(Json(json!({ "id": id })).into_response())
}

/// In which order, and when each was started last. An error: what is missing.
fn to_restart(
    config: &Config,
    state: &ClusterState,
    view: &View,
    id: Option<&str>,
) -> Result<Vec<ToRestart>, String> {
    config.failover.mode.refusal().map_or(Ok(()), Err)?;
    let primary = state.primary();
    let settled = primary.stage == Stage::Confirmed && state.failover().is_none();
    let primary = primary.server.as_deref().filter(|_| settled);
    let primary =
        primary.ok_or("no primary is confirmed, or another one is being made; see `komainu status`")?;
    let known: Vec<&str> = config.servers.iter().map(|server| server.id.as_str()).collect();
    let ids = match id {
        Some(id) if !known.contains(&id) => {
            return Err(format!("there is no server {id}; there are: {}", known.join(", ")));
        }
        Some(id) => vec![id],
        None => {
            // Of one that reads the archive nothing tells that it has caught up: it is restarted by hand.
            let streams = config.servers.iter().filter(|server| server.replication == Replication::Streaming);
            let standbys = streams.map(|server| server.id.as_str()).filter(|id| *id != primary);
            standbys.chain([primary]).collect()
        }
    };
    if id.is_none() && ids.len() == 1 {
        return Err(format!(
            "{primary} is the only server, and nobody can take over meanwhile: `komainu server restart {primary}`"
        ));
    }
    ids.into_iter().map(|id| one(config, state, view, id, id == primary)).collect()
}

fn one(
    config: &Config,
    state: &ClusterState,
    view: &View,
    id: &str,
    is_primary: bool,
) -> Result<ToRestart, String> {
    if config.servers.iter().any(|server| server.id == id && server.agent.is_none()) {
        return Err(format!("{id} has no agent (server.agent in the configuration), which would restart it"));
    }
    let server = state.servers().get(id).ok_or_else(|| format!("{id} is not known to the cluster yet"))?;
    if server.administrative == Administrative::Quarantined {
        return Err(format!("{id} is quarantined ({}): it has to rejoin first", server.order_reason));
    }
    let found = view.find(id).map(|(_, detail)| detail);
    let answers = found.filter(|detail| detail.failures == 0).and_then(|detail| detail.facts.as_deref());
    let Some(facts) = answers else {
        let reason = found.and_then(|detail| detail.reason).map_or("unknown", Reason::code);
        return Err(format!(
            "{id} does not answer this node ({reason}); what does not run is brought back by `komainu server recover`"
        ));
    };
    let streams = facts.receiver.as_ref().is_some_and(|receiver| receiver.status == "streaming");
    if !is_primary && !streams {
        return Err(format!("{id} does not stream from the primary; see `komainu status`"));
    }
    Ok(ToRestart { server: id.to_owned(), started_at_ms: facts.started_at_ms })
}
