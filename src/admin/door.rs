//! The door that leads from the network to all admin pages: TLS with the node's certificate, and a token.
//!
//! Owns what is read of both, and reads it again. Never answers a request itself but to refuse it. Invariants: nothing of
//! a request but its head is read before its token was found right; a reading that fails changes nothing.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use super::refused::Refused;
use super::token::{Expected, Token, TokenError};
use crate::clock::now_ms;
use crate::config;
use crate::net::tls::{self, TlsConfigError};
use crate::telemetry::seldom::Seldom;

#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error("admin.token_file: {0}")]
    Token(#[from] TokenError),
    #[error("TLS of admin.tls_address: {0}")]
    Tls(#[from] TlsConfigError),
}

pub struct Door {
    files: Files,
    open: RwLock<Arc<Open>>,
    refused: Seldom,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    token: PathBuf,
}

struct Open {
    tls: TlsAcceptor,
    expected: Expected,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("certificate", &self.files.certificate).finish_non_exhaustive()
    }
}

impl Files {
    fn read(&self) -> Result<Open, DoorError> {
        let expected = Expected::new(&Token::read(&self.token)?);
        let tls = TlsAcceptor::from(tls::https_server(&self.certificate, &self.key)?);
        Ok(Open { tls, expected })
    }
}

impl Door {
    /// None: none is configured.
    pub fn load(admin: &config::Admin) -> Result<Option<(SocketAddr, Arc<Door>)>, DoorError> {
        let config::Admin { tls_address: Some(address), .. } = admin else { return Ok(None) };
        // That they are there was checked with the configuration.
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
        let files = Files {
            certificate: path(&admin.cert_file),
            key: path(&admin.key_file),
            token: path(&admin.token_file),
        };
        let door = Door { open: RwLock::new(Arc::new(files.read()?)), files, refused: Seldom::default() };
        Ok(Some((*address, Arc::new(door))))
    }

    /// Reads certificate, key and token again. Connections that are there keep what they were made with.
    pub fn reload(&self) -> Result<(), DoorError> {
        let new = Arc::new(self.files.read()?);
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    fn open(&self) -> Arc<Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn complain(&self) {
        if let Some(refused) = self.refused.happens(now_ms()) {
            tracing::warn!(refused, "requests to admin.tls_address came without the right token");
        }
    }
}

/// Lets requests through that bring the token.
pub async fn admit(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let header =
        request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, presented) = header.split_once(' ').unwrap_or_default();
    let right = door.open().expected.admits(presented);
    if right && scheme.eq_ignore_ascii_case("bearer") {
        return next.run(request).await;
    }
    door.complain();
    Refused::unauthorized("this takes the token that is in admin.token_file of this node: give --token-file")
        .into_response()
}

/// Connections whose handshake happens when they are first read, so that a slow one keeps nobody waiting.
pub struct TlsListener {
    pub tcp: TcpListener,
    pub door: Arc<Door>,
}

impl Listener for TlsListener {
    type Io = Tls;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (tcp, address) = Listener::accept(&mut self.tcp).await;
        (Tls(Stage::Shaking(Box::new(self.door.open().tls.accept(tcp)))), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

pub struct Tls(Stage);

enum Stage {
    Shaking(Box<Accept<TcpStream>>),
    Open(Box<TlsStream<TcpStream>>),
    Failed,
}

impl Tls {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut TlsStream<TcpStream>>> {
        if let Stage::Shaking(accept) = &mut self.0 {
            match ready!(Pin::new(accept).poll(cx)) {
                Ok(stream) => self.0 = Stage::Open(Box::new(stream)),
                Err(error) => {
                    tracing::debug!(%error, "an admin client's TLS handshake failed");
                    self.0 = Stage::Failed;
                    return Poll::Ready(Err(error));
                }
            }
        }
        match &mut self.0 {
            Stage::Open(stream) => Poll::Ready(Ok(stream)),
            Stage::Shaking(_) | Stage::Failed => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.poll_open(cx))?).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(ready!(self.poll_open(cx))?).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Stage::Open(stream) => Pin::new(stream).poll_flush(cx),
            Stage::Shaking(_) | Stage::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Stage::Open(stream) => Pin::new(stream).poll_shutdown(cx),
            Stage::Shaking(_) | Stage::Failed => Poll::Ready(Ok(())),
        }
    }
}
