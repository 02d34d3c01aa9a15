//! What a run waits for, and what the nodes say meanwhile.
//!
//! Only looks. Invariant: no wait is without an end, and one that ends in vain says what was lacking.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::clients::Clients;
use super::servers::{self, Whole};
use super::{Drill, POLL, Recovered};
use crate::drill::attempts::first_begun_after;
use crate::drill::error::DrillError;
use crate::drill::nodes::{self, Status};
use crate::drill::phases::Incident;
use crate::drill::rows::Present;

pub(super) const STEADY_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const RECOVERY_TIMEOUT: Duration = Duration::from_secs(90);

impl Drill<'_> {
    /// Waits until all nodes say that all servers are well.
    pub(super) async fn whole(&self, run: u32, patience: Duration) -> Result<Whole, String> {
        let deadline = Instant::now() + self.patience(patience);
        let mut told = false;
        loop {
            let statuses = self.statuses().await;
            let nodes = nodes::complaint(&statuses).map(str::to_owned);
            match nodes.map_or_else(|| servers::whole(&statuses, !self.is_of_service()), Err) {
                Ok(whole) => return Ok(whole),
                Err(complaint) if Instant::now() >= deadline => return Err(complaint),
                Err(complaint) => {
                    if !told && self.subject.is_a_person_s() {
                        self.tell(format_args!("run {run}: waiting: {complaint}"));
                        told = true;
                    }
                    sleep(POLL).await;
                }
            }
        }
    }

    /// Waits until all is well and a failover can rely on each standby, if commits wait for them: before that none begins.
    pub(super) async fn promised(&self, run: u32) -> Result<Whole, String> {
        let deadline = Instant::now() + self.patience(STEADY_TIMEOUT);
        loop {
            let whole = self.whole(run, STEADY_TIMEOUT).await?;
            // Of a person's cluster it is not known what it is to promise, nor by whom.
            let complaint = match self.subject.is_a_person_s() {
                true => None,
                // The service promises it.
                false if self.is_of_service() => None,
                false => servers::unpromised(&self.statuses().await, &whole, self.must_promise),
            };
            match complaint {
                None => return Ok(whole),
                Some(complaint) if Instant::now() >= deadline => return Err(complaint),
                Some(_) => sleep(POLL).await,
            }
        }
    }

    /// Waits until a row was written on a new primary, or, if it was a standby that was broken, until that is
    /// noticed and rows are written; tells when.
    pub(super) async fn recovered(
        &self,
        run: u32,
        clients: &Clients,
        before: &Whole,
        target: &str,
        broken: Duration,
        last_incident: u64,
    ) -> Result<Recovered, DrillError> {
        let service = Duration::from_secs(self.settings.server_seconds.into());
        let deadline = Instant::now() + self.patience(RECOVERY_TIMEOUT + service);
        let is_a_standby_s = self.settings.event.is_a_standby_s();
        // A Multi-AZ instance is another host afterwards, which is called as the one before.
        let by_the_same_name = self.settings.ask_aws.is_some();
        let mut seen = None;
        loop {
            if seen.is_none() {
                let statuses = self.statuses().await;
                let is_over = match is_a_standby_s {
                    true => servers::is_noticed(&statuses, target),
                    false => servers::successor(&statuses, before, by_the_same_name).is_some(),
                };
                seen = is_over.then(|| self.clock.now());
            }
            if let Some(seen) = seen
                && let Some(attempt) = first_begun_after(&clients.writer.attempts(), seen.max(broken))
            {
                return Ok(Recovered { noticed: seen, at: attempt.ended });
            }
            if Instant::now() >= deadline {
                let lacks = match (is_a_standby_s, seen) {
                    (true, None) => "no node has noticed it",
                    (false, None) => "no other server is the primary",
                    (_, Some(_)) => "no row is acknowledged",
                };
                let incidents = self.incidents(last_incident).await;
                return Err(self.no_failover(run, target, lacks, &incidents));
            }
            sleep(POLL).await;
        }
    }

    pub(super) async fn steady(
        &self,
        run: u32,
        clients: &Clients,
        after: Duration,
        doing: &'static str,
    ) -> Result<(), DrillError> {
        match clients.writer.is_steady(after, STEADY_TIMEOUT).await {
            true => Ok(()),
            false => Err(DrillError::NoWrites { run, doing, seconds: STEADY_TIMEOUT.as_secs() }),
        }
    }

    pub(super) async fn statuses(&self) -> Vec<Option<Status>> {
        nodes::statuses(&self.subject.nodes).await
    }

    pub(super) async fn last_incident(&self) -> u64 {
        self.timeline(0).await.map_or(0, |(_, last)| last)
    }

    pub(super) async fn incidents(&self, after: u64) -> Vec<Incident> {
        self.timeline(after).await.map(|(incidents, _)| incidents).unwrap_or_default()
    }

    /// Of the first node that answers.
    pub(super) async fn timeline(&self, after: u64) -> Option<(Vec<Incident>, u64)> {
        for socket in &self.subject.nodes {
            if let Some(found) = nodes::incidents(socket, after).await {
                return Some(found);
            }
        }
        None
    }

    pub(super) async fn present(&self, run: u32) -> Result<Present, DrillError> {
        self.table.present(run).await.map_err(|source| DrillError::Rows { doing: "counted", source })
    }
}
