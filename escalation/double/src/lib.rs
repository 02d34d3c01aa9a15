//! A double of AWS on one machine, for the sandbox and for tests; never part of `komainu serve`.
//!
//! Owns moto's server process (`moto`), what stands before it (`proxy`: a log of the calls, faults to order, and
//! moto's deviations from AWS made up for), the metadata service of each instance (`imds`), a name server
//! (`dns`) of a hosted zone or of records that move to order (`records`), and calls of its own to moto (`api`). Knows nothing of komainu but how its record of epochs is
//! called, since moto does not hold a batch of changes together.

pub mod api;
mod deviations;
pub mod dns;
pub mod http;
pub mod imds;
pub mod moto;
pub mod proxy;
pub mod records;
mod service;

pub use api::Api;
pub use dns::{NameServer, RecordType, Zone};
pub use imds::{Imds, Instance};
pub use moto::{Moto, MotoError};
pub use proxy::{Call, Fault, Proxy};
pub use records::Records;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A double that panicked half-way has told enough.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
