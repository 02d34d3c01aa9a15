//! Passwords that AWS gives: what logs a role in to a server, asked for at each login.
//!
//! Owns where they come from: IAM tokens, signed here (`token`), and secrets of Secrets Manager (`secret`), fetched
//! beforehand and again. Never logs in itself. Invariants: a password is never printed, logged or written anywhere; and
//! what was known of a secret stays known whatever becomes of the API.

pub mod secret;
pub mod token;
mod versions;

pub use secret::{SecretPasswords, SecretSettings};
pub use token::{TokenPasswords, TokenSettings};

use crate::finding::Finding;
use futures_util::future::BoxFuture;
use std::fmt;

/// What logs in one role. Printing it shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    text: String,
    is_token: bool,
}

impl Password {
    pub fn new(text: impl Into<String>) -> Password {
        Password { text: text.into(), is_token: false }
    }

    pub fn token(text: impl Into<String>) -> Password {
        Password { text: text.into(), is_token: true }
    }

    pub fn expose(&self) -> &str {
        &self.text
    }

    /// It goes out as it is, so only to a server whose certificate was verified, name and all.
    pub fn is_token(&self) -> bool {
        self.is_token
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why there is none. For the log and for `doctor`; never has a secret in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no password for role \"{user}\": {why}")]
pub struct NoPassword {
    pub user: String,
    pub why: String,
}

/// Where a login gets its password.
pub trait Passwords: fmt::Debug + Send + Sync {
    /// The next to try at this server, after those that it refused. None: there is no other. Ends within seconds, and
    /// dropping it loses nothing.
    fn next<'a>(
        &'a self,
        host: &'a str,
        port: u16,
        refused: &'a [Password],
    ) -> BoxFuture<'a, Result<Option<Password>, NoPassword>>;

    /// This server let us in with it.
    fn accepted(&self, host: &str, port: u16, password: &Password);
}

/// How a role's passwords are come by.
pub trait Source: Passwords {
    /// Keeps ready what `next` gives. Ends never; to be run beside, and dropped with the role.
    fn keep(&self) -> BoxFuture<'_, ()>;

    /// How that stands.
    fn finding(&self) -> Finding;
}
