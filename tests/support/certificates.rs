//! Certificates for tests: an authority, what it signed, and what should be refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// An authority that issues ECDSA P-256 certificates into a directory.
pub struct Certificates {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    authority_pem: String,
}

impl Certificates {
    /// Writes `ca.crt`.
    pub fn create(directory: &Path) -> Self {
        Self::create_named(directory, "komainu test authority")
    }

    pub fn create_named(directory: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let authority_pem = params.self_signed(&key).unwrap().pem();
        fs::write(directory.join("ca.crt"), &authority_pem).unwrap();
        Self { directory: directory.to_owned(), issuer: Issuer::new(params, key), authority_pem }
    }

    pub fn authority_file(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// For `localhost` and 127.0.0.1: the paths of certificate and key.
    pub fn server(&self, name: &str) -> (PathBuf, PathBuf) {
        self.server_for(name, &["localhost", "127.0.0.1"])
    }

    /// For other host names or addresses.
    pub fn server_for(&self, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
        self.issue(name, server_params(hosts))
    }

    /// Valid until the end of 2020.
    pub fn expired_server(&self, name: &str) -> (PathBuf, PathBuf) {
        self.issue(name, expired(server_params(&["localhost", "127.0.0.1"])))
    }

    /// A client's, whose common name is the user's name.
    pub fn client(&self, user: &str) -> (PathBuf, PathBuf) {
        self.issue(user, client_params(user))
    }

    pub fn expired_client(&self, user: &str) -> (PathBuf, PathBuf) {
        self.issue(&format!("{user}-expired"), expired(client_params(user)))
    }

    fn issue(&self, name: &str, params: CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let paths = (self.directory.join(format!("{name}.crt")), self.directory.join(format!("{name}.key")));
        fs::write(&paths.0, certificate.pem()).unwrap();
        fs::write(&paths.1, key.serialize_pem()).unwrap();
        // libpq refuses a key that others can read.
        fs::set_permissions(&paths.1, fs::Permissions::from_mode(0o600)).unwrap();
        paths
    }
}

fn server_params(hosts: &[&str]) -> CertificateParams {
    let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name.push(DnType::CommonName, hosts[0]);
    params
}

fn client_params(user: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name.push(DnType::CommonName, user);
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 12, 31);
    params
}
