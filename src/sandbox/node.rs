//! One komainu node of the sandbox: its `komainu serve` process.
//!
//! Never talks to its clients' port. Invariant: a node that was killed is started again only when
//! somebody asks for it, and then in its old place with its old memory.

use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::admin;
use super::daemon::Daemon;
use super::node_files::{CONFIGURATION, SHUTDOWN_TIMEOUT_MS};
use super::port::ReservedPort;
use super::postgres::tail;
use crate::postgres::process;

/// What a node gets beyond its own limit before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(20);

/// What a node is called, and where it is.
#[derive(Debug)]
pub struct NodePlan {
    pub id: String,
    pub directory: PathBuf,
    pub admin_socket: PathBuf,
    pub address: SocketAddr,
    /// It is one of several: `serve` must be told which.
    pub named: bool,
    /// The process whose network it lives in, if not in ours.
    pub holder: Option<u32>,
    /// Where it asks which instance it is.
    pub metadata: Option<String>,
    /// Its own as long as it exists, also while it does not run.
    pub _ports: Vec<ReservedPort>,
}

#[derive(Debug)]
pub struct Node {
    plan: NodePlan,
    daemon: Daemon,
}

impl Node {
    /// Its files are there; it is not started.
    pub fn new(plan: NodePlan) -> Self {
        Self { plan, daemon: Daemon::default() }
    }

    pub fn id(&self) -> &str {
        &self.plan.id
    }

    pub fn admin_socket(&self) -> &Path {
        &self.plan.admin_socket
    }

    /// Where its clients connect.
    pub fn address(&self) -> SocketAddr {
        self.plan.address
    }

    /// Starts it where it is not running; it is not ready yet.
    pub fn start(&self) -> io::Result<()> {
        self.daemon.start(&self.log_file(), || {
            let komainu = env::current_exe()?;
            // KILL, not TERM: one that is frozen would never hear it. What it would tidy up ends with us anyway.
            let mut serve = process::in_network(self.plan.holder, process::command(komainu, "KILL", None));
            serve.args(["serve", "--config"]).arg(self.plan.directory.join(CONFIGURATION));
            if self.plan.named {
                serve.args(["--node", &self.plan.id]);
            }
            if let Some(metadata) = &self.plan.metadata {
                // Whoever runs this may have an account of his own, which is no part of it.
                for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_"))
                {
                    serve.env_remove(name);
                }
                serve.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata);
            }
            Ok(serve)
        })
    }

    /// While it runs; it may be frozen.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// How it ended, if it is not running.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.daemon.ended()
    }

    pub fn log_file(&self) -> PathBuf {
        self.plan.directory.join("komainu.log")
    }

    pub fn log_tail(&self) -> String {
        tail(&self.log_file())
    }

    /// Whether it says so itself.
    pub fn is_ready(&self) -> bool {
        admin::get(&self.plan.admin_socket, "/ready").is_ok_and(|response| response.status == 200)
    }

    /// Whether it knows of standbys that have what was acknowledged.
    pub fn says_promised(&self) -> bool {
        let answer = admin::get(&self.plan.admin_socket, "/status").ok();
        let status = answer.and_then(|answer| serde_json::from_str::<Value>(&answer.body).ok());
        status.is_some_and(|status| status["failover"]["synchronous"]["count"].as_u64() > Some(0))
    }

    /// Waits until it is ready; false at the deadline, or when it ended.
    pub fn wait_until_ready(&self, deadline: Instant) -> bool {
        while !self.is_ready() {
            if self.ended().is_some() || Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// As a machine that loses power.
    pub fn kill(&self) {
        self.daemon.kill();
    }

    /// As a machine that hangs; see [`Self::thaw`].
    pub fn freeze(&self) {
        self.daemon.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Lets it give up what it has and drain for a moment, then ends it.
    pub fn stop(&self) {
        self.daemon.signal(Signal::TERM);
        // A frozen one would not hear of it.
        self.thaw();
        let deadline = Instant::now() + Duration::from_millis(SHUTDOWN_TIMEOUT_MS) + KILL_AFTER;
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.kill();
    }
}

/// Follows a log that grows, from its beginning, for as long as somebody takes its lines.
pub fn follow(path: &Path, mut line: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    use std::io::{BufRead, BufReader};
    const POLL: Duration = Duration::from_millis(200);
    let mut log = BufReader::new(fs::File::open(path)?);
    let mut text = String::new();
    loop {
        // A line may arrive in pieces.
        match log.read_line(&mut text) {
            Ok(count) if count > 0 && text.ends_with('\n') => {
                line(text.trim_end())?;
                text.clear();
            }
            Ok(_) => thread::sleep(POLL),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => text.clear(),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn followed_lines_arrive_whole() {
        let scratch = super::super::Scratch::create("komainu-follow-").unwrap();
        let path = scratch.path().join("log");
        fs::write(&path, "one\ntwo").unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                std::thread::sleep(Duration::from_millis(50));
                let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
                file.write_all(b" and more\n").unwrap();
            }
        });
        let mut lines = Vec::new();
        let result = follow(&path, |line| {
            lines.push(line.to_owned());
            if lines.len() == 2 { Err(io::Error::other("enough")) } else { Ok(()) }
        });
        writer.join().unwrap();
        assert!(result.is_err());
        assert_eq!(lines, ["one", "two and more"]);
    }
}
