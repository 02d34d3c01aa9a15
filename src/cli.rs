//! The command line: what each command is called, takes and answers.
//!
//! Owns the arguments and the exit codes. Never does the work: each command is a module of its own.
//! Invariant: the exit code is 0 for success, 64 for a wrong command line or configuration, 2 from a command that was
//! asked how things are and found something wrong, or whose order is not complete yet, else 1.

mod agent;
mod ask;
mod backup;
mod check_config;
mod config;
mod discard_state;
mod doctor;
mod drill;
mod endpoint;
mod events;
mod failover;
mod filter;
mod follow;
mod health;
mod log;
mod node;
mod password;
mod pki;
mod pools;
mod promote;
mod recover;
mod reload;
mod restart;
mod sandbox;
mod server;
mod sessions;
mod status;
mod stop;
mod text;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::serve::{self, ServeError, Who};
use discard_state::DiscardError;

/// EX_USAGE of sysexits.h: the command line or the configuration is wrong, and trying again is no use.
pub const EXIT_USAGE: u8 = 64;

/// A PostgreSQL proxy that does not go away: connection pooling, read/write split, read-your-writes.
#[derive(Debug, Parser)]
#[command(name = "komainu", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 64 wrong command line or configuration, 2 something is wrong with the \
    cluster (status, doctor, node list, endpoint list), or what was ordered is not complete yet (server drain, detach, \
    pause, add), 1 any other failure.\n\n\
    Commands that ask a running node find it by --admin or KOMAINU_ADMIN: the Unix socket that is admin.socket in its \
    configuration, or https://HOST:PORT for its admin.tls_address, with --token-file or KOMAINU_ADMIN_TOKEN_FILE.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM; SIGHUP reads the configuration again
    #[command(after_help = "Examples:\n  komainu serve --config /etc/komainu/komainu.toml\n  \
        komainu serve --config /etc/komainu/komainu.toml --node n1    (in a cluster)\n\n\
        SIGTERM and SIGINT drain: no new clients, running transactions may finish within\n\
        limits.shutdown_timeout_ms; a second signal ends them at once.")]
    Serve(Serve),
    /// Beside a database server, do with its files and process what nodes ask for, until SIGTERM
    #[command(after_help = "Example:\n  komainu agent --config /etc/komainu/komainu.toml --server pg1\n\n\
        It runs as PostgreSQL's own user, and the server that it starts lives on when it ends.\n\
        docs/agent.md tells what it may do and what it needs.")]
    Agent(agent::AgentArgs),
    /// The cluster as a node sees it: nodes, leader, lease, servers, endpoints
    #[command(after_help = "Examples:\n  komainu status --admin /run/komainu/admin.sock\n  \
        komainu status --json | jq .endpoints\n\n\
        Exit codes: 0 all is well; 2 there is no leader, no primary, one that is paused or is lost and not replaced,\n\
        an endpoint without owner, a node that cannot be reached, a decision that was rejected, or this node does\n\
        not take part or cannot use the cluster's configuration; 1 the node does not answer.")]
    Status(status::StatusArgs),
    /// List the nodes of the cluster, add a voter, replace one that lost its state, remove a proxy
    Node(node::NodeArgs),
    /// List the endpoints, move one to another node
    Endpoint(endpoint::EndpointArgs),
    /// Make another server the primary, in order: nothing is lost, and clients wait for a moment
    #[command(after_help = "Examples:\n  komainu switchover\n  komainu switchover --to pg2\n\n\
        Transactions run out, the old primary is stopped by its agent, and follows the new one.")]
    Switchover(failover::SwitchoverArgs),
    /// Fail over now (--force), or pause and resume automatic failover
    #[command(
        after_help = "Examples:\n  komainu failover --force --to pg2\n  komainu failover pause\n  komainu failover resume"
    )]
    Failover(failover::FailoverArgs),
    /// Add, remove and restart PostgreSQL servers, take them out of use, promote and recover them
    Server(server::ServerArgs),
    /// Take a base backup of the standby that is least behind, and verify it
    #[command(
        after_help = "Examples:\n  komainu backup /backup/2026-11-28 --user replicator --passfile /etc/komainu/pgpass\n  \
        komainu backup /backup/tonight --from pg3 --max-rate 50M\n\n\
        The primary is left alone unless --allow-primary is given and there is no standby.\n\
        The directory must be empty or not exist yet; until the backup is whole and verified it is DIR.partial."
    )]
    Backup(backup::BackupArgs),
    /// What happened in the cluster, and who or what caused it
    #[command(after_help = "Examples:\n  komainu events\n  komainu events --follow\n  \
        komainu events --after 120 --limit 10 --json")]
    Events(events::EventsArgs),
    /// Who is connected to a node, what they do and what they wait for
    #[command(after_help = "Examples:\n  komainu sessions\n  komainu sessions --user app --limit 20\n  \
        komainu sessions --json | jq '.sessions[] | select(.pinned != [])'")]
    Sessions(sessions::SessionsArgs),
    /// The server connections of a node: open, idle, leased, and who waits for one
    #[command(after_help = "Examples:\n  komainu pools\n  komainu pools --database shop")]
    Pools(pools::PoolsArgs),
    /// How the probes of a node fare: looks made and failed, how long they took, what failed last
    #[command(after_help = "Example:\n  komainu health")]
    Health(health::HealthArgs),
    /// Show, change or bring back the configuration that all nodes share
    Config(config::ConfigArgs),
    /// What would go wrong tonight, as far as a node can tell
    #[command(after_help = "Examples:\n  komainu doctor\n  komainu doctor --all\n\n\
        Each node looks from its own place: ask every one of them.\n\
        Exit codes: 0 nothing is wrong, 2 something is.")]
    Doctor(doctor::DoctorArgs),
    /// Begin a new log file, and keep the older ones
    Log(log::LogArgs),
    /// Have a node read its configuration again, as SIGHUP does, and say what changed
    #[command(after_help = "Example:\n  komainu reload --admin /run/komainu/admin.sock")]
    Reload(reload::ReloadArgs),
    /// Stop a node
    #[command(after_help = "Examples:\n  komainu stop\n  komainu stop --mode smart\n\n\
        An endpoint it owns is handed over first, except in mode immediate. While it stops, another `stop` with\n\
        less patience is obeyed.")]
    Stop(stop::StopArgs),
    /// Run a whole cluster on this machine: PostgreSQL servers, and komainu nodes before them
    #[command(
        after_help = "Examples:\n  komainu sandbox\n  komainu sandbox --nodes 1 --port 5433\n  komainu sandbox start node2\n\n\
        Clients connect to one address, which follows the node that has the endpoint. What is killed stays\n\
        dead until `komainu sandbox start`. Ctrl-C ends all of it and leaves nothing running."
    )]
    Sandbox(sandbox::Sandbox),
    /// Break the endpoint's owner, or a PostgreSQL server, on purpose, and measure how long clients notice
    #[command(
        after_help = "Examples:\n  komainu drill endpoint --runs 3 --fine\n  komainu drill failover --event kill --fine"
    )]
    Drill(drill::Drill),
    /// Check a configuration file, and the files that it names, and report every problem at once
    #[command(after_help = "Example:\n  komainu check-config komainu.toml\n\n\
        Problems and warnings go to stderr, one a line: `file:line: key: what is wrong; what to do`.\n\
        Exit codes: 0 no problem (there may be warnings), 64 at least one problem.")]
    CheckConfig(CheckConfig),
    /// Make a SCRAM verifier of a password, for the user file or for ALTER ROLE
    #[command(after_help = "Examples:\n  komainu password --user alice >> users.txt\n  \
        printf %s \"$PASSWORD\" | komainu password --user alice\n\n\
        At a terminal the password is asked for twice and not shown. Otherwise it is the first line of\n\
        standard input. It is never an argument, since arguments are visible to everybody on the machine.")]
    Password(Password),
    /// Make, show and renew the certificates by which nodes trust each other
    #[command(
        after_help = "Example:\n  komainu pki init --dir pki --cluster shop && komainu pki node --dir pki --id a"
    )]
    Pki(pki::Pki),
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which [[node]] of the configuration this is; needed if it has a [cluster]
    #[arg(long, value_name = "ID", env = "KOMAINU_NODE", value_parser = NonEmptyStringValueParser::new())]
    pub node: Option<String>,
    /// `proxy`: one that the configuration does not name, beside an application; it votes for nothing
    #[arg(long, value_name = "ROLE", value_enum, default_value_t = Role::Voter)]
    pub role: Role,
    /// Where the other nodes reach this proxy; it listens on that port
    #[arg(long, value_name = "HOST:PORT", env = "KOMAINU_ADDRESS", required_if_eq("role", "proxy"))]
    pub address: Option<String>,
    /// Log everything of komainu's own, as text to the terminal, whatever [log] says
    #[arg(long)]
    pub debug: bool,
    /// Begin with an empty state: asks, says what is lost, and needs `komainu node replace` afterwards
    #[arg(long)]
    pub discard_state: bool,
    /// Do not ask
    #[arg(long, requires = "discard_state")]
    pub yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    Voter,
    Proxy,
}

#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The file to check
    #[arg(value_name = "FILE", required_unless_present = "config")]
    pub file: Option<PathBuf>,
    /// The same, as `serve` takes it
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Password {
    /// Print a whole line of the user file, for this user
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Rounds of hashing: more make guessing, and each login, slower
    #[arg(long, value_name = "N", default_value_t = password::DEFAULT_ITERATIONS,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(password::MAX_ITERATIONS)))]
    pub iterations: u32,
}

/// Runs the command that the process was started with. `commit`: what the binary was built from.
pub fn run(commit: &str) -> ExitCode {
    let cli = match parse(std::env::args_os(), commit) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to tell if even this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(args) => serve(args),
        Command::Agent(args) => agent::run(&args),
        Command::Status(args) => ask::finish(status::run(&args)),
        Command::Node(args) => ask::finish(node::run(&args)),
        Command::Endpoint(args) => ask::finish(endpoint::run(&args)),
        Command::Switchover(args) => ask::finish(failover::switchover(&args)),
        Command::Failover(args) => ask::finish(failover::failover(&args)),
        Command::Server(args) => ask::finish(server::run(&args)),
        Command::Backup(args) => ask::finish(backup::run(&args)),
        Command::Events(args) => ask::finish(events::run(&args)),
        Command::Sessions(args) => ask::finish(sessions::run(&args)),
        Command::Pools(args) => ask::finish(pools::run(&args)),
        Command::Health(args) => ask::finish(health::run(&args)),
        Command::Config(args) => ask::finish(config::run(&args)),
        Command::Doctor(args) => ask::finish(doctor::run(&args)),
        Command::Log(args) => ask::finish(log::run(&args)),
        Command::Reload(args) => ask::finish(reload::run(&args)),
        Command::Stop(args) => ask::finish(stop::run(&args)),
        Command::Sandbox(args) => sandbox::run(args),
        Command::Drill(args) => drill::run(args),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Password(args) => password::run(&args),
        Command::Pki(args) => pki::run(&args),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>, commit: &str) -> Result<Cli, clap::Error> {
    let version = format!("{} ({commit})", env!("CARGO_PKG_VERSION"));
    // clap borrows it for as long as the process lives.
    let mut command = Cli::command().version(&*version.leak());
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn serve(args: Serve) -> ExitCode {
    let proxy_address = args.address.filter(|_| args.role == Role::Proxy);
    let who = Who { node: args.node, proxy_address };
    if args.discard_state {
        match discard_state::run(&args.config, &who, args.yes) {
            Ok(()) => {}
            Err(DiscardError::Serve(error)) => return refuse(&args.config, error),
            Err(error) => {
                eprintln!("komainu: {error}");
                return match error {
                    DiscardError::OnItsOwn | DiscardError::NoTerminal => ExitCode::from(EXIT_USAGE),
                    _ => ExitCode::FAILURE,
                };
            }
        }
    }
    match serve::run(&args.config, &who, args.debug) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&args.config, error),
    }
}

fn refuse(config: &Path, error: ServeError) -> ExitCode {
    if let ServeError::Config(report) = error {
        return check_config::refuse(config, &report);
    }
    eprintln!("komainu: {error}");
    match error {
        ServeError::Access(_) | ServeError::Node(_) => ExitCode::from(EXIT_USAGE),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_tells_the_version_with_its_commit() {
        for args in [&["--version"][..], &["-V"], &["server", "restart", "--version"]] {
            let args = [&["komainu"], args].concat();
            let told = parse(args.iter().map(OsString::from), "0123abcd").unwrap_err();
            assert_eq!(told.kind(), clap::error::ErrorKind::DisplayVersion);
            assert!(
                told.to_string().ends_with(concat!(env!("CARGO_PKG_VERSION"), " (0123abcd)\n")),
                "{told}"
            );
        }
    }

    #[test]
    fn check_config_takes_the_file_either_way_but_not_both() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["komainu", "check-config"], args].concat());
        for args in [&["a.toml"][..], &["--config", "a.toml"]] {
            let Command::CheckConfig(args) = parse(args).unwrap().command else { panic!("another command") };
            assert_eq!(args.file.or(args.config), Some(PathBuf::from("a.toml")));
        }
        assert!(parse(&[]).is_err());
        assert!(parse(&["a.toml", "--config", "b.toml"]).is_err());
    }

    #[test]
    fn serve_takes_the_id_of_a_node_that_has_one() {
        let parse =
            |args: &[&str]| Cli::try_parse_from([&["komainu", "serve", "--config", "a.toml"], args].concat());
        let Command::Serve(args) = parse(&["--node", "n1"]).unwrap().command else {
            panic!("another command")
        };
        assert_eq!(args.node.as_deref(), Some("n1"));
        assert!(parse(&["--node", ""]).is_err());
        assert!(parse(&["--node", "p1", "--role", "proxy"]).is_err(), "nobody could reach it");
        assert!(parse(&["--node", "p1", "--role", "proxy", "--address", "10.0.0.9:7400"]).is_ok());
        assert!(parse(&["--node"]).is_err());
    }

    #[test]
    fn a_password_is_never_an_argument() {
        assert!(Cli::try_parse_from(["komainu", "password", "hunter2"]).is_err());
        assert!(Cli::try_parse_from(["komainu", "password", "--iterations", "0"]).is_err());
    }
}
