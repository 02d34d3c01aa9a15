//! Whether the peer of a connection has vanished, as opposed to being slow.
//!
//! The kernel's `TCP_USER_TIMEOUT` does not tell the two apart: it also ends the connection of a peer that lives, says
//! so to each probe, and has no room for more. So it is not set, and who waits for a peer asks here now and then.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::Stream;

/// Whether what was sent to the peer has been repeated for so long without a sign of life. A peer that owes nothing
/// is asked by keepalive, and a Unix socket's cannot vanish.
pub fn has_vanished(stream: &Stream, after: Duration) -> bool {
    let Some(socket) = stream.tcp() else { return false };
    match read(socket) {
        Ok(info) => {
            let after = u32::try_from(after.as_millis()).unwrap_or(u32::MAX);
            // A probe is on its way for a moment where the peer answers it; the second is sent for want of an answer.
            let is_asked_in_vain = info.tcpi_retransmits > 0 || info.tcpi_probes > 1;
            is_asked_in_vain && info.tcpi_last_ack_recv >= after && info.tcpi_last_data_recv >= after
        }
        // What is wrong with the socket, its next use says.
        Err(_) => false,
    }
}

fn read(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "no library that komainu has knows this option")]
    // SAFETY: tcp_info is numbers only, so zeroes are one; the kernel writes no more of it than the length given.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let into = (&raw mut info).cast();
        match libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length) {
            0 => Ok(info),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::sockopt;
    use super::*;

    #[tokio::test]
    async fn a_peer_that_does_not_read_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut tcp, _) = listener.accept().await.unwrap();
        sockopt::configure(&tcp).unwrap();
        // Until neither side's buffer takes any more.
        while tokio::time::timeout(Duration::from_millis(300), tcp.write_all(&[1; 65536])).await.is_ok() {}
        let stream = Stream::Tcp(tcp);
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut probed = false;
        while !probed && Instant::now() < deadline {
            assert!(!has_vanished(&stream, Duration::from_millis(1)), "it acknowledges what it is asked");
            probed = read(stream.tcp().unwrap()).unwrap().tcpi_backoff > 2;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(probed, "its window has never been asked for");
        (&peer).read_exact(&mut [0; 1000]).unwrap();
    }

    #[tokio::test]
    async fn who_owes_nothing_has_not_vanished() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = Stream::Tcp(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        assert!(!has_vanished(&stream, Duration::ZERO));
    }
}
