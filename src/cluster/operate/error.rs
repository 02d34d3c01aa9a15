//! Why an operation failed, on which server, and what to do about it.

use std::io;

use super::privilege::Privilege;
use crate::backend::connect::ConnectError;
use crate::backend::control::QueryError;
use crate::cluster::conninfo::ConninfoError;

#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} on {server}: {}", fault.sentence(role))]
pub struct OperateError {
    pub server: String,
    pub operation: &'static str,
    /// As whom it was tried.
    pub role: String,
    #[source]
    pub fault: Box<Fault>,
}

#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("failover.password_file cannot be read: {0}")]
    Credential(#[source] io::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Query(#[from] QueryError),
    /// SQLSTATE 42501.
    #[error("the role may not do that")]
    Denied(Privilege),
    #[error("it was not done in time")]
    Timeout,
    /// Of a promotion: the server was asked, and did nothing.
    #[error("its time had passed when the server was about to do it, so it was not done")]
    Late,
    #[error("the server is no standby")]
    NoStandby,
    #[error("the server is no primary")]
    NoPrimary,
    #[error("PostgreSQL {needs} or later is needed, and the server is {has}")]
    TooOld { needs: u32, has: u32 },
    #[error(
        "the server did not take it: {0} stays as it was; is it set on the server's command line, or has a file of the \
         server's configuration an error? Its log and pg_file_settings say so"
    )]
    NotTaken(&'static str),
    #[error("primary_conninfo is not understood: {0}")]
    Conninfo(#[source] ConninfoError),
    #[error("the server's answer is not understood")]
    Answer,
}

impl Fault {
    fn sentence(&self, role: &str) -> String {
        match self {
            Fault::Denied(privilege) => {
                format!("{role} may not do that; a superuser can allow it: {}", privilege.grant(role))
            }
            other => other.to_string(),
        }
    }

    /// Whether nothing can have been changed on the server.
    pub fn is_harmless(&self) -> bool {
        !matches!(self, Fault::Query(_) | Fault::Timeout | Fault::NotTaken(_) | Fault::Answer)
    }
}
