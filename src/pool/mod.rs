//! Server connections, lent to sessions for a transaction or for good.
//!
//! Owns who may use which connection when. Never looks at SQL, never decides where a statement goes.

pub mod book;
mod gate;
#[expect(clippy::module_inception, reason = "the file is named after its one type")]
mod pool;
mod pools;
mod waiter;
pub use waiter::Waiter;

use std::sync::Arc;

pub use gate::ServerGate;
pub use pool::{Acquire, Pool, PoolCounts, Told};
pub use pools::{Pools, limits_for};

use crate::backend::connect::ConnectError;
use crate::topology::{Epoch, ServerIndex};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub server: ServerIndex,
    pub epoch: Epoch,
    pub database: Arc<str>,
    pub user: Arc<str>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum AcquireError {
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// The pool's epoch ended; ask again with the new topology.
    #[error("the server's connections were retired")]
    Retired,
}

#[cfg(test)]
mod tests;
