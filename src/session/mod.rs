//! One client's conversation with the servers behind komainu.
//!
//! Owns a session's state: prepared statements, settings, pins, what it has written and read. `Session`
//! polls; the parts on the way to the server (`inbound` first) and back (`outbound` first) change state. Never
//! chooses a server (`route` does) and never opens a connection (`pool` does). Invariant: a server connection
//! is given back only when no reply is owed on it and no transaction is open.

pub mod answers;
mod batch;
mod behind_end;
pub mod cancel;
mod choose;
mod console;
mod converse;
mod custom;
mod effects;
mod extended_query;
mod farewell;
mod floor;
pub mod gateway;
pub mod glimpse;
mod held;
pub mod held_login;
mod inbound;
mod lease;
pub mod login;
mod loss;
mod lost_server;
mod orphaned;
mod outbound;
mod peers;
pub mod pins;
pub mod prepared;
mod refused;
pub mod registry;
mod rewrite;
#[expect(clippy::module_inception, reason = "the file is named after its one type")]
mod session;
mod settle;
mod simple_query;
mod suspended;
mod tally;
mod teach;
mod transaction;
mod unasked;
mod waiting;

pub use crate::backend::SessionId;
pub use gateway::Gateway;
pub use session::{Session, SessionStart};
