//! The commands that ask a running node, on one that is on its own: what they print, and their exit codes.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use super::support::*;

fn komainu(arguments: &[&str], socket: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_komainu"));
    command.args(arguments).env_remove("KOMAINU_ADMIN");
    if let Some(socket) = socket {
        command.env("KOMAINU_ADMIN", socket);
    }
    command.output().unwrap()
}

/// Exit code, standard output, standard error.
fn ask(node: &Komainu, arguments: &[&str]) -> (i32, String, String) {
    let output = komainu(arguments, Some(&node.directory().join("admin.sock")));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn refuses(node: &Komainu) -> bool {
    TcpStream::connect(("127.0.0.1", node.port())).is_err()
}

#[test]
fn status_and_doctor_tell_of_a_node_and_of_the_lack_of_one() {
    let node = Komainu::start(Cluster::shared());
    let (code, out, err) = ask(&node, &["status"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.starts_with("a node of its own, komainu ") && out.contains("\nprimary pg1, epoch 1\n"),
        "{out}"
    );
    let (code, out, _) = ask(&node, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &status["primary"], &status["node"]), (0, &"pg1".into(), &serde_json::Value::Null));
    eventually(PATIENCE, "nothing is wrong", || ask(&node, &["doctor"]).0 == 0);
    assert!(ask(&node, &["doctor", "--all"]).1.contains("it is the primary of epoch 1"));

    let nobody = node.directory().join("nobody.sock");
    let output = komainu(&["status"], Some(&nobody));
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("nobody.sock") && err.contains("is it running"), "{err}");
    assert_eq!(komainu(&["status"], None).status.code(), Some(64), "which node?");
}

#[test]
fn what_takes_a_cluster_says_so_on_a_node_of_its_own() {
    let node = Komainu::start(Cluster::shared());
    for arguments in [
        &["config", "show"][..],
        &["config", "history"],
        &["config", "rollback", "1"],
        &["events"],
        &["node", "replace", "b"],
        &["node", "remove", "b"],
    ] {
        let (code, out, err) = ask(&node, arguments);
        assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}: {err}");
        assert!(err.contains("on its own") && err.contains("komainu.toml"), "{arguments:?}: {err}");
    }
    let (code, _, err) = ask(&node, &["endpoint", "move", "--to", "b"]);
    assert_eq!(code, 64, "{err}");
    let (code, _, err) = ask(&node, &["config", "apply", "/nowhere/komainu.toml"]);
    assert!(code == 64 && err.contains("/nowhere/komainu.toml cannot be read"), "{err}");
}

#[test]
fn a_reload_says_what_changed_or_what_is_wrong() {
    let node = Komainu::start_with(Cluster::shared(), "[pool]\nsize = 5\n");
    assert_eq!(ask(&node, &["reload"]), (0, "reloaded; no key has changed\n".into(), String::new()));
    let write = |from: &str, to: &str| {
        let text = std::fs::read_to_string(node.config_file()).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(node.config_file(), text.replacen(from, to, 1)).unwrap();
    };
    write("size = 5", "size = 6");
    write("workers = 2", "workers = 1");
    let (code, out, _) = ask(&node, &["reload"]);
    assert_eq!((code, out.as_str()), (0, "reloaded: pool.size\nthese change only with a restart: workers\n"));
    write("size = 6", "size = 0");
    let (code, out, err) = ask(&node, &["reload"]);
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(err.contains("pool.size"), "{err}");
    write("size = 0", "size = 6");
    let (code, out, _) = ask(&node, &["reload", "--json"]);
    let reloaded: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &reloaded["changed"]), (0, &serde_json::json!([])), "what was wrong changed nothing");
}

#[test]
fn a_smart_stop_waits_for_clients_and_takes_no_new_ones() {
    let node = Komainu::start(Cluster::shared());
    let mut session = node.login(&Cluster::shared().database());
    let (code, out, _) = ask(&node, &["stop", "--mode", "smart", "--no-wait"]);
    assert_eq!((code, out.as_str()), (0, "it is stopping\n"));
    eventually(PATIENCE, "it turns new clients away", || refuses(&node));
    assert_eq!(session.query_value("SELECT 1"), "1", "who is there goes on");
    assert_eq!(session.query_value("SELECT 2"), "2");
    drop(session);
    assert!(node.wait(PATIENCE).success());
}

#[test]
fn a_stop_with_less_patience_is_obeyed_and_waited_for() {
    let node = Komainu::start(Cluster::shared());
    let mut session = node.login(&Cluster::shared().database());
    session.query("BEGIN");
    for mode in ["smart", "fast"] {
        assert_eq!(ask(&node, &["stop", "--no-wait", "--mode", mode]).0, 0);
    }
    eventually(PATIENCE, "it turns new clients away", || refuses(&node));
    assert_eq!(session.query_value("SELECT 1"), "1", "a transaction may end");
    let (code, out, _) = ask(&node, &["stop", "--mode", "immediate"]);
    assert_eq!((code, out.as_str()), (0, "it has stopped\n"));
    assert!(node.wait(PATIENCE).success());
    let last = session.expect_end();
    assert!(last.iter().any(|message| message.tag == 'E' && message.sqlstate() == "57P01"), "{last:?}");
}
