//! A change of the primary that komainu makes itself, and whether it may.
//!
//! Pure. What is under way is here, so that a leader that dies in the middle is followed by one that finishes it: why
//! the epoch was ended, whom an operator wants, which nodes have let their transactions run out. Invariant: there is at
//! most one, it belongs to the epoch that it ends, and it is over when the next primary is confirmed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::topology::Epoch;

use super::incidents::Entry;
use super::{Accepted, Refusal};

/// In the order in which one may take the place of another that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailoverKind {
    /// An operator ordered that the primary is restarted. It goes on, in an epoch of its own.
    Restart,
    /// An operator ordered it, and the old primary is stopped cleanly first.
    Switchover,
    /// The primary was found to be lost.
    Automatic,
    /// An operator ordered it, whatever the primary does.
    Forced,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    pub kind: FailoverKind,
    /// The epoch that it ends.
    pub epoch: Epoch,
    pub from: String,
    /// Whom the operator wants.
    pub to: Option<String>,
    pub since_ms: u64,
    /// Why, and by whom it was begun.
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub cause: String,
    /// Of a switchover: transactions on the old primary run out, and none begins.
    #[serde(default)]
    pub holds: bool,
    /// Nodes with nothing under way on the primary that begin nothing new there.
    #[serde(default)]
    pub held_by: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Failovers {
    under_way: Option<Failover>,
    paused: bool,
    /// The reason code for which a lost primary is not replaced.
    standstill: Option<String>,
}

impl Failovers {
    pub fn under_way(&self) -> Option<&Failover> {
        self.under_way.as_ref()
    }

    pub fn paused(&self) -> bool {
        self.paused
    }

    pub fn standstill(&self) -> Option<&str> {
        self.standstill.as_deref()
    }

    /// Whether transactions are to run out, and none to begin, on this epoch's primary.
    pub fn holds(&self, epoch: Epoch) -> bool {
        self.under_way.as_ref().is_some_and(|failover| failover.holds && failover.epoch == epoch)
    }

    pub(super) fn begin(&mut self, failover: Failover) -> (Accepted, Option<Entry>) {
        let Failover { kind, epoch, from, to, .. } = &failover;
        let whom = to.as_deref().map_or("whoever lacks least".to_owned(), str::to_owned);
        let text = match kind {
            FailoverKind::Automatic if to.is_none() => {
                format!("failover begins: {from} is lost, epoch {} ends", epoch.0)
            }
            FailoverKind::Automatic => {
                format!("failover from {from}, which is lost, to {whom} begins, epoch {} ends", epoch.0)
            }
            FailoverKind::Forced => format!("failover from {from} to {whom} begins, epoch {} ends", epoch.0),
            FailoverKind::Switchover => {
                format!("switchover from {from} to {whom} begins")
            }
            FailoverKind::Restart => {
                format!("{from} is about to be restarted as the primary: epoch {} ends", epoch.0)
            }
        };
        let subject = from.clone();
        self.standstill = None;
        self.under_way = Some(failover);
        (Accepted::Changed, Some(Entry { subject, text }))
    }

    pub(super) fn hold(&mut self, expected: Epoch) -> Result<(Accepted, Option<Entry>), Refusal> {
        let failover = self.expect(expected)?;
        if std::mem::replace(&mut failover.holds, true) {
            return Ok((Accepted::Unchanged, None));
        }
        let text = format!("transactions on {} run out, and none begins", failover.from);
        Ok((Accepted::Changed, Some(Entry { subject: failover.from.clone(), text })))
    }

    pub(super) fn confirm_hold(
        &mut self,
        expected: Epoch,
        node: &str,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let failover = self.expect(expected)?;
        match failover.held_by.insert(node.to_owned()) {
            true => Ok((Accepted::Changed, None)),
            false => Ok((Accepted::Unchanged, None)),
        }
    }

    /// Before the fence only: after it the epoch is over, and something must follow.
    pub(super) fn abandon(
        &mut self,
        expected: Epoch,
        is_fenced: bool,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let Failover { from, kind, .. } = self.expect(expected)?.clone();
        if is_fenced {
            return Err(Refusal::Fenced);
        }
        self.under_way = None;
        let what = if kind == FailoverKind::Restart { "restart" } else { "switchover" };
        let text = format!("the {what} is given up: {from} goes on in epoch {}", expected.0);
        Ok((Accepted::Changed, Some(Entry { subject: from, text })))
    }

    fn expect(&mut self, expected: Epoch) -> Result<&mut Failover, Refusal> {
        let failover = self.under_way.as_mut().ok_or(Refusal::NoFailover)?;
        match failover.epoch == expected {
            true => Ok(failover),
            false => Err(Refusal::StaleEpoch { expected, current: failover.epoch }),
        }
    }

    /// What was under way is over.
    pub(super) fn end(&mut self) -> Option<Failover> {
        self.standstill = None;
        self.under_way.take()
    }

    pub(super) fn pause(&mut self, paused: bool) -> (Accepted, Option<Entry>) {
        if self.paused == paused {
            return (Accepted::Unchanged, None);
        }
        self.paused = paused;
        let text = match paused {
            true => "automatic failover is paused",
            false => "automatic failover is resumed",
        };
        (Accepted::Changed, Some(Entry { subject: "failover".to_owned(), text: text.to_owned() }))
    }

    pub(super) fn stand_still(
        &mut self,
        primary: &str,
        reason: Option<&str>,
        sentence: &str,
    ) -> (Accepted, Option<Entry>) {
        if self.standstill.as_deref() == reason {
            return (Accepted::Unchanged, None);
        }
        self.standstill = reason.map(str::to_owned);
        let text = match reason {
            Some(_) => format!("{primary} is not replaced: {sentence}"),
            None => format!("{primary} needs not be replaced any more"),
        };
        (Accepted::Changed, Some(Entry { subject: primary.to_owned(), text }))
    }

    pub(super) fn check(&self, current: Epoch) -> Result<(), String> {
        match &self.under_way {
            // It is kept until the primary of the next epoch is confirmed.
            Some(failover) if failover.epoch > current || failover.epoch.0 + 1 < current.0 => {
                Err("a failover is under way that belongs to another epoch".to_owned())
            }
            _ => Ok(()),
        }
    }
}
