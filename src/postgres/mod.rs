//! PostgreSQL's programs on this machine: where they are, as whom they run, and processes that end with ours.
//!
//! What the agent, backups, the sandbox and the tests have in common. Never knows what a server is for.

mod installation;
pub mod process;

pub use installation::{Installation, InstallationError};
