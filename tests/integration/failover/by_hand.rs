//! A former primary comes back by what the manual tells an operator to do, and by an agent that came only afterwards.

use std::collections::BTreeMap;
use std::fs;

use komainu::sandbox::{Installation, Scratch};

use super::writing::*;
use crate::commands::ask;
use crate::support::*;

const PAGE: &str = include_str!("../../../docs/failure-modes.md");

/// The commands on the page that begin with that comment.
fn commands(title: &str) -> &'static str {
    let begins = format!("```sh\n# {title}\n");
    let found: Vec<_> = PAGE.split(&begins).skip(1).collect();
    assert_eq!(found.len(), 1, "{title}");
    found[0].split("```").next().unwrap()
}

/// Has PostgreSQL's user do it on a server's host, after another one has become the primary.
#[track_caller]
fn by_hand(failover: &Failover, title: &str, id: &str, new: &str) {
    let installation = Installation::find().unwrap();
    let (old, new) = (failover.server(id), failover.server(new));
    // The variables that the page has an operator set.
    let path = format!("{}:{}", installation.directory().display(), std::env::var("PATH").unwrap());
    let set = BTreeMap::from([
        ("PATH", path),
        ("PGDATA", old.data_directory().display().to_string()),
        ("PGPASSFILE", old.passfile().display().to_string()),
        ("ID", id.to_owned()),
        ("NEW", format!("host={} port={}", new.host(), new.port())),
        ("LOG", old.log_file().display().to_string()),
    ]);
    for name in set.keys().filter(|name| **name != "PATH") {
        assert!(PAGE.contains(&format!("{name}=")), "the page does not say what {name} is");
    }
    let mut shell = installation.server_command("/bin/sh", "KILL");
    // PostgreSQL's programs end with their shell, but not the server that they start.
    shell.envs(&set).args(["-eu", "-c", commands(title)]);
    run(&mut shell).output();
}

#[test]
fn a_former_primary_is_rewound_and_rebuilt_by_what_the_manual_says_without_any_agent() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous_with(Failover::builder().without_agents());
    let ids = failover.nodes.ids();
    for (epoch, way) in [(1, "rewind"), (2, "rebuild")] {
        failover.wait_until_promised();
        let writers = write_at(&failover, &ids, &database);
        let (old, _) = failover.primary();
        failover.server(&old).kill();
        let (new, now) = failover.primary_above(epoch, &ids);
        assert!(new != old && now == epoch + 1, "{new} in epoch {now}");
        writers.iter().for_each(Writer::goes_on);
        // What tells an operator that there is something to do, and where.
        let (_, status, _) = ask(failover.nodes.node("node1"), &["status"]);
        let line = status.lines().find(|line| line.starts_with(&format!("{old} "))).unwrap();
        assert!(line.contains("quarantined"), "{status}");
        assert!(status.contains(&format!("primary {new}, epoch {now}")), "{status}");
        by_hand(&failover, way, &old, &new);
        failover.wait_until_whole();
        writers.iter().for_each(Writer::goes_on);
        assert!(is_standby(&failover, &old) && !is_standby(&failover, &new));
        assert_eq!(failover.primary(), (new.clone(), now));
        assert_nothing_lost(&failover, &new, &database, writers);
        failover.server(&new).psql(&database, "TRUNCATE t").unwrap();
    }
}

#[test]
fn an_agent_that_comes_only_after_the_failure_brings_the_former_primary_back() {
    let _one = one_at_a_time();
    let (failover, database) = synchronous();
    let ids = failover.nodes.ids();
    let (agent, node) = (failover.agent("pg1"), failover.nodes.node("node2"));
    let scratch = Scratch::create("komainu-agent-later-").unwrap();
    let file = scratch.path().join("komainu.toml");
    let apply = |text: &str| {
        fs::write(&file, text).unwrap();
        let (code, out, err) = ask(node, &["config", "apply", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{out}{err}");
    };
    let (_, with_agents, _) = ask(node, &["config", "show"]);
    let of_it = format!("agent = \"{}\"", agent.address());
    assert!(with_agents.contains(&of_it), "{with_agents}");
    agent.kill();
    apply(&with_agents.replace(&of_it, ""));

    let writers = write_at(&failover, &ids, &database);
    failover.cluster.primary().kill();
    let (new, epoch) = failover.primary_above(1, &ids);
    assert!(new != "pg1" && epoch == 2, "{new} in epoch {epoch}");
    writers.iter().for_each(Writer::goes_on);
    for id in &ids {
        eventually(PATIENCE, "it stays out", || {
            failover.server_by(id, "pg1")["administrative"] == "quarantined"
        });
    }
    // Nothing is there of an agent before.
    let _ = fs::remove_dir_all(failover.server("pg1").directory().join("agent"));
    agent.start().unwrap();
    apply(&with_agents);
    failover.wait_until_whole();
    assert!(is_standby(&failover, "pg1"));
    assert_eq!(failover.primary(), (new.clone(), 2));
    assert_nothing_lost(&failover, &new, &database, writers);
}
