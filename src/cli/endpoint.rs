//! `komainu endpoint`: whose the endpoints are, and moving one by order.

use std::ops::ControlFlow::{Break, Continue};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ask::{Answer, Ask, AskError, Done, operator};
use super::status::{self, Status};

/// A fence takes a lease at the most, and the decision a moment.
const MOVE_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub struct EndpointArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The endpoints, who owns them, and how this node stands to each
    #[command(after_help = "Example:\n  komainu endpoint list\n\n\
        Exit codes: 0 each has an owner, 2 one has none.")]
    List(Ask),
    /// Move an endpoint to another node, and wait until it owns it
    #[command(after_help = "Examples:\n  komainu endpoint move --to b\n  \
        komainu endpoint move --to b --endpoint reports\n\n\
        The present owner is fenced first, so that there are never two. Clients reconnect.")]
    Move(Move),
}

#[derive(Debug, Args)]
struct Move {
    /// The node that is to own it
    #[arg(long, value_name = "NODE")]
    to: String,
    /// Which one; not needed if there is only one
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

pub fn run(args: &EndpointArgs) -> Result<Done, AskError> {
    match &args.command {
        Command::List(ask) => list(ask),
        Command::Move(args) => move_endpoint(args),
    }
}

fn list(ask: &Ask) -> Result<Done, AskError> {
    let answer = ask.get::<Status>("/status")?;
    ask.print(&answer, status::endpoints)?;
    let all = answer.content.endpoints.iter().all(|endpoint| endpoint.owner.is_some());
    Ok(if all { Done::Fine } else { Done::Alarm })
}

fn move_endpoint(args: &Move) -> Result<Done, AskError> {
    let Move { to, endpoint, ask } = args;
    let name = named(endpoint.as_deref(), &ask.get::<Status>("/status")?.content)?;
    let begun = Instant::now();
    ask.post::<Value>("/endpoint/move", &json!({ "endpoint": name, "to": to, "cause": operator() }))?;
    let answer = wait_until_moved(ask, &name, to)?;
    let ms = begun.elapsed().as_millis();
    ask.print(&answer, |_| format!("{to} owns {name}, after {ms} ms\n"))?;
    Ok(Done::Fine)
}

/// The one that is meant.
fn named(given: Option<&str>, status: &Status) -> Result<String, AskError> {
    let names: Vec<_> = status.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    match (given, &names[..]) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => Err(AskError::Usage("there is no endpoint that could be moved".to_owned())),
        (None, _) => Err(AskError::Usage(format!("which one? give --endpoint, one of {}", names.join(", ")))),
    }
}

fn wait_until_moved(ask: &Ask, name: &str, to: &str) -> Result<Answer<Status>, AskError> {
    let (answer, found) = ask.follow(MOVE_WITHIN, |status| {
        let found = status.endpoints.iter().find(|endpoint| endpoint.name == name);
        let is_moved =
            found.is_some_and(|endpoint| endpoint.owner.as_deref() == Some(to) && !endpoint.fenced);
        Ok(if is_moved { Break(()) } else { Continue(()) })
    })?;
    match found {
        Break(()) => Ok(answer),
        Continue(()) => Err(AskError::Failed(format!(
            "{name} is not {to}'s after {} s; `komainu events` tells how far it came",
            MOVE_WITHIN.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::sample;

    #[test]
    fn the_only_endpoint_needs_no_name() {
        let mut status = sample();
        assert_eq!(named(None, &status).unwrap(), "app");
        assert_eq!(named(Some("other"), &status).unwrap(), "other", "the leader knows better");
        let mut second = status.endpoints[0].clone();
        second.name = "reports".to_owned();
        status.endpoints.push(second);
        assert!(named(None, &status).unwrap_err().to_string().contains("one of app, reports"));
        status.endpoints.clear();
        assert!(named(None, &status).unwrap_err().to_string().contains("no endpoint"));
    }
}
