//! What the cluster is, found out by asking it.
//!
//! `observe` gathers facts, `primary` judges them, and the result is published as a
//! `topology::Snapshot`. Nothing here touches client traffic. `clock` and `observe` do IO; the rest is pure.

pub mod change;
pub mod clock;
pub mod model;
pub mod observe;
pub mod primary;
pub mod reason;
pub mod state;
