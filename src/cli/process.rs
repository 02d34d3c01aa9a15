//! `komainu reload` and `komainu stop`: what the signals do, with an answer.

use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::{Ask, AskError, Done};
use crate::admin::client::Node;
use crate::admin::control::StopMode;

const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
pub struct StopArgs {
    /// How much patience there is with clients
    #[arg(long, value_enum, default_value_t = StopMode::Fast)]
    mode: StopMode,
    /// Do not wait until it has ended
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Reloaded {
    changed: Vec<String>,
    restart: Vec<String>,
    differs: Vec<String>,
}

pub fn reload(args: &ReloadArgs) -> Result<Done, AskError> {
    let answer = args.ask.post("/reload", &json!({}))?;
    args.ask.print(&answer, reloaded)?;
    Ok(Done::Fine)
}

fn reloaded(reloaded: &Reloaded) -> String {
    let Reloaded { changed, restart, differs } = reloaded;
    let mut text = match changed.is_empty() {
        true => "reloaded; no key has changed\n".to_owned(),
        false => format!("reloaded: {}\n", changed.join(", ")),
    };
    if !restart.is_empty() {
        text += &format!("these change only with a restart: {}\n", restart.join(", "));
    }
    if !differs.is_empty() {
        text += &format!(
            "the cluster has agreed otherwise on these, which counts: {}; `komainu config apply` changes them\n",
            differs.join(", ")
        );
    }
    text
}

pub fn stop(args: &StopArgs) -> Result<Done, AskError> {
    let StopArgs { mode, no_wait, ask } = args;
    let answer = ask.post::<Value>("/stop", &json!({ "mode": mode }))?;
    if !no_wait {
        wait_until_ended(&ask.node()?);
    }
    let said = if *no_wait { "it is stopping\n" } else { "it has stopped\n" };
    ask.print(&answer, |_| said.to_owned())?;
    Ok(Done::Fine)
}

/// As long as its clients may take, which is what was asked for.
fn wait_until_ended(node: &Node) {
    while !node.is_gone() {
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_says_what_counts_now() {
        let said = |changed: &[&str], restart: &[&str], differs: &[&str]| {
            let own = |keys: &[&str]| keys.iter().map(ToString::to_string).collect();
            reloaded(&Reloaded { changed: own(changed), restart: own(restart), differs: own(differs) })
        };
        assert_eq!(said(&[], &[], &[]), "reloaded; no key has changed\n");
        assert_eq!(
            said(&["pool.size", "log.level"], &["workers"], &[]),
            "reloaded: pool.size, log.level\nthese change only with a restart: workers\n"
        );
        assert!(
            said(&[], &[], &["pool.size"]).contains("agreed otherwise on these, which counts: pool.size;")
        );
    }

    #[test]
    fn a_socket_that_nobody_listens_on_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let node = Node::Unix(path.clone());
        wait_until_ended(&node);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        wait_until_ended(&node);
    }
}
