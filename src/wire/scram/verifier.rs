//! What a server keeps of a password, and the keys that a password is worth.
//!
//! Owns PostgreSQL's text form `SCRAM-SHA-256$iterations:salt$stored_key:server_key`. Invariant: a
//! `Verifier` that exists has iterations and a salt within bounds.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{KEY_LEN, Key, MAX_ITERATIONS, MAX_SALT_BYTES, ScramError, hmac_sha256};

/// Lets one check a password, not log in with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

/// Lets one log in wherever `verifier` is kept, without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    pub client_key: Key,
    pub verifier: Verifier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM verifier: expected SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>")]
pub struct ParseVerifierError;

impl Verifier {
    /// Costs `iterations` rounds of PBKDF2.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Result<Self, ScramError> {
        Keys::derive(password, salt, iterations).map(|keys| keys.verifier)
    }

    /// For a user who does not exist: always the same salt for a name, as a real user's would be, and
    /// keys that no password has. `secret` is the process's own.
    pub fn mock(user: &[u8], secret: &[u8; KEY_LEN], iterations: NonZeroU32) -> Self {
        let derive = |purpose: &[u8]| hmac_sha256(secret, &[purpose, user].concat());
        Verifier {
            iterations,
            salt: Self::salt_for(user, secret).to_vec(),
            stored_key: derive(b"stored:"),
            server_key: derive(b"server:"),
        }
    }

    /// The salt `mock` shows. A verifier made here for a user whose plain password is known takes it
    /// too, so that the salt does not tell who exists.
    pub fn salt_for(user: &[u8], secret: &[u8; KEY_LEN]) -> [u8; 16] {
        let digest = hmac_sha256(secret, &[b"salt:", user].concat());
        std::array::from_fn(|i| digest.as_bytes()[i])
    }

    pub fn iterations(&self) -> u32 {
        self.iterations.get()
    }

    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Whether this is the password. Costs PBKDF2.
    pub fn accepts(&self, password: &[u8]) -> Option<Keys> {
        let keys = Keys::derive(password, &self.salt, self.iterations.get()).ok()?;
        (keys.verifier == *self).then_some(keys)
    }
}

impl Keys {
    /// Costs `iterations` rounds of PBKDF2, 0.3 µs each: with many, run it off the data path.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Result<Self, ScramError> {
        let rounds = NonZeroU32::new(iterations)
            .filter(|rounds| rounds.get() <= MAX_ITERATIONS)
            .ok_or(ScramError::Iterations(iterations.into()))?;
        if salt.is_empty() || salt.len() > MAX_SALT_BYTES {
            return Err(ScramError::Malformed("salt of an unreasonable length"));
        }
        let mut salted = [0; KEY_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, &normalize(password), &mut salted);
        let client_key = hmac_sha256(&salted, b"Client Key");
        let verifier = Verifier {
            iterations: rounds,
            salt: salt.to_vec(),
            stored_key: client_key.hash(),
            server_key: hmac_sha256(&salted, b"Server Key"),
        };
        Ok(Keys { client_key, verifier })
    }
}

/// SASLprep as PostgreSQL does it: what is not UTF-8, or contains what SASLprep prohibits, is used as it is.
fn normalize(password: &[u8]) -> Vec<u8> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    match prepared {
        Some(prepared) if !prepared.is_empty() => prepared.as_bytes().to_vec(),
        _ => password.to_vec(),
    }
}

impl FromStr for Verifier {
    type Err = ParseVerifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
            let (iterations, salt) = parameters.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let iterations = iterations
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| iterations.parse::<NonZeroU32>().ok())?
                .filter(|count| count.get() <= MAX_ITERATIONS)?;
            let salt =
                STANDARD.decode(salt).ok().filter(|salt| (1..=MAX_SALT_BYTES).contains(&salt.len()))?;
            let (stored_key, server_key) = (Key::decode(stored_key)?, Key::decode(server_key)?);
            Some(Verifier { iterations, salt, stored_key, server_key })
        };
        parts().ok_or(ParseVerifierError)
    }
}

/// The text form, which is a secret: for a user file or `ALTER ROLE`, never for a log.
impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored, server) =
            (STANDARD.encode(&self.salt), self.stored_key.encode(), self.server_key.encode());
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}
