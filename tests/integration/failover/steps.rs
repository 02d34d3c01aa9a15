//! The leading node dies after each step of a failover and of a switchover, and the next one goes on from there.

use std::fs;

use komainu::sandbox::{Scratch, admin};

use super::writing::*;
use crate::support::*;

/// What stands in the log, or was done to a server, when the leader dies. In order but for the first: slots that were
/// made once are there from then on.
const OF_A_FAILOVER: &[&str] = &[
    "done Slots",
    "log BeginFailover",
    "log PassFence",
    "done StopReceiving",
    "log NamePrimary",
    "done Promote",
    "log ConfirmPrimary",
    "done Follow",
    "done SetSynchronous",
    "log SetSynchronous",
    "done Rejoin",
    "log SetAdministrative",
];

const OF_A_SWITCHOVER: &[&str] = &[
    "log BeginFailover",
    "done Checkpoint",
    "log HoldTransactions",
    "log ConfirmHold",
    "log OpenFence",
    "log PassFence",
    "done Stop",
    "log NamePrimary",
    "done Promote",
    "log ConfirmPrimary",
    "done Follow",
    "done SetSynchronous",
    "log SetSynchronous",
    "done Rejoin",
    "log SetAdministrative",
];

/// A cluster of which the leading node dies where it is told.
struct Mortal {
    failover: Failover,
    database: String,
    scratch: Scratch,
}

impl Mortal {
    fn start() -> Self {
        let scratch = Scratch::create("komainu-die-at-").unwrap();
        let file = scratch.path().join("point");
        let builder = Failover::builder().env("KOMAINU_DEBUG_DIE_AT", file.to_str().unwrap());
        let (failover, database) = synchronous_with(builder);
        Mortal { failover, database, scratch }
    }

    /// The primary is replaced, the leader dies at that point, and all is well afterwards.
    #[track_caller]
    fn survives(&self, point: &str, replace: impl FnOnce(&Failover, &str)) {
        let failover = &self.failover;
        failover.wait_until_promised();
        let (old, epoch) = failover.primary();
        let leader = failover.nodes.leader();
        let others = failover.nodes.others(&leader);
        failover.server(&old).psql(&self.database, "TRUNCATE t").unwrap();
        let writers = write_at(failover, &others, &self.database);
        let file = self.scratch.path().join("point");
        // Whole at once: it is read at any moment.
        fs::write(file.with_extension("new"), point).unwrap();
        fs::rename(file.with_extension("new"), &file).unwrap();
        replace(failover, &old);
        let died = failover.nodes.node(&leader).wait(REJOINED_WITHIN);
        assert!(!file.exists(), "{leader} has ended by itself: {died}");
        let (new, now) = failover.primary_above(epoch, &others);
        assert!(new != old && now == epoch + 1, "{point}: {new} in epoch {now} after {old} in {epoch}");
        writers.iter().for_each(Writer::goes_on);
        failover.nodes.node(&leader).start_again();
        failover.wait_until_whole();
        assert_eq!(failover.primary(), (new.clone(), epoch + 1), "{point}");
        assert_eq!(u64::from(timeline(failover, &new)), epoch + 1, "{point}: one promotion");
        let servers = failover.cluster.servers().all().iter().map(|server| server.id());
        assert!(servers.filter(|id| *id != new).all(|id| is_standby(failover, id)), "{point}");
        assert_nothing_lost(failover, &new, &self.database, writers);
    }
}

#[test]
fn a_leader_that_dies_after_any_step_of_a_failover_is_followed_by_one_that_finishes_it() {
    let _one = one_at_a_time();
    let mortal = Mortal::start();
    for point in OF_A_FAILOVER {
        mortal.survives(point, |failover, primary| failover.server(primary).kill());
    }
}

#[test]
fn a_leader_that_dies_after_any_step_of_a_switchover_is_followed_by_one_that_finishes_it() {
    let _one = one_at_a_time();
    let mortal = Mortal::start();
    for point in OF_A_SWITCHOVER {
        mortal.survives(point, |failover, _| {
            let socket = failover.nodes.node("node1").directory().join("admin.sock");
            // Who dies at once does not answer.
            let _ = admin::post(&socket, "/switchover", "{}");
        });
    }
}
