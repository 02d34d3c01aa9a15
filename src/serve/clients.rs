//! Where clients arrive: sockets, their limits, and a task for each.
//!
//! Invariant: `max_client_connections` counts everybody from the login to the end of the session, and whoever is over it
//! is told so. Who has proved nothing takes no place away from those who have, and is counted apart; who cancels is not
//! counted: it must be possible when all places are taken.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::select_all;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::access::Access;
use super::vital::Fallen;
use crate::backend::connect::{Credential, Secret};
use crate::client::auth::ServerLogin;
use crate::client::error::HandshakeError;
use crate::client::handshake::{Authenticated, Outcome, handshake};
use crate::client::unauthenticated::Unauthenticated;
use crate::clock::now_ms;
use crate::config::Config;
use crate::consensus::node::ClusterHandle;
use crate::net::socket_file::{self, SocketFile, SocketFileError};
use crate::net::{Stream, sockopt};
use crate::session::login::{Asks, LoginError, Newcomer, log_in, send_last};
use crate::session::{Gateway, Session};
use crate::telemetry::labels::{CancelResult, LoginFailure};
use crate::telemetry::seldom::Seldom;
use crate::telemetry::span;
use crate::wire::message::Report;
use crate::wire::sqlstate;
use crate::wire::startup::{Cancel, Replication};

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address}: {source}; choose another address in listen.addresses, or end what uses it"
    )]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("cannot listen on {}: {source}", path.display())]
    Unix { path: PathBuf, source: SocketFileError },
}

/// The listening sockets; dropping it stops accepting.
pub struct Clients {
    addresses: Vec<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
    _socket_file: Option<SocketFile>,
}

struct Door {
    gateway: Arc<Gateway>,
    cluster: Option<ClusterHandle>,
    access: Arc<Access>,
    unauthenticated: Arc<Unauthenticated>,
    turned_away: Seldom,
    present: AtomicUsize,
}

/// One place under `max_client_connections`.
struct Place(Arc<Door>);

impl Place {
    /// None: all are taken.
    fn take(door: &Arc<Door>) -> Option<Self> {
        let max = door.gateway.settled().config.limits.max_client_connections;
        let one_more = |present| (present < max).then_some(present + 1);
        door.present.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Place(door.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection as the metrics count it: all of them, from the accept to the end.
struct Counted(Arc<Gateway>);

impl Counted {
    fn new(gateway: &Arc<Gateway>) -> Self {
        gateway.counters.client_connected();
        Counted(gateway.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.counters.client_gone();
    }
}

/// How many may be there who have not logged in yet. In a failover all whose user must be looked up wait among them.
pub fn most_unauthenticated(config: &Config) -> usize {
    config.limits.max_client_connections.max(config.limits.max_unauthenticated_per_address)
}

impl Clients {
    pub async fn listen(
        config: &Config,
        gateway: Arc<Gateway>,
        access: Arc<Access>,
        cluster: Option<ClusterHandle>,
    ) -> Result<Self, ListenError> {
        let door = Arc::new(Door {
            gateway,
            cluster,
            access,
            unauthenticated: Unauthenticated::new(
                config.limits.max_unauthenticated_per_address,
                most_unauthenticated(config),
            ),
            turned_away: Seldom::default(),
            present: AtomicUsize::new(0),
        });
        let mut clients = Clients { addresses: Vec::new(), tasks: Vec::new(), _socket_file: None };
        for &address in &config.listen.addresses {
            let listener = bind(address, config.listen.backlog)
                .map_err(|source| ListenError::Tcp { address, source })?;
            clients.addresses.push(listener.local_addr().unwrap_or(address));
            clients.tasks.push(tokio::spawn(accept_tcp(listener, door.clone())));
        }
        if let Some(directory) = &config.listen.unix_socket_directory {
            let port = config.listen.addresses.first().map_or(5432, SocketAddr::port);
            let path = directory.join(format!(".s.PGSQL.{port}"));
            let (listener, file) = socket_file::bind(&path, config.listen.unix_socket_mode)
                .await
                .map_err(|source| ListenError::Unix { path, source })?;
            clients._socket_file = Some(file);
            clients.tasks.push(tokio::spawn(accept_unix(listener, door)));
        }
        Ok(clients)
    }

    /// Stops accepting; when it returns, whoever connects is refused by the kernel.
    pub async fn close(mut self) {
        for task in &mut self.tasks {
            task.abort();
            // Ends when the task, and with it the socket, is gone.
            let _ = task.await;
        }
    }

    /// Waits until nobody is let in any more at one of the addresses, which should not be.
    pub async fn one_has_ended(&mut self) -> Fallen {
        if self.tasks.is_empty() {
            return std::future::pending().await;
        }
        Fallen::new("accepting clients", select_all(&mut self.tasks).await.0)
    }

    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // An IPv4 address is listened on when it is named, not by accident.
        socket.set_only_v6(true)?;
    }
    sockopt::configure(&socket)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

async fn accept_tcp(listener: TcpListener, door: Arc<Door>) {
    loop {
        match listener.accept().await {
            Ok((tcp, address)) => {
                tokio::spawn(receive(Stream::Tcp(tcp), Some(address), door.clone()));
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

async fn accept_unix(listener: UnixListener, door: Arc<Door>) {
    loop {
        match listener.accept().await {
            Ok((unix, _)) => {
                tokio::spawn(receive(Stream::Unix(unix), None, door.clone()));
            }
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// Out of files or memory: trying at once would only burn the processor.
async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a client");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn receive(stream: Stream, address: Option<SocketAddr>, door: Arc<Door>) {
    let peer = address.map_or_else(|| "[local]".to_owned(), |address| address.to_string());
    let Some(guard) = door.unauthenticated.admit(address.map(|address| address.ip())) else {
        return door.turn_away(&peer);
    };
    // Not before it has its place: whoever sees it counted may rely on that.
    let counted = Counted::new(&door.gateway);
    // What is large and short-lived is boxed here and below: it is gone when the session begins.
    let context = door.access.context();
    let outcome = Box::pin(handshake(stream, &context, || door.has_room())).await;
    drop(context);
    match outcome {
        // It has its place among those who are nobody yet until it has been done.
        Ok(Outcome::Cancel(request, stream)) => {
            Box::pin(cancel(&door, &request, stream)).await;
            drop(guard);
        }
        Ok(Outcome::Client(authenticated)) => {
            let place = Place::take(&door);
            drop(guard);
            let Some(place) = place else { return Box::pin(too_many(&door, authenticated, &peer)).await };
            door.access.confirm(&authenticated.user);
            let Some(session) = Box::pin(admit(&door, authenticated, peer)).await else { return };
            drop(door);
            session.run().await;
            drop((place, counted));
        }
        Err(error) => {
            drop(guard);
            if let HandshakeError::Password { user, .. } = &error {
                door.access.doubt(user);
            }
            if let Some(failure) = failure(&error) {
                door.gateway.counters.login_failed(failure);
            }
        }
    }
}

/// None: a client that just left, as psql does to ask for a password, was not refused.
fn failure(error: &HandshakeError) -> Option<LoginFailure> {
    if error.is_hang_up() {
        return None;
    }
    Some(match error {
        HandshakeError::Timeout => LoginFailure::Timeout,
        HandshakeError::TlsRequired | HandshakeError::PasswordWithoutTls => LoginFailure::TlsRequired,
        other => match other.answer().map(|answer| answer.state) {
            Some(sqlstate::INVALID_PASSWORD) => LoginFailure::Password,
            Some(sqlstate::INVALID_AUTHORIZATION) => LoginFailure::Hba,
            Some(sqlstate::CONNECTION_FAILURE | sqlstate::CANNOT_CONNECT_NOW) => LoginFailure::Server,
            Some(sqlstate::TOO_MANY_CONNECTIONS) => LoginFailure::TooManyConnections,
            _ => LoginFailure::Protocol,
        },
    })
}

/// All places were taken while it logged in.
async fn too_many(door: &Door, mut client: Box<Authenticated>, peer: &str) {
    door.gateway.counters.login_failed(LoginFailure::TooManyConnections);
    let error = HandshakeError::TooManyClients;
    tracing::warn!(address = peer, %error, "login refused");
    if let Some(answer) = error.answer() {
        answer.report().encode(&mut client.pending);
    }
    send_last(&mut client.stream, &client.pending).await;
}

async fn admit(door: &Door, client: Box<Authenticated>, peer: String) -> Option<Box<Session>> {
    let client = *client;
    let gateway = door.gateway.clone();
    let given = door.access.given(&client.user);
    let user = client.user.clone();
    let asks = Asks {
        user: client.user,
        database: client.database,
        parameters: client.parameters,
        credential: given.unwrap_or_else(|| credential(client.login)),
        peer,
    };
    let mut newcomer = Newcomer {
        stream: client.stream,
        asks,
        protocol_minor: client.protocol_minor,
        pending: client.pending,
        received: client.received,
    };
    if !matches!(client.replication, Replication::No) {
        let error = "komainu does not pass replication connections on";
        gateway.counters.login_failed(LoginFailure::Replication);
        let Asks { user, database, peer, .. } = &newcomer.asks;
        tracing::warn!(parent: &span::client(None, peer, user, database), error, "login refused");
        let mut out = std::mem::take(&mut newcomer.pending);
        Report::fatal(sqlstate::FEATURE_NOT_SUPPORTED, error)
            .hint("connect to the PostgreSQL server itself")
            .encode(&mut out);
        send_last(&mut newcomer.stream, &out).await;
        return None;
    }
    if door.leads_elsewhere() {
        gateway.counters.login_failed(LoginFailure::NotOwner);
        let mut out = std::mem::take(&mut newcomer.pending);
        Report::fatal(sqlstate::CANNOT_CONNECT_NOW, "this komainu node does not own the endpoint now")
            .hint(
                "connect again through the endpoint's address; endpoint.refuse_when_not_owner asks for this",
            )
            .encode(&mut out);
        send_last(&mut newcomer.stream, &out).await;
        return None;
    }
    let refused = |error: &LoginError| {
        gateway.counters.login_failed(LoginFailure::Server);
        if [sqlstate::INVALID_PASSWORD, sqlstate::INVALID_AUTHORIZATION].contains(&error.state) {
            door.access.forget(&user);
        }
    };
    log_in(gateway.clone(), newcomer, refused).await.inspect(|session| session.note_login())
}

/// What the client's proof, or its secret here, lets us log in to servers with.
fn credential(login: ServerLogin) -> Credential {
    match login {
        ServerLogin::Password(password) => Credential::Password(Secret::new(password)),
        ServerLogin::Md5(stored) => Credential::Md5(Secret::new(stored)),
        ServerLogin::ScramKeys(keys) => Credential::ScramKeys(keys),
        ServerLogin::None => Credential::None,
    }
}

async fn cancel(door: &Door, request: &Cancel, stream: Stream) {
    let pid = request.pid.cast_signed();
    let result = match (cancel_here(&door.gateway, pid, &request.key).await, &door.cluster) {
        (Some(result), _) => result,
        // An endpoint that moved, or a load balancer, brought it here instead of where the session is.
        (None, Some(cluster)) if cluster.cancel_elsewhere(pid, &request.key).await => CancelResult::PassedOn,
        (None, _) => CancelResult::UnknownKey,
    };
    door.gateway.counters.cancel_request(result);
    // The client takes the end of this connection for the sign that it is done.
    drop(stream);
}

/// None: no session of this process has the key.
pub async fn cancel_here(gateway: &Gateway, pid: i32, key: &[u8]) -> Option<CancelResult> {
    let slot = gateway.cancels.find(pid, key)?;
    if slot.refuse_waiting() {
        return Some(CancelResult::Sent);
    }
    let Some(under_way) = slot.begin_cancel() else { return Some(CancelResult::Idle) };
    if !gateway.cancel_on_server(&under_way.address).await {
        return Some(CancelResult::Failed);
    }
    under_way.taken();
    Some(CancelResult::Sent)
}

impl Door {
    fn has_room(&self) -> bool {
        self.present.load(Ordering::Acquire) < self.gateway.settled().config.limits.max_client_connections
    }

    /// It gets no answer, which would cost as much as a login.
    fn turn_away(&self, peer: &str) {
        let _counted = Counted::new(&self.gateway);
        self.gateway.counters.login_failed(LoginFailure::TooManyUnauthenticated);
        if let Some(count) = self.turned_away.happens(now_ms()) {
            tracing::warn!(
                count,
                address = peer,
                "connections are closed unanswered: as many as may be have not logged in yet; where many clients come from one address, raise limits.max_unauthenticated_per_address"
            );
        }
    }

    /// Whether clients are to be refused because the endpoint is another node's.
    fn leads_elsewhere(&self) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        let settled = self.gateway.settled();
        let mut refusing = settled.config.endpoints.iter().filter(|endpoint| endpoint.refuse_when_not_owner);
        let Some(first) = refusing.next() else { return false };
        let applied = cluster.applied();
        let owned = std::iter::once(first).chain(refusing).any(|endpoint| {
            let known = applied.state.endpoints().get(&endpoint.settings.name);
            known.and_then(|known| known.owner.as_deref()) == Some(cluster.node())
        });
        !owned || !cluster.lease().holds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_counted_under_its_cause_and_a_client_that_left_is_none() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let garbage = io::Error::from(io::ErrorKind::InvalidData);
        let cases = [
            (HandshakeError::Disconnected, None),
            (HandshakeError::Io(reset), None),
            (HandshakeError::Tls(garbage), Some(LoginFailure::Protocol)),
            (HandshakeError::Timeout, Some(LoginFailure::Timeout)),
            (HandshakeError::TlsRequired, Some(LoginFailure::TlsRequired)),
            (HandshakeError::MayNotLogIn { user: "u".into() }, Some(LoginFailure::Hba)),
            (HandshakeError::Mechanism, Some(LoginFailure::Protocol)),
            (HandshakeError::TooManyClients, Some(LoginFailure::TooManyConnections)),
        ];
        for (error, expected) in cases {
            assert_eq!(failure(&error), expected, "{error}");
        }
    }
}
