//! The handshake driven by hand over loopback, a row of nasty input at a time, and by real clients.

mod first_packets;
mod login;
mod lookup;
mod tls;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::client::secrets::{AskServer, Lookup, LookupError, NoAnswer, ProcessSecrets};
use crate::client::userfile::{Secret, UserFile};
use crate::wire::fields;
use crate::wire::scram::{ClientBinding, ClientFirst, Credential, Verifier};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client reads from and writes to.
trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

type Running = JoinHandle<Result<Outcome, HandshakeError>>;

fn context(hba: &str, users: &str) -> HandshakeContext {
    full_context(hba, users, None, None, PATIENCE)
}

fn full_context(
    hba: &str,
    users: &str,
    ask_server: Option<AskServer>,
    tls: Option<ClientTlsContext>,
    startup_timeout: Duration,
) -> HandshakeContext {
    let users = UserFile::parse(users).unwrap();
    let secrets = Secrets::new(users, ask_server, ProcessSecrets::new());
    HandshakeContext::new(Arc::new(Hba::parse(hba).unwrap()), Arc::new(secrets), tls, startup_timeout)
}

fn trust() -> HandshakeContext {
    context("host all all all trust", "")
}

fn scram() -> HandshakeContext {
    context("host all all all scram-sha-256", &users())
}

fn verifier() -> Verifier {
    Verifier::from_password(b"secret", b"0123456789abcdef", 4096).unwrap()
}

/// A user with each kind of secret; the password is always "secret".
fn users() -> String {
    let md5 = crate::wire::md5::stored("carol", b"secret");
    format!("\"alice\" \"{}\"\n\"bob\" \"secret\"\n\"carol\" \"{md5}\"\n", verifier())
}

/// A connection, and the handshake that goes on at its other end.
async fn connect(context: HandshakeContext) -> (TcpStream, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let running = tokio::spawn(async move { handshake(Stream::Tcp(server), &context, || true).await });
    (client, running)
}

fn connect_locally(context: HandshakeContext) -> (UnixStream, Running) {
    let (client, server) = UnixStream::pair().unwrap();
    let running = tokio::spawn(async move { handshake(Stream::Unix(server), &context, || true).await });
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

async fn refused_with(running: Running) -> HandshakeError {
    match end(running).await {
        Err(error) => error,
        Ok(outcome) => panic!("{outcome:?}"),
    }
}

/// Everything the server says until it closes.
async fn rest(client: &mut impl Wire) -> Vec<u8> {
    let mut all = Vec::new();
    let read = timeout(PATIENCE, client.read_to_end(&mut all)).await;
    match read.expect("the server neither speaks nor closes") {
        Ok(_) => all,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => all,
        Err(error) => panic!("{error}"),
    }
}

async fn send(client: &mut impl Wire, bytes: &[u8]) {
    client.write_all(bytes).await.unwrap();
    client.flush().await.unwrap();
}

/// Reads one message.
async fn read_message(client: &mut impl Wire) -> (u8, Vec<u8>) {
    let read = async {
        let mut header = [0; 5];
        client.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; i32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
        client.read_exact(&mut body).await.unwrap();
        (header[0], body)
    };
    timeout(PATIENCE, read).await.expect("the server is silent")
}

async fn expect_byte(client: &mut impl Wire, expected: u8) {
    let byte = timeout(PATIENCE, client.read_u8()).await.expect("the server is silent").unwrap();
    assert_eq!(char::from(byte), char::from(expected));
}

/// Authentication requests by number.
const CLEARTEXT: i32 = 3;
const MD5: i32 = 5;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;

/// What follows the number in the authentication request that comes next.
async fn expect_authentication(client: &mut impl Wire, kind: i32) -> Vec<u8> {
    let (tag, body) = read_message(client).await;
    assert_eq!(char::from(tag), 'R', "{}", String::from_utf8_lossy(&body));
    assert_eq!(i32::from_be_bytes(body[..4].try_into().unwrap()), kind);
    body[4..].to_vec()
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

const V3: u32 = 3 << 16;

fn startup_of(user: &str) -> Vec<u8> {
    startup(V3, &["user", user, "database", "db"])
}

fn ssl_request() -> Vec<u8> {
    packet(&80_877_103_u32.to_be_bytes())
}

fn gssenc_request() -> Vec<u8> {
    packet(&80_877_104_u32.to_be_bytes())
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &packet(body)[..]].concat()
}

fn sasl_initial(mechanism: &str, length: i32, data: &[u8]) -> Vec<u8> {
    message(b'p', &[mechanism.as_bytes(), b"\0", &length.to_be_bytes(), data].concat())
}

/// SQLSTATE and text of the FATAL ErrorResponse that `bytes` is.
fn fatal(bytes: &[u8]) -> (String, String) {
    let shown = String::from_utf8_lossy(bytes);
    assert!(bytes.first() == Some(&b'E') && fields::is_fatal(&bytes[5..]), "no FATAL but {shown:?}");
    let text = |kind| String::from_utf8(fields::field(&bytes[5..], kind).unwrap().to_vec()).unwrap();
    (text(b'C'), text(b'M'))
}

/// That the next and last thing the client reads is this.
async fn assert_fatal(client: &mut impl Wire, state: &str, text: &str) {
    assert_eq!(fatal(&rest(client).await), (state.to_owned(), text.to_owned()));
}

/// Goes through a SCRAM exchange; the server's next message is its verdict.
async fn prove(client: &mut impl Wire, mechanism: &str, password: &str, binding: ClientBinding) {
    let password = Credential::Password(password.as_bytes().to_vec());
    let scram = ClientFirst::new(password, "clientnonce".to_owned(), binding);
    let first = scram.message();
    send(client, &sasl_initial(mechanism, first.len() as i32, &first)).await;
    let server_first = expect_authentication(client, SASL_CONTINUE).await;
    let (client_final, _) = scram.server_first(&server_first).unwrap().respond().unwrap();
    send(client, &message(b'p', &client_final)).await;
}
