//! Opens a connection to a host, by TCP or over a Unix socket.
//!
//! Asks for the name's addresses at every call: after a failover the name means another
//! server. Never speaks TLS or PostgreSQL, and has no deadline of its own: the caller drops the future.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, UnixStream};

use super::names::Names;
use super::{Stream, sockopt};

/// An address gets this long before the next one is tried beside it. A caller's deadline is thus
/// never eaten by one address that swallows packets, and a fast server never sees two connections.
const HEAD_START: Duration = Duration::from_secs(1);

/// Connects to `host`: a name, an address, or (it starts with `/`) the directory of a Unix socket.
pub async fn dial(host: &str, port: u16, names: &Names) -> io::Result<Stream> {
    if host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{port}", host.trim_end_matches('/'));
        return UnixStream::connect(path).await.map(Stream::Unix);
    }
    let addresses = names.resolve(host, port).await?;
    let tcp = first_to_connect(&addresses, HEAD_START).await?;
    sockopt::configure(&tcp)?;
    Ok(Stream::Tcp(tcp))
}

/// Connects to an address that is known already.
pub async fn dial_address(address: SocketAddr) -> io::Result<Stream> {
    let tcp = TcpStream::connect(address).await?;
    sockopt::configure(&tcp)?;
    Ok(Stream::Tcp(tcp))
}

/// Tries addresses in order; the next one as soon as the one before failed or had its head start.
async fn first_to_connect(addresses: &[SocketAddr], head_start: Duration) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    if let Some(&first) = waiting.next() {
        attempts.push(TcpStream::connect(first));
    }
    while !attempts.is_empty() {
        let outcome = if waiting.len() == 0 {
            attempts.next().await
        } else {
            // An elapsed head start is no outcome: the attempt goes on beside the next one.
            tokio::time::timeout(head_start, attempts.next()).await.unwrap_or(None)
        };
        match outcome {
            Some(Ok(tcp)) => return Ok(tcp),
            Some(Err(e)) => last_error = e,
            None => {}
        }
        if let Some(&next) = waiting.next() {
            attempts.push(TcpStream::connect(next));
        }
    }
    Err(last_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, UnixListener};

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A port nobody listens on: bound, then given back.
    async fn closed() -> SocketAddr {
        listening().await.1
    }

    #[tokio::test]
    async fn a_refused_address_is_followed_by_the_next_at_once() {
        let (_listener, open) = listening().await;
        let started = tokio::time::Instant::now();
        let tcp = first_to_connect(&[closed().await, open], Duration::from_secs(60)).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open);
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_silent_address_costs_only_its_head_start() {
        // A listener with a full backlog drops SYNs, as a black hole does.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let silent = socket.local_addr().unwrap().as_socket().unwrap();
        let mut fill = Vec::new();
        while let Ok(Ok(tcp)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(silent)).await
        {
            fill.push(tcp);
            assert!(fill.len() < 100, "the backlog never fills");
        }
        let (_listener, open) = listening().await;
        let tcp = first_to_connect(&[silent, open], Duration::from_millis(50)).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), open);
    }

    #[tokio::test]
    async fn nothing_to_try_or_nothing_answers_is_an_error() {
        let none = first_to_connect(&[], HEAD_START).await.unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        let refused = first_to_connect(&[closed().await, closed().await], HEAD_START).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_host_with_a_slash_is_a_socket_directory() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(directory.path().join(".s.PGSQL.7777")).unwrap();
        for host in [format!("{}", directory.path().display()), format!("{}/", directory.path().display())] {
            assert!(dial(&host, 7777, &Names::default()).await.unwrap().is_unix());
        }
        assert!(dial(directory.path().to_str().unwrap(), 7778, &Names::default()).await.is_err());
    }
}
