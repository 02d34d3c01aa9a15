//! One commit of no meaning on a primary, to find out whether it reaches the disk.
//!
//! Any role may make it. It waits for the primary's own disk and for no standby. Invariant: what is said of the disk
//! follows from the write alone, never from a connection that could not be made.

use std::time::Duration;

use super::privilege::Privilege;
use super::{Fault, Operator};
use crate::backend::control::QueryError;
use crate::cluster::state::Disk;
use crate::config;
use crate::wire::sqlstate::{DISK_FULL, IO_ERROR};

/// For the connection, which reads only.
const CONNECT_WITHIN_MS: u64 = 3_000;
/// As a transaction of its own. What it leaves in the log nobody reads.
const WRITE: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'komainu', '')";

/// What became of it.
#[derive(Debug)]
pub enum Written {
    Yes,
    No(Disk),
    /// Something else was wrong.
    Unknown(Box<Fault>),
}

impl Operator {
    /// Takes `within_ms` at most, and what the connection takes. A server that cannot write has one more process that
    /// waits then, until its disk goes on.
    pub async fn write(&self, server: &config::Server, within_ms: u64) -> Written {
        match self.try_write(server, within_ms).await {
            Ok(written) => written,
            Err(fault) => Written::Unknown(Box::new(fault)),
        }
    }

    async fn try_write(&self, server: &config::Server, within_ms: u64) -> Result<Written, Fault> {
        let deadline_ms = self.clock.now_ms() + CONNECT_WITHIN_MS + within_ms;
        let connect = async {
            let mut with = self.converse(server, deadline_ms).await?;
            match with.in_recovery().await? {
                true => Err(Fault::NoPrimary),
                false => Ok(with),
            }
        };
        let connected = tokio::time::timeout(Duration::from_millis(CONNECT_WITHIN_MS), connect).await;
        let mut with = connected.unwrap_or(Err(Fault::Timeout))?;
        let write = with.ask(WRITE, &[], Privilege::Nothing);
        match tokio::time::timeout(Duration::from_millis(within_ms), write).await {
            Err(_) | Ok(Err(Fault::Timeout)) => Ok(Written::No(Disk::Hangs)),
            Ok(Err(Fault::Query(QueryError::Refused { sqlstate: DISK_FULL, .. }))) => {
                Ok(Written::No(Disk::Full))
            }
            Ok(Err(Fault::Query(QueryError::Refused { sqlstate: IO_ERROR, .. }))) => {
                Ok(Written::No(Disk::Fails))
            }
            Ok(Err(fault)) => Err(fault),
            Ok(Ok(_)) => Ok(Written::Yes),
        }
    }
}
