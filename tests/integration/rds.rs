//! Before servers that somebody else promotes, restarts and renames, as RDS does: the writer is who says so, whatever a name
//! leads to, and clients that wait go on.

use std::fs;
use std::time::Duration;

use komainu::sandbox::{Postgres, StopMode};
use rustix::process::Signal;
use serde_json::json;

use super::holding::{answer, cluster_url, send};
use super::lost_servers::told;
use super::tls::speak_tls;
use crate::support::*;

const MODE: &str = "[failover]\nmode = \"rds\"\n";
const NAME: &str = "shop.test";
const INSERTED: [&str; 2] = ["C INSERT 0 1", "ZI"];

/// One node before one name, which leads to the first of these addresses.
fn behind_a_name(cluster: &Cluster, managed: &Managed, more: &str) -> Komainu {
    managed.point(NAME, 0);
    let server = format!("[[server]]\nid = \"shop\"\nhost = \"{NAME}\"\nport = {}\n", managed.port());
    let timeouts =
        "[health]\ntimeout_ms = 500\nconnect_timeout_ms = 1000\n[pool]\nconnect_timeout_ms = 1000\n";
    Komainu::builder(cluster)
        .config(MODE)
        .config(timeouts)
        .config(&managed.dns())
        .config(&server)
        .config(more)
        .start()
}

fn table(cluster: &Cluster) -> String {
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    database
}

fn count(server: &Postgres, database: &str, n: u32) -> String {
    server.psql(database, &format!("SELECT count(*) FROM t WHERE n = {n}")).unwrap()
}

/// As AWS brings an old writer back: as a reader.
fn demote(server: &Postgres) {
    server.stop(StopMode::Fast).unwrap();
    fs::write(server.data_directory().join("standby.signal"), "").unwrap();
    server.start().unwrap();
}

#[track_caller]
fn epoch(komainu: &Komainu) -> f64 {
    komainu.metric("komainu_epoch").unwrap()
}

#[track_caller]
fn inserts(wire: &mut Wire, n: u32) {
    assert_eq!(told(&wire.query(&format!("INSERT INTO t VALUES ({n})"))), INSERTED);
}

#[track_caller]
fn inserts_in_transaction(wire: &mut Wire, n: u32) {
    assert_eq!(told(&wire.query(&format!("INSERT INTO t VALUES ({n})"))), ["C INSERT 0 1", "ZT"]);
}

#[test]
fn the_same_storage_on_another_host_begins_an_epoch_once_the_stale_name_leads_there() {
    let cluster = Cluster::start(0);
    let database = table(&cluster);
    let port = cluster.primary().port();
    let managed = Managed::start(&[port, port]);
    let komainu = behind_a_name(&cluster, &managed, "");
    let (mut idle, mut open) = (komainu.login(&database), komainu.login(&database));
    inserts(&mut idle, 1);
    open.query("BEGIN");
    open.query("INSERT INTO t VALUES (9)");
    let before = epoch(&komainu);

    // The host has no power any more; the other one recovers from the same storage.
    managed.address(0).vanish();
    cluster.primary().kill();
    cluster.primary().start().unwrap();
    managed.records.set_after(NAME, Some(managed.address(1).ip()), Duration::from_secs(8));
    eventually(PATIENCE, "the silence is noticed", || {
        komainu.metric("komainu_primary{server=\"shop\"}") == Some(0.0)
    });
    send(&mut idle, "INSERT INTO t VALUES (2)");
    send(&mut open, "COMMIT");
    let lost = answer(&mut open);
    assert!(lost[0].starts_with("ERROR 08"), "{lost:?}");
    assert_eq!(answer(&mut idle), INSERTED);
    assert!(epoch(&komainu) > before);
    inserts(&mut open, 3);
    for (n, rows) in [(1, "1"), (2, "1"), (3, "1"), (9, "0")] {
        assert_eq!(count(cluster.primary(), &database, n), rows, "{n}");
    }
}

/// However patient one is with servers that take long to answer.
#[test]
fn a_silent_host_is_waited_for_no_longer_than_the_name_leads_there() {
    let cluster = Cluster::start(0);
    let database = table(&cluster);
    let port = cluster.primary().port();
    let managed = Managed::start(&[port, port]);
    managed.point(NAME, 0);
    let server = format!("[[server]]\nid = \"shop\"\nhost = \"{NAME}\"\nport = {}\n", managed.port());
    let komainu = Komainu::builder(&cluster)
        .config(MODE)
        .config("[health]\ntimeout_ms = 500\nconnect_timeout_ms = 300000\n")
        .config(&managed.dns())
        .config(&server)
        .start();
    let mut client = komainu.login(&database);
    inserts(&mut client, 1);
    let before = epoch(&komainu);
    managed.address(0).vanish();
    let made = managed.address(0).connections();
    cluster.primary().kill();
    cluster.primary().start().unwrap();
    eventually(PATIENCE, "a new connection is waited for", || managed.address(0).connections() > made);
    managed.point(NAME, 1);
    eventually(PATIENCE, "the other host is found", || epoch(&komainu) > before);
    komainu.says("the name leads elsewhere");
    inserts(&mut komainu.login(&database), 2);
}

#[test]
fn a_read_replica_that_somebody_promotes_is_a_copy_and_is_not_written_to() {
    let cluster = Cluster::start(1);
    let database = table(&cluster);
    let komainu = Komainu::builder(&cluster).config(MODE).start();
    let mut client = komainu.login(&database);
    inserts(&mut client, 1);
    cluster.servers().wait_for_replay().unwrap();
    let before = epoch(&komainu);
    cluster.standby(0).promote().unwrap();
    eventually(PATIENCE, "it is seen", || komainu.log().contains("second_primary"));
    for _ in 0..20 {
        inserts(&mut client, 2);
        inserts(&mut komainu.login(&database), 2);
    }
    assert_eq!(epoch(&komainu), before);
    assert_eq!(count(cluster.primary(), &database, 2), "40");
    assert_eq!(count(cluster.standby(0), &database, 2), "0");
}

#[test]
fn a_demoted_server_at_a_stale_name_is_never_written_to() {
    let cluster = Cluster::start(1);
    let database = table(&cluster);
    let (old, new) = (cluster.primary(), cluster.standby(0));
    let managed = Managed::start(&[old.port(), new.port()]);
    let komainu = behind_a_name(&cluster, &managed, "");
    let mut clients: Vec<_> = (0..3).map(|_| komainu.login(&database)).collect();
    clients.iter_mut().for_each(|client| inserts(client, 1));
    cluster.servers().wait_for_replay().unwrap();
    let before = epoch(&komainu);

    demote(old);
    new.promote().unwrap();
    clients.iter_mut().for_each(|client| send(client, "INSERT INTO t VALUES (2)"));
    eventually(PATIENCE, "it is seen to be no writer", || komainu.log().contains("role=Standby"));
    eventually(PATIENCE, "all wait", || komainu.metric("komainu_clients_held") == Some(3.0));
    managed.point(NAME, 1);
    for client in &mut clients {
        assert_eq!(answer(client), INSERTED);
    }
    assert!(epoch(&komainu) > before);
    komainu.says("the name leads elsewhere");
    assert_eq!(count(new, &database, 2), "3");
    assert_eq!(count(old, &database, 2), "0");
}

/// The probe keeps the connection that it has, to the server that writes.
#[test]
fn a_connection_that_leads_to_a_standby_is_closed_before_a_client_s_word_goes_to_it() {
    let cluster = Cluster::start(1);
    let database = table(&cluster);
    let (writer, reader) = (cluster.primary(), cluster.standby(0));
    let managed = Managed::start(&[writer.port()]);
    let komainu = behind_a_name(&cluster, &managed, "");
    let mut busy = komainu.login(&database);
    busy.query("BEGIN");
    inserts_in_transaction(&mut busy, 1);
    managed.address(0).lead_to(reader.port());
    let mut client = komainu.login(&database);
    send(&mut client, "BEGIN");
    eventually(PATIENCE, "it waits", || komainu.metric("komainu_clients_held") == Some(1.0));
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{APP_USER}'");
    eventually(PATIENCE, "nothing is kept there", || reader.psql("postgres", &there).unwrap() == "0");
    managed.address(0).lead_to(writer.port());
    assert_eq!(answer(&mut client), ["C BEGIN", "ZT"]);
    for wire in [&mut client, &mut busy] {
        inserts_in_transaction(wire, 2);
        assert_eq!(told(&wire.query("COMMIT")), ["C COMMIT", "ZI"]);
    }
    assert_eq!(count(writer, &database, 2), "2");
}

#[test]
fn of_fifty_clients_only_those_in_flight_hear_of_another_writer_and_each_once() {
    let cluster = Cluster::start(1);
    let database = table(&cluster);
    let (old, new) = (cluster.primary(), cluster.standby(0));
    let managed = Managed::start(&[old.port(), new.port()]);
    let komainu = behind_a_name(&cluster, &managed, "");
    let clients = |count: usize| (0..count).map(|_| komainu.login(&database)).collect::<Vec<_>>();
    let (mut between, mut open, mut asking) = (clients(30), clients(12), clients(8));
    between.iter_mut().for_each(|client| inserts(client, 1));
    for client in &mut open {
        client.query("BEGIN");
        assert_eq!(told(&client.query("INSERT INTO t VALUES (2)")), ["C INSERT 0 1", "ZT"]);
    }
    asking.iter_mut().for_each(|client| send(client, "INSERT INTO t SELECT 3 FROM pg_sleep(600)"));
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep'";
    eventually(PATIENCE, "eight are being answered", || old.psql(&database, asked).unwrap() == "8");
    cluster.servers().wait_for_replay().unwrap();

    old.kill();
    between.iter_mut().for_each(|client| send(client, "INSERT INTO t VALUES (4)"));
    eventually(PATIENCE, "who is between transactions waits", || {
        komainu.metric("komainu_clients_held") == Some(30.0)
    });
    new.promote().unwrap();
    managed.point(NAME, 1);
    for client in &mut between {
        assert_eq!(answer(client), INSERTED);
    }
    for client in &mut open {
        assert_eq!(told(&client.query("COMMIT")), ["ERROR 08006", "ZI"]);
    }
    for client in &mut asking {
        assert_eq!(answer(client), ["ERROR 08007", "ZI"]);
    }
    for client in between.iter_mut().chain(&mut open).chain(&mut asking) {
        inserts(client, 5);
    }
    for (n, rows) in [(1, "30"), (2, "0"), (3, "0"), (4, "30"), (5, "50")] {
        assert_eq!(count(new, &database, n), rows, "{n}");
    }
}

#[test]
fn a_writer_that_takes_no_writes_by_its_configuration_is_none_and_a_roles_own_setting_says_nothing() {
    let cluster = Cluster::start(0);
    let database = table(&cluster);
    let primary = cluster.primary();
    primary.psql(&database, "CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT ALL ON t TO reader").unwrap();
    primary.psql("postgres", "ALTER ROLE reader SET default_transaction_read_only = on").unwrap();
    let managed = Managed::start(&[primary.port()]);
    // Rarely looked at, so that traffic sees it first.
    let komainu = Komainu::builder(&cluster)
        .user("reader", "r")
        .config(MODE)
        .config(&managed.dns())
        .config("[health]\nperiod_ms = 5000\n");
    managed.point(NAME, 0);
    let server = format!("[[server]]\nid = \"shop\"\nhost = \"{NAME}\"\nport = {}\n", managed.port());
    let komainu = komainu.config(&server).start();
    let mut client = komainu.login(&database);
    inserts(&mut client, 1);
    let mut prepared = komainu.login(&database);
    let insert = "INSERT INTO t VALUES ($1::int)";
    prepared.pipeline(Pipeline::new().parse("i", insert).sync());

    // As on the blue side of a blue/green switchover.
    let read_only = |value: &str| {
        primary.configure("default_transaction_read_only", value).unwrap();
        primary.reload().unwrap();
        let url = cluster_url(&cluster, &database);
        let shown = || psql(&url, &["SHOW default_transaction_read_only"]).output();
        eventually(PATIENCE, "it is so", || shown() == value);
    };
    read_only("on");
    send(&mut client, "INSERT INTO t VALUES (2)");
    // The same by the extended protocol.
    prepared.send_pipeline(Pipeline::new().run("i", &["2"]));
    eventually(PATIENCE, "they wait", || komainu.metric("komainu_clients_held") == Some(2.0));
    eventually(PATIENCE, "it is seen", || komainu.log().contains("primary_read_only"));
    read_only("off");
    assert_eq!(answer(&mut client), INSERTED);
    assert_eq!(told(&prepared.until('Z')), ["2", "C INSERT 0 1", "ZI"]);
    assert_eq!(count(primary, &database, 2), "2");

    // Who may not write, or does not want to, hears it.
    let mut reader = komainu.wire();
    reader.login("reader", "r", &database);
    assert_eq!(told(&reader.query("INSERT INTO t VALUES (3)")), ["ERROR 25006", "ZI"]);
    let refused = reader.pipeline(Pipeline::new().parse("", insert).run("", &["3"]));
    assert_eq!(refused.iter().find(|message| message.tag == 'E').unwrap().sqlstate(), "25006");
    client.query("SET default_transaction_read_only = on");
    assert_eq!(told(&client.query("INSERT INTO t VALUES (3)")), ["ERROR 25006", "ZI"]);
    client.query("SET default_transaction_read_only = off");
    inserts(&mut client, 4);
    assert_eq!(count(primary, &database, 3), "0");
    // Nor does a setting of the role that looks make the server another one.
    primary.psql("postgres", "ALTER ROLE postgres SET default_transaction_read_only = on").unwrap();
    komainu.reload("komainu.toml", "period_ms = 5000", "period_ms = 100");
    let looks = komainu.log().matches("configuration reloaded").count();
    assert!(looks > 0);
    for n in 0..50 {
        inserts(&mut client, 100 + n);
    }
    assert_eq!(komainu.metric("komainu_primary{server=\"shop\"}"), Some(1.0));
}

#[test]
fn three_nodes_follow_the_writer_and_refuse_to_make_one() {
    let cluster = Cluster::start(2);
    let database = table(&cluster);
    let nodes = Nodes::builder(3).config(MODE).start(&cluster);
    let ids = nodes.ids();
    let leader = nodes.leader();
    let mut clients: Vec<_> = ids.iter().map(|id| nodes.node(id).login(&database)).collect();
    clients.iter_mut().for_each(|client| inserts(client, 1));
    cluster.servers().wait_for_replay().unwrap();

    for (path, body) in [
        ("/switchover", json!({})),
        ("/failover", json!({ "to": "pg2" })),
        ("/server/administrative", json!({ "id": "pg1", "state": "detached" })),
        ("/server/administrative", json!({ "id": "pg1", "state": "draining" })),
        ("/server/restart", json!({})),
    ] {
        let refused = nodes.post(&leader, path, &body);
        assert_eq!(refused.status, 409, "{path}: {}", refused.body);
        assert!(refused.body.contains("AWS does the failover in this mode"), "{path}: {}", refused.body);
    }

    // All are down for a while, and another one comes back as the writer.
    let servers = cluster.servers().all();
    servers[2].stop(StopMode::Fast).unwrap();
    servers[1].stop(StopMode::Fast).unwrap();
    servers[0].kill();
    clients.iter_mut().for_each(|client| send(client, "INSERT INTO t VALUES (2)"));
    for id in &ids {
        eventually(PATIENCE, "its client waits", || {
            nodes.node(id).metric("komainu_clients_held") == Some(1.0)
        });
    }
    servers[1].start().unwrap();
    servers[1].promote().unwrap();
    demote_dead(&servers[0]);
    for client in &mut clients {
        assert_eq!(answer(client), INSERTED);
    }
    assert_eq!(count(&servers[1], &database, 2), "3");
    for id in &ids {
        eventually(PATIENCE, "the other one is the primary", || {
            let status = nodes.status(id);
            status["epoch"] == 2 && status["primary"] == "pg2"
        });
    }

    // The same server started anew is another life, which ends what was connected to it.
    servers[1].restart().unwrap();
    clients.iter_mut().for_each(|client| inserts_again(client, 3));
    for id in &ids {
        eventually(PATIENCE, "a new epoch of the same server", || {
            let status = nodes.status(id);
            status["epoch"] == 3 && status["primary"] == "pg2"
        });
    }
    let events = nodes.node(&leader).admin("/events").unwrap().body;
    // By whichever is seen first: that it is gone, or that it is there again.
    assert!(["writer_gone", "writer_replaced"].iter().any(|reason| events.contains(reason)), "{events}");
}

/// It may take the connection that the restart has closed, and says so.
#[track_caller]
fn inserts_again(wire: &mut Wire, n: u32) {
    let mut said = Vec::new();
    for _ in 0..3 {
        said = told(&wire.query(&format!("INSERT INTO t VALUES ({n})")));
        if said == INSERTED {
            return;
        }
        assert!(said[0].starts_with("ERROR 08"), "{said:?}");
    }
    panic!("{said:?}");
}

fn demote_dead(server: &Postgres) {
    fs::write(server.data_directory().join("standby.signal"), "").unwrap();
    server.start().unwrap();
}

/// The bound of one node: a burst of a second's, and then so many each second.
#[test]
fn a_thousand_clients_that_waited_are_no_storm_on_the_new_writer() {
    const CLIENTS: u32 = 1000;
    const POOL: usize = 40;
    const RATE: usize = 5;
    /// How much later than another one a login may be served on a busy machine.
    const LATE_S: f64 = 4.0;
    let cluster = Cluster::start(1);
    let database = table(&cluster);
    let pools = format!("[pool]\nsize = {POOL}\nconnect_rate = {RATE}\nacquire_timeout_ms = 120000\n");
    let komainu = Komainu::builder(&cluster).config(MODE).config(&pools).start();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| komainu.login(&database)).collect();
    cluster.servers().wait_for_replay().unwrap();
    let new = cluster.standby(0);
    new.configure("log_connections", "on").unwrap();
    new.configure("log_line_prefix", "%n ").unwrap();
    new.reload().unwrap();

    cluster.primary().kill();
    // Long enough for each to want a connection of its own.
    let insert = "INSERT INTO t SELECT 1 FROM pg_sleep(0.1)";
    clients.iter_mut().for_each(|client| send(client, insert));
    eventually(PATIENCE, "all wait", || komainu.metric("komainu_clients_held") == Some(f64::from(CLIENTS)));
    new.promote().unwrap();
    for client in &mut clients {
        assert_eq!(answer(client), INSERTED);
    }
    assert_eq!(count(new, &database, 1), CLIENTS.to_string());
    let log = fs::read_to_string(new.log_file()).unwrap();
    let ours = format!("connection authorized: user={APP_USER} database={database}");
    let opened = log.lines().filter(|line| line.contains(&ours));
    let opened: Vec<f64> = opened.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!((2 * RATE..=POOL).contains(&opened.len()), "{opened:?}");
    for (from, first) in opened.iter().enumerate() {
        for (to, last) in opened.iter().enumerate().skip(from) {
            let allowed = RATE as f64 * (1.0 + last - first + LATE_S) + 1.0;
            assert!((to - from + 1) as f64 <= allowed, "from {first} to {last}: {opened:?}");
        }
    }
}

#[test]
fn a_new_writer_whose_certificate_is_not_of_the_bundle_gets_no_word_and_it_is_said() {
    let cluster = Cluster::start(1);
    let database = table(&cluster);
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ours = Certificates::create(here.path());
    let strangers = Certificates::create_named(elsewhere.path(), "another authority");
    let (old, new) = (cluster.primary(), cluster.standby(0));
    speak_tls(old, ours.server("old"));
    speak_tls(new, strangers.server("new"));
    cluster.servers().wait_for_replay().unwrap();
    let bundle = ours.authority_file();
    let tls = format!("[server_tls]\nmode = \"verify-full\"\nca_file = {bundle:?}\n");
    let limits = "[limits]\nhold_timeout_ms = 3000\n[health]\ntimeout_ms = 1000\n";
    let komainu = Komainu::builder(&cluster).config(MODE).config(&tls).config(limits).start();
    let mut client = komainu.login(&database);
    inserts(&mut client, 1);
    cluster.servers().wait_for_replay().unwrap();
    let status = || komainu.admin("/status").unwrap().body;
    eventually(PATIENCE, "it is said of the reader already", || status().contains("tls_failed"));
    assert!(status().contains("invalid peer certificate: UnknownIssuer"), "{}", status());
    new.configure("log_connections", "on").unwrap();
    new.reload().unwrap();

    old.kill();
    new.promote().unwrap();
    let refused = client.query("INSERT INTO t VALUES (2)");
    assert_eq!(told(&refused), ["ERROR 57P03", "ZI"]);
    new.psql("postgres", "SELECT 1").unwrap();
    let message = refused[0].field('M');
    assert!(message.contains("within 3000 ms"), "{message}");
    let doctor = komainu.admin("/doctor").unwrap().body;
    assert!(doctor.contains("no TLS connection to the server could be made"), "{doctor}");
    let log = fs::read_to_string(new.log_file()).unwrap();
    let komainus = "application_name=komainu";
    assert!(log.contains("connection authorized") && !log.contains(komainus), "it logged in there:\n{log}");

    // Clients go on once the bundle has its authority.
    fs::write(&bundle, [ours.authority_pem(), strangers.authority_pem()].concat()).unwrap();
    komainu.signal(Signal::HUP);
    eventually(PATIENCE, "it is believed", || told(&client.query("INSERT INTO t VALUES (3)")) == INSERTED);
    assert_eq!((count(new, &database, 2), count(new, &database, 3)), ("0".to_owned(), "1".to_owned()));
}
