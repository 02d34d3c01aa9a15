//! Before instances that say themselves who is there and who writes, as Aurora's do.

use std::fs;

use komainu::sandbox::{Postgres, StopMode};

use super::holding::{answer, send};
use super::lost_servers::told;
use crate::support::*;

const INSERTED: [&str; 2] = ["C INSERT 0 1", "ZI"];

/// Reached by the template are those that are not configured: at addresses that share a port, by names of our own.
struct Aurora {
    cluster: Cluster,
    managed: Managed,
    database: String,
}

impl Aurora {
    fn start(readers: usize) -> Aurora {
        let cluster = Cluster::start(readers);
        dress_as_aurora(&cluster);
        let ports: Vec<u16> = cluster.servers().all().iter().map(Postgres::port).collect();
        let managed = Managed::start(&ports);
        for (index, server) in cluster.servers().all().iter().enumerate() {
            managed.point(&format!("{}.aurora.test", server.id()), index);
        }
        let database = cluster.database();
        cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
        Aurora { cluster, managed, database }
    }

    /// The configuration names one instance; all others are to be found.
    fn config(&self) -> String {
        format!(
            "[failover]\nmode = \"aurora\"\n[aurora]\ninstance_endpoint = \"?.aurora.test\"\n\
             session_window_ms = 200\n{}[health]\ntimeout_ms = 1000\n\
             [[server]]\nid = \"pg1\"\nhost = \"pg1.aurora.test\"\nport = {}\n",
            self.managed.dns(),
            self.managed.port()
        )
    }

    fn servers(&self) -> &[Postgres] {
        self.cluster.servers().all()
    }

    fn all_say(&self, instances: &str) {
        self.servers().iter().filter(|server| server.is_running()).for_each(|server| say(server, instances));
    }

    fn rows(&self, server: usize, n: u32) -> String {
        self.servers()[server].psql(&self.database, &format!("SELECT count(*) FROM t WHERE n = {n}")).unwrap()
    }

    fn promote(&self, new: usize) {
        self.servers()[new].promote().unwrap();
    }

    /// As AWS brings an old writer back.
    fn bring_back_as_reader(&self, old: usize) {
        let server = &self.servers()[old];
        server.stop(StopMode::Fast).unwrap();
        fs::write(server.data_directory().join("standby.signal"), "").unwrap();
        server.start().unwrap();
    }
}

pub fn servers(komainu: &Komainu) -> Vec<(String, String, String)> {
    let status = komainu.admin("/status").unwrap().body;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let all = status["servers"].as_array().unwrap().iter();
    all.map(|server| (text(&server["id"]), text(&server["role"]), text(&server["health"]))).collect()
}

#[track_caller]
pub fn becomes(komainu: &Komainu, expected: &[(&str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(id, role)| (id.to_string(), role.to_string(), "up".to_owned())).collect();
    eventually(PATIENCE, "the servers are as expected", || servers(komainu) == expected);
}

#[track_caller]
pub fn inserts(wire: &mut Wire, n: u32) {
    assert_eq!(told(&wire.query(&format!("INSERT INTO t VALUES ({n})"))), INSERTED);
}

#[test]
fn instances_are_found_from_one_and_come_and_go_by_the_writers_word() {
    let aurora = Aurora::start(2);
    let komainu = Komainu::builder(&aurora.cluster).config(&aurora.config()).start();
    becomes(&komainu, &[("pg1", "primary"), ("pg2", "standby"), ("pg3", "standby")]);
    let mut client = komainu.login(&aurora.database);
    inserts(&mut client, 1);
    let reads = |server: &str| {
        komainu.metric(&format!("komainu_queries_total{{server=\"{server}\",class=\"read\"}}"))
    };
    eventually(PATIENCE, "readers that were found serve reads", || {
        komainu.login(&aurora.database).query_value("SELECT count(*) FROM t");
        reads("pg2").unwrap_or(0.0) > 0.0 && reads("pg3").unwrap_or(0.0) > 0.0
    });

    // One reader's word takes nobody away.
    say(&aurora.servers()[1], "pg1*,pg2");
    for n in 0..20 {
        inserts(&mut client, 100 + n);
        assert_eq!(servers(&komainu).len(), 3);
    }
    aurora.all_say("pg1*,pg2");
    becomes(&komainu, &[("pg1", "primary"), ("pg2", "standby")]);
    aurora.all_say("pg1*,pg2,pg3");
    becomes(&komainu, &[("pg1", "primary"), ("pg2", "standby"), ("pg3", "standby")]);
    let log = komainu.log();
    assert!(!log.contains("a question of komainu's own failed"), "the WAL is not asked for:\n{log}");
}

#[test]
fn a_session_reads_what_it_wrote_from_whoever_has_it() {
    let aurora = Aurora::start(1);
    // Of those that may, the reader is always drawn.
    let config = format!(
        "{}weight = 0\n[[server]]\nid = \"pg2\"\nhost = \"pg2.aurora.test\"\nport = {}\n",
        aurora.config(),
        aurora.managed.port()
    );
    let komainu = Komainu::builder(&aurora.cluster).config(&config).start();
    becomes(&komainu, &[("pg1", "primary"), ("pg2", "standby")]);
    let reader = &aurora.servers()[1];
    reader.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    let mut client = komainu.login(&aurora.database);
    inserts(&mut client, 1);
    // For longer than the window it stays on the writer, since the reader has not got it.
    let asked = std::time::Instant::now();
    while asked.elapsed().as_millis() < 1500 {
        assert_eq!(client.query_value("SELECT count(*) FROM t"), "1");
    }
    reader.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    let reads = || komainu.metric("komainu_queries_total{server=\"pg2\",class=\"read\"}").unwrap_or(0.0);
    let before = reads();
    eventually(PATIENCE, "it is back on the reader", || {
        assert_eq!(client.query_value("SELECT count(*) FROM t"), "1");
        reads() > before
    });

    // A reader whose lag is beyond the limit gets none.
    reader.configure("aurora.lag", "20000").unwrap();
    reader.reload().unwrap();
    eventually(PATIENCE, "its lag is seen", || {
        komainu.metric("komainu_replication_lag_seconds{server=\"pg2\"}") == Some(20.0)
    });
    let before = reads();
    for _ in 0..20 {
        client.query_value("SELECT count(*) FROM t");
    }
    assert_eq!(reads(), before);
}

#[test]
fn the_writer_is_who_proves_it_and_nobody_writes_without_one() {
    let aurora = Aurora::start(2);
    let komainu = Komainu::builder(&aurora.cluster).config(&aurora.config()).start();
    becomes(&komainu, &[("pg1", "primary"), ("pg2", "standby"), ("pg3", "standby")]);
    let mut client = komainu.login(&aurora.database);
    inserts(&mut client, 1);

    // Each of the readers names another writer; the one that takes writes names itself.
    say(&aurora.servers()[1], "pg1,pg2*,pg3");
    say(&aurora.servers()[2], "pg1,pg2,pg3*");
    for n in 0..20 {
        inserts(&mut client, 100 + n);
    }
    // It takes writes, and says itself that another one is the writer.
    say(&aurora.servers()[0], "pg1,pg2*,pg3");
    eventually(PATIENCE, "it is the writer no more", || {
        komainu.metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
    });
    send(&mut client, "INSERT INTO t VALUES (2)");
    eventually(PATIENCE, "the client waits", || komainu.metric("komainu_clients_held") == Some(1.0));
    say(&aurora.servers()[0], "pg1*,pg2,pg3");
    assert_eq!(answer(&mut client), INSERTED);
    assert_eq!(aurora.rows(0, 2), "1");

    // Two of them prove it.
    say(&aurora.servers()[1], "pg1,pg2,pg3*");
    aurora.promote(1);
    say(&aurora.servers()[1], "pg1,pg2*,pg3");
    eventually(PATIENCE, "nobody is right", || komainu.log().contains("two_primaries"));
    send(&mut client, "INSERT INTO t VALUES (3)");
    eventually(PATIENCE, "the client waits", || komainu.metric("komainu_clients_held") == Some(1.0));
    assert_eq!((aurora.rows(0, 3), aurora.rows(1, 3)), ("0".to_owned(), "0".to_owned()));
    // AWS has decided.
    aurora.bring_back_as_reader(0);
    aurora.all_say("pg1,pg2*,pg3");
    assert_eq!(answer(&mut client), INSERTED);
    assert_eq!(aurora.rows(1, 3), "1");
}

#[test]
fn three_nodes_find_the_instances_and_follow_the_writer_through_an_outage_of_all() {
    let aurora = Aurora::start(2);
    let config = aurora.config();
    let nodes = Nodes::builder(3).config(&config).start(&aurora.cluster);
    let ids = nodes.ids();
    for id in &ids {
        becomes(nodes.node(id), &[("pg1", "primary"), ("pg2", "standby"), ("pg3", "standby")]);
    }
    let mut clients: Vec<_> = ids.iter().map(|id| nodes.node(id).login(&aurora.database)).collect();
    clients.iter_mut().for_each(|client| inserts(client, 1));
    aurora.cluster.servers().wait_for_replay().unwrap();

    let all = aurora.servers();
    all.iter().rev().for_each(|server| server.kill());
    // The addresses before them tell a little later.
    for id in &ids {
        eventually(PATIENCE, "the loss is seen", || {
            nodes.node(id).metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
        });
    }
    clients.iter_mut().for_each(|client| send(client, "INSERT INTO t VALUES (2)"));
    for id in &ids {
        eventually(PATIENCE, "its client waits", || {
            nodes.node(id).metric("komainu_clients_held") == Some(1.0)
        });
        assert_eq!(servers(nodes.node(id)).len(), 3, "nobody was taken out");
    }
    all[1].start().unwrap();
    aurora.promote(1);
    say(&all[1], "pg1,pg2*,pg3");
    for client in &mut clients {
        assert_eq!(answer(client), INSERTED);
    }
    assert_eq!(aurora.rows(1, 2), "3");
    for id in &ids {
        assert_eq!(nodes.status(id)["primary"], "pg2", "{}", nodes.status(id));
        assert_eq!(nodes.status(id)["epoch"], 2);
    }
    let refused = nodes.post(&nodes.leader(), "/switchover", &serde_json::json!({}));
    assert!(refused.body.contains("aws rds failover-db-cluster"), "{}", refused.body);

    // The instance that was configured is gone for good; who restarts finds the others in the log.
    say(&all[1], "pg2*,pg3");
    for id in &ids {
        eventually(PATIENCE, "it has left", || {
            servers(nodes.node(id)).iter().map(|(id, ..)| id.as_str()).eq(["pg2", "pg3"])
        });
    }
    let restarted = nodes.leader();
    nodes.node(&restarted).kill();
    nodes.node(&restarted).start_again();
    let node = nodes.node(&restarted);
    nodes.wait_until_ready(std::slice::from_ref(&restarted));
    eventually(PATIENCE, "it knows the writer", || {
        node.metric("komainu_primary{server=\"pg2\"}") == Some(1.0)
    });
    inserts(&mut node.login(&aurora.database), 3);
}
