//! Tests against real PostgreSQL servers and real clients.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod cli;
mod consistency;
mod routing;
mod standbys;
