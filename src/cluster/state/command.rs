//! What may be proposed to the log.
//!
//! Pure. A command says what it expects to find (an epoch, a version, an incarnation) wherever acting on an outdated
//! picture would harm. Invariant: an entry that was written stays readable: fields are added with a default, names never
//! change, and a variant's meaning never does, because a node that starts applies old entries again. Older versions do
//! not know what is added: `log_format` keeps it out of the log until there is none of them any more.

use serde::{Deserialize, Serialize};

use crate::topology::Epoch;

use crate::cluster::sync_set::SyncSet;

use super::{
    Administrative, Claim, FailoverKind, Fenced, MAX_NAME, Member, MemberRole, Refusal, RestartStage,
    ToRestart,
};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Wall clock of who proposes, in milliseconds since 1970; for people, nothing is decided by it.
    pub at_ms: u64,
    /// Who proposes.
    pub node: String,
    /// Who or what is behind it: `operator:alice`, `decision`, `observation`.
    pub cause: String,
    /// A reason code.
    #[serde(default)]
    pub reason: String,
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    CreateCluster {
        cluster_id: String,
        members: Vec<Member>,
        configuration: String,
    },
    AddMember {
        member: Member,
    },
    /// A new address or role of the same life of a node.
    UpdateMember {
        id: String,
        incarnation: u64,
        address: String,
        role: MemberRole,
    },
    /// A new life under an old name; `incarnation` is that of the old one.
    ReplaceMember {
        incarnation: u64,
        member: Member,
    },
    RemoveMember {
        id: String,
        incarnation: u64,
    },
    /// The servers of the configuration: new ones are added, missing ones forgotten.
    SetServers {
        servers: Vec<String>,
    },
    /// Of a server that was removed nothing is left on the others.
    ForgetServer {
        server: String,
    },
    SetAdministrative {
        server: String,
        version: u64,
        state: Administrative,
        /// What has not ended by then is closed, by each node that long after it has heard of it. None: it is waited for.
        #[serde(default)]
        within_ms: Option<u64>,
    },
    /// Whether new work on a server waits.
    PauseServer {
        server: String,
        paused: bool,
    },
    /// Since the last order, the server's `orders`, this node has no connection of its clients to the server any more.
    ConfirmQuiet {
        server: String,
        orders: u64,
        node: String,
    },
    /// Its agent makes it a standby again, rewound or, as `Command::reason` says, built anew. It is out of use until it
    /// streams, and was started later than it had been then.
    RecoverServer {
        server: String,
        version: u64,
        ran_since_ms: Option<u64>,
    },
    /// What `Command::node` found. To be proposed when it changes, not when it is looked at.
    ServerReport {
        server: String,
        claim: Claim,
    },
    /// A node is silent: what it said last counts no more.
    ForgetReports {
        node: String,
    },
    /// Ends what this epoch allows. It cannot be taken back, only followed by the next epoch.
    OpenFence {
        fenced: Fenced,
        epoch: Epoch,
    },
    ConfirmFence {
        fenced: Fenced,
        epoch: Epoch,
        node: String,
    },
    /// The leader vouches that each node has confirmed or that its lease has ended.
    PassFence {
        fenced: Fenced,
        epoch: Epoch,
    },
    /// Chooses who becomes primary in the epoch after this one. It is in the log before anything is asked of the server.
    NamePrimary {
        epoch: Epoch,
        server: String,
        /// komainu makes it one. The one before is then not to be trusted until it was rewound or rebuilt.
        #[serde(default)]
        promotes: bool,
    },
    /// The primary named for this epoch is one, on this timeline.
    ConfirmPrimary {
        epoch: Epoch,
        timeline: u32,
    },
    /// Ends the primary's epoch to make another one; a switchover first lets transactions run out.
    BeginFailover {
        epoch: Epoch,
        kind: FailoverKind,
        to: Option<String>,
    },
    /// From here on a switchover lets transactions on the old primary run out; new ones wait.
    HoldTransactions {
        epoch: Epoch,
    },
    /// This node has nothing under way on the primary that a switchover is about to stop.
    ConfirmHold {
        epoch: Epoch,
        node: String,
    },
    /// A switchover that could not come so far that it ended the epoch.
    AbandonFailover {
        epoch: Epoch,
    },
    /// Restarts these servers one after the other.
    BeginRestart {
        servers: Vec<ToRestart>,
        rolling: bool,
    },
    AdvanceRestart {
        id: u64,
        server: String,
        from: RestartStage,
        to: RestartStage,
    },
    /// This node has nothing under way on the standby that is about to be restarted.
    ConfirmClear {
        id: u64,
        server: String,
        node: String,
    },
    /// Why it ends before all was restarted: `Command::reason`, and here in words.
    EndRestart {
        id: u64,
        text: String,
    },
    /// Who acknowledges commits, as far as a failover relies on it. `before`: what it was decided by.
    SetSynchronous {
        before: SyncSet,
        set: SyncSet,
    },
    /// What a leader decided and did not do, since it would have broken an invariant. None: that has not been so for a
    /// while.
    NoteRejected {
        what: Option<String>,
    },
    PauseFailover {
        paused: bool,
    },
    /// Why the lost primary of this epoch is not replaced: `Command::reason`, and here in words. None: it is back.
    StandStill {
        epoch: Epoch,
        sentence: Option<String>,
    },
    /// Gives an endpoint to a node, or to nobody, in the epoch after this one.
    AssignEndpoint {
        endpoint: String,
        epoch: Epoch,
        owner: Option<String>,
    },
    /// Of one that nobody owns.
    RemoveEndpoint {
        endpoint: String,
        epoch: Epoch,
    },
    ApplyConfiguration {
        version: u64,
        text: String,
        /// The servers of that text. None: the leader reads it.
        #[serde(default)]
        servers: Option<Vec<String>>,
    },
    RollBackConfiguration {
        version: u64,
        to: u64,
        #[serde(default)]
        servers: Option<Vec<String>>,
    },
    /// The leader is about to run the operator's program for this event: nobody else ever will.
    TakeHook {
        id: u64,
        deadline_ms: u64,
    },
    /// How that ended. None: there is no program for such events.
    EndHook {
        id: u64,
        text: Option<String>,
    },
    NoteIncident {
        subject: String,
        text: String,
    },
    /// From here on the log may hold what a member that knows no more than `from` would not understand. Every member has
    /// said that it knows `to`.
    RaiseLogFormat {
        from: u32,
        to: u32,
    },
}

impl Change {
    /// For the log: what it is and of what, without whole configurations.
    pub fn summary(&self) -> String {
        match self {
            Change::CreateCluster { cluster_id, members, .. } => {
                format!("create cluster {cluster_id} with {} members", members.len())
            }
            Change::ApplyConfiguration { version, .. } => {
                format!("apply a configuration over version {version}")
            }
            other => format!("{other:?}"),
        }
    }
}

impl Command {
    /// Names end up in tables, labels and paths of the admin API.
    pub(super) fn check_names(&self) -> Result<(), Refusal> {
        name(&self.node)?;
        if self.cause.len() > MAX_NAME || self.reason.len() > MAX_NAME {
            return Err(Refusal::BadName { name: short(&self.cause) });
        }
        match &self.change {
            Change::CreateCluster { cluster_id, members, .. } => {
                name(cluster_id)?;
                members.iter().try_for_each(|member| name(&member.id))
            }
            Change::AddMember { member } | Change::ReplaceMember { member, .. } => name(&member.id),
            Change::SetServers { servers }
            | Change::ApplyConfiguration { servers: Some(servers), .. }
            | Change::RollBackConfiguration { servers: Some(servers), .. } => {
                servers.iter().try_for_each(|server| name(server))
            }
            Change::OpenFence { fenced: Fenced::Endpoint(endpoint), .. }
            | Change::AssignEndpoint { endpoint, .. } => name(endpoint),
            _ => Ok(()),
        }
    }
}

fn name(name: &str) -> Result<(), Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(fits) {
        true => Ok(()),
        false => Err(Refusal::BadName { name: short(name) }),
    }
}

fn short(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}
