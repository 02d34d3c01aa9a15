//! Where the time of an outage went, from the incident timeline and what the new owner says of its move.
//!
//! Pure. Times are wall clock, in milliseconds since 1970: on several machines they are as good as these
//! agree. Invariant: no phase is negative, and what no node accounts for is the client's.

use serde::Deserialize;

/// An entry of the timeline, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Incident {
    pub id: u64,
    pub at_ms: u64,
    pub subject: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Phase {
    pub name: String,
    pub ms: f64,
}

/// When the endpoint was taken from one node and given to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Move {
    /// If its owner had led, when another node was elected.
    pub elected_ms: Option<u64>,
    pub fenced_ms: Option<u64>,
    pub passed_ms: Option<u64>,
    pub assigned_ms: Option<u64>,
}

impl Move {
    /// The first in these incidents, which are in order. The texts are `cluster::state`'s.
    pub fn find(endpoint: &str, incidents: &[Incident]) -> Self {
        let mut found = Self::default();
        for incident in incidents.iter().filter(|incident| incident.subject == endpoint) {
            let (text, at) = (incident.text.as_str(), Some(incident.at_ms));
            if text.starts_with("epoch ") && text.ends_with(" is fenced") {
                found.fenced_ms = found.fenced_ms.or(at);
            } else if text.starts_with("nobody acts on epoch ") {
                found.passed_ms = found.passed_ms.or(at);
            } else if text.contains(" owns the endpoint in epoch ") && !text.starts_with("nobody ") {
                found.assigned_ms = found.assigned_ms.or(at);
            }
        }
        found
    }
}

/// Of the method's own: what passes beside others, or after the move. They are told and not added.
const BESIDE: [&str; 3] = ["unassociated", "in sync", "dns"];

/// What the outage was made of, in order. A moment nobody noted lends its time to the phase behind it.
pub fn phases(broken_ms: f64, moved: Move, method: &[Phase], recovered_ms: f64) -> Vec<Phase> {
    let mut at = broken_ms;
    let mut all = Vec::new();
    let steps = [
        ("election", moved.elected_ms),
        ("detection", moved.fenced_ms),
        ("fence", moved.passed_ms),
        ("assignment", moved.assigned_ms),
    ];
    for (name, moment) in steps {
        if let Some(moment) = moment {
            // The clocks of two nodes may differ by a little.
            let moment = (moment as f64).clamp(at, recovered_ms.max(at));
            all.push(Phase { name: name.to_owned(), ms: moment - at });
            at = moment;
        }
    }
    for phase in method {
        all.push(phase.clone());
        if !BESIDE.contains(&phase.name.as_str()) {
            at += phase.ms;
        }
    }
    all.push(Phase { name: "client".to_owned(), ms: (recovered_ms - at).max(0.0) });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Change, ClusterState, Command, Fenced, Member, MemberRole, Outcome};
    use crate::topology::Epoch;

    /// The timeline of a real state, to which these things happened at these times.
    fn timeline(changes: Vec<(u64, Change)>) -> Vec<Incident> {
        let mut state = ClusterState::default();
        for (at_ms, change) in changes {
            let command = Command {
                at_ms,
                node: "node2".into(),
                cause: "decision".into(),
                reason: String::new(),
                change,
            };
            let outcome = state.apply(command);
            assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        }
        let text = serde_json::to_string(&state.incidents().iter().collect::<Vec<_>>()).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn member(n: u64) -> Member {
        Member {
            id: format!("node{n}"),
            raft_id: n,
            incarnation: 1,
            address: format!("127.0.0.1:{n}"),
            role: MemberRole::Voter,
        }
    }

    fn assign(epoch: u64, owner: &str) -> Change {
        Change::AssignEndpoint { endpoint: "app".into(), epoch: Epoch(epoch), owner: Some(owner.into()) }
    }

    fn a_move() -> Vec<Incident> {
        let fenced = || Fenced::Endpoint("app".into());
        let create = Change::CreateCluster {
            cluster_id: "sandbox".into(),
            members: (1..=3).map(member).collect(),
            configuration: String::new(),
        };
        timeline(vec![
            (1_000, create),
            (1_100, assign(0, "node1")),
            (5_900, Change::OpenFence { fenced: fenced(), epoch: Epoch(1) }),
            (6_500, Change::PassFence { fenced: fenced(), epoch: Epoch(1) }),
            (6_520, assign(1, "node2")),
        ])
    }

    fn of(phases: &[Phase]) -> Vec<(&str, f64)> {
        phases.iter().map(|phase| (phase.name.as_str(), phase.ms)).collect()
    }

    #[test]
    fn a_move_is_found_in_the_state_s_own_words() {
        let all = a_move();
        let behind_the_first = all.iter().position(|incident| incident.at_ms == 5_900).unwrap();
        let moved = Move::find("app", &all[behind_the_first..]);
        let expected = Move {
            elected_ms: None,
            fenced_ms: Some(5_900),
            passed_ms: Some(6_500),
            assigned_ms: Some(6_520),
        };
        assert_eq!(moved, expected);
        assert_eq!(Move::find("web", &all), Move::default());
    }

    #[test]
    fn phases_add_up_to_the_outage() {
        let moved = Move {
            fenced_ms: Some(5_900),
            passed_ms: Some(6_500),
            assigned_ms: Some(6_520),
            ..Move::default()
        };
        let takes = [Phase { name: "program takes".into(), ms: 30.0 }];
        let found = phases(5_000.0, moved, &takes, 6_600.0);
        let expected = [
            ("detection", 900.0),
            ("fence", 600.0),
            ("assignment", 20.0),
            ("program takes", 30.0),
            ("client", 50.0),
        ];
        assert_eq!(of(&found), expected);
        assert_eq!(found.iter().map(|phase| phase.ms).sum::<f64>(), 1_600.0);
        let led = phases(5_000.0, Move { elected_ms: Some(5_800), ..moved }, &takes, 6_600.0);
        assert_eq!(of(&led)[..2], [("election", 800.0), ("detection", 100.0)]);
    }

    #[test]
    fn what_passes_beside_others_is_not_added() {
        let named = |(name, ms): (&str, f64)| Phase { name: name.into(), ms };
        let method =
            [("disassociate", 10.0), ("associate", 12.0), ("unassociated", 12.0), ("read back", 5.0)];
        let moved = Move {
            fenced_ms: Some(900),
            passed_ms: Some(1_000),
            assigned_ms: Some(1_010),
            ..Move::default()
        };
        let found = phases(0.0, moved, &method.map(named), 1_050.0);
        assert_eq!(found.last().unwrap().ms, 13.0);
        let found = phases(0.0, moved, &[named(("change records", 20.0)), named(("dns", 3_000.0))], 1_050.0);
        assert_eq!(of(&found)[3..], [("change records", 20.0), ("dns", 3_000.0), ("client", 20.0)]);
    }

    #[test]
    fn what_is_not_known_is_the_client_s() {
        assert_eq!(of(&phases(0.0, Move::default(), &[], 70.0)), [("client", 70.0)]);
        // A clock that is behind, and a program that says it took longer than there was time.
        let moved = Move { fenced_ms: Some(90), passed_ms: Some(80), ..Move::default() };
        let takes = [Phase { name: "t".into(), ms: 60.0 }];
        let found = phases(100.0, moved, &takes, 150.0);
        assert_eq!(of(&found), [("detection", 0.0), ("fence", 0.0), ("t", 60.0), ("client", 0.0)]);
    }
}
