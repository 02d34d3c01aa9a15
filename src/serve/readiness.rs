//! Tries, for whoever asks, what a failover needs of each server: the operating role's login and grants, and its agent.
//!
//! Changes nothing. Invariant: it ends within `WITHIN`, whoever does not answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use crate::admin::Trying;
use crate::admin::doctor::Readiness;
use crate::agent::{Agents, Beside};
use crate::cluster::operate::Operator;
use crate::config::{self, Config, FailoverMode};

const WITHIN: Duration = Duration::from_secs(3);

/// `agents`: none on a proxy, which operates no server.
pub fn trying(
    configs: watch::Receiver<Arc<Config>>,
    operator: watch::Receiver<Arc<Operator>>,
    agents: Option<Arc<Agents>>,
) -> Arc<dyn Fn() -> Trying + Send + Sync> {
    Arc::new(move || {
        let (config, operator) = (configs.borrow().clone(), operator.borrow().clone());
        let agents = agents.clone().filter(|_| config.failover.mode == FailoverMode::Streaming);
        Box::pin(async move {
            let Some(agents) = agents else { return Vec::new() };
            join_all(config.servers.iter().map(|server| try_all(server, &operator, &agents))).await
        })
    })
}

async fn try_all(server: &config::Server, operator: &Operator, agents: &Agents) -> Readiness {
    let beside = server.agent.as_deref().map(|address| Beside { server: &server.id, address });
    let agent =
        async { Some(agents.status(beside?, WITHIN).await.map(|_| ()).map_err(|error| error.to_string())) };
    let (operating, agent) = tokio::join!(operator.lacks(server, WITHIN), agent);
    let operating = operating.map_err(|error| error.to_string());
    let certificate = beside.and_then(|agent| agents.certificate(agent));
    Readiness { server: server.id.clone(), operating, agent, certificate }
}
