//! The address clients use: a TCP relay that stands for the network between them and the nodes.
//!
//! Owns the listening port and every connection through it. Never looks at a byte. Invariant: no
//! connection outlives its target: when the address moves, what went to the old place is reset, as
//! it would be by the new place, which knows nothing of it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::net::sockopt;

/// Each way. Fewer and longer reads and writes; only what is used of it takes memory.
const BUFFER_BYTES: usize = 64 * 1024;
/// A place that swallows packets. Clients have given up before.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Before the next try to accept when there are no files left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where new connections go. The number tells one stay at an address from the next there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    address: Option<SocketAddr>,
    number: u64,
}

/// Relays until dropped; then every connection is reset.
#[derive(Debug)]
pub struct Relay {
    target: watch::Sender<Target>,
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Listens on this port of 127.0.0.1 and refuses everybody, until it is pointed at something.
    /// Must be called within a tokio runtime.
    pub fn listen(port: u16) -> io::Result<Self> {
        raise_file_limit();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        sockopt::configure(&listener)?;
        let address = listener.local_addr()?;
        let (target, watched) = watch::channel(Target { address: None, number: 0 });
        let accepting = tokio::spawn(accept(listener, watched));
        Ok(Self { target, address, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on; connections to another place are reset.
    pub fn point_at(&self, address: Option<SocketAddr>) {
        self.lead(address, 1);
    }

    /// As a name that means another place from now on: connections there are stay where they are.
    pub fn lead_newcomers_to(&self, address: Option<SocketAddr>) {
        self.lead(address, 0);
    }

    fn lead(&self, address: Option<SocketAddr>, stays: u64) {
        self.target.send_if_modified(|target| {
            let moves = target.address != address;
            if moves {
                *target = Target { address, number: target.number + stays };
            }
            moves
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: watch::Receiver<Target>) {
    // Ended with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, target.clone()));
                }
                // A client that is gone already, or no file left for it.
                Err(_) => sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(mut client: TcpStream, mut target: watch::Receiver<Target>) {
    let chosen = *target.borrow_and_update();
    if reset_when_dropped(&client, true).is_err() {
        return;
    }
    let Some(address) = chosen.address else { return };
    let moved = async move {
        // An error is the relay's end.
        let _ = target.wait_for(|now| now.number != chosen.number).await;
    };
    tokio::select! {
        () = moved => {}
        // Whatever broke, the other side is to notice: both are reset.
        _ = relay(&mut client, address) => {}
    }
}

/// Until both sides have said that they are done, or one breaks.
async fn relay(client: &mut TcpStream, address: SocketAddr) -> io::Result<()> {
    let mut server = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    sockopt::configure(&server)?;
    reset_when_dropped(&server, true)?;
    copy_bidirectional_with_sizes(client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await?;
    // What is still on its way must arrive.
    reset_when_dropped(client, false)?;
    reset_when_dropped(&server, false)
}

/// Each client takes two files, and by default a process may have 1024. Where more are not to be had, the
/// relay still works, for fewer clients.
fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn reset_when_dropped(stream: &TcpStream, reset: bool) -> io::Result<()> {
    SockRef::from(stream).set_linger(reset.then_some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        timeout(PATIENCE, what).await.expect("it happens in time")
    }

    /// A node that the relay can be pointed at.
    async fn node() -> (TcpListener, Option<SocketAddr>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Some(address))
    }

    async fn is_reset(stream: &mut TcpStream) -> bool {
        let ended = soon(stream.read(&mut [0])).await;
        matches!(ended, Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
    }

    /// A client and what it is connected to, with a byte gone each way.
    async fn connected(relay: &Relay, node: &TcpListener) -> (TcpStream, TcpStream) {
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        let (mut server, _) = soon(node.accept()).await.unwrap();
        client.write_all(b"?").await.unwrap();
        assert_eq!(soon(server.read_u8()).await.unwrap(), b'?');
        server.write_all(b"!").await.unwrap();
        assert_eq!(soon(client.read_u8()).await.unwrap(), b'!');
        (client, server)
    }

    #[tokio::test]
    async fn without_a_target_or_at_a_dead_one_a_client_is_reset() {
        let relay = Relay::listen(0).unwrap();
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        assert!(is_reset(&mut client).await);

        let (node, address) = node().await;
        drop(node);
        relay.point_at(address);
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        assert!(is_reset(&mut client).await);
    }

    #[tokio::test]
    async fn when_the_address_moves_connections_of_the_old_place_are_reset_and_no_others() {
        let relay = Relay::listen(0).unwrap();
        let ((first, first_address), (second, second_address)) = (node().await, node().await);
        relay.point_at(first_address);
        let (mut old, mut old_server) = connected(&relay, &first).await;
        relay.point_at(second_address);
        assert!(is_reset(&mut old).await && is_reset(&mut old_server).await);

        let (mut new, mut new_server) = connected(&relay, &second).await;
        // Told again what is so already.
        relay.point_at(second_address);
        new.write_all(b"x").await.unwrap();
        assert_eq!(soon(new_server.read_u8()).await.unwrap(), b'x');

        relay.point_at(None);
        assert!(is_reset(&mut new).await && is_reset(&mut new_server).await);
    }

    #[tokio::test]
    async fn a_frozen_node_holds_nobody_once_the_address_has_moved() {
        let relay = Relay::listen(0).unwrap();
        // It accepts nothing; the kernel completes the handshake for it.
        let (_frozen, address) = node().await;
        relay.point_at(address);
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        client.write_all(b"hello?").await.unwrap();
        relay.point_at(None);
        assert!(is_reset(&mut client).await);
    }

    #[tokio::test]
    async fn a_half_closed_connection_goes_on_the_other_way() {
        let relay = Relay::listen(0).unwrap();
        let (node, address) = node().await;
        relay.point_at(address);
        let (mut client, mut server) = connected(&relay, &node).await;
        client.shutdown().await.unwrap();
        assert_eq!(soon(server.read(&mut [0])).await.unwrap(), 0);
        let much = vec![7; 1 << 20];
        let sent = much.clone();
        let sending = tokio::spawn(async move {
            server.write_all(&sent).await.unwrap();
            // Dropped: the end, not a reset.
        });
        let mut got = Vec::new();
        soon(client.read_to_end(&mut got)).await.unwrap();
        assert!(got == much, "{} bytes arrived", got.len());
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_is_killed_takes_its_connections_along() {
        let relay = Relay::listen(0).unwrap();
        let (node, address) = node().await;
        relay.point_at(address);
        let (mut client, server) = connected(&relay, &node).await;
        reset_when_dropped(&server, true).unwrap();
        drop(server);
        assert!(is_reset(&mut client).await);
    }

    #[tokio::test]
    async fn the_end_of_the_relay_ends_its_connections() {
        let relay = Relay::listen(0).unwrap();
        let (node, address) = node().await;
        relay.point_at(address);
        let (mut client, _server) = connected(&relay, &node).await;
        drop(relay);
        assert!(is_reset(&mut client).await);
    }
}
