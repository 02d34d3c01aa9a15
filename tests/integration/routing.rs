//! Which server answers which statement, seen from a client.

use std::collections::HashMap;
use std::time::Duration;

use super::support::*;
use postgres_protocol::message::frontend;

/// Nothing of what a session wrote keeps its reads from standbys: what is tested is the statement's class.
const EVENTUAL: &str = "[split]\nconsistency = \"eventual\"\nmax_lag_ms = 0\n";

/// The servers, with a weight of 0 for the first: no read is drawn for the primary.
pub fn standbys_read(cluster: &Cluster) -> String {
    let server = |s: &komainu::sandbox::Postgres| {
        let weight = u32::from(s.id() != "pg1");
        format!(
            "[[server]]\nid = \"{}\"\nhost = \"{}\"\nport = {}\nweight = {weight}\n",
            s.id(),
            s.host(),
            s.port()
        )
    };
    cluster.servers().all().iter().map(server).collect()
}

fn eventual(cluster: &Cluster) -> KomainuBuilder {
    Komainu::builder(cluster).config(EVENTUAL).config(&standbys_read(cluster))
}

/// Where the last statement went, and why, as komainu says.
pub fn route(wire: &mut Wire) -> (String, String) {
    let messages = wire.query("SHOW ROUTE");
    let row = messages.iter().find(|m| m.tag == 'D').unwrap_or_else(|| panic!("{messages:?}")).columns();
    (row[0].clone().unwrap(), row[1].clone().unwrap())
}

/// Sends it by the simple protocol; it must succeed.
#[track_caller]
pub fn run(wire: &mut Wire, sql: &str) {
    let messages = wire.query(sql);
    let error = messages.iter().find(|m| m.tag == 'E');
    assert!(error.is_none(), "{sql}: {:?}", error.unwrap().error());
}

#[track_caller]
pub fn went_to(wire: &mut Wire, sql: &str) -> (String, String) {
    run(wire, sql);
    route(wire)
}

/// Until komainu has read the database's catalog: before that, a table may be a view over anything.
pub fn wait_for_catalog(wire: &mut Wire, relation: &str) {
    let sql = format!("SELECT count(*) FROM {relation}");
    eventually(PATIENCE, "the catalog is known", || went_to(wire, &sql).0 != "pg1");
}

pub fn ports(cluster: &Cluster) -> HashMap<String, String> {
    cluster.servers().all().iter().map(|s| (s.port().to_string(), s.id().to_owned())).collect()
}

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT n, n FROM generate_series(1, 20) n;
    CREATE UNLOGGED TABLE u (id int);
    CREATE SEQUENCE s;
    CREATE FUNCTION f_volatile() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE FUNCTION f_stable() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
    CREATE FUNCTION f_immutable() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
    CREATE FUNCTION f_default() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION f_listed_read() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE FUNCTION f_listed_write() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
    CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1';
    CREATE VIEW v_plain AS SELECT * FROM t;
    CREATE VIEW v_volatile AS SELECT f_volatile() AS x;
    CREATE VIEW v_over_volatile AS SELECT * FROM v_volatile;
    CREATE VIEW v_random AS SELECT random() AS x;
    CREATE VIEW v_unlogged AS SELECT * FROM u;
    CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t;";

#[test]
fn each_class_of_statement_goes_where_it_can_be_served() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; {SCHEMA}"));
    let komainu = eventual(cluster)
        .config(
            "[split]\nread_only_functions = [\"f_listed_read\"]\nwrite_functions = [\"f_listed_write\"]\n",
        )
        .start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "t");

    let reads = [
        "SELECT 1",
        "SELECT current_setting('port')",
        "SELECT * FROM t WHERE id = 1",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a WHERE n < 3) SELECT * FROM a",
        "VALUES (1), (2)",
        "TABLE t",
        "SELECT f_stable(), f_immutable()",
        "SELECT f_listed_read()",
        "SELECT * FROM v_plain",
        "SELECT * FROM m",
        "EXPLAIN SELECT * FROM t",
        "EXPLAIN ANALYZE SELECT * FROM t",
        "COPY (SELECT * FROM t) TO STDOUT",
        "SELECT 1; SELECT 2",
        "SHOW work_mem",
    ];
    for sql in reads {
        let (server, reason) = went_to(&mut wire, sql);
        assert_ne!(server, "pg1", "{sql}: {reason}");
    }
    let writes = [
        "INSERT INTO t VALUES (100, 1)",
        "UPDATE t SET v = 2 WHERE id = 100",
        "DELETE FROM t WHERE id = 100",
        "SELECT * FROM t WHERE id = 1 FOR UPDATE",
        "SELECT * FROM t WHERE id = 1 FOR KEY SHARE",
        "WITH d AS (DELETE FROM t WHERE id = 101 RETURNING *) SELECT * FROM d",
        "SELECT * INTO t_copy FROM t",
        "SELECT f_volatile()",
        "SELECT f_default()",
        "SELECT f_listed_write()",
        "SELECT random()",
        "SELECT * FROM v_volatile",
        "SELECT * FROM v_over_volatile",
        "SELECT * FROM v_random",
        "SELECT * FROM u",
        "SELECT * FROM v_unlogged",
        "SELECT nextval('s')",
        "SELECT setval('s', 7)",
        "SELECT lo_unlink(lo_create(0))",
        "EXPLAIN ANALYZE UPDATE t SET v = v WHERE id = 1",
        "DO 'BEGIN END'",
        "CALL p()",
        "COPY (UPDATE t SET v = v WHERE id = 1 RETURNING *) TO STDOUT",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT 1; DELETE FROM t WHERE id = 102",
        "BEGIN; SELECT 1; COMMIT",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; SELECT 1; COMMIT",
        "CREATE TABLE made (a int)",
        "TRUNCATE made",
        "BEGIN; LOCK TABLE made; COMMIT",
        "SELECT txid_current()",
        "ANALYZE t",
    ];
    for sql in writes {
        let (server, reason) = went_to(&mut wire, sql);
        assert_eq!(server, "pg1", "{sql}: {reason}");
        assert!(!reason.starts_with("refused"), "{sql} was first sent to a standby");
    }
    let refused = komainu.metric("komainu_reads_to_primary_total{reason=\"refused\"}");
    assert_eq!(refused, Some(0.0), "no standby was ever asked for a write");
}

#[test]
fn plain_reads_are_spread_by_weight_and_a_server_of_weight_0_gets_none() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let servers: Vec<_> = cluster.servers().all().iter().zip([0, 3, 1]).collect();
    let config: String = servers
        .iter()
        .map(|(s, weight)| {
            format!(
                "[[server]]\nid = \"{}\"\nhost = \"{}\"\nport = {}\nweight = {weight}\n",
                s.id(),
                s.host(),
                s.port()
            )
        })
        .collect();
    let komainu = Komainu::builder(cluster).config(EVENTUAL).config(&config).start();
    let mut wire = komainu.login(&database);
    let by_port = ports(cluster);
    let mut counts = HashMap::<String, u32>::new();
    for _ in 0..400 {
        let port = wire.query_value("SELECT current_setting('port')");
        *counts.entry(by_port[&port].clone()).or_default() += 1;
    }
    let of = |id: &str| counts.get(id).copied().unwrap_or(0);
    assert_eq!(of("pg1"), 0, "{counts:?}");
    assert!((240..=360).contains(&of("pg2")), "three of four, about: {counts:?}");
    assert!((40..=160).contains(&of("pg3")), "one of four, about: {counts:?}");
    let counted =
        |id: &str| komainu.metric(&format!("komainu_queries_total{{server=\"{id}\",class=\"read\"}}"));
    assert_eq!(counted("pg2"), Some(f64::from(of("pg2"))));
    assert_eq!(counted("pg3"), Some(f64::from(of("pg3"))));
}

#[test]
fn transactions_go_to_the_primary_unless_they_only_read() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    let on_standby = |wire: &mut Wire, begin: &str| {
        run(wire, begin);
        let on_standby = wire.query_value("SELECT current_setting('in_hot' || '_standby')") == "on";
        run(wire, "COMMIT");
        on_standby
    };
    for begin in ["BEGIN", "START TRANSACTION", "BEGIN READ WRITE", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        assert!(!on_standby(&mut wire, begin), "{begin}");
    }
    for begin in
        ["BEGIN READ ONLY", "START TRANSACTION READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"]
    {
        assert!(on_standby(&mut wire, begin), "{begin}");
    }
    assert!(!on_standby(&mut wire, "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY"));
    run(&mut wire, "SET default_transaction_read_only = on");
    assert!(on_standby(&mut wire, "BEGIN"));
    assert!(!on_standby(&mut wire, "BEGIN READ WRITE"));
    run(&mut wire, "SET default_transaction_isolation = 'serializable'");
    assert!(!on_standby(&mut wire, "BEGIN"));
    let (server, reason) = went_to(&mut wire, "SELECT 1");
    assert_eq!((&*server, reason.starts_with("serializable")), ("pg1", true), "{reason}");
    run(&mut wire, "RESET ALL");
    assert!(!on_standby(&mut wire, "BEGIN"));

    // What a transaction began on a standby, stays there, statement by statement.
    run(&mut wire, "BEGIN READ ONLY");
    let port = wire.query_value("SELECT current_setting('port')");
    for _ in 0..10 {
        assert_eq!(wire.query_value("SELECT current_setting('port')"), port);
    }
    run(&mut wire, "COMMIT");
}

pub fn parse(wire: &mut Wire, name: &str, sql: &str) {
    wire.encode(|buffer| frontend::parse(name, sql, [], buffer));
}

pub fn bind_execute(wire: &mut Wire, name: &str) {
    let mut bytes = bytes::BytesMut::new();
    put_bind_execute(&mut bytes, name);
    wire.send(&bytes);
}

pub fn put_bind_execute(bytes: &mut bytes::BytesMut, name: &str) {
    put_bind(bytes, name);
    frontend::execute("", 0, bytes).unwrap();
}

pub fn put_bind(bytes: &mut bytes::BytesMut, name: &str) {
    let none: [i16; 0] = [];
    let bound = frontend::bind("", name, none, none, |_, _| unreachable!("no parameters"), none, bytes);
    assert!(bound.is_ok());
}

pub fn sync(wire: &mut Wire) -> Vec<Message> {
    wire.send_message('S', b"");
    wire.until('Z')
}

pub fn values(messages: &[Message]) -> Vec<String> {
    let error = messages.iter().find(|m| m.tag == 'E');
    assert!(error.is_none(), "{:?}", error.unwrap().error());
    messages.iter().filter(|m| m.tag == 'D').map(|m| m.columns()[0].clone().unwrap()).collect()
}

#[test]
fn a_pipeline_goes_to_one_server_by_its_strictest_statement() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; CREATE TABLE t (id int)"));
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    const WHERE: &str = "SELECT current_setting('in_hot' || '_standby')";

    parse(&mut wire, "", WHERE);
    bind_execute(&mut wire, "");
    assert_eq!(values(&sync(&mut wire)), ["on"]);

    // A read in front of a write, before one Sync: one implicit transaction.
    let mut bytes = bytes::BytesMut::new();
    frontend::parse("r", WHERE, [], &mut bytes).unwrap();
    put_bind_execute(&mut bytes, "r");
    frontend::parse("w", "INSERT INTO t VALUES (1)", [], &mut bytes).unwrap();
    put_bind_execute(&mut bytes, "w");
    frontend::sync(&mut bytes);
    wire.send(&bytes);
    assert_eq!(values(&wire.until('Z')), ["off"]);

    // The same of statements prepared before; and the read alone still goes to a standby.
    bind_execute(&mut wire, "r");
    bind_execute(&mut wire, "r");
    assert_eq!(values(&sync(&mut wire)), ["on", "on"]);
    let mut bytes = bytes::BytesMut::new();
    for name in ["r", "w", "r"] {
        put_bind_execute(&mut bytes, name);
    }
    frontend::sync(&mut bytes);
    wire.send(&bytes);
    assert_eq!(values(&wire.until('Z')), ["off", "off"]);
}

#[test]
fn a_write_sent_without_waiting_for_the_read_before_it_goes_to_the_primary() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; CREATE TABLE t (id int)"));
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "t");
    let texts = [
        "SELECT current_setting('in_hot' || '_standby')",
        "INSERT INTO t VALUES (1)",
        "BEGIN READ ONLY",
        "SELECT current_setting('in_hot' || '_standby')",
        "COMMIT",
        "INSERT INTO t VALUES (2)",
        "SELECT current_setting('in_hot' || '_standby')",
    ];
    let mut simple = bytes::BytesMut::new();
    texts.iter().for_each(|sql| frontend::query(sql, &mut simple).unwrap());
    let mut extended = bytes::BytesMut::new();
    for sql in texts {
        frontend::parse("", sql, [], &mut extended).unwrap();
        put_bind_execute(&mut extended, "");
        frontend::sync(&mut extended);
    }
    for bytes in [simple, extended] {
        wire.send(&bytes);
        // Sent behind a read on a standby, a write would be refused there (25006).
        texts.iter().for_each(|_| drop(values(&wire.until('Z'))));
    }
    assert_eq!(cluster.primary().psql(&database, "SELECT count(*) FROM t").unwrap(), "4");
}

#[test]
fn what_is_prepared_follows_the_catalog() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let make = |volatility: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE plpgsql {volatility} AS \
             $$BEGIN RETURN current_setting('in_hot_standby'); END$$"
        )
    };
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; {}", make("STABLE")));
    let komainu = eventual(cluster).start();
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));

    // Parsed before anything is known of it: the primary, and a standby as soon as the catalog is there.
    parse(&mut wire, "named", "SELECT f()");
    let first = {
        bind_execute(&mut wire, "named");
        values(&sync(&mut wire))
    };
    let execute = |wire: &mut Wire, name: &str| {
        bind_execute(wire, name);
        values(&sync(wire)).remove(0)
    };
    assert!(first == ["off"] || komainu.log().contains("catalog"), "an unknown function: {first:?}");
    eventually(PATIENCE, "the catalog is known", || execute(&mut wire, "named") == "on");
    parse(&mut wire, "", "SELECT f()");
    assert_eq!(values(&sync(&mut wire)), [] as [&str; 0]);
    assert_eq!(execute(&mut wire, ""), "on");

    // Made volatile by another session: to the primary from the next statement on.
    run(&mut other, &make("VOLATILE"));
    assert_eq!(execute(&mut wire, ""), "off");
    assert_eq!(execute(&mut wire, "named"), "off");
    assert_eq!(wire.query_value("SELECT f()"), "off");
    // Also once the new catalog is read.
    run(&mut other, "CREATE TABLE marker (id int)");
    wait_for_catalog(&mut other, "marker");
    assert_eq!(execute(&mut wire, "named"), "off");

    run(&mut other, &make("STABLE"));
    eventually(PATIENCE, "it is known to be stable", || execute(&mut wire, "named") == "on");
}

/// The catalog would be read anew for it, and until then all tables are the primary's.
#[test]
fn what_a_server_refuses_leaves_everybodys_reads_where_they_are() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (id int); GRANT ALL ON t TO PUBLIC");
    let komainu = eventual(cluster).start();
    let (mut wire, mut reader) = (komainu.login(&database), komainu.login(&database));
    wait_for_catalog(&mut reader, "t");
    for sql in ["SELECT (", "DROP TABLE nothing", "SELECT 1; SELECT count(*) FROM (t"] {
        assert_eq!(tags(&wire.query(sql)), "EZ", "{sql}");
        let (server, reason) = went_to(&mut reader, "SELECT count(*) FROM t");
        assert_ne!(server, "pg1", "{sql}: {reason}");
    }
}

#[test]
fn hints_choose_the_server_and_nonsense_is_reported() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    let by_port = ports(cluster);
    let mut server =
        |hint: &str| by_port[&wire.query_value(&format!("{hint} SELECT current_setting('port')"))].clone();
    for _ in 0..10 {
        assert_eq!(server("/*NO LOAD BALANCE*/"), "pg1");
        assert_eq!(server("/* komainu: primary */"), "pg1");
        assert_ne!(server("/* komainu: standby */"), "pg1");
        assert_eq!(server("/* komainu: server=pg3 */"), "pg3");
        assert_eq!(server("/* komainu: server=pg1 */"), "pg1");
    }
    // A hint never moves a write.
    let messages = wire.query("/* komainu: standby */ CREATE TABLE hinted (id int)");
    assert_eq!(tags(&messages), "CZ");

    // No hint of ours: a warning says so, and the statement is served.
    let messages = wire.query("/* komainu: primry */ SELECT 1");
    let warning =
        messages.iter().find(|m| m.tag == 'N').unwrap_or_else(|| panic!("no warning: {messages:?}"));
    assert_eq!((warning.field('S'), warning.sqlstate()), ("WARNING".into(), "22023".into()));
    assert!(warning.text().contains("primry"), "{}", warning.text());
    assert!(messages.iter().any(|m| m.tag == 'D'));
    let messages = wire.query("SELECT /* komainu: primary */ 1 -- komainu: standby");
    assert!(messages.iter().any(|m| m.tag == 'N' && m.text().contains("contradicting")), "{messages:?}");
    parse(&mut wire, "", "/* komainu: who knows */ SELECT 1");
    bind_execute(&mut wire, "");
    assert!(sync(&mut wire).iter().any(|m| m.tag == 'N' && m.text().contains("who knows")));

    let (_, reason) = went_to(&mut wire, "/* komainu: server=pg9 */ SELECT 1");
    assert!(reason.starts_with("hint_unavailable"), "{reason}");
    let counted =
        |reason: &str| komainu.metric(&format!("komainu_reads_to_primary_total{{reason=\"{reason}\"}}"));
    assert!(counted("hint") >= Some(30.0), "{:?}", counted("hint"));
}

#[test]
fn routes_are_explained_without_being_taken() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    let explain = |wire: &mut Wire, sql: &str| {
        let messages = wire.query(&format!("/* komainu: explain route */ {sql}"));
        let row = messages.iter().find(|m| m.tag == 'D').unwrap_or_else(|| panic!("{messages:?}")).columns();
        (row[0].clone().unwrap(), row[1].clone().unwrap())
    };
    let (server, why) = explain(&mut wire, "DROP DATABASE nowhere");
    assert_eq!(server, "pg1");
    assert!(why.starts_with("write: "), "{why}");
    let (server, why) = explain(&mut wire, "SELECT 1");
    assert_ne!(server, "pg1");
    assert!(why.contains("nothing in it writes"), "{why}");
    let (server, why) = explain(&mut wire, "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d");
    assert_eq!(server, "pg1");
    assert!(why.contains("a WITH query in it changes data"), "{why}");

    // In a transaction everything goes where the transaction is.
    run(&mut wire, "BEGIN");
    assert_eq!(explain(&mut wire, "SELECT 1").0, "pg1");
    run(&mut wire, "COMMIT");
    let (server, why) = went_to(&mut wire, "SELECT 1");
    assert_ne!(server, "pg1");
    assert!(why.starts_with("drawn: "), "{why}");

    let off = Komainu::start_with(cluster, "[split]\nenabled = false\n");
    let mut wire = off.login(&database);
    let (server, why) = went_to(&mut wire, "SELECT 1");
    assert_eq!((&*server, why.starts_with("split_off: ")), ("pg1", true), "{why}");
}

#[test]
fn preferences_send_reads_by_application_database_and_user() {
    let cluster = Cluster::shared();
    let (plain, pinned) = (cluster.database(), cluster.database());
    let config = format!(
        "{EVENTUAL}
         [[split.preference]]\napplication_name = \"report\"\ntarget = {{ pg3 = 1 }}
         [[split.preference]]\ndatabase = \"{pinned}\"\ntarget = \"primary\"
         [[split.preference]]\nuser = \"postgres\"\ntarget = {{ pg2 = 1 }}\n"
    );
    let komainu = eventual(cluster).config(&config).start();
    let by_port = ports(cluster);
    let server = |wire: &mut Wire| by_port[&wire.query_value("SELECT current_setting('port')")].clone();
    let always = |wire: &mut Wire, id: &str| (0..10).for_each(|_| assert_eq!(server(wire), id));

    always(&mut komainu.login(&pinned), "pg1");
    let mut wire = komainu.login(&plain);
    run(&mut wire, "SET application_name = 'report'");
    always(&mut wire, "pg3");
    run(&mut wire, "SET application_name = 'other'");
    eventually(PATIENCE, "reads are spread", || server(&mut wire) == "pg2");
    let mut wire = komainu.wire();
    wire.login("postgres", cluster.primary().password(), &plain);
    always(&mut wire, "pg2");
    let preferred = komainu.metric("komainu_reads_to_primary_total{reason=\"preference\"}");
    assert_eq!(preferred, Some(10.0));
}

#[test]
fn reads_stay_in_the_zone_while_a_standby_of_it_lives() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let mut config = format!("zone = \"a\"\n{EVENTUAL}prefer_same_zone = true\n");
    for (server, zone) in cluster.servers().all().iter().zip(["a", "b", "a"]) {
        let (id, host, port) = (server.id(), server.host(), server.port());
        config += &format!(
            "[[server]]\nid = \"{id}\"\nhost = \"{host}\"\nport = {port}\nzone = \"{zone}\"\nweight = {}\n",
            if id == "pg1" { 0 } else { 1 }
        );
    }
    let komainu = Komainu::start_with(cluster, &config);
    let mut wire = komainu.login(&database);
    let by_port = ports(cluster);
    for _ in 0..20 {
        assert_eq!(by_port[&wire.query_value("SELECT current_setting('port')")], "pg3");
    }
}

#[test]
fn clients_see_one_server_that_takes_writes() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    let in_hot_standby = |wire: &Wire| {
        wire.parameters.iter().filter(|(n, _)| n == "in_hot_standby").map(|(_, v)| v.clone()).next_back()
    };
    assert_eq!(in_hot_standby(&wire).as_deref(), Some("off"));
    // JDBC's question, asked often enough to have met every server.
    for _ in 0..20 {
        assert_eq!(wire.query_value("SHOW transaction_read_only"), "off");
        assert_eq!(wire.query_value("SHOW in_hot_standby"), "off");
        assert_eq!(wire.query_value("SELECT pg_is_in_recovery()"), "f");
        for setting in ["in_hot_standby", "Transaction_Read_Only"] {
            assert_eq!(wire.query_value(&format!("SELECT current_setting('{setting}')")), "off");
            let view = format!("SELECT setting FROM pg_settings WHERE name = lower('{setting}')");
            parse(&mut wire, "", &view);
            bind_execute(&mut wire, "");
            assert_eq!(values(&sync(&mut wire)), ["off"]);
        }
        let messages = wire.query("SELECT 1");
        assert!(!messages.iter().any(|m| m.tag == 'S'), "{messages:?}");
    }
    // Of the same shape, and yet a read for any server; and who names a standby hears what is so there.
    let port = |wire: &mut Wire| wire.query_value("SELECT current_setting('port')");
    let primary = cluster.primary().port().to_string();
    assert_ne!(port(&mut wire), primary);
    let hinted = "/* komainu: standby */ SELECT current_setting('in_hot_standby')";
    assert_eq!(wire.query_value(hinted), "on");
    assert_ne!(port(&mut wire), primary);
    let (server, reason) = went_to(&mut wire, "SELECT current_setting('in_hot_standby')");
    assert_eq!((&*server, reason.contains("it asks for a setting")), ("pg1", true), "{reason}");
    run(&mut wire, "BEGIN READ ONLY");
    assert_eq!(wire.query_value("SHOW transaction_read_only"), "on");
    run(&mut wire, "COMMIT");
    run(&mut wire, "SET default_transaction_read_only = on");
    assert_eq!(wire.query_value("SHOW transaction_read_only"), "on");

    for attributes in ["read-write", "primary", "any", "prefer-standby"] {
        let url = format!("{}?target_session_attrs={attributes}", komainu.url(&database));
        assert_eq!(psql(&url, &["CREATE TEMP TABLE x (a int)", "SELECT 1"]).output(), "1", "{attributes}");
    }
    for attributes in ["read-only", "standby"] {
        let url = format!("{}?target_session_attrs={attributes}", komainu.url(&database));
        assert!(!psql(&url, &["SELECT 1"]).success, "{attributes}");
    }
}

#[test]
fn what_a_standby_refuses_is_asked_once_more_on_the_primary_but_never_in_a_transaction() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    // The catalog believes it; the function lies.
    cluster.prepare(
        &database,
        &format!(
            "SET ROLE {APP_USER}; CREATE TABLE log (id serial); CREATE FUNCTION writes() RETURNS text \
             LANGUAGE plpgsql STABLE AS $$BEGIN PERFORM hidden(); RETURN current_setting('in_hot_standby'); END$$; \
             CREATE FUNCTION hidden() RETURNS void LANGUAGE plpgsql VOLATILE AS \
             $$BEGIN INSERT INTO log DEFAULT VALUES; END$$; CREATE UNLOGGED TABLE u AS SELECT 'unlogged' AS v; \
             CREATE FUNCTION of_unlogged() RETURNS text LANGUAGE sql STABLE AS 'SELECT v FROM u'"
        ),
    );
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "log");
    let rows = || cluster.primary().psql(&database, "SELECT count(*) FROM log").unwrap();

    assert_eq!(wire.query_value("SELECT writes()"), "off");
    assert_eq!(rows(), "1", "written exactly once");
    assert!(route(&mut wire).1.starts_with("refused"), "{:?}", route(&mut wire));
    parse(&mut wire, "p", "SELECT writes()");
    for _ in 0..2 {
        bind_execute(&mut wire, "p");
        assert_eq!(values(&sync(&mut wire)), ["off"]);
        assert!(route(&mut wire).1.starts_with("refused"), "{:?}", route(&mut wire));
    }
    assert_eq!(rows(), "3");
    let refused = komainu.metric("komainu_reads_to_primary_total{reason=\"refused\"}");
    assert_eq!(refused, Some(3.0));

    // Of an unlogged table a standby has nothing.
    assert_eq!(wire.query_value("SELECT of_unlogged()"), "unlogged");
    assert!(route(&mut wire).1.starts_with("refused"), "{:?}", route(&mut wire));
    parse(&mut wire, "o", "SELECT of_unlogged()");
    bind_execute(&mut wire, "o");
    assert_eq!(values(&sync(&mut wire)), ["unlogged"]);

    // It is refused before its Sync was sent: the second Parse waits for what becomes of the first.
    let batch =
        Pipeline::new().parse("q", "SELECT writes()").bind("", "q", &[]).execute("", 0).close('S', "q");
    let batch = batch.parse("q", "SELECT 'two'").bind("", "q", &[]).execute("", 0).close('S', "q").sync();
    assert_eq!(values(&wire.pipeline(batch)), ["off", "two"]);
    assert_eq!(rows(), "4");

    run(&mut wire, "BEGIN READ ONLY");
    let messages = wire.query("SELECT writes()");
    assert_eq!(messages.iter().find(|m| m.tag == 'E').unwrap().sqlstate(), "25006");
    assert_eq!(wire.query("SELECT 1")[0].sqlstate(), "25P02");
    run(&mut wire, "ROLLBACK");
    assert_eq!(rows(), "4", "nothing was asked again");

    // Rows were relayed before the refusal: it cannot be asked again.
    let messages = wire.query(
        "SELECT repeat('x', 9000), CASE WHEN n > 200 THEN writes() END FROM generate_series(1, 201) n",
    );
    let error = messages.iter().find(|m| m.tag == 'E').unwrap_or_else(|| panic!("no error"));
    assert_eq!(error.sqlstate(), "25006");
    assert_eq!(rows(), "4");
    assert_eq!(wire.query_value("SELECT 7"), "7");
}

#[test]
fn what_comes_behind_the_end_of_a_standbys_transaction_is_routed_as_if_it_came_alone() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, &format!("SET ROLE {APP_USER}; CREATE TABLE t (id int)"));
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "t");
    let rows = || cluster.primary().psql(&database, "SELECT count(*) FROM t").unwrap();
    let completions = |messages: &[Message]| -> Vec<String> {
        messages.iter().filter(|m| m.tag == 'C').map(|m| m.strings().remove(0)).collect()
    };
    let begin = |wire: &mut Wire| {
        run(wire, "BEGIN READ ONLY");
        assert_eq!(wire.query_value("SELECT current_setting('in_hot' || '_standby')"), "on");
    };

    begin(&mut wire);
    let messages = wire.query("COMMIT; INSERT INTO t VALUES (1); SELECT 1");
    assert_eq!((tags(&messages).as_str(), completions(&messages)[0].as_str()), ("CCTDCZ", "COMMIT"));
    begin(&mut wire);
    assert_eq!(tags(&wire.query("SELECT 1 / 0")), "EZ");
    let messages = wire.query("COMMIT; BEGIN; INSERT INTO t VALUES (2)");
    assert_eq!(completions(&messages), ["ROLLBACK", "BEGIN", "INSERT 0 1"]);
    assert_eq!(messages.last().unwrap().body, b"T");
    run(&mut wire, "COMMIT");
    assert_eq!(rows(), "2");
    // What cannot be done fails by itself, and a read stays where it may.
    begin(&mut wire);
    assert_eq!(tags(&wire.query("COMMIT; INSERT INTO nowhere VALUES (1); SELECT 1")), "CEZ");
    begin(&mut wire);
    assert_eq!(values(&wire.query("ROLLBACK; SELECT current_setting('in_hot' || '_standby')")), ["on"]);

    // The same in one batch, whether the end is prepared or not.
    let pipeline = |ends: &str| {
        let batch = Pipeline::new().parse("", ends).bind("", "", &[]).execute("", 0);
        batch.parse("", "INSERT INTO t VALUES (3)").bind("", "", &[]).execute("", 0)
    };
    for ends in ["COMMIT", "ROLLBACK"] {
        begin(&mut wire);
        let messages = wire.pipeline(pipeline(ends).sync());
        assert_eq!((tags(&messages).as_str(), completions(&messages)[0].as_str()), ("12C12CZ", ends));
    }
    begin(&mut wire);
    let messages = wire.pipeline(pipeline("COMMIT").query("INSERT INTO t VALUES (4)"));
    assert_eq!(tags(&messages), "12C12CCZ");
    assert_eq!(rows(), "6");
    // An end that fails takes the rest of its batch with it, and no more.
    begin(&mut wire);
    let messages = wire.pipeline(
        Pipeline::new().parse("", "COMMIT").bind("", "", &["1"]).execute("", 0).parse("", "SELECT 1").sync(),
    );
    assert_eq!((tags(&messages).as_str(), messages.last().unwrap().body.as_slice()), ("1EZ", &b"E"[..]));
    run(&mut wire, "ROLLBACK");
    assert_eq!(rows(), "6");
}

#[test]
fn who_is_serializable_by_default_reads_on_the_primary() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let level = "default_transaction_isolation = 'serializable'";
    cluster.prepare(
        &database,
        &format!("ALTER DATABASE {database} SET {level}; SET ROLE {APP_USER}; CREATE TABLE t (n int)"),
    );
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    // Nothing has told komainu yet; a standby refuses it.
    assert_eq!(wire.query_value("SELECT current_setting('transaction_isolation')"), "serializable");
    eventually(PATIENCE, "komainu has heard of it", || {
        went_to(&mut wire, "SELECT count(*) FROM t").1.starts_with("serializable")
    });
    run(&mut wire, "BEGIN READ ONLY");
    assert_eq!(wire.query_value("SELECT current_setting('transaction_isolation')"), "serializable");
    run(&mut wire, "COMMIT");
    // A connection to a standby could not be given another level.
    run(&mut wire, "SET default_transaction_isolation = 'read committed'");
    assert!(went_to(&mut wire, "SELECT count(*) FROM t").1.starts_with("serializable"));
    assert_eq!(wire.query_value("SELECT current_setting('transaction_isolation')"), "read committed");
}

#[test]
fn what_is_not_yet_replayed_on_a_paused_standby_works_through_the_primary() {
    let cluster = Cluster::start(1);
    let komainu = eventual(&cluster).start();
    cluster.standby(0).psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    eventually(PATIENCE, "replay is paused", || {
        cluster.standby(0).psql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap() == "paused"
    });
    let primary = cluster.primary();
    primary.psql("postgres", &format!("CREATE DATABASE fresh OWNER {APP_USER}")).unwrap();
    let mut wire = komainu.login("fresh");
    for _ in 0..5 {
        assert_eq!(wire.query_value("SELECT current_setting('in_hot' || '_standby')"), "off");
    }
    assert_eq!(tags(&wire.query("BEGIN READ ONLY; SELECT 1; COMMIT")), "CTDCCZ");
    cluster.standby(0).psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    eventually(Duration::from_secs(10), "the standby serves the new database", || {
        wire.query_value("SELECT current_setting('in_hot' || '_standby')") == "on"
    });
}

/// What is too long to be looked into is passed on as it is, also when its SQLSTATE is one that a read is asked again
/// for on the primary.
#[test]
fn a_long_error_of_a_standby_reaches_the_client_whole() {
    const LONG: usize = 200_000;
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(
        &database,
        "CREATE TABLE seen (); GRANT SELECT ON seen TO PUBLIC; \
         CREATE FUNCTION shout(code text, length int) RETURNS int LANGUAGE plpgsql STABLE AS \
         $$BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = repeat('x', length); END$$",
    );
    let komainu = eventual(cluster).start();
    let mut wire = komainu.login(&database);
    wait_for_catalog(&mut wire, "seen");
    for code in ["P0001", "25006", "40001"] {
        let messages = wire.query(&format!("SELECT shout('{code}', {LONG})"));
        assert_eq!(tags(&messages), "TEZ", "{code}");
        assert_eq!((messages[1].sqlstate(), messages[1].text().len()), (code.to_owned(), LONG));
        let (server, reason) = route(&mut wire);
        assert!(server != "pg1" || reason.starts_with("refused"), "{code}: {server}, {reason}");
        assert_eq!(wire.query_value("SELECT 7"), "7");
    }
}
