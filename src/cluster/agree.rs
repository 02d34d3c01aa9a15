//! What this node may use, from what it sees itself and what the cluster has agreed on.
//!
//! Pure. Only the agreed primary is one, only in its epoch, only while this node has its lease, and only if the server
//! says so itself. A standby is used if this node reaches it and neither an order nor most of the voters speak against
//! it. Invariant: nothing is used here that this node does not see to be up.

use super::model::View;
use super::reason::Reason;
use super::state::{Administrative, ClusterState, Fenced, Observed, Stage};
use crate::topology::{Admission, Health, Role, ServerIndex};

/// `holds`: this node has its lease.
pub fn agree(local: &View, state: &ClusterState, holds: bool) -> View {
    let mut view = local.clone();
    let primary = state.primary();
    view.snapshot.epoch = primary.epoch;
    view.snapshot.primary = None;
    for index in 0..local.snapshot.servers.len() {
        if let Some(reason) = against(local, state, index) {
            let server = &mut view.snapshot.servers[index];
            server.role = if server.role == Role::Primary { Role::Unknown } else { server.role };
            server.health = if server.health == Health::Up { Health::Down } else { server.health };
            server.reason = reason.sentence().into();
            view.details[index].reason = Some(reason);
        }
        let server = &mut view.snapshot.servers[index];
        server.admission = match state.servers().get(&*server.id) {
            Some(agreed) if agreed.paused => Admission::Paused,
            // Whether or not anything else is wrong with it.
            Some(agreed)
                if matches!(agreed.administrative, Administrative::Draining | Administrative::Detached) =>
            {
                Admission::Withdrawn
            }
            _ => Admission::Open,
        };
    }
    match usable(local, state, holds) {
        Ok(index) => {
            view.snapshot.primary = Some(index);
            view.no_primary = None;
        }
        Err(reason) => {
            view.no_primary = Some(reason);
            let named = primary.server.as_deref().filter(|_| reason == Reason::Paused);
            view.paused_primary = named.and_then(|id| local.find(id)).map(|(server, _)| server.index);
        }
    }
    view
}

/// Why a server is not used although this node sees nothing wrong with it.
fn against(local: &View, state: &ClusterState, index: usize) -> Option<Reason> {
    let server = &local.snapshot.servers[index];
    let id = &*server.id;
    if server.health != Health::Up || local.details[index].reason.is_some() {
        return None;
    }
    let agreed = state.servers().get(id)?;
    match agreed.administrative {
        Administrative::Attached => {}
        Administrative::Draining => return Some(Reason::Draining),
        Administrative::Detached => return Some(Reason::Detached),
        Administrative::Quarantined => return Some(Reason::Quarantined),
    }
    let named = state.primary().server.as_deref();
    if server.role == Role::Primary && named.is_some_and(|named| named != id) {
        return Some(Reason::NotTheNamedPrimary);
    }
    (agreed.observed == Observed::Down).then_some(Reason::MostFindItDown)
}

/// The server to write to, or why there is none.
fn usable(local: &View, state: &ClusterState, holds: bool) -> Result<ServerIndex, Reason> {
    let primary = state.primary();
    if !holds {
        return Err(Reason::NoLease);
    }
    let Some(named) = primary.server.as_deref() else {
        return Err(local.no_primary.unwrap_or(Reason::NotNamed));
    };
    if state.is_fenced(&Fenced::Primary) || primary.stage != Stage::Confirmed {
        let is_awaited = state.failover().is_none() && state.has_passed(&Fenced::Primary);
        // Nobody here makes the next one: what is waited for is a server that says that it is one.
        return Err(local.no_primary.filter(|_| is_awaited).unwrap_or(Reason::Fenced));
    }
    if state.holds() {
        // What is under way there goes on; nothing begins.
        return Err(Reason::Held);
    }
    if state.servers().get(named).is_some_and(|server| server.paused) {
        // As with a switchover.
        return Err(Reason::Paused);
    }
    let (server, detail) = local.find(named).ok_or(Reason::NotNamed)?;
    if server.health != Health::Up {
        return Err(Reason::PrimaryDown);
    }
    if detail.says != Role::Primary {
        let own = |reason: &Reason| matches!(reason, Reason::PrimaryReadOnly | Reason::SwitchingOver);
        return Err(detail.reason.filter(own).unwrap_or(Reason::PrimaryDemoted));
    }
    if server.role != Role::Primary || server.timeline != primary.timeline {
        return Err(detail.reason.or(local.no_primary).unwrap_or(Reason::NotNamed));
    }
    Ok(server.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Change, Claim, Command, Member};
    use crate::config;
    use crate::topology::Epoch;

    fn local() -> View {
        let server = |id: &str| config::Server::at(id, "h", 1);
        let mut view = View::new(&[server("pg1"), server("pg2")]);
        for (index, role) in [Role::Primary, Role::Standby].into_iter().enumerate() {
            let state = &mut view.snapshot.servers[index];
            (state.role, state.health, state.timeline) = (role, Health::Up, 1);
            (view.details[index].says, view.details[index].reason) = (role, None);
        }
        view.snapshot.primary = Some(ServerIndex(0));
        view.snapshot.epoch = Epoch(9);
        view.no_primary = None;
        view
    }

    fn apply(state: &mut ClusterState, change: Change) {
        let (node, cause, reason) = ("a".to_owned(), String::new(), String::new());
        state.apply(Command { at_ms: 0, node, cause, reason, change });
    }

    fn state() -> ClusterState {
        let mut state = ClusterState::default();
        let member = Member::voter("a", 1);
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        apply(&mut state, Change::CreateCluster { cluster_id, members: vec![member], configuration });
        apply(&mut state, Change::SetServers { servers: vec!["pg1".to_owned(), "pg2".to_owned()] });
        apply(&mut state, Change::NamePrimary { epoch: Epoch(0), server: "pg1".to_owned(), promotes: false });
        apply(&mut state, Change::ConfirmPrimary { epoch: Epoch(1), timeline: 1 });
        state
    }

    #[test]
    fn the_agreed_primary_is_used_in_its_own_epoch() {
        let view = agree(&local(), &state(), true);
        assert_eq!((view.snapshot.primary, view.snapshot.epoch), (Some(ServerIndex(0)), Epoch(1)));
        assert!(view.snapshot.servers[1].is_up(Role::Standby));
    }

    #[test]
    fn a_paused_server_is_what_it_was_and_takes_nothing_new() {
        let mut state = state();
        let pause = |server: &str, paused| Change::PauseServer { server: server.to_owned(), paused };
        apply(&mut state, pause("pg2", true));
        let view = agree(&local(), &state, true);
        assert_eq!((view.snapshot.primary, view.snapshot.standbys().count()), (Some(ServerIndex(0)), 1));
        assert!(view.snapshot.is_paused(ServerIndex(1)) && !view.snapshot.is_paused(ServerIndex(0)));
        assert_eq!(view.withdrawn(), [ServerIndex(1)]);

        apply(&mut state, pause("pg1", true));
        let view = agree(&local(), &state, true);
        assert_eq!((view.snapshot.primary, view.no_primary), (None, Some(Reason::Paused)));
        assert_eq!(view.paused_primary, Some(ServerIndex(0)));
        assert_eq!(agree(&local(), &state, false).paused_primary, None, "without a lease nothing is known");
        apply(&mut state, pause("pg1", false));
        let view = agree(&local(), &state, true);
        assert_eq!((view.snapshot.primary, view.paused_primary), (Some(ServerIndex(0)), None));
    }

    #[test]
    fn without_a_lease_standbys_remain() {
        let view = agree(&local(), &state(), false);
        assert_eq!((view.snapshot.primary, view.no_primary), (None, Some(Reason::NoLease)));
        assert_eq!(view.snapshot.standbys().count(), 1);
    }

    #[test]
    fn a_fence_ends_it_whatever_this_node_sees() {
        let mut state = state();
        apply(&mut state, Change::OpenFence { fenced: Fenced::Primary, epoch: Epoch(1) });
        assert_eq!(agree(&local(), &state, true).no_primary, Some(Reason::Fenced));
        apply(&mut state, Change::PassFence { fenced: Fenced::Primary, epoch: Epoch(1) });
        assert_eq!(agree(&local(), &state, true).no_primary, Some(Reason::Fenced));
        let down = View { no_primary: Some(Reason::PrimaryDown), ..local() };
        assert_eq!(agree(&down, &state, true).no_primary, Some(Reason::PrimaryDown), "what it waits for");
        apply(&mut state, Change::NamePrimary { epoch: Epoch(1), server: "pg2".to_owned(), promotes: false });
        apply(&mut state, Change::ConfirmPrimary { epoch: Epoch(2), timeline: 2 });
        let view = agree(&local(), &state, true);
        assert_eq!(view.no_primary, Some(Reason::PrimaryDemoted), "it does not say so yet");
        assert_eq!(view.details[0].reason, Some(Reason::NotTheNamedPrimary));
        assert_eq!(view.snapshot.servers[0].role, Role::Unknown);
    }

    #[test]
    fn a_server_is_not_used_against_an_order_or_the_majority_nor_unseen() {
        let mut state = state();
        let administrative = Change::SetAdministrative {
            server: "pg2".to_owned(),
            version: 0,
            state: Administrative::Detached,
            within_ms: None,
        };
        apply(&mut state, administrative);
        let view = agree(&local(), &state, true);
        assert_eq!((view.snapshot.standbys().count(), view.details[1].reason), (0, Some(Reason::Detached)));
        assert_eq!(view.withdrawn(), [ServerIndex(1)], "by an order");
        let mut hanging = local();
        hanging.snapshot.servers[1].health = Health::Down;
        hanging.details[1].reason = Some(Reason::Timeout);
        let view = agree(&hanging, &state, true);
        assert_eq!((view.details[1].reason, view.withdrawn()), (Some(Reason::Timeout), vec![ServerIndex(1)]));
        assert!(!view.is_withdrawn(ServerIndex(1)), "what waits for its answer need not wait on");

        let mut state = self::state();
        let claim = Claim { observed: Observed::Down, primary_on: None, ..Claim::default() };
        apply(&mut state, Change::ServerReport { server: "pg2".to_owned(), claim });
        let view = agree(&local(), &state, true);
        assert_eq!(view.details[1].reason, Some(Reason::MostFindItDown));
        assert!(view.withdrawn().is_empty());

        let mut unseen = local();
        unseen.snapshot.servers[0].health = Health::Down;
        unseen.details[0].reason = Some(Reason::Timeout);
        let view = agree(&unseen, &self::state(), true);
        assert_eq!(
            (view.no_primary, view.details[0].reason),
            (Some(Reason::PrimaryDown), Some(Reason::Timeout))
        );
    }
}
