//! Decides whether a server's certificate is good enough for an `sslmode`.
//!
//! Owns which checks are left out, and nothing else: chains, names and signatures are checked by
//! rustls and webpki. Invariant: whatever is left out, the peer always proves in the handshake that
//! it holds the key of the certificate it shows, or channel binding would mean nothing.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::*;

/// What a server's certificate must show.
#[derive(Debug)]
pub(super) enum Demand {
    /// Any certificate will do.
    Nothing,
    /// One that leads to an authority of ours.
    Chain(Authorities),
    /// That, and the name we dialled.
    ChainAndName(Authorities),
}

#[derive(Debug)]
pub(super) struct Authorities {
    pub roots: RootCertStore,
    /// The same as they stand in the file. A server's own self-signed certificate may be among them,
    /// which webpki refuses as an end entity when it also calls itself an authority; OpenSSL, and so
    /// libpq, takes it.
    pub certificates: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub demand: Demand,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.demand {
            Demand::Nothing => {}
            Demand::Chain(authorities) => {
                self.verify_chain(authorities, end_entity, intermediates, now)?;
            }
            Demand::ChainAndName(authorities) => {
                self.verify_chain(authorities, end_entity, intermediates, now)?;
                verify_name(end_entity, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    /// By the certificate's bare key: a certificate of X.509 version 1, as the recipe in PostgreSQL's
    /// manual makes them, is one webpki does not read. Where more than a key is demanded it was read before.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let parsed = parse(certificate)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.tbs_certificate.subject_pki.raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerVerifier {
    fn verify_chain(
        &self,
        authorities: &Authorities,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if authorities.certificates.iter().any(|known| known == end_entity) {
            return verify_validity(end_entity, now);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let roots = &authorities.roots;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

fn verify_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = parse(certificate)?;
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < parsed.validity().not_before.timestamp() {
        Err(CertificateError::NotValidYet.into())
    } else if seconds > parsed.validity().not_after.timestamp() {
        Err(CertificateError::Expired.into())
    } else {
        Ok(())
    }
}

/// As libpq: the alternative names decide; the common name counts only where there are none.
fn verify_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let refusal = match ParsedCertificate::try_from(certificate).and_then(|c| verify_server_name(&c, name)) {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    let parsed = parse(certificate)?;
    let has_alternative_names = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => extension
            .value
            .general_names
            .iter()
            .any(|n| !matches!(n, GeneralName::RFC822Name(_) | GeneralName::URI(_))),
        Ok(None) => false,
        Err(_) => true,
    };
    let common_name = parsed.subject().iter_common_name().next().and_then(|n| n.as_str().ok());
    match common_name {
        Some(pattern) if !has_alternative_names && common_name_matches(pattern, &name.to_str()) => Ok(()),
        _ => Err(refusal),
    }
}

/// A `*` stands for the whole leftmost label and for nothing else.
fn common_name_matches(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match pattern.strip_prefix("*.") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(parent) => host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty()
                && parent.contains('.')
                && rest.eq_ignore_ascii_case(parent)
                && host.parse::<std::net::IpAddr>().is_err()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        assert!(common_name_matches("db.example.com", "DB.example.com."));
        assert!(common_name_matches("*.example.com", "db.example.com"));
        for (pattern, host) in [
            ("*.example.com", "a.b.example.com"),
            ("*.example.com", "example.com"),
            ("*.example.com", ".example.com"),
            ("*.com", "example.com"),
            ("*", "example"),
            ("d*.example.com", "db.example.com"),
            ("*.0.0.1", "127.0.0.1"),
            ("", "db"),
        ] {
            assert!(!common_name_matches(pattern, host), "{pattern} {host}");
        }
    }
}
