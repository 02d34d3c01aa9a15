//! The primary may die, hang or be replaced by order: one other is named, and nothing acknowledged is lost.

mod by_hand;
mod candidates;
mod configuration;
mod orders;
mod planned;
mod promise;
mod returning;
mod sessions;
mod standbys;
mod steps;
pub mod writing;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

pub use self::writing::one_at_a_time;
use self::writing::*;
use super::consistency::Stop;
use super::holding::{answer, send};
use super::lost_servers::told;
use crate::support::*;

#[test]
fn a_killed_primary_is_replaced_and_comes_back_and_so_is_the_next() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous();
    let ids = failover.nodes.ids();
    let writers = write_at(&failover, &ids, &database);
    let mut idle: Vec<_> = ids.iter().map(|id| failover.nodes.node(id).login(&database)).collect();
    for wire in &mut idle {
        assert_eq!(told(&wire.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
    }
    let mut last = String::new();
    for epoch in [1, 2] {
        let (old, now) = failover.primary();
        assert_eq!(now, epoch);
        // Before, nobody may be promoted: a standby that lags might lack what was acknowledged.
        failover.wait_until_promised();
        failover.server(&old).kill();
        idle.iter_mut().for_each(|wire| send(wire, "INSERT INTO t VALUES (1)"));
        let (new, now) = failover.primary_above(epoch, &ids);
        assert!(new != old && now == epoch + 1, "{new} in epoch {now}");
        for wire in &mut idle {
            assert_eq!(answer(wire), ["C INSERT 0 1", "ZI"], "it was between transactions");
        }
        writers.iter().for_each(Writer::goes_on);
        failover.wait_until_whole();
        assert!(is_standby(&failover, &old) && !is_standby(&failover, &new));
        assert_eq!(failover.primary(), (new.clone(), epoch + 1));
        assert_eq!(u64::from(timeline(&failover, &new)), epoch + 1);
        last = new;
    }
    assert_nothing_lost(&failover, &last, &database, writers);
    let ours = "SELECT count(*) FROM t WHERE n = 1";
    assert_eq!(failover.server(&last).psql(&database, ours).unwrap(), "9");
}

#[test]
fn a_switchover_under_load_fails_no_transaction_and_loses_none() {
    let _one = one_at_a_time();
    let failover = Failover::builder().patient().start();
    let database = failover.cluster.database();
    let url = failover.nodes.node("node1").url(&database);
    pgbench(&url, &["-i", "-q", "-s", "10"]).output();
    failover.cluster.servers().wait_for_replay().unwrap();
    let count = "SELECT count(*) FROM pgbench_history";
    let processed = thread::scope(|scope| {
        // Without the few rows that all would have to update one after the other.
        let bench = scope.spawn(|| pgbench(&url, &["-N", "-c", "50", "-j", "2", "-T", "15", "-n"]));
        eventually(PATIENCE, "it writes", || {
            failover.cluster.primary().psql(&database, count).unwrap().parse::<u32>().unwrap() > 100
        });
        let begun = failover.nodes.post("node2", "/switchover", &json!({ "to": "pg3" }));
        assert_eq!(begun.status, 200, "{}", begun.body);
        assert_eq!(failover.primary_above(1, &failover.nodes.ids()), ("pg3".to_owned(), 2));
        let bench = bench.join().unwrap();
        assert!(!bench.stderr.contains("aborted"), "{}", bench.stderr);
        let output = bench.output();
        assert!(output.contains("number of failed transactions: 0 "), "{output}");
        let told =
            output.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        told.unwrap().to_owned()
    });
    assert_eq!(failover.server("pg3").psql(&database, count).unwrap(), processed);
    failover.wait_until_whole();
    assert!(is_standby(&failover, "pg1"), "the old one follows");
    assert_eq!(failover.primary(), ("pg3".to_owned(), 2));
    let refused = failover.nodes.post("node1", "/switchover", &json!({ "to": "pg3" }));
    assert!(refused.status == 409 && refused.body.contains("pg3 is the primary already"), "{}", refused.body);
}

#[test]
fn a_paused_failover_stands_still_and_says_why_until_it_is_resumed() {
    let _one = one_at_a_time();
    let failover = Failover::builder().without_agents().start();
    let database = with_table(&failover);
    let refused = failover.nodes.post("node1", "/switchover", &json!({}));
    assert!(refused.status == 409 && refused.body.contains("pg1 has no agent"), "{}", refused.body);

    let mut idle = failover.nodes.node("node2").login(&database);
    assert_eq!(told(&idle.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
    failover.cluster.servers().wait_for_replay().unwrap();
    let pause = |paused| {
        let answer = failover.nodes.post("node1", "/failover/pause", &json!({ "paused": paused }));
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    pause(true);
    failover.cluster.primary().kill();
    send(&mut idle, "INSERT INTO t VALUES (2)");
    for node in failover.nodes.ids() {
        eventually(PATIENCE, "it says why it does nothing", || {
            let status = failover.nodes.status(&node);
            status["failover"]["standstill"] == "failover_paused" && status["failover"]["paused"] == true
        });
    }
    idle.expect_silence(Duration::from_secs(1));
    assert!(is_standby(&failover, "pg2") && is_standby(&failover, "pg3"), "nobody is promoted");
    pause(false);
    let (new, epoch) = failover.primary_above(1, &failover.nodes.ids());
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"]);
    assert_eq!(failover.server(&new).psql(&database, "SELECT count(*) FROM t").unwrap(), "2");
    for node in failover.nodes.ids() {
        let failover = failover.nodes.status(&node)["failover"].clone();
        assert!(failover["standstill"].is_null() && failover["paused"] == false, "{failover}");
    }
}

/// Whoever leads, the next one finishes what was begun, and nobody begins it again.
#[test]
fn a_leader_that_dies_with_the_primary_costs_no_second_promotion_and_no_row() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous();
    let leader = failover.nodes.leader();
    let others = failover.nodes.others(&leader);
    let writers = write_at(&failover, &others, &database);
    failover.cluster.primary().kill();
    failover.nodes.node(&leader).kill();
    let (new, epoch) = failover.primary_above(1, &others);
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    writers.iter().for_each(Writer::goes_on);
    failover.nodes.node(&leader).start_again();
    failover.wait_until_whole();
    assert_eq!(failover.primary(), (new.clone(), 2));
    assert_eq!(timeline(&failover, &new), 2);
    let standbys = failover.cluster.servers().all().iter().filter(|server| server.id() != new);
    assert!(standbys.into_iter().all(|server| is_standby(&failover, server.id())));
    assert_nothing_lost(&failover, &new, &database, writers);
}

#[test]
fn a_primary_that_hangs_acknowledges_nothing_once_it_goes_on_and_follows() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous();
    let ids = failover.nodes.ids();
    let writers = write_at(&failover, &ids, &database);
    // Past komainu.
    let old = failover.cluster.primary();
    let mut direct = Wire::connect(old.port());
    direct.login(APP_USER, APP_PASSWORD, &database);
    assert_eq!(told(&direct.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
    old.freeze();
    send(&mut direct, "INSERT INTO t VALUES (2)");
    let (new, epoch) = failover.primary_above(1, &ids);
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    writers.iter().for_each(Writer::goes_on);
    old.thaw();
    let mut next = || direct.try_message(REJOINED_WITHIN).expect("the old primary is stopped");
    while let Some(message) = next() {
        assert_ne!(message.tag, 'C', "it is acknowledged");
    }
    failover.wait_until_whole();
    assert!(is_standby(&failover, "pg1"));
    assert_eq!(failover.primary(), (new.clone(), 2));
    assert_nothing_lost(&failover, &new, &database, writers);
    let rows = failover.server(&new).psql(&database, "SELECT n FROM t WHERE n < 10").unwrap();
    assert_eq!(rows, "1");
}

#[test]
fn a_standby_is_detached_and_attached_under_readers_that_notice_nothing() {
    let _one = one_at_a_time();
    // A session is otherwise bound to one of the standbys for as long as that has all it has read.
    let anywhere = "[split]\nconsistency = \"eventual\"\n";
    let failover = Failover::builder().config(anywhere).patient().without_agents().start();
    let database = failover.cluster.database();
    let node = failover.nodes.node("node1");
    let url = node.url(&database);
    pgbench(&url, &["-i", "-q"]).output();
    failover.cluster.servers().wait_for_replay().unwrap();
    let order = |state: &str| {
        let answer =
            failover.nodes.post("node2", "/server/administrative", &json!({ "id": "pg2", "state": state }));
        assert_eq!(answer.status, 200, "{}", answer.body);
        eventually(PATIENCE, "the readers' node knows", || {
            failover.server_by("node1", "pg2")["administrative"] == state
        });
    };
    let reads = |server: &str| {
        node.metric(&format!("komainu_queries_total{{server=\"{server}\",class=\"read\"}}"))
            .unwrap_or_default()
    };
    let further = |server: &str, what: &str| {
        let before = reads(server);
        eventually(PATIENCE, what, || reads(server) > before + 50.0);
    };
    let active = "komainu_server_connections{server=\"pg2\",state=\"active\"}";
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // A little at a time: how long they are needed depends on the machine.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let bench = pgbench(&url, &["-S", "-c", "4", "-j", "2", "-T", "3", "-n"]);
                assert!(!bench.stderr.contains("aborted"), "{}", bench.stderr);
                let output = bench.output();
                assert!(output.contains("number of failed transactions: 0 "), "{output}");
            }
        });
        let _stop = Stop(&done);
        further("pg2", "it is read from");
        order("detached");
        eventually(PATIENCE, "its readers have heard of it, and what it had already has ended", || {
            let before = reads("pg2");
            further("pg3", "the other one is read from");
            reads("pg2") == before && node.metric(active).unwrap_or_default() == 0.0
        });
        let before = reads("pg2");
        (0..10).for_each(|_| further("pg3", "the other one is read from"));
        assert_eq!(reads("pg2"), before, "the detached one is read from");
        order("attached");
        further("pg2", "it is read from again");
    });
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
}

/// What three clients send for it: each a header of five bytes, and seven.
const THREE_COMMITS: f64 = 3.0 * 12.0;

#[test]
fn a_commit_in_flight_is_there_at_most_once_and_its_client_is_told_that_nobody_knows() {
    let _one = one_at_a_time();
    // Nodes ask nothing of their own behind a COMMIT.
    let (failover, database) = synchronous_with(Failover::builder().config("[split]\nenabled = false\n"));
    let ids = failover.nodes.ids();
    let old = failover.cluster.primary();
    let mut open: Vec<_> = (0..9).map(|n| failover.nodes.node(&ids[n % 3]).login(&database)).collect();
    for (n, wire) in open.iter_mut().enumerate() {
        assert_eq!(told(&wire.query("BEGIN")), ["C BEGIN", "ZT"]);
        assert_eq!(told(&wire.query(&format!("INSERT INTO t VALUES ({n})"))), ["C INSERT 0 1", "ZT"]);
    }
    let relayed = |id: &String| {
        failover.nodes.node(id).metric("komainu_bytes_total{direction=\"to_servers\"}").unwrap()
    };
    let before: Vec<_> = ids.iter().map(relayed).collect();
    // The first ones are committed or not, as it happens; the others' COMMIT arrives where nobody answers.
    let (racing, frozen) = open.split_at_mut(3);
    racing.iter_mut().for_each(|wire| send(wire, "COMMIT"));
    old.freeze();
    frozen.iter_mut().for_each(|wire| send(wire, "COMMIT"));
    eventually(PATIENCE, "all are passed on", || {
        ids.iter().map(relayed).zip(&before).all(|(now, then)| now >= then + THREE_COMMITS)
    });
    old.kill();

    let mut outcomes = Vec::new();
    for (n, wire) in open.iter_mut().enumerate() {
        let outcome = answer(wire);
        let is_known = outcome == ["C COMMIT", "ZI"];
        assert!(outcome == ["ERROR 08007", "ZI"] || is_known && n < 3, "{n}: {outcome:?}");
        outcomes.push(is_known);
    }
    let (new, epoch) = failover.primary_above(1, &ids);
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    for (n, wire) in open.iter_mut().enumerate() {
        send(wire, "INSERT INTO t VALUES (100)");
        assert_eq!(answer(wire), ["C INSERT 0 1", "ZI"], "its session goes on");
        let count = format!("SELECT count(*) FROM t WHERE n = {n}");
        let count: u32 = failover.server(&new).psql(&database, &count).unwrap().parse().unwrap();
        assert!(count <= 1 && count >= u32::from(outcomes[n]), "{n} is there {count} times");
    }
}
