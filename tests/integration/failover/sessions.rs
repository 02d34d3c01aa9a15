//! What clients were in the middle of when the primary died, and how their sessions go on.

use std::thread;
use std::time::Duration;

use postgres_protocol::message::frontend;
use serde_json::json;

use super::writing::*;
use crate::holding::{answer, send};
use crate::lost_servers::told;
use crate::support::*;

const ROW: usize = 10_000_000;

#[track_caller]
fn done(wire: &mut Wire, sql: &str, tag: &str, status: char) {
    assert_eq!(told(&wire.query(sql)), [format!("C {tag}"), format!("Z{status}")], "{sql}");
}

/// A row by itself that is prepared to be committed, and no more.
#[track_caller]
fn prepare(wire: &mut Wire, n: u32) {
    done(wire, "BEGIN", "BEGIN", 'T');
    done(wire, &format!("INSERT INTO t VALUES ({n})"), "INSERT 0 1", 'T');
    done(wire, &format!("PREPARE TRANSACTION 'p{n}'"), "PREPARE TRANSACTION", 'I');
}

fn insert(pipeline: Pipeline, n: u32) -> Pipeline {
    pipeline.parse("", &format!("INSERT INTO t VALUES ({n})")).bind("", "", &[]).execute("", 0)
}

/// Nothing is sent that is not answered at once before; nothing is answered from here on.
struct Frozen<'a> {
    failover: &'a Failover,
    ids: Vec<String>,
}

impl Frozen<'_> {
    /// Sends, and waits until the node has passed it on.
    #[track_caller]
    fn pass_on(&self, node: usize, send: impl FnOnce()) {
        let node = self.failover.nodes.node(&self.ids[node]);
        let relayed = || node.metric("komainu_bytes_total{direction=\"to_servers\"}");
        let before = relayed();
        send();
        eventually(PATIENCE, "it is passed on", || relayed() > before);
    }
}

#[test]
fn whoever_was_in_the_middle_of_something_is_told_what_is_known_and_goes_on() {
    let _one = one_at_a_time();
    let small = "[pool]\nacquire_timeout_ms = 120000\n\
                 [[pool.override]]\nuser = \"postgres\"\nsize = 1\nreserve = 0\n";
    let builder = Failover::builder().settings(&[("max_prepared_transactions", "10")]).config(small);
    let (failover, database) = synchronous_with(builder);
    let ids = failover.nodes.ids();
    let node = |index: usize| failover.nodes.node(&ids[index]);
    let open = |index: usize| node(index).login(&database);
    let old = failover.cluster.primary();

    // Of the only connection that this user has at a time.
    let superuser = || {
        let mut wire = node(0).wire();
        wire.login("postgres", old.password(), &database);
        wire
    };
    let (mut holder, mut waiter) = (superuser(), superuser());
    done(&mut holder, "BEGIN", "BEGIN", 'T');
    done(&mut holder, "INSERT INTO t VALUES (1)", "INSERT 0 1", 'T');
    send(&mut waiter, "INSERT INTO t VALUES (2)");

    let (mut copying_in, mut copying_inside, mut copying_out) = (open(0), open(1), open(2));
    done(&mut copying_inside, "BEGIN", "BEGIN", 'T');
    for wire in [&mut copying_in, &mut copying_inside] {
        wire.encode(|buffer| frontend::query("COPY t FROM STDIN", buffer));
        wire.expect('G');
        wire.send_message('d', b"20\n");
    }
    // More than fits anywhere: a row is cut short.
    let much = format!("COPY (SELECT repeat('x', {ROW}) FROM generate_series(1, 20)) TO STDOUT");
    copying_out.encode(|buffer| frontend::query(&much, buffer));
    copying_out.expect('H');
    // Behind the COPY, which keeps the connection it was given.
    let (mut two_phase, mut committing_prepared) = (open(1), open(1));
    for n in [10, 11] {
        prepare(&mut two_phase, n);
    }
    prepare(&mut committing_prepared, 12);
    let (mut pipeline, mut pipeline_inside) = (open(2), open(2));
    // Side by side, so that there is an idle connection for each.
    for (sql, status) in [("BEGIN", 'T'), ("COMMIT", 'I')] {
        for wire in [&mut pipeline, &mut pipeline_inside] {
            done(wire, sql, sql, status);
        }
    }
    done(&mut pipeline_inside, "BEGIN", "BEGIN", 'T');
    done(&mut pipeline_inside, "INSERT INTO t VALUES (30)", "INSERT 0 1", 'T');

    old.freeze();
    let frozen = Frozen { failover: &failover, ids: ids.clone() };
    frozen.pass_on(1, || send(&mut committing_prepared, "COMMIT PREPARED 'p12'"));
    let two = insert(insert(Pipeline::new(), 31).sync(), 32).sync();
    frozen.pass_on(2, || pipeline.send_pipeline(two));
    let two = insert(insert(Pipeline::new(), 33), 34).sync();
    frozen.pass_on(2, || pipeline_inside.send_pipeline(two));
    waiter.expect_silence(Duration::from_millis(100));
    thread::scope(|scope| {
        old.kill();
        let newcomers: Vec<_> = (0..3)
            .map(|index| {
                scope.spawn(move || open(index).query_value("INSERT INTO t VALUES (40) RETURNING n"))
            })
            .collect();
        let (new, epoch) = failover.primary_above(1, &ids);
        assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
        for newcomer in newcomers {
            assert_eq!(newcomer.join().unwrap(), "40");
        }
    });

    assert_eq!(answer(&mut copying_in), ["ERROR 08007", "ZI"]);
    assert_eq!(answer(&mut copying_inside), ["ERROR 08006", "ZE"]);
    for wire in [&mut copying_in, &mut copying_inside] {
        wire.send_message('d', b"21\n");
        wire.send_message('c', b"");
    }
    while let Some(message) = copying_out.try_message(PATIENCE).unwrap() {
        assert_eq!((message.tag, message.body.len()), ('d', ROW + 1), "{:?}", message.error());
    }
    let half = copying_out.half_a_message();
    assert!(half.len() < ROW && half.iter().all(|byte| *byte == b'x'), "something else ends the row");
    assert_eq!(answer(&mut pipeline), ["ERROR 08007", "ZI"]);
    let second = answer(&mut pipeline);
    let is_done = second == ["1", "2", "C INSERT 0 1", "ZI"];
    assert!(is_done || second == ["ERROR 08007", "ZI"], "{second:?}");
    assert_eq!(answer(&mut pipeline_inside), ["ERROR 08006", "ZE"]);
    assert_eq!(answer(&mut committing_prepared), ["ERROR 08007", "ZI"]);
    assert_eq!(told(&holder.query("INSERT INTO t VALUES (3)")), ["ERROR 08006", "ZE"]);
    assert_eq!(answer(&mut waiter), ["C INSERT 0 1", "ZI"]);
    for wire in [&mut holder, &mut copying_inside, &mut pipeline_inside] {
        done(wire, "ROLLBACK", "ROLLBACK", 'I');
    }

    let is_prepared = |n: u32| format!("SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'p{n}'");
    let is_there = |n: u32| format!("SELECT count(*) FROM t WHERE n = {n}");
    assert_eq!(two_phase.query_value(&is_prepared(10)), "1", "it has survived");
    done(&mut two_phase, "COMMIT PREPARED 'p10'", "COMMIT PREPARED", 'I');
    done(&mut two_phase, "ROLLBACK PREPARED 'p11'", "ROLLBACK PREPARED", 'I');
    let prepared = two_phase.query_value(&is_prepared(12));
    assert_ne!(prepared, two_phase.query_value(&is_there(12)), "it is committed or still prepared");
    let times = [(1, "0"), (2, "1"), (3, "0"), (10, "1"), (11, "0"), (20, "0"), (21, "0")];
    let times = times.into_iter().chain([
        (30, "0"),
        (32, if is_done { "1" } else { "0" }),
        (33, "0"),
        (34, "0"),
        (40, "3"),
    ]);
    for (n, expected) in times {
        assert_eq!(two_phase.query_value(&is_there(n)), expected, "{n}");
    }
    for wire in [&mut copying_in, &mut copying_inside, &mut pipeline, &mut pipeline_inside, &mut holder] {
        done(wire, "INSERT INTO t VALUES (50)", "INSERT 0 1", 'I');
    }
    failover.wait_until_whole();
}

/// komainu does not read what such a session says, so whatever it has set up is lost unseen.
#[test]
fn who_pools_by_session_ends_its_transaction_and_is_told_to_connect_anew_after_a_switchover() {
    let _one = one_at_a_time();
    let by_session = "[[pool.override]]\nuser = \"postgres\"\nmode = \"session\"\n";
    let failover = Failover::builder().config(by_session).start();
    let database = with_table(&failover);
    let ids = failover.nodes.ids();
    let session = || {
        let mut wire = failover.nodes.node(&ids[0]).wire();
        wire.login("postgres", failover.cluster.primary().password(), &database);
        wire
    };
    let (mut idle, mut fresh, mut inside) = (session(), session(), session());
    assert_eq!(idle.query_value("SHOW komainu.pins"), "session_mode");
    assert_eq!(idle.query_value("SELECT 1"), "1");
    done(&mut inside, "BEGIN", "BEGIN", 'T');
    done(&mut inside, "INSERT INTO t VALUES (1)", "INSERT 0 1", 'T');
    let begun = failover.nodes.post("node2", "/switchover", &json!({ "to": "pg2" }));
    assert_eq!(begun.status, 200, "{}", begun.body);
    eventually(PATIENCE, "transactions wait", || {
        failover.nodes.status("node1")["failover"]["under_way"]["holds"] == true
    });
    done(&mut inside, "INSERT INTO t VALUES (2)", "INSERT 0 1", 'T');
    done(&mut inside, "COMMIT", "COMMIT", 'I');
    assert_eq!(failover.primary_above(1, &ids), ("pg2".to_owned(), 2));
    for wire in [&mut idle, &mut inside] {
        let end = wire.expect_end();
        assert_eq!(told(&end), ["FATAL 57P01"]);
        assert!(end[0].field('M').contains("(session_mode); reconnect"), "{}", end[0].field('M'));
    }
    assert_eq!(fresh.query_value("SELECT count(*) FROM t"), "2", "it had nothing to lose");
    done(&mut session(), "INSERT INTO t VALUES (3)", "INSERT 0 1", 'I');
    failover.wait_until_whole();
}

/// The old primary has answered a node that was away while the next one was made.
#[test]
fn what_waits_for_the_lease_ends_if_another_primary_is_named_meanwhile() {
    let _one = one_at_a_time();
    let failover = Failover::builder().failover("sync_mode = \"off\"").without_agents().start();
    let database = with_table(&failover);
    let leader = failover.nodes.leader();
    let left = failover.nodes.others(&leader).remove(0);
    let node = failover.nodes.node(&left);
    let old = failover.cluster.primary();
    let open = || node.login(&database);
    let (mut writing, mut inside, mut gone) = (open(), open(), open());
    for (wire, n) in [(&mut writing, 2), (&mut inside, 1), (&mut gone, 1)] {
        done(wire, "BEGIN", "BEGIN", 'T');
        done(wire, &format!("INSERT INTO t VALUES ({n})"), "INSERT 0 1", 'T');
    }
    old.freeze();
    let frozen = Frozen { failover: &failover, ids: vec![left.clone()] };
    frozen.pass_on(0, || send(&mut writing, "COMMIT"));
    failover.nodes.freeze(&left);
    let (new, _) = failover.primary_above(1, &failover.nodes.others(&left));
    old.thaw();
    eventually(PATIENCE, "the old primary has done it", || {
        old.psql(&database, "SELECT n FROM t").is_ok_and(|rows| rows == "2")
    });

    // One client has gone when its node goes on: that it has asked for a COMMIT is no reason to send it.
    send(&mut gone, "COMMIT");
    drop(gone);
    failover.nodes.go_on(&left);
    assert_eq!(answer(&mut writing), ["ERROR 08007", "ZI"]);
    assert_eq!(told(&inside.query("COMMIT")), ["ERROR 08006", "ZI"]);
    done(&mut writing, "INSERT INTO t VALUES (3)", "INSERT 0 1", 'I');
    assert_eq!(failover.server(&new).psql(&database, "SELECT n FROM t").unwrap(), "3");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    eventually(PATIENCE, "its transactions end", || old.psql("postgres", open).is_ok_and(|open| open == "0"));
    assert_eq!(old.psql(&database, "SELECT n FROM t").unwrap(), "2", "neither is committed");
}
