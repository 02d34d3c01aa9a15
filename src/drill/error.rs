//! Why a drill could not be carried out.

use std::io;

use super::address::AddressError;
use super::rows::WriteError;
use crate::sandbox::{AskError, SandboxError};

#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    #[error("a partition needs network namespaces: add --netns, as root")]
    PartitionNeedsNetwork,
    #[error("--backlog: only in a sandbox is anything known of what the standbys have to replay")]
    BacklogNeedsSandbox,
    #[error("--backlog: nothing is promoted when a standby hangs; choose another --event")]
    BacklogNeedsFailover,
    #[error("--nodes 1: nobody would take over; choose 3 or 5")]
    Alone,
    #[error("no running sandbox of this user has that admin socket; for another cluster add --url")]
    NoUrl,
    #[error("--url: {0}")]
    Url(#[from] AddressError),
    #[error("this cluster is no sandbox: add --real-cluster if its primary is to be failed over")]
    Real,
    #[error("--event aws-failover is for a service that makes the writer: add --mode rds or --mode aurora")]
    NoService,
    #[error("where a service makes the writer there is --event aws-failover alone")]
    Service,
    #[error("--pgbouncer is for a sandbox with names that move: add --mode rds or --mode aurora")]
    NoNames,
    #[error("--ask-aws is for --event aws-failover of a cluster that is no sandbox")]
    NotAws,
    #[error("--ask-aws: {primary}, which writes here, is no instance of {id}: nothing was asked of AWS")]
    OtherCluster { id: String, primary: String },
    #[error("AWS was to be asked for a failover: {0}; look what came of it before you try again")]
    Aws(String),
    #[error("PgBouncer: {0}")]
    PgBouncer(String),
    #[error("cannot reserve a port: {0}")]
    Port(#[source] io::Error),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("{0}")]
    Ask(#[from] AskError),
    #[error("before run {run}: {complaint}, for {seconds} s")]
    NotWhole { run: u32, complaint: String, seconds: u64 },
    #[error("run {run}: {doing}: no row was acknowledged for {seconds} s")]
    NoWrites { run: u32, doing: &'static str, seconds: u64 },
    #[error(
        "run {run}: {seconds} s after {owner} was broken no other node owns the endpoint and takes writes"
    )]
    NoRecovery { run: u32, owner: String, seconds: u64 },
    #[error("run {run}: {seconds} s after {server} was broken {lacks}; the timeline since:{timeline}")]
    NoFailover { run: u32, server: String, lacks: &'static str, seconds: u64, timeline: String },
    #[error("run {run}: {seconds} s after the failover not all servers are back: {complaint}")]
    NoRejoin { run: u32, complaint: String, seconds: u64 },
    #[error("run {run}: there is no standby to break")]
    NoStandby { run: u32 },
    #[error("the switchover was refused: {0}")]
    Refused(String),
    #[error("the rows cannot be {doing}: {source}")]
    Rows { doing: &'static str, source: WriteError },
    #[error("cannot start the drill's client: {0}")]
    Client(#[source] io::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] io::Error),
    #[error("interrupted; what was broken is mended")]
    Interrupted,
    #[error("a part of the drill panicked")]
    Panicked,
}

impl DrillError {
    /// Whether it is the command line that is wrong.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::BacklogNeedsSandbox | Self::BacklogNeedsFailover => true,
            Self::PartitionNeedsNetwork
            | Self::Alone
            | Self::NoUrl
            | Self::Url(_)
            | Self::Real
            | Self::NoService
            | Self::Service
            | Self::NoNames
            | Self::NotAws
            | Self::OtherCluster { .. } => true,
            Self::Sandbox(error) => error.is_usage(),
            _ => false,
        }
    }
}
