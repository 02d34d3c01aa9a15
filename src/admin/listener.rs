//! Where the admin pages are served: a TCP address, a Unix socket, an address with TLS, or some of them.
//!
//! Owns the socket file. Invariant: a socket file that another process listens on is never removed,
//! and ours is never open to another user, not for a moment.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AdminState;
use super::door::{Door, DoorError, TlsListener};
use crate::config;

/// Connections at a time, each of the listeners. Scrapers and load balancers are few; whoever
/// opens more would otherwise use up the file descriptors that clients need.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// A connection is closed after this, whatever it does: a slow or silent one holds its place no longer.
const MAX_CONNECTION_LIFE: std::time::Duration = std::time::Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen for admin requests on {address}: {source}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("cannot listen for admin requests on {}: {source}", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("another process listens on {} already", path.display())]
    InUse { path: PathBuf },
    #[error("{} is in the way and is no socket", path.display())]
    NoSocket { path: PathBuf },
    #[error(transparent)]
    Door(#[from] DoorError),
}

/// Bound, not yet serving: a start that fails should fail before anything else happens.
#[derive(Debug)]
pub struct AdminListener {
    tcp: Option<TcpListener>,
    unix: Option<(UnixListener, SocketFile)>,
    tls: Option<(TcpListener, Arc<Door>)>,
}

impl AdminListener {
    /// Each is optional; with none, `serve` just waits.
    pub async fn bind(admin: &config::Admin) -> Result<Self, BindError> {
        let tcp = match admin.address {
            Some(address) => Some(bind_tcp(address).await?),
            None => None,
        };
        let tls = match Door::load(admin)? {
            Some((address, door)) => Some((bind_tcp(address).await?, door)),
            None => None,
        };
        let unix = match &admin.socket {
            Some(path) => Some(bind_unix(path).await?),
            None => None,
        };
        Ok(AdminListener { tcp, unix, tls })
    }

    /// The TCP address in fact bound, which matters when port 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.local_addr().ok()
    }

    /// The same of the one with TLS.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls.as_ref()?.0.local_addr().ok()
    }

    /// What is read again on a reload.
    pub fn door(&self) -> Option<Arc<Door>> {
        self.tls.as_ref().map(|(_, door)| door.clone())
    }
}

/// Serves until dropped; the socket file goes with it.
pub async fn serve(listener: AdminListener, state: AdminState) {
    let AdminListener { tcp, unix, tls } = listener;
    let (unix, _file) = unix.map_or((None, None), |(listener, file)| (Some(listener), Some(file)));
    let (read_only, full) = (super::read_only(state.clone()), super::full(state.clone()));
    let behind_door = async {
        if let Some((tcp, door)) = tls {
            let router = super::behind(door.clone(), state);
            serve_one(Some(TlsListener { tcp, door }), router).await;
        }
    };
    tokio::join!(serve_one(tcp, read_only), serve_one(unix, full), behind_door, std::future::pending::<()>());
}

async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError::Tcp { address, source })
}

async fn serve_one<L>(listener: Option<L>, router: Router)
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let Some(listener) = listener else { return };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    if let Err(error) = axum::serve(Bounded { listener, places }, router).await {
        tracing::error!(%error, "admin requests are not served any more");
    }
}

/// The file of a Unix socket, removed when we stop, if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.device_and_inode);
        if still_ours {
            // If it cannot be removed, the next start finds it stale and removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    let unix = |source| BindError::Unix { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => match UnixStream::connect(path).await {
            // Nobody listens any more: it was left by a process that was killed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(unix)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A full backlog says EAGAIN: somebody listens. In doubt it is in use.
            Ok(_) | Err(_) => return Err(BindError::InUse { path: path.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unix(error)),
    }
    // Bound inside a directory only we can enter, its mode set, then linked to its place (which, unlike a
    // rename, replaces nothing): the umask
    // belongs to the whole process and must not be changed beside other threads.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let private = tempfile::Builder::new().prefix(".komainu-").tempdir_in(parent).map_err(unix)?;
    let staged = private.path().join("s");
    let listener = UnixListener::bind(&staged).map_err(unix)?;
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o600)).map_err(unix)?;
    let metadata = std::fs::symlink_metadata(&staged).map_err(unix)?;
    std::fs::hard_link(&staged, path).map_err(unix)?;
    let device_and_inode = (metadata.dev(), metadata.ino());
    Ok((listener, SocketFile { path: path.to_owned(), device_and_inode }))
}

/// A listener that takes only so many connections at a time.
struct Bounded<L> {
    listener: L,
    places: Arc<Semaphore>,
}

impl<L: Listener> Listener for Bounded<L> {
    type Io = Placed<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // Taken before accepting: what finds no place waits in the kernel's backlog, which is bounded.
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (io, address) = self.listener.accept().await;
        let end = Box::pin(tokio::time::sleep(MAX_CONNECTION_LIFE));
        (Placed { io, end, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection with its place and its end.
struct Placed<S> {
    io: S,
    end: Pin<Box<tokio::time::Sleep>>,
    _place: OwnedSemaphorePermit,
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
        Pin::new(&mut self.io).poll_read(cx, buf)
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
