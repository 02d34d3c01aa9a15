//! Servers that come and go, and are paused, drained and detached, while clients work.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use komainu::sandbox::{Postgres, StopMode};
use serde_json::Value;

use super::commands::ask;
use super::failover::one_at_a_time;
use super::support::{APP_USER, Cluster, Failover, Komainu, PATIENCE, Wire, eventually, pgbench};

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
pub fn reader_of(komainu: &Komainu, database: &str, server: &Postgres) -> Wire {
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

/// What a command of `komainu` prints on that node, which ends with that code.
#[track_caller]
fn order(node: &Komainu, code: i32, arguments: &[&str]) -> String {
    let (ended, out, err) = ask(node, arguments);
    assert_eq!(ended, code, "{arguments:?}: {out}{err}");
    out + &err
}

/// Until `komainu status` on that node tells this and finds nothing wrong.
#[track_caller]
fn status_tells(node: &Komainu, text: &str) {
    eventually(PATIENCE, &format!("the status tells {text:?}"), || {
        let (ended, out, _) = ask(node, &["status"]);
        ended == 0 && out.contains(text)
    });
}

fn reads(node: &Komainu, server: &str) -> f64 {
    node.metric(&format!("komainu_queries_total{{server=\"{server}\",class=\"read\"}}")).unwrap_or_default()
}

/// pgbench with 50 clients, again and again: half of them prepare their statements. Each has a thread: pgbench prepares
/// while all else in the thread stands still, transactions that a pause waits for included.
fn bench(url: &str, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        thread::scope(|scope| {
            let run = |mode: &'static str, rate: &'static str| {
                scope.spawn(move || {
                    pgbench(
                        url,
                        &[
                            "-n",
                            "-c",
                            "25",
                            "-j",
                            "25",
                            "-T",
                            "8",
                            "-R",
                            rate,
                            "-M",
                            mode,
                            "-b",
                            "select-only@4",
                            "-b",
                            "simple-update@1",
                        ],
                    )
                })
            };
            for bench in [run("prepared", "150"), run("simple", "150")] {
                let bench = bench.join().unwrap();
                assert!(
                    !bench.stderr.contains("ERROR") && !bench.stderr.contains("aborted"),
                    "{}",
                    bench.stderr
                );
                let output = bench.output();
                assert!(output.contains("number of failed transactions: 0 "), "{output}");
            }
        });
    }
}

/// One session for all of it, which reads what it has written and never sees less again.
fn check(mut wire: Wire, done: &AtomicBool) -> u64 {
    let mut written = 0u64;
    while !done.load(Ordering::Relaxed) {
        written += 1;
        let told = wire.query(&format!("INSERT INTO checked VALUES ({written})"));
        assert!(told.iter().all(|message| message.tag != 'E'), "{written}: {told:?}");
        assert_eq!(wire.query_value("SELECT max(n) FROM checked"), written.to_string());
        wire.query("BEGIN READ ONLY");
        let before = wire.query_value("SELECT count(*) FROM checked");
        assert_eq!(wire.query_value("SELECT count(*) FROM checked"), before);
        let told = wire.query("COMMIT");
        assert!(told.iter().all(|message| message.tag != 'E'), "{written}: {told:?}");
        assert_eq!(before, written.to_string());
    }
    written
}

#[test]
fn servers_come_go_pause_drain_and_detach_under_fifty_clients_without_one_error() {
    let _one = one_at_a_time();
    let failover = Failover::builder().patient().without_agents().start();
    let database = failover.cluster.database();
    let (node, other) = (failover.nodes.node("node1"), failover.nodes.node("node2"));
    let url = node.url(&database);
    pgbench(&url, &["-i", "-q"]).output();
    let mut wire = node.login(&database);
    wire.query("CREATE TABLE checked (n int)");
    failover.cluster.servers().wait_for_replay().unwrap();
    let further = |server: &str| {
        let before = reads(node, server);
        eventually(PATIENCE, &format!("{server} is read from"), || reads(node, server) > before + 20.0);
    };
    // A server process ends a moment after its connection.
    let emptied = |id: &str| {
        let is_empty = || backends(failover.server(id), &database) == "0";
        eventually(PATIENCE, &format!("nothing of ours is left on {id}"), is_empty);
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Whatever fails here ends the others.
        let _end = Ends(&done);
        let benches = scope.spawn(|| bench(&url, &done));
        let checker = scope.spawn(|| check(wire, &done));
        further("pg2");
        further("pg3");

        order(other, 0, &["server", "detach", "pg3"]);
        emptied("pg3");
        order(other, 0, &["server", "attach", "pg3"]);
        further("pg3");
        order(other, 0, &["server", "drain", "--wait", "60", "pg2"]);
        status_tells(other, "drained");
        order(other, 0, &["server", "attach", "pg2"]);
        further("pg2");

        let pg4 = failover.cluster.primary().base_backup("pg4").unwrap();
        pg4.start().unwrap();
        let (host, port) = (pg4.host(), pg4.port().to_string());
        let added =
            order(other, 0, &["server", "add", "pg4", "--host", host, "--port", &port, "--weight", "3"]);
        assert!(added.contains("pg4 is added, configuration 2: standby, up"), "{added}");
        further("pg4");
        let removed = order(other, 0, &["server", "remove", "pg4"]);
        assert!(removed.contains("pg4 is removed, configuration 3"), "{removed}");
        eventually(PATIENCE, "nothing of ours is left there", || backends(&pg4, &database) == "0");
        for id in failover.nodes.ids() {
            eventually(PATIENCE, "no node knows it any more", || {
                server(failover.nodes.node(&id), "pg4").is_null()
            });
            assert!(!failover.nodes.node(&id).admin("/metrics").unwrap().body.contains("pg4"));
        }
        pg4.stop(StopMode::Fast).unwrap();

        order(other, 0, &["server", "pause", "pg1"]);
        emptied("pg1");
        assert!(server(other, "pg1")["paused"].as_bool().unwrap());
        order(other, 0, &["server", "resume", "pg1"]);
        further("pg2");
        order(other, 0, &["server", "pause"]);
        for id in ["pg1", "pg2", "pg3"] {
            emptied(id);
        }
        order(other, 0, &["server", "resume"]);
        further("pg3");

        done.store(true, Ordering::Relaxed);
        assert!(checker.join().unwrap() > 0);
        benches.join().unwrap();
    });
    // Its slot would keep WAL for ever.
    eventually(PATIENCE, "the slot of the one that went is dropped", || {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'komainu_pg4'";
        failover.server("pg1").psql("postgres", slots).unwrap() == "0"
    });
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
    let events = order(other, 0, &["events", "--limit", "200"]);
    for told in ["pg1: paused", "pg1: resumed", "pg2: draining", "the servers are pg1, pg2, pg3, pg4"] {
        assert!(events.contains(told), "{told} is not in {events}");
    }
    let text = order(other, 0, &["config", "show"]);
    assert!(!text.contains("pg4"), "{text}");
}

/// Says so when it goes.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_cannot_be_added_removed_or_paused_says_why() {
    let _one = one_at_a_time();
    let (failover, stranger) = (Failover::builder().without_agents().start(), Cluster::start(0));
    let node = failover.nodes.node("node1");
    let port = stranger.primary().port().to_string();
    let add = |code, id: &str, port: &str| {
        order(node, code, &["server", "add", id, "--host", stranger.primary().host(), "--port", port])
    };
    assert!(add(2, "foreign", &port).contains("wrong_system_identifier"));
    assert_eq!(server(node, "foreign")["role"], "unknown");
    assert!(add(2, "nowhere", "1").contains("and not used: connect_refused"));
    assert!(add(1, "pg2", "5432").contains("there is a server pg2 already"));
    assert!(add(64, "no name", "5432").contains("server.id"));
    assert!(
        order(node, 1, &["server", "remove", "pg9"]).contains("there are: pg1, pg2, pg3, foreign, nowhere")
    );
    let refused = order(node, 1, &["server", "remove", "pg1"]);
    assert!(refused.contains("pg1 is the primary: `komainu switchover` makes another one"), "{refused}");
    assert!(order(node, 1, &["server", "pause", "pg9"]).contains("there is no server pg9"));
    order(node, 0, &["server", "remove", "foreign"]);
    order(node, 0, &["server", "remove", "nowhere"]);
    order(node, 0, &["config", "rollback", "2"]);
    eventually(PATIENCE, "it is one of the servers again", || server(node, "foreign")["role"] == "unknown");
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
}

#[test]
fn a_transaction_on_a_standby_is_waited_for_and_closed_only_when_its_time_is_up() {
    let _one = one_at_a_time();
    let failover = Failover::builder().patient().without_agents().start();
    let database = failover.cluster.database();
    let node = failover.nodes.node("node1");
    let pg3 = failover.server("pg3");
    let port = |wire: &mut Wire| wire.query_value("SELECT inet_server_port()");
    let mut wire = reader_of(node, &database, pg3);
    wire.query("BEGIN READ ONLY");
    assert_eq!(port(&mut wire), pg3.port().to_string());
    let said = order(node, 2, &["server", "drain", "--wait", "1", "pg3"]);
    assert!(said.contains("connections to pg3 are still in use on node1"), "{said}");
    status_tells(node, "draining, in use by node1");
    assert_eq!(port(&mut wire), pg3.port().to_string(), "it goes on where it began");
    wire.query("COMMIT");
    eventually(PATIENCE, "it is drained", || server(node, "pg3")["busy_on"] == Value::Array(Vec::new()));
    assert_ne!(port(&mut wire), pg3.port().to_string());

    order(node, 0, &["server", "attach", "pg3"]);
    let mut wire = reader_of(node, &database, pg3);
    wire.query("BEGIN READ ONLY");
    assert_eq!(port(&mut wire), pg3.port().to_string());
    order(node, 0, &["server", "detach", "--within", "1", "pg3"]);
    eventually(PATIENCE, "it is closed", || backends(pg3, &database) == "0");
    let told = wire.query("SELECT 1");
    let error = told.iter().find(|message| message.tag == 'E').expect("the transaction was rolled back");
    assert_eq!(error.sqlstate(), "08006");
    wire.query("ROLLBACK");
    assert_eq!(wire.query_value("SELECT 1"), "1", "the session goes on");

    // A request that the paused server is to answer is held, no longer than it may be.
    order(node, 0, &["server", "pause", "pg1"]);
    let status = order(node, 2, &["status"]);
    assert!(status.contains("primary pg1, epoch 1, paused by order\n"), "{status}");
    assert!(
        status.contains("problem: pg1 is paused by order") && !status.contains("there is no primary"),
        "{status}"
    );
    let doctor = order(node, 2, &["doctor"]);
    assert!(doctor.contains("paused by order") && !doctor.contains("there is none"), "{doctor}");
    assert_eq!(node.admin("/ready").unwrap().status, 200, "clients are held, and not turned away");
    assert_eq!(node.metric("komainu_primary{server=\"pg1\"}"), Some(1.0));
    thread::scope(|scope| {
        let write = scope.spawn(|| wire.query("CREATE TABLE waited (n int)"));
        let newcomer = scope.spawn(|| node.login(&database).query_value("SELECT 1"));
        eventually(PATIENCE, "both wait", || node.metric("komainu_clients_held") == Some(2.0));
        let sessions = order(node, 0, &["sessions"]);
        let states =
            ["waiting", "login"].map(|state| sessions.lines().filter(|line| line.contains(state)).count());
        assert!(states == [1, 1] && sessions.matches("primary").count() == 2, "{sessions}");
        order(node, 0, &["server", "resume", "pg1"]);
        assert_eq!(newcomer.join().unwrap(), "1");
        let told = write.join().unwrap();
        assert!(told.iter().all(|message| message.tag != 'E'), "{told:?}");
    });
}
