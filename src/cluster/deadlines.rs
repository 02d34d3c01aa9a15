//! Until when what is under way on detached servers may go on.
//!
//! Pure. Each node counts from the moment it has heard of the order by a clock of its own, so clocks need not agree.
//! Invariant: an order has one deadline, which a later look does not put off.

use std::collections::BTreeMap;

use super::model::View;
use super::state::{Administrative, ClusterState};
use crate::topology::Admission;

/// By server: the order's version, and when its time is up.
#[derive(Debug, Default)]
pub struct Deadlines(BTreeMap<String, (u64, u64)>);

impl Deadlines {
    /// Takes in what is ordered now.
    pub fn look(&mut self, state: &ClusterState, now_ms: u64) {
        let limited = state.servers().iter().filter_map(|(id, server)| {
            let within_ms = server.within_ms.filter(|_| server.administrative == Administrative::Detached)?;
            Some((id, server.version, within_ms))
        });
        let mut orders = BTreeMap::new();
        for (id, version, within_ms) in limited {
            let ends_ms = match self.0.get(id) {
                Some((known, ends_ms)) if *known == version => *ends_ms,
                _ => now_ms.saturating_add(within_ms),
            };
            orders.insert(id.clone(), (version, ends_ms));
        }
        self.0 = orders;
    }

    /// Ends what is still under way where the time is up.
    pub fn close(&self, view: &mut View, now_ms: u64) {
        for server in &mut view.snapshot.servers {
            if self.0.get(&*server.id).is_some_and(|(_, ends_ms)| *ends_ms <= now_ms) {
                server.admission = Admission::Closed;
            }
        }
    }

    /// How long until the next one's time is up.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let open = self.0.values().filter(|(_, ends_ms)| *ends_ms > now_ms);
        open.map(|(_, ends_ms)| ends_ms - now_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Change, Command};
    use crate::config;

    fn apply(state: &mut ClusterState, change: Change) {
        let (node, cause, reason) = ("a".to_owned(), String::new(), String::new());
        state.apply(Command { at_ms: 0, node, cause, reason, change });
    }

    fn order(version: u64, ordered: Administrative, within_ms: Option<u64>) -> Change {
        Change::SetAdministrative { server: "pg2".to_owned(), version, state: ordered, within_ms }
    }

    #[test]
    fn time_is_counted_from_the_order_and_for_it_alone() {
        let mut state = ClusterState::default();
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        apply(&mut state, Change::CreateCluster { cluster_id, members: Vec::new(), configuration });
        apply(&mut state, Change::SetServers { servers: vec!["pg1".to_owned(), "pg2".to_owned()] });
        let server = |id: &str| config::Server::at(id, "h", 1);
        let view = View::new(&[server("pg1"), server("pg2")]);
        let mut deadlines = Deadlines::default();
        let closed = |deadlines: &Deadlines, now_ms| {
            let mut view = view.clone();
            deadlines.close(&mut view, now_ms);
            view.snapshot
                .servers
                .iter()
                .map(|server| server.admission == Admission::Closed)
                .collect::<Vec<_>>()
        };
        apply(&mut state, order(0, Administrative::Draining, None));
        deadlines.look(&state, 0);
        assert_eq!(deadlines.next_ms(0), None, "draining takes as long as it takes");

        apply(&mut state, order(1, Administrative::Detached, Some(100)));
        deadlines.look(&state, 1000);
        deadlines.look(&state, 1050);
        assert_eq!((deadlines.next_ms(1050), closed(&deadlines, 1099)), (Some(50), vec![false, false]));
        assert_eq!((deadlines.next_ms(1100), closed(&deadlines, 1100)), (None, vec![false, true]));

        apply(&mut state, order(2, Administrative::Attached, None));
        deadlines.look(&state, 1200);
        assert_eq!(closed(&deadlines, 1200), [false, false]);
    }
}
