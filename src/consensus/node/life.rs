//! From opening the store to closing it: one life of a node, and what comes between two of them.
//!
//! A store that failed takes nothing more, so raft ends with it. If what was wrong can pass (a full disk), the node
//! tries again; else it stays out and says why. Invariant: without a life there is no lease and no right.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use openraft::storage::RaftLogStorage as _;
use openraft::{Config, Raft, SnapshotPolicy};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::core::{Core, lock};
use super::handle::Shared;
use super::inbound::Door;
use super::network::Network;
use super::rights::Rights;
use super::wire::{Links, Wire};
use super::{NodeError, NodeSettings, Surroundings, joining, keep_time};
use crate::consensus::lease::LeaseSettings;
use crate::consensus::peer::{self, LocalNode, PeerContext, PeerLimits, PeerTls};
use crate::consensus::store::identity::Identity;
use crate::consensus::store::{Applied, LogStore, StateMachine, Store};
use crate::consensus::types::{LogId, TypeConfig};
use crate::pki::AGENT_PREFIX;

/// Between two attempts to open a store that may open again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(60);
/// How often the others are told how far this node is, which also shows whether they can be reached.
const BE_SEEN: Duration = Duration::from_secs(5);
const SNAPSHOT_CHUNK_BYTES: u64 = 256 * 1024;
const ENTRIES_BETWEEN_SNAPSHOTS: u64 = 5_000;
const ENTRIES_KEPT: u64 = 1_000;

/// Why a life ended.
pub(super) enum Ended {
    Told,
    Trouble { text: String, again: bool },
}

pub(super) fn check_files(settings: &NodeSettings) -> Result<(), NodeError> {
    PeerTls::load(settings.files.clone(), settings.name.clone())?;
    Ok(())
}

pub(super) async fn live(
    settings: &NodeSettings,
    around: &Surroundings,
    listener: TcpListener,
    shared: &Arc<Shared>,
    published: &watch::Sender<Arc<Applied>>,
    present: &watch::Sender<Option<Arc<Core>>>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let ended = tokio::select! {
            ended = life(settings, around, &listener, shared, published, present) => ended,
            _ = &mut stopped => Ended::Told,
        };
        // Dropped in the middle or not: nothing is acted on from here on.
        shared.lease_ends_at_ms.store(0, Ordering::Release);
        around.right.lasts_until(0);
        let core = present.send_replace(None);
        if let Some(core) = core {
            if let Err(error) = core.raft.shutdown().await {
                tracing::debug!(%error, "raft had ended already");
            }
            core.store.close().await;
        }
        match ended {
            Ended::Told => return,
            Ended::Trouble { text, again } => {
                shared.standings.say(&text);
                tracing::error!(error = text, again, "this node does not take part in its cluster");
                let wait = async {
                    match again {
                        true => tokio::time::sleep(OPEN_AGAIN).await,
                        false => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = wait => {}
                    _ = &mut stopped => return,
                }
            }
        }
    }
}

/// What a life stands on.
pub(super) struct Ground {
    pub store: Arc<Store>,
    pub log: LogStore<TypeConfig>,
    pub machine: StateMachine<TypeConfig>,
    pub wire: Arc<dyn Wire>,
    /// Where the others ask; already open.
    pub door: Arc<Door>,
    /// Called once it is known who this node is.
    pub joined: Box<dyn Fn(&Identity) + Send + Sync>,
}

/// With a directory, a port and certificates.
async fn life(
    settings: &NodeSettings,
    around: &Surroundings,
    listener: &TcpListener,
    shared: &Arc<Shared>,
    published: &watch::Sender<Arc<Applied>>,
    present: &watch::Sender<Option<Arc<Core>>>,
) -> Ended {
    // It blocks, and nothing else runs on this thread yet.
    let (store, log, machine) = match Store::open::<TypeConfig>(&settings.directory) {
        Ok(opened) => opened,
        Err(error) => {
            let again = error.opening_again_may_help();
            return Ended::Trouble { text: error.to_string(), again };
        }
    };
    let store = Arc::new(store);
    let _close = CloseAtEnd(store.clone());
    let mut tasks = JoinSet::new();
    let committed = match log.clone().read_committed().await {
        Ok(committed) => committed,
        Err(error) => return trouble(&store, &error.to_string()),
    };
    tasks.spawn(publish(machine.watch(), committed, published.clone(), around.right.clone()));

    let identity = match store.identity().await {
        Ok(identity) => identity,
        Err(error) => return trouble(&store, &error.to_string()),
    };
    let tls = match PeerTls::load(settings.files.clone(), settings.name.clone()) {
        Ok(tls) => tls,
        Err(error) => return Ended::Trouble { text: error.to_string(), again: true },
    };
    let local = LocalNode::new(
        settings.name.clone(),
        identity.as_ref().map(|identity| identity.cluster_id.clone()),
        identity.as_ref().map_or(0, |identity| identity.incarnation),
    );
    let context = Arc::new(PeerContext {
        local,
        tls,
        limits: PeerLimits::default(),
        admit: admit(shared.applied.clone()),
    });
    *lock(&shared.tls) = Some(context.clone());
    let wire: Arc<dyn Wire> = Arc::new(Links::new(context.clone()));
    let door = Arc::new(Door {
        store: store.clone(),
        applied: machine.watch(),
        core: OnceLock::new(),
        cancel: around.cancel.clone(),
    });
    match listener.try_clone().and_then(tokio::net::TcpListener::from_std) {
        Ok(listener) => {
            let door = door.clone();
            tasks.spawn(peer::serve(listener, context.clone(), move |peer, request| {
                door.clone().answer(peer.node.clone(), request)
            }));
        }
        Err(error) => {
            return Ended::Trouble { text: format!("cannot listen for other nodes: {error}"), again: true };
        }
    }
    {
        let context = context.clone();
        tasks.spawn(async move { context.tls.watch(LOOK_AT_CERTIFICATES).await });
    }

    let joined = {
        let context = context.clone();
        Box::new(move |identity: &Identity| {
            context.local.joined(identity.cluster_id.clone(), identity.incarnation);
        })
    };
    let ground = Ground { store, log, machine, wire, door, joined };
    take_part(settings, around, shared, present, ground).await
}

/// From finding out who this node is until raft ends.
pub(super) async fn take_part(
    settings: &NodeSettings,
    around: &Surroundings,
    shared: &Arc<Shared>,
    present: &watch::Sender<Option<Arc<Core>>>,
    ground: Ground,
) -> Ended {
    let identity = match joining::join(settings, &ground.store, &ground.wire, &shared.standings).await {
        Ok(identity) => identity,
        Err(error) => return trouble(&ground.store, &error.to_string()),
    };
    (ground.joined)(&identity);
    let rights =
        Arc::new(Mutex::new(Rights::new(settings.lease, identity.raft_id, (around.now)(), around.seed)));
    let network = Network {
        wire: ground.wire.clone(),
        rights: rights.clone(),
        settings: settings.lease,
        now: around.now.clone(),
    };
    let config = match raft_config(&settings.name.cluster, &settings.lease).validate() {
        Ok(config) => Arc::new(config),
        Err(error) => return Ended::Trouble { text: error.to_string(), again: false },
    };
    let raft = match Raft::new(identity.raft_id, config, network, ground.log.clone(), ground.machine).await {
        Ok(raft) => raft,
        Err(error) => return trouble(&ground.store, &error.to_string()),
    };
    let core = Arc::new(Core {
        now: around.now.clone(),
        settings: settings.lease,
        identity: identity.clone(),
        wire: ground.wire.clone(),
        store: ground.store.clone(),
        log: ground.log,
        raft: raft.clone(),
        published: shared.applied.clone(),
        right: around.right.clone(),
        lease_ends_at_ms: shared.lease_ends_at_ms.clone(),
        rights,
        wishes: shared.wishes.clone(),
        unable: shared.unable.clone(),
        configuration: shared.configuration.clone(),
    });
    let _ = ground.door.core.set(core.clone());
    present.send_replace(Some(core.clone()));
    if joining::is_founder(settings) && identity.raft_id == 1 {
        match raft.is_initialized().await {
            Ok(false) => {
                if let Err(error) = raft.initialize(joining::founders(settings)).await {
                    tracing::warn!(%error, "the cluster could not be founded");
                }
            }
            Ok(true) => {}
            Err(error) => return trouble(&ground.store, &error.to_string()),
        }
    }
    let being_seen = async {
        loop {
            tokio::time::sleep(BE_SEEN).await;
            match joining::be_seen(settings, &ground.store, &ground.wire, &identity).await {
                Ok(wrong) if !wrong.is_empty() => return Ended::Trouble { text: wrong, again: true },
                Ok(_) => {}
                Err(error) => return trouble(&ground.store, &error.to_string()),
            }
        }
    };
    tokio::select! {
        () = keep_time::keep_time(core) => {
            let text = raft.metrics().borrow().running_state.as_ref().err().map(ToString::to_string);
            trouble(&ground.store, &text.unwrap_or_else(|| "raft has stopped".to_owned()))
        }
        ended = being_seen => ended,
    }
}

/// What went wrong with the store is what went wrong; raft only repeats it.
fn trouble(store: &Store, otherwise: &str) -> Ended {
    match store.trouble() {
        Some(error) => Ended::Trouble { again: error.opening_again_may_help(), text: error.to_string() },
        None => Ended::Trouble { text: otherwise.to_owned(), again: true },
    }
}

/// A life that ends before there is a core still closes its file.
struct CloseAtEnd(Arc<Store>);

impl Drop for CloseAtEnd {
    fn drop(&mut self) {
        let store = self.0.clone();
        tokio::spawn(async move { store.close().await });
    }
}

/// Hands on what was applied: first to whoever must obey, then to whoever wants to know. Nothing older than what this
/// node knew to be committed before it was started: a snapshot's state has been left behind long ago.
pub(super) async fn publish(
    mut applied: watch::Receiver<Arc<Applied>>,
    committed: Option<LogId>,
    published: watch::Sender<Arc<Applied>>,
    right: Arc<crate::cluster::right::WriteRight>,
) {
    loop {
        let now = applied.borrow_and_update().clone();
        if now.last_applied >= committed {
            right.follow(&now.state);
            published.send_replace(now);
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// A life that was replaced is not let in any more.
fn admit(applied: watch::Receiver<Arc<Applied>>) -> peer::Admit {
    Box::new(move |hello| {
        let applied = applied.borrow();
        let (knows, needed) = (hello.log_format, applied.state.log_format());
        let is_agent = hello.node.starts_with(AGENT_PREFIX);
        if knows < needed && !is_agent {
            return Err(format!(
                "{} runs komainu {}, which knows the log up to format {knows}, and the cluster's is in format {needed}: \
                 run the version that the other nodes run, or a later one",
                hello.node, hello.version
            ));
        }
        match applied.state.members().get(&hello.node) {
            Some(member) if hello.cluster_id.is_some() && hello.incarnation < member.incarnation => {
                Err(format!(
                    "{} was replaced by incarnation {}, this is {}: give it an empty directory",
                    hello.node, member.incarnation, hello.incarnation
                ))
            }
            // Its key lies on a database host; it is no key to the cluster.
            None if is_agent => Err("an agent is asked by nodes, and asks them nothing".to_owned()),
            _ => Ok(()),
        }
    })
}

fn raft_config(cluster: &str, lease: &LeaseSettings) -> Config {
    Config {
        cluster_name: cluster.to_owned(),
        heartbeat_interval: lease.heartbeat_ms,
        election_timeout_min: lease.election_timeout_min_ms,
        election_timeout_max: lease.election_timeout_max_ms,
        // Elections are ours to start.
        enable_elect: false,
        install_snapshot_timeout: 5_000,
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_BETWEEN_SNAPSHOTS),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        ..Config::default()
    }
}
