//! A PgBouncer before the same servers, which finds the writer by its name, to compare with.
//!
//! Owns its files and its process. It has the package's defaults, but for what its manual tells those to set who follow a
//! name that moves: it keeps a name no longer than its TTL, and tries again each second. Invariant: it ends with this value.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::address::Address;
use super::error::DrillError;
use super::rows::connect;
use crate::backend::connect::Credential;
use crate::postgres::{Installation, process};
use crate::sandbox::{ReadyManaged, ReservedPort, Scratch};

/// Names the program; otherwise it is looked for.
const NAMED_BY: &str = "PGBOUNCER";
const PROGRAM: &str = "pgbouncer";
/// Where Debian's package has it, which is not in everybody's path.
const DEBIAN_DIRECTORY: &str = "/usr/sbin";
/// Its resolver knows no other.
const NAME_PORT: u16 = 53;
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct PgBouncer {
    /// Where its clients connect, as who they are at komainu.
    pub address: Address,
    process: Child,
    _port: ReservedPort,
    _scratch: Scratch,
}

impl PgBouncer {
    /// Returns when one can log in through it.
    pub async fn start(through: &Address, managed: &ReadyManaged) -> Result<Self, DrillError> {
        let name_server: SocketAddr =
            managed.name_server.parse().map_err(|_| failed("the sandbox tells no name server"))?;
        if name_server.port() != NAME_PORT {
            let why =
                "it asks name servers at port 53 only, which the sandbox could not have: run it as root";
            return Err(failed(why));
        }
        let program = find()?;
        let io = |error: std::io::Error| failed(&error.to_string());
        let (port, scratch) =
            (ReservedPort::any().map_err(io)?, Scratch::create("komainu-pgbouncer-").map_err(io)?);
        // As root it does not run, as PostgreSQL does not.
        let installation = Installation::find().map_err(|error| failed(&error.to_string()))?;
        let directory = scratch.path().join(PROGRAM);
        let give = |path: &Path| installation.give(path).map_err(|error| failed(&error.to_string()));
        installation.create_directory(&directory).map_err(|error| failed(&error.to_string()))?;
        let login = &through.login;
        let Credential::Password(password) = &login.credential else {
            return Err(failed("the url has no password"));
        };
        let files = [
            ("resolv.conf", format!("nameserver {}\n", name_server.ip())),
            ("users.txt", format!("\"{}\" \"{}\"\n", login.user, password.expose())),
            ("pgbouncer.ini", configuration(&directory, &login.database, port.number(), managed)),
        ];
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text).map_err(io)?;
            give(&path)?;
        }
        let mut command = installation.server_command(&program.to_string_lossy(), "KILL");
        command.arg(directory.join("pgbouncer.ini"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut address = through.clone();
        (address.target.host, address.target.port) =
            (Arc::from(Ipv4Addr::LOCALHOST.to_string()), port.number());
        let process = process::spawn(command).map_err(io)?;
        let started = Self { address, process, _port: port, _scratch: scratch };
        started.wait_until_ready(&directory.join("pgbouncer.log")).await?;
        Ok(started)
    }

    async fn wait_until_ready(&self, log: &Path) -> Result<(), DrillError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match connect(&self.address).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    let log = fs::read_to_string(log).unwrap_or_default();
                    return Err(failed(&format!("nobody can log in through it: {error}; its log:\n{log}")));
                }
                Err(_) => sleep(POLL).await,
            }
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn failed(why: &str) -> DrillError {
    DrillError::PgBouncer(why.to_owned())
}

fn find() -> Result<PathBuf, DrillError> {
    if let Some(named) = env::var_os(NAMED_BY) {
        let named = PathBuf::from(named);
        return match named.is_file() && named.is_absolute() {
            true => Ok(named),
            false => {
                Err(failed(&format!("{NAMED_BY} is {}: name the program by its whole path", named.display())))
            }
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([DEBIAN_DIRECTORY.into()]);
    let found = directories.map(|directory| directory.join(PROGRAM)).find(|program| program.is_file());
    found.ok_or_else(|| failed("it is not installed: `apt-get install pgbouncer`, or name it in PGBOUNCER"))
}

fn configuration(directory: &Path, database: &str, port: u16, managed: &ReadyManaged) -> String {
    let ReadyManaged { writer_name, port: server_port, ttl_s, .. } = managed;
    let directory = directory.display();
    format!(
        "[databases]\n\
         {database} = host={writer_name} port={server_port} dbname={database}\n\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = scram-sha-256\n\
         auth_file = {directory}/users.txt\n\
         logfile = {directory}/pgbouncer.log\n\
         pool_mode = transaction\n\
         max_client_conn = 1000\n\
         resolv_conf = {directory}/resolv.conf\n\
         dns_max_ttl = {ttl_s}\n\
         server_login_retry = 1\n"
    )
}
