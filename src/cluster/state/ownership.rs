//! Who may act: the primary, the endpoints' owners, and the fences that end their right.
//!
//! Pure. The order is the point: what an epoch allows is ended by a fence; the leader vouches that the fence has passed,
//! which means that nobody can still act on it; only then the next epoch begins. Invariant: an epoch is raised by one at
//! a time, and while somebody holds it only over a fence that has passed, so no epoch ever has two holders.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::topology::Epoch;

use super::incidents::Entry;
use super::{Accepted, Refusal};

pub const MAX_ENDPOINTS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Primary {
    pub epoch: Epoch,
    pub server: Option<String>,
    pub stage: Stage,
    /// 0 until the promotion of this epoch is confirmed.
    pub timeline: u32,
    /// When it was started, by its own clock, as most voters heard once it was confirmed. None: they have not yet.
    #[serde(default)]
    pub life: Option<u64>,
    pub since_ms: u64,
}

/// How far the primary of this epoch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Chosen; may not have been asked yet. A new leader asks the same server.
    #[default]
    Named,
    Confirmed,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Endpoint {
    pub epoch: Epoch,
    pub owner: Option<String>,
    pub since_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fenced {
    Primary,
    Endpoint(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    pub fenced: Fenced,
    /// The epoch it ends.
    pub epoch: Epoch,
    pub opened_at_ms: u64,
    pub confirmed_by: BTreeSet<String>,
    pub passed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ownership {
    primary: Primary,
    endpoints: BTreeMap<String, Endpoint>,
    fences: Vec<Fence>,
    /// Of the last primary that was confirmed.
    #[serde(default)]
    last_timeline: u32,
    /// The highest of any endpoint that was removed: one that comes back begins above it.
    #[serde(default)]
    retired_epoch: Epoch,
}

impl Ownership {
    pub fn primary(&self) -> &Primary {
        &self.primary
    }

    pub fn last_timeline(&self) -> u32 {
        self.last_timeline.max(self.primary.timeline)
    }

    pub fn endpoints(&self) -> &BTreeMap<String, Endpoint> {
        &self.endpoints
    }

    pub fn fences(&self) -> &[Fence] {
        &self.fences
    }

    pub fn is_primary(&self, server: &str) -> bool {
        self.primary.server.as_deref() == Some(server)
    }

    /// The primary of this epoch.
    pub(super) fn expect_primary(&self, epoch: Epoch) -> Result<&str, Refusal> {
        check_epoch(epoch, self.primary.epoch)?;
        self.primary.server.as_deref().ok_or(Refusal::NoPrimaryNamed)
    }

    pub fn is_fenced(&self, fenced: &Fenced) -> bool {
        self.fences.iter().any(|fence| fence.fenced == *fenced)
    }

    pub(super) fn check_unowned(&self, id: &str) -> Result<(), Refusal> {
        match self.endpoints.iter().find(|(_, endpoint)| endpoint.owner.as_deref() == Some(id)) {
            Some((endpoint, _)) => {
                Err(Refusal::OwnsEndpoint { id: id.to_owned(), endpoint: endpoint.clone() })
            }
            None => Ok(()),
        }
    }

    pub(super) fn open_fence(
        &mut self,
        fenced: &Fenced,
        expected: Epoch,
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let (epoch, held) = self.held(fenced)?;
        check_epoch(expected, epoch)?;
        if !held {
            return Err(Refusal::NothingToFence);
        }
        if self.is_fenced(fenced) {
            return Ok((Accepted::Unchanged, None));
        }
        self.fences.push(Fence {
            fenced: fenced.clone(),
            epoch,
            opened_at_ms: at_ms,
            confirmed_by: BTreeSet::new(),
            passed: false,
        });
        let (subject, text) = (subject(fenced), format!("epoch {} is fenced", epoch.0));
        Ok((Accepted::Changed, Some(Entry { subject, text })))
    }

    pub(super) fn confirm_fence(
        &mut self,
        fenced: &Fenced,
        expected: Epoch,
        node: &str,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let fence = self.fence_mut(fenced, expected)?;
        match fence.confirmed_by.insert(node.to_owned()) {
            true => Ok((Accepted::Changed, None)),
            false => Ok((Accepted::Unchanged, None)),
        }
    }

    pub(super) fn pass_fence(
        &mut self,
        fenced: &Fenced,
        expected: Epoch,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let fence = self.fence_mut(fenced, expected)?;
        if fence.passed {
            return Ok((Accepted::Unchanged, None));
        }
        fence.passed = true;
        let text = format!("nobody acts on epoch {} any more", expected.0);
        Ok((Accepted::Changed, Some(Entry { subject: subject(fenced), text })))
    }

    pub(super) fn name_primary(
        &mut self,
        expected: Epoch,
        server: &str,
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let epoch = self.begin_epoch(&Fenced::Primary, expected)?;
        let server = server.to_owned();
        let text = format!("{server} is named primary of epoch {}", epoch.0);
        self.primary = Primary {
            epoch,
            server: Some(server.clone()),
            stage: Stage::Named,
            timeline: 0,
            life: None,
            since_ms: at_ms,
        };
        Ok((Accepted::Epoch(epoch), Some(Entry { subject: server, text })))
    }

    pub(super) fn confirm_primary(
        &mut self,
        expected: Epoch,
        timeline: u32,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        check_epoch(expected, self.primary.epoch)?;
        let server = self.primary.server.clone().ok_or(Refusal::NoPrimaryNamed)?;
        match self.primary.stage {
            Stage::Confirmed if self.primary.timeline == timeline => Ok((Accepted::Unchanged, None)),
            Stage::Confirmed => Err(Refusal::OtherTimeline { current: self.primary.timeline }),
            Stage::Named => {
                self.primary.stage = Stage::Confirmed;
                self.primary.timeline = timeline;
                self.last_timeline = timeline;
                let text = format!("{server} is primary of epoch {}, timeline {timeline}", expected.0);
                Ok((Accepted::Changed, Some(Entry { subject: server, text })))
            }
        }
    }

    /// Which life of the confirmed primary this epoch is of: the first that most voters hear of.
    pub(super) fn note_life(&mut self, server: &str, life: Option<u64>) {
        if self.is_primary(server) && self.primary.stage == Stage::Confirmed {
            self.primary.life = self.primary.life.or(life);
        }
    }

    pub(super) fn assign_endpoint(
        &mut self,
        name: &str,
        expected: Epoch,
        owner: Option<&str>,
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        if !self.endpoints.contains_key(name) && self.endpoints.len() >= MAX_ENDPOINTS {
            return Err(Refusal::TooMuch {
                what: "the number of endpoints".to_owned(),
                limit: MAX_ENDPOINTS as u64,
            });
        }
        let epoch = match self.endpoints.contains_key(name) {
            true => self.begin_epoch(&Fenced::Endpoint(name.to_owned()), expected)?,
            false => {
                check_epoch(expected, Epoch(0))?;
                Epoch(self.retired_epoch.0 + 1)
            }
        };
        let text = match owner {
            Some(owner) => format!("{owner} owns the endpoint in epoch {}", epoch.0),
            None => format!("nobody owns the endpoint in epoch {}", epoch.0),
        };
        let endpoint = Endpoint { epoch, owner: owner.map(str::to_owned), since_ms: at_ms };
        self.endpoints.insert(name.to_owned(), endpoint);
        Ok((Accepted::Epoch(epoch), Some(Entry { subject: name.to_owned(), text })))
    }

    pub(super) fn remove_endpoint(
        &mut self,
        name: &str,
        expected: Epoch,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let endpoint =
            self.endpoints.get(name).ok_or_else(|| Refusal::NoEndpoint { endpoint: name.to_owned() })?;
        check_epoch(expected, endpoint.epoch)?;
        if endpoint.owner.is_some() {
            return Err(Refusal::EndpointOwned { endpoint: name.to_owned() });
        }
        self.retired_epoch = self.retired_epoch.max(endpoint.epoch);
        self.endpoints.remove(name);
        let entry = Entry { subject: name.to_owned(), text: "the endpoint is removed".to_owned() };
        Ok((Accepted::Changed, Some(entry)))
    }

    /// The next epoch, if the current one is the expected one and nobody can still act on it.
    fn begin_epoch(&mut self, fenced: &Fenced, expected: Epoch) -> Result<Epoch, Refusal> {
        let (epoch, held) = self.held(fenced)?;
        check_epoch(expected, epoch)?;
        let passed = self.fences.iter().any(|fence| fence.fenced == *fenced && fence.passed);
        if held && !passed {
            return Err(Refusal::FenceNotPassed);
        }
        self.fences.retain(|fence| fence.fenced != *fenced);
        Ok(Epoch(epoch.0 + 1))
    }

    /// The current epoch, and whether anybody holds it.
    fn held(&self, fenced: &Fenced) -> Result<(Epoch, bool), Refusal> {
        match fenced {
            Fenced::Primary => Ok((self.primary.epoch, self.primary.server.is_some())),
            Fenced::Endpoint(name) => match self.endpoints.get(name) {
                Some(endpoint) => Ok((endpoint.epoch, endpoint.owner.is_some())),
                None => Err(Refusal::NoEndpoint { endpoint: name.clone() }),
            },
        }
    }

    fn fence_mut(&mut self, fenced: &Fenced, expected: Epoch) -> Result<&mut Fence, Refusal> {
        let (epoch, _) = self.held(fenced)?;
        check_epoch(expected, epoch)?;
        self.fences.iter_mut().find(|fence| fence.fenced == *fenced).ok_or(Refusal::NoFence)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        for (at, fence) in self.fences.iter().enumerate() {
            let name = subject(&fence.fenced);
            match self.held(&fence.fenced) {
                Ok((epoch, true)) if epoch == fence.epoch => {}
                _ => return Err(format!("the fence of {name} ends an epoch that nobody holds")),
            }
            if self.fences[..at].iter().any(|other| other.fenced == fence.fenced) {
                return Err(format!("{name} is fenced twice"));
            }
        }
        if self.primary.server.is_some() && self.primary.epoch == Epoch(0) {
            return Err("there is a primary, but no epoch".to_owned());
        }
        match self.endpoints.values().all(|endpoint| endpoint.epoch > Epoch(0)) {
            true => Ok(()),
            false => Err("an endpoint has no epoch".to_owned()),
        }
    }
}

fn check_epoch(expected: Epoch, current: Epoch) -> Result<(), Refusal> {
    match expected == current {
        true => Ok(()),
        false => Err(Refusal::StaleEpoch { expected, current }),
    }
}

fn subject(fenced: &Fenced) -> String {
    match fenced {
        Fenced::Primary => "primary".to_owned(),
        Fenced::Endpoint(name) => name.clone(),
    }
}
