//! Proxies beside the nodes that vote: they serve alike, cancel alike, and come and go unnoticed.

use postgres_protocol::message::frontend;
use serde_json::json;

use super::support::*;

#[track_caller]
fn wait_until_ready(proxy: &Komainu) {
    eventually(PATIENCE, "the proxy serves", || {
        proxy.admin("/ready").is_ok_and(|answer| answer.status == 200)
    });
}

/// How that node knows the other one.
fn role(nodes: &Nodes, id: &str) -> Option<String> {
    let status = nodes.status("node1");
    let known = status["nodes"].as_array()?.iter().find(|node| node["id"] == id)?.clone();
    Some(known["role"].as_str()?.to_owned())
}

fn passed_on(node: &Komainu) -> f64 {
    node.metric("komainu_cancel_requests_total{result=\"passed_on\"}").unwrap_or(0.0)
}

/// A session at one is cancelled at the other, which gave it no key.
#[track_caller]
fn cancel(session_at: &Komainu, cancelled_at: &Komainu) {
    let database = Cluster::shared().database();
    let mut session = session_at.login(&database);
    session.encode(|buffer| frontend::query("SELECT pg_sleep(20)", buffer));
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    let servers = Cluster::shared().servers();
    eventually(PATIENCE, "it runs", || {
        servers.all().iter().any(|server| server.psql("postgres", &sql).unwrap() != "0")
    });
    let before = passed_on(cancelled_at);
    let mut other = cancelled_at.wire();
    let mut request = (12 + session.secret_key.len() as u32).to_be_bytes().to_vec();
    request.extend(80_877_102_u32.to_be_bytes());
    request.extend(session.process_id.to_be_bytes());
    request.extend(&session.secret_key);
    other.send(&request);
    assert_eq!(other.expect_end(), []);
    let answer = session.until('Z');
    let error = answer.iter().find(|message| message.tag == 'E').expect("it was cancelled");
    assert_eq!(error.sqlstate(), "57014");
    eventually(PATIENCE, "it counts that", || passed_on(cancelled_at) > before);
}

#[test]
fn a_cancel_request_finds_its_session_wherever_it_arrives() {
    let nodes = Nodes::start(Cluster::shared());
    let proxies = ["proxy1", "proxy2"].map(|id| nodes.proxy(Cluster::shared(), id));
    cancel(nodes.node("node1"), nodes.node("node3"));
    proxies.iter().for_each(wait_until_ready);
    cancel(nodes.node("node2"), &proxies[0]);
    cancel(&proxies[0], nodes.node("node2"));
    cancel(&proxies[0], &proxies[1]);
}

#[test]
fn a_proxy_joins_and_leaves_under_load_and_no_client_sees_an_error() {
    let nodes = Nodes::builder(3).endpoint("app").patient().start(Cluster::shared());
    let database = Cluster::shared().database();
    pgbench(&nodes.node("node1").url(&database), &["-i", "-q", "-s", "1"]).output();
    let stays = nodes.proxy(Cluster::shared(), "proxy1");
    wait_until_ready(&stays);
    let urls = [nodes.node("node1"), &stays].map(|node| node.url(&database));
    std::thread::scope(|scope| {
        let loads = urls.each_ref().map(|url| scope.spawn(|| pgbench(url, &["-c", "4", "-T", "8", "-N"])));
        let proxy = nodes.proxy(Cluster::shared(), "proxy2");
        wait_until_ready(&proxy);
        let mut wire = proxy.login(&database);
        assert_ne!(wire.query_value("SELECT count(*) FROM pgbench_accounts"), "0");
        wire.query("UPDATE pgbench_branches SET bbalance = 1");
        eventually(PATIENCE, "node1 knows it", || role(&nodes, "proxy2").as_deref() == Some("proxy"));
        drop(wire);
        drop(proxy);
        let gone = json!({ "id": "proxy2", "cause": "operator:test" });
        assert_eq!(nodes.post("node1", "/node/remove", &gone).status, 200);
        eventually(PATIENCE, "it is forgotten", || role(&nodes, "proxy2").is_none());
        for load in loads {
            // pgbench ends with an error when one of its clients sees one.
            let report = load.join().unwrap().output();
            assert!(report.contains("number of failed transactions: 0 "), "{report}");
        }
    });
    assert_eq!(role(&nodes, "proxy1").as_deref(), Some("proxy"));
}
