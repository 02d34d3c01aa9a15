//! `komainu config`: the configuration that all nodes of a cluster share.
//!
//! Invariant: what is applied was checked as a whole by the node that takes it, and nothing else was applied meanwhile.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::{Ask, AskError, Done, operator};
use super::text::{table, time};

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The text in force, or that of an earlier version
    #[command(
        disable_version_flag = true,
        after_help = "Examples:\n  komainu config show > komainu.toml\n  komainu config show --version 3"
    )]
    Show(Show),
    /// Check a text, and take it live on all nodes
    #[command(after_help = "Examples:\n  komainu config apply komainu.toml\n  \
        komainu config apply --expect 4 komainu.toml    (only if version 4 is still in force)\n  \
        komainu config apply - < komainu.toml\n\n\
        Keys that are each node's own (docs/configuration.md says which) stay as the node's file has them.\n\
        Exit codes: 0 applied, or in force already; 64 the text has a problem, and nothing was changed.")]
    Apply(Apply),
    /// The versions that are kept, latest first
    #[command(after_help = "Example:\n  komainu config history")]
    History(Ask),
    /// Bring the text of an earlier version back, as a new version
    #[command(after_help = "Example:\n  komainu config rollback 3")]
    Rollback(RollBack),
}

#[derive(Debug, Args)]
struct Show {
    /// Which one, as `history` lists them
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
struct Apply {
    /// The whole configuration; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Change nothing if another version is in force by now
    #[arg(long, value_name = "N")]
    expect: Option<u64>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
struct RollBack {
    /// Whose text is to be in force again
    #[arg(value_name = "VERSION")]
    to: u64,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Text {
    text: String,
}

#[derive(Debug, Deserialize)]
struct History {
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u64,
    at_ms: u64,
    node: String,
    cause: String,
    back_to: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Applied {
    version: u64,
    changed: bool,
    restart: Vec<String>,
}

pub fn run(args: &ConfigArgs) -> Result<Done, AskError> {
    match &args.command {
        Command::Show(args) => show(args),
        Command::Apply(args) => apply(args),
        Command::History(ask) => history(ask),
        Command::Rollback(RollBack { to, ask }) => {
            let answer = ask.post("/config/rollback", &json!({ "to": to, "cause": operator() }))?;
            ask.print(&answer, applied)?;
            Ok(Done::Fine)
        }
    }
}

fn show(args: &Show) -> Result<Done, AskError> {
    let path = args.version.map_or_else(|| "/config".to_owned(), |version| format!("/config/{version}"));
    let answer = args.ask.get::<Text>(&path)?;
    args.ask.print(&answer, |shown| shown.text.clone())?;
    Ok(Done::Fine)
}

fn apply(args: &Apply) -> Result<Done, AskError> {
    let text = read(&args.file)?;
    let order = json!({ "text": text, "expect_version": args.expect, "cause": operator() });
    let answer = args.ask.post("/config/apply", &order).inspect_err(|error| {
        if let AskError::Refused { body, .. } = error {
            for problem in problems(&args.file, body) {
                let _ = writeln!(io::stderr(), "{problem}");
            }
        }
    })?;
    args.ask.print(&answer, applied)?;
    Ok(Done::Fine)
}

fn read(file: &Path) -> Result<String, AskError> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => io::stdin().read_to_string(&mut text).map(|_| text),
        false => fs::read_to_string(file),
    };
    read.map_err(|error| AskError::Usage(format!("{} cannot be read: {error}", file.display())))
}

/// As `check-config` says them.
pub fn problems(file: &Path, body: &Value) -> Vec<String> {
    let line = |problem: &Value| {
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        let mut line = format!("{}:", file.display());
        if let Some(number) = problem["line"].as_u64() {
            line += &format!("{number}:");
        }
        if !text("key").is_empty() {
            line += &format!(" {}:", text("key"));
        }
        format!("{line} {}; {}", text("problem"), text("remedy"))
    };
    body["problems"].as_array().into_iter().flatten().map(line).collect()
}

fn applied(applied: &Applied) -> String {
    let Applied { version, changed, restart } = applied;
    let mut text = match changed {
        true => format!("version {version} is in force\n"),
        false => format!("it is in force already, as version {version}\n"),
    };
    if !restart.is_empty() {
        text += &format!("these keys wait for a restart of each node: {}\n", restart.join(", "));
    }
    text
}

fn history(ask: &Ask) -> Result<Done, AskError> {
    let answer = ask.get::<History>("/config/history")?;
    ask.print(&answer, versions)?;
    Ok(Done::Fine)
}

fn versions(history: &History) -> String {
    let row = |version: &Version| {
        let note = version.back_to.map(|to| format!("the text of {to}")).unwrap_or_default();
        let (at, node, cause) = (time(version.at_ms), version.node.clone(), version.cause.clone());
        [version.version.to_string(), at, node, cause, note]
    };
    let rows: Vec<_> = history.versions.iter().map(row).collect();
    table(["VERSION", "SINCE (UTC)", "BY", "CAUSE", "NOTE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_as_of_the_file_that_was_given() {
        let body = json!({ "error": "…", "problems": [
            { "line": 3, "key": "pool.size", "problem": "0 is too small", "remedy": "give at least 1" },
            { "line": null, "key": "", "problem": "there is no server", "remedy": "add a [[server]]" },
        ] });
        assert_eq!(
            problems(Path::new("new.toml"), &body),
            [
                "new.toml:3: pool.size: 0 is too small; give at least 1",
                "new.toml: there is no server; add a [[server]]"
            ]
        );
        assert_eq!(problems(Path::new("new.toml"), &json!({ "error": "no leader" })), [""; 0]);
    }

    #[test]
    fn what_was_applied_and_what_waits_is_said() {
        let said = |changed, restart: &[&str]| {
            let restart = restart.iter().map(ToString::to_string).collect();
            applied(&Applied { version: 4, changed, restart })
        };
        assert_eq!(said(true, &[]), "version 4 is in force\n");
        assert_eq!(said(false, &[]), "it is in force already, as version 4\n");
        assert!(said(true, &["server.pg4"]).ends_with("wait for a restart of each node: server.pg4\n"));
    }

    #[test]
    fn versions_are_listed_with_who_made_them() {
        let version = |version, back_to| Version {
            version,
            at_ms: 1_709_164_740_000,
            node: "a".to_owned(),
            cause: "operator:alice".to_owned(),
            back_to,
        };
        assert_eq!(
            versions(&History { versions: vec![version(3, Some(1)), version(2, None)] }),
            "VERSION  SINCE (UTC)          BY  CAUSE           NOTE\n\
             3        2024-02-28 23:59:00  a   operator:alice  the text of 1\n\
             2        2024-02-28 23:59:00  a   operator:alice  -\n"
        );
    }
}
