//! The replicated state as openraft drives it, and its snapshots.
//!
//! The state lives in memory and is published whole to whoever watches. What is on the disk is the last snapshot; a node
//! that starts applies the entries after it again, which is why `apply` is pure. Invariant: whoever sees a state sees
//! exactly the log up to `last_applied`.

use std::io::Cursor;
use std::marker::PhantomData;
use std::sync::Arc;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{Entry, EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::cluster::state::{ClusterState, LOG_FORMAT, NEWEST, Outcome, ReadError};
use crate::consensus::types::{LogId, Membership, NodeTypes, SnapshotMeta, StorageError};

use super::log::failed;
use super::worker::Worker;
use super::{MAX_SNAPSHOT_BYTES, StoreError};

/// The state and the entry it is the state of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    pub last_applied: Option<LogId>,
    pub membership: Membership,
    pub state: ClusterState,
}

impl Applied {
    pub(super) fn from_snapshot(meta: &SnapshotMeta, bytes: &[u8]) -> Result<Self, StoreError> {
        if bytes.len() > MAX_SNAPSHOT_BYTES {
            return Err(StoreError::Illegal(format!("a snapshot of {} bytes", bytes.len())));
        }
        let state = ClusterState::from_bytes(bytes).map_err(|error| match error {
            ReadError::Newer { found } => StoreError::Newer { found, known: NEWEST },
            error => StoreError::Damaged(format!("the snapshot {}: {error}", meta.snapshot_id)),
        })?;
        Ok(Applied { last_applied: meta.last_log_id, membership: meta.last_membership.clone(), state })
    }

    fn apply<C: NodeTypes>(&mut self, entry: Entry<C>) -> Result<Outcome, StoreError> {
        let outcome = match entry.payload {
            EntryPayload::Blank => Outcome::Nothing,
            // What it says can be read, and what it means be other than this version thinks.
            EntryPayload::Normal(command) if command.change.log_format() > LOG_FORMAT => {
                let found = command.change.log_format();
                return Err(StoreError::NewerEntry(format!(
                    "log format {found}, up to {LOG_FORMAT} is known"
                )));
            }
            EntryPayload::Normal(command) => self.state.apply(command),
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
                Outcome::Nothing
            }
        };
        self.last_applied = Some(entry.log_id);
        Ok(outcome)
    }
}

#[derive(Debug)]
pub struct StateMachine<C> {
    worker: Worker,
    applied: watch::Sender<Arc<Applied>>,
    types: PhantomData<fn() -> C>,
}

impl<C> StateMachine<C> {
    pub(super) fn new(worker: Worker, applied: Applied) -> Self {
        StateMachine { worker, applied: watch::Sender::new(Arc::new(applied)), types: PhantomData }
    }

    /// The latest state, now and whenever it changes. To be called before raft takes the machine.
    pub fn watch(&self) -> watch::Receiver<Arc<Applied>> {
        self.applied.subscribe()
    }
}

impl<C: NodeTypes> RaftStateMachine<C> for StateMachine<C> {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let applied = self.applied.borrow();
        Ok((applied.last_applied, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry<C>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry<C>> = entries.into_iter().collect();
        let mut applied = Arc::clone(&self.applied.borrow());
        let changing = Arc::make_mut(&mut applied);
        let outcomes: Result<_, _> = entries.into_iter().map(|entry| changing.apply(entry)).collect();
        let outcomes = outcomes.map_err(failed(ErrorSubject::StateMachine, ErrorVerb::Write))?;
        self.applied.send_replace(applied);
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { worker: self.worker.clone(), applied: Arc::clone(&self.applied.borrow()) }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let failed = || failed(ErrorSubject::Snapshot(Some(meta.signature())), ErrorVerb::Write);
        let bytes = snapshot.into_inner();
        let applied = Applied::from_snapshot(meta, &bytes).map_err(failed())?;
        let saved = {
            let meta = meta.clone();
            self.worker.run(move |database| database.save_snapshot(&meta, &bytes)).await
        };
        saved.map_err(failed())?;
        self.applied.send_replace(Arc::new(applied));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<C>>, StorageError> {
        let kept = self.worker.run(|database| database.snapshot()).await;
        let kept = kept.map_err(failed(ErrorSubject::Snapshot(None), ErrorVerb::Read))?;
        Ok(kept.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

/// Holds the state of one moment; the machine goes on meanwhile.
#[derive(Debug)]
pub struct SnapshotBuilder {
    worker: Worker,
    applied: Arc<Applied>,
}

impl<C: NodeTypes> RaftSnapshotBuilder<C> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<C>, StorageError> {
        let failed = || failed(ErrorSubject::Snapshot(None), ErrorVerb::Write);
        let applied = Arc::clone(&self.applied);
        let (term, index) = applied.last_applied.map_or((0, 0), |last| (last.leader_id.term, last.index));
        let meta = SnapshotMeta {
            last_log_id: applied.last_applied,
            last_membership: applied.membership.clone(),
            snapshot_id: format!("{term}-{index}"),
        };
        let written = meta.clone();
        let bytes = self
            .worker
            .run(move |database| {
                let bytes = applied.state.to_bytes();
                let bytes = bytes.map_err(|error| StoreError::unreadable("the state", &error))?;
                database.save_snapshot(&written, &bytes)?;
                Ok(bytes)
            })
            .await
            .map_err(failed())?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}
