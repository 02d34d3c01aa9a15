//! Which standby is promoted, and when none is.

use std::process::Command;
use std::time::Duration;

use komainu::sandbox::{Postgres, process};
use rustix::process::Signal;
use serde_json::json;

use super::writing::*;
use crate::holding::{HELD_LONG, answer, send};
use crate::lost_servers::told;
use crate::support::*;

/// Nothing more of what that primary writes reaches the standby, and nobody has an error.
pub fn hold_back(primary: &Postgres, standby: &str) {
    let sender = format!("SELECT pid FROM pg_stat_replication WHERE application_name = '{standby}'");
    let pid = primary.psql("postgres", &sender).unwrap().parse().unwrap();
    process::signal(pid, Signal::STOP);
}

/// Waits until each node says so of a lost primary.
#[track_caller]
pub fn stands_still(failover: &Failover, reason: Option<&str>) {
    for node in failover.nodes.ids() {
        eventually(PATIENCE, &format!("{node} says {reason:?}"), || {
            let status = failover.nodes.status(&node);
            status["failover"]["standstill"] == json!(reason) && !status["servers"].is_null()
        });
    }
}

/// And for a while nothing comes of it.
#[track_caller]
pub fn nobody_is_promoted(failover: &Failover, standbys: &[&str], waiting: &mut Wire) {
    waiting.expect_silence(Duration::from_secs(1));
    for standby in standbys {
        assert!(is_standby(failover, standby), "{standby} was promoted");
    }
}

fn order(failover: &Failover, server: &str, state: &str) {
    let body = json!({ "id": server, "state": state });
    let answer = failover.nodes.post("node2", "/server/administrative", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn who_has_most_is_promoted_but_not_if_he_lacks_too_much_and_nobody_who_was_left_out() {
    let _one = one_at_a_time();
    let failover =
        Failover::builder().without_agents().failover("max_lag_bytes = 1000000").config(HELD_LONG).start();
    let database = with_table(&failover);
    let (old, second, third) = (failover.server("pg1"), failover.server("pg2"), failover.server("pg3"));
    let mut idle = failover.nodes.node("node1").login(&database);
    assert_eq!(told(&idle.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
    failover.cluster.servers().wait_for_replay().unwrap();

    // All lack more than is allowed.
    hold_back(old, "pg2");
    hold_back(old, "pg3");
    let much = "INSERT INTO t SELECT 2 FROM generate_series(1, 30000)";
    assert_eq!(told(&idle.query(much)), ["C INSERT 0 30000", "ZI"]);
    let written = "SELECT pg_current_wal_insert_lsn()";
    for node in failover.nodes.ids() {
        eventually(PATIENCE, &format!("{node} has seen how far it is"), || {
            failover.server_by(&node, "pg1")["lsn"] == json!(old.psql("postgres", written).unwrap())
        });
    }
    old.kill();
    send(&mut idle, "INSERT INTO t VALUES (3)");
    stands_still(&failover, Some("candidate_lags"));
    nobody_is_promoted(&failover, &["pg2", "pg3"], &mut idle);
    old.start().unwrap();
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"], "the primary is back");
    stands_still(&failover, None);
    failover.wait_until_whole();
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
    failover.cluster.servers().wait_for_replay().unwrap();

    // One has received a little less, the other has received all and replays nothing.
    third.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    hold_back(old, "pg2");
    for _ in 0..10 {
        assert_eq!(told(&idle.query("INSERT INTO t VALUES (4)")), ["C INSERT 0 1", "ZI"]);
    }
    let all = old.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{all}'");
    eventually(PATIENCE, "all is received", || third.psql("postgres", &received).unwrap() == "t");
    let fours = "SELECT count(*) FROM t WHERE n = 4";
    assert_eq!(third.psql(&database, fours).unwrap(), "0", "none of it is replayed");
    old.kill();
    send(&mut idle, "INSERT INTO t VALUES (5)");
    assert_eq!(failover.primary_above(1, &failover.nodes.ids()), ("pg3".to_owned(), 2));
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"]);
    assert_eq!(third.psql(&database, fours).unwrap(), "10");
    // By then it has left the old timeline.
    let rows = "SELECT count(*) FROM t WHERE n IN (4, 5)";
    eventually(PATIENCE, "the other one follows", || second.psql(&database, rows).unwrap() == "11");

    // The one that is left was detached, and the former primary is back as what it was.
    order(&failover, "pg2", "detached");
    third.kill();
    send(&mut idle, "INSERT INTO t VALUES (6)");
    stands_still(&failover, Some("no_candidate"));
    old.start().unwrap();
    for node in failover.nodes.ids() {
        eventually(PATIENCE, "it is seen and left out", || {
            let server = failover.server_by(&node, "pg1");
            server["says"] == "primary" && server["administrative"] == "quarantined"
        });
    }
    nobody_is_promoted(&failover, &["pg2"], &mut idle);
    stands_still(&failover, Some("no_candidate"));
    order(&failover, "pg2", "attached");
    assert_eq!(failover.primary_above(2, &failover.nodes.ids()), ("pg2".to_owned(), 3));
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"]);
    stands_still(&failover, None);
    let sixes = "SELECT count(*) FROM t WHERE n = 6";
    assert_eq!(second.psql(&database, sixes).unwrap(), "1");
    assert_eq!(old.psql(&database, sixes).unwrap(), "0");
}

#[test]
fn without_its_quorum_nobody_is_promoted_but_by_order() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous_with(Failover::builder().config(HELD_LONG));
    let ids = failover.nodes.ids();
    let mut idle = failover.nodes.node("node1").login(&database);
    assert_eq!(told(&idle.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);

    // Only the standby that hangs has the last row. When it goes on, it is the one.
    hold_back(failover.server("pg1"), "pg2");
    assert_eq!(told(&idle.query("INSERT INTO t VALUES (2)")), ["C INSERT 0 1", "ZI"]);
    failover.server("pg3").freeze();
    failover.server("pg1").kill();
    send(&mut idle, "INSERT INTO t VALUES (3)");
    stands_still(&failover, Some("too_few_synchronous"));
    nobody_is_promoted(&failover, &["pg2"], &mut idle);
    failover.server("pg3").thaw();
    assert_eq!(failover.primary_above(1, &ids), ("pg3".to_owned(), 2));
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"]);
    let rows = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t";
    assert_eq!(failover.server("pg3").psql(&database, rows).unwrap(), "1 2 3");
    failover.wait_until_whole();

    // Once more, and an operator does not want to wait.
    failover.wait_until_promised();
    hold_back(failover.server("pg3"), "pg1");
    assert_eq!(told(&idle.query("INSERT INTO t VALUES (4)")), ["C INSERT 0 1", "ZI"]);
    failover.server("pg2").freeze();
    failover.server("pg3").kill();
    send(&mut idle, "INSERT INTO t VALUES (5)");
    stands_still(&failover, Some("too_few_synchronous"));
    eventually(PATIENCE, "who is asked knows that it hangs", || {
        failover.server_by("node2", "pg2")["health"] == "down"
    });
    let socket = failover.nodes.node("node2").directory().join("admin.sock");
    let komainu = env!("CARGO_BIN_EXE_komainu");
    let forced = run(Command::new(komainu).args(["failover", "--force"]).env("KOMAINU_ADMIN", socket));
    let said = format!("{}{}", forced.stdout, forced.stderr);
    assert!(forced.success && said.contains("pg1 is the primary in place of pg3"), "{said}");
    assert!(said.contains("acknowledged may be lost"), "{said}");
    assert_eq!(failover.primary_above(2, &ids), ("pg1".to_owned(), 3));
    // It waits for a standby, and there is none yet.
    failover.server("pg2").thaw();
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"]);
    failover.wait_until_whole();
    for server in failover.cluster.servers().all() {
        eventually(PATIENCE, "it has what the primary has, and no more", || {
            server.psql(&database, rows).unwrap() == "1 2 3 5"
        });
    }
}

/// The second one may be too early for anybody to know that the last standby has everything.
#[test]
fn the_next_primary_is_killed_the_moment_it_is_one() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous_with(Failover::builder().config(HELD_LONG));
    let ids = failover.nodes.ids();
    let writers = write_at(&failover, &ids, &database);
    failover.cluster.primary().kill();
    let (second, epoch) = failover.primary_above(1, &ids);
    failover.server(&second).kill();
    let mut stands_still = false;
    eventually(PATIENCE, "somebody is promoted, or it is said why not", || {
        let status = failover.nodes.status("node1");
        // The one that is left has not followed anybody yet, or not far enough for all that was acknowledged.
        let for_good = [json!("no_candidate"), json!("too_few_synchronous")];
        stands_still = for_good.contains(&status["failover"]["standstill"]);
        stands_still || status["epoch"].as_u64() > Some(epoch) && !status["primary"].is_null()
    });
    if stands_still {
        failover.server(&second).start().unwrap();
    }
    writers.iter().for_each(Writer::goes_on);
    failover.wait_until_whole();
    let (last, _) = failover.primary();
    assert_nothing_lost(&failover, &last, &database, writers);
}
