//! Servers on their way back: how much of the log each must have before it counts again.
//!
//! Pure. One that was copied from a standby begins with what that standby had, which may be less than it had acknowledged
//! itself before. As long as the log counts on it for commits, it is not used before it has them again. Invariant: what it
//! must have is read from the primary when the copy runs already, so all that it acknowledged before is below.

use std::collections::BTreeMap;

use crate::cluster::model::{Facts, View};
use crate::cluster::state::{Administrative, ClusterState};
use crate::topology::{Epoch, Lsn};

#[derive(Debug, Clone, Default)]
pub(super) struct Returning {
    epoch: Epoch,
    servers: BTreeMap<String, Return>,
}

/// Of one life of a quarantined server.
#[derive(Debug, Clone)]
struct Return {
    started_at_ms: u64,
    answered_at_ms: u64,
    /// None: the primary was not asked since.
    must_have: Option<Lsn>,
}

impl Returning {
    /// To be told of every look, while the primary is settled.
    pub fn look(&mut self, state: &ClusterState, view: &View) {
        let primary = state.primary();
        if primary.epoch != self.epoch {
            *self = Returning { epoch: primary.epoch, servers: BTreeMap::new() };
        }
        let facts_of = |id: &str| view.find(id).and_then(|(_, detail)| detail.facts.as_deref());
        let written = primary.server.as_deref().and_then(facts_of).filter(|facts| !facts.in_recovery);
        self.servers.retain(|id, _| is_quarantined(state, id));
        for id in state.servers().keys().filter(|id| is_quarantined(state, id)) {
            let Some(facts) = facts_of(id).filter(|facts| facts.in_recovery) else { continue };
            let begun = Return {
                started_at_ms: facts.started_at_ms,
                answered_at_ms: facts.answered_at_ms,
                must_have: None,
            };
            let known = self.servers.entry(id.clone()).or_insert_with(|| begun.clone());
            if known.started_at_ms != facts.started_at_ms {
                *known = begun;
            }
            let since = written.filter(|written| written.asked_at_ms >= known.answered_at_ms);
            known.must_have = known.must_have.or(since.map(flushed));
        }
    }

    /// What that server must have received in its present life. None: it is not known yet.
    pub fn must_have(&self, server: &str, facts: &Facts) -> Option<Lsn> {
        let known = self.servers.get(server).filter(|known| known.started_at_ms == facts.started_at_ms);
        known.and_then(|known| known.must_have)
    }
}

fn is_quarantined(state: &ClusterState, id: &str) -> bool {
    state.servers().get(id).is_some_and(|server| server.administrative == Administrative::Quarantined)
}

/// Nothing is acknowledged before the primary has it on its own disk.
fn flushed(primary: &Facts) -> Lsn {
    primary.flushed_lsn.map_or(primary.lsn, |flushed| flushed.min(primary.lsn))
}
