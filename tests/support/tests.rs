//! The support is tested too: a broken one would make other tests pass for no reason.

use std::time::Duration;

use super::*;
use komainu::sandbox::{StopMode, process};

#[test]
fn standbys_follow_and_refuse_writes() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t AS SELECT 42 AS n");
    for standby in cluster.servers().standbys() {
        assert_eq!(standby.psql(&database, "SELECT n FROM t").unwrap(), "42");
        assert!(standby.psql(&database, "DELETE FROM t").unwrap_err().to_string().contains("read-only"));
    }
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE active";
    assert_eq!(cluster.primary().psql("postgres", slots).unwrap(), "2");
}

#[test]
fn a_server_is_frozen_killed_restarted_and_promoted() {
    let cluster = Cluster::start(1);
    let primary = cluster.primary();
    let standby = cluster.standby(0);
    primary.psql("postgres", "CREATE TABLE t AS SELECT 1 AS n").unwrap();

    primary.freeze();
    let mut wire = Wire::connect(primary.port());
    wire.startup(&[("user", "postgres")]);
    wire.expect_silence(Duration::from_millis(300));
    primary.thaw();
    wire.expect('R');

    let pid = primary.pid().unwrap();
    let children = process::children_of(pid);
    assert!(children.len() > 3, "{children:?}");
    primary.kill();
    assert!(!primary.is_running());
    assert!(!process::is_alive(pid) && !children.iter().any(|child| process::is_alive(*child)));
    primary.start().unwrap();
    assert_eq!(primary.psql("postgres", "SELECT n FROM t").unwrap(), "1");

    cluster.servers().wait_for_replay().unwrap();
    primary.stop(StopMode::Fast).unwrap();
    standby.promote().unwrap();
    assert_eq!(standby.psql("postgres", "UPDATE t SET n = 2 RETURNING n").unwrap(), "2");
}

#[test]
fn a_dropped_server_leaves_no_process() {
    let cluster = Cluster::start(0);
    let pid = cluster.primary().pid().unwrap();
    let children = process::children_of(pid);
    cluster.primary().freeze();
    drop(cluster);
    assert!(!process::is_alive(pid));
    eventually(PATIENCE, "the children end", || !children.iter().any(|child| process::is_alive(*child)));
}

#[test]
fn the_raw_client_speaks_to_postgresql() {
    let cluster = Cluster::shared();
    let mut wire = Wire::connect(cluster.primary().port());
    wire.login(APP_USER, APP_PASSWORD, "postgres");
    assert!(wire.parameters.iter().any(|(name, _)| name == "server_version"));
    assert_ne!(wire.process_id, 0);
    let messages = wire.query("SELECT 1, NULL; SELEC");
    assert_eq!(tags(&messages), "EZ");
    assert_eq!(messages[0].sqlstate(), "42601");
    assert_eq!(wire.query_value("SELECT 'x' || 1"), "x1");
    wire.send_message('X', b"");
    assert_eq!(wire.expect_end(), []);
}

#[test]
fn the_raw_client_speaks_tls() {
    let cluster = Cluster::start(0);
    let scratch = komainu::sandbox::Scratch::create("komainu-tls-").unwrap();
    let certificates = Certificates::create(scratch.path());
    let (certificate, key) = certificates.server("server");
    let primary = cluster.primary();
    let data = primary.data_directory();
    let install = |from: &std::path::Path, name: &str| {
        let to = data.join(name);
        std::fs::copy(from, &to).unwrap();
        let owner = std::fs::metadata(&data).unwrap();
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
        primary
            .configure(if name.ends_with("key") { "ssl_key_file" } else { "ssl_cert_file" }, name)
            .unwrap();
    };
    install(&certificate, "server.crt");
    install(&key, "server.key");
    primary.configure("ssl", "on").unwrap();
    primary.restart().unwrap();
    let mut wire = Wire::tls(primary.port(), certificates.authority_pem());
    wire.login(APP_USER, APP_PASSWORD, "postgres");
    assert_eq!(wire.query_value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
}

#[test]
fn a_cluster_for_failovers_is_whole_and_its_agents_are_there() {
    let failover = Failover::builder().failover("automatic = false").start();
    let (primary, epoch) = failover.primary();
    assert_eq!((&*primary, epoch), ("pg1", 1));
    assert_eq!(failover.agents.len(), 3);
    assert!(failover.agent("pg2").is_ready() && failover.server("pg2").is_running());
    let database = failover.cluster.database();
    let url = failover.nodes.node("node2").url(&database);
    assert_eq!(
        psql(&url, &["CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)", "SELECT n FROM t"]).output(),
        "1"
    );
}

#[tokio::test]
async fn real_clients_reach_postgresql() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let port = cluster.primary().port();
    let client = connect(port, APP_USER, APP_PASSWORD, &database).await.unwrap();
    let row = client.query_one("SELECT 1 + $1::int4", &[&41_i32]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    let url = format!("postgres://{APP_USER}:app%27s%20secret@127.0.0.1:{port}/{database}");
    assert_eq!(psql(&url, &["SELECT 1", "SELECT 2"]).output(), "1\n2");
    assert!(!psql(&url, &["SELEC"]).success);
    pgbench(&url, &["-i", "-q"]).output();
    assert!(pgbench(&url, &["-S", "-t", "5"]).output().contains("5/5"));
    let script = "import psycopg, sys\nprint(psycopg.connect(sys.argv[1]).execute('SELECT 3').fetchone()[0])";
    assert_eq!(python(script, &[&url]).output(), "3");
}
