//! A configuration's text with one server more, or one less.
//!
//! Pure. Edits the text and not what it means, so that comments and the order of things stay. Invariant: what cannot be
//! edited surely is refused: the caller compares what both texts say.

use std::fmt::Write as _;

use serde::Deserialize;
use toml::Value;

/// A server to add.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewServer {
    pub id: String,
    pub host: String,
    pub port: Option<u16>,
    pub weight: Option<u32>,
    pub zone: Option<String>,
    pub agent: Option<String>,
    #[serde(default)]
    pub disallow_failover: bool,
}

/// Behind the last of the servers, else at the end.
pub fn with(text: &str, server: &NewServer) -> String {
    let NewServer { id, host, port, weight, zone, agent, disallow_failover } = server;
    let quoted = |text: &str| Value::from(text).to_string();
    let keys = [
        ("id", Some(quoted(id))),
        ("host", Some(quoted(host))),
        ("port", port.map(|port| port.to_string())),
        ("weight", weight.map(|weight| weight.to_string())),
        ("zone", zone.as_deref().map(quoted)),
        ("agent", agent.as_deref().map(quoted)),
        ("disallow_failover", disallow_failover.then(|| "true".to_owned())),
    ];
    let mut entry = "[[server]]\n".to_owned();
    for (key, value) in keys {
        if let Some(value) = value {
            writeln!(entry, "{key} = {value}").expect("a String takes all that is written to it");
        }
    }
    let lines: Vec<&str> = text.lines().collect();
    let last = blocks(&lines).last();
    let at = last.map_or(lines.len(), |(first, end)| content_end(&lines, first, end));
    let (before, behind) = lines.split_at(at);
    let mut out = joined(before);
    if !out.is_empty() {
        out.push('\n');
    }
    out + &entry + &joined(behind)
}

/// None: it has no `[[server]]` of its own with that id. Comments around it stay.
pub fn without(text: &str, id: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let has_id = |&(first, end): &(usize, usize)| {
        let table: Option<toml::Table> = joined(&lines[first..end]).parse().ok();
        let server = table.as_ref().and_then(|table| table.get("server")?.as_array()?.first());
        server.and_then(|server| server.get("id")?.as_str()) == Some(id)
    };
    let (first, end) = blocks(&lines).find(has_id)?;
    let mut behind = content_end(&lines, first, end);
    let is_blank = |at: usize| lines.get(at).is_none_or(|line| line.trim().is_empty());
    // One blank line where it stood, not two.
    if (first == 0 || is_blank(first - 1)) && is_blank(behind) {
        behind = (behind + 1).min(lines.len());
    }
    Some(joined(&lines[..first]) + &joined(&lines[behind..]))
}

/// Each `[[server]]`: its first line, and the one behind its last.
fn blocks<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = (usize, usize)> {
    let is_header = |line: &str| line.trim_start().starts_with('[');
    let is_server = |line: &str| {
        let code = line.split('#').next().unwrap_or_default();
        code.chars().filter(|c| !c.is_whitespace()).eq("[[server]]".chars())
    };
    let first = (0..lines.len()).filter(move |&at| is_server(lines[at]));
    first.map(move |first| {
        let next = (first + 1..lines.len()).find(|&at| is_header(lines[at]));
        (first, next.unwrap_or(lines.len()))
    })
}

/// Behind its last key: the comments that follow are those of what comes next.
fn content_end(lines: &[&str], first: usize, end: usize) -> usize {
    let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    (first..end).rev().find(|&at| says(lines[at])).map_or(end, |last| last + 1)
}

fn joined(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# The shop's.\n[listen]\naddresses = ['127.0.0.1:1']\n\n\
        # In Frankfurt.\n[[server]]\nid = 'pg1'   # the old one\nhost = 'db1'\n\n\
        [[ server ]] # the new one\nid = 'pg2'\n# by name\nhost = 'db2'\n\n# Pools are small.\n[pool]\nsize = 3\n";

    fn new() -> NewServer {
        NewServer {
            id: "pg3".to_owned(),
            host: "/run/\"x\"".to_owned(),
            port: Some(5433),
            weight: None,
            zone: Some("a".to_owned()),
            agent: None,
            disallow_failover: true,
        }
    }

    #[test]
    fn a_server_is_added_behind_the_others_and_comments_stay() {
        let text = with(TEXT, &new());
        let entry = "host = 'db2'\n\n[[server]]\nid = \"pg3\"\nhost = '/run/\"x\"'\nport = 5433\nzone = \"a\"\n\
            disallow_failover = true\n\n# Pools are small.\n[pool]";
        assert!(text.contains(entry), "{text}");
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["server"][2]["host"].as_str(), Some("/run/\"x\""));
        assert_eq!(without(&text, "pg3").as_deref(), Some(TEXT), "and taken away again");
    }

    #[test]
    fn a_server_is_removed_and_comments_around_it_stay() {
        let text = without(TEXT, "pg2").unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["server"].as_array().unwrap().len(), 1);
        assert!(text.contains("host = 'db1'\n\n# Pools are small.\n"), "{text}");
        let text = without(TEXT, "pg1").unwrap();
        assert!(text.contains("# In Frankfurt.\n\n[[ server ]] # the new one"), "{text}");
        assert_eq!(without(TEXT, "pg9"), None);
    }

    #[test]
    fn other_ways_to_write_it_are_left_to_people() {
        assert_eq!(without("server = [{ id = 'pg1', host = 'db1' }]\n", "pg1"), None);
        let last = "[[server]]\nid = 'a'\nhost = 'h'";
        assert_eq!(without(last, "a").as_deref(), Some(""));
        let added: toml::Table = with(last, &new()).parse().unwrap();
        assert_eq!(added["server"].as_array().unwrap().len(), 2);
    }
}
