//! Requests that change something. Served on the Unix socket, whose file permissions say who may, and over TLS to whoever
//! has the token.
//!
//! Never decides anything: the log and the leader do. Invariant: a configuration is proposed only after it was checked
//! as a whole, and whatever is proposed names the operator behind it.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::oneshot;

use super::control::{Control, StopMode};
use super::refused::Refused;
use super::{AdminState, Configured};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Accepted, Change, ClusterState};
use crate::config::report::{Finding, Report};
use crate::config::{self, Config, reload, shared};
use crate::consensus::lease::LeaseSettings;
use crate::consensus::node::Order;

/// A configuration is read and taken over within milliseconds.
const RELOAD_WITHIN: Duration = Duration::from_secs(15);
const OPERATOR: &str = "operator:";

pub(super) type Answer = Result<Response, Refused>;

/// Who or what is behind a request: `operator:alice`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct Cause(pub(super) String);

impl Default for Cause {
    fn default() -> Self {
        Cause(format!("{OPERATOR}unnamed"))
    }
}

impl TryFrom<String> for Cause {
    type Error = String;

    fn try_from(cause: String) -> Result<Self, String> {
        match cause.strip_prefix(OPERATOR) {
            Some(name) if !name.is_empty() => Ok(Cause(cause)),
            _ => Err(format!("cause is {cause:?}: it must be of the form {OPERATOR}NAME")),
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct Apply {
    text: String,
    /// Another one in force by now is not replaced.
    expect_version: Option<u64>,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct RollBack {
    to: u64,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct Move {
    endpoint: String,
    to: String,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct Node {
    id: String,
    #[serde(default)]
    cause: Cause,
}

#[derive(Debug, Deserialize)]
pub struct Stop {
    mode: StopMode,
}

/// Checks a text, and makes it the cluster's configuration.
pub async fn apply(State(state): State<AdminState>, body: Bytes) -> Answer {
    let cluster = state.in_cluster()?;
    let Apply { text, expect_version, cause } = read(&body)?;
    let configured = state.configured.borrow().clone();
    let applied = cluster.handle.applied();
    let Checked { servers, restart } = check(&text, &configured, &applied.state)?;
    let version = expect_version.unwrap_or(applied.state.configuration().version());
    let change = Change::ApplyConfiguration { version, text, servers };
    let reason = Reason::ConfigurationApplied.code();
    Ok(applied_as(cluster.handle.propose(change, &cause.0, reason).await?, version, &restart))
}

/// Brings the text of an earlier version back, as a new one.
pub async fn roll_back(State(state): State<AdminState>, body: Bytes) -> Answer {
    let cluster = state.in_cluster()?;
    let RollBack { to, cause } = read(&body)?;
    let configured = state.configured.borrow().clone();
    let applied = cluster.handle.applied();
    let configuration = applied.state.configuration();
    // One that is not kept is refused by the log.
    let checked = configuration.get(to).map(|kept| check(&kept.text, &configured, &applied.state));
    let (servers, restart) = match checked.transpose()? {
        Some(Checked { servers, restart }) => (servers, restart),
        None => (None, Vec::new()),
    };
    let version = configuration.version();
    let change = Change::RollBackConfiguration { version, to, servers };
    let reason = Reason::ConfigurationApplied.code();
    Ok(applied_as(cluster.handle.propose(change, &cause.0, reason).await?, version, &restart))
}

pub(super) fn applied_as(accepted: Accepted, before: u64, restart: &[String]) -> Response {
    let (version, changed) = match accepted {
        Accepted::Version(version) => (version, true),
        _ => (before, false),
    };
    Json(json!({ "version": version, "changed": changed, "restart": restart })).into_response()
}

/// A text that can be the cluster's configuration.
pub(super) struct Checked {
    /// None: they are found, and are not for the text to say.
    pub servers: Option<Vec<String>>,
    /// The keys that would wait for a restart of this node.
    pub restart: Vec<String>,
}

pub(super) fn check(text: &str, configured: &Configured, state: &ClusterState) -> Result<Checked, Refused> {
    let (new, _) = config::file::parse(text, &configured.path, 1).map_err(|report| problems(&report))?;
    fits(&new, &configured.in_force, state).map_err(Refused::unacceptable)?;
    let named = || new.servers.iter().map(|server| server.id.clone()).collect();
    let servers = (!new.failover.finds_servers()).then(named);
    let next = shared::in_force(&configured.local, new);
    let changes = reload::diff(&configured.in_force, &next).into_iter();
    let restart = changes.filter(|change| !change.live).map(|change| change.key).collect();
    Ok(Checked { servers, restart })
}

/// What no single text can be found guilty of.
fn fits(new: &Config, in_force: &Config, state: &ClusterState) -> Result<(), String> {
    let name = |config: &Config| config.cluster.as_ref().map(|cluster| cluster.name.clone());
    let (old, new_name) = (name(in_force), name(new));
    if old != new_name {
        let quoted = |name: Option<String>| name.unwrap_or_else(|| "none".to_owned());
        return Err(format!(
            "cluster.name is {} in the text and {} here: a cluster keeps its name; correct the text",
            quoted(new_name),
            quoted(old)
        ));
    }
    if let (Some(old), Some(new)) = (&in_force.cluster, &new.cluster) {
        lease_fits(&old.lease, &new.lease)?;
    }
    let successor = state.failover().and_then(|failover| failover.to.as_ref());
    let needed = state.primary().server.iter().chain(successor);
    match (in_force.failover.finds_servers(), new.failover.finds_servers()) {
        // They are found, whatever the text names.
        (true, true) => Ok(()),
        // Not before a restart, after which the others still look at those that they know by their ids.
        (false, true) => in_force.servers.iter().try_for_each(|server| {
            reload::keeps_primary(&in_force.servers, &new.servers, &server.id).map_err(|_| {
                format!(
                    "nodes find servers only after a restart with this text, and until then know those that are configured: \
                     leave the [[server]] of {} in the text as it is, and restart all nodes",
                    server.id
                )
            })
        }),
        (_, false) => needed
            .into_iter()
            .try_for_each(|id| reload::keeps_primary(&in_force.servers, &new.servers, id)),
    }
}

/// While nodes are restarted one by one, some of them run by the old settings and some by the new: no lease of either
/// may outlive the silence after which the other would elect.
fn lease_fits(old: &LeaseSettings, new: &LeaseSettings) -> Result<(), String> {
    let lasts = |settings: &LeaseSettings| settings.lease_ms + settings.drift_margin_ms;
    let longest = lasts(old).max(lasts(new));
    let shortest = old.election_timeout_max_ms.min(new.election_timeout_max_ms);
    match longest < shortest {
        true => Ok(()),
        false => Err(format!(
            "cluster.lease_ms with cluster.drift_margin_ms is {longest} ms in one of the texts and \
             cluster.election_timeout_max_ms {shortest} ms in the other: a node of the one could act while one of the other \
             is elected; change them in steps that fit into each other, and restart all nodes after each"
        )),
    }
}

fn problems(report: &Report) -> Refused {
    // The text is no file of this machine's.
    let line = |finding: &Finding| {
        let Finding { file: _, line, key, problem, remedy } = finding;
        json!({ "line": line, "key": key, "problem": problem, "remedy": remedy })
    };
    let all = report.problems.iter().map(line).collect();
    let count = report.problems.len();
    Refused::unacceptable(format!("the configuration has {count} problem(s), and was not applied"))
        .with("problems", all)
}

/// The leader fences the present owner, then gives the endpoint away. Answered when the leader has taken it on.
pub async fn move_endpoint(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Move { endpoint, to, cause: Cause(cause) } = read(&body)?;
    order(&state, Order::MoveEndpoint { endpoint, to, or: BTreeSet::new(), cause }).await
}

#[derive(Debug, Deserialize)]
pub struct NewVoter {
    id: String,
    /// Else as the cluster's configuration has it.
    address: Option<String>,
    #[serde(default)]
    cause: Cause,
}

/// Of a node that the cluster's configuration names already: whoever starts anew looks for it there.
pub async fn add_node(State(state): State<AdminState>, body: Bytes) -> Answer {
    let NewVoter { id, address, cause: Cause(cause) } = read(&body)?;
    let configured = state.configured.borrow().clone();
    let applied = state.in_cluster()?.handle.applied();
    let agreed = super::agreed(&applied.state, &configured).map_err(Refused::conflict)?;
    let named = agreed.cluster.iter().flat_map(|cluster| &cluster.nodes).find(|node| node.id == id);
    let named = named.map(config::Node::address).ok_or_else(|| {
        Refused::conflict(format!(
            "the cluster's configuration has no [[node]] with the id {id}: add it behind the others, and \
             `komainu config apply` that first"
        ))
    })?;
    match address {
        Some(address) if address != named => Err(Refused::conflict(format!(
            "the cluster's configuration has {id} at {named}, not at {address}: correct one of the two"
        ))),
        _ => order(&state, Order::AddVoter { id, address: named, cause }).await,
    }
}

pub async fn replace_node(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Node { id, cause: Cause(cause) } = read(&body)?;
    order(&state, Order::ReplaceNode { id, cause }).await
}

/// Proxies only.
pub async fn remove_node(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Node { id, cause: Cause(cause) } = read(&body)?;
    order(&state, Order::Leave { id, cause }).await
}

async fn order(state: &AdminState, order: Order) -> Answer {
    let said = state.in_cluster()?.handle.order(order).await?;
    Ok(Json(json!({ "message": said })).into_response())
}

/// Answered when it is done.
pub async fn reload(State(state): State<AdminState>) -> Answer {
    let (answer, answered) = oneshot::channel();
    tell(&state, Control::Reload(answer))?;
    match tokio::time::timeout(RELOAD_WITHIN, answered).await {
        Ok(Ok(Ok(reloaded))) => Ok(Json(reloaded).into_response()),
        Ok(Ok(Err(problem))) => Err(Refused::unacceptable(problem)),
        Ok(Err(_)) => Err(Refused::not_now("this node is stopping")),
        Err(_) => Err(Refused::not_now("it is still being reloaded: the log will say what became of it")),
    }
}

pub async fn rotate_log(State(state): State<AdminState>) -> Answer {
    let (answer, answered) = oneshot::channel();
    tell(&state, Control::RotateLog(answer))?;
    match tokio::time::timeout(RELOAD_WITHIN, answered).await {
        Ok(Ok(Ok(file))) => Ok(Json(json!({ "file": file })).into_response()),
        Ok(Ok(Err(problem))) => Err(Refused::conflict(problem)),
        Ok(Err(_)) | Err(_) => Err(Refused::not_now("this node is stopping, or busy: try again in a moment")),
    }
}

/// Answered when it begins.
pub async fn stop(State(state): State<AdminState>, body: Bytes) -> Answer {
    let Stop { mode } = read(&body)?;
    tell(&state, Control::Stop(mode))?;
    Ok(Json(json!({ "stopping": mode })).into_response())
}

fn tell(state: &AdminState, control: Control) -> Result<(), Refused> {
    state.control.try_send(control).map_err(|_| {
        Refused::not_now("this node is starting, stopping or busy with earlier orders: try again in a moment")
    })
}

pub(super) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|error| Refused::bad_request(format!("the request's JSON is not understood: {error}")))
}

/// On an address that everybody on the network may reach.
pub async fn read_only() -> Refused {
    Refused::forbidden(
        "this address only reads, and names no client: changes, configurations, sessions and pools go through the Unix \
         socket of admin.socket, whose file permissions say who may, or over admin.tls_address with a token",
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cluster::state::{Command, Member, Outcome};
    use crate::topology::Epoch;

    const HEAD: &str =
        "[listen]\naddresses = ['127.0.0.1:1']\n[auth]\nhba_file = 'hba'\nuser_file = 'users'\n";
    const SERVER: &str = "[[server]]\nid = 's1'\nhost = 'db1'\n";

    fn config(text: &str) -> Config {
        config::file::parse(text, Path::new("k.toml"), 1).unwrap_or_else(|report| panic!("{report}")).0
    }

    /// Of a cluster whose primary is s1.
    fn state() -> ClusterState {
        let mut state = ClusterState::default();
        let members = vec![Member::voter("a", 1)];
        let server = "s1".to_owned();
        for change in [
            Change::CreateCluster { cluster_id: "x".to_owned(), members, configuration: String::new() },
            Change::SetServers { servers: vec![server.clone()] },
            Change::NamePrimary { epoch: Epoch(0), server, promotes: false },
        ] {
            let (node, cause, reason) = ("a".to_owned(), "test".to_owned(), String::new());
            let outcome = state.apply(Command { at_ms: 0, node, cause, reason, change });
            assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        }
        state
    }

    #[test]
    fn servers_stay_named_until_nodes_find_them() {
        let named = config(&format!("{HEAD}{SERVER}[failover]\nmode = 'rds'\n"));
        let found = config(&format!("{HEAD}[failover]\nmode = 'rds'\ncluster_id = 'shop'\n"));
        let both = Config { servers: named.servers.clone(), ..found.clone() };
        let state = state();
        let refused = fits(&found, &named, &state).unwrap_err();
        assert!(refused.contains("leave the [[server]] of s1 in the text"), "{refused}");
        assert_eq!(fits(&both, &named, &state), Ok(()));
        assert_eq!(fits(&found, &both, &state), Ok(()), "it is found already");
    }

    #[test]
    fn settings_of_the_lease_change_only_in_steps_that_fit_into_each_other() {
        let now = LeaseSettings::default();
        let slower =
            LeaseSettings { lease_ms: 3000, drift_margin_ms: 400, election_timeout_max_ms: 4000, ..now };
        assert!(lease_fits(&now, &slower).is_err() && lease_fits(&slower, &now).is_err());
        let step = LeaseSettings { election_timeout_max_ms: 4000, ..now };
        assert_eq!((lease_fits(&now, &step), lease_fits(&step, &slower)), (Ok(()), Ok(())));
    }
}
