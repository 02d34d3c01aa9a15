//! `komainu check-config`: every problem of a configuration in one report.
//!
//! Owns how a report is shown. Never changes anything.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::{CheckConfig, EXIT_USAGE};
use crate::config::report::{Finding, Report};
use crate::config::{self, Config, Consistency, PoolMode};

pub fn run(args: &CheckConfig) -> ExitCode {
    let Some(path) = args.file.as_deref().or(args.config.as_deref()) else {
        return ExitCode::from(EXIT_USAGE);
    };
    match config::load(path) {
        Ok((config, warnings)) => {
            show_warnings(&warnings);
            // A closed standard output takes nothing from the answer, which is the exit code.
            let _ = writeln!(std::io::stdout(), "{}: ok ({})", path.display(), summary(&config));
            ExitCode::SUCCESS
        }
        Err(report) => refuse(path, &report),
    }
}

/// Shows what is wrong with a configuration; the exit code is the one that every command gives for it.
pub fn refuse(path: &Path, report: &Report) -> ExitCode {
    show_warnings(&report.warnings);
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "{report}");
    let _ = writeln!(stderr, "{}: {}", path.display(), count(report.problems.len(), "problem"));
    ExitCode::from(EXIT_USAGE)
}

pub fn show_warnings(warnings: &[Finding]) {
    for warning in warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn summary(config: &Config) -> String {
    let addresses: Vec<_> = config.listen.addresses.iter().map(ToString::to_string).collect();
    let mode = match config.pool.limits.mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
    };
    let reads = match (config.split.enabled, config.split.consistency) {
        (false, _) => "all reads on the primary",
        (true, Consistency::Eventual) => "reads split, eventual consistency",
        (true, Consistency::Bounded) => "reads split, bounded consistency",
        (true, Consistency::Session) => "reads split, session consistency",
    };
    let servers = count(config.servers.len(), "server");
    format!(
        "listens on {}; {servers}; {mode} pools of {}; {reads}",
        addresses.join(", "),
        config.pool.limits.size
    )
}
