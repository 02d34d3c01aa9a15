//! One real PostgreSQL server on this machine: made, started, frozen, killed, promoted.
//!
//! Owns the server's files under its directory, and starts its process. Never talks the protocol itself: SQL
//! goes through `psql` over the server's own Unix socket, whose directory only its owner may enter.
//! Invariants: a dropped server leaves no process behind, and what tells one server from another stands beside
//! its data directory, so that data rewound or copied from another does not bring that one's port along.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::port::ReservedPort;
use super::postmaster::{Postmaster, Running};
use super::roles::{Login, passfile};
use crate::cluster::operate::slots::slot_name;
use crate::postgres::{Installation, InstallationError, process};

pub const SUPERUSER: &str = "postgres";
pub const REPLICATION_USER: &str = "replicator";

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// For a server nobody needs any more; after it its processes are killed.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);
/// Beside the data directory, and included by the configuration in it.
const OWN_CONFIGURATION: &str = "server.conf";
const LOG_TAIL_BYTES: usize = 4096;
/// `sun_path` holds 108 bytes with its terminator.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// How a server differs from PostgreSQL's defaults; a standby inherits its primary's.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    pub max_connections: u32,
    /// Off loses the data when the machine stops, which is what a test's data is for.
    pub fsync: bool,
    /// Written behind all others, so they win.
    pub settings: Vec<(String, String)>,
    /// Lines of `pg_hba.conf` that come first.
    pub hba: Vec<String>,
    /// Of [`SUPERUSER`] and [`REPLICATION_USER`], over TCP.
    pub password: String,
    /// Where each server is that has an address of its own; the others are on 127.0.0.1.
    pub hosts: BTreeMap<String, Host>,
    /// Of all of them, where each has an address of its own on this machine. None: each has another one.
    pub port: Option<Arc<ReservedPort>>,
    /// Whether a standby streams through a slot of its own.
    pub slots: bool,
}

/// A place of a server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    pub address: Ipv4Addr,
    /// The process whose network it is, if it is not ours.
    pub holder: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends sessions, then writes everything out.
    Fast,
    /// As a crash, but tidy: the next start recovers.
    Immediate,
}

#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot reserve a port")]
    Port(#[source] io::Error),
    #[error("{program} for server {id} failed ({status}): {output}")]
    Program { program: &'static str, id: String, status: ExitStatus, output: String },
    #[error("server {id} ended while it was {doing} ({status}); its log ends with:\n{log}")]
    Ended { id: String, doing: &'static str, status: ExitStatus, log: String },
    #[error("server {id} did not {goal} within {seconds} s; its log ends with:\n{log}")]
    Timeout { id: String, goal: &'static str, seconds: u64, log: String },
    #[error("server {id} is not running")]
    NotRunning { id: String },
}

#[derive(Debug)]
pub struct Postgres {
    id: String,
    installation: Installation,
    options: PostgresOptions,
    directory: PathBuf,
    socket_directory: PathBuf,
    host: String,
    network: Option<Host>,
    port: Arc<ReservedPort>,
    postmaster: Postmaster,
}

impl Postgres {
    /// Runs `initdb` for a new server with files under `directory/id`; it is not started.
    pub fn init(
        installation: &Installation,
        directory: &Path,
        id: &str,
        options: PostgresOptions,
    ) -> Result<Self, PostgresError> {
        let server = Self::prepare(installation, directory, id, options)?;
        let password_file = server.directory.join("password");
        server.write(&password_file, &server.options.password, false)?;
        let mut initdb = installation.server_command("initdb", "KILL");
        initdb
            .args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth-local=trust"])
            .args(["--auth-host=scram-sha-256", "--username", SUPERUSER])
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(server.data_directory());
        server.run("initdb", initdb)?;
        fs::remove_file(&password_file).map_err(io_error("remove", &password_file))?;

        let hba: String = server.options.hba.iter().map(|line| format!("{line}\n")).collect();
        let hba = hba
            + "local all all trust\n\
               host all all samehost scram-sha-256\n\
               host replication all samehost scram-sha-256\n";
        server.write(&server.data_directory().join("pg_hba.conf"), &hba, false)?;
        // Relative to the file it stands in, wherever that is copied to.
        let include = format!("\ninclude = '../{OWN_CONFIGURATION}'\n");
        server.write(&server.data_directory().join("postgresql.conf"), &include, true)?;
        Ok(server)
    }

    /// Copies this running server into a standby that streams from it, through a slot named as komainu names it if it
    /// has one; it is not started.
    pub fn base_backup(&self, id: &str) -> Result<Self, PostgresError> {
        let directory = self.directory.parent().unwrap_or(&self.directory);
        let standby = Self::prepare(&self.installation, directory, id, self.options.clone())?;
        let mut backup = self.installation.server_command("pg_basebackup", "KILL");
        backup
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"])
            .arg("--pgdata")
            .arg(standby.data_directory())
            .arg("--dbname")
            // Copied from here into the standby's `primary_conninfo`.
            .arg(self.conninfo(&standby));
        if self.options.slots {
            backup.args(["--create-slot", "--slot", &slot_name(id)]);
        }
        standby.run("pg_basebackup", backup)?;
        Ok(standby)
    }

    /// How a standby reaches this server: the name of the file with the password, not the password.
    pub fn conninfo(&self, standby: &Self) -> String {
        format!(
            "host={} port={} user={REPLICATION_USER} application_name={} passfile='{}'",
            self.host,
            self.port(),
            standby.id,
            conninfo_value(&standby.passfile().to_string_lossy()),
        )
    }

    pub fn major_version(&self) -> u32 {
        self.installation.major_version()
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its address.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The password of the superuser and of the replication user, for connections over TCP.
    pub fn password(&self) -> &str {
        &self.options.password
    }

    /// Its place of its own, if it has one.
    pub fn network(&self) -> Option<Host> {
        self.network
    }

    /// As which standbys stream.
    pub fn replicator(&self) -> Login {
        Login { user: REPLICATION_USER.into(), password: self.options.password.clone() }
    }

    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Holds the server's data and all else of its own.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }

    pub fn log_file(&self) -> PathBuf {
        self.directory.join("postgresql.log")
    }

    /// What libpq's programs look up passwords in: at the same path on all servers' hosts, as
    /// `failover.replication_passfile` wants it.
    pub fn passfile(&self) -> PathBuf {
        self.directory.with_file_name("passfile")
    }

    /// The postmaster's process id, while it runs, whoever started it.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.pid()
    }

    /// Whether the postmaster exists; it may be frozen.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Starts the server and waits until it takes connections, as a primary or as a hot standby.
    pub fn start(&self) -> Result<(), PostgresError> {
        self.launch()?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match self.postmaster.state() {
                Running::Ready => return Ok(()),
                Running::Starting => {}
                Running::Not(None) => return Err(PostgresError::NotRunning { id: self.id.clone() }),
                Running::Not(Some(status)) => {
                    let (id, log) = (self.id.clone(), self.log_tail());
                    return Err(PostgresError::Ended { id, doing: "starting", status, log });
                }
            }
            if Instant::now() >= deadline {
                return Err(self.timeout("start", START_TIMEOUT));
            }
            thread::sleep(POLL);
        }
    }

    /// Starts the server without waiting for it.
    pub fn launch(&self) -> Result<(), PostgresError> {
        if self.is_running() {
            return Ok(());
        }
        let path = self.log_file();
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(io_error("open", &path))?;
        // Whoever starts the server next may write on.
        self.installation.give(&path)?;
        let errors = log.try_clone().map_err(io_error("open", &path))?;
        // QUIT, not KILL: the postmaster takes its children along and frees its shared memory.
        let mut postgres = self.installation.server_command("postgres", "QUIT");
        postgres.arg("-D").arg(self.data_directory());
        let mut postgres = process::in_network(self.network.and_then(|host| host.holder), postgres);
        postgres.stdin(Stdio::null()).stdout(log).stderr(errors);
        // A group of its own, so that Ctrl-C on the terminal is ours alone to act on.
        std::os::unix::process::CommandExt::process_group(&mut postgres, 0);
        let child = process::spawn(postgres).map_err(io_error("run", Path::new("setpriv")))?;
        self.postmaster.started(child);
        Ok(())
    }

    pub fn stop(&self, mode: StopMode) -> Result<(), PostgresError> {
        let signal = match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        if self.postmaster.end(signal, STOP_TIMEOUT) {
            Ok(())
        } else {
            Err(self.timeout("stop", STOP_TIMEOUT))
        }
    }

    pub fn restart(&self) -> Result<(), PostgresError> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Kills every process of the server at once, as a machine that loses power would.
    pub fn kill(&self) {
        self.postmaster.kill();
    }

    /// Stops every process of the server where it is, as a hung machine would; see [`Self::thaw`].
    pub fn freeze(&self) {
        self.postmaster.signal_all(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.postmaster.signal_all(Signal::CONT);
    }

    /// Makes a standby a primary, and waits for it.
    pub fn promote(&self) -> Result<(), PostgresError> {
        self.psql("postgres", &format!("SELECT pg_promote(true, {})", START_TIMEOUT.as_secs())).map(drop)
    }

    /// From its next start on.
    pub fn make_standby(&self) -> Result<(), PostgresError> {
        self.write(&self.data_directory().join("standby.signal"), "", false)
    }

    /// Re-reads the configuration files.
    pub fn reload(&self) -> Result<(), PostgresError> {
        self.psql("postgres", "SELECT pg_reload_conf()").map(drop)
    }

    /// Appends to this server's own configuration; the last setting of a name wins. Takes effect at a reload
    /// or restart.
    pub fn configure(&self, name: &str, value: &str) -> Result<(), PostgresError> {
        self.write(&self.directory.join(OWN_CONFIGURATION), &setting(name, value), true)
    }

    /// What programs on the servers' hosts log in to any server with.
    pub fn write_passfile(&self, logins: &[&Login]) -> Result<(), PostgresError> {
        self.write(&self.passfile(), &passfile(logins), false)
    }

    /// Runs SQL as superuser over the server's own socket; rows come back one a line, columns with `|`.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, PostgresError> {
        let mut psql = self.installation.client_command("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-d", database, "-c", sql])
            .arg("-h")
            .arg(&self.socket_directory)
            .args(["-p", &self.port().to_string()]);
        let output = psql.output().map_err(io_error("run", Path::new("psql")))?;
        Ok(String::from_utf8_lossy(&self.checked("psql", output)?).trim_end().to_owned())
    }

    /// The end of the server's log.
    pub fn log_tail(&self) -> String {
        tail(&self.log_file())
    }

    fn prepare(
        installation: &Installation,
        directory: &Path,
        id: &str,
        options: PostgresOptions,
    ) -> Result<Self, PostgresError> {
        let port = match &options.port {
            Some(port) => port.clone(),
            None => Arc::new(ReservedPort::any().map_err(PostgresError::Port)?),
        };
        let directory = directory.join(id);
        installation.create_directory(&directory)?;
        let mut socket_directory = directory.join("socket");
        if socket_directory.as_os_str().len() + "/.s.PGSQL.65535.lock".len() > MAX_SOCKET_PATH_BYTES {
            // Named after the port, which nobody else's servers have; PostgreSQL removes its socket when it stops.
            socket_directory = std::env::temp_dir().join(format!("komainu-socket-{}-{id}", port.number()));
        }
        installation.create_directory(&socket_directory)?;
        let network = options.hosts.get(id).copied();
        let server = Self {
            id: id.to_owned(),
            installation: installation.clone(),
            host: network.map_or(Ipv4Addr::LOCALHOST, |host| host.address).to_string(),
            network,
            postmaster: Postmaster::of(directory.join("data")),
            options,
            directory,
            socket_directory,
            port,
        };
        server.write(&server.directory.join(OWN_CONFIGURATION), &server.configuration(), false)?;
        Ok(server)
    }

    fn configuration(&self) -> String {
        let mut text = format!("# Server {}.\n", self.id);
        let socket_directory = self.socket_directory.to_string_lossy();
        let fixed: [(&str, &str); 19] = [
            ("listen_addresses", self.host()),
            ("port", &self.port().to_string()),
            ("unix_socket_directories", &socket_directory),
            ("max_connections", &self.options.max_connections.to_string()),
            ("fsync", if self.options.fsync { "on" } else { "off" }),
            ("wal_level", "replica"),
            ("hot_standby", "on"),
            // A former primary can be rewound.
            ("wal_log_hints", "on"),
            // For nine standbys, and while they are made for the WAL of each besides.
            ("max_wal_senders", "30"),
            // A standby has slots for the others, too: it may be the primary next.
            ("max_replication_slots", "20"),
            // A standby whose primary hangs notices within seconds, and the other way round.
            ("wal_sender_timeout", "2s"),
            ("wal_receiver_timeout", "2s"),
            ("wal_receiver_status_interval", "1s"),
            // The default of 5 s is how long a standby would wait before it dials again.
            ("wal_retrieve_retry_interval", "200ms"),
            // Two base backups at a time: the checkpoint of one may remove what the other's slot is about to keep.
            ("wal_keep_size", "64MB"),
            ("shared_buffers", "32MB"),
            ("ssl", "off"),
            ("jit", "off"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
        ];
        for (name, value) in fixed {
            text += &setting(name, value);
        }
        for (name, value) in &self.options.settings {
            text += &setting(name, value);
        }
        text
    }

    fn run(&self, program: &'static str, mut command: std::process::Command) -> Result<(), PostgresError> {
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = output.map_err(io_error("run", Path::new("setpriv")))?;
        self.checked(program, output).map(drop)
    }

    fn checked(&self, program: &'static str, output: Output) -> Result<Vec<u8>, PostgresError> {
        if output.status.success() {
            return Ok(output.stdout);
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(PostgresError::Program { program, id: self.id.clone(), status: output.status, output: text })
    }

    /// Writes a file only its owner, the servers' user, can read.
    pub(super) fn write(&self, path: &Path, text: &str, append: bool) -> Result<(), PostgresError> {
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.create(true).write(true).append(append).truncate(!append);
        let mut file = options.open(path).map_err(io_error("write", path))?;
        file.write_all(text.as_bytes()).map_err(io_error("write", path))?;
        Ok(self.installation.give(path)?)
    }

    fn timeout(&self, goal: &'static str, after: Duration) -> PostgresError {
        PostgresError::Timeout { id: self.id.clone(), goal, seconds: after.as_secs(), log: self.log_tail() }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        if !self.postmaster.end(Signal::QUIT, DROP_TIMEOUT) {
            self.kill();
        }
        if !self.socket_directory.starts_with(&self.directory) {
            let _ = fs::remove_dir_all(&self.socket_directory);
        }
    }
}

/// The end of a text file, from the start of a line.
pub(super) fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let end = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..];
    let text = String::from_utf8_lossy(end).into_owned();
    match text.split_once('\n') {
        Some((_, rest)) if bytes.len() > LOG_TAIL_BYTES => rest.to_owned(),
        _ => text,
    }
}

/// Between the quotes of a connection string.
fn conninfo_value(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn setting(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_owned();
    move |source| PostgresError::Io { operation, path, source }
}
