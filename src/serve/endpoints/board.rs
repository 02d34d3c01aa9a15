//! The loops that run now, and those that are to leave.
//!
//! Never begins one. Invariant: a loop that moves its endpoint in another way than is wanted now is gone only when it has
//! given up what it held, or had its time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use komainu_escalation::{Claim, Endpoint, EndpointSettings, Finding, Owner, State};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::cluster_status::EndpointHere;
use crate::config::Config;

/// For a loop whose endpoint was removed or changed to give up what it holds. Then it is ended all the same.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);
const LOOK_WHETHER_LEFT: Duration = Duration::from_millis(20);

/// What runs now, for whoever asks.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Loops>>);

#[derive(Default)]
pub(super) struct Loops {
    pub(super) posted: BTreeMap<String, Posted>,
    /// No longer configured like that, and still giving up what they hold.
    leaving: Vec<Leaving>,
}

pub(super) struct Posted {
    pub(super) settings: EndpointSettings,
    pub(super) running: Result<Endpoint, String>,
    pub(super) claim: watch::Sender<Claim>,
    pub(super) findings: watch::Receiver<Vec<Finding>>,
}

impl Posted {
    /// Its loop, or why there is none.
    fn running(&self) -> Result<&Endpoint, &str> {
        match &self.running {
            // It panicked: nothing that it said last still holds.
            Ok(endpoint) if endpoint.has_ended() => Err("its loop has ended before its time"),
            Ok(endpoint) => Ok(endpoint),
            Err(failure) => Err(failure),
        }
    }
}

struct Leaving {
    endpoint: Endpoint,
    /// The loop ends with it.
    _claim: watch::Sender<Claim>,
    until: Instant,
}

impl Leaving {
    /// Makes another the owner, as far as this loop knows: it gives up what is still this node's.
    fn begin(endpoint: Endpoint, claim: watch::Sender<Claim>) -> Leaving {
        let epoch = claim.borrow().epoch;
        claim.send_replace(Claim { owner: Owner::Other, epoch });
        Leaving { endpoint, _claim: claim, until: Instant::now() + LEAVE_WITHIN }
    }

    fn has_left(&self) -> bool {
        let status = self.endpoint.status.borrow();
        if status.state == State::Released {
            return true;
        }
        let is_over = Instant::now() >= self.until;
        if is_over {
            tracing::error!(
                endpoint = %self.endpoint.name,
                method = self.endpoint.method,
                state = ?status.state,
                reason = %status.reason,
                "an endpoint that is no longer configured like that was not given up in time: look after it by hand"
            );
        }
        is_over
    }
}

impl Board {
    pub(super) fn loops(&self) -> MutexGuard<'_, Loops> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn all(&self) -> Vec<EndpointHere> {
        let here = |(name, posted): (&String, &Posted)| EndpointHere {
            name: name.clone(),
            method: posted.settings.method.name(),
            status: posted.running().ok().map(|endpoint| endpoint.status.borrow().clone()),
            error: posted.running().err().map(str::to_owned),
            findings: posted.findings.borrow().clone(),
        };
        self.loops().posted.iter().map(here).collect()
    }

    /// Those that this node could not take: not begun, or something is wrong with what it takes.
    pub(super) fn unable(&self) -> BTreeSet<String> {
        let cannot = |posted: &Posted| {
            posted.running().is_err() || posted.findings.borrow().iter().any(Finding::is_wrong)
        };
        let loops = self.loops();
        loops.posted.iter().filter(|(_, posted)| cannot(posted)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether this node still has something of an endpoint, or is about to.
    pub fn holds_any(&self) -> bool {
        let busy = |state| matches!(state, State::Held | State::Taking | State::Releasing);
        let loops = self.loops();
        let mut running = loops.posted.values().filter_map(|posted| posted.running().ok());
        !loops.leaving.is_empty() || running.any(|endpoint| busy(endpoint.status.borrow().state))
    }

    pub(super) fn has_failed(&self) -> bool {
        self.loops().posted.values().any(|posted| posted.running().is_err())
    }

    /// Takes down what is not configured any more, or otherwise. A loop that moves the endpoint in another way than is
    /// wanted now gives it up first: an address must not stay behind. Says why those that could not begin could not, which
    /// are to be tried again.
    pub(super) fn retire(&self, config: &Config) -> BTreeMap<String, String> {
        let mut loops = self.loops();
        let Loops { posted, leaving } = &mut *loops;
        let wanted =
            |settings: &EndpointSettings| config.endpoints.iter().any(|new| new.settings == *settings);
        let same_way = |settings: &EndpointSettings| {
            let is = |new: &EndpointSettings| new.name == settings.name && new.method == settings.method;
            config.endpoints.iter().any(|new| is(&new.settings))
        };
        let retired =
            posted.extract_if(.., |_, posted| posted.running().is_err() || !wanted(&posted.settings));
        let mut failures = BTreeMap::new();
        for (name, Posted { settings, running, claim, .. }) in retired {
            match running {
                Ok(endpoint) if !same_way(&settings) && !endpoint.has_ended() => {
                    leaving.push(Leaving::begin(endpoint, claim))
                }
                Ok(_) => {}
                Err(failure) => {
                    failures.insert(name, failure);
                }
            }
        }
        failures
    }

    pub(super) fn is_leaving(&self, name: Option<&str>) -> bool {
        let is = |leaving: &Leaving| name.is_none_or(|name| *leaving.endpoint.name == *name);
        self.loops().leaving.iter().any(is)
    }

    /// Until one of those that leave has left. Never if none does.
    pub(super) async fn left(&self) {
        loop {
            tokio::time::sleep(LOOK_WHETHER_LEFT).await;
            let mut loops = self.loops();
            let before = loops.leaving.len();
            loops.leaving.retain(|leaving| !leaving.has_left());
            if loops.leaving.len() < before {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use komainu_escalation::endpoint::Host;
    use komainu_escalation::program::ProgramSettings;
    use komainu_escalation::reconcile::pace::Pace;
    use komainu_escalation::{MethodSettings, Outlet};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_loop_that_has_panicked_is_none() {
        let method = MethodSettings::Command(ProgramSettings {
            command: vec!["/bin/true".to_owned()],
            deadline_ms: 1_000,
        });
        let settings = EndpointSettings { name: "app".to_owned(), method, pre: None, post: None };
        let host = Host { node: "a".into(), cloud: None, pace: Pace::new(900, 1_000) };
        let (claim, claimed) = watch::channel(Claim::UNKNOWN);
        let authority = Arc::new(|_: &str, _: u64| -> bool { panic!("a mistake in the loop") });
        let outlet = Outlet { claim: claimed, authority, events: mpsc::channel(1).0 };
        let running = Ok(Endpoint::start(&settings, &host, outlet).unwrap());
        let board = Board::default();
        let findings = watch::channel(Vec::new()).1;
        let posted = Posted { settings, running, claim: claim.clone(), findings };
        board.loops().posted.insert("app".to_owned(), posted);
        assert!(!board.has_failed() && board.unable().is_empty());

        claim.send_replace(Claim { owner: Owner::This, epoch: 1 });
        claim.closed().await;
        assert!(board.has_failed() && board.unable().contains("app"), "the leader hears of it");
        let here = board.all().remove(0);
        assert!(here.status.is_none() && here.error.is_some(), "{here:?}");
    }
}
