//! A `komainu agent` beside one of a cluster's servers, run as the servers' user, and a node that asks it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use komainu::agent::wire::{Job, Outcome, Rejoin, Source, Status};
use komainu::agent::{AgentCallError, Agents, Beside};
use komainu::consensus::peer::PeerFiles;
use komainu::pki::{AUTHORITY_DAYS, Authority, NODE_DAYS, NodeName};
use komainu::sandbox::{Installation, Postgres, ReservedPort, Scratch, process};

use super::{Cluster, PATIENCE, eventually_async};

const CLUSTER: &str = "test";
const REWINDER: &str = "rewinder";
/// A rewind or a rebuild on a busy machine.
const JOB_PATIENCE: Duration = Duration::from_secs(120);

pub struct Agent {
    installation: Installation,
    server: String,
    child: Child,
    /// As another name than the one it was built as, where the servers' user can reach it.
    program: PathBuf,
    port: ReservedPort,
    scratch: Scratch,
}

impl Agent {
    pub fn start(cluster: &Cluster, server: &Postgres) -> Self {
        Self::start_with(cluster, server, "")
    }

    /// With more keys of its section.
    pub fn start_with(cluster: &Cluster, server: &Postgres, keys: &str) -> Self {
        let installation = Installation::find().unwrap();
        let scratch = Scratch::create("komainu-agent-").unwrap();
        let port = ReservedPort::any().unwrap();
        let directory = scratch.path().join("agent");
        installation.create_directory(&directory).unwrap();
        let pki = scratch.path().join("pki");
        let authority = Authority::create(&pki, CLUSTER, AUTHORITY_DAYS).unwrap();
        let name = format!("agent-{}", server.id());
        for id in ["n1", "stranger", &name] {
            authority.issue(id, &[], &[], NODE_DAYS).unwrap();
        }
        let own = |name: &str, text: &[u8]| {
            let path = directory.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            installation.give(&path).unwrap();
        };
        for file in ["ca.crt", &format!("{name}.crt"), &format!("{name}.key")] {
            own(file, &fs::read(pki.join(file)).unwrap());
        }
        // One password for all.
        own("passfile", format!("*:*:*:*:{}\n", server.password()).as_bytes());
        let mut config = format!(
            "[listen]\naddresses = [\"127.0.0.1:9\"]\n[auth]\nhba_file = \"hba\"\nuser_file = \"users\"\n\
             [log]\nlevel = \"info,komainu=debug\"\n[server_tls]\nmode = \"disable\"\n\
             [cluster]\nname = \"{CLUSTER}\"\n[[node]]\nid = \"n1\"\nhost = \"127.0.0.1\"\n\
             [agent]\ndata_directory = \"{}\"\nlisten = \"127.0.0.1:{}\"\nstate_directory = \"state\"\n\
             pki_directory = \".\"\npassfile = \"passfile\"\nrewind_user = \"{REWINDER}\"\n{keys}\n",
            server.data_directory().display(),
            port.number(),
        );
        for server in cluster.servers().all() {
            let (id, host, port) = (server.id(), server.host(), server.port());
            config += &format!("[[server]]\nid = \"{id}\"\nhost = \"{host}\"\nport = {port}\n");
        }
        own("komainu.toml", config.as_bytes());
        // `target` may be where the servers' user cannot go.
        let program = scratch.path().join("komainu");
        if fs::hard_link(env!("CARGO_BIN_EXE_komainu"), &program).is_err() {
            fs::copy(env!("CARGO_BIN_EXE_komainu"), &program).unwrap();
        }
        let child = spawn(&installation, &program, &directory, server.id());
        let agent = Self { installation, server: server.id().to_owned(), child, program, port, scratch };
        agent.wait_until_it_listens();
        agent
    }

    /// The role that may read what `pg_rewind` reads, and nothing else.
    pub fn create_rewinder(cluster: &Cluster) {
        let password = cluster.primary().password().replace('\'', "''");
        let mut sql = format!("CREATE ROLE {REWINDER} LOGIN PASSWORD '{password}';");
        for function in [
            "pg_ls_dir(text, boolean, boolean)",
            "pg_stat_file(text, boolean)",
            "pg_read_binary_file(text)",
            "pg_read_binary_file(text, bigint, bigint, boolean)",
        ] {
            sql += &format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {REWINDER};");
        }
        if cluster.primary().major_version() >= 15 {
            sql += &format!("GRANT pg_checkpoint TO {REWINDER};");
        }
        cluster.prepare("postgres", &sql);
    }

    pub fn directory(&self) -> PathBuf {
        self.scratch.path().join("agent")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory().join("agent.log")).unwrap_or_default()
    }

    /// As a power failure would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn start_again(&mut self) {
        self.kill();
        let before = self.log().len();
        self.child = spawn(&self.installation, &self.program, &self.directory(), &self.server);
        let listens = || self.log()[before..].contains("the agent is listening");
        super::eventually(PATIENCE, "the agent listens again", listens);
    }

    fn wait_until_it_listens(&self) {
        super::eventually(PATIENCE, "the agent listens", || self.log().contains("the agent is listening"));
    }

    pub fn files_of(&self, id: &str) -> PeerFiles {
        let pki = self.scratch.path().join("pki");
        PeerFiles {
            authorities: pki.join("ca.crt"),
            certificate: pki.join(format!("{id}.crt")),
            key: pki.join(format!("{id}.key")),
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// With the certificate of that node.
    pub fn asked_by(&self, id: &str) -> Asking {
        let agents = Agents::start(self.files_of(id), NodeName::new(id, CLUSTER).unwrap()).unwrap();
        Asking { agents, server: self.server.clone(), address: self.address() }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- the agent's log ----\n{}---- end of the agent's log ----", self.log());
        }
    }
}

fn spawn(installation: &Installation, program: &Path, directory: &Path, server: &str) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("agent.log")).unwrap();
    let mut command = installation.server_command(program.to_str().unwrap(), "KILL");
    command.arg("agent").arg("--config").arg(directory.join("komainu.toml")).args(["--server", server]);
    command.stdout(log.try_clone().unwrap()).stderr(log);
    process::spawn(command).unwrap()
}

/// A node, and the one agent it asks.
pub struct Asking {
    pub agents: Agents,
    server: String,
    address: String,
}

impl Asking {
    pub fn beside(&self) -> Beside<'_> {
        Beside { server: &self.server, address: &self.address }
    }

    pub async fn status(&self) -> Status {
        self.agents.status(self.beside(), PATIENCE).await.unwrap()
    }

    pub async fn rejoin(&self, request: &Rejoin) -> Result<bool, AgentCallError> {
        self.agents.rejoin(self.beside(), request.clone(), PATIENCE).await
    }

    pub async fn job(&self) -> Job {
        self.status().await.job.expect("there was one")
    }

    /// Begins it, and waits for its end.
    pub async fn done(&self, request: &Rejoin) -> Job {
        assert!(self.rejoin(request).await.unwrap(), "it begins");
        let deadline = Instant::now() + JOB_PATIENCE;
        loop {
            let job = self.job().await;
            if job.outcome.is_some() {
                return job;
            }
            assert!(Instant::now() < deadline, "still at it: {job:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn succeeds(&self, request: &Rejoin) -> Job {
        let job = self.done(request).await;
        assert_eq!(job.outcome, Some(Outcome::Succeeded), "{job:?}");
        job
    }

    pub async fn wait_for(&self, what: &str, condition: impl Fn(&Status) -> bool) {
        eventually_async(PATIENCE, what, || async { condition(&self.status().await) }).await;
    }
}

pub fn source(server: &Postgres) -> Source {
    Source { id: server.id().to_owned(), host: server.host().to_owned(), port: server.port() }
}

/// To follow that primary, in an epoch, and to be rewound if that will do.
pub fn rejoin(epoch: u64, primary: &Postgres) -> Rejoin {
    let asked = primary
        .psql(
            "postgres",
            "SELECT system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM pg_control_system()",
        )
        .unwrap();
    let (system_identifier, timeline) = asked.split_once('|').unwrap();
    Rejoin {
        epoch,
        system_identifier: system_identifier.parse().unwrap(),
        primary: source(primary),
        timeline: u32::from_str_radix(timeline, 16).unwrap(),
        allow_rewind: true,
        rebuild_from: None,
        order: 0,
        may_rebuild: false,
    }
}
