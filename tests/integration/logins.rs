//! Logins while there is no server connection to be had: those that a server has confirmed just now need none, the others
//! wait, for as long as their client does.

use std::time::Duration;

use komainu::sandbox::process;
use rustix::process::Signal;

use super::support::*;

/// Nobody is asked for a password, so that it is the login that waits as soon as the client has begun.
const TRUSTED: &str = "host all all 127.0.0.1/32 trust\n";
/// Longer than any test waits: what ends before has not ended by it.
const FOR_EVER: &str = "[limits]\nhold_timeout_ms = 600000\n[pool]\nacquire_timeout_ms = 600000\n";

fn begin(komainu: &Komainu, database: &str, time_zone: &str) -> Wire {
    let mut wire = komainu.wire();
    wire.startup(&[("user", APP_USER), ("database", database), ("TimeZone", time_zone)]);
    wire
}

/// As JDBC begins.
fn log_in_as_a_driver(komainu: &Komainu, database: &str, time_zone: &str) -> Message {
    let mut wire = komainu.wire();
    wire.startup(&[
        ("user", APP_USER),
        ("database", database),
        ("TimeZone", time_zone),
        ("extra_float_digits", "2"),
    ]);
    let last = wire.authenticate(APP_USER, APP_PASSWORD);
    if last.tag == 'Z' {
        assert!(
            wire.parameters.contains(&("TimeZone".to_owned(), time_zone.to_owned())),
            "{:?}",
            wire.parameters
        );
    }
    last
}

#[test]
fn a_login_with_settings_known_from_the_last_one_needs_no_server_connection() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu =
        Komainu::start_with(cluster, "split.enabled = false\npool.size = 1\npool.acquire_timeout_ms = 5000");
    let mut holder = komainu.login(&database);
    // A server's word is believed for ten seconds, which a busy machine may miss once.
    let served = (0..5).any(|_| {
        let all_log_in = |zones: &[&str]| {
            zones.iter().all(|zone| log_in_as_a_driver(&komainu, &database, zone).tag == 'Z')
        };
        let all = all_log_in(&["Asia/Tokyo", "Europe/Berlin"]);
        holder.query("BEGIN");
        let all = all && all_log_in(&["Asia/Tokyo", "Europe/Berlin", "Asia/Tokyo"]);
        // Others among them change nothing about that.
        let all = all && {
            let mut other = komainu.wire();
            other.startup(&[("user", APP_USER), ("database", &database)]);
            other.authenticate(APP_USER, APP_PASSWORD).tag == 'Z'
        };
        let all = all && all_log_in(&["Asia/Tokyo"]);
        holder.query("ROLLBACK");
        all
    });
    assert!(served);
    // One that asks for something else must wait, and is told for what.
    holder.query("BEGIN");
    let refused = log_in_as_a_driver(&komainu, &database, "America/Lima");
    assert_eq!((refused.tag, refused.sqlstate()), ('E', "53300".to_owned()), "{}", refused.text());
    assert!(refused.text().contains("no server connection became free for the login"), "{}", refused.text());
    holder.query("ROLLBACK");
    assert_eq!(log_in_as_a_driver(&komainu, &database, "America/Lima").tag, 'Z');
    // What a server refuses is refused each time.
    for _ in 0..2 {
        let refused = log_in_as_a_driver(&komainu, &database, "Not/There");
        assert_eq!((refused.tag, refused.sqlstate()), ('E', "22023".to_owned()), "{}", refused.text());
    }
}

#[test]
fn of_databases_that_do_not_exist_nothing_stays() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "split.enabled = false");
    let mut wire = komainu.login(&database);
    for n in 0..50 {
        let mut lost = komainu.wire();
        lost.startup(&[("user", APP_USER), ("database", &format!("nowhere_{n}"))]);
        assert_eq!(lost.authenticate(APP_USER, APP_PASSWORD).sqlstate(), "3D000");
    }
    let mut pools = || {
        let shown = wire.query("SHOW POOL_POOLS");
        let rows = shown.iter().filter(|message| message.tag == 'D');
        rows.map(|row| row.columns()[1].clone().unwrap()).collect::<Vec<_>>()
    };
    eventually(PATIENCE, "only the one that is used is left", || pools() == [database.as_str()]);
}

#[test]
fn who_leaves_while_its_login_waits_for_a_primary_takes_no_place_any_more() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    let komainu = Komainu::builder(&cluster)
        .hba(TRUSTED)
        .config(FOR_EVER)
        .config("limits.max_held_clients = 5\nlimits.max_client_connections = 6")
        .config("health.timeout_ms = 500\nhealth.retries = 2")
        .start();
    let held = || komainu.metric("komainu_clients_held").unwrap();
    let mut living = komainu.login(&database);
    living.query("SELECT 1");
    cluster.primary().kill();
    eventually(PATIENCE, "its loss is seen", || {
        komainu.metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
    });
    for round in 0..4 {
        let mut waiting: Vec<_> = (0..5).map(|_| begin(&komainu, &database, "UTC")).collect();
        eventually(PATIENCE, "all wait", || held() == 5.0);
        // What is sent ahead hides no end.
        waiting[0].send_message('Q', b"SELECT 1\0");
        waiting[1].send_message('X', b"");
        if round % 2 == 0 {
            waiting.drain(2..).for_each(Wire::reset);
        }
        drop(waiting);
        eventually(PATIENCE, "nobody waits", || held() == 0.0);
        eventually(PATIENCE, "their places are free", || {
            komainu.metric("komainu_client_connections") == Some(1.0)
        });
    }
    living.send_message('Q', b"SELECT 'on'\0");
    let mut newcomer = begin(&komainu, &database, "UTC");
    newcomer.send_message('Q', b"SELECT 'ahead'\0");
    eventually(PATIENCE, "those that are there wait", || held() == 2.0);
    cluster.primary().start().unwrap();
    assert_eq!(tags(&living.until('Z')), "TDCZ");
    assert_eq!(newcomer.authenticate(APP_USER, APP_PASSWORD).tag, 'Z');
    assert_eq!(newcomer.until('Z')[1].columns(), [Some("ahead".to_owned())]);
    let failed = komainu.metric("komainu_logins_failed_total{reason=\"server\"}");
    assert_eq!(failed, Some(0.0), "who left was not refused");
}

#[test]
fn who_leaves_while_its_login_waits_for_a_connection_costs_none() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    let komainu = Komainu::builder(&cluster).hba(TRUSTED).config(FOR_EVER).config("pool.size = 1").start();
    let waiters = || komainu.metric("komainu_pool_waiters").unwrap();
    let mut holder = komainu.login(&database);
    holder.query("BEGIN");
    let waiting = ["Asia/Tokyo", "America/Lima"].map(|zone| begin(&komainu, &database, zone));
    eventually(PATIENCE, "both wait", || waiters() == 2.0);
    drop(waiting);
    eventually(PATIENCE, "nobody waits", || waiters() == 0.0);
    holder.query("ROLLBACK");
    let connections = |state: &str| {
        komainu.metric(&format!("komainu_server_connections{{server=\"pg1\",state=\"{state}\"}}"))
    };
    eventually(PATIENCE, "the connection is back", || connections("idle") == Some(1.0));

    // A server that has been asked and does not answer.
    let backend =
        format!("SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND usename = '{APP_USER}'");
    let pid = cluster.primary().psql("postgres", &backend).unwrap().parse().unwrap();
    process::signal(pid, Signal::STOP);
    let asking = begin(&komainu, &database, "Asia/Tokyo");
    eventually(PATIENCE, "the server is asked", || connections("active") == Some(1.0));
    drop(asking);
    // Its connection is closed, and another one takes its place.
    assert_eq!(log_in_as_a_driver(&komainu, &database, "America/Lima").tag, 'Z');
    process::signal(pid, Signal::CONT);
    eventually(PATIENCE, "it is gone", || {
        cluster.primary().psql("postgres", &backend).unwrap() != pid.to_string()
    });
}

/// The failover of a cluster whose users are kept on the servers alone.
#[test]
fn a_login_whose_user_must_be_looked_up_waits_for_the_next_primary() {
    let cluster = Cluster::start(1);
    cluster.primary().psql("postgres", "CREATE ROLE kept_there LOGIN PASSWORD 'it is kept'").unwrap();
    cluster.servers().wait_for_replay().unwrap();
    let start = |config: &str| {
        Komainu::builder(&cluster)
            .config("[auth.query]\nuser = \"postgres\"\ncache_ms = 0\n")
            .config("health.timeout_ms = 500\nhealth.retries = 2")
            .config(config)
            .start()
    };
    let patient = start("limits.hold_timeout_ms = 600000\nlimits.startup_timeout_ms = 1500");
    let hurried = start("limits.hold_timeout_ms = 700");
    let held = || patient.metric("komainu_clients_held").unwrap();
    let begin = |komainu: &Komainu| {
        let mut wire = komainu.wire();
        wire.startup(&[("user", "kept_there"), ("database", "postgres")]);
        wire
    };
    assert_eq!(begin(&patient).authenticate("kept_there", "it is kept").tag, 'Z');
    cluster.primary().kill();
    for komainu in [&patient, &hurried] {
        eventually(PATIENCE, "its loss is seen", || {
            komainu.metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
        });
    }
    let refused = begin(&hurried).authenticate("kept_there", "it is kept");
    assert_eq!((refused.tag, refused.sqlstate()), ('E', "57P03".to_owned()), "{}", refused.text());
    assert!(
        refused.text().ends_with("the login within 700 ms: the primary does not answer"),
        "{}",
        refused.text()
    );

    let leaving = begin(&patient);
    let mut staying = begin(&patient);
    eventually(PATIENCE, "both wait", || held() == 2.0);
    let sessions = patient.admin("/sessions").unwrap().body;
    assert!(sessions.contains("kept_there"), "{sessions}");
    drop(leaving);
    eventually(PATIENCE, "one has left", || held() == 1.0);
    // Longer than a client may take to log in.
    staying.expect_silence(Duration::from_secs(2));
    cluster.standby(0).promote().unwrap();
    let last = staying.authenticate("kept_there", "it is kept");
    assert_eq!(last.tag, 'Z', "{}", last.text());
    assert_eq!(staying.query_value("SELECT current_user"), "kept_there");
    assert_eq!(held(), 0.0);
}
