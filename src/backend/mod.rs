//! Connections to PostgreSQL servers, one at a time.
//!
//! Owns opening them, logging in, cancelling, the replies they owe, and asking komainu's own questions.
//! Never decides which server to use or how many connections to have.

pub mod conn;
pub mod connect;
mod connect_error;
pub mod control;
pub mod expect;
mod login;
pub mod rows;
#[cfg(test)]
pub(crate) mod test_server;

pub use conn::ServerConn;
