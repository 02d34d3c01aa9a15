//! Replication slots, as servers change their roles.

use std::time::Duration;

use super::failover::one_at_a_time;
use crate::support::*;

/// Writes so many megabytes of log.
fn write_log(failover: &Failover, server: &str, megabytes: u32) {
    let sql = format!(
        "SELECT count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) FROM generate_series(1, {megabytes})"
    );
    failover.server(server).psql("postgres", &sql).unwrap();
}

/// Where the slot on that server for that standby keeps log from.
fn kept_from(failover: &Failover, on: &str, standby: &str) -> String {
    let sql = format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'komainu_{standby}'");
    failover.server(on).psql("postgres", &sql).unwrap()
}

fn is_before(failover: &Failover, lsn: &str, other: &str) -> bool {
    let sql = format!("SELECT '{lsn}'::pg_lsn < '{other}'::pg_lsn");
    failover.server("pg2").psql("postgres", &sql).unwrap() == "t"
}

/// Slots of the primary keep 32 MB for those who are away.
#[test]
fn a_standby_that_was_away_for_longer_than_its_log_is_kept_is_rebuilt_with_no_hand() {
    let _one = one_at_a_time();
    let failover = Failover::builder().failover("max_slot_bytes = 33554432").start();
    for server in failover.cluster.servers().all() {
        for (name, value) in [("wal_keep_size", "0"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")] {
            server.configure(name, value).unwrap();
        }
        server.reload().unwrap();
    }
    let (primary, epoch) = failover.primary();
    let standby = if primary == "pg3" { "pg2" } else { "pg3" };
    failover.server(standby).kill();
    let lacks = kept_from(&failover, &primary, standby);
    write_log(&failover, &primary, 150);
    eventually(PATIENCE, "its log is given up, and removed", || {
        failover.server(&primary).psql("postgres", "CHECKPOINT").unwrap();
        let oldest = "SELECT min(right(name, 16)) > right(pg_walfile_name('LACKS'), 16) FROM pg_ls_waldir() \
                       WHERE name ~ '^[0-9A-F]{24}$'";
        failover.server(&primary).psql("postgres", &oldest.replace("LACKS", &lacks)).unwrap() == "t"
    });
    failover.server(&primary).psql("postgres", "CREATE TABLE after (n int)").unwrap();
    failover.server(standby).launch().unwrap();
    eventually(Duration::from_secs(900), "it is back, with what it was away for", || {
        let server = failover.server_by("node1", standby);
        let has = failover.server(standby).psql("postgres", "SELECT to_regclass('after') IS NOT NULL");
        server["replication_state"] == "streaming"
            && server["administrative"] == "attached"
            && has.is_ok_and(|has| has == "t")
    });
    assert_eq!(failover.primary(), (primary, epoch));
    let events = failover.nodes.node("node1").admin("/events?limit=1000").unwrap().body;
    assert!(events.contains("missing_wal"), "it was out before it was rebuilt: {events}");
    assert!(!events.contains("has_more"), "it had nothing of its own: {events}");
}

#[test]
fn a_standby_that_lagged_follows_the_next_primary_with_what_that_has_kept_for_it() {
    let _one = one_at_a_time();
    let failover = Failover::builder().failover("max_lag_bytes = 0").without_agents().start();
    for server in failover.cluster.servers().all() {
        for (name, value) in [("wal_keep_size", "0"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")] {
            server.configure(name, value).unwrap();
        }
        server.reload().unwrap();
    }
    eventually(PATIENCE, "standbys have slots for each other", || {
        !kept_from(&failover, "pg2", "pg3").is_empty() && !kept_from(&failover, "pg3", "pg2").is_empty()
    });
    let first = kept_from(&failover, "pg2", "pg3");
    write_log(&failover, "pg1", 100);
    eventually(PATIENCE, "slots follow those they are for", || {
        is_before(&failover, &first, &kept_from(&failover, "pg2", "pg3"))
    });

    failover.server("pg3").freeze();
    let lacks = failover.server("pg2").psql("postgres", "SELECT pg_last_wal_replay_lsn()").unwrap();
    write_log(&failover, "pg1", 150);
    failover.server("pg1").psql("postgres", "CREATE TABLE after (n int); CHECKPOINT").unwrap();
    eventually(PATIENCE, "the other one has all of it", || {
        failover.server("pg2").psql("postgres", "SELECT to_regclass('after') IS NOT NULL").unwrap() == "t"
    });
    failover.server("pg2").psql("postgres", "CHECKPOINT").unwrap();
    let kept = kept_from(&failover, "pg2", "pg3");
    assert!(!is_before(&failover, &lacks, &kept), "kept from {kept}, lacks what follows {lacks}");

    failover.server("pg1").kill();
    assert_eq!(failover.primary_above(1, &failover.nodes.ids()), ("pg2".to_owned(), 2));
    failover.server("pg2").psql("postgres", "CHECKPOINT").unwrap();
    failover.server("pg3").thaw();
    eventually(PATIENCE, "the one that lagged follows", || {
        let pg3 = failover.server_by("node1", "pg3");
        let has = failover.server("pg3").psql("postgres", "SELECT to_regclass('after') IS NOT NULL");
        pg3["replication_state"] == "streaming" && has.is_ok_and(|has| has == "t")
    });
    // The one that nobody brings back has a slot there now, and what is the new primary's own is gone.
    eventually(PATIENCE, "slots are those of the others", || {
        let names = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
        failover.server("pg2").psql("postgres", names).unwrap() == "komainu_pg1 komainu_pg3"
            && failover.server("pg3").psql("postgres", names).unwrap() == "komainu_pg1"
    });
}
