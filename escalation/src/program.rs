//! Runs a program of the operator's: JSON on its standard input, a deadline, bounded output.
//!
//! It is told what happens, never asked. When the deadline passes, it and whatever it started (its process group) are
//! killed. Nothing goes through a shell.

use crate::error::Fault;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// Of each of standard output and standard error; the rest is read and dropped, so that the program does not hang.
pub const OUTPUT_LIMIT_BYTES: usize = 4 * 1024;
/// After the program has ended, so long for output of children it left behind that still hold the pipes.
const AFTER_EXIT_MS: u64 = 100;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramSettings {
    /// The program's path and its arguments.
    pub command: Vec<String>,
    #[serde(default = "default_deadline_ms")]
    pub deadline_ms: u64,
}

/// A program that may take longer would hold up a move for longer than anybody wants to wait.
pub const DEADLINE_MAX_MS: u64 = 60_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramSettingsError {
    #[error("command must be given")]
    NoCommand,
    #[error("deadline_ms must be from 1 to {DEADLINE_MAX_MS}")]
    Deadline,
}

impl ProgramSettings {
    /// What can be judged without looking at the world.
    pub fn check(&self) -> Result<(), ProgramSettingsError> {
        match () {
            () if self.command.first().is_none_or(String::is_empty) => Err(ProgramSettingsError::NoCommand),
            () if !(1..=DEADLINE_MAX_MS).contains(&self.deadline_ms) => Err(ProgramSettingsError::Deadline),
            () => Ok(()),
        }
    }
}

fn default_deadline_ms() -> u64 {
    5_000
}

/// What the program reads around a move, or to make one: one JSON object on one line.
#[derive(Debug, Clone, Serialize)]
pub struct Call<'a> {
    /// `take`, `release`, or `drop` when nobody can say who owns it.
    pub action: &'static str,
    /// Around a move of komainu's own: `before` or `after`. Absent when the program is the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<&'static str>,
    pub endpoint: &'a str,
    pub method: &'a str,
    /// This node's id.
    pub node: &'a str,
    pub epoch: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{program} could not be started: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("{program} ended with {status}{output}")]
    Failed { program: String, status: ExitStatus, output: Output },
    #[error("{program} did not end within {deadline_ms} ms and was killed{output}")]
    TimedOut { program: String, deadline_ms: u64, output: Output },
}

impl ProgramError {
    pub fn fault(&self) -> Fault {
        match self {
            ProgramError::Start { .. } | ProgramError::Failed { .. } => Fault::ProgramFailed,
            ProgramError::TimedOut { .. } => Fault::ProgramTimedOut,
        }
    }
}

/// Runs it to its end or its deadline. If the future is dropped, the program is killed.
/// `input` is written to it as JSON on one line.
pub async fn run(settings: &ProgramSettings, input: &impl Serialize) -> Result<Output, ProgramError> {
    let program = settings.command.first().cloned().unwrap_or_default();
    let start_error = |source| ProgramError::Start { program: program.clone(), source };
    let mut child = Command::new(&program)
        .args(settings.command.iter().skip(1))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(start_error)?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let mut input = serde_json::to_vec(input).map_err(|error| start_error(error.into()))?;
    input.push(b'\n');

    let stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = {
        let pipes = (child.stdout.take(), child.stderr.take());
        let work = conversation(&mut child, stdin, input, pipes, (&mut stdout, &mut stderr));
        tokio::time::timeout(Duration::from_millis(settings.deadline_ms), work).await
    };
    let output = Output { stdout: text(stdout), stderr: text(stderr) };
    match ended {
        Ok(Ok(status)) => {
            group.disarm();
            if status.success() { Ok(output) } else { Err(ProgramError::Failed { program, status, output }) }
        }
        Ok(Err(source)) => Err(ProgramError::Start { program, source }),
        Err(_) => {
            drop(group);
            // Reaps it. Killed as it is, that takes no time worth a deadline.
            let _ = child.wait().await;
            Err(ProgramError::TimedOut { program, deadline_ms: settings.deadline_ms, output })
        }
    }
}

async fn conversation(
    child: &mut Child,
    stdin: Option<impl tokio::io::AsyncWrite + Unpin>,
    input: Vec<u8>,
    (stdout, stderr): (Option<impl AsyncRead + Unpin>, Option<impl AsyncRead + Unpin>),
    (out, err): (&mut Vec<u8>, &mut Vec<u8>),
) -> std::io::Result<ExitStatus> {
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input closes the pipe: its right.
            let _ = stdin.write_all(&input).await;
        }
    };
    let reading = async { tokio::join!(feed, collect(stdout, out), collect(stderr, err)) };
    tokio::pin!(reading);
    let mut all_read = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = &mut reading, if !all_read => all_read = true,
        }
    };
    if !all_read {
        let _ = tokio::time::timeout(Duration::from_millis(AFTER_EXIT_MS), reading).await;
    }
    Ok(status)
}

async fn collect(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = [0; 1024];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        let room = OUTPUT_LIMIT_BYTES - into.len();
        into.extend_from_slice(&chunk[..read.min(room)]);
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                write!(f, "; {name}: {text}")?;
            }
        }
        Ok(())
    }
}

/// Kills the process group when dropped.
struct Group(Option<Pid>);

impl Group {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(script: &str, deadline_ms: u64) -> ProgramSettings {
        ProgramSettings { command: ["/bin/sh", "-c", script].map(String::from).to_vec(), deadline_ms }
    }

    const CALL: Call<'_> =
        Call { action: "take", when: None, endpoint: "app", method: "command", node: "n1", epoch: 7 };

    #[tokio::test]
    async fn it_reads_json_and_its_output_is_kept() {
        let output = run(&settings("cat; echo careful >&2", 10_000), &CALL).await.unwrap();
        assert_eq!(
            output.stdout,
            r#"{"action":"take","endpoint":"app","method":"command","node":"n1","epoch":7}"#
        );
        assert_eq!(output.stderr, "careful");
    }

    #[tokio::test]
    async fn its_failure_tells_the_code_and_what_it_said() {
        let error = run(&settings("echo no >&2; exit 3", 10_000), &CALL).await.unwrap_err();
        assert_eq!(error.fault(), Fault::ProgramFailed);
        assert!(error.to_string().contains("exit status: 3; stderr: no"), "{error}");
        let missing = ProgramSettings { command: vec!["/no/such/program".into()], deadline_ms: 1_000 };
        assert!(run(&missing, &CALL).await.unwrap_err().to_string().contains("could not be started"));
        let nothing = ProgramSettings { command: vec![], deadline_ms: 1_000 };
        assert_eq!(run(&nothing, &CALL).await.unwrap_err().fault(), Fault::ProgramFailed);
    }

    #[tokio::test]
    async fn a_deadline_kills_it_and_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; echo begun; wait", pid_file.display());
        let error = run(&settings(&script, 300), &CALL).await.unwrap_err();
        assert_eq!(error.fault(), Fault::ProgramTimedOut);
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        // An orphan's zombie is reaped by whoever adopted it; it need only not run any more.
        for _ in 0..500 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the child still runs");
    }

    #[tokio::test]
    async fn output_without_end_is_cut_and_does_not_block_it() {
        let output = run(&settings("head -c 300000 /dev/zero | tr '\\0' x", 20_000), &CALL).await.unwrap();
        assert_eq!(output.stdout.len(), OUTPUT_LIMIT_BYTES);
    }

    #[tokio::test]
    async fn a_child_left_behind_does_not_hold_it_up() {
        let output = run(&settings("sleep 3 & echo done", 2_500), &CALL).await.unwrap();
        assert_eq!(output.stdout, "done");
    }
}
