//! What is to be done to a server, as data.
//!
//! Pure. An action is named again and again until the facts show that it is done; whoever carries it out does it once at
//! a time. Invariant: each is idempotent, and each that could harm when it comes late says for which epoch it is.

use crate::topology::{Epoch, Lsn};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub server: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The standby's receiver ends, so that nothing of an ended epoch reaches it any more.
    StopReceiving,
    /// Makes the standby that was named for this epoch the primary.
    Promote { epoch: Epoch },
    /// The standby receives from that server from now on.
    Follow { primary: String },
    /// Replication slots that must be there, and those that must not.
    Slots { wanted: Vec<String>, unwanted: Vec<String> },
    /// Log before these positions is not kept for the users of these slots any more.
    AdvanceSlots { positions: Vec<(String, Lsn)> },
    /// The value of `synchronous_standby_names`.
    SetSynchronous { epoch: Epoch, names: String },
    /// By its agent: a clean shutdown of the primary whose epoch was ended.
    Stop { epoch: Epoch },
    /// By its agent: starts the server that is named for this epoch, which has ended.
    Start { epoch: Epoch },
    /// By its agent: makes it a standby of the primary of this epoch, rewound or rebuilt.
    Rejoin {
        epoch: Epoch,
        primary: String,
        timeline: u32,
        allow_rewind: bool,
        /// A standby that can be copied, to spare the primary.
        rebuild_from: Option<String>,
        /// The version of what was ordered of the server: another one begins anew what has failed.
        order: u64,
        /// Nobody counts on what it has: it may also be rebuilt for being far behind.
        may_rebuild: bool,
    },
    /// By its agent, unless it was started later than that by its own clock.
    Restart { epoch: Epoch, started_by_ms: u64 },
    /// By AWS: the host of a server whose epoch was ended.
    StopHost { epoch: Epoch },
    /// So that a clean shutdown has little left to write.
    Checkpoint { epoch: Epoch },
    /// A checkpoint behind which the primary's checkpointer has read whom commits wait for: it tells the others that they
    /// do.
    TellBackends { epoch: Epoch },
    /// A standby writes down on which timeline it is, which it otherwise does now and then.
    RestartPoint,
}

impl Action {
    pub(super) fn new(server: &str, what: What) -> Self {
        Action { server: server.to_owned(), what }
    }
}

impl What {
    pub fn is_checkpoint(&self) -> bool {
        matches!(self, What::Checkpoint { .. } | What::TellBackends { .. } | What::RestartPoint)
    }

    /// For people: what it was to do.
    pub fn in_words(&self) -> &'static str {
        match self {
            What::StopReceiving => "receiving could not be stopped",
            What::Promote { .. } => "it could not be promoted",
            What::Follow { .. } => "it could not be told to follow the primary",
            What::SetSynchronous { .. } => "synchronous_standby_names could not be set",
            What::Slots { .. } => "replication slots could not be kept",
            What::AdvanceSlots { .. } => "replication slots could not be moved",
            What::Stop { .. } => "it could not be stopped",
            What::Start { .. } => "it could not be started",
            What::Restart { .. } => "it could not be restarted",
            What::StopHost { .. } => "its host could not be stopped",
            What::Rejoin { .. } => "it could not rejoin",
            What::Checkpoint { .. } | What::TellBackends { .. } => "no checkpoint could be made",
            What::RestartPoint => "no restart point could be made",
        }
    }
}
