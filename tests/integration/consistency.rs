//! What a session may see: its own writes, and never less than it has seen.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::routing::{
    bind_execute, parse, put_bind_execute, route, run, standbys_read, sync, values, wait_for_catalog, went_to,
};
use super::support::*;
use postgres_protocol::message::frontend;

fn session(cluster: &Cluster) -> KomainuBuilder {
    Komainu::builder(cluster).config(&standbys_read(cluster)).config("[split]\nmax_lag_ms = 0\n")
}

/// Ends the loops of other threads, also when the test fails.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn counters(cluster: &Cluster, sessions: i32) -> String {
    let database = cluster.database();
    let tables = "CREATE TABLE c (id int PRIMARY KEY, n bigint); CREATE TABLE log (id int, n bigint)";
    let rows = format!("INSERT INTO c SELECT i, 0 FROM generate_series(0, {sessions}) i");
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; {tables}; {rows}"));
    database
}

pub fn pause(cluster: &Cluster, standby: usize) {
    let standby = cluster.standby(standby);
    standby.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    eventually(PATIENCE, "replay is paused", || {
        standby.psql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap() == "paused"
    });
}

pub fn resume(cluster: &Cluster, standby: usize) {
    cluster.standby(standby).psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
}

/// One way to add one to a counter, and one to read it.
type Step = (&'static str, fn(&mut Wire, i32), fn(&mut Wire, i32) -> String);

fn write_simple(wire: &mut Wire, id: i32) {
    run(wire, &format!("UPDATE c SET n = n + 1 WHERE id = {id}"));
}

fn read_simple(wire: &mut Wire, id: i32) -> String {
    wire.query_value(&format!("SELECT n FROM c WHERE id = {id}"))
}

fn read_extended(wire: &mut Wire, id: i32) -> String {
    parse(wire, "", &format!("SELECT n::text FROM c WHERE id = {id}"));
    bind_execute(wire, "");
    values(&sync(wire)).remove(0)
}

fn write_extended(wire: &mut Wire, id: i32) {
    parse(wire, "", &format!("UPDATE c SET n = n + 1 WHERE id = {id}"));
    bind_execute(wire, "");
    values(&sync(wire));
}

fn write_prepared(wire: &mut Wire, _: i32) {
    bind_execute(wire, "w");
    values(&sync(wire));
}

fn read_prepared(wire: &mut Wire, _: i32) -> String {
    bind_execute(wire, "r");
    values(&sync(wire)).remove(0)
}

fn write_transaction(wire: &mut Wire, id: i32) {
    run(wire, "BEGIN");
    write_simple(wire, id);
    run(wire, "COMMIT");
}

fn write_many(wire: &mut Wire, id: i32) {
    run(wire, &format!("SELECT 1; UPDATE c SET n = n + 1 WHERE id = {id}"));
}

fn write_off(wire: &mut Wire, id: i32) {
    run(wire, "BEGIN");
    run(wire, "SET LOCAL synchronous_commit = off");
    write_simple(wire, id);
    run(wire, "COMMIT");
}

fn read_transaction(wire: &mut Wire, id: i32) -> String {
    run(wire, "BEGIN READ ONLY");
    let value = read_simple(wire, id);
    run(wire, "COMMIT");
    value
}

/// Reads arrive before the write's answer does.
fn read_pipelined(wire: &mut Wire, id: i32) -> String {
    let mut bytes = bytes::BytesMut::new();
    put_bind_execute(&mut bytes, "r");
    frontend::sync(&mut bytes);
    frontend::query(&format!("SELECT n FROM c WHERE id = {id}"), &mut bytes).unwrap();
    wire.send(&bytes);
    let (first, second) = (values(&wire.until('Z')), values(&wire.until('Z')));
    assert!(first <= second, "{first:?} {second:?}");
    first[0].clone()
}

/// The counter's value, written by COPY into another table.
fn write_copy(wire: &mut Wire, id: i32) {
    write_simple(wire, id);
    let value = read_simple(wire, id);
    wire.encode(|buffer| frontend::query("COPY log FROM STDIN", buffer));
    wire.expect('G');
    wire.send_message('d', format!("{id}\t{value}\n").as_bytes());
    wire.send_message('c', b"");
    wire.until('Z');
    let sql = format!("SELECT coalesce(max(n), 0) FROM log WHERE id = {id}");
    assert_eq!(wire.query_value(&sql), value, "the copied row is seen");
}

const STEPS: [Step; 9] = [
    ("simple", write_simple, read_simple),
    ("extended", write_extended, read_extended),
    ("prepared", write_prepared, read_prepared),
    ("transaction", write_transaction, read_simple),
    ("several statements", write_many, read_prepared),
    ("synchronous_commit off", write_off, read_simple),
    ("read transaction", write_simple, read_transaction),
    ("pipelined", write_prepared, read_pipelined),
    ("copy", write_copy, read_extended),
];

#[test]
fn sessions_read_their_own_writes_whatever_the_standbys_do() {
    let cluster = Cluster::start(2);
    let database = counters(&cluster, STEPS.len() as i32);
    let komainu = session(&cluster).start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for (id, (name, write, read)) in STEPS.iter().enumerate() {
            let (komainu, database, stop) = (&komainu, &database, &stop);
            scope.spawn(move || {
                let id = id as i32;
                let mut wire = komainu.login(database);
                parse(&mut wire, "w", &format!("UPDATE c SET n = n + 1 WHERE id = {id}"));
                parse(&mut wire, "r", &format!("SELECT n::text FROM c WHERE id = {id}"));
                sync(&mut wire);
                let mut expected = 0;
                while !stop.load(Ordering::Relaxed) {
                    write(&mut wire, id);
                    expected += 1;
                    for again in 0..3 {
                        let found = read(&mut wire, id);
                        assert_eq!(
                            found,
                            expected.to_string(),
                            "{name}, read {again}: {:?}",
                            route(&mut wire)
                        );
                    }
                }
            });
        }
        let _stop = Stop(&stop);
        // Both replay, one stands still, the other, both, none.
        for (first, second) in [(false, false), (true, false), (false, true), (true, true), (false, false)] {
            for (standby, paused) in [(0, first), (1, second)] {
                if paused { pause(&cluster, standby) } else { resume(&cluster, standby) }
            }
            thread::sleep(Duration::from_millis(1500));
        }
    });
    let on_standbys: f64 = ["pg2", "pg3"]
        .iter()
        .filter_map(|id| komainu.metric(&format!("komainu_queries_total{{server=\"{id}\",class=\"read\"}}")))
        .sum();
    assert!(on_standbys > 50.0, "standbys have answered some of it: {on_standbys}");
}

#[test]
fn a_session_never_goes_back_in_time_and_returns_to_standbys_soon() {
    let cluster = Cluster::start(2);
    let database = counters(&cluster, 1);
    let komainu = session(&cluster).start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "c");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Written by others, beside komainu: no floor of the reader's tells of it.
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                cluster.primary().psql(&database, "UPDATE c SET n = n + 1 WHERE id = 0").unwrap();
            }
        });
        let mut last = 0;
        let mut read = |wire: &mut Wire, sql: &str| {
            let seen: i64 = wire.query_value(sql).parse().unwrap();
            let (server, reason) = route(wire);
            // A standby may show a commit that the primary has written but not yet shown: PostgreSQL makes
            // it visible there last. There is one writer, so it is one commit at most.
            let ahead = i64::from(server == "pg1");
            assert!(seen + ahead >= last, "{sql}: {seen} after {last}: {server}, {reason}");
            last = last.max(seen);
        };
        for round in 0..4 {
            pause(&cluster, round % 2);
            let until = Instant::now() + Duration::from_millis(800);
            while Instant::now() < until {
                read(&mut wire, "SELECT n FROM c WHERE id = 0");
                read(&mut wire, "/* komainu: primary */ SELECT n FROM c WHERE id = 0");
                for _ in 0..3 {
                    read(&mut wire, "SELECT n FROM c WHERE id = 0");
                }
                read(&mut wire, "/* komainu: server=pg2 */ SELECT n FROM c WHERE id = 0");
                read(&mut wire, "/* komainu: server=pg3 */ SELECT n FROM c WHERE id = 0");
            }
            resume(&cluster, round % 2);
        }
    });
    // One that reads without a pause comes back too.
    run(&mut wire, "UPDATE c SET n = n + 1 WHERE id = 1");
    eventually(PATIENCE, "reads return to a standby", || {
        went_to(&mut wire, "SELECT n FROM c WHERE id = 1").0 != "pg1"
    });
    run(&mut wire, "/* komainu: primary */ SELECT 1");
    eventually(PATIENCE, "after a read on the primary, too", || {
        went_to(&mut wire, "SELECT n FROM c WHERE id = 1").0 != "pg1"
    });
}

#[test]
fn what_a_transaction_read_on_a_standby_is_not_unread_by_its_functions() {
    let cluster = Cluster::start(2);
    let database = counters(&cluster, 1);
    let komainu = session(&cluster).config("[split]\nfloor_wait_ms = 0\n").start();
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    wait_for_catalog(&mut wire, "c");
    pause(&cluster, 0);
    cluster.primary().psql(&database, "UPDATE c SET n = 5 WHERE id = 0").unwrap();
    eventually(PATIENCE, "the other standby has it", || {
        other.query_value("/* komainu: server=pg3 */ SELECT n FROM c WHERE id = 0") == "5"
    });
    // Anybody else's function is as volatile.
    run(&mut wire, "/* komainu: server=pg3 */ BEGIN READ ONLY");
    assert_eq!(wire.query_value("SELECT n FROM c WHERE id = 0 AND random() < 2"), "5");
    run(&mut wire, "COMMIT");
    assert_eq!(wire.query_value("/* komainu: server=pg2 */ SELECT n FROM c WHERE id = 0"), "5");
    resume(&cluster, 0);
}

#[test]
fn what_was_read_before_a_loss_is_not_unread_behind_it() {
    let cluster = Cluster::start(1);
    let database = counters(&cluster, 1);
    let komainu = session(&cluster).config("[split]\nfloor_wait_ms = 0\n").start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "c");
    pause(&cluster, 0);
    cluster.primary().psql(&database, "UPDATE c SET n = 5 WHERE id = 0").unwrap();
    assert_eq!(wire.query_value("SELECT n FROM c WHERE id = 0"), "0", "the standby lacks it");
    run(&mut wire, "BEGIN");
    assert_eq!(wire.query_value("SELECT n FROM c WHERE id = 0"), "5");
    let pid = wire.query_value("SELECT pg_backend_pid()");
    cluster.primary().psql("postgres", &format!("SELECT pg_terminate_backend({pid})")).unwrap();
    eventually(PATIENCE, "the transaction is lost", || tags(&wire.query("SELECT 1")).contains('E'));
    run(&mut wire, "ROLLBACK");
    assert_eq!(wire.query_value("SELECT n FROM c WHERE id = 0"), "5");
    resume(&cluster, 0);
}

#[test]
fn a_token_carries_what_one_session_wrote_to_another() {
    let cluster = Cluster::start(1);
    let database = counters(&cluster, 1);
    cluster.prepare(
        &database,
        &format!(
            "SET ROLE {APP_USER}; CREATE FUNCTION logs(int, int) RETURNS int LANGUAGE plpgsql VOLATILE AS \
             $$BEGIN INSERT INTO log VALUES ($1, $2); RETURN 1; END$$; \
             CREATE OPERATOR -> (LEFTARG = int, RIGHTARG = int, FUNCTION = logs)"
        ),
    );
    let komainu = session(&cluster).config("[split]\nfloor_wait_ms = 0\n").start();
    let (mut writer, mut reader) = (komainu.login(&database), komainu.login(&database));
    wait_for_catalog(&mut reader, "c");
    let read = |wire: &mut Wire| (wire.query_value("SELECT n FROM c WHERE id = 0"), route(wire).0);
    pause(&cluster, 0);
    // The token is asked for before the write's position can be known.
    let mut bytes = bytes::BytesMut::new();
    frontend::query("UPDATE c SET n = 7 WHERE id = 0", &mut bytes).unwrap();
    frontend::query("SHOW komainu.token", &mut bytes).unwrap();
    writer.send(&bytes);
    assert_eq!(tags(&writer.until('Z')), "CZ");
    let token = values(&writer.until('Z')).remove(0);
    let position = token.split_once(':').unwrap_or_else(|| panic!("{token}")).1.to_owned();
    let below =
        format!("SELECT '{position}' <= pg_current_wal_insert_lsn() AND '{position}' > '0/0'::pg_lsn");
    assert_eq!(cluster.primary().psql("postgres", &below).unwrap(), "t", "{token}");
    assert_eq!(read(&mut writer), ("7".into(), "pg1".into()), "its own write");
    assert_eq!(read(&mut reader), ("0".into(), "pg2".into()), "knows nothing of it");

    // Of several that were sent ahead, the last one's, by either protocol.
    let long = "INSERT INTO log SELECT i, i FROM generate_series(1, 5000) i";
    for extended in [false, true] {
        let before = cluster.primary().psql("postgres", "SELECT pg_current_wal_insert_lsn()").unwrap();
        let mut bytes = bytes::BytesMut::new();
        if extended {
            frontend::parse("", long, [], &mut bytes).unwrap();
            put_bind_execute(&mut bytes, "");
            frontend::sync(&mut bytes);
        } else {
            frontend::query("UPDATE c SET n = n WHERE id = 0", &mut bytes).unwrap();
            frontend::query(long, &mut bytes).unwrap();
        }
        frontend::query("SHOW komainu.token", &mut bytes).unwrap();
        writer.send(&bytes);
        (0..2 - usize::from(extended)).for_each(|_| drop(writer.until('Z')));
        let token = values(&writer.until('Z')).remove(0);
        let position = token.split_once(':').unwrap().1;
        let covers = format!("SELECT pg_wal_lsn_diff('{position}', '{before}') > 5000 * 40");
        assert_eq!(cluster.primary().psql("postgres", &covers).unwrap(), "t", "{token}, {before}");
    }
    // What a standby has refused since it writes is a write, whatever the catalog says.
    let before = cluster.primary().psql("postgres", "SELECT pg_current_wal_insert_lsn()").unwrap();
    let mut third = komainu.login(&database);
    assert_eq!(third.query_value("SELECT 1 -> 2"), "1");
    assert!(route(&mut third).1.starts_with("refused"), "{:?}", route(&mut third));
    let token = third.query_value("SHOW komainu.token");
    let position = token.split_once(':').unwrap().1;
    let covers = format!("SELECT '{position}' > '{before}'::pg_lsn");
    assert_eq!(cluster.primary().psql("postgres", &covers).unwrap(), "t", "{token}, {before}");
    // Within a batch it is answered all the same.
    let batch = Pipeline::new().parse("", "UPDATE c SET n = n WHERE id = 0").bind("", "", &[]).execute("", 0);
    writer.send_pipeline(batch);
    writer.encode(|buffer| frontend::query("SHOW komainu.token", buffer));
    assert!(values(&writer.until('Z')).remove(0).contains(':'));

    // What is rolled back or local is not taken over.
    run(&mut reader, "BEGIN READ ONLY");
    run(&mut reader, &format!("SET komainu.token = '{token}'"));
    run(&mut reader, "ROLLBACK");
    assert_eq!(read(&mut reader).0, "0");
    run(&mut reader, &format!("SET komainu.token = '{token}'"));
    assert_eq!(read(&mut reader), ("7".into(), "pg1".into()));
    assert_eq!(reader.query_value("SHOW komainu.token"), token);

    // Nor is it a setting that stays: it is nobody else's.
    let mut stranger = komainu.login(&database);
    for _ in 0..3 {
        assert_eq!(read(&mut stranger).0, "0");
    }
    for server in ["pg1", "pg2"] {
        let token = "SELECT coalesce(current_setting('komainu.token', true), '')";
        assert_eq!(stranger.query_value(&format!("/* komainu: server={server} */ {token}")), "");
    }

    // Nonsense is an error like any other setting's, by either protocol, and aborts a transaction.
    let error = stranger.query("SET komainu.token = 'it''s $k$ nonsense'").remove(0);
    assert_eq!((error.tag, &*error.sqlstate()), ('E', "22023"), "{:?}", error.error());
    assert_eq!(error.text(), "invalid value for parameter \"komainu.token\": \"it's $k$ nonsense\"");
    parse(&mut stranger, "", "SET komainu.token = '1:2'");
    bind_execute(&mut stranger, "");
    let messages = sync(&mut stranger);
    assert!(messages.iter().any(|m| m.tag == 'E' && m.sqlstate() == "22023"), "{messages:?}");
    run(&mut stranger, "BEGIN");
    assert_eq!(stranger.query("SET komainu.token = 'x'")[0].sqlstate(), "22023");
    assert_eq!(stranger.query("SELECT 1")[0].sqlstate(), "25P02");
    run(&mut stranger, "ROLLBACK");
    // By a function it cannot be refused any more, so there is a warning.
    run(&mut stranger, "SELECT set_config('komainu.token', 'gibberish', false)");
    let mut messages = stranger.query("SELECT 1");
    messages.extend(stranger.query("SELECT 1"));
    assert!(messages.iter().any(|m| m.tag == 'N' && m.text().contains("gibberish")), "{messages:?}");
    run(&mut stranger, "SET komainu.token = ''; RESET komainu.token");
    resume(&cluster, 0);
    eventually(PATIENCE, "the reader returns to the standby", || {
        read(&mut reader) == ("7".into(), "pg2".into())
    });
}

#[test]
fn transactions_that_only_read_ask_the_primary_nothing() {
    let cluster =
        Cluster::start_with(1, |options| options.settings.push(("log_statement".into(), "all".into())));
    let database = counters(&cluster, 1);
    let komainu = session(&cluster).start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "c");
    let questions = || {
        let log = std::fs::read_to_string(cluster.primary().log_file()).unwrap();
        log.lines()
            .filter(|l| l.contains(&format!("@{database}")) && l.contains("pg_current_wal_insert_lsn"))
            .count()
    };
    eventually(PATIENCE, "reads settle on the standby", || {
        let before = questions();
        (0..5).all(|_| went_to(&mut wire, "SELECT n FROM c").0 == "pg2") && questions() == before
    });
    let before = questions();
    run(&mut wire, "UPDATE c SET n = n + 1 WHERE id = 0");
    wire.query_value("SHOW komainu.token");
    assert_eq!(questions(), before + 1, "one write, one question");
    eventually(PATIENCE, "reads return to the standby", || went_to(&mut wire, "SELECT n FROM c").0 == "pg2");
    let before = questions();
    for _ in 0..50 {
        run(&mut wire, "SELECT n FROM c");
        run(&mut wire, "/* komainu: primary */ SELECT n FROM c");
        run(&mut wire, "BEGIN READ ONLY");
        run(&mut wire, "SELECT n FROM c");
        run(&mut wire, "COMMIT");
        run(&mut wire, "BEGIN");
        run(&mut wire, "SELECT n FROM c");
        run(&mut wire, "COMMIT");
    }
    let asked = questions() - before;
    // Reads on the primary keep the session there for a moment; ending that may take a question each look.
    assert!(asked < 50, "{asked} questions for 200 transactions that only read");
}

#[test]
fn a_read_waits_a_little_for_its_standby() {
    let cluster = Cluster::start(1);
    let database = counters(&cluster, 1);
    let komainu = session(&cluster).config("[split]\nfloor_wait_ms = 60000\n").start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "c");
    pause(&cluster, 0);
    run(&mut wire, "UPDATE c SET n = 5 WHERE id = 0");
    // Its position is known when this is answered.
    let token = wire.query_value("SHOW komainu.token");
    let begun = Instant::now();
    thread::scope(|scope| {
        let cluster = &cluster;
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(500));
            resume(cluster, 0);
            // A position to insert at counts what others have inserted without committing; on a server that
            // has nothing else to do only the next commit writes that out.
            cluster.prepare("postgres", "SELECT pg_logical_emit_message(true, 'test', 'written out')");
        });
        assert_eq!(wire.query_value("SELECT n FROM c WHERE id = 0"), "5", "{token}");
    });
    let (server, reason) = route(&mut wire);
    assert_eq!(server, "pg2", "{reason}");
    assert!(begun.elapsed() >= Duration::from_millis(400), "it has waited");
    assert!(begun.elapsed() < Duration::from_secs(40), "and no longer than needed: {:?}", begun.elapsed());

    let hurried = session(&cluster).config("[split]\nfloor_wait_ms = 50\n").start();
    let mut wire = hurried.login(&database);
    wait_for_catalog(&mut wire, "c");
    pause(&cluster, 0);
    run(&mut wire, "UPDATE c SET n = 6 WHERE id = 0");
    wire.query_value("SHOW komainu.token");
    let begun = Instant::now();
    assert_eq!(wire.query_value("SELECT n FROM c WHERE id = 0"), "6");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(route(&mut wire).0, "pg1");
    resume(&cluster, 0);
}

#[test]
fn eventual_reads_may_be_old_and_bounded_ones_not_older_than_allowed() {
    let cluster = Cluster::start(1);
    let database = counters(&cluster, 1);
    let eventual = session(&cluster).config("[split]\nconsistency = \"eventual\"\n").start();
    let bounded = session(&cluster)
        .config("[split]\nconsistency = \"bounded\"\nmax_lag_ms = 500\nmax_lag_bytes = 1000000\n")
        .start();
    let (mut e, mut b) = (eventual.login(&database), bounded.login(&database));
    wait_for_catalog(&mut e, "c");
    wait_for_catalog(&mut b, "c");
    pause(&cluster, 0);
    run(&mut e, "UPDATE c SET n = 9 WHERE id = 0");
    assert_eq!(e.query_value("SELECT n FROM c WHERE id = 0"), "0", "eventual: old, and at once");
    eventually(Duration::from_secs(10), "bounded: the standby is too far behind", || {
        b.query_value("SELECT n FROM c WHERE id = 0") == "9"
    });
    let (server, reason) = route(&mut b);
    assert_eq!((&*server, reason.starts_with("lag")), ("pg1", true), "{reason}");
    assert!(bounded.metric("komainu_reads_to_primary_total{reason=\"lag\"}") >= Some(1.0));
    resume(&cluster, 0);
    eventually(PATIENCE, "it returns", || went_to(&mut b, "SELECT n FROM c WHERE id = 0").0 == "pg2");
    assert_eq!(b.query_value("SELECT n FROM c WHERE id = 0"), "9");
}
