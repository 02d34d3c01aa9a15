//! The escalation crate against a double of AWS, real programs and a real kernel's network interfaces.
//!
//! Needs `KOMAINU_TEST_PYTHON`: a Python with `moto[server]` (`tests/setup/install python DIRECTORY`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contenders;
mod contract;
mod fenced;
mod identity;
mod instances;
mod interface;
mod metrics;
mod passwords;
mod preflight;
mod programs;
mod rds;
mod support;
