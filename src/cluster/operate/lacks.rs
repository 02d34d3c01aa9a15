//! What the operating role may not do on a server, found out before the bad night.
//!
//! Reads only. Invariant: what could not be found out is an error, never an empty list.

use std::time::Duration;

use super::privilege::Privilege;
use super::{Fault, OperateError, Operator, PROMOTES};
use crate::config;

impl Operator {
    /// Takes `within` at most.
    pub async fn lacks(
        &self,
        server: &config::Server,
        within: Duration,
    ) -> Result<Vec<Privilege>, OperateError> {
        let found = tokio::time::timeout(within, self.try_lacks(server, within)).await;
        found.unwrap_or(Err(Fault::Timeout)).map_err(|fault| self.error(server, "look at privileges", fault))
    }

    async fn try_lacks(&self, server: &config::Server, within: Duration) -> Result<Vec<Privilege>, Fault> {
        let mut with = self.converse(server, self.clock.now_ms() + within.as_millis() as u64).await?;
        with.needs(PROMOTES)?;
        let tests: Vec<String> =
            Privilege::ALL.iter().map(|privilege| privilege.held_sql(with.version())).collect();
        let rows = with.ask(&format!("SELECT {}", tests.join(", ")), &[], Privilege::Nothing).await?;
        let lacking = |(column, privilege): (usize, &Privilege)| match rows.text(0, column) {
            Some("t") => None,
            Some("f") => Some(Ok(*privilege)),
            _ => Some(Err(Fault::Answer)),
        };
        Privilege::ALL.iter().enumerate().filter_map(lacking).collect()
    }
}
