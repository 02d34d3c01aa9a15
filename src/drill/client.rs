//! An impatient client of the drill's: asks something at each beat through the endpoint, and notes what became
//! of it.
//!
//! Owns one connection and a thread of its own, so that nothing else in the process delays it. Never sends a
//! row twice: a row whose fate is unknown stays so, and the next one has the next number.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::address::Address;
use super::attempts::Attempt;
use super::rows::{Table, connect};
use crate::backend::control::ControlConnection;

/// For a connect with its login, and for a query: what impatient applications are set to.
const GIVE_UP: Duration = Duration::from_millis(500);
/// Acknowledged before anything is broken, and again before it is mended: the measure itself works.
const STEADY_ROWS: usize = 3;
const STEADY_POLL: Duration = Duration::from_millis(50);

/// Asks until dropped.
#[derive(Debug)]
pub struct Client {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Writes a row at each beat. Times are told since `origin`.
    pub fn writing(table: Table, run: u32, beat: Duration, origin: Instant) -> io::Result<Self> {
        let address = table.address.clone();
        Self::start(address, beat, origin, move |number| table.insert(run, number))
    }

    /// Reads a row at each beat.
    pub fn reading(table: Table, beat: Duration, origin: Instant) -> io::Result<Self> {
        let address = table.address.clone();
        Self::start(address, beat, origin, move |_| table.select())
    }

    fn start(
        address: Address,
        beat: Duration,
        origin: Instant,
        question: impl Fn(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = asking(address, beat, origin, question, attempts.clone(), stop.clone());
        let thread =
            std::thread::Builder::new().name("drill-client".into()).spawn(move || runtime.block_on(work))?;
        Ok(Self { attempts, stop, thread: Some(thread) })
    }

    /// Waits for some answers in a row, of questions asked after a moment; false when there are none in time.
    pub async fn is_steady(&self, after: Duration, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let is_steady = |attempts: &[Attempt]| {
            let last = attempts.iter().rev().take(STEADY_ROWS);
            last.filter(|attempt| attempt.acknowledged && attempt.began >= after).count() == STEADY_ROWS
        };
        while !is_steady(&self.attempts()) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(STEADY_POLL).await;
        }
        true
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the row that is on its way arrive, then tells all.
    pub fn finish(mut self) -> Vec<Attempt> {
        self.end();
        self.attempts()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends within a beat and two deadlines; a panic of its has been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

async fn asking(
    address: Address,
    beat: Duration,
    origin: Instant,
    question: impl Fn(u64) -> String,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
) {
    let mut beats = interval(beat);
    // After a wait the next try is at the next beat, not many at once.
    beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut connection = None;
    for number in 1.. {
        beats.tick().await;
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let began = origin.elapsed();
        let acknowledged = attempt(&address, &mut connection, &question(number)).await;
        let attempt = Attempt { number, began, ended: origin.elapsed(), acknowledged };
        attempts.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
    }
}

/// One try. The connection is kept only if it is good for another.
async fn attempt(address: &Address, kept: &mut Option<ControlConnection>, sql: &str) -> bool {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => match timeout(GIVE_UP, connect(address)).await {
            Ok(Ok(connection)) => connection,
            _ => return false,
        },
    };
    match timeout(GIVE_UP, connection.query(sql)).await {
        Ok(outcome) => {
            let acknowledged = outcome.is_ok();
            if connection.is_usable() {
                *kept = Some(connection);
            }
            acknowledged
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::drill::attempts::{acknowledged, first_begun_after, longest_gap};
    use crate::drill::rows::WriteError;
    use crate::sandbox::{Installation, Postgres, PostgresOptions, SUPERUSER, Scratch};

    const LIMIT: Duration = Duration::from_secs(30);

    async fn until(writer: &Client, what: &str, reached: impl Fn(&[Attempt]) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !reached(&writer.attempts()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", writer.attempts());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_server_that_hangs_costs_rows_that_are_not_counted_and_none_that_are() {
        let scratch = Scratch::create("komainu-writer-").unwrap();
        let options = PostgresOptions {
            max_connections: 20,
            fsync: false,
            settings: Vec::new(),
            hba: Vec::new(),
            password: "secret".into(),
            hosts: Default::default(),
            port: None,
            slots: true,
        };
        let installation = Installation::find().unwrap();
        let server = Postgres::init(&installation, scratch.path(), "pg1", options).unwrap();
        server.start().unwrap();
        let url = format!("postgres://{SUPERUSER}:secret@127.0.0.1:{}/postgres", server.port());
        let table = Table { address: Address::parse(&url).unwrap(), name: "drill_rows".into() };
        table.create().await.unwrap();

        let origin = Instant::now();
        let writer = Client::writing(table.clone(), 7, Duration::from_millis(10), origin).unwrap();
        until(&writer, "rows", |attempts| acknowledged(attempts).len() >= 5).await;
        server.freeze();
        let frozen = origin.elapsed();
        let failures = |attempts: &[Attempt]| attempts.iter().filter(|one| !one.acknowledged).count();
        // The query that was on its way, and a connect.
        until(&writer, "two are given up", |attempts| failures(attempts) >= 2).await;
        server.thaw();
        let thawed = origin.elapsed();
        until(&writer, "rows again", |attempts| first_begun_after(attempts, thawed).is_some()).await;
        let attempts = writer.finish();

        let gap = longest_gap(&attempts, frozen, origin.elapsed()).unwrap();
        assert!(gap.length() >= 2 * GIVE_UP, "{gap:?}");
        let numbers: BTreeSet<u64> = attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers.len(), attempts.len(), "no number twice");
        let present = table.present(7).await.unwrap();
        assert_eq!(acknowledged(&attempts).difference(&present.numbers).count(), 0);
        assert!(present.twice.is_empty());
        table.ask(&table.insert(8, 1)).await.unwrap();
        table.ask(&table.insert(8, 1)).await.unwrap();
        let twice = table.present(8).await.unwrap();
        assert_eq!((twice.numbers, twice.twice), ([1].into(), [1].into()));
        assert!(table.present(9).await.unwrap().numbers.is_empty());
        table.remove().await.unwrap();
        assert!(matches!(table.present(7).await, Err(WriteError::Query(_))));
    }
}
