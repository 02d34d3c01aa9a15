//! A primary whose disk hangs, fails or is full.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use komainu::sandbox::{Installation, StopMode};
use serde_json::json;

use super::failover::writing::{
    Writer, assert_nothing_lost, one_at_a_time, synchronous_with, with_table, write_at,
};
use crate::support::*;

/// The log of the primary, on a disk that does as it is told.
struct Disk {
    order: PathBuf,
}

impl Disk {
    /// Restarts the primary on it.
    fn under(failover: &Failover) -> Self {
        let directory = failover.cluster.directory();
        let (library, order) = (directory.join("disk.so"), directory.join("disk.order"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/disk.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source).arg("-ldl");
        assert!(cc.status().unwrap().success(), "cc fails");
        fs::write(&order, "").unwrap();
        for path in [&library, &order] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let server = failover.cluster.primary();
        server.configure("fsync", "on").unwrap();
        while_paused(failover, || {
            let mut pg_ctl = Installation::find().unwrap().server_command("pg_ctl", "KILL");
            pg_ctl.env("LD_PRELOAD", &library).env("KOMAINU_TEST_DISK", &order);
            pg_ctl.args(["restart", "--silent", "--mode=fast", "--log"]).arg(server.log_file());
            let status = pg_ctl.arg("--pgdata").arg(server.data_directory()).status().unwrap();
            assert!(status.success(), "{}", server.log_tail());
        });
        Disk { order }
    }

    fn does(&self, what: &str) {
        fs::write(&self.order, what).unwrap();
    }
}

/// Nothing is promoted meanwhile, and the cluster is whole afterwards.
fn while_paused(failover: &Failover, work: impl FnOnce()) {
    let pause = |paused| {
        let answer = failover.nodes.post("node1", "/failover/pause", &json!({ "paused": paused }));
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    pause(true);
    work();
    failover.wait_until_whole();
    pause(false);
}

/// The reason of the entry of the timeline that says so.
fn reason_of(failover: &Failover, text: &str) -> String {
    let node = failover.nodes.node("node1");
    let events: serde_json::Value = serde_json::from_str(&node.admin("/events").unwrap().body).unwrap();
    let mut all = events["events"].as_array().unwrap().iter();
    let found = all.find(|event| event["text"].as_str().is_some_and(|told| told.contains(text)));
    found.unwrap_or_else(|| panic!("{text:?} is not in {events}"))["reason"].as_str().unwrap().to_owned()
}

#[test]
fn a_primary_whose_disk_hangs_is_replaced_and_rejoins() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous_with(Failover::builder().failover("write_timeout_ms = 2000"));
    let ids = failover.nodes.ids();
    let disk = Disk::under(&failover);
    let writers = write_at(&failover, &ids, &database);
    disk.does("hang");
    let (new, epoch) = failover.primary_above(1, &ids);
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    assert_eq!(reason_of(&failover, "failover begins"), "disk_hangs");
    writers.iter().for_each(Writer::goes_on);
    disk.does("nothing");
    failover.wait_until_whole();
    assert_eq!(failover.primary(), (new.clone(), 2));
    assert_nothing_lost(&failover, &new, &database, writers);
}

#[test]
fn a_disk_that_is_slow_costs_no_failover() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous_with(Failover::builder().failover("write_timeout_ms = 60000"));
    let disk = Disk::under(&failover);
    let mut wire = failover.nodes.node("node1").login(&database);
    disk.does("hang");
    super::holding::send(&mut wire, "INSERT INTO t VALUES (1)");
    // Each of the nodes tries a write of its own, and has not done it.
    let trying = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_logical_emit_message%' AND state = 'active' \
                  AND pid <> pg_backend_pid()";
    eventually(PATIENCE, "every node tries", || {
        failover.cluster.primary().psql("postgres", trying).unwrap() == "3"
    });
    wire.expect_silence(Duration::from_millis(100));
    disk.does("nothing");
    assert_eq!(super::holding::answer(&mut wire), ["C INSERT 0 1", "ZI"]);
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
    assert!(failover.nodes.status("node1")["failover"]["standstill"].is_null());
}

#[test]
fn a_primary_whose_disk_fails_is_replaced() {
    let _one = one_at_a_time();
    let (failover, database) =
        synchronous_with(Failover::builder().failover("crash_recovery_grace_ms = 2000"));
    let ids = failover.nodes.ids();
    let disk = Disk::under(&failover);
    let writers = write_at(&failover, &ids, &database);
    disk.does("fail");
    let (new, epoch) = failover.primary_above(1, &ids);
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    writers.iter().for_each(Writer::goes_on);
    disk.does("nothing");
    assert_nothing_lost(&failover, &new, &database, writers);
}

#[test]
fn a_primary_whose_disk_is_full_is_replaced() {
    let _one = one_at_a_time();
    let failover =
        Failover::builder().failover("sync_mode = \"require\"\ncrash_recovery_grace_ms = 2000").start();
    let database = with_table(&failover);
    let (ids, server) = (failover.nodes.ids(), failover.cluster.primary());
    let log = server.data_directory().join("pg_wal");
    let small = Mount::new(failover.cluster.directory().join("small"), 96);
    while_paused(&failover, || {
        server.stop(StopMode::Fast).unwrap();
        let moved = Command::new("cp").arg("-a").arg(&log).arg(small.path()).status().unwrap();
        assert!(moved.success());
        fs::remove_dir_all(&log).unwrap();
        symlink(small.path().join("pg_wal"), &log).unwrap();
        server.start().unwrap();
    });
    failover.wait_until_promised();
    let writers = write_at(&failover, &ids, &database);
    // No segment can be added, and few are there to be used again.
    let mut others = fs::File::create(small.path().join("others")).unwrap();
    assert!(std::io::copy(&mut std::io::repeat(0), &mut others).is_err(), "it is full now");
    let mut fill = failover.nodes.node("node1").login(&database);
    super::holding::send(&mut fill, "INSERT INTO t SELECT 0 FROM generate_series(1, 2000000)");
    let (new, epoch) = failover.primary_above(1, &ids);
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    writers.iter().for_each(Writer::goes_on);
    assert_nothing_lost(&failover, &new, &database, writers);
}

/// Where the disk is full, the last record has begun in one segment and goes on in one that could not be made. A standby that
/// has all of the first asks for the second, which is another one on the new timeline.
#[test]
fn a_record_that_is_cut_at_the_end_of_a_segment_keeps_no_standby_out() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous_with(
        Failover::builder().failover("write_timeout_ms = 60000\ncrash_recovery_grace_ms = 2000"),
    );
    let ids = failover.nodes.ids();
    let disk = Disk::under(&failover);
    cut_a_record(&failover, &disk);
    disk.does("refuse");
    let (new, epoch) = failover.primary_above(1, &ids);
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    let writers = write_at(&failover, &ids, &database);
    writers.iter().for_each(Writer::goes_on);
    disk.does("nothing");
    failover.wait_until_whole();
    assert_nothing_lost(&failover, &new, &database, writers);
}

/// Until the standbys have all of a segment, with the beginning of its last record, of which the rest is nowhere. It needs
/// that the log is written out just up to there, so it is tried until nobody's commit comes in between.
fn cut_a_record(failover: &Failover, disk: &Disk) {
    const RECORD: &str = "DO $$ DECLARE room bigint; BEGIN LOOP \
        room := (16 << 20) - pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') % (16 << 20); \
        EXIT WHEN room BETWEEN 500 AND 3000; \
        PERFORM pg_logical_emit_message(false, '', repeat('x', GREATEST(1, LEAST(room - 2500, 1000000)::int))); \
        END LOOP; PERFORM pg_logical_emit_message(false, '', repeat('x', 4000)); END $$";
    const IS_CUT: &str = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0') % (16 << 20) = 0 \
        AND pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
    let is_cut =
        || (0..2).all(|standby| failover.cluster.standby(standby).psql("postgres", IS_CUT).unwrap() == "t");
    for _ in 0..20 {
        disk.does("crowded");
        failover.cluster.primary().psql("postgres", RECORD).unwrap();
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            if is_cut() {
                return;
            }
        }
        disk.does("nothing");
    }
    panic!("something else was written out each time");
}
