//! Connections to PostgreSQL servers, one at a time.
//!
//! Owns opening them, logging in, cancelling, and asking komainu's own questions. Never decides
//! which server to use or how many connections to have.

pub mod connect;
mod connect_error;
mod login;
