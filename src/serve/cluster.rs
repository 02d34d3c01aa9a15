//! A node of a cluster within `serve`: consensus, what is reported, decided and published, and the endpoints.
//!
//! Owns the order in which these parts begin, and the configuration that the cluster has agreed on. Invariant: without
//! `[cluster]` nothing of this runs.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use super::endpoints::Endpoints;
use crate::clock;
use crate::cluster::act::{self, Wanted};
use crate::cluster::model::View;
use crate::cluster::publish::{self, Published};
use crate::cluster::right::WriteRight;
use crate::cluster::state::{Fenced, MemberRole};
use crate::config::{self, Config};
use crate::consensus::node::{
    Address, CancelHere, ClusterHandle, Node, NodeError, NodeSettings, Order, Surroundings,
};
use crate::consensus::peer::PeerFiles;
use crate::pki::{NameError, NodeName};
use crate::session::Gateway;

/// The text in force when this node was last there; a node that starts begins with it.
const KEPT: &str = "configuration.toml";
/// An owner that stops waits so long until another has taken over.
const HAND_OVER: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("cannot start the escalation thread: {0}")]
    Thread(#[from] io::Error),
}

/// Fields in the order in which they end.
pub struct Cluster {
    pub endpoints: Endpoints,
    pub published: Published,
    wanted: watch::Sender<Arc<Wanted>>,
    in_force: watch::Sender<Arc<Config>>,
    gateway: Arc<OnceLock<Arc<Gateway>>>,
    directory: PathBuf,
    node: Node,
}

impl Cluster {
    /// `text` is what a new cluster's configuration is to be; `config` what this node begins with.
    pub fn start(
        cluster: &config::Cluster,
        me: &config::Node,
        config: &Arc<Config>,
        text: &str,
        right: Arc<WriteRight>,
        local: watch::Receiver<Arc<View>>,
    ) -> Result<Cluster, ClusterError> {
        let gateway: Arc<OnceLock<Arc<Gateway>>> = Arc::default();
        let now = clock::process();
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).expect("the operating system's random source works");
        let around = Surroundings {
            now: Arc::new(move || now.now_ms()),
            right,
            cancel: cancel_here(gateway.clone()),
            seed: u64::from_ne_bytes(seed),
        };
        let node = Node::start(settings(cluster, me)?, around)?;
        let handle = node.handle();
        let published = publish::start(&handle, local.clone());
        let (wanted, wants) = watch::channel(Arc::new(wanted_of(config, text)));
        handle.runtime().spawn(act::lead(handle.clone(), wants));
        handle.runtime().spawn(act::report(handle.clone(), local));
        let (in_force, configs) = watch::channel(config.clone());
        let endpoints = Endpoints::start(handle, configs)?;
        let directory = cluster.directory.clone();
        Ok(Cluster { endpoints, published, wanted, in_force, gateway, directory, node })
    }

    pub fn handle(&self) -> ClusterHandle {
        self.node.handle()
    }

    /// Whose sessions a cancel request of another node may mean.
    pub fn serves(&self, gateway: &Arc<Gateway>) {
        let _ = self.gateway.set(gateway.clone());
    }

    /// Another configuration is in force from now on. `text`: the one that all nodes share.
    pub fn reconfigure(&self, config: &Arc<Config>, text: &str) {
        self.wanted.send_replace(Arc::new(wanted_of(config, text)));
        self.in_force.send_replace(config.clone());
    }

    /// Remembers the text for the next start.
    pub fn keep(&self, text: &str) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.directory.join(KEPT)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Gives the endpoints to other nodes, as far as one of them lives, before this one stops.
    pub async fn hand_over(&self) {
        let handle = self.handle();
        let me = handle.node().to_owned();
        let owned = || {
            let applied = handle.applied();
            let endpoints = applied.state.endpoints().iter();
            endpoints
                .filter(|(_, endpoint)| endpoint.owner.as_deref() == Some(&*me))
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
        };
        let unreachable: Vec<String> = handle
            .status()
            .peers
            .into_iter()
            .filter(|peer| peer.failure.is_some())
            .map(|peer| peer.id)
            .collect();
        let applied = handle.applied();
        let to = applied
            .state
            .members()
            .values()
            .find(|member| {
                member.role == MemberRole::Voter && member.id != me && !unreachable.contains(&member.id)
            })
            .map(|member| member.id.clone());
        let Some(to) = to else { return };
        for endpoint in owned() {
            let order = Order::MoveEndpoint {
                endpoint: endpoint.clone(),
                to: to.clone(),
                cause: format!("stop:{me}"),
            };
            match tokio::time::timeout(HAND_OVER, handle.order(order)).await {
                Ok(Ok(said)) => tracing::info!(endpoint, said, "handing over before stopping"),
                Ok(Err(error)) => tracing::warn!(endpoint, %error, "the endpoint is not handed over"),
                Err(_) => tracing::warn!(endpoint, "the endpoint is not handed over: no leader answered"),
            }
        }
        let mut applied = handle.watch();
        let gone = applied.wait_for(|applied| {
            applied.state.endpoints().iter().all(|(name, endpoint)| {
                endpoint.owner.as_deref() != Some(&*me)
                    && !applied.state.is_fenced(&Fenced::Endpoint(name.clone()))
            })
        });
        let _ = tokio::time::timeout(HAND_OVER, gone).await;
    }
}

/// What the cluster agreed on when this node was last there. None: never, or it cannot be read.
pub fn kept(cluster: &config::Cluster) -> Option<String> {
    fs::read_to_string(cluster.directory.join(KEPT)).ok()
}

fn wanted_of(config: &Config, text: &str) -> Wanted {
    Wanted {
        endpoints: config.endpoints.iter().map(|endpoint| endpoint.settings.name.clone()).collect(),
        servers: config.servers.iter().map(|server| server.id.clone()).collect(),
        lease: config.cluster.as_ref().map(|cluster| cluster.lease).unwrap_or_default(),
        configuration: text.to_owned(),
    }
}

fn settings(cluster: &config::Cluster, me: &config::Node) -> Result<NodeSettings, NameError> {
    let in_pki = |name: String| cluster.pki_directory.join(name);
    Ok(NodeSettings {
        name: NodeName::new(&me.id, &cluster.name)?,
        role: MemberRole::Voter,
        address: address(me),
        listen: me.listen,
        voters: cluster
            .nodes
            .iter()
            .map(|node| Address { node: node.id.clone(), address: address(node) })
            .collect(),
        directory: cluster.directory.clone(),
        files: PeerFiles {
            authorities: in_pki("ca.crt".to_owned()),
            certificate: in_pki(format!("{}.crt", me.id)),
            key: in_pki(format!("{}.key", me.id)),
        },
        lease: cluster.lease,
    })
}

fn address(node: &config::Node) -> String {
    match node.host.contains(':') {
        true => format!("[{}]:{}", node.host, node.port),
        false => format!("{}:{}", node.host, node.port),
    }
}

fn cancel_here(gateway: Arc<OnceLock<Arc<Gateway>>>) -> CancelHere {
    Arc::new(move |pid, key| {
        let gateway = gateway.get().cloned();
        Box::pin(async move {
            match gateway {
                Some(gateway) => super::clients::cancel_here(&gateway, pid, &key).await.is_some(),
                None => false,
            }
        })
    })
}
