//! How the rest of the process looks at its cluster, and asks something of it.
//!
//! Whatever talks to another node runs on the consensus thread, which a busy data path cannot starve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Standings;
use super::about::Known;
use super::core::{Core, GoesBy, Now, Wish, Wishes, lock, seen, wall_ms};
use super::lead;
use super::rights::Leading;
use super::wire::{Address, Order, Request, Response};
use crate::cluster::state::{Accepted, Change, Command, Fence, Member, MemberRole, Outcome, Refusal};
use crate::consensus::peer::{CallError, PeerContext};
use crate::consensus::store::Applied;
use crate::consensus::types::Peer;

/// A proposal that has found no leader by then is given up.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);
const ORDER_WITHIN: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(50);
const CANCEL_WITHIN: Duration = Duration::from_secs(2);
pub(super) const CANCELS: usize = 32;

pub(super) struct Shared {
    pub node: String,
    pub now: Now,
    pub applied: watch::Receiver<Arc<Applied>>,
    pub core: watch::Receiver<Option<Arc<Core>>>,
    pub standings: Standings,
    pub lease_ends_at_ms: Arc<AtomicU64>,
    pub runtime: Handle,
    pub tls: Mutex<Option<Arc<PeerContext>>>,
    pub wishes: Arc<Mutex<Wishes>>,
    /// Endpoints that this node could not take; the leader hears of it with each question for a lease.
    pub unable: Arc<Mutex<BTreeSet<String>>>,
    /// The leader hears of that as well.
    pub configuration: Arc<Mutex<GoesBy>>,
    /// What other nodes said of themselves when they were asked last.
    pub known: Mutex<BTreeMap<String, Known>>,
    /// Why others did not answer when they were asked last. One that hangs accepts connections, and says nothing.
    pub silent: Mutex<BTreeMap<String, String>>,
    /// Cancel requests that are asked around at a time.
    pub cancels: Semaphore,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct ClusterHandle {
    shared: Arc<Shared>,
}

/// Reads whether this node has its lease, without a lock.
#[derive(Clone)]
pub struct LeaseClock {
    ends_at_ms: Arc<AtomicU64>,
    now: Now,
}

impl LeaseClock {
    pub fn holds(&self) -> bool {
        (self.now)() < self.ends_at_ms.load(Ordering::Acquire)
    }

    pub fn remaining_ms(&self) -> u64 {
        self.ends_at_ms.load(Ordering::Acquire).saturating_sub((self.now)())
    }
}

#[derive(Debug, Clone, Default)]
pub struct NodeStatus {
    pub node: String,
    pub raft_id: Option<u64>,
    pub incarnation: Option<u64>,
    /// Empty: it takes part.
    pub waiting_for: String,
    pub term: u64,
    pub leader: Option<String>,
    /// The version of the cluster's configuration of which this node cannot use the text.
    pub configuration_unusable: Option<u64>,
    /// None: this node does not lead.
    pub leading_for_ms: Option<u64>,
    pub lease_remaining_ms: u64,
    pub last_log_index: u64,
    pub applied_index: u64,
    pub peers: Vec<PeerStatus>,
    /// Raft ids of those that vote by now: a replaced node does once the leader has taken it in.
    pub voters: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
pub struct PeerStatus {
    pub id: String,
    pub address: String,
    /// Why it could not be reached at the last attempt.
    pub failure: Option<String>,
    /// None: it was not asked yet, or has not answered.
    pub known: Option<Known>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Ordered(String),
    #[error("no leader took it within {} s ({reason}); whether it will be done is not known", within.as_secs())]
    NoLeader { within: Duration, reason: String },
}

impl ClusterHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        ClusterHandle { shared }
    }

    /// This node's id.
    pub fn node(&self) -> &str {
        &self.shared.node
    }

    /// Where tasks run that must not be starved.
    pub fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    pub fn now_ms(&self) -> u64 {
        (self.shared.now)()
    }

    pub fn applied(&self) -> Arc<Applied> {
        self.shared.applied.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Applied>> {
        self.shared.applied.clone()
    }

    pub fn lease(&self) -> LeaseClock {
        LeaseClock { ends_at_ms: self.shared.lease_ends_at_ms.clone(), now: self.shared.now.clone() }
    }

    pub(super) fn core(&self) -> Option<Arc<Core>> {
        self.shared.core.borrow().clone()
    }

    /// Present while this node leads.
    pub fn leading(&self) -> Option<Leading> {
        let core = self.core()?;
        let now_ms = core.now_ms();
        core.rights().leading(now_ms)
    }

    /// Of a fence in the state this node has applied: whether nobody can act any more on what it ends.
    pub fn fence_passed(&self, fence: &Fence) -> bool {
        let Some(core) = self.core() else { return false };
        let (applied, now_ms) = (core.applied_index(), core.now_ms());
        core.rights().fence_passed(fence, applied, now_ms)
    }

    /// What operators want of the leader and it has not done yet.
    pub fn wishes(&self) -> BTreeMap<String, Wish> {
        lock(&self.shared.wishes).clone()
    }

    /// Endpoints that this node could not take now.
    pub fn cannot_take(&self, endpoints: BTreeSet<String>) {
        *lock(&self.shared.unable) = endpoints;
    }

    /// By which version of the cluster's configuration this node goes from now on.
    pub fn goes_by(&self, configuration: GoesBy) {
        *lock(&self.shared.configuration) = configuration;
    }

    /// Leaves the lead to another node, if this one has it.
    pub fn stand_down(&self) {
        if let Some(core) = self.core() {
            let now_ms = core.now_ms();
            core.rights().stand_down(now_ms);
        }
    }

    pub fn forget_wish(&self, endpoint: &str) {
        lock(&self.shared.wishes).remove(endpoint);
    }

    /// The raft id of each member of raft's own membership, voters only, and whether all is as the log has it.
    pub async fn align_membership(&self) {
        if let Some(core) = self.core() {
            let within = Duration::from_millis(core.settings.election_timeout_max_ms);
            if tokio::time::timeout(within, lead::align_membership(&core)).await.is_err() {
                tracing::warn!("the raft membership is not as the log has the members yet");
            }
        }
    }

    /// The identifier drawn by the founder, for the command that creates the cluster. None: not joined yet.
    pub fn cluster_id(&self) -> Option<String> {
        self.core().map(|core| core.identity.cluster_id.clone())
    }

    /// Raft's voters with their names: what a new cluster's members are made of.
    pub fn raft_voters(&self) -> Vec<Member> {
        let Some(core) = self.core() else { return Vec::new() };
        let metrics = core.metrics();
        let membership = metrics.membership_config.membership();
        let voter = |raft_id: u64| {
            let Peer { id, address, incarnation } = membership.get_node(&raft_id)?.clone();
            Some(Member { id, raft_id, incarnation, address, role: MemberRole::Voter })
        };
        membership.voter_ids().filter_map(voter).collect()
    }

    pub fn status(&self) -> NodeStatus {
        let mut status = NodeStatus {
            node: self.shared.node.clone(),
            waiting_for: self.shared.standings.text(),
            lease_remaining_ms: self.lease().remaining_ms(),
            configuration_unusable: lock(&self.shared.configuration).unusable,
            ..NodeStatus::default()
        };
        let Some(core) = self.core() else { return status };
        let metrics = core.metrics();
        status.raft_id = Some(core.identity.raft_id);
        status.incarnation = Some(core.identity.incarnation);
        status.term = metrics.current_term;
        status.leader = core.leader().map(|(_, address)| address.node);
        status.leading_for_ms = self.leading().map(|leading| self.now_ms().saturating_sub(leading.since_ms));
        status.last_log_index = metrics.last_log_index.unwrap_or(0);
        status.applied_index = core.applied_index();
        // As committed, not as the leader would have it.
        status.voters = settled_voters(self.applied().membership.membership().get_joint_config());
        let others = metrics.membership_config.nodes().filter(|(_, peer)| peer.id != self.shared.node);
        let (known, silent) = (lock(&self.shared.known), lock(&self.shared.silent));
        status.peers = others
            .map(|(_, peer)| {
                let address = Address::of(peer);
                PeerStatus {
                    failure: core.wire.failure(&address).or_else(|| silent.get(&address.node).cloned()),
                    known: known.get(&address.node).cloned(),
                    id: address.node,
                    address: address.address,
                }
            })
            .collect();
        status
    }

    /// Brings a change into the log, wherever the leader is. It may be tried more than once: commands say what they
    /// expect to find, so the second time is refused.
    pub async fn propose(&self, change: Change, cause: &str, reason: &str) -> Result<Accepted, ProposeError> {
        // The leader would not even be able to read it, if it is the node that is not upgraded yet.
        self.applied().state.check_log_format(&change)?;
        let (node, cause, reason) = (self.shared.node.clone(), cause.to_owned(), reason.to_owned());
        let command = Command { at_ms: wall_ms(), node, cause, reason, change };
        let ask = move |core: Arc<Core>, leader: Option<Address>| {
            let command = command.clone();
            async move {
                match leader {
                    None => Ok(lead::propose(&core, command).await),
                    Some(leader) => {
                        let within = Duration::from_millis(core.settings.election_timeout_max_ms);
                        core.wire.call(&leader, Request::Propose(command), within).await
                    }
                }
            }
        };
        match self.with_leader(PROPOSE_WITHIN, ask).await? {
            Response::Proposed(Outcome::Accepted(accepted)) => Ok(accepted),
            Response::Proposed(Outcome::Refused(refusal)) => Err(refusal.into()),
            Response::Proposed(Outcome::Nothing) => Ok(Accepted::Unchanged),
            other => Err(ProposeError::Ordered(format!("an unexpected answer: {other:?}"))),
        }
    }

    /// Brings a change into the log only if this node still leads that term; asks nobody else.
    pub async fn propose_as_leader(
        &self,
        term: u64,
        change: Change,
        cause: &str,
        reason: &str,
    ) -> Result<Accepted, ProposeError> {
        let changed = || ProposeError::Ordered("the leader has changed meanwhile".to_owned());
        let core = self.core().ok_or_else(changed)?;
        if self.leading().is_none_or(|leading| leading.term != term) {
            return Err(changed());
        }
        // What is not decided within an election is not decided by this leader.
        let within = Duration::from_millis(core.settings.election_timeout_max_ms);
        let proposed = lead::propose(&core, core.command(change, cause, reason));
        match tokio::time::timeout(within, proposed).await.map_err(|_| changed())? {
            Response::Proposed(Outcome::Accepted(accepted)) => Ok(accepted),
            Response::Proposed(Outcome::Refused(refusal)) => Err(refusal.into()),
            Response::Proposed(Outcome::Nothing) => Ok(Accepted::Unchanged),
            Response::Refused(why) => Err(ProposeError::Ordered(why)),
            _ => Err(changed()),
        }
    }

    /// Asks the leader for what is more than one command; it answers in words.
    pub async fn order(&self, order: Order) -> Result<String, ProposeError> {
        let me = self.shared.node.clone();
        let ask = move |core: Arc<Core>, leader: Option<Address>| {
            let (order, me) = (order.clone(), me.clone());
            async move {
                match leader {
                    None => Ok(lead::carry_out(&core, &me, order).await),
                    Some(leader) => core.wire.call(&leader, Request::Order(order), ORDER_WITHIN).await,
                }
            }
        };
        match self.with_leader(ORDER_WITHIN, ask).await? {
            Response::Ordered(Ok(said)) => Ok(said),
            Response::Ordered(Err(why)) => Err(ProposeError::Ordered(why)),
            other => Err(ProposeError::Ordered(format!("an unexpected answer: {other:?}"))),
        }
    }

    /// On the consensus thread, until somebody answers who leads.
    async fn with_leader<F, R>(
        &self,
        within: Duration,
        ask: impl Fn(Arc<Core>, Option<Address>) -> F + Send + 'static,
    ) -> Result<Response, ProposeError>
    where
        F: Future<Output = Result<Response, R>> + Send + 'static,
        R: std::fmt::Display + Send + 'static,
    {
        let handle = self.clone();
        let task = self.shared.runtime.spawn(async move {
            let deadline = Instant::now() + within;
            let mut reason = "this node has not joined its cluster".to_owned();
            loop {
                if let Some(core) = handle.core() {
                    let leads = seen(&core.metrics()).leads.is_some();
                    let leader = core.leader().map(|(_, leader)| leader);
                    match (leads, leader) {
                        (false, None) => reason = "there is no leader".to_owned(),
                        (leads, leader) => {
                            let asked = ask(core, leader.filter(|_| !leads));
                            match tokio::time::timeout_at(deadline, asked).await {
                                Ok(Ok(Response::NotLeader(_))) => {
                                    reason = "the leader is changing".to_owned()
                                }
                                Ok(Ok(Response::Refused(why))) => reason = why,
                                Ok(Ok(response)) => return Ok(response),
                                Ok(Err(error)) => reason = error.to_string(),
                                Err(_) => reason = "no answer".to_owned(),
                            }
                        }
                    }
                }
                if Instant::now() >= deadline {
                    return Err(ProposeError::NoLeader { within, reason });
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
        });
        match task.await {
            Ok(answer) => answer,
            Err(_) => Err(ProposeError::NoLeader { within, reason: "this node is stopping".to_owned() }),
        }
    }

    /// Passes a cancel request on to the others. True: one of them had the session.
    pub async fn cancel_elsewhere(&self, pid: i32, key: &[u8]) -> bool {
        let Some(core) = self.core() else { return false };
        // Whoever sends cancel requests with keys of nobody's must not occupy the nodes.
        let Ok(_place) = self.shared.cancels.try_acquire() else { return false };
        let key = key.to_vec();
        let task = self.shared.runtime.spawn(async move {
            let metrics = core.metrics();
            let me = core.identity.raft_id;
            let others = metrics.membership_config.nodes().filter(|(id, _)| **id != me);
            let ask = |(_, peer): (&u64, &Peer)| {
                core.wire.call(&Address::of(peer), Request::Cancel { pid, key: key.clone() }, CANCEL_WITHIN)
            };
            futures_util::future::join_all(others.map(ask)).await
        });
        // The runtime ends with the node: then nobody answers.
        let answers = task.await.unwrap_or_default();
        answers.iter().any(|answer| matches!(answer, Ok(Response::Cancelled(true))))
    }

    /// Asks every other node what it is, so that the status says how it is now: a follower talks to nobody but the
    /// leader. Those that answered.
    pub async fn reach(&self, within: Duration) -> BTreeSet<String> {
        let Some(core) = self.core() else { return BTreeSet::new() };
        let handle = self.clone();
        let task = self.shared.runtime.spawn(async move {
            let metrics = core.metrics();
            let me = core.identity.raft_id;
            let others = metrics.membership_config.nodes().filter(|(id, _)| **id != me);
            let meet = |(_, peer): (&u64, &Peer)| handle.meet(core.clone(), Address::of(peer), within);
            futures_util::future::join_all(others.map(meet)).await
        });
        // The runtime ends with the node: then nobody answers.
        task.await.unwrap_or_default().into_iter().flatten().collect()
    }

    /// The node, if it answers.
    async fn meet(&self, core: Arc<Core>, to: Address, within: Duration) -> Option<String> {
        let node = to.node.clone();
        match self.ask_about(core, to, within).await {
            Ok(()) => {
                lock(&self.shared.silent).remove(&node);
                Some(node)
            }
            Err(error) => {
                lock(&self.shared.silent).insert(node, error.to_string());
                None
            }
        }
    }

    async fn ask_about(&self, core: Arc<Core>, to: Address, within: Duration) -> Result<(), CallError> {
        let (asked_wall_ms, asked_ms) = (wall_ms(), core.now_ms());
        match core.wire.call(&to, Request::About, within).await {
            Ok(Response::About(about)) => {
                let known = Known::new(about, asked_wall_ms, core.now_ms().saturating_sub(asked_ms));
                lock(&self.shared.known).insert(to.node, known);
                Ok(())
            }
            Err(
                error @ (CallError::Unreachable { .. }
                | CallError::Waiting { .. }
                | CallError::Deadline { .. }),
            ) => Err(error),
            // It does not know the question: an older version. Any other that changes nothing shows that it is there.
            _ => {
                let nobodys = Request::Cancel { pid: 0, key: Vec::new() };
                core.wire.call(&to, nobodys, within).await.map(drop)
            }
        }
    }

    /// Reads the certificates again, as on SIGHUP. The words say what was wrong with them.
    pub fn reload_certificates(&self) -> Result<bool, String> {
        match &*lock(&self.shared.tls) {
            Some(context) => context.tls.reload().map_err(|error| error.to_string()),
            None => Ok(false),
        }
    }

    /// When this node's certificate for its peers ends. None: it has none yet.
    pub fn certificate_ends(&self) -> Option<std::time::SystemTime> {
        let context = lock(&self.shared.tls).clone()?;
        Some(context.tls.certificate().not_after)
    }

    /// What `doctor` and the log warn of.
    pub fn certificate_warning(&self) -> Option<String> {
        let context = lock(&self.shared.tls).clone()?;
        context.tls.expiry_warning(std::time::SystemTime::now())
    }
}

/// Those whose votes count whichever way a change of the membership goes. In the middle of one (two sets, each of which
/// needs its majority) a node that is only in the new set does not replace one of the old set yet.
fn settled_voters(sets: &[BTreeSet<u64>]) -> BTreeSet<u64> {
    let in_all = |voter: &&u64| sets.iter().all(|set| set.contains(voter));
    sets.iter().flatten().filter(in_all).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_the_new_set_only_does_not_vote_yet() {
        let (old, new) = (BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 3, 4]));
        assert_eq!(settled_voters(&[old, new.clone()]), BTreeSet::from([1, 3]));
        assert_eq!(settled_voters(std::slice::from_ref(&new)), new);
    }
}
