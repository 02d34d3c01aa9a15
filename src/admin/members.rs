//! Orders that change which PostgreSQL servers there are: each makes a new version of the cluster's configuration.
//!
//! Never decides anything. Invariant: what is proposed differs from the text in force by one server and by nothing else,
//! and was checked as any other text is.

use axum::body::Bytes;
use axum::extract::State;
use serde::Deserialize;

use super::change::{Answer, Cause, Checked, applied_as, check, read};
use super::refused::Refused;
use super::{AdminState, Configured};
use crate::cluster::reason::Reason;
use crate::cluster::state::Change;
use crate::config::members::{self, NewServer};
use crate::config::{self, Config, reload};

#[derive(Debug, Deserialize)]
pub struct Add {
    server: NewServer,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct Remove {
    id: String,
    #[serde(default)]
    cause: Cause,
}

pub async fn add(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Add { server, cause } = read(&body)?;
    let id = server.id.clone();
    edit(&state, &cause, &id, |text, now| match now.servers.iter().find(|known| known.id == id) {
        Some(known) => Err(Refused::conflict(format!(
            "there is a server {id} already, at {}:{}",
            known.host, known.port
        ))),
        None => Ok(members::with(text, &server)),
    })
    .await
}

pub async fn remove(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Remove { id, cause } = read(&body)?;
    let applied = state.in_cluster()?.handle.applied();
    let is_primary = applied.state.primary().server.as_deref() == Some(&*id);
    edit(&state, &cause, &id, |text, now| {
        if now.servers.iter().all(|server| server.id != id) {
            let known: Vec<_> = now.servers.iter().map(|server| server.id.as_str()).collect();
            return Err(Refused::conflict(format!(
                "there is no server {id}; there are: {}",
                known.join(", ")
            )));
        }
        if is_primary {
            return Err(Refused::conflict(format!(
                "{id} is the primary: `komainu switchover` makes another one the primary first"
            )));
        }
        if let Some(left) = too_few_left(now, &id) {
            let wanted = now.failover.sync_count;
            return Err(Refused::conflict(format!(
                "commits wait for {wanted} of the standbys (failover.sync_mode is require), and without {id} there are \
                 {left}: add another server first, or change failover.sync_mode or failover.sync_count"
            )));
        }
        members::without(text, &id).ok_or_else(|| by_hand(&id))
    })
    .await
}

/// How many streaming standbys there are without that one, if no commit could be acknowledged then.
fn too_few_left(config: &Config, id: &str) -> Option<usize> {
    let failover = &config.failover;
    let waits = failover.mode.promotes() && failover.sync_mode == config::SyncMode::Require;
    let streams = |server: &&config::Server| server.replication == config::Replication::Streaming;
    let is_one = config.servers.iter().any(|server| server.id == id && streams(&server));
    let others = config.servers.iter().filter(streams).filter(|server| server.id != id).count();
    // One of them is the primary.
    let left = others.saturating_sub(1);
    (waits && is_one && left < failover.sync_count as usize).then_some(left)
}

/// Makes `change` of the text in force, if it does what it should to the server and nothing else.
async fn edit(
    state: &AdminState,
    Cause(cause): &Cause,
    id: &str,
    change: impl FnOnce(&str, &Config) -> Result<String, Refused>,
) -> Answer {
    let handle = &state.in_cluster()?.handle;
    let configured = state.configured.borrow().clone();
    if configured.in_force.failover.finds_servers() {
        return Err(Refused::conflict(format!(
            "AWS says which instances there are: {id} comes and goes with its instance, not by order"
        )));
    }
    let applied = handle.applied();
    let current = applied.state.configuration().current();
    let current = current.ok_or_else(|| Refused::not_now("the cluster has no configuration yet"))?;
    let before = parse(&current.text, &configured).ok_or_else(|| {
        Refused::conflict("this node cannot read the cluster's configuration: its log says why")
    })?;
    let text = change(&current.text, &before)?;
    let Checked { servers, restart } = check(&text, &configured, &applied.state)?;
    let changes = parse(&text, &configured).map(|after| reload::diff(&before, &after)).unwrap_or_default();
    if !changes.iter().map(|change| change.key.as_str()).eq([format!("server.{id}").as_str()]) {
        return Err(by_hand(id));
    }
    let version = current.version;
    let change = Change::ApplyConfiguration { version, text, servers };
    let reason = Reason::ConfigurationApplied.code();
    Ok(applied_as(handle.propose(change, cause, reason).await?, version, &restart))
}

fn parse(text: &str, configured: &Configured) -> Option<Config> {
    config::file::parse(text, &configured.path, 1).ok().map(|(config, _)| config)
}

fn by_hand(id: &str) -> Refused {
    Refused::conflict(format!(
        "the configuration's text cannot be edited by itself for {id}: `komainu config show` it, edit its [[server]], and \
         `komainu config apply` it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[listen]\naddresses = ['127.0.0.1:1']\n[auth]\nhba_file = 'hba'\nuser_file = 'users'\n\
        [cluster]\nname = 'shop'\n[[node]]\nid = 'a'\nhost = 'h1'\n[[node]]\nid = 'b'\nhost = 'h2'\n\
        [[node]]\nid = 'c'\nhost = 'h3'\n[[server]]\nid = 's1'\nhost = 'db1'\n[[server]]\nid = 's2'\nhost = 'db2'\n";

    #[test]
    fn a_standby_stays_while_no_commit_could_be_acknowledged_without_it() {
        let left = |failover: &str, more: &str, id: &str| {
            let failover = format!("[failover]\nmode = 'streaming'\nreplication_user = 'r'\n{failover}");
            let text = format!("{TEXT}{more}{failover}");
            let path = std::path::Path::new("/k.toml");
            too_few_left(
                &config::file::parse(&text, path, 1).unwrap_or_else(|report| panic!("{report}")).0,
                id,
            )
        };
        let third = "[[server]]\nid = 's3'\nhost = 'db3'\n";
        let shipped = format!("{third}replication = 'log-shipping'\n");
        assert_eq!(left("sync_mode = 'require'\n", "", "s2"), Some(0));
        assert_eq!(left("sync_mode = 'prefer'\n", "", "s2"), None);
        assert_eq!(left("sync_mode = 'require'\n", third, "s2"), None);
        assert_eq!(left("sync_mode = 'require'\nsync_count = 2\n", third, "s2"), Some(1));
        assert_eq!(left("sync_mode = 'require'\n", &shipped, "s2"), Some(0), "that one acknowledges nothing");
        assert_eq!(left("sync_mode = 'require'\n", &shipped, "s3"), None);
    }
}
