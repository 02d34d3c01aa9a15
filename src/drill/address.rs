//! Where the drill's client connects and as whom, from a `postgres://` URL.
//!
//! Pure but for reading a certificate authority's file. Invariant: what is not understood is refused, never
//! ignored: a drill must not measure something else than was meant.

use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::connect::{ConnectTarget, Credential, Login, Secret};
use crate::config::words::Words as _;
use crate::config::{ServerTls, SslMode};
use crate::net::tls::{ServerTlsContext, TlsConfigError};

const DEFAULT_PORT: u16 = 5432;

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("the URL must look like postgres://user:password@host:port/database")]
    Form,
    #[error("the URL's port must be a number from 1 to 65535")]
    Port,
    #[error(
        "the URL has a % that is not followed by two hexadecimal digits, or what it stands for is not UTF-8"
    )]
    Escape,
    #[error("the URL's parameter {0} is not known here; sslmode and sslrootcert are")]
    Parameter(String),
    #[error("sslmode {0} is not known; it is disable, allow, prefer, require, verify-ca or verify-full")]
    SslMode(String),
    #[error("TLS as the URL demands it: {0}")]
    Tls(#[from] TlsConfigError),
}

#[derive(Debug, Clone)]
pub struct Address {
    pub target: ConnectTarget,
    pub login: Login,
}

impl Address {
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let (rest, parameters) = split(rest.ok_or(AddressError::Form)?, '?');
        let (authority, database) = rest.split_once('/').ok_or(AddressError::Form)?;
        let (user_info, place) = authority.rsplit_once('@').ok_or(AddressError::Form)?;
        let (user, password) = split(user_info, ':');
        let (host, port) = host_and_port(place)?;
        let user = decoded(user)?;
        let database = if database.is_empty() { user.clone() } else { decoded(database)? };
        if user.is_empty() || host.is_empty() {
            return Err(AddressError::Form);
        }
        let credential = match password {
            Some(password) => Credential::Password(Secret::new(decoded(password)?)),
            None => Credential::None,
        };
        let tls = Arc::new(ServerTlsContext::load(&tls(parameters.unwrap_or_default())?)?);
        Ok(Self {
            target: ConnectTarget { host: Arc::from(host), port, tls },
            login: Login { user, database, credential },
        })
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

fn host_and_port(place: &str) -> Result<(String, u16), AddressError> {
    // An IPv6 address stands in brackets.
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or(AddressError::Form)?;
            (host, behind.strip_prefix(':'))
        }
        None => split(place, ':'),
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(AddressError::Port)?,
    };
    Ok((decoded(host)?, port))
}

fn tls(parameters: &str) -> Result<ServerTls, AddressError> {
    let mut tls =
        ServerTls { mode: SslMode::Prefer, ca_file: None, cert_file: None, key_file: None, allow_md5: false };
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = split(parameter, '=');
        let value = decoded(value.unwrap_or_default())?;
        match name {
            "sslmode" => tls.mode = SslMode::of(&value).ok_or(AddressError::SslMode(value))?,
            "sslrootcert" => tls.ca_file = Some(PathBuf::from(value)),
            other => return Err(AddressError::Parameter(other.to_owned())),
        }
    }
    Ok(tls)
}

/// With `%40` and the like resolved.
fn decoded(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.split_at_checked(2).ok_or(AddressError::Escape)?;
        let value = std::str::from_utf8(digits.0).ok().filter(|text| !text.starts_with('+'));
        let value = value.and_then(|text| u8::from_str_radix(text, 16).ok());
        bytes.push(value.ok_or(AddressError::Escape)?);
        rest = digits.1;
    }
    String::from_utf8(bytes).map_err(|_| AddressError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (String, u16, String, String, SslMode) {
        let Address { target, login } = Address::parse(url).unwrap();
        let Credential::Password(password) = &login.credential else { panic!("no password") };
        assert_eq!(password.expose(), "p@ss");
        (target.host.to_string(), target.port, login.user, login.database, target.tls.mode())
    }

    #[test]
    fn a_url_is_taken_apart() {
        assert_eq!(
            parsed("postgres://app:p%40ss@127.0.0.1:9999/shop?sslmode=disable"),
            ("127.0.0.1".into(), 9999, "app".into(), "shop".into(), SslMode::Disable)
        );
        assert_eq!(
            parsed("postgresql://app:p@ss@[::1]/"),
            ("::1".into(), 5432, "app".into(), "app".into(), SslMode::Prefer)
        );
        let Address { login, .. } = Address::parse("postgres://app@db.example.org/app").unwrap();
        assert!(matches!(login.credential, Credential::None));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (url, says) in [
            ("mysql://a:b@c/d", "must look like"),
            ("postgres://a:b@c", "must look like"),
            ("postgres://c/d", "must look like"),
            ("postgres://a:b@c:0/d", "port"),
            ("postgres://a:b@c:99999/d", "port"),
            ("postgres://a:%4@c/d", "%"),
            ("postgres://a:%+1@c/d", "%"),
            ("postgres://a:%ff@c/d", "UTF-8"),
            ("postgres://a:b@c/d?target_session_attrs=any", "target_session_attrs"),
            ("postgres://a:b@c/d?sslmode=maybe", "maybe"),
            ("postgres://a:b@c/d?sslmode=verify-full", "TLS"),
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(error.contains(says), "{url}: {error}");
        }
    }
}
