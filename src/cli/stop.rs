//! `komainu stop`: what the signals do, with an answer, and when it has ended.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::ask::{Ask, AskError, Done};
use crate::admin::client::Node;
use crate::admin::control::StopMode;

const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A node that stops answers to its end.
const SILENT_FOR: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub struct StopArgs {
    /// How much patience there is with clients
    #[arg(long, value_enum, default_value_t = StopMode::Fast)]
    mode: StopMode,
    /// Do not wait until it has ended
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    ask: Ask,
}

pub fn run(args: &StopArgs) -> Result<Done, AskError> {
    let StopArgs { mode, no_wait, ask } = args;
    let answer = ask.post::<Value>("/stop", &json!({ "mode": mode }))?;
    if !no_wait && !wait_until_ended(&ask.node()?, SILENT_FOR) {
        let said = format!(
            "the node is told to stop, but has not answered for {} seconds: whether it has is not known",
            SILENT_FOR.as_secs()
        );
        return Err(AskError::Failed(said));
    }
    let said = if *no_wait { "it is stopping\n" } else { "it has stopped\n" };
    ask.print(&answer, |_| said.to_owned())?;
    Ok(Done::Fine)
}

/// As long as its clients may take, which is what was asked for, and as it answers meanwhile. False: it does not for so
/// long.
fn wait_until_ended(node: &Node, silent_for: Duration) -> bool {
    let (mut up_for_ms, mut answered_at) = (0, Instant::now());
    while !node.is_gone() {
        match uptime_ms(node) {
            // Somebody has started it again.
            Some(now) if now < up_for_ms => return true,
            Some(now) => (up_for_ms, answered_at) = (now, Instant::now()),
            None if answered_at.elapsed() >= silent_for => return false,
            None => {}
        }
        thread::sleep(LOOK_EVERY);
    }
    true
}

fn uptime_ms(node: &Node) -> Option<u64> {
    let answer = node.get("/status").ok()?;
    serde_json::from_str::<Value>(&answer.body).ok()?.get("uptime_ms")?.as_u64()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_on_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let node = Node::Unix(path.clone());
        assert!(wait_until_ended(&node, Duration::MAX));
        drop(UnixListener::bind(&path).unwrap());
        assert!(wait_until_ended(&node, Duration::MAX));
    }

    /// Answers one question after the other with these bodies; a connection without a question is passed over.
    fn answering(listener: UnixListener, bodies: &'static [&'static str]) {
        thread::spawn(move || {
            for body in bodies {
                loop {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut asked = [0; 1024];
                    if stream.read(&mut asked).unwrap_or(0) > 0 {
                        let answer =
                            format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        stream.write_all(answer.as_bytes()).unwrap();
                        break;
                    }
                }
            }
            // It goes on listening.
            std::mem::forget(listener);
        });
    }

    #[test]
    fn a_node_that_was_started_again_has_ended_and_of_one_that_is_silent_nobody_knows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        answering(
            UnixListener::bind(&path).unwrap(),
            &["{\"uptime_ms\": 9000}", "{\"uptime_ms\": 9001}", "{\"uptime_ms\": 3}"],
        );
        let node = Node::Unix(path.clone());
        assert!(wait_until_ended(&node, Duration::MAX));
        let silent = directory.path().join("silent");
        answering(
            UnixListener::bind(&silent).unwrap(),
            &["{\"uptime_ms\": 9000}", "", "", "", "", "", "", "", ""],
        );
        assert!(!wait_until_ended(&Node::Unix(silent), Duration::ZERO));
    }
}
