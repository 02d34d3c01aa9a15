//! A drill in an account: AWS is asked for the failover, by whom it is told to, and by nobody else.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use komainu::sandbox::StopMode;
use komainu_aws_double::Fault;
use komainu_aws_double::api::REGION;
use serde_json::Value;

use super::rds_api::{Account, CREDENTIALS};
use super::support::*;

/// A drill that hangs fails.
const LIMIT_S: &str = "240";
const FAIL_OVER: &str = "FailoverDBCluster";

/// Of a running cluster, by whoever has these credentials.
fn drill(account: &Account, nodes: &Nodes, more: &[&str]) -> Finished {
    let ids = nodes.ids();
    let sockets: Vec<String> = ids
        .iter()
        .map(|id| nodes.node(id).directory().join("admin.sock").to_string_lossy().into_owned())
        .collect();
    let url = nodes.node(&ids[0]).url(&account.database);
    let mut command = Command::new("timeout");
    command.args([LIMIT_S, env!("CARGO_BIN_EXE_komainu"), "drill", "failover", "--fine", "--json"]);
    for socket in &sockets {
        command.args(["--admin", socket]);
    }
    command.args(["--url", &url, "--real-cluster"]).args(more);
    command.envs(CREDENTIALS).env("AWS_REGION", REGION).env("AWS_ENDPOINT_URL", account.proxy.url());
    run(&mut command)
}

fn asked(account: &Account) -> usize {
    account.proxy.calls().iter().filter(|call| call.operation == FAIL_OVER).count()
}

/// Does to the servers what AWS would, once it is asked.
fn stand_in(account: &Account, before: usize, is_over: &AtomicBool) {
    let (old, new) = (account.server(0), account.server(1));
    eventually(PATIENCE * 4, "AWS is asked", || asked(account) > before || is_over.load(Ordering::Relaxed));
    if is_over.load(Ordering::Relaxed) {
        return;
    }
    // What is acknowledged is on the reader, too.
    old.stop(StopMode::Fast).unwrap();
    new.promote().unwrap();
    old.configure("primary_conninfo", &new.conninfo(old)).unwrap();
    old.make_standby().unwrap();
    old.start().unwrap();
}

#[test]
fn aws_is_asked_once_for_each_run_and_its_failover_is_measured() {
    let account = Account::open(1);
    account.create_cluster("postgres", &[0, 1]);
    let mut builder = Nodes::builder(3).finds_servers().config(&account.config("rds"));
    for (name, value) in CREDENTIALS {
        builder = builder.env(name, value);
    }
    let nodes = builder.start(&account.cluster);
    for id in &nodes.ids() {
        account.are(nodes.node(id), &[(0, "primary"), (1, "standby")]);
    }

    // Somebody else's, by mistake.
    let other = Account::open(0);
    other.create_cluster("postgres", &[0]);
    let refused = drill(&account, &nodes, &["--ask-aws", &other.id]);
    assert!(!refused.success && refused.stderr.contains("nothing was asked of AWS"), "{}", refused.stderr);
    assert_eq!(asked(&account), 0);

    account.proxy.fault(&[FAIL_OVER], Fault::Deny, None);
    let denied = drill(&account, &nodes, &["--ask-aws", &account.id]);
    assert!(
        !denied.success && denied.stderr.contains("AWS was to be asked for a failover"),
        "{}",
        denied.stderr
    );
    assert_eq!(asked(&account), 1, "it is not asked again");
    for id in &nodes.ids() {
        account.are(nodes.node(id), &[(0, "primary"), (1, "standby")]);
    }
    account.proxy.heal();

    let is_over = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        let aws = scope.spawn(|| stand_in(&account, 1, &is_over));
        let done = drill(&account, &nodes, &["--ask-aws", &account.id]);
        is_over.store(true, Ordering::Relaxed);
        aws.join().unwrap();
        done
    });
    let report: Value = serde_json::from_str(&done.output()).unwrap();
    let run = &report["runs"][0];
    assert_eq!(run["event"], "aws-failover", "{run}");
    assert_eq!(
        (&run["from"], &run["to"]),
        (&account.instance(0).into(), &account.instance(1).into()),
        "{run}"
    );
    assert_eq!((&run["lost"], &run["twice"], &run["errors"]), (&0.into(), &0.into(), &0.into()), "{run}");
    assert_eq!(asked(&account), 2, "once for a run");
}
