//! What is not promised yet: a primary that is lost before anybody knows which standby has what it has acknowledged.

use std::time::Duration;

use komainu::sandbox::{DATABASE, OPERATOR};
use serde_json::{Value, json};

use super::candidates::{nobody_is_promoted, stands_still};
use super::writing::*;
use crate::holding::{answer, send};
use crate::lost_servers::told;
use crate::support::*;

/// From now on no commit is to be acknowledged by the primary alone, but nobody finds out whether its backends wait already.
fn require_in_vain(failover: &Failover) {
    failover.server("pg1").psql(DATABASE, &format!("REVOKE pg_checkpoint FROM {OPERATOR}")).unwrap();
    let config = failover.nodes.node("node1").admin("/config").unwrap().body;
    let config: Value = serde_json::from_str(&config).unwrap();
    let text = config["text"].as_str().unwrap();
    let text = text.replacen("[failover]\n", "[failover]\nsync_mode = \"require\"\n", 1);
    let applied = failover.nodes.post("node1", "/config/apply", &json!({ "text": text }));
    assert_eq!(applied.status, 200, "{}", applied.body);
}

#[test]
fn nobody_is_promoted_before_a_standby_surely_has_everything_and_by_order_nobody_commits_alone() {
    let _one = one_at_a_time();
    let failover = Failover::builder().without_agents().start();
    let database = with_table(&failover);
    require_in_vain(&failover);
    for server in ["pg1", "pg2", "pg3"] {
        eventually(PATIENCE, &format!("{server} waits for somebody, or would"), || {
            let names = failover.server(server).psql(DATABASE, "SHOW synchronous_standby_names").unwrap();
            names.starts_with("ANY 1 ")
        });
    }
    let mut idle = failover.nodes.node("node1").login(&database);
    assert_eq!(told(&idle.query("INSERT INTO t VALUES (1)")), ["C INSERT 0 1", "ZI"]);
    failover.cluster.servers().wait_for_replay().unwrap();
    assert_eq!(failover.nodes.status("node1")["failover"]["synchronous"]["count"], 0);

    failover.server("pg1").kill();
    send(&mut idle, "INSERT INTO t VALUES (2)");
    stands_still(&failover, Some("nothing_promised"));
    nobody_is_promoted(&failover, &["pg2", "pg3"], &mut idle);

    // The next primary is alone, and says nothing until it is not.
    failover.server("pg3").freeze();
    let forced = failover.nodes.post("node2", "/failover", &json!({ "to": "pg2" }));
    assert_eq!(forced.status, 200, "{}", forced.body);
    assert_eq!(failover.primary_above(1, &failover.nodes.ids()), ("pg2".to_owned(), 2));
    idle.expect_silence(Duration::from_secs(1));
    failover.server("pg3").thaw();
    assert_eq!(answer(&mut idle), ["C INSERT 0 1", "ZI"]);
    let rows = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t";
    assert_eq!(failover.server("pg2").psql(&database, rows).unwrap(), "1 2");
}
