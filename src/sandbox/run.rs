//! `komainu sandbox`: servers and a node in the foreground, until a signal ends them.
//!
//! Owns the order of starting and ending. Never restarts what ended: whoever kills a server here
//! wants to see what komainu does. Invariant: it prints that it is ready only after a real client
//! has logged in through the URL it prints.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::admin;
use super::installation::Installation;
use super::node::{Login, Node, NodePlan, follow};
use super::port::is_free;
use super::postgres::{Postgres, PostgresError, PostgresOptions};
use super::ready::{Ready, ReadyNode, ReadyServer, Summary};
use super::scratch::Scratch;
use super::servers::{Servers, literal};
use super::traffic;

const APP_ROLE: &str = "app";
const HEALTH_ROLE: &str = "komainu_health";
const NODE_ID: &str = "node1";
const MAX_CONNECTIONS: u32 = 200;
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
const SUPERVISE: Duration = Duration::from_millis(500);
/// A Unix socket's path holds 107 bytes, its name included.
const MAX_SOCKET_DIRECTORY_BYTES: usize = 90;

/// Run a whole cluster on this machine: PostgreSQL servers, and komainu before them.
#[derive(Debug, Clone, clap::Args)]
pub struct SandboxArgs {
    /// Streaming standbys beside the primary.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=9))]
    pub standbys: u8,
    /// komainu nodes.
    #[arg(long, default_value_t = 1)]
    pub nodes: u8,
    /// Where data, configuration and logs go, and stay; by default a temporary directory.
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// Where clients connect, on 127.0.0.1.
    #[arg(long, default_value_t = 9999, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Print one line of JSON when ready, and no log.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("--nodes {0}: this version runs one node")]
    Nodes(u8),
    #[error("port {0} of 127.0.0.1 is in use; --port chooses another")]
    PortInUse(u16),
    #[error("{0} is not empty; name a new directory with --dir")]
    NotEmpty(PathBuf),
    #[error("the user PostgreSQL runs as cannot enter {0}; choose another --dir")]
    Unreachable(PathBuf),
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("komainu ended before it was ready ({status}); its log ends with:\n{log}")]
    NodeEndedEarly { status: ExitStatus, log: String },
    #[error("komainu ended ({status}); its log ends with:\n{log}")]
    NodeEnded { status: ExitStatus, log: String },
    #[error("komainu is not ready after {} s; its log ends with:\n{log}", READY_TIMEOUT.as_secs())]
    NotReady { log: String },
    #[error("cannot log in through komainu: {output}\nits log ends with:\n{log}")]
    Login { output: String, log: String },
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    #[error("a part of the sandbox panicked")]
    Panicked,
}

impl SandboxError {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Nodes(_) => 64,
            _ => 1,
        }
    }
}

/// Starts everything, says so, and stays until SIGINT, SIGTERM or SIGHUP.
pub async fn run(args: SandboxArgs) -> Result<(), SandboxError> {
    let begun = Instant::now();
    if args.nodes != 1 {
        return Err(SandboxError::Nodes(args.nodes));
    }
    if !is_free(args.port) {
        return Err(SandboxError::PortInUse(args.port));
    }
    let mut stop = StopSignals::listen().map_err(SandboxError::Signals)?;
    // It is quick and cannot be abandoned half-way, so a signal is answered when it is done.
    let started = spawn_blocking({
        let args = args.clone();
        move || Sandbox::start(&args)
    });
    let mut sandbox = match started.await.map_err(|_| SandboxError::Panicked)? {
        // Ctrl-C reaches the programs that are waited for, too: that they failed is what was asked for.
        Err(_) if stop.received().now_or_never().is_some() => return Ok(()),
        started => started?,
    };
    let outcome = tokio::select! {
        () = stop.received() => Ok(()),
        result = live(&mut sandbox, &args, begun) => result,
    };
    let ended = spawn_blocking(move || sandbox.stop()).await.map_err(|_| SandboxError::Panicked)?;
    outcome.and(ended)
}

/// Gets the sandbox ready, says so, and watches it; returns only when something is wrong.
async fn live(sandbox: &mut Sandbox, args: &SandboxArgs, begun: Instant) -> Result<(), SandboxError> {
    sandbox.wait_until_ready().await?;
    sandbox.log_in().await?;
    let ready = sandbox.ready();
    if args.json {
        announce(&serde_json::to_string(&ready).expect("strings and numbers have a JSON form"));
    } else {
        announce(&sandbox.summary(&ready, begun.elapsed()).to_string());
        let log = sandbox.node.log_file();
        let socket = sandbox.node.admin_socket().to_owned();
        // Not waited for: they end with the process, or when nobody reads our stderr any more.
        let say = |line: &str| writeln!(io::stderr(), "{line}");
        thread::spawn(move || follow(&log, say));
        thread::spawn(move || traffic::follow(&socket, say));
    }
    sandbox.supervise().await
}

/// A reader that has gone away is no reason to stop.
fn announce(text: &str) {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{text}");
    let _ = stdout.flush();
}

/// Fields in the order in which they may be dropped.
struct Sandbox {
    node: Node,
    servers: Servers,
    installation: Installation,
    app: Login,
    port: u16,
    place: Place,
}

/// Where the sandbox's files are.
struct Place {
    directory: PathBuf,
    sockets: PathBuf,
    kept: bool,
    _scratch: Option<Scratch>,
}

impl Sandbox {
    fn start(args: &SandboxArgs) -> Result<Self, SandboxError> {
        let installation = Installation::find()?;
        let place = Place::prepare(args.dir.as_deref())?;
        if !installation.may_enter(&place.directory) {
            return Err(SandboxError::Unreachable(place.directory));
        }
        let options = PostgresOptions {
            max_connections: MAX_CONNECTIONS,
            // Until all is made: on a slow disk, syncing it would take most of the time.
            fsync: false,
            settings: Vec::new(),
            hba: Vec::new(),
            password: random_password(),
        };
        let servers = Servers::start(&installation, &place.directory, args.standbys.into(), options)?;
        let app = Login { user: APP_ROLE.into(), password: random_password() };
        let health = Login { user: HEALTH_ROLE.into(), password: random_password() };
        let verifier = create_roles(&servers, &app, &health)?;
        for server in servers.all() {
            server.configure("fsync", "on")?;
            server.reload()?;
        }
        let admin_socket = place.sockets.join("admin.sock");
        let node = Node::start(&NodePlan {
            id: NODE_ID,
            directory: &place.directory,
            admin_socket: &admin_socket,
            port: args.port,
            health: &health,
            users: &[(app.user.clone(), verifier)],
            servers: servers.all(),
        })
        .map_err(|source| SandboxError::Io {
            operation: "start a komainu node in",
            path: place.directory.clone(),
            source,
        })?;
        Ok(Self { node, servers, installation, app, port: args.port, place })
    }

    async fn wait_until_ready(&mut self) -> Result<(), SandboxError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let socket = self.node.admin_socket().to_owned();
            let answer = spawn_blocking(move || admin::get(&socket, "/ready"));
            if answer.await.is_ok_and(|answer| answer.is_ok_and(|response| response.status == 200)) {
                return Ok(());
            }
            if let Some(status) = self.node.ended() {
                return Err(SandboxError::NodeEndedEarly { status, log: self.node.log_tail() });
            }
            if Instant::now() >= deadline {
                return Err(SandboxError::NotReady { log: self.node.log_tail() });
            }
            sleep(POLL).await;
        }
    }

    /// As a newcomer will: with psql, through the port and with the password that is printed.
    async fn log_in(&self) -> Result<(), SandboxError> {
        let mut psql = self.installation.client_command("psql");
        psql.args(["-XAtq", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", &self.app.user, "-d", &self.app.user, "-c", "SELECT current_user"])
            // Not on the command line, which others can see.
            .env("PGPASSWORD", &self.app.password)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut psql = tokio::process::Command::from(psql);
        let output = match timeout(LOGIN_TIMEOUT, psql.kill_on_drop(true).output()).await {
            Ok(Ok(output)) if output.status.success() => return Ok(()),
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Ok(Err(error)) => format!("psql: {error}"),
            Err(_) => format!("no answer within {} s", LOGIN_TIMEOUT.as_secs()),
        };
        Err(SandboxError::Login { output, log: self.node.log_tail() })
    }

    /// Tells of servers that end; returns when the node does.
    async fn supervise(&mut self) -> Result<(), SandboxError> {
        let mut running = vec![true; self.servers.all().len()];
        loop {
            if let Some(status) = self.node.ended() {
                return Err(SandboxError::NodeEnded { status, log: self.node.log_tail() });
            }
            for (server, running) in self.servers.all().iter().zip(&mut running) {
                if *running && !server.is_running() {
                    *running = false;
                    let log = server.log_file();
                    let _ = writeln!(
                        io::stderr(),
                        "server {} has ended; its log is {}",
                        server.id(),
                        log.display()
                    );
                }
            }
            sleep(SUPERVISE).await;
        }
    }

    fn ready(&self) -> Ready {
        let url = format!(
            "postgres://{user}:{password}@127.0.0.1:{port}/{user}",
            user = self.app.user,
            password = self.app.password,
            port = self.port
        );
        let server = |(n, server): (usize, &Postgres)| ReadyServer {
            id: server.id().to_owned(),
            pid: server.pid().unwrap_or_default(),
            host: server.host().to_owned(),
            port: server.port(),
            role: if n == 0 { "primary" } else { "standby" },
            data_directory: server.data_directory(),
        };
        Ready {
            url: url.clone(),
            nodes: vec![ReadyNode {
                id: self.node.id().to_owned(),
                pid: self.node.pid(),
                url,
                admin: self.node.admin_socket().to_string_lossy().into_owned(),
            }],
            servers: self.servers.all().iter().enumerate().map(server).collect(),
        }
    }

    fn summary<'a>(&self, ready: &'a Ready, after: Duration) -> Summary<'a> {
        let primary = self.servers.primary();
        Summary {
            ready,
            after,
            postgresql_version: self.installation.major_version(),
            directory: self.place.directory.clone(),
            kept: self.place.kept,
            superuser: (primary.socket_directory().to_owned(), primary.port()),
        }
    }

    fn stop(mut self) -> Result<(), SandboxError> {
        self.node.stop();
        // Data that goes away with its directory need not be written out first.
        if self.place.kept { Ok(self.servers.stop()?) } else { Ok(()) }
    }
}

impl Place {
    fn prepare(wanted: Option<&Path>) -> Result<Self, SandboxError> {
        let Some(wanted) = wanted else {
            let scratch = scratch()?;
            let directory = scratch.path().to_owned();
            return Ok(Self { sockets: directory.clone(), directory, kept: false, _scratch: Some(scratch) });
        };
        let directory = named_directory(wanted)?;
        if directory.as_os_str().len() <= MAX_SOCKET_DIRECTORY_BYTES {
            return Ok(Self { sockets: directory.clone(), directory, kept: true, _scratch: None });
        }
        let scratch = scratch()?;
        Ok(Self { sockets: scratch.path().to_owned(), directory, kept: true, _scratch: Some(scratch) })
    }
}

fn scratch() -> Result<Scratch, SandboxError> {
    Scratch::create("komainu-sandbox-").map_err(|source| {
        let path = std::env::temp_dir();
        SandboxError::Io { operation: "create a directory in", path, source }
    })
}

/// The empty directory the user named, made if it does not exist.
fn named_directory(wanted: &Path) -> Result<PathBuf, SandboxError> {
    let error = |operation, source| SandboxError::Io { operation, path: wanted.to_owned(), source };
    if !wanted.exists() {
        fs::create_dir_all(wanted).map_err(|e| error("create", e))?;
        // The servers' user passes through it, whatever our umask is.
        fs::set_permissions(wanted, fs::Permissions::from_mode(0o711)).map_err(|e| error("open", e))?;
    }
    // The servers' working directory is not ours.
    let directory = fs::canonicalize(wanted).map_err(|e| error("find", e))?;
    if fs::read_dir(&directory).map_err(|e| error("list", e))?.next().is_some() {
        return Err(SandboxError::NotEmpty(directory));
    }
    Ok(directory)
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
fn random_password() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source does not fail once it works");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
            _ = self.hangup.recv() => (),
        }
    }
}
