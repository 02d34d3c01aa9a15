//! How many clients there may be, where they come from, and what they cost.

use std::time::Duration;

use super::support::{APP_PASSWORD, APP_USER, Cluster, Komainu, PATIENCE, Wire, eventually, psql};
use komainu::sandbox::ReservedPort;

#[test]
fn one_client_too_many_is_told_so_and_the_next_gets_in() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(cluster, "limits.max_client_connections = 5");
    let mut clients: Vec<Wire> = (0..5).map(|_| komainu.login("postgres")).collect();
    for _ in 0..3 {
        let mut wire = komainu.wire();
        let said = wire.expect_end();
        let states: Vec<_> = said.iter().map(|message| (message.field('S'), message.sqlstate())).collect();
        assert_eq!(states, [("FATAL".to_owned(), "53300".to_owned())]);
    }
    assert_eq!(clients[0].query_value("SELECT 1"), "1");
    clients.pop();
    eventually(PATIENCE, "a place is free", || {
        let mut wire = komainu.wire();
        wire.startup(&[("user", APP_USER), ("database", "postgres")]);
        matches!(wire.try_message(Duration::from_secs(5)), Ok(Some(message)) if message.tag == 'R')
    });
}

#[test]
fn clients_come_over_unix_sockets_ipv4_and_ipv6() {
    let cluster = Cluster::shared();
    let (four, six) = (ReservedPort::any().unwrap(), ReservedPort::any().unwrap());
    let komainu = Komainu::start_with(
        cluster,
        &format!("listen.addresses = [\"127.0.0.1:{}\", \"[::1]:{}\"]", four.number(), six.number()),
    );
    let directory = komainu.directory().display().to_string();
    let password = "app%27s%20secret";
    for url in [
        format!("postgres://app:{password}@127.0.0.1:{}/postgres", four.number()),
        format!("postgres://app:{password}@[::1]:{}/postgres", six.number()),
        format!("postgres://app:{password}@/postgres?host={directory}&port={}", four.number()),
    ] {
        assert_eq!(psql(&url, &["SELECT 42"]).output(), "42", "{url}");
    }
    let mut wire = Wire::unix(komainu.directory(), four.number());
    wire.login(APP_USER, APP_PASSWORD, "postgres");
    assert_eq!(wire.query_value("SELECT 42"), "42");
}

#[test]
fn idle_clients_cost_little_memory() {
    const CLIENTS: usize = 500;
    let cluster = Cluster::shared();
    let komainu = Komainu::builder(cluster)
        .hba("host all all all trust\n")
        .config("limits.max_unauthenticated_per_address = 1000")
        .start();
    let idle = |count: usize| -> Vec<Wire> {
        (0..count)
            .map(|_| {
                let mut wire = komainu.login("postgres");
                wire.query("SELECT 1");
                wire
            })
            .collect()
    };
    // The first ones pay for what is shared.
    let first = idle(100);
    let before = komainu.metric("process_resident_memory_bytes").unwrap();
    let clients = idle(CLIENTS);
    let after = komainu.metric("process_resident_memory_bytes").unwrap();
    let each = (after - before) / CLIENTS as f64;
    assert!(each < 8.0 * 1024.0, "{each} bytes for each idle client");
    drop((first, clients));
}

#[test]
fn the_limit_of_open_files_is_raised_at_start() {
    let komainu = Komainu::start(Cluster::shared());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", komainu.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let columns: Vec<_> = line.split_whitespace().skip(3).collect();
    assert_eq!(columns[0], columns[1], "soft and hard limit");
}
