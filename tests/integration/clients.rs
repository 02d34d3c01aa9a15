//! Real clients, as they come: psql, pgbench, tokio-postgres and psycopg 3.

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use futures_util::{SinkExt, TryStreamExt, future, pin_mut};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Config, NoTls, SimpleQueryMessage};

use super::support::*;

/// With everything on: splitting, and fewer server connections than clients.
fn shared() -> &'static Komainu {
    static SHARED: OnceLock<Komainu> = OnceLock::new();
    SHARED.get_or_init(|| Komainu::start_with(Cluster::shared(), "[pool]\nsize = 4\n"))
}

#[test]
fn psql_describes_copies_and_runs_several_statements() {
    let database = Cluster::shared().database();
    let url = shared().url(&database);
    let tell = |statements: &[&str]| psql(&url, statements).output();
    tell(&["CREATE TABLE t (id int PRIMARY KEY, name text); COMMENT ON TABLE t IS 'said by psql'"]);
    let described = tell(&["\\d t", "\\dt+ t", "\\df pg_backend_pid", "\\di", "\\conninfo"]);
    for part in ["id|integer||not null|", "t_pkey", "said by psql", "pg_backend_pid", &database] {
        assert!(described.contains(part), "{part:?} is not in {described}");
    }
    let file = shared().directory().join(format!("{database}.tsv"));
    std::fs::write(&file, "1\tone\n2\ttwo\n3\t\\N\n").unwrap();
    tell(&[&format!("\\copy t FROM '{}'", file.display())]);
    assert_eq!(tell(&["SELECT count(*), count(name) FROM t; SELECT 'second'"]), "3|2\nsecond");
    let copied = file.with_extension("out");
    tell(&[&format!("\\copy (SELECT * FROM t WHERE id < 3 ORDER BY id) TO '{}' CSV", copied.display())]);
    assert_eq!(std::fs::read_to_string(copied).unwrap(), "1,one\n2,two\n");
    let broken = psql(&url, &[&format!("\\copy t FROM '{}' CSV", file.display()), "SELECT 'not reached'"]);
    assert!(!broken.success && broken.stderr.contains("invalid input syntax"), "{broken:?}");
    assert_eq!(tell(&["TABLE t ORDER BY id LIMIT 1"]), "1|one");
}

#[test]
fn psql_rolls_back_to_its_own_savepoints() {
    let database = Cluster::shared().database();
    let script = "CREATE TABLE t (a int);\nBEGIN;\nINSERT INTO t VALUES (1);\nINSERT INTO t VALUES ('x');\n\
                  INSERT INTO t VALUES (2);\nSELECT 1/0;\nCOMMIT;\nSELECT sum(a) FROM t;\n\\gdesc\n\
                  SELECT $1::int + 1 \\bind 41 \\g\n";
    let file = shared().directory().join(format!("{database}.sql"));
    // PostgreSQL 15's psql has no \bind; what it has is enough.
    std::fs::write(&file, script.replace("SELECT $1::int + 1 \\bind 41 \\g\n", "SELECT 41 + 1 \\gset\n"))
        .unwrap();
    let urls = [shared().url(&database), direct_url(&Cluster::shared().database())];
    let [told, expected] = urls.map(|url| {
        let mut command = std::process::Command::new("timeout");
        command.args(["60", "/bin/sh", "-c", "exec \"$0\" \"$@\" 2>&1"]);
        let psql = komainu::sandbox::Installation::find().unwrap().client_command("psql");
        command.arg(psql.get_program()).args(["-XAt", "-v", "ON_ERROR_ROLLBACK=on", "-f"]).arg(&file);
        run(command.args(["-d", &url])).output()
    });
    assert_eq!(told, expected);
    assert!(told.contains("\n3\n"), "{told}");
}

fn direct_url(database: &str) -> String {
    let port = Cluster::shared().primary().port();
    let password: String = APP_PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("postgres://{APP_USER}:{password}@127.0.0.1:{port}/{database}")
}

/// TPC-B keeps four sums equal, if each transaction is one and none is lost or run twice.
#[track_caller]
fn balances_add_up(database: &str, transactions: u32) {
    // Another session may read a standby that is behind; the primary itself knows.
    let sums = psql(
        &direct_url(database),
        &["SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
           (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history), \
           (SELECT count(*) FROM pgbench_history)"],
    )
    .output();
    let sums: Vec<i64> = sums.split('|').map(|sum| sum.parse().unwrap()).collect();
    assert!(sums[..4].iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert_eq!(sums[4], i64::from(transactions), "{sums:?}");
}

#[test]
fn pgbench_balances_add_up_in_every_mode() {
    // They compete for the machine with each other enough.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock();
    let database = Cluster::shared().database();
    let url = shared().url(&database);
    pgbench(&url, &["-i", "-q", "-s", "2"]).output();
    let mut done = 0;
    for mode in ["simple", "extended", "prepared"] {
        // A thread each: pgbench prepares blocking all clients of its thread, also those in a transaction,
        // whose connection the blocking one may be waiting for.
        let ran = pgbench(&url, &["-n", "-M", mode, "-c", "8", "-j", "8", "-t", "40"]).output();
        assert!(ran.contains("320/320") && ran.contains("failed transactions: 0"), "{ran}");
        done += 320;
        balances_add_up(&database, done);
    }
    let ran = pgbench(&url, &["-n", "-C", "-c", "4", "-t", "10"]).output();
    assert!(ran.contains("40/40"), "{ran}");
    balances_add_up(&database, done + 40);
}

#[test]
fn pgbench_pipelines_its_script() {
    let database = Cluster::shared().database();
    let url = shared().url(&database);
    pgbench(&url, &["-i", "-q"]).output();
    let script = "\\set aid random(1, 100000)\n\\set delta random(-5000, 5000)\n\\startpipeline\n\
                  BEGIN;\n\
                  UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;\n\
                  SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n\
                  UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = 1;\n\
                  UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;\n\
                  INSERT INTO pgbench_history (tid, bid, aid, delta) VALUES (1, 1, :aid, :delta);\n\
                  END;\n\\endpipeline\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n";
    let file = shared().directory().join(format!("{database}.pgbench"));
    std::fs::write(&file, script).unwrap();
    let mut done = 0;
    for mode in ["extended", "prepared"] {
        let file = file.to_str().unwrap();
        let ran = pgbench(&url, &["-n", "-M", mode, "-f", file, "-c", "6", "-j", "6", "-t", "40"]).output();
        assert!(ran.contains("240/240") && ran.contains("failed transactions: 0"), "{mode}: {ran}");
        done += 240;
        balances_add_up(&database, done);
    }
}

#[tokio::test]
async fn tokio_postgres_prepares_queries_and_streams() {
    let database = Cluster::shared().database();
    let mut client = shared().connect(&database).await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL)").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
    for id in 0..20_i32 {
        assert_eq!(client.execute(&insert, &[&id, &format!("name {id}")]).await.unwrap(), 1);
    }
    let select = client.prepare("SELECT name FROM t WHERE id = $1").await.unwrap();
    assert_eq!(client.query_one(&select, &[&7_i32]).await.unwrap().get::<_, String>(0), "name 7");
    assert!(client.query_opt(&select, &[&70_i32]).await.unwrap().is_none());
    let rows = client.query_raw("SELECT id FROM t ORDER BY id", Vec::<i32>::new()).await.unwrap();
    let ids: Vec<i32> = rows.map_ok(|row| row.get::<_, i32>(0)).try_collect().await.unwrap();
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
    let error = client.execute(&insert, &[&7_i32, &"again"]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23505");
    let messages = client.simple_query("SELECT 1 AS a; SELECT 2 AS a").await.unwrap();
    let values = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    assert_eq!(values.collect::<Vec<_>>(), ["1", "2"]);

    // A transaction with a portal that is read in steps, and one inside it that fails.
    let mut transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT id FROM t ORDER BY id", &[]).await.unwrap();
    let first = transaction.query_portal(&portal, 3).await.unwrap();
    let inner = transaction.transaction().await.unwrap();
    inner.execute("DELETE FROM t", &[]).await.unwrap();
    inner.rollback().await.unwrap();
    let second = transaction.query_portal(&portal, 0).await.unwrap();
    assert_eq!((first.len(), second.len()), (3, 17));
    transaction.commit().await.unwrap();
    let transaction = client.build_transaction().read_only(true).start().await.unwrap();
    let refused = transaction.execute("DELETE FROM t", &[]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
    drop(transaction);
    let count = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 20);
}

#[tokio::test]
async fn tokio_postgres_copies_in_and_out() {
    let database = Cluster::shared().database();
    let client = shared().connect(&database).await;
    client.batch_execute("CREATE TABLE t (id int, name text)").await.unwrap();
    let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
    pin_mut!(sink);
    for id in 0..5000 {
        sink.send(bytes::Bytes::from(format!("{id}\tname of {id}\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 5000);
    let out = client.copy_out("COPY (SELECT * FROM t ORDER BY id) TO STDOUT").await.unwrap();
    let out: Vec<u8> = out.map_ok(|bytes| bytes.to_vec()).try_concat().await.unwrap();
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 5000);
    assert!(out.starts_with(b"0\tname of 0\n") && out.ends_with(b"4999\tname of 4999\n"));

    // Given up half-way, and broken by a bad row: nothing stays, and the session goes on.
    {
        let sink = client.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap();
        pin_mut!(sink);
        sink.send(bytes::Bytes::from_static(b"1\tgiven up\n")).await.unwrap();
    }
    let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
    pin_mut!(sink);
    sink.send(bytes::Bytes::from_static(b"not a number\tx\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap_err().code().unwrap().code(), "22P02");
    let count = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 5000);
}

#[tokio::test]
async fn tokio_postgres_cancels_its_own_query_only() {
    let database = Cluster::shared().database();
    let (client, other) = (shared().connect(&database).await, shared().connect(&database).await);
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS n").await.unwrap();
    let token = client.cancel_token();
    let cancel = async {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%' \
                       AND state = 'active' AND datname = $1";
        eventually_async(PATIENCE, "the query runs", || async {
            other.query_one(running, &[&database]).await.unwrap().get::<_, i64>(0) == 1
        })
        .await;
        token.cancel_query(NoTls).await.unwrap();
    };
    // Through the primary, where pg_stat_activity shows it.
    let (slept, ()) = future::join(client.query("SELECT pg_sleep(60) FROM t FOR UPDATE", &[]), cancel).await;
    assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
    // Idle: nothing to cancel, and nobody else's query is hit.
    token.cancel_query(NoTls).await.unwrap();
    let undisturbed =
        future::join_all((0..4).map(|_| other.query_one("SELECT 1 FROM pg_sleep(0.2)", &[]))).await;
    assert!(undisturbed.iter().all(Result::is_ok), "{undisturbed:?}");
    assert!(client.query_one("SELECT 1", &[]).await.is_ok());
}

#[tokio::test]
async fn tokio_postgres_is_notified() {
    let database = Cluster::shared().database();
    let mut config = Config::new();
    config.host("127.0.0.1").port(shared().port()).user(APP_USER).password(APP_PASSWORD).dbname(&database);
    let (listener, mut connection) = config.connect(NoTls).await.unwrap();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification.payload().to_owned());
            }
        }
    });
    listener.batch_execute("LISTEN news").await.unwrap();
    let other = shared().connect(&database).await;
    for n in 0..3 {
        other.execute("SELECT pg_notify('news', $1)", &[&n.to_string()]).await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(10), received.recv()).await;
        assert_eq!(next.expect("a notification while idle"), Some(n.to_string()));
    }
}

#[tokio::test]
async fn tokio_postgres_pipelines_many_futures() {
    let database = Cluster::shared().database();
    let client = shared().connect(&database).await;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let insert = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    let square = client.prepare("SELECT $1::int * $1::int").await.unwrap();
    // Every tenth fails, in the middle of the others.
    let all = (0..200_i32).map(|n| {
        let (client, insert, square) = (&client, &insert, &square);
        async move {
            let id = if n % 10 == 9 { n - 1 } else { n };
            let (id, n): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&id], [&n]);
            let inserted = client.execute(insert, &id);
            let squared = client.query_one(square, &n);
            let fresh = client.query_one("SELECT $1::int + 1", &n);
            let (inserted, squared, fresh) = future::join3(inserted, squared, fresh).await;
            (inserted.is_ok(), squared.unwrap().get::<_, i32>(0), fresh.unwrap().get::<_, i32>(0))
        }
    });
    for (n, (inserted, squared, next)) in future::join_all(all).await.into_iter().enumerate() {
        let n = n as i32;
        assert_eq!((inserted, squared, next), (n % 10 != 9, n * n, n + 1), "{n}");
    }
    let count = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 180);
}

/// The body of a script, with `url` at hand; it fails by `assert`.
fn psycopg(body: &str) {
    let database = Cluster::shared().database();
    let script = format!("import psycopg, sys\nurl = sys.argv[1]\n{body}\nprint('done')");
    assert_eq!(python(&script, &[&shared().url(&database)]).output(), "done");
}

#[test]
fn psycopg_prepares_from_the_first_execution_on() {
    psycopg(
        r"
conns = [psycopg.connect(url, autocommit=True, prepare_threshold=0) for _ in range(6)]
conns[0].execute('CREATE TABLE t (id int PRIMARY KEY, owner int)')
for round in range(5):
    for n, conn in enumerate(conns):
        conn.execute('INSERT INTO t VALUES (%s, %s)', (round * 10 + n, n))
        assert conn.execute('SELECT owner FROM t WHERE id = %s', (round * 10 + n,)).fetchone() == (n,)
        assert conn.execute('SELECT count(*) FROM t WHERE owner = %s', (n,)).fetchone() == (round + 1,)
# Many statements: psycopg deallocates the least recently used ones.
conns[0].prepared_max = 3
for n in list(range(10)) * 2:
    assert conns[0].execute(f'SELECT {n} + %s', (1,)).fetchone() == (n + 1,)
try:
    conns[1].execute('INSERT INTO t VALUES (%s, %s)', (0, 0))
    assert False
except psycopg.errors.UniqueViolation:
    pass
assert conns[1].execute('SELECT 1').fetchone() == (1,)
conns[0].execute('DISCARD ALL')
conns[2].execute('ALTER TABLE t ADD extra text')
assert len(conns[3].execute('SELECT * FROM t WHERE id = %s', (0,)).fetchone()) == 3
",
    );
}

#[test]
fn psycopg_uses_cursors_on_the_server() {
    psycopg(
        r"
with psycopg.connect(url) as conn:
    with conn.cursor(name='big') as cur:
        cur.itersize = 100
        cur.execute('SELECT generate_series(1, 1000)')
        assert sum(row[0] for row in cur) == 500500
    with conn.cursor(name='scroll', scrollable=True) as cur:
        cur.execute('SELECT generate_series(1, 10)')
        cur.scroll(5)
        assert cur.fetchone() == (6,)
        cur.scroll(0, mode='absolute')
        assert cur.fetchmany(2) == [(1,), (2,)]
    kept = conn.cursor(name='kept', withhold=True)
    kept.execute('SELECT generate_series(1, 5)')
    conn.commit()
    assert kept.fetchmany(2) == [(1,), (2,)]
    conn.commit()
    assert kept.fetchall() == [(3,), (4,), (5,)]
    kept.close()
    conn.commit()
    assert conn.execute('SHOW komainu.pins').fetchall() == []
",
    );
}

#[test]
fn psycopg_pipelines() {
    psycopg(
        r"
for threshold in (0, 5, None):
    with psycopg.connect(url, autocommit=True, prepare_threshold=threshold) as conn:
        conn.execute('DROP TABLE IF EXISTS t')
        conn.execute('CREATE TABLE t (id int PRIMARY KEY)')
        with conn.pipeline() as pipeline:
            curs = [conn.execute('SELECT %s::int', (n,)) for n in range(50)]
            conn.execute('INSERT INTO t VALUES (%s)', (1,))
            pipeline.sync()
            curs += [conn.execute('SELECT %s::int', (n,)) for n in range(50, 100)]
        assert [cur.fetchone()[0] for cur in curs] == list(range(100))
        try:
            with conn.pipeline():
                conn.execute('INSERT INTO t VALUES (%s)', (2,))
                conn.execute('INSERT INTO t VALUES (%s)', (1,))
                conn.execute('INSERT INTO t VALUES (%s)', (3,))
            assert False
        except psycopg.errors.UniqueViolation:
            pass
        # One implicit transaction, which has failed.
        assert conn.execute('SELECT array_agg(id) FROM t').fetchone() == ([1],)
        with conn.pipeline(), conn.transaction():
            conn.execute('INSERT INTO t VALUES (4)')
            seen = conn.execute('SELECT max(id) FROM t')
        assert seen.fetchone() == (4,)
        # A statement first prepared in a batch that fails is not prepared afterwards.
        with conn.pipeline() as pipeline:
            conn.execute('SELECT 1/0')
            conn.execute('SELECT %s::text || 1', ('x',))
            try:
                pipeline.sync()
            except psycopg.errors.DivisionByZero:
                pass
        for _ in range(3):
            assert conn.execute('SELECT %s::text || 1', ('x',)).fetchone() == ('x1',)
",
    );
}

#[test]
fn psycopg_transacts_copies_and_is_notified() {
    psycopg(
        r"
with psycopg.connect(url) as conn:
    conn.execute('CREATE TABLE t (id int, name text)')
    conn.commit()
    with conn.cursor().copy('COPY t FROM STDIN') as copy:
        for n in range(1000):
            copy.write_row((n, f'name {n}'))
    conn.commit()
    with conn.cursor().copy('COPY (SELECT * FROM t ORDER BY id) TO STDOUT') as copy:
        copy.set_types(['int4', 'text'])
        assert sum(1 for _ in copy.rows()) == 1000
    conn.rollback()
    try:
        with conn.cursor().copy('COPY t FROM STDIN') as copy:
            copy.write_row((1, 'lost'))
            raise RuntimeError('given up')
    except RuntimeError:
        conn.rollback()
    with conn.transaction():
        try:
            with conn.transaction():
                conn.execute('DELETE FROM t')
                raise psycopg.Rollback
        except psycopg.Rollback:
            pass
    assert conn.execute('SELECT count(*) FROM t').fetchone() == (1000,)
    conn.commit()
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    try:
        conn.execute('SELECT 1/0')
    except psycopg.errors.DivisionByZero:
        pass
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
    conn.rollback()
    conn.execute('SET search_path = pg_catalog')
    conn.rollback()
    assert conn.execute('SHOW search_path').fetchone() != ('pg_catalog',)
    assert conn.info.parameter_status('in_hot_standby') == 'off'
    conn.commit()

listener = psycopg.connect(url, autocommit=True)
listener.execute('LISTEN news')
with psycopg.connect(url, autocommit=True) as sender:
    for n in range(3):
        sender.execute('SELECT pg_notify(%s, %s)', ('news', str(n)))
got = [n.payload for n in listener.notifies(timeout=10, stop_after=3)]
assert got == ['0', '1', '2'], got

sleeper = psycopg.connect(url, autocommit=True)
import threading
done = threading.Event()
def cancel():
    # One that comes before the statement runs is lost.
    while not done.wait(0.5):
        sleeper.cancel_safe()
canceller = threading.Thread(target=cancel)
canceller.start()
try:
    sleeper.execute('SELECT pg_sleep(60)')
    assert False
except psycopg.errors.QueryCanceled:
    pass
finally:
    done.set()
    canceller.join()
assert sleeper.execute('SELECT 1').fetchone() == (1,)
",
    );
}
