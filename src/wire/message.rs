//! Encoders for the messages komainu writes itself; everything else is passed on as it came.
//!
//! Appends to a caller's buffer. Invariant: a length that does not fit the protocol's 31 bits is
//! refused and leaves the buffer as it was; it never wraps (CVE-2024-32655 and its kind).

use bytes::{BufMut, BytesMut};

use super::frame::HEADER_LEN;
use super::sqlstate::SqlState;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes does not fit the protocol's length field")]
pub struct MessageTooLong(pub usize);

/// Severity of an ErrorResponse or NoticeResponse that komainu itself writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    /// The connection ends after it.
    Fatal,
    Warning,
    Notice,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
        }
    }
}

/// Appends one message whose body `write` appends.
pub fn frame(out: &mut BytesMut, tag: u8, write: impl FnOnce(&mut BytesMut)) -> Result<(), MessageTooLong> {
    let start = out.len();
    out.put_u8(tag);
    out.put_i32(0);
    write(out);
    let length = out.len() - start - 1;
    close_frame(out, start, length)
}

/// Fills in the length of the message that begins at `start`, or takes the message back.
fn close_frame(out: &mut BytesMut, start: usize, length: usize) -> Result<(), MessageTooLong> {
    match i32::try_from(length) {
        Ok(value) => {
            out[start + 1..start + 5].copy_from_slice(&value.to_be_bytes());
            Ok(())
        }
        Err(_) => {
            out.truncate(start);
            Err(MessageTooLong(length))
        }
    }
}

fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    out.extend_from_slice(text);
    out.put_u8(0);
}

/// ErrorResponse or NoticeResponse, by severity.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    pub severity: Severity,
    pub state: SqlState,
    pub message: &'a str,
    pub detail: Option<&'a str>,
    pub hint: Option<&'a str>,
    /// Where PostgreSQL says it, for those who go by that.
    pub routine: Option<&'a str>,
}

impl<'a> Report<'a> {
    pub fn error(state: SqlState, message: &'a str) -> Self {
        Report { severity: Severity::Error, state, message, detail: None, hint: None, routine: None }
    }

    pub fn fatal(state: SqlState, message: &'a str) -> Self {
        Report { severity: Severity::Fatal, ..Report::error(state, message) }
    }

    pub fn warning(state: SqlState, message: &'a str) -> Self {
        Report { severity: Severity::Warning, ..Report::error(state, message) }
    }

    pub fn hint(self, hint: &'a str) -> Self {
        Report { hint: Some(hint), ..self }
    }

    pub fn detail(self, detail: &'a str) -> Self {
        Report { detail: Some(detail), ..self }
    }

    pub fn routine(self, routine: &'a str) -> Self {
        Report { routine: Some(routine), ..self }
    }

    /// As `encode`, without the header.
    pub fn body(&self) -> Box<[u8]> {
        let mut whole = BytesMut::new();
        self.encode(&mut whole);
        whole[HEADER_LEN..].into()
    }

    pub fn encode(&self, out: &mut BytesMut) {
        let tag = match self.severity {
            Severity::Error | Severity::Fatal => b'E',
            Severity::Warning | Severity::Notice => b'N',
        };
        let severity = self.severity.as_str();
        let texts = [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(self.state.as_str())),
            (b'M', Some(self.message)),
            (b'D', self.detail),
            (b'H', self.hint),
            (b'R', self.routine),
        ];
        frame(out, tag, |out| {
            for (kind, text) in texts {
                if let Some(text) = text {
                    out.put_u8(kind);
                    // A NUL would end the field early and shift the rest.
                    out.extend(text.bytes().filter(|&b| b != 0));
                    out.put_u8(0);
                }
            }
            out.put_u8(0);
        })
        .expect("texts of ours are short");
    }
}

/// The transaction status byte of ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

impl TransactionStatus {
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    pub fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

pub fn ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    out.extend_from_slice(&[b'Z', 0, 0, 0, 5, status.as_byte()]);
}

pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    frame(out, b'S', |out| {
        put_cstr(out, name.as_bytes());
        put_cstr(out, value.as_bytes());
    })
    .expect("a parameter's value came in one message and fits one");
}

pub fn command_complete(out: &mut BytesMut, tag: &str) {
    frame(out, b'C', |out| put_cstr(out, tag.as_bytes())).expect("tags of ours are short");
}

/// A RowDescription of text columns, for the few results komainu makes itself.
pub fn text_row_description(out: &mut BytesMut, columns: &[&str]) {
    const TEXT_OID: u32 = 25;
    frame(out, b'T', |out| {
        out.put_i16(columns.len() as i16);
        for name in columns {
            put_cstr(out, name.as_bytes());
            out.put_u32(0);
            out.put_i16(0);
            out.put_u32(TEXT_OID);
            out.put_i16(-1);
            out.put_i32(-1);
            out.put_i16(0);
        }
    })
    .expect("descriptions of ours are short");
}

pub fn text_row(out: &mut BytesMut, values: &[Option<&str>]) {
    frame(out, b'D', |out| {
        out.put_i16(values.len() as i16);
        for value in values {
            match value {
                None => out.put_i32(-1),
                Some(text) => {
                    out.put_i32(text.len() as i32);
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
    })
    .expect("rows of ours are short");
}

pub fn query(out: &mut BytesMut, sql: &[u8]) -> Result<(), MessageTooLong> {
    frame(out, b'Q', |out| put_cstr(out, sql))
}

/// `types` is the Parse message's tail as the client sent it: a count, then that many OIDs.
pub fn parse(out: &mut BytesMut, name: &[u8], sql: &[u8], types: &[u8]) -> Result<(), MessageTooLong> {
    frame(out, b'P', |out| {
        put_cstr(out, name);
        put_cstr(out, sql);
        out.extend_from_slice(types);
    })
}

/// Bind of text parameters (`None` is NULL), results as text.
pub fn bind_text(
    out: &mut BytesMut,
    portal: &[u8],
    statement: &[u8],
    parameters: &[Option<&[u8]>],
) -> Result<(), MessageTooLong> {
    frame(out, b'B', |out| {
        put_cstr(out, portal);
        put_cstr(out, statement);
        out.put_i16(0);
        out.put_i16(parameters.len() as i16);
        for value in parameters {
            match value {
                None => out.put_i32(-1),
                Some(value) => {
                    out.put_i32(value.len() as i32);
                    out.extend_from_slice(value);
                }
            }
        }
        out.put_i16(0);
    })
}

pub fn execute(out: &mut BytesMut, portal: &[u8]) -> Result<(), MessageTooLong> {
    frame(out, b'E', |out| {
        put_cstr(out, portal);
        out.put_i32(0);
    })
}

pub fn execute_unnamed(out: &mut BytesMut) {
    out.extend_from_slice(&[b'E', 0, 0, 0, 9, 0, 0, 0, 0, 0]);
}

pub fn describe_statement(out: &mut BytesMut, name: &[u8]) -> Result<(), MessageTooLong> {
    frame(out, b'D', |out| {
        out.put_u8(b'S');
        put_cstr(out, name);
    })
}

pub fn close_statement(out: &mut BytesMut, name: &[u8]) -> Result<(), MessageTooLong> {
    close(out, b'S', name)
}

pub fn close_portal(out: &mut BytesMut, name: &[u8]) -> Result<(), MessageTooLong> {
    close(out, b'P', name)
}

fn close(out: &mut BytesMut, kind: u8, name: &[u8]) -> Result<(), MessageTooLong> {
    frame(out, b'C', |out| {
        out.put_u8(kind);
        put_cstr(out, name);
    })
}

pub fn sync(out: &mut BytesMut) {
    out.extend_from_slice(&[b'S', 0, 0, 0, 4]);
}

pub fn terminate(out: &mut BytesMut) {
    out.extend_from_slice(&[b'X', 0, 0, 0, 4]);
}

pub fn parse_complete(out: &mut BytesMut) {
    out.extend_from_slice(&[b'1', 0, 0, 0, 4]);
}

pub fn close_complete(out: &mut BytesMut) {
    out.extend_from_slice(&[b'3', 0, 0, 0, 4]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_how_long_it_is_and_appends() {
        let mut out = BytesMut::from(&b"before"[..]);
        frame(&mut out, b'Q', |out| out.extend_from_slice(b"SELECT 1\0")).unwrap();
        assert_eq!(&out[..], b"beforeQ\0\0\0\x0dSELECT 1\0");
    }

    #[test]
    fn a_length_that_does_not_fit_is_refused_and_never_wraps() {
        // As if the body were there: nobody has memory for four of them.
        let begun = || BytesMut::from(&b"beforeQ\0\0\0\0body"[..]);
        for length in [1 << 31, (1 << 31) + 9, 1 << 32, (1 << 32) + 9, usize::MAX] {
            let mut out = begun();
            assert_eq!(close_frame(&mut out, 6, length), Err(MessageTooLong(length)));
            assert_eq!(&out[..], b"before", "{length}");
        }
        let mut out = begun();
        assert_eq!(close_frame(&mut out, 6, i32::MAX as usize), Ok(()));
        assert_eq!(&out[6..11], b"Q\x7f\xff\xff\xff");
    }
}
