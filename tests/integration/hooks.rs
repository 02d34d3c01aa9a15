//! The operator's programs are told of each change of who serves: once, and beside it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::failover::one_at_a_time;
use crate::support::*;

/// Programs of a test's own, and what they were told.
struct Programs {
    directory: TempDir,
}

impl Programs {
    fn new() -> Self {
        Programs { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes what it is told into a file, then goes on with `more`. The line of the configuration.
    fn program(&self, hook: &str, deadline_ms: u64, more: &str) -> String {
        let (script, told) = (self.path(&format!("{hook}.sh")), self.path("told"));
        fs::write(&script, format!("read -r line; echo \"$line\" >> {}\n{more}\n", told.display())).unwrap();
        format!(
            "{hook} = {{ command = [\"/bin/sh\", \"{}\"], deadline_ms = {deadline_ms} }}\n",
            script.display()
        )
    }

    /// A part of a program: it goes on when the test says so.
    fn waits_for(&self, name: &str) -> String {
        format!("while [ ! -e {} ]; do sleep 0.05; done", self.path(name).display())
    }

    fn go_on(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }

    fn told(&self) -> Vec<Value> {
        let told = fs::read_to_string(self.path("told")).unwrap_or_default();
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Of one hook, in the order in which they came.
    fn told_of(&self, hook: &str) -> Vec<Value> {
        self.told().into_iter().filter(|told| told["event"] == hook).collect()
    }

    #[track_caller]
    fn wait_for(&self, hook: &str) -> Value {
        eventually(REJOINED_WITHIN, "the program is run", || !self.told_of(hook).is_empty());
        self.told_of(hook).remove(0)
    }
}

/// Entries of the timeline about that hook: reason and text.
fn entries(failover: &Failover, node: &str, hook: &str) -> Vec<(String, String)> {
    let page = failover.nodes.node(node).admin("/events?limit=1000").unwrap();
    let page: Value = serde_json::from_str(&page.body).unwrap();
    let events = page["events"].as_array().unwrap().iter();
    let of = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    let all = events.map(|event| (of(event, "reason"), of(event, "text")));
    all.filter(|(_, text)| text.starts_with(&format!("{hook}: "))).collect()
}

#[track_caller]
fn entry(failover: &Failover, node: &str, hook: &str) -> (String, String) {
    eventually(REJOINED_WITHIN, "the timeline tells how it ended", || {
        !entries(failover, node, hook).is_empty()
    });
    let mut entries = entries(failover, node, hook);
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

fn runs(failover: &Failover, hook: &str, result: &str) -> f64 {
    let sample = format!("komainu_hooks_total{{hook=\"{hook}\",result=\"{result}\"}}");
    let ids = failover.nodes.ids();
    ids.iter().filter_map(|id| failover.nodes.node(id).metric(&sample)).sum()
}

fn exists(path: &Path) -> bool {
    path.exists()
}

#[test]
fn each_change_is_told_once_and_a_program_that_hangs_delays_none() {
    let _one = one_at_a_time();
    let programs = Programs::new();
    let config = "[hooks]\n".to_owned()
        + &programs.program(
            "on_detach",
            60_000,
            &format!("{}; echo no use >&2; exit 3", programs.waits_for("go")),
        )
        + &programs.program("on_failover", 60_000, "echo careful >&2")
        + &programs.program("on_recovered", 3_000, "sleep 1000")
        + &programs.program("on_attach", 60_000, "")
        + &programs.program("on_switchover", 60_000, "");
    let failover = Failover::builder().config(&config).start();
    assert!(programs.told().is_empty(), "nothing has happened yet");
    failover.cluster.primary().kill();
    let ids = failover.nodes.ids();
    let (new, epoch) = failover.primary_above(1, &ids);

    let told = programs.wait_for("on_failover");
    let leader = told["node"].as_str().unwrap().to_owned();
    assert!(ids.contains(&leader), "{leader}");
    let expected = json!({
        "event": "on_failover", "id": told["id"], "cluster": "test", "cluster_id": told["cluster_id"],
        "node": leader, "epoch": epoch, "server": new, "old_primary": "pg1", "new_primary": new,
        "reason": "primary_lost", "cause": "decision", "at_ms": told["at_ms"],
    });
    assert_eq!(told, expected);
    let (reason, text) = entry(&failover, &leader, "on_failover");
    assert!(reason == "hook_ran" && text.contains("; stderr: careful"), "{reason}: {text}");

    // All that goes on while the one that was told first hangs.
    failover.wait_until_whole();
    let recovered = programs.wait_for("on_recovered");
    assert_eq!((&recovered["server"], &recovered["reason"]), (&json!("pg1"), &json!("rejoined")));
    let (reason, text) = entry(&failover, &leader, "on_recovered");
    assert!(reason == "hook_timed_out" && text.contains("within 3000 ms"), "{reason}: {text}");
    let detached = programs.wait_for("on_detach");
    assert_eq!((&detached["server"], &detached["reason"]), (&json!("pg1"), &json!("former_primary")));
    assert!(entries(&failover, &leader, "on_detach").is_empty(), "it goes on");

    // The second of a kind waits for the first.
    let standby = ["pg2", "pg3"].into_iter().find(|id| *id != new).unwrap();
    for state in ["detached", "attached"] {
        let order = json!({ "id": standby, "state": state });
        let answer = failover.nodes.post(&leader, "/server/administrative", &order);
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    assert_eq!(programs.wait_for("on_attach")["server"], standby);
    assert_eq!(programs.told_of("on_detach").len(), 1);
    programs.go_on("go");
    eventually(PATIENCE, "both have ended", || entries(&failover, &leader, "on_detach").len() == 2);
    for (reason, text) in entries(&failover, &leader, "on_detach") {
        let expected = "on_detach: it ended with exit status: 3 after ";
        assert!(reason == "hook_failed" && text.starts_with(expected), "{reason}: {text}");
        assert!(text.ends_with("; stderr: no use"), "{text}");
    }

    failover.wait_until_whole();
    let begun = failover.nodes.post("node2", "/switchover", &json!({ "to": "pg1" }));
    assert_eq!(begun.status, 200, "{}", begun.body);
    let told = programs.wait_for("on_switchover");
    assert_eq!((&told["old_primary"], &told["new_primary"]), (&json!(new), &json!("pg1")));
    assert_eq!(told["reason"], "switchover_ordered");
    failover.wait_until_whole();
    eventually(PATIENCE, "all were told", || {
        failover.nodes.status(&leader)["hooks"].as_array().is_some_and(Vec::is_empty)
    });
    let counts = ["on_failover", "on_switchover", "on_detach", "on_attach", "on_recovered"]
        .map(|hook| programs.told_of(hook).len());
    assert_eq!(counts, [1, 1, 3, 1, 2]);
    let mut known: Vec<_> = programs.told().iter().map(|told| told["id"].as_u64().unwrap()).collect();
    known.sort_unstable();
    assert!(known.is_sorted_by(|a, b| a < b), "an event was told twice: {known:?}");
    assert_eq!((runs(&failover, "on_detach", "failed"), runs(&failover, "on_failover", "ok")), (3.0, 1.0));
}

/// Each hangs for longer than anything here is waited for.
#[test]
fn programs_that_hang_delay_neither_failovers_nor_switchovers() {
    let _one = one_at_a_time();
    let programs = Programs::new();
    let hangs = programs.waits_for("go");
    let hooks = ["on_failover", "on_switchover", "on_detach", "on_attach", "on_recovered"];
    let lines: Vec<_> = hooks.iter().map(|hook| programs.program(hook, 60_000, &hangs)).collect();
    let failover = Failover::builder().config(&format!("[hooks]\n{}", lines.concat())).start();
    let ids = failover.nodes.ids();
    failover.cluster.primary().kill();
    let (second, epoch) = failover.primary_above(1, &ids);
    assert_eq!(programs.wait_for("on_failover")["new_primary"], second);
    failover.wait_until_whole();
    let begun = failover.nodes.post("node2", "/switchover", &json!({ "to": "pg1" }));
    assert_eq!(begun.status, 200, "{}", begun.body);
    assert_eq!(failover.primary_above(epoch, &ids), ("pg1".to_owned(), epoch + 1));
    assert_eq!(programs.wait_for("on_switchover")["new_primary"], "pg1");
    failover.wait_until_whole();
    failover.server("pg1").kill();
    let (_, last) = failover.primary_above(epoch + 1, &ids);
    assert_eq!(last, epoch + 2);
    failover.wait_until_whole();
    programs.go_on("go");
    eventually(PATIENCE, "the second failover is told of, too", || {
        programs.told_of("on_failover").len() == 2
    });
}

#[test]
fn a_program_whose_leader_dies_is_not_run_again_and_the_timeline_says_so() {
    let _one = one_at_a_time();
    let programs = Programs::new();
    let more = format!("{}; touch {}", programs.waits_for("go"), programs.path("ended").display());
    let config = "[hooks]\n".to_owned() + &programs.program("on_detach", 5_000, &more);
    let failover = Failover::builder().without_agents().config(&config).start();
    let leader = failover.nodes.leader();
    let order = |node: &str, state: &str| {
        let answer =
            failover.nodes.post(node, "/server/administrative", &json!({ "id": "pg2", "state": state }));
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    order(&leader, "detached");
    assert_eq!(programs.wait_for("on_detach")["node"], leader);
    failover.nodes.node(&leader).kill();
    let others = failover.nodes.others(&leader);
    let (reason, text) = entry(&failover, &others[0], "on_detach");
    let expected = format!("on_detach: it was begun on {leader}, which did not report its end");
    assert!(reason == "hook_interrupted" && text.starts_with(&expected), "{reason}: {text}");
    assert_eq!(programs.told().len(), 1, "it is run once");
    // Nobody killed what the dead node had started.
    programs.go_on("go");
    eventually(PATIENCE, "it ends by itself", || exists(&programs.path("ended")));
    // The next one is another event.
    order(&others[0], "attached");
    order(&others[0], "detached");
    eventually(PATIENCE, "the next leader runs the next one", || programs.told().len() == 2);
    assert_ne!(programs.told()[1]["node"], leader);
}
