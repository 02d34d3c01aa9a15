//! Changes that the log did not take, so that each is proposed again now and then only, however many there are.
//!
//! Pure.

use crate::cluster::state::Change;

/// Before a decision that was refused is made again.
const AGAIN_AFTER_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub(super) struct RefusedSteps(Vec<(Change, u64)>);

impl RefusedSteps {
    /// Whether it was refused a moment ago.
    pub fn is_recent(&mut self, change: &Change, now_ms: u64) -> bool {
        self.0.retain(|(_, at_ms)| now_ms.saturating_sub(*at_ms) < AGAIN_AFTER_MS);
        self.0.iter().any(|(refused, _)| refused == change)
    }

    pub fn note(&mut self, change: Change, now_ms: u64) {
        self.0.push((change, now_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_that_are_refused_by_turns_wait_each_for_its_own_time() {
        let change = |node: &str| Change::ForgetReports { node: node.to_owned() };
        let mut refused = RefusedSteps::default();
        let mut proposed = Vec::new();
        for now_ms in (0..=2_000).step_by(20) {
            for node in ["a", "b"] {
                if !refused.is_recent(&change(node), now_ms) {
                    refused.note(change(node), now_ms);
                    proposed.push((node, now_ms));
                }
            }
        }
        let times = [0, 1_000, 2_000].into_iter();
        assert_eq!(proposed, times.flat_map(|at| [("a", at), ("b", at)]).collect::<Vec<_>>());
        assert_eq!(refused.0.len(), 2, "what is over is forgotten");
    }
}
