//! A history that uses all of the store, through openraft's traits, and what must be left of it wherever it stops.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{CommittedLeaderId, Entry, EntryPayload, RaftLogReader, RaftSnapshotBuilder, StorageHelper};
use redb::StorageBackend;

use crate::cluster::state::{Change, ClusterState, Command, Member};
use crate::consensus::store::identity::{Identity, Progress};
use crate::consensus::store::{LogStore, StateMachine, Store, StoreError};
use crate::consensus::types::{LogId, TypeConfig, Vote};

/// What the store was told, as far as it acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    pub vote: Option<Vote>,
    pub entries: BTreeMap<u64, Vec<u8>>,
    pub purged: Option<LogId>,
    pub snapshot: Option<LogId>,
    pub identity: Option<Identity>,
    pub seen: Option<Progress>,
}

#[derive(Debug, Clone)]
pub enum Step {
    Adopt,
    Vote(u64),
    Append { term: u64, indexes: std::ops::Range<u64> },
    Commit { term: u64, index: u64 },
    Apply { indexes: std::ops::Range<u64> },
    Truncate { term: u64, index: u64 },
    Snapshot,
    Purge { term: u64, index: u64 },
    See,
}

pub fn history() -> Vec<Step> {
    vec![
        Step::Adopt,
        Step::Vote(1),
        Step::Append { term: 1, indexes: 0..1 },
        Step::Append { term: 1, indexes: 1..40 },
        Step::Commit { term: 1, index: 20 },
        Step::Apply { indexes: 0..21 },
        Step::See,
        Step::Vote(2),
        Step::Truncate { term: 1, index: 30 },
        Step::Append { term: 2, indexes: 30..35 },
        Step::Snapshot,
        Step::Purge { term: 1, index: 15 },
        Step::Vote(5),
        Step::Append { term: 5, indexes: 35..36 },
        Step::Commit { term: 5, index: 35 },
    ]
}

pub fn identity() -> Identity {
    Identity { cluster_id: "x".to_owned(), node: "a".to_owned(), raft_id: 1, incarnation: 1 }
}

pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 0), index)
}

pub fn entry(term: u64, index: u64) -> Entry<TypeConfig> {
    let change = match index {
        0 => {
            let (cluster_id, configuration) = ("x".to_owned(), String::new());
            Change::CreateCluster { cluster_id, members: vec![Member::voter("a", 1)], configuration }
        }
        _ => Change::NoteIncident { subject: format!("{term}"), text: "x".repeat(100) },
    };
    let (node, cause, reason) = ("a".to_owned(), "test".to_owned(), "test".to_owned());
    let command = Command { at_ms: index, node, cause, reason, change };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(command) }
}

pub struct Opened {
    pub store: Store,
    pub log: LogStore<TypeConfig>,
    pub machine: StateMachine<TypeConfig>,
}

pub fn open(backend: impl StorageBackend) -> Result<Opened, StoreError> {
    let (store, log, machine) = Store::open_on(Arc::new(backend))?;
    Ok(Opened { store, log, machine })
}

impl Opened {
    /// False: the store failed.
    pub async fn take(&mut self, step: &Step) -> bool {
        match step.clone() {
            Step::Adopt => self.store.adopt(identity()).await.is_ok(),
            Step::Vote(term) => self.log.save_vote(&Vote::new(term, 7)).await.is_ok(),
            Step::Append { term, indexes } => {
                let entries: Vec<_> = indexes.map(|index| entry(term, index)).collect();
                self.log.blocking_append(entries).await.is_ok()
            }
            Step::Commit { term, index } => self.log.save_committed(Some(log_id(term, index))).await.is_ok(),
            Step::Apply { indexes } => match self.log.try_get_log_entries(indexes).await {
                Ok(entries) => self.machine.apply(entries).await.is_ok(),
                Err(_) => false,
            },
            Step::Truncate { term, index } => self.log.truncate(log_id(term, index)).await.is_ok(),
            Step::Snapshot => {
                let mut builder = self.machine.get_snapshot_builder().await;
                RaftSnapshotBuilder::<TypeConfig>::build_snapshot(&mut builder).await.is_ok()
            }
            Step::Purge { term, index } => self.log.purge(log_id(term, index)).await.is_ok(),
            Step::See => self.store.note_seen(2, seen()).await.is_ok(),
        }
    }

    pub async fn told(&mut self) -> Told {
        let entries = self.log.try_get_log_entries(..).await.unwrap();
        let row = |entry: Entry<TypeConfig>| (entry.log_id.index, serde_json::to_vec(&entry).unwrap());
        let snapshot = self.machine.get_current_snapshot().await.unwrap();
        Told {
            vote: self.log.read_vote().await.unwrap(),
            entries: entries.into_iter().map(row).collect(),
            purged: self.log.get_log_state().await.unwrap().last_purged_log_id,
            snapshot: snapshot.and_then(|snapshot| snapshot.meta.last_log_id),
            identity: self.store.identity().await.unwrap(),
            seen: self.store.seen(2).await.unwrap(),
        }
    }

    /// Starts as raft does, and compares the state with one that applied the log from the beginning.
    pub async fn assert_state_is_right(mut self, committed: Option<u64>) {
        let read = self.log.read_committed().await.unwrap();
        assert!(read.map(|read| read.index) <= committed, "{read:?} was committed, not {committed:?}");
        StorageHelper::new(&mut self.log, &mut self.machine).get_initial_state().await.unwrap();
        let applied = self.machine.watch().borrow().clone();
        let snapshot = self.machine.get_current_snapshot().await.unwrap().and_then(|s| s.meta.last_log_id);
        assert_eq!(applied.last_applied, snapshot.max(read));
        let mut expected = ClusterState::default();
        for index in 0..applied.last_applied.map_or(0, |last| last.index + 1) {
            let term = if index >= 35 {
                5
            } else if index >= 30 {
                2
            } else {
                1
            };
            let EntryPayload::Normal(command) = entry(term, index).payload else { unreachable!() };
            expected.apply(command);
        }
        assert_eq!(applied.state, expected);
    }
}

fn seen() -> Progress {
    Progress { starts: 3, vote: Some(Vote::new(1, 7)), last: Some(log_id(1, 9)) }
}

impl Told {
    pub fn after(&self, step: &Step) -> Told {
        let mut told = self.clone();
        match step.clone() {
            Step::Adopt => told.identity = Some(identity()),
            Step::Vote(term) => told.vote = Some(Vote::new(term, 7)),
            Step::Append { term, indexes } => {
                let row = |index| (index, serde_json::to_vec(&entry(term, index)).unwrap());
                told.entries.extend(indexes.map(row));
            }
            Step::Truncate { index, .. } => told.entries.retain(|&at, _| at < index),
            Step::Snapshot => told.snapshot = Some(log_id(1, 20)),
            Step::Purge { term, index } => {
                told.entries.retain(|&at, _| at > index);
                told.purged = Some(log_id(term, index));
            }
            Step::See => told.seen = Some(seen()),
            Step::Commit { .. } | Step::Apply { .. } => {}
        }
        told
    }
}

/// Runs the history until the disk stops it. What was acknowledged; what may be there besides, whole; what was committed.
pub async fn run(opened: &mut Opened) -> (Told, Told, Option<u64>) {
    let mut told = Told::default();
    let mut committed = None;
    for step in history() {
        if let Step::Commit { index, .. } = step {
            committed = Some(index);
        }
        let after = told.after(&step);
        if !opened.take(&step).await {
            return (told, after, committed);
        }
        told = after;
    }
    (told.clone(), told, committed)
}
