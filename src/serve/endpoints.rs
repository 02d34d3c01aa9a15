//! The endpoints of the configuration, each with its loop, told by the log whose they are.
//!
//! Owns the thread they run on, away from both clients and consensus. Never decides who the owner is. Invariant: what a
//! loop asks right before it changes something is answered from what this node has applied and from the clock.

mod board;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use komainu_escalation::endpoint::{EndpointError, Host};
use komainu_escalation::reconcile::pace::Pace;
use komainu_escalation::{Claim, Endpoint, Event, Outlet, Owner, State, preflight};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use board::Board;
use board::Posted;

use super::clouds::Clouds;
use super::vital::Vital;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Change, ClusterState, Fenced};
use crate::config::Config;
use crate::consensus::node::ClusterHandle;
use crate::topology::Epoch;

/// Events not yet in the log; more are only logged here.
const EVENTS_WAITING: usize = 256;
/// Until an endpoint that could not be begun is tried again.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);
/// What cannot be taken changes with the probes, which are minutes apart.
const TELL_UNABLE_EVERY: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub struct Endpoints {
    pub board: Board,
    /// Closing it ends the thread.
    _stop: oneshot::Sender<()>,
}

impl Endpoints {
    /// Of a node that never owns one.
    pub fn none() -> Endpoints {
        Endpoints { board: Board::default(), _stop: oneshot::channel().0 }
    }

    /// On a thread of their own. `config` is the one in force, exchanged when it changes.
    pub fn start(
        handle: ClusterHandle,
        config: watch::Receiver<Arc<Config>>,
        vital: &mut Vital,
    ) -> io::Result<Endpoints> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let board = Board::default();
        let (stop, stopped) = oneshot::channel::<()>();
        vital.watch("endpoints", runtime.spawn(run(handle, config, board.clone())));
        std::thread::Builder::new().name("escalation".to_owned()).spawn(move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        })?;
        Ok(Endpoints { board, _stop: stop })
    }
}

async fn run(handle: ClusterHandle, config: watch::Receiver<Arc<Config>>, board: Board) {
    let (events, taken) = mpsc::channel(EVENTS_WAITING);
    tokio::select! {
        () = keep(&handle, config, &board, events) => {}
        () = note(&handle, taken) => {}
        () = tell_unable(&handle, &board) => {}
    }
}

async fn keep(
    handle: &ClusterHandle,
    mut config: watch::Receiver<Arc<Config>>,
    board: &Board,
    events: mpsc::Sender<Event>,
) {
    let mut clouds = Clouds::default();
    let mut applied = handle.watch();
    loop {
        let wanted = config.borrow_and_update().clone();
        bring_about(handle, &wanted, board, &mut clouds, &events);
        let again = Instant::now() + BEGIN_AGAIN;
        loop {
            tell(board, handle.node(), &applied.borrow_and_update().state);
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                changed = config.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = clouds.answered() => break,
                () = board.left(), if board.is_leaving(None) => break,
                // The metadata of an instance that has just started may not be there yet.
                () = tokio::time::sleep_until(again), if board.has_failed() => break,
            }
        }
    }
}

/// So that the leader rather makes somebody else the owner.
async fn tell_unable(handle: &ClusterHandle, board: &Board) {
    let mut before = BTreeSet::new();
    loop {
        let unable = board.unable();
        if unable != before {
            tracing::info!(endpoints = ?unable, "the leader is told what this node could not take");
            handle.cannot_take(unable.clone());
            before = unable;
        }
        tokio::time::sleep(TELL_UNABLE_EVERY).await;
    }
}

/// Begins what is new or was changed, ends what is gone. Waits for nobody: whoever has to be asked first is asked beside
/// this, since the claims of all endpoints pass through the same loop.
fn bring_about(
    handle: &ClusterHandle,
    config: &Config,
    board: &Board,
    clouds: &mut Clouds,
    events: &mpsc::Sender<Event>,
) {
    let lease_ms = config.cluster.as_ref().map_or(0, |cluster| cluster.lease.lease_ms);
    let before = board.retire(config);
    let mut lacks_address = false;
    for endpoint in &config.endpoints {
        let settings = &endpoint.settings;
        if board.loops().posted.contains_key(&settings.name) || board.is_leaving(Some(&settings.name)) {
            continue;
        }
        let cloud = match settings.method.needs_aws() {
            true => clouds.get(&config.aws).map(Some),
            false => Ok(None),
        };
        let is_asking = cloud.is_err() && clouds.is_asking();
        let (claim, claims) = watch::channel(Claim::UNKNOWN);
        let (found, findings) = watch::channel(Vec::new());
        let running = cloud.and_then(|cloud| {
            let pace = Pace::new(lease_ms, config.aws.attempt_timeout_ms);
            let host = Host { node: handle.node().into(), cloud, pace };
            let outlet = Outlet { claim: claims, authority: authority(handle), events: events.clone() };
            let started = Endpoint::start(settings, &host, outlet);
            lacks_address |= matches!(started, Err(EndpointError::NoAddress { .. }));
            let endpoint = started.map_err(|error| error.to_string())?;
            // Only then: one that cannot begin is tried again every few seconds, and AWS's limits are the account's.
            if let Some(cloud) = host.cloud {
                let method = settings.method.clone();
                tokio::spawn(preflight::watch(cloud, settings.name.clone(), method, found));
            }
            Ok(endpoint)
        });
        if let Err(error) = &running
            && !is_asking
            && before.get(&settings.name) != Some(error)
        {
            tracing::error!(endpoint = settings.name, error, "this node cannot own the endpoint");
        }
        let posted = Posted { settings: settings.clone(), running, claim, findings };
        board.loops().posted.insert(settings.name.clone(), posted);
    }
    if lacks_address {
        // It may have been given one since this instance was asked who it is.
        clouds.doubt(&config.aws);
    }
}

/// Read at the moment of a change: the lease by the clock, the rest from what was applied.
pub(crate) fn authority(handle: &ClusterHandle) -> Arc<dyn komainu_escalation::Authority> {
    let (lease, applied, me) = (handle.lease(), handle.watch(), handle.node().to_owned());
    Arc::new(move |endpoint: &str, epoch: u64| {
        let applied = applied.borrow();
        let owns = applied
            .state
            .endpoints()
            .get(endpoint)
            .is_some_and(|known| known.epoch == Epoch(epoch) && known.owner.as_deref() == Some(&*me));
        owns && !applied.state.is_fenced(&Fenced::Endpoint(endpoint.to_owned())) && lease.holds()
    })
}

fn tell(board: &Board, me: &str, state: &ClusterState) {
    for (name, posted) in &board.loops().posted {
        let claim = claim(state, name, me);
        posted.claim.send_if_modified(|known| std::mem::replace(known, claim) != claim);
    }
}

/// What the log says of an endpoint, to this node.
pub(crate) fn claim(state: &ClusterState, name: &str, me: &str) -> Claim {
    let Some(endpoint) = state.endpoints().get(name) else { return Claim::UNKNOWN };
    let is_fenced = state.is_fenced(&Fenced::Endpoint(name.to_owned()));
    let owner = match endpoint.owner.as_deref() {
        Some(owner) if owner != me => Owner::Other,
        // It is on its way to somebody: until it is known to whom, it is left alone.
        Some(_) if !is_fenced => Owner::This,
        _ => Owner::Unknown,
    };
    Claim { owner, epoch: endpoint.epoch.0 }
}

/// Brings what happened to an endpoint into the timeline.
async fn note(handle: &ClusterHandle, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let Event { endpoint, epoch, state, reason, detail, phases } = event;
        let mut text = format!("{}: {}", serde_word(&state), reason.sentence());
        if !detail.is_empty() {
            text += &format!(" ({detail})");
        }
        text += &format!(", epoch {epoch}");
        if !phases.is_empty() {
            let spent: Vec<_> =
                phases.iter().map(|phase| format!("{} {:.0} ms", phase.name, phase.ms)).collect();
            text += &format!("; {}", spent.join(", "));
        }
        let change = Change::NoteIncident { subject: endpoint.to_string(), text };
        let code = reason.to_string();
        let cause = format!("{}:{}", Reason::EndpointEvent.code(), handle.node());
        if let Err(error) = handle.propose(change, &cause, &code).await {
            tracing::debug!(%error, "an endpoint's event did not get into the timeline");
        }
    }
}

/// `taking`, `held`, …, as it is serialized.
fn serde_word(state: &State) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Command, Member};

    fn apply(state: &mut ClusterState, change: Change) {
        let (node, cause, reason) = ("a".to_owned(), String::new(), String::new());
        state.apply(Command { at_ms: 0, node, cause, reason, change });
    }

    #[test]
    fn a_claim_follows_the_log_and_a_fence_ends_it() {
        let mut state = ClusterState::default();
        assert_eq!(claim(&state, "app", "a"), Claim::UNKNOWN);
        let members = vec![Member::voter("a", 1), Member::voter("b", 2)];
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        apply(&mut state, Change::CreateCluster { cluster_id, members, configuration });
        let (endpoint, owner) = ("app".to_owned(), Some("a".to_owned()));
        apply(&mut state, Change::AssignEndpoint { endpoint, epoch: Epoch(0), owner });
        assert_eq!(claim(&state, "app", "a"), Claim { owner: Owner::This, epoch: 1 });
        assert_eq!(claim(&state, "app", "b"), Claim { owner: Owner::Other, epoch: 1 });
        let fenced = Fenced::Endpoint("app".to_owned());
        apply(&mut state, Change::OpenFence { fenced, epoch: Epoch(1) });
        assert_eq!(claim(&state, "app", "a").owner, Owner::Unknown);
        assert_eq!(claim(&state, "app", "b").owner, Owner::Other, "it gives up what it may still have");
    }
}
