//! Publishes what this node may use, whenever what it sees, what is agreed on, or its lease changes.
//!
//! Runs on the consensus thread. Invariant: the end of a lease is published by itself, not with the next look.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::agree::agree;
use super::change::changes;
use super::deadlines::Deadlines;
use super::model::{Named, View};
use super::observe::log;
use super::state::{ClusterState, Fenced, Stage};
use crate::consensus::node::ClusterHandle;
use crate::topology::Snapshot;

/// While there is no lease, so often one looks whether there is one.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What others borrow.
#[derive(Debug)]
pub struct Published {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub view: watch::Receiver<Arc<View>>,
}

/// Starts it on the handle's runtime; it ends with the observer or the node. `named`: whoever observes is told who is the
/// primary.
pub fn start(
    handle: &ClusterHandle,
    local: watch::Receiver<Arc<View>>,
    named: watch::Sender<Option<Named>>,
) -> Published {
    let first = Arc::new(agree(&local.borrow(), &handle.applied().state, false));
    let (snapshot, snapshots) = watch::channel(Arc::new(first.snapshot.clone()));
    let (view, views) = watch::channel(first);
    handle.runtime().spawn(publish(handle.clone(), local, named, snapshot, view));
    Published { snapshot: snapshots, view: views }
}

async fn publish(
    handle: ClusterHandle,
    mut local: watch::Receiver<Arc<View>>,
    named: watch::Sender<Option<Named>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    views: watch::Sender<Arc<View>>,
) {
    let mut applied = handle.watch();
    let lease = handle.lease();
    let mut deadlines = Deadlines::default();
    loop {
        let (held, now_ms) = (lease.holds(), handle.now_ms());
        let next = {
            let applied = applied.borrow_and_update();
            let by_the_log = by_the_log(&applied.state);
            named.send_if_modified(|known| {
                let is_news = *known != by_the_log;
                known.clone_from(&by_the_log);
                is_news
            });
            let mut next = agree(&local.borrow_and_update(), &applied.state, held);
            deadlines.look(&applied.state, now_ms);
            deadlines.close(&mut next, now_ms);
            Arc::new(next)
        };
        let previous = views.borrow().clone();
        // Whoever is woken by the snapshot finds the reasons for it.
        let snapshot = (next.snapshot != previous.snapshot).then(|| Arc::new(next.snapshot.clone()));
        if next != previous {
            views.send_replace(next.clone());
        }
        if let Some(snapshot) = snapshot {
            snapshots.send_replace(snapshot);
        }
        // What the log says is so already.
        for change in changes(&previous, &next) {
            log(change, &next);
        }
        let lease_changes = async {
            while lease.holds() == held {
                let pause =
                    if held { Duration::from_millis(lease.remaining_ms().max(1)) } else { LOOK_EVERY };
                tokio::time::sleep(pause).await;
            }
        };
        let time_is_up = async {
            match deadlines.next_ms(now_ms) {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = local.changed() => if changed.is_err() { return },
            changed = applied.changed() => if changed.is_err() { return },
            () = lease_changes => {}
            () = time_is_up => {}
        }
    }
}

/// The settled primary.
fn by_the_log(state: &ClusterState) -> Option<Named> {
    let primary = state.primary();
    let settled = primary.stage == Stage::Confirmed && !state.is_fenced(&Fenced::Primary);
    let server = primary.server.clone().filter(|_| settled)?;
    Some(Named { server, timeline: primary.timeline, life: primary.life })
}
