//! `komainu sessions`: who is connected to a node, what they do, and what they wait for.

use clap::Args;
use serde::Deserialize;

use super::ask::{Ask, AskError, Done};
use super::filter::Filter;
use super::text::{of_these, short_span, table};

#[derive(Debug, Args)]
pub struct SessionsArgs {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Sessions {
    sessions: Vec<Session>,
    total: usize,
}

#[derive(Debug, Deserialize)]
struct Session {
    id: String,
    user: String,
    database: String,
    peer: String,
    state: String,
    state_ms: u64,
    waiting_for: String,
    server: Option<String>,
    pinned: Vec<String>,
    connected_ms: u64,
}

pub fn run(args: &SessionsArgs) -> Result<Done, AskError> {
    let answer = args.ask.get::<Sessions>(&args.filter.path("/sessions"))?;
    args.ask.print(&answer, render)?;
    Ok(Done::Fine)
}

fn render(sessions: &Sessions) -> String {
    let row = |session: &Session| {
        [
            session.id.clone(),
            session.user.clone(),
            session.database.clone(),
            session.peer.clone(),
            short_span(session.connected_ms),
            session.state.clone(),
            short_span(session.state_ms),
            session.waiting_for.clone(),
            session.server.clone().unwrap_or_default(),
            session.pinned.join(","),
        ]
    };
    let rows: Vec<_> = sessions.sessions.iter().map(row).collect();
    let head =
        ["ID", "USER", "DATABASE", "CLIENT", "THERE", "STATE", "SINCE", "WAITS FOR", "SERVER", "PINNED BY"];
    table(head, &rows) + &of_these(rows.len(), sessions.total, "sessions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_who_is_there_and_how_many_more() {
        let sessions: Sessions = serde_json::from_str(
            r#"{"total": 3, "sessions": [
              {"id": "7", "user": "app", "database": "shop", "peer": "10.0.0.1:5", "state": "idle",
               "state_ms": 400, "waiting_for": "client", "server": "pg1", "pinned": ["listen", "load"],
               "connected_at_ms": 1, "connected_ms": 65000}]}"#,
        )
        .unwrap();
        assert_eq!(
            render(&sessions),
            "ID  USER  DATABASE  CLIENT      THERE  STATE  SINCE  WAITS FOR  SERVER  PINNED BY\n\
             7   app   shop      10.0.0.1:5  65 s   idle   0.4 s  client     pg1     listen,load\n\
             1 of 3 sessions: --limit shows more\n"
        );
    }
}
