//! How many server connections there are, who gets one, and what becomes of it when either side dies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::support::*;

/// All on the primary, with this `[pool]` section and whatever follows it.
fn komainu(config: &str) -> Komainu {
    Komainu::start_with(Cluster::shared(), &format!("[split]\nenabled = false\n[pool]\n{config}"))
}

/// What the primary sees of a database, as superuser and past komainu.
fn on_primary(sql: &str) -> String {
    Cluster::shared().primary().psql("postgres", sql).unwrap()
}

fn backends(database: &str) -> usize {
    on_primary(&format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND usename = 'app'"
    ))
    .parse()
    .unwrap()
}

fn pid(wire: &mut Wire) -> String {
    wire.query_value("SELECT pg_backend_pid()")
}

fn error_of(messages: &[Message]) -> (String, String) {
    let error = messages.iter().find(|m| m.tag == 'E');
    error.map(|e| (e.sqlstate(), e.text())).unwrap_or_default()
}

/// The server reads the rest of the message whatever has become of the COPY, and from whomever.
#[test]
fn a_copy_that_fails_in_the_middle_of_a_message_keeps_its_connection_to_the_end_of_it() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    // With standbys the primary is asked how far it has written.
    for config in ["[split]\nenabled = false\n[pool]\nsize = 1", "[pool]\nsize = 1"] {
        let komainu = Komainu::start_with(cluster, config);
        let (mut copying, mut other) = (komainu.login(&database), komainu.login(&database));
        let before = pid(&mut copying);
        copying.send_message('Q', b"COPY t FROM STDIN\0");
        copying.expect('G');
        let rest = b"Q\0\0\0\x1dINSERT INTO t VALUES (1)\0".repeat(20);
        let header = [b"d".as_slice(), &(4 + 2 + rest.len() as u32).to_be_bytes(), b"2\n"].concat();
        copying.send_message('d', b"not a number\n");
        copying.send(&header);
        assert_eq!(tags(&copying.until('Z')), "EZ");
        let other = thread::spawn(move || other.query_value("SELECT count(*) FROM t"));
        copying.send(&rest[..100]);
        copying.send(&rest[100..]);
        assert_eq!(other.join().unwrap(), "0", "{config}");
        assert_eq!(copying.query_value("SELECT count(*) FROM t"), "0", "{config}");
        if config.contains("enabled = false") {
            assert_eq!(pid(&mut copying), before);
        }
    }
}

#[test]
fn fifty_clients_share_as_many_connections_as_the_pool_has() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 3\n");
    let most = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut wire = komainu.login(&database);
                for n in 0..10 {
                    assert_eq!(wire.query_value(&format!("SELECT {n} FROM pg_sleep(0.002)")), n.to_string());
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        while done.load(Ordering::Relaxed) < 50 {
            most.fetch_max(backends(&database), Ordering::Relaxed);
        }
    });
    assert_eq!(most.load(Ordering::Relaxed), 3);
}

#[test]
fn clients_that_wait_are_served_in_order() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 1\n");
    let mut first = komainu.login(&database);
    first.query("CREATE TABLE t (n int, at serial)");
    let mut others: Vec<_> = (0..6).map(|_| komainu.login(&database)).collect();
    first.query("BEGIN");
    for (n, wire) in others.iter_mut().enumerate() {
        wire.encode(|b| {
            postgres_protocol::message::frontend::query(&format!("INSERT INTO t VALUES ({n})"), b)
        });
        eventually(PATIENCE, "the client waits", || {
            komainu.metric("komainu_pool_waiters") == Some(n as f64 + 1.0)
        });
    }
    first.query("COMMIT");
    for wire in &mut others {
        assert_eq!(tags(&wire.until('Z')), "CZ");
    }
    assert_eq!(first.query_value("SELECT string_agg(n::text, '' ORDER BY at) FROM t"), "012345");
}

#[test]
fn a_client_that_waited_too_long_is_told_so_and_goes_on() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 1\nacquire_timeout_ms = 1000\n");
    let (mut holder, mut waiter) = (komainu.login(&database), komainu.login(&database));
    holder.query("BEGIN");
    let began = Instant::now();
    let (state, text) = error_of(&waiter.query("SELECT 1"));
    assert_eq!(state, "53300");
    assert!(text.contains("no server connection became free within 1000 ms"), "{text}");
    assert!(text.contains(&database), "{text}");
    assert!((800..6000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    // The same in the extended protocol, where the rest of the batch is skipped.
    let refused = waiter.pipeline(Pipeline::new().parse("s", "SELECT 1").run("s", &[]));
    assert_eq!((tags(&refused), error_of(&refused).0), ("EZ".into(), "53300".into()));
    holder.query("COMMIT");
    assert_eq!(waiter.query_value("SELECT 'goes on'"), "goes on");
    assert_eq!(waiter.pipeline(Pipeline::new().run("s", &[]))[0].sqlstate(), "26000");
}

#[test]
fn the_reserve_opens_for_those_who_wait_long() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 1\nreserve = 1\nreserve_after_ms = 400\nacquire_timeout_ms = 5000\n");
    let mut wires: Vec<_> = (0..3).map(|_| komainu.login(&database)).collect();
    wires[0].query("BEGIN");
    let began = Instant::now();
    assert_eq!(wires[1].query_value("BEGIN; SELECT 'reserve'"), "reserve");
    assert!(began.elapsed() >= Duration::from_millis(380), "{:?}", began.elapsed());
    assert_eq!(backends(&database), 2);
    assert_eq!(error_of(&wires[2].query("SELECT 1")).0, "53300", "the reserve has an end, too");
}

#[test]
fn connections_end_after_their_idle_time_and_their_life() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 4\nmin = 1\nidle_timeout_ms = 400\n");
    let mut wires: Vec<_> = (0..3).map(|_| komainu.login(&database)).collect();
    wires.iter_mut().for_each(|wire| drop(wire.query("BEGIN")));
    assert_eq!(backends(&database), 3);
    wires.iter_mut().for_each(|wire| drop(wire.query("COMMIT")));
    eventually(PATIENCE, "all but the minimum end", || backends(&database) == 1);
    assert_eq!(wires[0].query_value("SELECT 1"), "1");

    let database = Cluster::shared().database();
    let komainu = self::komainu("size = 1\nlifetime_ms = 500\n");
    let mut wire = komainu.login(&database);
    wire.query("BEGIN");
    let first = pid(&mut wire);
    eventually(PATIENCE, "another connection", || {
        assert_eq!(pid(&mut wire), first, "in a transaction it stays");
        on_primary(&format!(
            "SELECT now() - backend_start > '700 ms' FROM pg_stat_activity WHERE pid = {first}"
        )) == "t"
    });
    wire.query("COMMIT");
    // What a client asks before its connection has gone back is still answered by that.
    eventually(PATIENCE, "it is another connection", || pid(&mut wire) != first);
}

#[test]
fn new_connections_are_paced_after_all_were_killed() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = komainu("size = 30\nconnect_rate = 10\n");
    let mut wires: Vec<_> = (0..25).map(|_| komainu.login(&database)).collect();
    let sleep = |wires: &mut Vec<Wire>| {
        for wire in wires.iter_mut() {
            wire.encode(|b| postgres_protocol::message::frontend::query("SELECT pg_sleep(3)", b));
        }
        for wire in wires.iter_mut() {
            let end = loop {
                match wire.try_message(PATIENCE).unwrap() {
                    Some(message) if message.tag == 'Z' => break message,
                    Some(_) => {}
                    None => panic!("the session ended"),
                }
            };
            assert_eq!(end.body, b"I");
        }
    };
    sleep(&mut wires);
    on_primary(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    ));
    eventually(PATIENCE, "all are gone", || backends(&database) == 0);
    let begun = on_primary("SELECT clock_timestamp()");
    sleep(&mut wires);
    // Of the new ones, by the server's clock, no more than a second's burst and then the rate.
    let opened = |condition: &str| -> usize {
        let ours = format!("datname = '{database}' AND usename = 'app'");
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {ours} AND {condition}");
        on_primary(&sql).parse().unwrap()
    };
    let at_once = format!("backend_start <= timestamptz '{begun}' + interval '900 ms'");
    let (soon, later) = (opened(&at_once), opened(&format!("NOT {at_once}")));
    assert!(soon <= 22 && later > 0 && soon + later > 20, "{soon} in a second, and {later} later");
}

/// Each would otherwise be committed by itself, as soon as there is a connection.
#[test]
fn what_was_sent_behind_a_begin_that_is_refused_does_not_last() {
    let database = Cluster::shared().database();
    for mode in ["transaction", "session"] {
        let komainu = komainu(&format!("size = 1\nmode = \"{mode}\"\nacquire_timeout_ms = 1000\n"));
        let mut holder = komainu.login(&database);
        holder.query("DROP TABLE IF EXISTS t; CREATE TABLE t (n int)");
        holder.query("BEGIN");
        let (mut simple, mut extended) = (komainu.login(&database), komainu.login(&database));
        let insert = "INSERT INTO t VALUES (1)";
        simple.send_pipeline(Pipeline::new().query("BEGIN").query(insert).query("COMMIT"));
        let batch = |pipeline: Pipeline, sql| pipeline.parse("", sql).run("", &[]);
        extended.send_pipeline(batch(batch(batch(Pipeline::new(), "BEGIN"), insert), "COMMIT"));
        for (wire, end) in [(&mut simple, "CZ"), (&mut extended, "12CZ")] {
            for (state, status) in [("53300", b"E"), ("25P02", b"E")] {
                let messages = wire.until('Z');
                assert_eq!((error_of(&messages).0.as_str(), &*messages[1].body), (state, &status[..]));
            }
            assert_eq!(tags(&wire.until('Z')), end);
        }
        // One that waits for each answer may try again.
        assert_eq!(error_of(&simple.query("BEGIN")).0, "53300");
        holder.query("COMMIT");
        drop(holder);
        eventually(PATIENCE, "there is a connection", || tags(&simple.query("BEGIN")) == "CZ");
        assert_eq!(simple.query_value("SELECT count(*) FROM t"), "0");
        simple.query("COMMIT");
    }
}

#[test]
fn in_session_mode_a_client_keeps_its_connection() {
    let database = Cluster::shared().database();
    let komainu = komainu(&format!(
        "size = 1\n[[pool.override]]\ndatabase = \"{database}\"\nmode = \"session\"\nsize = 2\n"
    ));
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query("CREATE TEMP TABLE t AS SELECT 'mine' AS v; PREPARE p AS SELECT v FROM t; SELECT 1");
    let (of_a, of_b) = (pid(&mut a), pid(&mut b));
    assert_ne!(of_a, of_b);
    assert_eq!((pid(&mut a), a.query_value("EXECUTE p")), (of_a.clone(), "mine".into()));
    assert_eq!(a.query_value("SHOW komainu.pins"), "session_mode");
    a.send_message('X', b"");
    a.expect_end();
    let mut c = komainu.login(&database);
    assert_eq!(pid(&mut c), of_a, "the connection is used again");
    assert_eq!(c.query("SELECT v FROM t").iter().find(|m| m.tag == 'E').unwrap().sqlstate(), "42P01");
}

#[test]
fn all_pools_together_keep_to_the_servers_limit() {
    let cluster = Cluster::shared();
    let databases = [cluster.database(), cluster.database()];
    let komainu = komainu("size = 3\nmax_server_connections = 3\nacquire_timeout_ms = 1000\n");
    let mut wires: Vec<_> = (0..6).map(|n| komainu.login(&databases[n % 2])).collect();
    let refused =
        wires.iter_mut().filter_map(|wire| Some(error_of(&wire.query("BEGIN")).0).filter(|s| !s.is_empty()));
    assert_eq!(refused.collect::<Vec<_>>(), ["53300"; 3]);
    assert_eq!(databases.iter().map(|database| backends(database)).sum::<usize>(), 3);
    wires.iter_mut().for_each(|wire| drop(wire.query("ROLLBACK")));
    assert_eq!(wires[5].query_value("SELECT 1"), "1");
}

#[test]
fn clients_that_idle_too_long_are_ended() {
    let database = Cluster::shared().database();
    let komainu =
        komainu("size = 1\n[limits]\nidle_in_transaction_timeout_ms = 1500\nclient_idle_timeout_ms = 3000\n");
    let mut a = komainu.login(&database);
    a.query("CREATE TABLE t (n int)");
    a.query("BEGIN");
    // What runs longer than the timeout is not idle, and time begins when it ends.
    assert_eq!(a.query_value("SELECT 1 FROM pg_sleep(2)"), "1");
    assert_eq!(tags(&a.query("INSERT INTO t VALUES (1)")), "CZ");
    let end = a.expect_end();
    assert_eq!((end.len(), end[0].field('S'), end[0].sqlstate()), (1, "FATAL".into(), "25P03".into()));
    let mut b = komainu.login(&database);
    let began = Instant::now();
    assert_eq!(b.query_value("SELECT (SELECT count(*) FROM t) FROM pg_sleep(3.5)"), "0");
    let end = b.expect_end();
    assert_eq!((end.len(), end[0].field('S'), end[0].sqlstate()), (1, "FATAL".into(), "57P05".into()));
    assert!(began.elapsed() >= Duration::from_millis(6300), "{:?}", began.elapsed());
}

#[test]
fn a_connection_that_dies_idle_is_not_noticed() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 2\n");
    let mut wire = komainu.login(&database);
    wire.pipeline(Pipeline::new().parse("s", "SELECT $1 || '!'").sync());
    for _ in 0..5 {
        let pid = pid(&mut wire);
        assert_eq!(on_primary(&format!("SELECT pg_terminate_backend({pid}, 5000)")), "t");
        assert_eq!(wire.run_prepared("s", &["again"]), "again!");
    }
}

#[test]
fn a_connection_that_dies_in_a_transaction_fails_that_client_alone() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 2\n");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query("CREATE TABLE t (n int)");
    b.query("BEGIN");
    b.query("INSERT INTO t VALUES (1)");
    a.query("BEGIN");
    a.query("INSERT INTO t VALUES (2)");
    let pid = pid(&mut a);
    assert_eq!(on_primary(&format!("SELECT pg_terminate_backend({pid}, 5000)")), "t");
    let told = a.query("INSERT INTO t VALUES (3)");
    assert_eq!((tags(&told), error_of(&told).0), ("EZ".into(), "08006".into()));
    assert_eq!(error_of(&a.query("SELECT 1")).0, "25P02");
    assert_eq!(tags(&a.query("ROLLBACK")), "CZ");
    b.query("COMMIT");
    assert_eq!(a.query_value("SELECT string_agg(n::text, ',') FROM t"), "1");
}

#[test]
fn a_write_whose_connection_dies_has_an_unknown_outcome() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    let komainu = Komainu::start_with(&cluster, "[split]\nenabled = false\n");
    let mut wire = komainu.login(&database);
    wire.query("CREATE TABLE t (n int)");
    wire.encode(|b| {
        postgres_protocol::message::frontend::query("INSERT INTO t SELECT 1 FROM pg_sleep(20)", b)
    });
    let running =
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'INSERT INTO t SELECT%' AND state = 'active'";
    let mut pid = String::new();
    eventually(PATIENCE, "it runs", || {
        pid = cluster.primary().psql("postgres", running).unwrap();
        !pid.is_empty()
    });
    // Without a word: as when the machine is gone.
    komainu::sandbox::process::signal(pid.parse().unwrap(), Signal::KILL);
    let told = wire.until('Z');
    assert_eq!(error_of(&told).0, "08007", "{}", transcript(&told));
    assert_eq!(told.last().unwrap().body, b"I");
    eventually(PATIENCE, "the session goes on with the restarted server", || {
        let messages = wire.query("SELECT count(*) FROM t");
        first_value(&messages) == Some("0".into())
    });
}

#[test]
fn a_client_that_vanishes_in_a_transaction_leaves_no_locks() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 2\n");
    let mut other = komainu.login(&database);
    other.query("CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    let leave: [fn(Wire); 4] = [
        |mut wire| {
            wire.send_message('X', b"");
            wire.expect_end();
        },
        |wire| wire.reset(),
        |mut wire| {
            wire.half_close();
            wire.expect_end();
        },
        |mut wire| {
            // In the middle of a statement that would run on for long.
            wire.encode(|b| postgres_protocol::message::frontend::query("SELECT pg_sleep(60)", b));
            eventually(PATIENCE, "it runs", || {
                on_primary("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'") != "0"
            });
            wire.reset();
        },
    ];
    for (n, leave) in leave.into_iter().enumerate() {
        let mut wire = komainu.login(&database);
        wire.query("BEGIN");
        wire.query("UPDATE t SET n = n + 1");
        let began = Instant::now();
        leave(wire);
        assert_eq!(tags(&other.query("SET lock_timeout = '5s'; UPDATE t SET n = n + 10")), "CCZ");
        // The limit is one second on an idle machine.
        assert!(began.elapsed() < Duration::from_secs(4), "{n}: {:?}", began.elapsed());
    }
    assert_eq!(other.query_value("SELECT n FROM t"), "41");
    assert_eq!(backends(&database), 2);
}

#[test]
fn sigterm_lets_transactions_finish_and_tells_the_others() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 3\n[limits]\nshutdown_timeout_ms = 20000\n");
    let (mut busy, mut idle, mut running) =
        (komainu.login(&database), komainu.login(&database), komainu.login(&database));
    busy.query("CREATE TABLE t (n int)");
    busy.query("BEGIN");
    busy.query("INSERT INTO t VALUES (1)");
    running.encode(|b| postgres_protocol::message::frontend::query("SELECT 'done' FROM pg_sleep(4)", b));
    eventually(PATIENCE, "it runs", || {
        on_primary(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT ''done''%' AND state = 'active'",
        ) != "0"
    });
    komainu.signal(Signal::TERM);
    let end = idle.expect_end();
    assert_eq!((end.len(), end[0].field('S'), end[0].sqlstate()), (1, "FATAL".into(), "57P01".into()));
    assert!(std::net::TcpStream::connect(("127.0.0.1", komainu.port())).is_err(), "new clients are refused");
    assert_eq!(first_value(&running.until('Z')), Some("done".into()));
    assert_eq!(running.expect_end()[0].sqlstate(), "57P01");
    assert_eq!(tags(&busy.query("INSERT INTO t VALUES (2)")), "CZ");
    assert_eq!(tags(&busy.query("COMMIT")), "CZ");
    assert_eq!(busy.expect_end()[0].sqlstate(), "57P01");
    assert!(komainu.wait(Duration::from_secs(10)).success());
    assert_eq!(Cluster::shared().primary().psql(&database, "SELECT count(*) FROM t").unwrap(), "2");
}

#[test]
fn sigterm_has_an_end() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 1\n[limits]\nshutdown_timeout_ms = 500\n");
    let mut wire = komainu.login(&database);
    wire.query("BEGIN");
    komainu.signal(Signal::TERM);
    assert_eq!(wire.expect_end()[0].sqlstate(), "57P01");
    assert!(komainu.wait(Duration::from_secs(10)).success());
    eventually(PATIENCE, "nothing is left on the server", || backends(&database) == 0);
}

#[test]
fn sighup_changes_what_can_change() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, &format!("CREATE ROLE {database}_new LOGIN PASSWORD 'new secret'"));
    let komainu = komainu("size = 1\nacquire_timeout_ms = 1000\n");
    let new_user = format!("{database}_new");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query("BEGIN");
    assert_eq!(error_of(&b.query("SELECT 1")).0, "53300");
    let log_in = || {
        let mut wire = komainu.wire();
        wire.startup(&[("user", &new_user), ("database", &database)]);
        wire.authenticate(&new_user, "new secret").sqlstate()
    };
    assert_eq!(log_in(), "28P01");

    komainu.reload("komainu.toml", "size = 1", "size = 2");
    assert_eq!(b.query_value("BEGIN; SELECT 'a second connection'"), "a second connection");
    komainu.reload("users.txt", "\"app\"", &format!("\"{new_user}\" \"new secret\"\n\"app\""));
    assert_eq!(log_in(), "");
    komainu.reload(
        "hba.conf",
        "host all all all",
        &format!("host all {new_user} all reject\nhost all all all"),
    );
    assert_eq!(log_in(), "28000");
    // Sessions go on whatever changes, and fewer connections are kept when the pool shrinks.
    komainu.reload("komainu.toml", "size = 2", "size = 1");
    assert_eq!(tags(&a.query("COMMIT")), "CZ");
    assert_eq!(tags(&b.query("COMMIT")), "CZ");
    eventually(PATIENCE, "the pool has shrunk", || backends(&database) == 1);

    komainu.reload("komainu.toml", "workers = 2", "workers = 3");
    komainu.says("these keys change only with a restart");
    komainu.says("workers");
    komainu.reload("komainu.toml", "size = 1", "size = \"one\"");
    komainu.says("was not reloaded");
    assert_eq!(a.query_value("SELECT 1"), "1");
}

#[test]
fn a_storm_of_clients_that_come_and_go_leaves_the_pool_as_it_was() {
    let database = Cluster::shared().database();
    let komainu = komainu("size = 3\n");
    let start = Arc::new(Barrier::new(12));
    thread::scope(|scope| {
        for n in 0..12 {
            let (start, komainu, database) = (start.clone(), &komainu, &database);
            scope.spawn(move || {
                start.wait();
                for round in 0..8 {
                    let mut wire = komainu.login(database);
                    match (n + round) % 4 {
                        0 => drop(wire.query("BEGIN; SELECT 1")),
                        1 => wire.encode(|b| {
                            postgres_protocol::message::frontend::query("SELECT pg_sleep(0.05)", b)
                        }),
                        2 => wire.send_pipeline(Pipeline::new().parse("s", "SELECT 1").bind("", "s", &[])),
                        _ => drop(wire.query("SELECT 1")),
                    }
                    if n % 2 == 0 { wire.reset() } else { drop(wire) }
                }
            });
        }
    });
    eventually(PATIENCE, "nobody waits and nothing is leased", || {
        komainu.metric("komainu_server_connections{server=\"pg1\",state=\"active\"}") == Some(0.0)
            && komainu.metric("komainu_pool_waiters") == Some(0.0)
    });
    // A server process ends a moment after its connection.
    eventually(PATIENCE, "no more than the pool's are left", || backends(&database) <= 3);
    let mut wires: Vec<_> = (0..3).map(|_| komainu.login(&database)).collect();
    wires.iter_mut().for_each(|wire| assert_eq!(tags(&wire.query("BEGIN")), "CZ"));
    eventually(PATIENCE, "each has one", || backends(&database) == 3);
}
