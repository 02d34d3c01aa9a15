//! PostgreSQL is restarted by order, on one server or on all of them, and clients do not notice.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use komainu::sandbox::{Installation, Scratch};

use super::failover::one_at_a_time;
use super::members::Ends;
use crate::support::*;

/// More than any order takes.
const LIMIT_S: &str = "300";

/// `komainu server …`, of that node.
pub fn order(failover: &Failover, node: &str, arguments: &[&str]) -> Finished {
    let socket = failover.nodes.node(node).directory().join("admin.sock");
    let mut command = Command::new("timeout");
    command.args([LIMIT_S, env!("CARGO_BIN_EXE_komainu"), "server"]).args(arguments);
    run(command.env("KOMAINU_ADMIN", socket))
}

fn started(failover: &Failover, server: &str) -> String {
    failover.server(server).psql("postgres", "SELECT pg_postmaster_start_time()").unwrap()
}

pub fn filled(failover: &Failover, node: &str) -> (String, String) {
    let database = failover.cluster.database();
    let url = failover.nodes.node(node).url(&database);
    pgbench(&url, &["-i", "-q"]).output();
    failover.cluster.servers().wait_for_replay().unwrap();
    (database, url)
}

/// Does something while so many clients write and as many read, of whom nobody may see an error. How many transactions
/// have written.
pub fn under_clients(url: &str, each: &str, what: impl FnOnce()) -> u64 {
    let stop = AtomicBool::new(false);
    let bench = |more: &[&str]| {
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            let bench = pgbench(url, &[&["-n", "-c", each, "-j", "2", "-T", "4"], more].concat());
            assert!(!bench.stderr.contains("aborted") && !bench.stderr.contains("ERROR"), "{}", bench.stderr);
            let output = bench.output();
            assert!(output.contains("number of failed transactions: 0 "), "{output}");
            let told =
                |line: &str| line.strip_prefix("number of transactions actually processed: ")?.parse().ok();
            done += output.lines().find_map(told).unwrap_or(0);
        }
        done
    };
    thread::scope(|scope| {
        let writers = scope.spawn(|| bench(&[]));
        let readers = scope.spawn(|| bench(&["-S"]));
        {
            // Whatever fails here ends the others.
            let _end = Ends(&stop);
            what();
        }
        let read: u64 = readers.join().unwrap();
        assert!(read > 0);
        writers.join().unwrap()
    })
}

/// A minor upgrade.
#[test]
fn all_servers_are_restarted_under_fifty_clients_that_see_no_error() {
    let _one = one_at_a_time();
    let failover = Failover::builder().patient().failover("sync_mode = \"require\"").start();
    let (database, url) = filled(&failover, "node1");
    let ids = ["pg1", "pg2", "pg3"];
    let before = ids.map(|id| started(&failover, id));
    let written = under_clients(&url, "25", || {
        let restarted = order(&failover, "node2", &["restart", "--rolling"]);
        let told = restarted.stderr.clone();
        let said = restarted.output();
        assert!(said.starts_with("pg2, pg3, pg1: restarted; the primary is pg"), "{said}");
        let order = ["pg2: done", "pg3: draining", "pg1: switching"].map(|line| told.find(line));
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{told}");
    });
    let count = "SELECT count(*) FROM pgbench_history";
    let (primary, epoch) = failover.primary();
    assert!(primary != "pg1" && epoch == 2, "{primary} in epoch {epoch}");
    assert_eq!(failover.server(&primary).psql(&database, count).unwrap(), written.to_string());
    for (id, before) in ids.iter().zip(before) {
        assert_ne!(started(&failover, id), before, "{id}");
    }
    failover.wait_until_whole();
}

#[test]
fn one_server_is_restarted_and_a_primary_stays_one_or_is_left_alone() {
    let _one = one_at_a_time();
    let failover = Failover::builder().patient().start();
    let (database, url) = filled(&failover, "node1");
    let before = ["pg1", "pg2", "pg3"].map(|id| started(&failover, id));
    let written = under_clients(&url, "5", || {
        let said = order(&failover, "node2", &["restart", "pg2"]).output();
        assert_eq!(said, "pg2: restarted; the primary is pg1");
        assert_ne!(started(&failover, "pg2"), before[1]);
        assert_eq!(started(&failover, "pg1"), before[0]);
        let said = order(&failover, "node2", &["restart", "pg1"]).output();
        assert_eq!(said, "pg1: restarted; the primary is pg1");
        assert_ne!(started(&failover, "pg1"), before[0]);
    });
    assert_eq!(failover.primary(), ("pg1".to_owned(), 2), "an epoch of its own");
    let count = "SELECT count(*) FROM pgbench_history";
    assert_eq!(failover.server("pg1").psql(&database, count).unwrap(), written.to_string());
    failover.wait_until_whole();

    // What would not start again is not stopped.
    for id in ["pg3", "pg1"] {
        failover.server(id).configure("work_mem", "nonsense").unwrap();
        let before = started(&failover, id);
        let refused = order(&failover, "node1", &["restart", id]);
        assert!(!refused.success && refused.stderr.contains("restart_failed"), "{refused:?}");
        assert_eq!(started(&failover, id), before);
        failover.server(id).configure("work_mem", "4MB").unwrap();
    }
    let (primary, _) = failover.primary();
    assert_eq!(primary, "pg1");
    failover.wait_until_whole();
    all_are_restarted_though_the_leader_dies(&failover);
    for (arguments, problem) in [
        (&["restart", "pg9"][..], "there are: pg1, pg2, pg3"),
        (&["restart", "--cancel"], "nothing is being restarted"),
    ] {
        let refused = order(&failover, "node1", arguments);
        assert!(!refused.success && refused.stderr.contains(problem), "{refused:?}");
    }
}

fn all_are_restarted_though_the_leader_dies(failover: &Failover) {
    let leader = failover.nodes.leader();
    let others = failover.nodes.others(&leader);
    let ids = ["pg1", "pg2", "pg3"];
    let before = ids.map(|id| started(failover, id));
    let (_, epoch) = failover.primary();
    thread::scope(|scope| {
        let restarted = scope.spawn(|| order(failover, &others[0], &["restart", "--rolling"]));
        eventually(PATIENCE, "the first one is restarted", || {
            let status = failover.nodes.status(&others[0]);
            let stage = &status["restart"]["under_way"]["steps"][0]["stage"];
            stage == "restarting" || stage == "done"
        });
        failover.nodes.node(&leader).kill();
        let said = restarted.join().unwrap().output();
        assert!(said.starts_with("pg2, pg3, pg1: restarted"), "{said}");
    });
    let (primary, now) = failover.primary_above(epoch, &others);
    assert!(primary != "pg1" && now == epoch + 1, "{primary} in epoch {now}");
    for (id, before) in ids.iter().zip(before) {
        assert_ne!(started(failover, id), before, "{id}");
    }
    failover.nodes.node(&leader).start_again();
    failover.wait_until_whole();
}

/// The program that a server's postmaster runs.
fn runs(failover: &Failover, server: &str) -> PathBuf {
    let pid = failover.server(server).pid().unwrap();
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn a_rolling_restart_starts_the_programs_of_the_release_that_was_installed_meanwhile() {
    let _one = one_at_a_time();
    let failover = Failover::builder().patient().failover("sync_mode = \"require\"").start();
    let (database, url) = filled(&failover, "node1");
    let installed = Installation::find().unwrap();
    let scratch = Scratch::create("komainu-release-").unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let newer = scratch.path().join("bin");
    run(Command::new("cp").arg("-rL").args([installed.directory(), &newer])).output();
    // What is beside them is looked for beside them.
    symlink(installed.directory().with_file_name("lib"), scratch.path().join("lib")).unwrap();
    for id in ["pg1", "pg2", "pg3"] {
        assert!(!runs(&failover, id).starts_with(&newer), "{id}");
        let agent = failover.agent(id);
        let text = fs::read_to_string(agent.configuration()).unwrap();
        let [before, after] = [installed.directory(), newer.as_path()]
            .map(|directory| format!("bin_directory = \"{}\"", directory.display()));
        assert!(text.contains(&before), "{text}");
        fs::write(agent.configuration(), text.replace(&before, &after)).unwrap();
        // Its server does not notice.
        agent.kill();
        agent.start().unwrap();
    }
    let written = under_clients(&url, "5", || {
        let said = order(&failover, "node2", &["restart", "--rolling"]).output();
        assert!(said.starts_with("pg2, pg3, pg1: restarted; the primary is pg"), "{said}");
    });
    for id in ["pg1", "pg2", "pg3"] {
        assert!(runs(&failover, id).starts_with(&newer), "{id} runs {}", runs(&failover, id).display());
    }
    let (primary, epoch) = failover.primary();
    assert!(primary != "pg1" && epoch == 2, "{primary} in epoch {epoch}");
    let count = "SELECT count(*) FROM pgbench_history";
    assert_eq!(failover.server(&primary).psql(&database, count).unwrap(), written.to_string());
    failover.wait_until_whole();
}
