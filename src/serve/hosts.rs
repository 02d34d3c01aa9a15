//! The hosts of the servers, which AWS can stop when a primary hangs there and is replaced.
//!
//! Owns the thread that AWS is asked on, away from consensus, and the trying beforehand. Never decides. Invariant: a
//! request to stop is sent only while this node leads with its quorum, and the server is not the primary.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use komainu_escalation::aws::Instances;
use komainu_escalation::{Authority, AwsSettings, Claim, Finding, Intent, Owner, Permit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::vital::Vital;
use crate::cluster::act::Done;
use crate::cluster::state::{Administrative, ClusterState, FailoverKind, Fenced};
use crate::config::{Config, FenceHost};
use crate::consensus::node::ClusterHandle;
use crate::topology::Epoch;

/// The instance's metadata may not be there yet, or never.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(300);
/// When AWS was not reached.
const PROBE_AGAIN: Duration = Duration::from_secs(15);
/// One at a time for each server.
const ORDERS_WAITING: usize = 16;

/// By server, what was found when stopping its host was tried.
type Found = BTreeMap<String, Vec<Finding>>;

#[derive(Clone)]
pub struct Hosts {
    orders: mpsc::Sender<Order>,
    found: Arc<Mutex<Found>>,
    handle: ClusterHandle,
}

struct Order {
    instance: String,
    permit: Permit,
    answer: oneshot::Sender<Result<Done, String>>,
}

impl Hosts {
    /// `configs`: the one in force, exchanged when it changes. The thread ends with them.
    pub fn start(
        handle: ClusterHandle,
        configs: watch::Receiver<Arc<Config>>,
        vital: &mut Vital,
    ) -> io::Result<Hosts> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, taken) = mpsc::channel(ORDERS_WAITING);
        let found: Arc<Mutex<Found>> = Arc::default();
        let running = run(configs, taken, found.clone());
        let (ends, ended) = oneshot::channel::<()>();
        let task = runtime.spawn(async move {
            let _ends = ends;
            running.await;
        });
        vital.watch("the hosts of servers", task);
        std::thread::Builder::new().name("hosts".to_owned()).spawn(move || {
            let _ = runtime.block_on(ended);
            runtime.shutdown_background();
        })?;
        Ok(Hosts { orders, found, handle })
    }

    pub fn found(&self) -> Vec<(String, Vec<Finding>)> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.iter().map(|(server, findings)| (server.clone(), findings.clone())).collect()
    }

    /// Asks AWS to stop the host of a server whose epoch was ended, and looks whether it has stopped.
    pub async fn stop(&self, server: &str, instance: &str, epoch: Epoch) -> Result<Done, String> {
        let claim = watch::channel(Claim { owner: Owner::This, epoch: epoch.0 }).1;
        let authority = authority(self.handle.clone());
        let permit = Permit::new(server.into(), Intent::Take, epoch.0, claim, authority);
        let (answer, answered) = oneshot::channel();
        let order = Order { instance: instance.to_owned(), permit, answer };
        self.orders.try_send(order).map_err(|_| "AWS is being asked for others already".to_owned())?;
        answered.await.map_err(|_| "the thread that asks AWS has ended".to_owned())?
    }
}

/// Read at the moment of sending.
fn authority(handle: ClusterHandle) -> Arc<dyn Authority> {
    Arc::new(move |server: &str, epoch: u64| {
        let leads = handle.lease().holds() && handle.leading().is_some();
        leads && is_out(&handle.applied().state, server, Epoch(epoch))
    })
}

/// Whether this server is none that anybody may need: its epoch is being ended, or was and it has not come back.
fn is_out(state: &ClusterState, server: &str, epoch: Epoch) -> bool {
    let primary = state.primary();
    if primary.server.as_deref() == Some(server) {
        let kind = state.failover().map(|failover| failover.kind);
        let is_lost = matches!(kind, Some(FailoverKind::Automatic | FailoverKind::Forced));
        return is_lost && primary.epoch == epoch && state.is_fenced(&Fenced::Primary);
    }
    let known = state.servers().get(server);
    primary.epoch > epoch && known.is_some_and(|known| known.administrative == Administrative::Quarantined)
}

async fn run(
    mut configs: watch::Receiver<Arc<Config>>,
    mut orders: mpsc::Receiver<Order>,
    found: Arc<Mutex<Found>>,
) {
    let mut connected: Option<(AwsSettings, Instances)> = None;
    let mut probe_at = Instant::now();
    loop {
        let config = configs.borrow_and_update().clone();
        let instances = instances(&config);
        if instances.is_empty() {
            found.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        tokio::select! {
            biased;
            order = orders.recv() => {
                let Some(Order { instance, permit, answer }) = order else { return };
                let aws = connect(&mut connected, &config.aws).await;
                tokio::spawn(async move {
                    let stopped = match aws {
                        Ok(aws) => aws.stop(&instance, &permit).await.map_err(|error| error.to_string()),
                        Err(error) => Err(error),
                    };
                    // Whoever asked does not wait any more.
                    let _ = answer.send(stopped.map(|is| if is { Done::Done } else { Done::UnderWay }));
                });
            }
            changed = configs.changed() => match changed {
                Ok(()) => probe_at = Instant::now(),
                Err(_) => return,
            },
            () = sleep_until(probe_at), if !instances.is_empty() => {
                let aws = connect(&mut connected, &config.aws).await;
                probe_at = Instant::now() + if aws.is_ok() { PROBE_EVERY } else { PROBE_AGAIN };
                tokio::spawn(probe(aws, instances, found.clone()));
            }
        }
    }
}

/// By server; none where nobody is to be stopped.
fn instances(config: &Config) -> Vec<(String, String)> {
    if config.failover.fence_host == FenceHost::Off {
        return Vec::new();
    }
    let instance = |server: &crate::config::Server| Some((server.id.clone(), server.instance_id.clone()?));
    config.servers.iter().filter_map(instance).collect()
}

async fn connect(
    connected: &mut Option<(AwsSettings, Instances)>,
    settings: &AwsSettings,
) -> Result<Instances, String> {
    if let Some((of, instances)) = connected
        && of == settings
    {
        return Ok(instances.clone());
    }
    let instances = timeout(CONNECT_WITHIN, Instances::connect(settings)).await;
    let instances = instances.map_err(|_| "the instance's metadata service does not answer".to_owned())?;
    let instances = instances.map_err(|error| error.to_string())?;
    *connected = Some((settings.clone(), instances.clone()));
    Ok(instances)
}

async fn probe(aws: Result<Instances, String>, instances: Vec<(String, String)>, found: Arc<Mutex<Found>>) {
    let mut now = Found::new();
    for (server, instance) in instances {
        let findings = match &aws {
            Ok(aws) => aws.probe(&instance).await,
            Err(error) => vec![Finding::unknown(format!("ec2:StopInstances on {instance}"), error.clone())],
        };
        for finding in findings.iter().filter(|finding| finding.is_wrong()) {
            tracing::warn!(server, finding = ?finding, "the server's host could not be stopped tonight");
        }
        now.insert(server, findings);
    }
    *found.lock().unwrap_or_else(PoisonError::into_inner) = now;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Change, Command, FailoverKind, Member, Outcome};

    fn apply(state: &mut ClusterState, change: Change) {
        let (node, cause, reason) = ("a".to_owned(), String::new(), String::new());
        let outcome = state.apply(Command { at_ms: 0, node, cause, reason, change });
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }

    #[test]
    fn only_one_whose_epoch_was_ended_and_that_is_not_back_may_be_stopped() {
        let mut state = ClusterState::default();
        let member = Member::voter("a", 1);
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        let named =
            |epoch, server: &str| Change::NamePrimary { epoch, server: server.to_owned(), promotes: true };
        apply(&mut state, Change::CreateCluster { cluster_id, members: vec![member], configuration });
        apply(&mut state, Change::SetServers { servers: vec!["pg1".to_owned(), "pg2".to_owned()] });
        apply(&mut state, named(Epoch(0), "pg1"));
        let epoch = state.primary().epoch;
        apply(&mut state, Change::ConfirmPrimary { epoch, timeline: 1 });
        assert!(!is_out(&state, "pg1", epoch), "it is the primary");

        apply(&mut state, Change::BeginFailover { epoch, kind: FailoverKind::Automatic, to: None });
        assert!(is_out(&state, "pg1", epoch), "its epoch is being ended");
        assert!(!is_out(&state, "pg2", epoch) && !is_out(&state, "pg1", Epoch(epoch.0 + 1)));
        apply(&mut state, Change::PassFence { fenced: Fenced::Primary, epoch });
        apply(&mut state, named(epoch, "pg2"));
        assert!(is_out(&state, "pg1", epoch), "another is named, and it stays out");
        assert!(!is_out(&state, "pg2", epoch));

        let (server, version) = ("pg1".to_owned(), state.servers()["pg1"].version);
        apply(
            &mut state,
            Change::SetAdministrative { server, version, state: Administrative::Attached, within_ms: None },
        );
        assert!(!is_out(&state, "pg1", epoch), "it is back");
    }
}
