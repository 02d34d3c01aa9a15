//! What a logged-in client can send that no driver would: komainu answers as PostgreSQL does, or ends that
//! client and nobody else's.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use komainu::sandbox::Installation;

use super::differential::{Messages, Step, Twins, compare};
use super::support::{Cluster, Komainu, Message, PATIENCE, Wire, eventually, tags};

fn twins() -> &'static Twins {
    static TWINS: OnceLock<Twins> = OnceLock::new();
    TWINS.get_or_init(|| {
        let sql = "CREATE TABLE t AS SELECT n, 'v' || n AS v FROM generate_series(1, 5) n; \
                   CREATE TABLE copied (n int, v text)";
        Twins::create(Cluster::shared(), sql)
    })
}

/// One server connection for all, so that whatever is left on it is met.
fn komainu() -> &'static Komainu {
    static KOMAINU: OnceLock<Komainu> = OnceLock::new();
    KOMAINU.get_or_init(|| Komainu::start_with(Cluster::shared(), "pool.size = 2"))
}

fn new() -> Messages {
    Messages::default()
}

#[track_caller]
fn same(what: &str, steps: &[Step]) -> String {
    tags(&compare(Cluster::shared(), komainu(), twins(), what, steps))
}

#[test]
fn framing_faults_end_that_client_only() {
    let twins = twins();
    let mut bystander = komainu().login(&twins.proxied);
    bystander.query("BEGIN");
    let faults: &[(&str, &[u8])] = &[
        ("unknown tag", b"!\0\0\0\x04"),
        ("length of 0", b"Q\0\0\0\0"),
        ("length of 3", b"Q\0\0\0\x03"),
        ("negative length", b"Q\x80\0\0\0"),
        ("length of -1", b"P\xff\xff\xff\xff"),
        ("2 GB", b"Q\x7f\xff\xff\xff"),
        ("2 GB of CopyData", b"d\x7f\xff\xff\xff"),
        ("a Sync with a body", b"S\0\0\0\x05x"),
        ("password after login", b"p\0\0\0\x08abc\0"),
        ("startup after login", b"\0\0\0\x08\0\x03\0\0"),
        ("a query without its end", b"Q\0\0\0\x05x"),
        ("a Describe of nothing", b"D\0\0\0\x04"),
        ("a Close of a wrong kind", b"C\0\0\0\x06x\0"),
        ("a Parse that ends in its name", b"P\0\0\0\x08abcd"),
        ("a Parse with more types than it says", b"P\0\0\0\x0c\0\0\0\0\0\0\0\x17"),
        ("a Parse with fewer types than it says", b"P\0\0\0\x08\0\0\0\x02"),
        ("an Execute without its limit", b"E\0\0\0\x05\0"),
    ];
    for (what, bytes) in faults {
        for in_transaction in [false, true] {
            let mut wire = komainu().login(&twins.proxied);
            if in_transaction {
                wire.query("BEGIN");
                wire.query("INSERT INTO t VALUES (1000)");
            }
            // What PostgreSQL says in the middle of a batch is sent with its Sync.
            wire.send(&[bytes, b"S\0\0\0\x04".as_slice()].concat());
            let said = until_end(&mut wire, what);
            let last = said.last().unwrap_or_else(|| {
                panic!(
                    "{what}: ended without a word
{}",
                    komainu().log()
                )
            });
            assert_eq!((last.tag, last.field('S').as_str()), ('E', "FATAL"), "{what}: {said:?}");
            assert_eq!(last.sqlstate(), "08P01", "{what}: {said:?}");
        }
    }
    assert_eq!(bystander.query_value("SELECT count(*) FROM t WHERE n = 1000"), "0", "rolled back");
    assert_eq!(tags(&bystander.query("COMMIT")), "CZ");
}

#[track_caller]
fn until_end(wire: &mut Wire, what: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        match wire.try_message(PATIENCE) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return messages,
            Err(error) => panic!("{what}: the connection did not end ({error}) after {messages:?}"),
        }
    }
}

#[test]
fn a_cut_off_message_is_dropped_and_rolled_back() {
    let twins = twins();
    for end in [b"Q\0\0\0\x20INSERT INTO t".as_slice(), b"Q\0", b"B\0\0\0\x20\0\0\0\0\0\x01"] {
        let mut wire = komainu().login(&twins.proxied);
        wire.query("BEGIN");
        wire.query("INSERT INTO t VALUES (2000)");
        wire.send(end);
        wire.half_close();
        wire.expect_end();
    }
    let mut next = komainu().login(&twins.proxied);
    eventually(PATIENCE, "no lock is left", || {
        next.query_value(
            "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode LIKE 'RowEx%'",
        ) == "0"
    });
    assert_eq!(next.query_value("SELECT count(*) FROM t WHERE n = 2000"), "0");
}

#[test]
fn counts_that_lie_get_the_servers_own_answer() {
    for (what, bind) in [
        ("too few formats", &b"\0\0\0\x02\0\0\0\0\0\0\0\0"[..]),
        ("more parameters than there are", b"\0\0\0\0\0\x02\0\0\0\x01a\0\0"),
        ("a parameter longer than the message", b"\0\0\0\0\0\x01\0\0\xff\xffa\0\0"),
        ("a negative length", b"\0\0\0\0\0\x01\xff\xff\xff\xfea\0\0"),
        ("bytes behind the end", b"\0\0\0\0\0\0\0\0junk"),
        ("a wrong format", b"\0\0\0\x01\0\x09\0\x01\0\0\0\x011\0\0"),
    ] {
        let batch = new().parse("", "SELECT $1::text").message('B', bind).execute("", 0).sync();
        same(what, &[batch.send(), Step::Ready(1), new().query("SELECT 1").send(), Step::Ready(1)]);
    }
}

#[test]
fn copy_data_outside_copy_is_ignored() {
    let data = || new().copy_data("1\tx\n").copy_done().copy_fail("no");
    let seen = same(
        "CopyData outside COPY",
        &[data().query("SELECT 1").send(), Step::Ready(1), data().sync().send(), Step::Ready(1)],
    );
    assert_eq!(seen, "TDCZZ");
    let after = new().query("SELECT 1").copy_data("x").copy_done().query("SELECT 2");
    assert_eq!(same("behind a query", &[after.send(), Step::Ready(2)]), "TDCZTDCZ");
    let batch =
        new().parse("", "SELECT 1").bind("", "", &[]).execute("", 0).copy_data("x").copy_done().sync();
    assert_eq!(same("within a batch", &[batch.send(), Step::Ready(1)]), "12DCZ");
}

#[test]
fn copy_in_is_as_with_postgresql() {
    let copy = "COPY copied FROM STDIN";
    let rows = |m: Messages| m.copy_data("1\tone\n").copy_data("2\ttwo\n");
    let count = || [new().query("SELECT count(*) FROM copied").send(), Step::Ready(1)];
    let mut all: Vec<(&str, Vec<Step>)> = vec![
        (
            "simple",
            vec![new().query(copy).send(), Step::Read, rows(new()).copy_done().send(), Step::Ready(1)],
        ),
        ("sent ahead", vec![rows(new().query(copy)).copy_done().query("SELECT 1").send(), Step::Ready(2)]),
        (
            "failed",
            vec![new().query(copy).send(), Step::Read, rows(new()).copy_fail("no").send(), Step::Ready(1)],
        ),
        (
            "a bad row, and more behind it",
            vec![
                new().query(copy).send(),
                Step::Read,
                rows(new().copy_data("bad\tx\n")).send(),
                Step::Ready(1),
                rows(new()).copy_done().query("SELECT 1").send(),
                Step::Ready(1),
            ],
        ),
        (
            "Sync and Flush within",
            vec![
                new().query(copy).send(),
                Step::Read,
                rows(new()).sync().flush().sync().copy_done().query("SELECT 1").send(),
                Step::Ready(2),
            ],
        ),
        (
            "two in one query",
            vec![
                new().query(&format!("{copy}; {copy}; SELECT 1")).send(),
                Step::Read,
                rows(new()).copy_done().send(),
                Step::Read,
                rows(new()).copy_done().send(),
                Step::Ready(1),
            ],
        ),
    ];
    let batch = || new().parse("", copy).bind("", "", &[]).execute("", 0);
    for (what, begin) in [("flushed", batch().flush()), ("with a Sync ahead", batch().sync())] {
        let begin = begin.send();
        let done = rows(new()).copy_done().sync().send();
        all.push((what, vec![begin.clone(), Step::Read, done, Step::Ready(1)]));
        let failed = rows(new()).copy_fail("enough").sync().send();
        all.push((what, vec![begin.clone(), Step::Read, failed, Step::Ready(1)]));
        let bad = new().copy_data("bad\tx\n").copy_done().sync().send();
        all.push((what, vec![begin, Step::Read, bad, Step::Ready(1)]));
    }
    for (what, mut steps) in all {
        steps.extend(count());
        same(&format!("COPY: {what}"), &steps);
    }
}

/// What the server ignored commits nothing, so until the next Sync the transaction of the COPY is open.
#[test]
fn a_copy_with_its_sync_ahead_is_nobody_elses_until_the_next_one() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE early (n int); ALTER TABLE early OWNER TO app");
    let komainu = Komainu::start_with(cluster, "pool.size = 1\n[split]\nenabled = false");
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    wire.send(&new().parse("", "COPY early FROM STDIN").bind("", "", &[]).execute("", 0).sync().0);
    wire.until('G');
    wire.send(&new().copy_data("1\n").copy_done().flush().0);
    wire.until('C');
    other.send(&new().query("SELECT pg_current_xact_id_if_assigned() IS NULL").0);
    eventually(PATIENCE, "the other one waits for the connection", || {
        komainu.metric("komainu_pool_waiters") == Some(1.0)
    });
    wire.send(&new().sync().0);
    assert_eq!(wire.expect('Z').body, b"I");
    let answer = other.until('Z');
    assert_eq!(answer[1].columns(), [Some("t".to_owned())], "it is in a transaction of its own");
    assert_eq!(other.query_value("SELECT count(*) FROM early"), "1");
}

#[test]
fn another_message_within_copy_ends_it_as_with_postgresql() {
    let mut wire = komainu().login(&twins().proxied);
    wire.send(&new().query("COPY copied FROM STDIN").0);
    wire.expect('G');
    wire.send(&new().copy_data("77\tx\n").query("SELECT 1").0);
    let first = wire.expect('E');
    assert!(matches!(first.sqlstate().as_str(), "08P01" | "57014"), "{first:?}");
    drop(wire);
    let mut next = komainu().login(&twins().proxied);
    assert_eq!(next.query_value("SELECT count(*) FROM copied WHERE n = 77"), "0");
}

#[test]
fn a_client_that_vanishes_in_copy_leaves_no_row_and_no_backend() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE fed (n int); ALTER TABLE fed OWNER TO app");
    let komainu = Komainu::start_with(cluster, "pool.size = 1");
    for (extended, cut) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut wire = komainu.login(&database);
        let copy = "COPY fed FROM STDIN";
        let begin = if extended {
            new().parse("", copy).bind("", "", &[]).execute("", 0).flush()
        } else {
            new().query(copy)
        };
        wire.send(&begin.0);
        wire.until('G');
        wire.send(&new().copy_data("1\n").copy_data("2\n").0);
        if cut {
            wire.send(b"d\0\0\0\x20");
        }
        wire.reset();
        // The pool has one connection: whoever comes next needs it back.
        let mut next = komainu.login(&database);
        assert_eq!(next.query_value("SELECT count(*) FROM fed"), "0", "extended: {extended}, cut: {cut}");
    }
    let stuck = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE 'COPY%' AND state = 'active'"
    );
    eventually(PATIENCE, "no COPY runs on", || cluster.primary().psql("postgres", &stuck).unwrap() == "0");
}

/// A goodbye to the server would be the end of the text, and the server would run it.
#[test]
fn a_query_that_lacks_its_last_bytes_is_never_run() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE ran (n int); GRANT ALL ON ran TO PUBLIC");
    let komainu = Komainu::start_with(cluster, "pool.size = 1");
    // Too long to be kept until it is whole.
    let text = format!("INSERT INTO ran VALUES (1); -- {}", "x".repeat(4 << 20));
    let whole = new().query(&text).0;
    for lacks in 1..=6 {
        let mut wire = komainu.login(&database);
        let sent = || komainu.metric("komainu_bytes_total{direction=\"to_servers\"}").unwrap_or(0.0);
        let (before, part) = (sent(), whole.len() - lacks);
        wire.send(&whole[..part]);
        eventually(PATIENCE, "the server has got it", || sent() - before >= part as f64);
        wire.reset();
        let mut next = komainu.login(&database);
        assert_eq!(next.query_value("SELECT count(*) FROM ran"), "0", "{lacks} bytes are missing");
    }
}

/// The server asks for the data when nobody is there to send it.
#[test]
fn a_client_that_vanishes_before_its_copy_begins_holds_up_nobody() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    // What waits so is not ended by the cancel with which a transaction is whose client has left.
    let waits = "CREATE FUNCTION waits() RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN LOOP \
                 BEGIN PERFORM pg_advisory_xact_lock(1); RETURN true; \
                 EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$";
    cluster.prepare(&database, &format!("CREATE TABLE fed (n int); ALTER TABLE fed OWNER TO app; {waits}"));
    let komainu = Komainu::start_with(cluster, "pool.size = 1\n[split]\nenabled = false");
    let mut holder = Wire::connect(cluster.primary().port());
    holder.login("postgres", cluster.primary().password(), &database);
    let mut next = komainu.login(&database);
    let copy = "COPY fed FROM STDIN WHERE waits()";
    let batch = || new().parse("", copy).bind("", "", &[]).execute("", 0);
    for (what, begun, sent) in [
        ("a query", false, new().query(copy)),
        ("a query that begins a transaction", false, new().query(&format!("BEGIN; {copy}"))),
        ("a batch", false, batch().sync()),
        ("a batch without its Sync", false, batch().flush()),
        ("a query in a transaction", true, new().query(copy)),
        ("a batch in a transaction", true, batch().sync()),
        ("a batch without its Sync in a transaction", true, batch().flush()),
    ] {
        let backend = next.query_value("SELECT pg_backend_pid()");
        let mut wire = komainu.login(&database);
        if begun {
            wire.query("BEGIN");
        }
        holder.query("SELECT pg_advisory_lock(1)");
        wire.send(&sent.0);
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {backend} AND wait_event = 'advisory'"
        );
        eventually(PATIENCE, what, || cluster.primary().psql("postgres", &waiting).unwrap() == "1");
        wire.reset();
        eventually(PATIENCE, "it has left", || komainu.metric("komainu_client_connections") == Some(1.0));
        holder.query("SELECT pg_advisory_unlock(1)");
        assert_eq!(next.query_value("SELECT count(*) FROM fed"), "0", "{what}");
        assert_eq!(
            next.query_value("SELECT pg_backend_pid()"),
            backend,
            "{what}: cleaned rather than closed"
        );
    }
}

#[test]
fn a_batch_without_its_sync_is_rolled_back_when_its_client_leaves() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE half (n int); ALTER TABLE half OWNER TO app");
    let komainu = Komainu::start_with(cluster, "pool.size = 1");
    for flush in [true, false] {
        let mut wire = komainu.login(&database);
        let batch = new().parse("", "INSERT INTO half VALUES (1)").bind("", "", &[]).execute("", 0);
        wire.send(&if flush { batch.flush() } else { batch }.0);
        if flush {
            wire.until('C');
            // Its transaction is open: nobody else may get its connection.
            let mut other = komainu.login(&database);
            other.send(&new().query("SELECT n FROM half FOR UPDATE").0);
            other.expect_silence(Duration::from_millis(300));
        }
        wire.reset();
        let mut next = komainu.login(&database);
        assert_eq!(next.query_value("SELECT count(*) FROM half"), "0", "flushed: {flush}");
    }
}

#[test]
fn a_client_that_leaves_behind_its_message_leaves_nothing_else() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "pool.size = 1");
    for sql in [
        "SET search_path TO evil",
        "SELECT set_config('search_path', 'evil', false)",
        "SET ROLE pg_monitor; SELECT 1",
        "PREPARE p AS SELECT 1; SET search_path TO evil",
        "CREATE TEMP TABLE left_behind (n int)",
    ] {
        let mut wire = komainu.login(&database);
        wire.send(&new().query(sql).message('X', b"").0);
        until_end(&mut wire, sql);
        // Of the connection that was left. A standby has another, and may not have replayed yet that the table is gone.
        let mut next = komainu.login(&database);
        let mut value = |sql: &str| next.query_value(&format!("/* komainu: primary */ {sql}"));
        assert_eq!(value("SHOW search_path"), "\"$user\", public", "{sql}");
        assert_eq!(value("SELECT current_user"), "app", "{sql}");
        assert_eq!(value("SELECT count(*) FROM pg_class WHERE relname = 'left_behind'"), "0", "{sql}");
    }
}

#[test]
fn pipelines_with_errors_answer_each_sync() {
    let select = |m: Messages, sql: &str| m.parse("", sql).bind("", "", &[]).execute("", 0);
    let pipeline = select(new(), "SELECT 1");
    let pipeline = select(pipeline, "SELECT 1/0");
    let pipeline = select(pipeline, "SELECT 2").sync();
    let pipeline = select(pipeline, "SELECT 3").sync().sync();
    let pipeline = pipeline.query("SELECT 4").bind("", "nowhere", &[]).query("SELECT 5").sync();
    let pipeline = select(pipeline, "SELECT 6").sync();
    assert_eq!(same("a pipeline", &[pipeline.send(), Step::Ready(6)]), "12DC1EZ12DCZZTDCZEZ12DCZ");
    assert_eq!(same("Syncs alone", &[new().sync().sync().sync().send(), Step::Ready(3)]), "ZZZ");
    let in_transaction = select(new().query("BEGIN"), "SELECT 1/0").sync();
    let steps = [select(in_transaction, "SELECT 1").sync().query("ROLLBACK").send(), Step::Ready(4)];
    assert_eq!(same("in a transaction", &steps), "CZ1EZEZCZ");
}

#[test]
fn flush_without_sync_answers_and_keeps_the_transaction() {
    let batch =
        |sql: &str| new().parse("", sql).bind("", "", &[]).describe(b'P', "").execute("", 0).flush().send();
    let steps = [
        batch("INSERT INTO t VALUES (3000) RETURNING n"),
        Step::Read,
        batch("SELECT count(*) FROM t WHERE n = 3000"),
        Step::Read,
        batch("SELECT 1/0"),
        Step::Read,
        batch("SELECT 'skipped'"),
        new().sync().query("SELECT count(*) FROM t WHERE n = 3000").send(),
        Step::Ready(2),
    ];
    assert_eq!(same("Flush", &steps), "12TDC12TDC1EZTDCZ");
    let by_name = new().parse("", "SELECT 1").bind("", "", &[]).execute("", 0).query("DEALLOCATE ALL").sync();
    if Installation::find().unwrap().major_version() >= 18 {
        // It counts the Query into the batch's implicit transaction: its ReadyForQuery says T, ours I.
        return;
    }
    same("a message that waits for answers nobody asked to flush", &[by_name.send(), Step::Ready(2)]);
}

#[test]
fn portals_suspend_and_interleave() {
    let five = "SELECT generate_series(1, 5)";
    let ten = "SELECT generate_series(11, 20)";
    let steps = [
        new()
            .query("BEGIN")
            .parse("a", five)
            .parse("b", ten)
            .bind("p", "a", &[])
            .bind("q", "b", &[])
            .execute("p", 2)
            .execute("q", 3)
            .execute("p", 2)
            .execute("q", 0)
            .sync()
            .send(),
        Step::Ready(2),
        new()
            .execute("p", 2)
            .execute("p", 2)
            .describe(b'P', "q")
            .close(b'P', "p")
            .execute("p", 0)
            .sync()
            .send(),
        Step::Ready(1),
        new().query("ROLLBACK").bind("p", "a", &[]).execute("p", 2).flush().send(),
        Step::Read,
        new().execute("p", 2).sync().execute("p", 2).sync().send(),
        Step::Ready(2),
    ];
    let seen = same("portals", &steps);
    assert!(seen.contains("DDsDDDsDDs") && seen.ends_with("DDsZEZ"), "{seen}");
}

#[test]
fn function_calls_pass() {
    // pg_catalog.int4pl, one format for all: text.
    let call = |arguments: &[&str]| {
        let mut body = 177_u32.to_be_bytes().to_vec();
        body.extend([0, 0]);
        body.extend((arguments.len() as u16).to_be_bytes());
        for argument in arguments {
            body.extend((argument.len() as u32).to_be_bytes());
            body.extend(argument.as_bytes());
        }
        body.extend([0, 0]);
        new().message('F', &body)
    };
    assert_eq!(same("FunctionCall", &[call(&["40", "2"]).send(), Step::Ready(1)]), "VZ");
    assert_eq!(
        same("one that fails", &[call(&["40", "x"]).query("SELECT 1").send(), Step::Ready(2)]),
        "EZTDCZ"
    );
    assert_eq!(same("one that lies", &[call(&["1"]).send(), Step::Ready(1)]), "EZ");
}

#[test]
fn several_statements_in_one_query_are_as_with_postgresql() {
    for sql in [
        "INSERT INTO t VALUES (4000); SELECT 1/0; INSERT INTO t VALUES (4001)",
        "INSERT INTO t VALUES (4002); COMMIT; SELECT 1/0",
        "BEGIN; INSERT INTO t VALUES (4003); COMMIT; BEGIN; INSERT INTO t VALUES (4004)",
        "SELECT 1; BEGIN; SELECT 1/0",
        "BEGIN; COMMIT; SELECT 2; ROLLBACK",
        "SAVEPOINT a; SELECT 1",
        "",
        ";;;",
        "-- nothing",
    ] {
        let steps = [
            new().query(sql).send(),
            Step::Ready(1),
            new().query("ROLLBACK").send(),
            Step::Ready(1),
            new().query("SELECT n FROM t WHERE n >= 4000 AND n < 5000 ORDER BY n").send(),
            Step::Ready(1),
        ];
        same(sql, &steps);
    }
}

#[test]
fn five_hundred_queries_in_one_go_are_answered_in_order() {
    let mut messages = new();
    for n in 0..500 {
        messages = messages.query(&format!("SELECT {n}"));
    }
    assert_eq!(same("500 queries", &[messages.send(), Step::Ready(500)]).len(), 2000);
    let mut messages = new();
    for n in 0..500 {
        messages = messages.parse("", &format!("SELECT {n}")).bind("", "", &[]).execute("", 0).sync();
    }
    assert_eq!(same("500 batches", &[messages.send(), Step::Ready(500)]).len(), 2500);
}

#[test]
fn wide_rows_and_long_errors_and_long_queries_pass() {
    let columns: Vec<String> = (0..1600).map(|n| format!("{n} AS c{n}")).collect();
    let wide = new().query(&format!("SELECT {}", columns.join(","))).send();
    assert_eq!(same("1600 columns", &[wide, Step::Ready(1)]), "TDCZ");
    // What komainu answers by itself comes behind a description that takes more than one read.
    let wide = format!("SELECT {}", columns.join(","));
    let parse = new().parse("s", &wide).parse("t", "SELECT 1").describe(b'S', "s").sync();
    let described =
        new().describe(b'S', "s").close(b'S', "s").parse("u", "SELECT 1").describe(b'S', "u").sync();
    assert_eq!(
        same("1600 columns described", &[parse.send(), Step::Ready(1), described.send(), Step::Ready(1)]),
        "11tTZtT31tTZ"
    );
    let long =
        new().query("DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 200000); END $$").query("SELECT 1").send();
    assert_eq!(same("an error of 200 kB", &[long, Step::Ready(2)]), "EZTDCZ");
    let notice =
        new().query("DO $$ BEGIN RAISE NOTICE '%', repeat('x', 200000); END $$").query("SELECT 1").send();
    assert_eq!(same("a notice of 200 kB", &[notice, Step::Ready(2)]), "NCZTDCZ");
    let query = new().query(&format!("SELECT length('{}')", "x".repeat(10 << 20))).query("SELECT 1").send();
    assert_eq!(same("a query of 10 MB", &[query, Step::Ready(2)]), "TDCZTDCZ");
    let sql = format!("SELECT length('{}') + $1::int", "x".repeat(3 << 20));
    let parse = new()
        .parse("", &sql)
        .bind("", "", &["1"])
        .execute("", 0)
        .sync()
        .bind("", "", &["2"])
        .execute("", 0)
        .sync();
    assert_eq!(same("a Parse of 3 MB", &[parse.send(), Step::Ready(2)]), "12DCZ2DCZ");
}

#[test]
fn notices_parameters_and_notifications_keep_their_order() {
    let steps = [
        new().query("LISTEN here").send(),
        Step::Ready(1),
        new()
            .query("DO $$ BEGIN RAISE NOTICE 'one'; END $$; SET application_name = 'other'; NOTIFY here, 'a'; SELECT 1")
            .query("SET datestyle = 'German'; DO $$ BEGIN RAISE WARNING 'two'; END $$")
            .send(),
        Step::Read,
        new().query("BEGIN; NOTIFY here, 'b'; SELECT 2").query("COMMIT").send(),
        Step::Read,
        new().query("UNLISTEN *").send(),
        Step::Ready(1),
    ];
    let seen = same("asynchronous messages", &steps);
    assert!(seen.contains('A') && seen.contains('N') && seen.contains('S'), "{seen}");
}

#[test]
fn bytes_that_are_no_text_get_the_servers_own_answer() {
    let raw = |tag, body: &[u8]| new().message(tag, body).sync().query("SELECT 1").send();
    for (what, step) in [
        ("a query", new().message('Q', b"SELECT '\xff\xfe'\0").query("SELECT 1").send()),
        ("an identifier", new().message('Q', b"SELECT 1 AS \"\xc3\x28\"\0").query("SELECT 1").send()),
    ] {
        same(what, &[step, Step::Ready(2)]);
    }
    // A statement's name never leaves komainu, so here it may be any bytes.
    let mut wire = komainu().login(&twins().proxied);
    let named = b"\xff\xfe\0SELECT 7\0\0\0";
    wire.send(&new().message('P', named).message('B', b"\0\xff\xfe\0\0\0\0\0\0\0").execute("", 0).sync().0);
    assert_eq!(tags(&wire.until('Z')), "12DCZ");
    same("a portal's name", &[raw('D', b"P\xff\xfe\0"), Step::Ready(2)]);
    same("a value", &[raw('B', b"\0\0\0\0\0\x01\0\0\0\x02\xff\xfe\0\0"), Step::Ready(2)]);
}

#[test]
fn values_of_a_hundred_megabytes_pass_both_ways_in_bounded_memory() {
    const SIZE: usize = 104 << 20;
    let mut wire = komainu().login(&twins().proxied);
    let before = peak_rss_kb(komainu());
    let bind = {
        let mut body = b"\0\0\0\0\0\x01".to_vec();
        body.extend((SIZE as u32).to_be_bytes());
        body.resize(body.len() + SIZE, b'x');
        body.extend([0, 0]);
        body
    };
    let batch = new().parse("", "SELECT length($1), $1").message('B', &bind).execute("", 0).sync();
    // Sent and read side by side: the server answers only when it has all.
    wire.send(&batch.0);
    drop(batch);
    wire.expect('1');
    wire.expect('2');
    let row = wire.expect('D');
    assert!(row.body.len() > SIZE && row.body.ends_with(b"xxxx"));
    wire.expect('C');
    wire.expect('Z');
    let grown = peak_rss_kb(komainu()).saturating_sub(before);
    assert!(grown < 32 * 1024, "komainu grew by {grown} kB for a value of {SIZE} bytes");
}

#[test]
fn a_client_that_stops_reading_costs_no_memory_and_goes_on() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(cluster, "pool.size = 2");
    let database = cluster.database();
    let mut wire = komainu.login(&database);
    wire.query("SELECT 1");
    let before = peak_rss_kb(&komainu);
    // 200 MB of rows, for COPY and for a query.
    for sql in [
        "COPY (SELECT n, repeat('x', 1000) FROM generate_series(1, 200000) n) TO STDOUT",
        "SELECT n, repeat('x', 1000) FROM generate_series(1, 200000) n",
    ] {
        wire.send(&new().query(sql).0);
        // Others are served while it does not read.
        let started = Instant::now();
        let mut other = komainu.login(&database);
        while started.elapsed() < Duration::from_millis(700) {
            assert_eq!(other.query_value("SELECT 42"), "42");
        }
        let messages = read_lightly(&mut wire);
        assert_eq!(messages, 200_000, "{sql}");
    }
    let grown = peak_rss_kb(&komainu).saturating_sub(before);
    assert!(grown < 16 * 1024, "komainu grew by {grown} kB");
    assert_eq!(wire.query_value("SELECT 43"), "43");
}

/// Rows up to ReadyForQuery, not kept.
fn read_lightly(wire: &mut Wire) -> usize {
    let mut rows = 0;
    loop {
        let message = wire.message();
        match message.tag {
            'D' | 'd' => {
                assert!(message.body.len() > 1000);
                rows += 1;
            }
            'Z' => return rows,
            _ => {}
        }
    }
}

#[test]
fn a_client_that_leaves_a_long_result_frees_its_connection() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(cluster, "pool.size = 1");
    let database = cluster.database();
    for sql in [
        "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 300000)) TO STDOUT",
        "BEGIN; SELECT repeat('x', 1000) FROM generate_series(1, 300000)",
    ] {
        let mut wire = komainu.login(&database);
        wire.send(&new().query(sql).0);
        wire.message();
        wire.reset();
        let mut next = komainu.login(&database);
        assert_eq!(next.query_value("SELECT 42"), "42");
    }
}

fn peak_rss_kb(komainu: &Komainu) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", komainu.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
