//! Carries out what was decided, and tells the leader what this node sees.
//!
//! Owns no state: everything it does to the cluster is a command of the log, and a command that came too late is refused
//! there. Invariant: only a node that leads decides and acts on servers, from the state it has applied.

mod agreed;
mod disk;
mod lead;
mod log_format;
mod perform;
mod refused_steps;
mod rejections;
mod report;
mod standing_down;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::consensus::lease::LeaseSettings;

use super::decide::Policy;

pub use disk::{Write, Writing};
pub use lead::{Means, lead};
pub use perform::{Done, Order, Perform, Performing};
pub use report::{Eyes, Sessions, report};

/// What the configuration in force asks of the leader.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Of the configuration that all of this follows from.
    pub version: u64,
    pub endpoints: Vec<String>,
    pub servers: Vec<String>,
    /// Where each voter is reached.
    pub addresses: BTreeMap<String, String>,
    pub lease: LeaseSettings,
    /// How long all must have known a higher log format before it is theirs.
    pub raise_log_format_after_ms: u64,
    pub policy: Arc<Policy>,
    /// The text of that version; the file's, which a new cluster begins with, as long as there is none.
    pub configuration: String,
}
