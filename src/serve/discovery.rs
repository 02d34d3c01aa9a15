//! Which instances of an Aurora cluster this node looks at: as the log says, or, of a node on its own, as they say.
//!
//! Never decides which there are: that is `cluster::aurora`. Invariant: in a cluster a node looks at the instances that all
//! agreed on, once they have.

use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::aurora::discover;
use crate::cluster::model::View;
use crate::cluster::observe::SetInstances;
use crate::consensus::store::Applied;

/// Runs until the observer, or the node, has ended.
pub async fn follow(
    mut view: watch::Receiver<Arc<View>>,
    applied: Option<watch::Receiver<Arc<Applied>>>,
    set: SetInstances,
) {
    let Some(mut applied) = applied else {
        loop {
            let found = alone(&view.borrow_and_update());
            set(&found);
            if view.changed().await.is_err() {
                return;
            }
        }
    };
    loop {
        let agreed: Vec<String> = applied.borrow_and_update().state.servers().keys().cloned().collect();
        if !agreed.is_empty() {
            set(&agreed);
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

fn alone(view: &View) -> Vec<String> {
    let known: Vec<String> = view.snapshot.servers.iter().map(|server| server.id.to_string()).collect();
    let primary = view.snapshot.primary_server().map(|server| &*server.id);
    discover(view, &known, primary)
}
