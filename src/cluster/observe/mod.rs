//! Asks the servers, each over a connection of its own, and publishes what it means.
//!
//! Owns the probes. Never interprets an answer: that is `primary::next`.
