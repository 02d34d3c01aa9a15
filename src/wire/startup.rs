//! The packets a client sends before any other, which carry no tag.
//!
//! Owns their lengths, codes and parameters, and the answer to a client of a newer protocol. Invariant:
//! a length is compared with the limit before anything is reserved or read for it.
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use std::collections::HashSet;

use bytes::{BufMut, BytesMut};

use super::frame::split_cstr;
use super::message::{MessageTooLong, frame};
use super::options::{self, OptionsError};
use super::sqlstate::{self, SqlState};

/// Bytes of a packet after its length, as PostgreSQL limits it.
pub const MAX_STARTUP_BYTES: usize = 10_000;
/// Newest minor version of protocol 3 that we speak.
pub const NEWEST_MINOR: u16 = 2;
/// Lengths of a cancel key: 4 before protocol 3.2.
pub const CANCEL_KEY_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

pub const CANCEL_REQUEST: u32 = 80_877_102;
pub const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    SslRequest,
    GssEncRequest,
    Cancel(Cancel),
    Startup(Startup),
}

/// The key lets its holder end a statement: not for logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Cancel {
    pub pid: u32,
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").field("pid", &self.pid).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// As requested; what is spoken is the lesser of it and [`NEWEST_MINOR`].
    pub minor: u16,
    pub user: String,
    /// The user's name if the client gave none.
    pub database: String,
    pub replication: Replication,
    /// Run-time parameters in the order in which they take effect, those of `options` first, each name once.
    pub parameters: Vec<(String, String)>,
    /// Names of protocol extensions (`_pq_.…`), none of which we know.
    pub unknown_extensions: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    No,
    Physical,
    Logical,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    #[error("invalid length of startup packet")]
    Length,
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}")]
    Version { major: u16, minor: u16 },
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("invalid byte sequence for encoding \"UTF8\" in startup packet")]
    NotUtf8,
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    Replication(String),
    #[error("invalid length of cancel key in cancel request packet")]
    CancelKey,
    #[error(transparent)]
    Options(#[from] OptionsError),
}

impl StartupError {
    pub fn state(&self) -> SqlState {
        match self {
            StartupError::Length | StartupError::Layout | StartupError::CancelKey => {
                sqlstate::PROTOCOL_VIOLATION
            }
            StartupError::Version { .. } => sqlstate::FEATURE_NOT_SUPPORTED,
            StartupError::NoUser => sqlstate::INVALID_AUTHORIZATION,
            StartupError::NotUtf8 => sqlstate::CHARACTER_NOT_IN_REPERTOIRE,
            StartupError::Replication(_) => sqlstate::INVALID_PARAMETER_VALUE,
            StartupError::Options(_) => sqlstate::SYNTAX_ERROR,
        }
    }
}

/// Bytes that follow a packet's length field, which counts itself.
pub fn body_len(length: [u8; 4]) -> Result<usize, StartupError> {
    let length = i32::from_be_bytes(length);
    usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_sub(4))
        .filter(|body| (4..=MAX_STARTUP_BYTES).contains(body))
        .ok_or(StartupError::Length)
}

/// Reads what followed the length.
pub fn parse(body: &[u8]) -> Result<Packet, StartupError> {
    let (code, rest) = split_u32(body)?;
    match code {
        SSL_REQUEST | GSSENC_REQUEST if !rest.is_empty() => Err(StartupError::Length),
        SSL_REQUEST => Ok(Packet::SslRequest),
        GSSENC_REQUEST => Ok(Packet::GssEncRequest),
        CANCEL_REQUEST => {
            let (pid, key) = split_u32(rest)?;
            match CANCEL_KEY_BYTES.contains(&key.len()) {
                true => Ok(Packet::Cancel(Cancel { pid, key: key.to_vec() })),
                false => Err(StartupError::CancelKey),
            }
        }
        _ => {
            let (major, minor) = ((code >> 16) as u16, code as u16);
            if major != 3 {
                return Err(StartupError::Version { major, minor });
            }
            parse_parameters(minor, rest).map(Packet::Startup)
        }
    }
}

fn split_u32(bytes: &[u8]) -> Result<(u32, &[u8]), StartupError> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(StartupError::Length)?;
    Ok((u32::from_be_bytes(*number), rest))
}

fn parse_parameters(minor: u16, mut rest: &[u8]) -> Result<Startup, StartupError> {
    let (mut user, mut database, mut options) = (String::new(), String::new(), String::new());
    let mut replication = Replication::No;
    let mut parameters = Vec::new();
    let mut unknown_extensions = Vec::new();
    loop {
        let name = take_text(&mut rest)?;
        if name.is_empty() {
            break;
        }
        let value = take_text(&mut rest)?;
        match name {
            "user" => user = as_name(value).to_owned(),
            "database" => database = as_name(value).to_owned(),
            "options" => options = value.to_owned(),
            "replication" => replication = Replication::parse(value)?,
            _ if name.starts_with("_pq_.") => unknown_extensions.push(name.to_owned()),
            _ => parameters.push((name.to_owned(), value.to_owned())),
        }
    }
    if !rest.is_empty() {
        return Err(StartupError::Layout);
    }
    if user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if database.is_empty() {
        database.clone_from(&user);
    }
    let parameters = last_of_each(options::parse(&options)?.into_iter().chain(parameters));
    Ok(Startup { minor, user, database, replication, parameters, unknown_extensions })
}

/// What the server would take it for: it cuts longer names, and rules and pools here must mean the same role.
fn as_name(text: &str) -> &str {
    const MAX_NAME_BYTES: usize = 63;
    &text[..text.floor_char_boundary(MAX_NAME_BYTES)]
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, StartupError> {
    let (text, after) = split_cstr(rest).ok_or(StartupError::Layout)?;
    *rest = after;
    std::str::from_utf8(text).map_err(|_| StartupError::NotUtf8)
}

/// Of a parameter given more than once the last counts. Names of parameters ignore case.
fn last_of_each(parameters: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut all: Vec<_> = parameters.collect();
    let mut seen = HashSet::new();
    all.reverse();
    all.retain(|(name, _)| seen.insert(name.to_ascii_lowercase()));
    all.reverse();
    all
}

impl Replication {
    /// `database`, or a boolean as PostgreSQL reads one: any unambiguous beginning of its words.
    fn parse(value: &str) -> Result<Self, StartupError> {
        let lower = value.to_ascii_lowercase();
        let begins = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
        if value == "database" {
            Ok(Replication::Logical)
        } else if lower == "1" || begins("true", 1) || begins("yes", 1) || begins("on", 2) {
            Ok(Replication::Physical)
        } else if lower == "0" || begins("false", 1) || begins("no", 1) || begins("off", 2) {
            Ok(Replication::No)
        } else {
            Err(StartupError::Replication(value.to_owned()))
        }
    }
}

impl Startup {
    /// The minor version that both sides speak from here on.
    pub fn spoken_minor(&self) -> u16 {
        self.minor.min(NEWEST_MINOR)
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// NegotiateProtocolVersion, if the client asked for more than we speak.
    pub fn encode_negotiation(&self, out: &mut BytesMut) -> Result<(), MessageTooLong> {
        if self.minor <= NEWEST_MINOR && self.unknown_extensions.is_empty() {
            return Ok(());
        }
        frame(out, b'v', |out| {
            // The whole version, as PostgreSQL sends it and libpq reads it; the manual speaks of the minor only.
            out.put_u32(3 << 16 | u32::from(self.spoken_minor()));
            out.put_u32(self.unknown_extensions.len() as u32);
            for name in &self.unknown_extensions {
                out.extend_from_slice(name.as_bytes());
                out.put_u8(0);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn startup(version: u32, parameters: &[&str]) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        for text in parameters {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        body
    }

    fn read(parameters: &[&str]) -> Result<Startup, StartupError> {
        match parse(&startup(3 << 16, parameters))? {
            Packet::Startup(startup) => Ok(startup),
            other => panic!("{other:?}"),
        }
    }

    fn cancel(key: &[u8]) -> Vec<u8> {
        [&CANCEL_REQUEST.to_be_bytes(), &7_u32.to_be_bytes(), key].concat()
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for length in [0, 1, 4, 7, -1, i32::MIN, i32::MAX, 10_005] {
            assert_eq!(body_len(length.to_be_bytes()), Err(StartupError::Length), "{length}");
        }
        assert_eq!(body_len(*b"GET "), Err(StartupError::Length));
        assert_eq!(body_len(8_i32.to_be_bytes()), Ok(4));
        assert_eq!(body_len(10_004_i32.to_be_bytes()), Ok(MAX_STARTUP_BYTES));
    }

    #[test]
    fn requests_are_told_by_their_codes() {
        assert_eq!(parse(&SSL_REQUEST.to_be_bytes()), Ok(Packet::SslRequest));
        assert_eq!(parse(&GSSENC_REQUEST.to_be_bytes()), Ok(Packet::GssEncRequest));
        assert_eq!(parse(&[&SSL_REQUEST.to_be_bytes()[..], b"x"].concat()), Err(StartupError::Length));
        assert_eq!(parse(b""), Err(StartupError::Length));
    }

    #[test]
    fn cancel_keys_have_4_to_256_bytes() {
        for len in [4, 32, 256] {
            let key = vec![9; len];
            assert_eq!(parse(&cancel(&key)), Ok(Packet::Cancel(Cancel { pid: 7, key })));
        }
        for len in [0, 3, 257] {
            assert_eq!(parse(&cancel(&vec![9; len])), Err(StartupError::CancelKey), "{len}");
        }
        assert_eq!(parse(&CANCEL_REQUEST.to_be_bytes()), Err(StartupError::Length));
        let shown = format!("{:?}", Cancel { pid: 7, key: vec![123] });
        assert!(!shown.contains("123"), "{shown}");
    }

    #[test]
    fn other_major_versions_are_refused_as_postgresql_does() {
        let error = parse(&startup(2 << 16, &["user", "a"])).unwrap_err();
        assert_eq!(error.to_string(), "unsupported frontend protocol 2.0: server supports 3.0 to 3.2");
        assert_eq!(error.state(), sqlstate::FEATURE_NOT_SUPPORTED);
        assert_eq!(parse(&startup(9 << 16 | 1, &[])), Err(StartupError::Version { major: 9, minor: 1 }));
    }

    #[test]
    fn parameters_keep_their_order_and_the_last_of_a_name_counts() {
        let got =
            read(&["user", "a", "DateStyle", "ISO", "user", "b", "x.y", "1", "datestyle", "SQL"]).unwrap();
        assert_eq!((got.user.as_str(), got.database.as_str()), ("b", "b"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(got.parameters, [pair("x.y", "1"), pair("datestyle", "SQL")]);
        assert_eq!(got.parameter("DATESTYLE"), Some("SQL"));
    }

    #[test]
    fn longer_names_mean_what_the_server_takes_them_for() {
        let long = "u".repeat(62) + "ü" + "x";
        let got = read(&["user", &long]).unwrap();
        // Never half a character.
        assert_eq!((got.user.as_str(), got.database.as_str()), (&long[..62], &long[..62]));
        assert_eq!(read(&["user", &"u".repeat(64)]).unwrap().user.len(), 63);
    }

    #[test]
    fn options_come_first_so_that_parameters_of_their_own_win() {
        let got = read(&["work_mem", "1MB", "user", "a", "options", "-c work_mem=2MB -c a.b=c"]).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(got.parameters, [pair("a.b", "c"), pair("work_mem", "1MB")]);
    }

    #[test]
    fn a_packet_without_user_or_terminator_is_refused() {
        assert_eq!(read(&[]), Err(StartupError::NoUser));
        assert_eq!(read(&["user", ""]), Err(StartupError::NoUser));
        assert_eq!(read(&["database", "d"]), Err(StartupError::NoUser));
        let whole = startup(3 << 16, &["user", "a"]);
        for len in 4..whole.len() {
            assert_eq!(parse(&whole[..len]), Err(StartupError::Layout), "{len}");
        }
        assert_eq!(parse(&[&whole[..], b"x"].concat()), Err(StartupError::Layout));
        assert_eq!(parse(b"\0\x03\0\0user\0\xff\0\0"), Err(StartupError::NotUtf8));
        assert_eq!(parse(b"\0\x03\0\0\xff\0a\0\0"), Err(StartupError::NotUtf8));
    }

    #[test]
    fn replication_is_recognised() {
        let replication = |value: &str| read(&["user", "a", "replication", value]).map(|s| s.replication);
        assert_eq!(read(&["user", "a"]).unwrap().replication, Replication::No);
        for value in ["1", "t", "TRUE", "yes", "on"] {
            assert_eq!(replication(value), Ok(Replication::Physical), "{value}");
        }
        for value in ["0", "f", "no", "off"] {
            assert_eq!(replication(value), Ok(Replication::No), "{value}");
        }
        assert_eq!(replication("database"), Ok(Replication::Logical));
        for value in ["", "o", "2", "truer"] {
            assert_eq!(replication(value), Err(StartupError::Replication(value.to_owned())));
        }
    }

    #[test]
    fn a_client_that_asks_for_more_is_told_what_we_speak() {
        let negotiate = |minor: u32, parameters: &[&str]| {
            let Ok(Packet::Startup(startup)) = parse(&startup(3 << 16 | minor, parameters)) else { panic!() };
            let mut out = BytesMut::new();
            startup.encode_negotiation(&mut out).unwrap();
            (startup.spoken_minor(), out.to_vec())
        };
        assert_eq!(negotiate(0, &["user", "a"]), (0, vec![]));
        assert_eq!(negotiate(2, &["user", "a"]), (2, vec![]));
        assert_eq!(negotiate(9999, &["user", "a"]), (2, b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0".to_vec()));
        assert_eq!(
            negotiate(0, &["user", "a", "_pq_.x", "1"]),
            (0, b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0".to_vec())
        );
    }

    proptest! {
        #![proptest_config(crate::properties::properties())]

        #[test]
        fn no_packet_makes_it_panic(
            code in prop_oneof![Just(3_u32 << 16), Just(CANCEL_REQUEST), Just(SSL_REQUEST), any::<u32>()],
            rest in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..300),
        ) {
            let _ = parse(&[&code.to_be_bytes()[..], &rest].concat());
            let _ = parse(&rest);
        }
    }
}
