//! `komainu server`: which PostgreSQL servers are used.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ask::{Ask, AskError, Done, operator};

#[derive(Debug, Args)]
pub struct ServerArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Use a server again that was detached or drained
    #[command(after_help = "Example:\n  komainu server attach pg2")]
    Attach(Which),
    /// Begin nothing new on a standby; what is under way there ends in its own time
    #[command(after_help = "Example:\n  komainu server drain pg2")]
    Drain(Which),
    /// Take a standby out of use; clients see no error
    #[command(after_help = "Example:\n  komainu server detach pg2\n\n\
        The primary cannot be detached: `komainu switchover` makes another one first.")]
    Detach(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The server
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    ask: Ask,
}

pub fn run(args: &ServerArgs) -> Result<Done, AskError> {
    match &args.command {
        Command::Attach(which) => order(which, "attached"),
        Command::Drain(which) => order(which, "draining"),
        Command::Detach(which) => order(which, "detached"),
    }
}

fn order(which: &Which, state: &str) -> Result<Done, AskError> {
    let order = json!({ "id": which.id, "state": state, "cause": operator() });
    let answer = which.ask.post::<Value>("/server/administrative", &order)?;
    which.ask.print(&answer, |_| format!("{} is {state}\n", which.id))?;
    Ok(Done::Fine)
}
