//! Switchovers that go wrong after the old primary was told to stop.

use komainu::sandbox::process;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::writing::*;
use crate::support::*;

/// Whether the old primary waits for this standby before it ends, as a clean shutdown does.
fn is_ending(failover: &Failover, server: &str) -> bool {
    let refused = failover.server(server).psql("postgres", "SELECT 1").err();
    refused.is_some_and(|error| error.to_string().contains("shutting down"))
}

fn reasons(failover: &Failover) -> Vec<String> {
    let events = failover.nodes.node("node1").admin("/events?limit=1000").unwrap().body;
    let events: Value = serde_json::from_str(&events).unwrap();
    let reason = |event: &Value| event["reason"].as_str().unwrap_or_default().to_owned();
    events["events"].as_array().unwrap().iter().map(reason).collect()
}

/// The target never gets the old primary's last word, for which that waits before it ends.
fn switch_over_in_vain(failover: &Failover, from: &str, to: &str) {
    // One that streamed from another before ends, and another begins in its place.
    let port = failover.server(from).port();
    let receiver =
        format!("SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = {port}");
    let mut pid = String::new();
    eventually(PATIENCE, "it streams", || {
        pid = failover.server(to).psql("postgres", &receiver).unwrap();
        !pid.is_empty()
    });
    process::signal(pid.parse().unwrap(), Signal::STOP);
    let begun = failover.nodes.post("node2", "/switchover", &json!({ "to": to }));
    assert_eq!(begun.status, 200, "{}", begun.body);
    eventually(PATIENCE, "the old primary is ending, and waits for it", || is_ending(failover, from));
}

#[test]
fn a_switchover_whose_target_dies_after_the_old_primary_was_stopped_goes_to_another_or_back() {
    let _one = one_at_a_time();
    let failover = Failover::builder().start();
    let database = with_table(&failover);
    let ids = failover.nodes.ids();
    let writers = write_at(&failover, &ids, &database);

    switch_over_in_vain(&failover, "pg1", "pg3");
    failover.server("pg3").kill();
    let (primary, epoch) = failover.primary_above(1, &ids);
    assert_eq!((&*primary, epoch), ("pg2", 2), "the other one has the last word, too");
    writers.iter().for_each(Writer::goes_on);
    failover.server("pg3").start().unwrap();
    failover.wait_until_whole();

    // Nobody else may be promoted.
    let body = json!({ "id": "pg1", "state": "detached" });
    let answer = failover.nodes.post("node1", "/server/administrative", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    switch_over_in_vain(&failover, "pg2", "pg3");
    failover.server("pg3").kill();
    let (primary, epoch) = failover.primary_above(2, &ids);
    assert_eq!((&*primary, epoch), ("pg2", 3), "it is whole, and goes on");
    eventually(PATIENCE, "its agent has started it", || {
        let told = reasons(&failover);
        ["switchover_abandoned", "started_again"].iter().all(|reason| told.contains(&(*reason).to_owned()))
    });
    failover.server("pg3").start().unwrap();
    let body = json!({ "id": "pg1", "state": "attached" });
    let answer = failover.nodes.post("node1", "/server/administrative", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    writers.iter().for_each(Writer::goes_on);
    failover.wait_until_whole();
    assert_eq!(failover.primary(), ("pg2".to_owned(), 3));
    assert_nothing_lost(&failover, "pg2", &database, writers);
}

#[test]
fn an_old_primary_that_cannot_be_stopped_goes_on_also_if_it_ends_too_late() {
    let _one = one_at_a_time();
    // It waits for its standbys, however long they say nothing.
    let failover = Failover::builder().settings(&[("wal_sender_timeout", "0")]).start();
    let database = with_table(&failover);
    let ids = failover.nodes.ids();
    let writers = write_at(&failover, &ids, &database);
    switch_over_in_vain(&failover, "pg1", "pg3");
    eventually(PATIENCE, "it is named again", || {
        reasons(&failover).contains(&"switchover_abandoned".to_owned())
    });
    assert!(is_ending(&failover, "pg1"));
    failover.server("pg3").kill();
    assert_eq!(failover.primary_above(1, &ids), ("pg1".to_owned(), 2));
    writers.iter().for_each(Writer::goes_on);
    let told = reasons(&failover);
    for reason in ["action_failed", "switchover_abandoned", "started_again"] {
        assert!(told.contains(&reason.to_owned()), "{reason}: {told:?}");
    }
    failover.server("pg3").start().unwrap();
    failover.wait_until_whole();
    assert_eq!(failover.primary(), ("pg1".to_owned(), 2));
    assert_nothing_lost(&failover, "pg1", &database, writers);
}
