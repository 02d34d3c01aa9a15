//! Questions asked on a server connection that no session holds: at login.
//!
//! Invariant: returns only when the server owes nothing, or with an error after which the connection is
//! not to be used again.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::backend::ServerConn;
use crate::backend::conn::{MAX_INSPECTED, parameter_status};
use crate::backend::expect::{Question, Verdict};
use crate::backend::settings::{IN_HOT_STANDBY, report};
use crate::wire::fields;
use crate::wire::frame::{HEADER_LEN, data_row, header};
use crate::wire::message::TransactionStatus;
use crate::wire::sqlstate::SqlState;

/// What a server said to our questions.
#[derive(Debug, Default)]
pub struct Said {
    /// First column of each row, by question.
    pub rows: Vec<(Question, Option<String>)>,
    pub error: Option<(SqlState, String)>,
}

/// Sends what is to be sent and hears what is owed. Not cancel safe: a dropped one leaves the connection
/// in the middle, and the pool closes it because it is not clean.
pub async fn converse(conn: &mut ServerConn) -> io::Result<Said> {
    let mut said = Said::default();
    poll_fn(|cx| poll_converse(conn, &mut said, cx)).await?;
    conn.input.release();
    Ok(said)
}

fn poll_converse(conn: &mut ServerConn, said: &mut Said, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let _ = conn.poll_flush(cx)?;
    loop {
        hear(conn, said)?;
        if conn.expected.is_empty() && conn.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match conn.input.poll_fill(&mut conn.stream, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        }
    }
}

fn hear(conn: &mut ServerConn, said: &mut Said) -> io::Result<()> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    loop {
        let bytes = conn.input.bytes();
        let found = match header(bytes, MAX_INSPECTED) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error) => return Err(invalid(error.to_string())),
        };
        if bytes.len() < found.len {
            conn.input.reserve(found.len);
            return Ok(());
        }
        let body = &bytes[HEADER_LEN..found.len];
        let (verdict, _) = conn.expected.on_message(found.tag).map_err(|e| invalid(e.to_string()))?;
        match (found.tag, verdict) {
            (b'Z', _) => {
                conn.status = body
                    .first()
                    .and_then(|&b| TransactionStatus::from_byte(b))
                    .ok_or_else(|| invalid("ReadyForQuery without a status".into()))?;
            }
            (b'S', _) => {
                if let Some((name, value)) = parameter_status(body)
                    && name != IN_HOT_STANDBY
                {
                    report(&mut conn.reported, name, value);
                }
            }
            (b'E', Verdict::Answer(Question::Reset)) => {
                return Err(invalid("what another session left could not be wiped".into()));
            }
            (b'E', _) => {
                let text = fields::field(body, b'M').map(String::from_utf8_lossy).unwrap_or_default();
                said.error.get_or_insert((fields::sqlstate(body), text.into_owned()));
            }
            (b'D', Verdict::Answer(question)) => said.rows.push((question, first_column(body))),
            _ => {}
        }
        conn.input.consume(found.len);
    }
}

fn first_column(body: &[u8]) -> Option<String> {
    let value = data_row(body).into_iter().next()??;
    Some(String::from_utf8_lossy(value).into_owned())
}
