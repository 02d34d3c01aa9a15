//! The file: votes, log entries, the snapshot and the identity, each change one transaction.
//!
//! Blocking, and knows nothing of raft's rules but those whose breach would be damage: the log has no hole, a vote never
//! goes back. Invariant: what a method returned `Ok` for survives any crash, whole; what it failed for may or may not be
//! there, whole too; and after a failure nothing is written until the file is opened again.

use std::cmp::Ordering;
use std::ops::RangeBounds;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use redb::{
    Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use crate::consensus::types::{LogId, SnapshotMeta, Vote};

use super::guard::{Guard, LENGTH};
use super::identity::{Identity, Progress};
use super::{MAX_SNAPSHOT_BYTES, StoreError};

const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
/// By raft id: what this node remembers of the others.
const SEEN: TableDefinition<u64, &[u8]> = TableDefinition::new("seen");

const HARD: &str = "hard_state";
const IDENTITY: &str = "identity";
const SNAPSHOT: &str = "snapshot";
const SNAPSHOT_META: &str = "snapshot_meta";

/// The whole store is a few megabytes; redb would take a gigabyte.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Written with every transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HardState {
    /// Of the transaction; compared with the guard.
    pub number: u64,
    /// How often the store was opened.
    pub starts: u64,
    pub vote: Option<Vote>,
    /// As of some transaction ago: it is not worth one of its own. Raft learns the rest again.
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
}

/// An entry as it is kept.
pub type Row = (LogId, Vec<u8>);

#[derive(Debug)]
pub struct Database {
    redb: redb::Database,
    guard: Guard,
    hard: HardState,
    last: Option<LogId>,
    failed: bool,
}

impl Database {
    pub fn open(backend: Arc<dyn StorageBackend>) -> Result<Self, StoreError> {
        let mut guard = Guard::open(Arc::clone(&backend))?;
        if guard.sealed() == 0 {
            // Nothing was ever acknowledged, so half-made tables are no loss.
            backend.set_len(LENGTH).map_err(|error| StoreError::io("creating the file", &error))?;
        }
        // redb asserts its own structure in places where damage can reach.
        let opened = panic::catch_unwind(AssertUnwindSafe(|| check(&guard)));
        let (redb, hard, last) = opened.unwrap_or_else(|_| {
            Err(StoreError::Damaged("its structure is not what it must be".to_owned()))
        })?;
        if !(guard.sealed()..=guard.sealed() + 1).contains(&hard.number) {
            let text = format!("{} transactions were acknowledged, {} are here", guard.sealed(), hard.number);
            return Err(StoreError::Damaged(text));
        }
        // The crash came between commit and seal.
        guard.seal(hard.number)?;
        let mut database = Database { redb, guard, hard, last, failed: false };
        database.write("counting the start", |_, hard| {
            hard.starts += 1;
            Ok(())
        })?;
        Ok(database)
    }

    pub fn hard(&self) -> &HardState {
        &self.hard
    }

    /// The last entry, or the last that was purged if there is none.
    pub fn last(&self) -> Option<LogId> {
        self.last.or(self.hard.purged)
    }

    pub fn progress(&self) -> Progress {
        Progress { starts: self.hard.starts, vote: self.hard.vote, last: self.last() }
    }

    pub fn save_vote(&mut self, vote: Vote) -> Result<(), StoreError> {
        if self.hard.vote.is_some_and(|given| vote.partial_cmp(&given).is_none_or(Ordering::is_lt)) {
            let text = format!("a vote for {vote} after one for {}", self.hard.vote.unwrap_or_default());
            return Err(StoreError::Illegal(text));
        }
        self.write("saving the vote", |_, hard| {
            hard.vote = Some(vote);
            Ok(())
        })
    }

    /// Kept in memory and written with whatever is written next.
    pub fn note_committed(&mut self, committed: Option<LogId>) {
        self.hard.committed = committed;
    }

    pub fn append(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let Some(&(new_last, _)) = rows.last() else { return Ok(()) };
        // An empty log may begin below what was purged, as raft's own suite does, but never above.
        let above = |purged: LogId| rows[0].0.index > purged.index + 1;
        let mut hole = self.last.is_none() && self.hard.purged.is_some_and(above);
        let mut before = self.last;
        for (log_id, _) in rows {
            hole |= before.is_some_and(|before| before.index + 1 != log_id.index);
            before = Some(*log_id);
        }
        if hole {
            return Err(StoreError::Illegal(format!("a hole in the log before or in {new_last}")));
        }
        self.write("appending to the log", |txn, _| {
            let mut log = txn.open_table(LOG)?;
            for (log_id, bytes) in rows {
                log.insert(log_id.index, bytes.as_slice())?;
            }
            Ok(())
        })?;
        self.last = Some(new_last);
        Ok(())
    }

    /// Removes this entry and all after it.
    pub fn truncate(&mut self, from: u64) -> Result<(), StoreError> {
        self.write("truncating the log", |txn, _| {
            Ok(txn.open_table(LOG)?.retain_in(from.., |_, _| false)?)
        })?;
        self.read_last()
    }

    /// Removes this entry and all before it.
    pub fn purge(&mut self, upto: LogId) -> Result<(), StoreError> {
        self.write("purging the log", |txn, hard| {
            hard.purged = hard.purged.max(Some(upto));
            Ok(txn.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?)
        })?;
        self.read_last()
    }

    fn read_last(&mut self) -> Result<(), StoreError> {
        self.last = self
            .read("reading the end of the log", |txn| {
                let log = txn.open_table(LOG)?;
                let last = log.last()?;
                Ok(last.map(|(index, bytes)| log_id(index.value(), bytes.value())))
            })?
            .transpose()?;
        Ok(())
    }

    pub fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<Vec<u8>>, StoreError> {
        self.read("reading the log", |txn| {
            let log = txn.open_table(LOG)?;
            log.range::<u64>(range)?.map(|row| Ok(row?.1.value().to_vec())).collect()
        })
    }

    /// The snapshot that is there afterwards: never an older one than before.
    pub fn save_snapshot(&mut self, meta: &SnapshotMeta, state: &[u8]) -> Result<(), StoreError> {
        if state.len() > MAX_SNAPSHOT_BYTES {
            return Err(StoreError::Illegal(format!("a snapshot of {} bytes", state.len())));
        }
        let older = self.snapshot()?.is_some_and(|(kept, _)| kept.last_log_id > meta.last_log_id);
        if older {
            return Ok(());
        }
        let meta = to_bytes("the snapshot's head", meta)?;
        self.write("saving a snapshot", |txn, _| {
            let mut records = txn.open_table(RECORDS)?;
            records.insert(SNAPSHOT_META, meta.as_slice())?;
            records.insert(SNAPSHOT, state)?;
            Ok(())
        })
    }

    pub fn snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
        let (Some(meta), Some(state)) = (self.record(SNAPSHOT_META)?, self.record(SNAPSHOT)?) else {
            return Ok(None);
        };
        let meta =
            serde_json::from_slice(&meta).map_err(|e| StoreError::unreadable("the snapshot's head", &e))?;
        Ok(Some((meta, state)))
    }

    pub fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
        let identity = self.record(IDENTITY)?.map(read).transpose();
        identity.map_err(|error| StoreError::unreadable("the identity", &error))
    }

    /// Written once in the life of a directory.
    pub fn adopt(&mut self, identity: &Identity) -> Result<(), StoreError> {
        match self.identity()? {
            Some(ours) if ours == *identity => Ok(()),
            Some(ours) => {
                let name =
                    |is: &Identity| format!("{} {} of cluster {}", is.node, is.incarnation, is.cluster_id);
                Err(StoreError::OtherIdentity { ours: name(&ours), theirs: name(identity) })
            }
            None => {
                let bytes = to_bytes("the identity", identity)?;
                self.write("saving the identity", |txn, _| {
                    txn.open_table(RECORDS)?.insert(IDENTITY, bytes.as_slice())?;
                    Ok(())
                })
            }
        }
    }

    /// What is remembered of the node with this raft id.
    pub fn seen(&self, raft_id: u64) -> Result<Option<Progress>, StoreError> {
        let bytes = self.read("reading what was seen of a node", |txn| {
            let seen = txn.open_table(SEEN)?;
            Ok(seen.get(raft_id)?.map(|bytes| bytes.value().to_vec()))
        })?;
        let progress = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        progress.map_err(|error| StoreError::unreadable("what was seen of a node", &error))
    }

    pub fn note_seen(&mut self, raft_id: u64, progress: &Progress) -> Result<(), StoreError> {
        let before = self.seen(raft_id)?;
        let mut merged = before.unwrap_or_default();
        merged.merge(progress);
        if before == Some(merged) {
            return Ok(());
        }
        let bytes = to_bytes("what was seen of a node", &merged)?;
        self.write("noting what was seen of a node", |txn, _| {
            txn.open_table(SEEN)?.insert(raft_id, bytes.as_slice())?;
            Ok(())
        })
    }

    fn record(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read("reading a record", |txn| {
            let records = txn.open_table(RECORDS)?;
            Ok(records.get(name)?.map(|bytes| bytes.value().to_vec()))
        })
    }

    fn read<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let failed = |error| StoreError::redb(operation, error);
        let txn = self.redb.begin_read().map_err(|error| failed(error.into()))?;
        read(&txn).map_err(failed)
    }

    /// One transaction: what `change` does and the hard state, durable and sealed when this returns.
    fn write(
        &mut self,
        operation: &'static str,
        change: impl FnOnce(&WriteTransaction, &mut HardState) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Closed);
        }
        // Taken back only if all went well.
        self.failed = true;
        let mut hard = self.hard.clone();
        hard.number += 1;
        commit(&self.redb, &mut hard, change).map_err(|error| StoreError::redb(operation, error))?;
        self.guard.seal(hard.number)?;
        self.hard = hard;
        self.failed = false;
        Ok(())
    }
}

fn commit(
    redb: &redb::Database,
    hard: &mut HardState,
    change: impl FnOnce(&WriteTransaction, &mut HardState) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let mut txn = redb.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    change(&txn, hard)?;
    let bytes = serde_json::to_vec(hard).map_err(|error| redb::Error::Io(error.into()))?;
    txn.open_table(RECORDS)?.insert(HARD, bytes.as_slice())?;
    txn.commit()?;
    Ok(())
}

/// Opens redb and reads everything once: each page against its checksum, each entry against its place.
fn check(guard: &Guard) -> Result<(redb::Database, HardState, Option<LogId>), StoreError> {
    let failed = |error: redb::Error| StoreError::redb("opening the store", error);
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    let mut redb = builder.create_with_backend(guard.guarded()).map_err(|error| failed(error.into()))?;
    if guard.sealed() == 0 {
        let mut hard = HardState::default();
        commit(&redb, &mut hard, |txn, hard| {
            hard.number = 1;
            txn.open_table(LOG)?;
            txn.open_table(SEEN)?;
            Ok(())
        })
        .map_err(failed)?;
        return Ok((redb, hard, None));
    }
    // Where it repairs, it goes back, and then the numbers differ.
    redb.check_integrity().map_err(|error| failed(error.into()))?;
    let txn = redb.begin_read().map_err(|error| failed(error.into()))?;
    let missing = |error: TableError| StoreError::Damaged(format!("a table is missing: {error}"));
    let records = txn.open_table(RECORDS).map_err(missing)?;
    let hard = records.get(HARD).map_err(|error| failed(error.into()))?;
    let hard = hard.ok_or_else(|| StoreError::Damaged("the hard state is missing".to_owned()))?;
    let hard: HardState =
        serde_json::from_slice(hard.value()).map_err(|e| StoreError::unreadable("the hard state", &e))?;
    txn.open_table(SEEN).map_err(missing)?;
    let log = txn.open_table(LOG).map_err(missing)?;
    let mut last: Option<LogId> = None;
    for row in log.iter().map_err(|error| failed(error.into()))? {
        let (index, bytes) = row.map_err(|error| failed(error.into()))?;
        let entry = log_id(index.value(), bytes.value())?;
        if last.or(hard.purged).is_some_and(|before| before.index + 1 != entry.index) {
            return Err(StoreError::Damaged(format!("a hole in the log before entry {}", entry.index)));
        }
        last = Some(entry);
    }
    drop((records, log, txn));
    Ok((redb, hard, last))
}

fn log_id(index: u64, bytes: &[u8]) -> Result<LogId, StoreError> {
    #[derive(Deserialize)]
    struct Placed {
        log_id: LogId,
    }
    let Placed { log_id } = serde_json::from_slice(bytes)
        .map_err(|error| StoreError::unreadable(&format!("entry {index} of the log"), &error))?;
    match log_id.index == index {
        true => Ok(log_id),
        false => Err(StoreError::Damaged(format!("entry {log_id} is where entry {index} should be"))),
    }
}

fn to_bytes<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value)
        .map_err(|error| StoreError::Illegal(format!("{what} that cannot be written: {error}")))
}
