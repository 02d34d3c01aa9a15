//! A standby that reads the primary's archive is a server of the cluster: looked at, told nothing, promoted last.

use serde_json::{Value, json};

use super::failover::one_at_a_time;
use super::holding::{answer, send};
use super::lost_servers::told;
use crate::support::*;

fn texts(failover: &Failover, node: &str, reason: &str) -> Vec<String> {
    let page = failover.nodes.node(node).admin("/events?limit=1000").unwrap();
    let page: Value = serde_json::from_str(&page.body).unwrap();
    let events = page["events"].as_array().unwrap().iter();
    events
        .filter(|event| event["reason"] == reason)
        .map(|event| event["text"].as_str().unwrap().to_owned())
        .collect()
}

/// Ends the segment, and waits until the standby has replayed it from the archive.
#[track_caller]
fn ship(failover: &Failover, primary: &str, standby: &str) {
    let end = failover.server(primary).psql("postgres", "SELECT pg_switch_wal()").unwrap();
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn");
    eventually(REJOINED_WITHIN, "the standby replays what was archived", || {
        failover.server(standby).psql("postgres", &replayed).is_ok_and(|is| is == "t")
    });
}

fn rows(failover: &Failover, server: &str, database: &str) -> String {
    failover.server(server).psql(database, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t").unwrap()
}

/// With a table of one row.
fn with_database(failover: &Failover) -> String {
    let primary = failover.cluster.primary();
    primary.psql("postgres", &format!("CREATE DATABASE shop OWNER {APP_USER}")).unwrap();
    primary.psql("shop", "CREATE TABLE t AS SELECT 1 AS n; GRANT ALL ON t TO PUBLIC").unwrap();
    "shop".to_owned()
}

#[track_caller]
fn stands_still(failover: &Failover, reason: &str) {
    for node in failover.nodes.ids() {
        eventually(PATIENCE, "it says why it promotes nobody", || {
            failover.nodes.status(&node)["failover"]["standstill"] == reason
        });
    }
}

#[test]
fn it_is_promoted_by_order_when_none_that_streams_is_left_and_it_is_told_what_is_lost() {
    let _one = one_at_a_time();
    let failover = Failover::builder().log_shipped("pg3").without_agents().start();
    let database = with_database(&failover);
    let ids = failover.nodes.ids();
    let primary = failover.cluster.primary();
    ship(&failover, "pg1", "pg3");
    let settings = "SELECT current_setting('primary_conninfo') || current_setting('primary_slot_name')";
    let slots = |server: &str| {
        let names = "SELECT string_agg(slot_name, ' ' ORDER BY 1) FROM pg_replication_slots";
        failover.server(server).psql("postgres", names).unwrap()
    };
    assert_eq!(slots("pg1"), "komainu_pg2", "nothing keeps WAL for it");
    let pg3 = failover.server_by("node1", "pg3");
    assert_eq!((&pg3["replication_state"], &pg3["says"]), (&json!("archive"), &json!("standby")), "{pg3}");
    let archive = failover.server_by("node1", "pg1")["archive"].clone();
    assert!(
        archive["last"].is_string() && archive["age_ms"].is_u64() && archive["fails"] == false,
        "{archive}"
    );
    let age = failover.nodes.node("node1").metric("komainu_archive_age_seconds{server=\"pg1\"}");
    assert!(age.is_some_and(|age| age < 3600.0), "{age:?}");

    // The one that streams is promoted. The other is told nothing, and finds the new timeline in the archive.
    let mut client = failover.nodes.node("node2").login(&database);
    primary.kill();
    assert_eq!(failover.primary_above(1, &ids), ("pg2".to_owned(), 2));
    send(&mut client, "INSERT INTO t VALUES (2)");
    assert_eq!(answer(&mut client), ["C INSERT 0 1", "ZI"]);
    ship(&failover, "pg2", "pg3");
    failover.server("pg2").psql("postgres", "CHECKPOINT").unwrap();
    ship(&failover, "pg2", "pg3");
    eventually(REJOINED_WITHIN, "it is on the new timeline", || {
        let pg3 = failover.server_by("node1", "pg3");
        pg3["timeline"] == 2 && pg3["role"] == "standby" && pg3["administrative"] == "attached"
    });
    assert_eq!(failover.server("pg3").psql("postgres", settings).unwrap(), "");
    assert!(!slots("pg2").contains("pg3"), "{}", slots("pg2"));

    // What is not in the archive is lost with the last one that streams.
    assert_eq!(told(&client.query("INSERT INTO t VALUES (3)")), ["C INSERT 0 1", "ZI"]);
    failover.server("pg2").kill();
    stands_still(&failover, "only_log_shipped");
    let is_standby = "SELECT pg_is_in_recovery()";
    assert_eq!(failover.server("pg3").psql("postgres", is_standby).unwrap(), "t");
    let begun = failover.nodes.post("node1", "/failover", &json!({}));
    assert_eq!(begun.status, 200, "{}", begun.body);
    assert_eq!(failover.primary_above(2, &ids), ("pg3".to_owned(), 3));
    let mut client = failover.nodes.node("node3").login(&database);
    assert_eq!(told(&client.query("INSERT INTO t VALUES (4)")), ["C INSERT 0 1", "ZI"]);
    assert_eq!(rows(&failover, "pg3", &database), "1 2 4");
    let notes = texts(&failover, "node1", "last_resort");
    let note = notes.iter().find(|text| text.starts_with("pg3 reads the archive")).unwrap();
    assert!(note.contains("pg2 was last seen at") && note.contains("it archived 00000002"), "{note}");
}

#[test]
fn it_is_promoted_without_an_order_by_consent_and_the_old_primary_follows_it() {
    let _one = one_at_a_time();
    let failover =
        Failover::builder().standbys(1).log_shipped("pg2").failover("promote_log_shipped = true").start();
    let database = with_database(&failover);
    let primary = failover.cluster.primary();
    ship(&failover, "pg1", "pg2");
    let refused = failover.nodes.post("node1", "/switchover", &json!({ "to": "pg2" }));
    assert!(
        refused.status == 409 && refused.body.contains("pg2 follows by log shipping"),
        "{}",
        refused.body
    );

    let mut client = failover.nodes.node("node1").login(&database);
    assert_eq!(told(&client.query("INSERT INTO t VALUES (2)")), ["C INSERT 0 1", "ZI"]);
    primary.kill();
    send(&mut client, "INSERT INTO t VALUES (3)");
    // It is over soon, perhaps before the last node is asked.
    eventually(PATIENCE, "a node says what it waits for", || {
        let ids = failover.nodes.ids();
        ids.iter().any(|node| failover.nodes.status(node)["failover"]["standstill"] == "awaits_streaming")
    });
    assert_eq!(failover.primary_above(1, &failover.nodes.ids()), ("pg2".to_owned(), 2));
    assert_eq!(answer(&mut client), ["C INSERT 0 1", "ZI"], "it was between transactions");
    assert_eq!(rows(&failover, "pg2", &database), "1 3");

    failover.wait_until_whole();
    assert_eq!(rows(&failover, "pg1", &database), "1 3", "it was rewound");
    assert_eq!(failover.server_by("node1", "pg1")["replication_state"], "streaming");
}
