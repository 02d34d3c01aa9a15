//! What agents are at, for whoever asks this node: looked at while a server is out of use or down.
//!
//! Never orders anything. Invariant: an agent that does not answer is one of which nothing is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::wire::Job;
use crate::agent::{Agents, Beside};
use crate::cluster::act::Wanted;
use crate::cluster::state::{Administrative, ClusterState, Observed};
use crate::consensus::node::ClusterHandle;

const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let policy = wanted.borrow().policy.clone();
        let mut asking = JoinSet::new();
        {
            let applied = handle.applied();
            let servers = policy.servers.iter().filter(|server| needs_a_look(&applied.state, &server.id));
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
        seen.send_if_modified(|before| {
            let changed = **before != now;
            if changed {
                *before = Arc::new(now);
            }
            changed
        });
    }
}

fn needs_a_look(state: &ClusterState, server: &str) -> bool {
    let known = state.servers().get(server);
    known.is_some_and(|known| {
        known.administrative == Administrative::Quarantined || known.observed != Observed::Up
    })
}
