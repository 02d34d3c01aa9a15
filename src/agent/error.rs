//! Why an agent does not start, and why something it was asked for is not done.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::control::ControlError;
use super::history::HistoryError;
use super::wire::Refusal;
use crate::config::report::Report;
use crate::consensus::peer::PeerTlsError;
use crate::pki::NameError;
use crate::postgres::InstallationError;
use crate::telemetry::log::LogError;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the configuration is wrong")]
    Config(Report),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration has no {0}, which an agent needs; docs/agent.md tells how to write it")]
    Lacks(&'static str),
    #[error("there is no server {id:?} in the configuration; its servers are {known}")]
    NoServer { id: String, known: String },
    #[error(
        "nodes do not know where this agent is: write agent = \"host:port\" into [[server]] {0}, or agent.listen"
    )]
    NoAddress(String),
    #[error(
        "an agent runs as PostgreSQL's own user and not as root: start it as the owner of the data directory, with User=postgres in its systemd unit"
    )]
    Root,
    #[error(
        "{} belongs to user {owner}, and the agent runs as {own}: start it as the owner of the data directory",
        directory.display()
    )]
    Owner { directory: PathBuf, owner: u32, own: u32 },
    #[error("another agent works with {}: stop it first", .0.display())]
    Taken(PathBuf),
    #[error("the agent's memory cannot be used: {0}")]
    Memory(WorkError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Programs(#[from] InstallationError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Tls(#[from] PeerTlsError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Something did not work; what is said goes to the node that asked, and into the job's outcome.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error("cannot {operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{program} failed ({status}): {output}")]
    Program { program: &'static str, status: ExitStatus, output: String },
    #[error("{program} was not done within {within:?}: {output}")]
    Slow { program: &'static str, within: Duration, output: String },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("{}: {source}", path.display())]
    Memory { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is behind, and needs a rebuild that it was not given leave for.
    #[error("the primary no longer has the WAL that it needs: {0}")]
    MissingWal(String),
    #[error("{0}")]
    Not(String),
}

impl WorkError {
    pub fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WorkError {
        let path = path.to_owned();
        move |source| WorkError::Io { operation, path, source }
    }

    pub fn into_refusal(self) -> Refusal {
        match self {
            WorkError::Refused(refusal) => refusal,
            other => Refusal::Failed(other.to_string()),
        }
    }
}
