//! Just enough HTTP/1.1 for doubles: one message with a content length.

use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

/// More than any call or answer of these doubles.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Message {
    /// The request line or the status line.
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Message {
    pub fn response(status: u16, content_type: &str, body: impl Into<String>) -> Message {
        Message {
            start: format!("HTTP/1.1 {status} Double"),
            headers: vec![("content-type".into(), content_type.into())],
            body: body.into(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Of an answer; 0 if it is none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// None: the other side has hung up.
    pub async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Message>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let mut lines = lines.into_iter();
        let start = lines.next().ok_or(io::ErrorKind::InvalidData)?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':').map(|(name, value)| (name.into(), value.trim().into())))
            .collect();
        let mut message = Message { start, headers, body: String::new() };
        let length = match message.header("content-length").map(str::parse) {
            None => 0,
            Some(Ok(length)) if length <= MAX_BODY_BYTES => length,
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
        };
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        message.body = String::from_utf8(body).map_err(io::Error::other)?;
        Ok(Some(message))
    }

    pub async fn write(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            let ours = ["content-length", "connection", "transfer-encoding"];
            if !ours.iter().any(|ours| name.eq_ignore_ascii_case(ours)) {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text += &format!("content-length: {}\r\n\r\n{}", self.body.len(), self.body);
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await
    }

    /// Asks on a connection of its own.
    pub async fn send(&self, to: SocketAddr) -> io::Result<Message> {
        let mut stream = BufStream::new(TcpStream::connect(to).await?);
        self.write(&mut stream).await?;
        Message::read(&mut stream).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
