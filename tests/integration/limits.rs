//! How many clients there may be, where they come from, and what they cost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::support::{
    APP_PASSWORD, APP_USER, Certificates, Cluster, Komainu, Message, PATIENCE, Wire, eventually, psql,
    this_version,
};
use komainu::sandbox::ReservedPort;

#[test]
fn one_client_too_many_is_told_so_and_the_next_gets_in() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(cluster, "limits.max_client_connections = 5");
    let mut clients: Vec<Wire> = (0..5).map(|_| komainu.login("postgres")).collect();
    for _ in 0..3 {
        let mut wire = komainu.wire();
        wire.startup(&[("user", APP_USER), ("database", "postgres")]);
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
fn who_has_proved_nothing_takes_no_place_and_has_a_limit_of_its_own() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(
        cluster,
        "limits.max_client_connections = 4\nlimits.max_unauthenticated_per_address = 4",
    );
    let silent = || {
        let mut wire = komainu.wire();
        wire.startup(&[("user", APP_USER), ("database", "postgres")]);
        wire.expect('R');
        wire
    };
    let _silent = [silent(), silent(), silent()];
    let _clients = [komainu.login("postgres"), komainu.login("postgres"), komainu.login("postgres")];
    let _last = silent();
    let refused = "komainu_logins_failed_total{reason=\"too_many_unauthenticated\"}";
    assert_eq!(komainu.metric(refused), Some(0.0));
    // One more from there is closed unanswered, and the log has a word on it.
    assert_eq!(komainu.wire().expect_end(), []);
    assert_eq!(komainu.wire().expect_end(), []);
    assert_eq!(komainu.metric(refused), Some(2.0));
    let said = || komainu.log().matches("connections are closed unanswered").count();
    komainu.says("connections are closed unanswered");
    assert_eq!(said(), 1);
}

#[test]
fn when_all_places_are_taken_one_can_still_cancel_and_is_told_so_over_tls() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let builder = Komainu::builder(cluster);
    let certificates = Certificates::create(builder.directory());
    let (certificate, key) = certificates.server("gate");
    let komainu = builder
        .config("limits.max_client_connections = 2")
        .config(&format!("[client_tls]\nmode = \"allow\"\ncert_file = {certificate:?}\nkey_file = {key:?}\n"))
        .start();
    let (mut first, mut second) = (komainu.login(&database), komainu.login(&database));
    let mut third = Wire::tls(komainu.port(), certificates.authority_pem());
    third.startup(&[("user", APP_USER), ("database", &database)]);
    let said = third.expect_end();
    assert_eq!(said.iter().map(Message::sqlstate).collect::<Vec<_>>(), ["53300"]);
    assert_eq!(said[0].text(), "sorry, too many clients already");
    assert!(said[0].field('H').contains("limits.max_client_connections"), "{said:?}");
    first.encode(|buffer| postgres_protocol::message::frontend::query("SELECT pg_sleep(60)", buffer));
    let asleep = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    let asleep =
        || cluster.servers().all().iter().any(|server| server.psql("postgres", &asleep).unwrap() != "0");
    eventually(PATIENCE, "the statement runs", asleep);
    let mut cancel = komainu.wire();
    let body =
        [&80_877_102_u32.to_be_bytes()[..], &first.process_id.to_be_bytes(), &first.secret_key].concat();
    cancel.send(&[&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat());
    assert_eq!(cancel.expect_end(), [], "a cancel request is not answered");
    assert!(first.until('Z').iter().any(|message| message.sqlstate() == "57014"));
    assert_eq!(second.query_value("SELECT 42"), "42");
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

#[test]
fn a_crash_leaves_no_memory_behind_unless_that_is_asked_for() {
    // The machine may be one that keeps none of anybody's.
    let crash = "ulimit -c unlimited; kill -ABRT $$";
    let scratch = tempfile::tempdir().unwrap();
    let shell = Command::new("sh").args(["-c", crash]).current_dir(scratch.path()).status().unwrap();
    for core_dumps in [false, true] {
        let builder = Komainu::builder(Cluster::shared()).config(&format!("core_dumps = {core_dumps}\n"));
        let program = builder.directory().join("komainu.sh");
        let komainu = this_version().display();
        let script =
            format!("#!/bin/sh\ncd \"$(dirname \"$0\")\"; ulimit -c unlimited; exec {komainu} \"$@\"\n");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let komainu = builder.program(&program).start();
        komainu.signal(Signal::ABORT);
        let status = komainu.wait(PATIENCE);
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
        assert_eq!(status.core_dumped(), core_dumps && shell.core_dumped(), "core_dumps = {core_dumps}");
    }
}
