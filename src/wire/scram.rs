//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS as pure exchanges, for both ends of a login.
//!
//! Owns the messages, the keys and their checks. Never draws a nonce or a salt, never reads a clock:
//! they are arguments. Invariant: success, a wrong proof and a message that breaks the protocol are
//! three different results, and no input makes any of this panic or compute without bound.
//! Sources: RFC 5802, RFC 7677, <https://www.postgresql.org/docs/current/sasl-authentication.html>.

mod client;
mod server;
mod verifier;

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use client::{Challenge, ClientBinding, ClientFirst, ClientVerify, Credential};
pub use server::{ServerBinding, ServerFinal, ServerFirst, Success, Verdict};
pub use verifier::{Keys, ParseVerifierError, Verifier};

pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// What PostgreSQL uses for a new password unless `scram_iterations` says otherwise.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// The most rounds we compute for anyone: about half a second. A server that asks for more is
/// refused before a single one is computed (CVE-2026-6669).
pub const MAX_ITERATIONS: u32 = 1_000_000;
/// Longest salt believed; PostgreSQL's have 16 bytes.
pub const MAX_SALT_BYTES: usize = 256;
/// Longest nonce believed, the other side's alone or both together; PostgreSQL's have 24 bytes each.
pub const MAX_NONCE_BYTES: usize = 1024;

const KEY_LEN: usize = 32;
const END_POINT: &str = "tls-server-end-point";

/// A SCRAM key. Never printed; compared in constant time.
#[derive(Clone)]
pub struct Key([u8; KEY_LEN]);

impl Key {
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Key(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    fn decode(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Key)
    }

    fn encode(&self) -> String {
        STANDARD.encode(self.0)
    }

    fn xor(&self, other: &Key) -> Key {
        Key(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }

    fn sign(&self, message: &[u8]) -> Key {
        hmac_sha256(&self.0, message)
    }

    fn hash(&self) -> Key {
        Key(digest::digest(&digest::SHA256, &self.0).as_ref().try_into().expect("SHA-256 gives 32 bytes"))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Key {}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Key {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    Key(hmac::sign(&key, message).as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes"))
}

/// A message that breaks the protocol, or asks for what we do not do. Says nothing of passwords.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    #[error("malformed SCRAM message: attribute \"{expected}\" expected")]
    AttributeExpected { expected: char },
    #[error("client requires an unsupported SCRAM extension")]
    UnsupportedExtension,
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    #[error(
        "SCRAM channel binding negotiation error: the client supports channel binding but thinks the server does not"
    )]
    Downgrade,
    #[error("unsupported SCRAM channel-binding type")]
    UnsupportedBinding,
    #[error("SCRAM channel binding check failed")]
    BindingMismatch,
    #[error("invalid SCRAM nonce")]
    Nonce,
    #[error("SCRAM iteration count {0} is out of range")]
    Iterations(u64),
    #[error("server keeps another SCRAM verifier than the one this key belongs to")]
    OtherVerifier,
    #[error("server refused the SCRAM exchange")]
    Refused,
    #[error("incorrect server signature")]
    ServerSignature,
}

/// Reads `x=value` attributes off a message, in the order the protocol fixes.
struct Attributes<'a> {
    rest: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    fn new(text: &'a str) -> Self {
        Attributes { rest: Some(text) }
    }

    fn next(&mut self) -> Result<Option<(char, &'a str)>, ScramError> {
        let Some(rest) = self.rest else { return Ok(None) };
        let (attribute, rest) = match rest.split_once(',') {
            Some((attribute, rest)) => (attribute, Some(rest)),
            None => (rest, None),
        };
        self.rest = rest;
        match attribute.as_bytes() {
            [name, b'=', ..] if name.is_ascii_alphabetic() => Ok(Some((char::from(*name), &attribute[2..]))),
            _ => Err(ScramError::Malformed("not an attribute")),
        }
    }

    fn expect(&mut self, expected: char) -> Result<&'a str, ScramError> {
        match self.next()? {
            Some((name, value)) if name == expected => Ok(value),
            Some(('m', _)) => Err(ScramError::UnsupportedExtension),
            _ => Err(ScramError::AttributeExpected { expected }),
        }
    }

    /// Optional extensions, which RFC 5802 tells us to ignore.
    fn skip_rest(mut self) -> Result<(), ScramError> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

/// A nonce is printable ASCII without commas.
fn check_nonce(nonce: &str) -> Result<(), ScramError> {
    let printable = nonce.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b',');
    match printable && !nonce.is_empty() && nonce.len() <= MAX_NONCE_BYTES {
        true => Ok(()),
        false => Err(ScramError::Nonce),
    }
}

#[cfg(test)]
mod tests;
