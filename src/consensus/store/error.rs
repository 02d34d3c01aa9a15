//! What can go wrong with the store, and what helps.
//!
//! Invariant: nothing here is survived by going on. After any failed write the store accepts nothing more; the node
//! stops its raft and opens the store again, or waits for a person.

use std::io;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("no room left on the device of the raft directory, at: {operation}")]
    Full { operation: &'static str },
    #[error("the raft directory's disk failed at: {operation}: {message}")]
    Disk { operation: &'static str, message: String },
    #[error("the raft store is damaged: {0}; this node must be replaced")]
    Damaged(String),
    #[error(
        "the raft store is in format {found}, written by a newer komainu; this one reads up to {known}: upgrade it"
    )]
    Newer { found: u32, known: u32 },
    #[error(
        "the log has an entry that this komainu does not know ({0}): a newer one wrote it; run that version, or a later one"
    )]
    NewerEntry(String),
    #[error("the raft directory is in use by another process")]
    InUse,
    #[error("the raft store has failed before, or is closed: it must be opened again")]
    Closed,
    #[error("raft asked for what must never be: {0}")]
    Illegal(String),
    #[error("this directory belongs to {ours}, not to {theirs}")]
    OtherIdentity { ours: String, theirs: String },
}

impl StoreError {
    /// Whether opening the store again may help without a person: once there is room it does.
    ///
    /// A failed disk does not count. After a failed fsync the kernel forgets what it could not write, and reading it
    /// back proves nothing.
    pub fn opening_again_may_help(&self) -> bool {
        matches!(self, StoreError::Full { .. } | StoreError::Closed | StoreError::InUse)
    }

    pub fn io(operation: &'static str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { operation },
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                StoreError::Damaged(format!("{operation}: {error}"))
            }
            _ => StoreError::Disk { operation, message: error.to_string() },
        }
    }

    pub(super) fn redb(operation: &'static str, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(error) => Self::io(operation, &error),
            redb::Error::PreviousIo | redb::Error::LockPoisoned(_) | redb::Error::DatabaseClosed => {
                StoreError::Closed
            }
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse,
            error => StoreError::Damaged(format!("{operation}: {error}")),
        }
    }

    pub(super) fn unreadable(what: &str, error: &serde_json::Error) -> Self {
        StoreError::Damaged(format!("{what}: {error}"))
    }
}
