//! `komainu server`: which PostgreSQL servers are used, and what is done to one.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ask::{Ask, AskError, Done, operator};
use super::promote::{self, PromoteArgs};
use super::recover::{self, RecoverArgs};
use super::restart::{self, RestartArgs};

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
    /// Make this standby the primary: by a switchover if the primary lives, else by a failover that loses nothing
    #[command(
        after_help = "Examples:\n  komainu server promote pg2\n  komainu server promote pg2 --force\n\n\
        Says which of the two it was. What could lose acknowledged commits is refused without --force."
    )]
    Promote(PromoteArgs),
    /// Have a server's agent make it a standby again: rewound if that will do, else copied, while writes go on
    #[command(
        after_help = "Examples:\n  komainu server recover pg2\n  komainu server recover pg2 --rebuild\n\n\
        Also one whose data directory is empty. It is attached when it streams."
    )]
    Recover(RecoverArgs),
    /// Restart PostgreSQL on one server, or on all of them one after the other
    #[command(after_help = "Examples:\n  komainu server restart pg2\n  komainu server restart --rolling\n  \
        komainu server restart --cancel\n\n\
        A standby is out of use meanwhile. A primary stays the primary, and transactions wait; --rolling makes\n\
        another one first. Clients see no error.")]
    Restart(RestartArgs),
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
        Command::Promote(args) => promote::run(args),
        Command::Recover(args) => recover::run(args),
        Command::Restart(args) => restart::run(args),
    }
}

fn order(which: &Which, state: &str) -> Result<Done, AskError> {
    let order = json!({ "id": which.id, "state": state, "cause": operator() });
    let answer = which.ask.post::<Value>("/server/administrative", &order)?;
    which.ask.print(&answer, |_| format!("{} is {state}\n", which.id))?;
    Ok(Done::Fine)
}
