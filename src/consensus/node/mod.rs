//! A node of a cluster: raft, elections, leases and the peers' port, on a thread of their own.
//!
//! Owns the thread and the order in which its parts begin and end. Never decides what is proposed, and never touches
//! PostgreSQL or AWS. Invariant: what the process is given of the replicated state is given before this node says to
//! anybody that it has applied it; so an applied fence is an obeyed one.

mod about;
mod core;
mod handle;
mod inbound;
mod joining;
mod keep_time;
mod lead;
mod life;
mod network;
mod rights;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot, watch};

pub use about::{About, ClockApart, Known};
pub use core::{GoesBy, Now, Wish};
pub use handle::{ClusterHandle, LeaseClock, NodeStatus, PeerStatus, ProposeError};
pub use inbound::CancelHere;
pub use rights::Leading;
pub use wire::{Address, Links, Order, Request, Response, Wire};

use crate::cluster::right::WriteRight;
use crate::cluster::state::MemberRole;
use crate::consensus::lease::LeaseSettings;
use crate::consensus::peer::{PeerFiles, PeerTlsError};
use crate::consensus::store::{Applied, StoreError};
use crate::pki::NodeName;
use handle::Shared;

/// Who this node is, and where its things are.
#[derive(Clone)]
pub struct NodeSettings {
    pub name: NodeName,
    pub role: MemberRole,
    /// Where the others reach it: `host:port`.
    pub address: String,
    /// Where it listens for them.
    pub listen: SocketAddr,
    /// The voters as configured, this node included if it is one. The first founds the cluster.
    pub voters: Vec<Address>,
    pub directory: PathBuf,
    pub files: PeerFiles,
    pub lease: LeaseSettings,
}

/// What the thread is given beside its settings.
pub struct Surroundings {
    pub now: Now,
    pub right: Arc<WriteRight>,
    pub cancel: CancelHere,
    /// Keeps candidates from coming in step; must differ between nodes.
    pub seed: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(
        "cannot listen for other nodes on {address}: {source}; choose another port for this [[node]], or end what uses it"
    )]
    Listen { address: SocketAddr, source: io::Error },
    #[error("certificates: {0}")]
    Tls(#[from] PeerTlsError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("cannot start the consensus thread: {0}")]
    Thread(#[from] io::Error),
}

/// Runs until it is dropped.
pub struct Node {
    handle: ClusterHandle,
    /// Closing it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Node {
    /// Starts the thread. What is wrong with the port or the certificates is said at once; what is wrong with the
    /// directory in the node's status.
    pub fn start(settings: NodeSettings, around: Surroundings) -> Result<Node, NodeError> {
        let listener = TcpListener::bind(settings.listen)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| NodeError::Listen { address: settings.listen, source })?;
        life::check_files(&settings)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (published, applied) = watch::channel(Arc::new(Applied::default()));
        let (present, core) = watch::channel(None);
        let standings = Standings::default();
        let shared = Arc::new(Shared {
            node: settings.name.node.clone(),
            now: around.now.clone(),
            applied,
            core,
            standings: standings.clone(),
            lease_ends_at_ms: Arc::new(AtomicU64::new(0)),
            runtime: runtime.handle().clone(),
            tls: Mutex::new(None),
            wishes: Arc::default(),
            unable: Arc::default(),
            configuration: Arc::default(),
            known: Mutex::default(),
            silent: Mutex::default(),
            cancels: Semaphore::new(handle::CANCELS),
        });
        let handle = ClusterHandle::new(shared.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("consensus".to_owned()).spawn(move || {
            runtime
                .block_on(life::live(&settings, &around, listener, &shared, &published, &present, stopped));
            runtime.shutdown_background();
        })?;
        Ok(Node { handle, stop: Some(stop), thread: Some(thread) })
    }

    pub fn handle(&self) -> ClusterHandle {
        self.handle.clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It has written everything as it went; a panic in it was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// What this node waits for, or what is wrong with it, in words; empty: nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Standings(Arc<Mutex<String>>);

impl Standings {
    /// Logs it when it is news.
    pub fn say(&self, text: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != text {
            match text.is_empty() {
                true => tracing::info!("this node takes part in its cluster"),
                false => {
                    tracing::warn!(waiting_for = text, "this node does not take part in its cluster yet")
                }
            }
            text.clone_into(&mut said);
        }
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
