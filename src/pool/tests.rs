//! Pools that end while somebody comes, and servers that go on talking.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::backend::connect::Credential;
use crate::config::{self, PoolLimits, PoolMode};
use crate::net::tls::ServerTlsContext;
use crate::topology::{Admission, Health, Lsn, Role, ServerState};
use crate::wire::message::{self, Report, TransactionStatus};
use crate::wire::scram;

const PATIENCE: Duration = Duration::from_secs(20);

fn pools() -> Pools {
    let limits =
        PoolLimits { mode: PoolMode::Transaction, size: 2, min: 0, reserve: 0, reserve_after_ms: 1000 };
    let config = config::Pool {
        limits,
        overrides: Vec::new(),
        max_server_connections: 2,
        acquire_timeout_ms: 600_000,
        connect_timeout_ms: 600_000,
        connect_rate: 100,
        idle_timeout_ms: 0,
        lifetime_ms: 0,
        check_after_idle_ms: 0,
        max_prepared_statements: 1,
        max_prepared_bytes: 1,
    };
    Pools::new(config, Arc::new(ServerTlsContext::disabled()))
}

fn pool(pools: &Pools, epoch: u64, port: u16) -> Arc<Pool> {
    let server = ServerState {
        index: ServerIndex(0),
        id: "a".into(),
        host: "127.0.0.1".into(),
        port,
        weight: 1,
        zone: None,
        role: Role::Primary,
        health: Health::Up,
        timeline: 1,
        lsn: Lsn(0),
        lag_bytes: None,
        lag_ms: None,
        observed_at_ms: 0,
        reason: "".into(),
        admission: Admission::Open,
    };
    let key =
        PoolKey { server: ServerIndex(0), epoch: Epoch(epoch), database: "shop".into(), user: "app".into() };
    pools.get(&key, &server, &Credential::None)
}

/// A server that takes connections and never answers; its port.
async fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn served(acquire: Acquire) -> Result<Box<crate::backend::ServerConn>, AcquireError> {
    timeout(PATIENCE, acquire.served()).await.expect("it waits for ever")
}

#[tokio::test]
async fn who_comes_to_a_pool_that_has_just_ended_is_sent_away_at_once() {
    let (_listener, port) = silent().await;
    let pools = pools();
    let ending = pool(&pools, 1, port);
    let before = ending.wait();
    pools.retire_other_epochs(Epoch(2));
    for acquire in [before, ending.wait()] {
        assert!(matches!(served(acquire).await, Err(AcquireError::Retired)));
    }
    assert_eq!(ending.counts().waiting, 0);
}

#[tokio::test]
async fn a_pool_of_an_epoch_that_has_ended_does_not_stay() {
    let (_listener, port) = silent().await;
    let pools = pools();
    pools.retire_other_epochs(Epoch(2));
    let (late, current) = (pool(&pools, 1, port), pool(&pools, 2, port));
    let waits = late.wait();
    pools.tick(Epoch(2), |_| true, &[]);
    assert!(matches!(served(waits).await, Err(AcquireError::Retired)));
    let all = pools.all();
    assert!(all.len() == 1 && Arc::ptr_eq(&all[0], &current) && !current.is_retired());
}

/// What a server says to a client it lets in, and that together with the end of it.
async fn let_in(listener: &TcpListener, behind: &[u8]) -> tokio::net::TcpStream {
    let (mut tcp, _) = listener.accept().await.unwrap();
    let length = tcp.read_i32().await.unwrap();
    tcp.read_exact(&mut vec![0; length as usize - 4]).await.unwrap();
    let mut out = BytesMut::new();
    message::frame(&mut out, b'R', |out| out.put_i32(0)).unwrap();
    message::ready_for_query(&mut out, TransactionStatus::Idle);
    out.put_slice(behind);
    tcp.write_all(&out).await.unwrap();
    tcp
}

#[tokio::test]
async fn what_a_server_says_behind_the_login_is_heard() {
    let (listener, port) = silent().await;
    let (mut fatal, mut notice, mut status) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    Report::fatal(crate::wire::sqlstate::ADMIN_SHUTDOWN, "it ends").encode(&mut fatal);
    message::frame(&mut notice, b'N', |out| out.put_slice(b"Mjust so\0\0")).unwrap();
    message::parameter_status(&mut status, "said", "late");
    for behind in [&fatal[..], &notice[..6]] {
        let pool = pool(&pools(), 1, port);
        let acquire = pool.wait();
        let _tcp = let_in(&listener, behind).await;
        assert!(matches!(served(acquire).await, Err(AcquireError::Connect(_))), "{behind:?}");
        assert_eq!(pool.counts(), PoolCounts::default());
    }
    let pool = pool(&pools(), 1, port);
    let acquire = pool.wait();
    let _tcp = let_in(&listener, &[&notice[..], &status[..]].concat()).await;
    let conn = served(acquire).await.unwrap();
    assert_eq!((conn.reported.get("said"), conn.is_clean()), (Some("late"), true));
    assert_eq!(pool.greeting().unwrap().reported.get("said"), Some("late"));
}

async fn message_of(tcp: &mut tokio::net::TcpStream) -> Vec<u8> {
    assert_eq!(tcp.read_u8().await.unwrap(), b'p');
    let mut body = vec![0; tcp.read_i32().await.unwrap() as usize - 4];
    tcp.read_exact(&mut body).await.unwrap();
    body
}

/// Lets the next who comes in if it proves the password by SCRAM: whether it did. `asked` is called when it has come,
/// before it is asked for a proof.
async fn let_in_with(
    listener: &TcpListener,
    password: &str,
    asked: impl FnOnce(),
) -> Option<tokio::net::TcpStream> {
    let (mut tcp, _) = timeout(PATIENCE, listener.accept()).await.expect("nobody comes").unwrap();
    let length = tcp.read_i32().await.unwrap();
    tcp.read_exact(&mut vec![0; length as usize - 4]).await.unwrap();
    asked();
    let mut out = BytesMut::new();
    let authentication = |out: &mut BytesMut, code, data: &[u8]| {
        message::frame(out, b'R', |out| {
            out.put_i32(code);
            out.put_slice(data);
        })
        .unwrap();
    };
    authentication(&mut out, 10, b"SCRAM-SHA-256\0\0");
    tcp.write_all(&out.split()).await.unwrap();
    let first = message_of(&mut tcp).await;
    let verifier = scram::Verifier::from_password(password.as_bytes(), b"salt", 4096).unwrap();
    let server = scram::ServerFirst::new(verifier, "nonce".into(), scram::ServerBinding::NotOffered);
    let (server_first, server) = server.client_first(&first["SCRAM-SHA-256\0".len() + 4..]).unwrap();
    authentication(&mut out, 11, &server_first);
    tcp.write_all(&out.split()).await.unwrap();
    match server.client_final(&message_of(&mut tcp).await).unwrap() {
        scram::Verdict::Success(success) => {
            authentication(&mut out, 12, &success.server_final);
            authentication(&mut out, 0, b"");
            message::ready_for_query(&mut out, TransactionStatus::Idle);
            tcp.write_all(&out).await.unwrap();
            Some(tcp)
        }
        scram::Verdict::WrongProof => {
            Report::fatal(crate::wire::sqlstate::INVALID_PASSWORD, "it is another").encode(&mut out);
            tcp.write_all(&out).await.unwrap();
            None
        }
    }
}

fn password(text: &str) -> Credential {
    Credential::Password(crate::backend::connect::Secret::new(text))
}

#[tokio::test]
async fn an_old_password_that_is_refused_takes_nothing_from_a_newer_one() {
    let (listener, port) = silent().await;
    let pool = pool(&pools(), 1, port);
    pool.offer_credential(password("old"));
    let acquire = pool.wait();
    let refused = let_in_with(&listener, "new", || pool.offer_credential(password("new"))).await;
    assert!(refused.is_none());
    let _tcp = let_in_with(&listener, "new", || {}).await.expect("the newer one was not tried");
    assert!(served(acquire).await.is_ok());
}

#[tokio::test]
async fn who_has_waited_for_its_turn_logs_in_with_what_is_current_then() {
    let (listener, port) = silent().await;
    let pools = pools();
    let pool = pool(&pools, 1, port);
    let gate = pools.gate(ServerIndex(0)).unwrap();
    gate.set_limits(2, 2);
    while gate.turn_ms(crate::clock::now_ms()) == 0 {}
    pool.offer_credential(password("old"));
    let acquire = pool.wait();
    // Its turn has not come while nothing else runs.
    tokio::task::yield_now().await;
    pool.offer_credential(password("new"));
    let _tcp = let_in_with(&listener, "new", || {}).await.expect("the old one was tried");
    assert!(served(acquire).await.is_ok());
}

#[tokio::test]
async fn a_password_that_was_refused_is_not_tried_again() {
    let (listener, port) = silent().await;
    let pool = pool(&pools(), 1, port);
    for tried in ["old", "new"] {
        pool.offer_credential_if_none(&password(tried));
        let acquire = pool.wait();
        // Its pause is over with one of the next ticks.
        let ticks = async {
            loop {
                pool.tick();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let tcp = tokio::select! {
            tcp = let_in_with(&listener, "new", || {}) => tcp,
            () = ticks => None,
        };
        assert_eq!((tcp.is_some(), served(acquire).await.is_ok()), (tried == "new", tried == "new"));
    }
}

#[test]
fn connections_opened_together_are_not_closed_together() {
    const HOUR_MS: u64 = 3_600_000;
    let lives: Vec<_> = (1000..1020).map(|pid| pool::lifetime_of(pid, HOUR_MS)).collect();
    assert!(lives.iter().all(|life| (HOUR_MS / 8 * 7..=HOUR_MS).contains(life)), "{lives:?}");
    let minutes: std::collections::BTreeSet<_> = lives.iter().map(|life| life / 60_000).collect();
    assert!(minutes.len() >= 6, "{lives:?}");
    assert_eq!(pool::lifetime_of(7, 0), 0, "no limit stays none");
}
