//! The server's process: started, found, stopped.
//!
//! A server that somebody else has started is the same to it: what counts is the postmaster that works in the data
//! directory. Invariants: a server that the agent starts outlives the agent; none is started that would work in another
//! directory than the agent's own.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::argument;
use super::control::Control;
use super::directory::{DataDirectory, Postmaster};
use super::error::WorkError;
use super::programs::{Programs, clean_environment};
use super::wire::StopMode;
use crate::postgres::process;

/// A planned switchover waits for this.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For a program that only reads some files.
const QUICK: Duration = Duration::from_secs(20);
/// The postmaster kills its children five seconds after it was told to stop at once.
const IMMEDIATE_WITHIN: Duration = Duration::from_secs(10);
/// The kernel takes that long at most to end processes, unless they hang in the disk.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// Recovery after a crash replays what was written since the last checkpoint, which `max_wal_size` bounds by default.
const RECOVERY_WITHIN: Duration = Duration::from_secs(3600);
/// One that cannot connect ends at once: it streams if it lives that long.
const RECEIVER_LIVES: Duration = Duration::from_secs(3);
const LOG_TAIL_BYTES: usize = 1500;

#[derive(Debug, Clone)]
pub struct Server {
    pub data: DataDirectory,
    pub programs: Programs,
    pub log_file: PathBuf,
}

impl Server {
    pub async fn control(&self) -> Result<Control, WorkError> {
        let data = self.data.path().display().to_string();
        let printed = self.programs.run("pg_controldata", &["-D", &data], QUICK).await?;
        Ok(Control::parse(&printed.out)?)
    }

    /// Until it is gone, or not within that time.
    pub async fn stop(&self, mode: StopMode, within: Duration) -> Result<(), WorkError> {
        let Some(Postmaster { pid, .. }) = self.data.postmaster() else { return Ok(()) };
        match mode {
            StopMode::Fast => {
                process::signal(pid, Signal::INT);
                match self.gone(&[pid], within).await {
                    true => Ok(()),
                    false => Err(WorkError::Not(format!(
                        "the server (pid {pid}) has not stopped within {within:?}"
                    ))),
                }
            }
            StopMode::Immediate => {
                process::signal(pid, Signal::QUIT);
                if self.gone(&[pid], within.min(IMMEDIATE_WITHIN)).await {
                    Ok(())
                } else {
                    self.kill(pid).await
                }
            }
        }
    }

    /// Cleanly if that can be had, and else by any means: what was a primary must not run on.
    pub async fn end(&self, within: Duration) -> Result<(), WorkError> {
        let Some(Postmaster { pid, .. }) = self.data.postmaster() else { return Ok(()) };
        if is_frozen(pid) {
            return self.kill(pid).await;
        }
        if self.stop(StopMode::Fast, within).await.is_ok() {
            return Ok(());
        }
        tracing::warn!(pid, "the server does not stop; it is stopped at once");
        self.stop(StopMode::Immediate, IMMEDIATE_WITHIN).await
    }

    async fn kill(&self, pid: u32) -> Result<(), WorkError> {
        // The parent first, or it would start others meanwhile.
        let mut all = process::children_of(pid);
        process::signal(pid, Signal::KILL);
        all.extend(process::children_of(pid));
        for child in &all {
            process::signal(*child, Signal::KILL);
        }
        all.push(pid);
        match self.gone(&all, KILLED_WITHIN).await {
            true => Ok(()),
            false => {
                Err(WorkError::Not(format!("the server (pid {pid}) does not end even when it is killed")))
            }
        }
    }

    async fn gone(&self, pids: &[u32], within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while pids.iter().any(|pid| process::is_alive(*pid)) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }

    /// Starts it as it was started last, unless it runs, and waits until it takes connections or the time is up.
    pub async fn start(&self, within: Duration) -> Result<Postmaster, WorkError> {
        let deadline = Instant::now() + within;
        let mut launched = None;
        if self.data.postmaster().is_none() {
            self.check_configuration().await?;
            let arguments = self.arguments();
            self.data.must_not_run()?;
            launched = Some(Launched { child: self.launch(&arguments)?, is_seen: false });
        }
        loop {
            if let Some(launched) = &mut launched
                && let Ok(Some(status)) = launched.child.try_wait()
            {
                return Err(WorkError::Not(format!("the server has ended ({status}): {}", self.log_tail())));
            }
            let found = self.data.postmaster();
            let started = match (&mut launched, found) {
                (Some(launched), Some(found)) => launched.note_seen(found),
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (None, None) => {
                    return Err(WorkError::Not(format!("the server has ended: {}", self.log_tail())));
                }
            };
            match found.filter(|found| started && (found.ready || Instant::now() >= deadline)) {
                Some(found) => return Ok(found),
                None if Instant::now() >= deadline => {
                    return Err(WorkError::Not(format!("the server does not start: {}", self.log_tail())));
                }
                None => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Replays what a crash has left, without taking connections, and shuts down.
    pub async fn recover(&self) -> Result<(), WorkError> {
        let data = self.data.path().display().to_string();
        let arguments = self.arguments();
        let mut all = vec!["--single", "-F", "-D", &data];
        all.extend(arguments.iter().map(String::as_str));
        all.push("template1");
        self.programs.run("postgres", &all, RECOVERY_WITHIN).await.map(drop)
    }

    /// Whether its WAL receiver has a connection that lasts. `since` is where one is noted that has only begun.
    pub fn streams(&self, since: &mut Option<(u32, Instant)>) -> bool {
        let Some(Postmaster { pid, .. }) = self.data.postmaster() else { return false };
        let title = |child: &u32| fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        let children = process::children_of(pid);
        let Some(receiver) = children.into_iter().find(|child| title(child).contains("walreceiver")) else {
            *since = None;
            return false;
        };
        let now = Instant::now();
        let begun = match *since {
            Some((known, begun)) if known == receiver => begun,
            _ => now,
        };
        *since = Some((receiver, begun));
        title(&receiver).contains("streaming") || now >= begun + RECEIVER_LIVES
    }

    pub fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log_file).unwrap_or_default();
        let end = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..];
        format!("{} ends with: {}", self.log_file.display(), String::from_utf8_lossy(end).trim())
    }

    fn arguments(&self) -> Vec<String> {
        argument::arguments(&fs::read_to_string(self.data.join("postmaster.opts")).unwrap_or_default())
    }

    /// That it can be read, and names this data directory: one that lies elsewhere may name another.
    pub async fn check_configuration(&self) -> Result<(), WorkError> {
        let data = self.data.path().display().to_string();
        let would = PathBuf::from(self.setting("data_directory").await?);
        match would.canonicalize().is_ok_and(|would| would == self.data.path()) {
            true => Ok(()),
            false => Err(WorkError::Not(format!(
                "the server's configuration says data_directory = '{}', and this agent's is {data}",
                would.display()
            ))),
        }
    }

    /// As its configuration has it now.
    pub async fn setting(&self, name: &str) -> Result<String, WorkError> {
        let arguments = self.arguments();
        let data = self.data.path().display().to_string();
        let mut all = vec!["-C", name, "-D", &data];
        all.extend(arguments.iter().map(String::as_str));
        let printed = self.programs.run("postgres", &all, QUICK).await?;
        Ok(printed.out.trim().to_owned())
    }

    fn launch(&self, arguments: &[String]) -> Result<tokio::process::Child, WorkError> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log_file);
        let log = log.map_err(WorkError::io("open", &self.log_file))?;
        let errors = log.try_clone().map_err(WorkError::io("open", &self.log_file))?;
        // A session of its own, so that no signal to the agent's reaches it.
        let mut command = Command::new("setsid");
        command.arg(self.programs.path("postgres")).arg("-D").arg(self.data.path()).args(arguments);
        clean_environment(command.as_std_mut());
        command.current_dir("/").stdin(Stdio::null()).stdout(log).stderr(errors);
        command.spawn().map_err(WorkError::io("run", &self.programs.path("postgres")))
    }
}

/// A server on its way that nobody else can find yet: killed if nobody waits for it any more.
struct Launched {
    child: tokio::process::Child,
    is_seen: bool,
}

impl Launched {
    fn note_seen(&mut self, found: Postmaster) -> bool {
        self.is_seen |= self.child.id() == Some(found.pid);
        self.is_seen
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if !self.is_seen {
            // It may have ended by itself.
            let _ = self.child.start_kill();
        }
    }
}

/// Stopped by a signal, as a debugger or an operator does.
fn is_frozen(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
}
