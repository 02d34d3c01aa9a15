//! What agents are at, for whoever asks this node: looked at while a server is out of use or down.
//!
//! Never orders anything. What a former primary has and the others lack the leader notes in the log, once. Invariant: an agent that does not answer is one of which nothing is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agent::wire::{Job, Lost};
use crate::agent::{Agents, Beside};
use crate::cluster::act::Wanted;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change, ClusterState, Observed};
use crate::consensus::node::ClusterHandle;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So long after it is back in use, an agent may still have something to tell.
const LOOK_AFTER: Duration = Duration::from_secs(10);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// By server.
pub type Jobs = Arc<BTreeMap<String, Job>>;

/// To be spawned on the consensus thread.
pub async fn look(
    handle: ClusterHandle,
    wanted: watch::Receiver<Arc<Wanted>>,
    agents: Arc<Agents>,
    seen: watch::Sender<Jobs>,
) {
    let mut needed: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let policy = wanted.borrow().policy.clone();
        let mut asking = JoinSet::new();
        {
            let applied = handle.applied();
            let now = Instant::now();
            let needs = policy.servers.iter().filter(|server| needs_a_look(&applied.state, &server.id));
            needed.extend(needs.map(|server| (server.id.clone(), now)));
            needed.retain(|_, last| last.elapsed() < LOOK_AFTER);
            let servers = policy.servers.iter().filter(|server| needed.contains_key(&server.id));
            for (id, address) in servers.filter_map(|server| Some((server.id.clone(), server.agent.clone()?)))
            {
                let agents = agents.clone();
                asking.spawn(async move {
                    let agent = Beside { server: &id, address: &address };
                    let status = agents.status(agent, ANSWERS_WITHIN).await.ok();
                    Some((id, status?.job?))
                });
            }
        }
        let now: BTreeMap<_, _> = asking.join_all().await.into_iter().flatten().collect();
        for (server, job) in &now {
            if let Some(text) = job.lost.as_ref().and_then(Lost::sentence) {
                note(&handle, server, text).await;
            }
        }
        seen.send_if_modified(|before| {
            let changed = **before != now;
            if changed {
                *before = Arc::new(now);
            }
            changed
        });
    }
}

/// Unless it is in the log already.
async fn note(handle: &ClusterHandle, server: &str, text: String) {
    let is_noted = {
        let applied = handle.applied();
        let mut noted = applied.state.incidents().iter().filter(|incident| incident.subject == server);
        // A long one is cut there.
        noted.any(|incident| incident.reason == Reason::HasMore.code() && text.starts_with(&incident.text))
    };
    if is_noted || handle.leading().is_none() {
        return;
    }
    let change = Change::NoteIncident { subject: server.to_owned(), text };
    if let Err(error) = handle.propose(change, "observation", Reason::HasMore.code()).await {
        tracing::debug!(%error, "what a former primary has could not be noted; it is tried again");
    }
}

fn needs_a_look(state: &ClusterState, server: &str) -> bool {
    let known = state.servers().get(server);
    known.is_some_and(|known| {
        known.administrative == Administrative::Quarantined || known.observed != Observed::Up
    })
}
