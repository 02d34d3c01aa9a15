//! Connection strings for libpq's programs and for `primary_conninfo`.
//!
//! Pure. Invariant: there is never a password in one; libpq finds it in the passfile.

use std::path::PathBuf;

use super::wire::Source;
use crate::config;
use crate::config::words::Words as _;

/// A server that does not answer is given up, rather than waited for.
const CONNECT_TIMEOUT_S: u32 = 10;

/// No server is called that. libpq takes the last of two values.
const COPIES_AS: &str = "komainu rebuild";

/// What all connections to other servers have in common.
#[derive(Debug, Clone)]
pub struct Access {
    /// The `application_name`.
    pub server: String,
    pub tls: config::ServerTls,
    pub passfile: Option<PathBuf>,
    pub replication_user: String,
    pub rewind_user: String,
}

impl Access {
    /// For following it.
    pub fn replication(&self, source: &Source) -> Conninfo {
        self.to(source, &self.replication_user)
    }

    /// For copying it. Under the server's own name what `pg_basebackup` receives would count as what a synchronous standby
    /// has, and commits would be acknowledged that nobody has but a copy that is not finished.
    pub fn copying(&self, source: &Source) -> Conninfo {
        self.replication(source).with("application_name", COPIES_AS)
    }

    /// For reading what has to be rewound.
    pub fn rewind(&self, source: &Source, database: &str) -> Conninfo {
        let mut conninfo = self.to(source, &self.rewind_user);
        conninfo.set("dbname", database);
        conninfo
    }

    fn to(&self, source: &Source, user: &str) -> Conninfo {
        let mut conninfo = Conninfo::default();
        conninfo.set("host", &source.host);
        conninfo.set("port", &source.port.to_string());
        conninfo.set("user", user);
        conninfo.set("application_name", &self.server);
        conninfo.set("connect_timeout", &CONNECT_TIMEOUT_S.to_string());
        conninfo.set("sslmode", self.tls.mode.word());
        let files = [
            ("sslrootcert", &self.tls.ca_file),
            ("sslcert", &self.tls.cert_file),
            ("sslkey", &self.tls.key_file),
            ("passfile", &self.passfile),
        ];
        for (name, path) in files {
            if let Some(path) = path {
                conninfo.set(name, &path.display().to_string());
            }
        }
        conninfo
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conninfo(String);

impl Conninfo {
    fn set(&mut self, name: &str, value: &str) {
        let separator = if self.0.is_empty() { "" } else { " " };
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        self.0 += &format!("{separator}{name}='{value}'");
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SslMode;

    #[test]
    fn values_are_quoted_and_files_named_only_if_there() {
        let tls = config::ServerTls {
            mode: SslMode::VerifyFull,
            ca_file: None,
            cert_file: None,
            key_file: None,
            allow_md5: false,
        };
        let access = Access {
            server: "pg1".to_owned(),
            tls,
            passfile: Some(PathBuf::from("/var/it's/pass")),
            replication_user: "replicator".to_owned(),
            rewind_user: "rewinder".to_owned(),
        };
        let source = Source { id: "pg2".to_owned(), host: "db\\2".to_owned(), port: 5433 };
        assert_eq!(
            access.rewind(&source, "postgres").as_str(),
            "host='db\\\\2' port='5433' user='rewinder' application_name='pg1' connect_timeout='10' \
             sslmode='verify-full' passfile='/var/it\\'s/pass' dbname='postgres'"
        );
        let copying = access.copying(&source);
        let names: Vec<_> = copying.as_str().split("application_name=").skip(1).collect();
        assert!(
            names.last().unwrap().starts_with("'komainu rebuild'"),
            "a copy is no synchronous standby: {names:?}"
        );
    }
}
