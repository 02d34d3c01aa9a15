//! Before a server that speaks the dialect of Redshift.

use komainu::sandbox::StopMode;

use super::cancel::{cancel, wait_until_sleeping};
use super::holding::{answer, send};
use super::lost_servers::told;
use crate::support::*;

const PINNED: &str = "komainu_sessions_pinned{reason=\"cannot_ask\"}";

fn config(redshift: &Redshift) -> String {
    format!(
        "[failover]\nmode = \"redshift\"\n[health]\ntimeout_ms = 1000\n\
         [[server]]\nid = \"shop\"\nhost = \"127.0.0.1\"\nport = {}\n",
        redshift.port()
    )
}

fn start(cluster: &Cluster, redshift: &Redshift, more: &str) -> Komainu {
    Komainu::builder(cluster).config(&config(redshift)).config(more).start()
}

#[test]
fn clients_share_connections_and_nothing_is_asked_that_redshift_does_not_know() {
    const CLIENTS: usize = 20;
    const POOL: usize = 2;
    let cluster = Cluster::start(0);
    let redshift = Redshift::start(cluster.primary().port());
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let komainu = start(&cluster, &redshift, &format!("[pool]\nsize = {POOL}\n"));
    let url = komainu.url(&database);
    assert_eq!(psql(&url, &["SELECT 42"]).output(), "42");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| komainu.login(&database)).collect();
    for client in &mut clients {
        assert_eq!(told(&client.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
        client.query("BEGIN");
        assert_eq!(client.query_value("SELECT count(*) > 0 FROM t"), "t");
        client.query("COMMIT");
        let insert = Pipeline::new().parse("i", "INSERT INTO t VALUES ($1::int)").run("i", &["2"]);
        assert_eq!(tags(&client.pipeline(insert)), "12CZ");
    }
    // Prepared statements are known wherever the client goes on.
    for client in &mut clients {
        assert_eq!(tags(&client.pipeline(Pipeline::new().run("i", &["2"]))), "2CZ");
    }
    assert_eq!(komainu.metric(PINNED), Some(0.0));
    let states = ["idle", "active"].map(|state| {
        komainu.metric(&format!("komainu_server_connections{{server=\"shop\",state=\"{state}\"}}")).unwrap()
    });
    assert!(states.iter().sum::<f64>() <= POOL as f64, "{states:?}");
    let count = "SELECT count(*) FROM t WHERE n = 2";
    assert_eq!(cluster.primary().psql(&database, count).unwrap(), (2 * CLIENTS).to_string());

    assert_eq!(redshift.unknown(), [] as [&str; 0], "komainu asks for nothing of the kind");
    let log = komainu.log();
    assert!(
        !log.contains("a question of komainu's own failed") && !log.contains("catalog is not loaded"),
        "{log}"
    );
    let status = komainu.admin("/status").unwrap().body;
    assert!(status.contains("\"role\":\"primary\"") && status.contains("80002"), "{status}");
    // What a client asks for itself it is told.
    let refused = clients[0].query("DISCARD ALL");
    assert_eq!(told(&refused), ["ERROR 42601", "ZI"]);
    assert_eq!(clients[0].query_value("SELECT 1"), "1");
}

#[test]
fn the_client_is_told_the_version_and_may_cancel() {
    let cluster = Cluster::start(0);
    let redshift = Redshift::start(cluster.primary().port());
    let komainu = start(&cluster, &redshift, "");
    let mut client = komainu.login("postgres");
    let parameter = |wire: &Wire, name: &str| {
        wire.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    assert_eq!(parameter(&client, "server_version").as_deref(), Some("8.0.2"));
    assert_eq!(parameter(&client, "in_hot_standby"), None);
    send(&mut client, "SELECT pg_sleep(600)");
    wait_until_sleeping(&cluster, "postgres");
    cancel(komainu.wire(), client.process_id, &client.secret_key);
    assert_eq!(told(&client.until('Z')), ["T", "ERROR 57014", "ZI"]);
}

#[test]
fn what_a_session_sets_is_its_own_and_goes_with_its_connection() {
    let cluster = Cluster::start(0);
    let redshift = Redshift::start(cluster.primary().port());
    let komainu = start(&cluster, &redshift, "[pool]\nsize = 2\n");
    let pid = |client: &mut Wire| client.query_value("SELECT pg_backend_pid()");
    let mut other = komainu.login("postgres");
    let procedure = "CREATE PROCEDURE sets() LANGUAGE plpgsql AS 'BEGIN SET statement_timeout = 7000; END'";
    cluster.prepare("postgres", procedure);
    for begins in ["SET statement_timeout = '7s'", "CREATE TEMP TABLE mine (n int)", "CALL sets()"] {
        let mut client = komainu.login("postgres");
        client.query(begins);
        eventually(PATIENCE, "it is pinned", || komainu.metric(PINNED) == Some(1.0));
        let kept = pid(&mut client);
        for _ in 0..5 {
            assert_eq!(pid(&mut client), kept, "{begins}: it keeps its connection");
            assert_ne!(pid(&mut other), kept, "{begins}: which is nobody else's");
        }
        assert_eq!(other.query_value("SHOW statement_timeout"), "0");
        drop(client);
        eventually(PATIENCE, "its connection is closed", || {
            let is_there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {kept}");
            cluster.primary().psql("postgres", &is_there).unwrap() == "0"
        });
        assert_eq!(komainu.metric(PINNED), Some(0.0), "{begins}");
        let mut next = komainu.login("postgres");
        assert_eq!(next.query_value("SHOW statement_timeout"), "0");
    }
    assert_eq!(redshift.unknown(), [] as [&str; 0]);
    // What it only sets for a transaction is gone with it, and so is what has failed.
    let mut client = komainu.login("postgres");
    for fails in ["UNLOAD ('SELECT 1') TO 's3://shop/'", "SET statement_timeout = 'long'", "DISCARD ALL"] {
        assert!(told(&client.query(fails))[0].starts_with("ERROR "), "{fails}");
        assert_eq!(komainu.metric(PINNED), Some(0.0), "{fails}");
        assert_eq!(client.query_value("SELECT 1"), "1");
    }
    client.query("BEGIN");
    client.query("SET LOCAL statement_timeout = '7s'");
    client.query("COMMIT");
    assert_eq!(komainu.metric(PINNED), Some(0.0));
}

#[test]
fn settings_of_the_login_follow_the_client_from_connection_to_connection() {
    let cluster = Cluster::start(0);
    let redshift = Redshift::start(cluster.primary().port());
    let komainu = start(&cluster, &redshift, "[pool]\nsize = 1\n");
    let [mut german, mut iso] = ["German, DMY", "ISO, MDY"].map(|style| {
        let mut client = komainu.wire();
        client.startup(&[("user", APP_USER), ("database", "postgres"), ("DateStyle", style)]);
        assert_eq!(client.authenticate(APP_USER, APP_PASSWORD).tag, 'Z');
        client
    });
    for _ in 0..3 {
        assert_eq!(german.query_value("SELECT date '2026-11-28'"), "28.11.2026");
        assert_eq!(iso.query_value("SELECT date '2026-11-28'"), "2026-11-28");
    }
    assert_eq!(redshift.unknown(), [] as [&str; 0]);
}

#[test]
fn clients_wait_while_it_restarts_and_a_role_that_has_ended_is_kept_out() {
    let cluster = Cluster::start(0);
    let redshift = Redshift::start(cluster.primary().port());
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let komainu = start(&cluster, &redshift, "");
    let mut client = komainu.login(&database);
    assert_eq!(told(&client.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
    cluster.primary().stop(StopMode::Fast).unwrap();
    eventually(PATIENCE, "its loss is seen", || {
        komainu.metric("komainu_primary{server=\"shop\"}") == Some(0.0)
    });
    send(&mut client, "INSERT INTO t VALUES (2)");
    eventually(PATIENCE, "it waits", || komainu.metric("komainu_clients_held") == Some(1.0));
    cluster.primary().start().unwrap();
    assert_eq!(answer(&mut client), ["C INSERT 0 1", "ZI"]);

    let ended = format!("ALTER ROLE {APP_USER} VALID UNTIL '2020-01-01'");
    cluster.primary().psql("postgres", &ended).unwrap();
    eventually(PATIENCE, "it is kept out", || !psql(&komainu.url(&database), &["SELECT 1"]).success);
    assert_eq!(redshift.unknown(), [] as [&str; 0]);
}

#[test]
fn three_nodes_agree_on_it_and_refuse_to_change_it() {
    let cluster = Cluster::start(0);
    let redshift = Redshift::start(cluster.primary().port());
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let nodes = Nodes::builder(3).config(&config(&redshift)).start(&cluster);
    let mut clients: Vec<_> = nodes.ids().iter().map(|id| nodes.node(id).login(&database)).collect();
    for client in &mut clients {
        assert_eq!(told(&client.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
    }
    for id in &nodes.ids() {
        eventually(PATIENCE, "it knows the primary", || nodes.status(id)["primary"] == "shop");
    }
    let refused = nodes.post(&nodes.leader(), "/switchover", &serde_json::json!({}));
    assert!(refused.body.contains("aws redshift reboot-cluster"), "{}", refused.body);

    cluster.primary().stop(StopMode::Fast).unwrap();
    for id in &nodes.ids() {
        eventually(PATIENCE, "its loss is seen", || {
            nodes.node(id).metric("komainu_primary{server=\"shop\"}") == Some(0.0)
        });
    }
    clients.iter_mut().for_each(|client| send(client, "INSERT INTO t VALUES (2)"));
    cluster.primary().start().unwrap();
    for client in &mut clients {
        assert_eq!(answer(client), ["C INSERT 0 1", "ZI"]);
    }
    assert_eq!(redshift.unknown(), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_prepares_and_has_its_transactions() {
    let cluster = Cluster::start(0);
    let redshift = Redshift::start(cluster.primary().port());
    let komainu = start(&cluster, &redshift, "[pool]\nsize = 1\n");
    let (mut one, other) = (komainu.connect("postgres").await, komainu.connect("postgres").await);
    let statement = other.prepare("SELECT $1::int + 1").await.unwrap();
    for n in 0..3 {
        let transaction = one.transaction().await.unwrap();
        let row = transaction.query_one("SELECT $1::text", &[&"kept"]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "kept");
        transaction.rollback().await.unwrap();
        assert_eq!(other.query_one(&statement, &[&n]).await.unwrap().get::<_, i32>(0), n + 1);
    }
    assert_eq!(redshift.unknown(), [] as [&str; 0]);
}
