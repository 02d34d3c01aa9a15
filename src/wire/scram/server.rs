//! The server's side: a client proves to us that it knows a password.
//!
//! `ServerFirst` reads client-first and becomes `ServerFinal`, which reads client-final and ends.
//! Invariant: the client's key, which a proof reveals, leaves here only after the proof was checked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Attributes, END_POINT, Key, Keys, ScramError, Verifier, check_nonce, text};

/// What the connection and the mechanism the client chose say about channel binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerBinding {
    /// We did not offer `SCRAM-SHA-256-PLUS`.
    NotOffered,
    /// We did, and the client chose `SCRAM-SHA-256`.
    Declined,
    /// The client chose `SCRAM-SHA-256-PLUS`; the hash of our certificate (RFC 5929, section 4.1).
    EndPoint(Vec<u8>),
}

/// Waits for client-first.
#[derive(Debug)]
pub struct ServerFirst {
    verifier: Verifier,
    genuine: bool,
    nonce: String,
    binding: ServerBinding,
}

/// Waits for client-final.
#[derive(Debug)]
pub struct ServerFinal {
    verifier: Verifier,
    genuine: bool,
    nonce: String,
    /// What `c=` has to carry.
    binding_data: Vec<u8>,
    client_first_bare: String,
    server_first: String,
}

#[derive(Debug)]
pub enum Verdict {
    Success(Success),
    /// The protocol was kept and the password is another.
    WrongProof,
}

#[derive(Debug)]
pub struct Success {
    /// To be sent in AuthenticationSASLFinal.
    pub server_final: Vec<u8>,
    /// The client's own key: what logs in to a server that keeps the same verifier.
    pub keys: Keys,
}

impl ServerFirst {
    /// `server_nonce` must be fresh, unpredictable, printable and without commas; base64 of 18 random bytes does.
    pub fn new(verifier: Verifier, server_nonce: String, binding: ServerBinding) -> Self {
        ServerFirst { verifier, genuine: true, nonce: server_nonce, binding }
    }

    /// The same exchange with a verifier nobody has a password for; its verdict is `WrongProof` whatever comes.
    pub fn doomed(mock: Verifier, server_nonce: String, binding: ServerBinding) -> Self {
        ServerFirst { verifier: mock, genuine: false, nonce: server_nonce, binding }
    }

    /// Reads client-first; returns server-first.
    pub fn client_first(self, message: &[u8]) -> Result<(Vec<u8>, ServerFinal), ScramError> {
        let message = text(message)?;
        let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed("no GS2 header"))?;
        let (identity, bare) = rest.split_once(',').ok_or(ScramError::Malformed("no GS2 header"))?;
        self.check_flag(flag)?;
        match identity {
            "" => {}
            _ if identity.starts_with("a=") => return Err(ScramError::AuthorizationIdentity),
            _ => return Err(ScramError::Malformed("unexpected attribute in the GS2 header")),
        }

        let mut attributes = Attributes::new(bare);
        // The name is that of the startup message; the one here is ignored, as PostgreSQL does.
        attributes.expect('n')?;
        let client_nonce = attributes.expect('r')?;
        check_nonce(client_nonce)?;
        attributes.skip_rest()?;

        let nonce = format!("{client_nonce}{}", self.nonce);
        let salt = STANDARD.encode(&self.verifier.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let mut binding_data = format!("{flag},,").into_bytes();
        if let ServerBinding::EndPoint(hash) = &self.binding {
            binding_data.extend_from_slice(hash);
        }
        let next = ServerFinal {
            verifier: self.verifier,
            genuine: self.genuine,
            nonce,
            binding_data,
            client_first_bare: bare.to_owned(),
            server_first: server_first.clone(),
        };
        Ok((server_first.into_bytes(), next))
    }

    fn check_flag(&self, flag: &str) -> Result<(), ScramError> {
        let kind = flag.strip_prefix("p=");
        match (&self.binding, flag) {
            (ServerBinding::EndPoint(_), _) => match kind {
                Some(END_POINT) => Ok(()),
                Some(_) => Err(ScramError::UnsupportedBinding),
                None => {
                    Err(ScramError::Malformed("SCRAM-SHA-256-PLUS was selected without channel binding data"))
                }
            },
            (_, "n") | (ServerBinding::NotOffered, "y") => Ok(()),
            // The client would have taken PLUS had it seen it: someone removed it from our list.
            (ServerBinding::Declined, "y") => Err(ScramError::Downgrade),
            _ if kind.is_some() => {
                Err(ScramError::Malformed("channel binding data, but SCRAM-SHA-256-PLUS was not selected"))
            }
            _ => Err(ScramError::Malformed("unexpected channel-binding flag")),
        }
    }
}

impl ServerFinal {
    /// Reads client-final; tells whether it proves the password.
    pub fn client_final(self, message: &[u8]) -> Result<Verdict, ScramError> {
        let message = text(message)?;
        // The proof signs everything before it, so it is the last attribute; an extension cannot contain a comma.
        let (without_proof, proof) =
            message.rsplit_once(",p=").ok_or(ScramError::AttributeExpected { expected: 'p' })?;
        let mut attributes = Attributes::new(without_proof);
        let binding = attributes.expect('c')?;
        let nonce = attributes.expect('r')?;
        attributes.skip_rest()?;

        let binding = STANDARD.decode(binding).map_err(|_| ScramError::Malformed("c= is not base64"))?;
        if binding != self.binding_data {
            return Err(ScramError::BindingMismatch);
        }
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let proof = Key::decode(proof).ok_or(ScramError::Malformed("the proof is not 32 bytes in base64"))?;

        let auth_message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let client_key = proof.xor(&self.verifier.stored_key.sign(auth_message.as_bytes()));
        let proven = client_key.hash() == self.verifier.stored_key;
        if !(proven && self.genuine) {
            return Ok(Verdict::WrongProof);
        }
        let signature = self.verifier.server_key.sign(auth_message.as_bytes()).encode();
        Ok(Verdict::Success(Success {
            server_final: format!("v={signature}").into_bytes(),
            keys: Keys { client_key, verifier: self.verifier },
        }))
    }
}
