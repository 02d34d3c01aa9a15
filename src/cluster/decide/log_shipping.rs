//! Standbys that read the primary's archive rather than stream: what one of them lacks, and when that is accepted.
//!
//! Pure. Such a standby has nothing of the segment that is being written, so it is the last that is promoted, and only
//! by consent. Invariant: before it is named, it is said what may be lost.

use super::Situation;
use crate::cluster::state::Change;
use crate::config;

/// A streaming standby that is away for a moment loses less than the archive does.
pub(super) const LAST_RESORT_MS: u64 = 10_000;

pub(super) fn is_shipped(situation: &Situation<'_>, id: &str) -> bool {
    let server = situation.policy.server(id);
    server.is_some_and(|server| server.replication == config::Replication::LogShipping)
}

/// For the timeline, before that server is named.
pub(super) fn note(situation: &Situation<'_>, id: &str) -> Change {
    Change::NoteIncident { subject: id.to_owned(), text: at_stake(situation, id) }
}

/// What it has, and what of the primary is known to be beyond that.
fn at_stake(situation: &Situation<'_>, id: &str) -> String {
    let facts_of = |id: &str| situation.view.find(id).and_then(|(_, detail)| detail.facts.as_deref());
    let replayed = facts_of(id).map(|facts| facts.lsn).unwrap_or_default();
    let mut text = format!("{id} reads the archive and has replayed up to {replayed}");
    let view = situation.view;
    let lacks = view.primary_lsn.0.saturating_sub(replayed.0);
    let seen_ms = situation.now_ms.saturating_sub(view.primary_asked_at_ms);
    let old = situation.state.failover().map(|failover| failover.from.as_str()).unwrap_or("the primary");
    text +=
        &format!("; {old} was last seen at {}, {lacks} bytes further, {seen_ms} ms ago", view.primary_lsn);
    match facts_of(old)
        .and_then(|facts| Some((facts.archive.as_ref()?, facts.archived_ms_ago(situation.now_ms))))
    {
        Some((archive, age_ms)) => {
            if let (Some(last), Some(age_ms)) = (&archive.last, age_ms) {
                text += &format!("; it archived {last} {age_ms} ms ago");
            }
            if archive.fails {
                text += ", and could archive nothing more";
            }
        }
        None => text += "; nothing is known of its archiving",
    }
    text + ". What was committed after what the archive has is lost"
}
