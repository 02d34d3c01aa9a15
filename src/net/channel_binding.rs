//! `tls-server-end-point`: the hash of a server's certificate that SCRAM binds a login to.
//!
//! Pure. Source: RFC 5929, section 4.1.

use aws_lc_rs::digest;
use x509_parser::prelude::*;
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// The hash, by the certificate's own signature algorithm. `None` where the RFC leaves it undefined
/// (Ed25519 has no hash of its own; PostgreSQL offers no channel binding then either).
pub fn tls_server_end_point(certificate_der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate_der).ok()?;
    let algorithm = SignatureAlgorithm::try_from(&certificate.signature_algorithm).ok()?;
    let oid = match &algorithm {
        SignatureAlgorithm::RSASSA_PSS(parameters) => parameters.hash_algorithm_oid().to_id_string(),
        _ => certificate.signature_algorithm.algorithm.to_id_string(),
    };
    let hash = match oid.as_str() {
        // MD5 and SHA-1 are raised to SHA-256, says the RFC: by RSA, by ECDSA, as a PSS parameter.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.3.14.3.2.26" => {
            &digest::SHA256
        }
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" | "2.16.840.1.101.3.4.2.4" => &digest::SHA224,
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.2.1" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, certificate_der).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    fn self_signed(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::new(vec!["db".to_owned()]).unwrap().self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let p256 = self_signed(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(tls_server_end_point(&p256).unwrap(), digest::digest(&digest::SHA256, &p256).as_ref());
        let p384 = self_signed(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(tls_server_end_point(&p384).unwrap(), digest::digest(&digest::SHA384, &p384).as_ref());
    }

    #[test]
    fn a_signature_without_a_hash_has_no_binding() {
        assert_eq!(tls_server_end_point(&self_signed(&rcgen::PKCS_ED25519)), None);
        assert_eq!(tls_server_end_point(b"no certificate"), None);
    }
}
