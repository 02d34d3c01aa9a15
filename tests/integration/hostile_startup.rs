//! What a client can do before it is anybody: komainu refuses it in time, spends nothing on it, and serves
//! the others meanwhile.
//!
//! The rows of the handshake itself are unit tests of `client::handshake`; here they meet the whole binary.

use std::time::{Duration, Instant};

use super::support::{APP_PASSWORD, APP_USER, Cluster, Komainu, PATIENCE, Wire, eventually};

fn startup_of(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes(), rest].concat()
}

fn cpu_seconds(komainu: &Komainu) -> f64 {
    komainu.metric("process_cpu_seconds_total").unwrap()
}

#[test]
fn nonsense_before_the_login_ends_that_client_only() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(cluster, "limits.startup_timeout_ms = 2000");
    let version = [0, 3, 0, 0];
    let parameters = |text: &[u8]| [&version[..], text].concat();
    let inputs: Vec<(&str, Vec<u8>)> = vec![
        ("length 0", startup_of(0, &version)),
        ("length 7", startup_of(7, &[0, 3, 0])),
        ("negative", startup_of(0x8000_0008, &version)),
        ("2 GB", startup_of(0x7fff_ffff, &version)),
        ("longer than 10 kB", startup_of(10_009, &version)),
        ("no user", startup_of(9, &parameters(b"\0"))),
        ("no terminator", startup_of(12, &parameters(b"user"))),
        ("protocol 2", startup_of(9, &[0, 2, 0, 0, 0])),
        ("protocol 9", startup_of(9, &[0, 9, 0, 0, 0])),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS without being asked", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("random", (0..200_u32).map(|n| ((n * n * 31) >> 3) as u8).collect()),
        ("a query", b"Q\0\0\0\x0dSELECT 1\0".to_vec()),
        ("a Sync", b"S\0\0\0\x04".to_vec()),
        ("an empty option", startup_of(40, &parameters(b"user\0app\0options\0-c=\0database\0ap\0\0"))),
    ];
    for (what, bytes) in inputs {
        let mut wire = komainu.wire();
        wire.send(&bytes);
        wire.half_close();
        let said = wire.expect_end();
        assert!(said.iter().all(|message| message.tag != 'R'), "{what}: {said:?}");
        let mut next = komainu.login("postgres");
        assert_eq!(next.query_value("SELECT 1"), "1", "after {what}");
    }
}

#[test]
fn messages_of_a_session_are_refused_before_the_login() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start(cluster);
    let second_startup = {
        let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        startup_of(body.len() as u32 + 4, body)
    };
    let lying_sasl = [b"p\0\0\0\x17SCRAM-SHA-256\0".as_slice(), &[0xff, 0xff, 0xff, 0xff], b"n"].concat();
    for bytes in [
        b"Q\0\0\0\x0dSELECT 1\0".to_vec(),
        b"P\0\0\0\x08\0\0\0\0".to_vec(),
        b"S\0\0\0\x04".to_vec(),
        b"p\x7f\xff\xff\xff".to_vec(),
        b"p\xff\xff\xff\xff".to_vec(),
        b"p\0\0\0\x04".to_vec(),
        lying_sasl,
        second_startup,
    ] {
        let mut wire = komainu.wire();
        wire.startup(&[("user", APP_USER), ("database", "postgres")]);
        wire.expect('R');
        wire.send(&bytes);
        wire.half_close();
        let said = wire.expect_end();
        assert!(!said.iter().any(|message| matches!(message.tag, 'R' | 'Z' | 'K')), "{bytes:?}: {said:?}");
    }
}

#[test]
fn slow_starters_have_a_deadline_and_hold_nobody_up() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(cluster, "limits.startup_timeout_ms = 5000");
    let started = Instant::now();
    let mut slow: Vec<Wire> = (0..20).map(|_| komainu.wire()).collect();
    let bytes = startup_of(40, &[0, 3, 0, 0]);
    let mut sent = 0;
    let mut served = 0;
    while served < 5 {
        for wire in &mut slow {
            let _ = wire.try_send(&bytes[sent.min(7)..=sent.min(7)]);
        }
        sent += 1;
        assert_eq!(komainu.login("postgres").query_value("SELECT 1"), "1");
        served += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    for wire in &mut slow {
        wire.expect_end();
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    // The deadline is for the whole login, not for each packet: one that stops at the password ends too.
    let mut half = komainu.wire();
    half.startup(&[("user", APP_USER), ("database", "postgres")]);
    half.expect('R');
    half.expect_end();
}

#[test]
fn one_address_holds_no_more_than_its_share_of_places() {
    let cluster = Cluster::shared();
    // What ends before has not ended by the deadline for a login.
    let komainu = Komainu::start_with(
        cluster,
        "limits.max_unauthenticated_per_address = 5\nlimits.startup_timeout_ms = 600000",
    );
    let mut held: Vec<Wire> = (0..5).map(|_| komainu.wire()).collect();
    let metric = "komainu_client_connections";
    eventually(PATIENCE, "five are counted", || komainu.metric(metric) == Some(5.0));
    assert_eq!(komainu.wire().expect_end(), [], "the sixth is closed");
    // Who comes over a Unix socket is of no address.
    let mut local = Wire::unix(komainu.directory(), komainu.port());
    local.login(APP_USER, APP_PASSWORD, "postgres");
    held.pop();
    eventually(PATIENCE, "a place is free again", || {
        let mut wire = komainu.wire();
        wire.startup(&[("user", APP_USER), ("database", "postgres")]);
        matches!(wire.try_message(Duration::from_secs(5)), Ok(Some(message)) if message.tag == 'R')
    });
}

#[test]
fn all_together_hold_no_more_places_than_there_are_over_a_unix_socket_neither() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(
        cluster,
        "limits.max_unauthenticated_per_address = 3\nlimits.max_client_connections = 4\nlimits.startup_timeout_ms = 600000",
    );
    let local = || Wire::unix(komainu.directory(), komainu.port());
    let mut held: Vec<Wire> = (0..4).map(|_| local()).collect();
    let metric = "komainu_client_connections";
    eventually(PATIENCE, "four are counted", || komainu.metric(metric) == Some(4.0));
    assert_eq!(local().expect_end(), [], "the fifth is closed");
    assert_eq!(komainu.wire().expect_end(), [], "wherever it comes from");
    assert_eq!(komainu.metric("komainu_logins_failed_total{reason=\"too_many_unauthenticated\"}"), Some(2.0));
    held.pop();
    eventually(PATIENCE, "a place is free again", || {
        let mut wire = local();
        wire.startup(&[("user", APP_USER), ("database", "postgres")]);
        matches!(wire.try_message(Duration::from_secs(5)), Ok(Some(message)) if message.tag == 'R')
    });
}

/// Whoever can log in may name any database, and is told by a server that there is none.
#[test]
fn a_name_begins_no_line_of_the_log() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(cluster, "log.level = \"debug\"");
    let forged = "2026-01-01T00:00:00.000000Z ERROR komainu: forged";
    let database = format!("x\n{forged}");
    let mut wire = komainu.wire();
    wire.startup(&[("user", APP_USER), ("database", &database)]);
    let last = wire.authenticate(APP_USER, APP_PASSWORD);
    assert_eq!((last.tag, last.sqlstate()), ('E', "3D000".to_owned()), "{}", last.text());
    let mut wire = komainu.wire();
    wire.startup(&[("user", &database), ("database", "postgres")]);
    wire.authenticate(&database, "wrong");
    for said in ["cannot open a server connection", "password authentication failed for user"] {
        komainu.says(said);
    }
    let log = komainu.log();
    assert!(log.contains("forged"), "{log}");
    assert!(!log.lines().any(|line| line.starts_with(forged)), "{log}");
}

#[test]
fn a_replication_connection_is_refused_with_a_word_on_where_to_go() {
    let cluster = Cluster::shared();
    let komainu = Komainu::builder(cluster)
        .hba("host all all all scram-sha-256\nhost replication all all scram-sha-256\n")
        .start();
    for replication in ["true", "database"] {
        let mut wire = komainu.wire();
        wire.startup(&[("user", APP_USER), ("database", "postgres"), ("replication", replication)]);
        let last = wire.authenticate(APP_USER, APP_PASSWORD);
        assert_eq!((last.field('S'), last.sqlstate()), ("FATAL".to_owned(), "0A000".to_owned()), "{last:?}");
        assert!(last.text().contains("replication"), "{}", last.text());
        assert_eq!(wire.expect_end(), []);
    }
    assert_eq!(komainu.metric("komainu_logins_failed_total{reason=\"replication\"}"), Some(2.0));
    let said = || komainu.log().matches("komainu does not pass replication connections on").count();
    eventually(PATIENCE, "the log has a line for each", || said() == 2);
    assert_eq!(komainu.login("postgres").query_value("SELECT 42"), "42");
}

#[test]
fn lengths_that_lie_cost_no_processor_time() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start_with(cluster, "limits.startup_timeout_ms = 60000\nhealth.period_ms = 1000");
    let mut before_login: Vec<Wire> = Vec::new();
    // Within the limits of their phase, and never completed.
    for _ in 0..10 {
        let mut wire = komainu.wire();
        wire.send(&startup_of(10_000, &[0, 3, 0, 0]));
        before_login.push(wire);
    }
    let mut sessions: Vec<Wire> = Vec::new();
    for begin in [
        b"Q\x3f\xff\xff\x00SELECT".as_slice(),
        b"P\x3f\xff\xff\x00a\0SELECT",
        b"B\x3f\xff\xff\x00\0\0",
        b"d\x3f\xff\xff\x00x",
    ] {
        let mut wire = komainu.login("postgres");
        wire.send(begin);
        sessions.push(wire);
    }
    std::thread::sleep(Duration::from_millis(300));
    let (before, begun) = (cpu_seconds(&komainu), Instant::now());
    std::thread::sleep(Duration::from_millis(1500));
    let used = cpu_seconds(&komainu) - before;
    let elapsed = begun.elapsed().as_secs_f64();
    assert!(used < 0.2 * elapsed, "{used} s of processor time in {elapsed} s for clients that send nothing");
    let rss = komainu.metric("process_resident_memory_bytes").unwrap();
    assert!(rss < 200e6, "{rss} bytes for messages that were only announced");
}
