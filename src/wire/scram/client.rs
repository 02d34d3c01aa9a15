//! The client's side: we log in to a server.
//!
//! `ClientFirst` reads server-first and becomes `Challenge`, whose `respond` may take long and becomes
//! `ClientVerify`, which reads server-final. Invariant: nothing the server sends is computed with
//! before it was bounded, and a server that does not prove to know the verifier is refused.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{
    Attributes, END_POINT, Key, Keys, MAX_ITERATIONS, MAX_NONCE_BYTES, MAX_SALT_BYTES, ScramError,
    check_nonce, text,
};

/// What we can log in with.
#[derive(Clone)]
pub enum Credential {
    Password(Vec<u8>),
    /// Good only where the same verifier is kept.
    Keys(Keys),
}

/// Printing one never shows it.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Password(_) => "Password(…)",
            Credential::Keys(_) => "Keys(…)",
        })
    }
}

/// Channel binding as the connection and the server's list of mechanisms allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientBinding {
    /// No TLS, or no hash for this certificate.
    Unsupported,
    /// TLS, and the server offered `SCRAM-SHA-256` alone. A server that did offer PLUS refuses this,
    /// which is how the removal of PLUS from its list comes out.
    NotOffered,
    /// `SCRAM-SHA-256-PLUS`; the hash of the server's certificate (RFC 5929, section 4.1).
    EndPoint(Vec<u8>),
}

/// Has client-first to send, then waits for server-first.
#[derive(Debug)]
pub struct ClientFirst {
    credential: Credential,
    nonce: String,
    header: String,
    binding_data: Vec<u8>,
    /// The message without its GS2 header.
    pub(super) bare: String,
}

/// A checked server-first, not yet answered.
#[derive(Debug)]
pub struct Challenge {
    credential: Credential,
    iterations: u32,
    salt: Vec<u8>,
    client_final_without_proof: String,
    /// client-first without its header, and server-first.
    auth_message: String,
}

/// Waits for server-final.
#[derive(Debug)]
pub struct ClientVerify {
    expected: Key,
    keys: Keys,
}

impl ClientFirst {
    /// `nonce` must be fresh, unpredictable, printable and without commas; base64 of 18 random bytes does.
    pub fn new(credential: Credential, nonce: String, binding: ClientBinding) -> Self {
        let header = match binding {
            ClientBinding::Unsupported => "n,,".to_owned(),
            ClientBinding::NotOffered => "y,,".to_owned(),
            ClientBinding::EndPoint(_) => format!("p={END_POINT},,"),
        };
        let mut binding_data = header.as_bytes().to_vec();
        if let ClientBinding::EndPoint(hash) = binding {
            binding_data.extend_from_slice(&hash);
        }
        // PostgreSQL takes the name from the startup message.
        let bare = format!("n=,r={nonce}");
        ClientFirst { credential, nonce, header, binding_data, bare }
    }

    /// client-first, for SASLInitialResponse.
    pub fn message(&self) -> Vec<u8> {
        format!("{}{}", self.header, self.bare).into_bytes()
    }

    /// Reads server-first. Cheap: what may be dear is `Challenge::respond`.
    pub fn server_first(self, message: &[u8]) -> Result<Challenge, ScramError> {
        let message = text(message)?;
        let mut attributes = Attributes::new(message);
        let nonce = attributes.expect('r')?;
        let salt = attributes.expect('s')?;
        let iterations = attributes.expect('i')?;
        attributes.skip_rest()?;

        if nonce.len() > MAX_NONCE_BYTES || nonce.strip_prefix(self.nonce.as_str()).is_none_or(str::is_empty)
        {
            return Err(ScramError::Nonce);
        }
        check_nonce(nonce)?;
        // Four characters of base64 are three bytes; the length is looked at before it is decoded.
        if salt.len() > MAX_SALT_BYTES.div_ceil(3) * 4 {
            return Err(ScramError::Malformed("salt of an unreasonable length"));
        }
        let salt = STANDARD.decode(salt).map_err(|_| ScramError::Malformed("s= is not base64"))?;
        if salt.is_empty() || salt.len() > MAX_SALT_BYTES {
            return Err(ScramError::Malformed("salt of an unreasonable length"));
        }
        let iterations = read_iterations(iterations)?;
        if let Credential::Keys(Keys { verifier, .. }) = &self.credential
            && (verifier.salt() != salt || verifier.iterations() != iterations)
        {
            return Err(ScramError::OtherVerifier);
        }

        let client_final_without_proof = format!("c={},r={nonce}", STANDARD.encode(&self.binding_data));
        Ok(Challenge {
            credential: self.credential,
            iterations,
            salt,
            client_final_without_proof,
            auth_message: format!("{},{message}", self.bare),
        })
    }
}

fn read_iterations(text: &str) -> Result<u32, ScramError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ScramError::Malformed("i= is not a number"));
    }
    let count = text.parse::<u64>().unwrap_or(u64::MAX);
    match u32::try_from(count) {
        Ok(count @ 1..=MAX_ITERATIONS) => Ok(count),
        _ => Err(ScramError::Iterations(count)),
    }
}

impl Challenge {
    /// Rounds of PBKDF2 that `respond` will compute for a password, 0.3 µs each: many are for a blocking thread. With keys
    /// there is nothing to compute, and nothing to guess but what the server has.
    pub fn rounds(&self) -> Option<u32> {
        match self.credential {
            Credential::Password(_) => Some(self.iterations),
            Credential::Keys(_) => None,
        }
    }

    /// client-final.
    pub fn respond(self) -> Result<(Vec<u8>, ClientVerify), ScramError> {
        let keys = match self.credential {
            Credential::Password(password) => Keys::derive(&password, &self.salt, self.iterations)?,
            Credential::Keys(keys) => keys,
        };
        let auth_message = format!("{},{}", self.auth_message, self.client_final_without_proof);
        let signature = keys.verifier.stored_key.sign(auth_message.as_bytes());
        let proof = keys.client_key.xor(&signature).encode();
        let expected = keys.verifier.server_key.sign(auth_message.as_bytes());
        let message = format!("{},p={proof}", self.client_final_without_proof);
        Ok((message.into_bytes(), ClientVerify { expected, keys }))
    }
}

impl ClientVerify {
    /// Reads server-final. Returns the keys, which spare the next login the rounds while the server's verifier stays.
    pub fn server_final(self, message: &[u8]) -> Result<Keys, ScramError> {
        let mut attributes = Attributes::new(text(message)?);
        let signature = match attributes.next()? {
            Some(('v', signature)) => signature,
            Some(('e', _)) => return Err(ScramError::Refused),
            _ => return Err(ScramError::AttributeExpected { expected: 'v' }),
        };
        attributes.skip_rest()?;
        match Key::decode(signature) {
            Some(signature) if signature == self.expected => Ok(self.keys),
            _ => Err(ScramError::ServerSignature),
        }
    }
}
