//! What a client's certificate says of who it is.
//!
//! Reads names only; that the certificate is genuine was checked by rustls in the TLS handshake.
//! Invariant: a name that could be read in two ways is no name.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The subject's common name. None: there is none, more than one, or one that is no clean text.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let (name, another) = (names.next()?, names.next());
    let name = name.as_str().ok()?;
    // A NUL would end the name early for whoever reads it as C does.
    (another.is_none() && !name.is_empty() && !name.contains('\0')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(names: &[&str]) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        // rcgen keeps one value for a type; the same by its number is another type to it.
        let types = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
        for (kind, name) in types.into_iter().zip(names) {
            parameters.distinguished_name.push(kind, *name);
        }
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_common_name_is_read() {
        assert_eq!(common_name(&certificate(&["alice"])).as_deref(), Some("alice"));
        assert_eq!(common_name(&certificate(&["Zoë"])).as_deref(), Some("Zoë"));
    }

    #[test]
    fn what_is_no_clean_name_is_none() {
        assert_eq!(common_name(&certificate(&[])), None);
        assert_eq!(common_name(&certificate(&[""])), None);
        assert_eq!(common_name(&certificate(&["alice\0.example"])), None);
        assert_eq!(common_name(&certificate(&["alice", "bob"])), None);
        assert_eq!(common_name(&CertificateDer::from(b"nonsense".to_vec())), None);
    }
}
