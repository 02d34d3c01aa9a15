//! What an operator orders by the commands, as they are typed and as they answer.

use serde_json::Value;

use super::writing::*;
use crate::commands::ask;
use crate::holding::{answer, send};
use crate::lost_servers::told;
use crate::members::reader_of;
use crate::restart::order;
use crate::support::*;

#[track_caller]
fn says(node: &Komainu, code: i32, arguments: &[&str]) -> String {
    let (ended, out, err) = ask(node, arguments);
    assert_eq!(ended, code, "{arguments:?}: {out}{err}");
    out + &err
}

fn stands_still(failover: &Failover, node: &str) -> Option<f64> {
    failover.nodes.node(node).metric("komainu_failover_standstill{reason=\"failover_paused\"}")
}

#[test]
fn a_switchover_is_ordered_by_command_and_a_paused_failover_waits_until_it_is_resumed() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous();
    let ids = failover.nodes.ids();
    let (node1, node2) = (failover.nodes.node("node1"), failover.nodes.node("node2"));
    let mut idle = node1.login(&database);
    assert_eq!(told(&idle.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);

    let refused = says(node2, 1, &["switchover", "--to", "pg9"]);
    assert!(refused.contains("pg9"), "{refused}");
    let done = says(node2, 0, &["switchover", "--to", "pg3"]);
    assert!(done.starts_with("pg3 is the primary in place of pg1, after "), "{done}");
    assert!(!is_standby(&failover, "pg3"));
    assert_eq!(failover.primary_above(1, &ids), ("pg3".to_owned(), 2));
    assert_eq!(told(&idle.query("INSERT INTO t VALUES (2)")), ["C INSERT 0 1", "ZI"]);
    failover.wait_until_whole();
    failover.wait_until_promised();
    let done: Value = serde_json::from_str(&says(node1, 0, &["switchover", "--json"])).unwrap();
    let primary = done["primary"].as_str().unwrap().to_owned();
    assert!(primary != "pg3" && !is_standby(&failover, &primary), "{done}");
    failover.wait_until_whole();
    failover.wait_until_promised();

    assert_eq!(says(node2, 0, &["failover", "pause"]), "automatic failover is paused\n");
    for id in &ids {
        eventually(PATIENCE, "it is paused on every node", || {
            failover.nodes.status(id)["failover"]["paused"] == true
        });
        assert_eq!(stands_still(&failover, id), Some(0.0));
    }
    let status = says(node1, 0, &["status"]);
    assert!(
        status.contains(&format!("primary {primary}, epoch 3, automatic failover is paused")),
        "{status}"
    );
    failover.server(&primary).kill();
    send(&mut idle, "INSERT INTO t VALUES (3)");
    for id in &ids {
        eventually(PATIENCE, "its metric says why", || stands_still(&failover, id) == Some(1.0));
    }
    let status = says(node1, 2, &["status"]);
    assert!(status.contains("problem: the primary is not replaced: failover_paused"), "{status}");
    let events = says(node1, 0, &["events", "--limit", "50"]);
    assert!(events.contains("automatic failover is paused by order (failover_paused)"), "{events}");
    let others =
        failover.cluster.servers().all().iter().map(|server| server.id()).filter(|id| *id != primary);
    assert!(others.into_iter().all(|id| is_standby(&failover, id)), "nobody is promoted");

    assert_eq!(says(node2, 0, &["failover", "resume"]), "automatic failover is resumed\n");
    let (next, epoch) = failover.primary_above(3, &ids);
    assert!(next != primary && epoch == 4, "{next} in epoch {epoch}");
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"], "it has waited, and sees no error");
    for id in &ids {
        eventually(PATIENCE, "nothing stands still", || stands_still(&failover, id) == Some(0.0));
    }
    let rows = failover.server(&next).psql(&database, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t");
    assert_eq!(rows.unwrap(), "1 2 3");
    failover.wait_until_whole();
}

/// Where a session reads first it need not stay: a standby that was a moment late is not read from in that moment.
fn reading_transaction(failover: &Failover, database: &str, server: &str) -> Wire {
    let (node, server) = (failover.nodes.node("node1"), failover.server(server));
    let mut found = None;
    eventually(PATIENCE, "a transaction reads there", || {
        let mut reader = reader_of(node, database, server);
        assert_eq!(told(&reader.query("BEGIN READ ONLY")), ["C BEGIN", "ZT"]);
        let is_there = reader.query_value("SELECT inet_server_port()") == server.port().to_string();
        found = is_there.then_some(reader);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_restart_that_is_cancelled_restarts_nothing_more_and_uses_again_what_it_took_out_of_use() {
    let _one = one_at_a_time();
    let failover = Failover::builder().patient().start();
    let database = with_table(&failover);
    failover.cluster.servers().wait_for_replay().unwrap();
    let ids = ["pg1", "pg2", "pg3"];
    let started =
        || ids.map(|id| failover.server(id).psql("postgres", "SELECT pg_postmaster_start_time()").unwrap());
    let before = started();
    // What is open on the first one is waited for.
    let mut reader = reading_transaction(&failover, &database, "pg2");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| order(&failover, "node2", &["restart", "--rolling"]));
        eventually(PATIENCE, "the first one is being drained", || {
            failover.nodes.status("node3")["restart"]["under_way"]["steps"][0]["stage"] == "draining"
        });
        let cancelled = order(&failover, "node3", &["restart", "--cancel"]);
        assert_eq!(cancelled.output(), "nothing more is restarted; what was begun is finished");
        let ended = waiting.join().unwrap();
        assert!(!ended.success && ended.stderr.contains("(restart_cancelled)"), "{ended:?}");
    });
    assert_eq!(reader.query_value("SELECT inet_server_port()"), failover.server("pg2").port().to_string());
    assert_eq!(told(&reader.query("COMMIT")), ["C COMMIT", "ZI"], "it goes on");
    for node in failover.nodes.ids() {
        eventually(PATIENCE, "it is used again", || {
            failover.server_by(&node, "pg2")["administrative"] == "attached"
        });
        let restart = failover.nodes.status(&node)["restart"].clone();
        assert!(restart["under_way"].is_null(), "{restart}");
        assert_eq!(restart["last"]["reason"], "restart_cancelled", "{restart}");
    }
    assert_eq!(started(), before);
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
    failover.wait_until_whole();
    let again = order(&failover, "node3", &["restart", "--cancel"]);
    assert!(!again.success && again.stderr.contains("nothing is being restarted"), "{again:?}");
}
