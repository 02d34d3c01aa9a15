//! Tests against real PostgreSQL servers and real clients.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod cli;
mod clients;
mod differential;
mod documentation;
mod looking_in;
mod lost_servers;
mod pooling;
mod prepared;
mod routing;
mod sandbox;
mod session_state;
