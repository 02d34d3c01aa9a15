//! Clients that append and read back, move money and count it, through whichever node lets them, and write down what
//! they were told.
//!
//! Invariant: nothing is sent again that may have been done, and what a client does not know it says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage, Statement};

use super::history::{Append, Foreign, History, Look, Outcome, Place, Sum, Transfer};

pub const ACCOUNTS: u32 = 20;
pub const INITIAL: i64 = 1_000;
/// Each of its kind.
const APPENDERS: u32 = 3;
const TELLERS: u32 = 2;
const AUDITORS: u32 = 2;
/// Longer than komainu lets a request wait for a primary by default.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const CONNECT_AGAIN: Duration = Duration::from_millis(200);

/// What all clients share.
pub struct Common {
    /// A URL for each node.
    pub nodes: Vec<String>,
    pub began: Instant,
    pub stop: AtomicBool,
    /// Rows and transfers that were acknowledged.
    pub done: AtomicU64,
    /// When the last of them was, in microseconds.
    pub done_at_us: AtomicU64,
    /// The longest time without any since it was last taken.
    pub gap_us: AtomicU64,
    pub unknown: AtomicU64,
}

impl Common {
    pub fn new(nodes: Vec<String>) -> Self {
        Common {
            nodes,
            began: Instant::now(),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            done_at_us: AtomicU64::new(0),
            gap_us: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        }
    }

    pub fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, outcome: Outcome) {
        match outcome {
            Outcome::Done => {
                let now_us = self.now_us();
                let before_us = self.done_at_us.fetch_max(now_us, Ordering::Relaxed);
                self.gap_us.fetch_max(now_us.saturating_sub(before_us), Ordering::Relaxed);
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Unknown => drop(self.unknown.fetch_add(1, Ordering::Relaxed)),
            Outcome::Refused => {}
        }
    }
}

/// Until they are told to stop; all that they have seen.
pub async fn run(common: Arc<Common>, seed: u64) -> History {
    let mut clients = JoinSet::new();
    for number in 0..APPENDERS + TELLERS + AUDITORS {
        let random = StdRng::seed_from_u64(seed.wrapping_add(u64::from(number)));
        let seat = Seat { common: common.clone(), number, session: 0, node: number as usize, random };
        clients.spawn(async move {
            match number {
                0..APPENDERS => append(seat).await,
                _ if number < APPENDERS + TELLERS => transfer(seat).await,
                _ => audit(seat).await,
            }
        });
    }
    let mut history = History::default();
    while let Some(seen) = clients.join_next().await {
        history.extend(seen.unwrap());
    }
    history
}

/// One client, with one connection after the other.
struct Seat {
    common: Arc<Common>,
    number: u32,
    session: u32,
    node: usize,
    random: StdRng,
}

/// One that it has: what it has set and prepared there is its own.
struct Session {
    client: Client,
    /// Has the name that every client's first statement has, and another text.
    own: Statement,
    name: String,
}

impl Seat {
    /// None: the run is over.
    async fn connect(&mut self) -> Option<Session> {
        while !self.common.stops() {
            self.node += 1;
            let url = &self.common.nodes[self.node % self.common.nodes.len()];
            let name = format!("{}-{}", self.number, self.session + 1);
            if let Ok(Some(session)) = timeout(CONNECT_WITHIN, open(url, name)).await {
                self.session += 1;
                return Some(session);
            }
            sleep(CONNECT_AGAIN).await;
        }
        None
    }

    async fn pause(&mut self) {
        let ms = self.random.random_range(5..40);
        sleep(Duration::from_millis(ms)).await;
    }
}

async fn open(url: &str, name: String) -> Option<Session> {
    let mut config: Config = url.parse().unwrap();
    config.connect_timeout(CONNECT_WITHIN);
    let (client, connection) = config.connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    client.batch_execute(&format!("SET torture.me = '{name}'")).await.ok()?;
    let own =
        client.prepare(&format!("SELECT '{name}'::text, current_setting('torture.me', true)")).await.ok()?;
    Some(Session { client, own, name })
}

/// What an error says of a statement that may write.
fn outcome(error: &Error) -> Outcome {
    match error.code().map(|code| code.code()) {
        // Nobody knows, or the session was ended in the middle of it.
        None | Some("08007" | "57P01" | "57P02") => Outcome::Unknown,
        Some(_) => Outcome::Refused,
    }
}

async fn ask(session: &Session, sql: &str) -> Result<Vec<Vec<String>>, Option<Error>> {
    let messages = match timeout(ANSWER_WITHIN, session.client.simple_query(sql)).await {
        Ok(Ok(messages)) => messages,
        Ok(Err(error)) => return Err(Some(error)),
        Err(_) => return Err(None),
    };
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

fn said(error: &Option<Error>) -> Outcome {
    error.as_ref().map_or(Outcome::Unknown, outcome)
}

/// Whether the connection is of no more use.
fn is_lost(session: &Session, error: &Option<Error>) -> bool {
    error.as_ref().is_none_or(|error| error.code().is_none()) || session.client.is_closed()
}

async fn append(mut seat: Seat) -> History {
    let mut history = History::default();
    let mut number = 0;
    while let Some(session) = seat.connect().await {
        while !seat.common.stops() {
            seat.pause().await;
            number += 1;
            let (client, own) = (seat.number, seat.session);
            let tag = format!("{client}-{own}-{number}");
            let sql = format!(
                "INSERT INTO torture_log (client, session, number) VALUES ({client}, {own}, {number}) \
                 RETURNING '{tag}', host(inet_server_addr()) || ':' || current_setting('port'), \
                           pg_walfile_name(pg_current_wal_insert_lsn())"
            );
            let sent_us = seat.common.now_us();
            let result = ask(&session, &sql).await;
            let answered_us = seat.common.now_us();
            let outcome = result.as_ref().map_or_else(said, |_| Outcome::Done);
            seat.common.note(outcome);
            let mut place = None;
            if let Ok(rows) = &result {
                let row = rows.first().cloned().unwrap_or_default();
                let got = row.first().cloned().unwrap_or_default();
                if got == tag {
                    let timeline = u32::from_str_radix(&row[2][..8], 16).unwrap();
                    place = Some(Place { timeline, server: row[1].clone() });
                } else {
                    history.foreign.push(Foreign { sent_us, expected: tag, got });
                }
            }
            let session_number = own;
            history.appends.push(Append {
                client,
                session: session_number,
                number,
                sent_us,
                answered_us,
                outcome,
                place,
            });
            if let Err(error) = &result
                && is_lost(&session, error)
            {
                break;
            }
            if !look(&seat, &session, number, &mut history).await {
                break;
            }
        }
    }
    history
}

/// False: the connection is lost.
async fn look(seat: &Seat, session: &Session, number: u64, history: &mut History) -> bool {
    let (client, own) = (seat.number, seat.session);
    let tag = format!("look {client}-{own}-{number}");
    let sql = format!(
        "SELECT '{tag}', current_setting('torture.me', true), coalesce(max(number), 0), count(*) \
           FROM torture_log WHERE client = {client} AND session = {own}"
    );
    let sent_us = seat.common.now_us();
    match ask(session, &sql).await {
        Ok(rows) => {
            let row = rows.first().cloned().unwrap_or_default();
            let expected = format!("{tag} {}", session.name);
            let got = row.iter().take(2).cloned().collect::<Vec<_>>().join(" ");
            if got == expected {
                let value = |column: usize| row[column].parse().unwrap();
                let (highest, count) = (value(2), value(3));
                history.looks.push(Look { client, session: own, sent_us, highest, count });
            } else {
                history.foreign.push(Foreign { sent_us, expected, got });
            }
            true
        }
        Err(error) => !is_lost(session, &error),
    }
}

async fn transfer(mut seat: Seat) -> History {
    let mut history = History::default();
    let mut number = 0;
    while let Some(session) = seat.connect().await {
        while !seat.common.stops() {
            seat.pause().await;
            number += 1;
            let id = u64::from(seat.number) * 1_000_000_000 + number;
            let from = seat.random.random_range(0..ACCOUNTS);
            let to = (from + seat.random.random_range(1..ACCOUNTS)) % ACCOUNTS;
            let amount = seat.random.random_range(1..100);
            let (outcome, lost) = pay(&session, id, (from, to), amount).await;
            seat.common.note(outcome);
            history.transfers.push(Transfer { id, from, to, amount, outcome });
            if lost {
                break;
            }
        }
    }
    history
}

/// What became of it, and whether the connection is lost.
async fn pay(session: &Session, id: u64, (from, to): (u32, u32), amount: i64) -> (Outcome, bool) {
    // In one order, so that nobody waits for another in a circle.
    let mut changes = [(from, -amount), (to, amount)];
    changes.sort_unstable();
    let mut steps = vec!["BEGIN".to_owned()];
    for (account, by) in changes {
        steps.push(format!("UPDATE torture_account SET balance = balance + {by} WHERE id = {account}"));
    }
    steps.push(format!("INSERT INTO torture_transfer (id) VALUES ({id})"));
    for step in &steps {
        if let Err(error) = ask(session, step).await {
            // COMMIT was never sent.
            let lost = is_lost(session, &error) || ask(session, "ROLLBACK").await.is_err();
            return (Outcome::Refused, lost);
        }
    }
    match ask(session, "COMMIT").await {
        Ok(_) => (Outcome::Done, false),
        Err(error) => (said(&error), is_lost(session, &error)),
    }
}

async fn audit(mut seat: Seat) -> History {
    let mut history = History::default();
    while let Some(session) = seat.connect().await {
        while !seat.common.stops() {
            seat.pause().await;
            let sent_us = seat.common.now_us();
            match ask(&session, "SELECT sum(balance) FROM torture_account").await {
                Ok(rows) => history.sums.push(Sum { sent_us, sum: rows[0][0].parse().unwrap() }),
                Err(error) if is_lost(&session, &error) => break,
                Err(_) => {}
            }
            let own = timeout(ANSWER_WITHIN, session.client.query(&session.own, &[])).await;
            match own {
                Ok(Ok(rows)) => {
                    let value = |column| rows[0].get::<_, Option<String>>(column).unwrap_or_default();
                    let (expected, got) =
                        (format!("{0} {0}", session.name), format!("{} {}", value(0), value(1)));
                    if got != expected {
                        history.foreign.push(Foreign { sent_us, expected, got });
                    }
                }
                Ok(Err(error)) if error.code().is_some() && !session.client.is_closed() => {}
                _ => break,
            }
        }
    }
    history
}
