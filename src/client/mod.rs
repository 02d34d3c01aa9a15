//! Clients: who they are and how they prove it.
//!
//! Owns the handshake, the rules of admission and the secrets behind them. Never talks to a server.

pub mod auth;
pub mod auth_query;
pub mod cert;
pub mod error;
pub mod handshake;
pub mod hba;
mod link;
pub mod secrets;
pub mod unauthenticated;
pub mod userfile;
mod usual;
