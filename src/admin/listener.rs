//! Where the admin pages are served: a TCP address, a Unix socket, an address with TLS, or some of them.
//!
//! Invariant: ours is never open to another user, not for a moment.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use tokio::net::{TcpListener, UnixListener};

use super::AdminState;
use super::door::{Door, DoorError, TlsListener};
use super::places::{Bounded, Origin};
use crate::config;
use crate::net::socket_file::{self, SocketFile, SocketFileError};

const OWNER_ONLY: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen for admin requests on {address}: {source}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("cannot listen for admin requests on {}: {source}", path.display())]
    Unix { path: PathBuf, source: SocketFileError },
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
            Some(path) => {
                let bound = socket_file::bind(path, OWNER_ONLY).await;
                Some(bound.map_err(|source| BindError::Unix { path: path.clone(), source })?)
            }
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
    L::Addr: Origin,
{
    let Some(listener) = listener else { return };
    if let Err(error) = axum::serve(Bounded::new(listener), router).await {
        tracing::error!(%error, "admin requests are not served any more");
    }
}
