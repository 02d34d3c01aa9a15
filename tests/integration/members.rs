//! Servers that come and go while clients work.

use std::fs;

use komainu::sandbox::Postgres;
use serde_json::Value;

use super::support::{APP_USER, Cluster, Komainu, PATIENCE, Wire, eventually};

/// A `[[server]]` as the node's file has it.
fn entry(id: &str, server: &Postgres) -> toml::Table {
    let mut entry = toml::Table::new();
    entry.insert("id".to_owned(), id.into());
    entry.insert("host".to_owned(), server.host().into());
    entry.insert("port".to_owned(), i64::from(server.port()).into());
    entry
}

/// Gives the node's file other servers, without telling the node.
fn write_servers(komainu: &Komainu, servers: &[toml::Table]) {
    let text = fs::read_to_string(komainu.config_file()).unwrap();
    let mut file: toml::Table = text.parse().unwrap();
    let servers: Vec<_> = servers.iter().cloned().map(toml::Value::Table).collect();
    file.insert("server".to_owned(), servers.into());
    fs::write(komainu.config_file(), file.to_string()).unwrap();
}

fn reload(komainu: &Komainu, servers: &[toml::Table]) {
    write_servers(komainu, servers);
    // The file says nothing else.
    komainu.reload("hba.conf", "host", "host");
}

/// As `/status` has it; null: there is no such server.
fn server(komainu: &Komainu, id: &str) -> Value {
    let status: Value = serde_json::from_str(&komainu.admin("/status").unwrap().body).unwrap();
    let servers = status["servers"].as_array().unwrap();
    servers.iter().find(|server| server["id"] == id).cloned().unwrap_or(Value::Null)
}

/// A session whose reads go to the server at that port.
fn reader_of(komainu: &Komainu, database: &str, server: &Postgres) -> Wire {
    let mut found = None;
    eventually(PATIENCE, &format!("a session reads from {}", server.id()), || {
        let mut wire = komainu.login(database);
        let is_there = wire.query_value("SELECT inet_server_port()") == server.port().to_string();
        found = is_there.then_some(wire);
        found.is_some()
    });
    found.unwrap()
}

fn backends(server: &Postgres, database: &str) -> String {
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND usename = '{APP_USER}'"
    );
    server.psql("postgres", &count).unwrap()
}

#[test]
fn a_server_goes_and_comes_back_and_no_session_notices() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start(cluster);
    let [pg1, pg2, pg3] = [cluster.primary(), cluster.standby(0), cluster.standby(1)];
    let all = [entry("pg1", pg1), entry("pg2", pg2), entry("pg3", pg3)];
    let (mut idle, mut busy) = (reader_of(&komainu, &database, pg3), reader_of(&komainu, &database, pg3));
    let port_of = |wire: &mut Wire| wire.query_value("SELECT inet_server_port()");
    busy.query("BEGIN READ ONLY");
    assert_eq!(port_of(&mut busy), pg3.port().to_string());
    assert!(komainu.metric("komainu_server_up{server=\"pg3\"}").is_some());

    reload(&komainu, &all[..2]);
    eventually(PATIENCE, "it is no longer one of the servers", || server(&komainu, "pg3").is_null());
    assert_eq!(port_of(&mut busy), pg3.port().to_string(), "what has begun there ends there");
    assert_ne!(port_of(&mut idle), pg3.port().to_string());
    eventually(PATIENCE, "only the transaction is left there", || backends(pg3, &database) == "1");
    // All sessions look at what they have when a standby is lost.
    reload(&komainu, &all[..1]);
    eventually(PATIENCE, "the other standby is gone, too", || server(&komainu, "pg2").is_null());
    assert_eq!(port_of(&mut busy), pg3.port().to_string());
    reload(&komainu, &all[..2]);
    eventually(PATIENCE, "the other one is back", || server(&komainu, "pg2")["role"] == "standby");
    busy.query("COMMIT");
    assert_ne!(port_of(&mut busy), pg3.port().to_string());
    eventually(PATIENCE, "nothing is left there", || backends(pg3, &database) == "0");
    let metrics = komainu.admin("/metrics").unwrap().body;
    assert!(!metrics.contains("pg3"), "{metrics}");

    reload(&komainu, &[all[0].clone(), all[1].clone(), entry("pg4", pg3)]);
    eventually(PATIENCE, "it is back by another name", || server(&komainu, "pg4")["role"] == "standby");
    reader_of(&komainu, &database, pg3);
    assert!(komainu.metric("komainu_queries_total{server=\"pg4\",class=\"read\"}").unwrap() > 0.0);
    for wire in [&mut idle, &mut busy] {
        assert_eq!(wire.query_value("SELECT 1"), "1");
    }
}

#[test]
fn a_server_that_cannot_be_used_is_shown_with_the_reason_and_the_primary_stays() {
    let (cluster, stranger) = (Cluster::shared(), Cluster::start(0));
    let komainu = Komainu::start(cluster);
    let mut wire = komainu.login("postgres");
    let [pg1, pg2] = [cluster.primary(), cluster.standby(0)];
    let mut nowhere = entry("nowhere", pg2);
    nowhere.insert("port".to_owned(), 1.into());
    reload(&komainu, &[entry("pg1", pg1), entry("pg2", pg2), entry("foreign", stranger.primary()), nowhere]);
    for (id, reason) in [("foreign", "wrong_system_identifier"), ("nowhere", "connect_refused")] {
        eventually(PATIENCE, &format!("{id} is not used"), || server(&komainu, id)["reason"] == reason);
        assert_eq!(server(&komainu, id)["role"], "unknown");
    }
    assert_eq!(server(&komainu, "pg1")["role"], "primary");

    for (servers, why) in [
        (vec![entry("pg2", pg2)], "pg1 is the primary, and the configuration has no such server"),
        (
            vec![entry("pg1", stranger.primary()), entry("pg2", pg2)],
            "pg1 is the primary, and has another address",
        ),
    ] {
        reload(&komainu, &servers);
        eventually(PATIENCE, "it is refused", || komainu.log().contains(why));
        assert!(!server(&komainu, "foreign").is_null(), "nothing has changed");
    }
    assert_eq!(wire.query_value("SELECT 1"), "1");
}

#[test]
fn a_session_reads_what_it_wrote_while_there_was_no_standby() {
    let cluster = &Cluster::start(1);
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "split.floor_wait_ms = 0\n");
    let [pg1, pg2] = [cluster.primary(), cluster.standby(0)];
    reload(&komainu, &[entry("pg1", pg1)]);
    eventually(PATIENCE, "there is one server", || server(&komainu, "pg2").is_null());
    let mut wire = komainu.login(&database);
    wire.query("CREATE TABLE written (n int)");
    cluster.servers().wait_for_replay().unwrap();
    pg2.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    eventually(PATIENCE, "the standby stands still", || {
        pg2.psql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap() == "paused"
    });
    wire.query("INSERT INTO written VALUES (7)");
    let mut primary = entry("pg1", pg1);
    primary.insert("weight".to_owned(), 0.into());
    reload(&komainu, &[primary, entry("pg2", pg2)]);
    eventually(PATIENCE, "the standby is used", || server(&komainu, "pg2")["role"] == "standby");
    assert_eq!(wire.query_value("SELECT n FROM written"), "7");
}
