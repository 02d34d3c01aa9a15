//! The admin pages over real sockets.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::control::{Reloaded, StopMode};
use super::*;
use crate::cluster::reason::Reason;
use crate::net::socket_file::SocketFileError;
use crate::topology::{Epoch, Health, Role, ServerIndex};

struct Admin {
    address: Option<SocketAddr>,
    tls_address: Option<SocketAddr>,
    controls: mpsc::Receiver<Control>,
    _configured: watch::Sender<Arc<Configured>>,
    view: watch::Sender<Arc<View>>,
    listening: Arc<AtomicBool>,
    serving: JoinHandle<()>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn view() -> View {
    let server = |id: &str| config::Server {
        zone: Some("eu-1a".to_owned()),
        ..config::Server::at(id, "db.example", 5432)
    };
    View::new(&[server("pg1"), server("pg2")])
}

fn with_primary() -> View {
    let mut view = view();
    view.snapshot.primary = Some(ServerIndex(0));
    view.snapshot.epoch = Epoch(3);
    view.snapshot.servers[0].health = Health::Up;
    view.snapshot.servers[0].role = Role::Primary;
    view.no_primary = None;
    view
}

fn configured() -> Configured {
    let path = PathBuf::from("/etc/komainu/komainu.toml");
    let text = "[listen]\naddresses = ['127.0.0.1:5432']\n[auth]\nhba_file = 'hba'\n[health]\nuser = 'k'\n\
                [[server]]\nid = 'pg1'\nhost = 'db.example'\n";
    let (local, _) = config::file::parse(text, &path, 1).unwrap();
    Configured { path, in_force: Arc::new(local.clone()), local }
}

fn keys(address: Option<SocketAddr>, socket: Option<&Path>) -> config::Admin {
    config::Admin {
        address,
        socket: socket.map(Path::to_owned),
        tls_address: None,
        cert_file: None,
        key_file: None,
        token_file: None,
    }
}

async fn start(socket: Option<&Path>) -> Admin {
    start_as(&keys(Some("127.0.0.1:0".parse().unwrap()), socket)).await
}

async fn start_as(keys: &config::Admin) -> Admin {
    let listener = AdminListener::bind(keys).await.unwrap();
    let (address, tls_address) = (listener.local_addr(), listener.tls_addr());
    let (publish, view) = watch::channel(Arc::new(view()));
    let listening = Arc::new(AtomicBool::new(false));
    let (control, controls) = mpsc::channel(1);
    let (_configured, configured) = watch::channel(Arc::new(configured()));
    let state = AdminState {
        view,
        counters: Arc::new(Counters::default()),
        activity: ActivityPages {
            census: Arc::new(|| PoolCensus { waiters: 12, ..PoolCensus::default() }),
            sessions: Arc::new(|_| activity::Sessions::default()),
            pools: Arc::new(|_| activity::Pools::default()),
            looks: watch::channel(BTreeMap::default()).1,
        },
        listening: listening.clone(),
        clock: Clock::start(),
        cluster: None,
        configured,
        certificates_end: watch::channel(Some(SystemTime::now() + Duration::from_secs(86_400 * 9))).1,
        server_users: Arc::new(Vec::new),
        instances: Arc::new(|| None),
        examined: Arc::default(),
        control,
    };
    let serving = tokio::spawn(serve(listener, state));
    Admin { address, tls_address, controls, _configured, view: publish, listening, serving }
}

/// The status code and the body.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn error(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

impl Admin {
    async fn get(&self, path: &str) -> (u16, String) {
        ask(TcpStream::connect(self.address.unwrap()).await.unwrap(), &get(path)).await
    }
}

#[tokio::test]
async fn ready_needs_a_listener_and_a_primary() {
    let admin = start(None).await;
    assert_eq!(admin.get("/live").await, (200, "live\n".to_owned()));
    let reason = |body: String| serde_json::from_str::<Value>(&body).unwrap()["reason"].clone();
    let (code, body) = admin.get("/ready").await;
    assert_eq!((code, reason(body)), (503, "not_listening".into()));
    admin.listening.store(true, Ordering::Relaxed);
    let (code, body) = admin.get("/ready").await;
    assert_eq!((code, reason(body)), (503, "still_looking".into()));
    admin.view.send_replace(Arc::new(with_primary()));
    assert_eq!(admin.get("/ready").await, (200, "{\"ready\":true}".to_owned()));
    let mut paused = with_primary();
    paused.paused_primary = paused.snapshot.primary.take();
    paused.no_primary = Some(Reason::Paused);
    admin.view.send_replace(Arc::new(paused));
    assert_eq!(admin.get("/ready").await.0, 200, "clients wait wherever they are sent");
    assert_eq!(admin.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn status_and_metrics_show_the_view() {
    let admin = start(None).await;
    admin.view.send_replace(Arc::new(with_primary()));
    let (code, body) = admin.get("/status").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200);
    assert_eq!((&status["epoch"], &status["primary"]), (&3.into(), &"pg1".into()));
    assert_eq!(status["servers"][0]["role"], "primary");
    assert_eq!(status["servers"][1]["health"], "unknown");
    assert_eq!(status["servers"][1]["reason"], "not_looked_at");
    assert_eq!(status["servers"][1]["observed_ms"], Value::Null);
    let (code, page) = admin.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(page.contains("komainu_pool_waiters 12\n") && page.contains("komainu_epoch 3\n"));
    let ends = page.lines().find_map(|line| line.strip_prefix("komainu_certificate_remaining_seconds "));
    let days = ends.unwrap().parse::<f64>().unwrap() / 86_400.0;
    assert!(days > 8.0 && days <= 9.0, "of a node on its own, {days}");
}

#[tokio::test]
async fn a_request_that_will_not_end_is_not_read_to_its_end() {
    let admin = start(None).await;
    let request = "POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n";
    let mut stream = TcpStream::connect(admin.address.unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 405");
    // And nobody waits behind it.
    assert_eq!(admin.get("/live").await.0, 200);
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_us() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let admin = start(Some(&path)).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(stream, &get("/live")).await.0, 200);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left there");

    let keys = keys(None, Some(&path));
    let second = AdminListener::bind(&keys).await.unwrap_err();
    assert!(matches!(second, BindError::Unix { source: SocketFileError::InUse, .. }), "{second}");
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(stream, &get("/live")).await.0, 200);

    admin.serving.abort();
    let gone = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the socket file is removed");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    // Dropping the listener leaves the file, as a kill would.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _admin = start(Some(&path)).await;
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(ask(stream, &get("/live")).await.0, 200);

    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let keys = keys(None, Some(&file));
    assert!(matches!(
        AdminListener::bind(&keys).await.unwrap_err(),
        BindError::Unix { source: SocketFileError::NoSocket, .. }
    ));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

async fn from(host: u8, admin: &Admin) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, host], 0).into()).unwrap();
    socket.connect(admin.address.unwrap()).await.unwrap()
}

#[tokio::test]
async fn silent_clients_keep_nobody_out() {
    let admin = start(None).await;
    // All that one address gets, and then some.
    let mut silent = Vec::new();
    for _ in 0..places::MAX_CONNECTIONS {
        silent.push(from(1, &admin).await);
    }
    let served =
        tokio::time::timeout(Duration::from_secs(20), ask(from(2, &admin).await, &get("/live"))).await;
    assert_eq!(served.expect("others have places").0, 200);
    let mut refused = 0;
    for stream in &mut silent {
        let end = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0])).await;
        refused += usize::from(
            end.expect("it is closed, at once or as it says nothing").is_ok_and(|read| read == 0),
        );
    }
    assert_eq!(refused, silent.len());
    assert_eq!(ask(from(1, &admin).await, &get("/live")).await.0, 200, "and it has its places back");
}

#[tokio::test]
async fn there_are_only_so_many_places() {
    let admin = start(None).await;
    let mut silent = Vec::new();
    for n in 0..places::MAX_CONNECTIONS {
        silent.push(from(2 + (n % 4) as u8, &admin).await);
    }
    let live = get("/live");
    let one_more = ask(from(1, &admin).await, &live);
    tokio::pin!(one_more);
    let refused = tokio::time::timeout(Duration::from_millis(300), &mut one_more).await;
    assert!(refused.is_err(), "there was a place for one more: {refused:?}");
    silent.pop();
    let served = tokio::time::timeout(Duration::from_secs(20), one_more).await;
    assert_eq!(served.expect("a place is free again").0, 200);
}

#[tokio::test]
async fn a_node_of_its_own_says_so_of_everything_that_takes_a_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let admin = start(Some(&path)).await;
    let (_, body) = admin.get("/status").await;
    let status: Value = serde_json::from_str(&body).unwrap();
    for key in ["node", "leader", "term", "lease_remaining_ms", "waiting_for", "configuration_version"] {
        assert_eq!(status.get(key), Some(&Value::Null), "{key}");
    }
    assert_eq!((&status["nodes"], &status["endpoints"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    let requests = [
        get("/events?after=0"),
        get("/config"),
        get("/config/history"),
        get("/config/1"),
        post("/config/apply", r#"{"text": "", "cause": "operator:a"}"#),
        post("/config/rollback", r#"{"to": 1}"#),
        post("/endpoint/move", r#"{"endpoint": "app", "to": "n2"}"#),
        post("/node/add", r#"{"id": "n2"}"#),
        post("/node/replace", r#"{"id": "n2"}"#),
        post("/node/remove", r#"{"id": "n2"}"#),
    ];
    for request in requests {
        let (code, body) = ask(UnixStream::connect(&path).await.unwrap(), &request).await;
        let error = error(&body);
        assert_eq!(code, 409, "{request}: {error}");
        assert!(error.contains("on its own") && error.contains("/etc/komainu/komainu.toml"), "{error}");
    }
}

#[tokio::test]
async fn an_address_on_the_network_only_reads() {
    let mut admin = start(None).await;
    let requests = [
        get("/sessions"),
        get("/pools"),
        get("/config"),
        get("/config/history"),
        post("/config/apply", "{}"),
        post("/endpoint/move", "{}"),
        post("/node/replace", "{}"),
        post("/reload", ""),
        post("/log/rotate", ""),
        post("/stop", r#"{"mode": "fast"}"#),
    ];
    for request in requests {
        let (code, body) = ask(TcpStream::connect(admin.address.unwrap()).await.unwrap(), &request).await;
        assert_eq!(code, 403, "{request}");
        assert!(error(&body).contains("admin.socket"), "{body}");
    }
    assert!(admin.controls.try_recv().is_err(), "nothing was ordered");
}

/// What a client that speaks TLS gets for a request.
async fn ask_over_tls(address: SocketAddr, authority: &Path, request: &str) -> (u16, String) {
    let config = crate::net::tls::https_client(Some(authority)).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = "127.0.0.1".try_into().unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // What a server that has heard enough still says is what counts.
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn behind_the_door_is_everything_and_before_it_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let pki = directory.path().join("pki");
    let authority = crate::pki::Authority::create(&pki, "shop", 9).unwrap();
    authority.issue("gate", &[], &["127.0.0.1".parse().unwrap()], 9).unwrap();
    let token = "0123456789abcdef0123456789abcdef";
    std::fs::write(directory.path().join("token"), token).unwrap();
    let keys = config::Admin {
        tls_address: Some("127.0.0.1:0".parse().unwrap()),
        cert_file: Some(pki.join("gate.crt")),
        key_file: Some(pki.join("gate.key")),
        token_file: Some(directory.path().join("token")),
        ..keys(None, None)
    };
    let mut admin = start_as(&keys).await;
    let address = admin.tls_address.unwrap();
    // One that never shakes hands keeps nobody waiting.
    let _silent = TcpStream::connect(address).await.unwrap();
    let ca = pki.join("ca.crt");
    let with = |authorization: &str, request: String| {
        request.replacen("Host: x", &format!("Host: x\r\nAuthorization: {authorization}"), 1)
    };
    let right = format!("Bearer {token}");
    let (code, _) = ask_over_tls(address, &ca, &with(&right, get("/sessions"))).await;
    assert_eq!(code, 200);
    let stop = post("/stop", r#"{"mode": "fast"}"#);
    let wrong =
        [format!("Bearer {token}0"), format!("Basic {token}"), token.to_owned(), "Bearer ".to_owned()];
    for authorization in wrong {
        for request in [get("/live"), get("/nothing"), stop.clone()] {
            let (code, body) = ask_over_tls(address, &ca, &with(&authorization, request)).await;
            assert_eq!(code, 401, "{authorization}: {body}");
            assert!(error(&body).contains("--token-file") && !body.contains(token));
        }
    }
    assert_eq!(ask_over_tls(address, &ca, &stop).await.0, 401);
    let endless = "POST /config/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n";
    assert_eq!(ask_over_tls(address, &ca, endless).await.0, 401, "its body is not waited for");
    let long = post("/stop", &" ".repeat(MAX_BODY_BYTES + 1));
    assert_eq!(ask_over_tls(address, &ca, &with(&right, long)).await.0, 413);
    assert!(admin.controls.try_recv().is_err(), "nothing was ordered");
    assert_eq!(ask_over_tls(address, &ca, &with(&right, stop)).await.0, 200);
    assert!(matches!(admin.controls.recv().await, Some(Control::Stop(StopMode::Fast))));
}

#[tokio::test]
async fn orders_reach_the_loop_and_its_answer_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let mut admin = start(Some(&path)).await;
    let send = async |request: String| ask(UnixStream::connect(&path).await.unwrap(), &request).await;

    let carry_out = async |controls: &mut mpsc::Receiver<Control>, outcome| match controls.recv().await {
        Some(Control::Reload(answer)) => answer.send(outcome).unwrap(),
        other => panic!("{other:?}"),
    };
    let reloaded = Reloaded { changed: vec!["pool.size".to_owned()], ..Reloaded::default() };
    let ((code, body), ()) =
        tokio::join!(send(post("/reload", "")), carry_out(&mut admin.controls, Ok(reloaded)));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, &body["changed"][0], &body["restart"]),
        (200, &"pool.size".into(), &Value::Array(vec![]))
    );
    let wrong = Err("komainu.toml:3: pool.size: …".to_owned());
    let ((code, body), ()) = tokio::join!(send(post("/reload", "")), carry_out(&mut admin.controls, wrong));
    assert_eq!((code, error(&body)), (422, "komainu.toml:3: pool.size: …".to_owned()));

    assert_eq!(send(post("/stop", r#"{"mode": "smart"}"#)).await.0, 200);
    assert!(matches!(admin.controls.recv().await, Some(Control::Stop(StopMode::Smart))));
    let (code, body) = send(post("/stop", r#"{"mode": "soon"}"#)).await;
    assert_eq!(code, 400);
    assert!(error(&body).contains("`smart`, `fast`, `immediate`"), "{body}");
    // One that nobody takes is in the way of the next.
    assert_eq!(send(post("/stop", r#"{"mode": "fast"}"#)).await.0, 200);
    assert_eq!(send(post("/stop", r#"{"mode": "fast"}"#)).await.0, 503);
}
