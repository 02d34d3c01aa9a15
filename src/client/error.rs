//! Why a handshake ended without a login, and how much of it the client may read.
//!
//! Invariant: `Display` is for the log and may tell why a password was refused; `answer` is for the
//! client and tells the same to whoever has no account as to whoever mistyped.

use std::io;
use std::net::IpAddr;

use super::secrets::{LookupError, NoAnswer};
use crate::wire::frame::FrameError;
use crate::wire::message::Report;
use crate::wire::scram::ScramError;
use crate::wire::sqlstate::{self, SqlState};
use crate::wire::startup::StartupError;

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("connection failed in the handshake: {0}")]
    Io(#[from] io::Error),
    #[error("client hung up in the handshake")]
    Disconnected,
    #[error("handshake took too long")]
    Timeout,
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("received unencrypted data after SSL request")]
    BytesBeforeTls,
    #[error("received direct SSL connection request without ALPN protocol negotiation extension")]
    NoAlpn,
    #[error("{0} was sent more than once, or within an encrypted connection")]
    RepeatedRequest(&'static str),
    #[error("sorry, too many clients already")]
    TooManyClients,
    #[error("connection without TLS refused")]
    TlsRequired,
    #[error("expected {expected} response, got message type {found}")]
    UnexpectedMessage { expected: &'static str, found: u8 },
    #[error("malformed {0} response")]
    MalformedResponse(&'static str),
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    #[error(transparent)]
    Scram(#[from] ScramError),
    #[error("no pool_hba.conf entry for {0}")]
    NoRule(Who),
    #[error("pool_hba.conf rejects connection for {0}")]
    Rejected(Who),
    #[error("password authentication over an unencrypted connection refused")]
    PasswordWithoutTls,
    #[error("connection requires a valid client certificate")]
    NoCertificate,
    #[error("certificate authentication failed for user \"{user}\": the certificate is of {found:?}")]
    OtherCertificate { user: String, found: Option<String> },
    #[error("password authentication failed for user \"{user}\": {reason}")]
    Password { user: String, reason: Reason },
    #[error("role \"{user}\" is not permitted to log in")]
    MayNotLogIn { user: String },
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// Why a password was refused. The log's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("wrong password")]
    Wrong,
    #[error("user is unknown or has no password")]
    NoSecret,
    #[error("the server says that this user may not log in")]
    MayNotLogIn,
    #[error("its secret is an md5 hash, with which SCRAM is impossible")]
    Md5Only,
}

/// Who was refused, in the words PostgreSQL uses.
#[derive(Debug, Clone)]
pub struct Who {
    pub address: Option<IpAddr>,
    pub user: String,
    /// None: physical replication.
    pub database: Option<String>,
    pub tls: bool,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.database.is_none() {
            f.write_str("replication connection from ")?;
        }
        match self.address {
            Some(address) => write!(f, "host \"{}\"", address.to_canonical())?,
            None => f.write_str("host \"[local]\"")?,
        }
        write!(f, ", user \"{}\"", self.user)?;
        if let Some(database) = &self.database {
            write!(f, ", database \"{database}\"")?;
        }
        f.write_str(if self.tls { ", SSL encryption" } else { ", no encryption" })
    }
}

/// What a FATAL ErrorResponse to the client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub state: SqlState,
    pub message: String,
    pub hint: Option<&'static str>,
}

impl Answer {
    pub fn report(&self) -> Report<'_> {
        let report = Report::fatal(self.state, &self.message);
        match self.hint {
            Some(hint) => report.hint(hint),
            None => report,
        }
    }
}

impl HandshakeError {
    /// None: there is nobody left to tell, or nobody who would understand.
    pub fn answer(&self) -> Option<Answer> {
        let (state, hint) = match self {
            Self::Io(_) | Self::Disconnected | Self::Tls(_) => return None,
            Self::Timeout => (sqlstate::QUERY_CANCELED, None),
            Self::Startup(error) => (error.state(), None),
            Self::Frame(_)
            | Self::BytesBeforeTls
            | Self::NoAlpn
            | Self::RepeatedRequest(_)
            | Self::UnexpectedMessage { .. }
            | Self::MalformedResponse(_)
            | Self::Mechanism => (sqlstate::PROTOCOL_VIOLATION, None),
            Self::Scram(error) => (scram_state(error), None),
            Self::TooManyClients => {
                (sqlstate::TOO_MANY_CONNECTIONS, Some("limits.max_client_connections is the limit"))
            }
            Self::TlsRequired => (sqlstate::INVALID_AUTHORIZATION, Some("Connect with sslmode=require.")),
            Self::PasswordWithoutTls => {
                (sqlstate::INVALID_AUTHORIZATION, Some("Connect with sslmode=require."))
            }
            Self::NoRule(_)
            | Self::Rejected(_)
            | Self::NoCertificate
            | Self::OtherCertificate { .. }
            | Self::MayNotLogIn { .. } => (sqlstate::INVALID_AUTHORIZATION, None),
            Self::Password { .. } => (sqlstate::INVALID_PASSWORD, None),
            Self::Lookup(LookupError { kind: NoAnswer::WaitedInVain(_), .. }) => {
                (sqlstate::CANNOT_CONNECT_NOW, None)
            }
            Self::Lookup(_) => {
                (sqlstate::CONNECTION_FAILURE, Some("No server could be asked for the user. Try again."))
            }
        };
        let message = match self {
            Self::Timeout => "canceling authentication due to timeout".to_owned(),
            Self::Password { user, .. } => format!("password authentication failed for user \"{user}\""),
            Self::OtherCertificate { user, .. } => {
                format!("certificate authentication failed for user \"{user}\"")
            }
            Self::Lookup(LookupError { kind: NoAnswer::WaitedInVain(told), .. }) => told.clone(),
            Self::Lookup(error) => format!("could not look up user \"{}\"", error.user),
            other => other.to_string(),
        };
        Some(Answer { state, message, hint })
    }

    /// A client that just left, which is nobody's fault and not worth a line in a log.
    pub fn is_hang_up(&self) -> bool {
        match self {
            Self::Disconnected => true,
            Self::Io(error) | Self::Tls(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionAborted
            ),
            _ => false,
        }
    }
}

fn scram_state(error: &ScramError) -> SqlState {
    match error {
        ScramError::BindingMismatch | ScramError::Downgrade => sqlstate::INVALID_AUTHORIZATION,
        ScramError::AuthorizationIdentity | ScramError::UnsupportedExtension => {
            sqlstate::FEATURE_NOT_SUPPORTED
        }
        _ => sqlstate::PROTOCOL_VIOLATION,
    }
}
