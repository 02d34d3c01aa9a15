//! Orders that concern the PostgreSQL servers: another primary, and which servers are used.
//!
//! Never does anything to a server: an order becomes a command of the log, and the leader carries it out. Invariant:
//! what cannot be done is refused before anything was begun, with what is missing.

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
use crate::cluster::state::{Administrative, Change, ClusterState, Failover, FailoverKind, Stage};
use crate::cluster::sync_set::SyncSet;
use crate::config::{self, Replication};
use crate::topology::{Health, Role};

#[derive(Debug, Deserialize)]
pub struct Successor {
    /// None: whoever lacks least.
    to: Option<String>,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct Pause {
    paused: bool,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct Server {
    id: String,
    state: Ordered,
    /// Of a detached one: what has not ended by then is closed. None: nothing is.
    within_ms: Option<u64>,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct PauseServers {
    /// None: all.
    id: Option<String>,
    paused: bool,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ordered {
    Attached,
    Draining,
    Detached,
}

/// Planned: transactions run out, the old primary is stopped by its agent and follows. Answered when it has begun.
pub async fn switchover(State(state): State<AdminState>, body: Bytes) -> Answer {
    let order = read::<Successor>(&body)?;
    begin(&state, order, FailoverKind::Switchover, Reason::SwitchoverOrdered).await
}

/// At once, whatever the primary does. Answered when it has begun.
pub async fn failover(State(state): State<AdminState>, body: Bytes) -> Answer {
    let order = read::<Successor>(&body)?;
    begin(&state, order, FailoverKind::Forced, Reason::FailoverOrdered).await
}

async fn begin(state: &AdminState, order: Successor, kind: FailoverKind, reason: Reason) -> Answer {
    let handle = &state.in_cluster()?.handle;
    let Successor { to, cause: Cause(cause) } = order;
    let applied = handle.applied();
    let configured = state.configured.borrow().in_force.clone();
    let view = state.view.borrow().clone();
    let from =
        may_begin(&configured, &applied.state, &view, kind, to.as_deref()).map_err(Refused::conflict)?;
    let epoch = applied.state.primary().epoch;
    let may_lose = match kind {
        FailoverKind::Forced => {
            let answering = answering(&view, &applied.state, to.as_deref());
            what_may_be_lost(configured.failover.sync_mode, applied.state.synchronous(), &answering)
        }
        FailoverKind::Restart | FailoverKind::Automatic | FailoverKind::Switchover => None,
    };
    handle.propose(Change::BeginFailover { epoch, kind, to }, &cause, reason.code()).await?;
    Ok(Json(json!({ "from": from, "epoch": epoch.0, "may_lose": may_lose })).into_response())
}

/// The standbys among which the next primary will be.
fn answering<'a>(view: &View, state: &'a ClusterState, to: Option<&str>) -> Vec<&'a str> {
    let wanted = |id: &str| to.is_none_or(|to| to == id);
    state.servers().keys().map(String::as_str).filter(|id| wanted(id) && answers(view, id)).collect()
}

/// As a standby, when it was last looked at.
fn answers(view: &View, id: &str) -> bool {
    view.find(id).is_some_and(|(server, detail)| {
        server.health == Health::Up && detail.failures == 0 && detail.says == Role::Standby
    })
}

/// What it may cost to replace the primary at once. None: one of these has every acknowledged commit.
fn what_may_be_lost(mode: config::SyncMode, agreed: &SyncSet, answering: &[&str]) -> Option<&'static str> {
    match () {
        () if !agreed.promises() && mode == config::SyncMode::Require => Some(
            "commits are to wait for a standby (sync_mode = \"require\"), and the cluster has not confirmed yet that they \
             do: what the old primary has acknowledged alone until now may be lost",
        ),
        () if !agreed.promises() => Some(
            "commits need not wait for a standby: what the old primary has acknowledged and not sent yet may be lost",
        ),
        () if !agreed.enough_answer(answering.iter().copied()) => Some(
            "it is not sure that the new primary has every commit that the standbys confirmed: some that were \
             acknowledged may be lost",
        ),
        () => None,
    }
}

/// The present primary, if there can be another one.
pub(super) fn may_begin(
    config: &config::Config,
    state: &ClusterState,
    view: &View,
    kind: FailoverKind,
    to: Option<&str>,
) -> Result<String, String> {
    config.failover.mode.refusal().map_or(Ok(()), Err)?;
    let primary = state.primary();
    let settled = primary.stage == Stage::Confirmed || kind == FailoverKind::Forced;
    let from = primary.server.clone().filter(|_| settled);
    let from = from.ok_or("there is no primary that could be replaced; see `komainu status`")?;
    let configured = |id: &str| config.servers.iter().find(|server| server.id == *id);
    if let Some(to) = to {
        let server = state.servers().get(to).ok_or_else(|| {
            let known: Vec<_> = state.servers().keys().map(String::as_str).collect();
            format!("there is no server {to}; there are: {}", known.join(", "))
        })?;
        if to == from {
            return Err(format!("{to} is the primary already"));
        }
        if server.administrative != Administrative::Attached {
            return Err(format!("{to} is not attached: it is {}", in_words(server.administrative)));
        }
        let configured = configured(to);
        let shipped = configured.is_some_and(|server| server.replication == Replication::LogShipping);
        if shipped && kind == FailoverKind::Switchover {
            return Err(format!(
                "{to} follows by log shipping: the end of what {from} writes never comes into the archive. \
                 Let it stream first; with `komainu failover --force --to {to}` it is promoted without that end"
            ));
        }
        if configured.is_some_and(|server| server.disallow_failover) {
            return Err(format!("{to} may not be the primary: server.disallow_failover is set for it"));
        }
        // The old epoch would end, and nobody could follow.
        if kind == FailoverKind::Forced && !answers(view, to) {
            return Err(format!(
                "{to} does not answer this node as a standby, and nobody else would be promoted: see `komainu status`, and \
                 name another one, or none to have whoever lacks least"
            ));
        }
    }
    let may_follow = state.servers().iter().any(|(id, server)| {
        *id != from
            && server.administrative == Administrative::Attached
            && configured(id).is_some_and(|server| !server.disallow_failover)
            && answers(view, id)
    });
    if kind == FailoverKind::Forced && !may_follow {
        return Err(format!(
            "nobody could take the place of {from}: no attached server that may be the primary answers this node as a \
             standby; see `komainu status`"
        ));
    }
    if kind == FailoverKind::Forced
        && let Some(Failover { kind: FailoverKind::Forced, epoch, to: Some(wanted), .. }) = state.failover()
        && *epoch == primary.epoch
    {
        return Err(format!(
            "a failover from {from} to {wanted} is under way. If {wanted} does not come, `komainu server detach {wanted}` \
             takes that back: whoever lacks least of those that are attached is promoted then"
        ));
    }
    let has_agent = configured(&from).is_some_and(|server| server.agent.is_some());
    match kind {
        FailoverKind::Switchover if !has_agent => Err(format!(
            "{from} has no agent (server.agent in the configuration), so it cannot be stopped cleanly; \
             with `komainu failover --force` it is replaced without being stopped"
        )),
        _ => Ok(from),
    }
}

pub async fn pause(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Pause { paused, cause: Cause(cause) } = read(&body)?;
    let handle = &state.in_cluster()?.handle;
    let change = Change::PauseFailover { paused };
    handle.propose(change, &cause, Reason::FailoverPaused.code()).await?;
    Ok(Json(json!({ "paused": paused })).into_response())
}

/// Whether a server is used.
pub async fn administrative(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Server { id, state: ordered, within_ms, cause: Cause(cause) } = read(&body)?;
    let handle = &state.in_cluster()?.handle;
    let applied = handle.applied();
    let server = applied.state.servers().get(&id).ok_or_else(|| no_server(&applied.state, &id))?;
    if server.administrative == Administrative::Quarantined {
        return Err(Refused::conflict(format!(
            "{id} is quarantined ({}): what it holds is not trusted. It is attached by itself when it streams from the \
             primary; its agent rewinds or rebuilds it",
            server.order_reason
        )));
    }
    let is_writer = applied.state.primary().server.as_deref() == Some(&*id);
    if is_writer
        && !matches!(ordered, Ordered::Attached)
        && let Some(refusal) = managed(&state)
    {
        return Err(Refused::conflict(format!("{id} is the writer, which is never detached. {refusal}")));
    }
    let (wanted, reason) = match ordered {
        Ordered::Attached => (Administrative::Attached, Reason::AttachOrdered),
        Ordered::Draining => (Administrative::Draining, Reason::Draining),
        Ordered::Detached => (Administrative::Detached, Reason::Detached),
    };
    let version = server.version;
    let within_ms = within_ms.filter(|_| wanted == Administrative::Detached);
    let change = Change::SetAdministrative { server: id.clone(), version, state: wanted, within_ms };
    handle.propose(change, &cause, reason.code()).await?;
    Ok(Json(json!({ "id": id, "state": in_words(wanted) })).into_response())
}

/// Whether what begins on servers waits. Answered when it is ordered; `/status` says when nothing is under way any more.
pub async fn pause_servers(State(state): State<AdminState>, body: Bytes) -> Answer {
    let PauseServers { id, paused, cause: Cause(cause) } = read(&body)?;
    let handle = &state.in_cluster()?.handle;
    let applied = handle.applied();
    let known = applied.state.servers();
    let servers: Vec<String> = match id {
        Some(id) if !known.contains_key(&id) => return Err(no_server(&applied.state, &id)),
        Some(id) => vec![id],
        None => known.keys().cloned().collect(),
    };
    let reason = if paused { Reason::Paused } else { Reason::ResumeOrdered };
    for server in &servers {
        let change = Change::PauseServer { server: server.clone(), paused };
        handle.propose(change, &cause, reason.code()).await?;
    }
    Ok(Json(json!({ "servers": servers, "paused": paused })).into_response())
}

/// Why it is not komainu that replaces a writer, where AWS does.
fn managed(state: &AdminState) -> Option<String> {
    let mode = state.configured.borrow().in_force.failover.mode;
    mode.refusal().filter(|_| mode.is_managed())
}

fn no_server(state: &ClusterState, id: &str) -> Refused {
    let known: Vec<_> = state.servers().keys().map(String::as_str).collect();
    Refused::conflict(format!("there is no server {id}; there are: {}", known.join(", ")))
}

fn in_words(state: Administrative) -> &'static str {
    match state {
        Administrative::Attached => "attached",
        Administrative::Draining => "draining",
        Administrative::Detached => "detached",
        Administrative::Quarantined => "quarantined",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Command, Outcome};
    use crate::topology::Epoch;

    #[test]
    fn what_may_be_lost_follows_from_who_answers() {
        let any_one_of_two = SyncSet::new(["a", "b"], 1);
        let both = SyncSet::new(["a", "b"], 2);
        let nobody = SyncSet::default();
        for (agreed, answering, expected) in [
            (&nobody, &["a", "b"][..], Some("not sent yet may be lost")),
            (&any_one_of_two, &["a", "b"], None),
            (&any_one_of_two, &["a"], Some("acknowledged may be lost")),
            (&any_one_of_two, &["a", "c"], Some("acknowledged may be lost")),
            (&both, &["b"], None),
            (&both, &[], Some("acknowledged may be lost")),
        ] {
            let said = what_may_be_lost(config::SyncMode::Prefer, agreed, answering);
            let is_right = match (said, expected) {
                (Some(said), Some(end)) => said.ends_with(end),
                (said, expected) => said.is_none() && expected.is_none(),
            };
            assert!(is_right, "{agreed:?}, {answering:?}: {said:?}");
        }
        let unconfirmed = what_may_be_lost(config::SyncMode::Require, &nobody, &["a", "b"]).unwrap();
        assert!(unconfirmed.contains("has not confirmed yet") && unconfirmed.ends_with("may be lost"));
        assert_eq!(what_may_be_lost(config::SyncMode::Require, &any_one_of_two, &["a", "b"]), None);
    }

    #[test]
    fn an_order_that_nobody_could_fulfil_is_refused_and_how_one_is_taken_back_is_said() {
        let text = "[listen]\naddresses = ['127.0.0.1:1']\n[auth]\nhba_file = 'hba'\nuser_file = 'users'\n\
            [health]\nuser = 'k'\n[failover]\nmode = 'streaming'\nuser = 'ops'\nreplication_user = 'rep'\n\
            [cluster]\nname = 'shop'\n[[node]]\nid = 'a'\nhost = 'ha'\n[[node]]\nid = 'b'\nhost = 'hb'\n\
            [[node]]\nid = 'c'\nhost = 'hc'\n[[server]]\nid = 'pg1'\nhost = 'db1'\n\
            [[server]]\nid = 'pg2'\nhost = 'db2'\n[[server]]\nid = 'pg3'\nhost = 'db3'\n";
        let parsed = config::file::parse(text, std::path::Path::new("/k.toml"), 1);
        let config = parsed.unwrap_or_else(|report| panic!("{report}")).0;
        let mut state = ClusterState::default();
        let mut apply = |change: Change| {
            let (node, cause, reason) = ("a".to_owned(), String::new(), String::new());
            let outcome = state.apply(Command { at_ms: 0, node, cause, reason, change });
            assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
            state.clone()
        };
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        apply(Change::CreateCluster { cluster_id, members: Vec::new(), configuration });
        apply(Change::SetServers { servers: ["pg1", "pg2", "pg3"].map(str::to_owned).to_vec() });
        let (epoch, server) = (Epoch(0), "pg1".to_owned());
        apply(Change::NamePrimary { epoch, server, promotes: false });
        let now = apply(Change::ConfirmPrimary { epoch: Epoch(1), timeline: 1 });
        let mut view = View::new(&config.servers);
        (view.snapshot.servers[2].health, view.details[2].says) = (Health::Up, Role::Standby);
        let forced = |state: &ClusterState, to| may_begin(&config, state, &view, FailoverKind::Forced, to);
        assert_eq!(forced(&now, Some("pg3")), Ok("pg1".to_owned()));
        assert_eq!(forced(&now, None), Ok("pg1".to_owned()));
        assert!(forced(&now, Some("pg2")).unwrap_err().starts_with("pg2 does not answer this node"));
        let nobody = View::new(&config.servers);
        let alone = may_begin(&config, &now, &nobody, FailoverKind::Forced, None);
        assert!(alone.unwrap_err().starts_with("nobody could take the place of pg1"));
        // It did, and has died since.
        let (epoch, kind, to) = (Epoch(1), FailoverKind::Forced, Some("pg2".to_owned()));
        let under_way = apply(Change::BeginFailover { epoch, kind, to });
        for to in [Some("pg3"), None] {
            assert!(forced(&under_way, to).unwrap_err().contains("`komainu server detach pg2`"));
        }
    }
}
