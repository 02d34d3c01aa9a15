//! Why there is no sandbox, or no longer one.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use komainu_aws_double::MotoError;

use super::aws::PYTHON;
use super::network::NetworkError;
use super::postgres::PostgresError;
use super::whole::READY_TIMEOUT;
use crate::pki::PkiError;
use crate::postgres::InstallationError;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error("--nodes {0}: {why}; choose 1, 3 or 5", why = why_not(*.0))]
    Nodes(u8),
    #[error("{0}")]
    Method(&'static str),
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
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error(
        "the double of AWS is moto's server: `make sandbox ARGS=--aws` sets it up, or \
         `pip install 'moto[server]'` and name that Python in {PYTHON}"
    )]
    Moto(#[source] MotoError),
    #[error("cannot set up the double of AWS")]
    Double(#[source] io::Error),
    #[error("cannot start a name server")]
    Names(#[source] io::Error),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot make the nodes' certificates")]
    Pki(#[from] PkiError),
    #[error("{id} ended before it was ready ({status}); its log ends with:\n{log}")]
    NodeEndedEarly { id: String, status: ExitStatus, log: String },
    #[error("no komainu node runs any more; {id} ended last ({status}), and its log ends with:\n{log}")]
    NodesEnded { id: String, status: ExitStatus, log: String },
    #[error("{id} is not ready after {} s; its log ends with:\n{log}", READY_TIMEOUT.as_secs())]
    NotReady { id: String, log: String },
    #[error(
        "no node has taken the endpoint after {} s; the log of {id} ends with:\n{log}",
        READY_TIMEOUT.as_secs()
    )]
    NoOwner { id: String, log: String },
    #[error(
        "no standby is known to have what is acknowledged after {} s; the log of {id} ends with:\n{log}",
        READY_TIMEOUT.as_secs()
    )]
    NothingPromised { id: String, log: String },
    #[error("cannot log in through komainu: {output}\nthe log of {id} ends with:\n{log}")]
    Login { output: String, id: String, log: String },
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    #[error("a part of the sandbox panicked")]
    Panicked,
}

impl SandboxError {
    /// Whether it is the command line that is wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Nodes(_) | Self::Method(_))
    }
}

fn why_not(nodes: u8) -> &'static str {
    match nodes {
        0 => "there would be nobody to connect to",
        2 => "with two, losing either one leaves no majority",
        4 => "with four, no more may be lost than with three",
        _ => "more make every decision slower and none safer",
    }
}
