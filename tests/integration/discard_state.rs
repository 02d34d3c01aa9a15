//! A node that gives up its state on purpose: whom it asks, what is gone, and how it comes back.

use std::process::{Child, Command, Output, Stdio};

use super::support::*;

fn serve(node: &Komainu, id: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_komainu"));
    command
        .args(["serve", "--config"])
        .arg(node.config_file())
        .args(["--node", id, "--discard-state"])
        .args(more);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_discards_its_state_only_when_it_is_told_so_twice_and_is_replaced_then() {
    let nodes = Nodes::start(Cluster::shared());
    let id = nodes.others(&nodes.leader())[0].clone();
    let node = nodes.node(&id);
    let store = nodes.raft_directory(&id).join("raft.redb");
    let (code, error) = told(&serve(node, &id, &["--yes"]).output().unwrap());
    assert!(code == Some(1) && error.contains("in use by another process"), "it runs: {error}");
    node.kill();
    let (code, error) = told(&serve(node, &id, &[]).output().unwrap());
    assert!(code == Some(64) && error.contains("--yes"), "nobody can be asked: {error}");
    for part in ["its vote", "log", "identity", "node replace"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(store.exists(), "nothing was removed");

    let waiting = || nodes.status(&id)["waiting_for"].as_str().unwrap_or_default().to_owned();
    {
        let _running = Running(serve(node, &id, &["--yes"]).stderr(Stdio::null()).spawn().unwrap());
        eventually(PATIENCE, "it waits to be replaced", || waiting().contains("replace the node"));
    }
    node.start_again();
    // An owner is not replaced.
    nodes.owner_of(&nodes.others(&id), "app");
    let replaced = serde_json::json!({ "id": id, "cause": "operator:test" });
    let answer = nodes.post(&nodes.others(&id)[0], "/node/replace", &replaced);
    assert_eq!(answer.status, 200, "{}", answer.body);
    nodes.wait_until_ready(std::slice::from_ref(&id));
    eventually(PATIENCE, "it takes part in its second life", || {
        nodes.status(&id)["nodes"]
            .as_array()
            .is_some_and(|known| known.iter().any(|known| known["id"] == *id && known["incarnation"] == 2))
    });
}

#[test]
fn a_node_on_its_own_has_no_state_to_discard() {
    let node = Komainu::start(Cluster::shared());
    let (code, error) = told(&serve(&node, "x", &["--yes"]).output().unwrap());
    assert_eq!(code, Some(64), "{error}");
}
