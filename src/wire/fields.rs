//! The fields of ErrorResponse and NoticeResponse: a byte that names the field, then its text.
//! Source: <https://www.postgresql.org/docs/current/protocol-error-fields.html>.

use super::frame::split_cstr;
use super::sqlstate::{INTERNAL_ERROR, SqlState};

/// Iterates over the fields of a message body. A body that is cut short just ends the iteration:
/// servers, and what pretends to be one, are not trusted to be complete.
pub fn fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (&kind, after) = rest.split_first()?;
        if kind == 0 {
            return None;
        }
        let (text, after) = split_cstr(after)?;
        rest = after;
        Some((kind, text))
    })
}

/// One field's text.
pub fn field(body: &[u8], kind: u8) -> Option<&[u8]> {
    fields(body).find(|&(k, _)| k == kind).map(|(_, text)| text)
}

/// The SQLSTATE of a message body; `XX000` when the server sent none.
pub fn sqlstate(body: &[u8]) -> SqlState {
    field(body, b'C').and_then(|code| code.try_into().ok()).map_or(INTERNAL_ERROR, SqlState)
}

/// Whether the message says that the server ends the connection.
pub fn is_fatal(body: &[u8]) -> bool {
    matches!(severity(body), Some(b"FATAL" | b"PANIC"))
}

/// Whether it says that the whole server ends.
pub fn is_panic(body: &[u8]) -> bool {
    severity(body) == Some(b"PANIC")
}

fn severity(body: &[u8]) -> Option<&[u8]> {
    field(body, b'V').or_else(|| field(body, b'S'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_empty_and_unterminated_fields_are_survived() {
        assert_eq!(sqlstate(b"SERROR\0C26000\0Mno\0\0").as_str(), "26000");
        assert_eq!(sqlstate(b"SERROR\0Mno\0\0"), INTERNAL_ERROR);
        assert_eq!(sqlstate(b""), INTERNAL_ERROR);
        assert_eq!(sqlstate(b"C26"), INTERNAL_ERROR);
        assert_eq!(sqlstate(b"C26\0\0"), INTERNAL_ERROR);
        assert!(is_fatal(b"SFATAL\0\0"));
        assert!(is_fatal(b"SFATAL uebersetzt\0VFATAL\0\0"));
        assert!(!is_fatal(b"SERROR\0\0"));
        assert!(is_panic(b"SPANIK\0VPANIC\0\0") && !is_panic(b"SFATAL\0\0"));
    }
}
