//! TLS configurations, from configuration keys to what rustls takes.
//!
//! Owns reading certificates, keys and authorities, and what each mode demands. Never touches a
//! connection but to run the client's side of a handshake. Loading is a plain function of the
//! configuration and the files, so a reload is loading again.
//! Invariant: a context that exists can serve its mode; every fault is found here and names its file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Stream;
use super::names::Names;
use super::verify::{Authorities, Demand, ServerVerifier};
use crate::config::{ClientTls, ClientTlsMode, ServerTls, SslMode};

/// The only application protocol we speak; PostgreSQL 17 demands it of direct TLS.
pub const ALPN: &[u8] = b"postgresql";

/// Of Debian and its like, and of Red Hat and its like.
const SYSTEM_AUTHORITIES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    #[error("{key} must be set: {why}")]
    Missing { key: &'static str, why: &'static str },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: not PEM: {source}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{}: no certificate in it", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{}: no private key in it", path.display())]
    NoKey { path: PathBuf },
    #[error("{}: not a usable certificate authority: {source}", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("certificate {} and key {} cannot be used: {source}", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("cannot set up TLS: {0}")]
    Provider(#[from] rustls::Error),
}

/// How clients are served TLS.
#[derive(Debug, Clone)]
pub struct ClientTlsContext {
    pub config: Arc<ServerConfig>,
    /// Ours, for channel binding.
    pub certificate_der: CertificateDer<'static>,
    pub mode: ClientTlsMode,
}

impl ClientTlsContext {
    /// `None`: clients get no TLS.
    pub fn load(keys: &ClientTls) -> Result<Option<Self>, TlsConfigError> {
        if keys.mode == ClientTlsMode::Off {
            return Ok(None);
        }
        let why = "clients are to be served TLS";
        let certificate_file = required(&keys.cert_file, "client_tls.cert_file", why)?;
        let key_file = required(&keys.key_file, "client_tls.key_file", why)?;
        if keys.mode == ClientTlsMode::Verify {
            required(
                &keys.client_ca_file,
                "client_tls.client_ca_file",
                "client certificates are to be verified",
            )?;
        }

        let provider = provider();
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = match &keys.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(read_authorities(path)?.roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match keys.mode {
                    ClientTlsMode::Verify => verifier,
                    // Asked for all the same, so that an HBA line can demand one with `cert`.
                    _ => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|e| TlsConfigError::Authority {
                    path: path.clone(),
                    source: rustls::Error::General(e.to_string()),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = read_certificates(certificate_file)?;
        let certificate_der = chain[0].clone();
        let mut config = builder
            .with_single_cert(chain, read_key(key_file)?)
            .map_err(|source| pair_error(certificate_file, key_file, source))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        if keys.client_ca_file.is_some() {
            // A session that is resumed shows the certificate of its first handshake, which may have ended since.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            // Tickets carry a session that this process can resume without keeping it; one is enough.
            config.ticketer = aws_lc_rs::Ticketer::new()?;
            config.send_tls13_tickets = 1;
        }
        Ok(Some(ClientTlsContext { config: Arc::new(config), certificate_der, mode: keys.mode }))
    }
}

/// How servers are reached: whom their names are asked of, and how TLS is spoken to them. Equal to another if it asks the
/// same and was loaded from the same keys and files of the same contents.
#[derive(Clone)]
pub struct ServerTlsContext {
    keys: ServerTls,
    /// Of all files, so that a certificate renewed under its name is noticed.
    contents: [u8; SHA256_OUTPUT_LEN],
    /// `None`: never.
    connector: Option<TlsConnector>,
    names: Names,
}

impl PartialEq for ServerTlsContext {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys && self.contents == other.contents && self.names == other.names
    }
}

impl ServerTlsContext {
    pub fn disabled() -> Self {
        let keys = ServerTls {
            mode: SslMode::Disable,
            ca_file: None,
            cert_file: None,
            key_file: None,
            allow_md5: false,
        };
        ServerTlsContext { keys, contents: [0; SHA256_OUTPUT_LEN], connector: None, names: Names::default() }
    }

    /// The same, with names asked of others.
    pub fn asking(self, names: Names) -> Self {
        ServerTlsContext { names, ..self }
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    pub fn load(keys: &ServerTls) -> Result<Self, TlsConfigError> {
        if keys.mode == SslMode::Disable {
            let keys = ServerTls { allow_md5: keys.allow_md5, ..Self::disabled().keys };
            return Ok(ServerTlsContext { keys, ..Self::disabled() });
        }
        let provider = provider();
        let verifier =
            ServerVerifier { demand: demand(keys)?, algorithms: provider.signature_verification_algorithms };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&keys.cert_file, &keys.key_file) {
            (Some(certificate_file), Some(key_file)) => builder
                .with_client_auth_cert(read_certificates(certificate_file)?, read_key(key_file)?)
                .map_err(|source| pair_error(certificate_file, key_file, source))?,
            (None, None) => builder.with_no_client_auth(),
            (certificate_file, _) => {
                let key = match certificate_file {
                    Some(_) => "server_tls.key_file",
                    None => "server_tls.cert_file",
                };
                return Err(TlsConfigError::Missing { key, why: "a certificate and its key go together" });
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // PostgreSQL never resumes, and a resumed session would show no fresh proof of the key.
        config.resumption = Resumption::disabled();
        let connector = Some(TlsConnector::from(Arc::new(config)));
        Ok(ServerTlsContext {
            contents: contents(keys)?,
            keys: keys.clone(),
            connector,
            names: Names::default(),
        })
    }

    pub fn mode(&self) -> SslMode {
        self.keys.mode
    }

    /// Whether a TLS connection is one to a server whose certificate was verified.
    pub fn verifies(&self) -> bool {
        self.keys.ca_file.is_some()
    }

    /// Whether a server that was not verified may be shown what a password can be guessed by.
    pub fn allows_md5(&self) -> bool {
        self.keys.allow_md5
    }

    /// Runs the handshake; the server has already agreed to it.
    pub async fn handshake(&self, host: &str, tcp: TcpStream) -> io::Result<Stream> {
        let Some(connector) = &self.connector else {
            return Err(io::Error::other("TLS to servers is disabled"));
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("{host}: {e}")))?;
        let tls = connector.connect(name, tcp).await?;
        Ok(Stream::TlsConnected(Box::new(tls)))
    }
}

impl std::fmt::Debug for ServerTlsContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTlsContext").field("mode", &self.keys.mode).finish_non_exhaustive()
    }
}

/// A digest of the files that are named.
fn contents(keys: &ServerTls) -> Result<[u8; SHA256_OUTPUT_LEN], TlsConfigError> {
    let mut digest = Context::new(&SHA256);
    for path in [&keys.ca_file, &keys.cert_file, &keys.key_file].into_iter().flatten() {
        let bytes =
            std::fs::read(path).map_err(|source| TlsConfigError::Read { path: path.clone(), source })?;
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(&bytes);
    }
    Ok(digest.finish().as_ref().try_into().expect("SHA-256 is as long as it says"))
}

/// What libpq demands in each mode. An authority that is named is always used: `require` then means
/// `verify-ca`, and in `prefer` a certificate it does not vouch for leads back to a plain connection.
fn demand(keys: &ServerTls) -> Result<Demand, TlsConfigError> {
    match (keys.mode, &keys.ca_file) {
        (SslMode::VerifyFull, Some(path)) => read_authorities(path).map(Demand::ChainAndName),
        (SslMode::VerifyFull | SslMode::VerifyCa, None) => Err(TlsConfigError::Missing {
            key: "server_tls.ca_file",
            why: "servers' certificates are to be verified",
        }),
        (_, Some(path)) => read_authorities(path).map(Demand::Chain),
        (_, None) => Ok(Demand::Nothing),
    }
}

/// For HTTP over TLS. Whoever connects shows no certificate.
pub fn https_server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(read_certificates(certificate)?, read_key(key)?)
        .map_err(|source| pair_error(certificate, key, source))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Believes the authorities in the file; without one, those that the system believes.
pub fn https_client(authorities: Option<&Path>) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let roots = match authorities {
        Some(path) => read_authorities(path)?.roots,
        None => {
            let [first, ..] = SYSTEM_AUTHORITIES;
            let found = SYSTEM_AUTHORITIES.into_iter().map(Path::new).find(|path| path.exists());
            let mut roots = RootCertStore::empty();
            // One among hundreds that is not understood does not matter.
            roots.add_parsable_certificates(read_certificates(found.unwrap_or(Path::new(first)))?);
            roots
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn required<'a>(
    path: &'a Option<PathBuf>,
    key: &'static str,
    why: &'static str,
) -> Result<&'a Path, TlsConfigError> {
    path.as_deref().ok_or(TlsConfigError::Missing { key, why })
}

fn pair_error(certificate: &Path, key: &Path, source: rustls::Error) -> TlsConfigError {
    TlsConfigError::Pair { certificate: certificate.to_owned(), key: key.to_owned(), source }
}

fn pem_error(path: &Path, error: pem::Error) -> TlsConfigError {
    let path = path.to_owned();
    match error {
        pem::Error::Io(source) => TlsConfigError::Read { path, source },
        source => TlsConfigError::Pem { path, source },
    }
}

/// At least one.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| pem_error(path, e))?;
    match certificates.is_empty() {
        true => Err(TlsConfigError::NoCertificate { path: path.to_owned() }),
        false => Ok(certificates),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| match e {
        pem::Error::NoItemsFound => TlsConfigError::NoKey { path: path.to_owned() },
        other => pem_error(path, other),
    })
}

fn read_authorities(path: &Path) -> Result<Authorities, TlsConfigError> {
    let certificates = read_certificates(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|source| TlsConfigError::Authority { path: path.to_owned(), source })?;
    }
    Ok(Authorities { roots, certificates })
}

#[cfg(test)]
mod tests;
