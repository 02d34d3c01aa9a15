//! The binary: it hands the command line to `komainu::cli`.

/// Only here: what is compiled for this file alone is made anew at each commit, and the rest is not.
const COMMIT: Option<&str> = option_env!("KOMAINU_COMMIT");

fn main() -> std::process::ExitCode {
    komainu::cli::run(COMMIT.unwrap_or("unknown"))
}
