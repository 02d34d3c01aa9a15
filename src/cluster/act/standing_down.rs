//! When a leader that cannot use the cluster's configuration leaves the lead to one that can, and what it says of itself.
//!
//! Pure. Invariant: it does so only while nothing is under way that a change of the leader would delay, and only if another
//! voter has said lately that it goes by what was agreed on.

use crate::cluster::state::{ClusterState, MemberRole};
use crate::consensus::node::Leading;

/// Every node takes a new configuration within moments.
const TAKEN_WITHIN_MS: u64 = 3_000;
/// If nobody else was elected: before the next attempt.
const AGAIN_AFTER_MS: u64 = 60_000;

/// One leader's.
#[derive(Debug, Default)]
pub(super) struct StandingDown {
    /// The version that it does not go by, and since when.
    behind: Option<(u64, u64)>,
    told: Option<u64>,
    tried_ms: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Behind {
    Fine,
    /// In these words, once for each version.
    Say(String),
    StandDown,
}

/// Who leads, and what it needs to know of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Me<'a> {
    pub node: &'a str,
    /// The version that it goes by.
    pub goes_by: u64,
    pub lease_ms: u64,
}

impl StandingDown {
    pub fn look(&mut self, state: &ClusterState, leading: &Leading, me: Me<'_>, now_ms: u64) -> Behind {
        let agreed = state.configuration().version();
        if me.goes_by == agreed {
            *self = StandingDown::default();
            return Behind::Fine;
        }
        let since_ms = match self.behind {
            Some((version, since_ms)) if version == agreed => since_ms,
            _ => now_ms,
        };
        self.behind = Some((agreed, since_ms));
        if now_ms.saturating_sub(since_ms) < TAKEN_WITHIN_MS {
            return Behind::Fine;
        }
        if self.told != Some(agreed) {
            self.told = Some(agreed);
            let own = match me.goes_by {
                0 => "what it was started with".to_owned(),
                version => format!("version {version}"),
            };
            return Behind::Say(format!(
                "{} leads and cannot use version {agreed} of the cluster's configuration, so it goes by {own}; its log names what \
                 it does not know",
                me.node
            ));
        }
        let is_soon = self.tried_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < AGAIN_AFTER_MS);
        let is_busy = state.failover().is_some() || !state.fences().is_empty();
        if is_soon || is_busy || !could_another(state, leading, me, now_ms) {
            return Behind::Fine;
        }
        self.tried_ms = Some(now_ms);
        Behind::StandDown
    }
}

/// And most of the voters live, without whom nobody is elected.
fn could_another(state: &ClusterState, leading: &Leading, me: Me<'_>, now_ms: u64) -> bool {
    let agreed = state.configuration().version();
    let voters = || state.members().values().filter(|member| member.role == MemberRole::Voter);
    let lives = |raft_id: &u64| {
        leading.asked.get(raft_id).is_some_and(|at_ms| now_ms.saturating_sub(*at_ms) < me.lease_ms)
    };
    let living = voters().filter(|voter| voter.id == me.node || lives(&voter.raft_id));
    let could = voters()
        .filter(|voter| voter.id != me.node && lives(&voter.raft_id))
        .any(|voter| leading.configurations.get(&voter.raft_id).is_some_and(|goes_by| *goes_by >= agreed));
    could && living.count() > voters().count() / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Change, Command, FailoverKind, Member, Outcome};

    const LEASE_MS: u64 = 900;

    fn apply(state: &mut ClusterState, change: Change) {
        let (node, cause, reason) = ("a".to_owned(), "test".to_owned(), String::new());
        let outcome = state.apply(Command { at_ms: 0, node, cause, reason, change });
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }

    /// Version 2 of a configuration, and a primary.
    fn state() -> ClusterState {
        let mut state = ClusterState::default();
        let members = [("a", 1), ("b", 2), ("c", 3)].map(|(id, raft_id)| Member::voter(id, raft_id)).to_vec();
        let (cluster_id, configuration) = ("x".to_owned(), "one".to_owned());
        apply(&mut state, Change::CreateCluster { cluster_id, members, configuration });
        apply(&mut state, Change::SetServers { servers: vec!["pg1".to_owned(), "pg2".to_owned()] });
        let (epoch, server) = (state.primary().epoch, "pg1".to_owned());
        apply(&mut state, Change::NamePrimary { epoch, server, promotes: false });
        apply(&mut state, Change::ApplyConfiguration { version: 1, text: "two".to_owned(), servers: None });
        state
    }

    /// Node a leads; each of the others was last heard then, and goes by that.
    fn leading(others: [(u64, u64); 2]) -> Leading {
        let by_id = || (2..=3).zip(others);
        Leading {
            term: 1,
            since_ms: 0,
            contact_ms: None,
            asked: by_id().map(|(id, (asked_ms, _))| (id, asked_ms)).collect(),
            unable: Default::default(),
            log_formats: Default::default(),
            configurations: by_id().map(|(id, (_, goes_by))| (id, goes_by)).collect(),
        }
    }

    fn me(goes_by: u64) -> Me<'static> {
        Me { node: "a", goes_by, lease_ms: LEASE_MS }
    }

    #[test]
    fn it_says_so_once_and_leaves_the_lead_to_one_that_goes_by_what_was_agreed_on() {
        let (state, mut standing_down) = (state(), StandingDown::default());
        let mut look = |now_ms, goes_by| {
            standing_down.look(&state, &leading([(now_ms, 1), (now_ms, 2)]), me(goes_by), now_ms)
        };
        assert_eq!(look(10_000, 1), Behind::Fine, "it may be about to take it");
        assert_eq!(look(12_000, 2), Behind::Fine);
        assert_eq!(look(20_000, 1), Behind::Fine, "from here on");
        let said = look(23_000, 1);
        assert!(
            matches!(&said, Behind::Say(text) if text.starts_with("a leads and cannot use version 2 ")),
            "{said:?}"
        );
        assert_eq!(look(23_050, 1), Behind::StandDown);
        assert_eq!(look(23_100, 1), Behind::Fine);
        assert_eq!(look(83_049, 1), Behind::Fine);
        assert_eq!(look(83_050, 1), Behind::StandDown, "nobody was elected the last time");
        assert_eq!(look(90_000, 2), Behind::Fine);
        assert_eq!(look(95_000, 1), Behind::Fine, "it begins anew");
    }

    #[test]
    fn it_leads_on_while_nobody_else_could_or_something_is_under_way() {
        let late = |state: &ClusterState, others| {
            let mut standing_down = StandingDown::default();
            let mut look = |now_ms| standing_down.look(state, &leading(others), me(1), now_ms);
            (look(20_000), look(24_000), look(24_050)).2
        };
        let mut state = state();
        let (now_ms, silent_ms) = (24_000, 23_000);
        assert_eq!(late(&state, [(now_ms, 1), (now_ms, 2)]), Behind::StandDown);
        assert_eq!(
            late(&state, [(silent_ms, 1), (now_ms, 2)]),
            Behind::StandDown,
            "the two of them are enough"
        );
        assert_eq!(late(&state, [(now_ms, 1), (now_ms, 1)]), Behind::Fine);
        assert_eq!(late(&state, [(now_ms, 1), (silent_ms, 2)]), Behind::Fine, "it does not live");
        let epoch = state.primary().epoch;
        apply(&mut state, Change::BeginFailover { epoch, kind: FailoverKind::Switchover, to: None });
        assert_eq!(late(&state, [(now_ms, 1), (now_ms, 2)]), Behind::Fine);
    }
}
