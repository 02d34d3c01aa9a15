//! Opens a connection to a PostgreSQL server: transport, TLS as `sslmode` says, login.
//!
//! Owns the order of attempts and the SSLRequest. The login itself is `login`. Never retries what the
//! server refused for good, and has no deadline: the caller drops the future, which closes the socket.
//! Invariant: TLS begins right behind the server's single byte of answer, or not at all (CVE-2021-23222).

mod asked;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use komainu_escalation::passwords::Passwords;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use super::connect_error::{AuthenticationFault, ConnectError, ProtocolFault, Refusal, TlsFault};
use super::login;
use crate::config::SslMode;
use crate::net::Stream;
use crate::net::dial::{dial, dial_address};
use crate::net::tls::ServerTlsContext;
use crate::wire::scram;
use crate::wire::sqlstate;
use crate::wire::startup::{CANCEL_REQUEST, SSL_REQUEST};

/// Where a server is and how it wants to be spoken to.
#[derive(Debug, Clone)]
pub struct ConnectTarget {
    /// A name, an address, or (it starts with `/`) the directory of a Unix socket.
    pub host: Arc<str>,
    pub port: u16,
    pub tls: Arc<ServerTlsContext>,
}

/// Who logs in, and to what.
#[derive(Debug, Clone)]
pub struct Login {
    pub user: String,
    pub database: String,
    pub credential: Credential,
}

/// What we can prove. A server that asks for nothing is fine with each of them.
#[derive(Debug, Clone)]
pub enum Credential {
    None,
    Password(Secret),
    /// `md5…` as PostgreSQL stores it: all that a server that asks for MD5 wants to see proved.
    Md5(Secret),
    /// What a client's own SCRAM exchange proved; good where the server keeps the same verifier.
    ScramKeys(scram::Keys),
    /// Asked for when the connection is opened.
    Asked(Arc<dyn Passwords>),
    /// What `Asked` gave, good for this one login: it goes out as it is, so only to a server that was verified.
    Token(Secret),
}

impl Credential {
    /// Two that are asked for are the same: neither is older than the other.
    pub fn is_same(&self, other: &Credential) -> bool {
        match (self, other) {
            (Credential::None, Credential::None) | (Credential::Asked(_), Credential::Asked(_)) => true,
            (Credential::Password(one), Credential::Password(other))
            | (Credential::Md5(one), Credential::Md5(other))
            | (Credential::Token(one), Credential::Token(other)) => one == other,
            (Credential::ScramKeys(one), Credential::ScramKeys(other)) => one == other,
            _ => false,
        }
    }
}

/// A password, or what is worth one. Printing it does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A connection that is logged in and idle.
#[derive(Debug)]
pub struct Connected {
    pub stream: Stream,
    /// What came behind ReadyForQuery; normally nothing.
    pub buffered: BytesMut,
    /// 0 where the server named none: it cannot be asked to cancel then.
    pub pid: i32,
    /// 4 bytes; up to 256 from protocol 3.2 on.
    pub cancel_key: Bytes,
    /// ParameterStatus in the order they came.
    pub parameters: Vec<(String, String)>,
    /// `None`: not reported, as before PostgreSQL 14.
    pub in_hot_standby: Option<bool>,
    /// As `server_version_num`, 150003 for 15.3; 0 where it was not reported.
    pub server_version_num: u32,
    /// What a password came to in this server's SCRAM exchange. Logging in with these instead spares
    /// the rounds, until the server's verifier changes.
    pub scram_keys: Option<scram::Keys>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    /// Plain where the server does not speak TLS.
    IfOffered,
    Tls,
}

/// Connects and logs in. `startup_parameters` go beside `user` and `database`.
///
/// The caller applies the deadline; dropping the future closes the connection.
pub async fn connect(
    target: &ConnectTarget,
    login: &Login,
    startup_parameters: &[(&str, &str)],
) -> Result<Connected, ConnectError> {
    match &login.credential {
        Credential::Asked(passwords) => asked::connect(target, login, passwords, startup_parameters).await,
        _ => connect_with(target, login, startup_parameters).await,
    }
}

async fn connect_with(
    target: &ConnectTarget,
    login: &Login,
    startup_parameters: &[(&str, &str)],
) -> Result<Connected, ConnectError> {
    let startup = login::startup_message(login, startup_parameters)?;
    let attempt = async |encryption| {
        let stream = open(target, encryption).await?;
        login::log_in(stream, login, &startup, &target.tls).await
    };
    let (first, second) = match target.tls.mode() {
        SslMode::Disable => return attempt(Encryption::Plain).await,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => return attempt(Encryption::Tls).await,
        SslMode::Allow => (Encryption::Plain, Encryption::Tls),
        SslMode::Prefer => (Encryption::IfOffered, Encryption::Plain),
    };
    let error = match attempt(first).await {
        Err(error) if other_encryption_may_help(&error) && !target.host.starts_with('/') => error,
        outcome => return outcome,
    };
    match attempt(second).await {
        // The server's first word told more than that this way is closed, too.
        Err(again) if other_encryption_may_help(&again) => Err(error),
        outcome => outcome,
    }
}

/// A handshake that failed, or an HBA file that wants the other kind of connection. libpq tries again
/// after any refusal; a wrong password is not worth a second failed login.
fn other_encryption_may_help(error: &ConnectError) -> bool {
    match error {
        ConnectError::Tls(_) => true,
        ConnectError::Refused(refusal) => refusal.sqlstate == sqlstate::INVALID_AUTHORIZATION,
        _ => false,
    }
}

async fn open(target: &ConnectTarget, encryption: Encryption) -> Result<Stream, ConnectError> {
    let stream =
        dial(&target.host, target.port, target.tls.names()).await.map_err(ConnectError::Unreachable)?;
    encrypt(target, encryption, stream).await
}

/// The machine that the name meant when a connection was opened, whatever it means by now.
async fn open_again(
    target: &ConnectTarget,
    peer: Option<SocketAddr>,
    encryption: Encryption,
) -> Result<Stream, ConnectError> {
    let Some(peer) = peer else { return open(target, encryption).await };
    let stream = dial_address(peer).await.map_err(ConnectError::Unreachable)?;
    encrypt(target, encryption, stream).await
}

async fn encrypt(
    target: &ConnectTarget,
    encryption: Encryption,
    stream: Stream,
) -> Result<Stream, ConnectError> {
    match stream {
        // As libpq: `sslmode` says nothing about Unix sockets.
        Stream::Tcp(tcp) if encryption != Encryption::Plain => negotiate(target, encryption, tcp).await,
        stream => Ok(stream),
    }
}

async fn negotiate(
    target: &ConnectTarget,
    encryption: Encryption,
    mut tcp: tokio::net::TcpStream,
) -> Result<Stream, ConnectError> {
    let request = [8_u32.to_be_bytes(), SSL_REQUEST.to_be_bytes()].concat();
    tcp.write_all(&request).await.map_err(ConnectError::Lost)?;
    // The server has nothing to say before our ClientHello: a second byte is somebody's who hopes
    // that it will be taken for one from inside the tunnel.
    let mut answer = [0; 2];
    match (tcp.read(&mut answer).await.map_err(ConnectError::Lost)?, answer[0]) {
        (0, _) => Err(ConnectError::Lost(io::ErrorKind::UnexpectedEof.into())),
        // Not shown and not read on: who says it has proved nothing yet (CVE-2024-10977).
        (_, b'E') => Err(TlsFault::RequestFailed.into()),
        (2, _) => Err(TlsFault::BytesBeforeHandshake.into()),
        (_, b'S') => match target.tls.handshake(&target.host, tcp).await {
            Ok(stream) => Ok(stream),
            Err(e) => Err(TlsFault::Handshake(e).into()),
        },
        (_, b'N') if encryption == Encryption::IfOffered => Ok(Stream::Tcp(tcp)),
        (_, b'N') => Err(TlsFault::NotOffered.into()),
        (_, other) => Err(TlsFault::UnknownAnswer(other).into()),
    }
}

/// Asks the server, within this time, to cancel what the backend `pid` runs that a connection to `peer` leads to. Returns
/// when the server has passed it on; what came of it, the protocol does not tell. After an error it may still come to pass.
pub async fn cancel(
    target: &ConnectTarget,
    peer: Option<SocketAddr>,
    pid: i32,
    key: &[u8],
    within: Duration,
) -> Result<(), ConnectError> {
    tokio::time::timeout(within, send_cancel(target, peer, pid, key))
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

async fn send_cancel(
    target: &ConnectTarget,
    peer: Option<SocketAddr>,
    pid: i32,
    key: &[u8],
) -> Result<(), ConnectError> {
    let open = |encryption| open_again(target, peer, encryption);
    let mut stream = match target.tls.mode() {
        SslMode::Disable | SslMode::Allow => open(Encryption::Plain).await?,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => open(Encryption::Tls).await?,
        SslMode::Prefer => match open(Encryption::IfOffered).await {
            Err(ConnectError::Tls(_)) => open(Encryption::Plain).await?,
            outcome => outcome?,
        },
    };
    let mut request = BytesMut::with_capacity(12 + key.len());
    request
        .put_i32(i32::try_from(12 + key.len()).map_err(|_| ConnectError::Unsendable("cancel key too long"))?);
    request.put_u32(CANCEL_REQUEST);
    request.put_i32(pid);
    request.put_slice(key);
    stream.write_all(&request).await.map_err(ConnectError::Lost)?;
    stream.flush().await.map_err(ConnectError::Lost)?;
    // A server signals the backend before it closes. The end, or a reset: either way it is done with it.
    let _ = stream.read(&mut [0]).await;
    Ok(())
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod postgres_tests;
