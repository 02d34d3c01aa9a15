//! Standbys whose replay stands still, or that cancel queries to go on with it.

use postgres_protocol::message::frontend;

use super::consistency::{pause, resume};
use super::routing::{route, run, standbys_read, wait_for_catalog};
use super::support::*;

const EVENTUAL: &str = "[split]\nconsistency = \"eventual\"\nmax_lag_ms = 0\n";

fn log_in(komainu: &Komainu, user: &str, password: &str, database: &str) -> Result<Wire, String> {
    let mut wire = komainu.wire();
    wire.startup(&[("user", user), ("database", database)]);
    let last = wire.authenticate(user, password);
    if last.tag == 'Z' { Ok(wire) } else { Err(format!("{} {}", last.sqlstate(), last.text())) }
}

#[test]
fn roles_and_passwords_a_standby_has_not_replayed_work_at_once() {
    let cluster = Cluster::start(1);
    let primary = cluster.primary();
    let query = "[auth.query]\nuser = \"postgres\"\ncache_ms = 0\n";
    let komainu =
        Komainu::builder(&cluster).config(&standbys_read(&cluster)).config(EVENTUAL).config(query).start();
    primary.psql("postgres", "CREATE ROLE known LOGIN PASSWORD 'first'").unwrap();
    cluster.servers().wait_for_replay().unwrap();
    let mut known = log_in(&komainu, "known", "first", "postgres").unwrap();
    assert_eq!(
        known.query_value("SELECT current_setting('in_hot' || '_standby')"),
        "on",
        "read on the standby"
    );

    pause(&cluster, 0);
    primary.psql("postgres", "CREATE ROLE fresh LOGIN PASSWORD 'new'").unwrap();
    primary.psql("postgres", "ALTER ROLE known PASSWORD 'second'").unwrap();
    // A database in which no connection for it is open yet, so that the standby is asked for one.
    primary.psql("postgres", "CREATE DATABASE later").unwrap();
    for (user, password, database) in
        [("fresh", "new", "postgres"), ("known", "second", "template1"), ("known", "second", "later")]
    {
        let mut wire = log_in(&komainu, user, password, database).unwrap();
        for _ in 0..3 {
            assert_eq!(wire.query_value("SELECT current_user"), user, "{database}");
        }
        let (server, why) = route(&mut wire);
        assert_eq!(server, "pg1", "{why}");
        assert!(why.starts_with("refused"), "{why}");
    }
    assert!(log_in(&komainu, "known", "first", "postgres").is_err(), "the old password is over");

    resume(&cluster, 0);
    for (user, password) in [("fresh", "new"), ("known", "second")] {
        let mut wire = log_in(&komainu, user, password, "postgres").unwrap();
        eventually(PATIENCE, "reads go to the standby again", || {
            wire.query_value("SELECT current_setting('in_hot' || '_standby')") == "on"
        });
    }
}

#[test]
fn a_password_that_was_changed_leads_to_the_standbys_again() {
    let cluster = Cluster::start(1);
    let komainu = Komainu::builder(&cluster)
        .config(&standbys_read(&cluster))
        .config(EVENTUAL)
        .user("rotated", "first")
        .start();
    let primary = cluster.primary();
    primary.psql("postgres", "CREATE ROLE rotated LOGIN PASSWORD 'first'").unwrap();
    cluster.servers().wait_for_replay().unwrap();
    let mut wire = log_in(&komainu, "rotated", "first", "postgres").unwrap();
    let on_standby = "SELECT current_setting('in_hot' || '_standby')";
    assert_eq!(wire.query_value(on_standby), "on");
    drop(wire);

    primary.psql("postgres", "ALTER ROLE rotated PASSWORD 'second'").unwrap();
    cluster.servers().wait_for_replay().unwrap();
    komainu.reload("users.txt", "\"first\"", "\"second\"");
    let mut wire = log_in(&komainu, "rotated", "second", "postgres").unwrap();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'rotated'";
    cluster.standby(0).psql("postgres", end).unwrap();
    eventually(PATIENCE, "what was open is gone", || {
        cluster.standby(0).psql("postgres", end).unwrap() == "0"
    });
    eventually(PATIENCE, "reads go to the standby again", || wire.query_value(on_standby) == "on");
}

#[test]
fn a_read_that_replay_cancels_is_asked_again_where_that_is_honest() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    let standby = cluster.standby(0);
    standby.configure("max_standby_streaming_delay", "0").unwrap();
    standby.reload().unwrap();
    cluster.prepare(
        &database,
        &format!(
            "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n; ALTER TABLE t OWNER TO {APP_USER}"
        ),
    );
    let komainu = Komainu::builder(&cluster).config(&standbys_read(&cluster)).config(EVENTUAL).start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "t");
    // Hangs on the standby only.
    let hang = |rows: &str, from: u32| {
        format!(
            "/* komainu: server=pg2 */ SELECT {rows} FROM generate_series(1, 1000) n \
             WHERE CASE WHEN pg_is_in_recovery() AND n > {from} THEN pg_sleep(300) IS NULL ELSE true END"
        )
    };
    // Removes what the statement's snapshot still sees, once the standby runs it.
    let conflict = || {
        let hangs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND state = 'active'";
        eventually(PATIENCE, "it runs", || standby.psql("postgres", hangs).unwrap() == "1");
        eventually(PATIENCE, "it is cancelled", || {
            for sql in ["UPDATE t SET n = n", "VACUUM t"] {
                cluster.primary().psql(&database, sql).unwrap();
            }
            standby.psql("postgres", hangs).unwrap() == "0"
        });
        // Nothing of it is left that would cancel the next one.
        cluster.servers().wait_for_replay().unwrap();
    };
    let ask = |wire: &mut Wire, sql: &str| wire.encode(|buffer| frontend::query(sql, buffer));
    let error = |messages: &[Message]| {
        messages.iter().find(|message| message.tag == 'E').map(|message| (message.sqlstate(), message.text()))
    };

    ask(&mut wire, &hang("count(*)", 0));
    conflict();
    let answer = wire.until('Z');
    assert_eq!(error(&answer), None, "nothing was relayed: the primary is asked");
    assert_eq!(first_value(&answer).as_deref(), Some("1000"));
    assert!(route(&mut wire).1.starts_with("refused"));
    let refused = "komainu_reads_to_primary_total{reason=\"refused\"}";
    assert_eq!(komainu.metric(refused), Some(1.0));

    // Rows were relayed: another server's would be others. More than the server keeps back (8 kB), and less than
    // the sockets take while nobody reads.
    ask(&mut wire, &hang("n, repeat('x', 1000)", 50));
    conflict();
    let answer = wire.until('Z');
    assert!(answer.iter().any(|message| message.tag == 'D'), "no row was relayed");
    let (state, text) = error(&answer).expect("it was cancelled");
    assert_eq!((state.as_str(), text.contains("conflict with recovery")), ("40001", true), "{text}");
    assert_eq!(wire.query_value("SELECT 1"), "1", "the session goes on");

    // In a transaction what was read before belongs to one snapshot.
    run(&mut wire, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
    assert_eq!(wire.query_value("SELECT current_setting('in_hot' || '_standby')"), "on");
    ask(&mut wire, &hang("count(*)", 0));
    conflict();
    assert_eq!(error(&wire.until('Z')).expect("it was cancelled").0, "40001");
    run(&mut wire, "ROLLBACK");
    assert_eq!(wire.query_value("SELECT count(*) FROM t"), "1000");
    assert_eq!(komainu.metric(refused), Some(1.0), "asked again only where that is honest");
}

#[test]
fn the_standby_that_is_least_behind_is_preferred() {
    let cluster = Cluster::start(2);
    let database = cluster.database();
    let komainu = Komainu::builder(&cluster)
        .config(&standbys_read(&cluster))
        .config("[split]\nconsistency = \"eventual\"\nmax_lag_ms = 0\nprefer_least_lag = true\n")
        .start();
    for (behind, ahead) in [(0, "pg3"), (1, "pg2")] {
        pause(&cluster, behind);
        let sql =
            "CREATE TABLE IF NOT EXISTS filler (n int); INSERT INTO filler SELECT generate_series(1, 10000)";
        cluster.primary().psql(&database, sql).unwrap();
        let lag = |id: &str| komainu.metric(&format!("komainu_replication_lag_bytes{{server=\"{id}\"}}"));
        let slow = ["pg2", "pg3"][behind];
        eventually(PATIENCE, "one is behind, the other is not", || {
            lag(slow) > Some(100_000.0) && lag(ahead) == Some(0.0)
        });
        for _ in 0..10 {
            let mut wire = komainu.login(&database);
            assert_eq!(wire.query_value("SELECT current_setting('in_hot' || '_standby')"), "on");
            assert_eq!(route(&mut wire).0, ahead);
        }
        resume(&cluster, behind);
        eventually(PATIENCE, "it has caught up", || lag(slow) == Some(0.0));
    }
}
