//! The handshake driven by hand over loopback, a row of nasty input at a time, and by a real client.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::client::secrets::{Account, AskServer, Lookup, LookupError, ProcessSecrets};
use crate::client::userfile::{Secret, UserFile};
use crate::wire::fields;
use crate::wire::scram::{ClientBinding, ClientFirst, Credential, Verifier};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn context(hba: &str, users: &str) -> HandshakeContext {
    with_tls(hba, users, None)
}

fn with_tls(hba: &str, users: &str, tls: Option<ClientTlsContext>) -> HandshakeContext {
    let users = UserFile::parse(users).unwrap();
    let secrets = Secrets::new(users, None, ProcessSecrets::new());
    HandshakeContext::new(Arc::new(Hba::parse(hba).unwrap()), Arc::new(secrets), tls, PATIENCE)
}

fn trust() -> HandshakeContext {
    context("host all all all trust", "")
}

fn scram() -> HandshakeContext {
    let verifier = Verifier::from_password(b"secret", b"0123456789abcdef", 4096).unwrap();
    context("host all all all scram-sha-256", &format!("\"alice\" \"{verifier}\"\n\"bob\" \"plain\"\n"))
}

type Running = JoinHandle<Result<Outcome, HandshakeError>>;

/// A connection, and the handshake that goes on at its other end.
async fn connect(context: HandshakeContext) -> (TcpStream, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let running = tokio::spawn(async move { handshake(Stream::Tcp(server), &context).await });
    (client, running)
}

async fn end(running: Running) -> Result<Outcome, HandshakeError> {
    timeout(PATIENCE, running).await.expect("the handshake hangs").unwrap()
}

async fn admitted(running: Running) -> Box<Authenticated> {
    match end(running).await {
        Ok(Outcome::Client(client)) => client,
        other => panic!("{other:?}"),
    }
}

/// Everything the server says until it closes.
async fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match timeout(PATIENCE, client.read_to_end(&mut all)).await.expect("the server neither speaks nor closes")
    {
        Ok(_) => all,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => all,
        Err(error) => panic!("{error}"),
    }
}

fn packet(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32 + 4).to_be_bytes(), body].concat()
}

fn startup(version: u32, parameters: &[&str]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for text in parameters {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    packet(&body)
}

fn startup_of(user: &str) -> Vec<u8> {
    startup(3 << 16, &["user", user, "database", "db"])
}

fn request(code: u32) -> Vec<u8> {
    packet(&code.to_be_bytes())
}

fn ssl_request() -> Vec<u8> {
    request(80_877_103)
}

fn gssenc_request() -> Vec<u8> {
    request(80_877_104)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &packet(body)[..]].concat()
}

fn sasl_initial(mechanism: &str, length: i32, data: &[u8]) -> Vec<u8> {
    message(b'p', &[mechanism.as_bytes(), b"\0", &length.to_be_bytes(), data].concat())
}

/// SQLSTATE and text of the FATAL ErrorResponse that `bytes` ends with.
fn fatal(bytes: &[u8]) -> (String, String) {
    let start = bytes.windows(12).position(|w| w[0] == b'E' && &w[5..] == b"SFATAL\0");
    let start = start.unwrap_or_else(|| panic!("no FATAL in {:?}", String::from_utf8_lossy(bytes)));
    let body = &bytes[start + 5..];
    let text = |kind| String::from_utf8(fields::field(body, kind).unwrap().to_vec()).unwrap();
    (text(b'C'), text(b'M'))
}

/// Reads one message.
async fn read_message(client: &mut TcpStream) -> (u8, Vec<u8>) {
    let read = async {
        let mut header = [0; 5];
        client.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; i32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
        client.read_exact(&mut body).await.unwrap();
        (header[0], body)
    };
    timeout(PATIENCE, read).await.expect("the server is silent")
}

/// The body of the SASL request of `kind`, which is what comes next.
async fn expect_authentication(client: &mut TcpStream, kind: i32) -> Vec<u8> {
    let (tag, body) = read_message(client).await;
    assert_eq!(tag, b'R', "{}", String::from_utf8_lossy(&body));
    assert_eq!(i32::from_be_bytes(body[..4].try_into().unwrap()), kind);
    body[4..].to_vec()
}

async fn expect_byte(client: &mut TcpStream, expected: u8) {
    let byte = timeout(PATIENCE, client.read_u8()).await.expect("the server is silent").unwrap();
    assert_eq!(char::from(byte), char::from(expected));
}

/// Sends `bytes` and returns how the handshake ends and what the client reads.
async fn refusal(context: HandshakeContext, bytes: &[u8]) -> (HandshakeError, Vec<u8>) {
    let (mut client, running) = connect(context).await;
    client.write_all(bytes).await.unwrap();
    let answer = rest(&mut client).await;
    (end(running).await.map(|_| ()).expect_err("it was let in"), answer)
}

async fn assert_fatal(context: HandshakeContext, bytes: &[u8], state: &str, text: &str) {
    let (error, answer) = refusal(context, bytes).await;
    assert_eq!(fatal(&answer), (state.to_owned(), text.to_owned()), "{error}");
}

#[tokio::test]
async fn trust_lets_in_and_leaves_authentication_ok_unsent() {
    let (mut client, running) = connect(trust()).await;
    let parameters = ["user", "alice", "application_name", "app", "options", "-c work_mem=1MB"];
    client.write_all(&startup(3 << 16, &parameters)).await.unwrap();
    client.write_all(b"Q\0\0\0\x06;\0").await.unwrap();
    let mut admitted = admitted(running).await;
    assert_eq!((admitted.user.as_str(), admitted.database.as_str()), ("alice", "alice"));
    assert_eq!(admitted.application_name(), "app");
    assert_eq!(admitted.parameters[0], ("work_mem".to_owned(), "1MB".to_owned()));
    assert_eq!(admitted.protocol_minor, 0);
    assert_eq!(admitted.login, ServerLogin::None);
    assert_eq!(&admitted.pending[..], b"R\0\0\0\x08\0\0\0\0");
    // What was sent ahead is either handed over or still in the socket; never lost.
    let mut ahead = admitted.received.to_vec();
    while ahead.len() < 7 {
        timeout(PATIENCE, admitted.stream.read_buf(&mut ahead)).await.unwrap().unwrap();
    }
    assert_eq!(ahead, b"Q\0\0\0\x06;\0");
}

#[tokio::test]
async fn tokio_postgres_logs_in_with_scram_and_its_key_comes_out() {
    for (user, password) in [("alice", "secret"), ("bob", "plain")] {
        let (client, running) = connect(scram()).await;
        let mut config = tokio_postgres::Config::new();
        config.user(user).password(password).dbname("db");
        let connecting = tokio::spawn(async move { config.connect_raw(client, tokio_postgres::NoTls).await });
        let mut admitted = admitted(running).await;
        match (&admitted.login, user) {
            (ServerLogin::ScramKeys(keys), "alice") => {
                assert_eq!(keys.verifier.accepts(b"secret").as_ref(), Some(keys));
            }
            (ServerLogin::Password(password), "bob") => assert_eq!(password, "plain"),
            other => panic!("{other:?}"),
        }
        admitted.pending.extend_from_slice(b"Z\0\0\0\x05I");
        admitted.stream.write_all(&admitted.pending).await.unwrap();
        assert!(timeout(PATIENCE, connecting).await.unwrap().unwrap().is_ok());
    }
}
