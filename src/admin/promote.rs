//! The order that a certain standby becomes the primary.
//!
//! Never promotes anything: a switchover or a failover goes into the log. Invariant: without force nothing is begun by
//! which an acknowledged commit could be lost.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::json;

use super::AdminState;
use super::change::{Answer, Cause, read};
use super::orders::may_begin;
use super::refused::Refused;
use crate::cluster::model::{Facts, View};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change, ClusterState, FailoverKind, Observed};
use crate::config::Config;
use crate::topology::Lsn;

#[derive(Debug, Deserialize)]
pub struct Order {
    id: String,
    /// Whatever may be lost.
    #[serde(default)]
    force: bool,
    #[serde(default)]
    cause: Cause,
}

/// Answered when it has begun.
pub async fn promote(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Order { id, force, cause: Cause(cause) } = read(&body)?;
    let handle = &state.in_cluster()?.handle;
    let (applied, view) = (handle.applied(), state.view.borrow().clone());
    let configured = state.configured.borrow().in_force.clone();
    let (kind, from) = how(&configured, &applied.state, &view, &id, force).map_err(Refused::conflict)?;
    let (how, reason) = match kind {
        FailoverKind::Switchover => ("switchover", Reason::SwitchoverOrdered),
        _ => ("failover", Reason::FailoverOrdered),
    };
    let epoch = applied.state.primary().epoch;
    handle.propose(Change::BeginFailover { epoch, kind, to: Some(id) }, &cause, reason.code()).await?;
    Ok(Json(json!({ "from": from, "epoch": epoch.0, "how": how, "forced": kind == FailoverKind::Forced }))
        .into_response())
}

/// What it takes, and in whose place. An error: what stands against it.
fn how(
    config: &Config,
    state: &ClusterState,
    view: &View,
    id: &str,
    force: bool,
) -> Result<(FailoverKind, String), String> {
    let forced =
        || Ok((FailoverKind::Forced, may_begin(config, state, view, FailoverKind::Forced, Some(id))?));
    let primary = state.primary().server.as_deref();
    let observed = primary.and_then(|primary| state.servers().get(primary)).map(|server| server.observed);
    match observed {
        Some(Observed::Up) => match may_begin(config, state, view, FailoverKind::Switchover, Some(id)) {
            Ok(from) => Ok((FailoverKind::Switchover, from)),
            Err(_) if force => forced(),
            Err(why) => Err(why),
        },
        _ if force => forced(),
        Some(Observed::Down) => {
            let from = may_begin(config, state, view, FailoverKind::Forced, Some(id))?;
            match loses(state, view, &from, id) {
                Some(what) => Err(format!("{what}. With --force {id} is promoted all the same")),
                None => Ok((FailoverKind::Automatic, from)),
            }
        }
        Some(Observed::Unknown) => Err(format!(
            "the nodes do not agree whether {} lives; see `komainu status`. With --force {id} is promoted all the same",
            primary.unwrap_or("the primary")
        )),
        None => forced(),
    }
}

/// Which commits could be lost with a primary that is down. None: none that was acknowledged.
fn loses(state: &ClusterState, view: &View, from: &str, id: &str) -> Option<String> {
    let position = |facts: &Facts| facts.received_lsn.unwrap_or_default().max(facts.lsn);
    let standbys: Vec<(&str, Lsn)> = state
        .servers()
        .iter()
        .filter(|(other, server)| *other != from && server.administrative == Administrative::Attached)
        .filter_map(|(other, _)| {
            let (_, detail) = view.find(other)?;
            let facts = detail.facts.as_deref().filter(|facts| detail.failures == 0 && facts.in_recovery)?;
            (facts.timeline == state.last_timeline()).then(|| (other.as_str(), position(facts)))
        })
        .collect();
    let Some((_, has)) = standbys.iter().find(|(other, _)| *other == id) else {
        return Some(format!("{id} does not answer this node as a standby on the primary's timeline"));
    };
    let synchronous = state.synchronous();
    if !synchronous.promises() {
        let lacks = view.primary_lsn.0.saturating_sub(has.0);
        return Some(format!(
            "replication is asynchronous: what {from} has acknowledged and not sent would be lost; of what was last seen \
             of it {id} lacks {lacks} bytes"
        ));
    }
    if !synchronous.enough_answer(standbys.iter().map(|(other, _)| *other)) {
        return Some(format!(
            "too few of the synchronous standbys ({synchronous}) answer to be sure that {id} has every acknowledged commit"
        ));
    }
    let ahead = standbys.iter().find(|(other, at)| synchronous.names.contains(*other) && at > has);
    ahead.map(|(other, at)| {
        format!("{other} has received up to {at} and {id} up to {has}: acknowledged commits may be among what it lacks")
    })
}
