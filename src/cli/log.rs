//! `komainu log rotate`: begins a new log file.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::ask::{Ask, AskError, Done};

#[derive(Debug, Args)]
pub struct LogArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Keep the file as FILE.1 and begin a new one; for logrotate, which moves it itself, send SIGUSR1 instead
    Rotate {
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Debug, Deserialize)]
struct Rotated {
    file: PathBuf,
}

pub fn run(args: &LogArgs) -> Result<Done, AskError> {
    let What::Rotate { ask } = &args.what;
    let answer = ask.post::<Rotated>("/log/rotate", &json!({}))?;
    ask.print(&answer, |rotated| format!("{} was begun anew\n", rotated.file.display()))?;
    Ok(Done::Fine)
}
