//! A change of the primary that was ordered while it works: a switchover, and a restart in place.
//!
//! Pure. Transactions run out, the epoch ends, and the old primary is stopped by its agent. Invariant: after the stop nobody
//! is named who lacks its last record, and what was ordered becomes a failover only where one is allowed without an order.

use super::super::restart;
use super::{abandon, begin, forbidden, go_back, name_one, stand_still};
use crate::cluster::decide::action::{Action, What};
use crate::cluster::decide::loss::{self, Loss};
use crate::cluster::decide::memory::Planned;
use crate::cluster::decide::{Plan, Situation, Step, candidate};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Change, Failover, FailoverKind, Fenced, Restart};

/// What failed so often is not asked for any longer.
const TRIES: u32 = 3;
/// A checkpoint that takes longer is not waited for.
const CHECKPOINT_MS: u64 = 120_000;
/// Transactions of a switchover that have not ended by then are cut.
pub(super) const HOLD_MS: u64 = 5_000;
/// A primary that its agent cannot stop by then goes on. So does one whose last word is nowhere by then.
pub(super) const STOP_MS: u64 = 20_000;

/// A switchover lets transactions run out, on every node that lives.
pub(super) fn hold(situation: &Situation<'_>, failover: &Failover) -> Plan {
    if let Loss::Lost(why) = loss::of_primary(situation, &failover.from) {
        // What was ordered is no promotion without the old primary's last word.
        let may = forbidden(situation).is_none();
        return match candidate::choose(situation, FailoverKind::Automatic, None) {
            Ok(_) if may => begin(situation, why),
            _ => abandon(failover.epoch),
        };
    }
    if !failover.holds {
        let epoch = failover.epoch;
        // What is written out now is not written out while everybody waits. One that is refused is done without.
        let is_ready = situation.memory.checkpointed(epoch)
            || situation.memory.planned_failures(epoch, Planned::Checkpoint) >= TRIES
            || situation.memory.phase_for_ms(situation.now_ms) >= CHECKPOINT_MS;
        return match is_ready {
            true => Plan::step(Step::new(Change::HoldTransactions { epoch }, Reason::SwitchoverOrdered)),
            false => Plan::action(Action::new(&failover.from, What::Checkpoint { epoch })),
        };
    }
    let members = situation.state.members().values();
    let waits = members
        .filter(|member| situation.lives(&member.id))
        .any(|member| !failover.held_by.contains(&member.id));
    if waits && situation.memory.phase_for_ms(situation.now_ms) < HOLD_MS {
        return Plan::default();
    }
    let goes_on = failover.kind == FailoverKind::Restart;
    if !goes_on && candidate::choose(situation, failover.kind, failover.to.as_deref()).is_err() {
        return abandon(failover.epoch);
    }
    let change = Change::OpenFence { fenced: Fenced::Primary, epoch: failover.epoch };
    Plan::step(Step::new(change, Reason::SwitchoverOrdered))
}

/// The old primary's last word has to arrive at the one that follows it.
pub(super) fn stop_primary(situation: &Situation<'_>, failover: &Failover) -> Plan {
    let Some(last) = situation.memory.last_record(failover.epoch) else {
        // An agent that does not answer is found out at once; what it may have begun after all shows in the server's answer.
        let is_a_primary = situation.answering(&failover.from).is_some_and(|facts| !facts.in_recovery);
        let fails = situation.memory.planned_failures(failover.epoch, Planned::Stop) >= TRIES;
        if fails && is_a_primary || situation.memory.phase_for_ms(situation.now_ms) >= STOP_MS {
            return go_back(situation, failover, Reason::SwitchoverAbandoned);
        }
        return Plan::action(Action::new(&failover.from, What::Stop { epoch: failover.epoch }));
    };
    let has_all = |id: &str| {
        candidate::standbys(situation).any(|standby| standby.id == id && standby.position() > last)
    };
    let arrived = |wanted: Option<&str>| {
        candidate::choose(situation, failover.kind, wanted).ok().filter(|chosen| has_all(chosen))
    };
    let is_late = situation.memory.phase_for_ms(situation.now_ms) >= STOP_MS;
    match (arrived(failover.to.as_deref()), is_late) {
        (Some(chosen), _) => name_one(situation, chosen),
        (None, false) => Plan::default(),
        // It was to be that one. Any other with the last word lacks nothing either, and without one the old primary, which is
        // whole and only stopped, goes on.
        (None, true) => match arrived(None) {
            Some(other) => name_one(situation, other),
            None => go_back(situation, failover, Reason::SwitchoverAbandoned),
        },
    }
}

/// Until it is a primary again that was started since. If it does not come back, a standby takes its place.
pub(super) fn restart_primary(situation: &Situation<'_>, failover: &Failover) -> Plan {
    let step = situation.state.restart().and_then(Restart::step).filter(|step| step.server == failover.from);
    let Some(step) = step else { return go_back(situation, failover, Reason::RestartFailed) };
    let facts = situation.answering(&failover.from).filter(|facts| !facts.in_recovery);
    if facts.is_some_and(|facts| facts.started_at_ms != step.started_at_ms) {
        return go_back(situation, failover, Reason::Restarted);
    }
    let is_late = situation.memory.phase_for_ms(situation.now_ms) >= STOP_MS;
    let (failures, _) = situation.memory.restart_failures();
    if facts.is_some() && (is_late || failures >= restart::TRIES) {
        return go_back(situation, failover, Reason::RestartFailed);
    }
    let again = Plan::action(restart::order(step, failover.epoch));
    let chosen = match forbidden(situation) {
        Some(reason) => Err(reason),
        None => candidate::choose(situation, FailoverKind::Automatic, None),
    };
    match chosen {
        _ if !is_late => again,
        Ok(_) => begin(situation, Reason::PrimaryLost),
        Err(reason) => {
            let mut plan = stand_still(situation, Some(reason));
            plan.extend(again);
            plan
        }
    }
}
