//! `komainu sandbox` keeps its contract: what it prints is there, and nothing is left behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use komainu::sandbox::{ReservedPort, process};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Finished, PATIENCE, eventually, pgbench, psql, run};

/// It promises 20 s on a machine of its own; here other tests run beside it.
const READY_WITHIN: Duration = Duration::from_secs(60);

struct Sandbox {
    child: Child,
    ready: Value,
    _port: ReservedPort,
}

impl Sandbox {
    fn start(arguments: &[&str]) -> Self {
        let port = ReservedPort::any().unwrap();
        let begun = Instant::now();
        let mut command = process::command(env!("CARGO_BIN_EXE_komainu"), "TERM", None);
        command.args(["sandbox", "--json", "--port", &port.number().to_string()]).args(arguments);
        let mut child = process::spawn({
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            command
        })
        .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(begun.elapsed() < READY_WITHIN, "ready after {:?}", begun.elapsed());
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, ready, _port: port }
    }

    fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    fn servers(&self) -> &[Value] {
        self.ready["servers"].as_array().unwrap()
    }

    /// Process ids of nodes and servers, and of the servers' own processes.
    fn processes(&self) -> Vec<u32> {
        let listed = self.servers().iter().chain(self.ready["nodes"].as_array().unwrap());
        let mut pids: Vec<u32> = listed.map(|it| it["pid"].as_u64().unwrap().try_into().unwrap()).collect();
        let children: Vec<u32> = pids.iter().flat_map(|pid| process::children_of(*pid)).collect();
        pids.extend(children);
        pids
    }

    fn directory(&self) -> PathBuf {
        let data = Path::new(self.servers()[0]["data_directory"].as_str().unwrap());
        data.ancestors().nth(2).unwrap().to_owned()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn komainu_sandbox(arguments: &[&str]) -> Finished {
    let limit = READY_WITHIN.as_secs().to_string();
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
    let nodes = sandbox.ready["nodes"].as_array().unwrap();
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
    sandbox.child.kill().unwrap();
    sandbox.child.wait().unwrap();
    nothing_is_left(&processes, &directory);
}

#[test]
fn a_named_directory_is_kept() {
    let scratch = komainu::sandbox::Scratch::create("komainu-kept-").unwrap();
    let wanted = scratch.path().join("here");
    let mut sandbox = Sandbox::start(&["--standbys", "0", "--dir", wanted.to_str().unwrap()]);
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

    let refused = komainu_sandbox(&["--nodes", "3"]);
    assert!(!refused.success);
    assert!(refused.stderr.contains("--nodes 3"), "{}", refused.stderr);
}
