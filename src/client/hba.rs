//! Who may connect, from where, and how they prove who they are: `pg_hba.conf`'s rules.
//!
//! Owns what a rule means and which one a connection meets. Reading the text is `hba::parse`.
//! Never authenticates anybody. Pure: text in, rules out. Invariant: an `Hba` that exists
//! holds only rules this proxy can honour to the letter; what it cannot was refused with its line.
//!
//! Source: <https://www.postgresql.org/docs/current/auth-pg-hba-conf.html>.

mod parse;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

pub use parse::HbaError;

/// The rules in the order of the file; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hba {
    pub rules: Vec<Rule>,
}

impl Hba {
    /// Reads the whole text and reports every line that cannot be honoured, not only the first.
    pub fn parse(text: &str) -> Result<Self, Vec<HbaError>> {
        parse::parse(text).map(|rules| Self { rules })
    }

    /// The rule this connection meets. None is a refusal, as in PostgreSQL.
    pub fn find(&self, connection: &Connection<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(connection))
    }
}

/// How a client reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Over a Unix socket.
    Local,
    /// TCP without TLS.
    Plain,
    Tls,
}

/// What rules look at.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    pub transport: Transport,
    /// None over a Unix socket.
    pub address: Option<IpAddr>,
    pub database: &'a str,
    pub user: &'a str,
    /// Physical replication (`replication=true`). Logical (`replication=database`) names a
    /// database and meets that database's rules, as in PostgreSQL.
    pub replication: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The line it begins on, counted from 1.
    pub line: usize,
    pub scope: Scope,
    pub databases: Vec<DatabaseMatch>,
    pub users: Vec<UserMatch>,
    pub method: Method,
    pub client_cert: ClientCert,
}

/// The first column, with the address that all but `local` have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Local,
    /// TCP, with or without TLS.
    Host(AddressMatch),
    HostSsl(AddressMatch),
    HostNoSsl(AddressMatch),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressMatch {
    All,
    Net(IpNet),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseMatch {
    /// Any database; no physical replication.
    All,
    /// The database named as the user.
    SameUser,
    /// Physical replication, and only that.
    Replication,
    Name(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserMatch {
    All,
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Trust,
    Reject,
    ScramSha256,
    Md5,
    /// In clear, so only on `hostssl` and `local` lines.
    Password,
    /// By the certificate alone; only on `hostssl` lines, and always with `ClientCert::VerifyFull`.
    Cert,
}

/// What is asked of the client's certificate besides the method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCert {
    NotAsked,
    /// Signed by `client_tls.client_ca_file`.
    VerifyCa,
    /// And its common name is the user's name.
    VerifyFull,
}

impl Rule {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        self.scope.matches(connection)
            && self.databases.iter().any(|database| database.matches(connection))
            && self.users.iter().any(|user| user.matches(connection.user))
    }
}

impl Scope {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        let address = match (self, connection.transport) {
            (Self::Local, transport) => return transport == Transport::Local,
            (Self::Host(address), Transport::Plain | Transport::Tls) => address,
            (Self::HostSsl(address), Transport::Tls) => address,
            (Self::HostNoSsl(address), Transport::Plain) => address,
            _ => return false,
        };
        match (address, connection.address) {
            (AddressMatch::All, _) => true,
            // A client of an IPv6 socket shows an IPv4 address as ::ffff:a.b.c.d.
            (AddressMatch::Net(net), Some(address)) => net.contains(&address.to_canonical()),
            (AddressMatch::Net(_), None) => false,
        }
    }
}

impl DatabaseMatch {
    fn matches(&self, connection: &Connection<'_>) -> bool {
        if connection.replication {
            return *self == Self::Replication;
        }
        match self {
            Self::All => true,
            Self::SameUser => connection.database == connection.user,
            Self::Replication => false,
            Self::Name(name) => name == connection.database,
        }
    }
}

impl UserMatch {
    fn matches(&self, user: &str) -> bool {
        match self {
            Self::All => true,
            Self::Name(name) => name == user,
        }
    }
}

impl Method {
    pub const ALL: [Self; 6] =
        [Self::Trust, Self::Reject, Self::ScramSha256, Self::Md5, Self::Password, Self::Cert];

    pub fn name(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Reject => "reject",
            Self::ScramSha256 => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Password => "password",
            Self::Cert => "cert",
        }
    }

    /// Whether the client's word is checked against a secret we must have.
    pub fn needs_secret(self) -> bool {
        matches!(self, Self::ScramSha256 | Self::Md5 | Self::Password)
    }
}

/// As a file that parses to the same rules, one a line.
impl fmt::Display for Hba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (keyword, address) = match &self.scope {
            Scope::Local => ("local", None),
            Scope::Host(address) => ("host", Some(address)),
            Scope::HostSsl(address) => ("hostssl", Some(address)),
            Scope::HostNoSsl(address) => ("hostnossl", Some(address)),
        };
        write!(f, "{keyword} ")?;
        list(f, &self.databases)?;
        f.write_str(" ")?;
        list(f, &self.users)?;
        match address {
            None => {}
            Some(AddressMatch::All) => f.write_str(" all")?,
            Some(AddressMatch::Net(net)) => write!(f, " {net}")?,
        }
        write!(f, " {}", self.method.name())?;
        match (self.method, self.client_cert) {
            (Method::Cert, _) | (_, ClientCert::NotAsked) => Ok(()),
            (_, ClientCert::VerifyCa) => f.write_str(" clientcert=verify-ca"),
            (_, ClientCert::VerifyFull) => f.write_str(" clientcert=verify-full"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl fmt::Display for DatabaseMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::SameUser => f.write_str("sameuser"),
            Self::Replication => f.write_str("replication"),
            Self::Name(name) => quoted(f, name),
        }
    }
}

impl fmt::Display for UserMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Name(name) => quoted(f, name),
        }
    }
}

/// Always in quotes: they also keep a database called `all` from meaning every database.
fn quoted(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    write!(f, "\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests;
