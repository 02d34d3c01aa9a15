//! Nodes with networks of their own, cut in one direction, in the other, and in both. Needs root.

use std::process::Command;

use serde_json::Value;

use super::support::*;

const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// A sandbox whose nodes are hosts of their own.
struct Hosts {
    sandbox: Sandbox,
}

impl Hosts {
    fn start() -> Self {
        let hosts = Hosts { sandbox: Sandbox::start(&["--nodes", "3", "--netns", "--standbys", "1"]) };
        hosts.owner_of(&NODES);
        hosts
    }

    fn status(&self, id: &str) -> Value {
        self.sandbox.admin(id, "/status").unwrap_or(Value::Null)
    }

    fn address(&self, id: &str) -> String {
        let status = self.status(NODES[0]);
        let nodes = status["nodes"].as_array().unwrap().clone();
        let node = nodes.iter().find(|node| node["id"] == id).unwrap();
        node["address"].as_str().unwrap().rsplit_once(':').unwrap().0.to_owned()
    }

    /// Whatever one of them sends to the other is lost, from now on or no more.
    fn block(&self, change: &str, from: &str, to: &str) {
        let (pid, to) = (self.sandbox.pid(from).to_string(), format!("{}/32", self.address(to)));
        let done = Command::new("nsenter")
            .args(["--net", "--target", &pid, "ip", "route", change, "blackhole", &to])
            .status();
        assert!(done.is_ok_and(|status| status.success()), "network namespaces need root and iproute2");
    }

    fn leader_of(&self, nodes: &[&str]) -> String {
        let mut leader = String::new();
        eventually(PATIENCE, "they agree on a leader", || {
            let said: Vec<_> = nodes.iter().map(|id| self.status(id)["leader"].clone()).collect();
            leader = said[0].as_str().unwrap_or_default().to_owned();
            nodes.contains(&&*leader) && said.iter().all(|other| *other == said[0])
        });
        leader
    }

    fn owner_of(&self, nodes: &[&str]) -> String {
        let mut owner = String::new();
        eventually(PATIENCE, "they agree on the endpoint's owner", || {
            let said: Vec<_> =
                nodes.iter().map(|id| self.status(id)["endpoints"][0]["owner"].clone()).collect();
            owner = said[0].as_str().unwrap_or_default().to_owned();
            nodes.contains(&&*owner) && said.iter().all(|other| *other == said[0])
        });
        owner
    }

    fn holds(&self, id: &str) -> bool {
        self.status(id)["lease_remaining_ms"].as_u64().is_some_and(|ms| ms > 0)
    }

    fn writes(&self) -> bool {
        psql(self.sandbox.url(), &["CREATE TABLE IF NOT EXISTS w (n int); INSERT INTO w VALUES (1)"]).success
    }
}

fn others(of: &str) -> Vec<&'static str> {
    NODES.into_iter().filter(|id| *id != of).collect()
}

#[test]
fn an_owner_cut_off_in_any_direction_gives_way_and_comes_back() {
    let hosts = Hosts::start();
    for (to_it, from_it) in [(true, false), (false, true), (true, true)] {
        let cut = hosts.owner_of(&NODES);
        let rest = others(&cut);
        let change = |change| {
            for other in &rest {
                if to_it {
                    hosts.block(change, other, &cut);
                }
                if from_it {
                    hosts.block(change, &cut, other);
                }
            }
        };
        change("add");
        let owner = hosts.owner_of(&rest);
        assert!(!hosts.holds(&cut), "two could act");
        hosts.leader_of(&rest);
        eventually(PATIENCE, "writes go on through the endpoint", || hosts.writes());
        assert_eq!(hosts.status(&cut)["reason"], "no_lease");
        change("del");
        eventually(PATIENCE, "it is back", || hosts.holds(&cut));
        assert_eq!(hosts.owner_of(&NODES), owner, "nothing moves because it is back");
    }
}

#[test]
fn a_follower_that_only_the_leader_cannot_reach_deposes_nobody() {
    let hosts = Hosts::start();
    let leader = hosts.leader_of(&NODES);
    let term = hosts.status(&leader)["term"].clone();
    let follower = others(&leader)[0];
    hosts.block("add", &leader, follower);
    hosts.block("add", follower, &leader);
    eventually(PATIENCE, "it has no lease", || !hosts.holds(follower));
    // It hears from the third node that the leader lives, again and again.
    let third = others(&leader).into_iter().find(|id| *id != follower).unwrap();
    eventually(PATIENCE, "the endpoint is where it can be used", || {
        let owner = hosts.status(third)["endpoints"][0]["owner"].clone();
        owner.as_str().is_some_and(|owner| owner != follower && hosts.holds(owner))
    });
    hosts.block("del", &leader, follower);
    hosts.block("del", follower, &leader);
    eventually(PATIENCE, "it has its lease", || hosts.holds(follower));
    assert_eq!((hosts.leader_of(&NODES), hosts.status(&leader)["term"].clone()), (leader, term));
}
