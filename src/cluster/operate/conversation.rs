//! One connection to a server, for one operation.
//!
//! Owns the startup parameters that make its statements safe, and what a refusal means. Invariant: nothing waits for a
//! synchronous standby here, or the operation that ends such a wait could not be done.

use std::time::Duration;

use super::privilege::Privilege;
use super::{Done, Fault};
use crate::backend::connect::{ConnectTarget, Login};
use crate::backend::control::ControlConnection;
use crate::backend::rows::Rows;
use crate::cluster::clock::Clock;
use crate::wire::sqlstate;

/// Between two looks at whether the server has taken a setting.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// In which a server has read its configuration again, or something else overrides it. Less than an operation may take, so
/// that this is what is said.
const TAKEN_WITHIN_MS: u64 = 2000;

pub(super) struct Conversation {
    connection: ControlConnection,
    clock: Clock,
    deadline_ms: u64,
}

impl Conversation {
    pub async fn open(
        target: &ConnectTarget,
        login: &Login,
        clock: Clock,
        deadline_ms: u64,
    ) -> Result<Self, Fault> {
        let timeout_ms = deadline_ms.saturating_sub(clock.now_ms()).max(1).to_string();
        let parameters = [
            ("application_name", "komainu"),
            ("client_encoding", "UTF8"),
            ("search_path", "pg_catalog, pg_temp"),
            ("standard_conforming_strings", "on"),
            ("synchronous_commit", "local"),
            // A server that was frozen must not do later what nobody waits for any more.
            ("statement_timeout", &*timeout_ms),
        ];
        let connection = ControlConnection::open(target, login, &parameters).await?;
        Ok(Conversation { connection, clock, deadline_ms })
    }

    pub fn left_ms(&self) -> u64 {
        self.deadline_ms.saturating_sub(self.clock.now_ms())
    }

    /// As `server_version_num` counts.
    pub fn version(&self) -> u32 {
        self.connection.server_version_num()
    }

    /// As `version` counts.
    pub fn needs(&self, version: u32) -> Result<(), Fault> {
        let has = self.version();
        if has >= version {
            return Ok(());
        }
        Err(Fault::TooOld { needs: version / 10_000, has: has / 10_000 })
    }

    pub async fn in_recovery(&mut self) -> Result<bool, Fault> {
        Ok(self.connection.in_recovery().await?)
    }

    /// `privilege` is what the role lacks if the server refuses.
    pub async fn ask(&mut self, sql: &str, parameters: &[&str], privilege: Privilege) -> Result<Rows, Fault> {
        let answer = match parameters {
            [] => self.connection.query(sql).await,
            _ => self.connection.query_params(sql, parameters).await,
        };
        answer.map_err(|error| match error.sqlstate() {
            Some(sqlstate::INSUFFICIENT_PRIVILEGE) if privilege != Privilege::Nothing => {
                Fault::Denied(privilege)
            }
            // By the timeout we asked for.
            Some(sqlstate::QUERY_CANCELED) => Fault::Timeout,
            _ => error.into(),
        })
    }

    pub async fn value(&mut self, sql: &str, parameters: &[&str]) -> Result<String, Fault> {
        let rows = self.ask(sql, parameters, Privilege::Nothing).await?;
        Ok(rows.text(0, 0).ok_or(Fault::Answer)?.to_owned())
    }

    pub async fn setting(&mut self, name: &str) -> Result<String, Fault> {
        let sql = "SELECT pg_catalog.current_setting($1)";
        let rows = self.ask(sql, &[name], Privilege::ReadSettings).await?;
        Ok(rows.text(0, 0).ok_or(Fault::Answer)?.to_owned())
    }

    /// Sets parameters for good, has the server read them, and sees that it did. What is as wanted is written all the same:
    /// the file may have another value, of one who was cut off before the server was told to read it.
    pub async fn set(&mut self, parameters: &[(&'static str, &str)]) -> Result<Done, Fault> {
        let mut changed = Vec::new();
        for &(name, value) in parameters {
            let is_so = self.setting(name).await? == value;
            // Only an upper-case word would be another name, and ours are known.
            let sql = format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''"));
            self.ask(&sql, &[], Privilege::Set(name)).await?;
            if !is_so {
                changed.push((name, value));
            }
        }
        if changed.is_empty() {
            return Ok(Done::Already);
        }
        self.ask("SELECT pg_catalog.pg_reload_conf()", &[], Privilege::Reload).await?;
        let until_ms = self.clock.now_ms() + TAKEN_WITHIN_MS;
        for (name, value) in changed {
            // All processes are told at the same time: when this one knows it, the others do or are about to.
            while self.setting(name).await? != value {
                if self.clock.now_ms() >= until_ms {
                    return Err(Fault::NotTaken(name));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(Done::Now)
    }
}
