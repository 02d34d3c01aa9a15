//! One long-running komainu process of the sandbox, node or agent, and what became of it.
//!
//! Never knows what it runs. Invariants: there is at most one process at a time, and it ends with us.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Signal;

use crate::postgres::process;

#[derive(Debug, Default)]
pub struct Daemon {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Child>,
    /// Of the last one.
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts it where it is not running, writing on in its log.
    pub fn start(&self, log: &Path, command: impl FnOnce() -> io::Result<Command>) -> io::Result<()> {
        let mut state = self.state();
        if state.is_running() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
        let mut command = command()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // As the servers: Ctrl-C on the terminal is the sandbox's to act on, in its order.
        command.process_group(0);
        *state = State { process: Some(process::spawn(command)?), ended: None };
        Ok(())
    }

    /// While it runs; it may be frozen.
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.state();
        if state.is_running() { state.process.as_ref().map(Child::id) } else { None }
    }

    /// How it ended, if it is not running.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut state = self.state();
        if state.is_running() { None } else { state.ended }
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            process::signal(pid, signal);
        }
    }

    /// As a machine that loses power.
    pub fn kill(&self) {
        let mut state = self.state();
        if let Some(process) = &mut state.process {
            let _ = process.kill();
            state.ended = process.wait().ok();
            state.process = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_running(&mut self) -> bool {
        if let Some(process) = &mut self.process
            && let Ok(Some(status)) = process.try_wait()
        {
            self.ended = Some(status);
            self.process = None;
        }
        self.process.is_some()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
