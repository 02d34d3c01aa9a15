//! `komainu server promote`: a certain standby becomes the primary.

use std::time::Instant;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::ask::{Ask, AskError, Done, operator};
use super::failover::{Begun, wait};

#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// The standby
    #[arg(value_name = "ID")]
    id: String,
    /// Whatever may be lost, and also if the primary cannot be stopped
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Promoting {
    #[serde(flatten)]
    begun: Begun,
    how: String,
    forced: bool,
}

pub fn run(args: &PromoteArgs) -> Result<Done, AskError> {
    let PromoteArgs { id, force, ask } = args;
    let begun_at = Instant::now();
    let order = json!({ "id": id, "force": force, "cause": operator() });
    let Promoting { begun, how, forced } = ask.post("/server/promote", &order)?.content;
    let answer = wait(ask, &begun)?;
    let ms = begun_at.elapsed().as_millis();
    let from = &begun.from;
    let what = match (&*how, forced) {
        ("switchover", _) => format!("a switchover: {from} lived, was stopped in order, and follows"),
        (_, true) => format!("a failover by force: {from} was not stopped; its last commits may be lost"),
        (_, false) => format!("a failover: {from} was down, and nothing acknowledged is lost"),
    };
    match answer.content.primary.as_deref() {
        Some(primary) if primary == id => {
            ask.print(&answer, |_| {
                format!("{id} is the primary in place of {from}, after {ms} ms ({what})\n")
            })?;
            Ok(Done::Fine)
        }
        other => Err(AskError::Failed(format!(
            "{} is the primary, and not {id}; `komainu events` tells why",
            other.unwrap_or("nobody")
        ))),
    }
}
