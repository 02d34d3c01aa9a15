//! A disk that is full, or fails.

use super::disk::{Disk, Fault};
use super::history::{Told, history, identity, open, run};
use crate::consensus::store::identity::Progress;
use crate::consensus::store::{Store, StoreError};
use crate::consensus::types::TypeConfig;

#[tokio::test]
async fn a_full_disk_is_a_clear_error_and_once_there_is_room_it_goes_on() {
    let disk = Disk::default();
    run(&mut open(disk.clone()).unwrap()).await;
    for at in 0..disk.operations() {
        let disk = Disk::default();
        disk.set_fault(Some(Fault::Full { at }));
        let (before, after) = match open(disk.clone()) {
            Ok(mut opened) => {
                let (before, after, _) = run(&mut opened).await;
                if before != after {
                    let trouble = opened.store.trouble().unwrap();
                    assert!(matches!(trouble, StoreError::Full { .. }), "operation {at}: {trouble:?}");
                    assert!(trouble.opening_again_may_help());
                    // It does not go on as if nothing had been.
                    let seen = Progress { starts: 1, ..Progress::default() };
                    assert_eq!(opened.store.note_seen(9, seen).await, Err(StoreError::Closed));
                }
                (before, after)
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "operation {at}: {error:?}");
                (Told::default(), Told::default())
            }
        };
        // Still full: it cannot even start.
        disk.set_fault(Some(Fault::Full { at: 0 }));
        let error = open(disk.clone()).err().unwrap();
        assert!(matches!(error, StoreError::Full { .. }), "operation {at}: {error:?}");
        disk.set_fault(None);
        let mut again = open(disk).unwrap();
        let told = again.told().await;
        assert!(told == before || told == after, "full at operation {at}: {told:?}\n{before:?}");
        // And the rest of the history goes through.
        let mut told = Told::default();
        let mut rest = history().into_iter();
        for step in rest.by_ref() {
            told = told.after(&step);
            if told == after {
                break;
            }
        }
        if before != after && again.told().await == after {
            for step in rest {
                assert!(again.take(&step).await, "full at operation {at}, then {step:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_failed_sync_is_no_acknowledgement_and_nothing_a_restart_mends() {
    let disk = Disk::default();
    run(&mut open(disk.clone()).unwrap()).await;
    for at in 0..disk.operations() {
        let disk = Disk::default();
        disk.set_fault(Some(Fault::SyncFails { at }));
        let error = match open(disk.clone()) {
            Ok(mut opened) => {
                let (before, after, _) = run(&mut opened).await;
                if before == after {
                    continue;
                }
                opened.store.trouble().unwrap()
            }
            Err(error) => error,
        };
        assert!(matches!(error, StoreError::Disk { .. }), "operation {at}: {error:?}");
        assert!(!error.opening_again_may_help());
    }
}

#[tokio::test]
async fn a_directory_is_opened_once_and_again_when_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep").join("raft");
    let (store, _log, _machine) = Store::open::<TypeConfig>(&path).unwrap();
    assert_eq!(Store::open::<TypeConfig>(&path).err(), Some(StoreError::InUse));
    store.adopt(identity()).await.unwrap();
    // Raft may still hold the log and the machine.
    store.close().await;
    let (store, _, _) = Store::open::<TypeConfig>(&path).unwrap();
    assert_eq!(store.identity().await, Ok(Some(identity())));
    let mut other = identity();
    other.incarnation = 2;
    assert!(matches!(store.adopt(other).await, Err(StoreError::OtherIdentity { .. })));
}
