//! What went wrong with a look or a change, in the terms the loop decides by.

use crate::authority::Withdrawn;
use crate::reason::Reason;
use crate::{aws, interface, program};

/// Any module's error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Aws(#[from] aws::AwsError),
    #[error(transparent)]
    Interface(#[from] interface::InterfaceError),
    #[error(transparent)]
    Program(#[from] program::ProgramError),
    #[error(transparent)]
    Withdrawn(#[from] Withdrawn),
}

impl Error {
    pub fn fault(&self) -> Fault {
        match self {
            Error::Aws(error) => error.fault,
            Error::Interface(error) => error.fault(),
            Error::Program(error) => error.fault(),
            Error::Withdrawn(_) => Fault::Withdrawn,
        }
    }
}

/// Whose fault it is, and so what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Too many requests.
    Throttled,
    /// Sent, or perhaps sent, and no usable answer.
    OutcomeUnknown,
    /// The service failed, or was not reached.
    Unreachable,
    /// What is there is no longer what the plan was made for.
    Conflict,
    NotPermitted,
    Credentials,
    Missing,
    /// Refused as it stands; the same request will be refused again.
    Refused,
    /// Not sent: this node no longer has the right.
    Withdrawn,
    /// The operating system refused.
    Local,
    ProgramFailed,
    ProgramTimedOut,
}

impl Fault {
    pub fn reason(self) -> Reason {
        match self {
            Fault::Throttled => Reason::Throttled,
            Fault::OutcomeUnknown => Reason::OutcomeUnknown,
            Fault::Unreachable => Reason::Unreachable,
            Fault::Conflict => Reason::Conflict,
            Fault::NotPermitted => Reason::NotPermitted,
            Fault::Credentials => Reason::CredentialsRefused,
            Fault::Missing => Reason::TargetMissing,
            Fault::Refused => Reason::Refused,
            Fault::Withdrawn => Reason::LeaseEndedBeforeSending,
            Fault::Local => Reason::LocalFailed,
            Fault::ProgramFailed => Reason::ProgramFailed,
            Fault::ProgramTimedOut => Reason::ProgramTimedOut,
        }
    }

    /// Worth the next look at once: it will tell what happened. Everything else waits its turn.
    pub fn look_at_once(self) -> bool {
        matches!(self, Fault::OutcomeUnknown | Fault::Conflict)
    }

    /// Somebody has to do something; the loop goes on trying, and says so meanwhile.
    pub fn needs_hands(self) -> bool {
        matches!(self, Fault::NotPermitted | Fault::Credentials | Fault::Missing | Fault::Refused)
    }
}
