//! `komainu drill` measures an outage that there was, loses nothing, and leaves nothing.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Finished, Sandbox, psql, run};

/// More than three runs would take; a drill that hangs fails.
const LIMIT_S: &str = "240";

fn drill(arguments: &[&str]) -> Finished {
    let komainu = env!("CARGO_BIN_EXE_komainu");
    let mut command = Command::new("timeout");
    if let Ok(python) = std::env::var("KOMAINU_TEST_PYTHON") {
        command.env("KOMAINU_PYTHON", python);
    }
    run(command.args([LIMIT_S, komainu, "drill", "endpoint"]).args(arguments))
}

/// The runs, each with what must hold for any.
fn runs(output: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"));
    let runs = report["runs"].as_array().unwrap().clone();
    for run in &runs {
        assert_eq!(run["lost"], 0, "{run}");
        let outage = run["outage_ms"].as_f64().unwrap();
        // The figures are a benchmark's to hold; other tests run beside this one.
        assert!(outage > 100.0 && outage < 30_000.0, "{run}");
        let phases = run["phases_ms"].as_object().unwrap();
        for name in ["detection", "fence", "assignment", "client"] {
            assert!(phases.contains_key(name), "{name} is missing: {run}");
        }
        let sum: f64 = phases.values().map(|ms| ms.as_f64().unwrap()).sum();
        assert!(sum < outage + 1_500.0 && sum > outage - 1_500.0, "{run}");
        assert!(run["acknowledged"].as_u64().unwrap() >= 6, "{run}");
    }
    runs
}

#[test]
fn a_drill_in_a_sandbox_of_its_own_kills_the_owner_and_counts() {
    let output = drill(&["--runs", "2", "--fine", "--json"]).output();
    let runs = runs(&output);
    assert_eq!(runs.len(), 2);
    assert!(runs.iter().all(|run| run["event"] == "kill" && run["method"] == "command"));
}

#[test]
fn aws_s_methods_are_drilled_before_the_double_with_their_own_phases() {
    const METHODS: [(&str, [&str; 2]); 4] = [
        ("elastic-ip", ["associate", "read back"]),
        ("route53", ["change records", "dns"]),
        ("route-table", ["replace routes", "read back"]),
        ("secondary-ip", ["assign", "read back"]),
    ];
    let arguments: Vec<_> = METHODS.iter().flat_map(|(method, _)| ["--method", method]).collect();
    let output = drill(&[&arguments[..], &["--fine", "--json"]].concat()).output();
    let runs = runs(&output);
    let methods: Vec<_> = runs.iter().map(|run| run["method"].as_str().unwrap()).collect();
    assert_eq!(methods, METHODS.map(|(method, _)| method));
    for (run, (_, phases)) in runs.iter().zip(METHODS) {
        for phase in phases {
            assert!(run["phases_ms"][phase].as_f64().is_some_and(|ms| ms > 0.0), "{phase}: {run}");
        }
    }
}

#[test]
fn a_drill_of_a_running_sandbox_freezes_its_owner_and_leaves_all_as_it_was() {
    let sandbox = Sandbox::start(&["--standbys", "0"]);
    // However its path is spelled.
    let admin = Path::new(sandbox.nodes()[0]["admin"].as_str().unwrap());
    let admin = admin.parent().unwrap().join("node1/..").join(admin.file_name().unwrap());
    let output = drill(&["--freeze", "--fine", "--json", "--admin", admin.to_str().unwrap()]).output();
    assert_eq!(runs(&output)[0]["event"], "freeze");
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'komainu_drill%'";
    assert_eq!(psql(sandbox.url(), &[left]).output(), "0");
    for node in ["node1", "node2", "node3"] {
        assert!(sandbox.admin(node, "/status").is_some(), "{node} does not answer");
    }
}

#[test]
fn an_owner_that_is_cut_off_is_replaced_by_one_that_takes_its_address() {
    let needs_root = "network namespaces need root";
    assert!(rustix::process::geteuid().is_root(), "{needs_root}");
    let output = drill(&["--partition", "--netns", "--method", "interface", "--fine", "--json"]).output();
    let run = &runs(&output)[0];
    assert_eq!((&run["event"], &run["method"]), (&"partition".into(), &"interface".into()));
    assert!(run["phases_ms"]["add address"].is_number(), "{run}");
}

#[test]
fn an_owner_that_is_killed_leaves_its_address_to_another() {
    let output = drill(&["--netns", "--method", "interface", "--fine", "--json"]).output();
    let run = &runs(&output)[0];
    assert_eq!((&run["event"], &run["method"]), (&"kill".into(), &"interface".into()));
    for phase in ["add address", "announce"] {
        assert!(run["phases_ms"][phase].is_number(), "{phase}: {run}");
    }
}

#[test]
fn what_cannot_be_drilled_is_said_at_once() {
    for (arguments, says) in [
        (&["--partition"][..], "add --netns"),
        (&["--nodes", "1"], "--nodes 1"),
        (&["--admin", "/nowhere"], "add --url"),
        (&["--method", "interface"], "needs --netns"),
    ] {
        let refused = drill(arguments);
        assert!(!refused.success && refused.stderr.contains(says), "{arguments:?}: {}", refused.stderr);
    }
}

fn failover(arguments: &[&str]) -> Finished {
    let komainu = env!("CARGO_BIN_EXE_komainu");
    run(Command::new("timeout").args([LIMIT_S, komainu, "drill", "failover"]).args(arguments))
}

/// The runs, each with what must hold for any: the event has happened, and no acknowledged row is lost or there twice.
#[track_caller]
fn failovers(event: &str, more: &[&str]) -> Vec<Value> {
    let output = failover(&[&["--event", event, "--fine", "--json"], more].concat()).output();
    let report: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    let runs = report["runs"].as_array().unwrap().clone();
    for run in &runs {
        assert_eq!(run["event"], event, "{run}");
        assert_eq!((&run["lost"], &run["twice"]), (&0.into(), &0.into()), "{run}");
        assert!(run["acknowledged"].as_u64().unwrap() > 0 && run["rejoin_ms"].is_number(), "{run}");
        let phases = run["phases_ms"].as_object().unwrap();
        // Of the timeline: each has an entry there, or the phase is not told.
        let expected: &[&str] = match event {
            "sync-standby-freeze" | "async-standby-freeze" => &["detection"],
            "switchover" => &["detection", "hold", "fence", "choice", "promotion", "publish"],
            _ => &["detection", "fence", "choice", "promotion", "publish"],
        };
        assert!(expected.iter().all(|phase| phases.contains_key(*phase)), "{run}");
        match expected.len() {
            1 => {
                assert_eq!((&run["from"], &run["to"]), (&"pg2".into(), &Value::Null), "{run}");
                assert!(phases["detection"].as_f64().unwrap() > 0.0, "{run}");
            }
            _ => assert!(run["to"].is_string() && run["from"] != run["to"], "{run}"),
        }
    }
    runs
}

#[test]
fn a_standby_that_hangs_and_that_no_commit_waits_for_costs_no_row_and_comes_back() {
    let run = &failovers("async-standby-freeze", &["--load", "2"])[0];
    assert_eq!(run["errors"], 0, "{run}");
    assert!(run["acknowledged"].as_u64().unwrap() >= 16, "{run}");
    let seconds = run["throughput"].as_array().unwrap();
    assert_eq!(seconds[0]["second"], -3, "{run}");
    // A commit that waited for the standby would do so for as long as that hangs.
    let empty = seconds.iter().filter(|second| second["writes"] == 0).count();
    assert!(empty <= 3, "{run}");
}

#[test]
fn a_standby_that_hangs_and_that_commits_wait_for_is_left_out_and_comes_back() {
    let run = &failovers("sync-standby-freeze", &[])[0];
    assert_eq!(run["errors"], 0, "{run}");
}

#[test]
fn a_primary_that_is_killed_is_replaced_and_comes_back_as_a_standby() {
    assert_eq!(failovers("kill", &["--runs", "2"]).len(), 2);
}

/// One after the other: each has a whole sandbox.
#[test]
fn a_primary_that_is_shut_down_hangs_or_is_cut_off_is_replaced_and_no_row_is_lost() {
    assert!(rustix::process::geteuid().is_root(), "network namespaces need root");
    for (event, more) in [("shutdown", &[][..]), ("freeze", &[]), ("partition", &["--netns"])] {
        assert_eq!(failovers(event, more).len(), 1);
    }
}

#[test]
fn a_planned_switchover_shows_no_client_an_error() {
    let run = &failovers("switchover", &["--load", "4"])[0];
    assert_eq!(run["errors"], 0, "{run}");
    assert_eq!(run["load_errors"].as_object().map(|errors| errors.len()), Some(0), "{run}");
}

#[test]
fn what_the_next_primary_has_to_replay_first_is_a_phase_and_nothing_of_it_is_lost() {
    let run = &failovers("kill", &["--backlog", "5"])[0];
    assert!(run["backlog_bytes"].as_u64().unwrap() > 100_000, "{run}");
    assert!(run["phases_ms"]["replay"].is_number(), "{run}");
    let seconds = run["throughput"].as_array().unwrap();
    let of = |second: &Value, what: &str| second[what].as_u64().unwrap();
    assert!(seconds.iter().any(|second| second["second"] == 0), "{run}");
    for what in ["reads", "writes"] {
        assert!(of(&seconds[0], what) > 0 && of(seconds.last().unwrap(), what) > 0, "{what}: {run}");
    }
}

#[test]
fn a_service_s_failover_is_drilled_in_its_two_parts_and_a_pgbouncer_waits_for_the_name() {
    for mode in ["aurora", "rds"] {
        let arguments =
            ["--mode", mode, "--runs", "2", "--fine", "--name-delay", "6", "--pgbouncer", "--json"];
        let output = failover(&arguments).output();
        let report: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
        let runs = report["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 2, "{report}");
        for run in runs {
            assert_eq!(run["event"], "aws-failover", "{run}");
            assert_ne!(run["from"], run["to"], "{run}");
            assert_eq!((&run["lost"], &run["errors"]), (&0.into(), &0.into()), "{run}");
            let phases = run["phases_ms"].as_object().unwrap();
            assert_eq!(phases.keys().collect::<Vec<_>>(), ["komainu", "server"], "{run}");
            assert!(phases["server"].as_f64().unwrap() > 0.0, "{run}");
            let beside = &run["pgbouncer"];
            assert!(beside["errors"].is_number() && beside["outage_ms"].as_f64().unwrap() > 6_000.0, "{run}");
        }
    }
}

#[test]
fn what_cannot_be_failed_over_is_said_at_once() {
    for (arguments, says) in [
        (&["--mode", "rds", "--event", "kill"][..], "aws-failover alone"),
        (&["--event", "aws-failover"], "add --mode rds"),
        (&["--pgbouncer", "--event", "aws-failover"], "add --mode rds"),
        (&["--event", "partition"], "add --netns"),
        (&["--event", "sync-standby-freeze", "--backlog"], "nothing is promoted when a standby hangs"),
        (&["--nodes", "1"], "--nodes 1"),
        (&["--ask-aws", "shop"], "--real-cluster"),
        (&["--admin", "/nowhere"], "add --url"),
        (&["--admin", "/nowhere", "--url", "postgres://a:b@127.0.0.1:1/c"], "add --real-cluster"),
    ] {
        let refused = failover(arguments);
        assert!(!refused.success && refused.stderr.contains(says), "{arguments:?}: {}", refused.stderr);
    }
}
