//! What a leader remembers between two decisions: since when things are as they are.
//!
//! Pure. All of it is found anew by the next leader, for which everything begins when it first looks; so waits only get
//! longer by a change of the leader. Invariant: nothing that must survive a leader is here.

use std::collections::{BTreeMap, BTreeSet};

use super::orders_end::OrdersEnd;
use super::returning::Returning;
use super::sync_standby::Watch;
use crate::cluster::missing_standbys::missing_at;
use crate::cluster::model::{Facts, View};
use crate::cluster::state::{ClusterState, FailoverKind, Fenced, RestartStage, Stage};
use crate::cluster::sync_set::SyncSet;
use crate::topology::{Epoch, Health, Lsn};

/// How far a change of the primary has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Settled,
    Preparing,
    Holding,
    Fenced,
    /// Nobody acts on the old epoch any more.
    Passed,
    Named,
}

/// The others are just about to follow a new primary.
pub(super) const SETTLE_FIRST_MS: u64 = 1_000;
/// A primary that is lost sooner has not lived long. Twice the wait before it comes on top.
const SHORT_MS: u64 = 10_000;
/// The wait doubles with each of those, up to this.
const SETTLE_LAST_MS: u64 = 60_000;

/// Standbys that can follow a new primary do so by then.
const FOLLOWS_WITHIN_MS: u64 = 3_000;

/// What was asked of a server has been done by then, or never will be.
pub const OPERATIONS_END_MS: u64 = 3_000;

/// One that was seen to stream before and after that has not only tried to.
const STREAMS_STEADILY_MS: u64 = 2_000;

/// One that has more to replay has replayed some of it by then.
const REPLAYS_ON_MS: u64 = 1_000;

/// A standby's checkpointer has read a setting by then, unless it is in the middle of a checkpoint that is in a hurry.
const CHECKPOINTER_READS_MS: u64 = 5_000;

/// Whether commits wait for somebody by what a server's sessions show. What its checkpointer knows may be older.
fn waits(facts: &Facts) -> bool {
    SyncSet::parse(&facts.synchronous_standby_names).is_none_or(|set| set.promises())
}

#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// False: this leader has only just begun.
    looked: bool,
    /// It led already when the cluster had no primary yet, and had never had one.
    saw_no_primary: bool,
    phase: Phase,
    epoch: Epoch,
    phase_since_ms: u64,
    /// The fence has passed, and whoever lacks least is to be found.
    compares: bool,
    starting_up_since_ms: Option<u64>,
    /// Where the last record of the old primary's log begins, and in which epoch it was stopped.
    stopped: Option<(Epoch, Lsn)>,
    /// The host of a lost primary that AWS is to stop: whose, the epoch, since when, and how far it has come.
    host: Option<(String, Epoch, u64, HostStop)>,
    /// The old primary has made a checkpoint for the switchover that ends this epoch.
    checkpointed: Option<Epoch>,
    /// How often the present order of this epoch's planned change has failed.
    failed: Option<(Epoch, Planned, u32)>,
    /// When the server that was named for this epoch was last ordered to become the primary.
    promotes: Option<(Epoch, u64)>,
    /// How far the server that is being promoted has replayed, and since when it has not come further.
    replayed: Option<(Lsn, u64)>,
    /// Of the setting by which this epoch's primary waits for standbys.
    watch: Option<(Epoch, Watch)>,
    /// In which epoch the primary's backends are known to wait for whom its setting names, since that was changed.
    told_backends: Option<Epoch>,
    /// Since when each standby's own setting waits for somebody.
    would_wait: BTreeMap<String, u64>,
    /// The epoch whose primary's backends are known to have waited ever since.
    waits_in: Option<Epoch>,
    /// How many primaries in a row were lost soon after they had become one.
    short_lived: u32,
    /// Since when a standby does not stream although it should.
    astray: BTreeMap<String, Astray>,
    /// Those of them that need log which the primary no longer has, as their agents say.
    missing_wal: BTreeSet<String>,
    /// Whom an agent was told to make rejoin, and when the process was started that it may stop. None: it never answered.
    rejoins: BTreeMap<String, Option<u64>>,
    /// Since when commits wait for more standbys than stream.
    commits_wait_since_ms: Option<u64>,
    restart: Option<RestartWatch>,
    returning: Returning,
    orders_end: OrdersEnd,
}

/// One that is refused what it asks for looks as if it streamed for a moment at every attempt.
#[derive(Debug, Clone)]
struct Astray {
    since_ms: u64,
    /// How far it has replayed, and when it was asked first of the times that it had come no further.
    lsn: Lsn,
    lsn_since_ms: u64,
    /// When it was asked first of the times that it has been seen to stream, with none between at which it did not.
    streams_since_ms: Option<u64>,
}

/// What became of asking AWS to stop a host, in the order in which it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostStop {
    /// It did not work, though AWS may have heard of it.
    Failed,
    UnderWay,
    Stopped,
}

/// What the old primary, or its agent, is asked for in a planned change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planned {
    Checkpoint,
    Stop,
}

/// Of the present step of a restart.
#[derive(Debug, Clone)]
struct RestartWatch {
    step: (u64, String, RestartStage),
    since_ms: u64,
    failures: u32,
    error: Option<String>,
    /// Where the primary was when the server was back: it has caught up when it has replayed that.
    primary_lsn: Option<Lsn>,
}

impl Memory {
    /// Takes in what is so now. To be called before each decision.
    pub fn look(&mut self, state: &ClusterState, view: &View, now_ms: u64) {
        let primary = state.primary();
        let fence = state.fences().iter().find(|fence| fence.fenced == Fenced::Primary);
        let phase = match (primary.stage, fence) {
            _ if primary.server.is_none() => Phase::Settled,
            (_, Some(fence)) if fence.passed => Phase::Passed,
            (_, Some(_)) => Phase::Fenced,
            (Stage::Named, None) => Phase::Named,
            (Stage::Confirmed, None) if state.holds() => Phase::Holding,
            (Stage::Confirmed, None) if state.failover().is_some() => Phase::Preparing,
            (Stage::Confirmed, None) => Phase::Settled,
        };
        let kind = state.failover().map(|failover| failover.kind);
        // One that begins as a planned change has to stop the standbys' receivers and to compare them still.
        let compares =
            phase == Phase::Passed && matches!(kind, Some(FailoverKind::Automatic | FailoverKind::Forced));
        if (phase, primary.epoch, compares) != (self.phase, self.epoch, self.compares) {
            self.look_at_lives(phase, kind, now_ms);
            self.compares = compares;
            // What a new leader finds settled has been so for long, as far as anybody knows.
            let since_ms = if self.looked || phase != Phase::Settled { now_ms } else { 0 };
            (self.phase, self.epoch, self.phase_since_ms) = (phase, primary.epoch, since_ms);
            if phase == Phase::Named {
                let since_ms = primary.server.as_ref().and_then(|named| self.would_wait.get(named));
                let is_known = since_ms.is_some_and(|since_ms| now_ms >= since_ms + CHECKPOINTER_READS_MS);
                self.waits_in = is_known.then_some(primary.epoch);
            }
            self.replayed = None;
        }
        self.looked = true;
        self.orders_end.look(now_ms);
        self.look_at_heirs(view, now_ms);
        self.saw_no_primary |= primary.epoch == Epoch::default();
        self.look_at_setting(state, view, now_ms);
        let starts_up = primary.server.as_ref().is_some_and(|id| {
            let server = state.servers().get(id);
            server.is_some_and(|server| server.reports.values().any(|report| report.claim.starting_up))
        });
        self.starting_up_since_ms = starts_up.then(|| self.starting_up_since_ms.unwrap_or(now_ms));
        self.look_at_replay(primary.server.as_deref(), view, now_ms);
        self.look_for_the_astray(state, view, now_ms);
        // What is restarted by order comes back by itself.
        let waits = self.phase == Phase::Settled
            && state.restart().is_none()
            && primary.server.as_ref().and_then(|id| missing_at(view, id)).is_some_and(|missing| missing > 0);
        self.commits_wait_since_ms = waits.then(|| self.commits_wait_since_ms.unwrap_or(now_ms));
        self.look_at_restart(state, view, now_ms);
        if self.phase == Phase::Settled {
            self.returning.look(state, view);
        }
    }

    fn look_at_restart(&mut self, state: &ClusterState, view: &View, now_ms: u64) {
        let Some((restart, step)) = state.restart().and_then(|restart| Some((restart, restart.step()?)))
        else {
            self.restart = None;
            return;
        };
        let key = (restart.id, step.server.clone(), step.stage);
        let watch = match self.restart.take() {
            Some(watch) if watch.step == key => watch,
            _ => RestartWatch { step: key, since_ms: now_ms, failures: 0, error: None, primary_lsn: None },
        };
        let watch = self.restart.insert(watch);
        let facts = view.find(&step.server).and_then(|(_, detail)| detail.facts.as_ref());
        if watch.primary_lsn.is_none() && facts.is_some_and(|facts| facts.started_at_ms != step.started_at_ms)
        {
            watch.primary_lsn = Some(view.primary_lsn);
        }
    }

    pub fn restart_failed(&mut self, server: &str, error: &str) {
        if let Some(watch) = self.restart.as_mut().filter(|watch| watch.step.1 == server) {
            (watch.failures, watch.error) = (watch.failures + 1, Some(error.to_owned()));
        }
    }

    /// How many tries of this stage have failed, and how the last one did.
    pub(super) fn restart_failures(&self) -> (u32, Option<&str>) {
        self.restart.as_ref().map_or((0, None), |watch| (watch.failures, watch.error.as_deref()))
    }

    /// How long the present step of a restart is where it is.
    pub(super) fn restart_for_ms(&self, now_ms: u64) -> u64 {
        self.restart.as_ref().map_or(0, |watch| now_ms.saturating_sub(watch.since_ms))
    }

    pub(super) fn has_caught_up(&self, facts: Option<&Facts>) -> bool {
        let target = self.restart.as_ref().and_then(|watch| watch.primary_lsn);
        target.zip(facts).is_some_and(|(target, facts)| facts.lsn >= target)
    }

    /// Called when the phase changes.
    fn look_at_lives(&mut self, phase: Phase, kind: Option<FailoverKind>, now_ms: u64) {
        match (self.phase, phase, kind) {
            (Phase::Settled, Phase::Fenced | Phase::Passed, Some(FailoverKind::Automatic)) => {
                let is_short = self.phase_for_ms(now_ms) < 2 * self.settle_ms() + SHORT_MS;
                self.short_lived = if is_short { self.short_lived + 1 } else { 0 };
            }
            // Somebody looks after it.
            (_, _, Some(FailoverKind::Switchover | FailoverKind::Forced | FailoverKind::Restart)) => {
                self.short_lived = 0
            }
            _ => {}
        }
    }

    /// How long a primary must have been one before it is replaced without an order.
    pub(super) fn settle_ms(&self) -> u64 {
        (SETTLE_FIRST_MS << self.short_lived.min(16)).min(SETTLE_LAST_MS)
    }

    fn look_at_setting(&mut self, state: &ClusterState, view: &View, now_ms: u64) {
        let primary = state.primary();
        let Some(server) = primary.server.as_deref().filter(|_| self.phase == Phase::Settled) else { return };
        if self.watch.as_ref().is_none_or(|(epoch, _)| *epoch != primary.epoch) {
            // An earlier leader may have asked for something a moment ago, unless there was no primary to ask it of.
            let others_end_ms = match self.saw_no_primary && primary.epoch == Epoch(1) {
                true => now_ms,
                false => self.orders_end.of(server),
            };
            self.watch = Some((primary.epoch, Watch::begin(others_end_ms)));
        }
        let facts = view.find(server).and_then(|(_, detail)| detail.facts.as_deref());
        if let (Some((_, watch)), Some(facts)) = (&mut self.watch, facts) {
            watch.saw(facts);
            if !facts.in_recovery && !waits(facts) {
                self.waits_in = None;
            }
        }
    }

    fn look_at_heirs(&mut self, view: &View, now_ms: u64) {
        for (server, detail) in view.snapshot.servers.iter().zip(&view.details) {
            match detail.facts.as_deref() {
                Some(facts) if facts.in_recovery && waits(facts) => {
                    self.would_wait.entry(server.id.to_string()).or_insert(now_ms);
                }
                Some(_) => drop(self.would_wait.remove(&*server.id)),
                None => {}
            }
        }
    }

    /// A server, which may be the primary later, is told now whom it is to wait for.
    pub fn sends_setting(&mut self, server: &str, now_ms: u64) {
        self.orders_end.sent(server, now_ms);
    }

    pub fn sent_setting(&mut self, server: &str, now_ms: u64, is_done: bool) {
        self.orders_end.answered(server, now_ms, is_done);
    }

    /// The setting was changed, or is being changed; by then it is known whether it was.
    pub fn setting_changed(&mut self, epoch: Epoch, ended_ms: u64) {
        self.watch_anew(epoch, ended_ms);
        self.told_backends = None;
    }

    /// What is not watched yet begins with a look, and with all that an earlier leader may have asked for.
    fn watch_anew(&mut self, epoch: Epoch, ended_ms: u64) {
        if let Some((_, watch)) = self.watch.as_mut().filter(|(watched, _)| *watched == epoch) {
            *watch = watch.changed(ended_ms);
        }
    }

    /// The primary's backends have been told to wait, if they are to: only what they acknowledge from now on has waited. What
    /// they were told is not known if the setting may have changed since that was begun.
    pub fn note_backends_told(&mut self, epoch: Epoch, begun_ms: u64, now_ms: u64) {
        if !self.watch(epoch).is_some_and(|watch| watch.is_settled(begun_ms)) {
            return;
        }
        self.watch_anew(epoch, now_ms);
        (self.told_backends, self.waits_in) = (Some(epoch), Some(epoch));
    }

    /// Whether commits have surely waited, by one setting or another, since this epoch's primary was told so.
    pub(super) fn waits_in(&self, epoch: Epoch) -> bool {
        self.waits_in == Some(epoch)
    }

    pub(super) fn told_backends(&self, epoch: Epoch) -> bool {
        self.told_backends == Some(epoch)
    }

    pub(super) fn watch(&self, epoch: Epoch) -> Option<&Watch> {
        self.watch.as_ref().filter(|(watched, _)| *watched == epoch).map(|(_, watch)| watch)
    }

    fn look_at_replay(&mut self, named: Option<&str>, view: &View, now_ms: u64) {
        if self.phase != Phase::Named {
            return;
        }
        let found = named.and_then(|id| view.find(id));
        let lsn = found.and_then(|(_, detail)| detail.facts.as_ref()).map_or(Lsn(0), |facts| facts.lsn);
        match self.replayed {
            Some((before, _)) if before >= lsn => {}
            _ => self.replayed = Some((lsn, now_ms)),
        }
    }

    fn look_for_the_astray(&mut self, state: &ClusterState, view: &View, now_ms: u64) {
        let primary = state.primary().server.as_deref().and_then(|primary| view.find(primary));
        let is_there = primary.is_some_and(|(primary, _)| primary.health == Health::Up);
        if self.phase != Phase::Settled || !is_there {
            // Nobody can stream from a primary that is not there.
            self.astray.clear();
            self.missing_wal.clear();
            return;
        }
        let standby = |id: &str| {
            let facts = view.find(id).and_then(|(_, detail)| detail.facts.as_deref());
            facts.filter(|facts| facts.in_recovery && view.identity.get() == Some(facts.system_identifier))
        };
        let streams = |facts: &Facts| {
            let timeline = facts.receiver.as_ref().and_then(|receiver| receiver.timeline);
            timeline.is_some_and(|timeline| timeline >= state.primary().timeline)
        };
        for id in state.servers().keys() {
            if let Some(facts) = standby(id).filter(|facts| !streams(facts)) {
                let (lsn, lsn_since_ms) = (facts.lsn, facts.asked_at_ms);
                let begun = Astray { since_ms: now_ms, lsn, lsn_since_ms, streams_since_ms: None };
                self.astray.entry(id.clone()).or_insert(begun);
            }
        }
        self.astray.retain(|id, astray| {
            let Some(facts) = standby(id).filter(|_| state.servers().contains_key(id)) else { return false };
            if facts.lsn > astray.lsn {
                (astray.lsn, astray.lsn_since_ms) = (facts.lsn, facts.asked_at_ms);
                if facts.receiver.is_none() {
                    // It replays what it has, and asks for more behind that only.
                    astray.since_ms = now_ms;
                }
            }
            match streams(facts) {
                true => astray.streams_since_ms = astray.streams_since_ms.or(Some(facts.asked_at_ms)),
                false => astray.streams_since_ms = None,
            }
            let steady = astray.streams_since_ms.map(|since_ms| since_ms + STREAMS_STEADILY_MS);
            steady.is_none_or(|steady_ms| facts.asked_at_ms < steady_ms)
        });
        self.missing_wal.retain(|id| self.astray.contains_key(id));
    }

    /// AWS was asked to stop the host of this server, and that is how it went. A later question may fail as well.
    pub fn stops_host(&mut self, server: &str, epoch: Epoch, now_ms: u64, went: HostStop) {
        let (since_ms, went) = match &self.host {
            Some((known, of, since_ms, before)) if known == server && *of == epoch => {
                (*since_ms, went.max(*before))
            }
            _ => (now_ms, went),
        };
        self.host = Some((server.to_owned(), epoch, since_ms, went));
    }

    pub(super) fn host_stopped(&self, epoch: Epoch) -> bool {
        self.host_is(epoch, HostStop::Stopped)
    }

    /// AWS was asked, and has not said that it stops it.
    pub(super) fn host_refused(&self, epoch: Epoch) -> bool {
        self.host_is(epoch, HostStop::Failed)
    }

    fn host_is(&self, epoch: Epoch, as_it_went: HostStop) -> bool {
        self.host.as_ref().is_some_and(|(_, of, _, went)| *of == epoch && *went == as_it_went)
    }

    /// Whose host is being stopped, for which epoch and since when.
    pub(super) fn stopping_host(&self) -> Option<(&str, Epoch, u64)> {
        let (server, epoch, since_ms, went) = self.host.as_ref()?;
        (*went != HostStop::Stopped).then_some((server, *epoch, *since_ms))
    }

    pub fn note_checkpoint(&mut self, epoch: Epoch) {
        self.checkpointed = Some(epoch);
    }

    pub(super) fn checkpointed(&self, epoch: Epoch) -> bool {
        self.checkpointed == Some(epoch)
    }

    pub fn planned_failed(&mut self, epoch: Epoch, what: Planned) {
        self.failed = Some((epoch, what, self.planned_failures(epoch, what) + 1));
    }

    pub(super) fn planned_failures(&self, epoch: Epoch, what: Planned) -> u32 {
        let known = self.failed.filter(|(failed, which, _)| (*failed, *which) == (epoch, what));
        known.map_or(0, |(_, _, failures)| failures)
    }

    /// The named server is ordered to become the primary now.
    pub fn orders_promotion(&mut self, epoch: Epoch, now_ms: u64) {
        self.promotes = Some((epoch, now_ms));
    }

    /// Whether such an order of the last `within_ms` may still be on its way.
    pub(super) fn promotion_ordered(&self, epoch: Epoch, within_ms: u64, now_ms: u64) -> bool {
        self.promotes.is_some_and(|(ordered, at_ms)| ordered == epoch && now_ms < at_ms + within_ms)
    }

    /// The old primary was stopped cleanly; the last record of its log begins there.
    pub fn stopped(&mut self, epoch: Epoch, last: Lsn) {
        self.stopped = Some((epoch, last));
    }

    pub(super) fn last_record(&self, epoch: Epoch) -> Option<Lsn> {
        self.stopped.filter(|(stopped, _)| *stopped == epoch).map(|(_, last)| last)
    }

    /// Whom commits wait for is about to be agreed on anew: until then another failover may not be possible.
    pub fn has_new_primary(&self, now_ms: u64) -> bool {
        self.phase == Phase::Settled && self.phase_for_ms(now_ms) < FOLLOWS_WITHIN_MS
    }

    /// The others have only been told of it.
    pub(super) fn has_just_a_primary(&self, now_ms: u64) -> bool {
        self.phase == Phase::Settled && self.phase_for_ms(now_ms) < SETTLE_FIRST_MS
    }

    /// How long it is as it is: held, fenced, passed, named, settled.
    pub(super) fn phase_for_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.phase_since_ms)
    }

    pub(super) fn starting_up_for_ms(&self, now_ms: u64) -> Option<u64> {
        self.starting_up_since_ms.map(|since_ms| now_ms.saturating_sub(since_ms))
    }

    /// How long the server that is being promoted has replayed nothing more.
    pub(super) fn stuck_for_ms(&self, now_ms: u64) -> u64 {
        self.replayed.map_or(0, |(_, since_ms)| now_ms.saturating_sub(since_ms))
    }

    /// What a server that was quarantined must have received before it has again all that it ever acknowledged. None: it is
    /// not known yet.
    pub(super) fn must_have(&self, server: &str, facts: &Facts) -> Option<Lsn> {
        self.returning.must_have(server, facts)
    }

    /// Its agent says that the primary no longer has the log which this standby goes on from.
    pub fn misses_wal(&mut self, server: &str) {
        self.missing_wal.insert(server.to_owned());
    }

    pub(super) fn is_missing_wal(&self, server: &str) -> bool {
        self.missing_wal.contains(server)
    }

    /// Its agent is told to make it rejoin, the first time or again.
    pub fn rejoins(&mut self, server: &str, view: &View) {
        let facts = view.find(server).and_then(|(_, detail)| detail.facts.as_deref());
        self.rejoins.entry(server.to_owned()).or_insert(facts.map(|facts| facts.started_at_ms));
    }

    /// It has, or it could not.
    pub fn rejoin_ended(&mut self, server: &str) {
        self.rejoins.remove(server);
    }

    /// Whether its agent may stop it any moment, whatever it does until then.
    pub(super) fn is_about_to_rejoin(&self, server: &str, facts: &Facts) -> bool {
        self.rejoins.get(server).is_some_and(|life| *life == Some(facts.started_at_ms))
    }

    pub(super) fn commits_wait_for_ms(&self, now_ms: u64) -> u64 {
        self.commits_wait_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }

    /// Whether a standby that does not stream has come to the end of what it can replay.
    pub(super) fn replays_nothing(&self, server: &str, facts: &Facts) -> bool {
        let astray = self.astray.get(server).filter(|astray| astray.lsn == facts.lsn);
        astray.is_some_and(|astray| facts.asked_at_ms >= astray.lsn_since_ms + REPLAYS_ON_MS)
    }

    pub(super) fn astray_for_ms(&self, server: &str, now_ms: u64) -> u64 {
        let astray = self.astray.get(server).filter(|astray| astray.streams_since_ms.is_none());
        astray.map_or(0, |astray| now_ms.saturating_sub(astray.since_ms))
    }
}
