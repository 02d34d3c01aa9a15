//! `komainu switchover` and `komainu failover`: another primary by order, and whether one is made without.

use std::io::{self, Write as _};
use std::ops::ControlFlow::{Break, Continue};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::{Answer, Ask, AskError, Done, operator};
use super::status::Status;

/// A checkpoint, transactions that run out, a shutdown: each has its own limit, and this is more than all of them.
const WITHIN: Duration = Duration::from_secs(180);

#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// The server that is to be the primary; default: the standby that is least behind
    #[arg(long, value_name = "SERVER")]
    to: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct FailoverArgs {
    #[command(subcommand)]
    command: Option<Command>,
    /// Replace the primary at once, whatever it does; with asynchronous replication the last commits may be lost
    #[arg(long)]
    force: bool,
    /// The server that is to be the primary; default: the standby that is least behind
    #[arg(long, value_name = "SERVER")]
    to: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replace no primary without an order until it is resumed
    Pause(Ask),
    /// Replace a primary that is lost, as before `pause`
    Resume(Ask),
}

#[derive(Debug, Deserialize)]
pub(super) struct Begun {
    pub from: String,
    /// By an order that waits for nothing.
    #[serde(default)]
    may_lose: Option<String>,
}

pub fn switchover(args: &SwitchoverArgs) -> Result<Done, AskError> {
    replace(&args.ask, "/switchover", args.to.as_deref())
}

pub fn failover(args: &FailoverArgs) -> Result<Done, AskError> {
    match &args.command {
        Some(Command::Pause(ask)) => pause(ask, true),
        Some(Command::Resume(ask)) => pause(ask, false),
        None if args.force => replace(&args.ask, "/failover", args.to.as_deref()),
        None => Err(AskError::Usage("say --force to replace a primary at once".to_owned())),
    }
}

fn pause(ask: &Ask, paused: bool) -> Result<Done, AskError> {
    let order = json!({ "paused": paused, "cause": operator() });
    let answer = ask.post::<Value>("/failover/pause", &order)?;
    let said = if paused { "automatic failover is paused\n" } else { "automatic failover is resumed\n" };
    ask.print(&answer, |_| said.to_owned())?;
    Ok(Done::Fine)
}

fn replace(ask: &Ask, path: &str, to: Option<&str>) -> Result<Done, AskError> {
    let begun_at = Instant::now();
    let begun = ask.post::<Begun>(path, &json!({ "to": to, "cause": operator() }))?.content;
    if let Some(what) = &begun.may_lose {
        let _ = writeln!(io::stderr(), "warning: {what}");
    }
    let answer = wait(ask, &begun)?;
    let now = answer.content.primary.clone().unwrap_or_default();
    let ms = begun_at.elapsed().as_millis();
    if now == begun.from {
        return Err(AskError::Failed(format!("{now} is still the primary; `komainu events` tells why")));
    }
    ask.print(&answer, |_| format!("{now} is the primary in place of {}, after {ms} ms\n", begun.from))?;
    Ok(Done::Fine)
}

/// Until the next primary is one, or the old one goes on.
pub(super) fn wait(ask: &Ask, begun: &Begun) -> Result<Answer<Status>, AskError> {
    // The node that is asked may hear of the order a moment after the one that leads has taken it.
    const HEARD_WITHIN: Duration = Duration::from_secs(3);
    let heard_by = Instant::now() + HEARD_WITHIN;
    let mut is_heard = false;
    let (answer, found) = ask.follow(WITHIN, |status| {
        is_heard |= status.failover.as_ref().is_some_and(|failover| failover.under_way.is_some())
            || status.primary.as_ref() != Some(&begun.from)
            || Instant::now() >= heard_by;
        let is_over = status.failover.as_ref().is_some_and(|failover| failover.under_way.is_none());
        let is_done = is_heard && is_over && status.primary.is_some();
        Ok(if is_done { Break(()) } else { Continue(()) })
    })?;
    match found {
        Break(()) => Ok(answer),
        Continue(()) => Err(AskError::Failed(format!(
            "{} is not replaced after {} s; `komainu events` tells how far it came",
            begun.from,
            WITHIN.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: FailoverArgs,
    }

    #[test]
    fn an_order_to_replace_the_primary_is_understood_as_one() {
        let parse =
            |words: &[&str]| Line::try_parse_from([&["failover"], words].concat()).map(|line| line.args);
        let socket = ["--admin", "socket"];
        let forced = parse(&[&["--force", "--to", "pg2"], &socket[..]].concat()).unwrap();
        assert!(forced.command.is_none() && forced.force && forced.to.as_deref() == Some("pg2"));
        assert_eq!(forced.ask.admin, "socket");
        let paused = parse(&[&["pause"], &socket[..]].concat()).unwrap();
        assert!(matches!(paused.command, Some(Command::Pause(ask)) if ask.admin == "socket"));
        assert!(!parse(&socket).unwrap().force, "and that is said by name");
        assert!(parse(&["--force", "pause", "--admin", "socket"]).is_err());
    }
}
