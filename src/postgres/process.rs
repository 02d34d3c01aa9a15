//! Child processes that do not outlive us, even when we are killed with SIGKILL.
//!
//! Owns how a child is started, signalled and waited for. Never knows what it runs.
//! Invariant: every child is spawned on one thread that lives as long as the process. The kernel's
//! parent-death signal fires when the *thread* that forked ends, and test and blocking-pool threads do.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const POLL: Duration = Duration::from_millis(5);

type SpawnRequest = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The identity a program runs under when we are root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// A command that receives `death_signal` when this process ends, run as `run_as` if given.
///
/// `setpriv` (util-linux) becomes the program, so the child's process id is the program's own.
pub fn command(program: impl AsRef<std::ffi::OsStr>, death_signal: &str, run_as: Option<&RunAs>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = run_as {
        command.arg(format!("--reuid={}", user.uid));
        command.arg(format!("--regid={}", user.gid));
        command.arg("--init-groups");
        command.env("HOME", "/").env("USER", &user.name).env("LOGNAME", &user.name);
    }
    command.arg("--pdeathsig").arg(death_signal).arg("--").arg(program.as_ref());
    command
}

/// The same command in the network that this process lives in, if any. What it does with its input and
/// output must be said of the returned one.
pub fn in_network(holder: Option<u32>, command: Command) -> Command {
    let Some(holder) = holder else { return command };
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--net", "--target", &holder.to_string(), "--"]).arg(command.get_program());
    nsenter.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nsenter.env(name, value),
            None => nsenter.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        nsenter.current_dir(directory);
    }
    nsenter
}

/// Starts a long-lived child from the thread that outlives all others.
pub fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (requests, queue) = mpsc::channel::<SpawnRequest>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in queue {
                    // The asker waits for the reply; if it is gone, its child has no owner.
                    if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
            })
            .expect("a process that cannot start one thread cannot start servers either");
        requests
    });
    let (reply, answer) = mpsc::sync_channel(1);
    spawner.send((command, reply)).map_err(|_| io::Error::other("the spawning thread is gone"))?;
    answer.recv().map_err(|_| io::Error::other("the spawning thread is gone"))?
}

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Waits for the child's end until the deadline; `None` if it still runs then.
pub fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Process ids of the direct children of `parent`.
///
/// From `/proc/*/stat`, because `/proc/<pid>/task/<pid>/children` is a kernel option. PostgreSQL's
/// children are in sessions of their own, so signalling the process group would miss them.
pub fn children_of(parent: u32) -> Vec<u32> {
    all().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Whether a process that runs has this working directory.
pub fn works_in(directory: &Path) -> bool {
    all().any(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory))
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Whether a process with this id exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    stat_fields(pid).is_some_and(|fields| fields.0 != 'Z')
}

/// Whether there is a process with this id, be it a zombie.
pub fn exists(pid: u32) -> bool {
    stat_fields(pid).is_some()
}

fn parent_of(pid: u32) -> Option<u32> {
    stat_fields(pid).map(|fields| fields.1)
}

/// State and parent of a process. The name before them may hold spaces and brackets, so they are
/// counted from the last bracket.
fn stat_fields(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut child = thread::spawn(|| {
            let mut sleep = command("sleep", "KILL", None);
            sleep.arg("60");
            spawn(sleep).unwrap()
        })
        .join()
        .unwrap();
        assert!(wait_until(&mut child, Instant::now() + Duration::from_millis(100)).unwrap().is_none());
        assert!(children_of(std::process::id()).contains(&child.id()));
        signal(child.id(), Signal::KILL);
        assert!(wait_until(&mut child, Instant::now() + Duration::from_secs(5)).unwrap().is_some());
        assert!(!is_alive(child.id()));
    }
}
