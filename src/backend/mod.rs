//! Connections to PostgreSQL servers, one at a time.
//!
//! Owns opening them, logging in, cancelling, the replies they owe, and asking komainu's own questions.
//! Never decides which server to use or how many connections to have.

pub mod conn;
pub mod connect;
mod connect_error;
pub mod control;
pub mod description;
pub mod expect;
mod login;
pub mod rows;
pub mod settings;
pub mod statement;
#[cfg(test)]
pub(crate) mod test_server;

pub use conn::ServerConn;

/// Whom a connection serves. Unique within a process, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// No session.
    pub const NONE: SessionId = SessionId(0);
}
