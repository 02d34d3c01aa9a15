//! Where PostgreSQL's programs are and as whom they run.
//!
//! Never starts a server. Invariant: as root every program gets an unprivileged identity, since
//! PostgreSQL refuses to run as root.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::{self, RunAs};

const PROGRAMS: [&str; 4] = ["initdb", "postgres", "pg_basebackup", "psql"];
const DEBIAN_DIRECTORY: &str = "/usr/lib/postgresql";
const UNPRIVILEGED_USERS: [&str; 2] = ["postgres", "nobody"];

#[derive(Debug, Clone)]
pub struct Installation {
    binaries: PathBuf,
    run_as: Option<RunAs>,
    major_version: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    #[error(
        "PostgreSQL is not installed (looked in PATH and /usr/lib/postgresql); PG_BIN may name its bin directory"
    )]
    NotInstalled,
    #[error("{directory} does not hold initdb, postgres, pg_basebackup and psql")]
    Incomplete { directory: PathBuf },
    #[error("{program} --version says {text:?}")]
    UnknownVersion { program: PathBuf, text: String },
    #[error("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")]
    NoUnprivilegedUser,
    #[error("cannot {operation} {path}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
}

impl Installation {
    /// From the directory named by `PG_BIN`, else `PATH`, else the newest of Debian's.
    pub fn find() -> Result<Self, InstallationError> {
        let binaries = match env::var_os("PG_BIN") {
            Some(named) => PathBuf::from(named),
            None => search().ok_or(InstallationError::NotInstalled)?,
        };
        if !is_complete(&binaries) {
            return Err(InstallationError::Incomplete { directory: binaries });
        }
        let major_version = major_version(&binaries)?;
        let run_as = if rustix::process::geteuid().is_root() { Some(unprivileged_user()?) } else { None };
        Ok(Self { binaries, run_as, major_version })
    }

    pub fn major_version(&self) -> u32 {
        self.major_version
    }

    /// Where its programs are.
    pub fn directory(&self) -> &Path {
        &self.binaries
    }

    pub fn binary(&self, program: &str) -> PathBuf {
        self.binaries.join(program)
    }

    /// One of PostgreSQL's programs, or another by its whole path, run unprivileged; it gets `death_signal` when we end.
    pub fn server_command(&self, program: &str, death_signal: &str) -> Command {
        let mut command = process::command(self.binary(program), death_signal, self.run_as.as_ref());
        clean_environment(&mut command);
        command.current_dir("/").stdin(Stdio::null());
        command
    }

    /// A client program, run as ourselves and without what the environment says about servers.
    pub fn client_command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binary(program));
        clean_environment(&mut command);
        command.stdin(Stdio::null());
        command
    }

    /// Whether the servers' user can reach a directory; `/root` is closed to it, for one.
    pub fn may_enter(&self, directory: &Path) -> bool {
        self.succeeds("cd -- \"$1\"", directory)
    }

    /// Whether the servers' user can run a program.
    pub fn may_execute(&self, program: &Path) -> bool {
        self.succeeds("test -x \"$1\"", program)
    }

    fn succeeds(&self, script: &str, path: &Path) -> bool {
        let mut shell = process::command("sh", "KILL", self.run_as.as_ref());
        shell.args(["-c", script, "sh"]).arg(path).current_dir("/");
        let status = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }

    /// Creates a directory that only the servers' user (and root) can look into.
    pub fn create_directory(&self, path: &Path) -> Result<(), InstallationError> {
        let io =
            |source| InstallationError::Io { operation: "create directory", path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        self.give(path)
    }

    /// Hands a file to the servers' user.
    pub fn give(&self, path: &Path) -> Result<(), InstallationError> {
        let Some(user) = &self.run_as else { return Ok(()) };
        chown(path, Some(user.uid), Some(user.gid)).map_err(|source| InstallationError::Io {
            operation: "hand over",
            path: path.to_owned(),
            source,
        })
    }
}

/// `PGHOST`, `PGPASSWORD`, `PGDATA` and their like would change what the programs do.
fn clean_environment(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
}

fn search() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).find(|directory| is_complete(directory)).or_else(newest_of_debian)
}

fn newest_of_debian() -> Option<PathBuf> {
    fs::read_dir(DEBIAN_DIRECTORY)
        .ok()?
        .filter_map(|entry| {
            let version = entry.ok()?;
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        })
        .filter(|(_, directory)| is_complete(directory))
        .max_by_key(|(number, _)| *number)
        .map(|(_, directory)| directory)
}

fn is_complete(directory: &Path) -> bool {
    PROGRAMS.iter().all(|program| directory.join(program).is_file())
}

fn major_version(binaries: &Path) -> Result<u32, InstallationError> {
    let program = binaries.join("postgres");
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .map_err(|source| InstallationError::Io { operation: "run", path: program.clone(), source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "postgres (PostgreSQL) 15.18 (Debian …)", or "17beta1".
    text.split_ascii_whitespace()
        .nth(2)
        .map(|version| version.chars().take_while(char::is_ascii_digit).collect::<String>())
        .and_then(|digits| digits.parse().ok())
        .ok_or(InstallationError::UnknownVersion { program, text })
}

fn unprivileged_user() -> Result<RunAs, InstallationError> {
    let id = |flag: &str, name: &str| -> Option<u32> {
        let output = Command::new("id").args([flag, name]).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    UNPRIVILEGED_USERS
        .iter()
        .find_map(|name| Some(RunAs { name: (*name).to_owned(), uid: id("-u", name)?, gid: id("-g", name)? }))
        .ok_or(InstallationError::NoUnprivilegedUser)
}
