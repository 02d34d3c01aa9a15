//! The rows of one drill, and the questions asked of them while nothing is broken.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::address::Address;
use crate::backend::connect::ConnectError;
use crate::backend::control::{ControlConnection, QueryError};
use crate::backend::rows::Rows;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("cannot connect through the endpoint: {0}")]
    Connect(#[from] ConnectError),
    #[error("the endpoint did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    #[error("{0}")]
    Query(#[from] QueryError),
}

/// What is there of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    pub numbers: BTreeSet<u64>,
    /// Those that are there more than once.
    pub twice: BTreeSet<u64>,
}

impl FromIterator<u64> for Present {
    fn from_iter<I: IntoIterator<Item = u64>>(all: I) -> Self {
        let mut present = Self::default();
        for number in all {
            if !present.numbers.insert(number) {
                present.twice.insert(number);
            }
        }
        present
    }
}

/// A table of the drill's own.
#[derive(Debug, Clone)]
pub struct Table {
    pub address: Address,
    /// Nobody else's.
    pub name: String,
}

impl Table {
    pub async fn create(&self) -> Result<(), WriteError> {
        // Without a key: what is written twice is to be there twice, and counted.
        let columns = "run integer, number bigint, written timestamptz DEFAULT now()";
        self.ask(&format!("CREATE TABLE {} ({columns})", self.name)).await.map(drop)
    }

    pub async fn remove(&self) -> Result<(), WriteError> {
        self.ask(&format!("DROP TABLE IF EXISTS {}", self.name)).await.map(drop)
    }

    /// The numbers that are there, asked of the primary: komainu takes a locking clause nowhere else.
    pub async fn present(&self, run: u32) -> Result<Present, WriteError> {
        let sql = format!("SELECT number FROM {} WHERE run = {run} FOR KEY SHARE", self.name);
        let rows = self.ask(&sql).await?;
        Ok((0..rows.len()).filter_map(|row| rows.text(row, 0)?.parse().ok()).collect())
    }

    /// Writes one numbered row.
    pub fn insert(&self, run: u32, number: u64) -> String {
        format!("INSERT INTO {} (run, number) VALUES ({run}, {number})", self.name)
    }

    /// Reads one; any server may answer it.
    pub fn select(&self) -> String {
        format!("SELECT number FROM {} LIMIT 1", self.name)
    }

    pub async fn ask(&self, sql: &str) -> Result<Rows, WriteError> {
        let asking = async {
            let mut connection = connect(&self.address).await?;
            Ok(connection.query(sql).await?)
        };
        timeout(PATIENCE, asking).await.map_err(|_| WriteError::Timeout)?
    }
}

pub async fn connect(address: &Address) -> Result<ControlConnection, ConnectError> {
    let parameters = [("application_name", "komainu drill"), ("client_encoding", "UTF8")];
    ControlConnection::open(&address.target, &address.login, &parameters).await
}
