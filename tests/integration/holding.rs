//! Clients that wait while there is no primary, and go on when there is one.

use std::thread;
use std::time::{Duration, Instant};

use super::lost_servers::told;
use crate::support::*;

const HELD: &str = "komainu_clients_held";

fn start(cluster: &Cluster, config: &str) -> Komainu {
    Komainu::builder(cluster).config("[health]\ntimeout_ms = 500\nretries = 2\n").config(config).start()
}

#[track_caller]
pub fn send(wire: &mut Wire, sql: &str) {
    wire.send_message('Q', format!("{sql}\0").as_bytes());
}

/// For clients that are to be served, however long a busy machine takes for what comes before.
pub const HELD_LONG: &str = "[limits]\nhold_timeout_ms = 120000\n";
/// Longer than that.
const ANSWERED_WITHIN: Duration = Duration::from_secs(130);

/// The answer to what was sent before, however long the wait.
#[track_caller]
pub fn answer(wire: &mut Wire) -> Vec<String> {
    let mut messages = Vec::new();
    while messages.last().is_none_or(|message: &Message| message.tag != 'Z') {
        messages.push(wire.try_message(ANSWERED_WITHIN).unwrap().unwrap());
    }
    told(&messages)
}

#[test]
fn who_is_between_transactions_waits_for_the_promoted_server_and_sees_no_error() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let url = cluster_url(&cluster, &database);
    pgbench(&url, &["-i", "-q"]).output();
    cluster.servers().wait_for_replay().unwrap();
    // Reads are asked of the primary too: their clients must not notice either.
    let komainu = start(&cluster, "[split]\nenabled = false\n[limits]\nmax_held_clients = 25\n");
    let mut idle: Vec<_> = (0..4).map(|_| komainu.login(&database)).collect();
    let mut listening = komainu.login(&database);
    let mut open = komainu.login(&database);
    for wire in &mut idle {
        assert_eq!(told(&wire.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
    }
    listening.query("LISTEN x");
    open.query("BEGIN");
    open.query("INSERT INTO t VALUES (2)");
    cluster.servers().wait_for_replay().unwrap();
    thread::scope(|scope| {
        let url = komainu.url(&database);
        let bench = scope
            .spawn(move || pgbench(&url, &["-S", "-M", "prepared", "-c", "10", "-j", "2", "-T", "15", "-n"]));
        let reads = "komainu_queries_total{server=\"pg1\",class=\"read\"}";
        eventually(PATIENCE, "it reads", || komainu.metric(reads).unwrap() > 500.0);
        cluster.primary().kill();
        eventually(PATIENCE, "its loss is seen", || {
            komainu.metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
        });
        idle.iter_mut().for_each(|wire| send(wire, "INSERT INTO t VALUES (3)"));
        let newcomer = scope.spawn(|| komainu.login(&database).query_value("SELECT 'in'"));
        eventually(PATIENCE, "all are held", || komainu.metric(HELD) == Some(15.0));
        cluster.standby(0).promote().unwrap();
        for wire in &mut idle {
            assert_eq!(answer(wire), ["C INSERT 0 1", "ZI"]);
        }
        assert_eq!(newcomer.join().unwrap(), "in");
        let bench = bench.join().unwrap();
        assert!(!bench.stderr.contains("aborted"), "{}", bench.stderr);
        assert!(bench.output().contains("number of failed transactions: 0 "));
    });
    assert_eq!(told(&listening.expect_end()), ["FATAL 57P01"]);
    assert_eq!(told(&open.query("COMMIT")), ["ERROR 08006", "ZI"]);
    assert_eq!(open.query_value("SELECT count(*) FROM t"), "8");
    assert_eq!(komainu.metric(HELD), Some(0.0));
}

#[test]
fn a_wait_is_bounded_in_time_and_number_and_can_be_cancelled() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    let patient = start(&cluster, "[limits]\nmax_held_clients = 2\n");
    let hurried = start(&cluster, "[limits]\nhold_timeout_ms = 700\n");
    let (mut first, mut second, mut third) =
        (patient.login(&database), patient.login(&database), patient.login(&database));
    let mut timed = hurried.login(&database);
    for wire in [&mut first, &mut second, &mut third, &mut timed] {
        wire.query("SELECT 1");
    }
    cluster.primary().kill();
    for komainu in [&patient, &hurried] {
        eventually(PATIENCE, "its loss is seen", || {
            komainu.metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
        });
    }
    let begun = Instant::now();
    let refused = timed.query("SELECT 1");
    assert!(begun.elapsed() >= Duration::from_millis(650), "{:?}", begun.elapsed());
    assert_eq!(told(&refused), ["ERROR 57P03", "ZI"]);
    assert!(
        refused[0].text().ends_with("within 700 ms: the primary does not answer"),
        "{}",
        refused[0].text()
    );
    let extended = timed.pipeline(Pipeline::new().parse("", "SELECT 1").run("", &[]));
    assert_eq!(told(&extended), ["ERROR 57P03", "ZI"]);
    let newcomer = psql(&hurried.url(&database), &["SELECT 1"]);
    assert!(
        newcomer.stderr.contains("take the login within 700 ms: the primary does not"),
        "{}",
        newcomer.stderr
    );

    send(&mut first, "SELECT 1");
    send(&mut second, "SELECT 2");
    eventually(PATIENCE, "both are held", || patient.metric(HELD) == Some(2.0));
    let refused = third.query("SELECT 3");
    assert_eq!(told(&refused), ["ERROR 57P03", "ZI"]);
    assert!(refused[0].text().ends_with("2 clients wait already"), "{}", refused[0].text());
    let mut cancel = patient.wire();
    cancel.encode(|buffer| {
        let key = i32::from_be_bytes(first.secret_key[..].try_into().unwrap());
        postgres_protocol::message::frontend::cancel_request(first.process_id, key, buffer);
        Ok::<(), ()>(())
    });
    assert_eq!(told(&first.until('Z')), ["ERROR 57014", "ZI"]);
    drop(second);
    cluster.primary().start().unwrap();
    assert_eq!(first.query_value("SELECT 'on'"), "on");
    assert_eq!(third.query_value("SELECT 'on'"), "on");
}

/// Whoever has only named somebody, and waits for that name to be looked up, displaces nobody who has logged in.
#[test]
fn strangers_take_no_place_of_those_who_wait() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    let komainu = start(
        &cluster,
        "[auth.query]\nuser = \"postgres\"\n[limits]\nmax_held_clients = 2\nhold_timeout_ms = 120000\n",
    );
    let mut sessions = [komainu.login(&database), komainu.login(&database), komainu.login(&database)];
    cluster.primary().kill();
    eventually(PATIENCE, "its loss is seen", || {
        komainu.metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
    });
    let strangers = ["nobody", "no one", "none"].map(|user| {
        let mut wire = komainu.wire();
        wire.startup(&[("user", user), ("database", &database)]);
        wire
    });
    eventually(PATIENCE, "the strangers wait", || komainu.metric(HELD) == Some(3.0));
    let [first, second, third] = &mut sessions;
    send(first, "SELECT 1");
    send(second, "SELECT 2");
    eventually(PATIENCE, "those who have logged in wait", || komainu.metric(HELD) == Some(5.0));
    assert_eq!(told(&third.query("SELECT 3")), ["ERROR 57P03", "ZI"]);
    cluster.primary().start().unwrap();
    for wire in [first, second] {
        assert_eq!(answer(wire)[1..], ["D", "C SELECT 1", "ZI"]);
    }
    for mut stranger in strangers {
        stranger.expect('R');
    }
    assert_eq!(komainu.metric(HELD), Some(0.0));
}

#[test]
fn what_waits_is_bounded_in_bytes_and_what_fits_goes_on_waiting() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let komainu = start(&cluster, "[limits]\nmax_held_bytes = 100000\n");
    let mut sessions: Vec<_> = (0..4).map(|_| komainu.login(&database)).collect();
    for wire in &mut sessions {
        wire.query("SELECT 1");
    }
    cluster.primary().kill();
    eventually(PATIENCE, "its loss is seen", || {
        komainu.metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
    });
    let [long, longer, batch, short] = &mut sessions[..] else { unreachable!("four") };
    let insert = |length: usize| format!("INSERT INTO t VALUES (length('{}'))", "x".repeat(length));
    send(long, &insert(60_000));
    eventually(PATIENCE, "it waits", || komainu.metric(HELD) == Some(1.0));
    let bytes = || komainu.metric("komainu_held_bytes").unwrap();
    assert!(bytes() >= 60_000.0 && bytes() <= 100_000.0, "{}", bytes());
    let refused = longer.query(&insert(60_001));
    assert_eq!(told(&refused), ["ERROR 57P03", "ZI"]);
    assert!(
        refused[0].text().contains("100000 bytes at most (limits.max_held_bytes)"),
        "{}",
        refused[0].text()
    );
    let refused = batch.pipeline(Pipeline::new().parse("", &insert(60_002)).run("", &[]));
    assert_eq!(told(&refused), ["ERROR 57P03", "ZI"]);
    send(short, &insert(3));
    eventually(PATIENCE, "both wait", || komainu.metric(HELD) == Some(2.0));
    assert!(bytes() <= 100_000.0, "{}", bytes());
    cluster.primary().start().unwrap();
    assert_eq!(answer(long), ["C INSERT 0 1", "ZI"]);
    assert_eq!(answer(short), ["C INSERT 0 1", "ZI"]);
    assert_eq!(longer.query_value("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t"), "3 60000");
    assert_eq!((komainu.metric(HELD), bytes()), (Some(0.0), 0.0));
}

/// A role of komainu's own to look with, which can be kept out while clients are let in.
fn make_looking(cluster: &Cluster, database: &str) {
    cluster.prepare(
        database,
        "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC; CREATE ROLE looks LOGIN PASSWORD 'x' IN ROLE pg_monitor",
    );
}

fn looking(cluster: &Cluster, config: &str) -> Komainu {
    Komainu::builder(cluster)
        .user("looks", "x")
        .config("[health]\nuser = \"looks\"\ntimeout_ms = 500\nretries = 2\n")
        .config(config)
        .start()
}

/// The primary lives, and is not seen any more.
fn stop_looking(cluster: &Cluster, komainu: &Komainu) {
    cluster.primary().psql("postgres", "ALTER ROLE looks NOLOGIN").unwrap();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'looks'";
    cluster.primary().psql("postgres", end).unwrap();
    let primary = || komainu.metric("komainu_primary{server=\"pg1\"}");
    eventually(PATIENCE, "it is not seen any more", || primary() == Some(0.0));
}

/// As before a planned switchover: the primary lives, and nothing new is to begin on it.
#[test]
fn while_a_primary_that_lives_is_not_named_nothing_new_begins_and_all_that_runs_ends() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    make_looking(&cluster, &database);
    let komainu = looking(&cluster, HELD_LONG);
    let open = || komainu.login(&database);
    let (mut idle, mut inside, mut pinned, mut running) = (open(), open(), open(), open());
    idle.query("SELECT 1");
    pinned.query("LISTEN x");
    inside.query("BEGIN");
    inside.query("INSERT INTO t VALUES (1)");
    send(&mut running, "INSERT INTO t SELECT 2 FROM pg_sleep(10)");
    let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually(PATIENCE, "it runs", || cluster.primary().psql("postgres", count).unwrap() == "1");
    stop_looking(&cluster, &komainu);

    send(&mut idle, "INSERT INTO t VALUES (3)");
    send(&mut pinned, "INSERT INTO t VALUES (4)");
    assert_eq!(told(&inside.query("INSERT INTO t VALUES (5)")), ["C INSERT 0 1", "ZT"]);
    assert_eq!(told(&inside.query("COMMIT")), ["C COMMIT", "ZI"], "what is open goes on to its end");
    send(&mut inside, "BEGIN");
    assert_eq!(answer(&mut running), ["C INSERT 0 1", "ZI"], "and so does what was sent");
    eventually(PATIENCE, "all three wait", || komainu.metric(HELD) == Some(3.0));
    cluster.primary().psql(&database, "NOTIFY x").unwrap();
    pinned.expect('A');
    for wire in [&mut idle, &mut pinned, &mut inside] {
        wire.expect_silence(Duration::from_millis(300));
    }
    assert_eq!(cluster.primary().psql(&database, "SELECT count(*) FROM t").unwrap(), "3");
    cluster.primary().psql("postgres", "ALTER ROLE looks LOGIN").unwrap();
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"]);
    assert_eq!(answer(&mut inside), ["C BEGIN", "ZT"]);
    // Found anew, it has a new epoch, and what was pinned to the old one ends with that.
    assert_eq!(told(&pinned.expect_end()), ["FATAL 57P01"]);
    assert_eq!(cluster.primary().psql(&database, "SELECT count(*) FROM t WHERE n = 4").unwrap(), "0");
}

/// A client that is pinned to the primary keeps its connection to it while it is told that its batch is not served.
#[test]
fn a_held_batch_of_a_pinned_client_is_refused_once_and_never_runs() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    make_looking(&cluster, &database);
    let komainu = looking(&cluster, "[limits]\nhold_timeout_ms = 700\n");
    let mut pinned = komainu.login(&database);
    pinned.query("LISTEN x");
    stop_looking(&cluster, &komainu);
    for _ in 0..2 {
        let insert = Pipeline::new().parse("", "INSERT INTO t VALUES (1)").run("", &[]);
        assert_eq!(told(&pinned.pipeline(insert)), ["ERROR 57P03", "ZI"]);
    }
    cluster.primary().psql(&database, "NOTIFY x").unwrap();
    pinned.expect('A');
    assert_eq!(cluster.primary().psql(&database, "SELECT count(*) FROM t").unwrap(), "0");
}

/// Invariants 5 and 8 across a failover whose standby had all that was acknowledged.
#[test]
fn reads_after_a_failover_see_what_was_written_before() {
    let cluster = Cluster::start_with(2, |options| {
        options.settings.push(("synchronous_commit".into(), "remote_apply".into()));
    });
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let komainu = start(&cluster, "[split]\nmax_lag_ms = 0\n");
    let mut sessions: Vec<_> = (0..4).map(|_| komainu.login(&database)).collect();
    for (n, wire) in sessions.iter_mut().enumerate() {
        wire.query(&format!("INSERT INTO t VALUES ({n})"));
        assert_eq!(wire.query_value(&format!("SELECT count(*) FROM t WHERE n = {n}")), "1");
    }
    cluster.servers().wait_for_replay().unwrap();
    // It stays behind: WAL that only the old primary has lifts a floor above all that ever will be there.
    for standby in cluster.servers().standbys() {
        standby.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''").unwrap();
        standby.reload().unwrap();
    }
    let streams = "SELECT count(*) FROM pg_stat_replication";
    eventually(PATIENCE, "nobody follows", || cluster.primary().psql("postgres", streams).unwrap() == "0");
    let mut ahead = komainu.login(&database);
    ahead.query("CREATE TABLE only_here AS SELECT repeat('x', 100) FROM generate_series(1, 20000)");
    assert_eq!(told(&ahead.query("SELECT 1"))[1..], ["D", "C SELECT 1", "ZI"]);
    let token = ahead.query_value("SHOW komainu.token");
    assert!(token.starts_with("1:"), "{token}");
    cluster.primary().kill();
    cluster.standby(0).promote().unwrap();
    for (n, wire) in sessions.iter_mut().enumerate() {
        for _ in 0..3 {
            assert_eq!(wire.query_value(&format!("SELECT count(*) FROM t WHERE n = {n}")), "1");
        }
    }
    assert_eq!(ahead.query_value("SELECT count(*) FROM t"), "4");
    assert_eq!(ahead.query_value("SELECT count(*) FROM t"), "4");
    let token = ahead.query_value("SHOW komainu.token");
    assert!(token.starts_with("2:"), "{token}");
    assert!(komainu.metric("komainu_floors_lowered_total") >= Some(1.0));
}

pub fn cluster_url(cluster: &Cluster, database: &str) -> String {
    format!("postgres://{APP_USER}:app%27s%20secret@127.0.0.1:{}/{database}", cluster.primary().port())
}
