//! openraft's suite for stores, on a file with the store's own thread and in memory in place.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use redb::backends::InMemoryBackend;
use tempfile::TempDir;

use crate::consensus::store::{LogStore, StateMachine, Store};
use crate::consensus::types::{StorageError, TypeConfig};

type Log = LogStore<TypeConfig>;
type Machine = StateMachine<TypeConfig>;

struct OnFile;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for OnFile {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let (_, log, machine) = Store::open(&directory.path().join("raft")).unwrap();
        Ok((directory, log, machine))
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, Log, Machine> for InMemory {
    async fn build(&self) -> Result<((), Log, Machine), StorageError> {
        let (_, log, machine) = Store::open_on(Arc::new(InMemoryBackend::new())).unwrap();
        Ok(((), log, machine))
    }
}

#[test]
fn the_store_on_a_file_is_one() {
    Suite::test_all(OnFile).unwrap();
}

#[test]
fn the_store_in_memory_is_one() {
    Suite::test_all(InMemory).unwrap();
}
