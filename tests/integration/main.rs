//! Tests against real PostgreSQL servers and real clients.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod aurora;
mod authentication;
mod aws;
mod aws_faults;
mod backup;
mod bounded;
mod busy;
mod cancel;
mod cli;
mod clients;
mod cluster_commands;
mod commands;
mod consistency;
mod differential;
mod discard_state;
mod disks;
mod documentation;
mod drill;
mod failover;
mod fake_server;
mod fence_host;
mod five_nodes;
mod hanging_postmaster;
mod holding;
mod hooks;
mod hostile_messages;
mod hostile_startup;
mod limits;
mod log_shipping;
mod logins;
mod looking_in;
mod lost_servers;
mod members;
mod metrics;
mod moving;
mod operate;
mod partition;
mod pooling;
mod prepared;
mod proxies;
mod purity;
mod rds;
mod rds_api;
mod recover;
mod reload;
mod replay;
mod restart;
mod routing;
mod sandbox;
mod sandbox_managed;
mod server_passwords;
mod server_tokens;
mod session_state;
mod slots;
mod slowness;
mod standbys;
mod tls;
mod torture;
mod upgrade;
mod watchdog;
