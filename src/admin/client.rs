//! Questions and orders to a node's admin pages, as the other commands send them.
//!
//! Speaks just enough HTTP/1.0 for one GET or POST, over a Unix socket or TLS. Never waits without a deadline, and never
//! sends a token in clear. Invariant: an answer that was cut off is an error.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::token::{Token, TokenError};
use crate::net::tls::{self, TlsConfigError};

const TIMEOUT: Duration = Duration::from_secs(5);
/// An order waits until a leader has taken it, which the node gives up on sooner than this.
const ORDER_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_RESPONSE_BYTES: u64 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

/// The node that is asked, and how it is reached.
#[derive(Debug, Clone)]
pub enum Node {
    Unix(PathBuf),
    Https(Https),
}

#[derive(Clone)]
pub struct Https {
    host: String,
    port: u16,
    config: Arc<ClientConfig>,
    token: Token,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(
        "{0:?}: commands do not go over http, which has a token in clear, and admin.address serves no orders: give \
         the path of admin.socket, or https://HOST:PORT, which is admin.tls_address"
    )]
    Clear(String),
    #[error("{0:?} is not of the form https://HOST:PORT")]
    Address(String),
    #[error("{0} takes a token: give --token-file or KOMAINU_ADMIN_TOKEN_FILE")]
    NoToken(String),
    #[error("--token-file: {0}")]
    Token(#[from] TokenError),
    #[error("--ca-file: {0}")]
    Authorities(#[from] TlsConfigError),
}

impl Node {
    /// `admin`: a path, or `https://host:port`.
    pub fn new(admin: &str, token_file: Option<&Path>, ca_file: Option<&Path>) -> Result<Node, NodeError> {
        // A path has a slash, or no number behind a colon.
        let is_host_and_port = !admin.contains('/')
            && admin.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if admin.starts_with("http://") || is_host_and_port {
            return Err(NodeError::Clear(admin.to_owned()));
        }
        let Some(address) = admin.strip_prefix("https://") else { return Ok(Node::Unix(admin.into())) };
        let wrong = || NodeError::Address(admin.to_owned());
        let (host, port) = address.trim_end_matches('/').rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        ServerName::try_from(&*host).map_err(|_| wrong())?;
        let token = Token::read(token_file.ok_or_else(|| NodeError::NoToken(admin.to_owned()))?)?;
        Ok(Node::Https(Https { host, port, config: tls::https_client(ca_file)?, token }))
    }

    pub fn get(&self, path: &str) -> io::Result<Response> {
        self.ask(TIMEOUT, "GET", path, "")
    }

    /// With a JSON document.
    pub fn post(&self, path: &str, body: &str) -> io::Result<Response> {
        self.ask(ORDER_TIMEOUT, "POST", path, body)
    }

    fn ask(&self, within: Duration, method: &str, path: &str, body: &str) -> io::Result<Response> {
        let (host, authorization) = match self {
            Node::Unix(_) => ("localhost", String::new()),
            Node::Https(https) => (&*https.host, format!("Authorization: {}\r\n", https.token.bearer())),
        };
        let content = match body {
            "" => String::new(),
            body => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
        };
        let request =
            format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n{authorization}{content}\r\n{body}");
        match self {
            Node::Unix(socket) => {
                let stream = UnixStream::connect(socket)?;
                stream.set_read_timeout(Some(within))?;
                stream.set_write_timeout(Some(within))?;
                exchange(stream, &request)
            }
            Node::Https(https) => {
                let tcp = https.connect(within)?;
                tcp.set_read_timeout(Some(within))?;
                tcp.set_write_timeout(Some(within))?;
                let name = ServerName::try_from(https.host.clone()).map_err(io::Error::other)?;
                let tls = ClientConnection::new(https.config.clone(), name).map_err(io::Error::other)?;
                exchange(StreamOwned::new(tls, tcp), &request)
            }
        }
    }

    /// Whether nobody listens there any more.
    pub fn is_gone(&self) -> bool {
        let connected = match self {
            Node::Unix(socket) => UnixStream::connect(socket).map(drop),
            Node::Https(https) => https.connect(TIMEOUT).map(drop),
        };
        let ended = |error: io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        };
        connected.is_err_and(ended)
    }
}

impl Https {
    fn connect(&self, within: Duration) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (&*self.host, self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, within) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Unix(socket) => write!(f, "{}", socket.display()),
            Node::Https(Https { host, port, .. }) if host.contains(':') => {
                write!(f, "https://[{host}]:{port}")
            }
            Node::Https(Https { host, port, .. }) => write!(f, "https://{host}:{port}"),
        }
    }
}

/// `GET path` at the admin socket. Blocks for at most a few seconds.
pub fn get(socket: &Path, path: &str) -> io::Result<Response> {
    get_within(TIMEOUT, socket, path)
}

/// Of a node that may be frozen, who asks wants to know soon that there is no answer.
pub fn get_within(within: Duration, socket: &Path, path: &str) -> io::Result<Response> {
    Node::Unix(socket.to_owned()).ask(within, "GET", path, "")
}

/// `POST path` with a JSON document.
pub fn post(socket: &Path, path: &str, body: &str) -> io::Result<Response> {
    Node::Unix(socket.to_owned()).post(path, body)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Response> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut bytes = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> io::Result<Response> {
    let not_http = || io::Error::new(io::ErrorKind::InvalidData, "not an HTTP response");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head.strip_prefix("HTTP/1.").and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let announced = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse::<usize>().ok() } else { None }
    });
    if announced.is_some_and(|length| body.len() < length) {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off"));
    }
    Ok(Response { status: status.ok_or_else(not_http)?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_found_and_a_cut_off_answer_is_none() {
        let response = parse("HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\nno server\r\n\r\n").unwrap();
        assert_eq!(response, Response { status: 503, body: "no server\r\n\r\n".into() });
        assert_eq!(parse("SSH-2.0\r\n\r\n").unwrap_err().kind(), io::ErrorKind::InvalidData);
        let cut = parse("HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\":").unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_node_is_a_path_or_an_address_with_a_token() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        std::fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
        let authority = crate::pki::Authority::create(&directory.path().join("pki"), "shop", 9).unwrap();
        let ca = directory.path().join("pki/ca.crt");
        authority.issue("a", &[], &[], 9).unwrap();
        let new = |admin: &str, token: Option<&Path>| Node::new(admin, token, Some(&ca));
        assert_eq!(new("/run/k.sock", None).unwrap().to_string(), "/run/k.sock");
        let node = new("https://[::1]:7401/", Some(&token)).unwrap();
        assert_eq!(node.to_string(), "https://[::1]:7401");
        assert!(!format!("{node:?}").contains("0123"));
        assert!(matches!(new("http://a:1", Some(&token)), Err(NodeError::Clear(_))));
        assert!(matches!(new("https://a", Some(&token)), Err(NodeError::Address(_))));
        assert!(matches!(new("https://a:1", None), Err(NodeError::NoToken(_))));
        assert!(matches!(new("https://a:1", Some(&ca)), Err(NodeError::Token(_))));
    }
}
