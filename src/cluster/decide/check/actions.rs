//! What is done to servers: to the right one, in the present epoch, and nothing that the fence must come before.
//!
//! Pure. Invariant: only the server that the log names is promoted or started, and the primary is neither repointed,
//! rewound nor stopped but by the steps of a change of the primary.

use super::{Known, Verdict, demand};
use crate::cluster::decide::Situation;
use crate::cluster::decide::action::{Action, What};
use crate::cluster::operate::slots::is_ours;
use crate::cluster::state::{Administrative, FailoverKind, Stage};
use crate::cluster::sync_set::SyncSet;
use crate::config::{Replication, SyncMode};
use crate::telemetry::labels::Rule;
use crate::topology::Epoch;

pub(super) fn action(situation: &Situation<'_>, action: &Action) -> Verdict {
    let known = Known(situation);
    let state = situation.state;
    let primary = state.primary();
    let server = action.server.as_str();
    let is_named = known.is_named(server);
    let of_this_epoch = |epoch: &Epoch| demand(*epoch == primary.epoch, Rule::Epoch);
    let is_fenced = known.primary_fence().is_some();
    let has_passed = known.primary_fence().is_some_and(|fence| fence.passed);
    match &action.what {
        What::StopReceiving => {
            // The named one may not have come so far that it is one.
            demand(!is_named || known.is_standby(server), Rule::Primary)?;
            demand(is_fenced, Rule::Fence)
        }
        What::Promote { epoch } => {
            of_this_epoch(epoch)?;
            demand(is_named, Rule::Named)?;
            // The epoch has begun, which it does over a fence that has passed.
            demand(!is_fenced && state.failover().is_some(), Rule::Fence)?;
            demand(primary.stage == Stage::Named, Rule::Once)?;
            let ordered = state.servers().get(server).map(|server| server.administrative);
            demand(ordered == Some(Administrative::Attached), Rule::Trust)?;
            known.waits_for_enough(server)
        }
        What::Start { epoch } => {
            of_this_epoch(epoch)?;
            demand(is_named, Rule::Named)?;
            demand(!is_fenced, Rule::Fence)
        }
        What::SetSynchronous { epoch, names } => {
            of_this_epoch(epoch)?;
            demand(is_named || known.is_standby(server), Rule::Named)?;
            demand(!is_fenced, Rule::Fence)?;
            demand(known.is_enough(names), Rule::Synchronous)
        }
        What::Stop { epoch } => {
            let failover = state.failover().filter(|failover| failover.epoch == *epoch).ok_or(Rule::Epoch)?;
            demand(failover.kind == FailoverKind::Switchover && failover.from == server, Rule::Named)?;
            demand(has_passed, Rule::Fence)
        }
        What::Checkpoint { epoch } => {
            let failover = state.failover().filter(|failover| failover.epoch == *epoch).ok_or(Rule::Epoch)?;
            demand(failover.from == server, Rule::Named)
        }
        What::TellBackends { epoch } => {
            of_this_epoch(epoch)?;
            demand(is_named, Rule::Named)
        }
        What::Restart { epoch, .. } => {
            of_this_epoch(epoch)?;
            let step = state.restart().and_then(|restart| restart.step());
            demand(step.is_some_and(|step| step.server == server), Rule::Order)?;
            let in_place = state.failover().is_some_and(|failover| failover.kind == FailoverKind::Restart);
            demand(!is_named || in_place && has_passed, Rule::Fence)
        }
        What::StopHost { epoch } => {
            let is_ordered = state.failover().is_none_or(|failover| {
                matches!(failover.kind, FailoverKind::Automatic | FailoverKind::Forced)
            });
            demand(is_ordered, Rule::Order)?;
            match is_named {
                true => demand(is_fenced && primary.epoch == *epoch, Rule::Primary),
                false => demand(known.is_out(server) && primary.epoch > *epoch, Rule::Trust),
            }
        }
        What::Rejoin { epoch, primary: followed, timeline, allow_rewind, may_rebuild, .. } => {
            of_this_epoch(epoch)?;
            demand(!is_named, Rule::Primary)?;
            demand(known.is_settled() && known.is_named(followed), Rule::Named)?;
            demand(*timeline == primary.timeline, Rule::Epoch)?;
            let server = state.servers().get(server).ok_or(Rule::Trust)?;
            match server.administrative {
                Administrative::Quarantined => demand(!*allow_rewind || server.may_keep_data(), Rule::Trust),
                // Nothing is rewound that is on the timeline, nor rebuilt while it counts.
                Administrative::Attached => {
                    demand(!*may_rebuild, Rule::Trust)?;
                    let facts = known.last_heard(&action.server);
                    let is_on_it = facts.is_some_and(|facts| facts.timeline == primary.timeline);
                    demand(is_on_it, Rule::Trust)
                }
                Administrative::Draining | Administrative::Detached => Err(Rule::Order),
            }
        }
        What::Follow { primary: followed } => {
            demand(!is_named, Rule::Primary)?;
            demand(known.is_settled() && known.is_named(followed), Rule::Named)
        }
        What::Slots { unwanted, .. } => demand(unwanted.iter().all(|slot| is_ours(slot)), Rule::Order),
        What::AdvanceSlots { positions } => {
            demand(!is_named, Rule::Primary)?;
            demand(positions.iter().all(|(slot, _)| is_ours(slot)), Rule::Order)
        }
        What::RestartPoint => demand(!is_named, Rule::Primary),
    }
}

impl Known<'_> {
    fn is_out(&self, server: &str) -> bool {
        let known = self.0.state.servers().get(server);
        known.is_some_and(|known| known.administrative == Administrative::Quarantined)
    }

    fn is_standby(&self, server: &str) -> bool {
        self.last_heard(server).is_some_and(|facts| facts.in_recovery)
    }

    /// What the next primary goes by from its first commit on, as it says itself.
    fn waits_for_enough(&self, server: &str) -> Verdict {
        if self.0.state.synchronous().count == 0 && !self.must_wait() {
            return Ok(());
        }
        let facts = self.last_heard(server);
        let is_enough = facts.is_some_and(|facts| self.is_enough(&facts.synchronous_standby_names));
        demand(is_enough, Rule::Synchronous)
    }

    /// Whoever is acknowledged by it is acknowledged by as many of the agreed set as that promises.
    fn is_enough(&self, setting: &str) -> bool {
        let agreed = self.0.state.synchronous();
        let goes_by = SyncSet::parse(setting);
        match agreed.count {
            0 => !self.must_wait() || goes_by.is_some_and(|set| set.count > 0),
            count => goes_by.is_some_and(|set| set.count >= count && set.names.is_subset(&agreed.names)),
        }
    }

    /// Whether no commit may be acknowledged by a primary alone: there are others that stream, and the configuration says
    /// so.
    fn must_wait(&self) -> bool {
        let policy = self.0.policy;
        let streaming =
            policy.servers.iter().filter(|server| server.replication == Replication::Streaming).count();
        policy.failover.sync_mode == SyncMode::Require && streaming > 1
    }
}
