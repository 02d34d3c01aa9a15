//! `komainu backup`: the arguments, and how far it is as people and programs read it.
//!
//! Owns what is printed. Invariant: progress goes to standard error, or with --json to standard output, one object a line.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::ask::{Ask, AskError, Done};
use super::text::{bytes, short_span};
use crate::agent::wire::Progress;
use crate::backup::choose::{Known, NoSource, Server, Wish, choose};
use crate::backup::{self, Access, BackupError, Made, Step, Target};

/// Between two lines where there is no terminal, and between two looks of the bar.
const LINE_EVERY: Duration = Duration::from_secs(10);
const BAR_EVERY: Duration = Duration::from_millis(200);
const JSON_EVERY: Duration = Duration::from_secs(1);
const BAR_WIDTH: usize = 30;

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where it goes: a directory that is empty or does not exist yet
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The server to copy; else the standby that is least behind
    #[arg(long, value_name = "SERVER")]
    from: Option<String>,
    /// Copy the primary if there is no standby
    #[arg(long)]
    allow_primary: bool,
    /// The role that copies: it needs REPLICATION, and a line for replication in pg_hba.conf
    #[arg(long, value_name = "ROLE", default_value = "replicator")]
    user: String,
    /// Its password, in the format of .pgpass; else libpq looks for ~/.pgpass
    #[arg(long, value_name = "FILE", env = "PGPASSFILE")]
    passfile: Option<PathBuf>,
    /// TLS to the server, as libpq's sslmode; else libpq's own default
    #[arg(long, value_name = "MODE")]
    sslmode: Option<String>,
    /// CA certificates to verify the server's certificate with, as libpq's sslrootcert
    #[arg(long, value_name = "FILE")]
    sslrootcert: Option<PathBuf>,
    /// At most so much a second, as pg_basebackup takes it: 50M
    #[arg(long, value_name = "RATE")]
    max_rate: Option<String>,
    /// PostgreSQL's programs; else those of the server's version, then PG_BIN, then PATH
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

pub fn run(args: &BackupArgs) -> Result<Done, AskError> {
    let known = args.ask.get::<Known>("/status")?.content;
    let wish = Wish { from: args.from.clone(), allow_primary: args.allow_primary };
    let server = choose(&known, &wish).map_err(|error| match error {
        NoSource::Unknown { .. } | NoSource::Primary { .. } => AskError::Usage(error.to_string()),
        _ => AskError::Failed(error.to_string()),
    })?;
    let target = Target::claim(&args.directory).map_err(failed)?;
    let programs = backup::programs_for(server, args.bin_dir.as_deref(), &target).map_err(failed)?;
    let access = Access {
        user: args.user.clone(),
        passfile: args.passfile.clone(),
        sslmode: args.sslmode.clone(),
        sslrootcert: args.sslrootcert.clone(),
    };
    let mut teller = Teller::new(server, args.ask.json);
    teller.begin()?;
    // One thread: the kernel ends what it has started when the thread ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let made = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let taking = backup::take(server, &access, &programs, target, args.max_rate.as_deref(), |step| {
            teller.tell(step)
        });
        tokio::select! {
            made = taking => made.map_err(failed),
            _ = terminate.recv() => Err(interrupted()),
            _ = interrupt.recv() => Err(interrupted()),
        }
    });
    teller.end(made)
}

fn failed(error: BackupError) -> AskError {
    use BackupError::{Left, MountPoint, NoDirectory, NotEmpty};
    match error {
        NotEmpty(_) | NoDirectory(_) | MountPoint(_) | Left(_) => AskError::Usage(error.to_string()),
        _ => AskError::Failed(error.to_string()),
    }
}

fn interrupted() -> AskError {
    AskError::Failed("interrupted: nothing is left of the backup".to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Bar,
    Lines,
    Json,
}

struct Teller<'a> {
    server: &'a Server,
    manner: Manner,
    begun: Instant,
    told: Option<(Phase, Instant)>,
    /// A bar stands on the line that the cursor is on.
    bar: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Checkpoint,
    Copying,
    Verifying,
}

impl<'a> Teller<'a> {
    fn new(server: &'a Server, json: bool) -> Self {
        let manner = match (json, io::stderr().is_terminal()) {
            (true, _) => Manner::Json,
            (false, true) => Manner::Bar,
            (false, false) => Manner::Lines,
        };
        Teller { server, manner, begun: Instant::now(), told: None, bar: false }
    }

    fn begin(&self) -> io::Result<()> {
        let Server { id, host, port, lag_bytes, .. } = self.server;
        if self.manner == Manner::Json {
            let primary = self.server.is_primary();
            let begun = json!({ "phase": "begun", "server": id, "primary": primary, "lag_bytes": lag_bytes });
            return writeln!(io::stdout(), "{begun}");
        }
        let what = match (self.server.is_primary(), lag_bytes) {
            (true, _) => "the primary".to_owned(),
            (false, Some(lag)) => format!("a standby, {} behind", bytes(*lag)),
            (false, None) => "a standby".to_owned(),
        };
        writeln!(io::stderr(), "copying {id} ({host}:{port}), {what}")
    }

    /// What cannot be printed is not worth a backup.
    fn tell(&mut self, step: Step) {
        let phase = match step {
            Step::Copying(None) => Phase::Checkpoint,
            Step::Copying(Some(_)) => Phase::Copying,
            Step::Verifying => Phase::Verifying,
        };
        let (every, now) = (self.every(), Instant::now());
        if self.told.is_some_and(|(told, at)| told == phase && now.duration_since(at) < every) {
            return;
        }
        self.told = Some((phase, now));
        let text = match (step, self.manner) {
            (step, Manner::Json) => {
                let _ = writeln!(io::stdout(), "{}", in_json(step));
                return;
            }
            (Step::Copying(None), _) => "waiting for the server's checkpoint".to_owned(),
            (Step::Copying(Some(progress)), Manner::Bar) => bar(progress, self.begun.elapsed()),
            (Step::Copying(Some(Progress { bytes_done, bytes_total })), Manner::Lines) => {
                format!("{} of {}", bytes(bytes_done), bytes(bytes_total))
            }
            (Step::Verifying, _) => "verifying".to_owned(),
        };
        let mut out = io::stderr();
        let _ = match self.manner {
            // Over what stood there before, to the end of the line.
            Manner::Bar => write!(out, "\r{text}\x1b[K").and_then(|()| out.flush()),
            _ => writeln!(out, "{text}"),
        };
        self.bar = self.manner == Manner::Bar;
    }

    fn every(&self) -> Duration {
        match self.manner {
            Manner::Bar => BAR_EVERY,
            Manner::Lines => LINE_EVERY,
            Manner::Json => JSON_EVERY,
        }
    }

    fn end(&mut self, made: Result<Made, AskError>) -> Result<Done, AskError> {
        if self.bar {
            let _ = writeln!(io::stderr());
        }
        let Made { directory, bytes: size, start_lsn, timeline } = made?;
        let (id, ms) = (&self.server.id, u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        let mut out = io::stdout();
        match self.manner {
            Manner::Json => {
                let done = json!({
                    "phase": "done", "server": id, "primary": self.server.is_primary(), "directory": directory,
                    "bytes": size, "start_lsn": start_lsn, "timeline": timeline, "ms": ms, "verified": true,
                });
                writeln!(out, "{done}")?;
            }
            _ => writeln!(
                out,
                "{} holds a verified backup of {id}: {} in {}, from {start_lsn} on timeline {timeline}",
                directory.display(),
                bytes(size),
                short_span(ms)
            )?,
        }
        Ok(Done::Fine)
    }
}

fn in_json(step: Step) -> serde_json::Value {
    match step {
        Step::Copying(None) => json!({ "phase": "checkpoint" }),
        Step::Copying(Some(Progress { bytes_done, bytes_total })) => {
            json!({ "phase": "copying", "bytes_done": bytes_done, "bytes_total": bytes_total })
        }
        Step::Verifying => json!({ "phase": "verifying" }),
    }
}

/// `[#########                     ]  30%  3 MiB of 10 MiB  1 MiB/s`
fn bar(progress: Progress, since: Duration) -> String {
    let Progress { bytes_done, bytes_total } = progress;
    // The total is what the server guessed before it began.
    let share = bytes_done.min(bytes_total) as f64 / bytes_total.max(1) as f64;
    let full = (share * BAR_WIDTH as f64) as usize;
    let rate = (bytes_done as f64 / since.as_secs_f64().max(0.001)) as u64;
    format!(
        "[{}{}] {:>3}%  {} of {}  {}/s",
        "#".repeat(full),
        " ".repeat(BAR_WIDTH - full),
        (share * 100.0) as u64,
        bytes(bytes_done),
        bytes(bytes_total),
        bytes(rate)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_and_never_runs_over() {
        let drawn =
            |bytes_done, bytes_total| bar(Progress { bytes_done, bytes_total }, Duration::from_secs(2));
        assert_eq!(
            drawn(30 << 20, 100 << 20),
            format!("[{}{}]  30%  30 MiB of 100 MiB  15 MiB/s", "#".repeat(9), " ".repeat(21))
        );
        assert!(drawn(9, 3).contains(&"#".repeat(BAR_WIDTH)) && drawn(9, 3).contains("100%"));
        assert!(drawn(0, 0).contains("  0%"));
    }
}
