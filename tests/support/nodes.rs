//! Several `komainu serve` processes that are one cluster, with certificates of their own and an endpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use komainu::pki::{AUTHORITY_DAYS, Authority, NODE_DAYS};
use komainu::sandbox::{PATIENT_LEASE, ReservedPort, Scratch, admin};
use rustix::process::Signal;
use serde_json::Value;

use super::{Cluster, Komainu, PATIENCE, eventually, this_version};

/// redb's file begins with a little more than one.
const SMALL_DISK_MB: u32 = 8;

pub struct Nodes {
    pub all: Vec<Komainu>,
    _mounts: Vec<Mount>,
    peer_ports: Vec<ReservedPort>,
    /// Of those that came later.
    more_ports: Mutex<Vec<ReservedPort>>,
    /// What all nodes are told.
    config: String,
    shared: Scratch,
}

pub struct NodesBuilder {
    count: usize,
    /// Of the section `[cluster]`.
    lease: &'static str,
    config: String,
    environment: Vec<(String, String)>,
    /// Where each asks who it is.
    metadata: Vec<String>,
    small_disks: bool,
    program: PathBuf,
    finds_servers: bool,
    shared: Scratch,
}

/// A file system in memory; needs root.
pub struct Mount(PathBuf);

impl Mount {
    pub fn new(path: PathBuf, megabytes: u32) -> Self {
        fs::create_dir(&path).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "tmpfs cannot be mounted: this test needs root"
        );
        Mount(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the node that has files there ends a moment later.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What an endpoint's program was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub action: String,
    pub node: String,
    pub epoch: u64,
}

impl Nodes {
    /// Three, with one endpoint `app` whose program writes down what it is told.
    pub fn start(cluster: &Cluster) -> Self {
        Self::builder(3).endpoint("app").start(cluster)
    }

    pub fn builder(count: usize) -> NodesBuilder {
        let shared = Scratch::create("komainu-nodes-").unwrap();
        NodesBuilder {
            count,
            lease: "",
            config: String::new(),
            environment: Vec::new(),
            metadata: Vec::new(),
            small_disks: false,
            program: this_version().to_owned(),
            finds_servers: false,
            shared,
        }
    }

    pub fn id(index: usize) -> String {
        format!("node{}", index + 1)
    }

    pub fn index(id: &str) -> usize {
        id.strip_prefix("node").unwrap().parse::<usize>().unwrap() - 1
    }

    pub fn node(&self, id: &str) -> &Komainu {
        &self.all[Self::index(id)]
    }

    pub fn others(&self, id: &str) -> Vec<String> {
        (0..self.all.len()).map(Self::id).filter(|other| other != id).collect()
    }

    /// As `/status` of that node has it; null while it does not answer.
    pub fn status(&self, id: &str) -> Value {
        let answer = self.node(id).admin("/status");
        answer.ok().and_then(|answer| serde_json::from_str(&answer.body).ok()).unwrap_or(Value::Null)
    }

    /// The timeline as that node has it, from its beginning.
    pub fn events(&self, id: &str) -> Vec<Value> {
        let answer = self.node(id).admin("/events?after=0&limit=1000").unwrap();
        let events: Value = serde_json::from_str(&answer.body).unwrap();
        events["events"].as_array().unwrap().clone()
    }

    /// A changing request to a node's admin socket.
    pub fn post(&self, id: &str, path: &str, body: &Value) -> admin::Response {
        let socket = self.node(id).directory().join("admin.sock");
        admin::post(&socket, path, &body.to_string()).unwrap()
    }

    /// The owner of an endpoint as that node knows it.
    pub fn owner(&self, asked: &str, endpoint: &str) -> Option<String> {
        let status = self.status(asked);
        let endpoints = status["endpoints"].as_array()?.clone();
        let found = endpoints.iter().find(|known| known["name"] == endpoint)?;
        Some(found["owner"].as_str()?.to_owned())
    }

    #[track_caller]
    pub fn leader(&self) -> String {
        self.leader_of(&(0..self.all.len()).map(Self::id).collect::<Vec<_>>())
    }

    /// Whom all of these nodes take for the leader, one of them.
    #[track_caller]
    pub fn leader_of(&self, nodes: &[String]) -> String {
        let mut found = String::new();
        eventually(PATIENCE, "the nodes agree on a leader", || {
            let leaders: Vec<Option<String>> =
                nodes.iter().map(|id| self.status(id)["leader"].as_str().map(str::to_owned)).collect();
            found = leaders[0].clone().unwrap_or_default();
            nodes.contains(&found) && leaders.iter().all(|leader| leader.as_deref() == Some(&*found))
        });
        found
    }

    /// Waits until these nodes all say that one of them owns the endpoint.
    #[track_caller]
    pub fn owner_of(&self, nodes: &[String], endpoint: &str) -> String {
        let mut owner = String::new();
        eventually(PATIENCE, "the nodes agree on the endpoint's owner", || {
            let owners: Vec<Option<String>> = nodes.iter().map(|id| self.owner(id, endpoint)).collect();
            owner = owners[0].clone().unwrap_or_default();
            nodes.contains(&owner) && owners.iter().all(|known| known.as_deref() == Some(&*owner))
        });
        owner
    }

    pub fn ids(&self) -> Vec<String> {
        (0..self.all.len()).map(Self::id).collect()
    }

    /// What the endpoint's program was told so far, by all nodes.
    pub fn told(&self) -> Vec<Told> {
        let text = fs::read_to_string(self.shared.path().join("told")).unwrap_or_default();
        let told = |line: &str| {
            let value: Value = serde_json::from_str(line).ok()?;
            Some(Told {
                action: value["action"].as_str()?.to_owned(),
                node: value["node"].as_str()?.to_owned(),
                epoch: value["epoch"].as_u64()?,
            })
        };
        text.lines().filter_map(told).collect()
    }

    /// The last one that was told to take it.
    pub fn taken_by(&self) -> Option<Told> {
        self.told().into_iter().rfind(|told| told.action == "take")
    }

    /// What all nodes are told.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// The authority's.
    pub fn pki_directory(&self) -> PathBuf {
        self.shared.path().join("pki")
    }

    pub fn raft_directory(&self, id: &str) -> PathBuf {
        self.node(id).directory().join("raft")
    }

    /// One more that the configuration does not name yet: the lines that do. It is started with them.
    pub fn newcomer(&self, cluster: &Cluster, id: &str, text: &str) -> (Komainu, String) {
        let authority = Authority::open(&self.shared.path().join("pki")).unwrap();
        authority.issue(id, &[], &[], NODE_DAYS).unwrap();
        let port = self.another_port();
        let node = format!(
            "\n[[node]]\nid = \"{id}\"\nhost = \"127.0.0.1\"\nport = {port}\nlisten = \"127.0.0.1:{port}\"\n"
        );
        let config = format!("{}{node}", self.config);
        let newcomer = Komainu::builder(cluster).config(&config).arguments(&["--node", id]).launch();
        (newcomer, format!("{text}{node}"))
    }

    /// One more node that votes for nothing. Not ready yet.
    pub fn proxy(&self, cluster: &Cluster, id: &str) -> Komainu {
        let authority = Authority::open(&self.pki_directory()).unwrap();
        authority.issue(id, &[], &[], NODE_DAYS).unwrap();
        let address = format!("127.0.0.1:{}", self.another_port());
        Komainu::builder(cluster)
            .config(&self.config)
            .arguments(&["--node", id, "--role", "proxy", "--address", &address])
            .launch()
    }

    /// Nobody else's as long as these nodes are there.
    fn another_port(&self) -> u16 {
        let port = ReservedPort::any().unwrap();
        let number = port.number();
        self.more_ports.lock().unwrap().push(port);
        number
    }

    #[track_caller]
    pub fn wait_until_ready(&self, nodes: &[String]) {
        for id in nodes {
            eventually(PATIENCE, &format!("{id} is ready"), || {
                self.node(id).admin("/ready").is_ok_and(|answer| answer.status == 200)
            });
        }
    }

    pub fn freeze(&self, id: &str) {
        self.node(id).signal(Signal::STOP);
    }

    pub fn go_on(&self, id: &str) {
        self.node(id).signal(Signal::CONT);
    }

    pub fn peer_port(&self, id: &str) -> u16 {
        self.peer_ports[Self::index(id)].number()
    }
}

impl NodesBuilder {
    /// One moved by a program that appends what it reads to a file.
    pub fn endpoint(mut self, name: &str) -> Self {
        let file = self.shared.path().join("told");
        self.config += &format!(
            "[[endpoint]]\nname = \"{name}\"\n\
             method.command = {{ command = [\"/bin/sh\", \"-c\", \"cat >> {}\"], deadline_ms = 5000 }}\n",
            file.display()
        );
        self
    }

    /// As `endpoint`, and nodes that do not own it refuse clients.
    pub fn refusing_endpoint(mut self, name: &str) -> Self {
        self = self.endpoint(name);
        self.config += "refuse_when_not_owner = true\n";
        self
    }

    /// Each node's raft directory on a file system of its own with room for little more.
    pub fn on_small_disks(mut self) -> Self {
        self.small_disks = true;
        self
    }

    /// The metadata service of each node.
    pub fn metadata(mut self, addresses: Vec<String>) -> Self {
        self.metadata = addresses;
        self
    }

    /// Another version of komainu.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// The configuration is to name none of the servers.
    pub fn finds_servers(mut self) -> Self {
        self.finds_servers = true;
        self
    }

    /// A machine may stand still for four seconds, and no node loses its lease.
    pub fn patient(mut self) -> Self {
        self.lease = PATIENT_LEASE;
        self
    }

    /// More configuration, the same for all.
    pub fn config(mut self, text: &str) -> Self {
        self.config += text;
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    #[track_caller]
    pub fn start(self, cluster: &Cluster) -> Nodes {
        let nodes = self.launch(cluster);
        nodes.wait_until_ready(&nodes.ids());
        nodes
    }

    pub fn launch(self, cluster: &Cluster) -> Nodes {
        let pki = self.shared.path().join("pki");
        let authority = Authority::create(&pki, "test", AUTHORITY_DAYS).unwrap();
        let peer_ports: Vec<_> = (0..self.count).map(|_| ReservedPort::any().unwrap()).collect();
        let mut shared = format!("[cluster]\nname = \"test\"\npki_directory = \"{}\"\n", pki.display())
            + self.lease
            + &self.config;
        for (index, port) in peer_ports.iter().enumerate() {
            let id = Nodes::id(index);
            authority.issue(&id, &[], &[], NODE_DAYS).unwrap();
            let port = port.number();
            shared += &format!(
                "[[node]]\nid = \"{id}\"\nhost = \"127.0.0.1\"\nport = {port}\nlisten = \"127.0.0.1:{port}\"\n"
            );
        }
        let mut mounts = Vec::new();
        let node = |index| {
            let id = Nodes::id(index);
            let mut builder =
                Komainu::builder(cluster).program(&self.program).config(&shared).arguments(&["--node", &id]);
            if self.finds_servers {
                builder = builder.config("server = []");
            }
            if self.small_disks {
                mounts.push(Mount::new(builder.directory().join("raft"), SMALL_DISK_MB));
            }
            if let Some(address) = self.metadata.get(index) {
                builder = builder.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", address);
            }
            for (name, value) in &self.environment {
                builder = builder.env(name, value);
            }
            builder.launch()
        };
        let all = (0..self.count).map(node).collect();
        Nodes {
            all,
            _mounts: mounts,
            peer_ports,
            more_ports: Mutex::default(),
            config: shared,
            shared: self.shared,
        }
    }
}
