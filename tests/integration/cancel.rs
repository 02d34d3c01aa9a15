//! Cancel requests: the owner's running statement, and nothing else.

use std::time::{Duration, Instant};

use super::support::{
    APP_PASSWORD, APP_USER, Certificates, Cluster, Komainu, PATIENCE, Wire, eventually, psql,
};

const CANCEL: u32 = 80_877_102;
const SLEEP: &str = "SELECT pg_sleep(20)";

fn request(pid: i32, key: &[u8]) -> Vec<u8> {
    let mut bytes = (12 + key.len() as u32).to_be_bytes().to_vec();
    bytes.extend(CANCEL.to_be_bytes());
    bytes.extend(pid.to_be_bytes());
    bytes.extend(key);
    bytes
}

/// Sends a request, and waits until komainu has dealt with it.
pub fn cancel(mut wire: Wire, pid: i32, key: &[u8]) {
    wire.send(&request(pid, key));
    assert_eq!(wire.expect_end(), [], "a cancel request is not answered");
}

fn begin(wire: &mut Wire, sql: &str) {
    wire.encode(|buffer| postgres_protocol::message::frontend::query(sql, buffer));
}

pub fn wait_until_sleeping(cluster: &Cluster, database: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    let asleep =
        || cluster.servers().all().iter().any(|server| server.psql("postgres", &sql).unwrap() != "0");
    eventually(PATIENCE, "the statement runs", asleep);
}

#[test]
fn the_owner_cancels_its_running_statement() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start(cluster);
    let mut wire = komainu.login(&database);
    for _ in 0..2 {
        begin(&mut wire, SLEEP);
        wait_until_sleeping(cluster, &database);
        let at = Instant::now();
        cancel(komainu.wire(), wire.process_id, &wire.secret_key);
        assert_eq!(wire.until('Z')[1].sqlstate(), "57014");
        assert!(at.elapsed() < Duration::from_secs(5));
    }
    // In a transaction too, and over a Unix socket.
    wire.query("BEGIN");
    begin(&mut wire, SLEEP);
    wait_until_sleeping(cluster, &database);
    cancel(Wire::unix(komainu.directory(), komainu.port()), wire.process_id, &wire.secret_key);
    assert_eq!(wire.until('Z').last().unwrap().body, b"E");
    wire.query("ROLLBACK");
}

#[test]
fn guessed_idle_and_stale_keys_do_nothing() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "pool.size = 1\nsplit.enabled = false");
    let mut idle = komainu.login(&database);
    assert_eq!(idle.query_value("SELECT 1"), "1");
    let mut gone = komainu.login(&database);
    assert_eq!(gone.query_value("SELECT 1"), "1");
    let stale = (gone.process_id, gone.secret_key.clone());
    gone.send_message('X', b"");
    gone.expect_end();

    let mut victim = komainu.login(&database);
    let real_pid = victim.query_value("SELECT pg_backend_pid()").parse().unwrap();
    begin(&mut victim, "SELECT pg_sleep(6)");
    wait_until_sleeping(cluster, &database);
    let mut wrong = victim.secret_key.clone();
    wrong[0] ^= 1;
    cancel(komainu.wire(), victim.process_id, &wrong);
    cancel(komainu.wire(), victim.process_id.wrapping_add(1), &victim.secret_key);
    cancel(komainu.wire(), real_pid, &victim.secret_key);
    cancel(komainu.wire(), stale.0, &stale.1);
    // It was the last to use that very connection.
    cancel(komainu.wire(), idle.process_id, &idle.secret_key);
    for guess in 0..50_u32 {
        cancel(komainu.wire(), victim.process_id, &guess.to_be_bytes());
    }
    let answer: String = victim.until('Z').iter().map(|message| message.tag).collect();
    assert_eq!(answer, "TDCZ");
    // Keys are not handed out in a row.
    assert_ne!(victim.secret_key, idle.secret_key);
}

#[test]
fn a_late_cancel_never_hits_the_next_user_of_the_connection() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "pool.size = 1\nsplit.enabled = false");
    let mut first = komainu.login(&database);
    let mut second = komainu.login(&database);
    let (pid, key) = (first.process_id, first.secret_key.clone());
    std::thread::scope(|scope| {
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        for _ in 0..3 {
            let (done, key, komainu) = (done.clone(), key.clone(), &komainu);
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    cancel(komainu.wire(), pid, &key);
                }
            });
        }
        const ROUNDS: usize = 60;
        let mut failed = None;
        for _ in 0..ROUNDS {
            begin(&mut first, "SELECT 1 FROM pg_sleep(0.001)");
            begin(&mut second, "SELECT 1 FROM pg_sleep(0.002)");
            first.until('Z');
            let answer = second.until('Z');
            failed = failed.or(answer.into_iter().find(|message| message.tag == 'E'));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(failed.map(|message| message.error()), None);
    });
}

#[test]
fn protocol_3_2_has_long_keys() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start(cluster);
    let mut wire = komainu.wire();
    wire.startup_version((3 << 16) | 2, &[("user", APP_USER), ("database", &database)]);
    assert_eq!(wire.authenticate(APP_USER, APP_PASSWORD).tag, 'Z');
    assert!((16..=256).contains(&wire.secret_key.len()), "{}", wire.secret_key.len());
    begin(&mut wire, SLEEP);
    wait_until_sleeping(cluster, &database);
    let short = wire.secret_key[..4].to_vec();
    cancel(komainu.wire(), wire.process_id, &short);
    wire.expect_silence(Duration::from_millis(300));
    cancel(komainu.wire(), wire.process_id, &wire.secret_key);
    assert!(wire.until('Z').iter().any(|message| message.sqlstate() == "57014"));
}

#[test]
fn a_cancel_may_come_through_tls() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let builder = Komainu::builder(cluster);
    let certificates = Certificates::create(builder.directory());
    let (certificate, key) = certificates.server("gate");
    let komainu = builder
        .config(&format!("[client_tls]\nmode = \"allow\"\ncert_file = {certificate:?}\nkey_file = {key:?}\n"))
        .start();
    let mut wire = Wire::tls(komainu.port(), certificates.authority_pem());
    wire.login(APP_USER, APP_PASSWORD, &database);
    for tls in [true, false] {
        begin(&mut wire, SLEEP);
        wait_until_sleeping(cluster, &database);
        let other =
            if tls { Wire::tls(komainu.port(), certificates.authority_pem()) } else { komainu.wire() };
        cancel(other, wire.process_id, &wire.secret_key);
        assert!(wire.until('Z').iter().any(|message| message.sqlstate() == "57014"), "tls: {tls}");
    }
    // psql's own Ctrl-C, by a signal.
    let url = komainu.url(&database);
    let child = std::thread::spawn(move || psql(&url, &["SET statement_timeout = '500ms'", SLEEP]));
    assert!(child.join().unwrap().stderr.contains("statement timeout"));
}
