//! What the checker of plans has rejected: told once, and taken back when it is over.
//!
//! Pure. Invariant: a rejection is in the log until a leader's plans have been without one for `OVER_AFTER_MS`, and what is
//! rejected again and again makes one entry, not hundreds.

use crate::cluster::decide::check::Rejected;
use crate::cluster::state::Change;
use crate::telemetry::labels::Label as _;

/// Between two entries of the log.
const TELL_EVERY_MS: u64 = 10_000;
const OVER_AFTER_MS: u64 = 60_000;
/// What an entry of the timeline can hold is more.
const MAX_TEXT: usize = 400;

/// One leader's.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    told_ms: Option<u64>,
    /// Without one since then.
    since_ms: Option<u64>,
}

impl Rejections {
    /// What is now to be told. `known`: what the log says already.
    pub fn look(&mut self, rejected: &[Rejected], known: Option<&str>, now_ms: u64) -> Option<Change> {
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        let Some(first) = rejected.first() else {
            let is_over = known.is_some() && now_ms.saturating_sub(since_ms) >= OVER_AFTER_MS;
            return is_over.then_some(Change::NoteRejected { what: None });
        };
        self.since_ms = Some(now_ms);
        let what = in_words(first, rejected.len() - 1);
        let is_soon = self.told_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < TELL_EVERY_MS);
        if known == Some(&*what) || is_soon {
            return None;
        }
        self.told_ms = Some(now_ms);
        Some(Change::NoteRejected { what: Some(what) })
    }
}

fn in_words(first: &Rejected, others: usize) -> String {
    let more = if others > 0 { format!(", and {others} more") } else { String::new() };
    let what: String = first.what.chars().take(MAX_TEXT).collect();
    format!("{what}, against the rule {}{more}", first.rule.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::reason::Reason;
    use crate::cluster::state::{ClusterState, Command, Outcome};
    use crate::telemetry::labels::Rule;

    fn apply(state: &mut ClusterState, change: Change) {
        let (node, cause) = ("a".to_owned(), "decision".to_owned());
        let reason = Reason::PlanRejected.code().to_owned();
        let outcome = state.apply(Command { at_ms: 0, node, cause, reason, change });
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }

    #[test]
    fn what_is_rejected_again_and_again_is_told_once_and_taken_back_when_it_is_over() {
        let mut state = ClusterState::default();
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        apply(&mut state, Change::CreateCluster { cluster_id, members: Vec::new(), configuration });
        let mut rejections = Rejections::default();
        let rejected = |what: &str| Rejected { rule: Rule::Fence, what: what.to_owned() };
        let mut look = |state: &mut ClusterState, rejected: &[Rejected], now_ms| {
            let change = rejections.look(rejected, state.rejected(), now_ms);
            change.map(|change| apply(state, change)).is_some()
        };
        assert!(!look(&mut state, &[], 0), "nothing is the matter");
        assert!(look(&mut state, &[rejected("promote pg2")], 1_000));
        assert_eq!(state.rejected(), Some("promote pg2, against the rule fence"));
        assert!(!look(&mut state, &[rejected("promote pg2")], 1_020));
        let others = [rejected("promote pg3"), rejected("promote pg2")];
        assert!(!look(&mut state, &others, 1_040), "in a while");
        assert!(look(&mut state, &others, 11_000));
        assert_eq!(state.rejected(), Some("promote pg3, against the rule fence, and 1 more"));
        assert!(!look(&mut state, &[], 70_999));
        assert!(look(&mut state, &[], 71_000));
        assert_eq!(state.rejected(), None);
        let told: Vec<_> = state.incidents().after(0).map(|incident| incident.reason.clone()).collect();
        assert_eq!(told[1..], ["plan_rejected"; 3]);
    }
}
