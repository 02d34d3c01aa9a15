//! `komainu server restart`: one server, or all of them one after the other.

use std::io::{self, Write as _};
use std::ops::ControlFlow::{Break, Continue};

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::{Answer, Ask, AskError, Done, operator};
use super::follow::AS_LONG_AS_IT_TAKES;
use super::status::{Restart, Status};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct RestartArgs {
    /// The server
    #[arg(value_name = "ID", required_unless_present_any = ["rolling", "cancel"])]
    id: Option<String>,
    /// All of them: the standbys one by one, then a switchover, then the former primary
    #[arg(long, conflicts_with_all = ["id", "cancel"])]
    rolling: bool,
    /// Restart nothing more of what was ordered
    #[arg(long, conflicts_with = "id")]
    cancel: bool,
    /// Do not wait for the end
    #[arg(long, conflicts_with = "cancel")]
    no_wait: bool,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Begun {
    id: Option<u64>,
    servers: Vec<String>,
}

pub fn run(args: &RestartArgs) -> Result<Done, AskError> {
    let ask = &args.ask;
    if args.cancel {
        let answer = ask.post::<Value>("/server/restart/cancel", &json!({ "cause": operator() }))?;
        ask.print(&answer, |_| "nothing more is restarted; what was begun is finished\n".to_owned())?;
        return Ok(Done::Fine);
    }
    let order = json!({ "id": args.id, "cause": operator() });
    let begun = ask.post::<Begun>("/server/restart", &order)?;
    if args.no_wait {
        ask.print(&begun, |begun| {
            format!(
                "{} will be restarted; `komainu status` tells how far it is\n",
                begun.servers.join(", then ")
            )
        })?;
        return Ok(Done::Fine);
    }
    let answer = wait(ask, begun.content.id)?;
    let status = &answer.content;
    let primary = status.primary.as_deref().unwrap_or("nobody");
    let names = begun.content.servers.join(", ");
    match status.restart.as_ref().and_then(|restart| restart.last.as_ref()) {
        Some(last) if Some(last.id) == begun.content.id && last.reason == "restarted" => {
            ask.print(&answer, |_| format!("{names}: restarted; the primary is {primary}\n"))?;
            Ok(Done::Fine)
        }
        Some(last) => {
            Err(AskError::Failed(format!("{} ({}); the primary is {primary}", last.text, last.reason)))
        }
        None => Err(AskError::Failed("nobody knows how it ended; `komainu events` tells".to_owned())),
    }
}

/// Until that restart is not under way any more, telling how far it is.
fn wait(ask: &Ask, id: Option<u64>) -> Result<Answer<Status>, AskError> {
    let mut told = Vec::new();
    let (answer, _) = ask.follow(AS_LONG_AS_IT_TAKES, |status| {
        let restart = status.restart.as_ref();
        tell(restart, &mut told)?;
        let under_way = restart.and_then(|restart| restart.under_way.as_ref()).map(|restart| restart.id);
        let last = restart.and_then(|restart| restart.last.as_ref()).map(|last| last.id);
        Ok(if under_way != id && last >= id { Break(()) } else { Continue(()) })
    })?;
    Ok(answer)
}

/// On stderr, since the answer may be JSON.
fn tell(restart: Option<&Restart>, told: &mut Vec<(String, String)>) -> Result<(), AskError> {
    let under_way = restart.and_then(|restart| restart.under_way.as_ref());
    for step in under_way.into_iter().flat_map(|under_way| &under_way.steps) {
        let now = (step.server.clone(), step.stage.clone());
        if step.stage != "waiting" && !told.contains(&now) {
            writeln!(io::stderr(), "{}: {}", now.0, now.1)?;
            told.push(now);
        }
    }
    Ok(())
}
