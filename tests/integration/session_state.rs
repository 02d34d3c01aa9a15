//! What a session has set, locked, listened to or created is its own, and there whenever it asks.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use super::support::*;

/// All clients share one server connection, so that whatever is left on it is met by the next one.
fn komainu_of_one() -> Komainu {
    Komainu::start_with(
        Cluster::shared(),
        "[split]\nenabled = false\n[pool]\nsize = 1\nacquire_timeout_ms = 5000\n",
    )
}

fn shared() -> &'static Komainu {
    static SHARED: OnceLock<Komainu> = OnceLock::new();
    SHARED.get_or_init(komainu_of_one)
}

/// Another client of the same server connection, with settings of its own for all that tests look at.
fn intruder(komainu: &Komainu, database: &str) -> Wire {
    let mut intruder = komainu.login(database);
    let sql = "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET search_path = intruder; \
               SET application_name = 'intruder'; SET work_mem = '64kB'; SET my.own = 'intruder'; \
               SET client_encoding = 'LATIN1'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'; \
               SET default_transaction_isolation = 'serializable'; SET extra_float_digits = 0";
    assert!(!tags(&intruder.query(sql)).contains('E'));
    intruder
}

/// The reported parameters as the client now believes them.
fn believed(parameters: &mut BTreeMap<String, String>, messages: &[Message]) {
    for message in messages.iter().filter(|message| message.tag == 'S') {
        let mut strings = message.strings().into_iter();
        parameters.insert(strings.next().unwrap(), strings.next().unwrap());
    }
}

/// Runs the statements, and after each one outside a transaction lets the intruder have the connection.
/// The transcript tells the parameters that the client believes in at the end of each.
fn converse(wire: &mut Wire, statements: &[&str], mut between: impl FnMut()) -> String {
    let mut parameters: BTreeMap<_, _> = wire.parameters.iter().cloned().collect();
    let mut told = String::new();
    for sql in statements {
        let messages = wire.query(sql);
        believed(&mut parameters, &messages);
        told += &format!("> {sql}\n{}\n", transcript(&messages));
        if messages.last().unwrap().body == b"I" {
            between();
            // What a client is told may come with its next answer.
            believed(&mut parameters, &wire.query("SELECT 1"));
            told += &format!("{parameters:?}\n");
        }
    }
    told
}

#[track_caller]
fn same_with_an_intruder(startup: &[(&str, &str)], statements: &[&str]) {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE SCHEMA intruder; CREATE SCHEMA s AUTHORIZATION app; CREATE SCHEMA t");
    let log_in = |mut wire: Wire| {
        let mut parameters = vec![("user", APP_USER), ("database", &*database)];
        parameters.extend(startup);
        wire.startup(&parameters);
        let last = wire.authenticate(APP_USER, APP_PASSWORD);
        assert_eq!(last.tag, 'Z', "{:?}", last.error());
        wire
    };
    let mut direct = log_in(Wire::connect(cluster.primary().port()));
    let expected = converse(&mut direct, statements, || ());
    let komainu = shared();
    let mut intruder = intruder(komainu, &database);
    let mut wire = log_in(komainu.wire());
    let told = converse(&mut wire, statements, || {
        assert_eq!(intruder.query_value("SHOW application_name"), "intruder");
        assert_eq!(intruder.query_value("SHOW my.own"), "intruder");
    });
    assert_same(&told, &expected);
}

#[test]
fn settings_last_as_long_as_in_postgresql() {
    same_with_an_intruder(
        &[],
        &[
            "SET work_mem = '2MB'",
            "SHOW work_mem",
            "SET LOCAL work_mem = '3MB'",
            "SHOW work_mem",
            "BEGIN",
            "SET LOCAL work_mem = '3MB'",
            "SET my.own = 'in a transaction'",
            "SHOW work_mem",
            "COMMIT",
            "SHOW work_mem",
            "SHOW my.own",
            "BEGIN",
            "SET work_mem = '4MB'",
            "SET my.own = 'to be rolled back'",
            "ROLLBACK",
            "SHOW work_mem",
            "SHOW my.own",
            "BEGIN",
            "SET work_mem = '5MB'",
            "SAVEPOINT a",
            "SET work_mem = '6MB'",
            "SET my.own = 'behind the savepoint'",
            "ROLLBACK TO a",
            "COMMIT",
            "SHOW work_mem",
            "SHOW my.own",
            "BEGIN; SET work_mem = '7MB'; SELECT 1/0",
            "ROLLBACK",
            "SHOW work_mem",
            "SET work_mem = '8MB'; SELECT 1/0",
            "SHOW work_mem",
            "SET work_mem = '9MB'; SET my.own = 'two at once'",
            "SHOW work_mem",
            "RESET work_mem",
            "SHOW work_mem",
            "SHOW my.own",
            "SET my.own TO DEFAULT",
            "SELECT current_setting('my.own', true)",
            "SET work_mem = 'rubbish'",
            "SHOW work_mem",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "SHOW transaction_isolation",
            "BEGIN",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
            "SELECT 1",
            "COMMIT",
            "SET statement_timeout = '1h'",
            "SHOW statement_timeout",
            "RESET ALL",
            "SHOW transaction_isolation",
            "SHOW statement_timeout",
            "SET \"my.Quoted Name\" = 'x'",
            "SET search_path = \"$user\", s, \"with, comma\"",
            "SHOW search_path",
            "SET search_path = ''",
            "SHOW search_path",
        ],
    );
}

#[test]
fn set_config_is_a_set_too() {
    same_with_an_intruder(
        &[],
        &[
            "SELECT set_config('work_mem', '2MB', false)",
            "SHOW work_mem",
            "SELECT set_config('work_mem', '3MB', true)",
            "SHOW work_mem",
            "BEGIN",
            "SELECT set_config('work_mem', '4MB', true), set_config('my.own', 'from a function', false)",
            "SHOW work_mem",
            "COMMIT",
            "SHOW work_mem",
            "SHOW my.own",
            "UPDATE pg_settings SET setting = '5MB' WHERE name = 'work_mem'",
            "SHOW work_mem",
        ],
    );
}

#[test]
fn a_long_setting_is_kept_and_one_that_is_too_long_is_said_to_be() {
    let database = Cluster::shared().database();
    let komainu = shared();
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    let length = "SELECT length(current_setting('my.big'))";
    wire.query("SELECT set_config('my.big', repeat('x', 700000), false)");
    other.query("SET my.big = 'short'");
    assert_eq!(wire.query_value(length), "700000");
    assert_eq!(other.query_value(length), "5");
    wire.query("SELECT set_config('my.big', repeat('x', 1500000), false)");
    let end = wire.expect_end();
    assert_eq!(end.last().unwrap().sqlstate(), "54000", "{end:?}");
    assert_eq!(other.query_value(length), "5");

    let mut wire = komainu.login(&database);
    wire.query("SELECT set_config('my.big', repeat('x', 600000), false)");
    wire.query(
        "SELECT set_config('search_path', 'evil', false), set_config('my.other', repeat('y', 600000), false)",
    );
    let end = wire.expect_end();
    assert_eq!(end.last().unwrap().sqlstate(), "54000", "they are counted together: {end:?}");
    assert_eq!(other.query_value("SHOW search_path"), "\"$user\", public", "nobody inherits what it has set");

    let mut wire = komainu.login(&database);
    wire.query("SET client_encoding = 'LATIN1'");
    wire.query("SELECT set_config('my.name', 'J' || chr(252) || 'rgen', false)");
    let end = wire.expect_end();
    assert!(end.last().unwrap().text().contains("set it in UTF8"), "{end:?}");
}

#[test]
fn a_connection_that_cannot_be_wiped_serves_nobody() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let mut next = komainu.login(&database);
    let mut wire = komainu.login(&database);
    let many = "DO $$ BEGIN FOR n IN 1..1500 LOOP EXECUTE format('CREATE TEMP TABLE left_%s ()', n); END LOOP; END $$";
    assert!(!tags(&wire.query(many)).contains('E'));
    // Too short for all of them to be dropped.
    wire.query("SET statement_timeout = '20ms'");
    drop(wire);
    assert_eq!(next.query_value("SELECT to_regclass('left_1') IS NULL"), "t");
    assert_eq!(next.query_value("SHOW statement_timeout"), "0");
}

/// One client leaves a table behind, which is locked, so that its connection is still being wiped for `next` when that
/// leaves, too. Whoever holds the lock, and the connection's process.
#[track_caller]
fn leave_while_it_is_wiped(komainu: &Komainu, database: &str, mut next: Wire) -> (Wire, String) {
    let primary = Cluster::shared().primary();
    let mut first = komainu.login(database);
    first.query("SET statement_timeout = '1h'");
    // Unseen: what is seen to be left is wiped before anybody else gets the connection.
    let body = "BEGIN EXECUTE 'CREATE TEMP TABLE left_behind ()'; END";
    first.query(&format!("CREATE FUNCTION leaves() RETURNS void LANGUAGE plpgsql AS $${body}$$"));
    first.query("SELECT leaves()");
    assert!(!tags(&first.query("SHOW komainu.pins")).contains('D'));
    let backend = first.query_value("SELECT pg_backend_pid()");
    let schema = first.query_value("SELECT pg_my_temp_schema()::regnamespace");
    let mut holder = Wire::connect(primary.port());
    holder.login("postgres", primary.password(), database);
    holder.query("BEGIN");
    let locked = holder.query(&format!("LOCK TABLE {schema}.left_behind IN ACCESS SHARE MODE"));
    assert_eq!(tags(&locked), "CZ", "{}", transcript(&locked));
    drop(first);
    next.send_pipeline(Pipeline::new().query("SELECT 1"));
    let wiping = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE pid = {backend} AND query = 'DISCARD ALL' AND wait_event_type = 'Lock'"
    );
    eventually(PATIENCE, "it is being wiped", || primary.psql("postgres", &wiping).unwrap() == "1");
    next.reset();
    eventually(PATIENCE, "both have left", || komainu.metric("komainu_client_connections") == Some(1.0));
    (holder, backend)
}

#[test]
fn a_connection_that_was_wiped_in_vain_for_a_client_that_left_serves_nobody() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut last, next) = (komainu.login(&database), komainu.login(&database));
    let (_holder, backend) = leave_while_it_is_wiped(&komainu, &database, next);
    let cancel = format!("SELECT pg_cancel_backend({backend})");
    assert_eq!(Cluster::shared().primary().psql("postgres", &cancel).unwrap(), "t");
    assert_eq!(last.query_value("SELECT to_regclass('left_behind') IS NULL"), "t");
    assert_eq!(last.query_value("SHOW statement_timeout"), "0");
}

#[test]
fn settings_that_were_made_in_vain_for_a_client_that_left_are_made_for_the_next_one() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let role = format!("{database}_role");
    cluster.prepare(&database, &format!("CREATE ROLE {role}; GRANT {role} TO app"));
    let komainu = komainu_of_one();
    let (mut last, mut next) = (komainu.login(&database), komainu.login(&database));
    for wire in [&mut last, &mut next] {
        wire.query(&format!("SET ROLE {role}"));
        assert_eq!(wire.query_value("SELECT current_user"), role);
    }
    let (mut holder, backend) = leave_while_it_is_wiped(&komainu, &database, next);
    let psql = |sql: &str| cluster.primary().psql("postgres", sql).unwrap();
    psql(&format!("REVOKE {role} FROM app"));
    holder.query("COMMIT");
    let under_way = format!(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE pid = {backend} AND (query = 'DISCARD ALL' OR state <> 'idle')"
    );
    eventually(PATIENCE, "the role was refused", || psql(&under_way) == "0");
    psql(&format!("GRANT {role} TO app"));
    assert_eq!(last.query_value("SELECT current_user"), role);
}

#[test]
fn parameters_are_reported_as_postgresql_reports_them() {
    same_with_an_intruder(
        &[("application_name", "at startup"), ("TimeZone", "Europe/Berlin")],
        &[
            "SHOW TimeZone",
            "SET TimeZone = 'America/New_York'",
            "SET application_name = 'by SET'",
            "SET DateStyle = 'SQL, DMY'",
            "SELECT '2001-02-03'::date, '1 day 2 hours'::interval, '\\x41'::bytea, 0.1::float8",
            "SET IntervalStyle = 'sql_standard'",
            "SET client_encoding = 'LATIN1'",
            "SHOW client_encoding",
            "BEGIN",
            "SET TimeZone = 'Asia/Kolkata'",
            "ROLLBACK",
            "SHOW TimeZone",
            "BEGIN",
            "SET LOCAL TimeZone = 'Asia/Kolkata'",
            "COMMIT",
            "SHOW TimeZone",
            "RESET TimeZone",
            "SHOW TimeZone",
            "RESET application_name",
            "SHOW application_name",
            "SET application_name = 'again'",
            "RESET ALL",
            "SHOW TimeZone",
            "SHOW application_name",
            "SHOW client_encoding",
            "SET TimeZone = 'UTC'",
            "DISCARD ALL",
            "SHOW TimeZone",
            "SHOW application_name",
        ],
    );
}

#[test]
fn startup_parameters_and_options_are_the_sessions_defaults() {
    same_with_an_intruder(
        &[
            ("options", "-c search_path=s,public -c work_mem=1234kB --my.own=from\\ options"),
            ("DateStyle", "SQL, MDY"),
            ("extra_float_digits", "2"),
            ("default_transaction_isolation", "repeatable read"),
        ],
        &[
            "SHOW search_path",
            "CREATE TABLE IF NOT EXISTS in_s (a int)",
            "SELECT 's.in_s'::regclass",
            "SHOW work_mem",
            "SHOW my.own",
            "SHOW DateStyle",
            "SHOW extra_float_digits",
            "SHOW transaction_isolation",
            "SET search_path = t",
            "SET work_mem = '5MB'",
            "SHOW search_path",
            "RESET search_path",
            "SHOW search_path",
            "RESET ALL",
            "SHOW work_mem",
            "SET work_mem = '6MB'",
            "DISCARD ALL",
            "SHOW work_mem",
            "SHOW search_path",
            "DROP TABLE in_s",
        ],
    );
}

/// Npgsql resets a pooled connection by such a text, and sends the next statement right behind it.
#[test]
fn what_is_sent_behind_a_reset_has_the_settings_of_the_startup_again() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE SCHEMA s; CREATE TABLE s.t (a int); GRANT ALL ON SCHEMA s TO PUBLIC");
    let mut wire = Wire::connect(shared().port());
    wire.startup(&[
        ("user", APP_USER),
        ("database", &database),
        ("search_path", "s"),
        ("work_mem", "1234kB"),
    ]);
    wire.authenticate(APP_USER, APP_PASSWORD);
    for reset in [
        "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL",
        "RESET search_path",
        "SET search_path TO DEFAULT",
    ] {
        let next = Pipeline::new().query(reset).parse("", "SHOW search_path").run("", &[]);
        wire.send_pipeline(next);
        wire.until('Z');
        assert_eq!(first_value(&wire.until('Z')).as_deref(), Some("s"), "{reset}");
    }
    assert_eq!(wire.query_value("SHOW work_mem"), "1234kB");
}

#[test]
fn a_startup_parameter_that_postgresql_refuses_is_refused() {
    let database = Cluster::shared().database();
    for (name, value) in [("no_such_parameter", "1"), ("work_mem", "rubbish"), ("client_encoding", "no such")]
    {
        let refused = [Cluster::shared().primary().port(), shared().port()].map(|port| {
            let mut wire = Wire::connect(port);
            wire.startup(&[("user", APP_USER), ("database", &database), (name, value)]);
            let error = wire.authenticate(APP_USER, APP_PASSWORD);
            (error.field('S'), error.sqlstate(), error.text())
        });
        assert_eq!(refused[1], refused[0], "komainu on the left");
    }
}

#[test]
fn a_role_is_not_seen_by_another_client() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, &format!("CREATE ROLE {database}_role; GRANT {database}_role TO app"));
    let komainu = komainu_of_one();
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query(&format!("SET ROLE {database}_role"));
    assert_eq!(a.query_value("SELECT current_user"), format!("{database}_role"));
    assert_eq!(b.query_value("SELECT current_user"), APP_USER);
    assert_eq!(a.query_value("SELECT current_user"), format!("{database}_role"));
    a.query("BEGIN");
    a.query("RESET ROLE");
    a.query("ROLLBACK");
    assert_eq!(b.query_value("SELECT session_user || current_user"), APP_USER.repeat(2));
    assert_eq!(a.query_value("SELECT current_user"), format!("{database}_role"));
    a.query("RESET ROLE");
    assert_eq!(a.query_value("SELECT current_user"), APP_USER);

    let mut superuser = komainu.wire();
    superuser.login("postgres", cluster.primary().password(), &database);
    let mut other = komainu.wire();
    other.login("postgres", cluster.primary().password(), &database);
    superuser.query(&format!("SET SESSION AUTHORIZATION {APP_USER}"));
    assert_eq!(superuser.query_value("SELECT session_user || current_user"), APP_USER.repeat(2));
    assert_eq!(other.query_value("SELECT session_user"), "postgres");
    assert_eq!(superuser.query_value("SELECT session_user || current_user"), APP_USER.repeat(2));
    superuser.query("RESET SESSION AUTHORIZATION");
    assert_eq!(superuser.query_value("SELECT session_user"), "postgres");
}

#[test]
fn a_role_that_is_gone_is_an_error_and_not_asked_for_without_end() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = komainu_of_one();
    let role = format!("gone_{database}");
    cluster.prepare("postgres", &format!("CREATE ROLE {role}; GRANT {role} TO {APP_USER}"));
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query(&format!("SET ROLE {role}"));
    assert_eq!(b.query_value("SELECT current_user"), APP_USER);
    cluster.prepare("postgres", &format!("DROP ROLE {role}"));
    assert_eq!(a.query("SELECT 1")[0].sqlstate(), "22023");
    assert_eq!(b.query_value("SELECT 1"), "1");
}

#[test]
fn what_a_function_sets_in_secret_reaches_nobody_else() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query(
        "CREATE FUNCTION secretly(v text) RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('my.own', v, false); SET work_mem = '3MB'; END $$",
    );
    a.query("CREATE PROCEDURE openly() LANGUAGE plpgsql AS $$ BEGIN SET work_mem = '5MB'; END $$");
    let clean = b.query_value("SHOW work_mem");
    for sql in [
        "DO $$ BEGIN SET work_mem = '2MB'; PERFORM set_config('my.own', 'a', false); END $$",
        "SELECT secretly('a')",
        "CALL openly()",
        "BEGIN; DO $$ BEGIN SET work_mem = '2MB'; END $$; COMMIT",
        "DO $$ BEGIN PERFORM pg_advisory_lock(4711); EXECUTE 'CREATE TEMP TABLE hidden (x int)'; END $$",
        "DO $$ BEGIN EXECUTE 'LISTEN hidden'; EXECUTE 'PREPARE hidden AS SELECT 1'; END $$",
    ] {
        assert!(!tags(&a.query(sql)).contains('E'), "{sql}");
        assert_eq!(b.query_value("SHOW work_mem"), clean, "{sql}");
        let left = "SELECT coalesce(current_setting('my.own', true), ''), to_regclass('hidden')::text, \
                    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711)::text, \
                    (SELECT count(*) FROM pg_listening_channels())::text, \
                    (SELECT count(*) FROM pg_prepared_statements WHERE name = 'hidden')::text";
        let row = b.query(left).into_iter().find(|m| m.tag == 'D').unwrap().columns();
        let row: Vec<_> = row.into_iter().map(|column| column.unwrap_or_default()).collect();
        assert_eq!(row, ["", "", "0", "0", "0"], "{sql}");
    }
}

#[test]
fn what_is_set_in_a_roundabout_way_reaches_nobody_else() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    let see = "SELECT current_setting('search_path') || coalesce(current_setting('my.own', true), '')";
    let clean = b.query_value(see);
    let function = "CREATE OR REPLACE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    for sql in [
        "SELECT set_config('search_path', 'evil', false) FROM (SELECT 1 AS \"a\n\") AS f",
        "EXPLAIN (\"analyze\") SELECT set_config('search_path', 'evil', false)",
        "UPDATE \"pg_settings\" SET setting = 'evil' WHERE name = 'search_path'",
        "UPDATE pg_catalog.U&\"pg_settings\" SET setting = 'evil' WHERE name = 'search_path'",
        "SELECT set_config('my.' || 'own', 'evil', false)",
        "SELECT set_config('my.'\n'own', 'evil', false)",
        "SELECT \"pg_catalog\".\"set_config\"('my.own', 'evil', false)",
        &format!("{function}; SET search_path = evil; SELECT 1 AS end"),
    ] {
        let messages = a.query(sql);
        assert!(!tags(&messages).contains('E'), "{sql}: {}", transcript(&messages));
        assert_eq!(b.query_value(see), clean, "{sql}");
        a.query("DISCARD ALL");
    }
}

#[test]
fn what_views_triggers_and_defaults_leave_reaches_nobody_else() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    for sql in [
        "CREATE TABLE jobs (id int); INSERT INTO jobs VALUES (7)",
        "CREATE VIEW next_job AS SELECT id FROM jobs WHERE pg_try_advisory_lock(id)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('my.own', 'a', false); RETURN NEW; END $$",
        "CREATE TABLE noted (n int)",
        "CREATE TRIGGER note BEFORE INSERT ON noted FOR EACH ROW EXECUTE FUNCTION note()",
        "CREATE TABLE setting (n int, x text DEFAULT set_config('search_path', 'evil', false))",
    ] {
        assert!(!tags(&a.query(sql)).contains('E'), "{sql}");
    }
    let see = "SELECT current_setting('search_path') || coalesce(current_setting('my.own', true), '')";
    let clean = b.query_value(see);
    eventually(PATIENCE, "the catalog is known", || {
        a.query("SELECT id FROM next_job");
        tags(&a.query("SHOW komainu.pins")).contains('D')
    });
    assert_eq!(a.query_value("SHOW komainu.pins"), "advisory_lock");
    assert_eq!(b.query("SELECT 1")[0].sqlstate(), "53300", "it is locked for one client alone");
    a.query("SELECT pg_advisory_unlock_all()");
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    assert_eq!(b.query_value(locks), "0");
    for sql in ["INSERT INTO noted VALUES (1)", "INSERT INTO setting VALUES (1)"] {
        assert!(!tags(&a.query(sql)).contains('E'), "{sql}");
        assert_eq!(b.query_value(see), clean, "{sql}");
    }
}

/// PostgreSQL keeps the portal whose name a later Bind could not have.
#[test]
fn a_portal_is_what_it_was_before_a_bind_that_failed() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    b.query("SELECT set_config('my.own', '', false)");
    a.query("BEGIN");
    let set =
        Pipeline::new().parse("set", "SELECT set_config('my.own', 'a', false)").parse("one", "SELECT 1");
    assert_eq!(tags(&a.pipeline(set.bind("p", "set", &[]).sync())), "112Z");
    a.query("SAVEPOINT s");
    assert_eq!(a.pipeline(Pipeline::new().bind("p", "one", &[]).sync())[0].sqlstate(), "42P03");
    a.query("ROLLBACK TO s");
    assert_eq!(first_value(&a.pipeline(Pipeline::new().execute("p", 0).sync())).as_deref(), Some("a"));
    a.query("COMMIT");
    assert_eq!(b.query_value("SHOW my.own"), "");
    assert_eq!(a.query_value("SHOW my.own"), "a");
}

fn pinned(komainu: &Komainu, reason: &str) -> f64 {
    komainu.metric(&format!("komainu_sessions_pinned{{reason=\"{reason}\"}}")).unwrap()
}

/// Does what pins, sees that it does, undoes it, sees that another client gets the connection again.
#[track_caller]
fn pins_and_unpins(reason: &str, pin: &[&str], still_there: (&str, &str), unpin: &[&str]) {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(
        Cluster::shared(),
        "[split]\nenabled = false\n[pool]\nsize = 1\nacquire_timeout_ms = 1000\n",
    );
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    for sql in pin {
        let messages = a.query(sql);
        assert!(!tags(&messages).contains('E'), "{sql}: {}", transcript(&messages));
    }
    assert_eq!(a.query_value("SHOW komainu.pins"), reason);
    assert_eq!(pinned(&komainu, reason), 1.0);
    assert_eq!(b.query("SELECT 1")[0].sqlstate(), "53300", "{reason}: another client got the connection");
    assert_eq!(a.query_value(still_there.0), still_there.1);
    for sql in unpin {
        a.query(sql);
    }
    eventually(PATIENCE, &format!("{reason}: the connection is free"), || {
        first_value(&b.query("SELECT 1")).as_deref() == Some("1")
    });
    assert!(!tags(&a.query("SHOW komainu.pins")).contains('D'));
    assert_eq!(pinned(&komainu, reason), 0.0);
    assert!(komainu.metric(&format!("komainu_pins_total{{reason=\"{reason}\"}}")).unwrap() >= 1.0);
}

#[test]
fn a_temporary_table_pins_until_it_is_dropped() {
    pins_and_unpins(
        "temporary_object",
        &["CREATE TEMP TABLE mine (n int)", "INSERT INTO mine VALUES (42)"],
        ("SELECT n FROM mine", "42"),
        &["DROP TABLE mine"],
    );
    pins_and_unpins(
        "temporary_object",
        &["SELECT 42 AS n INTO TEMP mine"],
        ("SELECT n FROM mine", "42"),
        &["DISCARD TEMP"],
    );
}

#[test]
fn a_temporary_function_pins_until_it_is_dropped() {
    pins_and_unpins(
        "temporary_object",
        &["CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 7'"],
        ("SELECT pg_temp.f()", "7"),
        &["DROP FUNCTION pg_temp.f()"],
    );
}

#[test]
fn a_temporary_table_of_one_transaction_does_not_stay_pinned() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query("BEGIN");
    a.query("CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT 42 AS n");
    assert_eq!(a.query_value("SHOW komainu.pins"), "temporary_object");
    assert_eq!(a.query_value("SELECT n FROM mine"), "42");
    a.query("COMMIT");
    assert_eq!(b.query_value("SELECT 1"), "1");
    a.query("BEGIN");
    a.query("CREATE TEMP TABLE mine (n int)");
    a.query("ROLLBACK");
    assert_eq!(b.query_value("SELECT 1"), "1");
}

#[test]
fn an_advisory_lock_pins_until_it_is_unlocked() {
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 815";
    pins_and_unpins(
        "advisory_lock",
        &["SELECT pg_advisory_lock(815)"],
        (held, "1"),
        &["SELECT pg_advisory_unlock(815)"],
    );
    pins_and_unpins(
        "advisory_lock",
        &["SELECT pg_try_advisory_lock_shared(815), pg_advisory_lock(815)"],
        (held, "2"),
        &["SELECT pg_advisory_unlock_all()"],
    );
}

/// As with PostgreSQL itself: nobody has to come for the connection first.
#[test]
fn what_a_client_has_locked_is_free_once_it_has_left() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "pool.size = 2\nsplit.enabled = false");
    for (lock, last) in
        [("SELECT pg_advisory_lock(816)", "SELECT 1"), ("SELECT pg_advisory_lock(816)", "BEGIN; SELECT 1/0")]
    {
        let (mut holder, mut waiter) = (komainu.login(&database), komainu.login(&database));
        holder.query(lock);
        holder.query(last);
        waiter.send_pipeline(Pipeline::new().query(lock));
        let waits =
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 816 AND NOT granted";
        eventually(PATIENCE, "the other waits for it", || {
            Cluster::shared().primary().psql("postgres", waits).unwrap() == "1"
        });
        drop(holder);
        assert_eq!(tags(&waiter.until('Z')), "TDCZ", "{last}");
    }
}

/// PostgreSQL takes no other value for it once a connection has had a temporary table, and no wiping helps.
#[test]
fn temp_buffers_need_a_connection_that_never_had_a_temporary_table() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    for _ in 0..2 {
        wire.query("SET temp_buffers = '64MB'");
        wire.query("SELECT 1");
        other.query("CREATE TEMP TABLE x AS SELECT 1");
        other.query("DROP TABLE x");
        assert_eq!(wire.query_value("SHOW temp_buffers"), "64MB");
        wire.query("CREATE TEMP TABLE x AS SELECT 1");
        wire.query("DROP TABLE x");
        assert_eq!(other.query_value("SHOW temp_buffers"), "8MB");
        wire.query("RESET temp_buffers");
    }
}

#[test]
fn a_cursor_with_hold_pins_until_it_is_closed() {
    pins_and_unpins(
        "hold_cursor",
        &["BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 9)", "COMMIT", "FETCH 1 FROM c"],
        ("FETCH 1 FROM c", "2"),
        &["CLOSE c"],
    );
}

#[test]
fn listening_pins_until_nothing_is_listened_to() {
    let listening = "SELECT string_agg(c, ',' ORDER BY c) FROM pg_listening_channels() AS c";
    pins_and_unpins(
        "listen",
        &["LISTEN one", "LISTEN two"],
        (listening, "one,two"),
        &["UNLISTEN one", "UNLISTEN two"],
    );
    pins_and_unpins("listen", &["LISTEN one"], (listening, "one"), &["UNLISTEN *"]);
    pins_and_unpins("listen", &["LISTEN one"], (listening, "one"), &["DISCARD ALL"]);
}

#[test]
fn notifications_reach_an_idle_listener_and_nobody_else() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "[pool]\nsize = 3\n");
    let (mut listener, mut other, mut sender) =
        (komainu.login(&database), komainu.login(&database), komainu.login(&database));
    listener.query("LISTEN news");
    other.query("LISTEN weather");
    sender.query("NOTIFY news, 'first'");
    let first = listener.expect('A');
    assert_eq!(first.body[4..], *b"news\0first\0");
    sender.query("BEGIN; SELECT pg_notify('news', 'second'); NOTIFY weather, 'rain'; COMMIT");
    assert_eq!(listener.expect('A').body[4..], *b"news\0second\0");
    assert_eq!(other.expect('A').body[4..], *b"weather\0rain\0");
    listener.query("UNLISTEN *");
    sender.query("NOTIFY news, 'unheard'");
    listener.expect_silence(Duration::from_millis(200));
    assert_eq!(tags(&listener.query("SELECT 1")), "TDCZ");
}

#[test]
fn sequence_values_are_the_clients_own_or_none() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    a.query("CREATE TABLE t (id serial, v int); CREATE SEQUENCE other");
    a.query("INSERT INTO t (v) VALUES (1), (2)");
    let not_yet = "55000";
    let refusal = |messages: &[Message]| messages.iter().map(Message::sqlstate).collect::<String>();
    for sql in ["SELECT lastval()", "SELECT currval('t_id_seq')", "BEGIN; SELECT lastval()"] {
        assert_eq!(refusal(&b.query(sql)), not_yet, "{sql}");
        b.query("ROLLBACK");
    }
    // In a transaction, asked for only later on.
    b.query("BEGIN");
    assert_eq!(refusal(&b.query("SELECT currval('t_id_seq')")), not_yet);
    b.query("ROLLBACK");
    b.query("BEGIN");
    let asked = b.pipeline(Pipeline::new().parse("", "SELECT lastval()").run("", &[]));
    assert_eq!(refusal(&asked), not_yet, "{}", transcript(&asked));
    b.query("ROLLBACK");
    b.send_message('X', b"");
    b.expect_end();
    // Its own ones it gets.
    a.query("BEGIN");
    a.query("INSERT INTO t (v) VALUES (3)");
    assert_eq!(a.query_value("SELECT currval('t_id_seq')"), "3");
    assert_eq!(a.query_value("SELECT lastval()"), "3");
    a.query("COMMIT");
    assert_eq!(a.query_value("SHOW komainu.pins"), "sequence_state");
    assert_eq!(a.query_value("SELECT currval('t_id_seq')"), "3");
    // Also where another client has drawn some before, and is there still.
    drop(a);
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    b.query("INSERT INTO t (v) VALUES (4)");
    a.query("BEGIN");
    a.query("INSERT INTO t (v) VALUES (5)");
    assert_eq!(a.query_value("SELECT lastval()"), "5");
    a.query("COMMIT");
    assert_eq!(a.query_value("SELECT lastval()"), "5");
}

/// The second draws a value of a sequence in another session, on the same server connection.
type Talk = fn(&mut Wire, &mut dyn FnMut()) -> Vec<Message>;

/// That another client's value is wiped is nobody's business: it neither takes an error nor a portal from the client.
#[test]
fn sequence_values_of_others_are_wiped_unseen() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = komainu_of_one();
    let mut other = komainu.login(&database);
    other.query("CREATE TABLE t (id serial)");
    let talks: [Talk; 3] = [
        // By then the transaction has failed.
        |wire, draw| {
            let mut all = wire.pipeline(Pipeline::new().parse("s", "SELECT lastval()").sync());
            draw();
            wire.send_pipeline(Pipeline::new().query("BEGIN").query("SELECT 1/0").run("s", &[]));
            (0..3).for_each(|_| all.extend(wire.until('Z')));
            all.extend(wire.query("ROLLBACK"));
            all.extend(wire.pipeline(Pipeline::new().run("s", &[])));
            all
        },
        |wire, draw| {
            draw();
            wire.send_pipeline(Pipeline::new().query("BEGIN").query("SELECT 1/0").query("SELECT lastval()"));
            let mut all = Vec::new();
            (0..3).for_each(|_| all.extend(wire.until('Z')));
            all.extend(wire.query("ROLLBACK"));
            all.extend(wire.query("SELECT lastval()"));
            all
        },
        // The unnamed portal is bound when the other is.
        |wire, draw| {
            let statements = Pipeline::new().parse("x", "SELECT 'x'").parse("s", "SELECT lastval()");
            let mut all = wire.pipeline(statements.sync());
            draw();
            let bound = Pipeline::new().bind("", "x", &[]).bind("p", "s", &[]);
            all.extend(wire.pipeline(bound.execute("", 0).execute("p", 0).sync()));
            all
        },
    ];
    for talk in talks {
        let mut direct = Wire::connect(cluster.primary().port());
        direct.login(APP_USER, APP_PASSWORD, &database);
        let expected = transcript(&talk(&mut direct, &mut || ()));
        let mut wire = komainu.login(&database);
        let told = transcript(&talk(&mut wire, &mut || drop(other.query("INSERT INTO t DEFAULT VALUES"))));
        assert_same(&told, &expected);
        wire.send_message('X', b"");
        wire.expect_end();
    }
}

#[test]
fn nothing_of_a_client_that_left_stays_on_the_connection() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, &format!("CREATE ROLE {database}_role; GRANT {database}_role TO app"));
    let komainu = komainu_of_one();
    let look = "SELECT string_agg(left_over, ',') FROM (\
                SELECT 'setting ' || name AS left_over FROM pg_settings WHERE source = 'session' AND name <> 'application_name' UNION ALL \
                SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() UNION ALL \
                SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable UNION ALL \
                SELECT 'channel ' || c FROM pg_listening_channels() AS c UNION ALL \
                SELECT 'table ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() UNION ALL \
                SELECT 'statement ' || name FROM pg_prepared_statements WHERE name LIKE 'mine%' UNION ALL \
                SELECT 'role ' || current_user WHERE current_user <> 'app' UNION ALL \
                SELECT 'transaction' WHERE txid_current_if_assigned() IS NOT NULL) AS all_of_it";
    let leave: [fn(Wire); 3] = [
        |mut wire| {
            wire.send_message('X', b"");
            wire.expect_end();
        },
        |wire| wire.reset(),
        |mut wire| {
            wire.half_close();
            wire.expect_end();
        },
    ];
    let mut pids = Vec::new();
    for leave in leave {
        let mut wire = komainu.login(&database);
        for sql in [
            "SET work_mem = '2MB'",
            "SELECT set_config('my.own', 'x', false)",
            "CREATE TEMP TABLE mine (n int)",
            "SELECT pg_advisory_lock(1)",
            "LISTEN mine",
            "PREPARE mine AS SELECT 1; SELECT 1",
            "BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 1; COMMIT",
            &format!("SET ROLE {database}_role"),
            "BEGIN; SELECT txid_current()",
        ] {
            let messages = wire.query(sql);
            assert!(!tags(&messages).contains('E'), "{sql}: {}", transcript(&messages));
        }
        leave(wire);
        let mut next = komainu.login(&database);
        let row = next.query(look).into_iter().find(|m| m.tag == 'D').unwrap().columns();
        assert_eq!(row[0], None);
        pids.push(next.query_value("SELECT pg_backend_pid()"));
    }
    pids.dedup();
    assert_eq!(pids.len(), 1, "the connection is cleaned rather than closed: {pids:?}");
}

#[test]
fn a_set_whose_client_leaves_at_once_is_not_left_behind() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let clean = komainu.login(&database).query_value("SHOW work_mem");
    for _ in 0..10 {
        let mut wire = komainu.login(&database);
        wire.encode(|buffer| {
            postgres_protocol::message::frontend::query("SET work_mem = '2MB'", buffer)?;
            postgres_protocol::message::frontend::query("SET my.own = 'left'", buffer)
        });
        wire.reset();
        let mut next = komainu.login(&database);
        assert_eq!(next.query_value("SHOW work_mem"), clean);
        assert_eq!(next.query_value("SELECT coalesce(current_setting('my.own', true), '')"), "");
    }
}

#[test]
fn settings_made_by_prepared_statements_are_the_clients_own() {
    let database = Cluster::shared().database();
    let komainu = komainu_of_one();
    let (mut a, mut b) = (komainu.login(&database), komainu.login(&database));
    let clean = b.query_value("SHOW work_mem");
    a.query("PREPARE p AS SELECT set_config('work_mem', '2MB', false), set_config('my.own', 'a', false)");
    a.pipeline(Pipeline::new().parse("q", "SELECT set_config('my.other', $1, false)").sync());
    // Here the name is nowhere to be seen.
    a.pipeline(Pipeline::new().parse("r", "SELECT set_config($1, $2, false)").sync());
    a.query("EXECUTE p");
    a.run_prepared("q", &["b"]);
    assert_eq!(
        a.query_value(
            "SELECT current_setting('work_mem') || current_setting('my.own') || current_setting('my.other')"
        ),
        "2MBab"
    );
    let mine = "SELECT current_setting('work_mem') || coalesce(current_setting('my.own', true), '') || \
                coalesce(current_setting('my.other', true), '') || coalesce(current_setting('my.third', true), '')";
    assert_eq!(b.query_value(mine), clean);
    assert_eq!(a.query_value(mine), "2MBab");
    a.run_prepared("r", &["my.third", "c"]);
    assert_eq!(b.query_value(mine), clean);
}

/// Two clients of a role whose name is not ASCII share one server connection, in two encodings.
#[test]
fn what_is_not_ascii_is_itself_in_any_encoding() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare("postgres", "CREATE ROLE \"bär\" LOGIN PASSWORD 'geheim'");
    let komainu = Komainu::builder(cluster)
        .config("pool.size = 1\nsplit.enabled = false")
        .user("bär", "geheim")
        .start();
    let login = |encoding: &str| {
        let mut wire = komainu.wire();
        wire.startup(&[("user", "bär"), ("database", &database), ("client_encoding", encoding)]);
        assert_eq!(wire.authenticate("bär", "geheim").tag, 'Z');
        wire
    };
    let value = |wire: &mut Wire, sql: &[u8]| {
        wire.send_message('Q', &[sql, b"\0"].concat());
        let messages = wire.until('Z');
        let row = messages.iter().find(|m| m.tag == 'D').unwrap_or_else(|| panic!("{messages:?}"));
        row.body[6..].to_vec()
    };
    let (mut latin, mut utf8) = (login("LATIN1"), login("UTF8"));
    latin.query("SET work_mem = '1234kB'");
    for _ in 0..2 {
        assert_eq!(value(&mut latin, b"SELECT current_user || length('\xe9') || '\xe9'"), b"b\xe4r1\xe9");
        assert_eq!(
            value(&mut utf8, "SELECT current_user || length('é') || 'é'".as_bytes()),
            "bär1é".as_bytes()
        );
        assert_eq!(value(&mut latin, b"SHOW work_mem"), b"1234kB");
    }
    utf8.query("SET search_path = \"schéma\"");
    assert_eq!(value(&mut latin, b"SHOW work_mem"), b"1234kB");
    assert_eq!(value(&mut utf8, b"SHOW search_path"), "\"schéma\"".as_bytes());
    utf8.query("SET app.tenant = 'Zoë'");
    assert_eq!(value(&mut latin, b"SHOW work_mem"), b"1234kB");
    assert_eq!(value(&mut utf8, b"SHOW app.tenant"), "Zoë".as_bytes());
    // In UTF8 only can such a value be given to another server connection; the client is told.
    latin.send_message('Q', b"SET search_path = 'sch\xe9ma'\0");
    let end = latin.expect_end();
    let last = end.last().unwrap();
    assert_eq!((last.tag, last.sqlstate()), ('E', "57P01".to_owned()), "{end:?}");
    assert!(last.text().contains("set it in UTF8"), "{}", last.text());
    assert_eq!(value(&mut utf8, b"SHOW search_path"), "\"schéma\"".as_bytes());
}
