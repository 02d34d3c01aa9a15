//! Which standby is to be promoted.
//!
//! Pure. The one that has received most, on the timeline of the ended epoch, and no other than one that is attached,
//! answers and may be one. Invariant: with a guarantee of synchronous commits nobody is named without an order unless so
//! many of the synchronous standbys answer that one of them has every commit that was acknowledged. Where that guarantee
//! is demanded and not given yet, nobody is.

use super::{Situation, log_shipping};
use crate::cluster::model::Facts;
use crate::cluster::reason::Reason;
use crate::cluster::state::{Administrative, FailoverKind, Fenced};
use crate::topology::{Health, Lsn};

/// A standby of which this can be said: it answers, it is a standby, and all it has received is known.
pub(super) struct Standby<'a> {
    pub id: &'a str,
    pub facts: &'a Facts,
}

impl Standby<'_> {
    /// What it has, replayed or not: promoting replays all of it.
    pub fn position(&self) -> Lsn {
        self.facts.received_lsn.unwrap_or_default().max(self.facts.lsn)
    }

    /// After a start it replays what is in its `pg_wal`, and only behind that it asks to be sent more: from then on PostgreSQL
    /// names a position. Until then it may have more than it says.
    pub fn knows_all_it_has(&self) -> bool {
        self.facts.received_lsn.is_some()
    }

    pub fn receives(&self) -> bool {
        self.facts.receiver.is_some()
    }
}

/// Attached, answering, in recovery, of this cluster, on the ended epoch's timeline.
pub(super) fn standbys<'a>(situation: &'a Situation<'_>) -> impl Iterator<Item = Standby<'a>> {
    let attached = situation.state.servers().iter();
    let attached = attached.filter(|(_, server)| server.administrative == Administrative::Attached);
    attached.filter_map(|(id, _)| {
        let (state, detail) = situation.view.find(id)?;
        let facts = detail.facts.as_deref()?;
        let answers = state.health == Health::Up && detail.failures == 0;
        let ours = situation.view.identity.get() == Some(facts.system_identifier);
        (answers && ours && facts.in_recovery).then_some(Standby { id, facts })
    })
}

/// Whether a standby has said so since the epoch ended, once it has: only then it has told all that it was sent of it. A
/// switchover looks for the old primary's last record instead.
pub(super) fn is_asked_since_fenced(situation: &Situation<'_>, standby: &Standby<'_>) -> bool {
    let fence = situation.state.fences().iter().find(|fence| fence.fenced == Fenced::Primary);
    let kind = situation.state.failover().map(|failover| failover.kind);
    let is_compared = matches!(kind, Some(FailoverKind::Automatic | FailoverKind::Forced));
    let passed_ms = situation.now_ms.saturating_sub(situation.memory.phase_for_ms(situation.now_ms));
    !is_compared || !fence.is_some_and(|fence| fence.passed) || standby.facts.asked_at_ms > passed_ms
}

/// Another one than the primary whose epoch it is.
pub(super) fn choose(
    situation: &Situation<'_>,
    kind: FailoverKind,
    wanted: Option<&str>,
) -> Result<String, Reason> {
    let primary = situation.state.primary().server.as_deref();
    best_of(situation, kind, wanted, &|standby| Some(standby.id) != primary)
}

/// Whoever it is, the one that was named and never became a primary as well: once its epoch has ended, and the order to
/// promote it with it.
pub(super) fn choose_any(
    situation: &Situation<'_>,
    kind: FailoverKind,
    wanted: Option<&str>,
) -> Result<String, Reason> {
    best_of(situation, kind, wanted, &|_| true)
}

fn best_of(
    situation: &Situation<'_>,
    kind: FailoverKind,
    wanted: Option<&str>,
    is_eligible: &dyn Fn(&Standby<'_>) -> bool,
) -> Result<String, Reason> {
    // One that hangs before anybody has noticed may have had more since it last answered.
    let standbys = || standbys(situation).filter(move |standby| is_asked_since_fenced(situation, standby));
    let timeline = situation.last_timeline();
    let on_timeline = |standby: &Standby<'_>| timeline == 0 || standby.facts.timeline == timeline;
    let may = |standby: &Standby<'_>| {
        let config = situation.policy.server(standby.id);
        on_timeline(standby) && is_eligible(standby) && config.is_some_and(|config| !config.disallow_failover)
    };
    let furthest = |shipped: bool| {
        standbys()
            .filter(may)
            .filter(|standby| wanted.is_none_or(|wanted| wanted == standby.id))
            .filter(|standby| log_shipping::is_shipped(situation, standby.id) == shipped)
            .max_by(|a, b| a.position().cmp(&b.position()).then_with(|| b.id.cmp(a.id)))
    };
    // One that reads the archive lacks what is not there yet, however far it has come.
    let best = match (furthest(false), furthest(true), kind) {
        (Some(best), _, _) => best,
        // The last word of a primary that is stopped never comes into the archive.
        (None, None, _) | (None, Some(_), FailoverKind::Switchover) => return Err(Reason::NoCandidate),
        (None, Some(_), FailoverKind::Automatic) if !situation.policy.failover.promote_log_shipped => {
            return Err(Reason::OnlyLogShipped);
        }
        (None, Some(best), _) => best,
    };
    // Ordered at once, a loss is accepted; ordered with a clean stop, the old primary's last word is waited for.
    if kind == FailoverKind::Automatic {
        if situation.requires() && !situation.promises() {
            return Err(Reason::NothingPromised);
        }
        let answering: Vec<_> = standbys().filter(on_timeline).filter(Standby::knows_all_it_has).collect();
        let counted: Vec<&str> = answering.iter().map(|standby| standby.id).collect();
        // One that may not be promoted may still be the only one that has an acknowledged commit.
        let lacks = |standby: &Standby<'_>| {
            situation.state.synchronous().names.contains(standby.id) && standby.position() > best.position()
        };
        if !situation.enough_synchronous(&counted) || situation.promises() && answering.iter().any(lacks) {
            return Err(Reason::TooFewSynchronous);
        }
    }
    let limit = situation.policy.failover.max_lag_bytes;
    let lacks = last_seen(situation).0.saturating_sub(best.position().0);
    let accepted = log_shipping::is_shipped(situation, best.id);
    if kind == FailoverKind::Automatic && limit > 0 && lacks > limit && !accepted {
        return Err(Reason::CandidateLags);
    }
    Ok(best.id.to_owned())
}

/// How far the primary's log was on its disk: no commit counts before it is there, and standbys are sent no more.
fn last_seen(situation: &Situation<'_>) -> Lsn {
    let primary = situation.state.primary().server.as_deref().and_then(|id| situation.view.find(id));
    let facts = primary.and_then(|(_, detail)| detail.facts.as_deref());
    let flushed = facts.filter(|facts| !facts.in_recovery).and_then(|facts| facts.flushed_lsn);
    flushed.unwrap_or(situation.view.primary_lsn).min(situation.view.primary_lsn)
}
