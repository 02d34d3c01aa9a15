//! Tells the cluster what this node sees and does.
//!
//! Invariant: only changes are told, and what could not be told is told later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Wanted;
use super::disk::{DiskWatch, Write};
use super::told::Told;
use crate::cluster::model::{View, is_turned_away};
use crate::cluster::observe::LookNow;
use crate::cluster::reason::Reason;
use crate::cluster::state::{
    Change, Claim, ClusterState, Disk, Fenced, MemberRole, Observed, RestartStage, RestartStep, Stage,
};
use crate::consensus::node::ClusterHandle;
use crate::topology::{Epoch, Health, Role, ServerIndex};

/// Between two looks at whether the leader knows what this node sees. Changes are told at once.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// What a session that has chosen a server takes at most until it is counted there.
const CLEAR_FOR: Duration = Duration::from_millis(250);
/// The same while the primary is being changed.
const REPORT_SOON: Duration = Duration::from_millis(20);

/// What sessions have to do with the servers here.
pub struct Sessions {
    /// How many have something under way on that server in that epoch, or may be about to begin something.
    pub busy: Arc<dyn Fn(ServerIndex, Epoch) -> usize + Send + Sync>,
    /// Whether there is no connection of theirs to that server, and none will be used before it is used again.
    pub quiet: Arc<dyn Fn(ServerIndex) -> bool + Send + Sync>,
}

/// What it takes to find out.
pub struct Eyes {
    pub local: watch::Receiver<Arc<View>>,
    pub look: LookNow,
    pub wanted: watch::Receiver<Arc<Wanted>>,
    pub write: Write,
    pub sessions: Sessions,
}

/// Tells the leader how this node finds each server, when that changes. Of voters only: a proxy's view decides nothing.
/// When another one finds a server failing, this one looks as well, so that a majority is found soon.
pub async fn report(handle: ClusterHandle, eyes: Eyes) {
    let Eyes { mut local, look, wanted, write, sessions } = eyes;
    let mut disk = DiskWatch::new(write);
    let mut applied = handle.watch();
    let mut heeded = Heeded::new();
    let mut leader = Leader { handle: &handle, told: Told::default() };
    let mut changing = false;
    let mut clear_since = None;
    loop {
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            changed = local.changed() => if changed.is_err() { return },
            () = disk.tried(|| handle.now_ms()) => {}
            // What could not be told without a leader is told later.
            () = tokio::time::sleep(if changing { REPORT_SOON } else { REPORT_EVERY }) => {}
        }
        let state = applied.borrow_and_update().clone();
        let view = local.borrow_and_update().clone();
        let state = &state.state;
        let me = handle.node();
        for index in doubted(&view, state, me, &mut heeded) {
            look.server(index);
        }
        let new = expected(&view, state);
        if let Some(index) = new {
            look.server(index);
        }
        let draining = draining(state);
        changing = new.is_some() || state.holds() || draining.is_some();
        let Some(member) = state.members().get(me) else { continue };
        confirm_hold(&mut leader, state, &view, &sessions).await;
        confirm_clear(&mut leader, draining, &view, (&sessions, state.primary().epoch), &mut clear_since)
            .await;
        confirm_quiet(&mut leader, state, &view, &sessions).await;
        if member.role != MemberRole::Voter || !handle.lease().holds() {
            continue;
        }
        let failing = disk.look(&view, state, write_timeout_ms(&wanted.borrow()), handle.now_ms());
        for (index, server) in view.snapshot.servers.iter().enumerate() {
            let Some(known) = state.servers().get(&*server.id) else { continue };
            let disk = failing.filter(|(id, _)| *id == &*server.id).map(|(_, disk)| disk);
            let claim = Claim { disk, ..claim(&view, index) };
            if known.reports.get(me).is_some_and(|report| report.claim == claim) {
                continue;
            }
            let reason = disk.map(Disk::reason).or(view.details[index].reason);
            let reason = reason.unwrap_or(Reason::ServerObserved);
            leader.tell(Change::ServerReport { server: server.id.to_string(), claim }, reason.code()).await;
        }
    }
}

/// Whoever leads. Asked for by each proposal anew.
struct Leader<'a> {
    handle: &'a ClusterHandle,
    told: Told,
}

impl Leader<'_> {
    /// Nothing, if it was told just that and this node has not applied it yet.
    async fn tell(&mut self, change: Change, reason: &str) {
        if !self.told.is_news(&change, self.handle.now_ms()) {
            return;
        }
        match self.handle.propose(change.clone(), "observation", reason).await {
            Ok(_) => self.told.note(change, self.handle.now_ms()),
            Err(error) => tracing::debug!(%error, change = change.summary(), "the leader was not told"),
        }
    }
}

/// Only primaries of komainu's own making are replaced for their disks.
fn write_timeout_ms(wanted: &Wanted) -> u64 {
    let failover = &wanted.policy.failover;
    if failover.mode.promotes() { failover.write_timeout_ms } else { 0 }
}

/// The server that was named, as long as this node has not seen that it is a primary.
fn expected(view: &View, state: &ClusterState) -> Option<ServerIndex> {
    let primary = state.primary();
    let named = primary.server.as_deref().filter(|_| !state.is_fenced(&Fenced::Primary))?;
    let (server, detail) = view.find(named)?;
    let was_standby = detail.facts.as_ref().is_some_and(|facts| facts.in_recovery);
    let unseen = primary.stage == Stage::Named || was_standby;
    unseen.then_some(server.index)
}

/// Says that nothing is under way here on the primary that is about to be stopped.
async fn confirm_hold(leader: &mut Leader<'_>, state: &ClusterState, view: &View, sessions: &Sessions) {
    let Some(failover) = state.failover().filter(|_| state.holds() && !state.is_fenced(&Fenced::Primary))
    else {
        return;
    };
    let me = leader.handle.node();
    let under_way =
        view.find(&failover.from).map_or(0, |(server, _)| (sessions.busy)(server.index, failover.epoch));
    if failover.held_by.contains(me) || under_way > 0 {
        return;
    }
    let change = Change::ConfirmHold { epoch: failover.epoch, node: me.to_owned() };
    leader.tell(change, Reason::Held.code()).await;
}

/// The standby that is to be restarted when nothing is under way there.
fn draining(state: &ClusterState) -> Option<(u64, &RestartStep)> {
    let restart = state.restart()?;
    let step = restart.step().filter(|step| step.stage == RestartStage::Draining)?;
    Some((restart.id, step))
}

/// Says so, once it has been so for a moment: a session that has chosen the server just before may be about to begin.
async fn confirm_clear(
    leader: &mut Leader<'_>,
    draining: Option<(u64, &RestartStep)>,
    view: &View,
    (sessions, epoch): (&Sessions, Epoch),
    clear_since: &mut Option<Instant>,
) {
    let me = leader.handle.node();
    let Some((id, step)) = draining.filter(|(_, step)| !step.clear_by.contains(me)) else {
        *clear_since = None;
        return;
    };
    let under_way = view.find(&step.server).map_or(0, |(server, _)| (sessions.busy)(server.index, epoch));
    if under_way > 0 {
        *clear_since = None;
        return;
    }
    if clear_since.get_or_insert_with(Instant::now).elapsed() < CLEAR_FOR {
        return;
    }
    let change = Change::ConfirmClear { id, server: step.server.clone(), node: me.to_owned() };
    leader.tell(change, Reason::RestartOrdered.code()).await;
}

/// Says on which servers that were paused, drained or detached nothing is under way here any more.
async fn confirm_quiet(leader: &mut Leader<'_>, state: &ClusterState, view: &View, sessions: &Sessions) {
    let me = leader.handle.node();
    let awaited = state.servers().iter().filter(|(_, server)| server.empties() && !server.quiet.contains(me));
    for (id, server) in awaited {
        // One that this node does not know is used by nobody here.
        if view.find(id).is_some_and(|(found, _)| !(sessions.quiet)(found.index)) {
            continue;
        }
        let change = Change::ConfirmQuiet { server: id.clone(), orders: server.orders, node: me.to_owned() };
        let reason = if server.paused { Reason::Paused.code() } else { server.order_reason.as_str() };
        leader.tell(change, reason).await;
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
            doubted.push(server.index);
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
        Health::Down if starting_up || detail.failure.is_some_and(is_turned_away) => Observed::Unknown,
        Health::Down => Observed::Down,
        Health::Unknown => Observed::Unknown,
    };
    // One of another system is no primary of ours, whatever it says.
    let foreign =
        matches!(detail.reason, Some(Reason::WrongSystemIdentifier | Reason::SystemIdentifiersDiffer));
    let says = server.health == Health::Up && detail.says == Role::Primary && !foreign;
    let primary_on = says.then_some(server.timeline);
    let primary_since_ms = detail.facts.as_ref().filter(|_| says).map(|facts| facts.started_at_ms);
    Claim { observed, primary_on, primary_since_ms, suspect: detail.is_suspect(), starting_up, disk: None }
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
        let server = config::Server::at("pg1", "h", 1);
        let mut view = View::new(&[server]);
        view.snapshot.servers[0].health = Health::Up;
        view
    }

    fn after(reasons: &[Reason]) -> View {
        let mut observation = Observation::of(RETRIES);
        for (index, &reason) in reasons.iter().enumerate() {
            let at_ms = 1000 + 60 * index as u64;
            observation.record(Err(Failure { reason, detail: String::new(), at_ms }));
        }
        primary::next(&view(), &[observation], None, 2000)
    }

    #[test]
    fn silence_is_suspect_at_once_and_refusals_are_certain() {
        use Reason::{
            AuthenticationFailed, ConnectRefused, QueryFailed, StartingUp, Timeout, TlsFailed,
            TooManyConnections,
        };
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
            (&[AuthenticationFailed; 3], Observed::Unknown, false, false),
            (&[TlsFailed; 3], Observed::Unknown, false, false),
            // As after a crash: the clients are there first.
            (&[StartingUp, TooManyConnections, TooManyConnections], Observed::Unknown, false, false),
            (&[TooManyConnections, Timeout, Timeout], Observed::Down, true, false),
            (&[QueryFailed; 3], Observed::Down, false, false),
        ] {
            let expected = Claim { observed, suspect, starting_up, ..Claim::default() };
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
