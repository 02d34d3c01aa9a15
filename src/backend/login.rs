//! The conversation from StartupMessage to the first ReadyForQuery.
//!
//! Owns authentication towards a server, which is not trusted: it may lie about lengths, send without
//! end, ask for weaker proofs or for endless work. Never writes to a log.
//! Invariant: memory, time on the CPU and the number of messages read are bounded whatever comes. A password
//! leaves us only to a server that was verified. Any other gets SCRAM with as many rounds as PostgreSQL's own verifiers
//! have, so that guessing by the proof is as dear as by those; what is cheaper, MD5 too, only where the configuration
//! allows it.

use std::io;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::{Connected, Credential, Login};
use super::connect_error::{AuthenticationFault, ConnectError, ProtocolFault, Refusal};
use crate::net::Stream;
use crate::net::channel_binding::tls_server_end_point;
use crate::net::tls::ServerTlsContext;
use crate::wire::authentication::{CLEARTEXT_PASSWORD, MD5_PASSWORD, OK, SASL, SASL_CONTINUE, SASL_FINAL};
use crate::wire::frame::{self, HEADER_LEN, split_cstr};
use crate::wire::md5;
use crate::wire::message;
use crate::wire::scram::{self, ClientBinding, ClientFirst, ScramError};
use crate::wire::startup::{CANCEL_KEY_BYTES, MAX_STARTUP_BYTES};

const PROTOCOL_3_0: i32 = 196_608;
/// Of one message before ReadyForQuery. Errors are the longest, some kilobytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Of all of them.
const MAX_LOGIN_BYTES: usize = 1024 * 1024;
const MAX_LOGIN_MESSAGES: usize = 1_000;
const READ_BYTES: usize = 4 * 1024;
/// PBKDF2 rounds (0.3 µs each) that may hold up a worker thread; more go to a blocking one.
const MAX_INLINE_ROUNDS: u32 = 20_000;
/// PostgreSQL's own. With fewer, whoever plays the server can try passwords by the million.
const MIN_UNVERIFIED_ROUNDS: u32 = 4096;
const NONCE_BYTES: usize = 18;

/// Encodes the StartupMessage.
pub(super) fn startup_message(login: &Login, parameters: &[(&str, &str)]) -> Result<BytesMut, ConnectError> {
    let mut out = BytesMut::with_capacity(256);
    out.put_i32(0);
    out.put_i32(PROTOCOL_3_0);
    let own = [("user", login.user.as_str()), ("database", login.database.as_str())];
    for (name, value) in own.iter().chain(parameters) {
        for text in [name, value] {
            if text.contains('\0') {
                return Err(ConnectError::Unsendable("a startup parameter contains a NUL"));
            }
            out.put_slice(text.as_bytes());
            out.put_u8(0);
        }
    }
    out.put_u8(0);
    if out.len() - 4 > MAX_STARTUP_BYTES {
        return Err(ConnectError::Unsendable("the startup parameters are too long"));
    }
    let length = out.len() as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

/// Sends `startup`, authenticates, and reads up to ReadyForQuery.
pub(super) async fn log_in(
    stream: Stream,
    login: &Login,
    startup: &[u8],
    tls: &ServerTlsContext,
) -> Result<Connected, ConnectError> {
    let incoming = BytesMut::with_capacity(READ_BYTES);
    // Whoever can listen on a Unix socket of ours needs no password of ours.
    let is_verified = stream.is_unix() || stream.is_tls() && tls.verifies();
    let may_guess = is_verified || tls.allows_md5();
    let mut conversation =
        Conversation { stream, incoming, login, is_verified, may_guess, messages: 0, bytes: 0 };
    conversation.send(startup).await?;
    let scram_keys = conversation.authenticate().await?;
    let mut session = Session::default();
    while !session.apply(conversation.receive().await?)? {}
    Ok(Connected {
        in_hot_standby: session.parameter("in_hot_standby").map(|value| value == "on"),
        server_version_num: session.parameter("server_version").map_or(0, version_num),
        stream: conversation.stream,
        buffered: conversation.incoming,
        pid: session.pid,
        cancel_key: session.cancel_key,
        parameters: session.parameters,
        scram_keys,
    })
}

/// What the server tells between AuthenticationOk and ReadyForQuery.
#[derive(Default)]
struct Session {
    pid: i32,
    cancel_key: Bytes,
    parameters: Vec<(String, String)>,
}

impl Session {
    /// Returns whether the server is ready.
    fn apply(&mut self, (tag, mut body): (u8, Bytes)) -> Result<bool, ProtocolFault> {
        let malformed = ProtocolFault::Malformed(char::from(tag));
        match tag {
            b'S' => {
                let (name, rest) = split_cstr(&body).ok_or(malformed)?;
                let (value, _) = split_cstr(rest).ok_or(ProtocolFault::Malformed('S'))?;
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                self.parameters.push((text(name), text(value)));
            }
            b'K' => {
                if !body.len().checked_sub(4).is_some_and(|key| CANCEL_KEY_BYTES.contains(&key)) {
                    return Err(malformed);
                }
                self.pid = body.get_i32();
                self.cancel_key = Bytes::copy_from_slice(&body);
            }
            b'Z' => match body.as_ref() {
                b"I" => return Ok(true),
                _ => return Err(malformed),
            },
            other => return Err(ProtocolFault::Unexpected(char::from(other))),
        }
        Ok(false)
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// `server_version` (15.3, "17beta1", "9.6.24 (Debian …)") as `server_version_num`.
pub(super) fn version_num(text: &str) -> u32 {
    let mut numbers = text.split('.').map(|part| {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        // Three digits are more than any version had, and cannot overflow what follows.
        part[..digits.min(3)].parse::<u32>().unwrap_or(0)
    });
    let mut next = || numbers.next().unwrap_or(0);
    match next() {
        major @ 0..10 => major * 10_000 + next() * 100 + next(),
        major => major * 10_000 + next(),
    }
}

struct Conversation<'a> {
    stream: Stream,
    incoming: BytesMut,
    login: &'a Login,
    is_verified: bool,
    /// Whether it may be shown what a password can cheaply be guessed by.
    may_guess: bool,
    messages: usize,
    bytes: usize,
}

impl Conversation<'_> {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        self.stream.write_all(bytes).await.map_err(ConnectError::Lost)?;
        self.stream.flush().await.map_err(ConnectError::Lost)
    }

    /// The next message that is no notice, as its tag and body. An ErrorResponse is an error.
    async fn receive(&mut self) -> Result<(u8, Bytes), ConnectError> {
        loop {
            let (tag, body) = self.receive_any().await?;
            match tag {
                b'N' => {}
                b'E' => return Err(ConnectError::Refused(Refusal::new(body, &self.login.user))),
                _ => return Ok((tag, body)),
            }
        }
    }

    async fn receive_any(&mut self) -> Result<(u8, Bytes), ConnectError> {
        loop {
            if let Some(header) =
                frame::header(&self.incoming, MAX_MESSAGE_BYTES).map_err(ProtocolFault::Frame)?
                && self.incoming.len() >= header.len
            {
                self.messages += 1;
                self.bytes += header.len;
                if self.messages > MAX_LOGIN_MESSAGES || self.bytes > MAX_LOGIN_BYTES {
                    return Err(ProtocolFault::Endless.into());
                }
                let mut message = self.incoming.split_to(header.len).freeze();
                message.advance(HEADER_LEN);
                return Ok((header.tag, message));
            }
            // Room for what came, never for what a header promises.
            self.incoming.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.incoming).await.map_err(ConnectError::Lost)? == 0 {
                return Err(ConnectError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The next authentication request, as its code and what follows it.
    async fn receive_request(&mut self) -> Result<(i32, Bytes), ConnectError> {
        let (tag, mut body) = self.receive().await?;
        match tag {
            b'R' if body.len() >= 4 => Ok((body.get_i32(), body)),
            b'R' => Err(ProtocolFault::Malformed('R').into()),
            other => Err(ProtocolFault::Unexpected(char::from(other)).into()),
        }
    }

    /// Up to AuthenticationOk. Returns the keys, if it was done by SCRAM.
    async fn authenticate(&mut self) -> Result<Option<scram::Keys>, ConnectError> {
        let mut keys = None;
        let is_token = matches!(self.login.credential, Credential::Token(_));
        match self.receive_request().await? {
            (OK, _) => return Ok(None),
            (CLEARTEXT_PASSWORD, _) => {
                if !self.is_verified || is_token && self.stream.is_unix() {
                    return Err(AuthenticationFault::ClearTextRefused.into());
                }
                let password = self.password("a password")?.to_owned();
                self.send_password(password.as_bytes()).await?;
            }
            (MD5_PASSWORD | SASL, _) if is_token => return Err(AuthenticationFault::TokenNotAsked.into()),
            (MD5_PASSWORD, salt) => {
                let salt = salt.as_ref().try_into().map_err(|_| ProtocolFault::Malformed('R'))?;
                let stored = match &self.login.credential {
                    // Good for nothing else.
                    Credential::Md5(stored) => stored.expose().to_owned(),
                    Credential::Password(_) if !self.may_guess => {
                        return Err(AuthenticationFault::Md5Refused.into());
                    }
                    _ => md5::stored(&self.login.user, self.password("an MD5 hash")?.as_bytes()),
                };
                self.send_password(md5::answer(&stored, salt).as_bytes()).await?;
            }
            (SASL, mechanisms) => keys = Some(self.authenticate_by_scram(&mechanisms).await?),
            (SASL_CONTINUE | SASL_FINAL, _) => return Err(ProtocolFault::Unexpected('R').into()),
            (other, _) => return Err(AuthenticationFault::UnsupportedMethod(other).into()),
        }
        // One proof is all a server may ask for: a second request would be for a weaker one.
        match self.receive_request().await? {
            (OK, _) => Ok(keys),
            _ => Err(ProtocolFault::Unexpected('R').into()),
        }
    }

    fn password(&self, asked: &'static str) -> Result<&str, AuthenticationFault> {
        match &self.login.credential {
            Credential::Password(secret) | Credential::Token(secret) => Ok(secret.expose()),
            Credential::None | Credential::Md5(_) | Credential::ScramKeys(_) | Credential::Asked(_) => {
                Err(AuthenticationFault::NoPassword(asked))
            }
        }
    }

    async fn send_password(&mut self, text: &[u8]) -> Result<(), ConnectError> {
        if text.contains(&0) {
            return Err(ConnectError::Unsendable("the password contains a NUL"));
        }
        self.send_response(|out| {
            out.put_slice(text);
            out.put_u8(0);
        })
        .await
    }

    async fn send_response(&mut self, write: impl FnOnce(&mut BytesMut)) -> Result<(), ConnectError> {
        let mut out = BytesMut::new();
        message::frame(&mut out, b'p', write).map_err(|_| ConnectError::Unsendable("too long a response"))?;
        self.send(&out).await
    }

    async fn authenticate_by_scram(&mut self, mechanisms: &[u8]) -> Result<scram::Keys, ConnectError> {
        let credential = match &self.login.credential {
            Credential::None | Credential::Md5(_) | Credential::Asked(_) | Credential::Token(_) => {
                return Err(AuthenticationFault::NoPassword("SCRAM").into());
            }
            Credential::Password(secret) => scram::Credential::Password(secret.expose().as_bytes().to_vec()),
            Credential::ScramKeys(keys) => scram::Credential::Keys(keys.clone()),
        };
        let binding = self.channel_binding(mechanisms)?;
        let mechanism = match binding {
            ClientBinding::EndPoint(_) => scram::SCRAM_SHA_256_PLUS,
            ClientBinding::Unsupported | ClientBinding::NotOffered => scram::SCRAM_SHA_256,
        };
        let exchange = ClientFirst::new(credential, nonce()?, binding);
        let client_first = exchange.message();
        self.send_response(|out| {
            out.put_slice(mechanism.as_bytes());
            out.put_u8(0);
            out.put_i32(client_first.len() as i32);
            out.put_slice(&client_first);
        })
        .await?;

        let server_first = match self.receive_request().await? {
            (SASL_CONTINUE, body) => body,
            (OK | SASL_FINAL, _) => return Err(AuthenticationFault::NoProof.into()),
            _ => return Err(ProtocolFault::Unexpected('R').into()),
        };
        let challenge = exchange.server_first(&server_first).map_err(AuthenticationFault::Scram)?;
        if let Some(rounds @ ..MIN_UNVERIFIED_ROUNDS) = challenge.rounds()
            && !self.may_guess
        {
            return Err(AuthenticationFault::TooFewRounds { rounds, least: MIN_UNVERIFIED_ROUNDS }.into());
        }
        let (client_final, verify) = respond(challenge).await?;
        self.send_response(|out| out.put_slice(&client_final)).await?;

        match self.receive_request().await? {
            (SASL_FINAL, body) => Ok(verify.server_final(&body).map_err(AuthenticationFault::Scram)?),
            (OK, _) => Err(AuthenticationFault::NoProof.into()),
            _ => Err(ProtocolFault::Unexpected('R').into()),
        }
    }

    /// Bound to the TLS connection wherever both sides can.
    fn channel_binding(&self, mechanisms: &[u8]) -> Result<ClientBinding, ConnectError> {
        let (mut plain, mut plus) = (false, false);
        let mut rest = mechanisms;
        loop {
            let (name, after) = split_cstr(rest).ok_or(ProtocolFault::Malformed('R'))?;
            match name {
                b"" => break,
                name if name == scram::SCRAM_SHA_256.as_bytes() => plain = true,
                name if name == scram::SCRAM_SHA_256_PLUS.as_bytes() => plus = true,
                _ => {}
            }
            rest = after;
        }
        let hash = match &self.stream {
            Stream::TlsConnected(_) => self.stream.peer_certificate().and_then(|c| tls_server_end_point(c)),
            Stream::TlsAccepted(_) | Stream::Tcp(_) | Stream::Unix(_) => None,
        };
        match hash {
            Some(hash) if plus => Ok(ClientBinding::EndPoint(hash)),
            Some(_) if plain => Ok(ClientBinding::NotOffered),
            None if plain => Ok(ClientBinding::Unsupported),
            _ => Err(AuthenticationFault::NoMechanism.into()),
        }
    }
}

fn nonce() -> Result<String, ConnectError> {
    let mut random = [0; NONCE_BYTES];
    rand::fill(&mut random).map_err(|_| ConnectError::Lost(io::Error::other("no randomness to be had")))?;
    Ok(STANDARD.encode(random))
}

async fn respond(challenge: scram::Challenge) -> Result<(Vec<u8>, scram::ClientVerify), ConnectError> {
    let is_dear = challenge.rounds().is_some_and(|rounds| rounds > MAX_INLINE_ROUNDS);
    let response: Result<_, ScramError> = if is_dear {
        tokio::task::spawn_blocking(|| challenge.respond())
            .await
            .map_err(|e| ConnectError::Lost(io::Error::other(e)))?
    } else {
        challenge.respond()
    };
    Ok(response.map_err(AuthenticationFault::Scram)?)
}
