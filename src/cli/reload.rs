//! `komainu reload`: what SIGHUP does, with an answer.

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::ask::{Ask, AskError, Done};

#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Reloaded {
    changed: Vec<String>,
    restart: Vec<String>,
    differs: Vec<String>,
}

pub fn run(args: &ReloadArgs) -> Result<Done, AskError> {
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
}
