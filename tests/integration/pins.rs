//! What pins a session until it leaves, or until its transaction ends: the others are in `session_state`.

use super::routing::{run, standbys_read, went_to};
use super::support::*;

fn komainu() -> Komainu {
    Komainu::start_with(
        Cluster::shared(),
        "[split]\nenabled = false\n[pool]\nsize = 1\nacquire_timeout_ms = 1000\n\
         [limits]\nmax_inspected_statement_bytes = 1024\n",
    )
}

/// Until this client has the connection: whether anything is left on it may have to be asked first.
#[track_caller]
fn wait_until_free(next: &mut Wire) {
    eventually(PATIENCE, "the connection is free", || tags(&next.query("SELECT 1")) == "TDCZ");
}

/// How many sessions are pinned for it now, and how many ever were.
fn counted(komainu: &Komainu, reason: &str) -> (f64, f64) {
    let metric = |name: &str| komainu.metric(&format!("{name}{{reason=\"{reason}\"}}")).unwrap();
    (metric("komainu_sessions_pinned"), metric("komainu_pins_total"))
}

#[track_caller]
fn pins_until_it_leaves(reason: &str, user: &str, password: &str, pin: &str) {
    let database = Cluster::shared().database();
    let komainu = komainu();
    let login = || {
        let mut wire = komainu.wire();
        wire.login(user, password, &database);
        wire
    };
    let (mut first, mut next) = (login(), login());
    let backend = first.query_value("SELECT pg_backend_pid()");
    assert_eq!(next.query_value("SELECT pg_backend_pid()"), backend);
    let done = first.query(pin);
    assert!(!tags(&done).contains('E'), "{pin}: {}", transcript(&done));
    for _ in 0..2 {
        assert_eq!(first.query_value("SHOW komainu.pins"), reason);
        assert_eq!(first.query_value("SELECT pg_backend_pid()"), backend);
    }
    assert_eq!(counted(&komainu, reason), (1.0, 1.0));
    assert_eq!(next.query("SELECT 1")[0].sqlstate(), "53300", "{reason}: another client got the connection");
    drop(first);
    wait_until_free(&mut next);
    assert_eq!(counted(&komainu, reason), (0.0, 1.0));
    assert!(!tags(&next.query("SHOW komainu.pins")).contains('D'), "{reason}: it pins the next one");
    assert_eq!(next.query_value("SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'"), "0");
}

/// As a cancel that comes late would do, which PostgreSQL ignores.
#[test]
fn a_position_that_cannot_be_had_ends_no_session() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let revoke = "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_current_wal_insert_lsn() FROM PUBLIC";
    cluster.prepare(&database, &format!("{revoke}; CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC"));
    let komainu = Komainu::builder(cluster).config(&standbys_read(cluster)).start();
    let mut wire = komainu.login(&database);
    run(&mut wire, "LISTEN x");
    for n in ["1", "2"] {
        run(&mut wire, "INSERT INTO t VALUES (1)");
        assert_eq!(wire.query_value("SELECT count(*) FROM t"), n);
        assert_eq!(wire.query_value("SHOW komainu.pins"), "listen");
    }
}

#[test]
fn a_library_that_is_loaded_pins_until_its_client_leaves() {
    let password = Cluster::shared().primary().password().to_owned();
    pins_until_it_leaves("load", "postgres", &password, "LOAD 'plpgsql'");
}

#[test]
fn a_base_backup_pins_until_its_client_leaves() {
    let password = Cluster::shared().primary().password().to_owned();
    pins_until_it_leaves("load", "postgres", &password, "SELECT pg_backup_start('test', true)");
}

/// Nothing else would end what these have begun.
#[test]
fn a_library_or_a_backup_closes_the_connection_however_its_client_leaves() {
    let cluster = Cluster::shared();
    let (database, password) = (cluster.database(), cluster.primary().password());
    let komainu = komainu();
    let login = || {
        let mut wire = komainu.wire();
        wire.login("postgres", password, &database);
        wire
    };
    let mut next = login();
    for (pin, last) in [
        ("LOAD 'plpgsql'", "SELECT 1"),
        ("LOAD 'plpgsql'", "BEGIN"),
        ("LOAD 'plpgsql'", "BEGIN; SELECT 1/0"),
        ("SELECT pg_backup_start('left', true)", "BEGIN"),
        ("SELECT pg_create_physical_replication_slot('left_behind', false, true)", "SELECT 1"),
    ] {
        let mut wire = login();
        run(&mut wire, pin);
        let backend = wire.query_value("SELECT pg_backend_pid()");
        wire.query(last);
        drop(wire);
        wait_until_free(&mut next);
        assert_ne!(next.query_value("SELECT pg_backend_pid()"), backend, "{pin}; {last}");
    }
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'left_behind'";
    eventually(PATIENCE, "the slot is gone", || cluster.primary().psql("postgres", slots).unwrap() == "0");
}

#[test]
fn a_prepare_among_other_statements_pins_until_its_client_leaves() {
    pins_until_it_leaves("sql_prepare", APP_USER, APP_PASSWORD, "SELECT 1; PREPARE mine AS SELECT 2");
}

/// By a plain name, where the search path begins with the schema of temporary objects.
#[test]
fn a_table_that_is_temporary_by_the_search_path_pins_while_it_is_there() {
    const CREATE: &str = "CREATE TABLE items AS SELECT 1";
    let pin = format!("SET search_path = pg_temp, public; {CREATE}");
    pins_until_it_leaves("temporary_object", APP_USER, APP_PASSWORD, &pin);
    let komainu = komainu();
    let mut wire = komainu.login(&Cluster::shared().database());
    wire.query("SET search_path = pg_temp, public");
    wire.query(CREATE);
    assert_eq!(wire.query_value("SHOW komainu.pins"), "temporary_object");
    wire.query("DROP TABLE items");
    assert!(!tags(&wire.query("SHOW komainu.pins")).contains('D'));
    wire.query("SET search_path = public");
    wire.query("CREATE VIEW plain AS SELECT 1");
    assert!(!tags(&wire.query("SHOW komainu.pins")).contains('D'));
}

#[test]
fn what_is_too_long_to_be_looked_into_pins_until_the_server_says_that_nothing_is_left() {
    let database = Cluster::shared().database();
    let komainu = komainu();
    let (mut first, mut next) = (komainu.login(&database), komainu.login(&database));
    let long = |sql: &str| format!("{sql} /* {} */", "x".repeat(2000));
    first.query("BEGIN");
    first.query(&long("SELECT 1"));
    // It may have left any of what pins, too.
    let shown = first.query("SHOW komainu.pins");
    let mut reasons = shown.iter().filter(|message| message.tag == 'D').map(|row| row.columns().remove(0));
    assert!(reasons.any(|reason| reason.as_deref() == Some("not_inspected")), "{}", transcript(&shown));
    assert_eq!(counted(&komainu, "not_inspected"), (1.0, 1.0));
    first.query("COMMIT");
    wait_until_free(&mut next);
    assert_eq!(counted(&komainu, "not_inspected").0, 0.0);
    // It has left something, which pins by itself.
    first.query(&long("CREATE TEMP TABLE mine AS SELECT 42 AS n"));
    assert!(first.query_value("SHOW komainu.pins").contains("temporary_object"));
    assert_eq!(next.query("SELECT 1")[0].sqlstate(), "53300", "another client got the connection");
    assert_eq!(first.query_value("SELECT n FROM mine"), "42");
    first.query("DROP TABLE mine");
    wait_until_free(&mut next);
}

/// On another connection its Bind would meet another client's statement.
#[test]
fn an_unnamed_statement_that_is_too_long_to_be_kept_pins_until_its_place_is_taken() {
    let database = Cluster::shared().database();
    let komainu = komainu();
    let (mut first, mut next) = (komainu.login(&database), komainu.login(&database));
    let long = format!("SELECT 'first' /* {} */", "x".repeat(2000));
    let replacements: [fn(&mut Wire) -> Vec<Message>; 4] = [
        |wire| wire.query("SELECT 1"),
        |wire| wire.pipeline(Pipeline::new().parse("", "SELECT 1").sync()),
        |wire| wire.pipeline(Pipeline::new().parse("", "SELEC").sync()),
        |wire| wire.pipeline(Pipeline::new().close('S', "").sync()),
    ];
    for (before, replace) in replacements.into_iter().enumerate() {
        let parsed = first.pipeline(Pipeline::new().parse("", &long).run("", &[]));
        assert_eq!(first_value(&parsed).as_deref(), Some("first"));
        assert_eq!(counted(&komainu, "long_statement"), (1.0, before as f64 + 1.0));
        let refused = next.pipeline(Pipeline::new().parse("", "SELECT 'next'").sync());
        assert_eq!(refused[0].sqlstate(), "53300", "another client got the connection");
        assert_eq!(first.run_prepared("", &[]), "first");
        replace(&mut first);
        wait_until_free(&mut next);
        assert_eq!(counted(&komainu, "long_statement").0, 0.0);
    }
}

#[test]
fn an_unnamed_statement_that_is_lost_with_its_connection_is_not_another_clients() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = komainu();
    let (mut first, mut next) = (komainu.login(&database), komainu.login(&database));
    let long = format!("SELECT 'first' /* {} */", "x".repeat(2000));
    first.pipeline(Pipeline::new().parse("pid", "SELECT pg_backend_pid()").sync());
    first.pipeline(Pipeline::new().parse("", &long).run("", &[]));
    let pid = first.run_prepared("pid", &[]);
    cluster.primary().psql("postgres", &format!("SELECT pg_terminate_backend({pid})")).unwrap();
    wait_until_free(&mut next);
    next.pipeline(Pipeline::new().parse("", "SELECT 'next'").sync());
    let gone = first.pipeline(Pipeline::new().run("", &[]));
    assert_eq!(gone[0].sqlstate(), "26000", "{}", transcript(&gone));
    assert_eq!(next.run_prepared("", &[]), "next");
}

/// A session that kept a standby's connection could not write any more.
#[test]
fn an_unnamed_statement_that_is_too_long_to_be_kept_goes_to_the_primary() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let config = "[split]\nconsistency = \"eventual\"\nmax_lag_ms = 0\n\
                  [limits]\nmax_inspected_statement_bytes = 1024\n";
    let komainu = Komainu::builder(cluster).config(config).config(&standbys_read(cluster)).start();
    let mut wire = komainu.login(&database);
    let primary = cluster.primary().port().to_string();
    let short = "SELECT current_setting('port')";
    let long = format!("{short} /* {} */", "x".repeat(2000));
    let mut ask =
        |sql: &str| first_value(&wire.pipeline(Pipeline::new().parse("", sql).run("", &[]))).unwrap();
    for _ in 0..2 {
        eventually(PATIENCE, "a standby answers", || ask(short) != primary);
        assert_eq!(ask(&long), primary);
    }
    assert_eq!(wire.run_prepared("", &[]), primary);
}

/// There a session that kept the connection could never write again.
#[test]
fn what_would_pin_to_a_standby_ends_with_the_transaction() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    let eventual = "[split]\nconsistency = \"eventual\"\nmax_lag_ms = 0\n";
    let komainu = Komainu::builder(&cluster).config(eventual).config(&standbys_read(&cluster)).start();
    let mut wire = komainu.login(&database);
    run(&mut wire, "CREATE TABLE t (n int)");
    for (at, (pin, told)) in [
        ("SELECT lastval()", ""),
        ("SELECT pg_advisory_lock(7)", "advisory_lock"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", ""),
        ("SELECT 1; PREPARE mine AS SELECT 2", ""),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(went_to(&mut wire, "BEGIN READ ONLY").0, "pg2");
        wire.query(pin);
        // Also if the next statement does not wait for the end.
        let mut bytes = bytes::BytesMut::new();
        for sql in ["COMMIT", "INSERT INTO t VALUES (1)"] {
            postgres_protocol::message::frontend::query(sql, &mut bytes).unwrap();
        }
        wire.send(&bytes);
        let mut messages = wire.until('Z');
        messages.extend(wire.until('Z'));
        assert!(!tags(&messages).contains('E'), "{pin}: {}", transcript(&messages));
        let warning = messages.iter().find(|message| message.tag == 'N').map(Message::text);
        assert_eq!(warning.is_some(), !told.is_empty(), "{pin}: {warning:?}");
        assert!(warning.unwrap_or_default().contains(told));
        assert_eq!(wire.query_value("/* komainu: primary */ SELECT count(*) FROM t"), (at + 1).to_string());
        assert!(!tags(&wire.query("SHOW komainu.pins")).contains('D'), "{pin}");
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        let psql = |sql| cluster.standby(0).psql("postgres", sql).unwrap();
        eventually(PATIENCE, "nobody has the lock", || psql(locks) == "0");
    }
}
