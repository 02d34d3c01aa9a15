//! Takes connections of peers and answers their requests.
//!
//! Owns who gets in and how many. Invariant: a connection that has not shown whose it is takes one of few places, for
//! seconds, and no memory to speak of.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::context::PeerContext;
use super::frame::{self, FrameError};
use super::hello::{Hello, MAX_HELLO, Welcome};
use crate::client::unauthenticated::Unauthenticated;
use crate::net::sockopt;
use crate::pki::{Certificate, NodeName};

/// A lack of file descriptors does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The same refusal is logged again after that.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Who asks, as its certificate has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: String,
    pub incarnation: u64,
    /// Of its software; what it says.
    pub version: String,
    pub address: SocketAddr,
    pub certificate_ends: SystemTime,
}

/// What a request travels in.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Call<R> {
    /// The caller waits no longer than that, so nobody need work on it for longer.
    pub within_ms: u64,
    pub request: R,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply<R> {
    Answer(R),
    Failed(String),
}

struct Shared<H> {
    context: Arc<PeerContext>,
    handler: H,
    strangers: Arc<Unauthenticated>,
    connections: Arc<Semaphore>,
    of_peer: Arc<Mutex<HashMap<String, usize>>>,
    told: Mutex<HashMap<String, Instant>>,
}

/// Serves until dropped; then every connection is cut. `handler` is dropped in the middle when its time is up, so it must
/// be cancel safe.
pub async fn serve<Req, Resp, H, F>(listener: TcpListener, context: Arc<PeerContext>, handler: H)
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
    H: Fn(Arc<Peer>, Req) -> F + Send + Sync + 'static,
    F: Future<Output = Resp> + Send + 'static,
{
    let limits = context.limits;
    let shared = Arc::new(Shared {
        context,
        handler,
        strangers: Unauthenticated::new(limits.max_handshakes_of_address, limits.max_handshakes),
        connections: Arc::new(Semaphore::new(limits.max_connections)),
        of_peer: Arc::default(),
        told: Mutex::default(),
    });
    let options = sockopt::configure(&listener).and_then(|()| sockopt::give_up_unacknowledged(&listener));
    if let Err(error) = options {
        tracing::warn!(%error, "the socket for peers keeps its default options");
    }
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((tcp, address)) => {
                // Without a place it is closed without a word: whoever is a peer comes again.
                if let Some(guard) = shared.strangers.admit(address.ip()) {
                    tasks.spawn(connection(Arc::clone(&shared), tcp, address, guard));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a peer's connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<Req, Resp, H, F, G>(
    shared: Arc<Shared<H>>,
    tcp: TcpStream,
    address: SocketAddr,
    while_unknown: G,
) where
    Req: DeserializeOwned,
    Resp: Serialize,
    H: Fn(Arc<Peer>, Req) -> F,
    F: Future<Output = Resp>,
{
    let within = shared.context.limits.handshake_timeout;
    match timeout(within, shared.greet(tcp, address)).await {
        Ok(Ok((stream, peer, _place))) => {
            drop(while_unknown);
            tracing::debug!(peer = peer.node, %address, "a peer has connected");
            if let Err(error) = shared.converse(stream, &Arc::new(peer)).await {
                tracing::debug!(%address, %error, "a peer's connection has ended");
            }
        }
        Ok(Err(GreetError::Refused(reason))) => shared.tell(address, &reason),
        Ok(Err(GreetError::Frame(error))) => tracing::debug!(%address, %error, "no handshake with a peer"),
        Err(_) => tracing::debug!(%address, "no handshake with a peer in time"),
    }
}

#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Refused(String),
}

/// A peer's connection among those that it and all peers may have.
struct Place {
    of_peer: Arc<Mutex<HashMap<String, usize>>>,
    node: String,
    _connection: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_peer = self.of_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of_peer.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                of_peer.remove(&self.node);
            }
        }
    }
}

impl<H> Shared<H> {
    async fn greet(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Peer, Place), GreetError> {
        let PeerContext { local, tls, limits, .. } = &*self.context;
        let acceptor = TlsAcceptor::from(tls.server());
        let mut stream = acceptor.accept(tcp).await.map_err(FrameError::Io)?;
        let body =
            frame::read(&mut stream, MAX_HELLO, limits.handshake_timeout, limits.handshake_timeout).await?;
        let ours = local.hello();
        let outcome = self.judge(&stream, &body, &ours, address);
        let welcome = match &outcome {
            Ok(_) => Welcome::Hello(ours),
            Err(reason) => Welcome::Refused(reason.clone()),
        };
        let frame = frame::encode(&welcome, MAX_HELLO)?;
        frame::write(&mut stream, &frame, limits.handshake_timeout).await?;
        match outcome {
            Ok((peer, place)) => Ok((stream, peer, place)),
            Err(reason) => {
                // It has been told; a farewell that fails takes nothing from that.
                let _ = stream.shutdown().await;
                Err(GreetError::Refused(reason))
            }
        }
    }

    fn judge(
        &self,
        stream: &TlsStream<TcpStream>,
        body: &[u8],
        ours: &Hello,
        address: SocketAddr,
    ) -> Result<(Peer, Place), String> {
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| Certificate::parse(chain.first()?).ok())
            .ok_or("its certificate cannot be read")?;
        let own = self.context.local.name();
        let certified: &NodeName = certificate
            .node
            .as_ref()
            .filter(|name| name.cluster == own.cluster)
            .ok_or_else(|| format!("its certificate is of no node of cluster {}", own.cluster))?;
        let hello = Hello::judge(body, certified, ours).map_err(|refusal| refusal.to_string())?;
        (self.context.admit)(&hello)?;
        let place = self.place(&hello.node).ok_or("it has too many connections")?;
        let peer = Peer {
            node: hello.node,
            incarnation: hello.incarnation,
            version: hello.version,
            address,
            certificate_ends: certificate.not_after,
        };
        Ok((peer, place))
    }

    fn place(&self, node: &str) -> Option<Place> {
        let connection = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        let mut of_peer = self.of_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of_peer.entry(node.to_owned()).or_insert(0);
        if *count >= self.context.limits.max_connections_of_peer {
            return None;
        }
        *count += 1;
        Some(Place { of_peer: Arc::clone(&self.of_peer), node: node.to_owned(), _connection: connection })
    }

    async fn converse<Req, Resp, F>(
        &self,
        mut stream: TlsStream<TcpStream>,
        peer: &Arc<Peer>,
    ) -> Result<(), FrameError>
    where
        Req: DeserializeOwned,
        Resp: Serialize,
        H: Fn(Arc<Peer>, Req) -> F,
        F: Future<Output = Resp>,
    {
        let limits = &self.context.limits;
        let opened = Instant::now();
        // Its peer takes a new one after half of that.
        while opened.elapsed() < limits.max_age * 2 {
            let body =
                frame::read(&mut stream, limits.max_frame, limits.idle_timeout, limits.frame_timeout).await?;
            let reply = match frame::decode::<Call<Req>>(&body) {
                Ok(call) => {
                    drop(body);
                    let within = Duration::from_millis(call.within_ms).min(limits.max_call);
                    match timeout(within, (self.handler)(Arc::clone(peer), call.request)).await {
                        Ok(answer) => Reply::Answer(answer),
                        Err(_) => Reply::Failed(format!("not done within {within:?}")),
                    }
                }
                Err(error) => Reply::Failed(format!("the request is {error}")),
            };
            let frame = match frame::encode(&reply, limits.max_frame) {
                Ok(frame) => frame,
                Err(error) => {
                    frame::encode(&Reply::<Resp>::Failed(format!("the answer is {error}")), limits.max_frame)?
                }
            };
            frame::write(&mut stream, &frame, limits.frame_timeout).await?;
        }
        Ok(())
    }

    fn tell(&self, address: SocketAddr, reason: &str) {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now < *at + TELL_AGAIN);
        let key = format!("{} {reason}", address.ip());
        if told.insert(key, now).is_none() {
            tracing::warn!(%address, reason, "a peer was refused");
        }
    }
}
