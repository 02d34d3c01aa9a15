//! Standbys that hang while commits wait for them, follow another standby, or are promoted by somebody else; and proxies
//! that do not vote.

use serde_json::{Value, json};

use super::writing::*;
use crate::support::*;

fn synchronous_set(failover: &Failover) -> Value {
    failover.nodes.status("node1")["failover"]["synchronous"].clone()
}

/// Commits wait for both, until one of them hangs.
#[test]
fn a_synchronous_standby_that_hangs_stalls_commits_for_a_while_and_counts_again_when_it_goes_on() {
    let _one = one_at_a_time();
    for (mode, count, without) in [("prefer", 2, 1), ("require", 1, 1)] {
        let settings = format!("sync_mode = \"{mode}\"\nsync_count = {count}");
        let failover = Failover::builder().failover(&settings).start();
        let database = with_table(&failover);
        let both = json!({ "names": ["pg2", "pg3"], "count": count });
        eventually(PATIENCE, "commits wait for both", || synchronous_set(&failover) == both);
        let writers = write_at(&failover, &failover.nodes.ids(), &database);
        failover.server("pg3").freeze();
        let one = json!({ "names": ["pg2"], "count": without });
        eventually(PATIENCE, "commits wait for the other one only", || synchronous_set(&failover) == one);
        writers.iter().for_each(Writer::goes_on);
        failover.server("pg3").thaw();
        eventually(PATIENCE, "it counts again", || synchronous_set(&failover) == both);
        writers.iter().for_each(Writer::goes_on);
        assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
        assert_nothing_lost(&failover, "pg1", &database, writers);
    }
}

/// Nothing else tells: a COMMIT that waits for a standby is a statement that does not end.
#[test]
fn that_commits_wait_for_standbys_is_said() {
    let _one = one_at_a_time();
    let (failover, _) = synchronous();
    let said = || {
        let missing = failover.nodes.node("node1").metric("komainu_synchronous_standbys_missing");
        (failover.nodes.status("node1")["standbys_missing"].clone(), missing)
    };
    eventually(PATIENCE, "enough stream", || said() == (json!(0), Some(0.0)));
    ["pg2", "pg3"].iter().for_each(|id| failover.server(id).freeze());
    eventually(PATIENCE, "one is missing", || said() == (json!(1), Some(1.0)));
    failover.server("pg3").thaw();
    eventually(PATIENCE, "enough stream again", || said() == (json!(0), Some(0.0)));
    failover.server("pg2").thaw();
}

/// So that the checkpointer of the next primary knows already that commits wait.
#[test]
fn standbys_wait_for_somebody_before_they_are_primaries() {
    let _one = one_at_a_time();
    let (failover, _) = synchronous();
    for (standby, other) in [("pg2", "pg3"), ("pg3", "pg2")] {
        eventually(PATIENCE, "it would wait", || {
            let names = failover.server(standby).psql("postgres", "SHOW synchronous_standby_names").unwrap();
            names == format!("ANY 1 (\"{other}\")")
        });
    }
    assert_eq!(synchronous_set(&failover), json!({ "names": ["pg2", "pg3"], "count": 1 }));
}

/// As `pg_basebackup -R` makes them: the primary knows each as `walreceiver`, and nobody by its id.
#[test]
fn standbys_without_names_of_their_own_get_them_before_a_commit_waits_for_them() {
    let _one = one_at_a_time();
    let failover = Failover::builder().start();
    let database = with_table(&failover);
    let primary = failover.cluster.primary();
    let known = |name: &str| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming'"
        );
        primary.psql("postgres", &sql).unwrap()
    };
    for id in ["pg2", "pg3"] {
        let standby = failover.server(id);
        let conninfo = standby.psql("postgres", "SHOW primary_conninfo").unwrap();
        let nameless = conninfo.replace(&format!("application_name='{id}'"), "");
        let nameless = nameless.replace(&format!("application_name={id}"), "");
        assert_ne!(nameless, conninfo);
        let set = format!("ALTER SYSTEM SET primary_conninfo = '{}'", nameless.replace('\'', "''"));
        standby.psql("postgres", &set).unwrap();
        standby.reload().unwrap();
    }
    eventually(PATIENCE, "the primary knows neither by its id", || known("walreceiver") == "2");
    let config = failover.nodes.node("node1").admin("/config").unwrap().body;
    let config: Value = serde_json::from_str(&config).unwrap();
    let text = config["text"].as_str().unwrap();
    let text = text.replacen("[failover]\n", "[failover]\nsync_mode = \"prefer\"\n", 1);
    let writers = write_at(&failover, &failover.nodes.ids(), &database);
    let applied = failover.nodes.post("node1", "/config/apply", &json!({ "text": text }));
    assert_eq!(applied.status, 200, "{}", applied.body);
    failover.wait_until_promised();
    writers.iter().for_each(Writer::goes_on);
    assert_eq!((known("pg2"), known("pg3")), ("1".to_owned(), "1".to_owned()));
    assert_nothing_lost(&failover, "pg1", &database, writers);
}

/// As `pg_basebackup -R` makes it, without `--slot`.
#[test]
fn a_standby_that_streams_by_no_slot_gets_its_own_and_goes_on() {
    let _one = one_at_a_time();
    let failover = Failover::builder().start();
    let standby = failover.server("pg3");
    let in_file = || {
        let sql = "SELECT setting FROM pg_file_settings WHERE name = 'primary_slot_name' ORDER BY seqno DESC";
        standby.psql("postgres", sql).unwrap()
    };
    assert_eq!(in_file(), "komainu_pg3");
    let started = standby.psql("postgres", "SELECT pg_postmaster_start_time()").unwrap();
    standby.psql("postgres", "ALTER SYSTEM RESET primary_slot_name").unwrap();
    assert_eq!(in_file(), "");
    standby.reload().unwrap();
    eventually(PATIENCE, "it is told its slot", || in_file() == "komainu_pg3");
    eventually(PATIENCE, "it streams by it", || {
        let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'komainu_pg3'";
        let name = "SELECT slot_name FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        failover.cluster.primary().psql("postgres", active).unwrap() == "t"
            && standby.psql("postgres", name).unwrap() == "komainu_pg3"
    });
    assert_eq!(standby.psql("postgres", "SELECT pg_postmaster_start_time()").unwrap(), started);
    failover.wait_until_whole();
}

#[test]
fn a_standby_that_somebody_promotes_is_quarantined_and_rebuilt() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous();
    let writers = write_at(&failover, &failover.nodes.ids(), &database);
    let stray = failover.server("pg3");
    assert_eq!(stray.psql("postgres", "SELECT pg_promote()").unwrap(), "t");
    // It may be on its way out already.
    let _ = stray.psql(&database, "INSERT INTO t VALUES (7)");
    eventually(PATIENCE, "it is quarantined", || {
        let events = failover.nodes.node("node1").admin("/events?limit=1000").unwrap().body;
        let events: Value = serde_json::from_str(&events).unwrap();
        let of_stray = |event: &Value| event["reason"] == "false_primary" && event["subject"] == "pg3";
        events["events"].as_array().unwrap().iter().any(of_stray)
    });
    writers.iter().for_each(Writer::goes_on);
    failover.wait_until_whole();
    assert!(is_standby(&failover, "pg3"));
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1), "nobody followed it");
    let strays = "SELECT count(*) FROM t WHERE n = 7";
    failover.cluster.servers().wait_for_replay().unwrap();
    assert_eq!(failover.server("pg3").psql(&database, strays).unwrap(), "0");
    assert_nothing_lost(&failover, "pg1", &database, writers);
}

#[test]
fn a_cascaded_standby_follows_through_a_failover_to_its_upstream() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous();
    let (upstream, cascaded) = (failover.server("pg2"), failover.server("pg3"));
    let conninfo = cascaded.psql("postgres", "SHOW primary_conninfo").unwrap();
    let now = conninfo.replace(
        &format!("port='{}'", failover.cluster.primary().port()),
        &format!("port='{}'", upstream.port()),
    );
    let now = now.replace(
        &format!("port={}", failover.cluster.primary().port()),
        &format!("port={}", upstream.port()),
    );
    assert_ne!(now, conninfo);
    cascaded
        .psql("postgres", &format!("ALTER SYSTEM SET primary_conninfo = '{}'", now.replace('\'', "''")))
        .unwrap();
    cascaded.reload().unwrap();
    let streams =
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg3' AND state = 'streaming'";
    eventually(PATIENCE, "it streams from the standby", || {
        upstream.psql("postgres", streams).unwrap() == "1"
    });
    let only = json!({ "names": ["pg2"], "count": 1 });
    eventually(PATIENCE, "no commit waits for it", || synchronous_set(&failover) == only);
    let started = "SELECT pg_postmaster_start_time()";
    let since = cascaded.psql("postgres", started).unwrap();

    let writers = write_at(&failover, &failover.nodes.ids(), &database);
    failover.cluster.primary().kill();
    let (new, epoch) = failover.primary_above(1, &failover.nodes.ids());
    assert_eq!((&*new, epoch), ("pg2", 2), "it has all that the other has, and no less");
    writers.iter().for_each(Writer::goes_on);
    failover.wait_until_whole();
    assert_eq!(upstream.psql("postgres", streams).unwrap(), "1");
    assert_eq!(cascaded.psql("postgres", started).unwrap(), since, "it was told, not restarted");
    assert_nothing_lost(&failover, "pg2", &database, writers);
}

#[test]
fn clients_of_a_proxy_that_does_not_vote_go_on_with_the_next_primary() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous();
    let proxy = failover.nodes.proxy(&failover.cluster, "app-1");
    let ready = || proxy.admin("/ready").is_ok_and(|answer| answer.status == 200);
    eventually(PATIENCE, "the proxy serves", ready);
    let writer = Writer::start(proxy.login(&database), 9_000_000);
    writer.goes_on();
    failover.cluster.primary().kill();
    let (new, _) = failover.primary_above(1, &failover.nodes.ids());
    writer.goes_on();
    failover.wait_until_whole();
    let order = failover.nodes.post("node1", "/switchover", &json!({}));
    assert_eq!(order.status, 200, "{}", order.body);
    let (last, _) = failover.primary_above(2, &failover.nodes.ids());
    assert_ne!(last, new);
    writer.goes_on();
    assert_nothing_lost(&failover, &last, &database, vec![writer]);
}
