//! When the cluster's log format is raised.
//!
//! Pure. Invariant: only what every member has said that it knows, the proxies too, and each of them lately; and only
//! after that has been so for a while, in which the nodes can still go back to the version before.

use crate::cluster::state::{Change, ClusterState};
use crate::consensus::node::Leading;

/// One leader's.
#[derive(Debug, Default)]
pub(super) struct Raising {
    /// What all have known since when.
    known: Option<(u32, u64)>,
}

/// How long is lately, and how long a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub lease_ms: u64,
    pub after_ms: u64,
}

impl Raising {
    /// What is now to be proposed.
    pub fn look(
        &mut self,
        state: &ClusterState,
        leading: &Leading,
        times: Times,
        now_ms: u64,
    ) -> Option<Change> {
        let from = state.log_format();
        let knows = |raft_id: &u64| {
            let asked_ms = leading.asked.get(raft_id)?;
            let is_lately = now_ms.saturating_sub(*asked_ms) < times.lease_ms;
            leading.log_formats.get(raft_id).copied().filter(|_| is_lately)
        };
        // Who is silent may be of any version.
        let all: Option<Vec<u32>> = state.members().values().map(|member| knows(&member.raft_id)).collect();
        let Some(to) = all.and_then(|all| all.into_iter().min()).filter(|to| *to > from) else {
            self.known = None;
            return None;
        };
        let since_ms = match self.known {
            Some((known, since_ms)) if known == to => since_ms,
            _ => now_ms,
        };
        self.known = Some((to, since_ms));
        let is_due = now_ms.saturating_sub(since_ms) >= times.after_ms;
        is_due.then_some(Change::RaiseLogFormat { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Command, Member, MemberRole, Outcome};

    const TIMES: Times = Times { lease_ms: 900, after_ms: 10_000 };

    fn apply(state: &mut ClusterState, change: Change) -> Outcome {
        let (node, cause, reason) = ("a".to_owned(), "decision".to_owned(), "test".to_owned());
        state.apply(Command { at_ms: 0, node, cause, reason, change })
    }

    fn created() -> ClusterState {
        let mut state = ClusterState::default();
        let member = |(id, raft_id, role): (&str, u64, MemberRole)| Member {
            id: id.to_owned(),
            raft_id,
            incarnation: 1,
            address: format!("{id}:1"),
            role,
        };
        let voters = [("a", 1, MemberRole::Voter), ("b", 2, MemberRole::Voter), ("c", 3, MemberRole::Voter)];
        let members = voters.into_iter().chain([("proxy", 4, MemberRole::Proxy)]).map(member).collect();
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        apply(&mut state, Change::CreateCluster { cluster_id, members, configuration });
        state
    }

    /// What each of them knows, all heard at that time.
    fn leading(at_ms: u64, knows: [u32; 4]) -> Leading {
        let by_id = || (1..=4).zip(knows);
        Leading {
            term: 1,
            since_ms: 0,
            contact_ms: Some(at_ms),
            asked: by_id().map(|(id, _)| (id, at_ms)).collect(),
            unable: Default::default(),
            log_formats: by_id().collect(),
            configurations: Default::default(),
        }
    }

    #[test]
    fn it_rises_to_what_all_have_known_for_a_while_and_no_further() {
        let (mut state, mut raising) = (created(), Raising::default());
        let mut look =
            |state: &ClusterState, now_ms, knows| raising.look(state, &leading(now_ms, knows), TIMES, now_ms);
        assert_eq!(look(&state, 0, [1, 1, 1, 0]), None, "a proxy reads the log too");
        assert_eq!(look(&state, 20_000, [1, 1, 1, 0]), None);
        assert_eq!(look(&state, 30_000, [1, 1, 1, 1]), None, "they may still go back");
        assert_eq!(look(&state, 35_000, [1, 1, 0, 1]), None, "one has");
        assert_eq!(look(&state, 36_000, [1, 1, 1, 1]), None);
        assert_eq!(look(&state, 45_999, [1, 1, 1, 1]), None);
        let raise = Change::RaiseLogFormat { from: 0, to: 1 };
        assert_eq!(look(&state, 46_000, [2, 1, 1, 1]), Some(raise.clone()));
        assert!(matches!(apply(&mut state, raise), Outcome::Accepted(_)));
        assert_eq!(state.log_format(), 1);
        assert_eq!(look(&state, 90_000, [2, 1, 1, 1]), None, "one of them knows no more");
    }

    #[test]
    fn who_is_silent_may_be_of_any_version() {
        let state = created();
        let times = Times { after_ms: 0, ..TIMES };
        let mut all = leading(5_000, [1; 4]);
        assert!(Raising::default().look(&state, &all, times, 5_899).is_some());
        assert_eq!(Raising::default().look(&state, &all, times, 5_900), None);
        all.asked.remove(&2);
        assert_eq!(Raising::default().look(&state, &all, times, 5_000), None);
    }
}
