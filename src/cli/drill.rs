//! `komainu drill`: what would happen tonight, tried now.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::EXIT_USAGE;
use super::sandbox::with_causes;
use crate::drill::{self, DrillError, Event, Report, Settings};
use crate::sandbox::Method;

#[derive(Debug, Args)]
pub struct Drill {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Break the owner of the endpoint, and measure how long no row can be written through it
    #[command(after_help = "Examples:\n  komainu drill endpoint --runs 10 --fine\n  \
        komainu drill endpoint --freeze --json\n  \
        sudo komainu drill endpoint --partition --netns --method interface\n  \
        komainu drill endpoint --admin /run/komainu/admin.sock --url postgres://app:…@db/app\n\n\
        Without --admin it makes a sandbox for itself and removes it at the end. With the admin socket of\n\
        a sandbox that runs, it drills that one. With one of any other cluster, and --url, it breaks nothing\n\
        there: it asks you to, and measures.\n\n\
        A client writes a numbered row each second (or every 20 ms), gives up a connect or a query after\n\
        500 ms, and dials again. The outage is from the last row acknowledged to the next. Afterwards every\n\
        acknowledged row is looked for. The exit code is 1 if one is missing.")]
    Endpoint(Endpoint),
}

#[derive(Debug, Args)]
struct Endpoint {
    /// What happens to the owner
    #[arg(long, value_enum, default_value_t = Event::Kill)]
    event: Event,
    /// The same as --event freeze
    #[arg(long, conflicts_with_all = ["event", "partition"])]
    freeze: bool,
    /// The same as --event partition
    #[arg(long, conflicts_with = "event")]
    partition: bool,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Write every 20 ms instead of each second, and so measure to 20 ms
    #[arg(long)]
    fine: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// How the nodes of the drill's sandbox take the endpoint; `interface` needs --netns
    #[arg(long, value_enum, default_value_t = Method::Command)]
    method: Method,
    /// How many nodes the drill's sandbox has
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Give the nodes of the drill's sandbox networks of their own (as root)
    #[arg(long)]
    netns: bool,
    /// A cluster that runs: a node's admin socket; best all nodes', with the option repeated
    #[arg(long, value_name = "PATH", conflicts_with_all = ["method", "nodes", "netns"])]
    admin: Vec<PathBuf>,
    /// Where clients of that cluster connect, if it is no sandbox: the endpoint
    #[arg(long, value_name = "URL", requires = "admin")]
    url: Option<String>,
    /// Which endpoint, if there are several
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
}

pub fn run(drill: Drill) -> ExitCode {
    let Command::Endpoint(args) = drill.command;
    let json = args.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu drill: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let say = |text: &str| drop(writeln!(io::stderr(), "{text}"));
    match runtime.block_on(drill::run(&settings(args), &say)) {
        Ok(report) => show(&report, json),
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu drill: {}", with_causes(&error));
            if is_usage(&error) { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn settings(args: Endpoint) -> Settings {
    let event = match (args.freeze, args.partition) {
        (true, _) => Event::Freeze,
        (_, true) => Event::Partition,
        _ => args.event,
    };
    Settings {
        event,
        runs: args.runs,
        fine: args.fine,
        method: args.method,
        nodes: args.nodes,
        netns: args.netns,
        admin: args.admin,
        url: args.url,
        endpoint: args.endpoint,
    }
}

fn is_usage(error: &DrillError) -> bool {
    match error {
        DrillError::PartitionNeedsNetwork | DrillError::Alone | DrillError::NoUrl | DrillError::Url(_) => {
            true
        }
        DrillError::Sandbox(error) => error.is_usage(),
        _ => false,
    }
}

fn show(report: &Report, json: bool) -> ExitCode {
    let text = match json {
        true => serde_json::to_string(report).expect("strings and numbers have a JSON form") + "\n",
        false => report.to_string(),
    };
    let _ = io::stdout().write_all(text.as_bytes());
    match report.lost() {
        0 => ExitCode::SUCCESS,
        lost => {
            let _ = writeln!(io::stderr(), "komainu drill: {lost} acknowledged rows are missing");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        drill: Drill,
    }

    fn parsed(words: &str) -> Result<Settings, clap::Error> {
        let words = ["x", "endpoint"].into_iter().chain(words.split_whitespace());
        let Command::Endpoint(args) = Line::try_parse_from(words)?.drill.command;
        Ok(settings(args))
    }

    #[test]
    fn an_event_is_named_either_way_but_once() {
        assert_eq!(parsed("").unwrap().event, Event::Kill);
        assert_eq!(parsed("--event freeze").unwrap().event, Event::Freeze);
        assert_eq!(parsed("--freeze").unwrap().event, Event::Freeze);
        assert_eq!(parsed("--partition --netns").unwrap().event, Event::Partition);
        assert!(parsed("--freeze --partition").is_err() && parsed("--event kill --freeze").is_err());
    }

    #[test]
    fn a_cluster_that_runs_is_what_it_is() {
        assert!(parsed("--admin /a --nodes 5").is_err());
        assert!(parsed("--url postgres://a@b/c").is_err());
        assert_eq!(parsed("--admin /a --admin /b --url postgres://a@b/c").unwrap().admin.len(), 2);
        assert!(parsed("--runs 0").is_err());
    }
}
