//! A postmaster that attends to nobody who comes, or not to cancel requests, while connections that are open work on:
//! nobody waits for it for ever, and what it attends to late hits nobody else.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::{
    APP_PASSWORD, APP_USER, Cluster, Komainu, PATIENCE, Wire, eventually, first_value, tags,
};

const CANCEL: [u8; 4] = 80_877_102_u32.to_be_bytes();
/// What a postmaster does not attend to for now.
const NOTHING: u8 = 0;
const CANCELS: u8 = 1;
const WHOEVER_COMES: u8 = 2;

/// Stands before a server's postmaster. Connections that are there already are never concerned.
#[derive(Clone)]
struct Postmaster {
    port: u16,
    held_up: Arc<AtomicU8>,
    waiting: Arc<AtomicUsize>,
    /// Cancels the server has taken.
    taken: Arc<AtomicUsize>,
}

impl Postmaster {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let postmaster = Postmaster {
            port: listener.local_addr().unwrap().port(),
            held_up: Arc::default(),
            waiting: Arc::default(),
            taken: Arc::default(),
        };
        let relay = postmaster.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let relay = relay.clone();
                thread::spawn(move || relay.relay(client, server));
            }
        });
        postmaster
    }

    fn hold_up(&self, what: u8) {
        self.held_up.store(what, Ordering::Release);
    }

    fn relay(&self, mut client: TcpStream, server: u16) -> Option<()> {
        let mut first = [0; 1024];
        let length = client.read(&mut first).ok()?;
        let is_cancel = first.get(4..8) == Some(&CANCEL[..]);
        let is_held_up = || match self.held_up.load(Ordering::Acquire) {
            CANCELS => is_cancel,
            what => what == WHOEVER_COMES,
        };
        if is_held_up() {
            self.waiting.fetch_add(1, Ordering::AcqRel);
        }
        while is_held_up() {
            thread::sleep(Duration::from_millis(5));
        }
        let mut server = TcpStream::connect(("127.0.0.1", server)).ok()?;
        server.write_all(&first[..length]).ok()?;
        let (mut from_server, mut to_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
        let back = thread::spawn(move || {
            let _ = std::io::copy(&mut from_server, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        if !is_cancel {
            let _ = std::io::copy(&mut client, &mut server);
            let _ = server.shutdown(Shutdown::Both);
        }
        back.join().ok()?;
        self.taken.fetch_add(usize::from(is_cancel), Ordering::AcqRel);
        Some(())
    }
}

fn komainu_before(cluster: &Cluster, postmaster: &Postmaster, more: &str) -> Komainu {
    komainu_with(cluster, postmaster, &format!("pool.size = 1\npool.connect_timeout_ms = 500\n{more}"))
}

fn komainu_with(cluster: &Cluster, postmaster: &Postmaster, more: &str) -> Komainu {
    let config = format!(
        "split.enabled = false\n{more}\n\
         [[server]]\nid = \"s1\"\nhost = \"127.0.0.1\"\nport = {}\n",
        postmaster.port
    );
    Komainu::start_with(cluster, &config)
}

fn begin(wire: &mut Wire, sql: &str) {
    wire.encode(|buffer| postgres_protocol::message::frontend::query(sql, buffer));
}

#[test]
fn a_cancel_that_the_server_takes_late_hits_nobody_else() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let postmaster = Postmaster::before(cluster.primary().port());
    let komainu = komainu_before(cluster, &postmaster, "");
    let mut holder = Wire::connect(cluster.primary().port());
    holder.login(APP_USER, APP_PASSWORD, &database);
    holder.query("SELECT pg_advisory_lock(1), pg_advisory_lock(2)");
    let wait_until_waiting = || {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'advisory'"
        );
        eventually(PATIENCE, "it waits for the lock", || {
            cluster.primary().psql("postgres", &sql).unwrap() == "1"
        });
    };
    let (mut first, mut next) = (komainu.login(&database), komainu.login(&database));
    let backend = first.query_value("SELECT pg_backend_pid()");
    begin(&mut first, "SELECT pg_advisory_xact_lock(1)");
    wait_until_waiting();
    postmaster.hold_up(CANCELS);
    let mut cancel = komainu.wire();
    let body = [&CANCEL[..], &first.process_id.to_be_bytes(), &first.secret_key].concat();
    cancel.send(&[&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat());
    eventually(PATIENCE, "the cancel is on its way", || postmaster.waiting.load(Ordering::Acquire) == 1);
    // The statement ends by itself meanwhile, and the connection is free for the next.
    holder.query("SELECT pg_advisory_unlock(1)");
    assert_eq!(tags(&first.until('Z')), "TDCZ");
    let taken = first_value(&next.query("BEGIN; SELECT pg_backend_pid()")).unwrap();
    begin(&mut next, "SELECT pg_advisory_xact_lock(2)");
    wait_until_waiting();
    postmaster.hold_up(NOTHING);
    eventually(PATIENCE, "the server takes it", || postmaster.taken.load(Ordering::Acquire) == 1);
    holder.query("SELECT pg_advisory_unlock(2)");
    assert_eq!(tags(&next.until('Z')), "TDCZ", "another client's statement was cancelled");
    assert_ne!(taken, backend);
    assert_eq!(cancel.expect_end(), []);
}

#[test]
fn a_cancel_that_hangs_keeps_its_own_connection_and_no_other() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let postmaster = Postmaster::before(cluster.primary().port());
    let more = "pool.size = 3\npool.connect_timeout_ms = 600000\npool.acquire_timeout_ms = 10000";
    let komainu = komainu_with(cluster, &postmaster, more);
    let (mut client, mut other) = (komainu.login(&database), komainu.login(&database));
    assert_eq!(tags(&client.query("BEGIN; SELECT 1")), "CTDCZ");
    let hit = client.query_value("SELECT pg_backend_pid()");
    postmaster.hold_up(CANCELS);
    let mut cancel = komainu.wire();
    let body = [&CANCEL[..], &client.process_id.to_be_bytes(), &client.secret_key].concat();
    cancel.send(&[&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat());
    eventually(PATIENCE, "the cancel is on its way", || postmaster.waiting.load(Ordering::Acquire) == 1);
    client.query("COMMIT");
    for _ in 0..5 {
        assert_ne!(client.query_value("SELECT pg_backend_pid()"), hit);
        assert_ne!(other.query_value("SELECT pg_backend_pid()"), hit);
    }
    postmaster.hold_up(NOTHING);
    assert_eq!(cancel.expect_end(), []);
    let leased = "komainu_server_connections{server=\"s1\",state=\"active\"}";
    eventually(PATIENCE, "it is given back as well", || komainu.metric(leased) == Some(0.0));
}

#[test]
fn a_postmaster_that_hangs_does_not_keep_a_connection_for_ever() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let postmaster = Postmaster::before(cluster.primary().port());
    // Before it speaks of anything else, it is asked for TLS.
    let more =
        "server_tls.mode = \"prefer\"\npool.acquire_timeout_ms = 60000\nlimits.hold_timeout_ms = 60000";
    let komainu = komainu_before(cluster, &postmaster, more);
    let mut gone = komainu.login(&database);
    let mut next = komainu.login(&database);
    gone.query("BEGIN");
    begin(&mut gone, "SELECT pg_sleep(600)");
    let sleeps = format!("FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'");
    let sleeping =
        || cluster.primary().psql("postgres", &format!("SELECT count(*) {sleeps}")).unwrap() == "1";
    eventually(PATIENCE, "the statement runs", sleeping);
    postmaster.hold_up(WHOEVER_COMES);
    gone.reset();
    let leased = "komainu_server_connections{server=\"s1\",state=\"active\"}";
    let released = || komainu.metric(leased) == Some(0.0);
    eventually(Duration::from_secs(60), "the connection is given up", released);
    postmaster.hold_up(NOTHING);
    assert_eq!(next.query_value("SELECT 42"), "42");
    let end = format!("SELECT pg_terminate_backend(pid) {sleeps}");
    cluster.primary().psql("postgres", &end).unwrap();
}

#[test]
fn an_attempt_to_connect_ends_after_its_time_and_another_succeeds() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let postmaster = Postmaster::before(cluster.primary().port());
    let more = "pool.acquire_timeout_ms = 60000\nlimits.hold_timeout_ms = 60000";
    let komainu = komainu_before(cluster, &postmaster, more);
    let mut client = komainu.login(&database);
    let backend = client.query_value("SELECT pg_backend_pid()");
    postmaster.hold_up(WHOEVER_COMES);
    cluster.primary().psql("postgres", &format!("SELECT pg_terminate_backend({backend})")).unwrap();
    begin(&mut client, "SELECT 42");
    let ended =
        || komainu.log().contains("cannot open a server connection") && komainu.log().contains("in time");
    eventually(PATIENCE, "an attempt has ended", ended);
    postmaster.hold_up(NOTHING);
    assert!(client.until('Z').iter().any(|m| m.tag == 'D' && m.columns() == [Some("42".to_owned())]));
}
