//! The wire between nodes: requests and answers over mutual TLS 1.3.
//!
//! Owns connections, framing, who may talk, and every deadline. Knows nothing of what is said: requests and answers are
//! any serde types. A connection carries one request at a time; each lane has connections of its own, so a heartbeat
//! never waits behind a snapshot. Invariant: who a peer is comes from its certificate, never from what it says.

mod context;
mod error;
mod frame;
mod hello;
mod limits;
mod link;
mod server;
mod tls;

pub use context::{Admit, LocalNode, PeerContext};
pub use error::CallError;
pub use hello::{Hello, OLDEST_PROTOCOL, PROTOCOL, Refusal};
pub use limits::PeerLimits;
pub use link::{Lane, Link};
pub use server::{Peer, serve};
pub use tls::{PeerFiles, PeerTls, PeerTlsError};

#[cfg(test)]
mod tests;
