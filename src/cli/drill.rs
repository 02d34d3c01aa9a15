//! `komainu drill`: what would happen tonight, tried now.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::EXIT_USAGE;
use super::sandbox::with_causes;
use crate::drill::{self, DrillError, Event, FailoverEvent, FailoverSettings, Settings};
use crate::sandbox::{ManagedMode, Method, Sync};

const DEFAULT_LOAD: u32 = 8;

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
        komainu drill endpoint --aws --runs 10 --fine\n  \
        komainu drill endpoint --admin /run/komainu/admin.sock --url postgres://app:…@db/app\n\n\
        Without --admin it makes a sandbox for itself and removes it at the end. With the admin socket of\n\
        a sandbox that runs, it drills that one. With one of any other cluster, and --url, it breaks nothing\n\
        there: it asks you to, and measures.\n\n\
        A client writes a numbered row each second (or every 20 ms), gives up a connect or a query after\n\
        500 ms, and dials again. The outage is from the last row acknowledged to the next. Afterwards every\n\
        acknowledged row is looked for. The exit code is 1 if one is missing, or there twice.")]
    Endpoint(Endpoint),
    /// Break the primary or a standby, and measure how long no row can be written
    #[command(after_help = "Examples:\n  komainu drill failover --runs 10 --fine\n  \
        komainu drill failover --event switchover --load 50 --fine\n  \
        komainu drill failover --backlog 60 --load 50 --fine\n  \
        sudo komainu drill failover --event partition --netns\n  \
        komainu drill failover --mode aurora --name-delay 30 --pgbouncer --runs 10 --fine\n  \
        komainu drill failover --event switchover --admin /run/komainu/admin.sock --url postgres://app:…@db/app --real-cluster\n  \
        komainu drill failover --ask-aws shop --admin /run/komainu/admin.sock --url postgres://app:…@db/app --real-cluster\n\n\
        Without --admin it makes a sandbox for itself and removes it at the end. With the admin socket of\n\
        a sandbox that runs, it drills that one. Any other cluster it touches with --real-cluster only; there\n\
        it orders a switchover itself, asks AWS for a failover with --ask-aws, and asks you to break and mend\n\
        anything else.\n\n\
        One client writes a numbered row each second (or every 20 ms) and some read, each giving up after\n\
        500 ms; others sit between two transactions when it happens, wait patiently, and count errors. The\n\
        next run begins when all servers are attached and stream. The exit code is 1 if an acknowledged row\n\
        is missing, or there twice.")]
    Failover(Failover),
}

#[derive(Debug, Args)]
struct Failover {
    /// What happens: `kill` by default, and `aws-failover` with --mode
    #[arg(long, value_enum)]
    event: Option<FailoverEvent>,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Write every 20 ms instead of each second, and so measure to 20 ms
    #[arg(long)]
    fine: bool,
    /// Clients that update and read as fast as they can besides, half of them each; 8 if no number is given
    #[arg(long, value_name = "CLIENTS", num_args = 0..=1, default_value_t = 0, default_missing_value = "8",
        value_parser = clap::value_parser!(u32).range(0..=500))]
    load: u32,
    /// Let the standbys receive and replay nothing for so long before, under --load, so that whoever is promoted has
    /// to replay it first; 20 s if no number is given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_value_t = 0, default_missing_value = "20",
        value_parser = clap::value_parser!(u32).range(0..=600))]
    backlog: u32,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// How many nodes the drill's sandbox has
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Give the nodes and servers of the drill's sandbox networks of their own (as root)
    #[arg(long)]
    netns: bool,
    /// Whether a row is acknowledged in the drill's sandbox only when a standby has it; by default as the event needs it
    #[arg(long, value_enum)]
    sync: Option<Sync>,
    /// The drill's sandbox imitates a service that makes the writer itself
    #[arg(long, value_enum, conflicts_with = "backlog")]
    mode: Option<ManagedMode>,
    /// How long that service takes until it begins to make another writer
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=3600))]
    server_seconds: u32,
    /// How long the writer's name leads to the old one when the new one takes connections
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=3600))]
    name_delay: u32,
    /// The same clients through a PgBouncer besides, which goes by the writer's name
    #[arg(long)]
    pgbouncer: bool,
    /// A cluster that runs: a node's admin socket; best all nodes', with the option repeated
    #[arg(long, value_name = "PATH", conflicts_with_all = ["nodes", "netns", "sync", "mode"])]
    admin: Vec<PathBuf>,
    /// Where clients of that cluster connect, if it is no sandbox: the endpoint
    #[arg(long, value_name = "URL", requires = "admin")]
    url: Option<String>,
    /// That cluster may be a real one: its primary is going to change
    #[arg(long, requires = "url")]
    real_cluster: bool,
    /// Have AWS make another writer of this RDS or Aurora cluster, or Multi-AZ instance, with the AWS credentials of
    /// whoever runs the drill
    #[arg(long, value_name = "IDENTIFIER", requires = "real_cluster")]
    ask_aws: Option<String>,
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
    /// How the nodes of the drill's sandbox take the endpoint, `command` by default; `interface` needs --netns.
    /// Repeated, each is drilled in a sandbox of its own
    #[arg(long, value_enum)]
    method: Vec<Method>,
    /// The same as --method with each of AWS's methods
    #[arg(long, conflicts_with = "method")]
    aws: bool,
    /// How many nodes the drill's sandbox has
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    /// Give the nodes of the drill's sandbox networks of their own (as root)
    #[arg(long)]
    netns: bool,
    /// A cluster that runs: a node's admin socket; best all nodes', with the option repeated
    #[arg(long, value_name = "PATH", conflicts_with_all = ["method", "aws", "nodes", "netns"])]
    admin: Vec<PathBuf>,
    /// Where clients of that cluster connect, if it is no sandbox: the endpoint
    #[arg(long, value_name = "URL", requires = "admin")]
    url: Option<String>,
    /// Which endpoint, if there are several
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
}

pub fn run(drill: Drill) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu drill: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let say = |text: &str| drop(writeln!(io::stderr(), "{text}"));
    match drill.command {
        Command::Endpoint(args) => {
            let json = args.json;
            let outcome = runtime.block_on(drill::run(&settings(args), &say));
            ended(outcome, json, |report| (report.lost(), report.twice()))
        }
        Command::Failover(args) => {
            let json = args.json;
            let outcome = runtime.block_on(drill::run_failover(&failover_settings(args), &say));
            ended(outcome, json, |report| (report.lost(), report.twice()))
        }
    }
}

fn ended<R: Display + Serialize>(
    outcome: Result<R, DrillError>,
    json: bool,
    wrong: impl Fn(&R) -> (usize, usize),
) -> ExitCode {
    match outcome {
        Ok(report) => show(&report, json, wrong(&report)),
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu drill: {}", with_causes(&error));
            if error.is_usage() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn failover_settings(args: Failover) -> FailoverSettings {
    FailoverSettings {
        event: args.event.unwrap_or(match args.mode.is_some() || args.ask_aws.is_some() {
            true => FailoverEvent::AwsFailover,
            false => FailoverEvent::Kill,
        }),
        runs: args.runs,
        fine: args.fine,
        // Without any there would be nothing to replay.
        load: if args.backlog > 0 && args.load == 0 { DEFAULT_LOAD } else { args.load },
        backlog: Duration::from_secs(args.backlog.into()),
        nodes: args.nodes,
        netns: args.netns,
        sync: args.sync,
        mode: args.mode,
        server_seconds: args.server_seconds,
        name_delay: args.name_delay,
        pgbouncer: args.pgbouncer,
        admin: args.admin,
        url: args.url,
        real_cluster: args.real_cluster,
        ask_aws: args.ask_aws,
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
        methods: match (args.aws, args.method) {
            (true, _) => Method::AWS.to_vec(),
            (_, none) if none.is_empty() => vec![Method::Command],
            (_, some) => some,
        },
        nodes: args.nodes,
        netns: args.netns,
        admin: args.admin,
        url: args.url,
        endpoint: args.endpoint,
    }
}

fn show<R: Display + Serialize>(report: &R, json: bool, (lost, twice): (usize, usize)) -> ExitCode {
    let text = match json {
        true => serde_json::to_string(report).expect("strings and numbers have a JSON form") + "\n",
        false => report.to_string(),
    };
    let _ = io::stdout().write_all(text.as_bytes());
    for (count, what) in [(lost, "acknowledged rows are missing"), (twice, "rows are there twice")] {
        if count > 0 {
            let _ = writeln!(io::stderr(), "komainu drill: {count} {what}");
        }
    }
    if lost + twice == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
        match Line::try_parse_from(words)?.drill.command {
            Command::Endpoint(args) => Ok(settings(args)),
            Command::Failover(_) => panic!("it says endpoint"),
        }
    }

    fn failover(words: &str) -> Result<FailoverSettings, clap::Error> {
        let words = ["x", "failover"].into_iter().chain(words.split_whitespace());
        match Line::try_parse_from(words)?.drill.command {
            Command::Failover(args) => Ok(failover_settings(args)),
            Command::Endpoint(_) => panic!("it says failover"),
        }
    }

    #[test]
    fn a_load_may_have_a_number_and_a_real_cluster_is_said_to_be_one() {
        assert_eq!((failover("").unwrap().load, failover("--load").unwrap().load), (0, 8));
        assert_eq!(failover("--load 50 --event switchover").unwrap().load, 50);
        let backlog = |words| failover(words).map(|settings| (settings.backlog.as_secs(), settings.load));
        assert_eq!(backlog("--backlog").unwrap(), (20, 8));
        assert_eq!(backlog("--backlog 5 --load 50").unwrap(), (5, 50));
        assert_eq!(backlog("--backlog --load 4").unwrap(), (20, 4), "fewer, as it is said");
        assert_eq!(failover("").unwrap().event, FailoverEvent::Kill);
        assert_eq!(failover("--mode rds").unwrap().event, FailoverEvent::AwsFailover);
        assert!(failover("--mode rds --admin /a").is_err());
        assert!(failover("--real-cluster").is_err() && failover("--admin /a --netns").is_err());
        let real = "--admin /a --url postgres://a@b/c --real-cluster";
        assert!(failover(real).unwrap().real_cluster);
        assert!(
            failover("--admin /a --url postgres://a@b/c --ask-aws shop").is_err(),
            "and is to be said so"
        );
        let asks = failover(&format!("{real} --ask-aws shop")).unwrap();
        assert_eq!((asks.event, asks.ask_aws.as_deref()), (FailoverEvent::AwsFailover, Some("shop")));
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
    fn methods_are_drilled_one_after_the_other() {
        assert_eq!(parsed("").unwrap().methods, [Method::Command]);
        assert_eq!(parsed("--aws").unwrap().methods, Method::AWS);
        let two = parsed("--method route53 --method route-table").unwrap();
        assert_eq!(two.methods, [Method::Route53, Method::RouteTable]);
        assert!(parsed("--aws --method route53").is_err() && parsed("--aws --admin /a").is_err());
    }

    #[test]
    fn a_cluster_that_runs_is_what_it_is() {
        assert!(parsed("--admin /a --nodes 5").is_err());
        assert!(parsed("--url postgres://a@b/c").is_err());
        assert_eq!(parsed("--admin /a --admin /b --url postgres://a@b/c").unwrap().admin.len(), 2);
        assert!(parsed("--runs 0").is_err());
    }
}
