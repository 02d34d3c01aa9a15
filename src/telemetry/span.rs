//! The span in which everything stands that is logged about one client's connection.
//!
//! Made when something is to be logged, and not before: ten thousand idle clients hold no spans, and what is
//! never logged costs nothing. At the level `error`, so that whatever is logged has it. Must outlive the event:
//! pass it by reference.

use tracing::Span;

/// `session` is none until login is complete.
pub fn client(session: Option<u64>, peer: &str, user: &str, database: &str) -> Span {
    tracing::error_span!("client", session, peer, user, database)
}
