//! A whole cluster on this machine: servers, nodes before them, and the address clients use.
//!
//! Owns what the parts are told of each other, and the order in which they start. Restarts nothing by
//! itself: whoever kills a part wants to see what komainu does. Invariant: the endpoint leads to the node
//! that was told last to take it, and to nobody if that one gave it up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::agent::Agent;
use super::args::{Method, SandboxArgs};
use super::endpoint::{Call, Endpoint, Refused};
use super::error::SandboxError;
use super::installation::Installation;
use super::making::{APP_ROLE, CLIENT_PORT, Making, random_password};
use super::network::Network;
use super::node::Node;
use super::node_files::ENDPOINT;
use super::place::Place;
use super::port::is_free;
use super::postgres::Postgres;
use super::ready::{Ready, ReadyAgent, ReadyNode, ReadyServer, Role};
use super::relay::Relay;
use super::roles::Login;
use super::servers::{Servers, server_ids};

pub const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Fields in the order in which they may be dropped.
#[derive(Debug)]
pub struct Sandbox {
    nodes: Vec<Node>,
    agents: Vec<Agent>,
    servers: Servers,
    /// None: the one node is where clients connect.
    front: Option<Front>,
    network: Option<Network>,
    installation: Installation,
    app: Login,
    /// Where clients connect.
    address: SocketAddr,
    control: PathBuf,
    place: Place,
}

/// What stands for the network between clients and nodes.
#[derive(Debug)]
struct Front {
    relay: Relay,
    endpoint: Mutex<Endpoint>,
    /// An address that the nodes take themselves: the relay always leads there, and is told nothing.
    moving: Option<SocketAddr>,
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
        let ids: Vec<String> = (1..=args.nodes).map(|n| format!("node{n}")).collect();
        let network =
            if args.netns { Some(Network::create(&ids, &server_ids(args.standbys.into()))?) } else { None };
        let installation = Installation::find()?;
        let place = Place::prepare(args.dir.as_deref())?;
        if !installation.may_enter(&place.directory) {
            return Err(SandboxError::Unreachable(place.directory));
        }
        let making = Making { args, place: &place, network: network.as_ref(), control: &control };
        let servers = making.servers(&installation)?;
        let app = Login { user: APP_ROLE.into(), password: random_password() };
        let agents = making.agents(&installation, &servers)?;
        let nodes = making.nodes(&ids, &servers, &agents, &app)?;
        making.begin_synchronous(&servers)?;
        let alone = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
        let address = relay.as_ref().map_or(alone, Relay::address);
        let front = relay.map(|relay| {
            let moving = match (args.method, &network) {
                (Method::Interface, Some(network)) => Some((network.virtual_address(), CLIENT_PORT).into()),
                _ => None,
            };
            relay.point_at(moving);
            Front { relay, endpoint: Mutex::new(Endpoint::new(ENDPOINT)), moving }
        });
        Ok(Self { nodes, agents, servers, front, network, installation, app, address, control, place })
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

    pub fn node(&self, id: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id() == id)
    }

    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    pub fn servers(&self) -> &Servers {
        &self.servers
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

    /// Whether a node has told that it has the endpoint, where that is how clients find it.
    pub fn is_taken(&self) -> bool {
        self.front.as_ref().is_none_or(|front| front.endpoint().holder().is_some())
    }

    /// The address that moves between the nodes by itself, if there is one.
    pub fn moving_address(&self) -> Option<SocketAddr> {
        self.front.as_ref()?.moving
    }

    /// A node's program says what it was told.
    pub fn told(&self, call: &Call) -> Result<(), Refused> {
        let Some(front) = &self.front else {
            return Err(Refused::NoEndpoint { asked: call.endpoint.clone(), ours: "none".to_owned() });
        };
        let mut endpoint = front.endpoint();
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
            role: if n == 0 { Role::Primary } else { Role::Standby },
            data_directory: server.data_directory(),
        };
        let agent = |agent: &Agent| ReadyAgent {
            id: agent.id().to_owned(),
            pid: agent.pid().unwrap_or_default(),
            server: agent.server().to_owned(),
            address: agent.address().to_string(),
        };
        Ready {
            url: url(self.address()),
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

impl Front {
    fn endpoint(&self) -> MutexGuard<'_, Endpoint> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
