//! What clients are told when the server dies under them: what is known, no more and no less; and how their sessions
//! go on.

use komainu::sandbox::Postgres;
use postgres_protocol::message::frontend;

use crate::support::{
    Cluster, Komainu, Message, PATIENCE, Pipeline, Wire, eventually, first_value, python, tags, transcript,
};

const RELAYED: &str = "komainu_bytes_total{direction=\"to_servers\"}";

/// Sends what a frozen server will not answer, and waits until komainu has passed it on.
fn pass_on(komainu: &Komainu, send: impl FnOnce()) {
    let before = komainu.metric(RELAYED).unwrap();
    send();
    eventually(PATIENCE, "it is passed on", || komainu.metric(RELAYED).unwrap() > before);
}

fn send_on(komainu: &Komainu, wire: &mut Wire, sql: &str) {
    pass_on(komainu, || wire.send_message('Q', format!("{sql}\0").as_bytes()));
}

fn start() -> (Cluster, String, Komainu) {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); INSERT INTO t VALUES (0); GRANT ALL ON t TO PUBLIC");
    let komainu = Komainu::start(&cluster);
    (cluster, database, komainu)
}

/// Severity and SQLSTATE of each error, tags of the rest, and the status of each ReadyForQuery.
pub fn told(messages: &[Message]) -> Vec<String> {
    let say = |message: &Message| match message.tag {
        'E' => format!("{} {}", message.field('S'), message.sqlstate()),
        'Z' => format!("Z{}", char::from(message.body[0])),
        'C' => format!("C {}", message.strings()[0]),
        tag => tag.to_string(),
    };
    messages.iter().filter(|message| message.tag != 'S').map(say).collect()
}

#[track_caller]
fn expect(wire: &mut Wire, sql: &str, expected: &[&str]) {
    assert_eq!(told(&wire.query(sql)), expected, "{sql}");
}

fn restart(server: &Postgres) {
    server.kill();
    server.start().unwrap();
}

#[test]
fn a_client_learns_whether_the_outcome_is_known_and_goes_on() {
    let (cluster, database, komainu) = start();
    let open = || komainu.login(&database);
    let (mut idle, mut in_transaction, mut committing) = (open(), open(), open());
    let (mut writing, mut reading, mut beginning, mut pinned) = (open(), open(), open(), open());
    assert_eq!(idle.query_value("SELECT n FROM t"), "0");
    in_transaction.query("BEGIN");
    in_transaction.query("INSERT INTO t VALUES (1)");
    committing.query("BEGIN");
    committing.query("INSERT INTO t VALUES (2)");
    pinned.query("LISTEN x");
    // Side by side, so that as many idle connections are there afterwards.
    for sql in ["BEGIN", "ROLLBACK"] {
        for wire in [&mut writing, &mut reading, &mut beginning] {
            wire.query(sql);
        }
    }

    cluster.primary().freeze();
    send_on(&komainu, &mut in_transaction, "INSERT INTO t VALUES (4)");
    send_on(&komainu, &mut committing, "COMMIT");
    send_on(&komainu, &mut writing, "INSERT INTO t VALUES (5)");
    send_on(&komainu, &mut reading, "SELECT 'read'");
    send_on(&komainu, &mut beginning, "BEGIN");
    send_on(&komainu, &mut pinned, "INSERT INTO t VALUES (6)");
    restart(cluster.primary());

    assert_eq!(told(&pinned.expect_end()), ["FATAL 08007"], "a write of a session that also listened");
    for (what, wire, expected) in [
        ("a statement inside a transaction", &mut in_transaction, ["ERROR 08006", "ZE"]),
        ("a COMMIT", &mut committing, ["ERROR 08007", "ZI"]),
        ("a write by itself", &mut writing, ["ERROR 08007", "ZI"]),
    ] {
        assert_eq!(told(&wire.until('Z')), expected, "{what}");
    }
    assert_eq!(first_value(&reading.until('Z')).as_deref(), Some("read"), "a read is asked again");
    assert_eq!(told(&beginning.until('Z')), ["C BEGIN", "ZT"], "and what begins a transaction");
    expect(&mut beginning, "INSERT INTO t VALUES (7); COMMIT", &["C INSERT 0 1", "C COMMIT", "ZI"]);

    expect(&mut in_transaction, "SELECT 1", &["ERROR 25P02", "ZE"]);
    expect(&mut in_transaction, "SAVEPOINT a", &["ERROR 25P02", "ZE"]);
    expect(&mut in_transaction, "ROLLBACK TO a", &["ERROR 3B001", "ZE"]);
    expect(&mut in_transaction, "", &["I", "ZE"]);
    expect(&mut in_transaction, "COMMIT", &["C ROLLBACK", "ZI"]);
    for wire in [&mut idle, &mut in_transaction, &mut committing, &mut writing, &mut reading] {
        assert_eq!(wire.query_value("SELECT count(*) FROM t WHERE n IN (0, 7)"), "2", "the session goes on");
    }
    assert_eq!(idle.query_value("SELECT count(*) FROM t WHERE n IN (1, 4)"), "0");
}

/// Whether it has, nobody can tell: statements are new ones from then on, as after a change.
#[test]
fn what_was_not_answered_may_have_changed_the_schema() {
    let (cluster, database, _) = start();
    let komainu = Komainu::start_with(&cluster, "pool.size = 1\nsplit.enabled = false");
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    let mut named = |name: &str| {
        other.pipeline(Pipeline::new().parse(name, "SELECT 'the same'").sync());
        let newest = "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT _the same_' \
                      ORDER BY prepare_time DESC LIMIT 1";
        other.query_value(newest)
    };
    let before = named("a");
    assert_eq!(named("b"), before);
    cluster.primary().freeze();
    send_on(&komainu, &mut wire, "DROP TABLE IF EXISTS nothing");
    restart(cluster.primary());
    assert_eq!(told(&wire.until('Z')), ["ERROR 08007", "ZI"]);
    assert_ne!(named("c"), before);
}

#[test]
fn a_loss_while_nothing_was_asked_is_told_before_any_commit_is_answered() {
    let (cluster, database, komainu) = start();
    let mut open: Vec<_> = (0..6).map(|_| komainu.login(&database)).collect();
    for wire in &mut open {
        expect(wire, "BEGIN", &["C BEGIN", "ZT"]);
        expect(wire, "INSERT INTO t VALUES (1)", &["C INSERT 0 1", "ZT"]);
    }
    let mut chained = komainu.login(&database);
    expect(&mut chained, "BEGIN", &["C BEGIN", "ZT"]);
    expect(&mut chained, "COMMIT AND CHAIN", &["C COMMIT", "ZT"]);
    let mut failed = komainu.login(&database);
    expect(&mut failed, "BEGIN", &["C BEGIN", "ZT"]);
    expect(&mut failed, "SELECT 1/0", &["ERROR 22012", "ZE"]);
    open[4].query("CREATE TEMPORARY TABLE mine (n int)");
    let mut extended = komainu.login(&database);
    assert_eq!(tags(&extended.pipeline(Pipeline::new().parse("", "BEGIN").run("", &[]))), "12CZ");
    assert_eq!(tags(&extended.pipeline(Pipeline::new().parse("r", "ROLLBACK").sync())), "1Z");
    let mut batch = komainu.login(&database);
    let insert = Pipeline::new().parse("", "INSERT INTO t VALUES (1)").bind("", "", &[]).execute("", 0);
    batch.send_pipeline(insert.flush());
    assert_eq!(tags(&batch.until('C')), "12C");
    let mut listening = komainu.login(&database);
    listening.query("LISTEN x");
    // Committed before the transaction that is lost.
    let mut listening_chained = komainu.login(&database);
    expect(&mut listening_chained, "BEGIN", &["C BEGIN", "ZT"]);
    expect(&mut listening_chained, "LISTEN x", &["C LISTEN", "ZT"]);
    expect(&mut listening_chained, "COMMIT AND CHAIN", &["C COMMIT", "ZT"]);
    let mut listening_pipelined = komainu.login(&database);
    listening_pipelined.send_pipeline(Pipeline::new().query("LISTEN x").query("BEGIN"));
    (0..2).for_each(|_| drop(listening_pipelined.until('Z')));
    let mut has_cursor = komainu.login(&database);
    expect(&mut has_cursor, "DECLARE c CURSOR WITH HOLD FOR SELECT 1", &["C DECLARE CURSOR", "ZI"]);
    restart(cluster.primary());

    for mut listening in [listening, listening_chained, listening_pipelined] {
        let end = listening.expect_end();
        assert_eq!(told(&end), ["FATAL 57P01"]);
        assert!(end[0].text().contains("(listen)"), "{}", end[0].text());
    }
    expect(&mut open[0], "COMMIT", &["ERROR 08006", "ZI"]);
    expect(&mut open[1], "ROLLBACK", &["C ROLLBACK", "ZI"]);
    expect(&mut open[2], "SELECT 1", &["ERROR 08006", "ZE"]);
    expect(&mut open[2], "SELECT 1", &["ERROR 25P02", "ZE"]);
    expect(
        &mut open[2],
        "ROLLBACK; SELECT 1; SELECT 2",
        &["C ROLLBACK", "T", "D", "C SELECT 1", "T", "D", "C SELECT 1", "ZI"],
    );
    expect(&mut open[3], "COMMIT; SELECT 1", &["ERROR 08006", "ZI"]);
    expect(&mut open[4], "ROLLBACK AND CHAIN", &["ERROR 08006", "ZE"]);
    expect(&mut open[4], "ABORT", &["C ROLLBACK", "ZI"]);
    expect(&mut open[5], "PREPARE TRANSACTION 'x'", &["ERROR 08006", "ZI"]);
    let insert = "INSERT INTO t VALUES (7)";
    chained.send_pipeline(Pipeline::new().query(insert).query(insert).query("COMMIT"));
    for expected in [["ERROR 08006", "ZE"], ["ERROR 25P02", "ZE"], ["C ROLLBACK", "ZI"]] {
        assert_eq!(told(&chained.until('Z')), expected, "the COMMIT before was of another transaction");
    }
    expect(&mut failed, "SELECT 1", &["ERROR 25P02", "ZE"]);
    expect(&mut failed, "END", &["C ROLLBACK", "ZI"]);
    expect(&mut has_cursor, "FETCH c", &["ERROR 34000", "ZI"]);
    batch.send_pipeline(Pipeline::new().sync());
    assert_eq!(told(&batch.until('Z')), ["ERROR 08006", "ZI"], "its Sync would have committed it");

    let run = |wire: &mut Wire, pipeline| told(&wire.pipeline(pipeline));
    let select = Pipeline::new().parse("", "SELECT 1").run("", &[]);
    assert_eq!(run(&mut extended, select), ["ERROR 08006", "ZE"]);
    let select = Pipeline::new().parse("", "SELECT 1").run("", &[]);
    assert_eq!(run(&mut extended, select), ["ERROR 25P02", "ZE"]);
    let prepared = Pipeline::new().parse("", "COMMIT").describe('S', "").close('S', "").sync();
    assert_eq!(run(&mut extended, prepared), ["1", "t", "n", "3", "ZE"]);
    let described = Pipeline::new().bind("p", "r", &[]).describe('P', "p").execute("p", 0);
    let goes_on = described.parse("", "SELECT 7").bind("", "", &[]).execute("", 0).sync();
    assert_eq!(run(&mut extended, goes_on), ["2", "n", "C ROLLBACK", "1", "2", "D", "C SELECT 1", "ZI"]);
    for wire in open.iter_mut().chain([&mut failed, &mut extended, &mut batch]) {
        assert_eq!(wire.query_value("SELECT max(n) FROM t"), "0");
    }
}

#[test]
fn a_pipeline_and_a_copy_are_answered_to_their_end() {
    let (cluster, database, komainu) = start();
    let open = || komainu.login(&database);
    let (mut pipeline, mut copying, mut inside, mut rows) = (open(), open(), open(), open());
    pipeline.query("BEGIN");
    inside.query("BEGIN");
    for wire in [&mut copying, &mut inside] {
        wire.encode(|buffer| frontend::query("COPY t FROM STDIN", buffer));
        wire.expect('G');
        wire.send_message('d', b"1\n");
    }
    // More rows than fit anywhere: some are relayed, and the rest never comes.
    rows.encode(|buffer| frontend::query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)", buffer));
    rows.expect('T');
    cluster.primary().freeze();
    let insert = |pipeline: Pipeline| pipeline.parse("", "INSERT INTO t VALUES (1)").run("", &[]);
    pass_on(&komainu, || pipeline.send_pipeline(insert(insert(Pipeline::new()))));
    restart(cluster.primary());

    let mut answers = pipeline.until('Z');
    answers.extend(pipeline.until('Z'));
    assert_eq!(told(&answers), ["ERROR 08006", "ZE", "ERROR 25P02", "ZE"]);
    expect(&mut pipeline, "ROLLBACK", &["C ROLLBACK", "ZI"]);
    for (wire, expected) in [(&mut copying, ["ERROR 08007", "ZI"]), (&mut inside, ["ERROR 08006", "ZE"])] {
        assert_eq!(told(&wire.until('Z')), expected);
        wire.send_message('d', b"2\n");
        wire.send_message('c', b"");
    }
    expect(&mut inside, "ROLLBACK", &["C ROLLBACK", "ZI"]);
    for wire in [&mut copying, &mut inside, &mut pipeline] {
        assert_eq!(wire.query_value("SELECT max(n) FROM t"), "0");
    }
    let end = loop {
        match rows.try_message(PATIENCE).unwrap() {
            Some(message) if message.tag == 'D' => {
                assert_eq!(message.columns()[0].as_ref().unwrap().len(), 1000)
            }
            other => break other,
        }
    };
    if let Some(error) = end {
        // Between two rows; functions of a database just made may write for all that is known.
        assert!(error.sqlstate().starts_with("0800"), "{:?}", error.error());
        assert_eq!(told(&rows.until('Z')), ["ZI"]);
    }
}

#[test]
fn a_driver_keeps_its_connection() {
    let (cluster, database, komainu) = start();
    let script = "
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    try:
        with conn.transaction():
            conn.execute('INSERT INTO t VALUES (1)')
            try:
                with conn.transaction():
                    conn.execute('INSERT INTO t VALUES (2)')
                    print('ready', flush=True)
                    sys.stdin.readline()
                    conn.execute('INSERT INTO t VALUES (3)')
            except psycopg.Error as inner:
                print('inner', inner.sqlstate)
                conn.execute('SELECT 1')
    except psycopg.Error as outer:
        print('outer', outer.sqlstate)
    print(conn.closed, conn.execute('SELECT max(n) FROM t').fetchone()[0])
";
    // A statement that has the server killed stands for the signal: the script is told nothing.
    let script = script.replace(
        "sys.stdin.readline()",
        "import os, signal, time; os.kill(int(sys.argv[2]), signal.SIGKILL); time.sleep(1)",
    );
    let pid = cluster.primary().pid().unwrap().to_string();
    let told = std::thread::scope(|scope| {
        let client = scope.spawn(|| python(&script, &[&komainu.url(&database), &pid]));
        eventually(PATIENCE, "it is killed", || !cluster.primary().is_running());
        restart(cluster.primary());
        client.join().unwrap().output()
    });
    let lines: Vec<&str> = told.lines().filter(|line| *line != "ready").collect();
    assert_eq!(lines, ["inner 08006", "outer 25P02", "False 0"], "{told}");
}

#[test]
fn a_commit_that_no_standby_has_confirmed_is_not_acknowledged() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let komainu = Komainu::start(&cluster);
    let open = || komainu.login(&database);
    let (mut simple, mut extended, mut block, mut several) = (open(), open(), open(), open());
    cluster.primary().configure("synchronous_standby_names", "ANY 1 (nobody)").unwrap();
    cluster.primary().reload().unwrap();
    eventually(PATIENCE, "it is synchronous", || {
        cluster.primary().psql("postgres", "SHOW synchronous_standby_names").unwrap() == "ANY 1 (nobody)"
    });
    block.query("BEGIN");
    block.query("INSERT INTO t VALUES (3)");
    simple.send_message('Q', b"INSERT INTO t VALUES (1)\0");
    extended.send_pipeline(Pipeline::new().parse("", "INSERT INTO t VALUES (2)").run("", &[]));
    block.send_message('Q', b"COMMIT\0");
    several.send_message('Q', b"BEGIN; INSERT INTO t VALUES (4); COMMIT; SELECT 1\0");
    let waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND pid <> pg_backend_pid()";
    let count = format!("SELECT count(*) {waiting}");
    eventually(PATIENCE, "all four wait", || cluster.primary().psql("postgres", &count).unwrap() == "4");
    let cancel = format!("SELECT count(pg_cancel_backend(pid)) {waiting}");
    cluster.primary().psql("postgres", &cancel).unwrap();

    for (wire, expected) in [
        (&mut simple, &["N", "ERROR 08007", "ZI"][..]),
        (&mut block, &["N", "ERROR 08007", "ZI"]),
        (&mut extended, &["1", "2", "C INSERT 0 1", "N", "ERROR 08007", "ZI"]),
        (&mut several, &["C BEGIN", "C INSERT 0 1", "N", "ERROR 08007", "ZI"]),
    ] {
        let messages = wire.until('Z');
        assert_eq!(told(&messages), expected, "{}", transcript(&messages));
    }
    // And where the server says so with its last breath.
    simple.send_message('Q', b"INSERT INTO t VALUES (5)\0");
    let count = count.replace("count(*)", "count(pg_terminate_backend(pid))");
    eventually(PATIENCE, "it is ended", || cluster.primary().psql("postgres", &count).unwrap() == "1");
    let last = told(&simple.until('Z'));
    assert_eq!(last[last.len() - 2..], ["ERROR 08007", "ZI"], "{last:?}");
    cluster.primary().configure("synchronous_standby_names", "").unwrap();
    cluster.primary().reload().unwrap();
    for wire in [&mut simple, &mut extended, &mut block, &mut several] {
        assert_eq!(wire.query_value("SELECT count(*) FROM t"), "5", "they are there nevertheless");
    }
}

#[test]
fn a_batch_that_was_sent_in_part_is_asked_again_once() {
    let (cluster, database, komainu) = start();
    let mut wire = komainu.login(&database);
    assert_eq!(wire.query_value("SELECT 1"), "1");
    cluster.primary().freeze();
    // The second Parse is not sent before the server has said what became of the first.
    let select = |pipeline: Pipeline, value| {
        pipeline.parse("a", &format!("SELECT '{value}'")).bind("", "a", &[]).execute("", 0).close('S', "a")
    };
    pass_on(&komainu, || wire.send_pipeline(select(select(Pipeline::new(), "one"), "two").sync()));
    restart(cluster.primary());
    let answers = wire.until('Z');
    let one = ["1", "2", "D", "C SELECT 1", "3"];
    assert_eq!(told(&answers), [&one[..], &one[..], &["ZI"]].concat());
    assert_eq!(wire.query_value("SELECT 42"), "42", "nothing of the batch is answered behind it");
}

/// What is left of it would be a transaction of its own.
#[test]
fn a_batch_that_was_begun_behind_a_request_that_is_lost_is_lost_as_a_whole() {
    let (cluster, database, komainu) = start();
    let mut wire = komainu.login(&database);
    assert_eq!(wire.query_value("SELECT 1"), "1");
    cluster.primary().freeze();
    let insert = |pipeline: Pipeline, n| {
        let sql = format!("INSERT INTO t VALUES ({n})");
        pipeline.parse("a", &sql).bind("", "a", &[]).execute("", 0).close('S', "a")
    };
    // The second Parse is not sent before the server has said what became of the first.
    let batch = insert(insert(Pipeline::new().query("INSERT INTO t VALUES (1)"), 2), 3).sync();
    pass_on(&komainu, || wire.send_pipeline(batch));
    restart(cluster.primary());
    let answers: Vec<_> = (0..2).flat_map(|_| told(&wire.until('Z'))).collect();
    assert_eq!(answers, ["ERROR 08007", "ZI", "ERROR 08007", "ZI"]);
    assert_eq!(wire.query_value("SELECT count(*) FROM t WHERE n > 1"), "0");
}

#[test]
fn a_batch_that_has_failed_is_told_of_no_second_error_when_the_server_is_lost() {
    let (cluster, database, komainu) = start();
    let mut wire = komainu.login(&database);
    let run = |pipeline: Pipeline, sql| pipeline.parse("", sql).bind("", "", &[]).execute("", 0);
    wire.send_pipeline(run(run(Pipeline::new(), "INSERT INTO t VALUES (1)"), "SELECT 1 / 0").flush());
    assert_eq!(told(&wire.until('E')).last().unwrap(), "ERROR 22012");
    // Else its last word is FATAL, and that the client's as well.
    cluster.primary().freeze();
    restart(cluster.primary());
    eventually(PATIENCE, "it is noticed", || komainu.log().contains("server connection lost"));
    wire.send_pipeline(run(Pipeline::new(), "INSERT INTO t VALUES (2)").sync());
    assert_eq!(told(&wire.until('Z')), ["ZI"]);
    expect(&mut wire, "SELECT count(*) FROM t", &["T", "D", "C SELECT 1", "ZI"]);
}

/// What stands behind a BEGIN that was lost would otherwise last, statement by statement.
#[test]
fn a_block_whose_begin_was_lost_is_one_that_has_failed() {
    let (cluster, database, komainu) = start();
    let open = || komainu.login(&database);
    let (mut simple, mut extended, mut written, mut again) = (open(), open(), open(), open());
    for sql in ["BEGIN", "ROLLBACK"] {
        for wire in [&mut simple, &mut extended, &mut written, &mut again] {
            wire.query(sql);
        }
    }
    again.query("BEGIN");
    again.query("INSERT INTO t VALUES (2)");
    again.send_pipeline(Pipeline::new().query("COMMIT").query("BEGIN").query("SELECT pg_sleep(1000)"));
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    eventually(PATIENCE, "it has begun anew", || cluster.primary().psql("postgres", sleeps).unwrap() == "1");
    cluster.primary().freeze();
    let insert = "INSERT INTO t VALUES (1)";
    let batch = |pipeline: Pipeline, sql| pipeline.parse("", sql).run("", &[]);
    pass_on(&komainu, || simple.send_pipeline(Pipeline::new().query("BEGIN").query(insert)));
    pass_on(&komainu, || extended.send_pipeline(batch(batch(Pipeline::new(), "BEGIN"), insert)));
    pass_on(&komainu, || written.send_pipeline(Pipeline::new().query(insert).query("BEGIN")));
    restart(cluster.primary());

    let answers =
        |wire: &mut Wire, count| -> Vec<String> { (0..count).flat_map(|_| told(&wire.until('Z'))).collect() };
    let failed = ["ERROR 08006", "ZE", "ERROR 25P02", "ZE"];
    assert_eq!(answers(&mut simple, 2), failed);
    let unknown = ["ERROR 08007", "ZE", "ERROR 25P02", "ZE"];
    assert_eq!(answers(&mut extended, 2), unknown);
    assert_eq!(answers(&mut written, 2), unknown, "the first may be there");
    let mut told = answers(&mut again, 3);
    told.retain(|told| told != "T");
    assert_eq!(told, ["C COMMIT", "ZI", "C BEGIN", "ZT", "ERROR 08007", "ZE"], "no COMMIT is forgotten");
    for wire in [&mut simple, &mut extended, &mut written, &mut again] {
        wire.send_pipeline(Pipeline::new().query(insert).query("COMMIT"));
        assert_eq!(answers(wire, 2), ["ERROR 25P02", "ZE", "C ROLLBACK", "ZI"]);
        assert_eq!(wire.query_value("SELECT count(*) FROM t WHERE n = 1"), "0");
    }
}
