//! `komainu health`: how the probes of a node fare with each server.

use clap::Args;
use serde::Deserialize;

use super::ask::{Ask, AskError, Done};
use super::text::{span, table, time};

#[derive(Debug, Args)]
pub struct HealthArgs {
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Health {
    servers: Vec<Server>,
}

#[derive(Debug, Deserialize)]
struct Server {
    server: String,
    role: String,
    health: String,
    since_ms: u64,
    looks: u64,
    failed: u64,
    failed_in_a_row: u64,
    last_ms: Option<f64>,
    average_ms: Option<f64>,
    longest_ms: Option<f64>,
    last_failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
struct Failure {
    reason: String,
    detail: String,
    at_ms: u64,
}

pub fn run(args: &HealthArgs) -> Result<Done, AskError> {
    let answer = args.ask.get::<Health>("/health")?;
    args.ask.print(&answer, render)?;
    Ok(Done::Fine)
}

fn render(health: &Health) -> String {
    let ms = |ms: Option<f64>| ms.map_or_else(String::new, |ms| format!("{ms:.1} ms"));
    let row = |server: &Server| {
        let failure = server.last_failure.as_ref().map(|failure| {
            let detail =
                if failure.detail.is_empty() { String::new() } else { format!(" ({})", failure.detail) };
            format!("{} {}{detail}", time(failure.at_ms), failure.reason)
        });
        [
            server.server.clone(),
            server.role.clone(),
            server.health.clone(),
            span(server.since_ms),
            server.looks.to_string(),
            server.failed.to_string(),
            server.failed_in_a_row.to_string(),
            ms(server.last_ms),
            ms(server.average_ms),
            ms(server.longest_ms),
            failure.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = health.servers.iter().map(row).collect();
    let head = [
        "SERVER",
        "ROLE",
        "HEALTH",
        "SINCE",
        "LOOKS",
        "FAILED",
        "IN A ROW",
        "LAST",
        "AVERAGE",
        "LONGEST",
        "LAST FAILURE",
    ];
    table(head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_how_fast_a_server_answers_and_what_failed_last() {
        let health: Health = serde_json::from_str(
            r#"{"servers": [
              {"server": "pg1", "role": "primary", "health": "up", "since_ms": 5000, "looks": 12, "failed": 2,
               "failed_in_a_row": 0, "last_ms": 0.412, "average_ms": 0.55, "shortest_ms": 0.4,
               "longest_ms": 3.25, "last_at_ms": 1, "last_answered_at_ms": 1,
               "last_failure": {"reason": "timeout", "detail": "", "at_ms": 1709164740000}}]}"#,
        )
        .unwrap();
        assert_eq!(
            render(&health),
            "SERVER  ROLE     HEALTH  SINCE  LOOKS  FAILED  IN A ROW  LAST    AVERAGE  LONGEST  LAST FAILURE\n\
             pg1     primary  up      5 s    12     2       0         0.4 ms  0.6 ms   3.2 ms   2024-02-28 23:59:00 timeout\n"
        );
    }
}
