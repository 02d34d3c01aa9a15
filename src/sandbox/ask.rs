//! Tells a running sandbox something, and finds one.
//!
//! Blocks, and starts no runtime: a node's program waits for it while the endpoint is away. Invariant: no
//! wait is without an end.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::control::{Answer, Request, sockets};
use super::endpoint::Call;
use super::managed::{FailoverOrder, FailoverTold};
use super::ready::Ready;

/// Longer than a node or server takes to start.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// Below what komainu gives the program.
const TELL_TIMEOUT: Duration = Duration::from_millis(1_500);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Beyond what the service is said to take.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("cannot reach the sandbox at {}: {source}", path.display())]
    Reach { path: PathBuf, source: io::Error },
    #[error("no sandbox of this user is running (looked in {})", directory.display())]
    NoneRuns { directory: PathBuf },
    #[error("{} is the admin socket of no sandbox of this user that runs", .0.display())]
    NotOfASandbox(PathBuf),
    #[error("cannot look for running sandboxes: {0}")]
    Look(#[source] io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("cannot read standard input: {0}")]
    Input(#[source] io::Error),
    #[error("standard input must be one line of JSON, as komainu tells a program: {0}")]
    NotACall(#[source] serde_json::Error),
    #[error("the sandbox gave another answer than was asked for")]
    OtherAnswer,
}

/// What was done, in words.
pub fn ask(socket: &Path, request: &Request) -> Result<String, AskError> {
    match answer(socket, request)? {
        Answer::Done(text) => Ok(text),
        Answer::Refused(why) => Err(AskError::Refused(why)),
        Answer::Description(_) | Answer::FailedOver(_) => Err(AskError::OtherAnswer),
    }
}

pub fn describe(socket: &Path) -> Result<Ready, AskError> {
    match answer(socket, &Request::Describe)? {
        Answer::Description(ready) => Ok(*ready),
        Answer::Refused(why) => Err(AskError::Refused(why)),
        Answer::Done(_) | Answer::FailedOver(_) => Err(AskError::OtherAnswer),
    }
}

/// Returns when the instances are as they are to be.
pub fn fail_over(socket: &Path, order: &FailoverOrder) -> Result<FailoverTold, AskError> {
    match answer(socket, &Request::Failover(order.clone()))? {
        Answer::FailedOver(told) => Ok(*told),
        Answer::Refused(why) => Err(AskError::Refused(why)),
        Answer::Done(_) | Answer::Description(_) => Err(AskError::OtherAnswer),
    }
}

/// Passes on what komainu tells a node's program.
pub fn tell(socket: &Path, line: &str) -> Result<(), AskError> {
    let call: Call = serde_json::from_str(line).map_err(AskError::NotACall)?;
    ask(socket, &Request::Tell(call)).map(drop)
}

/// The control sockets of this user's running sandboxes, the one that was started last first.
pub fn running() -> Result<Vec<PathBuf>, AskError> {
    let directory = sockets().map_err(AskError::Look)?;
    let mut found: Vec<(SystemTime, PathBuf)> = fs::read_dir(&directory)
        .map_err(AskError::Look)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .filter(|(_, path)| is_alive(path))
        .collect();
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

/// The running sandbox of this user that one of these admin sockets belongs to.
pub fn of_nodes(admin: &[PathBuf]) -> Result<Option<Ready>, AskError> {
    let admin: Vec<PathBuf> = admin.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    let is_asked = |node: &str| fs::canonicalize(node).is_ok_and(|node| admin.contains(&node));
    let is_of = |ready: &Ready| ready.nodes.iter().any(|node| is_asked(&node.admin));
    // One that ends just now is not the one that is meant.
    Ok(running()?.iter().filter_map(|control| describe(control).ok()).find(is_of))
}

/// The sandbox of this user that was started last.
pub fn newest() -> Result<PathBuf, AskError> {
    let newest = running()?.into_iter().next();
    newest.ok_or_else(|| AskError::NoneRuns { directory: sockets().unwrap_or_default() })
}

/// One that was killed leaves its socket behind; it is cleared away here.
fn is_alive(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let _ = fs::remove_file(path);
            false
        }
        connected => connected.is_ok(),
    }
}

fn answer(socket: &Path, request: &Request) -> Result<Answer, AskError> {
    let within = match request {
        Request::Tell(_) => TELL_TIMEOUT,
        Request::Start { .. } => START_TIMEOUT,
        Request::Failover(order) => FAILOVER_TIMEOUT + Duration::from_millis(order.server_ms),
        _ => TIMEOUT,
    };
    exchange(socket, request, within).map_err(|source| AskError::Reach { path: socket.to_owned(), source })
}

fn exchange(socket: &Path, request: &Request, within: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A sandbox that gives one answer, and returns what it was asked.
    fn sandbox(path: &Path, answer: &Answer) -> thread::JoinHandle<String> {
        let listener = UnixListener::bind(path).unwrap();
        let answer = serde_json::to_string(answer).unwrap() + "\n";
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            line
        })
    }

    const CALL: &str = r#"{"action":"take","endpoint":"app","method":"command","node":"a","epoch":7}"#;

    #[test]
    fn what_a_program_is_told_arrives_and_a_refusal_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let asked = sandbox(&path, &Answer::Done("noted".into()));
        tell(&path, CALL).unwrap();
        let expected = r#"{"tell":{"action":"take","endpoint":"app","node":"a","epoch":7}}"#;
        assert_eq!(asked.join().unwrap().trim_end(), expected);

        let path = directory.path().join("t");
        let asked = sandbox(&path, &Answer::Refused("epoch 7 is over".into()));
        assert_eq!(tell(&path, CALL).unwrap_err().to_string(), "epoch 7 is over");
        asked.join().unwrap();

        assert!(matches!(tell(&path, "take it"), Err(AskError::NotACall(_))));
        assert!(matches!(tell(&directory.path().join("u"), CALL), Err(AskError::Reach { .. })));
    }

    #[test]
    fn a_socket_nobody_listens_on_is_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(!is_alive(&path) && !path.exists());
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(is_alive(&path) && path.exists());
    }
}
