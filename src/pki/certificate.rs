//! What a certificate says: whose it is, and for how long.
//!
//! Reads only. That it is genuine is for the TLS library to check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

use super::name::{NodeName, cluster_of};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub is_authority: bool,
    /// None: it speaks for no node, or for more than one.
    pub node: Option<NodeName>,
    /// Every DNS name in it, that of the node too.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
    /// Identifies the key pair.
    pub public_key: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate that can be read")]
pub struct CertificateError;

impl Certificate {
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError)?;
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        if let Some(extension) = parsed.subject_alternative_name().map_err(|_| CertificateError)? {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::IPAddress(octets) => addresses.extend(address(octets)),
                    _ => {}
                }
            }
        }
        let mut nodes = names.iter().filter_map(|name| NodeName::from_dns(name));
        let node = match (nodes.next(), nodes.next()) {
            (Some(node), None) => Some(node),
            _ => None,
        };
        Ok(Certificate {
            subject: parsed.subject().to_string(),
            is_authority: parsed.is_ca(),
            node,
            names,
            addresses,
            not_before: time(parsed.validity().not_before),
            not_after: time(parsed.validity().not_after),
            public_key: parsed.tbs_certificate.subject_pki.raw.to_vec(),
        })
    }

    /// The cluster whose authority it is of.
    pub fn authority_of(&self) -> Option<&str> {
        self.subject.strip_prefix("CN=").filter(|_| self.is_authority).and_then(cluster_of)
    }

    /// Whole days from now to its end; negative: it has ended.
    pub fn days_left(&self, now: SystemTime) -> i64 {
        let days = |duration: Duration| i64::try_from(duration.as_secs() / 86_400).unwrap_or(i64::MAX);
        match self.not_after.duration_since(now) {
            Ok(left) => days(left),
            Err(ended) => -1 - days(ended.duration()),
        }
    }

    /// What to tell people about its end, if it is near.
    pub fn expiry_warning(&self, now: SystemTime) -> Option<String> {
        let days = self.days_left(now);
        let ends = if days < 0 { "has ended" } else { "ends" };
        let near = self.not_after <= now + super::EXPIRY_WARNING;
        near.then(|| format!("the certificate of {} {ends}: {days} days left", self.subject))
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).into()),
        _ => <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into()),
    }
}

fn time(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
