//! What a node must not forget: its vote, its log, the last snapshot, and who it is.
//!
//! One file, `raft.redb`, in a directory of its own. Owns its format and everything that is known about damage to it;
//! never decides what is written. `docs/consensus.md` says what is in it. Invariant: what raft was told is written is
//! there after any crash, and a file of which that is not true is refused when it is opened.

mod database;
mod error;
mod guard;
pub mod identity;
mod log;
mod machine;
#[cfg(test)]
mod tests;
mod worker;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use redb::StorageBackend;
use redb::backends::FileBackend;

pub use error::StoreError;
pub use guard::FORMAT;
use identity::{Identity, Progress};
pub use log::LogStore;
pub use machine::{Applied, SnapshotBuilder, StateMachine};

use database::Database;
use worker::Worker;

const FILE: &str = "raft.redb";
const LOCK: &str = "lock";
/// Everything in a `ClusterState` has a bound of its own; this is above their sum, written as JSON.
pub const MAX_SNAPSHOT_BYTES: usize = 32 * 1024 * 1024;

/// An open store. Raft gets the log and the machine; this stays with the node.
#[derive(Debug)]
pub struct Store {
    worker: Worker,
}

impl Store {
    /// Opens the store in a directory, or makes one. The work is done on a thread of the store's own; this itself blocks.
    pub fn open<C>(directory: &Path) -> Result<(Store, LogStore<C>, StateMachine<C>), StoreError> {
        let database = Database::open(Arc::new(LockedFile::open(directory)?))?;
        Self::build(database, Worker::thread)
    }

    /// On any storage, and in place: for simulations and tests.
    pub fn open_on<C>(
        backend: Arc<dyn StorageBackend>,
    ) -> Result<(Store, LogStore<C>, StateMachine<C>), StoreError> {
        Self::build(Database::open(backend)?, |database| Ok(Worker::here(database)))
    }

    fn build<C>(
        database: Database,
        place: impl FnOnce(Database) -> Result<Worker, StoreError>,
    ) -> Result<(Store, LogStore<C>, StateMachine<C>), StoreError> {
        let applied = match database.snapshot()? {
            Some((meta, bytes)) => Applied::from_snapshot(&meta, &bytes)?,
            None => Applied::default(),
        };
        let worker = place(database)?;
        let log = LogStore::new(worker.clone());
        let machine = StateMachine::new(worker.clone(), applied);
        Ok((Store { worker }, log, machine))
    }

    /// None: the directory was empty, and has not been given an identity since.
    pub async fn identity(&self) -> Result<Option<Identity>, StoreError> {
        self.worker.run(|database| database.identity()).await
    }

    /// Makes the directory that of this node; it never becomes another's.
    pub async fn adopt(&self, identity: Identity) -> Result<(), StoreError> {
        self.worker.run(move |database| database.adopt(&identity)).await
    }

    /// What this node has promised so far; for `Standing::judge`, and to be told to the others.
    pub async fn progress(&self) -> Result<Progress, StoreError> {
        self.worker.run(|database| Ok(database.progress())).await
    }

    /// What this node remembers of another.
    pub async fn seen(&self, raft_id: u64) -> Result<Option<Progress>, StoreError> {
        self.worker.run(move |database| database.seen(raft_id)).await
    }

    /// Remembers what another node said or did. To be called before its vote or acknowledgement is counted for the first
    /// time in a start of it, and now and then.
    pub async fn note_seen(&self, raft_id: u64, progress: Progress) -> Result<(), StoreError> {
        self.worker.run(move |database| database.note_seen(raft_id, &progress)).await
    }

    /// The first error there was since it was opened. Raft stops on any and keeps only its text.
    pub fn trouble(&self) -> Option<StoreError> {
        self.worker.trouble()
    }

    /// Closes the file, whoever still holds the log or the machine: then the store can be opened again.
    pub async fn close(&self) {
        self.worker.close().await;
    }
}

/// Whether there is anything to discard.
pub fn exists(directory: &Path) -> bool {
    directory.join(FILE).exists()
}

/// Removes everything a node has promised. The lock stays: whoever waits for it waits for this very file.
pub fn discard(directory: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("discarding the raft store", &error);
    let _lock = lock(directory)?;
    fs::remove_file(directory.join(FILE)).map_err(failed)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn open_in(directory: &Path, name: &str) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let failed = |error| StoreError::io("opening the raft directory", &error);
    options.open(directory.join(name)).map_err(failed)
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let lock = open_in(directory, LOCK)?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::InUse,
        TryLockError::Error(error) => StoreError::io("opening the raft directory", &error),
    })?;
    Ok(lock)
}

/// The file of a directory that nobody else has open.
#[derive(Debug)]
struct LockedFile {
    file: FileBackend,
    _lock: File,
}

impl LockedFile {
    fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::io("opening the raft directory", &error);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = lock(directory)?;
        let file = open_in(directory, FILE)?;
        // The names must last as long as what is written under them.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
        if let Some(parent) = fs::canonicalize(directory).map_err(failed)?.parent() {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
        }
        let file = FileBackend::new(file)
            .map_err(|error| StoreError::redb("opening the raft directory", redb::Error::from(error)))?;
        Ok(LockedFile { file, _lock: lock })
    }
}

impl StorageBackend for LockedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
