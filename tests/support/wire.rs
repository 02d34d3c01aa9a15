//! A raw protocol client, for input no driver would send and replies no driver would show.
//!
//! Blocking, with a deadline on everything it waits for.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Longer than anybody is held, or waits for a server connection, by default.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(200);
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const PROTOCOL_3_0: u32 = 3 << 16;

/// One backend message: its tag and its body without the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: char,
    pub body: Vec<u8>,
}

pub struct Wire {
    transport: Box<dyn Transport>,
    /// Bytes read and not yet taken.
    received: Vec<u8>,
    /// From BackendKeyData, after a login.
    pub process_id: i32,
    pub secret_key: Vec<u8>,
    /// From ParameterStatus, in the order of arrival.
    pub parameters: Vec<(String, String)>,
}

trait Transport: Read + Write + Send {
    fn socket(&self) -> &TcpStreamOrUnix;
}

enum TcpStreamOrUnix {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Over TCP to 127.0.0.1; nothing sent.
    pub fn connect(port: u16) -> Self {
        let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::over(Plain(TcpStreamOrUnix::Tcp(tcp)))
    }

    /// Over the Unix socket of this directory and port.
    pub fn unix(directory: &Path, port: u16) -> Self {
        let unix = UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).unwrap();
        Self::over(Plain(TcpStreamOrUnix::Unix(unix)))
    }

    /// Over TLS after an SSLRequest; the server's certificate must be of this authority.
    pub fn tls(port: u16, authority_pem: &str) -> Self {
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.write_all(&SSL_REQUEST).unwrap();
        let mut answer = [0];
        tcp.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"S", "the server offers no TLS");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut tcp).unwrap();
        }
        Self::over(Tls(StreamOwned::new(session, TcpStreamOrUnix::Tcp(tcp))))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// For when the other side may have hung up.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.transport.write_all(bytes)?;
        self.transport.flush()
    }

    /// Sends a message with this tag and body, the length filled in.
    pub fn send_message(&mut self, tag: char, body: &[u8]) {
        let mut bytes = vec![tag as u8];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        self.send(&bytes);
    }

    /// Sends what an encoder of `postgres_protocol::message::frontend` writes.
    pub fn encode<E: std::fmt::Debug>(&mut self, encode: impl FnOnce(&mut BytesMut) -> Result<(), E>) {
        let mut bytes = BytesMut::new();
        encode(&mut bytes).unwrap();
        self.send(&bytes);
    }

    /// Sends a startup message of protocol 3.0.
    pub fn startup(&mut self, parameters: &[(&str, &str)]) {
        self.startup_version(PROTOCOL_3_0, parameters);
    }

    pub fn startup_version(&mut self, version: u32, parameters: &[(&str, &str)]) {
        let mut body = version.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        let mut bytes = (body.len() as u32 + 4).to_be_bytes().to_vec();
        bytes.extend(body);
        self.send(&bytes);
    }

    /// Starts up, authenticates as asked for, and reads on to ReadyForQuery.
    #[track_caller]
    pub fn login(&mut self, user: &str, password: &str, database: &str) {
        self.startup(&[("user", user), ("database", database)]);
        let last = self.authenticate(user, password);
        assert_eq!(last.tag, 'Z', "login failed: {last:?} {:?}", last.error());
    }

    /// Answers whatever is asked for; returns ReadyForQuery or the error that ended it.
    #[track_caller]
    pub fn authenticate(&mut self, user: &str, password: &str) -> Message {
        let mut scram: Option<ScramSha256> = None;
        loop {
            let message = self.message();
            match message.tag {
                'R' => self.answer(&message.body, user, password, &mut scram),
                'S' => {
                    let mut strings = message.strings().into_iter();
                    self.parameters.push((strings.next().unwrap(), strings.next().unwrap()));
                }
                'K' => {
                    self.process_id = i32::from_be_bytes(message.body[..4].try_into().unwrap());
                    self.secret_key = message.body[4..].to_vec();
                }
                'N' | 'v' => (),
                'Z' | 'E' => return message,
                _ => panic!("unexpected during login: {message:?}"),
            }
        }
    }

    fn answer(&mut self, body: &[u8], user: &str, password: &str, scram: &mut Option<ScramSha256>) {
        let rest = &body[4..];
        match u32::from_be_bytes(body[..4].try_into().unwrap()) {
            0 => (),
            3 => self.encode(|buffer| frontend::password_message(password.as_bytes(), buffer)),
            5 => {
                let hash = md5_hash(user.as_bytes(), password.as_bytes(), rest.try_into().unwrap());
                self.encode(|buffer| frontend::password_message(hash.as_bytes(), buffer));
            }
            10 => {
                let new = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                self.encode(|buffer| frontend::sasl_initial_response(SCRAM_SHA_256, new.message(), buffer));
                *scram = Some(new);
            }
            11 => {
                let exchange = scram.as_mut().unwrap();
                exchange.update(rest).unwrap();
                let mut bytes = BytesMut::new();
                frontend::sasl_response(exchange.message(), &mut bytes).unwrap();
                self.send(&bytes);
            }
            12 => scram.as_mut().unwrap().finish(rest).unwrap(),
            other => panic!("unexpected authentication request {other}"),
        }
    }

    /// Sends a simple query and reads to ReadyForQuery, which is the last message returned.
    #[track_caller]
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.encode(|buffer| frontend::query(sql, buffer));
        self.until('Z')
    }

    /// The first column of the first row of a simple query.
    #[track_caller]
    pub fn query_value(&mut self, sql: &str) -> String {
        let messages = self.query(sql);
        let row = messages.iter().find(|message| message.tag == 'D');
        let row = row.unwrap_or_else(|| panic!("{sql}: no row in {messages:?}"));
        row.columns()[0].clone().unwrap_or_else(|| panic!("{sql}: null"))
    }

    /// The next message.
    #[track_caller]
    pub fn message(&mut self) -> Message {
        match self.try_message(PATIENCE) {
            Ok(Some(message)) => message,
            Ok(None) => panic!("the connection ended"),
            Err(error) => panic!("no message: {error}"),
        }
    }

    /// The next message, `None` at the connection's end, an error at the deadline.
    pub fn try_message(&mut self, within: Duration) -> io::Result<Option<Message>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(header) = self.received.first_chunk::<5>() {
                let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
                if self.received.len() > length {
                    let rest = self.received.split_off(length + 1);
                    let bytes = std::mem::replace(&mut self.received, rest);
                    return Ok(Some(Message { tag: bytes[0] as char, body: bytes[5..].to_vec() }));
                }
            }
            if self.fill(deadline)? == 0 {
                return Ok(None);
            }
        }
    }

    /// What has come of a message that is not complete, without its tag and length.
    pub fn half_a_message(&self) -> &[u8] {
        self.received.get(5..).unwrap_or_default()
    }

    /// Messages up to and including the first with this tag.
    #[track_caller]
    pub fn until(&mut self, tag: char) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.message());
            if messages.last().is_some_and(|last| last.tag == tag) {
                return messages;
            }
        }
    }

    /// The next message, which must have this tag.
    #[track_caller]
    pub fn expect(&mut self, tag: char) -> Message {
        let message = self.message();
        assert_eq!(message.tag, tag, "{message:?} {:?}", message.error());
        message
    }

    /// A single byte, as it answers an SSLRequest.
    #[track_caller]
    pub fn byte(&mut self) -> Option<u8> {
        let deadline = Instant::now() + PATIENCE;
        while self.received.is_empty() {
            if self.fill(deadline).unwrap() == 0 {
                return None;
            }
        }
        Some(self.received.remove(0))
    }

    /// Reads to the connection's end, which must come; returns the messages before it.
    #[track_caller]
    pub fn expect_end(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_message(PATIENCE) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return messages,
                Err(error) => panic!("the connection did not end ({error}) after {messages:?}"),
            }
        }
    }

    /// Asserts that nothing arrives for a while.
    #[track_caller]
    pub fn expect_silence(&mut self, during: Duration) {
        match self.try_message(during) {
            Err(error) if error.kind() == ErrorKind::TimedOut => (),
            other => panic!("expected silence, got {other:?}"),
        }
    }

    /// Sends no more, but still reads.
    pub fn half_close(&self) {
        match self.transport.socket() {
            TcpStreamOrUnix::Tcp(tcp) => tcp.shutdown(Shutdown::Write).unwrap(),
            TcpStreamOrUnix::Unix(unix) => unix.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Drops the connection with a reset instead of an orderly end.
    pub fn reset(self) {
        if let TcpStreamOrUnix::Tcp(tcp) = self.transport.socket() {
            rustix::net::sockopt::set_socket_linger(tcp, Some(Duration::ZERO)).unwrap();
        }
    }

    fn over(transport: impl Transport + 'static) -> Self {
        transport.socket().set_read_timeout(POLL).unwrap();
        Self {
            transport: Box::new(transport),
            received: Vec::new(),
            process_id: 0,
            secret_key: Vec::new(),
            parameters: Vec::new(),
        }
    }

    /// Reads some bytes; 0 at the end. A reset is an end too.
    fn fill(&mut self, deadline: Instant) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.transport.read(&mut chunk) {
                Ok(count) => {
                    self.received.extend(&chunk[..count]);
                    return Ok(count);
                }
                Err(error) => match error.kind() {
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
                        return Ok(0);
                    }
                    ErrorKind::WouldBlock | ErrorKind::TimedOut if Instant::now() >= deadline => {
                        return Err(io::Error::new(ErrorKind::TimedOut, "nothing before the deadline"));
                    }
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => (),
                    _ => return Err(error),
                },
            }
        }
    }
}

impl Message {
    /// The fields of an ErrorResponse or NoticeResponse: `C` is the SQLSTATE, `M` the message.
    pub fn error(&self) -> Vec<(char, String)> {
        if !matches!(self.tag, 'E' | 'N') {
            return Vec::new();
        }
        self.strings()
            .into_iter()
            .filter_map(|field| {
                let tag = field.chars().next()?;
                Some((tag, field[tag.len_utf8()..].to_owned()))
            })
            .collect()
    }

    /// One field of an error; `sqlstate` and `text` name the usual two.
    pub fn field(&self, tag: char) -> String {
        self.error().into_iter().find(|field| field.0 == tag).map(|field| field.1).unwrap_or_default()
    }

    pub fn sqlstate(&self) -> String {
        self.field('C')
    }

    pub fn text(&self) -> String {
        self.field('M')
    }

    /// The zero-terminated strings the body consists of.
    pub fn strings(&self) -> Vec<String> {
        let mut strings: Vec<_> =
            self.body.split(|byte| *byte == 0).map(|s| String::from_utf8_lossy(s).into_owned()).collect();
        strings.pop();
        strings
    }

    /// The columns of a DataRow, as text.
    pub fn columns(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, 'D');
        let count = u16::from_be_bytes(self.body[..2].try_into().unwrap());
        let mut rest = &self.body[2..];
        (0..count)
            .map(|_| {
                let (length, after) = rest.split_first_chunk::<4>().unwrap();
                let length = i32::from_be_bytes(*length);
                let (value, after) = after.split_at(usize::try_from(length).unwrap_or(0));
                rest = after;
                (length >= 0).then(|| String::from_utf8_lossy(value).into_owned())
            })
            .collect()
    }
}

/// The tags of these messages, to compare with `"TDCZ"`.
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| message.tag).collect()
}

impl TcpStreamOrUnix {
    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_read_timeout(Some(timeout)),
            Self::Unix(unix) => unix.set_read_timeout(Some(timeout)),
        }
    }
}

impl Read for TcpStreamOrUnix {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read(buffer),
            Self::Unix(unix) => unix.read(buffer),
        }
    }
}

impl Write for TcpStreamOrUnix {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.write(bytes),
            Self::Unix(unix) => unix.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Plain(TcpStreamOrUnix);

struct Tls(StreamOwned<ClientConnection, TcpStreamOrUnix>);

impl Transport for Plain {
    fn socket(&self) -> &TcpStreamOrUnix {
        &self.0
    }
}

impl Transport for Tls {
    fn socket(&self) -> &TcpStreamOrUnix {
        &self.0.sock
    }
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Plain {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
