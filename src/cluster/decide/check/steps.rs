//! Changes of the log: each is of the present epoch, in its order, and of what a decision is about.
//!
//! Pure. Invariant: nobody is named over a fence that has not passed, and nobody who may lack an acknowledged commit
//! without an order.

use super::{Known, Verdict, demand};
use crate::cluster::decide::Situation;
use crate::cluster::model::Facts;
use crate::cluster::state::{
    Administrative, Change, Failover, FailoverKind, Fenced, Observed, RestartStage, Stage,
};
use crate::cluster::sync_set::SyncSet;
use crate::config::{FailoverMode, Replication, SyncMode};
use crate::telemetry::labels::Rule;
use crate::topology::{Epoch, Lsn};

/// A standby that can be told nothing is not waited for longer: it hangs, and what it said before is not counted.
const RECEIVERS_END_MS: u64 = 3_000;
/// An order to promote may be obeyed until then.
const ORDER_ENDS_MS: u64 = 1_000;

pub(super) fn step(situation: &Situation<'_>, change: &Change) -> Verdict {
    let known = Known(situation);
    let state = situation.state;
    let of_this_epoch = |epoch: &Epoch| demand(*epoch == state.primary().epoch, Rule::Epoch);
    let of_failover = |epoch: &Epoch| {
        demand(state.failover().is_some_and(|failover| failover.epoch == *epoch), Rule::Epoch)
    };
    match change {
        Change::NamePrimary { epoch, server, promotes } => {
            of_this_epoch(epoch)?;
            let primary = state.primary();
            let fence = known.primary_fence();
            let has_passed = fence.is_some_and(|fence| fence.passed && fence.epoch == *epoch);
            demand(primary.server.is_none() || has_passed, Rule::Fence)?;
            let named = state.servers().get(server).ok_or(Rule::Candidate)?;
            demand(named.administrative == Administrative::Attached, Rule::Trust)?;
            match promotes {
                true => known.may_be_promoted(server),
                false => known.may_go_on(server),
            }
        }
        Change::ConfirmPrimary { epoch, timeline } => {
            of_this_epoch(epoch)?;
            demand(known.primary_fence().is_none(), Rule::Fence)?;
            demand(state.primary().stage == Stage::Named, Rule::Once)?;
            demand(known.says_primary(*timeline), Rule::Candidate)
        }
        Change::BeginFailover { epoch, kind, .. } => {
            of_this_epoch(epoch)?;
            known.may_be_replaced(*epoch, *kind)
        }
        Change::HoldTransactions { epoch } => of_failover(epoch),
        Change::AbandonFailover { epoch } => {
            of_failover(epoch)?;
            demand(known.primary_fence().is_none(), Rule::Fence)
        }
        Change::StandStill { epoch, .. } => of_this_epoch(epoch),
        Change::OpenFence { fenced: Fenced::Primary, epoch } => of_this_epoch(epoch),
        Change::OpenFence { fenced: Fenced::Endpoint(endpoint), epoch } => {
            let present = state.endpoints().get(endpoint);
            demand(present.is_some_and(|present| present.epoch == *epoch), Rule::Epoch)
        }
        Change::PassFence { fenced, epoch } => {
            let fence = state.fences().iter().find(|fence| fence.fenced == *fenced && fence.epoch == *epoch);
            demand((situation.passed)(fence.ok_or(Rule::Epoch)?), Rule::Fence)
        }
        Change::AssignEndpoint { endpoint, epoch, owner } => {
            let Some(present) = state.endpoints().get(endpoint) else { return Ok(()) };
            demand(present.epoch == *epoch, Rule::Epoch)?;
            let is = |fence: &&_| is_passed(fence, &Fenced::Endpoint(endpoint.clone()), *epoch);
            demand(present.owner.is_none() || state.fences().iter().any(|fence| is(&fence)), Rule::Fence)?;
            let is_voter = |owner: &String| known.voters().any(|voter| voter.id == *owner);
            demand(owner.as_ref().is_none_or(is_voter), Rule::Candidate)
        }
        Change::RemoveEndpoint { endpoint, epoch } => {
            let present = state.endpoints().get(endpoint);
            demand(present.is_some_and(|present| present.epoch == *epoch), Rule::Epoch)?;
            demand(present.is_some_and(|present| present.owner.is_none()), Rule::Fence)
        }
        Change::SetAdministrative { server, version, state: ordered, .. } => {
            let now = state.servers().get(server).ok_or(Rule::Trust)?;
            demand(now.version == *version, Rule::Epoch)?;
            match (now.administrative, ordered) {
                (Administrative::Attached, Administrative::Quarantined) => {
                    demand(!known.is_named(server), Rule::Primary)
                }
                (Administrative::Quarantined, Administrative::Attached) => {
                    demand(known.has_rejoined(server), Rule::Trust)?;
                    demand(known.lacks_nothing_it_acknowledged(server), Rule::Synchronous)
                }
                _ => Err(Rule::Order),
            }
        }
        Change::SetSynchronous { before, set } => {
            demand(known.is_settled() && before == state.synchronous(), Rule::Epoch)?;
            known.keeps_the_promise(before, set)
        }
        Change::AdvanceRestart { id, server, to, .. } => {
            demand(state.restart().is_some_and(|restart| restart.id == *id), Rule::Epoch)?;
            demand(*to != RestartStage::Draining || !known.is_named(server), Rule::Primary)
        }
        Change::EndRestart { id, .. } => {
            demand(state.restart().is_some_and(|restart| restart.id == *id), Rule::Epoch)
        }
        // Who is there, as configured; and words.
        Change::SetServers { .. }
        | Change::ForgetServer { .. }
        | Change::ForgetReports { .. }
        | Change::UpdateMember { .. }
        | Change::NoteIncident { .. } => Ok(()),
        _ => Err(Rule::Order),
    }
}

fn is_passed(fence: &crate::cluster::state::Fence, fenced: &Fenced, epoch: Epoch) -> bool {
    fence.passed && fence.fenced == *fenced && fence.epoch == epoch
}

impl Known<'_> {
    /// The next primary, made one by komainu.
    fn may_be_promoted(&self, server: &str) -> Verdict {
        let Known(situation) = self;
        let state = situation.state;
        let epoch = state.primary().epoch;
        let failover = state.failover().filter(|failover| failover.epoch == epoch).ok_or(Rule::Order)?;
        // One that never became what it was named for may be named again. A switchover is from one to another.
        let is_lost = matches!(failover.kind, FailoverKind::Automatic | FailoverKind::Forced);
        demand(is_lost || !self.is_named(server), Rule::Candidate)?;
        let configured = situation.policy.server(server).ok_or(Rule::Candidate)?;
        demand(!configured.disallow_failover, Rule::Candidate)?;
        let facts = self.standby(server).ok_or(Rule::Candidate)?;
        let position = position(facts);
        match failover.kind {
            FailoverKind::Restart => Err(Rule::Candidate),
            FailoverKind::Forced => {
                demand(self.is_asked_since_fenced(facts), Rule::Fence)?;
                self.receives_nothing()
            }
            FailoverKind::Switchover => {
                let last = situation.memory.last_record(epoch);
                demand(last.is_some_and(|last| position > last), Rule::Loss)
            }
            FailoverKind::Automatic => {
                demand(self.is_asked_since_fenced(facts), Rule::Fence)?;
                self.receives_nothing()?;
                self.has_what_was_acknowledged(position)?;
                let is_shipped = configured.replication == Replication::LogShipping;
                let limit = situation.policy.failover.max_lag_bytes;
                let lacks = self.seen_of(failover).0.saturating_sub(position.0);
                demand(limit == 0 || is_shipped || lacks <= limit, Rule::Loss)
            }
        }
    }

    /// Attached, answering, on the ended epoch's timeline.
    fn standby(&self, server: &str) -> Option<&Facts> {
        let Known(situation) = self;
        let timeline = situation.state.last_timeline();
        let known = situation.state.servers().get(server)?;
        let facts = self.answer(server)?;
        let may = known.administrative == Administrative::Attached
            && facts.in_recovery
            && (timeline == 0 || facts.timeline == timeline);
        may.then_some(facts)
    }

    /// No standby that answers gets anything of the ended epoch any more, and each was asked since that ended.
    fn receives_nothing(&self) -> Verdict {
        let Known(situation) = self;
        let mut attached = situation.state.servers().iter().filter_map(|(id, server)| {
            let is_attached = server.administrative == Administrative::Attached;
            self.answer(id).filter(|facts| is_attached && facts.in_recovery)
        });
        let is_still = |facts: &Facts| facts.receiver.is_none() && self.is_asked_since_fenced(facts);
        let is_over = situation.memory.phase_for_ms(situation.now_ms) >= RECEIVERS_END_MS;
        demand(is_over || attached.all(is_still), Rule::Fence)
    }

    /// An answer to a question that was asked before may be of before the last acknowledged commit.
    fn is_asked_since_fenced(&self, facts: &Facts) -> bool {
        let Known(situation) = self;
        let passed_ms = situation.now_ms.saturating_sub(situation.memory.phase_for_ms(situation.now_ms));
        facts.asked_at_ms > passed_ms
    }

    /// With N members of which n have each acknowledged commit, one of any N−n+1 has all, and that is the furthest.
    fn has_what_was_acknowledged(&self, position: Lsn) -> Verdict {
        let SyncSet { names, count } = self.0.state.synchronous();
        if *count == 0 {
            // Where it must be so and nobody knows it yet, it is for an operator to say.
            let is_required = self.0.policy.failover.sync_mode == SyncMode::Require;
            return demand(!is_required, Rule::Loss);
        }
        // One that was restarted and has not replayed its own log to the end may have more than it says.
        let members =
            names.iter().filter_map(|name| self.standby(name)).filter(|facts| facts.received_lsn.is_some());
        let answering: Vec<Lsn> =
            members.filter(|facts| self.is_asked_since_fenced(facts)).map(self::position).collect();
        let needed = (names.len() + 1).saturating_sub(*count as usize).max(1);
        demand(answering.len() >= needed, Rule::Loss)?;
        demand(answering.iter().all(|other| *other <= position), Rule::Loss)
    }

    /// How far the old primary's log is known to have been on its disk.
    fn seen_of(&self, failover: &Failover) -> Lsn {
        let seen = self.0.view.primary_lsn;
        let facts = self.last_heard(&failover.from).filter(|facts| !facts.in_recovery);
        facts.and_then(|facts| facts.flushed_lsn).map_or(seen, |flushed| flushed.min(seen))
    }

    /// A primary already: the one of the ended epoch, or one that most nodes hear.
    fn may_go_on(&self, server: &str) -> Verdict {
        let state = self.0.state;
        // In another mode somebody else has finished what komainu had begun.
        let makes_primaries = self.0.policy.failover.mode == FailoverMode::Streaming;
        match state.failover().filter(|_| makes_primaries) {
            Some(failover) => demand(failover.from == server && self.is_named(server), Rule::Candidate),
            None => {
                let known = state.servers().get(server).ok_or(Rule::Candidate)?;
                let hears = |voter: &str| {
                    known.reports.get(voter).is_some_and(|report| report.claim.primary_on.is_some())
                };
                let hearing = self.voters().filter(|voter| hears(&voter.id)).count();
                demand(hearing > self.voters().count() / 2, Rule::Candidate)
            }
        }
    }

    /// By its own word, to this node or to most.
    fn says_primary(&self, timeline: u32) -> bool {
        let state = self.0.state;
        let Some(named) = state.primary().server.as_deref() else { return false };
        let to_me = self.last_heard(named).is_some_and(|facts| {
            !facts.in_recovery
                && facts.timeline == timeline
                && self.0.view.identity.get() == Some(facts.system_identifier)
        });
        let hears = |voter: &str| {
            let report = state.servers().get(named).and_then(|server| server.reports.get(voter));
            report.and_then(|report| report.claim.primary_on) >= Some(timeline)
        };
        to_me || self.voters().filter(|voter| hears(&voter.id)).count() > self.voters().count() / 2
    }

    /// The primary of the present epoch is lost, or its epoch is being ended already.
    fn may_be_replaced(&self, epoch: Epoch, kind: FailoverKind) -> Verdict {
        let Known(situation) = self;
        let state = situation.state;
        match (state.failover(), kind) {
            (_, FailoverKind::Restart | FailoverKind::Switchover) => {
                demand(state.restart().is_some(), Rule::Order)
            }
            (Some(failover), _) => {
                let is_forced = failover.kind == FailoverKind::Forced;
                demand(kind != FailoverKind::Forced || is_forced, Rule::Order)?;
                // An order of another primary, or of a restart, is none to do without the last word of the old one.
                let is_planned = matches!(failover.kind, FailoverKind::Switchover | FailoverKind::Restart);
                let nobody_is_named = failover.epoch == epoch;
                demand(!(is_planned && nobody_is_named) || self.may_be_automatic(), Rule::Order)?;
                let memory = situation.memory;
                let ordered = memory.promotion_ordered(epoch, ORDER_ENDS_MS, situation.now_ms);
                demand(!ordered, Rule::Once)
            }
            (None, FailoverKind::Forced) => Err(Rule::Order),
            (None, FailoverKind::Automatic) => {
                demand(self.may_be_automatic(), Rule::Order)?;
                demand(!self.lives(), Rule::Lives)
            }
        }
    }

    /// Whether a primary may be replaced by nobody's order.
    fn may_be_automatic(&self) -> bool {
        let policy = self.0.policy;
        policy.failover.automatic
            && !self.0.state.failover_paused()
            && !policy.servers.iter().any(|server| server.always_primary)
    }

    /// Most voters reach the primary, and can write to it.
    fn lives(&self) -> bool {
        let state = self.0.state;
        let named = state.primary().server.as_deref().and_then(|named| state.servers().get(named));
        let finds = |voter: &str| {
            let report = named.and_then(|server| server.reports.get(voter));
            report.is_some_and(|report| {
                let claim = report.claim;
                claim.observed == Observed::Up && !claim.suspect && claim.disk.is_none()
            })
        };
        self.voters().filter(|voter| finds(&voter.id)).count() > self.voters().count() / 2
    }

    /// It follows the primary, on its timeline.
    fn has_rejoined(&self, server: &str) -> bool {
        let Known(situation) = self;
        let timeline = situation.state.primary().timeline;
        let is_shipped = situation
            .policy
            .server(server)
            .is_some_and(|configured| configured.replication == Replication::LogShipping);
        self.is_settled()
            && self.answer(server).is_some_and(|facts| {
                let received = facts.receiver.as_ref().and_then(|receiver| receiver.timeline);
                facts.in_recovery
                    && (received == Some(timeline)
                        || is_shipped && facts.upstream.is_none() && facts.timeline == timeline)
            })
    }

    /// A member of the agreed set has received what the primary had when this life of it had begun.
    fn lacks_nothing_it_acknowledged(&self, server: &str) -> bool {
        let Known(situation) = self;
        let SyncSet { names, count } = situation.state.synchronous();
        let Some(facts) = self.answer(server) else { return false };
        let must_have = situation.memory.must_have(server, facts);
        *count == 0 || !names.contains(server) || must_have.is_some() && facts.received_lsn >= must_have
    }

    /// Every acknowledged commit is flushed by as many members of the agreed set as it says, before and after.
    fn keeps_the_promise(&self, before: &SyncSet, set: &SyncSet) -> Verdict {
        let Known(situation) = self;
        if set.count == 0 {
            let is_required = situation.policy.failover.sync_mode == SyncMode::Require;
            return demand(before.count == 0 || !is_required, Rule::Synchronous);
        }
        let is_wider = before.count > 0 && set.count <= before.count && before.names.is_subset(&set.names);
        if is_wider {
            return Ok(());
        }
        // Narrower, or the first promise: the primary goes by it, and those that are left have caught up.
        let primary = situation.state.primary();
        let facts =
            primary.server.as_deref().and_then(|named| self.answer(named)).ok_or(Rule::Synchronous)?;
        let seen = SyncSet::parse(&facts.synchronous_standby_names).ok_or(Rule::Synchronous)?;
        let goes_by_it = seen.count >= set.count && seen.names.is_subset(&set.names);
        demand(!facts.in_recovery && goes_by_it, Rule::Synchronous)?;
        let memory = situation.memory;
        let waits = memory.waits_in(primary.epoch) || memory.told_backends(primary.epoch);
        demand(waits, Rule::Synchronous)?;
        let boundary = situation.memory.watch(primary.epoch).and_then(|watch| watch.boundary());
        let boundary = boundary.ok_or(Rule::Synchronous)?;
        let mut have: Vec<&str> = facts
            .senders
            .iter()
            .filter(|sender| sender.flush_lsn.is_some_and(|flushed| flushed >= boundary))
            .map(|sender| sender.name.as_str())
            .filter(|name| set.names.contains(*name))
            .collect();
        have.sort_unstable();
        have.dedup();
        demand(have.len() >= set.count as usize, Rule::Synchronous)
    }
}

/// All that it has, replayed or not.
fn position(facts: &Facts) -> Lsn {
    facts.received_lsn.map_or(facts.lsn, |received| received.max(facts.lsn))
}
