//! Which servers a configuration may have, that they come with it, and which have gone.
//!
//! Pure. Invariants: the primary, and who is about to be one, stay among the servers; no server is one and a former one.

use super::incidents::Entry;
use super::{Accepted, ClusterState, Failover, MAX_SERVERS, Refusal, Servers};

impl ClusterState {
    /// Whether these can be all servers from now on.
    pub(super) fn check_servers(&self, servers: &[String]) -> Result<(), Refusal> {
        Servers::check_count(servers)?;
        if let Some(primary) = &self.ownership.primary().server
            && !servers.contains(primary)
        {
            return Err(Refusal::PrimaryInUse { server: primary.clone() });
        }
        match self.failovers.under_way() {
            Some(Failover { to: Some(to), from, .. }) if !servers.contains(to) => {
                Err(Refusal::FailoverUnderWay { from: from.clone() })
            }
            _ => Ok(()),
        }
    }

    /// From now on these are the servers.
    pub(super) fn set_servers(
        &mut self,
        servers: &[String],
        at_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        self.check_servers(servers)?;
        let before: Vec<String> = self.servers.all().keys().cloned().collect();
        let done = self.servers.set(servers, at_ms)?;
        self.former_servers.extend(before);
        self.former_servers.retain(|id| !servers.contains(id));
        while self.former_servers.len() > MAX_SERVERS {
            self.former_servers.pop_first();
        }
        Ok(done)
    }

    /// A configuration and its servers are taken over as one: what would not fit is refused before.
    pub(super) fn with_servers(
        &mut self,
        applied: (Accepted, Option<Entry>),
        servers: Option<&[String]>,
        at_ms: u64,
    ) -> (Accepted, Option<Entry>) {
        let (accepted, entry) = applied;
        let set = servers.and_then(|servers| self.set_servers(servers, at_ms).ok());
        match (entry, set) {
            (Some(entry), Some((Accepted::Changed, Some(Entry { text, .. })))) => {
                let text = format!("{}; {text}", entry.text);
                (accepted, Some(Entry { text, ..entry }))
            }
            (entry, _) => (accepted, entry),
        }
    }
}
