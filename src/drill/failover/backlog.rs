//! Standbys that have received much and replayed little of it, as those have that replay more slowly than the primary
//! writes.
//!
//! Replay is stopped on every standby while the load goes on, and goes on at the break: from then on they are what
//! standbys are that have so much before them. Owns that stop. Invariant: whatever is stopped is let go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use crate::drill::clock::Clock;
use crate::drill::error::DrillError;
use crate::sandbox::{AskError, Request, ask};

/// The beginning of a record of which the rest never came is not replayed.
const NOTHING_LEFT: u64 = 8192;
const LOOK: Duration = Duration::from_millis(25);

/// Of these standbys.
#[derive(Debug, Clone)]
pub struct Backlog {
    control: PathBuf,
    standbys: Vec<String>,
}

/// When each standby had replayed all that it had received, as far as that was seen.
pub type Replayed = BTreeMap<String, Duration>;

impl Backlog {
    pub fn of(control: PathBuf, standbys: &[String]) -> Self {
        Self { control, standbys: standbys.to_vec() }
    }

    /// From now on they only receive.
    pub async fn hold(&self) -> Result<(), DrillError> {
        self.each(|id| Request::HoldReplay { id }).await.map(drop)
    }

    /// They replay again.
    pub async fn release(&self) -> Result<(), DrillError> {
        self.each(|id| Request::ReleaseReplay { id }).await.map(drop)
    }

    /// Of the one that has most before it.
    pub async fn bytes(&self) -> Result<u64, DrillError> {
        let answers = self.each(|id| Request::Backlog { id }).await?;
        Ok(answers.iter().filter_map(|bytes| bytes.parse().ok()).max().unwrap_or(0))
    }

    /// All are asked, also when one does not answer: the others must not stay stopped for that.
    async fn each(&self, request: fn(String) -> Request) -> Result<Vec<String>, DrillError> {
        let backlog = self.clone();
        let asking = spawn_blocking(move || {
            let answer = |id: &String| ask(&backlog.control, &request(id.clone()));
            backlog.standbys.iter().map(answer).collect::<Vec<Result<String, AskError>>>()
        });
        let answers = asking.await.map_err(|_| DrillError::Panicked)?;
        Ok(answers.into_iter().collect::<Result<_, AskError>>()?)
    }

    /// Watches until all have replayed everything, or nobody wants to know any more.
    pub fn watch(&self, clock: Clock) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let task = {
            let (Backlog { control, standbys }, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                let mut replayed = Replayed::new();
                while replayed.len() < standbys.len() && !stop.load(Ordering::Relaxed) {
                    for id in &standbys {
                        if !replayed.contains_key(id) && has_replayed(&control, id).await {
                            replayed.insert(id.clone(), clock.now());
                        }
                    }
                    sleep(LOOK).await;
                }
                replayed
            })
        };
        Watch { stop, task }
    }
}

/// Ends when it is asked for what was seen, or dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Replayed>,
}

impl Watch {
    pub async fn seen(mut self) -> Replayed {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.task).await.unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One that does not answer has not, for all that is known.
async fn has_replayed(control: &Path, id: &str) -> bool {
    let (control, request) = (control.to_owned(), Request::Backlog { id: id.to_owned() });
    let asking = spawn_blocking(move || ask(&control, &request).ok()?.parse::<u64>().ok());
    asking.await.ok().flatten().is_some_and(|bytes| bytes < NOTHING_LEFT)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn one_that_cannot_be_released_keeps_no_other_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("s");
        let listener = UnixListener::bind(&control).unwrap();
        let sandbox = thread::spawn(move || {
            [r#"{"refused":"pg2 does not run"}"#, r#"{"done":"it replays"}"#].map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut asked).unwrap();
                // Who does not wait for it has left.
                let _ = writeln!(stream, "{answer}");
                asked
            })
        });
        let backlog = Backlog::of(control.clone(), &["pg2", "pg3"].map(str::to_owned));
        let error = backlog.release().await.unwrap_err();
        assert!(error.to_string().contains("pg2 does not run"), "{error}");
        // So that the sandbox ends if nobody asks it any more.
        let _ = UnixStream::connect(&control);
        let [first, second] = sandbox.join().unwrap();
        assert!(first.contains("pg2") && second.contains("pg3"), "{first}{second}");
    }
}
