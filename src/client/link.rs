//! A client's connection before its login: bounded reads under one deadline.
//!
//! Owns the bytes read and not yet used, and those to be sent. Invariant: never more than a message's limit
//! is kept, and nothing read before a TLS handshake survives it (CVE-2021-23214).

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::error::HandshakeError;
use crate::net::Stream;
use crate::wire::frame::{self, HEADER_LEN};
use crate::wire::startup::{self, StartupError};

/// One read's size. A startup packet or a SCRAM message fits.
const READ_BYTES: usize = 1024;
/// How long a refusal may take to be written once the deadline is over.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes thrown away after a refusal, so that closing does not destroy it (see `refuse`).
const DRAINED_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    input: BytesMut,
    /// Sent by `flush`.
    pub(super) output: BytesMut,
    deadline: Instant,
    address: Option<IpAddr>,
}

impl Link {
    pub(super) fn new(stream: Stream, allowed: Duration) -> Self {
        let address = match &stream {
            Stream::Tcp(tcp) => tcp.peer_addr().ok().map(|address| address.ip().to_canonical()),
            _ => None,
        };
        let deadline = Instant::now() + allowed;
        Link { stream, input: BytesMut::new(), output: BytesMut::new(), deadline, address }
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits for somebody else than the client: that takes nothing of its time. An error: it has left meanwhile.
    pub(super) async fn aside<T>(&mut self, done: impl Future<Output = T>) -> Result<T, HandshakeError> {
        let begun = Instant::now();
        tokio::select! {
            biased;
            done = done => {
                self.deadline += begun.elapsed();
                Ok(done)
            }
            () = self.stream.ended(&mut self.input) => Err(HandshakeError::Disconnected),
        }
    }

    /// The stream, bytes received and not used, and bytes to be sent.
    pub(super) fn into_parts(self) -> (Stream, BytesMut, BytesMut) {
        (self.stream, self.input, self.output)
    }

    pub(super) fn has_unread_bytes(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether the first byte is a TLS record's and not a startup packet's; it is not consumed.
    pub(super) async fn begins_with_tls(&self) -> Result<bool, HandshakeError> {
        const HANDSHAKE_RECORD: u8 = 0x16;
        let Stream::Tcp(tcp) = &self.stream else { return Ok(false) };
        let mut first = [0];
        match timeout_at(self.deadline, tcp.peek(&mut first)).await {
            Err(_) => Err(HandshakeError::Timeout),
            Ok(Ok(0)) => Err(HandshakeError::Disconnected),
            Ok(Ok(_)) => Ok(first[0] == HANDSHAKE_RECORD),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// The body of an untagged packet.
    pub(super) async fn read_startup(&mut self) -> Result<Bytes, HandshakeError> {
        self.fill(4).await?;
        let length = self.input.first_chunk::<4>().copied().ok_or(StartupError::Length)?;
        let body_len = startup::body_len(length)?;
        self.fill(4 + body_len).await?;
        self.input.advance(4);
        Ok(self.input.split_to(body_len).freeze())
    }

    /// The body of a `p` message; any other ends the handshake.
    pub(super) async fn read_response(
        &mut self,
        expected: &'static str,
        limit: usize,
    ) -> Result<Bytes, HandshakeError> {
        self.flush().await?;
        // The tag first: what is no message of ours has no length worth reading.
        self.fill(1).await?;
        match self.input[0] {
            b'p' => {}
            found => return Err(HandshakeError::UnexpectedMessage { expected, found }),
        }
        self.fill(HEADER_LEN).await?;
        let header = frame::header(&self.input, limit)?.expect("five bytes were read");
        self.fill(header.len).await?;
        self.input.advance(HEADER_LEN);
        Ok(self.input.split_to(header.body_len()).freeze())
    }

    /// Reads until `wanted` bytes are there, a little at a time: a declared length reserves nothing.
    async fn fill(&mut self, wanted: usize) -> Result<(), HandshakeError> {
        while self.input.len() < wanted {
            self.input.reserve(READ_BYTES);
            match timeout_at(self.deadline, self.stream.read_buf(&mut self.input)).await {
                Err(_) => return Err(HandshakeError::Timeout),
                Ok(Ok(0)) => return Err(HandshakeError::Disconnected),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), HandshakeError> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = async {
            // What was written is gone from the buffer, even if this is given up halfway.
            self.stream.write_all_buf(&mut self.output).await?;
            self.stream.flush().await
        };
        match timeout_at(self.deadline, written).await {
            Err(_) => Err(HandshakeError::Timeout),
            Ok(result) => Ok(result?),
        }
    }

    /// Answers an SSLRequest with yes and does the TLS handshake; `direct`: there was no request.
    pub(super) async fn accept_tls(
        mut self,
        config: Arc<ServerConfig>,
        direct: bool,
    ) -> Result<Self, HandshakeError> {
        debug_assert!(self.input.is_empty(), "the caller refuses bytes that precede the handshake");
        if !direct {
            self.output.extend_from_slice(b"S");
            self.flush().await?;
        }
        let Stream::Tcp(tcp) = self.stream else {
            return Err(HandshakeError::RepeatedRequest("SSLRequest"));
        };
        let accepted = timeout_at(self.deadline, TlsAcceptor::from(config).accept(tcp)).await;
        let tls = match accepted {
            Err(_) => return Err(HandshakeError::Timeout),
            Ok(result) => result.map_err(HandshakeError::Tls)?,
        };
        Ok(Link { stream: Stream::TlsAccepted(Box::new(tls)), ..self })
    }

    /// Tells the client why it may not come in, as far as it still listens.
    pub(super) async fn refuse(mut self, error: &HandshakeError) {
        let Some(answer) = error.answer() else { return };
        answer.report().encode(&mut self.output);
        let written = async {
            self.stream.write_all_buf(&mut self.output).await?;
            self.stream.flush().await?;
            self.stream.shutdown().await
        };
        let until = self.deadline.max(Instant::now() + REFUSAL_TIMEOUT);
        if let Ok(Ok(())) = timeout(until - Instant::now(), written).await {
            self.drain();
        }
    }

    /// Closing a socket with bytes unread resets the connection, and some clients then never see what
    /// was written to them. Takes only what is there already.
    fn drain(&mut self) {
        let mut drained = 0;
        while drained < DRAINED_BYTES {
            self.input.clear();
            self.input.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.input).now_or_never() {
                Some(Ok(bytes @ 1..)) => drained += bytes,
                _ => return,
            }
        }
    }
}
