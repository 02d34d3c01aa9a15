//! `komainu server recover`: a server becomes a standby again, whatever has become of it.

use std::io::{self, Write as _};
use std::ops::ControlFlow::{Break, Continue};
use std::time::Instant;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::ask::{Answer, Ask, AskError, Done, operator};
use super::follow::AS_LONG_AS_IT_TAKES;
use super::status::{Job, Server, Status};
use super::text::bytes;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The server
    #[arg(value_name = "ID")]
    id: String,
    /// Keep nothing of what it has, even if it could be rewound or streams
    #[arg(long)]
    rebuild: bool,
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Begun {
    order: Option<u64>,
}

pub fn run(args: &RecoverArgs) -> Result<Done, AskError> {
    let RecoverArgs { id, rebuild, no_wait, ask } = args;
    let order = json!({ "id": id, "rebuild": rebuild, "cause": operator() });
    let begun = ask.post::<Begun>("/server/recover", &order)?;
    if *no_wait {
        ask.print(&begun, |_| format!("{id} is being recovered; `komainu status` tells how far it is\n"))?;
        return Ok(Done::Fine);
    }
    let begun_at = Instant::now();
    let answer = wait(ask, id, begun.content.order)?;
    let seconds = begun_at.elapsed().as_secs();
    ask.print(&answer, |_| format!("{id} streams and is attached, after {seconds} s\n"))?;
    Ok(Done::Fine)
}

/// Until it is used again, telling how far it is.
fn wait(ask: &Ask, id: &str, order: Option<u64>) -> Result<Answer<Status>, AskError> {
    let mut told = String::new();
    let mut was_seen = false;
    let (answer, _) = ask.follow(AS_LONG_AS_IT_TAKES, |status| {
        let server = status.servers.iter().find(|server| server.id == id);
        let server = server.ok_or_else(|| AskError::Failed(format!("{id} is no server any more")))?;
        let is_attached = server.administrative.as_deref() == Some("attached");
        // The node may not have heard of the order yet.
        was_seen |= !is_attached;
        if was_seen && is_attached && server.health == "up" {
            return Ok(Break(()));
        }
        if let Some(job) = server.job.as_ref().filter(|job| Some(job.order) == order) {
            tell(server, job, &mut told)?;
            if let Some(error) = &job.error {
                return Err(AskError::Failed(format!(
                    "{id} could not be recovered: {error}. It is tried again by itself, less and less often; \
                     `komainu server recover {id}` tries it now"
                )));
            }
        }
        Ok(Continue(()))
    })?;
    Ok(answer)
}

/// On stderr, since the answer may be JSON.
fn tell(server: &Server, job: &Job, told: &mut String) -> Result<(), AskError> {
    let progress = match (job.bytes_done, job.bytes_total) {
        (Some(done), Some(total)) => format!(", {} of {}", bytes(done), bytes(total)),
        _ => String::new(),
    };
    let way = job.way.as_deref().map_or(String::new(), |way| format!(" ({way})"));
    let line = format!("{}: {}{way}{progress}", server.id, job.phase);
    if *told != line {
        writeln!(io::stderr(), "{line}")?;
        *told = line;
    }
    Ok(())
}
