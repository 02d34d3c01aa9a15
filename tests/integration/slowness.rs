//! A network that is slow and loses packets is no failure, and how much is too slow may differ by server.

use super::failover::one_at_a_time;
use crate::support::*;

/// For longer: `KOMAINU_TEST_SLOW_SECONDS=600 cargo test --test integration slowness::`.
fn seconds() -> u32 {
    std::env::var("KOMAINU_TEST_SLOW_SECONDS").map_or(30, |seconds| seconds.parse().unwrap())
}

#[test]
fn half_a_second_of_delay_with_jitter_and_loss_promotes_nothing_and_detaches_nothing() {
    let _one = one_at_a_time();
    let failover = Failover::builder()
        .patient()
        .slow(Slowness { delay_ms: 500, jitter_ms: 200, loss_percent: 5 })
        .without_agents()
        .start();
    let database = failover.cluster.database();
    let url = failover.nodes.node("node1").url(&database);
    pgbench(&url, &["-i", "-q"]).output();
    let last_event = || failover.nodes.node("node1").admin("/events?after=0").unwrap().body;
    let before: serde_json::Value = serde_json::from_str(&last_event()).unwrap();

    failover.relays.iter().for_each(|relay| relay.slow(true));
    let time = seconds();
    let bench = pgbench_for(time, &url, &["-c", "16", "-j", "2", "-n"]);
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
            "leader_reaches_it"
                | "standbys_still_hear"
                | "server_observed"
                | "node_silent"
                | "log_format_raised"
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

#[test]
fn a_server_is_looked_at_by_limits_of_its_own_where_it_has_some() {
    let cluster = Cluster::start(2);
    // By what holds for all, nobody would be looked at twice within a test, nor be found down.
    let mut config = "[health]\nperiod_ms = 3600000\ntimeout_ms = 3600000\nconnect_timeout_ms = 3600000\n\
                      retries = 1000\n"
        .to_owned();
    for server in cluster.servers().all() {
        config += &format!(
            "[[server]]\nid = \"{}\"\nhost = \"{}\"\nport = {}\n",
            server.id(),
            server.host(),
            server.port()
        );
        if server.id() == "pg2" {
            config += "health_period_ms = 100\nhealth_timeout_ms = 300\nhealth_connect_timeout_ms = 300\n\
                       health_retries = 2\n";
        }
    }
    let komainu = Komainu::builder(&cluster).config(&config).start();
    let up = |id: &str| komainu.metric(&format!("komainu_server_up{{server=\"{id}\"}}"));
    for id in ["pg1", "pg2", "pg3"] {
        eventually(PATIENCE, "it is up", || up(id) == Some(1.0));
    }
    let looks = |id: &str| {
        let health: serde_json::Value =
            serde_json::from_str(&komainu.admin("/health").unwrap().body).unwrap();
        let servers = health["servers"].as_array().unwrap().clone();
        servers.into_iter().find(|server| server["server"] == id).unwrap()["looks"].as_u64().unwrap()
    };
    eventually(PATIENCE, "it is looked at by a period of its own", || looks("pg2") > 20);
    assert!(looks("pg1") < 10 && looks("pg3") < 10, "{} and {}", looks("pg1"), looks("pg3"));
    cluster.standby(0).freeze();
    cluster.standby(1).freeze();
    eventually(PATIENCE, "it is down by limits of its own", || up("pg2") == Some(0.0));
    assert_eq!(up("pg3"), Some(1.0), "of the other nobody knows yet");
    cluster.standby(0).thaw();
    cluster.standby(1).thaw();
    eventually(PATIENCE, "it is up again", || up("pg2") == Some(1.0));
}
