//! A primary that answers and cannot write.

use super::*;
use crate::cluster::state::Disk;

impl World {
    fn cannot_write(&mut self, nodes: &[&str], disk: Disk) {
        for node in NODES {
            let disk = nodes.contains(&node).then_some(disk);
            let claim = Claim { observed: Observed::Up, primary_on: Some(1), disk, ..Claim::default() };
            self.claim_as(node, "pg1", claim);
        }
    }
}

#[test]
fn a_primary_whose_disk_does_not_take_what_is_written_is_replaced_although_its_standbys_hear_it() {
    for (disk, reason) in
        [(Disk::Hangs, Reason::DiskHangs), (Disk::Full, Reason::DiskFull), (Disk::Fails, Reason::DiskFails)]
    {
        let mut world = World::new();
        world.cannot_write(&["a", "c"], disk);
        world.fence_passes = false;
        assert_eq!(world.reasons(), [reason]);
    }
}

#[test]
fn it_takes_most_nodes_and_the_leader_to_find_that_a_disk_fails() {
    let mut world = World::new();
    for nodes in [&["a"][..], &["b", "c"]] {
        world.cannot_write(nodes, Disk::Hangs);
        assert_eq!(world.reasons(), []);
    }
    world.apply(Change::PauseFailover { paused: true });
    world.cannot_write(&NODES, Disk::Hangs);
    assert_eq!(world.reasons(), [Reason::FailoverPaused]);
    world.cannot_write(&[], Disk::Hangs);
    assert_eq!(world.reasons(), [Reason::ServerObserved], "it goes on");
    assert_eq!(world.state.standstill(), None);
}

#[test]
fn what_never_reached_the_primarys_disk_nobody_lacks() {
    let mut world = World::new();
    world.policy.failover.max_lag_bytes = 100;
    world.view.primary_lsn = Lsn(9000);
    world.cannot_write(&NODES, Disk::Hangs);
    assert_eq!(world.reasons(), [Reason::CandidateLags]);
    let index = SERVERS.iter().position(|id| *id == "pg1").unwrap();
    let facts = world.view.details[index].facts.as_mut().unwrap();
    Arc::make_mut(facts).flushed_lsn = Some(Lsn(5050));
    world.fence_passes = false;
    assert_eq!(world.reasons(), [Reason::DiskHangs]);
}
