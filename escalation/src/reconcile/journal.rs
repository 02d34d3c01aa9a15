//! What one endpoint's loop tells: its present status, and what happened. Pure.

use crate::method::{Gap, Holding};
use crate::reason::Reason;
use crate::status::{Counts, MOVE_PHASES, MoveTime, Phase, State, Status, TOTAL};

/// An entry for the timeline, still without the endpoint's name.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub epoch: u64,
    pub state: State,
    pub reason: Reason,
    pub detail: String,
    pub phases: Vec<Phase>,
}

pub(super) struct Journal {
    pub status: Status,
    pub entries: Vec<Entry>,
    /// Since then nobody has the endpoint.
    gap_since_ms: Option<u64>,
}

impl Journal {
    pub fn new() -> Journal {
        Journal {
            status: Status {
                state: State::Waiting,
                reason: Reason::ClaimUnknown,
                detail: String::new(),
                epoch: 0,
                holding: Holding::default(),
                phases: Vec::new(),
                counts: Counts::default(),
            },
            entries: Vec::new(),
            gap_since_ms: None,
        }
    }

    /// Another move begins; the phases of the last one are history.
    pub fn begin(&mut self) {
        self.status.phases.clear();
        self.gap_since_ms = None;
    }

    pub fn measure_gap(&mut self, now_ms: u64, gap: Gap) {
        match gap {
            Gap::None => {}
            Gap::Opens => self.gap_since_ms = self.gap_since_ms.or(Some(now_ms)),
            Gap::Closes => {
                if let Some(since_ms) = self.gap_since_ms.take() {
                    self.add_phase("unassociated", now_ms.saturating_sub(since_ms) as f64);
                }
            }
        }
    }

    /// Rounds of the same move add up.
    pub fn add_phase(&mut self, name: &'static str, ms: f64) {
        match self.status.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.ms += ms,
            None => self.status.phases.push(Phase { name, ms }),
        }
    }

    /// This node has taken the endpoint over.
    pub fn count_taking(&mut self, took_ms: u64) {
        self.count_phase(TOTAL, took_ms as f64);
        for Phase { name, ms } in self.status.phases.clone() {
            self.count_phase(name, ms);
        }
    }

    pub fn count_phase(&mut self, phase: &'static str, ms: f64) {
        debug_assert!(
            MOVE_PHASES.iter().any(|(known, _)| *known == phase),
            "{phase} is no phase of a taking"
        );
        match self.status.counts.moves.iter_mut().find(|known| known.phase == phase) {
            Some(known) => {
                known.ms += ms;
                known.count += 1;
            }
            None => self.status.counts.moves.push(MoveTime { phase, ms, count: 1 }),
        }
    }

    /// An entry is made only if this is news; the detail is kept up to date anyway.
    pub fn became(&mut self, state: State, reason: Reason, detail: String) {
        let news = (state, reason) != (self.status.state, self.status.reason);
        self.status.state = state;
        self.status.reason = reason;
        self.status.detail = detail;
        if news {
            self.enter(reason, self.status.detail.clone());
        }
    }

    pub fn enter(&mut self, reason: Reason, detail: String) {
        self.entries.push(Entry {
            epoch: self.status.epoch,
            state: self.status.state,
            reason,
            detail,
            phases: self.status.phases.clone(),
        });
    }
}
