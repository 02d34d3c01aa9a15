//! SIGHUP: what changes while komainu serves, and what says that it waits for a restart.

use komainu::sandbox::Postgres;

use super::routing::{route, run, standbys_read, wait_for_catalog, went_to};
use super::support::{
    APP_PASSWORD, APP_USER, Certificates, Cluster, Komainu, PATIENCE, Pipeline, Wire, eventually,
    first_value, tags,
};
use super::tls::speak_tls;

#[test]
fn open_pools_take_up_new_time_limits() {
    let cluster = Cluster::shared();
    let (first, second) = (cluster.database(), cluster.database());
    let komainu = Komainu::start_with(
        cluster,
        "split.enabled = false\n[pool]\nidle_timeout_ms = 600000\nlifetime_ms = 600000\n",
    );
    let backends = |database: &str| {
        let count = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND usename = '{APP_USER}'"
        );
        cluster.primary().psql("postgres", &count).unwrap()
    };
    for (database, key) in [(&first, "idle_timeout_ms"), (&second, "lifetime_ms")] {
        let mut wire = komainu.login(database);
        assert_eq!(wire.query_value("SELECT 1"), "1");
        assert_eq!(backends(database), "1");
        komainu.reload("komainu.toml", &format!("{key} = 600000\n"), &format!("{key} = 1\n"));
        eventually(PATIENCE, &format!("{key} closes the connection"), || backends(database) == "0");
        assert_eq!(wire.query_value("SELECT 2"), "2", "the session has lost nothing");
        komainu.reload("komainu.toml", &format!("{key} = 1\n"), &format!("{key} = 600000\n"));
    }
}

#[test]
fn what_is_open_above_a_lowered_limit_is_closed() {
    let cluster = Cluster::shared();
    let databases = [cluster.database(), cluster.database(), cluster.database()];
    let config = "split.enabled = false\n[pool]\nsize = 2\nmax_server_connections = 6\n";
    let komainu = Komainu::start_with(cluster, config);
    let open = || {
        let count = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('{}') AND usename = '{APP_USER}'",
            databases.join("', '")
        );
        cluster.primary().psql("postgres", &count).unwrap()
    };
    let mut wires: Vec<_> = databases.iter().flat_map(|d| [komainu.login(d), komainu.login(d)]).collect();
    let run = |wire: &mut Wire, sql: &str| assert!(!tags(&wire.query(sql)).contains('E'), "{sql}");
    wires.iter_mut().for_each(|wire| run(wire, "BEGIN; SELECT 1"));
    assert_eq!(open(), "6");
    for at in [0, 1, 2, 4] {
        run(&mut wires[at], "COMMIT");
    }
    // What is idle goes.
    komainu.reload("komainu.toml", "max_server_connections = 6", "max_server_connections = 2");
    eventually(PATIENCE, "as many are open as may be", || open() == "2");
    // Of what is lent, the first that comes back.
    komainu.reload("komainu.toml", "size = 2", "size = 1");
    komainu.reload("komainu.toml", "max_server_connections = 2", "max_server_connections = 1");
    run(&mut wires[3], "SELECT 1; COMMIT");
    eventually(PATIENCE, "one is open", || open() == "1");
    run(&mut wires[5], "SELECT 1; COMMIT");
    wires.iter_mut().for_each(|wire| run(wire, "SELECT 1"));
    eventually(PATIENCE, "one is open still", || open() == "1");
}

#[test]
fn open_pools_and_health_checks_take_up_new_tls() {
    let cluster = Cluster::start(0);
    let scratch = komainu::sandbox::Scratch::create("komainu-reload-").unwrap();
    let certificates = Certificates::create(scratch.path());
    speak_tls(cluster.primary(), certificates.server("server"));
    let komainu = Komainu::start_with(&cluster, "[pool]\nsize = 4\n");
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let (mut idle, mut busy) = (komainu.login("postgres"), komainu.login("postgres"));
    assert_eq!(idle.query_value(encrypted), "f");
    assert_eq!(busy.query_value(&format!("BEGIN; {encrypted}")), "f");
    let authority = certificates.authority_file();
    let verified = format!("mode = \"verify-ca\"\nca_file = {authority:?}");
    komainu.reload("komainu.toml", "mode = \"disable\"", &verified);
    assert_eq!(idle.query_value(encrypted), "t");
    assert_eq!(busy.query_value(encrypted), "f", "a transaction stays where it is");
    busy.query("COMMIT");
    assert_eq!(busy.query_value(encrypted), "t");
    let plain = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
                 WHERE application_name = 'komainu' AND NOT ssl";
    eventually(PATIENCE, "nothing of komainu's is plain any more", || {
        cluster.primary().psql("postgres", plain).unwrap() == "0"
    });

    // The same names, but files of another authority: they are looked into.
    let other_directory = scratch.path().join("other");
    std::fs::create_dir(&other_directory).unwrap();
    let other = Certificates::create(&other_directory);
    std::fs::copy(other.authority_file(), authority).unwrap();
    komainu.reload("komainu.toml", "size = 4", "size = 4\n[limits]\nhold_timeout_ms = 1000");
    let mut refused = komainu.wire();
    refused.startup(&[("user", APP_USER), ("database", "postgres")]);
    assert_eq!(refused.authenticate(APP_USER, APP_PASSWORD).sqlstate(), "57P03");
}

#[test]
fn health_settings_and_weights_change_live() {
    let cluster = Cluster::shared();
    cluster.prepare("postgres", "CREATE ROLE looker LOGIN PASSWORD 'looks' IN ROLE pg_monitor");
    let komainu = Komainu::builder(cluster).user("looker", "looks").start();
    komainu.reload("komainu.toml", "user = \"postgres\"", "user = \"looker\"\nretries = 2");
    let looks =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'looker' AND application_name = 'komainu'";
    for server in [cluster.primary(), cluster.standby(0), cluster.standby(1)] {
        eventually(PATIENCE, "the new role looks at each server", || {
            server.psql("postgres", looks).unwrap() == "t"
        });
    }
    komainu.says("\"health.user\"");

    let port = |server: &Postgres| server.port().to_string();
    let (primary, pg2, pg3) = (port(cluster.primary()), port(cluster.standby(0)), port(cluster.standby(1)));
    for (other, others_port) in [("pg3", &pg3), ("pg2", &pg2)] {
        // First the one gets no reads, then the other.
        let text = std::fs::read_to_string(komainu.config_file()).unwrap();
        std::fs::write(komainu.config_file(), text.replace("weight = 0\n", "")).unwrap();
        let line = format!("id = \"{other}\"\n");
        komainu.reload("komainu.toml", &line, &format!("{line}weight = 0\n"));
        let mut wire = komainu.login("postgres");
        eventually(PATIENCE, &format!("{other} gets no reads"), || {
            let nodes = wire.query("SHOW POOL_NODES");
            let weight = |port: &str| {
                let mut rows = nodes.iter().filter(|message| message.tag == 'D').map(|row| row.columns());
                rows.find(|row| row[2].as_deref() == Some(port)).unwrap()[5].clone().unwrap()
            };
            (weight(&primary).as_str(), weight(others_port).as_str()) == ("0.500000", "0.000000")
        });
        for _ in 0..8 {
            let mut wire = komainu.login("postgres");
            wire.query("SELECT 1");
            assert_ne!(first_value(&wire.query("SHOW ROUTE")).as_deref(), Some(other));
        }
    }
}

/// A statement's class is kept for all sessions of its database, and each goes by the lists that it began with.
#[test]
fn lists_of_functions_hold_for_the_sessions_that_began_with_them() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    let komainu = Komainu::builder(&cluster)
        .config(&standbys_read(&cluster))
        .config("[split]\nconsistency = \"eventual\"\nmax_lag_ms = 0\nwrite_functions = []\n")
        .start();
    let mut old = komainu.login(&database);
    run(
        &mut old,
        "CREATE TABLE t (n int); CREATE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'",
    );
    wait_for_catalog(&mut old, "t");
    assert_eq!(went_to(&mut old, "SELECT f()").0, "pg2");
    assert!(!tags(&old.pipeline(Pipeline::new().parse("s", "SELECT f() + 1").sync())).contains('E'));
    komainu.reload("komainu.toml", "write_functions = []", "write_functions = ['f']");
    let mut new = komainu.login(&database);
    assert!(!tags(&new.pipeline(Pipeline::new().parse("s", "SELECT f() + 1").sync())).contains('E'));
    for _ in 0..3 {
        for (wire, server) in [(&mut old, "pg2"), (&mut new, "pg1")] {
            assert_eq!(went_to(wire, "SELECT f()").0, server);
            wire.pipeline(Pipeline::new().run("s", &[]));
            assert_eq!(route(wire).0, server);
        }
    }
}
