//! One connected stream, whatever carries it.
//!
//! Invariant: `poll_read_ready` never reports "not ready" while TLS holds decrypted bytes back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::{CommonState, pki_types::CertificateDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// What a peer may send ahead while it must wait, and still be seen to leave.
const SENT_AHEAD: usize = 4096;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// We are the TLS server: a client of ours.
    TlsAccepted(Box<server::TlsStream<TcpStream>>),
    /// We are the TLS client: a PostgreSQL server.
    TlsConnected(Box<client::TlsStream<TcpStream>>),
}

impl Stream {
    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::TlsAccepted(_) | Stream::TlsConnected(_))
    }

    /// Whom it leads to; none over a Unix socket, or once it is broken.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Stream::Tcp(tcp) => tcp.peer_addr().ok(),
            Stream::TlsAccepted(tls) => tls.get_ref().0.peer_addr().ok(),
            Stream::TlsConnected(tls) => tls.get_ref().0.peer_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// Its socket, if it is one of TCP.
    pub fn tcp(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Stream::Tcp(tcp) => Some(tcp.as_fd()),
            Stream::TlsAccepted(tls) => Some(tls.get_ref().0.as_fd()),
            Stream::TlsConnected(tls) => Some(tls.get_ref().0.as_fd()),
            Stream::Unix(_) => None,
        }
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Stream::Unix(_))
    }

    /// The TLS session's state, if there is one.
    pub fn tls_state(&self) -> Option<&CommonState> {
        match self {
            Stream::TlsAccepted(tls) => Some(tls.get_ref().1),
            Stream::TlsConnected(tls) => Some(tls.get_ref().1),
            Stream::Tcp(_) | Stream::Unix(_) => None,
        }
    }

    /// The certificate the peer proved to hold.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.tls_state()?.peer_certificates()?.first()
    }

    /// Ready when a read would return something at once: bytes, the end, or an error.
    /// May report ready when there is nothing after all; the read then says so.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(tcp) => tcp.poll_read_ready(cx),
            Stream::Unix(unix) => unix.poll_read_ready(cx),
            // What rustls has decrypted is not in the socket any more; the reader drains it before
            // it comes here, so the socket alone decides.
            Stream::TlsAccepted(tls) => tls.get_ref().0.poll_read_ready(cx),
            Stream::TlsConnected(tls) => tls.get_ref().0.poll_read_ready(cx),
        }
    }

    /// Whether its socket was heard to have something since it was last read empty. Unlike `poll_read_ready` it has nobody
    /// woken, and so takes no lock.
    pub fn may_be_read(&self) -> bool {
        let heard = |tcp: &TcpStream| tcp.try_io(Interest::READABLE, || Ok(())).is_ok();
        match self {
            Stream::Tcp(tcp) => heard(tcp),
            Stream::Unix(unix) => unix.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Stream::TlsAccepted(tls) => heard(tls.get_ref().0),
            Stream::TlsConnected(tls) => heard(tls.get_ref().0),
        }
    }

    /// Returns once the peer has left. What it sends ahead meanwhile is kept: whoever sends very much is
    /// read no further, and its end is not seen. Cancel safe.
    pub async fn ended(&mut self, ahead: &mut BytesMut) {
        while ahead.len() < SENT_AHEAD {
            match self.read_buf(ahead).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
            Stream::TlsAccepted(tls) => {
                // A peer that hangs up without close_notify is an end like any other here: the
                // protocol has its own Terminate.
                match ready!(Pin::new(tls).poll_read(cx, buf)) {
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                    result => Poll::Ready(result),
                }
            }
            Stream::TlsConnected(tls) => match ready!(Pin::new(tls).poll_read(cx, buf)) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                result => Poll::Ready(result),
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Unix(unix) => Pin::new(unix).poll_write(cx, bytes),
            Stream::TlsAccepted(tls) => Pin::new(tls).poll_write(cx, bytes),
            Stream::TlsConnected(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // Sockets have no buffer of their own to flush.
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::TlsAccepted(tls) => Pin::new(tls).poll_flush(cx),
            Stream::TlsConnected(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
            Stream::TlsAccepted(tls) => Pin::new(tls).poll_shutdown(cx),
            Stream::TlsConnected(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
