//! Questions and orders to a node's admin socket, as the other commands send them.
//!
//! Speaks just enough HTTP/1.0 for one GET or POST over a Unix socket. Never waits without a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// An order waits until a leader has taken it, which the node gives up on sooner than this.
const ORDER_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_RESPONSE_BYTES: u64 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

/// `GET path` at the admin socket. Blocks for at most a few seconds.
pub fn get(socket: &Path, path: &str) -> io::Result<Response> {
    get_within(TIMEOUT, socket, path)
}

/// Of a node that may be frozen, who asks wants to know soon that there is no answer.
pub fn get_within(within: Duration, socket: &Path, path: &str) -> io::Result<Response> {
    exchange(socket, within, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
}

/// `POST path` with a JSON document.
pub fn post(socket: &Path, path: &str, body: &str) -> io::Result<Response> {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    exchange(socket, ORDER_TIMEOUT, &format!("{head}Content-Length: {length}\r\n\r\n{body}"))
}

fn exchange(socket: &Path, within: Duration, request: &str) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP response"))
}

fn parse(text: &str) -> Option<Response> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_found() {
        let response = parse("HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\nno server\r\n\r\n").unwrap();
        assert_eq!(response, Response { status: 503, body: "no server\r\n\r\n".into() });
        assert_eq!(parse("SSH-2.0\r\n\r\n"), None);
    }
}
