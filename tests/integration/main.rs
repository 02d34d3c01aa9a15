//! Tests against real PostgreSQL servers and real clients.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod authentication;
mod cancel;
mod cli;
mod differential;
mod fake_server;
mod hostile_messages;
mod hostile_startup;
mod limits;
mod purity;
mod tls;
