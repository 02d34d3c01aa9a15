//! `komainu node`: who belongs to the cluster, one more voter, a new life for one that lost its state, and the end of a proxy.

use std::io::{self, Write as _};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::{Ask, AskError, Done, operator};
use super::status::{self, Status};

#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The nodes, who leads, and whom this node reaches
    #[command(after_help = "Example:\n  komainu node list --admin /run/komainu/admin.sock\n\n\
        Exit codes: 0 all are reached, 2 one is not.")]
    List(Ask),
    /// Take one more voter in, one at a time: three become five
    #[command(
        after_help = "Example:\n  komainu config apply komainu.toml    (with the new [[node]] behind the others)\n  \
        komainu node add d\n\n\
        Start the node before or after that; it votes once it has the log. Voters are never removed."
    )]
    Add(New),
    /// Give a voter that lost its directory a new life under its old name
    #[command(after_help = "Example:\n  komainu node replace c\n\n\
        Run it on another node. Whatever the old one still has is worth nothing from then on: start the new\n\
        one with an empty directory.")]
    Replace(OneNode),
    /// Remove a proxy that is gone for good; voters are replaced, never removed
    #[command(after_help = "Example:\n  komainu node remove web-7")]
    Remove(OneNode),
}

#[derive(Debug, Args)]
struct OneNode {
    /// The node
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
struct New {
    /// The node: a [[node]] of the cluster's configuration
    #[arg(value_name = "ID")]
    id: String,
    /// Where the others reach it, if you want it compared with the configuration
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Said {
    message: String,
}

pub fn run(args: &NodeArgs) -> Result<Done, AskError> {
    match &args.command {
        Command::List(ask) => list(ask),
        Command::Add(New { id, address, ask }) => {
            let document = json!({ "id": id, "address": address, "cause": operator() });
            say(ask, "/node/add", &document)
        }
        Command::Replace(which) => order(which, "/node/replace"),
        Command::Remove(which) => order(which, "/node/remove"),
    }
}

fn list(ask: &Ask) -> Result<Done, AskError> {
    let answer = ask.get::<Status>(Status::PATH)?;
    ask.print(&answer, status::nodes)?;
    if answer.content.node.is_none() {
        writeln!(io::stderr(), "this node is on its own")?;
    }
    let all = answer.content.nodes.iter().all(|node| node.reachable);
    Ok(if all { Done::Fine } else { Done::Alarm })
}

fn order(which: &OneNode, path: &str) -> Result<Done, AskError> {
    say(&which.ask, path, &json!({ "id": which.id, "cause": operator() }))
}

fn say(ask: &Ask, path: &str, document: &Value) -> Result<Done, AskError> {
    let answer = ask.post::<Said>(path, document)?;
    ask.print(&answer, |said| format!("{}\n", said.message))?;
    Ok(Done::Fine)
}
