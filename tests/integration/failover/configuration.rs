//! A leader that cannot use what the cluster has agreed on, and a primary that cannot read what it is told, while commits wait.

use std::fs;

use serde_json::{Value, json};

use super::writing::*;
use crate::commands::ask;
use crate::support::*;

/// Its own `pg_hba.conf` has an error, so it takes no configuration. Commits wait for standbys that are gone, and another
/// one leads and sees to that.
#[test]
fn a_leader_that_cannot_use_the_configuration_leaves_the_lead_and_standbys_that_are_gone_are_not_waited_for()
{
    let _one = one_at_a_time();
    let failover = Failover::builder().failover("sync_mode = \"prefer\"").start();
    let database = with_table(&failover);
    failover.wait_until_promised();
    let writers = write_at(&failover, &failover.nodes.ids(), &database);
    let leader = failover.nodes.leader();
    let (node, other) = (failover.nodes.node(&leader), &failover.nodes.others(&leader)[0]);
    let hba_file = node.directory().join("hba.conf");
    let hba = fs::read_to_string(&hba_file).unwrap();
    fs::write(&hba_file, "nonsense\n").unwrap();

    let config = failover.nodes.node(other).admin("/config").unwrap().body;
    let config: Value = serde_json::from_str(&config).unwrap();
    let text = config["text"].as_str().unwrap();
    let text = text.replacen("[failover]\n", "[failover]\nsilence_ms = 2001\n", 1);
    let applied = failover.nodes.post(other, "/config/apply", &json!({ "text": text }));
    assert_eq!(applied.status, 200, "{}", applied.body);
    for standby in ["pg2", "pg3"] {
        failover.server(standby).kill();
    }
    eventually(PATIENCE, "it says so", || {
        let (code, _, problems) = ask(node, &["status"]);
        code == 2
            && problems.contains("problem: this node cannot use version 2 of the cluster's configuration")
    });
    eventually(PATIENCE, "another one leads", || {
        let leads = failover.nodes.status(other)["leader"].clone();
        leads.is_string() && leads != json!(leader)
    });
    writers.iter().for_each(Writer::goes_on);
    let events = failover.nodes.node(other).admin("/events?limit=1000").unwrap().body;
    let events: Value = serde_json::from_str(&events).unwrap();
    let of_leader =
        |event: &&Value| event["reason"] == "configuration_unusable" && event["subject"] == json!(leader);
    assert_eq!(events["events"].as_array().unwrap().iter().filter(of_leader).count(), 1);

    fs::write(&hba_file, hba).unwrap();
    let (code, out, err) = ask(node, &["reload"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(failover.nodes.status(&leader)["configuration_unusable"], Value::Null);
    for standby in ["pg2", "pg3"] {
        failover.server(standby).start().unwrap();
    }
    failover.wait_until_whole();
    failover.wait_until_promised();
    assert_nothing_lost(&failover, "pg1", &database, writers);
}

/// PostgreSQL takes nothing of a configuration that it cannot read, so nobody can be let go of.
#[test]
fn a_primary_that_cannot_read_its_own_configuration_is_told_of_and_waits_for_nobody_once_that_is_mended() {
    let _one = one_at_a_time();
    let failover = Failover::builder().failover("sync_mode = \"prefer\"").start();
    let database = with_table(&failover);
    failover.wait_until_promised();
    let writers = write_at(&failover, &failover.nodes.ids(), &database);
    let file = failover.server("pg1").data_directory().join("postgresql.conf");
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{whole}\nno such line\n")).unwrap();
    for standby in ["pg2", "pg3"] {
        failover.server(standby).kill();
    }
    let told = || failover.nodes.node("node1").admin("/events?limit=1000").unwrap().body;
    let words =
        "synchronous_standby_names stays as it was; is it set on the server's command line, or has a file";
    eventually(PATIENCE, "it is said", || told().contains(words));
    fs::write(&file, whole).unwrap();
    writers.iter().for_each(Writer::goes_on);
    for standby in ["pg2", "pg3"] {
        failover.server(standby).start().unwrap();
    }
    failover.wait_until_whole();
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
    assert_nothing_lost(&failover, "pg1", &database, writers);
}
