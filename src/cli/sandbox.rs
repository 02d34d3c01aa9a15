//! `komainu sandbox`: a whole cluster on this machine, and what a running one can be told.

use std::error::Error;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::EXIT_USAGE;
use crate::sandbox::{self, AskError, Request, SandboxArgs};

/// A call has some hundred bytes.
const MAX_CALL_BYTES: u64 = 64 * 1024;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Sandbox {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    args: SandboxArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node, server or agent again that was killed, and wait until it is ready
    #[command(after_help = "Examples:\n  komainu sandbox start node1\n  komainu sandbox start pg2\n\n\
        Without --socket it is the sandbox of this user that was started last.")]
    Start(Start),
    /// Pass on to the sandbox what komainu tells a node's program
    #[command(hide = true)]
    Tell(Tell),
}

#[derive(Debug, Args)]
struct Start {
    /// The node, server or agent
    #[arg(value_name = "ID")]
    id: String,
    /// The sandbox, by what it printed as `control`
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Tell {
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
}

pub fn run(sandbox: Sandbox) -> ExitCode {
    match sandbox.command {
        None => serve(sandbox.args),
        Some(Command::Start(args)) => said(start(&args)),
        Some(Command::Tell(args)) => said(tell(&args).map(|()| String::new())),
    }
}

fn serve(args: SandboxArgs) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu sandbox: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(sandbox::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu sandbox: {}", with_causes(&error));
            if error.is_usage() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn start(args: &Start) -> Result<String, AskError> {
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => sandbox::newest()?,
    };
    sandbox::ask(&socket, &Request::Start { id: args.id.clone() })
}

fn tell(args: &Tell) -> Result<(), AskError> {
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_CALL_BYTES).read_line(&mut line);
    read.map_err(AskError::Input)?;
    sandbox::tell(&args.socket, &line)
}

fn said(outcome: Result<String, AskError>) -> ExitCode {
    match outcome {
        Ok(text) => {
            if !text.is_empty() {
                let _ = writeln!(io::stdout(), "{text}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu sandbox: {error}");
            ExitCode::FAILURE
        }
    }
}

pub(super) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
