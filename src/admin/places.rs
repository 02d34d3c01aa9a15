//! How many may be connected for admin pages, and how long.
//!
//! Scrapers and load balancers are few; whoever opens more would otherwise use up the file descriptors that clients
//! need. Invariant: connections that say nothing keep nobody out, wherever they come from, for longer than a moment.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use crate::client::unauthenticated::{Guard, Unauthenticated};

/// At a time, each of the listeners.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// Of them, from one address: no host takes all the places.
const MAX_OF_ADDRESS: usize = 16;
/// For its first byte, behind the handshake where there is one.
const MAX_SILENCE: Duration = Duration::from_secs(3);
/// A connection is closed after this, whatever it does: a slow one holds its place no longer.
const MAX_LIFE: Duration = Duration::from_secs(30);

/// Where a connection comes from.
pub(super) trait Origin: std::fmt::Debug {
    /// None: from this host, by a file that says who may.
    fn address(&self) -> Option<IpAddr>;
}

impl Origin for SocketAddr {
    fn address(&self) -> Option<IpAddr> {
        Some(self.ip())
    }
}

impl Origin for tokio::net::unix::SocketAddr {
    fn address(&self) -> Option<IpAddr> {
        None
    }
}

/// A listener that takes only so many connections at a time.
pub(super) struct Bounded<L> {
    listener: L,
    places: Arc<Semaphore>,
    shares: Arc<Unauthenticated>,
}

impl<L> Bounded<L> {
    pub(super) fn new(listener: L) -> Self {
        Bounded {
            listener,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            shares: Unauthenticated::new(MAX_OF_ADDRESS, MAX_CONNECTIONS),
        }
    }
}

impl<L: Listener> Listener for Bounded<L>
where
    L::Addr: Origin,
{
    type Io = Placed<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // Taken before accepting: what finds no place waits in the kernel's backlog, which is bounded.
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            let (io, address) = self.listener.accept().await;
            let share = address.address().map(|ip| self.shares.admit(ip));
            if matches!(share, Some(None)) {
                tracing::debug!(?address, "an admin connection is refused: its address has enough");
                continue;
            }
            let end = Box::pin(tokio::time::sleep(MAX_SILENCE));
            let dies = Instant::now() + MAX_LIFE;
            return (Placed { io, end, dies, _place: (place, share.flatten()) }, address);
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection with its place and its end.
pub(super) struct Placed<S> {
    io: S,
    end: Pin<Box<Sleep>>,
    /// When it ends in any case, once it has said something.
    dies: Instant,
    _place: (OwnedSemaphorePermit, Option<Guard>),
}

impl<S> Placed<S> {
    fn expired(&mut self, cx: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(cx).is_ready()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Placed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.expired(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before && self.end.deadline() < self.dies {
            let dies = self.dies;
            self.end.as_mut().reset(dies);
            // To be woken by it.
            if self.expired(cx) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Placed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.expired(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
