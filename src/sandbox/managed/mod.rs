//! A managed service in small: PostgreSQL servers with the names, functions and behaviour of RDS or Aurora.
//!
//! Owns the names, where they lead, and who the writer is; `dress` makes the servers look so, `failover` does what AWS does.
//! Invariant: a name moves only when it is told to, and nobody here tells a node anything.

mod dress;
mod failover;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use komainu_aws_double::{NameServer, Records};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::error::SandboxError;
use super::port::ReservedPort;
use super::postgres::{Host, PostgresError, PostgresOptions};
use super::ready::ReadyManaged;
use super::servers::{Servers, server_ids};
pub use dress::{AURORA_FUNCTIONS, RDS_FUNCTIONS};
pub use failover::{FailoverOrder, FailoverTold};

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
    port: Arc<ReservedPort>,
    records: Records,
    names: NameServer,
    /// While there is one, standbys find the WAL of a writer that was lost here.
    lost: PathBuf,
    /// Locked for as long as it changes.
    writer: Mutex<String>,
}

impl Managed {
    /// Blocks; must be called within a tokio runtime, but not on its own threads.
    pub fn start(
        mode: ManagedMode,
        ttl_s: u32,
        servers: usize,
        directory: &Path,
    ) -> Result<Self, SandboxError> {
        let port = Arc::new(ReservedPort::any().map_err(PostgresError::Port)?);
        let records = Records::new(ttl_s);
        let starting = name_server(port.number(), &records);
        let names = Handle::current().block_on(starting).map_err(SandboxError::Names)?;
        let ids = server_ids(servers);
        for (id, address) in ids.iter().zip(addresses()) {
            records.set(&name(id), Some(address));
        }
        records.set(&name(WRITER), addresses().next());
        let (lost, writer) = (directory.join("lost"), Mutex::new(ids[0].clone()));
        Ok(Self { mode, ttl_s, port, records, names, lost, writer })
    }

    pub fn mode(&self) -> ManagedMode {
        self.mode
    }

    /// What the servers are to be started with.
    pub fn options(&self, options: &mut PostgresOptions, servers: usize) {
        let host = |address| Host { address, holder: None };
        options.hosts = server_ids(servers).into_iter().zip(addresses().map(host)).collect();
        options.port = Some(self.port.clone());
        dress::options(options, &self.lost);
    }

    pub fn dress(&self, servers: &Servers) -> Result<(), PostgresError> {
        dress::dress(servers, self.mode, name)
    }

    /// Of an instance.
    pub fn name(&self, server: &str) -> String {
        name(server)
    }

    /// How instances are reached that nobody has named.
    pub fn template(&self) -> String {
        name("?")
    }

    pub fn name_server(&self) -> SocketAddr {
        self.names.address
    }

    pub fn ready(&self) -> ReadyManaged {
        ReadyManaged {
            mode: self.mode,
            writer_name: name(WRITER),
            port: self.port.number(),
            name_server: self.name_server().to_string(),
            ttl_s: self.ttl_s,
        }
    }
}

fn name(of: &str) -> String {
    format!("{of}.{DOMAIN}")
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
