//! `komainu sandbox`: a whole cluster on this machine, and what a running one can be told.

use std::error::Error;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::EXIT_USAGE;
use crate::sandbox::{self, AskError, FailoverOrder, Request, SandboxArgs};

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
    /// In a sandbox with --mode, do what AWS does when it makes another instance the writer, and say when
    #[command(after_help = "Examples:\n  komainu sandbox failover --name-delay 30\n  \
        komainu sandbox failover --to pg2 --server-seconds 15 --admin …/node1.sock\n\n\
        It returns when all instances run again; the name may move later. Without --admin or --socket it is\n\
        the sandbox of this user that was started last.")]
    Failover(Failover),
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
struct Failover {
    /// The new writer; by default the reader that has most
    #[arg(long, value_name = "SERVER")]
    to: Option<String>,
    /// How long the writer's name leads to the old one when the new one takes connections
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=3600))]
    name_delay: u32,
    /// How long the service takes until it begins to make the new one
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=3600))]
    server_seconds: u32,
    /// The sandbox, by the admin socket of one of its nodes
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// The sandbox, by what it printed as `control`
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
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
        Some(Command::Failover(args)) => said(fail_over(args)),
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

fn fail_over(args: Failover) -> Result<String, AskError> {
    let socket = match (args.socket, args.admin) {
        (Some(socket), _) => socket,
        (None, Some(admin)) => match sandbox::of_nodes(std::slice::from_ref(&admin))? {
            Some(ready) => ready.control.into(),
            None => return Err(AskError::NotOfASandbox(admin)),
        },
        (None, None) => sandbox::newest()?,
    };
    let order = FailoverOrder {
        to: args.to,
        name_delay_ms: u64::from(args.name_delay) * 1000,
        server_ms: u64::from(args.server_seconds) * 1000,
    };
    sandbox::fail_over(&socket, &order).map(|told| told.to_string())
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
