//! How the parts of a sandbox are made, before any of them is needed.
//!
//! Owns the roles, the certificates and the addresses. Invariant: all nodes are told the same of each
//! other and of the servers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use ipnet::Ipv4Net;

use super::agent::{Agent, program_for_servers, this_program};
use super::args::{Method, SandboxArgs, Sync};
use super::aws::Double;
use super::error::SandboxError;
use super::managed::Managed;
use super::network::{DEVICE, Network};
use super::node::{Node, NodePlan};
use super::node_files::{
    self, CLUSTER, ClusterPlan, Common, ENDPOINT, FailoverPlan, MethodPlan, Own, Peer, Writer,
    write_certificates,
};
use super::place::Place;
use super::port::ReservedPort;
use super::postgres::{Host, Postgres, PostgresError, PostgresOptions};
use super::roles::{Login, OPERATOR, REWINDER};
use super::servers::{Servers, literal, server_ids};
use crate::pki::{AUTHORITY_DAYS, Authority};
use crate::postgres::Installation;

pub const APP_ROLE: &str = "app";
const HEALTH_ROLE: &str = "komainu_health";
const MAX_CONNECTIONS: u32 = 300;
/// In a network of their own the nodes all have the same ports.
pub const CLIENT_PORT: u16 = 5432;
const PEER_PORT: u16 = 7400;

pub struct Making<'a> {
    pub args: &'a SandboxArgs,
    pub place: &'a Place,
    pub network: Option<&'a Network>,
    pub control: &'a Path,
    pub aws: Option<&'a Double>,
    pub managed: Option<&'a Managed>,
}

/// Where a node's ports are.
struct Seat {
    host: Ipv4Addr,
    client_port: u16,
    peer_port: u16,
    reserved: Vec<ReservedPort>,
}

impl Making<'_> {
    pub fn servers(&self, installation: &Installation) -> Result<Servers, SandboxError> {
        let mut options = PostgresOptions {
            max_connections: MAX_CONNECTIONS,
            // Until all is made: on a slow disk, syncing it would take most of the time.
            fsync: false,
            settings: Vec::new(),
            hba: Vec::new(),
            password: random_password(),
            hosts: BTreeMap::new(),
            port: None,
            slots: true,
        };
        if let Some(network) = self.network {
            let host = |id: String| {
                let host = Host { address: network.address(&id)?, holder: Some(network.holder(&id)?) };
                Some((id, host))
            };
            let ids = server_ids(self.args.all_standbys());
            options.hosts = ids.into_iter().filter_map(host).collect();
            for database in ["all", "replication"] {
                options.hba.push(format!("host {database} all {} scram-sha-256", network.net()));
            }
        }
        if let Some(managed) = self.managed {
            managed.options(&mut options);
        }
        let servers = Servers::start(installation, &self.place.directory, self.args.all_standbys(), options)?;
        self.managed.map_or(Ok(()), |managed| managed.dress(&servers))?;
        Ok(servers)
    }

    /// Each has its place beside its server.
    pub fn agents(&self, installation: &Installation, servers: &Servers) -> Result<Vec<Agent>, SandboxError> {
        if self.args.nodes == 1 || self.args.no_agents || self.managed.is_some() {
            return Ok(Vec::new());
        }
        let (program, directory) = (this_program()?, &self.place.directory);
        let program = program_for_servers(installation, &program, directory).map_err(|source| {
            SandboxError::Io { operation: "copy komainu into", path: directory.clone(), source }
        })?;
        let agent = |server: &Postgres| Ok(Agent::of(server, installation, &program)?);
        self.configured(servers).iter().map(agent).collect()
    }

    /// Those of which komainu is told.
    fn configured<'a>(&self, servers: &'a Servers) -> &'a [Postgres] {
        &servers.all()[..=usize::from(self.args.standbys)]
    }

    /// Their files and their agents' are written, and `app` may log in to them.
    pub fn nodes(
        &self,
        ids: &[String],
        servers: &Servers,
        agents: &[Agent],
        app: &Login,
    ) -> Result<Vec<Node>, SandboxError> {
        let health = Login { user: HEALTH_ROLE.into(), password: random_password() };
        let verifier = create_roles(servers, app, &health)?;
        let login = |user: &str| Login { user: user.into(), password: random_password() };
        let operator = login(OPERATOR);
        if self.managed.is_none() {
            servers.create_operating_roles(&operator, &login(REWINDER))?;
        }
        // After a crash PostgreSQL syncs all it has, which would count as the service's time, and takes none there.
        if self.managed.is_none() {
            for server in servers.all() {
                server.configure("fsync", "on")?;
                server.reload()?;
            }
        }
        let seats = ids.iter().map(|id| self.seat(id)).collect::<Result<Vec<_>, _>>()?;
        let alone = ids.len() == 1;
        let common = Common {
            health: &health,
            users: &[(app.user.clone(), verifier)],
            servers: self.configured(servers),
            agents,
            writer: match self.managed {
                Some(managed) => Writer::Managed(managed),
                None if alone => Writer::Follow,
                None => Writer::Make(FailoverPlan {
                    operator: &operator,
                    replication_user: servers.primary().replicator().user,
                    passfile: servers.primary().passfile(),
                    sync: self.args.sync(),
                }),
            },
            clients: self.network.map_or(Ipv4Net::from(Ipv4Addr::LOCALHOST), Network::net),
            cluster: if alone { None } else { Some(self.cluster(ids, &seats)?) },
        };
        let authority = match alone {
            true => None,
            false => {
                let directory = self.place.directory.join("authority");
                Some(Authority::create(&directory, CLUSTER, AUTHORITY_DAYS)?)
            }
        };
        if let Some(authority) = &authority {
            let shared = node_files::for_an_agent(&common);
            for (agent, server) in agents.iter().zip(servers.all()) {
                agent.write_files(server, &shared, authority)?;
            }
        }
        let metadata = |n| self.aws.and_then(|aws| aws.metadata_url(n));
        let numbered = ids.iter().zip(seats).zip(0..);
        numbered
            .map(|((id, seat), n)| self.node(id, seat, metadata(n), &common, authority.as_ref()))
            .collect()
    }

    /// Last of all: from now on the primary waits for its standbys.
    pub fn begin_synchronous(&self, servers: &Servers) -> Result<(), SandboxError> {
        match self.args.sync() {
            Sync::Off => Ok(()),
            Sync::Prefer | Sync::Require => {
                let standbys = self.configured(servers)[1..].iter().map(Postgres::id);
                Ok(servers.begin_synchronous(&standbys.collect::<Vec<_>>())?)
            }
        }
    }

    fn seat(&self, id: &str) -> Result<Seat, SandboxError> {
        let port = || ReservedPort::any().map_err(PostgresError::Port);
        if let Some(host) = self.network.and_then(|network| network.address(id)) {
            return Ok(Seat { host, client_port: CLIENT_PORT, peer_port: PEER_PORT, reserved: Vec::new() });
        }
        let host = Ipv4Addr::LOCALHOST;
        if self.args.nodes == 1 {
            let client_port = self.args.port;
            return Ok(Seat { host, client_port, peer_port: PEER_PORT, reserved: Vec::new() });
        }
        let (client, peer) = (port()?, port()?);
        Ok(Seat {
            host,
            client_port: client.number(),
            peer_port: peer.number(),
            reserved: vec![client, peer],
        })
    }

    fn cluster(&self, ids: &[String], seats: &[Seat]) -> Result<ClusterPlan, SandboxError> {
        let peer = |(id, seat): (&String, &Seat)| Peer {
            id: id.clone(),
            host: seat.host.to_string(),
            port: seat.peer_port,
        };
        let endpoint = |method: Method| Ok((endpoint_name(method).to_owned(), self.method(method)?));
        Ok(ClusterPlan {
            peers: ids.iter().zip(seats).map(peer).collect(),
            endpoints: self.args.methods().into_iter().map(endpoint).collect::<Result<_, SandboxError>>()?,
            aws: self.aws.map(Double::url),
            is_patient: self.args.patient,
        })
    }

    fn method(&self, method: Method) -> Result<MethodPlan, SandboxError> {
        if let Some(plan) = self.aws.and_then(|aws| aws.method(method)) {
            return Ok(MethodPlan::Aws(plan));
        }
        match (method, self.network) {
            (Method::Interface, Some(network)) => {
                let prefix = network.net().prefix_len();
                let address = Ipv4Net::new(network.virtual_address(), prefix);
                let address = address.expect("the prefix is a network's own");
                Ok(MethodPlan::Interface { device: DEVICE.to_owned(), address })
            }
            _ => Ok(MethodPlan::Tell { program: this_program()?, control: self.control.to_owned() }),
        }
    }

    fn node(
        &self,
        id: &str,
        seat: Seat,
        metadata: Option<String>,
        common: &Common<'_>,
        authority: Option<&Authority>,
    ) -> Result<Node, SandboxError> {
        let directory = self.place.directory.join(id);
        let admin_socket = self.place.sockets.join(format!("{id}.sock"));
        // The virtual address is not there yet.
        let host = if self.network.is_some() { Ipv4Addr::UNSPECIFIED } else { seat.host };
        let listen = SocketAddr::from((host, seat.client_port)).to_string();
        let own = Own { directory: &directory, admin_socket: &admin_socket, listen };
        node_files::write(common, &own).map_err(|source| SandboxError::Io {
            operation: "write a node's files into",
            path: directory.clone(),
            source,
        })?;
        if let Some(authority) = authority {
            write_certificates(authority, id, &directory)?;
        }
        Ok(Node::new(NodePlan {
            id: id.to_owned(),
            directory,
            admin_socket,
            address: (seat.host, seat.client_port).into(),
            named: authority.is_some(),
            holder: self.network.and_then(|network| network.holder(id)),
            metadata,
            _ports: seat.reserved,
        }))
    }
}

/// AWS's are there side by side, and told apart by what moves them.
pub fn endpoint_name(method: Method) -> &'static str {
    if method.is_aws() { method.name() } else { ENDPOINT }
}

/// Creates the roles and the database, on all servers; returns the first role's SCRAM verifier.
fn create_roles(servers: &Servers, app: &Login, health: &Login) -> Result<String, PostgresError> {
    let primary = servers.primary();
    let create = format!(
        "CREATE ROLE {app} LOGIN CREATEDB PASSWORD {app_password};\n\
         CREATE ROLE {health} LOGIN PASSWORD {health_password} IN ROLE pg_monitor",
        app = app.user,
        app_password = literal(&app.password),
        health = health.user,
        health_password = literal(&health.password),
    );
    primary.psql("postgres", &create)?;
    primary.psql("postgres", &format!("CREATE DATABASE {0} OWNER {0}", app.user))?;
    let verifier = format!("SELECT rolpassword FROM pg_authid WHERE rolname = {}", literal(&app.user));
    let verifier = primary.psql("postgres", &verifier)?;
    servers.wait_for_replay()?;
    Ok(verifier)
}

/// 128 bits that need no quoting in a URL.
pub fn random_password() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source does not fail once it works");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
