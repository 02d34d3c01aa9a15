//! Damage that no crash does: flipped bits, a cut-off file, an older part of it, a newer format.

use openraft::EntryPayload;
use openraft::storage::{RaftLogStorage, RaftStateMachine as _};

use super::disk::{Disk, Survivors};
use super::history::{Told, entry, open, run};
use crate::cluster::state::{Change, LOG_FORMAT};
use crate::consensus::store::StoreError;
use crate::consensus::types::Vote;

/// The file after the history, closed in order or after a power loss.
async fn file(closed: bool) -> (Vec<u8>, Told) {
    let disk = Disk::default();
    let mut opened = open(disk.clone()).unwrap();
    let (told, _, _) = run(&mut opened).await;
    assert_eq!(opened.store.trouble(), None);
    if closed {
        drop(opened);
        return (disk.bytes(), told);
    }
    let left = disk.after_power_loss(Survivors::None);
    (left, told)
}

/// A file that opens holds all; any other is refused in words.
async fn assert_all_or_refused(bytes: Vec<u8>, told: &Told, context: &str) -> bool {
    match open(Disk::holding(bytes)) {
        Ok(mut opened) => {
            assert_eq!(&opened.told().await, told, "{context}");
            true
        }
        Err(StoreError::Damaged(_) | StoreError::Newer { .. }) => false,
        Err(error) => panic!("{context}: {error:?}"),
    }
}

#[tokio::test]
async fn a_flipped_bit_is_refused_or_does_no_harm() {
    for closed in [true, false] {
        let (bytes, told) = file(closed).await;
        assert!(assert_all_or_refused(bytes.clone(), &told, "unharmed").await);
        let headers = (0..64).chain(4096..4160).chain(8192..8192 + 320);
        // Zeroes are free space, mostly; all the rest in steps that hit every page.
        let used = (8192 + 320..bytes.len()).filter(|&at| bytes[at] != 0).step_by(97);
        let mut refused = 0;
        for (turn, at) in headers.chain(used).enumerate() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (turn % 8);
            let context = format!("bit {} of byte {at}, closed: {closed}", turn % 8);
            refused += usize::from(!assert_all_or_refused(bytes, &told, &context).await);
        }
        assert!(refused > 10, "only {refused} were refused");
    }
}

#[tokio::test]
async fn a_file_that_was_cut_off_is_refused() {
    let (bytes, told) = file(true).await;
    for length in
        [1, 4095, 4096, 8191, 8192, 8193, 12_288, bytes.len() / 2, bytes.len() - 4096, bytes.len() - 1]
    {
        let cut = bytes[..length].to_vec();
        match length {
            // Nothing of the guard is left that says what was there: as good as empty, and an empty directory never votes.
            1 | 4095 => drop(open(Disk::holding(cut)).unwrap()),
            _ => assert!(!assert_all_or_refused(cut, &told, &format!("cut to {length}")).await),
        }
    }
}

#[tokio::test]
async fn an_older_database_behind_the_guard_is_refused() {
    let disk = Disk::default();
    let mut opened = open(disk.clone()).unwrap();
    opened.log.save_vote(&Vote::new(1, 7)).await.unwrap();
    let older = disk.bytes();
    opened.log.save_vote(&Vote::new(2, 8)).await.unwrap();
    let mut bytes = disk.bytes();
    assert_eq!(bytes.len(), older.len());
    bytes[8192..].copy_from_slice(&older[8192..]);
    let error = open(Disk::holding(bytes)).err().unwrap();
    assert_eq!(
        error.to_string(),
        "the raft store is damaged: 4 transactions were acknowledged, 3 are here; this node must be replaced"
    );
}

#[tokio::test]
async fn a_vote_never_goes_back() {
    let mut opened = open(Disk::default()).unwrap();
    opened.log.save_vote(&Vote::new(3, 7)).await.unwrap();
    for vote in [Vote::new(2, 9), Vote::new(3, 8)] {
        opened.log.save_vote(&vote).await.unwrap_err();
    }
    opened.log.save_vote(&Vote::new_committed(3, 7)).await.unwrap();
    opened.log.save_vote(&Vote::new(3, 7)).await.unwrap_err();
    assert_eq!(opened.log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 7)));
}

#[tokio::test]
async fn what_means_more_to_a_newer_version_is_not_applied() {
    let mut opened = open(Disk::default()).unwrap();
    opened.machine.apply([entry(1, 0)]).await.unwrap();
    let mut newer = entry(1, 1);
    if let EntryPayload::Normal(command) = &mut newer.payload {
        command.change = Change::RaiseLogFormat { from: 0, to: LOG_FORMAT + 1 };
    }
    let error = opened.machine.apply([newer]).await.unwrap_err();
    assert!(error.to_string().contains("a newer one wrote it"), "{error}");
    assert_eq!(opened.machine.watch().borrow().state.log_format(), 0);
}

#[test]
fn a_newer_format_is_refused_in_words() {
    // What a later version would write there.
    let bytes = crate::consensus::store::guard::with_format(2);
    let error = open(Disk::holding(bytes)).err().unwrap();
    assert_eq!(error, StoreError::Newer { found: 2, known: 1 });
    assert!(error.to_string().contains("upgrade"));
}
