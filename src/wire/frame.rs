//! Five-byte message headers: a tag, then a length that counts itself but not the tag.
//!
//! Owns finding message boundaries. Invariant: "need more bytes" is not an error, and no length is
//! trusted before it was compared with a limit.

/// Bytes before a message's body: tag and length.
pub const HEADER_LEN: usize = 5;

/// Where a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Of the whole message, header included, in bytes.
    pub len: usize,
}

impl Header {
    pub fn body_len(self) -> usize {
        self.len - HEADER_LEN
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("invalid length {length} of message {tag:?}")]
    InvalidLength { tag: char, length: i32 },
    #[error("message {tag:?} of {length} bytes is longer than the limit of {limit}")]
    TooLong { tag: char, length: usize, limit: usize },
}

/// The header at the start of `bytes`; `None` if there are fewer than five.
pub fn header(bytes: &[u8], limit: usize) -> Result<Option<Header>, FrameError> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    if length < 4 {
        return Err(FrameError::InvalidLength { tag: char::from(tag), length });
    }
    let len = length as usize + 1;
    if len > limit {
        return Err(FrameError::TooLong { tag: char::from(tag), length: len, limit });
    }
    Ok(Some(Header { tag, len }))
}

/// Splits a NUL-terminated string off the front of `body`; `None` if there is no NUL.
pub fn split_cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, body)?;
    Some((&body[..end], &body[end + 1..]))
}

/// The columns of a DataRow; a broken one ends early.
pub fn data_row(body: &[u8]) -> Vec<Option<&[u8]>> {
    let mut columns = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*len)) {
            Err(_) => {
                columns.push(None);
                rest = after;
            }
            Ok(len) if len <= after.len() => {
                columns.push(Some(&after[..len]));
                rest = &after[len..];
            }
            Ok(_) => break,
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_than_five_bytes_is_not_an_error() {
        assert_eq!(header(b"", 100), Ok(None));
        assert_eq!(header(b"Q\0\0\0", 100), Ok(None));
    }

    #[test]
    fn a_length_counts_itself_but_not_the_tag() {
        let found = header(b"S\0\0\0\x04rest", 100);
        assert_eq!(found, Ok(Some(Header { tag: b'S', len: 5 })));
    }

    #[test]
    fn lying_lengths_are_refused_before_anything_is_reserved() {
        for length in [0, 3, -1, i32::MIN] {
            let mut bytes = vec![b'Q'];
            bytes.extend_from_slice(&length.to_be_bytes());
            assert!(matches!(header(&bytes, 100), Err(FrameError::InvalidLength { .. })), "{length}");
        }
        let mut bytes = vec![b'Q'];
        bytes.extend_from_slice(&i32::MAX.to_be_bytes());
        assert!(matches!(header(&bytes, 1 << 20), Err(FrameError::TooLong { .. })));
    }
}
