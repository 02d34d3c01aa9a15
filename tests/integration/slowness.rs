//! A network that is slow and loses packets is no failure.

use super::failover::one_at_a_time;
use crate::support::*;

/// For longer: `KOMAINU_TEST_SLOW_SECONDS=600 cargo test --test integration slowness::`.
fn seconds() -> u64 {
    std::env::var("KOMAINU_TEST_SLOW_SECONDS").map_or(30, |seconds| seconds.parse().unwrap())
}

#[test]
fn half_a_second_of_delay_with_jitter_and_loss_promotes_nothing_and_detaches_nothing() {
    let _one = one_at_a_time();
    let failover = Failover::builder()
        .slow(Slowness { delay_ms: 500, jitter_ms: 200, loss_percent: 5 })
        .without_agents()
        .start();
    let database = failover.cluster.database();
    let url = failover.nodes.node("node1").url(&database);
    pgbench(&url, &["-i", "-q"]).output();
    let last_event = || failover.nodes.node("node1").admin("/events?after=0").unwrap().body;
    let before: serde_json::Value = serde_json::from_str(&last_event()).unwrap();

    failover.relays.iter().for_each(|relay| relay.slow(true));
    let time = seconds().to_string();
    let bench = pgbench(&url, &["-c", "16", "-j", "2", "-T", &time, "-n"]);
    let counts: Vec<_> = failover.relays.iter().map(SlowRelay::counts).collect();
    failover.relays.iter().for_each(|relay| relay.slow(false));
    assert!(counts.iter().all(|(delayed, lost)| *delayed > 20 && *lost > 0), "{counts:?}");
    assert!(!bench.stderr.contains("aborted"), "{}", bench.stderr);
    let output = bench.output();
    assert!(output.contains("number of failed transactions: 0 "), "{output}");

    let events: serde_json::Value = serde_json::from_str(&last_event()).unwrap();
    let known = before["events"].as_array().unwrap().len();
    let new: Vec<_> = events["events"].as_array().unwrap()[known..].to_vec();
    // That nodes did not agree for a while whether a server is up may be said, and that something takes longer than it has.
    let said: Vec<_> = new.iter().filter(|event| event["cause"] != "observation").collect();
    let harmless = |event: &serde_json::Value| {
        let reason = event["reason"].as_str().unwrap_or_default();
        let late = event["text"].as_str().is_some_and(|text| text.ends_with("it was not done in time"));
        late || matches!(
            reason,
            "leader_reaches_it" | "standbys_still_hear" | "server_observed" | "node_silent"
        )
    };
    assert!(said.iter().all(|event| harmless(event)), "{said:?}");
    assert_eq!(failover.primary(), ("pg1".to_owned(), 1));
    for server in failover.cluster.servers().all() {
        assert_eq!(failover.server_by("node2", server.id())["administrative"], "attached");
    }
    failover.wait_until_whole();
    eprintln!("{time} s; delayed and lost at each server: {counts:?}\n{output}");
}
