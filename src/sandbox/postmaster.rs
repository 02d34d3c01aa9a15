//! The process of one PostgreSQL server, whoever started it.
//!
//! Owns how a postmaster and its children are found, signalled and ended. Never starts one. Invariant: a
//! process is taken for the server's only if it is our child, or `postmaster.pid` names it and it works in
//! the data directory: the file may be stale, and the number another's by now.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::postgres::process;

/// For the children of one that was killed.
const CHILDREN_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// Of `postmaster.pid`, which says whether the server takes connections, sooner and cheaper than one would.
const STATUS_LINE: usize = 7;

#[derive(Debug)]
pub struct Postmaster {
    data_directory: PathBuf,
    /// The one we started. An agent's, or one started by hand, is none of ours.
    child: Mutex<Option<Child>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    Starting,
    /// It takes connections, as a primary or as a hot standby.
    Ready,
    /// With our child's status, if it was ours.
    Not(Option<ExitStatus>),
}

impl Postmaster {
    pub fn of(data_directory: PathBuf) -> Self {
        Self { data_directory, child: Mutex::new(None) }
    }

    /// Its process id, while it runs; it may be frozen.
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child();
        ours(&mut child).or_else(|| self.started_by_others())
    }

    pub fn state(&self) -> Running {
        let mut child = self.child();
        let ended = child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        match ours(&mut child).or_else(|| self.started_by_others()) {
            Some(pid) if self.says_ready(pid) => Running::Ready,
            Some(_) => Running::Starting,
            None => Running::Not(ended),
        }
    }

    /// The child we started just now.
    pub fn started(&self, child: Child) {
        *self.child() = Some(child);
    }

    /// Signals it and waits for its end; false if it still runs after `timeout`.
    pub fn end(&self, signal: Signal, timeout: Duration) -> bool {
        let Some(pid) = self.pid() else { return true };
        process::signal(pid, signal);
        // A frozen one would not hear the signal.
        process::signal(pid, Signal::CONT);
        let deadline = Instant::now() + timeout;
        while self.pid() == Some(pid) {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        self.wait_until_forgotten(pid);
        true
    }

    /// Kills every process of the server at once, as a machine that loses power would.
    pub fn kill(&self) {
        let postmaster = self.pid();
        let killed = self.signal_all(Signal::KILL);
        if let Some(pid) = postmaster {
            self.wait_until_forgotten(pid);
        }
        // A start would be refused while one of them holds the old shared memory, also one that was started too late to be
        // killed, or whose postmaster somebody else has killed: such a one ends by itself.
        let (deadline, directory) = (Instant::now() + CHILDREN_TIMEOUT, canonical(&self.data_directory));
        // While it ends, a process has no directory any more.
        let is_left = || killed.iter().any(|pid| process::is_alive(*pid)) || process::works_in(&directory);
        while is_left() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }

    /// Which processes besides the postmaster it was sent to.
    pub fn signal_all(&self, signal: Signal) -> Vec<u32> {
        let Some(postmaster) = self.pid() else { return Vec::new() };
        // A killed parent has no children any more, and frozen ones do not notice that it is gone.
        let mut children = process::children_of(postmaster);
        // Stop or kill the parent first, or it would start others meanwhile; wake it last, so that
        // it does not take its frozen children for dead.
        if signal != Signal::CONT {
            process::signal(postmaster, signal);
        }
        children.extend(process::children_of(postmaster));
        for child in &children {
            process::signal(*child, signal);
        }
        if signal == Signal::CONT {
            process::signal(postmaster, signal);
        }
        children
    }

    /// Another's child is a zombie until it is waited for, and as such keeps a new one from starting.
    fn wait_until_forgotten(&self, pid: u32) {
        let deadline = Instant::now() + CHILDREN_TIMEOUT;
        // Asking for it waits for our own.
        while (self.pid() == Some(pid) || process::exists(pid)) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }

    fn started_by_others(&self) -> Option<u32> {
        let pid = self.noted()?.lines().next()?.trim().parse().ok()?;
        let works_in = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let is_its = works_in == canonical(&self.data_directory) && process::is_alive(pid);
        is_its.then_some(pid)
    }

    fn says_ready(&self, pid: u32) -> bool {
        let text = self.noted().unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && lines.get(STATUS_LINE) == Some(&"ready")
    }

    fn noted(&self) -> Option<String> {
        fs::read_to_string(self.data_directory.join("postmaster.pid")).ok()
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our child's, while it runs.
fn ours(child: &mut Option<Child>) -> Option<u32> {
    if child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
        *child = None;
    }
    child.as_ref().map(Child::id)
}

fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{Installation, Postgres, PostgresOptions, Scratch, StopMode};
    use super::*;

    /// As an agent does it, or somebody by hand.
    fn restart(server: &Postgres, installation: &Installation) {
        let mut pg_ctl = installation.server_command("pg_ctl", "KILL");
        pg_ctl.args(["restart", "--silent", "--mode=fast", "--log"]).arg(server.log_file());
        let status = pg_ctl.arg("--pgdata").arg(server.data_directory()).status().unwrap();
        assert!(status.success(), "{}", server.log_tail());
    }

    #[test]
    fn a_postmaster_that_others_started_is_the_server_s_too() {
        let scratch = Scratch::create("komainu-postmaster-").unwrap();
        let options = PostgresOptions {
            max_connections: 20,
            fsync: false,
            settings: Vec::new(),
            hba: Vec::new(),
            password: "secret".into(),
            hosts: Default::default(),
            port: None,
            slots: true,
        };
        let installation = Installation::find().unwrap();
        let server = Postgres::init(&installation, scratch.path(), "pg1", options).unwrap();
        assert_eq!(server.pid(), None);
        server.start().unwrap();
        let ours = server.pid().unwrap();
        restart(&server, &installation);
        let theirs = server.pid().unwrap();
        assert!(ours != theirs && server.is_running());
        server.start().unwrap();
        assert_eq!(server.pid(), Some(theirs), "it runs already");

        let children = process::children_of(theirs);
        server.kill();
        assert!(!server.is_running(), "its file is still there, and names nobody");
        assert!(!children.iter().any(|child| process::is_alive(*child)));
        server.start().unwrap();
        restart(&server, &installation);
        server.freeze();
        server.thaw();
        server.stop(StopMode::Fast).unwrap();
        assert_eq!(server.pid(), None);
        server.start().unwrap();
        restart(&server, &installation);
        let theirs = server.pid().unwrap();
        drop(server);
        assert!(!process::is_alive(theirs));
    }
}
