//! Prepared statements in transaction pooling: what a client has prepared is there, whatever backend it gets.

use std::sync::OnceLock;

use super::lost_servers::told;
use super::routing::standbys_read;
use super::support::*;

/// Before everything on the primary, with a pool of this size.
fn komainu(size: usize, config: &str) -> Komainu {
    let config = format!("[split]\nenabled = false\n[pool]\nsize = {size}\n{config}");
    Komainu::start_with(Cluster::shared(), &config)
}

/// One for all tests that need no other; its own database keeps them apart.
fn shared() -> &'static Komainu {
    static SHARED: OnceLock<Komainu> = OnceLock::new();
    SHARED.get_or_init(|| komainu(2, ""))
}

/// Two clients of a pool of two. Whenever `other` is in a transaction, `client` gets the other backend.
struct Pair {
    client: Wire,
    other: Wire,
}

impl Pair {
    fn new(komainu: &Komainu, database: &str) -> Self {
        Self { client: komainu.login(database), other: komainu.login(database) }
    }

    /// From now on the client gets a backend that it did not have before.
    fn hop(&mut self) {
        let before = self.client.query_value("SELECT pg_backend_pid()");
        self.hop_from(&before);
        assert_ne!(self.client.query_value("SELECT pg_backend_pid()"), before);
    }

    /// The same without a Query of the client's, which would end its unnamed statement.
    fn hop_from(&mut self, before: &str) {
        if tags(&self.other.query("ROLLBACK")).contains('E') {
            panic!("cannot roll back");
        }
        // The pool lends what was used last: the client's.
        loop {
            self.client.pipeline(Pipeline::new().close('P', "none").sync());
            let taken = self.other.query("BEGIN; SELECT pg_backend_pid()");
            if first_value(&taken).unwrap() == before {
                break;
            }
            self.other.query("ROLLBACK");
        }
    }
}

/// Begins a batch by which backend answers it.
fn told_where() -> Pipeline {
    Pipeline::new().parse("", "SELECT pg_backend_pid()").bind("", "", &[]).execute("", 0)
}

#[test]
fn a_statement_follows_its_client_to_another_backend() {
    let database = Cluster::shared().database();
    let mut pair = Pair::new(shared(), &database);
    let prepared = pair.client.pipeline(Pipeline::new().parse("s", "SELECT $1::int + 1").sync());
    assert_eq!(tags(&prepared), "1Z");
    assert_eq!(pair.client.run_prepared("s", &["1"]), "2");
    for n in 0..3 {
        pair.hop();
        assert_eq!(pair.client.run_prepared("s", &[&n.to_string()]), (n + 1).to_string());
    }
}

#[test]
fn a_description_is_the_same_on_every_backend() {
    let database = Cluster::shared().database();
    Cluster::shared().prepare(&database, "CREATE TABLE t (id int, name text)");
    let mut pair = Pair::new(shared(), &database);
    let describe = || Pipeline::new().describe('S', "s").sync();
    let sql = "SELECT id, name, $1::numeric AS n FROM t WHERE id > $2";
    let parsed = pair.client.pipeline(Pipeline::new().parse("s", sql).describe('S', "s").sync());
    let expected = transcript(&parsed[1..]);
    assert_eq!(tags(&parsed), "1tTZ");
    pair.hop();
    assert_eq!(transcript(&pair.client.pipeline(describe())), expected);
    pair.hop();
    assert_eq!(transcript(&pair.client.pipeline(describe())), expected);
}

#[test]
fn two_clients_mean_different_statements_by_one_name() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.pipeline(Pipeline::new().parse("s", "SELECT 'a' || $1").sync());
    b.pipeline(Pipeline::new().parse("s", "SELECT 'b' || $1").sync());
    for _ in 0..3 {
        assert_eq!(a.run_prepared("s", &["1"]), "a1");
        assert_eq!(b.run_prepared("s", &["2"]), "b2");
    }
    a.pipeline(Pipeline::new().close('S', "s").sync());
    assert_eq!(b.run_prepared("s", &["3"]), "b3", "another client's Close closes only its own");
    let gone = a.pipeline(Pipeline::new().run("s", &["4"]));
    assert_eq!(gone[0].sqlstate(), "26000");
}

#[test]
fn two_clients_share_a_text_and_close_it_apart() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    for client in [&mut a, &mut b] {
        client.pipeline(Pipeline::new().parse("same", "SELECT 1 + $1::int").sync());
    }
    a.pipeline(Pipeline::new().close('S', "same").sync());
    assert_eq!(b.run_prepared("same", &["1"]), "2");
    b.query("DEALLOCATE ALL");
    a.pipeline(Pipeline::new().parse("same", "SELECT 1 + $1::int").sync());
    assert_eq!(a.run_prepared("same", &["2"]), "3");
}

#[test]
fn errors_read_as_postgresql_says_them() {
    let database = Cluster::shared().database();
    let told = same_as_postgresql(shared(), &database, |wire| {
        let mut all = Vec::new();
        let mut ask = |pipeline: Pipeline| all.extend(wire.pipeline(pipeline));
        // A name that is taken, one that is not known, one that only looks like komainu's own.
        ask(Pipeline::new().parse("mine", "SELECT 1").sync());
        ask(Pipeline::new().parse("mine", "SELECT 2").sync());
        ask(Pipeline::new().run("nobody's", &[]));
        ask(Pipeline::new().run("_k0", &[]));
        ask(Pipeline::new().describe('S', "_k1").sync());
        ask(Pipeline::new().parse("_k0", "SELECT 'named like komainu''s'").sync());
        ask(Pipeline::new().run("_k0", &[]));
        ask(Pipeline::new().parse("_k0", "SELECT 3").sync());
        ask(Pipeline::new().close('S', "_k0").sync());
        ask(Pipeline::new().run("_k0", &[]));
        ask(Pipeline::new().close('S', "never there").sync());
        // The wrong number of parameters names the statement, too.
        ask(Pipeline::new().parse("two", "SELECT $1::int, $2::int").sync());
        ask(Pipeline::new().run("two", &["1"]));
        ask(Pipeline::new().parse("broken", "SELEC").sync());
        ask(Pipeline::new().run("broken", &[]));
        ask(Pipeline::new().parse("", "SELECT _k0 FROM generate_series(1, 2) AS x_k0").sync());
        ask(Pipeline::new().run("", &[]));
        all
    });
    assert_eq!(told.matches("42P05").count(), 2);
    assert!(told.contains("prepared statement \"nobody's\" does not exist"));
}

#[test]
fn errors_of_sql_level_statements_read_as_postgresql_says_them() {
    let database = Cluster::shared().database();
    same_as_postgresql(shared(), &database, |wire| {
        let mut all = Vec::new();
        for sql in [
            "PREPARE p (int) AS SELECT $1 + 1",
            "PREPARE p AS SELECT 1",
            "EXECUTE p (1)",
            "EXECUTE p",
            "EXECUTE p (1/0)",
            "EXECUTE _k0",
            "EXECUTE \"Quoted Name\" (1)",
            "PREPARE \"Quoted Name\" (int) AS SELECT $1 * 2",
            "EXECUTE \"Quoted Name\" (21)",
            "EXPLAIN (COSTS OFF) EXECUTE p (1)",
            "CREATE TEMP TABLE made AS EXECUTE p (41)",
            "SELECT * FROM (SELECT count(*) FROM made) AS c",
            "DROP TABLE made",
            "DEALLOCATE nobody",
            "DEALLOCATE p",
            "EXECUTE p (1)",
            "PREPARE p AS SELECT 'again'",
            "EXECUTE p",
            "DEALLOCATE PREPARE p",
            "PREPARE broken AS SELEC",
            "EXECUTE broken",
            "PREPARE a AS SELECT 1; EXECUTE a; DEALLOCATE a",
            "EXECUTE a",
            "DEALLOCATE ALL",
            "EXECUTE \"Quoted Name\" (21)",
        ] {
            all.extend(wire.query(sql));
        }
        all
    });
}

#[test]
fn sql_level_statements_follow_their_client() {
    let database = Cluster::shared().database();
    let mut pair = Pair::new(shared(), &database);
    pair.client.query("PREPARE p (int) AS SELECT $1 + 1");
    for _ in 0..2 {
        pair.hop();
        assert_eq!(pair.client.query_value("EXECUTE p (1)"), "2");
        assert!(pair.client.query_value("EXPLAIN EXECUTE p (1)").contains("Result"));
    }
    assert_eq!(transcript(&pair.other.query("ROLLBACK; EXECUTE p (1)")).matches("26000").count(), 1);
    // Protocol and SQL share their names.
    pair.client.pipeline(Pipeline::new().parse("q", "SELECT $1::int * 2").sync());
    pair.hop();
    assert_eq!(pair.client.query_value("EXECUTE q (4)"), "8");
    assert_eq!(pair.client.run_prepared("p", &["5"]), "6");
    pair.hop();
    assert_eq!(pair.client.query_value("EXECUTE q (5)"), "10");
    assert_eq!(tags(&pair.client.query("DEALLOCATE q")), "CZ");
    let gone = pair.client.pipeline(Pipeline::new().run("q", &["1"]));
    assert_eq!(gone[0].text(), "prepared statement \"q\" does not exist");
}

#[test]
fn what_is_deallocated_by_any_means_is_gone() {
    let database = Cluster::shared().database();
    let deallocate_by: [fn(&mut Wire) -> Vec<Message>; 14] = [
        |wire| wire.query("DEALLOCATE s"),
        |wire| wire.query("DEALLOCATE ALL"),
        |wire| wire.query("DISCARD ALL"),
        |wire| wire.pipeline(Pipeline::new().close('S', "s").sync()),
        |wire| wire.pipeline(Pipeline::new().parse("", "DEALLOCATE s").run("", &[])),
        |wire| wire.pipeline(Pipeline::new().parse("", "DEALLOCATE ALL").run("", &[])),
        |wire| wire.pipeline(Pipeline::new().parse("", "DISCARD ALL").run("", &[])),
        |wire| wire.pipeline(Pipeline::new().parse("d", "DEALLOCATE ALL").run("d", &[])),
        // One that is parsed and not executed deallocates nothing.
        |wire| {
            wire.pipeline(Pipeline::new().parse("t", "SELECT 'kept'").sync());
            let parsed = Pipeline::new().parse("d1", "DEALLOCATE s").parse("d2", "DEALLOCATE t");
            let mut all = wire.pipeline(parsed.run("d1", &[]));
            all.extend(wire.pipeline(Pipeline::new().run("t", &[])));
            all
        },
        |wire| wire.query("SELECT 1; DEALLOCATE s; SELECT 2"),
        |wire| wire.query("DEALLOCATE PREPARE all; SELECT 1"),
        |wire| wire.query("BEGIN; DEALLOCATE s; COMMIT"),
        // What keeps the session on its connection is not lost by it.
        |wire| {
            wire.query("CREATE TEMP TABLE kept ()");
            let mut all = wire.pipeline(Pipeline::new().parse("", "DEALLOCATE s").run("", &[]));
            all.extend(wire.query("SELECT 1; SELECT count(*) FROM kept"));
            all
        },
        |wire| {
            wire.query("CREATE TEMP TABLE kept ()");
            let mut all = wire.query("DEALLOCATE s; PREPARE t AS SELECT 3; EXECUTE t");
            all.extend(wire.query("EXECUTE t; DEALLOCATE ALL"));
            all.extend(wire.query("EXECUTE t"));
            all.extend(wire.query("SELECT count(*) FROM kept"));
            all
        },
    ];
    for deallocate in deallocate_by {
        same_as_postgresql(shared(), &database, |wire| {
            let mut all = wire.pipeline(Pipeline::new().parse("s", "SELECT 'before'").sync());
            all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
            all.extend(deallocate(wire));
            all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
            all.extend(wire.pipeline(Pipeline::new().parse("s", "SELECT 'after'").sync()));
            all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
            all
        });
    }
}

#[test]
fn a_text_of_several_statements_deallocates_for_itself_alone() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let shared = "SELECT 'shared'";
    let mut other = komainu.login(&database);
    other.pipeline(Pipeline::new().parse("mine", shared).sync());
    assert_eq!(other.run_prepared("mine", &[]), "shared");
    same_as_postgresql(&komainu, &database, |wire| {
        let mut all = wire.pipeline(Pipeline::new().parse("s", shared).run("s", &[]));
        for sql in [
            "BEGIN",
            "DEALLOCATE s; SELECT 1",
            "EXECUTE s",
            "ROLLBACK",
            "PREPARE s AS SELECT 'again'",
            "EXECUTE s",
            "BEGIN; DEALLOCATE s; EXECUTE s",
            "ROLLBACK",
            "DEALLOCATE ALL",
            "PREPARE s AS SELECT 'a'",
            "PREPARE t AS SELECT 'b'",
            "DEALLOCATE s; DEALLOCATE t",
            "EXECUTE s",
            "EXECUTE t",
            "PREPARE s AS SELECT 'c'",
            "BEGIN; DEALLOCATE s; PREPARE s AS SELECT 'd'",
            "EXECUTE s",
            "COMMIT",
            "EXECUTE s",
            "DISCARD ALL",
        ] {
            all.extend(wire.query(sql));
        }
        all
    });
    assert_eq!(other.run_prepared("mine", &[]), "shared");
}

/// What drivers do with a connection of their own pool: the first statement follows in one packet.
#[test]
fn what_is_sent_behind_a_discard_lasts() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let mut other = komainu.login(&database);
    other.pipeline(Pipeline::new().parse("theirs", "SELECT 'shared'").run("theirs", &[]));
    let discards: [fn(Pipeline) -> Pipeline; 4] = [
        |pipeline| pipeline.query("DISCARD ALL"),
        |pipeline| pipeline.query("DEALLOCATE ALL"),
        |pipeline| pipeline.parse("", "DISCARD ALL").run("", &[]),
        |pipeline| pipeline.parse("", "DEALLOCATE ALL").run("", &[]),
    ];
    for discard in discards {
        same_as_postgresql(&komainu, &database, |wire| {
            let mut all = wire.pipeline(Pipeline::new().parse("s", "SELECT 'before'").run("s", &[]));
            let behind = discard(Pipeline::new()).parse("s", "SELECT 'shared'").run("s", &[]);
            wire.send_pipeline(behind.query("SET search_path = mine"));
            for _ in 0..3 {
                all.extend(wire.until('Z'));
            }
            all.extend(wire.query("SHOW search_path"));
            all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
            // Within one batch, too.
            let batch = Pipeline::new().parse("", "DEALLOCATE ALL").bind("", "", &[]).execute("", 0);
            all.extend(wire.pipeline(batch.parse("s", "SELECT 'again'").run("s", &[])));
            all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
            all
        });
        assert_eq!(other.query_value("SHOW search_path"), "\"$user\", public");
        assert_eq!(other.run_prepared("theirs", &[]), "shared");
        other.pipeline(Pipeline::new().parse("new", "SELECT 'shared'").close('S', "new").sync());
    }
}

#[test]
fn what_nobody_can_see_is_wiped_although_all_statements_were_deallocated() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    wire.query(
        "DO $$ BEGIN PERFORM set_config('search_path', 'hidden', false); PERFORM pg_advisory_lock(7); END $$",
    );
    wire.pipeline(Pipeline::new().parse("", "DEALLOCATE ALL").run("", &[]));
    assert_eq!(other.query_value("SHOW search_path"), "\"$user\", public");
    assert_eq!(
        other.query_value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7"),
        "0"
    );
}

/// By the extended protocol as by a simple Query.
#[test]
fn an_execute_does_what_it_executes() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    wire.query("PREPARE p AS SELECT set_config('search_path', 'mine', false)");
    assert_eq!(tags(&wire.pipeline(Pipeline::new().parse("", "EXECUTE p").run("", &[]))), "12DCZ");
    assert_eq!(other.query_value("SHOW search_path"), "\"$user\", public");
    assert_eq!(wire.query_value("SHOW search_path"), "mine");

    let mut pair = Pair::new(shared(), &database);
    pair.client.query("PREPARE s AS SELECT 'executed'");
    pair.client.pipeline(Pipeline::new().parse("t", "SELECT 'parsed'").parse("e", "EXECUTE s").sync());
    pair.client.pipeline(Pipeline::new().parse("f", "EXECUTE t").sync());
    for (name, value) in [("e", "executed"), ("f", "parsed")] {
        pair.hop();
        assert_eq!(pair.client.run_prepared(name, &[]), value);
    }
}

/// A failed transaction, and a text that ends it and goes on by names.
#[test]
fn what_follows_a_rollback_in_its_text_runs() {
    let database = Cluster::shared().database();
    let mut pair = Pair::new(shared(), &database);
    let told = |messages: &[Message]| -> Vec<String> {
        messages
            .iter()
            .filter(|message| "DCEZ".contains(message.tag))
            .map(|message| match message.tag {
                'E' => format!("E {}", message.sqlstate()),
                'D' => message.columns()[0].clone().unwrap_or_default(),
                tag => tag.to_string(),
            })
            .collect()
    };
    for hop in [false, true] {
        pair.client.query("DISCARD ALL");
        pair.client.query("PREPARE s AS SELECT 'by name'");
        if hop {
            pair.hop();
        }
        pair.client.query("BEGIN; SELECT 1/0");
        let after = told(&pair.client.query("ROLLBACK; EXECUTE s"));
        assert_eq!(after, ["C", "by name", "C", "Z"], "another connection: {hop}");
        pair.client.query("BEGIN; SELECT 1/0");
        let after = told(&pair.client.query("ROLLBACK; DEALLOCATE s; SELECT 2"));
        assert_eq!(after, ["C", "C", "2", "C", "Z"], "another connection: {hop}");
        assert_eq!(told(&pair.client.query("EXECUTE s")), ["E 26000", "Z"]);
    }
}

/// A backend that does not know the statement yet cannot be taught it. What the client is told is what PostgreSQL
/// would say, once, and it is ready for its next request.
#[test]
fn what_cannot_be_prepared_again_is_told_once_and_costs_nothing_else() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let make = "CREATE TABLE gone (n int); GRANT ALL ON gone TO PUBLIC";
    cluster.prepare(&database, make);
    let mut pair = Pair::new(shared(), &database);
    let told = |messages: &[Message]| {
        let told = messages.iter().filter(|m| m.tag != 'S').map(|m| match m.tag {
            'E' => format!("E {}", m.sqlstate()),
            'Z' => format!("Z {}", String::from_utf8_lossy(&m.body)),
            tag => tag.to_string(),
        });
        told.collect::<Vec<_>>().join(", ")
    };
    for how in ["Parse", "PREPARE"] {
        let prepared = match how {
            "Parse" => pair.client.pipeline(Pipeline::new().parse("s", "SELECT n FROM gone").sync()),
            _ => pair.client.query("PREPARE s AS SELECT n FROM gone"),
        };
        assert!(!tags(&prepared).contains('E'));
        pair.hop();
        assert_eq!(told(&pair.client.query("BEGIN; SELECT 1/0")), "C, E 22012, Z E", "{how}");
        assert_eq!(told(&pair.client.query("EXECUTE s")), "E 25P02, Z E", "{how}");
        assert_eq!(told(&pair.client.query("ROLLBACK")), "C, Z I", "{how}");
        assert_eq!(told(&pair.client.query("EXECUTE s")), "T, C, Z I", "{how}");

        pair.hop();
        cluster.prepare(&database, "DROP TABLE gone");
        for _ in 0..2 {
            assert_eq!(told(&pair.client.query("EXECUTE s")), "E 42P01, Z I", "{how}");
        }
        let before = pair.client.query("SELECT 1; EXECUTE s; SELECT 2");
        assert_eq!(told(&before), "T, D, C, E 42P01, Z I", "{how}: what stands before it is answered");
        assert_eq!(pair.client.query_value("SELECT 'on'"), "on");
        cluster.prepare(&database, make);
        assert_eq!(told(&pair.client.query("EXECUTE s")), "T, C, Z I", "{how}: it is there again");
        assert_eq!(told(&pair.client.query("DEALLOCATE s")), "C, Z I", "{how}");
    }
}

#[test]
fn what_is_beyond_a_limit_is_an_error_of_its_batch() {
    let database = Cluster::shared().database();
    let limits = "[limits]\nmax_prepared_statements_per_session = 2\nmax_inspected_statement_bytes = 2000\n";
    let komainu = komainu(1, limits);
    let mut wire = komainu.login(&database);
    let long = format!("SELECT '{}'", "x".repeat(2000));
    let parse = |name: &str, sql: &str| Pipeline::new().parse(name, sql).sync();
    assert_eq!(tags(&wire.pipeline(parse("a", "SELECT 1"))), "1Z");
    assert_eq!(tags(&wire.query("PREPARE b AS SELECT 2")), "CZ");
    let refused = |messages: Vec<Message>, status: &[u8]| {
        assert_eq!(tags(&messages), "EZ", "{}", transcript(&messages));
        assert_eq!(messages[0].sqlstate(), "54000");
        assert_eq!(messages[1].body, status);
    };
    refused(wire.pipeline(parse("c", "SELECT 3")), b"I");
    refused(wire.pipeline(parse("d", &long)), b"I");
    refused(wire.query("PREPARE c AS SELECT 3"), b"I");
    for (number, name) in ["c", "d"].into_iter().enumerate() {
        wire.query("BEGIN");
        match number {
            0 => refused(wire.query("PREPARE c AS SELECT 3"), b"E"),
            _ => refused(wire.pipeline(parse(name, &long)), b"E"),
        }
        assert_eq!(tags(&wire.query("SELECT 4")), "EZ", "the transaction has failed");
        wire.query("ROLLBACK");
    }
    assert_eq!(tags(&wire.pipeline(Pipeline::new().run("c", &[]))), "EZ");
    assert_eq!(wire.run_prepared("a", &[]), "1");
    assert_eq!(tags(&wire.query("DEALLOCATE b")), "CZ");
    assert_eq!(tags(&wire.pipeline(parse("c", "SELECT 3"))), "1Z");
    assert_eq!(wire.run_prepared("c", &[]), "3");
}

/// Made known in the middle of a batch, it does not end the transaction of that.
#[test]
fn a_batch_stays_one_transaction_when_sql_has_prepared_what_it_uses() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let mut pair = Pair::new(shared(), &database);
    for round in 0..2 {
        let prepared = pair.client.query("PREPARE s (int) AS INSERT INTO t VALUES ($1)");
        assert_eq!(tags(&prepared), "CZ", "round {round}: the same again, after a DEALLOCATE");
        pair.hop();
        let batch = Pipeline::new().parse("", "INSERT INTO t VALUES (1)").bind("", "", &[]).execute("", 0);
        let batch = batch.bind("", "s", &["2"]).execute("", 0).parse("", "SELECT 1/0").run("", &[]);
        assert_eq!(tags(&pair.client.pipeline(batch)), "12C2C1EZ", "round {round}");
        assert_eq!(pair.client.query_value("SELECT count(*) FROM t"), "0");
        pair.client.query("DEALLOCATE s");
    }
}

#[test]
fn a_discard_that_fails_forgets_nothing() {
    let database = Cluster::shared().database();
    same_as_postgresql(shared(), &database, |wire| {
        let mut all = wire.pipeline(Pipeline::new().parse("s", "SELECT 'still here'").sync());
        all.extend(wire.query("BEGIN"));
        all.extend(wire.query("DISCARD ALL"));
        all.extend(wire.query("ROLLBACK"));
        all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
        all
    });
    // Nor does one that was never begun end a session which would not survive that.
    same_as_postgresql(shared(), &database, |wire| {
        let mut all = wire.query("LISTEN here");
        let batch = Pipeline::new().parse("", "SELEC").parse("", "DISCARD ALL").bind("", "", &[]);
        all.extend(wire.pipeline(batch.execute("", 0).sync()));
        all.extend(wire.query("SELECT * FROM pg_listening_channels()"));
        all
    });
}

/// A session that has temporary tables, and so keeps its connection.
#[test]
fn a_statement_over_a_temporary_table_is_another_one_over_the_next_of_that_name() {
    let database = Cluster::shared().database();
    let mut wire = shared().login(&database);
    for (kind, value) in [("int", "1"), ("text", "a")] {
        wire.query(&format!("BEGIN; CREATE TEMP TABLE w (a {kind}) ON COMMIT DROP"));
        wire.pipeline(Pipeline::new().parse("s", "INSERT INTO w VALUES ($1) RETURNING a").sync());
        assert_eq!(wire.run_prepared("s", &[value]), value);
        wire.query("COMMIT");
        wire.pipeline(Pipeline::new().close('S', "s").sync());
    }
}

#[test]
fn the_unnamed_statement_lives_until_the_next_one() {
    let database = Cluster::shared().database();
    let told = same_as_postgresql(shared(), &database, |wire| {
        let mut all = wire.pipeline(Pipeline::new().parse("", "SELECT 'unnamed ' || $1").sync());
        all.extend(wire.pipeline(Pipeline::new().run("", &["1"])));
        all.extend(wire.pipeline(Pipeline::new().run("", &["2"])));
        all.extend(wire.pipeline(Pipeline::new().describe('S', "").sync()));
        // A simple query ends it; so does an error in a Parse.
        all.extend(wire.query("SELECT 1"));
        all.extend(wire.pipeline(Pipeline::new().run("", &["3"])));
        all.extend(wire.pipeline(Pipeline::new().parse("", "SELECT 'next'").sync()));
        all.extend(wire.pipeline(Pipeline::new().parse("", "SELEC").sync()));
        all.extend(wire.pipeline(Pipeline::new().run("", &[])));
        all.extend(wire.pipeline(Pipeline::new().parse("", "SELECT 'third'").sync()));
        all.extend(wire.pipeline(Pipeline::new().close('S', "").sync()));
        all.extend(wire.pipeline(Pipeline::new().run("", &[])));
        all
    });
    assert_eq!(told.matches("26000").count(), 3);
}

#[test]
fn the_unnamed_statement_follows_its_client() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.pipeline(Pipeline::new().parse("", "SELECT 'a' || $1").sync());
    b.pipeline(Pipeline::new().parse("", "SELECT 'b' || $1").sync());
    for _ in 0..2 {
        assert_eq!(a.run_prepared("", &["1"]), "a1");
        assert_eq!(b.run_prepared("", &["2"]), "b2");
        assert_eq!(tags(&b.pipeline(Pipeline::new().describe('S', "").sync())), "tTZ");
    }
    // And to another backend.
    let mut pair = Pair::new(shared(), &database);
    pair.client.pipeline(Pipeline::new().parse("", "SELECT 'c' || $1").sync());
    let pid = "SELECT pg_backend_pid()";
    let taken = first_value(&pair.other.query(&format!("BEGIN; {pid}"))).unwrap();
    assert_eq!(pair.client.run_prepared("", &["3"]), "c3");
    pair.other.query("ROLLBACK");
    let elsewhere = first_value(&pair.client.query(pid)).unwrap();
    assert!(!taken.is_empty() && !elsewhere.is_empty());
}

#[test]
fn a_pipeline_with_an_error_ends_at_its_sync() {
    let database = Cluster::shared().database();
    same_as_postgresql(shared(), &database, |wire| {
        wire.send_pipeline(
            Pipeline::new()
                .parse("one", "SELECT 1")
                .bind("", "one", &[])
                .execute("", 0)
                .parse("bad", "SELEC")
                .parse("lost", "SELECT 'never prepared'")
                .bind("", "lost", &[])
                .execute("", 0)
                .close('S', "one")
                .sync()
                .parse("two", "SELECT 2")
                .run("two", &[])
                .run("one", &[])
                .run("lost", &[])
                .parse("lost", "SELECT 'now it is'")
                .run("lost", &[])
                .run("bad", &[]),
        );
        (0..6).flat_map(|_| wire.until('Z')).collect()
    });
}

#[test]
fn a_statement_prepared_in_a_transaction_that_fails_is_still_prepared() {
    let database = Cluster::shared().database();
    same_as_postgresql(shared(), &database, |wire| {
        let mut all = wire.query("BEGIN");
        all.extend(wire.pipeline(Pipeline::new().parse("s", "SELECT 'prepared'").sync()));
        all.extend(wire.query("PREPARE p AS SELECT 'prepared by SQL'"));
        all.extend(wire.query("SELECT 1/0"));
        all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
        all.extend(wire.pipeline(Pipeline::new().parse("t", "SELECT 1").sync()));
        all.extend(wire.query("ROLLBACK"));
        all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
        all.extend(wire.query("EXECUTE p"));
        all.extend(wire.pipeline(Pipeline::new().run("t", &[])));
        all
    });
}

#[test]
fn a_backend_holds_a_bounded_number_and_the_client_does_not_notice() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "max_prepared_statements = 4\n");
    let mut wire = komainu.login(&database);
    for n in 0..12 {
        wire.pipeline(Pipeline::new().parse(&format!("s{n}"), &format!("SELECT {n} + $1::int")).sync());
    }
    for n in (0..12).rev().chain(0..12) {
        assert_eq!(wire.run_prepared(&format!("s{n}"), &["100"]), (n + 100).to_string());
    }
    // In one pipeline, too, where the statements push each other out.
    let pipeline = (0..12).fold(Pipeline::new(), |p, n| p.bind("", &format!("s{n}"), &["0"]).execute("", 0));
    let rows: Vec<_> =
        wire.pipeline(pipeline.sync()).iter().filter(|m| m.tag == 'D').map(|m| m.columns()).collect();
    assert_eq!(rows, (0..12).map(|n| vec![Some(n.to_string())]).collect::<Vec<_>>());
    let held = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT % + $1::int'";
    assert_eq!(wire.query_value(held), "4");
}

#[test]
fn a_client_holds_a_bounded_number() {
    let database = Cluster::shared().database();
    let config = "[limits]\nmax_prepared_statements_per_session = 3\n";
    let komainu = komainu(1, config);
    let mut wire = komainu.login(&database);
    for n in 0..3 {
        let parsed = wire.pipeline(Pipeline::new().parse(&format!("s{n}"), "SELECT 1").sync());
        assert_eq!(tags(&parsed), "1Z");
    }
    wire.send_pipeline(Pipeline::new().parse("one too many", "SELECT 1").sync());
    let error = wire.message();
    assert_eq!(error.sqlstate(), "54000");
    assert!(error.text().contains("limit is 3"), "{}", error.text());
    // Others are not concerned.
    assert_eq!(komainu.login(&database).query_value("SELECT 1"), "1");
}

#[test]
fn after_ddl_a_statement_fails_as_in_postgresql_and_can_be_prepared_anew() {
    let database = Cluster::shared().database();
    same_as_postgresql(shared(), &database, |wire| {
        wire.query("DROP TABLE IF EXISTS t");
        let mut all = wire.query("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
        all.extend(wire.pipeline(Pipeline::new().parse("s", "SELECT * FROM t").sync()));
        all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
        all.extend(wire.query("ALTER TABLE t ADD b text DEFAULT 'new'"));
        // "cached plan must not change result type"
        all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
        all.extend(wire.pipeline(Pipeline::new().close('S', "s").sync()));
        all.extend(wire.pipeline(Pipeline::new().parse("s", "SELECT * FROM t").sync()));
        all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
        all
    });
}

#[test]
fn after_ddl_behind_komainus_back_a_statement_can_be_prepared_anew() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = komainu(1, "");
    let mut wire = komainu.login(&database);
    wire.query("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    wire.pipeline(Pipeline::new().parse("s", "SELECT * FROM t").sync());
    assert_eq!(wire.run_prepared("s", &[]), "1");
    cluster.prepare(&database, "ALTER TABLE t ADD b int");
    assert_eq!(wire.pipeline(Pipeline::new().run("s", &[]))[0].sqlstate(), "0A000");
    wire.pipeline(Pipeline::new().close('S', "s").sync());
    wire.pipeline(Pipeline::new().parse("s", "SELECT * FROM t").sync());
    assert_eq!(wire.run_prepared("s", &[]), "1");
}

/// After a change statements are others than those before it. What succeeds counts, also if it changes nothing.
#[test]
fn the_schema_has_changed_only_by_what_the_server_has_done() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let mut other = komainu.login(&database);
    let (mut before, mut count) = (String::new(), 0);
    let mut has_changed = || {
        count += 1;
        other.pipeline(Pipeline::new().parse(&format!("s{count}"), "SELECT 'the same'").sync());
        let newest = "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT _the same_' \
                      ORDER BY prepare_time DESC LIMIT 1";
        let newest = other.query_value(newest);
        std::mem::replace(&mut before, newest.clone()) != newest
    };
    assert!(has_changed() && !has_changed());
    const ALTER: &str = "DROP TABLE IF EXISTS nothing";
    let in_parts = format!("{ALTER}; COMMIT; SELECT 1/0");
    let at_once = format!("{ALTER}; SELECT 1/0");
    let talks: [(&[&str], bool); 10] = [
        (&["SELECT ("], false),
        (&["DROP TABLE nothing"], false),
        (&["DROP TABLE nothing", "SELECT 1"], false),
        (&["BEGIN", "DROP TABLE nothing", "ROLLBACK"], false),
        (&[at_once.as_str()], false),
        (&[ALTER], true),
        (&["BEGIN", ALTER, "COMMIT"], true),
        (&["BEGIN", ALTER, "SAVEPOINT a", "DROP TABLE nothing", "ROLLBACK TO a", "COMMIT"], true),
        (&[in_parts.as_str()], true),
        (&[ALTER, "DROP TABLE nothing"], true),
    ];
    for (statements, changes) in talks {
        let mut wire = komainu.login(&database);
        statements.iter().for_each(|sql| drop(wire.query(sql)));
        assert_eq!(has_changed(), changes, "{statements:?}");
        wire.send_pipeline(statements.iter().fold(Pipeline::new(), |all, sql| all.query(sql)));
        statements.iter().for_each(|_| drop(wire.until('Z')));
        assert_eq!(has_changed(), changes, "in one flight: {statements:?}");
    }
    let sleeps = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    let asleep = || Cluster::shared().primary().psql("postgres", &sleeps).unwrap() == "1";
    for text in
        [format!("SELECT pg_sleep(1); {ALTER}"), format!("BEGIN; SELECT pg_sleep(1); {ALTER}; COMMIT")]
    {
        let mut wire = komainu.login(&database);
        wire.send_pipeline(Pipeline::new().query(&text));
        eventually(PATIENCE, "it runs", asleep);
        wire.reset();
        // The pool has one connection, which is free again when the text has run.
        eventually(PATIENCE, "its client did not wait for the answer", &mut has_changed);
    }
    let mut wire = komainu.login(&database);
    wire.query("PREPARE p AS SELECT 1");
    for (sql, changes) in [("EXECUTE p", false), ("DROP TABLE nothing", false), (ALTER, true)] {
        wire.pipeline(Pipeline::new().parse("", sql).run("", &[]));
        assert_eq!(has_changed(), changes, "by the extended protocol: {sql}");
    }
    // pg_catalog.int4um
    let call = [&212_u32.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 1, b'7', 0, 0]].concat();
    wire.send_message('F', &call);
    assert!(tags(&wire.until('Z')).contains('V'));
    assert!(!has_changed(), "by a function call");
}

/// Whether it is what somebody was told is looked at anew, whoever went away before the answer.
#[test]
fn a_client_that_leaves_before_the_description_takes_the_statement_from_nobody() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut gone, mut next) = (komainu.login(&database), komainu.login(&database));
    next.query("CREATE TABLE t (a int); INSERT INTO t VALUES (7)");
    let described = |batch: Pipeline| batch.parse("s", "SELECT a FROM t").describe('S', "s").sync();
    // By the time the server answers nobody listens.
    let sleeping = Pipeline::new().parse("", "SELECT pg_sleep(0.3)").bind("", "", &[]).execute("", 0);
    gone.send_pipeline(described(sleeping));
    drop(gone);
    assert_eq!(tags(&next.pipeline(described(Pipeline::new()))), "1tTZ");
    for ddl in ["CREATE TABLE another (a int)", "ALTER TABLE t ADD b int"] {
        next.query(ddl);
        assert_eq!(next.run_prepared("s", &[]), "7", "{ddl}");
    }
}

#[test]
fn a_deallocate_that_is_prepared_is_executed_on_any_connection_once() {
    let database = Cluster::shared().database();
    let mut pair = Pair::new(shared(), &database);
    for name in ["", "d"] {
        let prepared = told_where().parse("s", "SELECT 1").parse(name, "DEALLOCATE s").sync();
        let messages = pair.client.pipeline(prepared);
        assert_eq!(tags(&messages), "12DC11Z");
        pair.hop_from(&first_value(&messages).unwrap());
        let done = pair.client.pipeline(Pipeline::new().run(name, &[]));
        assert_eq!(tags(&done), "2CZ", "{name:?}: {}", transcript(&done));
        let gone = pair.client.pipeline(Pipeline::new().run("s", &[]));
        assert_eq!(gone[0].sqlstate(), "26000");
        if name == "d" {
            let again = pair.client.pipeline(Pipeline::new().run(name, &[]));
            assert_eq!(again.iter().find(|m| m.tag == 'E').unwrap().sqlstate(), "26000");
        }
        pair.other.query("ROLLBACK");
    }
}

/// Elsewhere than where it was prepared the server would simply parse it anew, and the client read the rows as what they
/// are not.
#[test]
fn a_statement_whose_columns_have_changed_fails_on_any_connection() {
    let database = Cluster::shared().database();
    let mut pair = Pair::new(shared(), &database);
    pair.other.query("CREATE TABLE narrow (a int); INSERT INTO narrow VALUES (1)");
    pair.other.query("CREATE TABLE same (a int); INSERT INTO same VALUES (2)");
    let described = |sql| told_where().parse("s", sql).describe('S', "s").sync();
    let same = Pipeline::new().parse("same", "SELECT a FROM same").describe('S', "same").sync();
    assert_eq!(tags(&pair.client.pipeline(same)), "1tTZ");
    for (sql, alter) in [
        ("SELECT * FROM narrow", "ALTER TABLE narrow ALTER a TYPE bigint"),
        ("SELECT * FROM narrow", "ALTER TABLE narrow ADD b text"),
        ("SELECT 1 FROM narrow WHERE a = $1", "ALTER TABLE narrow ALTER a TYPE text"),
    ] {
        let messages = pair.client.pipeline(described(sql));
        assert_eq!(tags(&messages), "12DC1tTZ", "{sql}");
        assert_eq!(tags(&pair.other.query(alter)), "CZ");
        pair.hop_from(&first_value(&messages).unwrap());
        for _ in 0..2 {
            let refused =
                pair.client.pipeline(Pipeline::new().run("s", &["1"][..usize::from(sql.contains('$'))]));
            assert_eq!(tags(&refused), "EZ", "{alter}: {}", transcript(&refused));
            let error = (refused[0].sqlstate(), refused[0].field('R'));
            assert_eq!((&*error.0, &*error.1), ("0A000", "RevalidateCachedQuery"), "{alter}");
        }
        assert_eq!(tags(&pair.client.pipeline(Pipeline::new().describe('S', "s").sync())), "EZ");
        // In a batch the rest is skipped, and another statement goes on as before.
        let batch = Pipeline::new().bind("", "same", &[]).execute("", 0).bind("", "s", &[]).execute("", 0);
        let batch = batch.bind("", "same", &[]).execute("", 0).sync();
        assert_eq!(tags(&pair.client.pipeline(batch)), "2DCEZ", "{alter}");
        assert_eq!(pair.client.run_prepared("same", &[]), "2");
        // Drivers prepare it again.
        pair.client.pipeline(Pipeline::new().close('S', "s").sync());
        assert_eq!(tags(&pair.client.pipeline(described(sql))), "12DC1tTZ");
        let parameters = &["1"][..usize::from(sql.contains('$'))];
        assert_eq!(pair.client.run_prepared("s", parameters), "1");
        pair.client.pipeline(Pipeline::new().close('S', "s").sync());
        pair.other.query("ROLLBACK");
    }
}

#[test]
fn one_text_under_two_search_paths_is_two_statements() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query("CREATE SCHEMA a; CREATE TABLE a.t AS SELECT 'of a' AS v");
    a.query("CREATE SCHEMA b; CREATE TABLE b.t AS SELECT 'of b' AS v");
    a.query("SET search_path = a");
    b.query("SET search_path = b");
    for wire in [&mut a, &mut b] {
        wire.pipeline(Pipeline::new().parse("s", "SELECT v FROM t").sync());
    }
    for _ in 0..2 {
        assert_eq!(a.run_prepared("s", &[]), "of a");
        assert_eq!(b.run_prepared("s", &[]), "of b");
    }
}

const DAY: &str = "SELECT '01/02/2020'::date";
const DAY_FIRST: &str = "SET DateStyle = 'ISO, DMY'";
const MONTH_FIRST: &str = "SET DateStyle = 'ISO, MDY'";

/// What a transaction has set is known only once it has ended.
#[test]
fn a_statement_that_was_parsed_behind_a_set_in_its_transaction_is_nobody_elses() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    for set in [
        "SET LOCAL DateStyle = 'ISO, DMY'",
        DAY_FIRST,
        "SELECT set_config('datestyle', 'ISO, DMY', true)",
        "DO $$ BEGIN PERFORM set_config('DateStyle', 'ISO, DMY', true); END $$",
    ] {
        let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
        a.query("BEGIN");
        a.query(set);
        a.pipeline(Pipeline::new().parse("s", DAY).sync());
        assert_eq!(a.run_prepared("s", &[]), "2020-02-01", "{set}: another client's from before");
        a.query("ROLLBACK");
        b.pipeline(Pipeline::new().parse("t", DAY).sync());
        assert_eq!(b.run_prepared("t", &[]), "2020-01-02", "{set}");
    }
}

#[test]
fn a_search_path_of_one_transaction_changes_no_other_clients_statement() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query("CREATE SCHEMA one; CREATE TABLE one.t AS SELECT 1 AS v");
    a.query("CREATE SCHEMA two; CREATE TABLE two.t AS SELECT 'of two' AS v");
    for wire in [&mut a, &mut b] {
        wire.query("SET search_path = two");
    }
    a.query("BEGIN; SET LOCAL search_path = one");
    a.pipeline(Pipeline::new().parse("s", "SELECT v FROM t").sync());
    assert_eq!(a.run_prepared("s", &[]), "1");
    a.query("COMMIT");
    b.pipeline(Pipeline::new().parse("s", "SELECT v FROM t").sync());
    assert_eq!(b.run_prepared("s", &[]), "of two");
}

/// Its client has changed its settings since, and gets another backend.
#[test]
fn a_statement_taught_under_other_settings_than_its_own_is_parsed_anew_for_who_has_these() {
    let database = Cluster::shared().database();
    let mut pair = Pair::new(shared(), &database);
    pair.client.query(DAY_FIRST);
    pair.client.pipeline(Pipeline::new().parse("s", DAY).sync());
    assert_eq!(pair.client.run_prepared("s", &[]), "2020-02-01");
    for wire in [&mut pair.client, &mut pair.other] {
        wire.query(MONTH_FIRST);
    }
    pair.hop();
    pair.client.run_prepared("s", &[]);
    let mut stranger = shared().login(&database);
    for (name, set, day) in
        [("s", DAY_FIRST, "2020-02-01"), ("t", MONTH_FIRST, "2020-01-02"), ("u", DAY_FIRST, "2020-02-01")]
    {
        stranger.query(set);
        stranger.pipeline(Pipeline::new().parse(name, DAY).sync());
        assert_eq!(stranger.run_prepared(name, &[]), day);
        pair.client.run_prepared("s", &[]);
    }
}

/// As it does once something that the statement names has changed: under the settings of whoever uses it next.
#[test]
fn a_statement_that_the_server_may_have_read_again_for_another_client_is_parsed_anew() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t AS SELECT 1 AS n; GRANT ALL ON t TO PUBLIC");
    let komainu = komainu(1, "");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    for wire in [&mut a, &mut b] {
        wire.query(DAY_FIRST);
        wire.pipeline(Pipeline::new().parse("s", "SELECT '01/02/2020'::date FROM t").sync());
        assert_eq!(wire.run_prepared("s", &[]), "2020-02-01");
    }
    a.query(MONTH_FIRST);
    assert_eq!(a.run_prepared("s", &[]), "2020-02-01", "as it was parsed");
    cluster.prepare(&database, "ALTER TABLE t ADD COLUMN more int");
    assert_eq!(a.run_prepared("s", &[]), "2020-01-02", "PostgreSQL has read it again");
    assert_eq!(b.run_prepared("s", &[]), "2020-02-01");
    // In a batch that fails before it neither is closed nor parsed.
    a.run_prepared("s", &[]);
    let failing = Pipeline::new().parse("", "SELECT 1/0").bind("", "", &[]).execute("", 0).run("s", &[]);
    assert!(tags(&b.pipeline(failing)).contains('E'));
    assert_eq!(b.run_prepared("s", &[]), "2020-02-01");
}

/// Drivers prepare what is asked often without being told to.
#[test]
fn what_komainu_answers_is_answered_anew_however_it_was_prepared() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let komainu = Komainu::builder(cluster).config(&standbys_read(cluster)).start();
    let mut wire = komainu.login(&database);
    for (name, sql) in [
        ("write", "INSERT INTO t VALUES (1)"),
        ("token", "SHOW komainu.token"),
        ("by sql", "EXECUTE token"),
        ("pins", "SHOW komainu.pins"),
        ("explained", "SELECT 1 /* komainu: explain route */"),
        ("", "SHOW komainu.token"),
    ] {
        assert_eq!(tags(&wire.pipeline(Pipeline::new().parse(name, sql).sync())), "1Z", "{sql}");
    }
    let position = |token: &str| {
        let (high, low) = token.split_once(':').unwrap().1.split_once('/').unwrap();
        u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
    };
    let mut last = position(&wire.run_prepared("token", &[]));
    for name in ["token", "", "by sql", "token", ""] {
        wire.pipeline(Pipeline::new().run("write", &[]));
        let next = position(&wire.run_prepared(name, &[]));
        assert!(next > last, "{name:?}: {next:x} behind {last:x}");
        last = next;
    }
    // The write of its own batch is committed later.
    let batch = Pipeline::new().bind("", "write", &[]).execute("", 0).run("token", &[]);
    assert!(first_value(&wire.pipeline(batch)).unwrap().contains(':'));
    wire.pipeline(Pipeline::new().run("write", &[]));
    assert!(position(&wire.query_value("EXECUTE token")) > last);

    assert_eq!(tags(&wire.pipeline(Pipeline::new().describe('S', "pins").sync())), "tTZ");
    for (sql, pinned) in [("LISTEN x", true), ("UNLISTEN *", false), ("LISTEN x", true)] {
        wire.query(sql);
        let shown = wire.pipeline(Pipeline::new().run("pins", &[]));
        assert_eq!(first_value(&shown).as_deref() == Some("listen"), pinned, "{sql}: {}", transcript(&shown));
    }
    wire.query("UNLISTEN *");
    eventually(PATIENCE, "a standby has it all", || wire.run_prepared("explained", &[]) != "pg1");
    wire.query("BEGIN");
    assert_eq!(wire.run_prepared("explained", &[]), "pg1");
    // What fails before it leaves it as it was.
    let failing = Pipeline::new().parse("", "SELECT 1/0").bind("", "", &[]).execute("", 0).run("pins", &[]);
    assert!(tags(&wire.pipeline(failing)).contains('E'));
    assert_eq!(wire.pipeline(Pipeline::new().run("pins", &[]))[0].sqlstate(), "25P02");
    wire.query("ROLLBACK");
    assert!(!tags(&wire.pipeline(Pipeline::new().run("pins", &[]))).contains('E'));

    let taken = wire.pipeline(Pipeline::new().parse("token", "SELECT 1").sync());
    assert_eq!((taken[0].sqlstate(), taken[0].text().contains("\"token\"")), ("42P05".into(), true));
    assert_eq!(tags(&wire.query("DEALLOCATE token")), "CZ");
    assert_eq!(wire.pipeline(Pipeline::new().run("token", &[]))[0].sqlstate(), "26000");
}

#[test]
fn a_name_that_is_written_by_numbers_is_nobody_elses() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.pipeline(Pipeline::new().parse("s", "SELECT 'of a'").sync());
    assert_eq!(a.run_prepared("s", &[]), "of a");
    let name = b.query_value("SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT _of a_'");
    for sql in [format!("EXECUTE U&\"{name}\""), format!("DEALLOCATE U&\"{name}\"")] {
        assert_eq!(b.query(&sql)[0].sqlstate(), "26000", "{sql}");
        let last = b.pipeline(Pipeline::new().parse("", &sql).run("", &[]));
        assert!(tags(&last).contains('E'), "{sql}: {}", transcript(&last));
    }
    assert_eq!(a.run_prepared("s", &[]), "of a");
    b.query("PREPARE U&\"own\" AS SELECT 'of b'");
    assert_eq!(b.query_value("EXECUTE U&\"own\""), "of b");
    assert_eq!(tags(&b.query("DEALLOCATE U&\"own\"")), "CZ");
}

#[test]
fn what_is_deallocated_by_the_extended_protocol_is_gone_at_once_and_for_good() {
    let database = Cluster::shared().database();
    let komainu = komainu(1, "");
    for port in [Cluster::shared().primary().port(), komainu.port()] {
        let mut wire = Wire::connect(port);
        wire.login(APP_USER, APP_PASSWORD, &database);
        wire.pipeline(Pipeline::new().parse("s", "SELECT 'first'").sync());
        wire.query("BEGIN");
        let gone = Pipeline::new().parse("", "DEALLOCATE s").bind("", "", &[]).execute("", 0);
        let again = gone.parse("s", "SELECT 'second'").run("s", &[]);
        assert_eq!(first_value(&wire.pipeline(again)).as_deref(), Some("second"));
        wire.pipeline(Pipeline::new().parse("", "DEALLOCATE s").run("", &[]));
        wire.query("SELECT 1/0");
        wire.query("ROLLBACK");
        assert_eq!(wire.pipeline(Pipeline::new().run("s", &[]))[0].sqlstate(), "26000");
        assert_eq!(tags(&wire.pipeline(Pipeline::new().parse("s", "SELECT 'third'").sync())), "1Z");
        assert_eq!(wire.run_prepared("s", &[]), "third");
    }
}

#[test]
fn a_deallocate_ends_the_batch_before_it() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let komainu = komainu(1, "");
    for deallocate in ["DEALLOCATE s", "DEALLOCATE ALL"] {
        let mut wire = komainu.login(&database);
        wire.pipeline(Pipeline::new().parse("s", "SELECT 1").sync());
        let insert = Pipeline::new().parse("", "INSERT INTO t VALUES (1)").bind("", "", &[]).execute("", 0);
        wire.send_pipeline(insert.flush());
        wire.until('C');
        assert_eq!(tags(&wire.query(deallocate)), "CZ");
    }
    assert_eq!(komainu.login(&database).query_value("SELECT count(*) FROM t"), "2");
}

#[test]
fn a_statement_is_closed_although_others_were_prepared_by_sql() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start(cluster);
    let mut wire = komainu.login(&cluster.database());
    wire.query("SELECT 1; PREPARE mine AS SELECT 'mine'");
    wire.pipeline(Pipeline::new().parse("s", "SELECT 'one'").sync());
    assert_eq!(tags(&wire.pipeline(Pipeline::new().close('S', "s").sync())), "3Z");
    let again = wire.pipeline(Pipeline::new().parse("s", "SELECT 'two'").run("s", &[]));
    assert_eq!(first_value(&again).as_deref(), Some("two"));
    assert_eq!(tags(&wire.pipeline(Pipeline::new().close('S', "mine").sync())), "3Z");
    assert_eq!(told(&wire.query("EXECUTE mine")), ["ERROR 26000", "ZI"]);
}
