//! What a running sandbox can be told, and the Unix socket where it is: by its nodes' programs, by
//! `komainu sandbox start`, by a drill.
//!
//! One request a connection, as one line of JSON; one line answers it. Invariant: only this user reaches
//! the socket, since its directory is closed to others.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::endpoint::Call;
use super::managed::{FailoverOrder, FailoverTold};
use super::network::{Network, NetworkError};
use super::part::Part;
use super::private;
use super::ready::Ready;
use super::whole::Sandbox;

/// In the system's temporary directory, with the user's number behind it.
const DIRECTORY: &str = "komainu-sandboxes";
const MAX_REQUEST_BYTES: u64 = 64 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const HOLD_REPLAY: &str = "SELECT pg_wal_replay_pause()";
const RELEASE_REPLAY: &str =
    "SELECT CASE WHEN pg_is_in_recovery() AND pg_is_wal_replay_paused() THEN pg_wal_replay_resume() END";
const BACKLOG: &str = "SELECT CASE WHEN pg_is_in_recovery() \
     THEN greatest(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), 0) ELSE 0 END";
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// What a node's program was told.
    Tell(Call),
    /// What it printed when it was ready, with the process ids of now.
    Describe,
    /// Start a node, server or agent that was killed, and wait until it is ready.
    Start {
        id: String,
    },
    Kill {
        id: String,
    },
    /// In its own time: a server ends its sessions and writes everything out.
    Stop {
        id: String,
    },
    Freeze {
        id: String,
    },
    Thaw {
        id: String,
    },
    /// Cut a node or server off from everything, without a word to anybody.
    Cut {
        id: String,
    },
    Join {
        id: String,
    },
    /// Do what AWS does when it makes another instance the writer.
    Failover(FailoverOrder),
    /// A standby receives, and replays nothing of it.
    HoldReplay {
        id: String,
    },
    ReleaseReplay {
        id: String,
    },
    /// How many bytes a server has received and not replayed; a primary: 0.
    Backlog {
        id: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// In words.
    Done(String),
    Description(Box<Ready>),
    FailedOver(Box<FailoverTold>),
    /// Why not.
    Refused(String),
}

/// Where the running sandboxes of this user are told things.
pub fn sockets() -> io::Result<PathBuf> {
    private::directory(DIRECTORY)
}

/// Where this process's sandbox will be told things.
pub fn socket() -> io::Result<PathBuf> {
    Ok(sockets()?.join(format!("{}.sock", std::process::id())))
}

/// Listens until dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl Control {
    pub fn listen(path: &Path, sandbox: Arc<Sandbox>) -> io::Result<Self> {
        // Of a sandbox that was killed and had our process id.
        let _ = fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        Ok(Self { path: path.to_owned(), accepting: tokio::spawn(accept(listener, sandbox)) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = fs::remove_file(&self.path);
    }
}

async fn accept(listener: UnixListener, sandbox: Arc<Sandbox>) {
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    conversations.spawn(converse(stream, sandbox.clone()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = conversations.join_next() => {}
        }
    }
}

/// Whoever hangs up half-way does not want the answer.
async fn converse(stream: UnixStream, sandbox: Arc<Sandbox>) -> Option<()> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading.take(MAX_REQUEST_BYTES));
    let mut line = String::new();
    timeout(REQUEST_TIMEOUT, reading.read_line(&mut line)).await.ok()?.ok()?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => spawn_blocking(move || sandbox.obey(&request)).await.ok()?,
        Err(error) => Answer::Refused(format!("that is no request: {error}")),
    };
    let mut text = serde_json::to_vec(&answer).expect("strings and numbers have a JSON form");
    text.push(b'\n');
    writing.write_all(&text).await.ok()
}

impl Sandbox {
    /// Blocks for as long as it takes.
    fn obey(&self, request: &Request) -> Answer {
        let done = match request {
            Request::Describe => return Answer::Description(Box::new(self.ready())),
            Request::Failover(order) => {
                return self
                    .fail_over(order)
                    .map_or_else(Answer::Refused, |told| Answer::FailedOver(Box::new(told)));
            }
            Request::Tell(call) => self.told(call).map(|()| "noted".to_owned()).map_err(|e| e.to_string()),
            Request::Start { id } => self.with_part(id, |part| start(id, part)),
            Request::Kill { id } => self.with_part(id, |part| {
                part.kill();
                Ok(format!("{id} is killed"))
            }),
            Request::Stop { id } => self.with_part(id, |part| {
                part.stop().map(|()| format!("{id} is stopped")).map_err(|error| error.to_string())
            }),
            Request::Freeze { id } => self.with_part(id, |part| {
                part.freeze();
                Ok(format!("{id} is frozen"))
            }),
            Request::Thaw { id } => self.with_part(id, |part| {
                part.thaw();
                Ok(format!("{id} is going on"))
            }),
            Request::Cut { id } => self.with_wire(id, "cut off", Network::cut),
            Request::Join { id } => self.with_wire(id, "joined again", Network::join),
            Request::HoldReplay { id } => self.with_part(id, |part| part.psql(HOLD_REPLAY)),
            Request::ReleaseReplay { id } => self.with_part(id, |part| part.psql(RELEASE_REPLAY)),
            Request::Backlog { id } => self.with_part(id, |part| part.psql(BACKLOG)),
        };
        done.map_or_else(Answer::Refused, Answer::Done)
    }

    fn fail_over(&self, order: &FailoverOrder) -> Result<FailoverTold, String> {
        let managed = self.managed().ok_or(
            "in this sandbox komainu makes the writer itself: kill a server, or order a switchover; a failover by the \
             service is for `komainu sandbox --mode rds` or `aurora`",
        )?;
        managed.fail_over(self.servers(), order).map_err(|error| error.to_string())
    }

    fn with_part(
        &self,
        id: &str,
        action: impl FnOnce(Part<'_>) -> Result<String, String>,
    ) -> Result<String, String> {
        self.part(id).map_or_else(|| Err(self.no_such(id)), action)
    }

    fn with_wire(
        &self,
        id: &str,
        is: &str,
        change: impl FnOnce(&Network, &str) -> Result<(), NetworkError>,
    ) -> Result<String, String> {
        self.part(id).ok_or_else(|| self.no_such(id))?;
        let network = self.network().ok_or("nothing can be cut off: the sandbox runs without --netns")?;
        change(network, id).map_err(|error| error.to_string())?;
        Ok(format!("{id} is {is}"))
    }

    fn no_such(&self, id: &str) -> String {
        format!("there is no node, server or agent {id}; there are {}", self.part_ids().join(", "))
    }
}

fn start(id: &str, part: Part<'_>) -> Result<String, String> {
    if let Some(pid) = part.pid() {
        return Err(format!("{id} runs already (pid {pid})"));
    }
    part.start().map_err(|why| format!("{id} does not run again: {why}"))?;
    Ok(format!("{id} runs again (pid {})", part.pid().unwrap_or_default()))
}
