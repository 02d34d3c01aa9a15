//! The agent beside one server: its `komainu agent` process, and what it finds on that server's disk.
//!
//! Runs as PostgreSQL's user. Never told of anything but its own server. Invariant: what it may have to read
//! belongs to that user alone, from the first moment.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::daemon::Daemon;
use super::error::SandboxError;
use super::node_files::{CONFIGURATION, path, text, write_certificates};
use super::port::ReservedPort;
use super::postgres::{Postgres, PostgresError, tail};
use super::roles::{DATABASE, REWINDER};
use crate::pki::{AGENT_PREFIX, AUTHORITY_CERTIFICATE, Authority};
use crate::postgres::Installation;
use crate::postgres::process;

/// In a network of their own the agents all have the same port.
const PORT: u16 = 7500;
const POLL: Duration = Duration::from_millis(20);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Agent {
    id: String,
    server: String,
    /// The server's.
    directory: PathBuf,
    address: SocketAddr,
    holder: Option<u32>,
    program: PathBuf,
    installation: Installation,
    daemon: Daemon,
    _port: Option<ReservedPort>,
}

impl Agent {
    /// Has a place; its files are not there yet.
    pub fn of(server: &Postgres, installation: &Installation, program: &Path) -> Result<Self, PostgresError> {
        let (address, port) = match server.network() {
            Some(host) => ((host.address, PORT), None),
            None => {
                let port = ReservedPort::any().map_err(PostgresError::Port)?;
                ((Ipv4Addr::LOCALHOST, port.number()), Some(port))
            }
        };
        Ok(Self {
            id: format!("{AGENT_PREFIX}{}", server.id()),
            server: server.id().to_owned(),
            directory: server.directory().to_owned(),
            address: address.into(),
            holder: server.network().and_then(|host| host.holder),
            program: program.to_owned(),
            installation: installation.clone(),
            daemon: Daemon::default(),
            _port: port,
        })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id of its server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Where the nodes find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes its configuration, of which `shared` is what the nodes have too, and its certificate.
    pub fn write_files(
        &self,
        server: &Postgres,
        shared: &str,
        authority: &Authority,
    ) -> Result<(), SandboxError> {
        let own = format!(
            "# Written by `komainu sandbox`.\n{shared}\n[agent]\ndata_directory = {}\nbin_directory = {}\n\
             listen = {}\nstate_directory = \"agent\"\npki_directory = \"pki\"\nlog_file = {}\n\
             replication_user = {}\npassfile = {}\nrewind_user = {}\nrewind_database = {}\n",
            path(&server.data_directory()),
            path(self.installation.directory()),
            text(&self.address.to_string()),
            path(&server.log_file()),
            text(&server.replicator().user),
            path(&server.passfile()),
            text(REWINDER),
            text(DATABASE),
        );
        server.write(&self.configuration(), &own, false)?;
        write_certificates(authority, &self.id, &self.directory)?;
        let pki = self.directory.join("pki");
        let files =
            [AUTHORITY_CERTIFICATE.to_owned(), format!("{}.crt", self.id), format!("{}.key", self.id)];
        for file in files {
            self.installation.give(&pki.join(file))?;
        }
        Ok(self.installation.give(&pki)?)
    }

    /// What it is from its next start on: another version, for one.
    pub fn becomes(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Starts it where it is not running.
    pub fn start(&self) -> io::Result<()> {
        self.daemon.start(&self.log_file(), || {
            let mut agent = self.installation.server_command(&self.program.to_string_lossy(), "KILL");
            agent.args(["agent", "--server", &self.server, "--config"]).arg(self.configuration());
            Ok(process::in_network(self.holder, agent))
        })
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// How it ended, if it is not running.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.daemon.ended()
    }

    /// Whether the nodes can ask it something.
    pub fn is_ready(&self) -> bool {
        TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT).is_ok()
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

    pub fn log_file(&self) -> PathBuf {
        self.directory.join("agent.log")
    }

    pub fn log_tail(&self) -> String {
        tail(&self.log_file())
    }

    pub fn kill(&self) {
        self.daemon.kill();
    }

    pub fn freeze(&self) {
        self.daemon.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Its file.
    pub fn configuration(&self) -> PathBuf {
        self.directory.join(CONFIGURATION)
    }
}

/// `program`, or another name of it below `directory` by which the servers' user reaches it: `/root` is
/// closed to that user, for one.
pub fn program_for_servers(
    installation: &Installation,
    program: &Path,
    directory: &Path,
) -> io::Result<PathBuf> {
    if installation.may_execute(program) {
        return Ok(program.to_owned());
    }
    let ours = directory.join("komainu");
    if fs::hard_link(program, &ours).is_err() || !installation.may_execute(&ours) {
        let _ = fs::remove_file(&ours);
        fs::copy(program, &ours)?;
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o755))?;
    }
    Ok(ours)
}

/// This program, which is komainu.
pub fn this_program() -> Result<PathBuf, SandboxError> {
    env::current_exe().map_err(|source| SandboxError::Io {
        operation: "find",
        path: "the program that runs".into(),
        source,
    })
}
