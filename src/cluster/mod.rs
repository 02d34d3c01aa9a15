//! What the cluster is, found out by asking it.
//!
//! `observe` gathers facts, `primary` judges them. A node on its own publishes that as a `topology::Snapshot`. A node of a
//! cluster reports it (`act`), the leader decides (`decide`), and what the log says and this node sees together is
//! published (`agree`, `publish`). Nothing here touches client traffic. `operate` changes a server.
//! `clock`, `observe`, `operate`, `act` and `publish` do IO; the rest is pure.

pub mod act;
pub mod agree;
pub mod aurora;
pub mod blue_green;
pub mod change;
pub mod clock;
pub mod conninfo;
mod deadlines;
pub mod decide;
pub mod instances;
pub mod lapses;
pub mod missing_standbys;
pub mod model;
pub mod observe;
pub mod operate;
pub mod primary;
pub mod probe_counts;
pub mod publish;
pub mod reason;
pub mod right;
pub mod state;
pub mod sync_set;
