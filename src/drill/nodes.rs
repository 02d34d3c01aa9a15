//! What the nodes say of themselves and of the endpoint while they are drilled.
//!
//! Reads admin sockets only, with short deadlines, since one of the nodes is broken. Invariant: a node that
//! does not answer is unknown, and a cluster with an unknown node is not whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;

use super::phases::{Incident, Phase};
use crate::cluster::sync_set::SyncSet;
use crate::sandbox::admin;

const TIMEOUT: Duration = Duration::from_millis(500);

/// `/status`, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Status {
    #[serde(default)]
    pub node: Option<String>,
    #[serde(default)]
    pub leader: Option<String>,
    /// Of one that leads.
    #[serde(default)]
    pub leading_for_ms: Option<u64>,
    /// Only a node that the leader hears of has any.
    #[serde(default)]
    pub lease_remaining_ms: Option<u64>,
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// The server, in this epoch.
    #[serde(default)]
    pub primary: Option<String>,
    #[serde(default)]
    pub epoch: u64,
    #[serde(default)]
    pub servers: Vec<Server>,
    #[serde(default)]
    pub failover: Option<Relied>,
}

/// What a failover relies on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Relied {
    pub synchronous: SyncSet,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Server {
    pub id: String,
    #[serde(default)]
    pub host: String,
    pub role: String,
    pub health: String,
    /// Of a standby, as its primary says.
    #[serde(default)]
    pub replication_state: Option<String>,
    #[serde(default)]
    pub administrative: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Endpoint {
    pub name: String,
    pub method: String,
    pub owner: Option<String>,
    pub epoch: u64,
    #[serde(default)]
    pub phases: Vec<Phase>,
}

#[derive(Debug, Deserialize)]
struct Events {
    events: Vec<Incident>,
    /// Of all, also where fewer are listed.
    #[serde(default)]
    last_id: Option<u64>,
}

impl Status {
    /// The endpoint of this name, or the only one there is.
    pub fn endpoint(&self, name: Option<&str>) -> Option<&Endpoint> {
        match name {
            Some(name) => self.endpoints.iter().find(|endpoint| endpoint.name == name),
            None => self.endpoints.first(),
        }
    }
}

pub async fn status(socket: &Path) -> Option<Status> {
    ask(socket, "/status").await
}

/// Those after this one, oldest first, and the last one's number.
pub async fn incidents(socket: &Path, after: u64) -> Option<(Vec<Incident>, u64)> {
    let Events { events, last_id } = ask(socket, &format!("/events?after={after}")).await?;
    let last = last_id.or_else(|| events.last().map(|incident| incident.id)).unwrap_or(after);
    Some((events, last))
}

/// What each says, in the order asked; all at a time.
pub async fn statuses(sockets: &[PathBuf]) -> Vec<Option<Status>> {
    futures_util::future::join_all(sockets.iter().map(|socket| status(socket))).await
}

/// Why the cluster is not as it should be, if it is not. It may have no endpoint at all, and nobody who owns one.
pub fn complaint(statuses: &[Option<Status>]) -> Option<&'static str> {
    let has_endpoint = statuses.iter().flatten().any(|status| status.endpoint(None).is_some());
    match has_endpoint {
        true => complaint_of(statuses, None),
        false => disagreement(statuses).or_else(|| without_lease(statuses)),
    }
}

/// The same of a cluster with this endpoint, or, without a name, with any.
pub fn complaint_of(statuses: &[Option<Status>], name: Option<&str>) -> Option<&'static str> {
    if let Some(complaint) = disagreement(statuses) {
        return Some(complaint);
    }
    let known: Vec<&Status> = statuses.iter().flatten().collect();
    let first = known.first()?;
    let owned = |status: &Status| {
        let endpoint = status.endpoint(name)?;
        Some((endpoint.owner.clone()?, endpoint.epoch))
    };
    if owned(first).is_none() || known.iter().any(|status| owned(status) != owned(first)) {
        return Some("the nodes do not agree on who owns the endpoint");
    }
    without_lease(statuses)
}

fn disagreement(statuses: &[Option<Status>]) -> Option<&'static str> {
    if statuses.iter().any(Option::is_none) {
        return Some("a node does not answer");
    }
    let mut leaders = statuses.iter().flatten().map(|status| &status.leader);
    let first = leaders.next()?;
    let agree = first.is_some() && leaders.all(|leader| leader == first);
    (!agree).then_some("the nodes do not agree on a leader")
}

fn without_lease(statuses: &[Option<Status>]) -> Option<&'static str> {
    // Whether one reached another at the last attempt says less: that may be long ago.
    let idle = |status: &Status| status.lease_remaining_ms.is_none_or(|ms| ms == 0);
    statuses.iter().flatten().any(idle).then_some("a node has no lease")
}

async fn ask<T: DeserializeOwned + Send + 'static>(socket: &Path, path: &str) -> Option<T> {
    let (socket, path) = (socket.to_owned(), path.to_owned());
    let answer = spawn_blocking(move || admin::get_within(TIMEOUT, &socket, &path)).await.ok()?.ok()?;
    if answer.status == 200 { serde_json::from_str(&answer.body).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(leader: &str, owner: &str, lease: &str) -> Option<Status> {
        let text = format!(
            r#"{{"version":"1","node":"node2","leader":{leader},"term":3,"lease_remaining_ms":{lease},
            "nodes":[{{"id":"node1","role":"voter","incarnation":1,"address":"a:1","reachable":false}}],
            "endpoints":[{{"name":"app","method":"command","owner":{owner},"epoch":4,
                           "phases":[{{"name":"program takes","ms":12.5}}]}}]}}"#
        );
        Some(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_cluster_is_whole_when_all_say_the_same_and_have_a_lease() {
        let good = || says(r#""node1""#, r#""node2""#, "700");
        assert_eq!(complaint_of(&[good(), good()], Some("app")), None);
        assert_eq!(good().unwrap().endpoint(None).unwrap().phases[0].ms, 12.5);
        let (nobody, leaderless) = (says(r#""node1""#, "null", "700"), says("null", r#""node2""#, "700"));
        for (statuses, says) in [
            ([good(), None], "does not answer"),
            ([good(), says(r#""node3""#, r#""node2""#, "700")], "agree on a leader"),
            ([leaderless.clone(), leaderless], "agree on a leader"),
            ([good(), says(r#""node1""#, r#""node3""#, "700")], "owns"),
            ([nobody.clone(), nobody], "owns"),
            ([good(), says(r#""node1""#, r#""node2""#, "0")], "no lease"),
            ([good(), says(r#""node1""#, r#""node2""#, "null")], "no lease"),
        ] {
            assert!(complaint_of(&statuses, None).unwrap().contains(says), "{says}");
            assert!(complaint(&statuses).unwrap().contains(says), "{says}");
        }
        assert!(complaint_of(&[good()], Some("web")).unwrap().contains("owns"));
        let bare = |lease| {
            let text = format!(
                r#"{{"version":"1","node":"node2","leader":"node1","term":3,"lease_remaining_ms":{lease},"nodes":[],"endpoints":[]}}"#
            );
            Some(serde_json::from_str(&text).unwrap())
        };
        assert_eq!(complaint(&[bare(700), bare(700)]), None, "there is no endpoint");
        assert!(complaint_of(&[bare(700)], None).unwrap().contains("owns"));
        assert!(complaint(&[bare(700), bare(0)]).unwrap().contains("no lease"));
    }
}
