//! Stopping the host of a primary that is being replaced, where the configuration wants it.
//!
//! Pure. It is asked for as soon as the old epoch is being ended, beside everything else, and until it was seen to have
//! stopped. Invariant: only the host of the server that a failover takes the primary from is ever stopped, and never one
//! that answers, unless every promotion is to wait for it.

use super::action::{Action, What};
use super::loss::{self, Loss};
use super::{Plan, Situation};
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, Failover, FailoverKind};
use crate::config::FenceHost;
use crate::topology::Health;

/// After the failover, too: AWS takes its time. Then it is given up; what komainu does needs it no more.
pub(super) const STOPPED_WITHIN_MS: u64 = 180_000;

/// What is to be done now about the host of the one that is being replaced.
pub(super) fn stop(situation: &Situation<'_>, failover: &Failover) -> Plan {
    let is_wanted = match (situation.policy.failover.fence_host, failover.kind) {
        // What an order lets end in its own time is none that is lost.
        (FenceHost::Off, _) | (_, FailoverKind::Switchover | FailoverKind::Restart) => false,
        (FenceHost::Prefer, FailoverKind::Automatic) => is_silent(situation, &failover.from),
        // Nobody but the operator says that it is lost, so one late answer does not.
        (FenceHost::Prefer, FailoverKind::Forced) => {
            is_silent(situation, &failover.from) && is_down(situation, &failover.from)
        }
        (FenceHost::Require, _) => true,
    };
    let known = situation.policy.server(&failover.from);
    let has_instance = known.is_some_and(|server| server.instance_id.is_some());
    match is_wanted && has_instance && !situation.memory.host_stopped(failover.epoch) {
        true => Plan::action(Action::new(&failover.from, What::StopHost { epoch: failover.epoch })),
        false => Plan::default(),
    }
}

/// Why nobody is promoted yet.
pub(super) fn waits(situation: &Situation<'_>, failover: &Failover, waited_ms: u64) -> Option<Reason> {
    let policy = &situation.policy.failover;
    let waits = match (policy.fence_host, failover.kind) {
        _ if situation.memory.host_stopped(failover.epoch) => false,
        // Whoever orders that knows better.
        (FenceHost::Off, _) => false,
        (_, FailoverKind::Forced | FailoverKind::Switchover | FailoverKind::Restart) => false,
        (FenceHost::Prefer, _) => {
            waited_ms < policy.fence_host_wait_ms && !stop(situation, failover).actions.is_empty()
        }
        (FenceHost::Require, _) => true,
    };
    waits.then_some(Reason::HostNotStopped)
}

/// Whether the old primary may as well go on: most nodes hear it again, it can write, and AWS does not stop its host.
pub(super) fn may_go_on(situation: &Situation<'_>, failover: &Failover) -> bool {
    let from = &failover.from;
    let is_asked_for = !stop(situation, failover).actions.is_empty();
    let is_left = !is_asked_for || situation.memory.host_refused(failover.epoch);
    is_left && situation.is_heard(from) && loss::of_primary(situation, from) == Loss::Lives
}

/// After the failover: one that AWS is stopping is asked after until it has stopped.
pub(super) fn follow_up(situation: &Situation<'_>) -> Plan {
    let Some((server, epoch, since_ms)) = situation.memory.stopping_host() else { return Plan::default() };
    let stays_out = situation
        .state
        .servers()
        .get(server)
        .is_some_and(|known| known.administrative == Administrative::Quarantined);
    let in_time = situation.now_ms.saturating_sub(since_ms) < STOPPED_WITHIN_MS;
    match stays_out && in_time && is_silent(situation, server) {
        true => Plan::action(Action::new(server, What::StopHost { epoch })),
        false => Plan::default(),
    }
}

/// Nothing at all is heard of it: one that refuses connections or logins, or says that it is starting, has a host that
/// works.
fn is_silent(situation: &Situation<'_>, server: &str) -> bool {
    let found = situation.view.find(server);
    found.is_some_and(|(_, detail)| detail.is_suspect() && detail.failure != Some(Reason::ConnectRefused))
}

fn is_down(situation: &Situation<'_>, server: &str) -> bool {
    situation.view.find(server).is_some_and(|(state, _)| state.health == Health::Down)
}
