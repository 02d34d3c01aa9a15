//! What becomes of servers that are lost, by order and without: they come back as standbys.

use std::fs;
use std::thread;

use serde_json::json;

use super::failover::one_at_a_time;
use super::restart::{filled, order, under_clients};
use crate::support::*;

/// Its process and its agent's are gone, as when the host loses power.
fn power_off(failover: &Failover, server: &str) {
    failover.agent(server).kill();
    failover.server(server).kill();
}

/// A service manager starts both as they were, and knows nothing of the cluster.
fn power_on(failover: &Failover, server: &str) {
    failover.server(server).launch().unwrap();
    failover.agent(server).start().unwrap();
}

fn pause(failover: &Failover, paused: bool) {
    let answer = failover.nodes.post("node1", "/failover/pause", &json!({ "paused": paused }));
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn wait_until_down(failover: &Failover, server: &str) {
    eventually(PATIENCE, "most nodes find it down", || {
        failover.nodes.ids().iter().all(|node| failover.server_by(node, server)["observed"] == "down")
    });
}

/// Each host in turn: with the primary, with a standby, with the leading node.
#[test]
fn hosts_that_are_rebooted_come_back_with_no_hand() {
    let _one = one_at_a_time();
    let failover = Failover::builder().failover("sync_mode = \"require\"").start();
    let ids = failover.nodes.ids();
    let (first, epoch) = failover.primary();
    failover.wait_until_promised();
    power_off(&failover, &first);
    let (second, epoch) = failover.primary_above(epoch, &ids);
    assert_ne!(second, first);
    power_on(&failover, &first);
    failover.wait_until_whole();

    power_off(&failover, &first);
    wait_until_down(&failover, &first);
    power_on(&failover, &first);
    failover.wait_until_whole();
    assert_eq!(failover.primary(), (second.clone(), epoch), "a standby's reboot changes nothing");
    // Until the promise names those who can keep it, nobody would be promoted without an order.
    failover.wait_until_promised();

    let leader = failover.nodes.leader();
    let others = failover.nodes.others(&leader);
    failover.nodes.node(&leader).kill();
    power_off(&failover, &second);
    let (third, epoch) = failover.primary_above(epoch, &others);
    assert_ne!(third, second);
    failover.nodes.node(&leader).start_again();
    power_on(&failover, &second);
    failover.wait_until_whole();
    assert_eq!(failover.primary(), (third, epoch));
}

#[test]
fn a_server_that_was_never_there_is_copied_from_a_standby_under_writes_whoever_leads() {
    let _one = one_at_a_time();
    let failover = Failover::builder().patient().start();
    let leader = failover.nodes.leader();
    let others = failover.nodes.others(&leader);
    let (database, url) = filled(&failover, &others[0]);
    let lost = failover.server("pg3");
    power_off(&failover, "pg3");
    for of_the_host_before in ["data", "agent"] {
        fs::remove_dir_all(lost.directory().join(of_the_host_before)).unwrap();
    }
    wait_until_down(&failover, "pg3");
    failover.agent("pg3").start().unwrap();
    let log = || fs::read_to_string(failover.agent("pg3").log_file()).unwrap();
    let copies = || log().matches("taking a base backup from=\"pg2\"").count();
    let written = under_clients(&url, "2", || {
        let said = order(&failover, &others[0], &["recover", "pg3"]).output();
        assert!(said.starts_with("pg3 streams and is attached"), "{said}");
    });
    assert_eq!(copies(), 1, "{}", log());
    let refused = order(&failover, &others[0], &["recover", "pg3"]);
    assert!(!refused.success && refused.stderr.contains("nothing to recover"), "{refused:?}");
    let refused = order(&failover, &others[0], &["recover", "pg1"]);
    let safe = "pg1 is the primary: `komainu switchover` makes another one first";
    assert!(!refused.success && refused.stderr.contains(safe), "{refused:?}");

    // Once more, and the node that leads it dies in the middle.
    thread::scope(|scope| {
        let recovered = scope.spawn(|| order(&failover, &others[0], &["recover", "pg3", "--rebuild"]));
        eventually(PATIENCE, "it is being copied", || copies() == 2);
        failover.nodes.node(&leader).kill();
        recovered.join().unwrap().output();
    });
    assert_eq!(copies(), 2, "never twice: {}", log());
    failover.nodes.node(&leader).start_again();
    failover.wait_until_whole();
    let count = "SELECT count(*) FROM pgbench_history";
    assert_eq!(lost.psql(&database, count).unwrap(), written.to_string());
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
}

#[test]
fn a_recovery_that_fails_is_told_with_its_reason_and_begun_again_by_order() {
    let _one = one_at_a_time();
    let failover = Failover::builder().start();
    let lost = failover.server("pg3");
    lost.kill();
    wait_until_down(&failover, "pg3");
    lost.configure("work_mem", "nonsense").unwrap();
    let refused = order(&failover, "node1", &["recover", "pg3"]);
    assert!(!refused.success && refused.stderr.contains("could not be recovered"), "{refused:?}");
    assert!(refused.stderr.contains("configuration file"), "in PostgreSQL's words: {refused:?}");
    let told = || {
        let events = failover.nodes.node("node1").admin("/events").unwrap().body;
        events.matches("rejoin_failed").count()
    };
    eventually(PATIENCE, "the timeline tells", || told() > 0);
    let failures = || failover.nodes.node("node1").metric("komainu_rejoin_failures{server=\"pg3\"}");
    eventually(PATIENCE, "it is tried again by itself", || failures() >= Some(2.0));
    let job = failover.server_by("node1", "pg3")["job"].clone();
    assert!(job["error"].is_string() && job["phase"] != "done", "{job}");
    let before = told();
    assert!(before <= 4, "told {before} times");

    lost.configure("work_mem", "4MB").unwrap();
    order(&failover, "node1", &["recover", "pg3"]).output();
    failover.wait_until_whole();
    let job = &failover.server_by("node1", "pg3")["job"];
    eventually(PATIENCE, "there is nothing to tell any more", || {
        failover.server_by("node1", "pg3")["job"].is_null() || job["outcome"] == "succeeded"
    });
}

#[test]
fn a_standby_is_promoted_in_order_if_the_primary_lives_and_without_loss_if_not() {
    let _one = one_at_a_time();
    let failover = Failover::builder().failover("sync_mode = \"require\"").start();
    let said = order(&failover, "node1", &["promote", "pg2"]).output();
    assert!(
        said.starts_with("pg2 is the primary in place of pg1") && said.contains("a switchover"),
        "{said}"
    );
    let refused = order(&failover, "node1", &["promote", "pg2"]);
    assert!(!refused.success && refused.stderr.contains("pg2 is the primary already"), "{refused:?}");
    failover.wait_until_whole();
    eventually(PATIENCE, "the cluster relies on either of the others", || {
        failover.nodes.ids().iter().all(|node| {
            let synchronous = failover.nodes.status(node)["failover"]["synchronous"].clone();
            synchronous["names"] == json!(["pg1", "pg3"]) && synchronous["count"] == 1
        })
    });
    pause(&failover, true);
    power_off(&failover, "pg2");
    wait_until_down(&failover, "pg2");
    let said = order(&failover, "node1", &["promote", "pg3"]);
    // Which of the two has more nobody knows beforehand.
    let new = match said.success {
        true => "pg3",
        false => {
            assert!(said.stderr.contains("pg1 has received up to"), "{said:?}");
            "pg1"
        }
    };
    if new == "pg1" {
        let said = order(&failover, "node1", &["promote", "pg1"]).output();
        assert!(said.contains("nothing acknowledged is lost"), "{said}");
    } else {
        assert!(said.stdout.contains("nothing acknowledged is lost"), "{said:?}");
    }
    assert_eq!(failover.primary_above(2, &failover.nodes.ids()), (new.to_owned(), 3));
    power_on(&failover, "pg2");
    failover.wait_until_whole();
}

#[test]
fn what_an_asynchronous_standby_may_lack_is_lost_by_force_only() {
    let _one = one_at_a_time();
    let failover = Failover::builder().without_agents().start();
    let refused = order(&failover, "node1", &["promote", "pg2"]);
    assert!(!refused.success && refused.stderr.contains("pg1 has no agent"), "{refused:?}");
    let refused = order(&failover, "node1", &["recover", "pg2"]);
    assert!(!refused.success && refused.stderr.contains("pg2 has no agent"), "{refused:?}");
    pause(&failover, true);
    failover.server("pg1").kill();
    wait_until_down(&failover, "pg1");
    let refused = order(&failover, "node1", &["promote", "pg2"]);
    assert!(!refused.success && refused.stderr.contains("replication is asynchronous"), "{refused:?}");
    let said = order(&failover, "node1", &["promote", "pg2", "--force"]).output();
    assert!(said.contains("a failover by force"), "{said}");
    assert_eq!(failover.primary_above(1, &failover.nodes.ids()), ("pg2".to_owned(), 2));
}
