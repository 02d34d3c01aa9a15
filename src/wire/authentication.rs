//! The messages of a login that follow the startup packet, as a server sends and reads them.
//!
//! Invariant: the length inside SASLInitialResponse is compared with what is there before it is
//! used (CVE-2026-6664).
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP>.

use bytes::{BufMut, BytesMut};

use super::frame::split_cstr;
use super::message::frame;

/// The whole of a password message or a SASL message that is read from a client, as PostgreSQL limits them.
pub const MAX_PASSWORD_BYTES: usize = 65_535;
pub const MAX_SASL_BYTES: usize = 1024;

/// Codes of authentication requests.
pub const OK: i32 = 0;
pub const CLEARTEXT_PASSWORD: i32 = 3;
pub const MD5_PASSWORD: i32 = 5;
pub const SASL: i32 = 10;
pub const SASL_CONTINUE: i32 = 11;
pub const SASL_FINAL: i32 = 12;

pub fn ok(out: &mut BytesMut) {
    request(out, OK, b"");
}

pub fn cleartext_password(out: &mut BytesMut) {
    request(out, CLEARTEXT_PASSWORD, b"");
}

pub fn md5_password(out: &mut BytesMut, salt: [u8; 4]) {
    request(out, MD5_PASSWORD, &salt);
}

/// Mechanisms in the order of our preference.
pub fn sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    let mut list = Vec::new();
    for mechanism in mechanisms {
        list.extend_from_slice(mechanism.as_bytes());
        list.push(0);
    }
    list.push(0);
    request(out, SASL, &list);
}

pub fn sasl_continue(out: &mut BytesMut, data: &[u8]) {
    request(out, SASL_CONTINUE, data);
}

pub fn sasl_final(out: &mut BytesMut, data: &[u8]) {
    request(out, SASL_FINAL, data);
}

fn request(out: &mut BytesMut, kind: i32, data: &[u8]) {
    frame(out, b'R', |out| {
        out.put_i32(kind);
        out.extend_from_slice(data);
    })
    .expect("authentication requests are short");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    pub mechanism: &'a [u8],
    /// None: the client waits for an empty challenge before it sends any.
    pub data: Option<&'a [u8]>,
}

/// Reads the body of a `p` message that answers AuthenticationSASL; `None` if it is malformed.
pub fn sasl_initial_response(body: &[u8]) -> Option<SaslInitialResponse<'_>> {
    let (mechanism, rest) = split_cstr(body)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let data = match i32::from_be_bytes(*length) {
        -1 => rest.is_empty().then_some(None)?,
        length => Some(rest).filter(|rest| usize::try_from(length) == Ok(rest.len())).map(Some)?,
    };
    Some(SaslInitialResponse { mechanism, data })
}

/// Reads the body of a `p` message that carries a password or its hash; `None` if it is malformed.
pub fn password(body: &[u8]) -> Option<&[u8]> {
    split_cstr(body).filter(|(_, rest)| rest.is_empty()).map(|(password, _)| password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn initial(length: i32, data: &[u8]) -> Vec<u8> {
        [b"SCRAM-SHA-256\0", &length.to_be_bytes()[..], data].concat()
    }

    #[test]
    fn a_sasl_length_that_lies_is_refused() {
        let read = |length, data: &[u8]| {
            sasl_initial_response(&initial(length, data)).map(|read| read.data.map(<[u8]>::to_vec))
        };
        assert_eq!(read(3, b"abc"), Some(Some(b"abc".to_vec())));
        assert_eq!(read(0, b""), Some(Some(vec![])));
        assert_eq!(read(-1, b""), Some(None));
        for length in [-1, -2, 0, 2, 4, i32::MAX, i32::MIN] {
            assert_eq!(read(length, b"abc"), None, "{length}");
        }
        assert_eq!(sasl_initial_response(b""), None);
        assert_eq!(sasl_initial_response(b"SCRAM-SHA-256"), None);
        assert_eq!(sasl_initial_response(b"SCRAM-SHA-256\0\0\0\0"), None);
    }

    #[test]
    fn a_password_is_one_terminated_string() {
        assert_eq!(password(b"x\0"), Some(&b"x"[..]));
        assert_eq!(password(b"\0"), Some(&b""[..]));
        assert_eq!(password(b"x"), None);
        assert_eq!(password(b""), None);
        assert_eq!(password(b"x\0y\0"), None);
    }

    #[test]
    fn the_list_of_mechanisms_is_terminated() {
        let mut out = BytesMut::new();
        sasl(&mut out, &["A", "B"]);
        assert_eq!(&out[..], b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0");
    }

    proptest! {
        #![proptest_config(crate::properties::properties())]

        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = sasl_initial_response(&body);
            let _ = password(&body);
        }
    }
}
