//! A busy machine does not make the nodes doubt each other.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use komainu::sandbox::process;
use serde_json::Value;

use super::support::*;

const BUSY_FOR: Duration = Duration::from_secs(20);

/// Processes that do nothing but keep every processor busy; they end with this value.
struct Burners(Vec<Child>);

impl Burners {
    fn start(count: usize) -> Self {
        let burner = |_| {
            let mut command: Command = process::command("sh", "KILL", None);
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            process::spawn(command).unwrap()
        };
        Burners((0..count).map(burner).collect())
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for burner in &mut self.0 {
            let _ = burner.kill();
            let _ = burner.wait();
        }
    }
}

#[test]
fn a_busy_machine_costs_no_election_and_moves_nothing() {
    let nodes = Nodes::start(Cluster::shared());
    let database = Cluster::shared().database();
    let (owner, leader) = (nodes.owner_of(&nodes.ids(), "app"), nodes.leader());
    eventually(PATIENCE, "its program was told", || nodes.taken_by().is_some());
    let term = nodes.status(&leader)["term"].clone();
    let settled = |id: &str| -> [Value; 4] {
        let status = nodes.status(id);
        let endpoint = &status["endpoints"][0];
        [&status["leader"], &status["term"], &endpoint["owner"], &endpoint["epoch"]].map(Clone::clone)
    };
    let (before, events) = (settled(&leader), nodes.events(&leader));
    assert_eq!(before[..3], [Value::from(&*leader), term, Value::from(&*owner)]);

    let processors = std::thread::available_parallelism().unwrap().get();
    let burners = Burners::start(2 * processors);
    let began = Instant::now();
    let mut rounds = 0;
    while began.elapsed() < BUSY_FOR {
        for id in nodes.ids() {
            assert_eq!(nodes.node(&id).login(&database).query_value("SELECT 1"), "1", "{id} serves");
        }
        rounds += 1;
    }
    drop(burners);
    for id in nodes.ids() {
        assert_eq!(settled(&id), before, "{id}, after {rounds} rounds");
    }
    let after = nodes.events(&leader);
    assert_eq!(after[events.len()..], [] as [Value; 0], "nothing happened");
}
