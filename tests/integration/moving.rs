//! An endpoint that is moved by order, under a client that writes through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::commands::komainu;
use super::support::{PATIENCE, Sandbox, eventually, psql};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const MOVES: usize = 3;

#[derive(Default)]
struct Common {
    stop: AtomicBool,
    acknowledged: AtomicU32,
}

struct Written {
    acknowledged: Vec<u32>,
    reconnects: u32,
}

/// While nobody has the endpoint, whoever dials is refused.
async fn connect(url: &str) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio_postgres::connect(url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => {
                let is_plain = error.as_db_error().is_none();
                assert!(is_plain && Instant::now() < deadline, "only the connection fails: {error:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// One row after the other until it is told to stop. Every error but the end of its connection is one too many.
async fn write(url: String, common: Arc<Common>) -> Written {
    let mut written = Written { acknowledged: Vec::new(), reconnects: 0 };
    let mut next = 0;
    loop {
        let client = connect(&url).await;
        loop {
            if common.stop.load(Ordering::Relaxed) {
                return written;
            }
            next += 1;
            match client.batch_execute(&format!("INSERT INTO moved VALUES ({next})")).await {
                Ok(()) => {
                    written.acknowledged.push(next);
                    common.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    assert!(error.as_db_error().is_none(), "only the connection ends: {error:?}");
                    written.reconnects += 1;
                    break;
                }
            }
        }
    }
}

/// Whose it is, and in which epoch.
fn endpoint(sandbox: &Sandbox) -> (String, u64) {
    let mut found = None;
    eventually(PATIENCE, "they agree on the endpoint's owner", || {
        let said = NODES.map(|id| {
            let status = sandbox.admin(id, "/status")?;
            let endpoint = &status["endpoints"][0];
            Some((endpoint["owner"].as_str()?.to_owned(), endpoint["epoch"].as_u64()?))
        });
        found = said[0].clone();
        found.is_some() && said.iter().all(|other| *other == found)
    });
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_by_order_costs_a_writer_its_connection_and_nothing_else() {
    let sandbox = Sandbox::start(&["--standbys", "0", "--patient"]);
    psql(sandbox.url(), &["CREATE TABLE moved (n int PRIMARY KEY)"]).output();
    let common = Arc::new(Common::default());
    let writer = tokio::spawn(write(sandbox.url().to_owned(), common.clone()));
    let goes_on = || {
        let before = common.acknowledged.load(Ordering::Relaxed);
        eventually(PATIENCE, "rows are acknowledged", || {
            writer.is_finished() || common.acknowledged.load(Ordering::Relaxed) > before + 20
        });
    };
    let began = endpoint(&sandbox);
    for _ in 0..MOVES {
        goes_on();
        let (owner, _) = endpoint(&sandbox);
        let to = NODES.into_iter().find(|id| *id != owner).unwrap();
        let socket = sandbox.part(&owner)["admin"].as_str().unwrap();
        let moved = komainu(&["endpoint", "move", "--to", to], Some(socket.as_ref()));
        let said = String::from_utf8_lossy(&moved.stdout);
        assert!(moved.status.success() && said.starts_with(&format!("{to} owns app")), "{moved:?}");
    }
    goes_on();
    common.stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    let (_, epoch) = endpoint(&sandbox);
    assert!(epoch >= began.1 + MOVES as u64);
    assert_eq!(u64::from(written.reconnects), epoch - began.1, "one for each move");
    let there = psql(sandbox.url(), &["SELECT n FROM moved"]).output();
    let there: std::collections::HashSet<u32> = there.lines().map(|n| n.parse().unwrap()).collect();
    let lost: Vec<_> = written.acknowledged.iter().filter(|n| !there.contains(n)).collect();
    assert!(lost.is_empty(), "{lost:?} of {} are lost", written.acknowledged.len());
}
