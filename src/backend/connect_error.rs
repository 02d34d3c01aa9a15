//! Why there is no connection to a server.
//!
//! Owns what each failure means to a client and to a retry. Invariant: nothing here prints a secret,
//! and what `client_message` returns does not name who we tried to log in as.

use std::io;

use bytes::Bytes;
use komainu_escalation::passwords::NoPassword;

use crate::wire::fields;
use crate::wire::frame::FrameError;
use crate::wire::scram::ScramError;
use crate::wire::sqlstate::{self, SqlState};

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach the server: {0}")]
    Unreachable(#[source] io::Error),
    /// For callers: they keep the deadline.
    #[error("the server did not answer in time")]
    Timeout,
    #[error("no TLS with the server: {0}")]
    Tls(#[from] TlsFault),
    #[error("the server refused the login: {0}")]
    Refused(Refusal),
    #[error("the connection broke during login: {0}")]
    Lost(#[source] io::Error),
    #[error("the server broke the protocol during login: {0}")]
    Protocol(#[from] ProtocolFault),
    #[error("cannot authenticate to the server: {0}")]
    Authentication(#[from] AuthenticationFault),
    /// What we were asked to send, the server cannot be sent. Nothing was.
    #[error("cannot be sent to the server: {0}")]
    Unsendable(&'static str),
}

#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    #[error("it does not speak it, and the configuration demands it")]
    NotOffered,
    #[error("it answered the request with an error")]
    RequestFailed,
    #[error("it sent more than its one byte of answer before the handshake")]
    BytesBeforeHandshake,
    #[error("it answered the request with byte {0:#04x}")]
    UnknownAnswer(u8),
    #[error("{0}")]
    Handshake(#[source] io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum ProtocolFault {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("message {0:?} was not expected")]
    Unexpected(char),
    #[error("message {0:?} is malformed")]
    Malformed(char),
    #[error("it sends messages without end")]
    Endless,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthenticationFault {
    #[error("it asks for {0}, and there is no password to answer with")]
    NoPassword(&'static str),
    #[error(
        "it asks for a password in clear, which only a server that is verified gets: set server_tls.mode to \"verify-full\", \
         or have it ask for scram-sha-256"
    )]
    ClearTextRefused,
    #[error(
        "it asks for an MD5 proof, by which the password can be guessed: give the role a SCRAM verifier, or set \
         server_tls.mode to \"verify-full\", or server_tls.allow_md5 = true"
    )]
    Md5Refused,
    #[error(
        "it asks for a SCRAM proof of {rounds} rounds, by which the password can be guessed; {least} are the least: set the \
         password again with a higher scram_iterations, or set server_tls.mode to \"verify-full\", or \
         server_tls.allow_md5 = true"
    )]
    TooFewRounds { rounds: u32, least: u32 },
    #[error("it asks for authentication method {0}, which is not supported: have it ask for scram-sha-256")]
    UnsupportedMethod(i32),
    #[error("it offers none of the SASL mechanisms that can be used here: have it ask for scram-sha-256")]
    NoMechanism,
    #[error(transparent)]
    NotToBeHad(#[from] NoPassword),
    #[error("an IAM token goes only to a server that is verified: set server_tls.mode to \"verify-full\"")]
    TokenNeedsVerifiedTls,
    #[error(
        "it does not ask for an IAM token: turn IAM authentication on for it, and GRANT rds_iam to the role"
    )]
    TokenNotAsked,
    #[error("it lets us in without having proved to know the password")]
    NoProof,
    #[error(transparent)]
    Scram(#[from] ScramError),
}

impl AuthenticationFault {
    /// What is to be changed, at the server or in the configuration, where it says that: a client may read it.
    pub fn remedy(&self) -> Option<String> {
        match self {
            AuthenticationFault::ClearTextRefused
            | AuthenticationFault::Md5Refused
            | AuthenticationFault::TooFewRounds { .. }
            | AuthenticationFault::UnsupportedMethod(_)
            | AuthenticationFault::NoMechanism
            | AuthenticationFault::TokenNeedsVerifiedTls
            | AuthenticationFault::TokenNotAsked => Some(self.to_string()),
            AuthenticationFault::NoPassword(_)
            | AuthenticationFault::NotToBeHad(_)
            | AuthenticationFault::NoProof
            | AuthenticationFault::Scram(_) => None,
        }
    }
}

/// An ErrorResponse during login.
#[derive(Clone)]
pub struct Refusal {
    pub sqlstate: SqlState,
    /// Lossy where it is not UTF-8; empty where the server sent none.
    pub message: String,
    /// The body of the ErrorResponse as it came, to be passed on to a client.
    pub fields: Bytes,
    /// Who was refused; never shown to a client.
    user: String,
}

impl Refusal {
    pub(super) fn new(fields: Bytes, user: &str) -> Self {
        let message = fields::field(&fields, b'M').map(String::from_utf8_lossy).unwrap_or_default();
        Refusal {
            sqlstate: fields::sqlstate(&fields),
            message: message.into_owned(),
            user: user.to_owned(),
            fields,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)
    }
}

impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refusal")
            .field("sqlstate", &self.sqlstate.as_str())
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl ConnectError {
    pub fn sqlstate(&self) -> SqlState {
        match self {
            ConnectError::Refused(refusal) => refusal.sqlstate,
            ConnectError::Authentication(AuthenticationFault::Scram(
                ScramError::OtherVerifier | ScramError::Refused,
            )) => sqlstate::INVALID_PASSWORD,
            ConnectError::Authentication(_) => sqlstate::INVALID_AUTHORIZATION,
            ConnectError::Unsendable(_) => sqlstate::INVALID_PARAMETER_VALUE,
            ConnectError::Unreachable(_)
            | ConnectError::Timeout
            | ConnectError::Tls(_)
            | ConnectError::Lost(_)
            | ConnectError::Protocol(_) => sqlstate::CONNECTION_FAILURE,
        }
    }

    /// The server takes no connections yet or any more, whoever asks; its end may cut a login short, too.
    pub fn takes_no_connections(&self) -> bool {
        matches!(
            self.sqlstate(),
            sqlstate::CANNOT_CONNECT_NOW | sqlstate::ADMIN_SHUTDOWN | sqlstate::CRASH_SHUTDOWN
        )
    }

    /// What we log in with is not what the server wants: it is not to be tried again.
    pub fn is_credential(&self) -> bool {
        match self {
            ConnectError::Authentication(
                AuthenticationFault::NoPassword(_)
                | AuthenticationFault::NotToBeHad(_)
                | AuthenticationFault::ClearTextRefused
                | AuthenticationFault::Md5Refused
                | AuthenticationFault::TooFewRounds { .. }
                | AuthenticationFault::TokenNeedsVerifiedTls
                | AuthenticationFault::TokenNotAsked,
            ) => true,
            ConnectError::Refused(_) | ConnectError::Authentication(AuthenticationFault::Scram(_)) => {
                matches!(self.sqlstate(), sqlstate::INVALID_PASSWORD | sqlstate::INVALID_AUTHORIZATION)
            }
            _ => false,
        }
    }

    /// Whoever asks again later, or asks another server, may be let in: it is neither the server's own word on the user
    /// or the database, nor a question that is never answered, nor what cannot even be sent.
    pub fn is_passing(&self) -> bool {
        let is_lasting = matches!(
            self,
            ConnectError::Refused(_) | ConnectError::Authentication(_) | ConnectError::Unsendable(_)
        );
        self.takes_no_connections() || !is_lasting
    }

    /// What a client may read of it.
    pub fn client_message(&self) -> String {
        match self {
            ConnectError::Refused(refusal) if !self.is_credential() && !refusal.message.is_empty() => {
                refusal.message.replace(&format!("\"{}\"", refusal.user), "\"...\"")
            }
            ConnectError::Refused(_) => "the server refused the login".to_owned(),
            ConnectError::Unreachable(_) => "the server cannot be reached".to_owned(),
            ConnectError::Timeout => "the server did not answer in time".to_owned(),
            ConnectError::Tls(_) => "no secure connection to the server could be made".to_owned(),
            ConnectError::Lost(_) => "the server closed the connection during login".to_owned(),
            ConnectError::Protocol(_) => "the server broke the protocol during login".to_owned(),
            ConnectError::Authentication(fault) => match fault.remedy() {
                Some(remedy) => format!("the login to the server failed: {remedy}"),
                None => "the login to the server failed".to_owned(),
            },
            ConnectError::Unsendable(why) => (*why).to_owned(),
        }
    }
}
