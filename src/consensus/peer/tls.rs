//! The node's certificate, its authorities, and TLS 1.3 made of them.
//!
//! Owns reading and reading again. Connections keep what they were made with; new ones use what was read last.
//! Invariant: a reading that fails changes nothing, and both ends of every connection show a certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::pki::{Certificate, CertificateError, NodeName};

/// How often a near end is spoken of.
const REMIND_EVERY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFiles {
    /// Of one authority, or of several while one takes over from another.
    pub authorities: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum PeerTlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: not PEM: {source}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{}: {source}", path.display())]
    Certificate { path: PathBuf, source: CertificateError },
    #[error("{}: no certificate in it", path.display())]
    Empty { path: PathBuf },
    #[error("{} is not the certificate of {expected}", path.display())]
    AnotherNode { path: PathBuf, expected: NodeName },
    #[error("{}: not a usable certificate authority: {reason}", path.display())]
    Authority { path: PathBuf, reason: String },
    #[error("certificate {} and key {} cannot be used: {source}", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("cannot set up TLS: {0}")]
    Provider(#[from] rustls::Error),
}

#[derive(Debug)]
pub struct PeerTls {
    files: PeerFiles,
    name: NodeName,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    read: Contents,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    certificate: Certificate,
    reminded_at: Option<SystemTime>,
}

/// Of the three files, as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents {
    authorities: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl PeerTls {
    pub fn load(files: PeerFiles, name: NodeName) -> Result<Self, PeerTlsError> {
        let current = Current::build(&files, &name, Contents::read(&files)?)?;
        Ok(PeerTls { files, name, current: Mutex::new(current) })
    }

    /// Reads the files again. False: they are as they were. An error leaves in use what was.
    pub fn reload(&self) -> Result<bool, PeerTlsError> {
        let read = Contents::read(&self.files)?;
        if self.with(|current| current.read == read) {
            return Ok(false);
        }
        let new = Current::build(&self.files, &self.name, read)?;
        self.with(|current| *current = new);
        Ok(true)
    }

    /// Looks after the files for ever: takes up new ones, and tells of a certificate that is about to end.
    pub async fn watch(&self, every: Duration) {
        let mut told = None;
        loop {
            tokio::time::sleep(every).await;
            match self.reload() {
                Ok(true) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificates read again");
                    told = None;
                }
                Ok(false) => told = None,
                // Every time would be too often: the two files of a renewal are exchanged one after the other.
                Err(error) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(
                            error = text,
                            "certificates changed and cannot be used; the old ones stay"
                        );
                    }
                    told = Some(text);
                }
            }
            if let Some(warning) = self.expiry_reminder(SystemTime::now()) {
                tracing::warn!("{warning}; make a new one with `komainu pki renew`");
            }
        }
    }

    /// When this node's certificate ends, what to say of it, if that is near.
    pub fn expiry_warning(&self, now: SystemTime) -> Option<String> {
        self.with(|current| current.certificate.expiry_warning(now))
    }

    /// The same, but once a day.
    fn expiry_reminder(&self, now: SystemTime) -> Option<String> {
        self.with(|current| {
            let warning = current.certificate.expiry_warning(now)?;
            let due = current.reminded_at.is_none_or(|at| now >= at + REMIND_EVERY);
            due.then(|| {
                current.reminded_at = Some(now);
                warning
            })
        })
    }

    pub fn certificate(&self) -> Certificate {
        self.with(|current| current.certificate.clone())
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.with(|current| Arc::clone(&current.server))
    }

    pub(super) fn client(&self) -> Arc<ClientConfig> {
        self.with(|current| Arc::clone(&current.client))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Current) -> T) -> T {
        f(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Contents {
    fn read(files: &PeerFiles) -> Result<Self, PeerTlsError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| PeerTlsError::Read { path: path.to_owned(), source })
        };
        Ok(Contents {
            authorities: read(&files.authorities)?,
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
        })
    }
}

impl Current {
    fn build(files: &PeerFiles, name: &NodeName, read: Contents) -> Result<Self, PeerTlsError> {
        let mut roots = RootCertStore::empty();
        let unusable = |reason: String| PeerTlsError::Authority { path: files.authorities.clone(), reason };
        for authority in certificates(&files.authorities, &read.authorities)? {
            roots.add(authority).map_err(|error| unusable(error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.certificate, &read.certificate)?;
        let path = &files.certificate;
        let certificate = Certificate::parse(&chain[0])
            .map_err(|source| PeerTlsError::Certificate { path: path.clone(), source })?;
        if certificate.node.as_ref() != Some(name) {
            return Err(PeerTlsError::AnotherNode { path: path.clone(), expected: name.clone() });
        }
        let key = PrivateKeyDer::from_pem_slice(&read.key)
            .map_err(|source| PeerTlsError::Pem { path: files.key.clone(), source })?;
        let pair = |source| PeerTlsError::Pair { certificate: path.clone(), key: files.key.clone(), source };

        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        // A resumed session would show no certificate.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(pair)?;
        client.resumption = Resumption::disabled();
        Ok(Current {
            read,
            server: Arc::new(server),
            client: Arc::new(client),
            certificate,
            reminded_at: None,
        })
    }
}

/// At least one.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PeerTlsError> {
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| PeerTlsError::Pem { path: path.to_owned(), source })?;
    match certificates.is_empty() {
        true => Err(PeerTlsError::Empty { path: path.to_owned() }),
        false => Ok(certificates),
    }
}
