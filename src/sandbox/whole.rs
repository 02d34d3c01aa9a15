//! A whole cluster on this machine: servers, nodes before them, and the address clients use.
//!
//! Owns what the parts are told of each other, and the order in which they start. Restarts nothing by
//! itself: whoever kills a part wants to see what komainu does. Invariant: the endpoint leads to the node
//! that was told last to take it, and to nobody if that one gave it up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use komainu_aws_double::Moto;

use super::agent::Agent;
use super::args::{Method, SandboxArgs, Sync};
use super::aws::{Double, find_python};
use super::endpoint::{Call, Endpoint, Refused};
use super::error::SandboxError;
use super::front::{Front, Lead};
use super::making::{APP_ROLE, CLIENT_PORT, Making, endpoint_name, random_password};
use super::managed::Managed;
use super::network::Network;
use super::node::Node;
use super::place::Place;
use super::port::is_free;
use super::postgres::{Postgres, PostgresError};
use super::ready::{Ready, ReadyAgent, ReadyEndpoint, ReadyNode, ReadyServer, Role};
use super::relay::Relay;
use super::roles::Login;
use super::servers::{Servers, server_ids};
use crate::postgres::Installation;

pub const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Fields in the order in which they may be dropped.
#[derive(Debug)]
pub struct Sandbox {
    nodes: Vec<Node>,
    agents: Vec<Agent>,
    servers: Servers,
    /// Of the servers, those behind the primary of which komainu was told when it began.
    configured_standbys: usize,
    /// Clients' own first. None: the one node is where clients connect.
    fronts: Vec<Front>,
    aws: Option<Double>,
    managed: Option<Managed>,
    network: Option<Network>,
    installation: Installation,
    app: Login,
    /// Where clients connect.
    address: SocketAddr,
    control: PathBuf,
    place: Place,
    /// The nodes are to find out that commits wait for standbys.
    waits_for_standbys: bool,
}

impl Sandbox {
    /// Makes and starts the servers and makes the nodes, of which none runs yet: they will talk to `control`.
    ///
    /// Blocks. Must be called within a tokio runtime.
    pub fn prepare(args: &SandboxArgs, control: PathBuf) -> Result<Self, SandboxError> {
        args.check()?;
        let relay = if args.nodes == 1 {
            if !is_free(args.port) {
                return Err(SandboxError::PortInUse(args.port));
            }
            None
        } else {
            Some(Relay::listen(args.port).map_err(|_| SandboxError::PortInUse(args.port))?)
        };
        // It takes seconds, and so do the servers.
        let moto = args.before_aws().then(|| thread::spawn(|| Moto::start(&find_python())));
        let ids: Vec<String> = (1..=args.nodes).map(|n| format!("node{n}")).collect();
        let network =
            if args.netns { Some(Network::create(&ids, &server_ids(args.all_standbys()))?) } else { None };
        let installation = Installation::find()?;
        let place = Place::prepare(args.dir.as_deref())?;
        if !installation.may_enter(&place.directory) {
            return Err(SandboxError::Unreachable(place.directory));
        }
        let servers = args.all_standbys();
        let managed = args
            .mode
            .map(|mode| Managed::start(mode, args.name_ttl, servers, args.before_aws(), &place.directory));
        let managed = managed.transpose()?;
        let mut making = Making {
            args,
            place: &place,
            network: network.as_ref(),
            control: &control,
            aws: None,
            managed: managed.as_ref(),
        };
        let servers = making.servers(&installation)?;
        let aws = match moto {
            Some(starting) => {
                let moto =
                    starting.join().map_err(|_| SandboxError::Panicked)?.map_err(SandboxError::Moto)?;
                let double = Double::start(moto, &ids, network.as_ref())?;
                if let Some(managed) = &managed {
                    managed.list(double.api()).map_err(SandboxError::Double)?;
                }
                Some(double)
            }
            None => None,
        };
        making.aws = aws.as_ref();
        let app = Login { user: APP_ROLE.into(), password: random_password() };
        let agents = making.agents(&installation, &servers)?;
        let nodes = making.nodes(&ids, &servers, &agents, &app)?;
        making.begin_synchronous(&servers)?;
        let alone = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
        let address = relay.as_ref().map_or(alone, Relay::address);
        let mut fronts = Vec::new();
        let mut relays = relay.into_iter();
        for method in args.methods() {
            let relay = match relays.next() {
                Some(relay) => Arc::new(relay),
                None if fronts.is_empty() => break,
                None => Arc::new(Relay::listen(0).map_err(PostgresError::Port)?),
            };
            let lead = match (&aws, method, &network) {
                (Some(aws), method, _) if let Some(follower) = aws.follow(method, &nodes, relay.clone()) => {
                    Lead::Followed(follower)
                }
                (_, Method::Interface, Some(network)) => {
                    let address = SocketAddr::from((network.virtual_address(), CLIENT_PORT));
                    relay.point_at(Some(address));
                    Lead::Moving(address)
                }
                _ => Lead::Told(Mutex::new(Endpoint::new(endpoint_name(method)))),
            };
            fronts.push(Front { name: endpoint_name(method).to_owned(), method: method.name(), relay, lead });
        }
        let configured_standbys = args.standbys.into();
        Ok(Self {
            nodes,
            agents,
            servers,
            configured_standbys,
            fronts,
            aws,
            managed,
            network,
            installation,
            app,
            address,
            control,
            place,
            waits_for_standbys: args.nodes > 1 && args.sync() != Sync::Off,
        })
    }

    /// Starts the agents and the nodes; they are not ready yet.
    pub fn start(&self) -> Result<(), SandboxError> {
        for agent in &self.agents {
            agent.start().map_err(|source| SandboxError::Io {
                operation: "start an agent in",
                path: self.place.directory.join(agent.server()),
                source,
            })?;
        }
        self.nodes.iter().try_for_each(|node| {
            node.start().map_err(|source| SandboxError::Io {
                operation: "start a komainu node in",
                path: self.place.directory.join(node.id()),
                source,
            })
        })
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether a failover can rely on it already that a standby has what was acknowledged, if one is to.
    pub fn is_promised(&self) -> bool {
        !self.waits_for_standbys || self.nodes.iter().all(Node::says_promised)
    }

    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id() == id)
    }

    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Who makes the writer, if it is not komainu.
    pub fn managed(&self) -> Option<&Managed> {
        self.managed.as_ref()
    }

    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Who may log in through komainu.
    pub fn app(&self) -> &Login {
        &self.app
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoints, clients' own first. None: the one node is where clients connect.
    pub fn fronts(&self) -> &[Front] {
        &self.fronts
    }

    /// A node's program says what it was told.
    pub fn told(&self, call: &Call) -> Result<(), Refused> {
        let front = self.fronts.iter().find_map(|front| Some((front, front.told()?)));
        let Some((front, mut endpoint)) = front else {
            return Err(Refused::NoEndpoint { asked: call.endpoint.clone(), ours: "none".to_owned() });
        };
        endpoint.told(call)?;
        // Under the lock: of two calls the later one is the last word here, too.
        let holder = endpoint.holder().and_then(|id| self.node(id));
        front.relay.point_at(holder.map(Node::address));
        Ok(())
    }

    pub fn ready(&self) -> Ready {
        let url = |address| format!("postgres://{0}:{1}@{address}/{0}", self.app.user, self.app.password);
        let node = |node: &Node| ReadyNode {
            id: node.id().to_owned(),
            pid: node.pid().unwrap_or_default(),
            url: url(node.address()),
            admin: node.admin_socket().to_string_lossy().into_owned(),
        };
        let server = |(n, server): (usize, &Postgres)| ReadyServer {
            id: server.id().to_owned(),
            pid: server.pid().unwrap_or_default(),
            host: server.host().to_owned(),
            port: server.port(),
            name: self.managed.as_ref().map(|managed| managed.name(server.id())),
            role: match n {
                0 => Role::Primary,
                n if n <= self.configured_standbys => Role::Standby,
                _ => Role::Spare,
            },
            data_directory: server.data_directory(),
        };
        let agent = |agent: &Agent| ReadyAgent {
            id: agent.id().to_owned(),
            pid: agent.pid().unwrap_or_default(),
            server: agent.server().to_owned(),
            address: agent.address().to_string(),
        };
        let endpoint = |front: &Front| ReadyEndpoint {
            name: front.name.clone(),
            method: front.method.to_owned(),
            url: url(front.address()),
        };
        Ready {
            url: url(self.address()),
            endpoints: self.fronts.iter().map(endpoint).collect(),
            aws: self.aws.as_ref().map(|aws| aws.ready(&self.nodes)),
            managed: self.managed.as_ref().map(Managed::ready),
            nodes: self.nodes.iter().map(node).collect(),
            servers: self.servers.all().iter().enumerate().map(server).collect(),
            agents: self.agents.iter().map(agent).collect(),
            control: self.control.to_string_lossy().into_owned(),
        }
    }

    /// Ends everything, in an order in which nobody waits for another.
    pub fn stop(&self) -> Result<(), SandboxError> {
        match self.nodes.as_slice() {
            [alone] => alone.stop(),
            // Each would look for another to hand the endpoint to, and all of them end.
            several => several.iter().for_each(Node::kill),
        }
        // What they are doing to a server ends with the server.
        self.agents.iter().for_each(Agent::kill);
        // Data that goes away with its directory need not be written out first.
        if self.place.kept { Ok(self.servers.stop()?) } else { Ok(()) }
    }
}
