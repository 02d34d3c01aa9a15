//! What a drill breaks, and how it is mended.
//!
//! Pure. Invariant: whatever an event breaks in a sandbox it can mend there.

use crate::pki::AGENT_PREFIX;
use crate::sandbox::Request;

/// What happens to the endpoint's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Event {
    /// Its process ends at once, as with SIGKILL
    Kill,
    /// It hangs, as with SIGSTOP, and goes on later
    Freeze,
    /// Nothing it sends arrives, and nothing reaches it (needs --netns)
    Partition,
}

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Partition => "partition",
        }
    }

    pub fn breaks(self, id: &str) -> Request {
        let id = id.to_owned();
        match self {
            Self::Kill => Request::Kill { id },
            Self::Freeze => Request::Freeze { id },
            Self::Partition => Request::Cut { id },
        }
    }

    pub fn mends(self, id: &str) -> Request {
        let id = id.to_owned();
        match self {
            Self::Kill => Request::Start { id },
            Self::Freeze => Request::Thaw { id },
            Self::Partition => Request::Join { id },
        }
    }
}

/// What happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FailoverEvent {
    /// The primary's processes end at once, as with SIGKILL
    Kill,
    /// The primary is shut down, as by an administrator
    Shutdown,
    /// The primary's host hangs, its agent included, and goes on later
    Freeze,
    /// Nothing the primary's host sends arrives, and nothing reaches it (needs --netns)
    Partition,
    /// A standby hangs that commits may wait for, and goes on later
    SyncStandbyFreeze,
    /// A standby hangs that no commit waits for, and goes on later
    AsyncStandbyFreeze,
    /// The primary changes as planned
    Switchover,
    /// The service makes another writer, as when it has lost the old one (needs --mode)
    AwsFailover,
}

impl FailoverEvent {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Shutdown => "shutdown",
            Self::Freeze => "freeze",
            Self::Partition => "partition",
            Self::SyncStandbyFreeze => "sync-standby-freeze",
            Self::AsyncStandbyFreeze => "async-standby-freeze",
            Self::Switchover => "switchover",
            Self::AwsFailover => "aws-failover",
        }
    }

    /// A standby is broken, and the primary stays.
    pub fn is_a_standby_s(self) -> bool {
        matches!(self, Self::SyncStandbyFreeze | Self::AsyncStandbyFreeze)
    }

    /// `agent`: that there is one beside the server.
    pub fn breaks(self, server: &str, agent: bool) -> Vec<Request> {
        let id = server.to_owned();
        match self {
            Self::Kill => vec![Request::Kill { id }],
            Self::Shutdown => vec![Request::Stop { id }],
            Self::Partition => vec![Request::Cut { id }],
            Self::Freeze | Self::SyncStandbyFreeze | Self::AsyncStandbyFreeze => {
                // The agent last: that the server hangs is what is measured.
                let agent = agent.then(|| Request::Freeze { id: agent_of(server) });
                std::iter::once(Request::Freeze { id }).chain(agent).collect()
            }
            // An order to the nodes, or to the service, and nothing broken.
            Self::Switchover | Self::AwsFailover => Vec::new(),
        }
    }

    /// What komainu is then to do by itself is not done here: to start what it has failed over, for one.
    pub fn mends(self, server: &str, agent: bool) -> Vec<Request> {
        let id = server.to_owned();
        match self {
            // Without an agent nobody else could.
            Self::Kill | Self::Shutdown if !agent => vec![Request::Start { id }],
            Self::Partition => vec![Request::Join { id }],
            Self::Freeze | Self::SyncStandbyFreeze | Self::AsyncStandbyFreeze => {
                let agent = agent.then(|| Request::Thaw { id: agent_of(server) });
                std::iter::once(Request::Thaw { id }).chain(agent).collect()
            }
            Self::Kill | Self::Shutdown | Self::Switchover | Self::AwsFailover => Vec::new(),
        }
    }
}

fn agent_of(server: &str) -> String {
    format!("{AGENT_PREFIX}{server}")
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn what_an_event_freezes_or_cuts_it_thaws_and_joins() {
        for event in FailoverEvent::value_variants() {
            for agent in [false, true] {
                let (breaks, mends) = (event.breaks("pg1", agent), event.mends("pg1", agent));
                for broken in breaks {
                    let mended = match broken {
                        Request::Freeze { id } => Request::Thaw { id },
                        Request::Cut { id } => Request::Join { id },
                        Request::Kill { id } | Request::Stop { id } if !agent => Request::Start { id },
                        _ => continue,
                    };
                    assert!(mends.contains(&mended), "{event:?}: {mended:?}");
                }
            }
        }
    }
}
