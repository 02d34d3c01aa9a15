//! Clients: who they are and how they prove it.
//!
//! Owns the rules of admission and the secrets behind them. Never talks to a server.

pub mod hba;
pub mod userfile;
