//! Many patient clients that update and read as fast as they are answered.
//!
//! Owns a thread and its clients' connections. Half of them only write, each a row of its own, and half only
//! read. Never gives up early: an application that waits sees no error that it would not have to see.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::throughput::Tally;
use crate::backend::control::ControlConnection;
use crate::drill::address::Address;
use crate::drill::rows::{Table, WriteError, connect};

/// Longer than any wait that komainu asks of a client.
const PATIENCE: Duration = Duration::from_secs(150);
/// Before a client that could not connect tries again.
const PAUSE: Duration = Duration::from_millis(100);

/// The rows that are updated: beside the drill's own table, and named after it.
#[derive(Debug, Clone)]
pub struct Counters {
    address: Address,
    name: String,
    clients: u32,
}

impl Counters {
    pub fn beside(table: &Table, clients: u32) -> Self {
        Self { address: table.address.clone(), name: format!("{}_load", table.name), clients }
    }

    pub async fn create(&self, table: &Table) -> Result<(), WriteError> {
        let (name, last) = (&self.name, self.clients);
        table.ask(&format!("CREATE TABLE {name} (id integer PRIMARY KEY, n bigint NOT NULL)")).await?;
        table.ask(&format!("INSERT INTO {name} SELECT id, 0 FROM generate_series(0, {last}) id")).await?;
        Ok(())
    }

    pub async fn remove(&self, table: &Table) -> Result<(), WriteError> {
        table.ask(&format!("DROP TABLE IF EXISTS {}", self.name)).await.map(drop)
    }

    fn question(&self, client: u32) -> String {
        match client % 2 {
            0 => format!("UPDATE {} SET n = n + 1 WHERE id = {client}", self.name),
            _ => format!("SELECT n FROM {} WHERE id = {}", self.name, client - 1),
        }
    }
}

/// Runs until dropped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Tally>>,
}

impl Load {
    pub fn start(counters: Counters, origin: Instant) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = {
            let stop = stop.clone();
            async move {
                let clients = (0..counters.clients).map(|client| ask(&counters, client, origin, &stop));
                join_all(clients).await.into_iter().fold(Tally::default(), Tally::and)
            }
        };
        let thread =
            std::thread::Builder::new().name("drill-load".into()).spawn(move || runtime.block_on(work))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// What was answered, and how many errors were seen.
    pub fn finish(mut self) -> Tally {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of its has been printed.
        self.thread.take()?.join().ok()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

async fn ask(counters: &Counters, client: u32, origin: Instant, stop: &AtomicBool) -> Tally {
    let question = counters.question(client);
    let mut tally = Tally::default();
    let mut kept: Option<ControlConnection> = None;
    while !stop.load(Ordering::Relaxed) {
        let connection = match kept.take() {
            Some(connection) => Ok(connection),
            None => timeout(PATIENCE, connect(&counters.address))
                .await
                .map_err(|_| "08001".to_owned())
                .and_then(|connected| connected.map_err(|error| error.to_string())),
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                tally.note_error(error);
                sleep(PAUSE).await;
                continue;
            }
        };
        match timeout(PATIENCE, connection.query(&question)).await {
            Ok(Ok(_)) => tally.note(origin.elapsed(), client.is_multiple_of(2)),
            Ok(Err(error)) => tally.note_error(error.to_string()),
            Err(_) => tally.note_error(format!("no answer within {} s", PATIENCE.as_secs())),
        }
        if connection.is_usable() {
            kept = Some(connection);
        }
    }
    tally
}
