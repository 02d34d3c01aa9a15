//! Logs and numbers: what komainu tells of itself.
//!
//! Owns every metric name and the set-up of tracing. Never decides anything. Invariant: what is
//! counted for each query is a plain atomic in `counters`; names, labels and text are for the scrape.

pub mod catalogue;
pub mod cloudwatch;
pub mod counters;
pub mod emf;
pub mod labels;
pub mod line;
pub mod log;
pub mod log_file;
pub mod process;
pub mod render;
pub mod samples;
pub mod seldom;
pub mod span;

pub use counters::Counters;
