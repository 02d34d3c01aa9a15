//! What every command that asks a node has in common: how it reaches it, and how it ends.
//!
//! Invariant: the exit code is 0 if all is fine, 2 if the answer is that something is wrong with the cluster or that an
//! order is not complete yet, 64 if the command or what it was given is wrong, else 1.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::EXIT_USAGE;
use crate::admin::client::{Node, NodeError, Response};

/// The command worked, and what it found needs somebody, or more time.
pub const EXIT_ALARM: u8 = 2;
/// The log takes no longer ones.
const MAX_CAUSE: usize = 63;

#[derive(Debug, Args)]
pub struct Ask {
    /// The node: its Unix socket (`admin.socket` of its configuration), or https://HOST:PORT (`admin.tls_address`)
    #[arg(long, value_name = "PATH|URL", env = "KOMAINU_ADMIN", default_value = "/run/komainu/admin.sock")]
    pub admin: String,
    /// The file with the token that https takes
    #[arg(long, value_name = "FILE", env = "KOMAINU_ADMIN_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// CA certificates to verify the node's certificate with; default: the system's
    #[arg(long, value_name = "FILE", env = "KOMAINU_ADMIN_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// The answer as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no node answers on {node}: {source}{}", hint(source))]
    Reach { node: String, source: io::Error },
    #[error(transparent)]
    Node(#[from] NodeError),
    /// In the node's own words.
    #[error("{error}")]
    Refused { status: u16, error: String, body: Value },
    #[error("the node's answer is not understood, it may be of another version: {0}")]
    NotUnderstood(serde_json::Error),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("nothing can be printed: {0}")]
    Print(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; is it running, and is that the admin.socket or admin.tls_address of its configuration? (--admin or \
             KOMAINU_ADMIN says which)"
        }
        io::ErrorKind::InvalidData => {
            "; is that its admin.tls_address, and --ca-file the authority of its certificate?"
        }
        io::ErrorKind::PermissionDenied => "; run this as the user that komainu runs as",
        _ => "",
    }
}

impl AskError {
    fn exit_code(&self) -> ExitCode {
        match self {
            AskError::Usage(_) | AskError::Node(_) | AskError::Refused { status: 400 | 422, .. } => {
                ExitCode::from(EXIT_USAGE)
            }
            _ => ExitCode::FAILURE,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    Fine,
    /// Something is wrong with the cluster, or what was ordered is not complete yet.
    Alarm,
}

/// Says what went wrong, if anything did.
pub fn finish(done: Result<Done, AskError>) -> ExitCode {
    match done {
        Ok(Done::Fine) => ExitCode::SUCCESS,
        Ok(Done::Alarm) => ExitCode::from(EXIT_ALARM),
        // Whoever reads has enough: `komainu events | head`.
        Err(AskError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu: {error}");
            error.exit_code()
        }
    }
}

impl Ask {
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, AskError> {
        self.understand(self.node()?.get(path))
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<Answer<T>, AskError> {
        self.understand(self.node()?.post(path, &body.to_string()))
    }

    pub fn node(&self) -> Result<Node, AskError> {
        Ok(Node::new(&self.admin, self.token_file.as_deref(), self.ca_file.as_deref())?)
    }

    fn understand<T: DeserializeOwned>(&self, answer: io::Result<Response>) -> Result<Answer<T>, AskError> {
        let reach = |source| AskError::Reach { node: self.admin.clone(), source };
        let Response { status, body } = answer.map_err(reach)?;
        if status != 200 {
            let body: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
            let error = match body["error"].as_str() {
                Some(error) => error.to_owned(),
                None => format!("the node answered with the HTTP status {status}"),
            };
            return Err(AskError::Refused { status, error, body });
        }
        let content = serde_json::from_str(&body).map_err(AskError::NotUnderstood)?;
        Ok(Answer { content, body })
    }

    /// The node's own document, or what people read.
    pub fn print<T>(&self, answer: &Answer<T>, text: impl FnOnce(&T) -> String) -> Result<(), AskError> {
        let mut out = io::stdout();
        match self.json {
            true => writeln!(out, "{}", answer.body)?,
            false => write!(out, "{}", text(&answer.content))?,
        }
        Ok(out.flush()?)
    }
}

/// What was understood of an answer, and all of it.
#[derive(Debug)]
pub struct Answer<T> {
    pub content: T,
    body: String,
}

#[cfg(test)]
impl<T> Answer<T> {
    pub fn of(content: T) -> Self {
        Answer { content, body: String::new() }
    }
}

/// Who orders: `operator:alice`, for the timeline. Who may is decided by the socket's file permissions.
pub fn operator() -> String {
    let uid = rustix::process::getuid();
    let behind_sudo = std::env::var("SUDO_USER").ok().filter(|name| uid.is_root() && !name.is_empty());
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = behind_sudo.or_else(|| name_of(&users, uid.as_raw()));
    let mut cause = format!("operator:{}", name.unwrap_or_else(|| format!("uid-{}", uid.as_raw())));
    while cause.len() > MAX_CAUSE {
        cause.pop();
    }
    cause
}

/// Of a file in the format of passwd(5).
fn name_of(users: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
    line.split(':').next().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_user_is_found() {
        let users = "root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(name_of(users, 1000).as_deref(), Some("alice"));
        assert_eq!(name_of(users, 7), None);
        assert!(operator().starts_with("operator:") && operator().len() > "operator:".len());
    }

    #[test]
    fn a_refusal_is_in_the_node_s_words_and_its_code_says_whose_fault_it_is() {
        let admin = "/nowhere/admin.sock".to_owned();
        let ask = Ask { admin, token_file: None, ca_file: None, json: false };
        let refused = |status, body: &str| {
            let response = Response { status, body: body.to_owned() };
            ask.understand::<Value>(Ok(response)).unwrap_err()
        };
        let error = refused(409, r#"{"error": "n1 leads and lives"}"#);
        assert_eq!(
            (error.to_string(), error.exit_code()),
            ("n1 leads and lives".to_owned(), ExitCode::from(1))
        );
        assert_eq!(refused(422, r#"{"error": "x"}"#).exit_code(), ExitCode::from(64));
        assert!(refused(500, "oops").to_string().contains("500"));
        let error = ask.get::<Value>("/status").unwrap_err();
        assert!(error.to_string().contains("is it running"), "{error}");
        assert_eq!(error.exit_code(), ExitCode::from(1));
    }
}
