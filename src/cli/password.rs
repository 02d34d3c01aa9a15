//! `komainu password`: a SCRAM verifier of a password.
//!
//! Owns the asking. Never shows, stores or logs the password. Invariant: a terminal shows again what is
//! typed once the question is answered.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use aws_lc_rs::rand;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Password;
use crate::client::userfile;
pub use crate::wire::scram::{DEFAULT_ITERATIONS, MAX_ITERATIONS};
use crate::wire::scram::{ScramError, Verifier};

/// As PostgreSQL's.
const SALT_BYTES: usize = 16;

#[derive(Debug, thiserror::Error)]
enum PasswordError {
    #[error("the password cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the password is empty; PostgreSQL lets nobody in with one")]
    Empty,
    #[error("the two are not the same; try again")]
    Different,
    #[error("the user's name is empty or has more than one line")]
    User,
    #[error("no random salt can be drawn on this machine")]
    Salt,
    #[error("the verifier cannot be made: {0}")]
    Scram(#[from] ScramError),
}

pub fn run(args: &Password) -> ExitCode {
    if args.iterations < DEFAULT_ITERATIONS {
        let _ = writeln!(
            io::stderr(),
            "warning: {} iterations: with fewer than {DEFAULT_ITERATIONS} a verifier that is stolen is guessed sooner",
            args.iterations
        );
    }
    match ask(args.user.as_deref()).and_then(|password| output(&password, args)) {
        Ok(line) => match writeln!(io::stdout(), "{line}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            let _ = writeln!(io::stderr(), "komainu password: {error}");
            ExitCode::FAILURE
        }
    }
}

fn output(password: &[u8], args: &Password) -> Result<String, PasswordError> {
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt).map_err(|_| PasswordError::Salt)?;
    let verifier = Verifier::from_password(password, &salt, args.iterations)?.to_string();
    Ok(match &args.user {
        Some(user) => userfile::line(user, &verifier),
        None => verifier,
    })
}

fn ask(user: Option<&str>) -> Result<Vec<u8>, PasswordError> {
    if user.is_some_and(|user| user.is_empty() || user.contains(['\n', '\r', '\0'])) {
        return Err(PasswordError::User);
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return first_line(&mut stdin.lock());
    }
    let question = user.map_or("Password: ".to_owned(), |user| format!("Password for {user}: "));
    let _quiet = Quiet::new(&stdin)?;
    let first = prompt(&question)?;
    let second = prompt("Again: ")?;
    if first == second { Ok(first) } else { Err(PasswordError::Different) }
}

fn prompt(question: &str) -> Result<Vec<u8>, PasswordError> {
    let mut stderr = io::stderr();
    write!(stderr, "{question}")?;
    let line = first_line(&mut io::stdin().lock());
    writeln!(stderr)?;
    line
}

/// Without its line end.
fn first_line(input: &mut impl io::BufRead) -> Result<Vec<u8>, PasswordError> {
    const MAX_BYTES: u64 = 65_536;
    let mut line = Vec::new();
    io::Read::take(input, MAX_BYTES).read_until(b'\n', &mut line)?;
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    if line.is_empty() { Err(PasswordError::Empty) } else { Ok(line) }
}

/// While it lives the terminal does not show what is typed.
struct Quiet<'a> {
    terminal: &'a io::Stdin,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a io::Stdin) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::userfile::{Secret, UserFile};

    #[test]
    fn a_line_for_the_user_file_is_read_back_and_accepts_the_password() {
        let args = Password { user: Some("the \"boss\"".into()), iterations: 4096 };
        let line = output(b"hunter2", &args).unwrap();
        assert!(!line.contains("hunter2"));
        let users = UserFile::parse(&line).unwrap();
        let Some(Secret::Scram(verifier)) = users.get("the \"boss\"") else { panic!("{users:?}") };
        assert_eq!(verifier.iterations(), 4096);
        assert!(verifier.accepts(b"hunter2").is_some() && verifier.accepts(b"hunter3").is_none());
        assert_ne!(line, output(b"hunter2", &args).unwrap(), "the salt is not random");
    }

    #[test]
    fn the_first_line_without_its_end_is_the_password() {
        let read = |mut input: &'static [u8]| first_line(&mut input).map_err(|error| error.to_string());
        assert_eq!(read(b"p w\r\nrest"), Ok(b"p w".to_vec()));
        assert_eq!(read(b" p"), Ok(b" p".to_vec()));
        assert!(read(b"\nrest").is_err() && read(b"").is_err());
    }
}
