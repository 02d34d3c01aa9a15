//! Looks at one server again and again, over a connection of its own.
//!
//! Owns that connection. Never interprets an answer. Invariant: a look ends within `health.timeout_ms`, or, with the
//! connect it may need, within `health.connect_timeout_ms` more, and begins `MIN_GAP` after the one before at the earliest.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::backend::connect::ConnectTarget;
use crate::backend::control::{ControlConnection, QueryError};
use crate::cluster::blue_green::BlueGreen;
use crate::cluster::model::{Facts, Failure, REFUSALS_APART_MS};
use crate::cluster::reason::Reason;
use crate::config::{self, FailoverMode};
use crate::topology::ServerIndex;

use super::Settings;
use super::blue_green::Told;
use super::failure::LookError;
use super::name::{self, LeadsTo};
use super::{aurora, blue_green, question as postgres, redshift};

/// However often traffic asks for a look: a storm of errors must not become a storm of looks.
const MIN_GAP: Duration = Duration::from_millis(20);
/// How many times as often one looks while something is unsettled.
const FASTER: u32 = 5;
/// The same where AWS makes the writer: it says to nobody but those who ask when it has.
const FASTER_MANAGED: u32 = 10;
/// After a refusal the next look follows so soon, since a second one makes the server surely down.
const REFUSED_AGAIN: Duration = Duration::from_millis(REFUSALS_APART_MS + 10);
/// Of such looks in a row; after that it is known.
const REFUSALS: u32 = 2;

/// What a probe found.
#[derive(Debug)]
pub(super) struct Look {
    pub index: ServerIndex,
    pub result: Result<Facts, Failure>,
    pub took: Duration,
}

pub(super) struct Probe {
    pub index: ServerIndex,
    pub id: Arc<str>,
    pub host: Arc<str>,
    pub port: u16,
    /// Exchanged by a reload.
    pub settings: watch::Receiver<Arc<Settings>>,
    pub looks: mpsc::Sender<Look>,
    /// Somebody wants a look now.
    pub wake: Arc<Notify>,
    /// Whether the cluster is unsettled.
    pub unsettled: watch::Receiver<bool>,
    pub leads_to: LeadsTo,
}

impl Probe {
    /// Ends when nobody takes the looks any more.
    pub async fn run(self) {
        let (host, port, leads_to) = (self.host.clone(), self.port, self.leads_to.clone());
        let (settings, wake) = (self.settings.clone(), self.wake.clone());
        tokio::select! {
            () = name::follow((&*host, port), settings, &leads_to, &wake) => {}
            () = self.look_again_and_again() => {}
        }
    }

    async fn look_again_and_again(mut self) {
        let mut connection = None;
        let mut failures: u32 = 0;
        let mut refusals: u32 = 0;
        loop {
            let begun = Instant::now();
            let settings = {
                let current = self.settings.borrow_and_update();
                if current.has_changed() {
                    // Another role, or other TLS: the connection there is says nothing of them.
                    connection = None;
                }
                current.clone()
            };
            let health = settings.health_of(&self.id);
            let result = self.look(&settings, &health, &mut connection).await;
            failures = if result.is_ok() { 0 } else { failures.saturating_add(1) };
            let refused = matches!(&result, Err(failure) if failure.reason == Reason::ConnectRefused);
            refusals = if refused { refusals.saturating_add(1) } else { 0 };
            let look = Look { index: self.index, result, took: begun.elapsed() };
            if self.looks.send(look).await.is_err() {
                return;
            }
            let faster = if settings.mode.is_managed() { FASTER_MANAGED } else { FASTER };
            let failing = (1..health.retries).contains(&failures);
            let period = Duration::from_millis(health.period_ms);
            let next = match refusals {
                1..=REFUSALS => Next { usual: period.min(REFUSED_AGAIN), fast: period.min(REFUSED_AGAIN) },
                _ if failing => Next { usual: period / faster, fast: period / faster },
                _ => Next { usual: period, fast: period / faster },
            };
            if self.wait(begun, next, &mut connection).await.is_none() {
                return;
            }
        }
    }

    async fn look(
        &self,
        settings: &Settings,
        health: &config::Health,
        connection: &mut Option<ControlConnection>,
    ) -> Result<Facts, Failure> {
        self.ask(settings, health, connection).await.map_err(|error| {
            // What the view says of it is logged once; this is every time.
            tracing::debug!(server = &*self.id, %error, "look failed");
            Failure { reason: error.reason(), detail: error.detail(), at_ms: settings.clock.now_ms() }
        })
    }

    async fn ask(
        &self,
        settings: &Settings,
        health: &config::Health,
        connection: &mut Option<ControlConnection>,
    ) -> Result<Facts, LookError> {
        let peer = connection.as_ref().and_then(ControlConnection::peer_address);
        if peer.is_some_and(|peer| self.leads_to.excludes(peer)) {
            tracing::info!(server = &*self.id, host = &*self.host, "the name leads elsewhere: asking there");
            *connection = None;
        }
        // Taken, not borrowed: whatever fails, the connection is gone.
        if let Some(mut kept) = connection.take() {
            let within = Duration::from_millis(health.timeout_ms);
            match timeout(within, question(settings, &mut kept)).await {
                Ok(Ok(facts)) => {
                    *connection = Some(kept);
                    return Ok(facts);
                }
                // The server was restarted, or ended this one connection. What it is now, a new one tells.
                Ok(Err(error)) => tracing::debug!(server = &*self.id, %error, "kept connection is gone"),
                Err(_) => return Err(LookError::Timeout),
            }
        }
        let within = Duration::from_millis(health.connect_timeout_ms);
        let asking = timeout(within, self.connect_where_it_leads(settings, health));
        let (fresh, facts) = asking.await.unwrap_or(Err(LookError::Timeout))?;
        *connection = Some(fresh);
        Ok(facts)
    }

    /// Whoever does not answer where the name led is waited for no longer than the name leads there.
    async fn connect_where_it_leads(
        &self,
        settings: &Settings,
        health: &config::Health,
    ) -> Result<(ControlConnection, Facts), LookError> {
        loop {
            tokio::select! {
                asked = self.connect_and_ask(settings, health) => return asked,
                () = self.leads_to.moved() => {
                    tracing::info!(server = &*self.id, host = &*self.host, "the name leads elsewhere: connecting there");
                }
            }
        }
    }

    async fn connect_and_ask(
        &self,
        settings: &Settings,
        health: &config::Health,
    ) -> Result<(ControlConnection, Facts), LookError> {
        let target = ConnectTarget { host: self.host.clone(), port: self.port, tls: settings.tls.clone() };
        let login = settings.login.login().map_err(LookError::Credential)?;
        let timeout_ms = health.timeout_ms.max(health.connect_timeout_ms).to_string();
        let common = [("application_name", "komainu"), ("client_encoding", "UTF8")];
        let more = [
            // Operators cannot be qualified readably; this way they need not be.
            ("search_path", "pg_catalog, pg_temp"),
            // A server that was frozen must not work off questions nobody waits for.
            ("statement_timeout", &*timeout_ms),
        ];
        // Redshift is asked for nothing more than by pools: whether it takes the rest is not documented.
        let more = if settings.mode.is_redshift() { &more[..0] } else { &more[..] };
        let parameters = [&common[..], more].concat();
        let mut fresh = ControlConnection::open(&target, &login, &parameters).await?;
        if let Some(peer) = fresh.peer_address() {
            self.leads_to.reached(peer);
        }
        let facts = question(settings, &mut fresh).await?;
        Ok((fresh, facts))
    }

    /// Until the next look is due. `None` when the observer is gone.
    async fn wait(
        &mut self,
        begun: Instant,
        next: Next,
        connection: &mut Option<ControlConnection>,
    ) -> Option<()> {
        let earliest = Instant::now() + MIN_GAP;
        loop {
            let due = begun + if *self.unsettled.borrow_and_update() { next.fast } else { next.usual };
            tokio::select! {
                () = tokio::time::sleep_until(due.max(earliest)) => return Some(()),
                () = self.wake.notified() => {}
                // A server that dies ends its connections, which tells sooner than the next look would.
                () = interrupted(connection) => {}
                Ok(()) = self.settings.changed() => self.settings.mark_changed(),
                changed = self.unsettled.changed() => {
                    changed.ok()?;
                    continue;
                }
            }
            tokio::time::sleep_until(earliest).await;
            return Some(());
        }
    }
}

/// How long after the beginning of a look the next one begins.
#[derive(Debug, Clone, Copy)]
struct Next {
    usual: Duration,
    /// While the cluster is unsettled.
    fast: Duration,
}

async fn interrupted(connection: &mut Option<ControlConnection>) {
    match connection {
        Some(connection) => connection.interrupted().await,
        None => std::future::pending().await,
    }
}

async fn question(settings: &Settings, connection: &mut ControlConnection) -> Result<Facts, LookError> {
    let clock = settings.clock;
    let asked_at_ms = clock.now_ms();
    if settings.mode.is_redshift() {
        connection.query(redshift::QUESTION).await?;
        return Ok(redshift::answer(asked_at_ms, clock.now_ms()));
    }
    let facts = if settings.mode == FailoverMode::Aurora {
        let rows = connection.query(aurora::QUESTION).await?;
        aurora::answer(|column| rows.text(0, column), asked_at_ms, clock.now_ms())?
    } else {
        let rows = connection.query(postgres::QUESTION).await?;
        postgres::answer(|column| rows.text(0, column), asked_at_ms, clock.now_ms())?
    };
    if !settings.mode.is_managed() {
        // An operator's own, who wants to see its errors.
        return Ok(Facts { read_only: false, ..facts });
    }
    let Told { deployment: blue_green, members } = told(settings, connection).await?;
    Ok(Facts { blue_green, given_away: blue_green.gives_away(), members, ..facts })
}

/// Not to be told it fails no look, unless the connection is lost with it.
async fn told(settings: &Settings, connection: &mut ControlConnection) -> Result<Told, LookError> {
    let questions = blue_green::questions(settings.mode);
    if connection.query(questions.exists).await?.text(0, 0) != Some("t") {
        return Ok(Told::nothing_but(BlueGreen::None));
    }
    match connection.query(questions.rows).await {
        Ok(rows) => {
            let told = blue_green::answer(rows.text(0, 0));
            Ok(told.unwrap_or_else(|_| Told::nothing_but(BlueGreen::Unknown)))
        }
        Err(QueryError::Refused { sqlstate, message }) => {
            tracing::debug!(%sqlstate, message, "the server does not tell of its blue/green deployment");
            Ok(Told::nothing_but(BlueGreen::Unknown))
        }
        Err(error) => Err(error.into()),
    }
}
