//! Nodes on real sockets, with certificates of a real authority, and what should not get in.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::frame;
use super::*;
use crate::pki::{Authority, NodeName};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Request {
    Echo(String),
    WhoAmI,
    Hang,
    Long(usize),
}

/// A directory with an authority and nodes' certificates.
struct Pki {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Pki {
    fn new(cluster: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(directory.path(), cluster, 10).unwrap();
        Pki { directory, authority }
    }

    fn files(&self, node: &str) -> PeerFiles {
        let path = |name: String| self.directory.path().join(name);
        if !path(format!("{node}.crt")).exists() {
            self.authority.issue(node, &[], &[], 10).unwrap();
        }
        PeerFiles {
            authorities: path("ca.crt".to_owned()),
            certificate: path(format!("{node}.crt")),
            key: path(format!("{node}.key")),
        }
    }

    fn context(&self, node: &str, limits: PeerLimits) -> PeerContext {
        self.context_with(self.files(node), node, limits)
    }

    fn context_with(&self, files: PeerFiles, node: &str, limits: PeerLimits) -> PeerContext {
        let name = NodeName::new(node, self.authority.cluster()).unwrap();
        PeerContext {
            local: LocalNode::new(name.clone(), Some("id".to_owned()), 1),
            tls: PeerTls::load(files, name).unwrap(),
            limits,
            admit: Box::new(|_| Ok(())),
        }
    }
}

async fn answer(peer: Arc<Peer>, request: Request) -> String {
    match request {
        Request::Echo(text) => text,
        Request::WhoAmI => peer.node.clone(),
        Request::Hang => std::future::pending().await,
        Request::Long(length) => "x".repeat(length),
    }
}

struct Server {
    port: u16,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(context: PeerContext) -> Self {
        Self::start_at(context, 0).await
    }

    async fn start_at(context: PeerContext, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Server { port, task: tokio::spawn(serve(listener, Arc::new(context), answer)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn link(context: PeerContext, node: &str, port: u16) -> Link {
    let peer = NodeName::new(node, &context.local.name().cluster).unwrap();
    Link::new(Arc::new(context), peer, "127.0.0.1".to_owned(), port)
}

fn limits() -> PeerLimits {
    PeerLimits { min_backoff: Duration::from_millis(1), ..PeerLimits::default() }
}

async fn call(link: &Link, request: Request) -> Result<String, CallError> {
    link.call(Lane::Urgent, &request, PATIENCE).await
}

async fn echo(link: &Link) -> Result<String, CallError> {
    call(link, Request::Echo("hello".to_owned())).await
}

/// Until it is as wanted, past the pauses between attempts.
async fn eventually(link: &Link, wanted: impl Fn(&Result<String, CallError>) -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let outcome = echo(link).await;
        if wanted(&outcome) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{outcome:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The reason that an attempt fails for, past the pauses.
async fn failure(link: &Link) -> String {
    eventually(link, |outcome| !matches!(outcome, Err(CallError::Waiting { .. }))).await;
    link.failure().expect("it is not reached")
}

#[tokio::test]
async fn a_peer_is_answered_and_known_by_its_certificate() {
    let pki = Pki::new("shop");
    let server = Server::start(pki.context("a", limits())).await;
    let link = link(pki.context("b", limits()), "a", server.port);
    assert_eq!(echo(&link).await.unwrap(), "hello");
    assert_eq!(call(&link, Request::WhoAmI).await.unwrap(), "b");
    let long = "ü".repeat(1 << 20);
    assert_eq!(call(&link, Request::Echo(long.clone())).await.unwrap(), long);
    assert_eq!(link.failure(), None);
}

#[tokio::test]
async fn whoever_has_no_certificate_of_ours_is_refused() {
    let (pki, other) = (Pki::new("shop"), Pki::new("shop"));
    let server = Server::start(pki.context("a", limits())).await;
    // Of another authority, on either side.
    let stranger = link(other.context("b", limits()), "a", server.port);
    let reason = failure(&stranger).await;
    assert!(reason.contains("invalid peer certificate"), "{reason}");
    let believes = PeerFiles { authorities: pki.files("b").authorities, ..other.files("b") };
    let stranger = link(other.context_with(believes, "b", limits()), "a", server.port);
    let reason = failure(&stranger).await;
    assert!(reason.contains("alert") || reason.contains("closed") || reason.contains("reset"), "{reason}");
    // Of another node than the one dialled.
    let wrong = link(pki.context("b", limits()), "c", server.port);
    assert!(failure(&wrong).await.contains("not valid for name"), "{:?}", wrong.failure());
    // Of an authority that both trust, but for another cluster.
    let foreign = Pki::new("shed");
    let both = [&pki, &foreign].map(|pki| fs::read_to_string(pki.files("b").authorities).unwrap()).concat();
    let path = foreign.directory.path().join("both.crt");
    fs::write(&path, both).unwrap();
    let trusting = PeerFiles { authorities: path.clone(), ..pki.files("d") };
    let trusting = Server::start(pki.context_with(trusting, "d", limits())).await;
    let files = PeerFiles { authorities: path, ..foreign.files("b") };
    let context = foreign.context_with(files, "b", limits());
    let intruder = Link::new(
        Arc::new(context),
        NodeName::new("d", "shop").unwrap(),
        "127.0.0.1".to_owned(),
        trusting.port,
    );
    let reason = failure(&intruder).await;
    assert!(reason.contains("its certificate is of no node of cluster shop"), "{reason}");
}

#[tokio::test]
async fn no_certificate_at_all_gets_no_answer() {
    let pki = Pki::new("shop");
    let server = Server::start(pki.context("a", limits())).await;
    let mut roots = rustls::RootCertStore::empty();
    let der = {
        use rustls::pki_types::pem::PemObject as _;
        rustls::pki_types::CertificateDer::from_pem_file(pki.files("a").authorities).unwrap()
    };
    roots.add(der).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let name = "a.shop.komainu".try_into().unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let _ = stream.write_all(b"\0\0\0\x02{}").await;
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn another_life_or_cluster_is_refused_with_the_reason() {
    let pki = Pki::new("shop");
    let mut context = pki.context("a", limits());
    context.admit = Box::new(|hello| match hello.incarnation {
        1 => Err("node b was replaced".to_owned()),
        _ => Ok(()),
    });
    let server = Server::start(context).await;
    let context = pki.context("b", limits());
    context.local.joined("other".to_owned(), 2);
    let stranger = link(context, "a", server.port);
    let reason = failure(&stranger).await;
    assert_eq!(reason, "it belongs to a cluster with the identifier other, we to one with id");
    let link = link(pki.context("b", limits()), "a", server.port);
    assert_eq!(failure(&link).await, "node b was replaced");
    link.context().local.joined("id".to_owned(), 2);
    eventually(&link, Result::is_ok).await;
}

#[tokio::test]
async fn too_long_a_frame_is_refused_on_either_side_and_the_link_lives() {
    let pki = Pki::new("shop");
    let small = PeerLimits { max_frame: 1000, ..limits() };
    let server = Server::start(pki.context("a", small)).await;
    let link = link(pki.context("b", PeerLimits { max_frame: 5000, ..limits() }), "a", server.port);
    let error = call(&link, Request::Echo("x".repeat(5000))).await.unwrap_err();
    assert!(matches!(error, CallError::TooLong { .. }) && error.is_before_sending());
    let error = call(&link, Request::Echo("x".repeat(2000))).await.unwrap_err();
    assert!(matches!(error, CallError::Broken { .. }) && !error.is_before_sending(), "{error}");
    let error = call(&link, Request::Long(2000)).await.unwrap_err();
    assert!(matches!(&error, CallError::Failed { reason, .. } if reason.contains("at most 1000")), "{error}");
    assert_eq!(echo(&link).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_call_has_a_deadline_and_others_do_not_wait_for_it() {
    let pki = Pki::new("shop");
    let server = Server::start(pki.context("a", limits())).await;
    let link = Arc::new(link(pki.context("b", limits()), "a", server.port));
    // More than the lane has places, and none of them ends.
    let hanging: Vec<_> = (0..9)
        .map(|_| {
            let link = Arc::clone(&link);
            tokio::spawn(async move {
                link.call::<_, String>(Lane::Ordinary, &Request::Hang, Duration::from_secs(3)).await
            })
        })
        .collect();
    let bulk = {
        let link = Arc::clone(&link);
        tokio::spawn(async move {
            link.call::<_, String>(Lane::Bulk, &Request::Hang, Duration::from_secs(3)).await
        })
    };
    for _ in 0..20 {
        assert_eq!(echo(&link).await.unwrap(), "hello");
    }
    for call in hanging.into_iter().chain([bulk]) {
        let error = call.await.unwrap().unwrap_err();
        // Both ends count; whoever is first says so.
        assert!(matches!(error, CallError::Deadline { .. } | CallError::Failed { .. }), "{error}");
    }
    let brief = Duration::from_millis(50);
    assert!(link.call::<_, String>(Lane::Ordinary, &Request::Hang, brief).await.is_err());
}

/// Passes bytes on, as long as it is told to.
struct Relay {
    port: u16,
    tasks: Vec<JoinHandle<()>>,
}

impl Relay {
    async fn start(to: u16, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut pipes = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                pipes.spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Relay { port, tasks: vec![task] }
    }

    fn cut(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

#[tokio::test]
async fn a_link_that_was_cut_is_made_again() {
    let pki = Pki::new("shop");
    let server = Server::start(pki.context("a", limits())).await;
    let mut relay = Relay::start(server.port, 0).await;
    let link = link(pki.context("b", limits()), "a", relay.port);
    assert_eq!(echo(&link).await.unwrap(), "hello");
    relay.cut();
    eventually(&link, |outcome| matches!(outcome, Err(CallError::Unreachable { .. }))).await;
    assert!(link.failure().is_some());
    eventually(&link, |outcome| matches!(outcome, Err(CallError::Waiting { .. }))).await;
    let _relay = Relay::start(server.port, relay.port).await;
    eventually(&link, Result::is_ok).await;
    assert_eq!(link.failure(), None);
}

#[tokio::test]
async fn a_peer_that_was_restarted_is_no_error() {
    let pki = Pki::new("shop");
    let server = Server::start(pki.context("a", limits())).await;
    let port = server.port;
    let link = link(pki.context("b", limits()), "a", port);
    assert_eq!(echo(&link).await.unwrap(), "hello");
    drop(server);
    eventually(&link, Result::is_err).await;
    let _server = Server::start_at(pki.context("a", limits()), port).await;
    eventually(&link, Result::is_ok).await;
}

#[tokio::test]
async fn silent_and_slow_strangers_take_only_their_places_for_a_while() {
    let pki = Pki::new("shop");
    let tight = PeerLimits {
        handshake_timeout: Duration::from_millis(300),
        max_handshakes: 3,
        max_handshakes_of_address: 2,
        ..limits()
    };
    let server = Server::start(pki.context("a", tight)).await;
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stranger = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        // A TLS record that never ends.
        stranger.write_all(&[22, 3, 1, 64]).await.unwrap();
        strangers.push(stranger);
    }
    for mut stranger in strangers {
        // Cut off at the deadline, without having been given anything to work on.
        let read = tokio::time::timeout(PATIENCE, stranger.read(&mut [0])).await.expect("it is closed");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    let link = link(pki.context("b", limits()), "a", server.port);
    eventually(&link, Result::is_ok).await;
}

#[tokio::test]
async fn one_peer_has_only_so_many_connections() {
    let pki = Pki::new("shop");
    let server = Server::start(pki.context("a", PeerLimits { max_connections_of_peer: 1, ..limits() })).await;
    let first = link(pki.context("b", limits()), "a", server.port);
    assert_eq!(echo(&first).await.unwrap(), "hello");
    let second = link(pki.context("b", limits()), "a", server.port);
    assert_eq!(failure(&second).await, "it has too many connections");
    let other = link(pki.context("c", limits()), "a", server.port);
    assert_eq!(echo(&other).await.unwrap(), "hello");
    drop(first);
    eventually(&second, Result::is_ok).await;
}

/// A peer whose connection is open and who reads nothing more.
#[tokio::test]
async fn a_peer_that_stops_reading_is_given_up() {
    const LONG: usize = 15 << 20;
    let pki = Pki::new("shop");
    let impatient =
        PeerLimits { frame_timeout: Duration::from_millis(300), max_connections_of_peer: 1, ..limits() };
    let server = Server::start(pki.context("a", impatient)).await;
    let client = pki.context("b", limits());
    // The kernel must not take the whole answer in its stead.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8192).unwrap();
    let tcp = socket.connect(([127, 0, 0, 1], server.port).into()).await.unwrap();
    let name = "a.shop.komainu".try_into().unwrap();
    let mut stream = TlsConnector::from(client.tls.client()).connect(name, tcp).await.unwrap();
    let hello = frame::encode(&client.local.hello(), 4096).unwrap();
    stream.write_all(&hello).await.unwrap();
    frame::read(&mut stream, 4096, PATIENCE, PATIENCE).await.unwrap();
    let ask = frame::encode(&server::Call { within_ms: 1000, request: Request::Long(LONG) }, 4096).unwrap();
    stream.write_all(&ask).await.unwrap();
    // The server is stuck in writing until it gives up and lets somebody else have the connection's place.
    let other = link(pki.context("b", limits()), "a", server.port);
    eventually(&other, Result::is_ok).await;
    let mut received = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("it ends");
    assert!(received.len() < LONG, "{} bytes", received.len());
}

#[tokio::test]
async fn a_call_to_a_peer_that_stops_reading_ends_too() {
    let pki = Pki::new("shop");
    // Takes connections and reads nothing: a process that is frozen.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = link(pki.context("b", limits()), "a", listener.local_addr().unwrap().port());
    let brief = Duration::from_millis(100);
    let outcome = link.call::<_, String>(Lane::Urgent, &Request::WhoAmI, brief).await;
    assert!(matches!(outcome, Err(CallError::Deadline { .. })), "{outcome:?}");
    assert_eq!(link.failure().as_deref(), Some("no answer"));
}

#[tokio::test]
async fn certificates_are_exchanged_under_way() {
    let (pki, next) = (Pki::new("shop"), Pki::new("shop"));
    let files = pki.files("a");
    let context = Arc::new(pki.context("a", limits()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let task = tokio::spawn(serve(listener, Arc::clone(&context), move |_, request: Request| {
        let count = counted.fetch_add(1, Ordering::Relaxed);
        async move { format!("{request:?} {count}") }
    }));
    let old = link(pki.context("b", limits()), "a", port);
    echo(&old).await.unwrap();
    assert!(!context.tls.reload().unwrap(), "nothing has changed");

    // Half a renewal is none: the key of another certificate.
    let key = fs::read(&files.key).unwrap();
    fs::copy(next.files("a").key, &files.key).unwrap();
    assert!(matches!(context.tls.reload(), Err(PeerTlsError::Pair { .. })));
    echo(&link(pki.context("b", limits()), "a", port)).await.unwrap();
    fs::write(&files.key, key).unwrap();
    assert!(!context.tls.reload().unwrap());

    // A new authority beside the old one: both are let in, and the old link has not noticed.
    let both = [&pki, &next].map(|pki| fs::read_to_string(pki.directory.path().join("ca.crt")).unwrap());
    fs::write(&files.authorities, both.concat()).unwrap();
    assert!(context.tls.reload().unwrap());
    let both_files = PeerFiles { authorities: files.authorities.clone(), ..next.files("b") };
    let new = link(next.context_with(both_files, "b", limits()), "a", port);
    echo(&new).await.unwrap();
    echo(&old).await.unwrap();
    assert_eq!(served.load(Ordering::Relaxed), 4);
    task.abort();
}

#[tokio::test]
async fn another_node_s_certificate_is_not_taken_for_ours() {
    let pki = Pki::new("shop");
    let name = NodeName::new("a", "shop").unwrap();
    let error = PeerTls::load(pki.files("b"), name.clone()).unwrap_err();
    assert!(error.to_string().ends_with("b.crt is not the certificate of node a of cluster shop"), "{error}");
    let missing = PeerFiles { key: Path::new("/nowhere/a.key").to_owned(), ..pki.files("a") };
    assert!(matches!(PeerTls::load(missing, name.clone()), Err(PeerTlsError::Read { .. })));
    let tls = PeerTls::load(pki.files("a"), name).unwrap();
    let warning = tls.expiry_warning(std::time::SystemTime::now()).expect("it lasts ten days");
    assert!(warning.contains("9 days left"), "{warning}");
}
