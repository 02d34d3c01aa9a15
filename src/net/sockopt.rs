//! Socket options of TCP connections, to servers and from clients.
//!
//! Owns how long a silent peer is believed in. Never opens or reads a socket.
//! Invariant: a peer that vanished without a word while we wait for it is noticed within 45 seconds. One that owes us
//! acknowledgements is for [`super::vanished`]; where nobody asks there, for [`give_up_unacknowledged`].

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Silence before the first probe. Clouds forget idle flows after 350 seconds.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;
/// Idle time and all probes together. Less would cut the probing short: where the user timeout is set
/// the kernel gives up by it, and no longer by the number of probes.
const PEER_GONE_AFTER: Duration = Duration::from_secs(45);

/// Sets the options of a connection we open, or of a listening socket, whose connections inherit them:
/// six system calls less for each client that connects.
pub fn configure<'a>(socket: impl Into<SockRef<'a>>) -> io::Result<()> {
    let socket = socket.into();
    // Messages are written whole; waiting to fill a segment only adds latency.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_COUNT);
    socket.set_tcp_keepalive(&keepalive)
}

/// For peers that always read: what they do not acknowledge for so long ends the connection. So does a window that
/// stays closed, which is why clients and servers of PostgreSQL, who may take their time, do not have it.
pub fn give_up_unacknowledged<'a>(socket: impl Into<SockRef<'a>>) -> io::Result<()> {
    socket.into().set_tcp_user_timeout(Some(PEER_GONE_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_a_listener_accepts_has_its_options() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        configure(&listener).unwrap();
        give_up_unacknowledged(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let socket = SockRef::from(&accepted);
        assert!(accepted.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_COUNT);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PEER_GONE_AFTER));
    }

    #[tokio::test]
    async fn every_option_is_really_set() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        configure(&tcp).unwrap();
        let socket = SockRef::from(&tcp);
        assert_eq!(socket.tcp_user_timeout().unwrap(), None, "a peer that lives may take its time");
        give_up_unacknowledged(&tcp).unwrap();
        assert!(tcp.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_COUNT);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PEER_GONE_AFTER));
        assert_eq!(PEER_GONE_AFTER, KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_COUNT);
    }
}
