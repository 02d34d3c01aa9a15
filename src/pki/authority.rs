//! Makes the cluster's authority and the nodes' certificates, as files in one directory.
//!
//! Never overwrites what it did not say it would. Invariant: a private key is never readable by another user,
//! not for a moment, and never leaves the directory.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};

use super::certificate::{Certificate, CertificateError};
use super::name::{NameError, NodeName, authority_name, check_label};

pub const AUTHORITY_CERTIFICATE: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
/// Ten years: replacing an authority is work for all nodes at once.
pub const AUTHORITY_DAYS: u32 = 3650;
/// A year: short enough to stay in practice, long enough to be no chore.
pub const NODE_DAYS: u32 = 365;
/// Certificates begin in the past, for nodes whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(3600);

const CERTIFICATE_MODE: u32 = 0o644;
const KEY_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{} exists already and is left as it is{hint}", path.display())]
    Exists { path: PathBuf, hint: &'static str },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: pem::Error },
    #[error("{}: {source}", path.display())]
    Certificate { path: PathBuf, source: CertificateError },
    #[error("no certificate in {} belongs to {}", certificate.display(), key.display())]
    NoAuthority { certificate: PathBuf, key: PathBuf },
    #[error("{} is not the certificate of {expected}", path.display())]
    AnotherNode { path: PathBuf, expected: NodeName },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// The cluster's authority with its key, from the directory that `create` made.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
    ends: SystemTime,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    pub name: NodeName,
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub not_after: SystemTime,
}

impl Authority {
    pub fn create(directory: &Path, cluster: &str, days: u32) -> Result<Self, PkiError> {
        check_label(cluster, "cluster")?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .map_err(|source| PkiError::Write { path: directory.to_owned(), source })?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = subject(&authority_name(cluster));
        let ends = validity(&mut params, days);
        let certificate = params.self_signed(&key)?.pem();
        let hint = ": this directory has an authority; take another for a second one";
        write_pair(directory, "ca", &certificate, &key.serialize_pem(), hint)?;
        let issuer = Issuer::new(params, key);
        Ok(Authority { directory: directory.to_owned(), cluster: cluster.to_owned(), issuer, ends })
    }

    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let (path, key_path) = (directory.join(AUTHORITY_CERTIFICATE), directory.join(AUTHORITY_KEY));
        let unreadable = |source| PkiError::Read { path: key_path.clone(), source: pem::Error::Io(source) };
        let key = KeyPair::from_pem(&fs::read_to_string(&key_path).map_err(unreadable)?)?;
        // While an authority is being replaced the file has the certificates of two.
        for der in read_certificates(&path)? {
            let certificate = Certificate::parse(&der)
                .map_err(|source| PkiError::Certificate { path: path.clone(), source })?;
            if let (Some(cluster), true) =
                (certificate.authority_of(), certificate.public_key == key.subject_public_key_info())
            {
                let cluster = cluster.to_owned();
                let issuer = Issuer::from_ca_cert_der(&der, key)?;
                let ends = certificate.not_after;
                return Ok(Authority { directory: directory.to_owned(), cluster, issuer, ends });
            }
        }
        Err(PkiError::NoAuthority { certificate: path, key: key_path })
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn not_after(&self) -> SystemTime {
        self.ends
    }

    pub fn certificate(&self) -> PathBuf {
        self.directory.join(AUTHORITY_CERTIFICATE)
    }

    /// Makes a node's certificate and key. `names` and `addresses` are further ones to be reached by, for
    /// clients of the node; other nodes do not look at them.
    pub fn issue(
        &self,
        node: &str,
        names: &[String],
        addresses: &[IpAddr],
        days: u32,
    ) -> Result<Issued, PkiError> {
        let name = NodeName::new(node, &self.cluster)?;
        let (certificate, key, not_after) = self.sign(&name, names, addresses, days)?;
        let hint = "; `komainu pki renew` replaces it";
        let (certificate, key) = write_pair(&self.directory, node, &certificate, &key, hint)?;
        Ok(Issued { name, certificate, key, not_after })
    }

    /// Replaces a node's certificate and key by new ones for the same names.
    pub fn renew(&self, node: &str, days: u32) -> Result<Issued, PkiError> {
        let name = NodeName::new(node, &self.cluster)?;
        let path = self.directory.join(format!("{node}.crt"));
        let old = read_first(&path)?;
        if old.node.as_ref() != Some(&name) {
            return Err(PkiError::AnotherNode { path, expected: name });
        }
        let further: Vec<String> = old.names.into_iter().filter(|other| *other != name.dns()).collect();
        let (certificate, key, not_after) = self.sign(&name, &further, &old.addresses, days)?;
        let key_path = self.directory.join(format!("{node}.key"));
        // Two files cannot be exchanged at once. Who reads them in between finds that they do not belong together,
        // and keeps what it has.
        replace(&key_path, &key, KEY_MODE)?;
        replace(&path, &certificate, CERTIFICATE_MODE)?;
        Ok(Issued { name, certificate: path, key: key_path, not_after })
    }

    /// Certificate and key as PEM, and the certificate's end.
    fn sign(
        &self,
        name: &NodeName,
        names: &[String],
        addresses: &[IpAddr],
        days: u32,
    ) -> Result<(String, String, SystemTime), PkiError> {
        let key = KeyPair::generate()?;
        let mut all = vec![name.dns()];
        for further in names {
            // Another node's name would make the certificate speak for two.
            if NodeName::from_dns(further).is_some() {
                return Err(NameError::Label(further.clone(), "further name").into());
            }
            all.push(further.clone());
        }
        let mut params = CertificateParams::new(all)?;
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.distinguished_name = subject(&name.dns());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Each node is asked and asks.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let ends = validity(&mut params, days);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem(), ends))
    }
}

fn subject(name: &str) -> rcgen::DistinguishedName {
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn validity(params: &mut CertificateParams, days: u32) -> SystemTime {
    let now = SystemTime::now();
    let ends = now + Duration::from_secs(u64::from(days) * 86_400);
    params.not_before = (now - BACKDATED).into();
    params.not_after = ends.into();
    ends
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| PkiError::Read { path: path.to_owned(), source })
}

/// Every certificate in a file.
pub(crate) fn read_all(path: &Path) -> Result<Vec<Certificate>, PkiError> {
    let parse = |der| {
        Certificate::parse(&der).map_err(|source| PkiError::Certificate { path: path.to_owned(), source })
    };
    read_certificates(path)?.into_iter().map(parse).collect()
}

fn read_first(path: &Path) -> Result<Certificate, PkiError> {
    let missing = || PkiError::Certificate { path: path.to_owned(), source: CertificateError };
    read_all(path)?.into_iter().next().ok_or_else(missing)
}

/// Both or none, neither over an old one.
fn write_pair(
    directory: &Path,
    name: &str,
    certificate: &str,
    key: &str,
    hint: &'static str,
) -> Result<(PathBuf, PathBuf), PkiError> {
    let paths = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
    create(&paths.1, key, KEY_MODE, hint)?;
    create(&paths.0, certificate, CERTIFICATE_MODE, hint).inspect_err(|_| {
        // Made a moment ago, and of no use without its certificate.
        let _ = fs::remove_file(&paths.1);
    })?;
    Ok(paths)
}

fn create(path: &Path, text: &str, mode: u32, hint: &'static str) -> Result<(), PkiError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.to_owned(), hint },
        _ => PkiError::Write { path: path.to_owned(), source },
    })
}

fn replace(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let write = || -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
