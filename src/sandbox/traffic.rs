//! A line on what flowed through a node lately, for people who watch.
//!
//! Reads the node's own metrics. Never estimates: what is not counted is not shown. Nothing is said
//! while nothing flows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::admin;

const PERIOD: Duration = Duration::from_secs(2);
const QUERIES: &str = "komainu_queries_total{";
const PRIMARY: &str = "komainu_primary{";
const CLIENTS: &str = "komainu_client_connections ";

/// What the counters say at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
struct Totals {
    clients: f64,
    primary: Option<String>,
    /// By server and class of statement.
    queries: BTreeMap<(String, String), f64>,
}

/// Tells of a node's traffic for as long as somebody takes the lines.
pub fn follow(socket: &Path, mut line: impl FnMut(&str) -> io::Result<()>) -> io::Result<()> {
    let (mut then, mut before) = (Instant::now(), Totals::default());
    loop {
        thread::sleep(PERIOD);
        // A node that does not answer is told of elsewhere.
        let Ok(response) = admin::get(socket, "/metrics") else { continue };
        let (now, totals) = (Instant::now(), Totals::parse(&response.body));
        if let Some(text) = totals.since(&before, now - then) {
            line(&text)?;
        }
        (then, before) = (now, totals);
    }
}

impl Totals {
    /// From Prometheus' text format.
    fn parse(metrics: &str) -> Self {
        let mut totals = Self::default();
        for line in metrics.lines() {
            let Some(value) = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()) else {
                continue;
            };
            if let Some(labels) = line.strip_prefix(QUERIES) {
                if let (Some(server), Some(class)) = (label(labels, "server"), label(labels, "class")) {
                    *totals.queries.entry((server, class)).or_default() += value;
                }
            } else if let Some(labels) = line.strip_prefix(PRIMARY) {
                if value > 0.0 {
                    totals.primary = label(labels, "server");
                }
            } else if line.starts_with(CLIENTS) {
                totals.clients = value;
            }
        }
        totals
    }

    /// Queries a second by server and class, or nothing if there were none.
    fn since(&self, before: &Self, elapsed: Duration) -> Option<String> {
        let mut servers: BTreeMap<&str, String> = BTreeMap::new();
        for ((server, class), total) in &self.queries {
            let more = total - before.queries.get(&(server.clone(), class.clone())).copied().unwrap_or(0.0);
            if more > 0.0 {
                let rate = more / elapsed.as_secs_f64();
                let text = servers.entry(server).or_default();
                let _ = write!(text, " {class} {rate:.0}/s");
            }
        }
        if servers.is_empty() {
            return None;
        }
        let mut line = format!("{} clients", self.clients);
        for (server, rates) in servers {
            let role = if self.primary.as_deref() == Some(server) { " (primary)" } else { "" };
            let _ = write!(line, "  |  {server}{role}{rates}");
        }
        Some(line)
    }
}

/// The value of one label; server names hold no quotes.
fn label(labels: &str, name: &str) -> Option<String> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(reads_of_pg2: u32, writes: u32) -> Totals {
        Totals::parse(&format!(
            "# HELP komainu_queries_total x\n\
             komainu_client_connections 3\n\
             komainu_client_connections_total 77\n\
             komainu_queries_total{{server=\"pg1\",class=\"write\"}} {writes}\n\
             komainu_queries_total{{server=\"pg2\",class=\"read\"}} {reads_of_pg2}\n\
             komainu_primary{{server=\"pg1\"}} 1\n\
             komainu_primary{{server=\"pg2\"}} 0\n"
        ))
    }

    #[test]
    fn rates_are_by_server_and_class() {
        let line = totals(300, 21).since(&totals(100, 1), Duration::from_secs(2)).unwrap();
        assert_eq!(line, "3 clients  |  pg1 (primary) write 10/s  |  pg2 read 100/s");
        let line = totals(300, 1).since(&totals(100, 1), Duration::from_secs(2)).unwrap();
        assert_eq!(line, "3 clients  |  pg2 read 100/s");
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(totals(5, 5).since(&totals(5, 5), Duration::from_secs(2)), None);
        assert_eq!(Totals::parse("").since(&Totals::default(), Duration::from_secs(2)), None);
    }
}
