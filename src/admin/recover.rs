//! The order to make a server a standby again, whatever has become of it.
//!
//! Never does anything to a server: it is quarantined in the log, and the leader has its agent do the rest. Invariant:
//! what serves is not taken out of use by it, unless it is to be built anew.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::json;

use super::AdminState;
use super::change::{Answer, Cause, read};
use super::refused::Refused;
use crate::cluster::model::{Facts, View};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Accepted, Change, ClusterState};
use crate::config::Config;

#[derive(Debug, Deserialize)]
pub struct Order {
    id: String,
    /// Keep nothing of what it has.
    #[serde(default)]
    rebuild: bool,
    #[serde(default)]
    cause: Cause,
}

/// Answered when it has begun.
pub async fn recover(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Order { id, rebuild, cause: Cause(cause) } = read(&body)?;
    let handle = &state.in_cluster()?.handle;
    let (applied, view) = (handle.applied(), state.view.borrow().clone());
    let configured = state.configured.borrow().in_force.clone();
    may_recover(&configured, &applied.state, &view, &id, rebuild).map_err(Refused::conflict)?;
    let version = applied.state.servers().get(&id).map_or(0, |server| server.version);
    let ran_since_ms = answers(&view, &id).map(|facts| facts.started_at_ms);
    let reason = if rebuild { Reason::RebuildOrdered } else { Reason::RecoveryOrdered };
    let change = Change::RecoverServer { server: id.clone(), version, ran_since_ms };
    let order = match handle.propose(change, &cause, reason.code()).await? {
        Accepted::Version(version) => Some(version),
        _ => None,
    };
    Ok(Json(json!({ "id": id, "order": order })).into_response())
}

fn answers<'a>(view: &'a View, id: &str) -> Option<&'a Facts> {
    let (_, detail) = view.find(id)?;
    detail.facts.as_deref().filter(|_| detail.failures == 0)
}

fn may_recover(
    config: &Config,
    state: &ClusterState,
    view: &View,
    id: &str,
    rebuild: bool,
) -> Result<(), String> {
    config.failover.mode.refusal().map_or(Ok(()), Err)?;
    let known: Vec<&str> = config.servers.iter().map(|server| server.id.as_str()).collect();
    let server = config.servers.iter().find(|server| server.id == id);
    let server = server.ok_or_else(|| format!("there is no server {id}; there are: {}", known.join(", ")))?;
    if server.agent.is_none() {
        return Err(format!(
            "{id} has no agent: install one on its host (docs/agent.md), and `komainu config apply` its address as server.agent"
        ));
    }
    let primary = state.primary();
    match primary.server.as_deref() {
        Some(primary) if primary == id => {
            return Err(format!(
                "{id} is the primary: `komainu switchover` makes another one first (`komainu failover --force` only if \
                 it is lost)"
            ));
        }
        Some(_) if state.settled_primary().is_some() => {}
        Some(_) if state.failover().is_some() => {
            return Err("the primary is being replaced; order it again when that is over".to_owned());
        }
        _ => return Err("there is no primary that it could follow; see `komainu status`".to_owned()),
    }
    let streams = |facts: &Facts| {
        facts.receiver.as_ref().is_some_and(|receiver| receiver.timeline == Some(primary.timeline))
    };
    match answers(view, id).is_some_and(streams) {
        true if !rebuild => Err(format!(
            "{id} streams from the primary: there is nothing to recover. `komainu server attach {id}` uses it again if it \
             is not used; with --rebuild it is built anew all the same"
        )),
        _ => Ok(()),
    }
}
