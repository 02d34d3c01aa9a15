//! Which files with certificates the configuration names.
//!
//! Pure. Without the node's own certificate for its peers, which the peers' TLS looks after. Invariant: a file that is not
//! used, since TLS is off there, is not named.

use std::path::PathBuf;

use super::{ClientTlsMode, Config, SslMode};
use crate::pki::AUTHORITY_CERTIFICATE;

/// A file, and the key that leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFile {
    pub key: &'static str,
    pub path: PathBuf,
    /// Of others, of whom any may be whose certificate is shown, and not this node's own chain.
    pub of_authorities: bool,
}

impl Config {
    pub fn certificate_files(&self) -> Vec<CertificateFile> {
        let (client, server) = (&self.client_tls, &self.server_tls);
        let (to_clients, to_servers) = (client.mode != ClientTlsMode::Off, server.mode != SslMode::Disable);
        let named = [
            ("client_tls.cert_file", to_clients, false, &client.cert_file),
            ("client_tls.client_ca_file", to_clients, true, &client.client_ca_file),
            ("server_tls.ca_file", to_servers, true, &server.ca_file),
            ("server_tls.cert_file", to_servers, false, &server.cert_file),
            ("admin.cert_file", true, false, &self.admin.cert_file),
        ];
        let named = named.into_iter().filter(|(_, used, ..)| *used);
        let named = named.filter_map(|(key, _, of_authorities, path)| {
            Some(CertificateFile { key, path: path.clone()?, of_authorities })
        });
        let authority = self.cluster.iter().map(|cluster| CertificateFile {
            key: "cluster.pki_directory",
            path: cluster.pki_directory.join(AUTHORITY_CERTIFICATE),
            of_authorities: true,
        });
        authority.chain(named).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::file;

    fn files(more: &str) -> Vec<String> {
        let text = format!(
            "[listen]\naddresses = ['127.0.0.1:5432']\n[auth]\nhba_file = 'hba'\n[health]\nuser = 'k'\n\
             [[server]]\nid = 'pg1'\nhost = 'db'\n{more}"
        );
        let (config, _) = file::parse(&text, Path::new("/k/komainu.toml"), 1).unwrap();
        let files = config.certificate_files().into_iter();
        files.map(|CertificateFile { key, path, .. }| format!("{key} {}", path.display())).collect()
    }

    #[test]
    fn each_file_in_use_is_named_with_its_key() {
        let more = "[client_tls]\nmode = 'require'\ncert_file = 'c.crt'\nkey_file = 'c.key'\nclient_ca_file = 'c.ca'\n\
            [server_tls]\nmode = 'verify-full'\nca_file = 's.ca'\ncert_file = 's.crt'\nkey_file = 's.key'\n\
            [admin]\ntls_address = '127.0.0.1:7443'\ncert_file = 'a.crt'\nkey_file = 'a.key'\ntoken_file = 't'\n\
            [cluster]\nname = 'shop'\npki_directory = 'pki'\n[[node]]\nid = 'a'\nhost = 'ha'\n\
            [[node]]\nid = 'b'\nhost = 'hb'\n[[node]]\nid = 'c'\nhost = 'hc'\n";
        assert_eq!(
            files(more),
            [
                "cluster.pki_directory /k/pki/ca.crt",
                "client_tls.cert_file /k/c.crt",
                "client_tls.client_ca_file /k/c.ca",
                "server_tls.ca_file /k/s.ca",
                "server_tls.cert_file /k/s.crt",
                "admin.cert_file /k/a.crt",
            ]
        );
    }

    #[test]
    fn what_is_not_used_is_not_looked_at() {
        let off = "[client_tls]\nmode = 'off'\ncert_file = 'c.crt'\nkey_file = 'c.key'\n\
            [server_tls]\nmode = 'disable'\nca_file = 's.ca'\n";
        assert_eq!(files(off), [""; 0]);
    }
}
