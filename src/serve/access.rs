//! Who may come in: HBA rules, secrets and certificates, read at start and again on SIGHUP.
//!
//! Invariant: what can fail is reading the files, before anything is changed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::backend::connect::{ConnectTarget, Credential, Secret};
use crate::client::auth_query::AuthQuery;
use crate::client::handshake::HandshakeContext;
use crate::client::hba::Hba;
use crate::client::secrets::{ProcessSecrets, Secrets};
use crate::client::userfile::{self, UserFile};
use crate::cluster::observe::credential::PlainSecret;
use crate::config::file::read_text;
use crate::config::{self, Config};
use crate::net::tls::{ClientTlsContext, ServerTlsContext, TlsConfigError};
use crate::session::Gateway;

use super::lookups::patient;
use super::server_users::ServerUsers;

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: {problems}", path.display())]
    Invalid { path: PathBuf, problems: String },
    #[error("TLS to clients: {0}")]
    Tls(#[from] TlsConfigError),
}

pub struct Access {
    process: Arc<ProcessSecrets>,
    server_users: Arc<ServerUsers>,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    context: Arc<HandshakeContext>,
    lookups: Option<AuthQuery>,
}

/// What the files say that the configuration names: all that can be wrong with them.
pub struct Files {
    hba: Hba,
    users: UserFile,
    tls: Option<ClientTlsContext>,
}

impl Files {
    pub fn read(config: &Config) -> Result<Self, AccessError> {
        let hba = &config.auth.hba_file;
        Ok(Files {
            hba: Hba::parse(&text(hba)?).map_err(|e| invalid(hba, &e))?,
            users: user_file(&config.auth)?,
            tls: ClientTlsContext::load(&config.client_tls)?,
        })
    }
}

impl Access {
    pub fn new(
        files: Files,
        config: &Config,
        gateway: &Arc<Gateway>,
        server_tls: &Arc<ServerTlsContext>,
        server_users: Arc<ServerUsers>,
    ) -> Arc<Self> {
        let process = ProcessSecrets::new();
        let current = open(files, config, gateway, server_tls, (&process, &*server_users));
        Arc::new(Access { process, server_users, current: RwLock::new(current) })
    }

    pub fn reload(
        &self,
        files: Files,
        config: &Config,
        gateway: &Arc<Gateway>,
        server_tls: &Arc<ServerTlsContext>,
    ) {
        let new = open(files, config, gateway, server_tls, (&self.process, &*self.server_users));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// What komainu logs in to servers with for a user whose password AWS gives, whatever the user has proved here.
    pub fn given(&self, user: &str) -> Option<Credential> {
        self.server_users.of(user).map(Credential::Asked)
    }

    pub fn context(&self) -> Arc<HandshakeContext> {
        self.current().context
    }

    /// A server has refused the user with what was looked up for it.
    pub fn forget(&self, user: &str) {
        if let Some(lookups) = self.current().lookups {
            lookups.forget(user);
        }
    }

    /// A client has proved to be the user.
    pub fn confirm(&self, user: &str) {
        if let Some(lookups) = self.current().lookups {
            lookups.confirm(user);
        }
    }

    /// A client could not prove to be the user.
    pub fn doubt(&self, user: &str) {
        if let Some(lookups) = self.current().lookups {
            lookups.doubt(user);
        }
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn plain(users: &UserFile, user: &str) -> Option<Secret> {
    match users.get(user) {
        Some(userfile::Secret::Plain(password)) => Some(Secret::new(password.clone())),
        _ => None,
    }
}

fn open(
    files: Files,
    config: &Config,
    gateway: &Arc<Gateway>,
    server_tls: &Arc<ServerTlsContext>,
    (process, server_users): (&Arc<ProcessSecrets>, &ServerUsers),
) -> Current {
    let Files { hba, users, tls } = files;
    let lookups = config.auth.query.as_ref().map(|query| {
        let credential = match server_users.of(&query.user) {
            Some(passwords) => Credential::Asked(passwords),
            None => plain(&users, &query.user).map_or(Credential::None, Credential::Password),
        };
        let topology = gateway.topology.clone();
        let tls = server_tls.clone();
        let primary = move || {
            let snapshot = topology.borrow();
            let server = snapshot.primary_server()?;
            Some(ConnectTarget { host: server.host.clone(), port: server.port, tls: tls.clone() })
        };
        AuthQuery::new(query, credential, Arc::new(primary))
    });
    let ask_server = lookups.as_ref().map(|lookups| patient(lookups, gateway));
    let secrets = Arc::new(Secrets::new(users, ask_server, process.clone()));
    tokio::spawn({
        let secrets = secrets.clone();
        async move { secrets.make_verifiers().await }
    });
    let timeout = Duration::from_millis(config.limits.startup_timeout_ms);
    let context = HandshakeContext::new(Arc::new(hba), secrets, tls, timeout);
    Current { context: Arc::new(context), lookups }
}

fn user_file(auth: &config::Auth) -> Result<UserFile, AccessError> {
    match &auth.user_file {
        Some(path) => UserFile::parse(&text(path)?).map_err(|e| invalid(path, &e)),
        None => UserFile::parse("").map_err(|e| invalid(Path::new("user_file"), &e)),
    }
}

/// For komainu's own logins: read anew each time, so that a rotated secret is used at once.
pub fn plain_secret(auth: &config::Auth) -> PlainSecret {
    let auth = auth.clone();
    Arc::new(move |user: &str| plain(&user_file(&auth).ok()?, user))
}

fn text(path: &Path) -> Result<String, AccessError> {
    read_text(path).map_err(|source| AccessError::Unreadable { path: path.to_owned(), source })
}

fn invalid<E: std::fmt::Display>(path: &Path, problems: &[E]) -> AccessError {
    let problems = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    AccessError::Invalid { path: path.to_owned(), problems }
}
