//! A login that waits for a primary: to have its user looked up, or to be confirmed.
//!
//! Owns how long, and that it is counted and shown. Invariant: from the first moment that it waits to its end it is one
//! of those who wait.

use std::time::Duration;

use super::gateway::Gateway;
use super::held::Patience;
use super::registry::{WaitingLogin, Who};
use crate::clock::now_ms;

const RETRY: Duration = Duration::from_millis(100);

pub struct HeldLogin<'a> {
    gateway: &'a Gateway,
    patience: Patience,
    shown: Option<WaitingLogin<'a>>,
}

impl<'a> HeldLogin<'a> {
    pub fn new(gateway: &'a Gateway) -> Self {
        HeldLogin { gateway, patience: Patience::default(), shown: None }
    }

    /// Of a client that has proved nothing yet.
    pub fn of_stranger(gateway: &'a Gateway) -> Self {
        HeldLogin { gateway, patience: Patience::of_stranger(), shown: None }
    }

    /// Waits a moment, or until there is a primary, or another one. An error: it has waited too long, or may not at all;
    /// the words are for the client. Cancel safe.
    pub async fn hold(&mut self, who: impl FnOnce() -> Who, why: &str) -> Result<(), String> {
        let gateway = self.gateway;
        self.shown.get_or_insert_with(|| gateway.sessions.login_waits(who()));
        let limits = &gateway.settled().config.limits;
        let held = self.patience.hold(&gateway.held, limits, 0, now_ms());
        held.map_err(|impatience| impatience.message("login", why))?;
        let mut topology = gateway.topology.clone();
        let before = topology.borrow().primary;
        gateway.looks.all();
        let another = topology.wait_for(|now| now.primary.is_some() && now.primary != before);
        let _ = tokio::time::timeout(RETRY, another).await;
        Ok(())
    }
}
