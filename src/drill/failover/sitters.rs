//! Clients that sit between two transactions when something breaks, and then go on.
//!
//! Owns their connections. What they see is what an application behind a pool of connections sees that was
//! not in the middle of anything: it should be no error. Invariant: none of them has anything under way when
//! the break begins.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::backend::control::ControlConnection;
use crate::drill::address::Address;
use crate::drill::rows::{Table, WriteError, connect};

/// When they go on after the break, each at its own time.
const RETURNS_MS: [u64; 10] = [0, 50, 100, 200, 400, 800, 1_200, 1_600, 2_400, 3_200];
/// Longer than any wait that komainu asks of a client.
const PATIENCE: Duration = Duration::from_secs(150);
/// Their rows' numbers begin here; the drill's writer does not come so far.
const FIRST_NUMBER: u64 = 1_000_000_000;

/// Logged in, idle.
pub struct Sitters {
    connections: Vec<ControlConnection>,
}

/// What became of their next transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Returned {
    /// Numbers of rows.
    pub acknowledged: Vec<u64>,
    pub errors: Vec<String>,
}

impl Sitters {
    /// Each has done something before, as one in use has.
    pub async fn sit(address: &Address) -> Result<Self, WriteError> {
        let mut connections = Vec::new();
        for _ in RETURNS_MS {
            let mut connection = connect(address).await?;
            for sql in ["BEGIN", "SELECT 1", "COMMIT"] {
                connection.query(sql).await?;
            }
            connections.push(connection);
        }
        Ok(Self { connections })
    }

    /// From now on, which is when something was broken: each writes a row in a transaction of its own.
    pub async fn go_on(self, table: Table, run: u32) -> Returned {
        let all = self.connections.into_iter().zip(RETURNS_MS).zip(FIRST_NUMBER..);
        let tried = all.map(|((connection, after_ms), number)| {
            let insert = table.insert(run, number);
            async move {
                sleep(Duration::from_millis(after_ms)).await;
                (number, transact(connection, &insert).await)
            }
        });
        let mut returned = Returned::default();
        for (number, outcome) in join_all(tried).await {
            match outcome {
                Ok(()) => returned.acknowledged.push(number),
                Err(error) => returned.errors.push(error),
            }
        }
        returned
    }
}

async fn transact(mut connection: ControlConnection, insert: &str) -> Result<(), String> {
    for sql in ["BEGIN", insert, "COMMIT"] {
        let asked = timeout(PATIENCE, connection.query(sql)).await;
        let answer = asked.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
        answer.map_err(|error| error.to_string())?;
    }
    Ok(())
}
