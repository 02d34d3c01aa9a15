//! What the tests of failovers share: their turns, their clusters, and clients that keep account of what they write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::holding::{answer, send};
use crate::support::*;

const SYNCHRONOUS: &str = "sync_mode = \"require\"";

/// Each of these tests has nine processes or more that must not miss their deadlines.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// With a table of rows `n`, and commits that wait for a standby.
#[track_caller]
pub fn synchronous() -> (Failover, String) {
    synchronous_with(Failover::builder())
}

#[track_caller]
pub fn synchronous_with(builder: FailoverBuilder) -> (Failover, String) {
    let failover = builder.failover(SYNCHRONOUS).start();
    let database = with_table(&failover);
    failover.wait_until_promised();
    (failover, database)
}

pub fn with_table(failover: &Failover) -> String {
    let database = failover.cluster.database();
    failover.cluster.prepare(&database, "CREATE TABLE t (n bigint); GRANT ALL ON t TO PUBLIC");
    database
}

/// Writes one row after another through a node, each a transaction of its own.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<Written>,
}

#[derive(Default)]
struct Written {
    acknowledged: Vec<u64>,
    /// The client was told that nobody knows.
    unknown: Vec<u64>,
    otherwise: Vec<Vec<String>>,
}

impl Writer {
    pub fn start(mut wire: Wire, first: u64) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stops, counts) = (stop.clone(), count.clone());
        let thread = thread::spawn(move || {
            let mut written = Written::default();
            let mut n = first;
            while !stops.load(Ordering::Relaxed) {
                send(&mut wire, &format!("INSERT INTO t VALUES ({n})"));
                let messages = answer(&mut wire);
                if messages == ["C INSERT 0 1", "ZI"] {
                    written.acknowledged.push(n);
                    counts.fetch_add(1, Ordering::Relaxed);
                } else if messages.iter().any(|message| message == "ERROR 08007") {
                    written.unknown.push(n);
                } else {
                    written.otherwise.push(messages);
                }
                n += 1;
                thread::sleep(Duration::from_millis(5));
            }
            written
        });
        Self { stop, count, thread }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for further rows.
    #[track_caller]
    pub fn goes_on(&self) {
        let before = self.count();
        eventually(PATIENCE, "rows are written", || self.count() > before + 10);
    }
}

/// One writer at each of these nodes.
pub fn write_at(failover: &Failover, nodes: &[String], database: &str) -> Vec<Writer> {
    let first = |node: &str| 1_000_000 * (Nodes::index(node) as u64 + 1);
    let start = |node: &String| Writer::start(failover.nodes.node(node).login(database), first(node));
    let writers: Vec<_> = nodes.iter().map(start).collect();
    writers.iter().for_each(Writer::goes_on);
    writers
}

/// Ends the writers: all that was acknowledged is on that server, once, and nothing that nobody wrote.
#[track_caller]
pub fn assert_nothing_lost(failover: &Failover, server: &str, database: &str, writers: Vec<Writer>) {
    writers.iter().for_each(|writer| writer.stop.store(true, Ordering::Relaxed));
    let written: Vec<_> = writers.into_iter().map(|writer| writer.thread.join().unwrap()).collect();
    let rows =
        failover.server(server).psql(database, "SELECT n FROM t WHERE n >= 1000000 ORDER BY n").unwrap();
    let rows: Vec<u64> = rows.lines().map(|row| row.parse().unwrap()).collect();
    assert!(rows.is_sorted_by(|a, b| a < b), "a row is there twice");
    let mut known = 0;
    for Written { acknowledged, unknown, otherwise } in &written {
        assert!(otherwise.is_empty(), "{otherwise:?}");
        let lost: Vec<_> = acknowledged.iter().filter(|n| rows.binary_search(n).is_err()).collect();
        assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), acknowledged.len());
        known += acknowledged.len() + unknown.iter().filter(|n| rows.binary_search(n).is_ok()).count();
    }
    assert_eq!(rows.len(), known, "rows that nobody wrote");
}

pub fn is_standby(failover: &Failover, server: &str) -> bool {
    failover.server(server).psql("postgres", "SELECT pg_is_in_recovery()").is_ok_and(|is| is == "t")
}

/// Of what a primary writes.
pub fn timeline(failover: &Failover, primary: &str) -> u32 {
    let name = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    u32::from_str_radix(&failover.server(primary).psql("postgres", name).unwrap(), 16).unwrap()
}
