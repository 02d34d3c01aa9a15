//! What is different between two views: each difference once, for the log.
//!
//! Pure. Invariant: equal judgements give no change, however much positions and lag moved.

use crate::topology::{Epoch, Health, Role, ServerIndex};

use super::model::View;
use super::reason::Reason;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Primary { from: Option<ServerIndex>, to: ServerIndex, epoch: Epoch },
    NoPrimary { from: Option<ServerIndex>, reason: Reason },
    Server { index: ServerIndex, role: Role, health: Health, reason: Option<Reason> },
}

pub fn changes(previous: &View, next: &View) -> Vec<Change> {
    let mut changes = Vec::new();
    for ((index, state), detail) in next.snapshot.indexed().zip(&next.details) {
        let before = match previous.snapshot.position(index) {
            Some(at) => {
                let (old, before) = (&previous.snapshot.servers[at], &previous.details[at]);
                (old.role, old.health, before.reason)
            }
            // It has just come, and nothing is known of it.
            None => (Role::Unknown, Health::Unknown, Some(Reason::NotLookedAt)),
        };
        if (state.role, state.health, detail.reason) != before {
            let (role, health, reason) = (state.role, state.health, detail.reason);
            changes.push(Change::Server { index, role, health, reason });
        }
    }
    let from = previous.snapshot.primary;
    match (next.snapshot.primary, next.no_primary) {
        (Some(to), _) if next.snapshot.epoch != previous.snapshot.epoch => {
            changes.push(Change::Primary { from, to, epoch: next.snapshot.epoch });
        }
        (None, Some(reason)) if from.is_some() || previous.no_primary != Some(reason) => {
            changes.push(Change::NoPrimary { from, reason });
        }
        _ => {}
    }
    changes
}
