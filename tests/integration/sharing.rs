//! How the pools of one server share the connections it may have.

use std::thread;

use super::support::*;

/// What is busy is never idle for longer than it takes to serve the next of those who wait.
#[test]
fn a_pool_that_has_no_connection_gets_one_from_pools_that_are_never_idle() {
    let cluster = Cluster::shared();
    let [busy, first, second] = [cluster.database(), cluster.database(), cluster.database()];
    let komainu = Komainu::start_with(
        cluster,
        "split.enabled = false\n[pool]\nsize = 2\nmax_server_connections = 2\nacquire_timeout_ms = 10000\n",
    );
    let script = komainu.directory().join("short.sql");
    std::fs::write(&script, "SELECT pg_sleep(0.002);\n").unwrap();
    thread::scope(|scope| {
        let url = komainu.url(&busy);
        let script = script.to_str().unwrap();
        let bench = scope.spawn(move || pgbench(&url, &["-n", "-c", "8", "-T", "8", "-f", script]));
        eventually(PATIENCE, "all connections are busy", || {
            komainu.metric("komainu_server_connections{server=\"pg1\",state=\"active\"}") == Some(2.0)
        });
        let mut open = komainu.login(&first);
        open.query("BEGIN");
        // This one takes the last that the busy clients have, and they get it back.
        for _ in 0..2 {
            let mut short = komainu.login(&second);
            assert_eq!(short.query_value("SELECT current_database()"), second);
        }
        assert_eq!(open.query_value("SELECT current_database()"), first);
        open.query("COMMIT");
        let bench = bench.join().unwrap();
        assert!(!bench.stderr.contains("aborted"), "{}", bench.stderr);
        assert!(bench.output().contains("number of failed transactions: 0 "));
    });
    let most = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname IN ('{busy}', '{first}', '{second}') AND usename = '{APP_USER}'"
    );
    let most: usize = cluster.primary().psql("postgres", &most).unwrap().parse().unwrap();
    assert!(most <= 2, "{most}");
}

#[test]
fn a_pool_that_needs_more_gets_what_lies_idle_elsewhere() {
    let cluster = Cluster::shared();
    let [first, second] = [cluster.database(), cluster.database()];
    let config =
        "split.enabled = false\n[pool]\nsize = 3\nmax_server_connections = 4\nacquire_timeout_ms = 8000\n";
    let komainu = Komainu::start_with(cluster, config);
    let mut many: Vec<_> = (0..3).map(|_| komainu.login(&first)).collect();
    let begin = |many: &mut Vec<Wire>| many.iter_mut().for_each(|wire| drop(wire.query("BEGIN; SELECT 1")));
    let commit = |many: &mut Vec<Wire>| many.iter_mut().for_each(|wire| drop(wire.query("COMMIT")));
    begin(&mut many);
    commit(&mut many);
    let (mut listener, mut other) = (komainu.login(&second), komainu.login(&second));
    listener.query("LISTEN x");
    assert_eq!(other.query_value("SELECT 'served'"), "served");
    eventually(PATIENCE, "it lies idle in its turn", || {
        komainu.metric("komainu_server_connections{server=\"pg1\",state=\"idle\"}") == Some(3.0)
    });

    // The other way as well. Then nothing is idle anywhere, and who waits is told what there is too little of.
    begin(&mut many);
    let refused = other.query("SELECT 'refused'").remove(0);
    let hint = refused.field('H');
    assert_eq!(
        (refused.sqlstate().as_str(), hint.contains("max_server_connections")),
        ("53300", true),
        "{hint}"
    );
    commit(&mut many);
    assert_eq!(other.query_value("SELECT 'served again'"), "served again");
}
