//! `komainu sandbox`: a whole cluster in the foreground, until a signal ends it.
//!
//! Owns the order of starting and ending, and what is said. Never restarts what ended. Invariant: it
//! prints that it is ready only after a real client has logged in through the URL it prints.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::args::SandboxArgs;
use super::control::{self, Control};
use super::error::SandboxError;
use super::node::{Node, follow};
use super::ready::{Ready, Summary};
use super::stop_signals::StopSignals;
use super::traffic;
use super::whole::{READY_TIMEOUT, Sandbox};

const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(50);
const SUPERVISE: Duration = Duration::from_millis(500);

/// Starts everything, says so, and stays until SIGINT, SIGTERM or SIGHUP.
pub async fn run(args: SandboxArgs) -> Result<(), SandboxError> {
    let begun = Instant::now();
    let mut stop = StopSignals::listen().map_err(SandboxError::Signals)?;
    let running = match Running::start(&args).await {
        // Ctrl-C reaches the programs that are waited for, too: that they failed is what was asked for.
        Err(_) if stop.received().now_or_never().is_some() => return Ok(()),
        started => started?,
    };
    let outcome = tokio::select! {
        () = stop.received() => Ok(()),
        result = live(&running, &args, begun) => result,
    };
    outcome.and(running.stop().await)
}

/// Gets the sandbox ready, says so, and watches it; returns only when something is wrong.
async fn live(running: &Running, args: &SandboxArgs, begun: Instant) -> Result<(), SandboxError> {
    running.wait_until_ready().await?;
    let sandbox = &running.sandbox;
    let ready = sandbox.ready();
    if args.json {
        announce(&serde_json::to_string(&ready).expect("strings and numbers have a JSON form"));
    } else {
        announce(&summary(sandbox, &ready, begun.elapsed()).to_string());
        show_logs(sandbox.nodes());
        show_moves(sandbox);
    }
    running.supervise(|news| drop(writeln!(io::stderr(), "{news}"))).await
}

/// A reader that has gone away is no reason to stop.
fn announce(text: &str) {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{text}");
    let _ = stdout.flush();
}

fn summary<'a>(sandbox: &Sandbox, ready: &'a Ready, after: Duration) -> Summary<'a> {
    let primary = sandbox.servers().primary();
    Summary {
        ready,
        after,
        postgresql_version: sandbox.installation().major_version(),
        directory: sandbox.place().directory.clone(),
        kept: sandbox.place().kept,
        superuser: (primary.socket_directory().to_owned(), primary.port()),
    }
}

/// Not waited for: what it starts ends with the process, or when nobody reads our stderr any more.
fn show_logs(nodes: &[Node]) {
    for node in nodes {
        // One needs no name.
        let before = if nodes.len() > 1 { format!("{}  ", node.id()) } else { String::new() };
        let say = move |line: &str| writeln!(io::stderr(), "{before}{line}");
        let (log, socket) = (node.log_file(), node.admin_socket().to_owned());
        thread::spawn({
            let say = say.clone();
            move || follow(&log, say)
        });
        thread::spawn(move || traffic::follow(&socket, say));
    }
}

/// Tells where the double of AWS leads clients, whenever that changes.
fn show_moves(sandbox: &Sandbox) {
    for front in sandbox.fronts() {
        let Some(mut holder) = front.followed() else { continue };
        let name = front.name.clone();
        holder.mark_unchanged();
        tokio::spawn(async move {
            while holder.changed().await.is_ok() {
                let node = holder.borrow_and_update().clone();
                let where_to = node.map_or("to nobody".to_owned(), |node| format!("to {node}"));
                let _ = writeln!(io::stderr(), "{name} leads {where_to} now");
            }
        });
    }
}

/// A sandbox that runs in this process, and can be told things.
pub struct Running {
    sandbox: Arc<Sandbox>,
    control: Control,
}

impl Running {
    /// It is not ready yet.
    pub async fn start(args: &SandboxArgs) -> Result<Self, SandboxError> {
        let socket = control::socket().map_err(|source| SandboxError::Io {
            operation: "find a place for a socket in",
            path: std::env::temp_dir(),
            source,
        })?;
        // It is quick and cannot be abandoned half-way, so a signal is answered when it is done.
        let preparing = spawn_blocking({
            let (args, socket) = (args.clone(), socket.clone());
            move || Sandbox::prepare(&args, socket)
        });
        let sandbox = Arc::new(preparing.await.map_err(|_| SandboxError::Panicked)??);
        // Before the nodes: they tell who has the endpoint as soon as they know.
        let control = Control::listen(&socket, sandbox.clone()).map_err(|source| SandboxError::Io {
            operation: "listen on",
            path: socket,
            source,
        })?;
        sandbox.start()?;
        Ok(Self { sandbox, control })
    }

    pub fn ready(&self) -> Ready {
        self.sandbox.ready()
    }

    /// Until every node is, a client can log in where clients connect, and the primary can be lost.
    pub async fn wait_until_ready(&self) -> Result<(), SandboxError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for n in 0..self.sandbox.nodes().len() {
            let sandbox = self.sandbox.clone();
            let waiting = spawn_blocking(move || sandbox.nodes()[n].wait_until_ready(deadline));
            if !waiting.await.map_err(|_| SandboxError::Panicked)? {
                return Err(node_not_ready(&self.sandbox.nodes()[n]));
            }
        }
        for n in 0..self.sandbox.agents().len() {
            let sandbox = self.sandbox.clone();
            let waiting = spawn_blocking(move || sandbox.agents()[n].wait_until_ready(deadline));
            if !waiting.await.map_err(|_| SandboxError::Panicked)? {
                let agent = &self.sandbox.agents()[n];
                return Err(not_ready(agent.id(), agent.ended(), agent.log_tail()));
            }
        }
        while !self.is_reachable().await {
            if let Some(node) = self.sandbox.nodes().iter().find(|node| node.ended().is_some()) {
                return Err(node_not_ready(node));
            }
            if Instant::now() >= deadline {
                let node = &self.sandbox.nodes()[0];
                return Err(SandboxError::NoOwner { id: node.id().to_owned(), log: node.log_tail() });
            }
            sleep(POLL).await;
        }
        self.log_in().await?;
        self.wait_until_promised(deadline).await
    }

    /// A primary that is killed before that would not be replaced.
    async fn wait_until_promised(&self, deadline: Instant) -> Result<(), SandboxError> {
        loop {
            let sandbox = self.sandbox.clone();
            let asking = spawn_blocking(move || sandbox.is_promised());
            if asking.await.map_err(|_| SandboxError::Panicked)? {
                return Ok(());
            }
            let node = &self.sandbox.nodes()[0];
            if let Some(ended) = self.sandbox.nodes().iter().find(|node| node.ended().is_some()) {
                return Err(node_not_ready(ended));
            }
            if Instant::now() >= deadline {
                return Err(SandboxError::NothingPromised { id: node.id().to_owned(), log: node.log_tail() });
            }
            sleep(POLL).await;
        }
    }

    /// Whether clients are led to a node that has the endpoint, each of them.
    async fn is_reachable(&self) -> bool {
        for front in self.sandbox.fronts() {
            if let Some(address) = front.moving_address() {
                let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
                if !connecting.await.is_ok_and(|connected| connected.is_ok()) {
                    return false;
                }
            } else if !front.is_taken() {
                return false;
            }
        }
        true
    }

    /// As a newcomer will: with psql, through the port and with the password that is printed.
    async fn log_in(&self) -> Result<(), SandboxError> {
        let (address, app) = (self.sandbox.address(), self.sandbox.app());
        let mut psql = self.sandbox.installation().client_command("psql");
        psql.args(["-XAtq", "-h", &address.ip().to_string(), "-p", &address.port().to_string()])
            .args(["-U", &app.user, "-d", &app.user, "-c", "SELECT current_user"])
            // Not on the command line, which others can see.
            .env("PGPASSWORD", &app.password)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut psql = tokio::process::Command::from(psql);
        let output = match timeout(LOGIN_TIMEOUT, psql.kill_on_drop(true).output()).await {
            Ok(Ok(output)) if output.status.success() => return Ok(()),
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Ok(Err(error)) => format!("psql: {error}"),
            Err(_) => format!("no answer within {} s", LOGIN_TIMEOUT.as_secs()),
        };
        let node = &self.sandbox.nodes()[0];
        Err(SandboxError::Login { output, id: node.id().to_owned(), log: node.log_tail() })
    }

    /// Tells of nodes and servers that end or come back; returns when no node is left.
    async fn supervise(&self, say: impl Fn(&str)) -> Result<(), SandboxError> {
        let (nodes, servers) = (self.sandbox.nodes(), self.sandbox.servers().all());
        let mut nodes_ran = vec![true; nodes.len()];
        let agents = self.sandbox.agents();
        let mut agents_ran = vec![true; agents.len()];
        let mut servers_ran = vec![true; servers.len()];
        loop {
            for (server, ran) in servers.iter().zip(&mut servers_ran) {
                match (*ran, server.is_running()) {
                    (true, false) => say(&ended(server.id(), "", &server.log_file())),
                    (false, true) => say(&format!("{} runs again", server.id())),
                    _ => {}
                }
                *ran = server.is_running();
            }
            for (agent, ran) in agents.iter().zip(&mut agents_ran) {
                match (*ran, agent.ended()) {
                    (true, Some(status)) => {
                        say(&ended(agent.id(), &format!(" ({status})"), &agent.log_file()));
                    }
                    (false, None) => say(&format!("{} runs again", agent.id())),
                    _ => {}
                }
                *ran = agent.ended().is_none();
            }
            for (node, ran) in nodes.iter().zip(&mut nodes_ran) {
                match (*ran, node.ended()) {
                    (true, Some(status)) if nodes.iter().all(|node| node.ended().is_some()) => {
                        let (id, log) = (node.id().to_owned(), node.log_tail());
                        return Err(SandboxError::NodesEnded { id, status, log });
                    }
                    (true, Some(status)) => {
                        say(&ended(node.id(), &format!(" ({status})"), &node.log_file()));
                    }
                    (false, None) => say(&format!("{} runs again", node.id())),
                    _ => {}
                }
                *ran = node.ended().is_none();
            }
            sleep(SUPERVISE).await;
        }
    }

    /// Ends all of it. The nodes can still say that they give up the endpoint.
    pub async fn stop(self) -> Result<(), SandboxError> {
        let Self { sandbox, control } = self;
        let stopping = spawn_blocking(move || {
            let stopped = sandbox.stop();
            // Whatever it holds goes in its own time, not on a thread that serves clients.
            drop(sandbox);
            stopped
        });
        let stopped = stopping.await.map_err(|_| SandboxError::Panicked)?;
        drop(control);
        stopped
    }
}

fn node_not_ready(node: &Node) -> SandboxError {
    not_ready(node.id(), node.ended(), node.log_tail())
}

fn not_ready(id: &str, ended: Option<ExitStatus>, log: String) -> SandboxError {
    let id = id.to_owned();
    match ended {
        Some(status) => SandboxError::NodeEndedEarly { id, status, log },
        None => SandboxError::NotReady { id, log },
    }
}

fn ended(id: &str, how: &str, log: &Path) -> String {
    let log = log.display();
    format!("{id} has ended{how}; its log is {log}; `komainu sandbox start {id}` starts it again")
}
