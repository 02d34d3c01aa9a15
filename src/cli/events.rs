//! `komainu events`: the cluster's timeline, with who or what caused each entry.

use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ask::{Ask, AskError, Done};
use super::text::time;

const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on printing what happens, until interrupted; as JSON one event a line
    #[arg(long)]
    follow: bool,
    /// Only those that came after this one
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// At most so many: the latest, or with --after the first
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Events {
    events: Vec<Event>,
    last_id: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Event {
    id: u64,
    at_ms: u64,
    node: String,
    cause: String,
    reason: String,
    subject: String,
    text: String,
}

pub fn run(args: &EventsArgs) -> Result<Done, AskError> {
    let EventsArgs { follow, after, limit, ask } = args;
    let path = match after {
        Some(after) => format!("/events?after={after}&limit={limit}"),
        None => format!("/events?limit={limit}"),
    };
    let answer = ask.get::<Events>(&path)?;
    if !follow {
        ask.print(&answer, |events| events.events.iter().map(line).collect())?;
        return Ok(Done::Fine);
    }
    print(ask, &answer.content.events)?;
    let Events { events, last_id } = answer.content;
    let mut seen = events.last().map_or(last_id, |event| event.id);
    let mut answers = true;
    loop {
        match ask.get::<Events>(&format!("/events?after={seen}")) {
            Ok(answer) => {
                answers = true;
                print(ask, &answer.content.events)?;
                // A cluster that was founded anew counts anew.
                seen = answer.content.last_id;
            }
            Err(error @ AskError::Reach { .. }) => {
                if std::mem::replace(&mut answers, false) {
                    writeln!(io::stderr(), "komainu: {error}; waiting for it")?;
                }
            }
            Err(error) => return Err(error),
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn print(ask: &Ask, events: &[Event]) -> Result<(), AskError> {
    let mut out = io::stdout();
    for event in events {
        match ask.json {
            true => writeln!(out, "{}", serde_json::to_string(event).map_err(AskError::NotUnderstood)?)?,
            false => write!(out, "{}", line(event))?,
        }
    }
    Ok(out.flush()?)
}

/// Not aligned with others: they come one after the other.
fn line(event: &Event) -> String {
    let Event { id, at_ms, node, cause, reason, subject, text } = event;
    // What an endpoint's loop tells begins with its state, which often is the reason.
    let is_said = reason.is_empty() || text.starts_with(&format!("{reason}:"));
    let why = if is_said { String::new() } else { format!(" ({reason})") };
    format!("{id:>5}  {}  {subject}: {text}{why}  [{cause}, {node}]\n", time(*at_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_happened_and_who_is_behind_it() {
        let event = |reason: &str| Event {
            id: 12,
            at_ms: 1_709_164_740_000,
            node: "a".to_owned(),
            cause: "operator:alice".to_owned(),
            reason: reason.to_owned(),
            subject: "app".to_owned(),
            text: "b owns the endpoint in epoch 2".to_owned(),
        };
        assert_eq!(
            line(&event("endpoint_moved")),
            "   12  2024-02-28 23:59:00  app: b owns the endpoint in epoch 2 (endpoint_moved)  [operator:alice, a]\n"
        );
        assert!(line(&event("")).contains("epoch 2  [operator"));
        let taking = Event { text: "taking: this node became the owner".to_owned(), ..event("taking") };
        assert!(line(&taking).contains("app: taking: this node became the owner  [operator"));
    }
}
