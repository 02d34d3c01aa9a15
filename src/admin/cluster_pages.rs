//! Pages of a cluster that only read: the timeline and the configuration's versions.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::refused::Refused;
use super::{AdminState, ClusterPages};
use crate::cluster::state::{MAX_INCIDENTS, Version};

#[derive(Debug, Deserialize)]
pub struct EventsAsked {
    /// Only those that came after this one. None: the latest.
    after: Option<u64>,
    limit: Option<usize>,
}

/// Oldest first.
pub async fn events(State(state): State<AdminState>, which: Query<EventsAsked>) -> Result<Response, Refused> {
    let applied = state.in_cluster()?.handle.applied();
    let incidents = applied.state.incidents();
    let limit = which.limit.unwrap_or(MAX_INCIDENTS);
    let events: Vec<_> = match which.after {
        Some(after) => incidents.after(after).take(limit).collect(),
        None => {
            let mut latest: Vec<_> = incidents.iter().rev().take(limit).collect();
            latest.reverse();
            latest
        }
    };
    let last_id = incidents.last_id();
    Ok(Json(serde_json::json!({ "events": events, "last_id": last_id })).into_response())
}

/// A version without its text.
#[derive(Debug, Serialize)]
struct Head<'a> {
    version: u64,
    at_ms: u64,
    node: &'a str,
    cause: &'a str,
    /// The version whose text it is again.
    back_to: Option<u64>,
}

pub async fn current(State(state): State<AdminState>) -> Result<Response, Refused> {
    let applied = state.in_cluster()?.handle.applied();
    let configuration = applied.state.configuration().current();
    let current = configuration.ok_or_else(|| {
        Refused::not_now("the cluster has no configuration yet: it is being created; try again in a moment")
    })?;
    Ok(Json(current).into_response())
}

/// Latest first.
pub async fn history(State(state): State<AdminState>) -> Result<Response, Refused> {
    let applied = state.in_cluster()?.handle.applied();
    let versions: Vec<_> = applied.state.configuration().versions().rev().map(head).collect();
    Ok(Json(serde_json::json!({ "versions": versions })).into_response())
}

pub async fn version(State(state): State<AdminState>, Path(version): Path<u64>) -> Result<Response, Refused> {
    let applied = state.in_cluster()?.handle.applied();
    let kept = applied.state.configuration().get(version);
    let kept = kept.ok_or_else(|| {
        Refused::not_found(format!(
            "version {version} is not kept any more, or never was; `komainu config history` lists those that are"
        ))
    })?;
    Ok(Json(kept).into_response())
}

fn head(version: &Version) -> Head<'_> {
    let Version { version, at_ms, node, cause, back_to, text: _ } = version;
    Head { version: *version, at_ms: *at_ms, node, cause, back_to: *back_to }
}

impl AdminState {
    /// Else: what to do on a node of its own.
    pub(super) fn in_cluster(&self) -> Result<&ClusterPages, Refused> {
        self.cluster.as_ref().ok_or_else(|| {
            let file = self.configured.borrow().path.display().to_string();
            Refused::conflict(format!(
                "this node is on its own, and that needs a cluster: three nodes, with [cluster] in their configuration \
                 (docs/cluster.md). One on its own goes by {file} alone, which `komainu reload` takes up"
            ))
        })
    }
}
