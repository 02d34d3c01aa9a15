//! Calls to one peer.
//!
//! Owns the connections to it, by lane, and when to dial again. Invariant: a connection is used again only after a whole
//! answer came on it, so an answer always belongs to the question before it.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::context::PeerContext;
use super::error::CallError;
use super::frame::{self, FrameError};
use super::hello::{Hello, MAX_HELLO, Welcome};
use super::server::{Call, Reply};
use crate::net::{self, Stream};
use crate::pki::{Certificate, NodeName};

/// What must not wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats, votes, leases: short, and nothing else goes well while they wait.
    Urgent,
    /// What people and programs ask for.
    Ordinary,
    /// Snapshots.
    Bulk,
}

impl Lane {
    /// Requests under way at a time; further ones wait their turn.
    const fn places(self) -> usize {
        match self {
            Lane::Urgent => 4,
            Lane::Ordinary => 8,
            Lane::Bulk => 1,
        }
    }
}

#[derive(Debug)]
pub struct Link {
    context: Arc<PeerContext>,
    peer: NodeName,
    host: String,
    port: u16,
    urgent: Connections,
    ordinary: Connections,
    bulk: Connections,
    dialling: Mutex<Dialling>,
    /// What the peer showed last.
    certificate: Mutex<Option<Certificate>>,
}

#[derive(Debug)]
struct Connections {
    places: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Connection {
    stream: TlsStream<TcpStream>,
    opened: Instant,
    used: Instant,
}

#[derive(Debug, Default)]
struct Dialling {
    failures: u32,
    /// The last attempt's, if it failed.
    failure: Option<(Instant, String)>,
}

impl Link {
    pub fn new(context: Arc<PeerContext>, peer: NodeName, host: String, port: u16) -> Self {
        Link {
            context,
            peer,
            host,
            port,
            urgent: Connections::new(Lane::Urgent),
            ordinary: Connections::new(Lane::Ordinary),
            bulk: Connections::new(Lane::Bulk),
            dialling: Mutex::default(),
            certificate: Mutex::default(),
        }
    }

    pub fn context(&self) -> &PeerContext {
        &self.context
    }

    pub fn peer(&self) -> &NodeName {
        &self.peer
    }

    /// Why the peer could not be reached at the last attempt; None: it could.
    pub fn failure(&self) -> Option<String> {
        self.with_dialling(|dialling| dialling.failure.as_ref().map(|(_, reason)| reason.clone()))
    }

    /// None: it was never reached.
    pub fn peer_certificate(&self) -> Option<Certificate> {
        self.certificate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks, and waits for the answer at most so long, waiting for a connection included. Dropping it is safe: the peer
    /// may act on it or not, as with any error of which [`CallError::is_before_sending`] does not hold.
    pub async fn call<Req, Resp>(
        &self,
        lane: Lane,
        request: &Req,
        within: Duration,
    ) -> Result<Resp, CallError>
    where
        Req: Serialize,
        Resp: DeserializeOwned,
    {
        let deadline = Instant::now() + within;
        match timeout_at(deadline, self.ask(lane, request, deadline)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Deadline { node: self.peer.node.clone(), within }),
        }
    }

    async fn ask<Req, Resp>(&self, lane: Lane, request: &Req, deadline: Instant) -> Result<Resp, CallError>
    where
        Req: Serialize,
        Resp: DeserializeOwned,
    {
        let limits = &self.context.limits;
        let connections = self.connections(lane);
        let _place = connections.places.acquire().await.expect("the semaphore is never closed");
        let mut connection = match connections.take(limits.max_age, limits.idle_timeout / 2) {
            Some(connection) => connection,
            None => self.dial().await?,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let within_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let call = Call { within_ms, request };
        let frame = frame::encode(&call, limits.max_frame).map_err(|error| match error {
            FrameError::Json(error) => CallError::Encode(error),
            _ => CallError::TooLong { max: limits.max_frame },
        })?;
        let node = || self.peer.node.clone();
        let broken = |error: FrameError| CallError::Broken { node: node(), source: error.into() };
        let stream = &mut connection.stream;
        frame::write(stream, &frame, limits.frame_timeout).await.map_err(broken)?;
        let body = frame::read(stream, limits.max_frame, limits.max_call, limits.frame_timeout)
            .await
            .map_err(broken)?;
        let not_understood =
            |error: FrameError| CallError::NotUnderstood { node: node(), reason: error.to_string() };
        let reply: Reply<Resp> = frame::decode(&body).map_err(not_understood)?;
        connections.put(connection);
        // It can be reached, whatever became of a dial on another lane.
        self.with_dialling(|dialling| *dialling = Dialling::default());
        match reply {
            Reply::Answer(answer) => Ok(answer),
            Reply::Failed(reason) => Err(CallError::Failed { node: node(), reason }),
        }
    }

    fn connections(&self, lane: Lane) -> &Connections {
        match lane {
            Lane::Urgent => &self.urgent,
            Lane::Ordinary => &self.ordinary,
            Lane::Bulk => &self.bulk,
        }
    }

    async fn dial(&self) -> Result<Connection, CallError> {
        let limits = &self.context.limits;
        if let Some((reason, retry_in)) =
            self.with_dialling(|dialling| dialling.pause(limits.max_backoff, limits.min_backoff))
        {
            let (node, address) = (self.peer.node.clone(), self.address());
            return Err(CallError::Waiting { node, address, reason, retry_in });
        }
        // Whoever waits for this may give up first; then it has failed too.
        let mut attempt = Attempt { link: self, outcome: Err("no answer".to_owned()) };
        let dialled = match timeout(limits.handshake_timeout, self.connect()).await {
            Ok(dialled) => dialled,
            Err(_) => Err(self.unreachable(format!("no answer within {:?}", limits.handshake_timeout))),
        };
        attempt.outcome = match &dialled {
            Ok(_) => Ok(()),
            Err(CallError::Unreachable { reason, .. } | CallError::Refused { reason, .. }) => {
                Err(reason.clone())
            }
            Err(other) => Err(other.to_string()),
        };
        dialled
    }

    async fn connect(&self) -> Result<Connection, CallError> {
        let PeerContext { local, tls, limits, admit } = &*self.context;
        let unreachable = |error: &dyn std::fmt::Display| self.unreachable(error.to_string());
        let tcp = match net::dial::dial(&self.host, self.port, &net::names::Names::default()).await {
            Ok(Stream::Tcp(tcp)) => tcp,
            Ok(_) => return Err(unreachable(&"peers talk over TCP only")),
            Err(error) => return Err(unreachable(&error)),
        };
        net::sockopt::give_up_unacknowledged(&tcp).map_err(|error| unreachable(&error))?;
        let name = ServerName::try_from(self.peer.dns()).map_err(|error| unreachable(&error))?;
        let mut stream =
            TlsConnector::from(tls.client()).connect(name, tcp).await.map_err(|error| unreachable(&error))?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let shown = shown.and_then(|leaf| Certificate::parse(leaf).ok());
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        let ours = local.hello();
        let within = limits.handshake_timeout;
        let exchange = async {
            frame::write(&mut stream, &frame::encode(&ours, MAX_HELLO)?, within).await?;
            let body = frame::read(&mut stream, MAX_HELLO, within, within).await?;
            frame::decode::<Welcome>(&body)
        };
        let refused =
            |reason| CallError::Refused { node: self.peer.node.clone(), address: self.address(), reason };
        match exchange.await {
            Ok(Welcome::Hello(hello)) => {
                // That it has the certificate of whom we dialled has been checked with the name.
                let body = serde_json::to_vec(&hello).map_err(|error| unreachable(&error))?;
                let hello = Hello::judge(&body, &self.peer, &ours).map_err(|error| unreachable(&error))?;
                admit(&hello).map_err(|reason| unreachable(&reason))?;
            }
            Ok(Welcome::Refused(reason)) => return Err(refused(reason)),
            Err(error) => return Err(unreachable(&error)),
        }
        let now = Instant::now();
        Ok(Connection { stream, opened: now, used: now })
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn unreachable(&self, reason: String) -> CallError {
        CallError::Unreachable { node: self.peer.node.clone(), address: self.address(), reason }
    }

    fn with_dialling<T>(&self, f: impl FnOnce(&mut Dialling) -> T) -> T {
        f(&mut self.dialling.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Connections {
    fn new(lane: Lane) -> Self {
        Connections { places: Semaphore::new(lane.places()), idle: Mutex::default() }
    }

    fn put(&self, mut connection: Connection) {
        connection.used = Instant::now();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    /// The one used last that is still good; the others are closed.
    fn take(&self, max_age: Duration, max_idle: Duration) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain_mut(|connection| {
            now < connection.opened + max_age && now < connection.used + max_idle && connection.is_quiet()
        });
        idle.pop()
    }
}

impl Connection {
    /// Nothing to be read, not even its end: the peer has neither closed it nor lost count.
    fn is_quiet(&mut self) -> bool {
        self.stream.read(&mut [0]).now_or_never().is_none()
    }
}

impl Dialling {
    /// Why and how long not to dial.
    fn pause(&self, max: Duration, min: Duration) -> Option<(String, Duration)> {
        let (at, reason) = self.failure.as_ref()?;
        let doubled = min.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        let left = (*at + doubled.min(max)).saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| (reason.clone(), left))
    }
}

/// An attempt to dial, noted when it is over, however it ends.
struct Attempt<'a> {
    link: &'a Link,
    outcome: Result<(), String>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        self.link.with_dialling(|dialling| match outcome {
            Ok(()) => *dialling = Dialling::default(),
            Err(reason) => {
                dialling.failures = dialling.failures.saturating_add(1);
                dialling.failure = Some((Instant::now(), reason));
            }
        });
    }
}
