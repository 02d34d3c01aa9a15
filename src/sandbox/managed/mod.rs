//! A managed service in small: PostgreSQL servers with the names, functions and behaviour of RDS or Aurora.
//!
//! Owns the names, where they lead, and who the writer is; `dress` makes the servers look so, `failover` does what AWS does,
//! and `listed` is what AWS's API says of it, if there is a double of that.
//! Invariant: a name moves only when it is told to, and nobody here tells a node anything.

mod dress;
mod failover;
mod listed;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use komainu_aws_double::api::rds_endpoint;
use komainu_aws_double::{Api, NameServer, Records};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::error::SandboxError;
use super::port::ReservedPort;
use super::postgres::{Host, PostgresError, PostgresOptions};
use super::ready::ReadyManaged;
use super::servers::{Servers, server_ids};
pub use dress::{AURORA_FUNCTIONS, RDS_FUNCTIONS};
pub use failover::{FailoverOrder, FailoverTold};
use listed::Listed;

/// Nobody's: RFC 2606 keeps it for tests.
const DOMAIN: &str = "sandbox.test";
/// As the endpoint of a cluster: it leads to the writer.
const WRITER: &str = "writer";
/// The servers are at `.1`, `.2` and so on, all at one port, since a name has no port.
const SERVERS: [u8; 3] = [127, 10, 0];
/// The name server is at an address of its own, so that it may have the port that programs expect.
const NAME_SERVERS: [u8; 2] = [127, 53];
const NAME_PORT: u16 = 53;

/// Who makes the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ManagedMode {
    /// As a Multi-AZ DB cluster of RDS
    Rds,
    /// As a cluster of Aurora
    Aurora,
}

impl fmt::Display for ManagedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rds => "rds",
            Self::Aurora => "aurora",
        })
    }
}

#[derive(Debug)]
pub struct Managed {
    mode: ManagedMode,
    ttl_s: u32,
    ids: Vec<String>,
    /// The double of AWS's API has names for the instances.
    is_listed: bool,
    port: Arc<ReservedPort>,
    records: Records,
    names: NameServer,
    /// While there is one, standbys find the WAL of a writer that was lost here.
    lost: PathBuf,
    /// None: nobody lists the instances.
    listed: OnceLock<Listed>,
    /// Locked for as long as it changes.
    writer: Mutex<String>,
}

impl Managed {
    /// Blocks; must be called within a tokio runtime, but not on its own threads. `is_listed`: a double of AWS's API is going
    /// to list the instances, under names of its own.
    pub fn start(
        mode: ManagedMode,
        ttl_s: u32,
        servers: usize,
        is_listed: bool,
        directory: &Path,
    ) -> Result<Self, SandboxError> {
        let port = Arc::new(ReservedPort::any().map_err(PostgresError::Port)?);
        let records = Records::new(ttl_s);
        let starting = name_server(port.number(), &records);
        let names = Handle::current().block_on(starting).map_err(SandboxError::Names)?;
        let ids = server_ids(servers);
        let (lost, writer) = (directory.join("lost"), Mutex::new(ids[0].clone()));
        let listed = OnceLock::new();
        let managed = Self { mode, ttl_s, ids, is_listed, port, records, names, lost, listed, writer };
        for (id, address) in managed.ids.iter().zip(addresses()) {
            managed.records.set(&managed.name(id), Some(address));
        }
        if !is_listed {
            managed.records.set(&managed.writer_name(), addresses().next());
        }
        Ok(managed)
    }

    /// Has the double list the instances. Blocks, as `start` does; before there is a node.
    pub fn list(&self, api: Api) -> io::Result<()> {
        let creating = Listed::create(api, self.mode, &self.ids, self.port.number());
        let listed = Handle::current().block_on(creating)?;
        self.records.set(&listed.endpoint, addresses().next());
        // Nobody else does it.
        let _ = self.listed.set(listed);
        Ok(())
    }

    /// By which the nodes find all the others. None: they are told the names.
    pub fn cluster_id(&self) -> Option<&'static str> {
        self.listed.get().map(|_| listed::CLUSTER_ID)
    }

    pub fn mode(&self) -> ManagedMode {
        self.mode
    }

    /// What the servers are to be started with.
    pub fn options(&self, options: &mut PostgresOptions) {
        let host = |address| Host { address, holder: None };
        options.hosts = self.ids.iter().cloned().zip(addresses().map(host)).collect();
        options.port = Some(self.port.clone());
        dress::options(options, &self.lost);
    }

    pub fn dress(&self, servers: &Servers) -> Result<(), PostgresError> {
        dress::dress(servers, self.mode, |id| self.name(id))
    }

    /// Of an instance.
    pub fn name(&self, server: &str) -> String {
        match self.is_listed {
            true => rds_endpoint(server),
            false => format!("{server}.{DOMAIN}"),
        }
    }

    /// It leads to the writer.
    fn writer_name(&self) -> String {
        self.listed.get().map_or_else(|| self.name(WRITER), |listed| listed.endpoint.clone())
    }

    /// How instances are reached that nobody has named.
    pub fn template(&self) -> String {
        self.name("?")
    }

    pub fn name_server(&self) -> SocketAddr {
        self.names.address
    }

    pub fn ready(&self) -> ReadyManaged {
        ReadyManaged {
            mode: self.mode,
            writer_name: self.writer_name(),
            port: self.port.number(),
            name_server: self.name_server().to_string(),
            ttl_s: self.ttl_s,
            cluster_id: self.cluster_id().map(str::to_owned),
        }
    }
}

fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (1..=u8::MAX).map(|n| Ipv4Addr::new(SERVERS[0], SERVERS[1], SERVERS[2], n))
}

/// Whose port is nobody else's, whose address is not either.
async fn name_server(port: u16, records: &Records) -> io::Result<NameServer> {
    let [high, low] = port.to_be_bytes();
    let address = Ipv4Addr::new(NAME_SERVERS[0], NAME_SERVERS[1], high, low);
    match NameServer::start_at((address, NAME_PORT).into(), records.clone()).await {
        // That port is for root, as a rule.
        Err(_) => NameServer::start(address.into(), records.clone()).await,
        started => started,
    }
}
