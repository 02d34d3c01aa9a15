//! `komainu sandbox --mode rds|aurora` is an imitation that komainu cannot tell from what it is made for, and fails over as AWS does.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use komainu::net::names::Names;
use komainu::sandbox::admin;
use komainu_aws_double::Api;

use crate::support::{Finished, PATIENCE, Sandbox, eventually, psql, run};

fn fail_over(sandbox: &Sandbox, arguments: &[&str]) -> Finished {
    let admin = sandbox.nodes()[0]["admin"].as_str().unwrap();
    let mut command = Command::new("timeout");
    command.args(["240", env!("CARGO_BIN_EXE_komainu"), "sandbox", "failover", "--admin", admin]);
    run(command.args(arguments))
}

/// Past komainu.
fn superuser(sandbox: &Sandbox, id: &str, sql: &str) -> Finished {
    let server = sandbox.part(id);
    let socket = Path::new(server["data_directory"].as_str().unwrap()).with_file_name("socket");
    let url = format!("host={} port={} user=postgres dbname=app", socket.display(), server["port"]);
    psql(&url, &[sql])
}

/// The server that a client's statement came to, through komainu.
fn answers(sandbox: &Sandbox, sql: &str) -> String {
    psql(sandbox.url(), &[sql]).output()
}

/// Whoever has to be asked for a lock is the writer.
const WHO_WRITES: &str = "SELECT host(inet_server_addr()) FROM t LIMIT 1 FOR UPDATE";

fn leads_to(sandbox: &Sandbox, name: &str) -> IpAddr {
    let server: SocketAddr = sandbox.ready["managed"]["name_server"].as_str().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Names::of(&[server]).unwrap().resolve(name, 1).await.unwrap()[0].ip() })
}

fn address(sandbox: &Sandbox, id: &str) -> IpAddr {
    sandbox.part(id)["host"].as_str().unwrap().parse().unwrap()
}

#[track_caller]
fn starts(mode: &str, more: &[&str]) -> Sandbox {
    let sandbox = Sandbox::start(&[&["--mode", mode], more].concat());
    let managed = &sandbox.ready["managed"];
    assert_eq!((&managed["mode"], &managed["ttl_s"]), (&mode.into(), &5.into()), "{managed}");
    assert_eq!(leads_to(&sandbox, managed["writer_name"].as_str().unwrap()), address(&sandbox, "pg1"));
    for server in sandbox.servers() {
        let id = server["id"].as_str().unwrap();
        assert_eq!(leads_to(&sandbox, server["name"].as_str().unwrap()), address(&sandbox, id));
    }
    answers(&sandbox, "CREATE TABLE t (n int)");
    answers(&sandbox, "INSERT INTO t VALUES (1)");
    assert_eq!(answers(&sandbox, WHO_WRITES), address(&sandbox, "pg1").to_string());
    let read = "SELECT host(inet_server_addr())";
    eventually(PATIENCE, "a reader answers what it may", || {
        answers(&sandbox, read) != address(&sandbox, "pg1").to_string()
    });
    sandbox
}

#[test]
fn before_aurora_writes_go_on_while_the_name_is_stale_and_every_writer_is_followed() {
    let sandbox = starts("aurora", &["--patient"]);
    let writer = sandbox.ready["managed"]["writer_name"].as_str().unwrap();
    // What it has not been sent it has from the storage.
    let nowhere = "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'";
    for sql in [nowhere, "SELECT pg_reload_conf()"] {
        superuser(&sandbox, "pg3", sql).output();
    }
    eventually(PATIENCE, "nothing is streamed to it", || {
        superuser(&sandbox, "pg3", "SELECT count(*) FROM pg_stat_wal_receiver").output() == "0"
    });
    answers(&sandbox, "INSERT INTO t SELECT generate_series(2, 10000)");
    superuser(&sandbox, "pg3", "ALTER SYSTEM RESET primary_conninfo").output();

    let told = fail_over(&sandbox, &["--to", "pg3", "--name-delay", "3600"]).output();
    for says in ["pg1 to pg3", "pg1, the writer, is killed", "pg3 takes writes", "pg1 is back, as a reader"] {
        assert!(told.contains(says), "{says}: {told}");
    }
    answers(&sandbox, "INSERT INTO t VALUES (10001)");
    assert_eq!(leads_to(&sandbox, writer), address(&sandbox, "pg1"), "the name is stale");
    assert_eq!(superuser(&sandbox, "pg3", "SELECT count(*) FROM t").output(), "10001");

    let told = fail_over(&sandbox, &["--name-delay", "0"]).output();
    let new = if told.starts_with("pg3 to pg1") { "pg1" } else { "pg2" };
    assert_eq!(leads_to(&sandbox, writer), address(&sandbox, new));
    answers(&sandbox, "INSERT INTO t VALUES (10002)");
    assert_eq!(answers(&sandbox, WHO_WRITES), address(&sandbox, new).to_string());
    assert_eq!(superuser(&sandbox, new, "SELECT count(*) FROM t").output(), "10002");
    for server in ["pg1", "pg2", "pg3"] {
        eventually(PATIENCE, "every reader has all", || {
            superuser(&sandbox, server, "SELECT count(*) FROM t").output() == "10002"
        });
    }
}

#[test]
fn before_rds_a_reader_becomes_the_writer_and_what_cannot_be_is_said() {
    let sandbox = starts("rds", &["--nodes", "1"]);
    for (arguments, says) in [
        (&["--to", "pg1"][..], "pg1 is the writer already"),
        (&["--to", "pg9"], "there is no server pg9; there are pg1, pg2, pg3"),
    ] {
        let refused = fail_over(&sandbox, arguments);
        assert!(!refused.success && refused.stderr.contains(says), "{}", refused.stderr);
    }
    let members =
        superuser(&sandbox, "pg2", "SELECT endpoint FROM rds_tools.show_topology('test') ORDER BY 1");
    assert_eq!(members.output(), "pg1.sandbox.test\npg2.sandbox.test\npg3.sandbox.test");
    for (n, to) in [(2, "pg2"), (3, "pg3"), (4, "pg1")] {
        fail_over(&sandbox, &["--to", to]).output();
        answers(&sandbox, &format!("INSERT INTO t VALUES ({n})"));
        assert_eq!(answers(&sandbox, WHO_WRITES), address(&sandbox, to).to_string());
        assert_eq!(superuser(&sandbox, to, "SELECT count(*) FROM t").output(), n.to_string());
    }
}

/// The nodes are told one identifier, and nothing else of the servers.
fn by_aws_s_api(mode: &str, to: &str) {
    let sandbox = starts(mode, &["--aws", "--patient"]);
    let managed = &sandbox.ready["managed"];
    assert_eq!(managed["cluster_id"], "sandbox");
    let servers = |id: &str| sandbox.admin(id, "/status").unwrap()["servers"].clone();
    for node in ["node1", "node2", "node3"] {
        for server in sandbox.servers() {
            let known = servers(node).as_array().unwrap().iter().any(|known| {
                known["id"] == server["id"] && known["host"] == server["name"] && known["health"] == "up"
            });
            assert!(known, "{node}: {server}, {}", servers(node));
        }
    }
    let socket = Path::new(sandbox.part("node1")["admin"].as_str().unwrap());
    let configuration = admin::get(socket, "/config").unwrap().body;
    assert!(configuration.contains("cluster_id"), "{configuration}");
    assert!(!configuration.contains("[[server]]"), "{configuration}");

    let told = fail_over(&sandbox, &["--to", to, "--name-delay", "3600"]).output();
    assert!(told.contains(&format!("AWS's API has {to} as the writer")), "{told}");
    answers(&sandbox, "INSERT INTO t VALUES (2)");
    assert_eq!(answers(&sandbox, WHO_WRITES), address(&sandbox, to).to_string());

    let proxy = sandbox.ready["aws"]["endpoint_url"].as_str().unwrap();
    let api = Api { moto: proxy.strip_prefix("http://").unwrap().parse().unwrap() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let described = runtime.block_on(api.rds("DescribeDBClusters", &[])).unwrap();
    let writer = described.split("<DBClusterMember>").find(|one| one.contains(">true</IsClusterWriter>"));
    assert!(writer.is_some_and(|one| one.contains(&format!(">{to}<"))), "{described}");
}

#[test]
fn before_rds_the_nodes_know_the_instances_by_aws_s_api() {
    by_aws_s_api("rds", "pg3");
}

#[test]
fn before_aurora_the_nodes_know_the_instances_by_aws_s_api() {
    by_aws_s_api("aurora", "pg2");
}

#[test]
fn a_sandbox_of_komainus_own_failover_refuses_the_services() {
    let sandbox = Sandbox::start(&["--nodes", "1", "--standbys", "0"]);
    let refused = fail_over(&sandbox, &[]);
    assert!(!refused.success && refused.stderr.contains("--mode rds"), "{}", refused.stderr);
    let mut elsewhere = Command::new(env!("CARGO_BIN_EXE_komainu"));
    let refused = run(elsewhere.args(["sandbox", "failover", "--admin", "/nowhere"]));
    assert!(!refused.success && refused.stderr.contains("of no sandbox"), "{}", refused.stderr);
}
