//! Which changes the log may hold, so that nodes of different versions make the same of it.
//!
//! Pure. The cluster has a log format, which is part of the state and only rises. A version knows the formats up to
//! [`LOG_FORMAT`]; the leader raises the cluster's once every member knows a higher one. Invariant: nothing enters the log
//! that a member might not know, or that means less to it than to the others.

use super::{Accepted, Change, ClusterState, Entry, Refusal};

/// The highest that this version knows. Who adds a change, or a field or value that makes a change do more than before,
/// or lets `apply` do otherwise with one there was, raises it by one, gives the change that number in
/// [`Change::log_format`], and lets `apply` do the new thing only in states that have reached it.
pub const LOG_FORMAT: u32 = 2;
/// From here on programs are told who was the primary before, and not who was named in vain meanwhile.
pub(super) const HOOKS_TELL_THE_LAST_CONFIRMED: u32 = 2;

impl Change {
    /// The log format that it belongs to. Every field is named, so that a new one does not go in unnoticed: what uses it
    /// belongs to a higher format.
    pub fn log_format(&self) -> u32 {
        match self {
            Change::CreateCluster { cluster_id: _, members: _, configuration: _ }
            | Change::AddMember { member: _ }
            | Change::UpdateMember { id: _, incarnation: _, address: _, role: _ }
            | Change::ReplaceMember { incarnation: _, member: _ }
            | Change::RemoveMember { id: _, incarnation: _ }
            | Change::SetServers { servers: _ }
            | Change::ForgetServer { server: _ }
            | Change::SetAdministrative { server: _, version: _, state: _, within_ms: _ }
            | Change::PauseServer { server: _, paused: _ }
            | Change::ConfirmQuiet { server: _, orders: _, node: _ }
            | Change::RecoverServer { server: _, version: _, ran_since_ms: _ }
            | Change::ServerReport { server: _, claim: _ }
            | Change::ForgetReports { node: _ }
            | Change::OpenFence { fenced: _, epoch: _ }
            | Change::ConfirmFence { fenced: _, epoch: _, node: _ }
            | Change::PassFence { fenced: _, epoch: _ }
            | Change::NamePrimary { epoch: _, server: _, promotes: _ }
            | Change::ConfirmPrimary { epoch: _, timeline: _ }
            | Change::BeginFailover { epoch: _, kind: _, to: _ }
            | Change::HoldTransactions { epoch: _ }
            | Change::ConfirmHold { epoch: _, node: _ }
            | Change::AbandonFailover { epoch: _ }
            | Change::BeginRestart { servers: _, rolling: _ }
            | Change::AdvanceRestart { id: _, server: _, from: _, to: _ }
            | Change::ConfirmClear { id: _, server: _, node: _ }
            | Change::EndRestart { id: _, text: _ }
            | Change::SetSynchronous { before: _, set: _ }
            | Change::NoteRejected { what: _ }
            | Change::PauseFailover { paused: _ }
            | Change::StandStill { epoch: _, sentence: _ }
            | Change::AssignEndpoint { endpoint: _, epoch: _, owner: _ }
            | Change::RemoveEndpoint { endpoint: _, epoch: _ }
            | Change::ApplyConfiguration { version: _, text: _, servers: _ }
            | Change::RollBackConfiguration { version: _, to: _, servers: _ }
            | Change::TakeHook { id: _, deadline_ms: _ }
            | Change::EndHook { id: _, text: _ }
            | Change::NoteIncident { subject: _, text: _ } => 0,
            // The first of its format, and so the only one that enters the log before the format has risen.
            Change::RaiseLogFormat { from: _, to } => *to,
        }
    }
}

impl ClusterState {
    /// What every member knows. 0 is what there was before formats were counted.
    pub fn log_format(&self) -> u32 {
        self.log_format
    }

    /// Refused before it is in the log, and by every node alike if it is.
    pub fn check_log_format(&self, change: &Change) -> Result<(), Refusal> {
        match change {
            Change::RaiseLogFormat { .. } => Ok(()),
            other => self.allows(other.log_format()),
        }
    }

    fn allows(&self, needed: u32) -> Result<(), Refusal> {
        match needed > self.log_format {
            true => Err(Refusal::LogFormat { needed, current: self.log_format }),
            false => Ok(()),
        }
    }

    pub(super) fn raise_log_format(
        &mut self,
        from: u32,
        to: u32,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        if self.log_format != from {
            let (expected, current) = (u64::from(from), u64::from(self.log_format));
            return Err(Refusal::StaleVersion { expected, current });
        }
        if to <= from {
            return Ok((Accepted::Unchanged, None));
        }
        self.log_format = to;
        let text =
            format!("every node knows log format {to}, and the log is in it: no older komainu can come back");
        Ok((Accepted::Changed, Some(Entry { subject: "log".to_owned(), text })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::state::{Command, Outcome, ReadError};

    fn apply(state: &mut ClusterState, change: Change) -> Outcome {
        let (node, cause, reason) = ("a".to_owned(), "decision".to_owned(), "test".to_owned());
        state.apply(Command { at_ms: 0, node, cause, reason, change })
    }

    #[test]
    fn it_rises_from_what_it_is_and_what_is_above_it_stays_out() {
        let mut state = ClusterState::default();
        let raise = |from, to| Change::RaiseLogFormat { from, to };
        assert_eq!(apply(&mut state, raise(0, 1)), Outcome::Refused(Refusal::NoCluster));
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        apply(&mut state, Change::CreateCluster { cluster_id, members: Vec::new(), configuration });
        assert_eq!(state.allows(1), Err(Refusal::LogFormat { needed: 1, current: 0 }));
        assert_eq!(apply(&mut state, raise(0, 1)), Outcome::Accepted(Accepted::Changed));
        assert_eq!((state.allows(1), state.log_format()), (Ok(()), 1));
        assert_eq!(
            apply(&mut state, raise(0, 2)),
            Outcome::Refused(Refusal::StaleVersion { expected: 0, current: 1 })
        );
        assert_eq!(apply(&mut state, raise(1, 0)), Outcome::Accepted(Accepted::Unchanged));
        assert_eq!(state.log_format(), 1);
    }

    #[test]
    fn a_state_is_read_by_versions_that_know_its_log() {
        let written = |log_format| ClusterState { log_format, ..ClusterState::default() }.to_bytes().unwrap();
        for format in 0..=LOG_FORMAT {
            assert_eq!(ClusterState::from_bytes(&written(format)).unwrap().log_format(), format);
        }
        assert!(written(0).starts_with(br#"{"format":1,"#), "so that who counted no formats yet reads it");
        let newer = ClusterState::from_bytes(&written(LOG_FORMAT + 1));
        assert!(matches!(newer, Err(ReadError::Newer { .. })), "{newer:?}");
    }
}
