//! komainu's own questions to a server: what it is, what is in its catalog, who may log in.
//!
//! Owns one connection that no client ever uses, and small results read whole. Sets nothing on it by
//! itself: what it runs under (`search_path`, `client_encoding`) are the startup parameters it was
//! opened with. Has no deadline: the caller drops the future, and the connection is then not used again.
//! Invariant: a connection that owes a reply is never asked anything else.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect::{ConnectTarget, Connected, Login, connect};
use super::connect_error::{ConnectError, ProtocolFault};
use super::rows::Rows;
use crate::net::Stream;
use crate::wire::fields;
use crate::wire::frame::{self, HEADER_LEN, split_cstr};
use crate::wire::message::{self, MessageTooLong};
use crate::wire::sqlstate::{self, SqlState};

/// Of one message; a row of a catalog is far below it.
const MAX_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Of one result. A catalog with 100,000 functions is some 10 MB as we ask for it.
const MAX_RESULT_BYTES: usize = 64 * 1024 * 1024;
const READ_BYTES: usize = 8 * 1024;
/// What a server's texts are cut to in an error.
const MAX_ERROR_TEXT_BYTES: usize = 1024;

/// A connection for questions of our own.
#[derive(Debug)]
pub struct ControlConnection {
    stream: Stream,
    incoming: BytesMut,
    outgoing: BytesMut,
    in_hot_standby: Option<bool>,
    server_version_num: u32,
    /// From the moment a question is sent until the server is ready again; for ever once it broke.
    owes_reply: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The connection is good for the next question, unless the server said that it ends it.
    #[error("the server refused the query: {message} ({sqlstate})")]
    Refused { sqlstate: SqlState, message: String },
    #[error("the connection broke during a query: {0}")]
    Lost(#[from] io::Error),
    #[error("the server broke the protocol during a query: {0}")]
    Protocol(#[from] ProtocolFault),
    #[error("the result is larger than the limit of {MAX_RESULT_BYTES} bytes")]
    TooLarge,
    #[error("the query cannot be sent: {0}")]
    Unsendable(&'static str),
    #[error("the connection still owes a reply to an earlier query")]
    Owing,
}

impl QueryError {
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            QueryError::Refused { sqlstate, .. } => Some(*sqlstate),
            QueryError::Lost(_) => Some(sqlstate::CONNECTION_FAILURE),
            _ => None,
        }
    }

    fn refused(body: &[u8]) -> Self {
        let text = fields::field(body, b'M').unwrap_or_default();
        let text = &text[..text.len().min(MAX_ERROR_TEXT_BYTES)];
        let message = String::from_utf8_lossy(text).into_owned();
        QueryError::Refused { sqlstate: fields::sqlstate(body), message }
    }
}

impl From<MessageTooLong> for QueryError {
    fn from(_: MessageTooLong) -> Self {
        QueryError::Unsendable("it is too long")
    }
}

impl From<Connected> for ControlConnection {
    fn from(connected: Connected) -> Self {
        ControlConnection {
            stream: connected.stream,
            incoming: connected.buffered,
            outgoing: BytesMut::new(),
            in_hot_standby: connected.in_hot_standby,
            server_version_num: connected.server_version_num,
            owes_reply: false,
        }
    }
}

impl ControlConnection {
    pub async fn open(
        target: &ConnectTarget,
        login: &Login,
        startup_parameters: &[(&str, &str)],
    ) -> Result<Self, ConnectError> {
        connect(target, login, startup_parameters).await.map(Self::from)
    }

    /// Whom it leads to; none over a Unix socket, or once it is broken.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.peer_address()
    }

    /// Whether it can be asked again.
    pub fn is_usable(&self) -> bool {
        !self.owes_reply
    }

    pub fn server_version_num(&self) -> u32 {
        self.server_version_num
    }

    /// Whether the server is in recovery: as it reports itself (from PostgreSQL 14 on, and it reports
    /// the end of recovery with the reply to the next question), else by asking.
    pub async fn in_recovery(&mut self) -> Result<bool, QueryError> {
        let rows = self.query("SELECT pg_catalog.pg_is_in_recovery()").await?;
        match rows.value(0, 0) {
            Some(b"t") => Ok(true),
            Some(b"f") => Ok(false),
            _ => Err(ProtocolFault::Malformed('D').into()),
        }
    }

    /// What the server last reported of `in_hot_standby`.
    pub fn in_hot_standby(&self) -> Option<bool> {
        self.in_hot_standby
    }

    /// By a simple query. Of several statements' results the last one is returned.
    pub async fn query(&mut self, sql: &str) -> Result<Rows, QueryError> {
        if sql.contains('\0') {
            return Err(QueryError::Unsendable("it contains a NUL"));
        }
        self.outgoing.clear();
        message::query(&mut self.outgoing, sql.as_bytes())?;
        self.exchange().await
    }

    /// With `$1`, `$2`, … given as text; the statement is the unnamed one.
    pub async fn query_params(&mut self, sql: &str, parameters: &[&str]) -> Result<Rows, QueryError> {
        if sql.contains('\0') || parameters.iter().any(|value| value.contains('\0')) {
            return Err(QueryError::Unsendable("it contains a NUL"));
        }
        if parameters.len() > i16::MAX as usize {
            return Err(QueryError::Unsendable("it has too many parameters"));
        }
        let values: Vec<Option<&[u8]>> = parameters.iter().map(|value| Some(value.as_bytes())).collect();
        let out = &mut self.outgoing;
        out.clear();
        message::parse(out, b"", sql.as_bytes(), &[0, 0])?;
        message::bind_text(out, b"", b"", &values)?;
        // Describe of the unnamed portal: the names of the columns.
        out.extend_from_slice(&[b'D', 0, 0, 0, 6, b'P', 0]);
        message::execute_unnamed(out);
        message::sync(out);
        self.exchange().await
    }

    /// Returns once the server has said something unasked, or ended the connection: the next question tells which. Cancel
    /// safe. To be called only while nothing is owed.
    pub async fn interrupted(&mut self) {
        self.incoming.reserve(READ_BYTES);
        // An error is found again by the next question.
        let _ = self.stream.read_buf(&mut self.incoming).await;
    }

    async fn exchange(&mut self) -> Result<Rows, QueryError> {
        if self.owes_reply {
            return Err(QueryError::Owing);
        }
        self.owes_reply = true;
        self.stream.write_all(&self.outgoing).await?;
        self.stream.flush().await?;
        let mut rows = Rows::default();
        let mut refusal = None;
        loop {
            let (tag, body) = self.receive().await?;
            match tag {
                b'T' => rows = Rows::described(&body).ok_or(ProtocolFault::Malformed('T'))?,
                b'D' => {
                    rows.push(body).ok_or(ProtocolFault::Malformed('D'))?;
                    if rows.bytes() > MAX_RESULT_BYTES {
                        return Err(QueryError::TooLarge);
                    }
                }
                b'E' if fields::is_fatal(&body) => return Err(QueryError::refused(&body)),
                b'E' => refusal = refusal.or(Some(QueryError::refused(&body))),
                b'S' => self.note_parameter(&body),
                b'Z' => {
                    self.owes_reply = false;
                    return refusal.map_or(Ok(rows), Err);
                }
                // Completions, notices and notifications.
                b'1' | b'2' | b'C' | b'I' | b'n' | b'N' | b'A' => {}
                other => return Err(ProtocolFault::Unexpected(char::from(other)).into()),
            }
        }
    }

    async fn receive(&mut self) -> Result<(u8, Bytes), QueryError> {
        loop {
            if let Some(header) =
                frame::header(&self.incoming, MAX_MESSAGE_BYTES).map_err(ProtocolFault::Frame)?
                && self.incoming.len() >= header.len
            {
                let mut message = self.incoming.split_to(header.len).freeze();
                message.advance(HEADER_LEN);
                return Ok((header.tag, message));
            }
            self.incoming.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(QueryError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn note_parameter(&mut self, body: &[u8]) {
        if let Some((b"in_hot_standby", rest)) = split_cstr(body) {
            self.in_hot_standby = Some(rest.starts_with(b"on"));
        }
    }
}
