//! Looks at one server again and again, over a connection of its own.
//!
//! Owns that connection. Never interprets an answer. Invariant: a look, with the connect it may need,
//! ends within `health.timeout_ms`, and begins `MIN_GAP` after the one before at the earliest.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout_at};

use crate::backend::connect::ConnectTarget;
use crate::backend::control::ControlConnection;
use crate::cluster::clock::Clock;
use crate::cluster::model::{Facts, Failure};

use super::Settings;
use super::failure::LookError;
use super::question::{QUESTION, answer};

/// However often traffic asks for a look: a storm of errors must not become a storm of looks.
const MIN_GAP: Duration = Duration::from_millis(20);
/// How many times as often one looks while something is unsettled.
const FASTER: u32 = 5;

/// What a probe found.
#[derive(Debug)]
pub(super) struct Look {
    pub server: usize,
    pub result: Result<Facts, Failure>,
}

pub(super) struct Probe {
    pub server: usize,
    pub id: Arc<str>,
    /// Exchanged by a reload.
    pub settings: watch::Receiver<Arc<Settings>>,
    pub looks: mpsc::Sender<Look>,
    /// Somebody wants a look now.
    pub wake: Arc<Notify>,
    /// Whether the cluster is unsettled.
    pub unsettled: watch::Receiver<bool>,
}

impl Probe {
    /// Ends when nobody takes the looks any more.
    pub async fn run(mut self) {
        let mut connection = None;
        let mut failures: u32 = 0;
        loop {
            let begun = Instant::now();
            if self.settings.has_changed().unwrap_or(false) {
                // Another role, or other TLS: the connection there is says nothing of them.
                connection = None;
            }
            let settings = self.settings.borrow_and_update().clone();
            let result = self.look(&settings, &mut connection).await;
            failures = if result.is_ok() { 0 } else { failures.saturating_add(1) };
            if self.looks.send(Look { server: self.server, result }).await.is_err() {
                return;
            }
            let failing = (1..settings.health.retries).contains(&failures);
            let period = Duration::from_millis(settings.health.period_ms);
            if self.wait(begun, period, failing).await.is_none() {
                return;
            }
        }
    }

    async fn look(
        &self,
        settings: &Settings,
        connection: &mut Option<ControlConnection>,
    ) -> Result<Facts, Failure> {
        let deadline = Instant::now() + Duration::from_millis(settings.health.timeout_ms);
        let result =
            timeout_at(deadline, self.ask(settings, connection)).await.unwrap_or(Err(LookError::Timeout));
        result.map_err(|error| {
            // What the view says of it is logged once; this is every time.
            tracing::debug!(server = &*self.id, %error, "look failed");
            *connection = None;
            Failure { reason: error.reason(), detail: error.detail(), at_ms: settings.clock.now_ms() }
        })
    }

    async fn ask(
        &self,
        settings: &Settings,
        connection: &mut Option<ControlConnection>,
    ) -> Result<Facts, LookError> {
        // Taken, not borrowed: if the deadline drops this future, the connection goes with it.
        if let Some(mut kept) = connection.take() {
            match question(settings.clock, &mut kept).await {
                Ok(facts) => {
                    *connection = Some(kept);
                    return Ok(facts);
                }
                // The server was restarted, or ended this one connection. What it is now, a new one tells.
                Err(error) => tracing::debug!(server = &*self.id, %error, "kept connection is gone"),
            }
        }
        let config = &settings.servers[self.server];
        let target =
            ConnectTarget { host: config.host.as_str().into(), port: config.port, tls: settings.tls.clone() };
        let login = settings.login.login().map_err(LookError::Credential)?;
        let timeout_ms = settings.health.timeout_ms.to_string();
        let parameters = [
            ("application_name", "komainu"),
            ("client_encoding", "UTF8"),
            // Operators cannot be qualified readably; this way they need not be.
            ("search_path", "pg_catalog, pg_temp"),
            // A server that was frozen must not work off questions nobody waits for.
            ("statement_timeout", &*timeout_ms),
        ];
        let mut fresh = ControlConnection::open(&target, &login, &parameters).await?;
        let facts = question(settings.clock, &mut fresh).await?;
        *connection = Some(fresh);
        Ok(facts)
    }

    /// Until the next look is due. `None` when the observer is gone.
    async fn wait(&mut self, begun: Instant, period: Duration, failing: bool) -> Option<()> {
        let earliest = Instant::now() + MIN_GAP;
        loop {
            let fast = failing || *self.unsettled.borrow_and_update();
            let due = begun + if fast { period / FASTER } else { period };
            tokio::select! {
                () = tokio::time::sleep_until(due.max(earliest)) => return Some(()),
                () = self.wake.notified() => {
                    tokio::time::sleep_until(earliest).await;
                    return Some(());
                }
                Ok(()) = self.settings.changed() => {
                    self.settings.mark_changed();
                    tokio::time::sleep_until(earliest).await;
                    return Some(());
                }
                changed = self.unsettled.changed() => changed.ok()?,
            }
        }
    }
}

async fn question(clock: Clock, connection: &mut ControlConnection) -> Result<Facts, LookError> {
    let asked_at_ms = clock.now_ms();
    let rows = connection.query(QUESTION).await?;
    Ok(answer(|column| rows.text(0, column), asked_at_ms, clock.now_ms())?)
}
