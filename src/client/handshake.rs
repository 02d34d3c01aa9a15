//! From a new connection to an authenticated client, or to its end.
//!
//! Owns the order of the first packets: encryption requests, TLS, cancel request, startup, login. Sends everything
//! up to AuthenticationOk, which it leaves in `Authenticated::pending` so that it goes out together with
//! what the session says first. Invariant: a request is answered once, and after the startup
//! packet only the messages of the login are read, so that nobody can become another user halfway
//! (CVE-2026-107350).
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>.

use std::sync::Arc;

use bytes::BytesMut;
use rustls::ServerConfig;
use tokio::time::Duration;

use super::auth::{self, ServerLogin};
use super::error::HandshakeError;
use super::hba::Hba;
use super::link::Link;
use super::secrets::Secrets;
use crate::config::ClientTlsMode;
use crate::net::Stream;
use crate::net::channel_binding::tls_server_end_point;
use crate::net::tls::{ALPN, ClientTlsContext};
use crate::telemetry::line::one_line;
use crate::wire::startup::{self, Cancel, Packet, Replication, Startup};

/// What handshakes need to know; a new one is made when the configuration is read again.
#[derive(Debug, Clone)]
pub struct HandshakeContext {
    pub(super) hba: Arc<Hba>,
    pub(super) secrets: Arc<Secrets>,
    tls: Option<ClientTlsContext>,
    /// Hash of our certificate, for channel binding. None: no TLS, or a certificate for which none is defined.
    pub(super) end_point: Option<Vec<u8>>,
    startup_timeout: Duration,
}

impl HandshakeContext {
    /// `startup_timeout` is for the whole handshake, TLS included. What a lookup on a server takes is not the client's.
    pub fn new(
        hba: Arc<Hba>,
        secrets: Arc<Secrets>,
        tls: Option<ClientTlsContext>,
        startup_timeout: Duration,
    ) -> Self {
        let end_point = tls.as_ref().and_then(|tls| tls_server_end_point(&tls.certificate_der));
        HandshakeContext { hba, secrets, tls, end_point, startup_timeout }
    }
}

#[derive(Debug)]
pub enum Outcome {
    /// Gets no answer. Keep the connection until the request was carried out: a client takes its end for
    /// the sign that nothing it sends from now on will be hit.
    Cancel(Cancel, Stream),
    Client(Box<Authenticated>),
}

/// A client that proved who it is.
#[derive(Debug)]
pub struct Authenticated {
    pub stream: Stream,
    pub user: String,
    pub database: String,
    pub replication: Replication,
    /// Run-time parameters of the startup packet and its `options`, in the order in which they take effect.
    pub parameters: Vec<(String, String)>,
    /// Of protocol 3: 0 to 2. From 2 on a cancel key may have more than 4 bytes.
    pub protocol_minor: u16,
    pub login: ServerLogin,
    /// Ends with AuthenticationOk. To be sent before anything else.
    pub pending: BytesMut,
    /// What the client sent ahead; empty for most. To be read before the stream.
    pub received: BytesMut,
}

impl Authenticated {
    pub fn application_name(&self) -> &str {
        let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("application_name");
        self.parameters.iter().find(named).map_or("", |(_, value)| value)
    }
}

/// Leads a new connection through its handshake, within `startup_timeout` and what a lookup on a server takes. When it fails the client has been told
/// what it may know, and the log why. `has_room` is asked for one that wants to log in, not for one that cancels.
/// Not cancel safe: dropping it drops the connection.
pub async fn handshake(
    stream: Stream,
    context: &HandshakeContext,
    has_room: impl FnOnce() -> bool,
) -> Result<Outcome, HandshakeError> {
    let link = Link::new(stream, context.startup_timeout);
    let address = link.address();
    let result = run(link, context, has_room).await;
    if let Err(error) = &result {
        let address = address.map_or("[local]".to_owned(), |address| address.to_string());
        let error_text = one_line(error);
        if error.is_hang_up() {
            tracing::debug!(%address, error = error_text, "client left in the handshake");
        } else {
            tracing::warn!(%address, error = error_text, "login refused");
        }
    }
    result
}

/// Encryption requests seen so far.
#[derive(Debug, Default)]
struct Requests {
    ssl: bool,
    gssenc: bool,
}

/// What the packet just read asks for.
enum Next {
    Packet,
    Tls(Arc<ServerConfig>),
    Cancel(Cancel),
    Login(Startup),
}

async fn run(
    mut link: Link,
    context: &HandshakeContext,
    has_room: impl FnOnce() -> bool,
) -> Result<Outcome, HandshakeError> {
    let mut requests = Requests::default();
    if let Some(config) = offered_tls(&link, context)
        && link.begins_with_tls().await?
    {
        link = link.accept_tls(config, true).await?;
        let protocol = link.stream().tls_state().and_then(|tls| tls.alpn_protocol());
        if protocol != Some(ALPN) {
            return refused(link, HandshakeError::NoAlpn).await;
        }
    }
    loop {
        let startup = match first_packet(&mut link, &mut requests, context).await {
            Ok(Next::Packet) => continue,
            Ok(Next::Tls(config)) => {
                link = link.accept_tls(config, false).await?;
                continue;
            }
            Ok(Next::Cancel(cancel)) => return Ok(Outcome::Cancel(cancel, link.into_parts().0)),
            Ok(Next::Login(startup)) => startup,
            Err(error) => return refused(link, error).await,
        };
        // Said behind TLS if it is to be TLS: before that a client shows nothing (CVE-2024-10977).
        if !has_room() {
            return refused(link, HandshakeError::TooManyClients).await;
        }
        return match log_in(&mut link, &startup, context).await {
            Ok(login) => Ok(Outcome::Client(Box::new(authenticated(link, startup, login)))),
            Err(error) => refused(link, error).await,
        };
    }
}

async fn refused(link: Link, error: HandshakeError) -> Result<Outcome, HandshakeError> {
    link.refuse(&error).await;
    Err(error)
}

fn offered_tls(link: &Link, context: &HandshakeContext) -> Option<Arc<ServerConfig>> {
    let tls = context.tls.as_ref().filter(|tls| tls.mode != ClientTlsMode::Off)?;
    matches!(link.stream(), Stream::Tcp(_)).then(|| Arc::clone(&tls.config))
}

async fn first_packet(
    link: &mut Link,
    requests: &mut Requests,
    context: &HandshakeContext,
) -> Result<Next, HandshakeError> {
    let body = link.read_startup().await?;
    match startup::parse(&body)? {
        Packet::SslRequest => {
            if requests.ssl || link.stream().is_tls() {
                return Err(HandshakeError::RepeatedRequest("SSLRequest"));
            }
            requests.ssl = true;
            if link.has_unread_bytes() {
                return Err(HandshakeError::BytesBeforeTls);
            }
            match offered_tls(link, context) {
                Some(config) => Ok(Next::Tls(config)),
                None => say_no(link).await,
            }
        }
        Packet::GssEncRequest => {
            if requests.gssenc || link.stream().is_tls() {
                return Err(HandshakeError::RepeatedRequest("GSSENCRequest"));
            }
            requests.gssenc = true;
            say_no(link).await
        }
        Packet::Cancel(cancel) => Ok(Next::Cancel(cancel)),
        Packet::Startup(startup) => Ok(Next::Login(startup)),
    }
}

async fn say_no(link: &mut Link) -> Result<Next, HandshakeError> {
    link.output.extend_from_slice(b"N");
    link.flush().await?;
    Ok(Next::Packet)
}

async fn log_in(
    link: &mut Link,
    startup: &Startup,
    context: &HandshakeContext,
) -> Result<ServerLogin, HandshakeError> {
    // A Unix socket does not leave the machine.
    let exposed = !link.stream().is_tls() && !link.stream().is_unix();
    match context.tls.as_ref().map_or(ClientTlsMode::Off, |tls| tls.mode) {
        ClientTlsMode::Require | ClientTlsMode::Verify if exposed => return Err(HandshakeError::TlsRequired),
        ClientTlsMode::Verify if link.stream().is_tls() && link.stream().peer_certificate().is_none() => {
            return Err(HandshakeError::NoCertificate);
        }
        _ => {}
    }
    startup.encode_negotiation(&mut link.output).expect("it is shorter than the packet it answers");
    auth::authenticate(link, startup, context).await
}

fn authenticated(link: Link, startup: Startup, login: ServerLogin) -> Authenticated {
    let protocol_minor = startup.spoken_minor();
    let (stream, received, pending) = link.into_parts();
    // An idle client is to hold no buffer.
    let received = if received.is_empty() { BytesMut::new() } else { received };
    Authenticated {
        stream,
        user: startup.user,
        database: startup.database,
        replication: startup.replication,
        parameters: startup.parameters,
        protocol_minor,
        login,
        pending,
        received,
    }
}

#[cfg(test)]
mod tests;
