//! What a node may ask of an agent, and what it is told. The list of requests is all that an agent does.
//!
//! Written down as JSON, since nodes and agents are upgraded one by one: variants and fields are only ever added, and
//! what is added has a default. An agent that does not know a request says so. Pure.

use serde::{Deserialize, Serialize};

use crate::topology::Lsn;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Status,
    /// What time it is here.
    Clock,
    /// To be begun by then, or not at all.
    Order {
        by: Moment,
        order: Order,
    },
}

/// What changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    Stop {
        epoch: u64,
        mode: StopMode,
    },
    Start {
        epoch: u64,
    },
    Restart {
        epoch: u64,
        /// One that was started later than that runs on: by its own clock, in milliseconds since 1970. None: whenever.
        #[serde(default)]
        started_by_ms: Option<u64>,
    },
    /// Make the server a standby, whatever it takes: a job, of which there is one at a time.
    Rejoin(Rejoin),
}

impl Order {
    pub fn epoch(&self) -> u64 {
        match self {
            Order::Stop { epoch, .. } | Order::Start { epoch } | Order::Restart { epoch, .. } => *epoch,
            Order::Rejoin(rejoin) => rejoin.epoch,
        }
    }
}

/// Of an agent's own clock, which begins anew with each of its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub life: u64,
    pub ms: u64,
}

/// As `pg_ctl` calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// Ends sessions, sends everything to the standbys, writes everything out: clean.
    Fast,
    /// As a crash. One that does not obey even this is killed.
    Immediate,
}

/// The same one again, while it runs or after it has succeeded, does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoin {
    pub epoch: u64,
    /// Of the cluster's data: what has another is left alone.
    pub system_identifier: u64,
    /// Whom it follows from now on.
    pub primary: Source,
    /// The primary's, or what it is at least.
    pub timeline: u32,
    /// False: what it has is never kept, whatever it looks like.
    pub allow_rewind: bool,
    /// Where a base backup is taken. None: the primary.
    #[serde(default)]
    pub rebuild_from: Option<Source>,
    /// Raised by whoever orders it anew: what has failed and rests is begun again at once.
    #[serde(default)]
    pub order: u64,
    /// Nobody counts on what it has, so it may also be rebuilt for being behind what the primary still has.
    #[serde(default)]
    pub may_rebuild: bool,
}

impl Rejoin {
    /// It comes to the same, wherever a copy would be taken.
    pub fn is_same(&self, other: &Rejoin) -> bool {
        let from = other.rebuild_from.clone();
        Rejoin { rebuild_from: from, ..self.clone() } == *other
    }
}

/// A server, and where this one reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub id: String,
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Status(Box<Status>),
    Clock(Moment),
    Stopped(Stopped),
    Started(Started),
    /// A rejoin is under way, or has succeeded already.
    Rejoining {
        /// By this very request.
        begun: bool,
    },
    Refused(Refusal),
}

/// Where a server that does not run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// It has shut down; else it will recover when it starts, and `checkpoint` is not its end.
    pub clean: bool,
    /// Where its last checkpoint is. Of a clean end it is the last record: who has flushed past it has everything.
    pub checkpoint: Lsn,
    pub timeline: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub pid: u32,
    /// It takes connections; else it is on its way.
    pub ready: bool,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("the request is of an epoch that is over: this agent was asked in epoch {highest_epoch} already")]
    Stale { highest_epoch: u64 },
    #[error("its time had passed when the agent was about to do it, so it was not done")]
    Late,
    #[error("a rejoin is under way: {0}")]
    Busy(String),
    #[error("the data is of another cluster: its system identifier is {found}, not {expected}")]
    OtherSystem { expected: u64, found: u64 },
    #[error(
        "it has failed {failures} times in a row, the last time: {error}; it is not tried again for {rests_ms} ms"
    )]
    Rests {
        failures: u32,
        error: String,
        rests_ms: u64,
        /// See [`Job::missing_wal`].
        #[serde(default)]
        missing_wal: bool,
    },
    /// It was tried, or could not be.
    #[error("{0}")]
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub server: String,
    /// Of the agent's software.
    pub version: String,
    pub highest_epoch: u64,
    /// Of the postmaster, if one runs in the data directory.
    pub pid: Option<u32>,
    /// It takes connections.
    pub ready: bool,
    /// None: there is no data to speak of, or `problem` says what is the matter with it.
    pub data: Option<Data>,
    pub problem: Option<String>,
    /// The one under way, or the last.
    pub job: Option<Job>,
}

/// What `pg_controldata` and the signal files say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    pub system_identifier: u64,
    pub timeline: u32,
    /// Of the last checkpoint or restart point.
    pub checkpoint: Lsn,
    /// As `pg_controldata` puts it: `in production`, `shut down`, …
    pub state: String,
    /// It is a standby, or would be one if it were started.
    pub standby: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub request: Rejoin,
    /// How it is being done, once that is decided.
    pub way: Option<Way>,
    /// Why so, in a sentence.
    #[serde(default)]
    pub because: String,
    pub phase: Phase,
    pub progress: Option<Progress>,
    /// None: it is under way.
    pub outcome: Option<Outcome>,
    /// How many in a row of the same request were in vain before it, and with it: they failed, or it was asked for again soon.
    #[serde(default)]
    pub failures: u32,
    /// It has failed since the primary no longer has the WAL that the server goes on from.
    #[serde(default)]
    pub missing_wal: bool,
    /// What the server had and the others lack.
    pub lost: Option<Lost>,
    /// Milliseconds since 1970.
    pub began_at_ms: u64,
    pub ended_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// What it has is a part of what the primary has: it only has to be told whom to follow.
    Follow,
    Rewind,
    Rebuild,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Looking,
    Stopping,
    /// What only this server has is counted and copied.
    Keeping,
    /// What was begun cannot be used until it is finished: from here to the end of it, only a rebuild is left.
    Rewinding,
    Copying,
    /// The new directory takes the old one's place.
    Swapping,
    Configuring,
    Starting,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub bytes_done: u64,
    pub bytes_total: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It takes connections and streams.
    Succeeded,
    Failed(String),
    /// A request of a higher epoch took its place.
    Superseded,
    /// The agent ended meanwhile. The same request begins it again.
    Interrupted,
}

/// From where its history left the primary's, as far as its WAL is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    pub timeline: u32,
    pub from: Lsn,
    /// Where the last record begins.
    pub to: Lsn,
    pub records: u64,
    pub commits: u64,
    /// Different tables and indexes.
    pub relations: u64,
    /// The first of them, as `pg_waldump` names them: tablespace/database/relfilenode.
    #[serde(default)]
    pub relation_files: Vec<String>,
    /// All of it was counted.
    pub complete: bool,
    /// Where the segments were copied, on the host. None: they were not, and the log says why.
    pub kept_in: Option<String>,
}

impl Lost {
    /// For the timeline. None: it had nothing of its own.
    pub fn sentence(&self) -> Option<String> {
        if self.records == 0 {
            return None;
        }
        let Lost { timeline, from, to, commits, relations, relation_files, complete, kept_in, .. } = self;
        let at_least = if *complete { "" } else { "at least " };
        let kept = match kept_in {
            Some(directory) => format!("its log is kept on its host in {directory}"),
            None => "its log could not be kept: its agent's log says why".to_owned(),
        };
        let files = match (relation_files.len() as u64, relation_files.join(" ")) {
            (0, _) => String::new(),
            (shown, files) if shown < *relations => format!(" ({files} …)"),
            (_, files) => format!(" ({files})"),
        };
        Some(format!(
            "it has what the others lack, on timeline {timeline} from {from} to {to}: {at_least}{commits} commits in \
             {relations} tables and indexes{files}; {kept}"
        ))
    }
}
