//! Servers that die, stand still, fall behind, restart and change roles under their clients.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use komainu::sandbox::StopMode;
use postgres_protocol::message::frontend;
use rustix::process::Signal;
use serde_json::Value;

use super::routing::{bind_execute, parse, put_bind, route, run, standbys_read, sync, values, went_to};
use super::support::*;

fn start(cluster: &Cluster, config: &str) -> Komainu {
    Komainu::builder(cluster)
        .config(&standbys_read(cluster))
        .config("[health]\ntimeout_ms = 500\nretries = 2\n[split]\nconsistency = \"eventual\"\n")
        .config(config)
        .start()
}

fn error(messages: &[Message]) -> Option<String> {
    messages.iter().find(|m| m.tag == 'E').map(Message::sqlstate)
}

/// Lets its clients end, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Until so many reads in a row went to this server.
fn reads_go_to(wire: &mut Wire, servers: &[&str]) {
    eventually(Duration::from_secs(20), &format!("reads go to {servers:?}"), || {
        let seen: Vec<_> = (0..20).map(|_| went_to(wire, "SELECT 1").0).collect();
        seen.iter().all(|s| servers.contains(&&**s)) && servers.iter().all(|s| seen.iter().any(|x| x == s))
    });
}

#[test]
fn a_standby_that_dies_hangs_or_lags_gets_no_reads_and_comes_back_by_itself() {
    let cluster = Cluster::start(2);
    let database = cluster.database();
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; CREATE TABLE t AS SELECT 1 AS n"));
    let komainu = start(&cluster, "[split]\nmax_lag_bytes = 100000\nmax_lag_ms = 60000\n");
    let mut wire = komainu.login(&database);
    reads_go_to(&mut wire, &["pg2", "pg3"]);

    cluster.standby(0).kill();
    reads_go_to(&mut wire, &["pg3"]);
    cluster.standby(0).start().unwrap();
    reads_go_to(&mut wire, &["pg2", "pg3"]);

    // Hung in the middle of nothing: whoever asks it meanwhile waits no longer than a look takes to fail.
    cluster.standby(1).freeze();
    reads_go_to(&mut wire, &["pg2"]);

    // The other is too far behind, so the primary reads.
    cluster.standby(0).psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    cluster
        .primary()
        .psql(&database, "CREATE TABLE big AS SELECT repeat('x', 500) FROM generate_series(1, 2000)")
        .unwrap();
    reads_go_to(&mut wire, &["pg1"]);
    assert!(route(&mut wire).1.starts_with("lag"), "{:?}", route(&mut wire));
    cluster.standby(1).thaw();
    reads_go_to(&mut wire, &["pg3"]);
    cluster.standby(0).psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    reads_go_to(&mut wire, &["pg2", "pg3"]);
    cluster.standby(0).stop(StopMode::Fast).unwrap();
    cluster.standby(1).stop(StopMode::Fast).unwrap();
    reads_go_to(&mut wire, &["pg1"]);
    assert!(komainu.metric("komainu_reads_to_primary_total{reason=\"lag\"}") >= Some(1.0));
    // The first of them may have gone there because a connection failed, before a look had told why.
    eventually(PATIENCE, "they are counted under their reason", || {
        reads_go_to(&mut wire, &["pg1"]);
        komainu.metric("komainu_reads_to_primary_total{reason=\"no_standby\"}") >= Some(20.0)
    });
}

#[test]
fn losing_a_standby_shows_readers_no_error() {
    let cluster = Cluster::start(2);
    let database = cluster.database();
    let komainu = start(&cluster, "[split]\nmax_lag_ms = 0\n");
    pgbench(&cluster_url(&cluster, &database), &["-i", "-q"]).output();
    cluster.servers().wait_for_replay().unwrap();

    // In the middle of a read of which nothing was relayed: asked elsewhere.
    let mut wire = komainu.login(&database);
    wire.encode(|buffer| frontend::query("/* komainu: server=pg2 */ SELECT max(length(repeat(md5(n::text), 20))) FROM generate_series(1, 1500000) n", buffer));
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series%' AND state = 'active' AND pid <> pg_backend_pid()";
    eventually(PATIENCE, "it runs", || cluster.standby(0).psql("postgres", busy).unwrap() == "1");
    cluster.standby(0).kill();
    let deadline = Duration::from_secs(60);
    let mut messages = Vec::new();
    while messages.last().is_none_or(|m: &Message| m.tag != 'Z') {
        messages.push(wire.try_message(deadline).unwrap().unwrap());
    }
    assert_eq!(values(&messages), ["640"]);
    cluster.standby(0).start().unwrap();
    reads_go_to(&mut wire, &["pg2", "pg3"]);

    let reads = |server: &str| {
        komainu
            .metric(&format!("komainu_queries_total{{server=\"{server}\",class=\"read\"}}"))
            .unwrap_or_default()
    };
    let read_on = |servers: &[&str]| {
        let before: Vec<_> = servers.iter().map(|server| reads(server)).collect();
        eventually(PATIENCE, &format!("{servers:?} are read from"), || {
            servers.iter().zip(&before).all(|(server, before)| reads(server) > before + 50.0)
        });
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let end = Stop(&stop);
        for _ in 0..20 {
            scope.spawn(|| {
                let mut wire = komainu.login(&database);
                parse(&mut wire, "r", "SELECT abalance FROM pgbench_accounts WHERE aid = 1");
                sync(&mut wire);
                while !stop.load(Ordering::Relaxed) {
                    bind_execute(&mut wire, "r");
                    assert_eq!(values(&sync(&mut wire)), ["0"]);
                }
            });
        }
        read_on(&["pg2", "pg3"]);
        cluster.standby(0).kill();
        read_on(&["pg3"]);
        cluster.standby(0).start().unwrap();
        read_on(&["pg2", "pg3"]);
        cluster.standby(1).stop(StopMode::Fast).unwrap();
        read_on(&["pg2"]);
        drop(end);
    });
}

#[test]
fn a_read_on_a_standby_that_hangs_is_asked_elsewhere_long_before_that_is_down() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    // It is never found down, and nobody looks at it but for those who wait.
    let komainu = Komainu::builder(&cluster)
        .config(&standbys_read(&cluster))
        .config("[split]\nconsistency = \"eventual\"\nmax_lag_ms = 0\n[pool]\nconnect_timeout_ms = 600000\nacquire_timeout_ms = 600000\n")
        .config("[health]\nperiod_ms = 600000\nconnect_timeout_ms = 600000\nretries = 1000\n")
        .start();
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    reads_go_to(&mut wire, &["pg2"]);
    cluster.standby(0).freeze();
    for wire in [&mut wire, &mut other] {
        wire.encode(|buffer| frontend::query("SELECT 42", buffer));
    }
    for wire in [&mut wire, &mut other] {
        assert_eq!(values(&wire.until('Z')), ["42"]);
        assert_eq!(route(wire).0, "pg1");
    }
    let status: Value = serde_json::from_str(&komainu.admin("/status").unwrap().body).unwrap();
    let standby = &status["servers"][1];
    assert_eq!((&standby["health"], &standby["role"]), (&"up".into(), &"unknown".into()), "{standby}");
    assert!(standby["reason"].as_str().unwrap().contains("timeout"), "{standby}");
    cluster.standby(0).thaw();
    komainu.signal(Signal::HUP);
    reads_go_to(&mut other, &["pg2"]);
}

#[test]
fn a_transaction_on_a_standby_that_hangs_ends_with_an_error_when_that_is_down() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    let komainu = start(&cluster, "[split]\nmax_lag_ms = 0\n[health]\nconnect_timeout_ms = 500\n");
    let mut wire = komainu.login(&database);
    reads_go_to(&mut wire, &["pg2"]);
    run(&mut wire, "BEGIN READ ONLY");
    assert_eq!(wire.query_value("SELECT current_setting('in_hot' || '_standby')"), "on");
    cluster.standby(0).freeze();
    assert_eq!(error(&wire.query("SELECT 42")).as_deref(), Some("08006"));
    assert_eq!(error(&wire.query("SELECT 42")).as_deref(), Some("25P02"));
    run(&mut wire, "ROLLBACK");
    assert_eq!(wire.query_value("SELECT 42"), "42");
    cluster.standby(0).thaw();
}

#[test]
fn a_node_that_drains_still_sees_that_a_standby_hangs() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    let health = "[split]\nmax_lag_ms = 0\n[health]\nconnect_timeout_ms = 500\n";
    let komainu = start(&cluster, &format!("{health}[limits]\nshutdown_timeout_ms = 600000\n"));
    let mut wire = komainu.login(&database);
    reads_go_to(&mut wire, &["pg2"]);
    run(&mut wire, "BEGIN READ ONLY");
    assert_eq!(wire.query_value("SELECT current_setting('in_hot' || '_standby')"), "on");
    komainu.signal(Signal::TERM);
    komainu.says("draining");
    cluster.standby(0).freeze();
    assert_eq!(error(&wire.query("SELECT 42")).as_deref(), Some("08006"));
    cluster.standby(0).thaw();
    assert_eq!(error(&wire.expect_end()).as_deref(), Some("57P01"));
    komainu.wait(PATIENCE);
}

fn cluster_url(cluster: &Cluster, database: &str) -> String {
    format!("postgres://{APP_USER}:app%27s%20secret@127.0.0.1:{}/{database}", cluster.primary().port())
}

#[test]
fn crossing_the_lag_limit_inside_a_batch_breaks_nothing() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    let komainu = start(&cluster, "[split]\nmax_lag_bytes = 1000\nmax_lag_ms = 0\n");
    let mut wire = komainu.login(&database);
    reads_go_to(&mut wire, &["pg2"]);
    let lag = |on: bool| {
        let how = if on { "pause" } else { "resume" };
        cluster.standby(0).psql("postgres", &format!("SELECT pg_wal_replay_{how}()")).unwrap();
        cluster
            .primary()
            .psql("postgres", "SELECT pg_logical_emit_message(false, 'x', repeat('x', 20000))")
            .unwrap();
        let mut other = komainu.login(&database);
        reads_go_to(&mut other, if on { &["pg1"] } else { &["pg2"] });
    };
    const FLUSH: [u8; 5] = [b'H', 0, 0, 0, 4];
    for name in ["", "named"] {
        for flush in [false, true] {
            parse(&mut wire, name, "SELECT 42::text");
            if flush {
                wire.send(&FLUSH);
                wire.expect('1');
            } else {
                assert_eq!(tags(&sync(&mut wire)), "1Z");
            }
            lag(true);
            let mut bind = bytes::BytesMut::new();
            put_bind(&mut bind, name);
            wire.send(&bind);
            wire.send(&FLUSH);
            wire.expect('2');
            lag(false);
            let mut execute = bytes::BytesMut::new();
            frontend::execute("", 0, &mut execute).unwrap();
            wire.send(&execute);
            assert_eq!(values(&sync(&mut wire)), ["42"], "{name:?} {flush}");
            if !name.is_empty() {
                wire.encode(|buffer| frontend::close(b'S', name, buffer));
                assert_eq!(tags(&sync(&mut wire)), "3Z");
            }
        }
    }
    // And whole batches, while it goes to and fro.
    parse(&mut wire, "kept", "SELECT 43::text");
    sync(&mut wire);
    for on in [true, false, true, false] {
        lag(on);
        bind_execute(&mut wire, "kept");
        assert_eq!(values(&sync(&mut wire)), ["43"]);
    }
}

#[test]
fn sessions_outlive_a_restart_of_the_primary_and_a_promotion_by_hand() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; CREATE TABLE t (n int)"));
    let komainu = start(&cluster, "[split]\nmax_lag_ms = 0\n[limits]\nhold_timeout_ms = 15000\n");
    let (mut idle, mut open, mut writing) =
        (komainu.login(&database), komainu.login(&database), komainu.login(&database));
    let hurried = start(&cluster, "[limits]\nhold_timeout_ms = 1000\n");
    let mut impatient = hurried.login(&database);
    run(&mut idle, "INSERT INTO t VALUES (1)");
    run(&mut open, "BEGIN; INSERT INTO t VALUES (2)");
    writing.encode(|buffer| frontend::query("INSERT INTO t SELECT 3 FROM pg_sleep(60)", buffer));
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually(PATIENCE, "the write runs", || cluster.primary().psql("postgres", sleeping).unwrap() == "1");
    cluster.primary().stop(StopMode::Fast).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| cluster.primary().start().unwrap());
        // Between transactions: it waits, and knows of nothing.
        for n in 0..20 {
            run(&mut idle, &format!("INSERT INTO t VALUES ({})", 100 + n));
        }
    });
    let mut rows = idle.query("SELECT n FROM t WHERE n = 2");
    assert_eq!(tags(&rows.split_off(1)), "CZ", "what was not committed is not there");
    assert_eq!(error(&open.query("SELECT 1")).as_deref(), Some("08006"), "the transaction is lost");
    assert_eq!(error(&open.query("SELECT 1")).as_deref(), Some("25P02"));
    assert_eq!(tags(&open.query("COMMIT")), "CZ");
    let answer = writing.until('E').pop().unwrap();
    assert_eq!(answer.sqlstate(), "08007", "{:?}", answer.error());

    // Killed, and nobody is promoted yet: a clear error within the time allowed.
    cluster.primary().kill();
    let begun = Instant::now();
    let refused = impatient.query("INSERT INTO t VALUES (400)").remove(0);
    assert_eq!(refused.tag, 'E', "{refused:?}");
    assert!(matches!(&*refused.sqlstate(), "57P03" | "08006" | "08001"), "{:?}", refused.error());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    thread::scope(|scope| {
        scope.spawn(|| run(&mut idle, "INSERT INTO t VALUES (200)"));
        cluster.standby(0).promote().unwrap();
    });
    assert_eq!(
        idle.query_value("SELECT current_setting('port') FROM t LIMIT 1"),
        cluster.standby(0).port().to_string()
    );
    assert_eq!(komainu.metric("komainu_primary{server=\"pg2\"}"), Some(1.0));

    // The old primary comes back and believes that it still is one.
    cluster.primary().start().unwrap();
    let before = cluster.primary().psql(&database, "SELECT count(*) FROM t").unwrap();
    eventually(PATIENCE, "it is seen for what it is", || {
        komainu.log().contains("old_primary") || idle.query_value("SHOW POOL_NODES").is_empty()
    });
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        run(&mut idle, "INSERT INTO t VALUES (300)");
        assert_eq!(went_to(&mut idle, "SELECT n FROM t LIMIT 1").0, "pg2");
        assert_eq!(went_to(&mut komainu.login(&database), "INSERT INTO t VALUES (301)").0, "pg2");
    }
    assert_eq!(cluster.primary().psql(&database, "SELECT count(*) FROM t").unwrap(), before);
    assert_eq!(error(&idle.query("SELECT count(*) FROM t")), None);
}

/// Invariants 5 and 7 by the clients' own books, while standbys die and come back.
#[test]
fn clients_books_agree_with_the_tables_through_restarts_of_standbys() {
    const CLIENTS: usize = 6;
    let cluster = Cluster::start(2);
    let database = cluster.database();
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; CREATE TABLE book (client int, seq int)"));
    let komainu = start(&cluster, "[split]\nconsistency = \"session\"\nmax_lag_ms = 0\n");
    let stop = AtomicBool::new(false);
    let written: Vec<i32> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (komainu, database, stop) = (&komainu, &database, &stop);
                scope.spawn(move || {
                    let mut wire = komainu.login(database);
                    parse(&mut wire, "w", &format!("INSERT INTO book SELECT {client}, 1 + coalesce(max(seq), 0) FROM book WHERE client = {client}"));
                    parse(&mut wire, "r", &format!("SELECT coalesce(max(seq), 0)::text FROM book WHERE client = {client}"));
                    sync(&mut wire);
                    let mut seq = 0;
                    while !stop.load(Ordering::Relaxed) {
                        bind_execute(&mut wire, "w");
                        values(&sync(&mut wire));
                        seq += 1;
                        for _ in 0..2 {
                            bind_execute(&mut wire, "r");
                            let seen = values(&sync(&mut wire)).remove(0);
                            assert_eq!(seen, seq.to_string(), "client {client}: {:?}", route(&mut wire));
                        }
                    }
                    seq
                })
            })
            .collect();
        let end = Stop(&stop);
        let until = Instant::now() + Duration::from_secs(15);
        let mut round = 0_u32;
        while Instant::now() < until {
            let standby = cluster.standby((round % 2) as usize);
            match round % 3 {
                0 => standby.kill(),
                1 => standby.stop(StopMode::Fast).unwrap(),
                _ => {
                    standby.freeze();
                    thread::sleep(Duration::from_millis(1200));
                    standby.thaw();
                }
            }
            thread::sleep(Duration::from_millis(500));
            standby.start().unwrap();
            thread::sleep(Duration::from_millis(u64::from(round % 4) * 200));
            round += 1;
        }
        drop(end);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for (client, seq) in written.iter().enumerate() {
        let sql = format!("SELECT count(*) || ' ' || max(seq) FROM book WHERE client = {client}");
        let found = cluster.primary().psql(&database, &sql).unwrap();
        assert_eq!(found, format!("{seq} {seq}"), "each write was done once");
        assert!(*seq > 10, "client {client} got on: {seq}");
    }
}
