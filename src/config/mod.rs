//! The configuration as the rest of the program sees it: plain, checked values.
//!
//! Owns the shape and units of every key; their defaults are in `keys::table`. Reading and checking a file is
//! `config::file`; nothing here does IO. Invariant: a `Config` that exists has been checked,
//! so no other module validates a key again.

mod build;
mod certificates;
mod check;
mod document;
#[cfg(test)]
mod every_key;
pub mod failover_mode;
pub mod file;
pub mod keys;
pub mod members;
mod references;
pub mod reload;
pub mod report;
pub mod shared;
mod this_node;
mod value;
pub mod words;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use komainu_escalation::program::ProgramSettings;

use crate::consensus::lease::LeaseSettings;

pub use certificates::CertificateFile;
pub use failover_mode::FailoverMode;
pub use file::load;
pub use this_node::{NodeError, this_node};

/// In which a leader is found, even if the first one or two come to nothing.
const LEASE_ELECTIONS: u64 = 3;

/// Everything one komainu process is told. Shared as `Arc<Config>`; never global.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub listen: Listen,
    pub admin: Admin,
    pub log: Log,
    pub metrics: Metrics,
    pub limits: Limits,
    pub client_tls: ClientTls,
    pub server_tls: ServerTls,
    pub auth: Auth,
    pub pool: Pool,
    pub split: Split,
    pub health: Health,
    pub servers: Vec<Server>,
    /// Roles whose passwords AWS gives.
    pub server_users: Vec<ServerUser>,
    /// None: no agent runs by this file.
    pub agent: Option<Agent>,
    pub failover: Failover,
    pub hooks: Hooks,
    /// Availability zone of this node, for `split.prefer_same_zone`.
    pub zone: Option<String>,
    /// Worker threads of the data path.
    pub workers: usize,
    pub worker_scheduling: Scheduling,
    /// Whether a crash may leave a core file, and whoever has our user id may read our memory.
    pub core_dumps: bool,
    /// None: a node on its own.
    pub cluster: Option<Cluster>,
    /// None without a cluster, which says who owns them.
    pub endpoints: Vec<Endpoint>,
    pub aws: komainu_escalation::AwsSettings,
    pub dns: Dns,
    pub aurora: Aurora,
}

impl Config {
    /// How long work that is under way on the primary waits for this node's lease: as long as a few elections may take, and
    /// never longer than what has not begun.
    pub fn lease_awaited_ms(&self) -> u64 {
        let elections_ms = self
            .cluster
            .as_ref()
            .map_or(0, |cluster| LEASE_ELECTIONS * cluster.lease.election_timeout_max_ms);
        elections_ms.min(self.limits.hold_timeout_ms)
    }
}

/// How the instances of an Aurora cluster are reached, and what is made of their lag.
#[derive(Debug, Clone, PartialEq)]
pub struct Aurora {
    /// With a `?` where the instance's name is. None: as the API of RDS says.
    pub instance_endpoint: Option<String>,
    /// After a write a session reads from the writer for this long.
    pub session_window_ms: u64,
}

/// Whom the servers' names are asked of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dns {
    /// Empty: the system's resolver.
    pub servers: Vec<SocketAddr>,
}

/// Of the threads that serve clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// `SCHED_BATCH`
    Batch,
    /// As the process was started.
    Normal,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    pub addresses: Vec<SocketAddr>,
    /// Directory of the Unix socket `.s.PGSQL.<port>`; none means no Unix socket.
    pub unix_socket_directory: Option<PathBuf>,
    /// Permission bits of the Unix socket.
    pub unix_socket_mode: u32,
    pub backlog: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// HTTP address of the pages that only read, and that name no client.
    pub address: Option<SocketAddr>,
    /// All pages and all orders over a Unix socket, guarded by its file permissions.
    pub socket: Option<PathBuf>,
    /// As the socket over TLS, for whoever has the token. With it the three files are there.
    pub tls_address: Option<SocketAddr>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A `tracing` filter: `info`, `komainu=debug`, …
    pub level: String,
    pub format: LogFormat,
    /// None: stderr.
    pub file: Option<PathBuf>,
    /// A longer file is exchanged for a new one. 0: only when it is ordered.
    pub rotate_bytes: u64,
    /// Older files that are kept.
    pub keep_files: usize,
}

/// What is told of itself without being asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    pub emf: Option<EmfTo>,
    /// To CloudWatch itself.
    pub put_metric_data: bool,
    pub namespace: String,
    pub period_ms: u64,
    /// Kept by the second.
    pub high_resolution: bool,
}

/// Where lines in the embedded metric format go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmfTo {
    Stdout,
    File(PathBuf),
}

/// All durations in milliseconds; 0 turns a timeout off where `docs/configuration.md` says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    pub max_client_connections: usize,
    /// Connections not yet authenticated, from one address.
    pub max_unauthenticated_per_address: usize,
    pub startup_timeout_ms: u64,
    /// A client idle outside a transaction for longer is ended (57P05). 0: never.
    pub client_idle_timeout_ms: u64,
    /// A client idle inside a transaction for longer is ended (25P03). 0: never.
    pub idle_in_transaction_timeout_ms: u64,
    /// A client or a server that has acknowledged nothing for so long of what it was sent is taken for gone.
    pub peer_gone_after_ms: u64,
    /// How long a request or a login waits for a primary; the default follows `failover.mode`.
    pub hold_timeout_ms: u64,
    /// Clients that may wait for one at a time.
    pub max_held_clients: usize,
    /// What they may occupy together with what was read from them.
    pub max_held_bytes: usize,
    /// How long running transactions may go on after SIGTERM.
    pub shutdown_timeout_ms: u64,
    /// Largest single message of an authenticated client.
    pub max_message_bytes: usize,
    /// A statement longer than this is not inspected: it goes to the primary and pins its session.
    pub max_inspected_statement_bytes: usize,
    /// Named statements one session may hold, and bytes of their texts.
    pub max_prepared_statements_per_session: usize,
    pub max_prepared_bytes_per_session: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientTlsMode {
    Off,
    /// TLS if the client asks.
    Allow,
    /// No client without TLS.
    Require,
    /// No client without a certificate signed by `client_ca_file`.
    Verify,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClientTls {
    pub mode: ClientTlsMode,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub client_ca_file: Option<PathBuf>,
}

/// As libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    pub mode: SslMode,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub allow_md5: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// In `pg_hba.conf`'s format.
    pub hba_file: PathBuf,
    /// Lines `"user" "secret"`; the secret is a SCRAM verifier, an `md5…` hash or a password.
    pub user_file: Option<PathBuf>,
    /// Asked on a server for a user that `user_file` does not name.
    pub query: Option<AuthQuery>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AuthQuery {
    /// The role it runs as; its plain password comes from `user_file`, or from a `[[server_user]]`.
    pub user: String,
    pub database: String,
    /// One parameter, `$1`: the user's name. Columns: secret, and whether the role may log in now.
    pub query: String,
    /// An answer is believed for this long; after it even users of warm pools are asked for again.
    pub cache_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    Transaction,
    Session,
}

/// Limits of a pool, which is the connections to one server for one database and user.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolLimits {
    pub mode: PoolMode,
    pub size: usize,
    /// Kept open after first use.
    pub min: usize,
    /// Further connections once a client has waited `reserve_after_ms`.
    pub reserve: usize,
    pub reserve_after_ms: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PoolOverride {
    /// None: any.
    pub database: Option<String>,
    pub user: Option<String>,
    pub limits: PoolLimits,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub limits: PoolLimits,
    /// First match wins.
    pub overrides: Vec<PoolOverride>,
    /// Connections to one server, over all pools.
    pub max_server_connections: usize,
    pub acquire_timeout_ms: u64,
    /// TCP, TLS and login at a server.
    pub connect_timeout_ms: u64,
    /// New connections per second to one server.
    pub connect_rate: u32,
    /// An idle connection is closed after this. 0: never.
    pub idle_timeout_ms: u64,
    /// A connection is closed, once idle, after this. 0: never.
    pub lifetime_ms: u64,
    /// A connection that idled longer is asked whether it lives before it is used.
    pub check_after_idle_ms: u64,
    /// Statements of ours on one server connection, and bytes of their texts.
    pub max_prepared_statements: usize,
    pub max_prepared_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Any standby within the lag limits.
    Eventual,
    /// As `Eventual`, with `max_lag_*` required to be set and known.
    Bounded,
    /// A session reads its own writes and never goes back in time.
    Session,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    /// Off: everything goes to the primary.
    pub enabled: bool,
    pub consistency: Consistency,
    /// A standby further behind gets no reads. 0: no limit.
    pub max_lag_bytes: u64,
    pub max_lag_ms: u64,
    /// How long a read waits for a standby to replay the session's floor before it goes to the primary.
    pub floor_wait_ms: u64,
    pub prefer_same_zone: bool,
    pub prefer_least_lag: bool,
    pub preferences: Vec<Preference>,
    /// Names of functions (regular expressions are not supported) that are read-only whatever the catalog says.
    pub read_only_functions: Vec<String>,
    /// Names of functions that write whatever the catalog says.
    pub write_functions: Vec<String>,
    /// The catalog's function volatilities are read again after this.
    pub catalog_max_age_ms: u64,
}

/// Where reads of some clients go. First match wins; an absent matcher matches all.
#[derive(Debug, Clone, PartialEq)]
pub struct Preference {
    pub application_name: Option<String>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub target: PreferenceTarget,
}

#[derive(Debug, Clone, PartialEq)]
pub enum PreferenceTarget {
    Primary,
    Standbys,
    /// Server id and weight.
    Servers(Vec<(String, u32)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    pub user: String,
    /// Secret of `user`; none: the one `auth.user_file` has.
    pub password_file: Option<PathBuf>,
    pub database: String,
    pub period_ms: u64,
    /// Of a look over a connection that is there.
    pub timeout_ms: u64,
    /// Of one that has to connect first.
    pub connect_timeout_ms: u64,
    /// Failures in a row before a server is down.
    pub retries: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub id: String,
    /// A name, an address, or the directory of a Unix socket (starts with `/`).
    pub host: String,
    pub port: u16,
    /// Share of reads; 0: none while another standby lives.
    pub weight: u32,
    pub zone: Option<String>,
    /// Never a candidate.
    pub disallow_failover: bool,
    /// Nothing else is ever promoted. Where AWS makes the writer, that is so of whichever server it is.
    pub always_primary: bool,
    pub replication: Replication,
    /// `host:port` of the agent beside it.
    pub agent: Option<String>,
    /// Of EC2, that it runs on.
    pub instance_id: Option<String>,
    pub health: HealthOfServer,
}

/// How one server is looked at where it is not as all the others; keys of `[health]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthOfServer {
    pub period_ms: Option<u64>,
    pub timeout_ms: Option<u64>,
    pub connect_timeout_ms: Option<u64>,
    pub retries: Option<u32>,
}

impl Health {
    /// As it is for that server.
    pub fn of(&self, server: &Server) -> Health {
        let HealthOfServer { period_ms, timeout_ms, connect_timeout_ms, retries } = server.health;
        Health {
            period_ms: period_ms.unwrap_or(self.period_ms),
            timeout_ms: timeout_ms.unwrap_or(self.timeout_ms),
            connect_timeout_ms: connect_timeout_ms.unwrap_or(self.connect_timeout_ms),
            retries: retries.unwrap_or(self.retries),
            ..self.clone()
        }
    }
}

impl Server {
    /// With the default of every other key.
    pub fn at(id: impl Into<String>, host: impl Into<String>, port: u16) -> Self {
        Server {
            id: id.into(),
            host: host.into(),
            port,
            weight: 1,
            zone: None,
            disallow_failover: false,
            always_primary: false,
            replication: Replication::default(),
            agent: None,
            instance_id: None,
            health: HealthOfServer::default(),
        }
    }
}

/// A role on the servers, and where komainu gets its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUser {
    pub name: String,
    pub password: ServerPassword,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerPassword {
    /// Signed for each connection. Without a region the server's name has it, or `aws.region`.
    IamToken { region: Option<String> },
    /// In Secrets Manager.
    Secret { arn: String, refresh_ms: u64 },
}

/// How a server follows when it is a standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replication {
    #[default]
    Streaming,
    /// By `restore_command`, from the primary's archive.
    LogShipping,
}

/// Of `komainu agent`, on a database host.
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    pub data_directory: PathBuf,
    /// None: to be found.
    pub bin_directory: Option<PathBuf>,
    /// None: as `server.agent` says.
    pub listen: Option<SocketAddr>,
    pub state_directory: PathBuf,
    /// None: the cluster's.
    pub pki_directory: Option<PathBuf>,
    /// None: in `state_directory`.
    pub log_file: Option<PathBuf>,
    /// None: as standbys in general.
    pub replication_user: Option<String>,
    /// None: as standbys in general.
    pub passfile: Option<PathBuf>,
    /// None: the replicating one.
    pub rewind_user: Option<String>,
    pub rewind_database: String,
    pub keep_replaced_directory: bool,
}

/// Whether the host of a lost primary is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceHost {
    Off,
    /// One that nothing is heard of; a failover does not depend on it.
    Prefer,
    /// Always, and before anybody is promoted without an order.
    Require,
}

/// What becomes of the guarantee when synchronous standbys are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// komainu leaves `synchronous_standby_names` alone.
    Off,
    /// Commits wait while there is a standby to wait for.
    Prefer,
    /// They wait always.
    Require,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Failover {
    pub mode: FailoverMode,
    /// Else only by order.
    pub automatic: bool,
    pub user: String,
    /// Secret of `user`; none: the one `auth.user_file` has.
    pub password_file: Option<PathBuf>,
    pub database: String,
    pub replication_user: String,
    /// On the database hosts.
    pub replication_passfile: Option<String>,
    pub sync_mode: SyncMode,
    /// The n of `ANY n`.
    pub sync_count: u32,
    /// 0: no limit.
    pub max_lag_bytes: u64,
    /// Without an order, when no streaming standby can be promoted.
    pub promote_log_shipped: bool,
    pub crash_recovery_grace_ms: u64,
    pub promote_timeout_ms: u64,
    /// A standby that heard nothing for longer is no witness that the primary lives.
    pub silence_ms: u64,
    /// What a slot that nobody uses may keep. 0: no limit.
    pub max_slot_bytes: u64,
    /// A write of ours has failed if it is not on the primary's disk by then. 0: none is tried.
    pub write_timeout_ms: u64,
    pub fence_host: FenceHost,
    /// For a promotion, with `Prefer`.
    pub fence_host_wait_ms: u64,
    /// Of RDS or Aurora, whose instances are the servers. None: the API is not asked.
    pub cluster_id: Option<String>,
    pub cluster_refresh_ms: u64,
}

impl Failover {
    /// Whether it is found out which servers there are; else they are those of the configuration.
    pub fn finds_servers(&self) -> bool {
        self.mode == FailoverMode::Aurora || self.watched_cluster().is_some()
    }

    /// Of which the API of RDS is asked.
    pub fn watched_cluster(&self) -> Option<&str> {
        self.cluster_id.as_deref().filter(|_| self.mode.is_of_rds())
    }
}

/// The operator's programs that are told what happened.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hooks {
    pub on_failover: Option<ProgramSettings>,
    pub on_switchover: Option<ProgramSettings>,
    pub on_detach: Option<ProgramSettings>,
    pub on_attach: Option<ProgramSettings>,
    pub on_recovered: Option<ProgramSettings>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub name: String,
    /// Of this node's raft log and state.
    pub directory: PathBuf,
    /// Holds `ca.crt`, `ID.crt` and `ID.key`.
    pub pki_directory: PathBuf,
    pub lease: LeaseSettings,
    pub raise_log_format_after_ms: u64,
    /// This one too.
    pub nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    /// A name or an address by which the other nodes reach it.
    pub host: String,
    pub port: u16,
    /// Where it listens for them.
    pub listen: SocketAddr,
    pub zone: Option<String>,
}

impl Node {
    /// Where the others reach it: `host:port`.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Where a node listens that is told nothing else: on every address of the family of its own.
    fn default_listen(host: &str, port: u16) -> SocketAddr {
        let all = match host.parse() {
            Ok(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        SocketAddr::new(all, port)
    }
}

/// What applications connect to, and what leads to one of the nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub settings: komainu_escalation::EndpointSettings,
    /// Else a node serves clients of an endpoint that leads elsewhere by now.
    pub refuse_when_not_owner: bool,
}
