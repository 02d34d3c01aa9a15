//! The log and the vote, as openraft wants them.
//!
//! Invariant: openraft hears that something is written when it is on the disk, and not before.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, Entry, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, StorageIOError,
};

use crate::consensus::types::{LogId, NodeTypes, StorageError, Vote};

use super::StoreError;
use super::database::Row;
use super::worker::Worker;

#[derive(Debug)]
pub struct LogStore<C> {
    worker: Worker,
    types: PhantomData<fn() -> C>,
}

impl<C> LogStore<C> {
    pub(super) fn new(worker: Worker) -> Self {
        LogStore { worker, types: PhantomData }
    }
}

impl<C> Clone for LogStore<C> {
    fn clone(&self) -> Self {
        Self::new(self.worker.clone())
    }
}

pub(super) fn failed(subject: ErrorSubject<u64>, verb: ErrorVerb) -> impl FnOnce(StoreError) -> StorageError {
    move |error| StorageIOError::new(subject, verb, AnyError::new(&error)).into()
}

impl<C: NodeTypes> RaftLogReader<C> for LogStore<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<C>>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(range) {
            return Ok(Vec::new());
        }
        let rows = self.worker.run(move |database| database.entries(range)).await;
        let rows = rows.map_err(failed(ErrorSubject::Logs, ErrorVerb::Read))?;
        let entries: Result<_, _> = rows.iter().map(|row| read(row)).collect();
        entries.map_err(failed(ErrorSubject::Logs, ErrorVerb::Read))
    }
}

/// A newer version wrote what this one does not know. To skip it would be to disagree with the others.
fn read<C: NodeTypes>(row: &[u8]) -> Result<Entry<C>, StoreError> {
    serde_json::from_slice(row).map_err(|error| match error.is_data() {
        true => StoreError::NewerEntry(error.to_string()),
        false => StoreError::unreadable("an entry of the log", &error),
    })
}

/// redb takes a range that ends before it begins for a mistake.
fn is_empty((start, end): (Bound<u64>, Bound<u64>)) -> bool {
    let first = match start {
        Bound::Included(first) => first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match end {
        Bound::Included(last) => last < first,
        Bound::Excluded(end) => end <= first,
        Bound::Unbounded => false,
    }
}

impl<C: NodeTypes> RaftLogStorage<C> for LogStore<C> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, StorageError> {
        let read = self.worker.run(|database| Ok((database.hard().purged, database.last()))).await;
        let (last_purged_log_id, last_log_id) = read.map_err(failed(ErrorSubject::Logs, ErrorVerb::Read))?;
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.worker.run(move |database| database.save_vote(vote)).await;
        saved.map_err(failed(ErrorSubject::Vote, ErrorVerb::Write))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let read = self.worker.run(|database| Ok(database.hard().vote)).await;
        read.map_err(failed(ErrorSubject::Vote, ErrorVerb::Read))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let noted = self.worker.run(move |database| {
            database.note_committed(committed);
            Ok(())
        });
        noted.await.map_err(failed(ErrorSubject::Store, ErrorVerb::Write))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let read = self.worker.run(|database| Ok(database.hard().committed)).await;
        read.map_err(failed(ErrorSubject::Store, ErrorVerb::Read))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry<C>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let write = |entry: Entry<C>| serde_json::to_vec(&entry).map(|bytes| (entry.log_id, bytes));
        let rows: Result<Vec<Row>, _> = entries.into_iter().map(write).collect();
        let rows = rows
            .map_err(|error| StoreError::Illegal(format!("an entry that cannot be written: {error}")))
            .map_err(failed(ErrorSubject::Logs, ErrorVerb::Write))?;
        let appended = self.worker.run(move |database| database.append(&rows)).await;
        appended.map_err(failed(ErrorSubject::Logs, ErrorVerb::Write))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let truncated = self.worker.run(move |database| database.truncate(log_id.index)).await;
        truncated.map_err(failed(ErrorSubject::Logs, ErrorVerb::Delete))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let purged = self.worker.run(move |database| database.purge(log_id)).await;
        purged.map_err(failed(ErrorSubject::Logs, ErrorVerb::Delete))
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::cluster::state::{Change, Command};
    use crate::consensus::types::TypeConfig;

    #[test]
    fn what_a_newer_version_wrote_is_told_from_damage() {
        let (node, cause, reason) = ("a".to_owned(), "test".to_owned(), "test".to_owned());
        let change = Change::ForgetServer { server: "pg1".to_owned() };
        let command = Command { at_ms: 1, node, cause, reason, change };
        let entry: Entry<TypeConfig> =
            Entry { log_id: LogId::default(), payload: EntryPayload::Normal(command) };
        let row = serde_json::to_string(&entry).unwrap();
        assert_eq!(read::<TypeConfig>(row.as_bytes()).unwrap(), entry);
        let error = |row: &str| read::<TypeConfig>(row.as_bytes()).unwrap_err();
        let newer = error(&row.replace("forget_server", "of_tomorrow"));
        assert!(matches!(newer, StoreError::NewerEntry(_)), "{newer}");
        assert!(newer.to_string().contains("of_tomorrow") && newer.to_string().contains("run that version"));
        assert!(matches!(error(&row[..row.len() - 1]), StoreError::Damaged(_)));
    }
}
