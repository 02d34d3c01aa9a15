//! The commands that show and change a cluster, as a person and as a script meet them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::commands::ask;
use super::support::*;

/// What a command's `--json` says, and that it is fine.
#[track_caller]
fn json(node: &Komainu, arguments: &[&str]) -> Value {
    let (code, out, err) = ask(node, &[arguments, &["--json"]].concat());
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

/// Of a table for people: the cells of the line that begins so.
fn row<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(|cells| cells.first() == Some(&first)).unwrap_or_else(|| panic!("no {first} in\n{table}"))
}

#[test]
fn what_a_cluster_is_like_is_shown_to_people_and_to_programs() {
    let nodes = Nodes::start(Cluster::shared());
    let (owner, leader) = (nodes.owner_of(&nodes.ids(), "app"), nodes.leader());
    let asked = nodes.node("node1");
    let follower = nodes.others(&leader)[0].clone();

    eventually(PATIENCE, "nothing is wrong", || ask(asked, &["doctor"]).0 == 0);
    let (code, out, err) = ask(asked, &["status"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with(&format!("node node1, leader {leader}, term ")), "{out}");
    assert!(out.contains("\nprimary pg1, epoch 1\n"), "{out}");
    assert_eq!(row(&out, "app")[1..3], ["command", &owner]);
    let status = json(asked, &["status"]);
    assert_eq!(
        (&status["leader"], &status["primary"], &status["epoch"]),
        (&(*leader).into(), &"pg1".into(), &1.into())
    );
    let endpoint = &status["endpoints"][0];
    for (key, value) in [("name", "app"), ("method", "command"), ("owner", &owner)] {
        assert_eq!(endpoint[key], *value, "{endpoint}");
    }
    assert!(endpoint["epoch"].is_u64() && status["servers"][0]["id"].is_string(), "{status}");

    let (code, out, _) = ask(asked, &["node", "list"]);
    assert_eq!(code, 0);
    assert!(row(&out, "NODE").starts_with(&["NODE", "ROLE"]), "{out}");
    assert!(row(&out, &leader).contains(&"leads") || row(&out, &leader).contains(&"leads,"), "{out}");
    assert_eq!(row(&out, &follower).last(), Some(&"yes"), "{out}");
    let ids: Vec<_> = json(asked, &["node", "list"])["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, nodes.ids());
    let (code, out, _) = ask(asked, &["endpoint", "list"]);
    assert_eq!((code, &row(&out, "app")[..3]), (0, &["app", "command", &*owner][..]));
    assert_eq!(json(asked, &["endpoint", "list"])["endpoints"][0]["owner"], *owner);
    assert!(json(asked, &["doctor"])["findings"].as_array().is_some_and(|all| all.len() > 5));

    // One is gone: a script hears of it by the exit code, a person by a sentence.
    nodes.node(&follower).kill();
    let asked = nodes.node(&leader);
    for command in [&["status"][..], &["node", "list"], &["doctor"]] {
        eventually(PATIENCE, &format!("{command:?} knows"), || ask(asked, command).0 == 2);
        let (_, out, err) = ask(asked, command);
        let line = out.lines().chain(err.lines()).find(|line| {
            line.contains(&follower) && (line.contains("no:") || line.contains("cannot be reached"))
        });
        assert!(line.is_some(), "{command:?}:\n{out}\n{err}");
    }
    let (code, out, err) = ask(nodes.node(&follower), &["status"]);
    assert!(code == 1 && out.is_empty() && err.contains("is it running"), "{err}");
}

/// `komainu events --follow`, ended with this value.
struct Follower {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Follower {
    fn start(node: &Komainu, arguments: &[&str]) -> Self {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE.as_secs().to_string()).arg(env!("CARGO_BIN_EXE_komainu"));
        command.args(["events", "--follow"]).args(arguments);
        command.env("KOMAINU_ADMIN", node.directory().join("admin.sock")).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    #[track_caller]
    fn until(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let found = self.lines.by_ref().map_while(Result::ok).find(|line| is_it(line));
        found.unwrap_or_else(|| panic!("{what} is not told"))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // `timeout` hands the signal on.
        komainu::sandbox::process::signal(self.child.id(), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn an_endpoint_is_moved_and_whoever_follows_the_timeline_hears_of_it() {
    let nodes = Nodes::start(Cluster::shared());
    let owner = nodes.owner_of(&nodes.ids(), "app");
    let to = nodes.others(&owner)[0].clone();
    let asked = nodes.node("node1");
    let mut people = Follower::start(asked, &[]);
    let mut program = Follower::start(asked, &["--json"]);
    people.until("the beginning", |line| line.contains("app"));

    let (code, out, err) = ask(asked, &["endpoint", "move", "--to", &to]);
    assert!(code == 0 && out.starts_with(&format!("{to} owns app, after ")), "{out}{err}");
    assert_eq!(nodes.owner_of(&nodes.ids(), "app"), to);
    let took = format!("{to} owns the endpoint");
    let line = people.until("the move", |line| line.contains(&took));
    assert!(line.contains(" app: ") && line.contains("(endpoint_moved)  [operator:"), "{line}");
    let event: Value = serde_json::from_str(&program.until("the move", |line| line.contains(&took))).unwrap();
    assert_eq!(
        (&event["subject"], event["cause"].as_str().unwrap().split(':').next()),
        (&"app".into(), Some("operator"))
    );
    let (code, out, _) = ask(asked, &["events"]);
    assert!(code == 0 && out.lines().any(|known| known == line), "{out}");
    let after = event["id"].as_u64().unwrap() - 1;
    let events = json(asked, &["events", "--after", &after.to_string(), "--limit", "1"]);
    assert_eq!(events["events"], Value::from(vec![event]));

    let (code, out, err) = ask(asked, &["endpoint", "move", "--to", "node9"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("no node node9; there are: node1, node2, node3"), "{err}");
    let (code, _, err) = ask(asked, &["endpoint", "move", "--to", &owner, "--endpoint", "other"]);
    assert!(code == 1 && err.contains("other"), "{code} {err}");
    assert_eq!(ask(asked, &["endpoint", "move"]).0, 64, "where to?");
    assert_eq!(ask(asked, &["endpoint", "move", "--to", &to]).0, 0, "it is there already");
}

#[test]
fn a_configuration_is_applied_listed_and_rolled_back_by_command() {
    let nodes = Nodes::start(Cluster::shared());
    let asked = nodes.node("node2");
    eventually(PATIENCE, "there is a first version", || ask(asked, &["config", "show"]).0 == 0);
    let first = ask(asked, &["config", "show"]).1;
    assert_eq!(json(asked, &["config", "show"])["text"], *first);
    let file = asked.directory().join("new.toml");
    let apply = |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        ask(asked, &[&["config", "apply", file.to_str().unwrap()], more].concat())
    };

    let (code, out, err) = apply(&format!("{first}\n[pool]\nsize = 0\n"), &[]);
    assert_eq!((code, out.as_str()), (64, ""), "{err}");
    let line = first.lines().count() + 3;
    assert!(err.starts_with(&format!("{}:{line}: pool.size: ", file.display())), "{err}");
    let second = format!("{first}\n[pool]\nsize = 7\n");
    assert_eq!(apply(&second, &[]), (0, "version 2 is in force\n".into(), String::new()));
    eventually(PATIENCE, "the node that was asked has it", || ask(asked, &["config", "show"]).1 == second);
    assert_eq!(apply(&second, &[]).1, "it is in force already, as version 2\n");
    let (code, _, err) = apply(&first, &["--expect", "1"]);
    assert!(code == 1 && err.contains("version 1 was expected, it is 2"), "{code} {err}");
    for id in nodes.ids() {
        eventually(PATIENCE, "it is everywhere", || ask(nodes.node(&id), &["config", "show"]).1 == second);
    }
    let (code, out, _) = ask(asked, &["config", "rollback", "1"]);
    assert_eq!((code, out.as_str()), (0, "version 3 is in force\n"));
    eventually(PATIENCE, "the node that was asked has it", || ask(asked, &["config", "show"]).1 == first);
    assert_eq!(ask(asked, &["config", "show", "--version", "2"]).1, second);
    let (code, out, _) = ask(asked, &["config", "history"]);
    assert_eq!(code, 0);
    let versions: Vec<_> = out.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(versions, ["3", "2", "1"], "{out}");
    assert!(row(&out, "3").ends_with(&["the", "text", "of", "1"]), "{out}");
    let history = json(asked, &["config", "history"]);
    assert_eq!(
        (&history["versions"][0]["back_to"], &history["versions"][1]["version"]),
        (&1.into(), &2.into())
    );
    for missing in [&["rollback", "99"][..], &["show", "--version", "99"]] {
        let (code, out, err) = ask(asked, &[&["config"], missing].concat());
        assert!(code != 0 && code != 2 && out.is_empty() && err.contains("99"), "{missing:?}: {code} {err}");
    }
}

#[test]
fn a_node_that_is_stopped_by_command_hands_its_endpoint_over_first() {
    let nodes = Nodes::start(Cluster::shared());
    let owner = nodes.owner_of(&nodes.ids(), "app");
    let (code, out, err) = ask(nodes.node(&owner), &["stop"]);
    assert_eq!((code, out.as_str()), (0, "it has stopped\n"), "{err}");
    assert!(nodes.node(&owner).wait(PATIENCE).success());
    let others = nodes.others(&owner);
    let next = nodes.owner_of(&others, "app");
    let (_, out, _) = ask(nodes.node(&next), &["events"]);
    let [took, cause] = [format!("app: {next} owns"), format!("[stop:{owner}, ")];
    assert!(out.lines().any(|line| line.contains(&took) && line.contains(&cause)), "{out}");
}
