//! A blue/green switchover as RDS makes it: another server, of another system identifier, takes the writer's name, and the
//! servers tell how far that has come.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use komainu::sandbox::Postgres;
use rustix::process::Signal;

use super::aurora::becomes;
use super::holding::{answer, send};
use super::lost_servers::told;
use crate::support::*;

const NAME: &str = "shop.test";
const INSERTED: [&str; 2] = ["C INSERT 0 1", "ZI"];
const HELD: &str = "komainu_clients_held";
/// What tells of a blue/green deployment, by AWS's own names for it: on RDS in the extension `rds_tools`, on Aurora in the
/// catalog. `rds.deployment` has how far its switchover has come, and is empty where there is none; `rds.endpoints` both sides'
/// names, the blue one's first.
const FUNCTIONS: &str = "
CREATE SCHEMA rds_tools;
CREATE FUNCTION rds_tools.show_topology(who text DEFAULT NULL)
  RETURNS TABLE (id text, endpoint text, port integer, role text, status text, version text)
  LANGUAGE sql STABLE AS
  $$ SELECT pg_catalog.md5(entry), entry, current_setting('port')::integer,
            CASE place WHEN 1 THEN 'BLUE_GREEN_DEPLOYMENT_SOURCE' ELSE 'BLUE_GREEN_DEPLOYMENT_TARGET' END,
            current_setting('rds.deployment'), '1.0'::text
       FROM unnest(string_to_array(current_setting('rds.endpoints', true), ',')) WITH ORDINALITY AS row (entry, place)
      WHERE current_setting('rds.deployment', true) <> '' $$;
CREATE FUNCTION pg_catalog.get_blue_green_fast_switchover_metadata(who text)
  RETURNS TABLE (id text, endpoint text, port integer, role text, status text, version text)
  LANGUAGE sql STABLE AS $$ SELECT * FROM rds_tools.show_topology(who) $$;
GRANT USAGE ON SCHEMA rds_tools TO PUBLIC;
";

/// What a server says of its deployment from now on.
fn says(server: &Postgres, status: &str) {
    server.configure("rds.deployment", status).unwrap();
    server.reload().unwrap();
    eventually(PATIENCE, "it says so", || {
        server.psql("postgres", "SHOW rds.deployment").is_ok_and(|said| said == status)
    });
}

fn takes_no_writes(server: &Postgres, value: &str) {
    server.configure("default_transaction_read_only", value).unwrap();
    server.reload().unwrap();
    eventually(PATIENCE, "it is so", || {
        server.psql("postgres", "SHOW default_transaction_read_only").is_ok_and(|shown| shown == value)
    });
}

/// Again and again since.
fn looked_at(server: &Postgres) {
    const TIMES: usize = 20;
    let last = "SELECT max(query_start) FROM pg_stat_activity WHERE application_name = 'komainu'";
    let mut seen = BTreeSet::new();
    eventually(PATIENCE, "it is looked at", || {
        seen.insert(server.psql("postgres", last).unwrap());
        seen.len() > TIMES
    });
}

fn dress(server: &Postgres) {
    server.psql("postgres", FUNCTIONS).unwrap();
    server.configure("rds.endpoints", &format!("{NAME},shop-green-x1.test")).unwrap();
    says(server, "");
}

/// Two servers with the same database, of which the green one follows the blue one by logical replication.
struct Deployment {
    blue: Cluster,
    green: Cluster,
    database: String,
}

impl Deployment {
    fn start() -> Deployment {
        let logical = || {
            Cluster::start_with(0, |options| {
                options.settings.push(("wal_level".to_owned(), "logical".to_owned()));
            })
        };
        let (blue, green) = (logical(), logical());
        let database = blue.database();
        let create = format!("CREATE DATABASE {database} OWNER {APP_USER}");
        green.primary().psql("postgres", &create).unwrap();
        for side in [blue.primary(), green.primary()] {
            side.psql(&database, "CREATE TABLE t (n int PRIMARY KEY)").unwrap();
            side.psql(&database, "GRANT ALL ON t TO PUBLIC").unwrap();
            dress(side);
        }
        let (from, to) = (blue.primary(), green.primary());
        from.psql(&database, "CREATE PUBLICATION all_of_it FOR ALL TABLES").unwrap();
        let conninfo = format!(
            "host=127.0.0.1 port={} user=postgres password=''{}'' dbname={database}",
            from.port(),
            from.password().replace('\'', r"\''")
        );
        let follow = format!("CREATE SUBSCRIPTION blue CONNECTION '{conninfo}' PUBLICATION all_of_it");
        to.psql(&database, &follow).unwrap();
        Deployment { blue, green, database }
    }

    fn rows(&self, side: &Cluster) -> u32 {
        side.primary().psql(&self.database, "SELECT count(*) FROM t").unwrap().parse().unwrap()
    }

    /// Nobody writes to the blue side any more: the green one has all, and is on its own.
    fn hand_over(&self) {
        eventually(PATIENCE, "the green side has all", || self.rows(&self.green) == self.rows(&self.blue));
        self.green.primary().psql(&self.database, "DROP SUBSCRIPTION blue").unwrap();
    }

    fn both_say(&self, status: &str) {
        says(self.blue.primary(), status);
        says(self.green.primary(), status);
    }
}

#[test]
fn clients_wait_while_the_green_side_takes_the_name_and_none_sees_an_error() {
    const CLIENTS: u32 = 8;
    let deployment = Deployment::start();
    let (blue, green) = (deployment.blue.primary(), deployment.green.primary());
    let managed = Managed::start(&[blue.port(), green.port()]);
    managed.point(NAME, 0);
    let server = format!("[[server]]\nid = \"shop\"\nhost = \"{NAME}\"\nport = {}\n", managed.port());
    let komainu = Komainu::builder(&deployment.blue)
        .config("[failover]\nmode = \"rds\"\n")
        .config(&managed.dns())
        .config(&server)
        .start();
    let (next, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    let acknowledged = AtomicU32::new(0);
    let all_wait = || komainu.metric(HELD) == Some(f64::from(CLIENTS));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (komainu, deployment) = (&komainu, &deployment);
            let (next, acknowledged, is_over) = (&next, &acknowledged, &is_over);
            scope.spawn(move || {
                let mut wire = komainu.login(&deployment.database);
                while !is_over.load(Ordering::Relaxed) {
                    let row = next.fetch_add(1, Ordering::Relaxed);
                    let insert = format!("INSERT INTO t VALUES ({row})");
                    if client % 2 == 0 {
                        send(&mut wire, &insert);
                        assert_eq!(answer(&mut wire), INSERTED);
                    } else {
                        send(&mut wire, "BEGIN");
                        assert_eq!(answer(&mut wire), ["C BEGIN", "ZT"]);
                        assert_eq!(told(&wire.query(&insert)), ["C INSERT 0 1", "ZT"]);
                        assert_eq!(told(&wire.query("COMMIT")), ["C COMMIT", "ZI"]);
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let writes_on = |more: u32| {
            let before = acknowledged.load(Ordering::Relaxed);
            eventually(PATIENCE, "rows are written", || {
                acknowledged.load(Ordering::Relaxed) >= before + more
            });
        };
        writes_on(50);
        deployment.both_say("AVAILABLE");
        deployment.both_say("SWITCHOVER_INITIATED");
        writes_on(50);

        // Begun and called off.
        deployment.both_say("SWITCHOVER_IN_PROGRESS");
        eventually(PATIENCE, "all wait", all_wait);
        komainu.says("switching_over");
        deployment.both_say("AVAILABLE");
        writes_on(50);

        deployment.both_say("SWITCHOVER_INITIATED");
        deployment.both_say("SWITCHOVER_IN_PROGRESS");
        eventually(PATIENCE, "all wait", all_wait);
        // Only now, when nothing is in flight, does AWS cut the blue side off.
        takes_no_writes(blue, "on");
        let end = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{APP_USER}'"
        );
        blue.psql("postgres", &end).unwrap();
        deployment.hand_over();
        deployment.both_say("SWITCHOVER_IN_POST_PROCESSING");
        // The name is stale, and the blue side looks as if it took writes.
        takes_no_writes(blue, "off");
        deployment.both_say("SWITCHOVER_COMPLETED");
        looked_at(blue);
        assert!(all_wait());
        managed.point(NAME, 1);
        writes_on(50);
        is_over.store(true, Ordering::Relaxed);
    });
    let written = acknowledged.load(Ordering::Relaxed);
    assert_eq!(deployment.rows(&deployment.green), written, "each row once");
    let of_both = "SELECT system_identifier FROM pg_control_system()";
    assert_ne!(blue.psql("postgres", of_both).unwrap(), green.psql("postgres", of_both).unwrap());
    assert_eq!(komainu.metric("komainu_primary{server=\"shop\"}"), Some(1.0));
}

#[test]
fn three_nodes_go_on_with_the_green_side_and_never_with_the_blue_one_whatever_it_says_then() {
    let deployment = Deployment::start();
    let (blue, green) = (deployment.blue.primary(), deployment.green.primary());
    let managed = Managed::start(&[blue.port(), green.port()]);
    managed.point(NAME, 0);
    let server = format!("[[server]]\nid = \"shop\"\nhost = \"{NAME}\"\nport = {}\n", managed.port());
    let nodes = Nodes::builder(3)
        .patient()
        .config("[failover]\nmode = \"rds\"\n")
        .config(&managed.dns())
        .config(&server)
        .start(&deployment.blue);
    let ids = nodes.ids();
    let mut clients: Vec<_> = ids.iter().map(|id| nodes.node(id).login(&deployment.database)).collect();
    for (client, row) in clients.iter_mut().zip(0..) {
        assert_eq!(told(&client.query(&format!("INSERT INTO t VALUES ({row})"))), INSERTED);
    }
    deployment.both_say("SWITCHOVER_INITIATED");
    deployment.both_say("SWITCHOVER_IN_PROGRESS");
    for id in &ids {
        eventually(PATIENCE, "every node has seen it", || nodes.node(id).log().contains("switching_over"));
    }
    for (client, row) in clients.iter_mut().zip(10..) {
        send(client, &format!("INSERT INTO t VALUES ({row})"));
    }
    let all_wait = || ids.iter().all(|id| nodes.node(id).metric(HELD) == Some(1.0));
    eventually(PATIENCE, "all wait", all_wait);
    takes_no_writes(blue, "on");
    deployment.hand_over();
    deployment.both_say("SWITCHOVER_IN_POST_PROCESSING");
    takes_no_writes(blue, "off");
    deployment.both_say("SWITCHOVER_COMPLETED");
    looked_at(blue);
    // The deployment is no more, and the name is stale still.
    deployment.both_say("");
    looked_at(blue);
    assert!(all_wait());
    managed.point(NAME, 1);
    for client in &mut clients {
        assert_eq!(answer(client), INSERTED);
    }
    assert_eq!((deployment.rows(&deployment.green), deployment.rows(&deployment.blue)), (6, 3));
    let leader = nodes.leader();
    nodes.node(&leader).kill();
    nodes.node(&leader).start_again();
    nodes.wait_until_ready(&ids);
    for (id, row) in ids.iter().zip(20..) {
        let mut client = nodes.node(id).login(&deployment.database);
        send(&mut client, &format!("INSERT INTO t VALUES ({row})"));
        assert_eq!(answer(&mut client), INSERTED);
    }
    assert_eq!(deployment.rows(&deployment.green), 9);
}

#[test]
fn instances_of_aurora_tell_of_a_switchover_by_a_function_of_their_own() {
    let cluster = Cluster::start(0);
    dress_as_aurora(&cluster);
    let writer = cluster.primary();
    dress(writer);
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let komainu = Komainu::builder(&cluster)
        .config("[failover]\nmode = \"aurora\"\n[aurora]\ninstance_endpoint = \"?.aurora.test\"\n")
        .start();
    becomes(&komainu, &[("pg1", "primary")]);
    let mut client = komainu.login(&database);
    says(writer, "SWITCHOVER_IN_PROGRESS");
    eventually(PATIENCE, "it is seen", || komainu.log().contains("switching_over"));
    send(&mut client, "INSERT INTO t VALUES (1)");
    eventually(PATIENCE, "it waits", || komainu.metric(HELD) == Some(1.0));
    // As an instance that has the same name, and another life, and that has never said anything else.
    komainu.signal(Signal::STOP);
    writer.restart().unwrap();
    says(writer, "SWITCHOVER_IN_POST_PROCESSING");
    komainu.signal(Signal::CONT);
    assert_eq!(answer(&mut client), INSERTED);
}

#[test]
fn a_function_that_fails_or_may_not_be_asked_changes_nothing() {
    let cluster = Cluster::start(0);
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let server = cluster.primary();
    dress(server);
    // A status that nobody knows yet.
    says(server, "SWITCHOVER_SIDEWAYS");
    let komainu = Komainu::builder(&cluster).config("[failover]\nmode = \"rds\"\n").start();
    let mut client = komainu.login(&database);
    assert_eq!(told(&client.query("INSERT INTO t VALUES (1)")), INSERTED);
    let broken = "CREATE OR REPLACE FUNCTION rds_tools.show_topology(who text DEFAULT NULL) \
        RETURNS TABLE (id text, endpoint text, port integer, role text, status text, version text) \
        LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $x$not today$x$; END'";
    server.psql("postgres", broken).unwrap();
    eventually(PATIENCE, "it was asked", || {
        std::fs::read_to_string(server.log_file()).unwrap().contains("not today")
    });
    assert_eq!(told(&client.query("INSERT INTO t VALUES (2)")), INSERTED);
    assert_eq!(komainu.metric("komainu_primary{server=\"pg1\"}"), Some(1.0));
}
