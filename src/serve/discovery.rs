//! Which instances of RDS or Aurora this node looks at: as the log says, or, of a node on its own, as it finds.
//!
//! Never decides which there are: that is `cluster::instances`. Invariant: in a cluster a node looks at the instances that all
//! agreed on, once they have.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock;
use crate::cluster::instances::{Listed, Said, known_places, which};
use crate::cluster::model::View;
use crate::cluster::observe::SetInstances;
use crate::config::Config;
use crate::consensus::store::Applied;

/// What is known on this node.
pub struct Sources {
    pub view: watch::Receiver<Arc<View>>,
    /// What AWS's API says, if it is asked and has answered.
    pub listed: watch::Receiver<Option<Arc<Listed>>>,
    /// None: a node on its own.
    pub applied: Option<watch::Receiver<Arc<Applied>>>,
    pub in_force: Box<dyn Fn() -> Arc<Config> + Send>,
}

/// Runs until the observer, or the node, has ended.
pub async fn follow(mut sources: Sources, set: SetInstances) {
    loop {
        let listed = sources.listed.borrow_and_update().clone();
        let view = sources.view.borrow_and_update().clone();
        let ids = match &mut sources.applied {
            Some(applied) => {
                let agreed: Vec<String> =
                    applied.borrow_and_update().state.servers().keys().cloned().collect();
                match (agreed.is_empty(), &listed) {
                    (false, _) => Some(agreed),
                    // The cluster is about to begin with them.
                    (true, Some(_)) => Some(alone(&view, listed.as_deref(), &(sources.in_force)())),
                    (true, None) => None,
                }
            }
            None => Some(alone(&view, listed.as_deref(), &(sources.in_force)())),
        };
        if let Some(ids) = ids {
            let described = listed.as_deref().map(|listed| &*listed.instances);
            set(&ids, known_places(described, &view).as_deref());
        }
        if !sources.changed().await {
            return;
        }
    }
}

impl Sources {
    /// False: there is nothing more to come.
    async fn changed(&mut self) -> bool {
        let applied = async {
            match &mut self.applied {
                Some(applied) => applied.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = applied => changed,
            changed = self.view.changed() => changed.is_ok(),
            Ok(()) = self.listed.changed() => true,
        }
    }
}

fn alone(view: &View, listed: Option<&Listed>, config: &Config) -> Vec<String> {
    let known: Vec<String> = view.snapshot.servers.iter().map(|server| server.id.to_string()).collect();
    let primary = view.snapshot.primary_server().map(|server| &*server.id);
    let described = listed.map(|listed| &*listed.instances);
    // Nobody else has heard anything later than what the last start has kept.
    let refresh_ms = config.failover.cluster_refresh_ms;
    let is_fresh = listed
        .is_some_and(|listed| listed.said_at_ms.is_none() || listed.is_fresh(refresh_ms, clock::now_ms()));
    let said = Said { view, known: &known, configured: &config.servers, described, is_fresh, primary };
    which(config.failover.mode, &said)
}
