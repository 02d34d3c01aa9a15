//! `komainu agent`: beside a database server, obeys the nodes.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::{EXIT_USAGE, check_config};
use crate::agent::{self, AgentError};

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The configuration file, with an [agent] section
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which [[server]] of the configuration is on this host
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    server: String,
}

pub fn run(args: &AgentArgs) -> ExitCode {
    match agent::run(&args.config, &args.server) {
        Ok(()) => ExitCode::SUCCESS,
        Err(AgentError::Config(report)) => check_config::refuse(&args.config, &report),
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu agent: {error}");
            match error {
                AgentError::Lacks(_)
                | AgentError::NoServer { .. }
                | AgentError::NoAddress(_)
                | AgentError::Root
                | AgentError::Owner { .. }
                | AgentError::Name(_) => ExitCode::from(EXIT_USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
