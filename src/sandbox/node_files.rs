//! What a node of the sandbox finds on its disk: configuration, HBA, users, certificates.
//!
//! Invariant: files that hold secrets are readable by their owner only, from the first moment.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use super::agent::Agent;
use super::args::Sync;
use super::managed::{Managed, ManagedMode};
use super::postgres::Postgres;
use super::roles::{DATABASE, Login};
use crate::pki::{AUTHORITY_CERTIFICATE, Authority, NODE_DAYS, PkiError};

/// Ctrl-C should not wait for transactions left open in some psql.
pub const SHUTDOWN_TIMEOUT_MS: u64 = 1_000;
const HEALTH_PERIOD_MS: u64 = 500;
/// A program that only writes to a socket; on a busy machine even that may take a moment.
const TELL_DEADLINE_MS: u64 = 2_000;
/// Where the search for Aurora's instances begins: one may be gone.
const CONFIGURED_INSTANCES: usize = 2;
const OPERATOR_PASSWORD: &str = "operator.password";
pub const CONFIGURATION: &str = "komainu.toml";
pub const CLUSTER: &str = "sandbox";
pub const ENDPOINT: &str = "app";
/// Of the section `[cluster]`: a machine may stand still for four seconds, and no node loses its lease.
pub const PATIENT_LEASE: &str = "lease_ms = 4000\ndrift_margin_ms = 500\n\
                                 election_timeout_min_ms = 4500\nelection_timeout_max_ms = 5000\n";

/// What all nodes are told alike.
pub struct Common<'a> {
    pub health: &'a Login,
    /// Lines of the user file: names and SCRAM verifiers.
    pub users: &'a [(String, String)],
    pub servers: &'a [Postgres],
    pub agents: &'a [Agent],
    pub writer: Writer<'a>,
    /// Where clients come from.
    pub clients: Ipv4Net,
    /// None: a node on its own.
    pub cluster: Option<ClusterPlan>,
}

/// Who makes the writer.
pub enum Writer<'a> {
    /// Nobody: the nodes follow what the servers say.
    Follow,
    /// The nodes.
    Make(FailoverPlan<'a>),
    Managed(&'a Managed),
}

/// How the nodes fail the servers over.
pub struct FailoverPlan<'a> {
    pub operator: &'a Login,
    pub replication_user: String,
    /// On the servers' hosts.
    pub passfile: PathBuf,
    pub sync: Sync,
}

pub struct ClusterPlan {
    pub peers: Vec<Peer>,
    /// By name.
    pub endpoints: Vec<(String, MethodPlan)>,
    /// Where AWS is, if there is a double of it.
    pub aws: Option<String>,
    /// Whether no node is to lose its lease on a busy machine.
    pub is_patient: bool,
}

pub struct Peer {
    pub id: String,
    pub host: String,
    pub port: u16,
}

/// How a node takes the endpoint.
pub enum MethodPlan {
    /// `komainu sandbox tell`, to the sandbox's control socket.
    Tell {
        program: PathBuf,
        control: PathBuf,
    },
    Interface {
        device: String,
        address: Ipv4Net,
    },
    /// One of AWS's, with what it moves, as it is written in a configuration.
    Aws(String),
}

/// What is one node's own.
pub struct Own<'a> {
    pub directory: &'a Path,
    pub admin_socket: &'a Path,
    /// `address:port` for clients.
    pub listen: String,
}

pub fn write(common: &Common<'_>, own: &Own<'_>) -> io::Result<()> {
    let directory = own.directory;
    DirBuilder::new().mode(0o700).create(directory)?;
    write_private(&directory.join(CONFIGURATION), &configuration(common, own))?;
    let hba = format!(
        "# type  database  user  address       method\n\
         local   all       all                 scram-sha-256\n\
         host    all       all   {}  scram-sha-256\n",
        common.clients
    );
    write_private(&directory.join("hba.conf"), &hba)?;
    write_private(&directory.join("health.password"), &common.health.password)?;
    if let Writer::Make(failover) = &common.writer {
        write_private(&directory.join(OPERATOR_PASSWORD), &failover.operator.password)?;
    }
    let users: String =
        common.users.iter().map(|(name, verifier)| format!("\"{name}\" \"{verifier}\"\n")).collect();
    write_private(&directory.join("users.txt"), &users)
}

/// Makes a node's certificate and brings it to where the node looks for it, as an operator would.
pub fn write_certificates(authority: &Authority, id: &str, directory: &Path) -> Result<(), PkiError> {
    let issued = authority.issue(id, &[], &[], NODE_DAYS)?;
    let pki = directory.join("pki");
    let copy = |from: &Path, to: PathBuf| {
        // The mode is copied, too.
        fs::copy(from, &to).map(drop).map_err(|source| PkiError::Write { path: to, source })
    };
    let made = DirBuilder::new().mode(0o700).create(&pki);
    made.map_err(|source| PkiError::Write { path: pki.clone(), source })?;
    copy(&authority.certificate(), pki.join(AUTHORITY_CERTIFICATE))?;
    copy(&issued.certificate, pki.join(format!("{id}.crt")))?;
    copy(&issued.key, pki.join(format!("{id}.key")))
}

fn configuration(common: &Common<'_>, own: &Own<'_>) -> String {
    let mut toml = format!(
        "# Written by `komainu sandbox`.

[listen]
addresses = [{listen}]

[admin]
socket = {admin}

[limits]
shutdown_timeout_ms = {SHUTDOWN_TIMEOUT_MS}

[auth]
hba_file = {hba}
user_file = {users}

[server_tls]
mode = \"disable\"

[health]
user = {health_user}
password_file = {health_password}
database = \"postgres\"
period_ms = {HEALTH_PERIOD_MS}
",
        listen = text(&own.listen),
        admin = path(own.admin_socket),
        hba = path(&own.directory.join("hba.conf")),
        users = path(&own.directory.join("users.txt")),
        health_user = text(&common.health.user),
        health_password = path(&own.directory.join("health.password")),
    );
    match &common.writer {
        Writer::Follow => {}
        Writer::Make(failover) => {
            toml += &failover_part(failover);
            toml += &format!("password_file = {}\n", path(&own.directory.join(OPERATOR_PASSWORD)));
        }
        Writer::Managed(managed) => toml += &managed_part(managed),
    }
    toml + &shared(common)
}

/// What an agent is told alike: the same configuration, of which it reads the servers, the nodes and whom standbys
/// stream as. The files that only nodes read are not there.
pub fn for_an_agent(common: &Common<'_>) -> String {
    let failover = match &common.writer {
        Writer::Make(failover) => failover_part(failover),
        Writer::Follow | Writer::Managed(_) => String::new(),
    };
    format!(
        "\n[listen]\naddresses = [\"127.0.0.1:5432\"]\n\n[auth]\nhba_file = \"hba.conf\"\n\n\
         [server_tls]\nmode = \"disable\"\n\n[health]\nuser = {}\ndatabase = \"postgres\"\n{failover}{}",
        text(&common.health.user),
        shared(common)
    )
}

fn shared(common: &Common<'_>) -> String {
    let mut toml = String::new();
    for server in told(common) {
        let host = match &common.writer {
            Writer::Managed(managed) => managed.name(server.id()),
            Writer::Follow | Writer::Make(_) => server.host().to_owned(),
        };
        toml += &format!(
            "\n[[server]]\nid = {}\nhost = {}\nport = {}\n",
            text(server.id()),
            text(&host),
            server.port()
        );
        if let Some(agent) = common.agents.iter().find(|agent| agent.server() == server.id()) {
            toml += &format!("agent = {}\n", text(&agent.address().to_string()));
        }
    }
    if let Some(cluster) = &common.cluster {
        toml += &cluster_part(cluster);
    }
    toml
}

/// Those that are configured. AWS's API says which there are, or instances of Aurora say themselves who else there is.
fn told<'a>(common: &Common<'a>) -> &'a [Postgres] {
    match &common.writer {
        Writer::Managed(managed) if managed.cluster_id().is_some() => &[],
        Writer::Managed(managed) if managed.mode() == ManagedMode::Aurora => {
            &common.servers[..common.servers.len().min(CONFIGURED_INSTANCES)]
        }
        _ => common.servers,
    }
}

fn managed_part(managed: &Managed) -> String {
    let cluster = managed.cluster_id().map(|id| format!("cluster_id = {}\n", text(id)));
    let mut toml = format!(
        "\n[failover]\nmode = \"{}\"\n{}\n[dns]\nservers = [\"{}\"]\n",
        managed.mode(),
        cluster.as_deref().unwrap_or_default(),
        managed.name_server()
    );
    if managed.mode() == ManagedMode::Aurora && cluster.is_none() {
        toml += &format!("\n[aurora]\ninstance_endpoint = {}\n", text(&managed.template()));
    }
    toml
}

fn failover_part(failover: &FailoverPlan<'_>) -> String {
    format!(
        "\n[failover]\nmode = \"streaming\"\nuser = {}\ndatabase = {}\nreplication_user = {}\n\
         replication_passfile = {}\nsync_mode = {}\n",
        text(&failover.operator.user),
        text(DATABASE),
        text(&failover.replication_user),
        path(&failover.passfile),
        text(failover.sync.name()),
    )
}

fn cluster_part(cluster: &ClusterPlan) -> String {
    let mut toml =
        format!("\n[cluster]\nname = \"{CLUSTER}\"\ndirectory = \"raft\"\npki_directory = \"pki\"\n");
    if cluster.is_patient {
        toml += PATIENT_LEASE;
    }
    for peer in &cluster.peers {
        toml += &format!(
            "\n[[node]]\nid = {}\nhost = {}\nport = {}\n",
            text(&peer.id),
            text(&peer.host),
            peer.port
        );
    }
    if let Some(url) = &cluster.aws {
        toml += &format!("\n[aws]\nendpoint_url = {}\n", text(url));
    }
    for (name, plan) in &cluster.endpoints {
        let method = match plan {
            MethodPlan::Tell { program, control } => format!(
                "command = {{ command = [{}, \"sandbox\", \"tell\", \"--socket\", {}], deadline_ms = {TELL_DEADLINE_MS} }}",
                path(program),
                path(control)
            ),
            MethodPlan::Interface { device, address } => {
                format!("interface = {{ device = {}, address = \"{address}\" }}", text(device))
            }
            MethodPlan::Aws(method) => method.clone(),
        };
        toml += &format!("\n[[endpoint]]\nname = {}\nmethod.{method}\n", text(name));
    }
    toml
}

pub fn text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub fn path(path: &Path) -> String {
    text(&path.to_string_lossy())
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn common<'a>(health: &'a Login, cluster: Option<ClusterPlan>) -> Common<'a> {
        Common {
            health,
            users: &[],
            servers: &[],
            agents: &[],
            writer: Writer::Follow,
            clients: "127.0.0.1/32".parse().unwrap(),
            cluster,
        }
    }

    fn health() -> Login {
        Login { user: "health".into(), password: "secret".into() }
    }

    #[test]
    fn the_configuration_is_valid_whatever_the_directory_is_called() {
        let directory = Path::new("/tmp/a \"quoted\" \\ name");
        let admin = directory.join("admin.sock");
        let own = Own { directory, admin_socket: &admin, listen: "127.0.0.1:9999".into() };
        let text = configuration(&common(&health(), None), &own)
            + "\n[[server]]\nid = \"pg1\"\nhost = \"127.0.0.1\"\nport = 5432\n";
        let (config, warnings) = crate::config::file::parse(&text, Path::new("komainu.toml"), 2).unwrap();
        assert_eq!(config.admin.socket.as_deref(), Some(admin.as_path()));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(!text.contains("secret"));
    }

    #[test]
    fn a_cluster_has_its_nodes_and_one_endpoint() {
        let peer = |n: u16| Peer { id: format!("node{n}"), host: "127.0.0.1".into(), port: 7000 + n };
        let plan = |method| ClusterPlan {
            peers: (1..=3).map(peer).collect(),
            endpoints: vec![(ENDPOINT.to_owned(), method)],
            aws: None,
            is_patient: false,
        };
        let tell = MethodPlan::Tell { program: "/a/komainu".into(), control: "/b/c.sock".into() };
        let table: toml::Table = cluster_part(&plan(tell)).parse().unwrap();
        assert_eq!(table["node"].as_array().unwrap().len(), 3);
        assert_eq!(table["node"][2]["port"].as_integer(), Some(7003));
        let command = &table["endpoint"][0]["method"]["command"]["command"];
        let words: Vec<_> = command.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(words, ["/a/komainu", "sandbox", "tell", "--socket", "/b/c.sock"]);

        let address = "198.18.0.100/24".parse().unwrap();
        let interface = MethodPlan::Interface { device: "eth0".into(), address };
        let table: toml::Table = cluster_part(&plan(interface)).parse().unwrap();
        let method = &table["endpoint"][0]["method"]["interface"];
        assert_eq!(method["address"].as_str(), Some("198.18.0.100/24"));

        let address = MethodPlan::Aws("elastic-ip = { allocation_id = \"eipalloc-1\" }".into());
        let aws = ClusterPlan { aws: Some("http://127.0.0.1:1".into()), is_patient: true, ..plan(address) };
        let table: toml::Table = cluster_part(&aws).parse().unwrap();
        assert_eq!(table["cluster"]["lease_ms"].as_integer(), Some(4000));
        assert_eq!(table["aws"]["endpoint_url"].as_str(), Some("http://127.0.0.1:1"));
        let method = &table["endpoint"][0]["method"]["elastic-ip"];
        assert_eq!(method["allocation_id"].as_str(), Some("eipalloc-1"));
    }

    #[test]
    fn a_node_gets_its_own_certificate_and_nobody_else_reads_the_key() {
        let scratch = super::super::Scratch::create("komainu-files-").unwrap();
        let authority = Authority::create(&scratch.path().join("authority"), CLUSTER, 1).unwrap();
        let node = scratch.path().join("node1");
        write(
            &common(&health(), None),
            &Own { directory: &node, admin_socket: &node, listen: String::new() },
        )
        .unwrap();
        write_certificates(&authority, "node1", &node).unwrap();
        let mode = |name: &str| fs::metadata(node.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("pki/node1.key"), mode("users.txt"), mode("")), (0o600, 0o600, 0o700));
        let certificate = crate::pki::read_all(&node.join("pki/node1.crt")).unwrap().remove(0);
        assert_eq!(certificate.node.unwrap().dns(), "node1.sandbox.komainu");
        assert!(!node.join("pki/ca.key").exists());
    }
}
