//! The endpoints of the configuration, each with its loop, told by the log whose they are.
//!
//! Owns the thread they run on, away from both clients and consensus. Never decides who the owner is. Invariant: what a
//! loop asks right before it changes something is answered from what this node has applied and from the clock.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use komainu_escalation::aws::identity::IdentitySettings;
use komainu_escalation::endpoint::{Cloud, EndpointError, Host};
use komainu_escalation::reconcile::pace::Pace;
use komainu_escalation::{
    Aws, AwsSettings, Claim, Endpoint, EndpointSettings, Event, Finding, Identity, Outlet, Owner, State,
    preflight,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::cluster_status::EndpointHere;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Change, ClusterState, Fenced};
use crate::config::Config;
use crate::consensus::node::ClusterHandle;
use crate::topology::Epoch;

/// Events not yet in the log; more are only logged here.
const EVENTS_WAITING: usize = 256;
/// For the other endpoints wait meanwhile.
const METADATA_WITHIN: Duration = Duration::from_secs(2);
/// Until an endpoint that could not be begun is tried again.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);

/// What runs now, for whoever asks.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<String, Posted>>>);

struct Posted {
    settings: EndpointSettings,
    running: Result<Endpoint, String>,
    claim: watch::Sender<Claim>,
    findings: watch::Receiver<Vec<Finding>>,
}

impl Board {
    fn posted(&self) -> MutexGuard<'_, BTreeMap<String, Posted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn all(&self) -> Vec<EndpointHere> {
        let here = |(name, posted): (&String, &Posted)| EndpointHere {
            name: name.clone(),
            method: posted.settings.method.name(),
            status: posted.running.as_ref().ok().map(|endpoint| endpoint.status.borrow().clone()),
            error: posted.running.as_ref().err().cloned(),
            findings: posted.findings.borrow().clone(),
        };
        self.posted().iter().map(here).collect()
    }

    /// Whether this node still has something of an endpoint, or is about to.
    pub fn holds_any(&self) -> bool {
        let busy = |state| matches!(state, State::Held | State::Taking | State::Releasing);
        self.all().iter().any(|here| here.status.as_ref().is_some_and(|status| busy(status.state)))
    }

    fn has_failed(&self) -> bool {
        self.posted().values().any(|posted| posted.running.is_err())
    }
}

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
    pub fn start(handle: ClusterHandle, config: watch::Receiver<Arc<Config>>) -> io::Result<Endpoints> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let board = Board::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let posted = board.clone();
        std::thread::Builder::new().name("escalation".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = run(handle, config, posted) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Endpoints { board, _stop: stop })
    }
}

async fn run(handle: ClusterHandle, mut config: watch::Receiver<Arc<Config>>, board: Board) {
    let (events, taken) = mpsc::channel(EVENTS_WAITING);
    tokio::spawn(note(handle.clone(), taken));
    let mut cloud = Clouds::default();
    let mut applied = handle.watch();
    loop {
        let wanted = config.borrow_and_update().clone();
        bring_about(&handle, &wanted, &board, &mut cloud, &events).await;
        loop {
            tell(&board, handle.node(), &applied.borrow_and_update().state);
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                changed = config.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                // The metadata of an instance that has just started may not be there yet.
                () = tokio::time::sleep(BEGIN_AGAIN), if board.has_failed() => break,
            }
        }
    }
}

/// AWS is asked who this instance is only if an endpoint needs it, and once.
#[derive(Default)]
struct Clouds(HashMap<String, Cloud>);

impl Clouds {
    async fn get(&mut self, settings: &AwsSettings) -> Result<Cloud, String> {
        let key = format!("{settings:?}");
        if let Some(cloud) = self.0.get(&key) {
            return Ok(cloud.clone());
        }
        let identity = IdentitySettings::default();
        let found = tokio::time::timeout(METADATA_WITHIN, Identity::find(&identity, settings)).await;
        let identity = found
            .map_err(|_| "the instance's metadata service does not answer".to_owned())?
            .map_err(|error| error.to_string())?;
        let aws = Aws::connect(settings, &identity.region).await;
        let cloud = Cloud { aws, identity };
        self.0.insert(key, cloud.clone());
        Ok(cloud)
    }
}

/// Begins what is new or was changed, ends what is gone.
async fn bring_about(
    handle: &ClusterHandle,
    config: &Config,
    board: &Board,
    clouds: &mut Clouds,
    events: &mpsc::Sender<Event>,
) {
    let lease_ms = config.cluster.as_ref().map_or(0, |cluster| cluster.lease.lease_ms);
    board.posted().retain(|_, posted| {
        config.endpoints.iter().any(|endpoint| endpoint.settings == posted.settings && posted.running.is_ok())
    });
    // Those that need nobody's answer to begin with come first.
    let (others, of_aws): (Vec<_>, Vec<_>) =
        config.endpoints.iter().partition(|endpoint| !endpoint.settings.method.needs_aws());
    for endpoint in others.into_iter().chain(of_aws) {
        let settings = &endpoint.settings;
        if board.posted().contains_key(&settings.name) {
            continue;
        }
        let cloud = match settings.method.needs_aws() {
            true => match clouds.get(&config.aws).await {
                Ok(cloud) => Ok(Some(cloud)),
                Err(error) => Err(error),
            },
            false => Ok(None),
        };
        let (claim, claims) = watch::channel(Claim::UNKNOWN);
        let (found, findings) = watch::channel(Vec::new());
        let running = cloud.and_then(|cloud| {
            if let Some(cloud) = &cloud {
                let (cloud, method) = (cloud.clone(), settings.method.clone());
                tokio::spawn(preflight::watch(cloud, settings.name.clone(), method, found));
            }
            let pace = Pace::new(lease_ms, config.aws.attempt_timeout_ms);
            let host = Host { node: handle.node().into(), cloud, pace };
            let outlet = Outlet { claim: claims, authority: authority(handle), events: events.clone() };
            Endpoint::start(settings, &host, outlet).map_err(|error: EndpointError| error.to_string())
        });
        if let Err(error) = &running {
            tracing::error!(endpoint = settings.name, error, "this node cannot own the endpoint");
        }
        let posted = Posted { settings: settings.clone(), running, claim, findings };
        board.posted().insert(settings.name.clone(), posted);
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
    for (name, posted) in board.posted().iter() {
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
async fn note(handle: ClusterHandle, mut events: mpsc::Receiver<Event>) {
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
    use crate::cluster::state::{Command, Member, MemberRole};

    fn apply(state: &mut ClusterState, change: Change) {
        let (node, cause, reason) = ("a".to_owned(), String::new(), String::new());
        state.apply(Command { at_ms: 0, node, cause, reason, change });
    }

    #[test]
    fn a_claim_follows_the_log_and_a_fence_ends_it() {
        let mut state = ClusterState::default();
        assert_eq!(claim(&state, "app", "a"), Claim::UNKNOWN);
        let member = |id: &str, raft_id| Member {
            id: id.to_owned(),
            raft_id,
            incarnation: 1,
            address: format!("{id}:1"),
            role: MemberRole::Voter,
        };
        let members = vec![member("a", 1), member("b", 2)];
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
