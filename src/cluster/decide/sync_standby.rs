//! How the set of synchronous standbys changes without a moment in which a failover could lose an acknowledged commit.
//!
//! Pure. There are two sets: *raft's* (R of |R| names, n) says how many must answer before one is promoted, |R|−n+1; the
//! *primary's* (M, m) says who has flushed a commit before it is acknowledged. Invariant, unless n is 0:
//!
//! > every acknowledged commit is flushed by at least n members of R
//!
//! Then at most |R|−n members lack it, and of |R|−n+1 that answer one has it. Why each step keeps that:
//!
//! - *Raft, wider or with a smaller n*: whoever has a commit is still counted, and fewer are demanded. It is safe at any
//!   time, and comes first.
//! - *The primary, to (T, t)*: only when T ⊆ R and n ≤ t. What is acknowledged from then on is flushed by t members of T,
//!   so by at least n of R; what was acknowledged before is not touched. It does not matter when exactly it takes effect.
//! - *Raft, to (T, t)*, which drops names or demands more: only when the primary is seen at (T, t), so that later commits
//!   have their t members, and when t members of T have flushed all that was there at a look after that, so that earlier
//!   ones do, however they were acknowledged.
//!
//! Setting and raft both change only through the leader. What an earlier leader sent may still arrive, so a look counts
//! only if it was asked after the time by which that has come to an end (`Watch::begin`). While raft promises nothing, nothing
//! that arrives breaks anything: then the primary is told at once to wait, and only the promise waits for such a look.

use std::collections::BTreeSet;

use crate::cluster::model::{Facts, Sender};
use crate::cluster::sync_set::SyncSet;
use crate::config::SyncMode;
use crate::topology::Lsn;

/// A walsender reads its configuration again in its next turn. So long after the primary says that a setting is in force,
/// none of them releases a commit by the one before.
const RELOADED_AFTER_MS: u64 = 500;

/// One thing to do, or to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// By a command of the log; the set it replaces is the one that was given here.
    SetInRaft(SyncSet),
    /// The value of `synchronous_standby_names`; then `Watch::begin`.
    SetOnPrimary(String),
    /// For another look at the primary, or for standbys that have not flushed enough yet.
    Wait,
    Nothing,
}

/// A server that is to be, or could be, a standby of the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    pub id: String,
    /// It streams from the primary now, and answers.
    pub is_alive: bool,
}

/// Which set there should be. None: komainu leaves the setting alone. `standbys` are all that may be synchronous, without
/// the primary itself.
///
/// With `Require` no name is taken off while fewer than `count` are alive: commits wait then. Nor is the count ever lowered.
pub fn target(mode: SyncMode, count: u32, raft: &SyncSet, standbys: &[Standby]) -> Option<SyncSet> {
    let of = |is: &dyn Fn(&Standby) -> bool| -> BTreeSet<String> {
        standbys.iter().filter(|standby| is(standby)).map(|standby| standby.id.clone()).collect()
    };
    let alive = of(&|standby| standby.is_alive);
    let suffice = |names: &BTreeSet<String>| names.len() >= count as usize;
    match mode {
        SyncMode::Off => None,
        SyncMode::Prefer => Some(SyncSet { count: count.min(alive.len() as u32), names: alive }),
        SyncMode::Require if suffice(&alive) => Some(SyncSet { names: alive, count }),
        SyncMode::Require => {
            let kept = of(&|standby| standby.is_alive || raft.names.contains(&standby.id));
            let names = if suffice(&kept) { kept } else { of(&|_| true) };
            // There is nobody to name; what was promised stays promised.
            Some(if names.is_empty() { raft.clone() } else { SyncSet { names, count } })
        }
    }
}

/// What the looks at one primary have shown since its setting was last changed. The leader's own, for one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Looks that were asked earlier do not count.
    not_before_ms: u64,
    /// Nor do they for a promise, if they were asked while what an earlier leader sent may still arrive.
    others_end_ms: u64,
    /// The setting that was seen in force, and when first.
    in_force: Option<(String, u64)>,
    /// All that was acknowledged under another setting is below.
    boundary: Option<Lsn>,
}

impl Watch {
    /// `others_end_ms` is when all that an earlier leader sent has come to an end.
    pub fn begin(others_end_ms: u64) -> Self {
        Watch { not_before_ms: 0, others_end_ms, in_force: None, boundary: None }
    }

    /// After a change of the setting was asked for: `ended_ms` is when it has happened or will never.
    pub fn changed(&self, ended_ms: u64) -> Self {
        Watch { not_before_ms: ended_ms, ..Watch::begin(self.others_end_ms) }
    }

    /// Whether the setting can change no more by what was sent before that look.
    fn counts(&self, primary: &Facts) -> bool {
        self.is_settled(primary.asked_at_ms)
    }

    /// Whether all that had been sent to change the setting has come to an end by then.
    pub fn is_settled(&self, at_ms: u64) -> bool {
        at_ms >= self.not_before_ms.max(self.others_end_ms)
    }

    /// To be told of every answer of the primary.
    pub fn saw(&mut self, primary: &Facts) {
        if primary.in_recovery || !self.counts(primary) {
            return;
        }
        let setting = &primary.synchronous_standby_names;
        let shown = SyncSet::parse(setting).is_some_and(|set| is_shown(&set, &primary.senders));
        match &self.in_force {
            Some((known, since_ms)) if known == setting && shown => {
                if self.boundary.is_none() && primary.asked_at_ms >= since_ms + RELOADED_AFTER_MS {
                    self.boundary = Some(primary.lsn);
                }
            }
            // What is known stays known while a standby comes and its row is not as it will be yet.
            Some((known, _)) if known == setting && self.boundary.is_some() => {}
            _ => {
                self.boundary = None;
                self.in_force = shown.then(|| (setting.clone(), primary.asked_at_ms));
            }
        }
    }

    /// What was acknowledged under an earlier setting is below. None: not seen yet.
    pub fn boundary(&self) -> Option<Lsn> {
        self.boundary
    }

    /// Whether so many of the set have all that was acknowledged under an earlier setting, which this one has replaced.
    fn covers(&self, set: &SyncSet, primary: &Facts) -> bool {
        let is_in_force = self.in_force.as_ref().is_some_and(|(setting, _)| set.is_said_by(setting));
        let Some(boundary) = self.boundary.filter(|_| is_in_force) else { return false };
        let have: BTreeSet<&str> = primary
            .senders
            .iter()
            .filter(|sender| sender.flush_lsn >= Some(boundary) && set.names.contains(&sender.name))
            .map(|sender| sender.name.as_str())
            .collect();
        have.len() >= set.count as usize
    }
}

/// Whether those that stream have the part that the setting gives them.
fn is_shown(set: &SyncSet, senders: &[Sender]) -> bool {
    senders.iter().all(|sender| set.names.contains(&sender.name) == (sender.sync_state != "async"))
}

/// The one next step from what is to what should be. `primary` is the last answer of the current primary.
pub fn next(raft: &SyncSet, target: Option<&SyncSet>, primary: Option<&Facts>, watch: &Watch) -> Transition {
    let Some(target) = target else {
        // Whatever somebody else sets there, nobody here promises anything.
        return if raft.promises() { Transition::SetInRaft(SyncSet::default()) } else { Transition::Nothing };
    };
    let Some(primary) =
        primary.filter(|facts| !facts.in_recovery && facts.asked_at_ms >= watch.not_before_ms)
    else {
        return Transition::Wait;
    };
    let setting = &primary.synchronous_standby_names;
    if !raft.promises() && target.promises() && !target.is_said_by(setting) {
        return Transition::SetOnPrimary(target.to_string());
    }
    if !watch.counts(primary) {
        return Transition::Wait;
    }
    if let Some(wider) = SyncSet::parse(setting).and_then(|seen| admitting(raft, &seen)) {
        return Transition::SetInRaft(wider);
    }
    if !target.promises() && *raft != *target {
        return Transition::SetInRaft(target.clone());
    }
    let is_wide_enough = target.names.is_subset(&raft.names) && raft.count <= target.count;
    if raft.promises() && !is_wide_enough {
        let names = raft.names.union(&target.names).cloned();
        return Transition::SetInRaft(SyncSet::new(names, raft.count.min(target.count)));
    }
    if !target.is_said_by(setting) {
        return Transition::SetOnPrimary(target.to_string());
    }
    match () {
        () if raft == target => Transition::Nothing,
        () if watch.covers(target, primary) => Transition::SetInRaft(target.clone()),
        () => Transition::Wait,
    }
}

/// The set that still promises something true if the primary goes by `seen`, which somebody else must have set. None: the
/// one there is does, or no set would.
fn admitting(raft: &SyncSet, seen: &SyncSet) -> Option<SyncSet> {
    let strangers = seen.names.difference(&raft.names).count() as u32;
    let keeps = seen.count.saturating_sub(strangers) >= raft.count;
    if !raft.promises() || keeps || !seen.promises() {
        return None;
    }
    let names = raft.names.union(&seen.names).cloned();
    let wider = SyncSet::new(names, raft.count.min(seen.count));
    (wider != *raft).then_some(wider)
}

#[cfg(test)]
mod tests;
