//! One komainu node of the sandbox: its files and its `komainu serve` process.
//!
//! Owns the node's directory. Never talks to its clients' port. Invariant: files that hold secrets
//! are readable by their owner only.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::postgres::{Postgres, tail};
use super::process;

/// Ctrl-C should not wait for transactions left open in some psql.
const SHUTDOWN_TIMEOUT_MS: u64 = 1_000;
/// What a node gets beyond that before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(4);
const HEALTH_PERIOD_MS: u64 = 500;

/// A role of the servers and its secret.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// What a node is told.
pub struct NodePlan<'a> {
    pub id: &'a str,
    pub directory: &'a Path,
    pub admin_socket: &'a Path,
    pub port: u16,
    pub health: &'a Login,
    /// Lines of the user file: names and SCRAM verifiers.
    pub users: &'a [(String, String)],
    pub servers: &'a [Postgres],
}

#[derive(Debug)]
pub struct Node {
    id: String,
    process: Child,
    directory: PathBuf,
    admin_socket: PathBuf,
}

impl Node {
    /// Writes the node's files and starts it; it is not ready yet.
    pub fn start(plan: &NodePlan<'_>) -> io::Result<Self> {
        let directory = plan.directory;
        write_private(&directory.join("komainu.toml"), &configuration(plan))?;
        write_private(&directory.join("hba.conf"), HBA)?;
        write_private(&directory.join("health.password"), &plan.health.password)?;
        let users: String =
            plan.users.iter().map(|(name, verifier)| format!("\"{name}\" \"{verifier}\"\n")).collect();
        write_private(&directory.join("users.txt"), &users)?;

        let log = File::create(directory.join("komainu.log"))?;
        let mut serve = process::command(env::current_exe()?, "TERM", None);
        serve
            .args(["serve", "--config"])
            .arg(directory.join("komainu.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // As the servers: Ctrl-C on the terminal is the sandbox's to act on, in its order.
        std::os::unix::process::CommandExt::process_group(&mut serve, 0);
        Ok(Self {
            id: plan.id.to_owned(),
            process: process::spawn(serve)?,
            directory: directory.to_owned(),
            admin_socket: plan.admin_socket.to_owned(),
        })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    pub fn log_file(&self) -> PathBuf {
        self.directory.join("komainu.log")
    }

    pub fn log_tail(&self) -> String {
        tail(&self.log_file())
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Lets it drain for a moment, then ends it.
    pub fn stop(&mut self) {
        process::signal(self.process.id(), Signal::TERM);
        let deadline = Instant::now() + Duration::from_millis(SHUTDOWN_TIMEOUT_MS) + KILL_AFTER;
        if !matches!(process::wait_until(&mut self.process, deadline), Ok(Some(_))) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const HBA: &str = "# type  database  user  address       method
local   all       all                 scram-sha-256
host    all       all   127.0.0.1/32  scram-sha-256
";

fn configuration(plan: &NodePlan<'_>) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let path = |path: &Path| text(&path.to_string_lossy());
    let mut toml = format!(
        "# Written by `komainu sandbox`.

[listen]
addresses = [\"127.0.0.1:{port}\"]

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
        port = plan.port,
        admin = path(plan.admin_socket),
        hba = path(&plan.directory.join("hba.conf")),
        users = path(&plan.directory.join("users.txt")),
        health_user = text(&plan.health.user),
        health_password = path(&plan.directory.join("health.password")),
    );
    for server in plan.servers {
        toml += &format!(
            "\n[[server]]\nid = {}\nhost = {}\nport = {}\n",
            text(server.id()),
            text(server.host()),
            server.port()
        );
    }
    toml
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
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
            Ok(_) => std::thread::sleep(POLL),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => text.clear(),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_valid_whatever_the_directory_is_called() {
        let directory = Path::new("/tmp/a \"quoted\" \\ name");
        let health = Login { user: "health".into(), password: "secret".into() };
        let admin = directory.join("admin.sock");
        let plan = NodePlan {
            id: "node1",
            directory,
            admin_socket: &admin,
            port: 9999,
            health: &health,
            users: &[],
            servers: &[],
        };
        let text = configuration(&plan) + "\n[[server]]\nid = \"pg1\"\nhost = \"127.0.0.1\"\nport = 5432\n";
        let (config, warnings) = crate::config::file::parse(&text, Path::new("komainu.toml"), 2).unwrap();
        assert_eq!(config.admin.socket.as_deref(), Some(admin.as_path()));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(!text.contains("secret"));
    }

    #[test]
    fn followed_lines_arrive_whole() {
        let scratch = super::super::Scratch::create("komainu-follow-").unwrap();
        let path = scratch.path().join("log");
        fs::write(&path, "one\ntwo").unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                std::thread::sleep(Duration::from_millis(50));
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
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
