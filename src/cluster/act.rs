//! Carries out what was decided, and tells the leader what this node sees.
//!
//! Owns no state: everything it does is a command of the log, and a command that came too late is refused there.
//! Invariant: only a node that leads proposes decisions, one after the other, each from the state it has applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::decide::{Situation, Step, decide};
use super::model::View;
use super::observe::LookNow;
use super::reason::Reason;
use super::state::{Change, Claim, ClusterState, MemberRole, Observed};
use crate::consensus::lease::LeaseSettings;
use crate::consensus::node::{ClusterHandle, Leading, ProposeError};
use crate::topology::{Health, Role, ServerIndex};

/// Between two looks of a leader at whether there is something to decide. Commands and reports wake it earlier.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of others, at whether they lead by now.
const LEAD_YET_EVERY: Duration = Duration::from_millis(150);
/// Between two looks at raft's own membership.
const ALIGN_EVERY: Duration = Duration::from_millis(250);
/// Between two looks at whether the leader knows what this node sees. Changes are told at once.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Before a decision that was refused is made again.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);
/// A wish that could not be fulfilled in that time is dropped: its node does not live.
const WISH_FOR_MS: u64 = 15_000;

/// What the configuration in force asks of the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Of the configuration that all of this follows from.
    pub version: u64,
    pub endpoints: Vec<String>,
    pub servers: Vec<String>,
    /// Where each voter is reached.
    pub addresses: BTreeMap<String, String>,
    pub lease: LeaseSettings,
    /// The file's text, which a new cluster begins with.
    pub configuration: String,
}

/// Decides and proposes whenever this node leads. To be spawned on the consensus thread.
pub async fn lead(handle: ClusterHandle, wanted: watch::Receiver<Arc<Wanted>>) {
    let mut applied = handle.watch();
    let mut aligned = tokio::time::Instant::now();
    let mut leads = false;
    let mut refused: Option<(Change, tokio::time::Instant)> = None;
    loop {
        let pause = if leads { LOOK_EVERY } else { LEAD_YET_EVERY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = applied.changed() => if changed.is_err() { return },
        }
        let leading = handle.leading();
        leads = leading.is_some();
        let Some(leading) = leading else { continue };
        let state = applied.borrow_and_update().clone();
        let wanted = wanted.borrow().clone();
        let now_ms = handle.now_ms();
        if leading.contact_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= wanted.lease.lease_ms) {
            // It may have been frozen, and be a leader no more: then all others look silent to it.
            continue;
        }
        if state.state.cluster_id().is_empty() {
            create(&handle, &leading, &wanted).await;
            continue;
        }
        for step in next(&handle, &state.state, &leading, &wanted) {
            let again = refused
                .as_ref()
                .is_some_and(|(change, at)| *change == step.change && at.elapsed() < REFUSED_AGAIN);
            if again {
                continue;
            }
            let change = step.change.clone();
            if !propose(&handle, &leading, step).await {
                refused = Some((change, tokio::time::Instant::now()));
            }
        }
        if aligned.elapsed() >= ALIGN_EVERY {
            aligned = tokio::time::Instant::now();
            handle.align_membership().await;
        }
    }
}

fn next(handle: &ClusterHandle, state: &ClusterState, leading: &Leading, wanted: &Wanted) -> Vec<Step> {
    let now_ms = handle.now_ms();
    let mut wishes = handle.wishes();
    wishes.retain(|endpoint, wish| {
        let done = state.endpoints().get(endpoint).is_none_or(|now| now.owner.as_ref() == Some(&wish.to));
        let keep = !done && now_ms < wish.since_ms + WISH_FOR_MS;
        if !keep {
            handle.forget_wish(endpoint);
        }
        keep
    });
    // A node that could not take the cluster's configuration, or has not yet, decides nothing by another one.
    let is_agreed = wanted.version == state.configuration().version();
    let present = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>();
    let (endpoints, servers, addresses) = match is_agreed {
        true => (wanted.endpoints.clone(), wanted.servers.clone(), wanted.addresses.clone()),
        false => {
            let endpoints = present(state.endpoints().keys().collect());
            (endpoints, present(state.servers().keys().collect()), BTreeMap::new())
        }
    };
    let wishes = wishes.into_iter().map(|(endpoint, wish)| (endpoint, (wish.to, wish.cause))).collect();
    decide(&Situation {
        state,
        now_ms,
        me: handle.node(),
        leading_since_ms: leading.since_ms,
        asked: &leading.asked,
        lease: &wanted.lease,
        endpoints: &endpoints,
        servers: &servers,
        addresses: &addresses,
        wishes: &wishes,
        passed: &|fence| handle.fence_passed(fence),
    })
}

/// By this leader or not at all: what it decided is not to be done by one that knows better.
/// False: it was refused, or nobody knows.
async fn propose(handle: &ClusterHandle, leading: &Leading, step: Step) -> bool {
    let Step { change, reason, cause } = step;
    tracing::info!(change = change.summary(), reason = reason.code(), cause, "decided");
    match handle.propose_as_leader(leading.term, change, &cause, reason.code()).await {
        Ok(_) => return true,
        // Somebody was faster, or the picture was old: the next look sees what is.
        Err(ProposeError::Refused(refusal)) => tracing::debug!(%refusal, "a decision came too late"),
        Err(error) => tracing::warn!(%error, "a decision could not be brought into the log"),
    }
    false
}

async fn create(handle: &ClusterHandle, leading: &Leading, wanted: &Wanted) {
    let Some(cluster_id) = handle.cluster_id() else { return };
    let members = handle.raft_voters();
    let configuration = wanted.configuration.clone();
    let change = Change::CreateCluster { cluster_id, members, configuration };
    let step = Step { change, reason: Reason::ClusterCreated, cause: "decision".to_owned() };
    propose(handle, leading, step).await;
}

/// Tells the leader how this node finds each server, when that changes. Of voters only: a proxy's view decides nothing.
/// When another one finds a server failing, this one looks as well, so that a majority is found soon.
pub async fn report(handle: ClusterHandle, mut local: watch::Receiver<Arc<View>>, look: LookNow) {
    let mut applied = handle.watch();
    let mut heeded = Heeded::new();
    loop {
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            changed = local.changed() => if changed.is_err() { return },
            // What could not be told without a leader is told later.
            () = tokio::time::sleep(REPORT_EVERY) => {}
        }
        let state = applied.borrow_and_update().clone();
        let view = local.borrow_and_update().clone();
        let me = handle.node();
        for index in doubted(&view, &state.state, me, &mut heeded) {
            look.server(index);
        }
        let is_voter = state.state.members().get(me).is_some_and(|member| member.role == MemberRole::Voter);
        if !is_voter || !handle.lease().holds() {
            continue;
        }
        for (index, server) in view.snapshot.servers.iter().enumerate() {
            let Some(known) = state.state.servers().get(&*server.id) else { continue };
            let claim = claim(&view, index);
            if known.reports.get(me).is_some_and(|report| report.claim == claim) {
                continue;
            }
            let reason = view.details[index].reason.map_or(Reason::ServerObserved, |reason| reason);
            let change = Change::ServerReport { server: server.id.to_string(), claim };
            if let Err(error) = handle.propose(change, "observation", reason.code()).await {
                tracing::debug!(%error, server = &*server.id, "the leader was not told of a server");
            }
        }
    }
}

/// By server and node, when the last report was made that was taken notice of.
type Heeded = BTreeMap<(String, String), u64>;

/// Servers that this node finds fine and another one, since it was last asked, does not. Once for each report: what
/// another goes on saying does not become a storm of looks.
fn doubted(view: &View, state: &ClusterState, me: &str, heeded: &mut Heeded) -> Vec<ServerIndex> {
    let mut doubted = Vec::new();
    for (index, server) in view.snapshot.servers.iter().enumerate() {
        let Some(known) = state.servers().get(&*server.id) else { continue };
        let mut is_new = false;
        for (node, report) in known.reports.iter().filter(|(node, _)| *node != me) {
            let claim = &report.claim;
            let seen = heeded.insert((server.id.to_string(), node.clone()), report.at_ms);
            is_new |= seen != Some(report.at_ms) && (claim.suspect || claim.observed == Observed::Down);
        }
        if is_new && server.health == Health::Up && view.details[index].failures == 0 {
            doubted.push(ServerIndex(index as u16));
        }
    }
    doubted
}

fn claim(view: &View, index: usize) -> Claim {
    let (server, detail) = (&view.snapshot.servers[index], &view.details[index]);
    let starting_up = detail.failure == Some(Reason::StartingUp);
    let observed = match server.health {
        Health::Up => Observed::Up,
        // It lives, and nobody is to take it for lost.
        Health::Down if starting_up => Observed::Unknown,
        Health::Down => Observed::Down,
        Health::Unknown => Observed::Unknown,
    };
    // One of another system is no primary of ours, whatever it says.
    let foreign =
        matches!(detail.reason, Some(Reason::WrongSystemIdentifier | Reason::SystemIdentifiersDiffer));
    let says = server.health == Health::Up && detail.says == Role::Primary && !foreign;
    let primary_on = says.then_some(server.timeline);
    Claim { observed, primary_on, suspect: detail.is_suspect(), starting_up }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::model::Observation;
    use crate::cluster::model::{Failure, View};
    use crate::cluster::primary;
    use crate::cluster::state::{Command, Member};
    use crate::config;

    const RETRIES: u32 = 3;

    fn view() -> View {
        let server = config::Server {
            id: "pg1".to_owned(),
            host: "h".to_owned(),
            port: 1,
            weight: 1,
            zone: None,
            disallow_failover: false,
            always_primary: false,
            agent: None,
        };
        let mut view = View::new(&[server]);
        view.snapshot.servers[0].health = Health::Up;
        view
    }

    fn after(reasons: &[Reason]) -> View {
        let mut observation = Observation::default();
        for (index, &reason) in reasons.iter().enumerate() {
            let at_ms = 1000 + 60 * index as u64;
            observation.record(Err(Failure { reason, detail: String::new(), at_ms }));
        }
        primary::next(&view(), &[observation], RETRIES, 2000)
    }

    #[test]
    fn silence_is_suspect_at_once_and_refusals_are_certain() {
        use Reason::{AuthenticationFailed, ConnectRefused, StartingUp, Timeout};
        for (reasons, observed, suspect, starting_up) in [
            (&[Timeout][..], Observed::Unknown, true, false),
            (&[Timeout, Timeout], Observed::Unknown, true, false),
            (&[Timeout, Timeout, Timeout], Observed::Down, true, false),
            (&[ConnectRefused], Observed::Unknown, true, false),
            (&[ConnectRefused, ConnectRefused], Observed::Down, true, false),
            (&[ConnectRefused, Timeout, ConnectRefused], Observed::Down, true, false),
            (&[Timeout, ConnectRefused], Observed::Unknown, true, false),
            (&[StartingUp, StartingUp, StartingUp], Observed::Unknown, false, true),
            (&[ConnectRefused, StartingUp], Observed::Unknown, false, true),
            (&[AuthenticationFailed], Observed::Unknown, false, false),
        ] {
            let expected = Claim { observed, primary_on: None, suspect, starting_up };
            assert_eq!(claim(&after(reasons), 0), expected, "{reasons:?}");
        }
        assert_eq!(after(&[Timeout, Timeout]).details[0].failing_since_ms, Some(1000));
    }

    #[test]
    fn what_another_node_doubts_is_looked_at_once() {
        let mut state = ClusterState::default();
        let mut apply = |at_ms, node: &str, change| {
            let (node, cause, reason) = (node.to_owned(), String::new(), String::new());
            state.apply(Command { at_ms, node, cause, reason, change });
            state.clone()
        };
        let member = |id: &str, raft_id| Member {
            id: id.to_owned(),
            raft_id,
            incarnation: 1,
            address: format!("{id}:1"),
            role: MemberRole::Voter,
        };
        let members = vec![member("a", 1), member("b", 2)];
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        apply(0, "a", Change::CreateCluster { cluster_id, members, configuration });
        apply(0, "a", Change::SetServers { servers: vec!["pg1".to_owned()] });
        let reports = |suspect| Change::ServerReport {
            server: "pg1".to_owned(),
            claim: Claim { observed: Observed::Up, suspect, ..Claim::default() },
        };
        let mut heeded = Heeded::new();
        let mut looks =
            |view: &View, state: &ClusterState| !doubted(view, state, "a", &mut heeded).is_empty();
        assert!(!looks(&view(), &apply(1, "b", reports(false))));
        let doubts = apply(2, "b", reports(true));
        assert!(looks(&view(), &doubts));
        assert!(!looks(&view(), &doubts), "it was looked at");
        assert!(!looks(&view(), &apply(3, "a", reports(true))), "this node's own");
        apply(4, "b", reports(false));
        let again = apply(5, "b", reports(true));
        assert!(!looks(&after(&[Reason::Timeout]), &again), "this node doubts it as well");
    }
}
