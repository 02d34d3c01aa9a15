//! Nodes in one process, on a network and clocks of the test's.

mod clients;
mod failovers;
mod harness;
mod nights;
mod observer;
mod oracle;
mod scenarios;
mod servers;
mod simulation;

pub(super) use harness::settings;
