//! What clients are told when the server dies under them: what is known, no more and no less.

use crate::support::{Cluster, Komainu, PATIENCE, Wire, eventually, tags};

const RELAYED: &str = "komainu_bytes_total{direction=\"to_servers\"}";

/// Sends a query that a frozen server will not answer, and waits until komainu has passed it on.
fn send_on(komainu: &Komainu, wire: &mut Wire, sql: &str) {
    let before = komainu.metric(RELAYED).unwrap();
    wire.send_message('Q', format!("{sql}\0").as_bytes());
    let passed_on = before + sql.len() as f64;
    eventually(PATIENCE, "the query is passed on", || komainu.metric(RELAYED).unwrap() > passed_on);
}

#[test]
fn a_client_learns_whether_the_outcome_is_known() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); INSERT INTO t VALUES (0); GRANT ALL ON t TO PUBLIC");
    let komainu = Komainu::start(&cluster);
    let open = || komainu.login(&database);
    let (mut idle, mut in_transaction, mut committing) = (open(), open(), open());
    let (mut writing, mut reading, mut pinned) = (open(), open(), open());
    assert_eq!(idle.query_value("SELECT n FROM t"), "0");
    in_transaction.query("BEGIN");
    in_transaction.query("INSERT INTO t VALUES (1)");
    committing.query("BEGIN");
    committing.query("INSERT INTO t VALUES (2)");
    pinned.query("LISTEN x");
    // Two at a time, so that two idle connections are there afterwards.
    for sql in ["BEGIN", "ROLLBACK"] {
        writing.query(sql);
        reading.query(sql);
    }

    cluster.primary().freeze();
    send_on(&komainu, &mut in_transaction, "INSERT INTO t VALUES (4)");
    send_on(&komainu, &mut committing, "COMMIT");
    send_on(&komainu, &mut writing, "INSERT INTO t VALUES (5)");
    send_on(&komainu, &mut reading, "SELECT 1");
    send_on(&komainu, &mut pinned, "INSERT INTO t VALUES (6)");
    cluster.primary().kill();

    for (what, wire, state) in [
        ("a statement inside a transaction", &mut in_transaction, "08006"),
        ("a COMMIT", &mut committing, "08007"),
        ("a write of a pinned session", &mut pinned, "08007"),
    ] {
        let last = wire.expect_end();
        assert_eq!(tags(&last), "E", "{what}");
        assert_eq!((last[0].field('S'), last[0].sqlstate()), ("FATAL".into(), state.into()), "{what}");
    }
    for (what, wire, state) in
        [("a write by itself", &mut writing, "08007"), ("a read by itself", &mut reading, "08006")]
    {
        let answer = wire.until('Z');
        assert_eq!(tags(&answer), "EZ", "{what}");
        assert_eq!((answer[0].field('S'), answer[0].sqlstate()), ("ERROR".into(), state.into()), "{what}");
    }

    cluster.primary().start().unwrap();
    for wire in [&mut idle, &mut writing, &mut reading] {
        assert_eq!(wire.query_value("SELECT min(n) FROM t"), "0", "the session goes on");
    }
}
