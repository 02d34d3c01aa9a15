//! `komainu server`: which PostgreSQL servers there are, which are used, and what is done to one.

use std::io::{self, Write as _};
use std::ops::ControlFlow::{Break, Continue};
use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::{Answer, Ask, AskError, Done, operator};
use super::config::problems;
use super::promote::{self, PromoteArgs};
use super::recover::{self, RecoverArgs};
use super::restart::{self, RestartArgs};
use super::status::Server;

/// All nodes have a new configuration, and have looked at a new server, long before.
const KNOWN_WITHIN: Duration = Duration::from_secs(15);
/// What was closed is gone by then.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct ServerArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Use a server again that was detached or drained
    #[command(after_help = "Example:\n  komainu server attach pg2\n\n\
        New sessions read from it at once, others once it is known to have all that they have seen.")]
    Attach(OneServer),
    /// Begin nothing new on a standby; what is under way there ends in its own time
    #[command(after_help = "Examples:\n  komainu server drain pg2\n  \
        komainu server drain --wait 600 pg2    (and wait until nothing is under way there)\n\n\
        Exit codes: 0 it is draining, or with --wait nothing is under way there any more; 2 something still is.")]
    Drain(Drain),
    /// Take a standby out of use, and close what has not ended there in time
    #[command(
        after_help = "Examples:\n  komainu server detach pg2\n  komainu server detach --within 5 pg2\n\n\
        Clients between transactions see no error. A transaction that is still open when the time is up is rolled back, \
        and its client told so; `drain` waits for it instead.\n\
        The primary cannot be detached: `komainu switchover` makes another one first.\n\
        Exit codes: 0 nothing is under way there any more; 2 something still is."
    )]
    Detach(Detach),
    /// Let what begins on a server wait, and say when nothing is under way there
    #[command(
        after_help = "Examples:\n  komainu server pause pg1\n  komainu server pause --within 5    (all servers)\n\n\
        Clients wait up to limits.hold_timeout_ms, and then get an error.\n\
        Exit codes: 0 nothing is under way there; 2 it is paused, and something still is."
    )]
    Pause(Pause),
    /// Let those go on who wait for a paused server
    #[command(
        after_help = "Examples:\n  komainu server resume pg1\n  komainu server resume    (all servers)"
    )]
    Resume(Servers),
    /// Add a server to the cluster's configuration
    #[command(after_help = "Example:\n  komainu server add pg4 --host 10.0.1.14 --weight 2\n\n\
        It gets reads once the nodes have seen that it is a standby of this cluster.\n\
        Exit codes: 0 it is used; 2 it is added, and not used yet.")]
    Add(Add),
    /// Remove a server from the cluster's configuration
    #[command(after_help = "Example:\n  komainu server remove pg4\n\n\
        What is under way there ends in its own time. The primary stays: `komainu switchover` makes another one first.")]
    Remove(OneServer),
    /// Make this standby the primary: by a switchover if the primary lives, else by a failover that loses nothing
    #[command(
        after_help = "Examples:\n  komainu server promote pg2\n  komainu server promote pg2 --force\n\n\
        Says which of the two it was. What could lose acknowledged commits is refused without --force."
    )]
    Promote(PromoteArgs),
    /// Have a server's agent make it a standby again: rewound if that will do, else copied, while writes go on
    #[command(
        after_help = "Examples:\n  komainu server recover pg2\n  komainu server recover pg2 --rebuild\n\n\
        Also one whose data directory is empty. It is attached when it streams."
    )]
    Recover(RecoverArgs),
    /// Restart PostgreSQL on one server, or on all of them one after the other
    #[command(after_help = "Examples:\n  komainu server restart pg2\n  komainu server restart --rolling\n  \
        komainu server restart --cancel\n\n\
        A standby is out of use meanwhile. A primary stays the primary, and transactions wait; --rolling makes\n\
        another one first. Clients see no error.")]
    Restart(RestartArgs),
}

#[derive(Debug, Args)]
struct OneServer {
    /// The server
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
struct Servers {
    /// The server; else all
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Args)]
struct Drain {
    #[command(flatten)]
    which: OneServer,
    /// Wait so many seconds at most until nothing is under way there
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
}

#[derive(Debug, Args)]
struct Detach {
    #[command(flatten)]
    which: OneServer,
    /// After so many seconds what is still under way there is closed
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    within: u32,
}

#[derive(Debug, Args)]
struct Pause {
    #[command(flatten)]
    some: Servers,
    /// Wait so many seconds at most until nothing is under way there; it stays paused
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    within: u32,
}

#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    which: OneServer,
    /// A name, an address, or the directory of a Unix socket
    #[arg(long)]
    host: String,
    /// Its port [default: 5432]
    #[arg(long)]
    port: Option<u16>,
    /// Its share of the reads [default: 1]
    #[arg(long)]
    weight: Option<u32>,
    /// Its availability zone
    #[arg(long)]
    zone: Option<String>,
    /// Where the agent on its host is reached
    #[arg(long, value_name = "HOST:PORT")]
    agent: Option<String>,
    /// It is never promoted
    #[arg(long)]
    disallow_failover: bool,
}

#[derive(Debug, Deserialize)]
struct Ordered {
    servers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Applied {
    version: u64,
}

pub fn run(args: &ServerArgs) -> Result<Done, AskError> {
    match &args.command {
        Command::Attach(which) => {
            let answer = order(which, json!({ "state": "attached" }))?;
            which.ask.print(&answer, |_| format!("{} is attached\n", which.id))?;
            Ok(Done::Fine)
        }
        Command::Drain(Drain { which, wait }) => {
            let answer = order(which, json!({ "state": "draining" }))?;
            if *wait == 0 {
                which.ask.print(&answer, |_| format!("{} is draining\n", which.id))?;
                return Ok(Done::Fine);
            }
            empty(&which.ask, std::slice::from_ref(&which.id), "drained", seconds(*wait))
        }
        Command::Detach(Detach { which, within }) => {
            let order_within =
                json!({ "state": "detached", "within_ms": seconds(*within).as_millis() as u64 });
            order(which, order_within)?;
            empty(&which.ask, std::slice::from_ref(&which.id), "detached", seconds(*within) + CLOSED_WITHIN)
        }
        Command::Pause(Pause { some, within }) => {
            let servers = pause(some, true)?.content.servers;
            empty(&some.ask, &servers, "paused", seconds(*within))
        }
        Command::Resume(some) => {
            let answer = pause(some, false)?;
            some.ask.print(&answer, |ordered| each(&ordered.servers, "resumed"))?;
            Ok(Done::Fine)
        }
        Command::Add(add) => self::add(add),
        Command::Remove(which) => remove(which),
        Command::Promote(args) => promote::run(args),
        Command::Recover(args) => recover::run(args),
        Command::Restart(args) => restart::run(args),
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(u64::from(count))
}

fn each(servers: &[String], what: &str) -> String {
    servers.iter().map(|id| format!("{id} is {what}\n")).collect()
}

fn order(which: &OneServer, mut order: Value) -> Result<Answer<Value>, AskError> {
    order["id"] = which.id.as_str().into();
    order["cause"] = operator().into();
    which.ask.post("/server/administrative", &order)
}

fn pause(some: &Servers, paused: bool) -> Result<Answer<Ordered>, AskError> {
    let order = json!({ "id": some.id, "paused": paused, "cause": operator() });
    some.ask.post("/server/pause", &order)
}

/// Waits until no node has clients' connections to these servers any more, and says it, or who still has.
fn empty(ask: &Ask, servers: &[String], what: &str, within: Duration) -> Result<Done, AskError> {
    let busy = |server: &Server| match server.busy_on.as_deref() {
        Some([]) => None,
        Some(nodes) => Some(nodes.join(", ")),
        // This node has not heard of the order yet.
        None => Some("all nodes".to_owned()),
    };
    let (answer, found) = ask.follow(within, |status| {
        let asked = status.servers.iter().filter(|server| servers.contains(&server.id));
        let busy: Vec<_> = asked.filter_map(|server| Some((server.id.clone(), busy(server)?))).collect();
        Ok(if busy.is_empty() { Break(()) } else { Continue(busy) })
    })?;
    let found = found.continue_value().unwrap_or_default();
    let still = |(id, nodes): &(String, String)| format!("connections to {id} are still in use on {nodes}\n");
    ask.print(&answer, |_| each(servers, what) + &found.iter().map(still).collect::<String>())?;
    Ok(if found.is_empty() { Done::Fine } else { Done::Alarm })
}

fn add(add: &Add) -> Result<Done, AskError> {
    let Add { which: OneServer { id, ask }, host, port, weight, zone, agent, disallow_failover } = add;
    let server = json!({
        "id": id, "host": host, "port": port, "weight": weight, "zone": zone, "agent": agent,
        "disallow_failover": disallow_failover
    });
    let order = json!({ "server": server, "cause": operator() });
    let version = change(ask, "/server/add", &order)?;
    let (answer, found) = ask.follow(KNOWN_WITHIN, |status| {
        let server = status.servers.iter().find(|server| server.id == *id).cloned();
        Ok(match server {
            Some(server) if server.health != "unknown" => Break(server),
            other => Continue(other),
        })
    })?;
    let found = match found {
        Break(server) => Some(server),
        Continue(server) => server,
    };
    let is_used = found.as_ref().is_some_and(|server| server.role != "unknown");
    ask.print(&answer, |_| {
        let begin = format!("{id} is added, configuration {version}");
        match found {
            Some(server) if is_used => format!("{begin}: {}, {}\n", server.role, server.health),
            Some(Server { reason: Some(reason), .. }) => format!("{begin}, and not used: {reason}\n"),
            _ => format!("{begin}, and not looked at yet\n"),
        }
    })?;
    Ok(if is_used { Done::Fine } else { Done::Alarm })
}

fn remove(which: &OneServer) -> Result<Done, AskError> {
    let OneServer { id, ask } = which;
    let order = json!({ "id": id, "cause": operator() });
    let version = change(ask, "/server/remove", &order)?;
    let (answer, found) = ask.follow(KNOWN_WITHIN, |status| {
        let is_gone = status.servers.iter().all(|server| server.id != *id);
        Ok(if is_gone { Break(()) } else { Continue(()) })
    })?;
    if found.is_continue() {
        return Err(AskError::Failed(format!(
            "{id} is removed, configuration {version}, and this node still has it: its log says why"
        )));
    }
    ask.print(&answer, |_| format!("{id} is removed, configuration {version}\n"))?;
    Ok(Done::Fine)
}

/// The configuration's new version. What is wrong with it is told as of any other.
fn change(ask: &Ask, path: &str, order: &Value) -> Result<u64, AskError> {
    let answer = ask.post::<Applied>(path, order).inspect_err(|error| {
        if let AskError::Refused { body, .. } = error {
            for problem in problems(Path::new("configuration"), body) {
                let _ = writeln!(io::stderr(), "{problem}");
            }
        }
    })?;
    Ok(answer.content.version)
}
