//! What a failed look means: the reason for an error of the connection or of the question.
//!
//! Pure. Invariant: a detail is what a client may read; it names neither user nor secret.

use std::io;

use crate::backend::connect::{AuthenticationFault, ConnectError};
use crate::backend::control::QueryError;
use crate::cluster::reason::Reason;
use crate::wire::sqlstate::{self, SqlState};

use super::question::AnswerError;

/// Why a look brought no facts.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(
        "the look took longer than health.timeout_ms, or than health.connect_timeout_ms where it had to connect"
    )]
    Timeout,
    #[error("cannot read health.password_file: {0}")]
    Credential(#[source] io::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl LookError {
    pub fn reason(&self) -> Reason {
        match self {
            LookError::Timeout | LookError::Connect(ConnectError::Timeout) => Reason::Timeout,
            LookError::Credential(_) => Reason::CredentialMissing,
            LookError::Connect(ConnectError::Unreachable(error)) => unreachable(error),
            LookError::Connect(ConnectError::Tls(_)) => Reason::TlsFailed,
            LookError::Connect(ConnectError::Refused(refusal)) => refused(refusal.sqlstate),
            LookError::Connect(ConnectError::Lost(_)) => Reason::ConnectionLost,
            LookError::Connect(ConnectError::Authentication(
                AuthenticationFault::NoPassword(_) | AuthenticationFault::NotToBeHad(_),
            )) => Reason::CredentialMissing,
            LookError::Connect(ConnectError::Authentication(_)) => Reason::AuthenticationFailed,
            LookError::Connect(ConnectError::Protocol(_)) => Reason::UnexpectedAnswer,
            LookError::Connect(ConnectError::Unsendable(_)) => Reason::QueryFailed,
            LookError::Query(QueryError::Refused { sqlstate, .. }) => refused(*sqlstate),
            LookError::Query(QueryError::Lost(_)) => Reason::ConnectionLost,
            LookError::Query(_) | LookError::Answer(_) => Reason::UnexpectedAnswer,
        }
    }

    /// What adds to the reason's sentence; may be empty.
    pub fn detail(&self) -> String {
        match self {
            LookError::Connect(ConnectError::Unreachable(error)) => error.to_string(),
            LookError::Connect(ConnectError::Refused(refusal)) => {
                let error = self.connect_error().map(ConnectError::client_message).unwrap_or_default();
                format!("{error} ({})", refusal.sqlstate)
            }
            LookError::Query(QueryError::Refused { sqlstate, message }) => format!("{message} ({sqlstate})"),
            LookError::Connect(ConnectError::Tls(fault)) => fault.to_string(),
            LookError::Connect(ConnectError::Authentication(fault)) => fault.remedy().unwrap_or_default(),
            LookError::Answer(error) => error.to_string(),
            LookError::Timeout | LookError::Credential(_) | LookError::Connect(_) | LookError::Query(_) => {
                String::new()
            }
        }
    }

    fn connect_error(&self) -> Option<&ConnectError> {
        match self {
            LookError::Connect(error) => Some(error),
            _ => None,
        }
    }
}

fn unreachable(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
        io::ErrorKind::TimedOut => Reason::Timeout,
        // Errors of the resolver are the only ones that are no errno. An errno ENOENT is the socket
        // file's: nobody listens there.
        _ if error.raw_os_error().is_none() => Reason::NameNotResolved,
        io::ErrorKind::NotFound => Reason::ConnectRefused,
        _ => Reason::Unreachable,
    }
}

fn refused(state: SqlState) -> Reason {
    match state {
        sqlstate::CANNOT_CONNECT_NOW | sqlstate::ADMIN_SHUTDOWN | sqlstate::CRASH_SHUTDOWN => {
            Reason::StartingUp
        }
        sqlstate::TOO_MANY_CONNECTIONS => Reason::TooManyConnections,
        // Cancelled by the statement_timeout we asked for.
        sqlstate::QUERY_CANCELED => Reason::Timeout,
        sqlstate::INVALID_AUTHORIZATION | sqlstate::INVALID_PASSWORD => Reason::AuthenticationFailed,
        _ => Reason::QueryFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_reason_an_operator_would_look_for() {
        let unreachable = |error: io::Error| LookError::Connect(ConnectError::Unreachable(error)).reason();
        // ECONNREFUSED, ENOENT, EHOSTUNREACH, ETIMEDOUT.
        for (errno, reason) in [
            (111, Reason::ConnectRefused),
            (2, Reason::ConnectRefused),
            (113, Reason::Unreachable),
            (110, Reason::Timeout),
        ] {
            assert_eq!(unreachable(io::Error::from_raw_os_error(errno)), reason);
        }
        assert_eq!(unreachable(io::Error::other("failed to lookup address")), Reason::NameNotResolved);
        for (state, reason) in [
            (b"57P03", Reason::StartingUp),
            (b"57P01", Reason::StartingUp),
            (b"53300", Reason::TooManyConnections),
            (b"28P01", Reason::AuthenticationFailed),
            (b"28000", Reason::AuthenticationFailed),
            (b"57014", Reason::Timeout),
            (b"42501", Reason::QueryFailed),
        ] {
            let error = QueryError::Refused { sqlstate: SqlState(*state), message: "no".to_owned() };
            let error = LookError::from(error);
            assert_eq!(error.reason(), reason);
            assert_eq!(error.detail(), format!("no ({})", std::str::from_utf8(state).unwrap()));
        }
        let too_few = AuthenticationFault::TooFewRounds { rounds: 1, least: 4096 };
        let too_few = LookError::Connect(too_few.into());
        assert_eq!(too_few.reason(), Reason::AuthenticationFailed);
        assert!(too_few.detail().contains("a higher scram_iterations"), "{}", too_few.detail());
        let no_password = AuthenticationFault::NoPassword("a password");
        assert_eq!(LookError::Connect(no_password.into()).reason(), Reason::CredentialMissing);
    }
}
