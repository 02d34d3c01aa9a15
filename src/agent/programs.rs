//! PostgreSQL's own programs: where they are, and how they are run.
//!
//! Owns their processes. Never a shell: a program and its arguments. Invariants: a program ends with the agent, and
//! with whoever waits for it; it is in a process group of its own, so that what it has forked ends with whoever waits,
//! and it is marked, so that what it has forked ends at the latest when the next agent starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::error::WorkError;
use crate::postgres::{Installation, InstallationError, process};

const MARK: &str = "KOMAINU_AGENT_STATE";
const DEBIAN_DIRECTORY: &str = "/usr/lib/postgresql";
/// Of what a program prints, the end, for an error.
const TAIL_BYTES: usize = 2048;
/// A program that prints progress and then nothing for so long hangs: its connection does, or the disk.
const SILENCE: Duration = Duration::from_secs(900);

#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
    /// What those that this agent starts have in their environment, and nothing else has.
    mark: String,
}

/// What a program has printed, in the order in which it came on its two streams.
pub struct Printed {
    pub out: String,
    pub errors: String,
}

impl Programs {
    /// Of the data's version if that can be told, else as `PG_BIN` and `PATH` say.
    /// The state directory is the agent's alone, and so tells its programs from another's.
    pub fn find(
        named: Option<&Path>,
        data_directory: &Path,
        state_directory: &Path,
    ) -> Result<Self, InstallationError> {
        let mark = state_directory.canonicalize().unwrap_or_else(|_| state_directory.to_owned());
        let version = fs::read_to_string(data_directory.join("PG_VERSION")).unwrap_or_default();
        Self::of_version(named, version.trim(), &mark)
    }

    /// Of that major version if they are where Debian has them, else as `PG_BIN` and `PATH` say. `mark` is a path that is
    /// the caller's alone.
    pub fn of_version(named: Option<&Path>, version: &str, mark: &Path) -> Result<Self, InstallationError> {
        let mark = mark.display().to_string();
        if let Some(directory) = named {
            return Ok(Programs { directory: directory.to_owned(), mark });
        }
        let of_debian = Path::new(DEBIAN_DIRECTORY).join(version).join("bin");
        if std::env::var_os("PG_BIN").is_none() && of_debian.join("postgres").is_file() {
            return Ok(Programs { directory: of_debian, mark });
        }
        let postgres = Installation::find()?.binary("postgres");
        Ok(Programs { directory: postgres.parent().unwrap_or(Path::new("/")).to_owned(), mark })
    }

    /// Ends what programs of the agent before this one have forked. They themselves end with their agent, and what
    /// `pg_basebackup` forks to receive WAL does not notice: it would be in the way.
    pub fn end_leftovers(&self) {
        let marked = format!("{MARK}={}", self.mark);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.filter(|pid| *pid != std::process::id()) {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == marked.as_bytes()) {
                tracing::warn!(pid, "a program of the agent before this one is still there; it is ended");
                process::signal(pid, Signal::KILL);
            }
        }
    }

    pub fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }

    /// Runs it to its end.
    pub async fn run(
        &self,
        program: &'static str,
        arguments: &[&str],
        within: Duration,
    ) -> Result<Printed, WorkError> {
        let mut running = self.start(program, arguments)?;
        let (out, errors) = running.take_pipes();
        let mut printed = Printed { out: String::new(), errors: String::new() };
        let reading = async {
            let (out, errors) = tokio::join!(all(out), all(errors));
            (printed.out, printed.errors) = (out, errors);
            running.child.wait().await
        };
        let ended = timeout(within, reading).await;
        match ended {
            Ok(status) => {
                let status = status.map_err(WorkError::io("wait for", Path::new(program)))?;
                running.forget_group();
                checked(program, status, &printed.errors).map(|()| printed)
            }
            Err(_) => Err(WorkError::Slow { program, within, output: tail(&printed.errors) }),
        }
    }

    /// Runs it to its end, however long that takes, as long as it says something now and then; `line` hears each line of
    /// both streams, whether it ends with a carriage return or a newline. Returns what it printed last.
    pub async fn follow(
        &self,
        program: &'static str,
        arguments: &[&str],
        mut line: impl FnMut(&str),
    ) -> Result<String, WorkError> {
        let mut running = self.start(program, arguments)?;
        let (mut out, mut errors) = running.take_pipes();
        let mut said = String::new();
        let mut lines = [Lines::default(), Lines::default()];
        let mut heard_at = Instant::now();
        let (mut out_open, mut errors_open) = (true, true);
        while out_open || errors_open {
            let (mut first, mut second) = ([0; 4096], [0; 4096]);
            let (which, read) = tokio::select! {
                read = out.read(&mut first), if out_open => (0, read.map(|n| &first[..n])),
                read = errors.read(&mut second), if errors_open => (1, read.map(|n| &second[..n])),
                () = tokio::time::sleep_until(heard_at + SILENCE) => {
                    return Err(WorkError::Slow { program, within: SILENCE, output: tail(&said) });
                }
            };
            heard_at = Instant::now();
            match read {
                Ok(bytes) if !bytes.is_empty() => lines[which].feed(bytes, |text| {
                    line(text);
                    said = tail(&format!("{said}{text}\n"));
                }),
                _ if which == 0 => out_open = false,
                _ => errors_open = false,
            }
        }
        let status = running.child.wait().await.map_err(WorkError::io("wait for", Path::new(program)))?;
        running.forget_group();
        checked(program, status, &said).map(|()| said)
    }

    fn start(&self, program: &'static str, arguments: &[&str]) -> Result<Running, WorkError> {
        // The kernel ends it with the thread that starts it: an agent has one.
        let mut command = Command::from(process::command(self.path(program), "KILL", None));
        command.args(arguments).current_dir("/").process_group(0);
        clean_environment(command.as_std_mut());
        command.env(MARK, &self.mark);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(WorkError::io("run", &self.path(program)))?;
        Ok(Running { group: group_of(&child), child })
    }
}

/// `PGHOST`, `PGDATA` and their like would change what the programs do; messages are read, so they are not translated.
pub fn clean_environment(command: &mut std::process::Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("PG")) {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
}

/// Killed when dropped, with whatever it has forked.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn take_pipes(&mut self) -> (impl AsyncRead + Unpin + use<>, impl AsyncRead + Unpin + use<>) {
        let out = self.child.stdout.take().expect("it was started with a pipe");
        (out, self.child.stderr.take().expect("it was started with a pipe"))
    }

    /// Its number may be another's by now.
    fn forget_group(&mut self) {
        self.group = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn group_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

async fn all(mut stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is worth more than the error.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

fn checked(program: &'static str, status: ExitStatus, output: &str) -> Result<(), WorkError> {
    match status.success() {
        true => Ok(()),
        false => Err(WorkError::Program { program, status, output: tail(output) }),
    }
}

fn tail(text: &str) -> String {
    let text = text.trim_end();
    let from = (0..=text.len().saturating_sub(TAIL_BYTES)).rev().find(|at| text.is_char_boundary(*at));
    let end = &text[from.unwrap_or(0)..];
    if end.is_empty() { String::new() } else { format!("{end}\n") }
}

/// Bytes as they come, and whole lines of them.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// A line longer than that is none.
    const MAX: usize = 1 << 16;

    fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for byte in bytes {
            if matches!(byte, b'\r' | b'\n') {
                if !self.0.is_empty() {
                    line(&String::from_utf8_lossy(&self.0));
                }
                self.0.clear();
            } else if self.0.len() < Self::MAX {
                self.0.push(*byte);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Shell scripts in place of PostgreSQL's programs.
    pub fn written(directory: &Path, scripts: &[(&str, &str)]) -> Programs {
        for (name, script) in scripts {
            let path = directory.join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        Programs { directory: directory.to_owned(), mark: directory.display().to_string() }
    }

    fn here() -> Programs {
        Programs { directory: PathBuf::from("/bin"), mark: "of a test".to_owned() }
    }

    #[tokio::test]
    async fn a_program_s_lines_are_heard_and_its_failure_is_told_with_them() {
        let mut heard = Vec::new();
        let script = "printf 'a\\rb\\n'; echo c >&2; exit 3";
        let error =
            here().follow("sh", &["-c", script], |line| heard.push(line.to_owned())).await.unwrap_err();
        heard.sort();
        assert_eq!(heard, ["a", "b", "c"]);
        assert!(error.to_string().starts_with("sh failed (exit status: 3)"), "{error}");
        let printed = here().run("echo", &["x y"], Duration::from_secs(20)).await.unwrap();
        assert_eq!(printed.out, "x y\n");
    }

    #[tokio::test]
    async fn whoever_stops_waiting_ends_the_program_and_what_it_forked() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 100 & echo $! > {}; wait", file.display());
        let short = Duration::from_millis(500);
        let slow = here().run("sh", &["-c", &script], short).await;
        assert!(matches!(slow, Err(WorkError::Slow { .. })));
        let forked: u32 = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while process::is_alive(forked) {
            assert!(Instant::now() < deadline, "{forked} still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn only_the_end_of_much_is_kept() {
        assert_eq!(tail(&"é".repeat(3000)).len(), TAIL_BYTES + 1);
        assert_eq!(tail("x\n"), "x\n");
        assert_eq!(tail(""), "");
    }
}
