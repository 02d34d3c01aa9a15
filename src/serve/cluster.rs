//! A node of a cluster within `serve`: consensus, what is reported, decided and published, and the endpoints.
//!
//! Owns the order in which these parts begin, and the configuration that the cluster has agreed on. Invariant: without
//! `[cluster]` nothing of this runs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use komainu_escalation::aws::identity::IdentitySettings;
use komainu_escalation::{AwsSettings, Identity};
use tokio::sync::watch;

use super::Who;
use super::endpoints::Endpoints;
use super::hosts::Hosts;
use super::instances;
use super::perform::{self, performing};
use super::readiness;
use super::rejoining::{self, Jobs};
use super::vital::Vital;
use crate::admin::Trying;
use crate::agent::Agents;
use crate::clock;
use crate::cluster::act::{self, Eyes, Means, Wanted};
use crate::cluster::decide::Policy;
use crate::cluster::instances::Listed;
use crate::cluster::model::{Named, View};
use crate::cluster::observe::LookNow;
use crate::cluster::operate::Operator;
use crate::cluster::publish::{self, Published};
use crate::cluster::right::WriteRight;
use crate::cluster::state::{Fenced, MemberRole};
use crate::config::{self, Config};
use crate::consensus::node::{
    Address, CancelHere, ClusterHandle, GoesBy, Node, NodeError, NodeSettings, Order, Surroundings,
};
use crate::consensus::peer::{PeerFiles, PeerTlsError};
use crate::pki::{NameError, NodeName};
use crate::session::Gateway;
use crate::telemetry::Counters;
use crate::topology::{Role, ServerIndex, Snapshot};

/// The text in force when this node was last there; a node that starts begins with it.
const KEPT: &str = "configuration.toml";
/// Where there is a metadata service, it answers in milliseconds.
const METADATA_WITHIN: Duration = Duration::from_secs(2);
/// Of a node that is to take over: it is asked first.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// An owner that stops waits so long until another has taken over.
const HAND_OVER: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("agents cannot be asked: {0}")]
    Agents(#[from] PeerTlsError),
    #[error("cannot start the escalation thread: {0}")]
    Thread(#[from] io::Error),
}

/// This node within its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    node: config::Node,
    role: MemberRole,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeError {
    #[error(transparent)]
    Node(#[from] config::NodeError),
    #[error("a proxy belongs to a cluster: the configuration needs [cluster] and the voters as [[node]]")]
    NoCluster,
    #[error("a proxy needs an id of its own: give --node or KOMAINU_NODE, another than those of the voters")]
    NoId,
    #[error("{0:?} is a voter of the configuration: a proxy needs another id")]
    IsVoter(String),
    #[error("{0:?} is not of the form host:port, as --address of a proxy must be")]
    Address(String),
}

/// None: a node on its own.
pub fn me(config: &Config, who: &Who) -> Result<Option<Me>, MeError> {
    let Some(address) = &who.proxy_address else {
        let found = match (&who.node, &config.cluster) {
            (None, Some(cluster)) => by_metadata(cluster, &config.aws),
            _ => None,
        };
        let node = config::this_node(config, who.node.as_deref().or(found.as_deref()))?;
        return Ok(node.map(|node| Me { node: node.clone(), role: MemberRole::Voter }));
    };
    let cluster = config.cluster.as_ref().ok_or(MeError::NoCluster)?;
    let id = who.node.clone().ok_or(MeError::NoId)?;
    if cluster.nodes.iter().any(|node| node.id == id) {
        return Err(MeError::IsVoter(id));
    }
    let wrong = || MeError::Address(address.clone());
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let all = if host.contains(':') { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0_u8; 4]) };
    let node = config::Node { id, host, port, listen: SocketAddr::new(all, port), zone: None };
    Ok(Some(Me { node, role: MemberRole::Proxy }))
}

/// The id of the node whose address is this instance's. None: there is no metadata, or no such node.
fn by_metadata(cluster: &config::Cluster, aws: &AwsSettings) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let asked = runtime.block_on(async {
        let identity = IdentitySettings::default();
        tokio::time::timeout(METADATA_WITHIN, Identity::find(&identity, aws)).await.ok()?.ok()
    });
    let address = asked?.private_address()?;
    let id = at(cluster, address)?;
    tracing::info!(node = id, %address, "the instance's metadata says which node this is");
    Some(id.to_owned())
}

fn at(cluster: &config::Cluster, address: IpAddr) -> Option<&str> {
    let node = cluster.nodes.iter().find(|node| node.host.parse() == Ok(address))?;
    Some(&node.id)
}

/// How this node sees the PostgreSQL servers, and acts on them.
pub struct Servers {
    pub local: watch::Receiver<Arc<View>>,
    /// What AWS's API says of the instances there are.
    pub listed: watch::Receiver<Option<Arc<Listed>>>,
    pub look: LookNow,
    pub named: watch::Sender<Option<Named>>,
    pub operator: watch::Receiver<Arc<Operator>>,
    pub counters: Arc<Counters>,
}

/// Fields in the order in which they end.
pub struct Cluster {
    pub endpoints: Endpoints,
    /// None: of a proxy.
    pub hosts: Option<Hosts>,
    pub readiness: Arc<dyn Fn() -> Trying + Send + Sync>,
    pub published: Published,
    /// What agents are at.
    pub jobs: watch::Receiver<Jobs>,
    wanted: watch::Sender<Arc<Wanted>>,
    in_force: watch::Sender<Arc<Config>>,
    gateway: Arc<OnceLock<Arc<Gateway>>>,
    directory: PathBuf,
    node: Node,
}

impl Me {
    pub fn id(&self) -> &str {
        &self.node.id
    }
}

impl Cluster {
    /// `text` is what a new cluster's configuration is to be; `config` what this node begins with.
    pub fn start(
        cluster: &config::Cluster,
        me: &Me,
        config: &Arc<Config>,
        text: &str,
        right: Arc<WriteRight>,
        servers: Servers,
        vital: &mut Vital,
    ) -> Result<Cluster, ClusterError> {
        let Servers { local, listed, look, named, operator, counters } = servers;
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
        let settings = settings(cluster, me)?;
        let name = settings.name.clone();
        let node = Node::start(settings, around)?;
        let handle = node.handle();
        let published = publish::start(&handle, local.clone(), named);
        let (wanted, wants) = watch::channel(Arc::new(wanted_of(config, config, text, 0)));
        let agents = match me.role {
            MemberRole::Voter => {
                let _runtime = handle.runtime().enter();
                Some(Arc::new(Agents::start(peer_files(cluster, &me.node.id), name)?))
            }
            MemberRole::Proxy => None,
        };
        let jobs = watch::Sender::new(Jobs::default());
        let seen_jobs = jobs.subscribe();
        if let Some(agents) = agents.clone() {
            let look = rejoining::look(handle.clone(), wants.clone(), agents, jobs);
            vital.watch("an eye on agents", handle.runtime().spawn(look));
        }
        let (in_force, configs) = watch::channel(config.clone());
        let hosts = match me.role {
            MemberRole::Voter => Some(Hosts::start(handle.clone(), configs.clone(), vital)?),
            MemberRole::Proxy => None,
        };
        let write = perform::writing(operator.clone(), wants.clone());
        let sessions = sessions_here(&gateway);
        let eyes = Eyes { local: local.clone(), look: look.clone(), wanted: wants.clone(), write, sessions };
        let readiness = readiness::trying(configs.clone(), operator.clone(), agents.clone());
        let perform = performing(perform::Means { operator, agents, hosts: hosts.clone() });
        let means = Means { wanted: wants, local, listed, look, perform, counters };
        // A leader that decides nothing would go on granting leases, so no other node would be elected.
        vital.watch("decisions", handle.runtime().spawn(act::lead(handle.clone(), means)));
        vital.watch("reports", handle.runtime().spawn(act::report(handle.clone(), eyes)));
        // Only voters own endpoints.
        let endpoints = match me.role {
            MemberRole::Voter => Endpoints::start(handle, configs, vital)?,
            MemberRole::Proxy => Endpoints::none(),
        };
        let directory = cluster.directory.clone();
        Ok(Cluster {
            endpoints,
            hosts,
            readiness,
            published,
            jobs: seen_jobs,
            wanted,
            in_force,
            gateway,
            directory,
            node,
        })
    }

    pub fn handle(&self) -> ClusterHandle {
        self.node.handle()
    }

    /// The configuration, and each that follows it.
    pub fn in_force(&self) -> watch::Receiver<Arc<Config>> {
        self.in_force.subscribe()
    }

    /// Whose sessions a cancel request of another node may mean.
    pub fn serves(&self, gateway: &Arc<Gateway>) {
        let _ = self.gateway.set(gateway.clone());
    }

    /// By which version of the cluster's configuration this node goes now; `latest` is the last one it was told of.
    pub fn goes_by(&self, latest: u64) {
        let version = self.wanted.borrow().version;
        self.handle().goes_by(GoesBy { version, unusable: (latest > version).then_some(latest) });
    }

    /// Another configuration is in force from now on. `agreed`: what all nodes share, whether or not this one could take
    /// all of it without a restart; `text` and `version` are that one's.
    pub fn reconfigure(&self, config: &Arc<Config>, agreed: &Config, text: &str, version: u64) {
        self.wanted.send_replace(Arc::new(wanted_of(config, agreed, text, version)));
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
        if owned().is_empty() {
            return;
        }
        // One that died a moment ago would let the others wait for nothing.
        let answering = handle.reach(ANSWERS_WITHIN).await;
        let applied = handle.applied();
        let voters = applied.state.members().values().filter(|member| member.role == MemberRole::Voter);
        let answering: BTreeSet<String> =
            voters.filter(|member| answering.contains(&member.id)).map(|member| member.id.clone()).collect();
        let Some(to) = answering.first() else {
            tracing::warn!("no other voter answers: the endpoints are not handed over");
            return;
        };
        let until = tokio::time::Instant::now() + HAND_OVER;
        let mut is_under_way = false;
        for endpoint in owned() {
            let order = Order::MoveEndpoint {
                endpoint: endpoint.clone(),
                to: to.clone(),
                or: answering.clone(),
                cause: format!("stop:{me}"),
            };
            match tokio::time::timeout_at(until, handle.order(order)).await {
                Ok(Ok(said)) => {
                    is_under_way = true;
                    tracing::info!(endpoint, said, "handing over before stopping");
                }
                Ok(Err(error)) => tracing::warn!(endpoint, %error, "the endpoint is not handed over"),
                Err(_) => tracing::warn!(endpoint, "the endpoint is not handed over: no leader answered"),
            }
        }
        if !is_under_way {
            return;
        }
        let mut applied = handle.watch();
        let gone = applied.wait_for(|applied| {
            applied.state.endpoints().iter().all(|(name, endpoint)| {
                endpoint.owner.as_deref() != Some(&*me)
                    && !applied.state.is_fenced(&Fenced::Endpoint(name.clone()))
            })
        });
        let _ = tokio::time::timeout(HAND_OVER, gone).await;
        // What is only this host's, an address on an interface say, must be gone before the process is.
        let let_go = async {
            while self.endpoints.board.holds_any() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(HAND_OVER, let_go).await;
    }
}

/// What the last start has kept is not for a node that begins anew.
pub fn forget_kept(directory: &Path) -> io::Result<()> {
    for kept in [KEPT, instances::KEPT] {
        match fs::remove_file(directory.join(kept)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What the cluster agreed on when this node was last there. None: never, or it cannot be read.
pub fn kept(cluster: &config::Cluster) -> Option<String> {
    fs::read_to_string(cluster.directory.join(KEPT)).ok()
}

/// What waits for a restart, `failover.mode` above all, is not decided by before.
fn wanted_of(running: &Config, agreed: &Config, text: &str, version: u64) -> Wanted {
    let live = config::reload::live_part(running, agreed.clone());
    Wanted {
        version,
        endpoints: agreed.endpoints.iter().map(|endpoint| endpoint.settings.name.clone()).collect(),
        servers: live.servers.iter().map(|server| server.id.clone()).collect(),
        addresses: agreed.cluster.iter().flat_map(|cluster| &cluster.nodes).map(reached).collect(),
        policy: Arc::new(Policy { failover: live.failover, servers: live.servers }),
        lease: running.cluster.as_ref().map(|cluster| cluster.lease).unwrap_or_default(),
        raise_log_format_after_ms: agreed
            .cluster
            .as_ref()
            .map_or(u64::MAX, |cluster| cluster.raise_log_format_after_ms),
        configuration: text.to_owned(),
    }
}

fn settings(cluster: &config::Cluster, me: &Me) -> Result<NodeSettings, NameError> {
    let Me { node: me, role } = me;
    Ok(NodeSettings {
        name: NodeName::new(&me.id, &cluster.name)?,
        role: *role,
        address: me.address(),
        listen: me.listen,
        voters: cluster
            .nodes
            .iter()
            .map(|node| Address { node: node.id.clone(), address: node.address() })
            .collect(),
        directory: cluster.directory.clone(),
        files: peer_files(cluster, &me.id),
        lease: cluster.lease,
    })
}

fn peer_files(cluster: &config::Cluster, id: &str) -> PeerFiles {
    let in_pki = |name: String| cluster.pki_directory.join(name);
    PeerFiles {
        authorities: in_pki("ca.crt".to_owned()),
        certificate: in_pki(format!("{id}.crt")),
        key: in_pki(format!("{id}.key")),
    }
}

fn reached(node: &config::Node) -> (String, String) {
    (node.id.clone(), node.address())
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

/// What may still begin there counts as well: sessions go by the snapshot that is published.
fn sessions_here(gateway: &Arc<OnceLock<Arc<Gateway>>>) -> act::Sessions {
    let is_used = |snapshot: &Snapshot, server: ServerIndex| {
        let found = snapshot.server(server);
        snapshot.primary == Some(server) || found.is_some_and(|found| found.is_up(Role::Standby))
    };
    let (for_busy, for_quiet) = (gateway.clone(), gateway.clone());
    act::Sessions {
        busy: Arc::new(move |server, epoch| match for_busy.get() {
            Some(gateway) if is_used(&gateway.topology.borrow(), server) => usize::MAX,
            Some(gateway) => gateway.busy_on(server, epoch),
            None => 0,
        }),
        quiet: Arc::new(move |server| for_quiet.get().is_none_or(|gateway| gateway.is_quiet(server))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "[listen]\naddresses = ['127.0.0.1:1']\n[auth]\nhba_file = 'hba'\nuser_file = 'users'\n\
        [[server]]\nid = 's1'\nhost = 'db1'\n[cluster]\nname = 'shop'\n\
        [[node]]\nid = 'a'\nhost = 'h1'\n[[node]]\nid = 'b'\nhost = 'h2'\n[[node]]\nid = 'c'\nhost = 'h3'\n";

    fn who(node: &str, address: Option<&str>) -> Result<Option<Me>, MeError> {
        let config =
            config::file::parse(CLUSTER, Path::new("/k.toml"), 1).unwrap_or_else(|r| panic!("{r}")).0;
        let who = Who { node: Some(node.to_owned()), proxy_address: address.map(str::to_owned) };
        me(&config, &who)
    }

    #[test]
    fn what_waits_for_a_restart_is_not_decided_by_before() {
        let with = |mode: &str, sync: &str| {
            let failover = format!(
                "[failover]\nmode = '{mode}'\nsync_mode = '{sync}'\nuser = 'ops'\nreplication_user = 'rep'\n"
            );
            let text = format!("{CLUSTER}[health]\nuser = 'k'\n{failover}");
            config::file::parse(&text, Path::new("/k.toml"), 1).unwrap_or_else(|r| panic!("{r}")).0
        };
        let (streaming, off) = (with("streaming", "off"), with("off", "prefer"));
        for (running, agreed) in [(&streaming, &off), (&off, &streaming)] {
            let Policy { failover, servers } = &*wanted_of(running, agreed, "", 2).policy;
            assert_eq!(
                (failover.mode, failover.sync_mode),
                (running.failover.mode, agreed.failover.sync_mode)
            );
            assert_eq!(*servers, agreed.servers);
        }
    }

    #[test]
    fn an_instance_is_the_node_that_has_its_address() {
        let text = CLUSTER.replace("'h2'", "'10.0.2.10'");
        let config = config::file::parse(&text, Path::new("/k.toml"), 1).unwrap_or_else(|r| panic!("{r}")).0;
        let cluster = config.cluster.unwrap();
        assert_eq!(at(&cluster, [10, 0, 2, 10].into()), Some("b"));
        assert_eq!(at(&cluster, [10, 0, 2, 11].into()), None);
    }

    #[test]
    fn a_proxy_is_whoever_the_configuration_does_not_name() {
        assert_eq!(who("a", None).unwrap().unwrap().role, MemberRole::Voter);
        let proxy = who("p1", Some("[fd00::9]:7000")).unwrap().unwrap();
        assert_eq!((proxy.role, proxy.node.host.as_str()), (MemberRole::Proxy, "fd00::9"));
        assert_eq!(proxy.node.listen.to_string(), "[::]:7000");
        assert_eq!(who("a", Some("h9:7000")), Err(MeError::IsVoter("a".to_owned())));
        assert!(matches!(who("p1", Some("h9")), Err(MeError::Address(_))));
        assert!(matches!(who("p1", None), Err(MeError::Node(_))));
    }
}
