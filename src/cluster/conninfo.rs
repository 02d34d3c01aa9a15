//! A libpq connection string as `primary_conninfo` holds it, taken apart and put together again.
//!
//! Pure. Both forms are read, `key=value` and URI; written is always the first. The rules are libpq's, section "Connection
//! Strings" of its manual. Invariant: what was read and is written again means the same to libpq, and no password is ever
//! shown by `Debug`.

use std::fmt;

/// The host of a standby that komainu told to receive nothing: a directory of sockets that is not there. All else in the
/// string stays, so that whoever repoints the standby later still has its options.
pub const NOWHERE: &str = "/komainu/stopped";
const DEFAULT_PORT: u16 = 5432;
const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// Keywords and values, in order. Of one that is there twice, the last counts.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Conninfo(Vec<(String, String)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    #[error("a keyword of the connection string has no \"=\" behind it")]
    NoValue,
    #[error("a quote of the connection string does not end")]
    OpenQuote,
    #[error("a percent sign of the connection string is followed by no two hexadecimal digits")]
    Percent,
    #[error("a keyword in the connection string's URI is none of libpq's")]
    Keyword,
    #[error("the address in the connection string's URI is not understood")]
    Address,
}

/// Whom a standby is told to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// As it stands there: a name, an address, a directory, or several of them.
    pub host: String,
    pub port: u16,
    /// The name under which the standby wants to be known there, if it says one.
    pub application_name: Option<String>,
}

impl Upstream {
    /// Whether it was told to receive nothing.
    pub fn is_nowhere(&self) -> bool {
        self.host == NOWHERE
    }
}

impl Conninfo {
    pub fn parse(text: &str) -> Result<Self, ConninfoError> {
        match SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            Some(rest) => uri(rest),
            None => pairs(text),
        }
    }

    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == keyword).map(|(_, value)| value.as_str())
    }

    pub fn set(&mut self, keyword: &str, value: &str) {
        match self.0.iter().position(|(known, _)| known == keyword) {
            Some(first) => {
                self.0[first].1 = value.to_owned();
                let mut index = 0;
                self.0.retain(|(known, _)| {
                    index += 1;
                    known != keyword || index - 1 == first
                });
            }
            None => self.0.push((keyword.to_owned(), value.to_owned())),
        }
    }

    pub fn remove(&mut self, keyword: &str) {
        self.0.retain(|(known, _)| known != keyword);
    }

    /// None: there is no upstream, as of a standby that only reads an archive.
    pub fn upstream(&self) -> Option<Upstream> {
        if self.0.is_empty() {
            return None;
        }
        let host =
            [self.get("host"), self.get("hostaddr")].into_iter().flatten().find(|host| !host.is_empty());
        let port = self.get("port").and_then(|port| port.split(',').next()?.trim().parse().ok());
        Some(Upstream {
            host: host.unwrap_or_default().to_owned(),
            port: port.unwrap_or(DEFAULT_PORT),
            application_name: self.get("application_name").filter(|name| !name.is_empty()).map(str::to_owned),
        })
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (keyword, value)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | ',');
            match !value.is_empty() && value.chars().all(plain) {
                true => write!(f, "{space}{keyword}={value}")?,
                false => {
                    let escaped = value.replace('\\', r"\\").replace('\'', r"\'");
                    write!(f, "{space}{keyword}='{escaped}'")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|(keyword, value)| {
            (keyword, if keyword.contains("password") { "…" } else { value.as_str() })
        });
        f.debug_map().entries(shown).finish()
    }
}

/// As libpq, which takes these for white space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn pairs(text: &str) -> Result<Conninfo, ConninfoError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(|c| c == '=' || is_space(c)).ok_or(ConninfoError::NoValue)?;
        let (keyword, behind) = rest.split_at(end);
        let behind = behind.trim_start_matches(is_space);
        let behind = behind.strip_prefix('=').ok_or(ConninfoError::NoValue)?.trim_start_matches(is_space);
        let (value, behind) = value(behind)?;
        pairs.push((keyword.to_owned(), value));
        rest = behind.trim_start_matches(is_space);
    }
    Ok(Conninfo(pairs))
}

/// A value, and what follows it.
fn value(text: &str) -> Result<(String, &str), ConninfoError> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            _ if !quoted && is_space(c) => return Ok((value, &text[at..])),
            _ => value.push(c),
        }
    }
    if quoted { Err(ConninfoError::OpenQuote) } else { Ok((value, "")) }
}

/// What follows the scheme: `user:password@host:port,host:port/dbname?keyword=value&…`.
fn uri(text: &str) -> Result<Conninfo, ConninfoError> {
    let mut found = Conninfo::default();
    let mut add = |keyword: &str, value: &str| -> Result<(), ConninfoError> {
        if !value.is_empty() {
            found.0.push((decode(keyword)?, decode(value)?));
        }
        Ok(())
    };
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let (authority, database) = text.split_once('/').unwrap_or((text, ""));
    let (login, addresses) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for address in addresses.split(',') {
        let (host, port) = match address.strip_prefix('[') {
            Some(bracketed) => {
                let (host, behind) = bracketed.split_once(']').ok_or(ConninfoError::Address)?;
                (host, behind.strip_prefix(':').unwrap_or(behind))
            }
            None => address.split_once(':').unwrap_or((address, "")),
        };
        hosts.push(host);
        ports.push(port);
    }
    add("user", user)?;
    add("password", password)?;
    if hosts.iter().any(|host| !host.is_empty()) {
        add("host", &hosts.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    add("dbname", database)?;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (keyword, value) = parameter.split_once('=').ok_or(ConninfoError::NoValue)?;
        if keyword.is_empty() || !keyword.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(ConninfoError::Keyword);
        }
        match (keyword, value) {
            ("ssl", "true") => add("sslmode", "require")?,
            _ => add(keyword, value)?,
        }
    }
    Ok(found)
}

fn decode(text: &str) -> Result<String, ConninfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        rest = behind;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or(ConninfoError::Percent)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| ConninfoError::Percent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn upstream(text: &str) -> Option<(String, u16, Option<String>)> {
        Conninfo::parse(text).unwrap().upstream().map(|u| (u.host, u.port, u.application_name))
    }

    #[test]
    fn whom_a_standby_follows_is_found_in_either_form() {
        for (text, host, port, name) in [
            ("host=db1 port=5433 application_name=s1", "db1", 5433, Some("s1")),
            ("user=r  host = 'db 1'", "db 1", 5432, None),
            (r"host=a\ b application_name='it\'s'", "a b", 5432, Some("it's")),
            ("hostaddr=10.0.0.1 port=7", "10.0.0.1", 7, None),
            ("host=a,b port=1,2", "a,b", 1, None),
            ("host=a host=b", "b", 5432, None),
            ("user=r", "", 5432, None),
            ("postgres://r:s%40t@db1:7/x?application_name=s%201", "db1", 7, Some("s 1")),
            ("postgresql://[fd00::1]:7,h2/", "fd00::1,h2", 7, None),
            ("postgresql://?host=/run&port=8", "/run", 8, None),
        ] {
            let expected = (host.to_owned(), port, name.map(str::to_owned));
            assert_eq!(upstream(text), Some(expected), "{text}");
        }
        assert_eq!((upstream(""), upstream("  ")), (None, None));
        let stopped = Conninfo::parse(&format!("host={NOWHERE}")).unwrap().upstream().unwrap();
        assert!(stopped.is_nowhere());
    }

    #[test]
    fn what_libpq_refuses_is_refused() {
        for (text, error) in [
            ("host", ConninfoError::NoValue),
            ("host db1", ConninfoError::NoValue),
            ("host='db1", ConninfoError::OpenQuote),
            ("postgres://[::1/", ConninfoError::Address),
            ("postgres://h?x", ConninfoError::NoValue),
            ("postgres://h?a b=1", ConninfoError::Keyword),
            ("postgres://h%4", ConninfoError::Percent),
        ] {
            assert_eq!(Conninfo::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_password_is_kept_and_never_shown() {
        let mut info = Conninfo::parse("password='o ne' host=a sslmode=require host=c").unwrap();
        info.set("host", "b");
        info.remove("sslmode");
        assert_eq!(info.to_string(), "password='o ne' host=b");
        assert!(!format!("{info:?}").contains("o ne"));
    }

    proptest! {
        #![proptest_config(crate::properties::properties())]

        #[test]
        fn what_is_written_reads_the_same(
            pairs in proptest::collection::vec(("[a-z_]{1,9}", r"[ -~\t\n'\\é]{0,12}"), 0..6)
        ) {
            let info = Conninfo(pairs);
            prop_assert_eq!(Conninfo::parse(&info.to_string()), Ok(info));
        }

        #[test]
        fn no_text_is_too_strange(text in r"(postgres://)?[ -~'\\%@:,\[\]/?&=]{0,40}") {
            if let Ok(info) = Conninfo::parse(&text) {
                let _ = info.upstream();
                prop_assert_eq!(Conninfo::parse(&info.to_string()).map(|again| again.upstream()), Ok(info.upstream()));
            }
        }
    }
}
