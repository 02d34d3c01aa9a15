//! Power lost at every single write and sync.

use super::disk::{Disk, Fault, Survivors};
use super::history::{Told, open, run};

const SURVIVORS: [Survivors; 6] = [
    Survivors::None,
    Survivors::All,
    Survivors::AllButTorn,
    Survivors::Some(1),
    Survivors::Some(2),
    Survivors::Some(3),
];

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_loss_at_any_write() {
    let disk = Disk::default();
    let mut opened = open(disk.clone()).unwrap();
    run(&mut opened).await;
    assert_eq!(opened.store.trouble(), None);
    drop(opened);
    let operations = disk.operations();
    assert!(operations > 100, "only {operations} operations");

    let mut unacknowledged = 0;
    for at in 0..operations {
        for survivors in SURVIVORS {
            let disk = Disk::default();
            disk.set_fault(Some(Fault::PowerLost { at, survivors }));
            let (before, after, committed) = match open(disk.clone()) {
                Ok(mut opened) => run(&mut opened).await,
                Err(_) => (Told::default(), Told::default(), None),
            };
            let left = disk.after_power_loss(survivors);
            let context = format!("power lost at operation {at}, {survivors:?}");
            let mut again = open(Disk::holding(left)).unwrap_or_else(|error| panic!("{context}: {error}"));
            let told = again.told().await;
            assert!(told == before || told == after, "{context}: {told:?}\n{before:?}\n{after:?}");
            unacknowledged += usize::from(told != before);
            again.assert_state_is_right(committed).await;
        }
    }
    assert!(unacknowledged > 0, "no crash came between the commit and its acknowledgement");
}

#[tokio::test]
async fn a_crash_while_it_recovers_from_a_crash_loses_nothing_either() {
    let disk = Disk::default();
    let mut opened = open(disk.clone()).unwrap();
    let (told, _, _) = run(&mut opened).await;
    let left = disk.after_power_loss(Survivors::AllButTorn);
    let disk = Disk::holding(left.clone());
    drop(open(disk.clone()).unwrap());
    for at in 0..disk.operations() {
        for survivors in SURVIVORS {
            let disk = Disk::holding(left.clone());
            disk.set_fault(Some(Fault::PowerLost { at, survivors }));
            drop(open(disk.clone()));
            let mut again = open(Disk::holding(disk.after_power_loss(survivors))).unwrap();
            assert_eq!(again.told().await, told, "power lost at operation {at}, {survivors:?}");
        }
    }
}

#[tokio::test]
async fn each_start_counts() {
    let disk = Disk::default();
    for start in 1..4 {
        let opened = open(disk.clone()).unwrap();
        assert_eq!(opened.store.progress().await.unwrap().starts, start);
    }
}
