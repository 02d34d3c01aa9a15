//! Servers that komainu itself fails over, with an agent beside each, and nodes before them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use komainu::cluster::operate::slots::slot_name;
use komainu::pki::Authority;
use komainu::sandbox::{
    Agent, DATABASE, Installation, Login, OPERATOR, Postgres, REWINDER, SUPERUSER, Scratch,
    program_for_servers,
};
use serde_json::{Value, json};

use super::{Cluster, Nodes, NodesBuilder, PATIENCE, SlowRelay, Slowness, eventually, this_version};

const OPERATOR_PASSWORD: &str = "operator's secret";
const REWINDER_PASSWORD: &str = "rewinder's secret";
/// A server may have to be copied.
pub const REJOINED_WITHIN: Duration = Duration::from_secs(90);

/// A cluster of a test's own. Fields in the order in which they end: whoever gives orders first.
pub struct Failover {
    pub nodes: Nodes,
    /// Between the nodes and each server, if it was asked for.
    pub relays: Vec<SlowRelay>,
    pub agents: Vec<Agent>,
    pub cluster: Cluster,
    shipping: Option<Shipping>,
}

/// A standby that streams from nobody, and the directory that it reads.
struct Shipping {
    standby: String,
    archive: Scratch,
}

pub struct FailoverBuilder {
    standbys: usize,
    nodes: NodesBuilder,
    program: PathBuf,
    agents: bool,
    failover: String,
    settings: Vec<(String, String)>,
    shipping: Option<Shipping>,
    slowness: Option<Slowness>,
    instances: Vec<String>,
}

impl Failover {
    /// Two standbys, three nodes, agents, nothing synchronous, one endpoint `app`.
    pub fn builder() -> FailoverBuilder {
        Self::with_nodes(3)
    }

    pub fn with_nodes(count: usize) -> FailoverBuilder {
        FailoverBuilder {
            standbys: 2,
            nodes: Nodes::builder(count).endpoint("app"),
            program: this_version().to_owned(),
            agents: true,
            failover: String::new(),
            settings: Vec::new(),
            shipping: None,
            slowness: None,
            instances: Vec::new(),
        }
    }

    #[track_caller]
    pub fn server(&self, id: &str) -> &Postgres {
        self.cluster.servers().all().iter().find(|server| server.id() == id).unwrap()
    }

    #[track_caller]
    pub fn agent(&self, server: &str) -> &Agent {
        self.agents.iter().find(|agent| agent.server() == server).unwrap()
    }

    /// The primary as this node knows it, with its epoch.
    pub fn primary_by(&self, node: &str) -> Option<(String, u64)> {
        let status = self.nodes.status(node);
        Some((status["primary"].as_str()?.to_owned(), status["epoch"].as_u64()?))
    }

    /// Waits until these nodes agree on a primary in an epoch above this one.
    #[track_caller]
    pub fn primary_above(&self, epoch: u64, nodes: &[String]) -> (String, u64) {
        let mut found;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all: Vec<_> = nodes.iter().map(|node| self.primary_by(node)).collect();
            found = all[0].clone().filter(|(_, now)| *now > epoch);
            if found.is_some() && all.iter().all(|known| *known == found) {
                break;
            }
            assert!(Instant::now() < deadline, "no new primary: {}", self.what_nodes_say(nodes));
            thread::sleep(Duration::from_millis(10));
        }
        found.unwrap()
    }

    /// Why nothing happens, for whoever reads of a test that failed.
    fn what_nodes_say(&self, nodes: &[String]) -> String {
        let mut said = String::new();
        for node in nodes {
            said +=
                &format!("{node}: {:?}, {}\n", self.primary_by(node), self.nodes.status(node)["failover"]);
        }
        said + &self.nodes.node(&nodes[0]).admin("/events?limit=1000").unwrap().body
    }

    /// The primary that all nodes agree on.
    #[track_caller]
    pub fn primary(&self) -> (String, u64) {
        self.primary_above(0, &self.nodes.ids())
    }

    /// As a node's `/status` has a server.
    pub fn server_by(&self, node: &str, id: &str) -> Value {
        let status = self.nodes.status(node);
        let servers = status["servers"].as_array().cloned().unwrap_or_default();
        servers.into_iter().find(|server| server["id"] == id).unwrap_or(Value::Null)
    }

    /// Waits until a failover relies on it that one of the standbys has every commit that was acknowledged.
    #[track_caller]
    pub fn wait_until_promised(&self) {
        let (primary, _) = self.primary();
        let mut standbys: Vec<_> = self.cluster.servers().all().iter().map(|server| server.id()).collect();
        standbys.retain(|id| *id != primary);
        let wanted = json!({ "names": standbys, "count": 1 });
        eventually(PATIENCE, "either standby acknowledges commits", || {
            let ids = self.nodes.ids();
            ids.iter().all(|node| self.nodes.status(node)["failover"]["synchronous"] == wanted)
        });
    }

    /// Waits until every node says that every server is attached and up, and that all standbys stream.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        let well = |node: &str, primary: &str, id: &str| {
            let server = self.server_by(node, id);
            let reads_archive = self.shipping.as_ref().is_some_and(|shipping| shipping.standby == id)
                && server["replication_state"] == "archive";
            let streams = id == primary || server["replication_state"] == "streaming" || reads_archive;
            server["health"] == "up" && server["administrative"] == "attached" && streams
        };
        eventually(REJOINED_WITHIN, "all servers are well", || {
            self.nodes.ids().iter().all(|node| {
                let Some((primary, _)) = self.primary_by(node) else { return false };
                let servers = self.cluster.servers().all();
                servers.iter().all(|server| well(node, &primary, server.id()))
            })
        });
    }
}

impl FailoverBuilder {
    pub fn standbys(mut self, count: usize) -> Self {
        self.standbys = count;
        self
    }

    /// Nobody brings a lost server back.
    pub fn without_agents(mut self) -> Self {
        self.agents = false;
        self
    }

    /// That standby reads what the primary archives, and streams from nobody.
    pub fn log_shipped(mut self, standby: &str) -> Self {
        let archive = Scratch::create("komainu-archive-").unwrap();
        fs::set_permissions(archive.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let shipping = Shipping { standby: standby.to_owned(), archive };
        self.settings.extend(shipping.settings());
        self.shipping = Some(shipping);
        self
    }

    /// Another version of komainu, of nodes and agents.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self.nodes = self.nodes.program(program);
        self
    }

    /// Further keys of `[failover]`, a line each.
    pub fn failover(mut self, lines: &str) -> Self {
        self.failover += lines;
        self.failover.push('\n');
        self
    }

    /// The nodes reach each server through a relay that can be made so slow.
    pub fn slow(mut self, slowness: Slowness) -> Self {
        self.slowness = Some(slowness);
        self
    }

    /// Further sections.
    pub fn config(mut self, text: &str) -> Self {
        self.nodes = self.nodes.config(text);
        self
    }

    /// Of the servers.
    pub fn settings(mut self, settings: &[(&str, &str)]) -> Self {
        self.settings.extend(settings.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        self
    }

    /// Whose clients are to see no error, however busy the machine is.
    pub fn patient(mut self) -> Self {
        self.nodes = self.nodes.patient();
        self
    }

    /// Of the nodes.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.nodes = self.nodes.env(name, value);
        self
    }

    /// What each server runs on, and the metadata service of each node.
    pub fn on_instances(mut self, ids: &[String], metadata: Vec<String>) -> Self {
        self.instances = ids.to_vec();
        self.nodes = self.nodes.metadata(metadata);
        self
    }

    #[track_caller]
    pub fn start(self) -> Failover {
        let cluster =
            Cluster::start_with(self.standbys, |options| options.settings.extend(self.settings.clone()));
        let login = |user: &str, password: &str| Login { user: user.into(), password: password.into() };
        let (operator, rewinder) = (login(OPERATOR, OPERATOR_PASSWORD), login(REWINDER, REWINDER_PASSWORD));
        cluster.servers().create_operating_roles(&operator, &rewinder).unwrap();
        let password_file = cluster.directory().join("operator.password");
        fs::write(&password_file, OPERATOR_PASSWORD).unwrap();
        fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600)).unwrap();

        if let Some(shipping) = &self.shipping {
            shipping.begin(&cluster);
        }
        let agents = if self.agents { agents(&cluster, &self.program) } else { Vec::new() };
        let mut config = format!(
            "[failover]\nmode = \"streaming\"\nuser = \"{OPERATOR}\"\npassword_file = \"{}\"\n\
             database = \"{DATABASE}\"\nreplication_user = \"{}\"\nreplication_passfile = \"{}\"\n{}",
            password_file.display(),
            cluster.primary().replicator().user,
            cluster.primary().passfile().display(),
            self.failover
        );
        let mut relays = Vec::new();
        for (index, server) in cluster.servers().all().iter().enumerate() {
            let (id, host, mut port) = (server.id(), server.host(), server.port());
            if let Some(slowness) = self.slowness {
                relays.push(SlowRelay::start(port, slowness));
                port = relays[relays.len() - 1].port();
            }
            config += &format!("[[server]]\nid = \"{id}\"\nhost = \"{host}\"\nport = {port}\n");
            if self.shipping.as_ref().is_some_and(|shipping| shipping.standby == id) {
                config += "replication = \"log-shipping\"\n";
            }
            if let Some(agent) = agents.iter().find(|agent| agent.server() == id) {
                config += &format!("agent = \"{}\"\n", agent.address());
            }
            if let Some(instance) = self.instances.get(index) {
                config += &format!("instance_id = \"{instance}\"\n");
            }
        }
        let nodes = self.nodes.config(&config).launch(&cluster);
        start(&agents, &nodes, &cluster);
        nodes.wait_until_ready(&nodes.ids());
        let failover = Failover { nodes, relays, agents, cluster, shipping: self.shipping };
        failover.wait_until_whole();
        failover
    }
}

impl Shipping {
    fn settings(&self) -> [(String, String); 3] {
        let archive = self.archive.path().display();
        let command = format!("cp %p {archive}/%f.new && mv {archive}/%f.new {archive}/%f");
        [
            ("archive_mode", "on".to_owned()),
            ("archive_command", command),
            ("wal_retrieve_retry_interval", "200".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    }

    /// It streams up to here.
    fn begin(&self, cluster: &Cluster) {
        let standby = cluster.servers().all().iter().find(|server| server.id() == self.standby).unwrap();
        let restore = format!("cp {}/%f %p", self.archive.path().display());
        for (name, value) in
            [("restore_command", &*restore), ("primary_conninfo", ""), ("primary_slot_name", "")]
        {
            standby.psql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'")).unwrap();
        }
        standby.reload().unwrap();
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name = '{}' AND NOT active",
            slot_name(&self.standby)
        );
        let slots = "SELECT count(*) FROM pg_stat_replication";
        let left = (cluster.servers().standbys().len() - 1).to_string();
        eventually(PATIENCE, "it streams no more", || {
            cluster.primary().psql("postgres", slots).unwrap() == left
        });
        eventually(PATIENCE, "its slot is dropped", || {
            cluster.primary().psql("postgres", &drop).unwrap();
            let is_there = format!(
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'",
                slot_name(&self.standby)
            );
            cluster.primary().psql("postgres", &is_there).unwrap() == "0"
        });
    }
}

fn agents(cluster: &Cluster, komainu: &Path) -> Vec<Agent> {
    let installation = Installation::find().unwrap();
    let program = program_for_servers(&installation, komainu, cluster.directory()).unwrap();
    let agent = |server| Agent::of(server, &installation, &program).unwrap();
    cluster.servers().all().iter().map(agent).collect()
}

/// They are told what the nodes are told.
fn start(agents: &[Agent], nodes: &Nodes, cluster: &Cluster) {
    let authority = Authority::open(&nodes.pki_directory()).unwrap();
    let shared = format!(
        "[listen]\naddresses = [\"127.0.0.1:5432\"]\n[auth]\nhba_file = \"hba.conf\"\n\
         [server_tls]\nmode = \"disable\"\n[health]\nuser = \"{SUPERUSER}\"\n{}",
        nodes.config()
    );
    for (agent, server) in agents.iter().zip(cluster.servers().all()) {
        agent.write_files(server, &shared, &authority).unwrap();
        agent.start().unwrap();
    }
    for agent in agents {
        let is_ready = agent.wait_until_ready(Instant::now() + PATIENCE);
        assert!(is_ready, "{} is not ready:\n{}", agent.id(), agent.log_tail());
    }
}
