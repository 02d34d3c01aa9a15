//! Nodes with networks of their own, cut in one direction, in the other, and in both. Needs root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use komainu::sandbox::admin;
use serde_json::{Value, json};
use tokio_postgres::NoTls;

use super::support::*;

const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// A sandbox whose nodes are hosts of their own.
struct Hosts {
    sandbox: Sandbox,
}

impl Hosts {
    fn start() -> Self {
        let sandbox = Sandbox::start(&["--nodes", "3", "--netns", "--standbys", "1", "--patient"]);
        let hosts = Hosts { sandbox };
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

    /// All that one of them says to the others, and all that they say to it.
    fn cut(&self, change: &str, id: &str) {
        for other in others(id) {
            self.block(change, other, id);
            self.block(change, id, other);
        }
    }

    fn url(&self, id: &str) -> &str {
        self.sandbox.part(id)["url"].as_str().unwrap()
    }

    fn writes(&self) -> bool {
        psql(self.sandbox.url(), &["CREATE TABLE IF NOT EXISTS w (n int); INSERT INTO w VALUES (1)"]).success
    }
}

impl Hosts {
    fn komainu(&self, id: &str, arguments: &[&str]) -> String {
        let admin = self.sandbox.part(id)["admin"].as_str().unwrap();
        run(Command::new(env!("CARGO_BIN_EXE_komainu")).args(arguments).args(["--admin", admin])).output()
    }
}

/// Asks for rows and reads none of them.
struct Reader(Child);

impl Reader {
    fn start(url: &str, query: &str) -> Self {
        let copy = format!(r"\copy ({query}) TO PROGRAM 'sleep 600'");
        Reader(
            Command::new("psql")
                .args([url, "-Xq", "-c", "BEGIN", "-c", &copy])
                .process_group(0)
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // With the program that it has started.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_only_reads_while_the_majority_goes_on() {
    let hosts = Hosts::start();
    let asked = Path::new(hosts.sandbox.part("node1")["admin"].as_str().unwrap());
    let config = hosts.sandbox.admin("node1", "/config").unwrap();
    let text = config["text"].as_str().unwrap();
    let impatient = text.replacen("[limits]\n", "[limits]\nhold_timeout_ms = 500\n", 1);
    assert_ne!(impatient, text);
    let document = json!({ "text": impatient, "cause": "operator:test" }).to_string();
    let applied = admin::post(asked, "/config/apply", &document).unwrap();
    assert_eq!(applied.status, 200, "{}", applied.body);
    let version = config["version"].as_u64().unwrap() + 1;
    for id in NODES {
        eventually(PATIENCE, "it is live", || hosts.status(id)["configuration_version"] == version);
    }
    let insert = |id: &str, n: u32| psql(hosts.url(id), &[&format!("INSERT INTO sides VALUES ({n})")]);
    psql(hosts.url("node1"), &["CREATE TABLE sides (n int); INSERT INTO sides VALUES (1)"]).output();

    let leader = hosts.leader_of(&NODES);
    let (session, connection) = tokio_postgres::connect(hosts.url(&leader), NoTls).await.unwrap();
    tokio::spawn(connection);
    let count = async || session.query_one("SELECT count(*) FROM sides", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(count().await, 1);
    let term = hosts.status(&leader)["term"].as_u64().unwrap();
    let majority = others(&leader);
    hosts.cut("add", &leader);
    let next = hosts.leader_of(&majority);
    assert!(hosts.status(&next)["term"].as_u64().unwrap() > term);
    hosts.owner_of(&majority);
    for (id, n) in majority.iter().zip(2..) {
        eventually(PATIENCE, "the majority writes on", || insert(id, n).success);
    }
    eventually(PATIENCE, "it knows that it is alone", || hosts.status(&leader)["reason"] == "no_lease");

    // What is not done is said, with the reason, by the session there was and by a new one.
    let refused = session.batch_execute("INSERT INTO sides VALUES (9)").await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "57P03", "{refused}");
    for said in [refused.message(), &insert(&leader, 9).stderr] {
        assert!(said.contains("within 500 ms") && said.contains("has no lease"), "{said}");
    }
    // The session has seen one row, so a standby will do, and has what the majority wrote.
    eventually_async(PATIENCE, "it reads from a standby", async || count().await == 3).await;

    hosts.cut("del", &leader);
    eventually(PATIENCE, "it is back", || hosts.holds(&leader));
    assert_eq!(hosts.leader_of(&NODES), next, "it follows whom the others elected");
    eventually(PATIENCE, "it writes again", || insert(&leader, 4).success);
    let rows = session.query("SELECT n FROM sides ORDER BY n FOR UPDATE", &[]).await.unwrap();
    let rows: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, [1, 2, 3, 4], "what was refused was not written");
}

#[test]
fn a_client_that_vanishes_in_the_middle_of_a_result_holds_its_server_no_longer_than_is_said() {
    let hosts = Hosts::start();
    let node = hosts.leader_of(&NODES);
    let config = hosts.sandbox.directory().join("with-limits.toml");
    let text = hosts.komainu(&node, &["config", "show"]);
    assert!(text.contains("\n[limits]\n"), "{text}");
    let limited = text.replace("\n[limits]\n", "\n[limits]\npeer_gone_after_ms = 2000\n");
    std::fs::write(&config, limited).unwrap();
    hosts.komainu(&node, &["config", "apply", config.to_str().unwrap()]);

    let reader = Reader::start(
        hosts.url(&node),
        "SELECT 'read on', repeat('x', 1000) FROM generate_series(1, 100000000)",
    );
    let reading = || {
        let asked =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY %read on%' AND state = 'active'";
        psql(hosts.sandbox.url(), &[asked]).output().trim().parse::<u32>().unwrap()
    };
    eventually(PATIENCE, "it gets its rows", || reading() == 1);
    // Twice as long as one that gives no sign of life is waited for: this one does not read, and lives.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(reading(), 1, "who does not read is waited for");
    let here = hosts.address(&node).rsplit_once('.').unwrap().0.to_owned() + ".1/32";
    let pid = hosts.sandbox.pid(&node).to_string();
    let blackhole = Command::new("nsenter")
        .args(["--net", "--target", &pid, "ip", "route", "add", "blackhole", &here])
        .status();
    assert!(blackhole.is_ok_and(|status| status.success()));
    eventually(PATIENCE, "nobody waits for it any more", || reading() == 0);
    drop(reader);
}
