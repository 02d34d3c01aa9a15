//! What an operator orders of this process, on its way to the loop of `serve` that carries it out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// Orders not yet looked at; more are refused. They come from people.
pub const CONTROLS_WAITING: usize = 4;

#[derive(Debug)]
pub enum Control {
    /// As SIGHUP; answered when it is done.
    Reload(oneshot::Sender<Result<Reloaded, String>>),
    /// Answered with the file that is written to now.
    RotateLog(oneshot::Sender<Result<PathBuf, String>>),
    Stop(StopMode),
}

/// How much patience there is with clients. A later order can only take some away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// No new clients; waits until those that are there have left by themselves
    Smart,
    /// As SIGTERM: ends each session outside a transaction, and all after limits.shutdown_timeout_ms
    Fast,
    /// Ends all sessions at once
    Immediate,
}

/// The keys that were found changed, as the manual names them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Reloaded {
    pub changed: Vec<String>,
    /// They change with a restart only.
    pub restart: Vec<String>,
    /// The cluster has agreed on something else than the file says, which counts.
    pub differs: Vec<String>,
}
