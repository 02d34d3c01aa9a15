//! `komainu sandbox` keeps its contract: what it prints is there, and nothing is left behind.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use komainu::sandbox::{Installation, ReservedPort, process};
use komainu_aws_double::Api;
use komainu_aws_double::api::element;
use rustix::process::Signal;

use crate::support::{
    Finished, PATIENCE, SANDBOX_READY_WITHIN, Sandbox, eventually, eventually_async, pgbench, psql, run,
};

fn komainu_sandbox(arguments: &[&str]) -> Finished {
    let limit = SANDBOX_READY_WITHIN.as_secs().to_string();
    run(Command::new("timeout").args([&limit, env!("CARGO_BIN_EXE_komainu"), "sandbox"]).args(arguments))
}

#[track_caller]
fn nothing_is_left(processes: &[u32], directory: &Path) {
    eventually(PATIENCE, "all processes end", || !processes.iter().any(|pid| process::is_alive(*pid)));
    eventually(PATIENCE, "the directory goes", || !directory.exists());
}

#[test]
fn what_it_prints_is_there_and_a_signal_ends_it() {
    let mut sandbox = Sandbox::start(&["--patient"]);
    let roles: Vec<_> = sandbox.servers().iter().map(|server| server["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["primary", "standby", "standby"]);
    for server in sandbox.servers() {
        let data = Path::new(server["data_directory"].as_str().unwrap());
        let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let lines: Vec<_> = file.lines().collect();
        assert_eq!(lines[0], server["pid"].to_string());
        assert_eq!(lines[3], server["port"].to_string());
        assert_eq!(data.join("standby.signal").exists(), server["role"] == "standby");
        let status = std::fs::read_to_string(format!("/proc/{}/status", server["pid"])).unwrap();
        assert!(!status.contains("Uid:\t0\t"), "PostgreSQL runs as root");
    }
    let agents = sandbox.ready["agents"].as_array().unwrap();
    let beside: Vec<_> = agents.iter().map(|agent| agent["server"].as_str().unwrap()).collect();
    assert_eq!(beside, ["pg1", "pg2", "pg3"]);
    for agent in agents {
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent["pid"])).unwrap();
        assert!(!status.contains("Uid:\t0\t"), "an agent runs as root");
    }
    let ids: Vec<_> = sandbox.nodes().iter().map(|node| node["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["node1", "node2", "node3"]);
    for node in sandbox.nodes() {
        assert_ne!(node["url"], sandbox.ready["url"], "the endpoint is none of the nodes' own");
        assert_eq!(psql(node["url"].as_str().unwrap(), &["SELECT 1"]).output(), "1");
        let admin = Path::new(node["admin"].as_str().unwrap());
        assert_eq!(komainu::sandbox::admin::get(admin, "/ready").unwrap().status, 200);
    }

    psql(sandbox.url(), &["CREATE DATABASE another"]).output();
    pgbench(sandbox.url(), &["-i", "-q"]).output();
    let report = pgbench(sandbox.url(), &["-c", "4", "-t", "25"]).output();
    assert!(report.contains("100/100"), "{report}");

    let (processes, directory) = (sandbox.processes(), sandbox.directory());
    assert!(processes.len() > 14, "{processes:?}");
    process::signal(sandbox.child.id(), Signal::INT);
    let status = process::wait_until(&mut sandbox.child, Instant::now() + PATIENCE).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    nothing_is_left(&processes, &directory);
}

#[test]
fn being_killed_leaves_nothing_either() {
    let mut sandbox = Sandbox::start(&["--standbys", "1"]);
    let (processes, directory) = (sandbox.processes(), sandbox.directory());
    process::signal(sandbox.pid("agent-pg2"), Signal::KILL);
    eventually(PATIENCE, "the agent is gone", || !process::is_alive(sandbox.pid("agent-pg2")));
    let back = sandbox.bring_back("agent-pg2").output();
    assert!(back.starts_with("agent-pg2 runs again (pid "), "{back}");
    // One that hangs does not hear of it.
    process::signal(sandbox.pid("node1"), Signal::STOP);
    sandbox.child.kill().unwrap();
    sandbox.child.wait().unwrap();
    nothing_is_left(&processes, &directory);
}

/// By somebody else than the sandbox: as an agent does it.
fn restart(sandbox: &Sandbox, id: &str) -> u32 {
    use std::os::unix::fs::MetadataExt;
    let data = Path::new(sandbox.part(id)["data_directory"].as_str().unwrap());
    let owner = std::fs::metadata(data).unwrap();
    let pg_ctl = Installation::find().unwrap().binary("pg_ctl");
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args([format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid())]);
        command.arg("--clear-groups");
    }
    command.arg(pg_ctl).args(["restart", "--silent", "--mode=fast", "--log", "/dev/null", "--pgdata"]);
    run(command.arg(data).current_dir("/")).output();
    let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

#[test]
fn a_server_that_others_started_is_the_sandbox_s_and_ends_with_it() {
    let mut sandbox = Sandbox::start(&["--nodes", "1", "--standbys", "1"]);
    let mut processes = sandbox.processes();
    let directory = sandbox.directory();
    for id in ["pg1", "pg2"] {
        let pid = restart(&sandbox, id);
        processes.push(pid);
        processes.extend(process::children_of(pid));
        let again = sandbox.bring_back(id);
        assert!(again.stderr.contains(&format!("runs already (pid {pid})")), "{}", again.stderr);
    }
    sandbox.child.kill().unwrap();
    sandbox.child.wait().unwrap();
    nothing_is_left(&processes, &directory);
}

#[test]
fn servers_are_as_failover_needs_them() {
    let sandbox = Sandbox::start(&["--nodes", "1", "--sync", "require"]);
    let setting = |id: &str, name: &str| superuser(&sandbox, id, &format!("SHOW {name}"));
    for id in ["pg1", "pg2", "pg3"] {
        assert_eq!(setting(id, "wal_log_hints"), "on");
        let connection = setting(id, "primary_conninfo");
        assert!(!connection.contains("password="), "{connection}");
        assert_eq!(connection.contains(&format!("application_name={id} ")), id != "pg1", "{connection}");
    }
    assert_eq!(setting("pg1", "synchronous_standby_names"), "ANY 1 (pg2, pg3)");
    assert_eq!(setting("pg2", "primary_slot_name"), "komainu_pg2");
    let slots = "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots WHERE active";
    assert_eq!(superuser(&sandbox, "pg1", slots), "komainu_pg2,komainu_pg3");
    let rights = "SELECT NOT rolsuper AND rolreplication \
            AND has_function_privilege(oid, 'pg_promote(boolean, integer)', 'EXECUTE') \
            AND has_function_privilege(oid, 'pg_reload_conf()', 'EXECUTE') \
            AND has_parameter_privilege(oid, 'primary_conninfo', 'ALTER SYSTEM') \
            AND NOT has_parameter_privilege(oid, 'archive_command', 'ALTER SYSTEM') \
        FROM pg_roles WHERE rolname = 'komainu_operator'";
    assert_eq!(superuser(&sandbox, "pg3", rights), "t");
}

/// What a server says to its superuser, past komainu.
fn superuser(sandbox: &Sandbox, id: &str, sql: &str) -> String {
    let server = sandbox.part(id);
    let socket = Path::new(server["data_directory"].as_str().unwrap()).with_file_name("socket");
    let url = format!("host={} port={} user=postgres dbname=postgres", socket.display(), server["port"]);
    psql(&url, &[sql]).output()
}

#[test]
fn a_named_directory_is_kept() {
    let scratch = komainu::sandbox::Scratch::create("komainu-kept-").unwrap();
    let wanted = scratch.path().join("here");
    let mut sandbox = Sandbox::start(&["--nodes", "1", "--standbys", "0", "--dir", wanted.to_str().unwrap()]);
    assert_eq!(sandbox.directory(), wanted);
    process::signal(sandbox.child.id(), Signal::TERM);
    let status = process::wait_until(&mut sandbox.child, Instant::now() + PATIENCE).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert!(wanted.join("pg1/data/PG_VERSION").exists());
    assert!(!wanted.join("pg1/data/postmaster.pid").exists());

    let again = komainu_sandbox(&["--dir", wanted.to_str().unwrap()]);
    assert!(!again.success);
    assert!(again.stderr.contains("not empty"), "{}", again.stderr);
}

#[test]
fn what_cannot_be_is_said_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let refused = komainu_sandbox(&["--port", &port]);
    assert!(!refused.success);
    assert!(refused.stderr.contains(&port) && refused.stderr.contains("in use"), "{}", refused.stderr);

    let refused = komainu_sandbox(&["--nodes", "2"]);
    assert!(!refused.success);
    assert!(refused.stderr.contains("losing either one leaves no majority"), "{}", refused.stderr);
}

#[test]
fn a_node_on_its_own_is_where_clients_connect_and_its_end_is_the_sandbox_s() {
    let mut sandbox = Sandbox::start(&["--nodes", "1"]);
    assert_eq!(sandbox.nodes()[0]["url"], sandbox.ready["url"]);
    let told = sandbox.tell("take", "node1", 1);
    assert!(!told.success && told.stderr.contains("no endpoint app"), "{}", told.stderr);

    process::signal(sandbox.pid("pg2"), Signal::KILL);
    eventually(PATIENCE, "the server is gone", || !process::is_alive(sandbox.pid("pg2")));
    let back = sandbox.bring_back("pg2").output();
    assert!(back.starts_with("pg2 runs again (pid "), "{back}");
    let again = sandbox.bring_back("pg2");
    assert!(!again.success && again.stderr.contains("runs already"), "{}", again.stderr);
    let nobody = sandbox.bring_back("pg7");
    assert!(nobody.stderr.contains("there are node1, pg1, pg2, pg3"), "{}", nobody.stderr);

    process::signal(sandbox.pid("node1"), Signal::KILL);
    let status = process::wait_until(&mut sandbox.child, Instant::now() + PATIENCE).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(1));
}

/// The interface that the double has the Elastic IP associated with.
async fn associated(sandbox: &Sandbox) -> Option<String> {
    let aws = &sandbox.ready["aws"];
    let api = Api { moto: aws["endpoint_url"].as_str()?.strip_prefix("http://")?.parse().ok()? };
    let allocation = aws["allocation_id"].as_str()?;
    let xml = api.ec2("DescribeAddresses", &[("AllocationId.1", allocation)]).await.unwrap();
    element(&xml, "networkInterfaceId").map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_double_of_aws_clients_are_led_as_it_says() {
    let sandbox = Sandbox::start(&["--aws", "--standbys", "0"]);
    let endpoints = sandbox.ready["endpoints"].as_array().unwrap();
    let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint["method"].as_str().unwrap()).collect();
    assert_eq!(names, ["elastic-ip", "route53", "route-table", "secondary-ip"]);
    assert_eq!(endpoints[0]["url"], sandbox.ready["url"]);
    for endpoint in endpoints {
        assert_eq!(psql(endpoint["url"].as_str().unwrap(), &["SELECT 1"]).output(), "1", "{endpoint}");
    }
    let instances = sandbox.ready["aws"]["instances"].as_array().unwrap();
    let holder = async || {
        let interface = associated(&sandbox).await?;
        let instance = instances.iter().find(|known| known["network_interface_id"] == *interface)?;
        Some(instance["node"].as_str().unwrap().to_owned())
    };
    let before = holder().await.expect("it is ready, so somebody has the address");
    process::signal(sandbox.pid(&before), Signal::KILL);
    eventually_async(PATIENCE, "another has the address", async || {
        holder().await.is_some_and(|now| now != before)
    })
    .await;
    for endpoint in endpoints {
        let url = endpoint["url"].as_str().unwrap();
        eventually(PATIENCE, &format!("{endpoint} works again"), || psql(url, &["SELECT 1"]).success);
    }
    let holder = holder().await.unwrap();
    let status = sandbox.admin(&holder, "/status").unwrap();
    let known = status["endpoints"].as_array().unwrap().iter().find(|known| known["name"] == "elastic-ip");
    assert_eq!(known.unwrap()["owner"], *holder);
}

#[test]
fn without_moto_it_says_how_to_get_it() {
    let port = ReservedPort::any().unwrap().number().to_string();
    let mut command = Command::new("timeout");
    command.env("KOMAINU_PYTHON", "/nowhere/python");
    let limit = SANDBOX_READY_WITHIN.as_secs().to_string();
    command.args([&limit, env!("CARGO_BIN_EXE_komainu"), "sandbox", "--aws", "--standbys", "0"]);
    let refused = run(command.args(["--port", &port]));
    assert!(!refused.success && refused.stderr.contains("make sandbox ARGS=--aws"), "{}", refused.stderr);
}

/// Who owns the endpoint, as all of these nodes say.
fn owner(sandbox: &Sandbox, nodes: &[&str]) -> Option<String> {
    let owners: Vec<_> = nodes
        .iter()
        .map(|node| Some(sandbox.admin(node, "/status")?["endpoints"][0]["owner"].as_str()?.to_owned()))
        .collect();
    owners.iter().all(|owner| *owner == owners[0]).then(|| owners[0].clone())?
}

#[test]
fn the_url_follows_the_owner_and_what_was_killed_comes_back_when_told() {
    const NODES: [&str; 3] = ["node1", "node2", "node3"];
    let sandbox = Sandbox::start(&["--standbys", "0", "--patient"]);
    let before = owner(&sandbox, &NODES).expect("somebody owns it, or it would not be ready");
    let stale = sandbox.tell("take", &before, 0);
    assert!(!stale.success && stale.stderr.contains("epoch 0 of app is over"), "{}", stale.stderr);

    process::signal(sandbox.pid(&before), Signal::KILL);
    let works = || psql(sandbox.url(), &["SELECT 1"]).success;
    eventually(PATIENCE, "the url works again", works);
    let others: Vec<&str> = NODES.into_iter().filter(|node| *node != before).collect();
    eventually(PATIENCE, "another owns it", || owner(&sandbox, &others).is_some_and(|owner| owner != before));
    assert!(sandbox.admin(&before, "/status").is_none(), "what is killed stays dead");

    let back = sandbox.bring_back(&before).output();
    assert!(back.starts_with(&format!("{before} runs again")), "{back}");
    eventually(PATIENCE, "all agree again", || owner(&sandbox, &NODES).is_some());
    assert!(works());
}
