//! `komainu sandbox` keeps its contract: what it prints is there, and nothing is left behind.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use komainu::sandbox::process;
use rustix::process::Signal;

use crate::support::{Finished, PATIENCE, SANDBOX_READY_WITHIN, Sandbox, eventually, pgbench, psql, run};

fn komainu_sandbox(arguments: &[&str]) -> Finished {
    let limit = SANDBOX_READY_WITHIN.as_secs().to_string();
    run(Command::new("timeout").args([&limit, env!("CARGO_BIN_EXE_komainu"), "sandbox"]).args(arguments))
}

#[track_caller]
fn nothing_is_left(processes: &[u32], directory: &Path) {
    eventually(PATIENCE, "all processes end", || !processes.iter().any(|pid| process::is_alive(*pid)));
    eventually(PATIENCE, "the directory goes", || !directory.exists());
}

#[test]
fn what_it_prints_is_there_and_a_signal_ends_it() {
    let mut sandbox = Sandbox::start(&[]);
    let roles: Vec<_> = sandbox.servers().iter().map(|server| server["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["primary", "standby", "standby"]);
    for server in sandbox.servers() {
        let data = Path::new(server["data_directory"].as_str().unwrap());
        let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let lines: Vec<_> = file.lines().collect();
        assert_eq!(lines[0], server["pid"].to_string());
        assert_eq!(lines[3], server["port"].to_string());
        assert_eq!(data.join("standby.signal").exists(), server["role"] == "standby");
        let status = std::fs::read_to_string(format!("/proc/{}/status", server["pid"])).unwrap();
        assert!(!status.contains("Uid:\t0\t"), "PostgreSQL runs as root");
    }
    let nodes = sandbox.nodes();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0]["url"], sandbox.ready["url"]);
    let admin = Path::new(nodes[0]["admin"].as_str().unwrap());
    assert_eq!(komainu::sandbox::admin::get(admin, "/ready").unwrap().status, 200);

    psql(sandbox.url(), &["CREATE DATABASE another"]).output();
    pgbench(sandbox.url(), &["-i", "-q"]).output();
    let report = pgbench(sandbox.url(), &["-c", "4", "-t", "25"]).output();
    assert!(report.contains("100/100"), "{report}");

    let (processes, directory) = (sandbox.processes(), sandbox.directory());
    assert!(processes.len() > 12, "{processes:?}");
    process::signal(sandbox.child.id(), Signal::INT);
    let status = process::wait_until(&mut sandbox.child, Instant::now() + PATIENCE).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    nothing_is_left(&processes, &directory);
}

#[test]
fn being_killed_leaves_nothing_either() {
    let mut sandbox = Sandbox::start(&["--standbys", "1"]);
    let (processes, directory) = (sandbox.processes(), sandbox.directory());
    // One that hangs does not hear of it.
    process::signal(sandbox.pid("node1"), Signal::STOP);
    sandbox.child.kill().unwrap();
    sandbox.child.wait().unwrap();
    nothing_is_left(&processes, &directory);
}

#[test]
fn a_named_directory_is_kept() {
    let scratch = komainu::sandbox::Scratch::create("komainu-kept-").unwrap();
    let wanted = scratch.path().join("here");
    let mut sandbox = Sandbox::start(&["--nodes", "1", "--standbys", "0", "--dir", wanted.to_str().unwrap()]);
    assert_eq!(sandbox.directory(), wanted);
    process::signal(sandbox.child.id(), Signal::TERM);
    let status = process::wait_until(&mut sandbox.child, Instant::now() + PATIENCE).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert!(wanted.join("pg1/data/PG_VERSION").exists());
    assert!(!wanted.join("pg1/data/postmaster.pid").exists());

    let again = komainu_sandbox(&["--dir", wanted.to_str().unwrap()]);
    assert!(!again.success);
    assert!(again.stderr.contains("not empty"), "{}", again.stderr);
}

#[test]
fn what_cannot_be_is_said_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = komainu_sandbox(&["--port", &port]);
    assert!(!refused.success);
    assert!(refused.stderr.contains(&port) && refused.stderr.contains("in use"), "{}", refused.stderr);

    let refused = komainu_sandbox(&["--nodes", "2"]);
    assert!(!refused.success);
    assert!(refused.stderr.contains("losing either one leaves no majority"), "{}", refused.stderr);
}

#[test]
fn a_node_on_its_own_is_where_clients_connect_and_its_end_is_the_sandbox_s() {
    let mut sandbox = Sandbox::start(&["--nodes", "1"]);
    assert_eq!(sandbox.nodes()[0]["url"], sandbox.ready["url"]);
    let told = sandbox.tell("take", "node1", 1);
    assert!(!told.success && told.stderr.contains("no endpoint app"), "{}", told.stderr);

    process::signal(sandbox.pid("pg2"), Signal::KILL);
    eventually(PATIENCE, "the server is gone", || !process::is_alive(sandbox.pid("pg2")));
    let back = sandbox.bring_back("pg2").output();
    assert!(back.starts_with("pg2 runs again (pid "), "{back}");
    let again = sandbox.bring_back("pg2");
    assert!(!again.success && again.stderr.contains("runs already"), "{}", again.stderr);
    let nobody = sandbox.bring_back("pg7");
    assert!(nobody.stderr.contains("there are node1, pg1, pg2, pg3"), "{}", nobody.stderr);

    process::signal(sandbox.pid("node1"), Signal::KILL);
    let status = process::wait_until(&mut sandbox.child, Instant::now() + PATIENCE).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(1));
}
