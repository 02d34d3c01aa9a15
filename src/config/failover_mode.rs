//! Who makes primaries, and what follows from that for orders and defaults.
//!
//! Pure. Invariant: where AWS makes them, komainu changes nothing on a server.

use super::words::Words as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverMode {
    /// The primary is whoever says so.
    Off,
    /// The primary is whom komainu promoted.
    Streaming,
    /// Of RDS: the writer is whoever says so, and AWS makes it one.
    Rds,
    /// The same of Aurora, whose instances tell which of them there are.
    Aurora,
    /// Of Redshift: there is one server, which takes writes as long as it answers.
    Redshift,
}

impl FailoverMode {
    /// Whether primaries are made by komainu.
    pub fn promotes(self) -> bool {
        self == FailoverMode::Streaming
    }

    /// Whether they are made by AWS, which moves names and replaces what is behind them.
    pub fn is_managed(self) -> bool {
        match self {
            FailoverMode::Rds | FailoverMode::Aurora | FailoverMode::Redshift => true,
            FailoverMode::Off | FailoverMode::Streaming => false,
        }
    }

    /// As the configuration has it.
    pub fn name(self) -> &'static str {
        self.word()
    }

    /// Whether servers speak the dialect of PostgreSQL 8: they cannot be asked what a session has left on a connection, nor
    /// be made to forget it.
    pub fn is_redshift(self) -> bool {
        self == FailoverMode::Redshift
    }

    /// Whether the API of RDS can be asked which servers there are.
    pub fn is_of_rds(self) -> bool {
        self.is_managed() && !self.is_redshift()
    }

    /// Why komainu does nothing to servers by order. None: it does.
    pub fn refusal(self) -> Option<String> {
        match self {
            FailoverMode::Streaming => None,
            FailoverMode::Off => Some(
                "failover.mode is \"off\" in the configuration: komainu does nothing to servers".to_owned(),
            ),
            FailoverMode::Rds | FailoverMode::Aurora | FailoverMode::Redshift => Some(format!(
                "AWS does the failover in this mode (failover.mode is {:?} in the configuration): ask it, by `{}` for \
                 instance; komainu follows",
                self.name(),
                match self {
                    FailoverMode::Aurora => "aws rds failover-db-cluster",
                    FailoverMode::Redshift => "aws redshift reboot-cluster",
                    _ => "aws rds reboot-db-instance --force-failover",
                }
            )),
        }
    }

    /// How long clients wait for a primary unless the configuration says so: longer than such a change usually takes.
    pub fn hold_timeout_ms(self) -> u64 {
        match self {
            FailoverMode::Off | FailoverMode::Streaming => 30_000,
            FailoverMode::Rds | FailoverMode::Redshift => 120_000,
            FailoverMode::Aurora => 60_000,
        }
    }
}
