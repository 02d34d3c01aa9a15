//! Nodes in one process, on a network and clocks of the test's.

mod harness;
mod scenarios;
mod simulation;

pub(super) use harness::settings;
