//! Carries out one operation on one server, over a connection of its own, as the operating role.
//!
//! Owns how each operation is said in SQL. Never decides, never retries, and remembers nothing: each operation finds out
//! what is there already, and the next look at the server says what came of it. Invariant: a promotion that is sent late
//! does nothing, since the server compares the deadline with its own clock.

mod conversation;
mod error;
mod lacks;
pub mod privilege;
pub mod repoint;
pub mod slots;
mod write;

use std::sync::Arc;

use komainu_escalation::passwords::Passwords;

use crate::backend::connect::ConnectTarget;
use crate::cluster::clock::Clock;
use crate::cluster::conninfo::Conninfo;
use crate::cluster::observe::credential::{OwnLogin, PlainSecret};
use crate::config;
use crate::net::tls::ServerTlsContext;
use crate::topology::Lsn;

use conversation::Conversation;
pub use error::{Fault, OperateError};
use privilege::Privilege;
pub use repoint::Followed;
pub use write::Written;

/// `pg_promote()` is there from here on.
const PROMOTES: u32 = 120_000;
/// A change of `primary_conninfo` takes effect without a restart from here on.
const REPOINTS: u32 = 130_000;

const CONNINFO: &str = "primary_conninfo";
const SLOT_NAME: &str = "primary_slot_name";
const SYNCHRONOUS: &str = "synchronous_standby_names";

/// `$1` is in milliseconds of the server's own clock. No row: that time has passed, or it is no standby.
pub const PROMOTE: &str = "SELECT pg_catalog.pg_promote(false) \
     WHERE pg_catalog.clock_timestamp() < pg_catalog.to_timestamp($1::pg_catalog.int8 / 1000.0::pg_catalog.float8) \
       AND pg_catalog.pg_is_in_recovery()";

/// What can be done to a server. Each may be done again at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A standby receives nothing more until it is told whom to follow. Its receiver ends with the segment that is being
    /// replayed: within half a second, unless replay lags.
    StopReceiving,
    /// A standby becomes the primary, if its clock says that this time has not passed since the operation was begun.
    Promote {
        within_ms: u64,
    },
    /// A standby follows another server, by the slot there that is this standby's.
    Follow {
        upstream: Followed,
    },
    /// On a standby it takes effect with its promotion.
    SetSynchronousStandbys {
        names: String,
    },
    /// Physical slots that must be there, and those that must not. Of the latter only what komainu made goes, and nothing
    /// that is in use.
    Slots {
        wanted: Vec<String>,
        unwanted: Vec<String>,
    },
    /// Lets go of WAL that the users of these slots have, wherever they got it from.
    AdvanceSlots {
        positions: Vec<(String, Lsn)>,
    },
    Checkpoint,
}

impl Operation {
    /// For logs and errors.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::StopReceiving => "stop receiving",
            Operation::Promote { .. } => "promote",
            Operation::Follow { .. } => "follow",
            Operation::SetSynchronousStandbys { .. } => "set synchronous standbys",
            Operation::Slots { .. } => "create and drop slots",
            Operation::AdvanceSlots { .. } => "advance slots",
            Operation::Checkpoint => "checkpoint",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    Now,
    /// It was so before.
    Already,
}

/// How servers are operated. Cheap to make anew when the configuration changes.
#[derive(Debug, Clone)]
pub struct Operator {
    failover: config::Failover,
    login: OwnLogin,
    tls: Arc<ServerTlsContext>,
    clock: Clock,
}

impl Operator {
    pub fn new(
        failover: &config::Failover,
        plain_secret: PlainSecret,
        tls: Arc<ServerTlsContext>,
        clock: Clock,
    ) -> Self {
        let login = OwnLogin::operator(failover, plain_secret);
        Operator { failover: failover.clone(), login, tls, clock }
    }

    /// With the passwords that AWS gives to a role, where it gives any.
    pub fn given(self, passwords: impl Fn(&str) -> Option<Arc<dyn Passwords>>) -> Self {
        Operator { login: self.login.given(passwords), ..self }
    }

    /// Ends by `deadline_ms` of the clock, connect and all. After an error nobody knows whether it was done, unless the
    /// error is of before it was asked for: the next look at the server tells. Dropping it is no different.
    pub async fn perform(
        &self,
        server: &config::Server,
        operation: &Operation,
        deadline_ms: u64,
    ) -> Result<Done, OperateError> {
        let began_ms = self.clock.now_ms();
        let deadline_ms = match operation {
            Operation::Promote { within_ms } => deadline_ms.min(began_ms.saturating_add(*within_ms)),
            _ => deadline_ms,
        };
        let work = async {
            let mut with = self.converse(server, deadline_ms).await?;
            match operation {
                Operation::StopReceiving => stop_receiving(&mut with).await,
                Operation::Promote { .. } => promote(&mut with).await,
                Operation::Follow { upstream } => {
                    follow(&mut with, &server.id, upstream, &self.failover).await
                }
                Operation::SetSynchronousStandbys { names } => set_synchronous(&mut with, names).await,
                Operation::Slots { wanted, unwanted } => slots::keep(&mut with, wanted, unwanted).await,
                Operation::AdvanceSlots { positions } => slots::advance(&mut with, positions).await,
                Operation::Checkpoint => {
                    with.ask("CHECKPOINT", &[], Privilege::Checkpoint).await?;
                    Ok(Done::Now)
                }
            }
        };
        let within = std::time::Duration::from_millis(deadline_ms.saturating_sub(began_ms));
        let done = tokio::time::timeout(within, work).await.unwrap_or(Err(Fault::Timeout));
        done.map_err(|fault| self.error(server, operation.name(), fault))
    }

    /// The statements on it end by `deadline_ms` of the clock.
    async fn converse(&self, server: &config::Server, deadline_ms: u64) -> Result<Conversation, Fault> {
        let target =
            ConnectTarget { host: server.host.as_str().into(), port: server.port, tls: self.tls.clone() };
        let login = self.login.login().map_err(Fault::Credential)?;
        Conversation::open(&target, &login, self.clock, deadline_ms).await
    }

    fn error(&self, server: &config::Server, operation: &'static str, fault: Fault) -> OperateError {
        let role = self.failover.user.clone();
        OperateError { server: server.id.clone(), operation, role, fault: Box::new(fault) }
    }
}

async fn promote(with: &mut Conversation) -> Result<Done, Fault> {
    with.needs(PROMOTES)?;
    if !with.in_recovery().await? {
        return Ok(Done::Already);
    }
    let clock = "SELECT pg_catalog.floor(1000 * pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()))::pg_catalog.int8";
    let server_ms: u64 = with.value(clock, &[]).await?.parse().map_err(|_| Fault::Answer)?;
    // Looked at behind the answer: what the answer took is not given to the server on top.
    let left_ms = with.left_ms();
    if left_ms == 0 {
        return Err(Fault::Late);
    }
    let by_ms = server_ms.saturating_add(left_ms).to_string();
    let rows = with.ask(PROMOTE, &[&by_ms], Privilege::Promote).await?;
    match rows.text(0, 0) {
        Some("t") => Ok(Done::Now),
        Some(_) => Err(Fault::NotTaken("pg_promote()")),
        None if with.in_recovery().await? => Err(Fault::Late),
        None => Ok(Done::Already),
    }
}

async fn stop_receiving(with: &mut Conversation) -> Result<Done, Fault> {
    if !with.in_recovery().await? {
        return Ok(Done::Already);
    }
    with.needs(REPOINTS)?;
    let now = with.setting(CONNINFO).await?;
    let stopped = repoint::nowhere(&Conninfo::parse(&now).map_err(Fault::Conninfo)?);
    with.set(&[(CONNINFO, stopped.as_deref().unwrap_or(&now))]).await
}

async fn follow(
    with: &mut Conversation,
    id: &str,
    upstream: &Followed,
    failover: &config::Failover,
) -> Result<Done, Fault> {
    if !with.in_recovery().await? {
        return Err(Fault::NoStandby);
    }
    with.needs(REPOINTS)?;
    let now = with.setting(CONNINFO).await?;
    // One that libpq refuses leads nowhere, and has nothing worth keeping.
    let now = Conninfo::parse(&now).unwrap_or_default();
    let next = repoint::following(&now, id, upstream, failover).to_string();
    with.set(&[(CONNINFO, &next), (SLOT_NAME, &slots::slot_name(id))]).await
}

async fn set_synchronous(with: &mut Conversation, names: &str) -> Result<Done, Fault> {
    let done = with.set(&[(SYNCHRONOUS, names)]).await?;
    if done == Done::Now && !with.in_recovery().await? {
        // Commits that wait for those who no longer count are woken by an answer of those who do, and they answer to WAL.
        let wake = "SELECT pg_catalog.pg_logical_emit_message(true, 'komainu', '')";
        with.ask(wake, &[], Privilege::Nothing).await?;
    }
    Ok(done)
}
