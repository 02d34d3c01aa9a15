//! Restarting servers by order: what the present step of the plan needs next.
//!
//! Pure. A standby is taken out of use, restarted when nothing is under way there, and used again when it has replayed
//! what the primary had; only then comes the next. A primary is not touched before its epoch has ended: that is
//! `failover`, which either makes another one or has the same go on. Invariant: at most one server is out of use for a
//! plan, and a step that does not succeed in its time ends the plan and says why.

use super::action::{Action, What};
use super::loss::{self, Loss};
use super::{Plan, Situation, Step, candidate, replicas};
use crate::cluster::model::Facts;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Change, FailoverKind, Restart, RestartStage, RestartStep};

/// What has not ended on a standby by then is cut, or asked again elsewhere.
const DRAIN_MS: u64 = 60_000;
/// As long as others can acknowledge commits instead of it, the set of those who do gets rid of it sooner.
const UNSYNC_MS: u64 = 5_000;
/// Of tries that fail, so many and for so long are no accident.
pub(super) const TRIES: u32 = 3;
const TRY_MS: u64 = 10_000;
/// A server that has not come back by then is not coming back.
const RESTART_MS: u64 = 120_000;
/// To stream and to catch up, and for a former primary to rejoin, it may have to read much.
const CATCH_UP_MS: u64 = 600_000;

pub(super) fn decide(situation: &Situation<'_>) -> Plan {
    let Some(restart) = situation.state.restart() else { return Plan::default() };
    let Some(step) = restart.step() else { return Plan::default() };
    if let Some(refusal) = situation.policy.failover.mode.refusal() {
        return end(restart, refusal);
    }
    let Some(server) = situation.state.servers().get(&step.server) else {
        return end(restart, format!("{} is no server of the cluster any more", step.server));
    };
    if step.drained.is_some() && is_primary_lost(situation) {
        // What is out of use for this may be all that can take its place.
        return end(restart, "the primary was lost meanwhile");
    }
    // While the primary changes nothing else does.
    let Some(primary) = situation.settled_primary() else { return Plan::default() };
    let now = Now {
        situation,
        restart,
        step,
        is_primary: primary == step.server,
        is_trusted: server.administrative != Administrative::Quarantined,
        facts: situation.answering(&step.server),
        waited_ms: situation.memory.restart_for_ms(situation.now_ms),
    };
    now.next()
}

fn is_primary_lost(situation: &Situation<'_>) -> bool {
    match situation.state.failover() {
        Some(failover) => matches!(failover.kind, FailoverKind::Automatic | FailoverKind::Forced),
        None => situation
            .settled_primary()
            .is_some_and(|primary| matches!(loss::of_primary(situation, primary), Loss::Lost(_))),
    }
}

struct Now<'a> {
    situation: &'a Situation<'a>,
    restart: &'a Restart,
    step: &'a RestartStep,
    is_primary: bool,
    is_trusted: bool,
    facts: Option<&'a Facts>,
    waited_ms: u64,
}

impl Now<'_> {
    fn next(&self) -> Plan {
        let (id, stage) = (&self.step.server, self.step.stage);
        let is_well = self.is_primary || self.streams() && self.situation.memory.has_caught_up(self.facts);
        if self.was_restarted() && is_well {
            return self.advance(RestartStage::Done, Reason::Restarted);
        }
        match stage {
            RestartStage::Waiting | RestartStage::Draining | RestartStage::Restarting if self.is_primary => {
                match candidate::choose(self.situation, FailoverKind::Switchover, None) {
                    Err(reason) if self.restart.rolling => {
                        self.fail(format!("no standby can take over from {id}: {}", reason.sentence()))
                    }
                    _ => self.advance(RestartStage::Switching, Reason::RestartOrdered),
                }
            }
            RestartStage::Waiting if self.streams() => {
                self.advance(RestartStage::Draining, Reason::RestartOrdered)
            }
            RestartStage::Waiting if self.waited_ms >= CATCH_UP_MS => {
                self.fail(format!("{id} does not stream from the primary"))
            }
            RestartStage::Draining if self.is_clear() || self.waited_ms >= DRAIN_MS => {
                self.advance(RestartStage::Restarting, Reason::RestartOrdered)
            }
            RestartStage::Switching => self.switch(),
            RestartStage::Restarting => self.restart(),
            RestartStage::Waiting | RestartStage::Draining | RestartStage::Done => Plan::default(),
        }
    }

    fn was_restarted(&self) -> bool {
        self.facts.is_some_and(|facts| facts.started_at_ms != self.step.started_at_ms)
    }

    /// Of whomever: what it receives is the primary's, and that it has caught up is measured there.
    fn streams(&self) -> bool {
        self.is_trusted
            && self.facts.is_some_and(|facts| replicas::receives_the_timeline(self.situation, facts))
    }

    /// Nobody has anything under way there, and no commit waits for it if others can acknowledge it.
    fn is_clear(&self) -> bool {
        let members = self.situation.state.members().values();
        let waits = members
            .filter(|member| self.situation.lives(&member.id))
            .any(|member| !self.step.clear_by.contains(&member.id));
        let acknowledges = self.situation.state.synchronous().names.contains(&self.step.server);
        !waits && (!acknowledges || self.waited_ms >= UNSYNC_MS)
    }

    /// The epoch ends by a switchover, or by a restart in place. One that was given up has ended the plan with it.
    fn switch(&self) -> Plan {
        let primary = self.situation.state.primary();
        if !self.is_primary {
            // It is a standby like others by now, or about to be one.
            return self.advance(RestartStage::Waiting, Reason::RestartOrdered);
        }
        if primary.epoch > self.step.epoch {
            return self.fail(format!("{} goes on without having been restarted", self.step.server));
        }
        let kind = if self.restart.rolling { FailoverKind::Switchover } else { FailoverKind::Restart };
        let change = Change::BeginFailover { epoch: primary.epoch, kind, to: None };
        Plan::step(Step::new(change, Reason::RestartOrdered))
    }

    fn restart(&self) -> Plan {
        let id = &self.step.server;
        if self.was_restarted() {
            return match self.waited_ms >= CATCH_UP_MS {
                true => self.fail(format!(
                    "{id} was restarted, and does not stream or catch up within {} s",
                    CATCH_UP_MS / 1000
                )),
                false => Plan::default(),
            };
        }
        let (failures, error) = self.situation.memory.restart_failures();
        if failures >= TRIES && self.waited_ms >= TRY_MS || self.waited_ms >= RESTART_MS {
            let why = error.unwrap_or("it has not come back");
            return self.fail(format!("{id} was not restarted: {why}"));
        }
        let epoch = self.situation.state.primary().epoch;
        Plan::action(order(self.step, epoch))
    }

    fn advance(&self, to: RestartStage, reason: Reason) -> Plan {
        let RestartStep { server, stage, .. } = self.step;
        let change = Change::AdvanceRestart { id: self.restart.id, server: server.clone(), from: *stage, to };
        Plan::step(Step::new(change, reason))
    }

    fn fail(&self, text: String) -> Plan {
        end(self.restart, text)
    }
}

pub(super) fn order(step: &RestartStep, epoch: crate::topology::Epoch) -> Action {
    Action::new(&step.server, What::Restart { epoch, started_by_ms: step.started_at_ms })
}

fn end(restart: &Restart, text: impl Into<String>) -> Plan {
    let change = Change::EndRestart { id: restart.id, text: text.into() };
    Plan::step(Step::new(change, Reason::RestartFailed))
}

#[cfg(test)]
mod tests;
