//! PostgreSQL's MD5 passwords, for both sides: what is stored, and what answers a salt.
//!
//! Pure. Invariant: answers are compared in constant time.
//! Source: <https://www.postgresql.org/docs/current/protocol-flow.html> (AuthenticationMD5Password).

use ::md5::{Digest as _, Md5};
use aws_lc_rs::constant_time::verify_slices_are_equal;

/// As `pg_authid` stores it: `md5` and 32 hexadecimal digits.
pub fn stored(user: &str, password: &[u8]) -> String {
    hash(&[password, user.as_bytes()])
}

/// What is sent for `salt`. It needs the stored form only, which is therefore worth a password.
pub fn answer(stored: &str, salt: [u8; 4]) -> String {
    let digits = stored.strip_prefix("md5").unwrap_or(stored);
    hash(&[digits.as_bytes(), &salt])
}

pub fn accepts(stored: &str, salt: [u8; 4], answer_of_client: &[u8]) -> bool {
    verify_slices_are_equal(answer(stored, salt).as_bytes(), answer_of_client).is_ok()
}

fn hash(parts: &[&[u8]]) -> String {
    use std::fmt::Write as _;
    let mut digest = Md5::new();
    parts.iter().for_each(|part| digest.update(part));
    let mut text = String::with_capacity(35);
    text.push_str("md5");
    for byte in digest.finalize() {
        write!(text, "{byte:02x}").expect("a String takes what is written to it");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_postgres_protocol_computes() {
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        let stored = stored("md5_user", b"password");
        assert_eq!(
            answer(&stored, salt),
            postgres_protocol::authentication::md5_hash(b"md5_user", b"password", salt)
        );
        assert!(accepts(&stored, salt, b"md562af4dd09bbb41884907a838a3233294"));
        assert!(!accepts(&stored, salt, b"md562af4dd09bbb41884907a838a3233295"));
        assert!(!accepts(&stored, [0; 4], b"md562af4dd09bbb41884907a838a3233294"));
        assert!(!accepts(&stored, salt, b""));
    }
}
