//! When the certificates end that are in files.
//!
//! Reads only. Invariant: a file that cannot be read is said to be one, never taken for one in which nothing ends.

use std::time::SystemTime;

use super::authority::read_all;
use super::certificate::Certificate;
use crate::config::CertificateFile;

/// A file, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub file: CertificateFile,
    /// An error is why it cannot be read.
    pub certificates: Result<Vec<Certificate>, String>,
}

impl Found {
    pub fn look(file: CertificateFile) -> Self {
        let certificates = match read_all(&file.path) {
            Ok(none) if none.is_empty() => Err(format!("{} has no certificate", file.path.display())),
            Ok(all) => Ok(all),
            Err(error) => Err(error.to_string()),
        };
        Found { file, certificates }
    }

    /// When it is of no use any more: a chain with its first certificate, authorities with their last. None: unknown.
    pub fn ends(&self) -> Option<SystemTime> {
        let ends = self.certificates.iter().flatten().map(|certificate| certificate.not_after);
        if self.file.of_authorities { ends.max() } else { ends.min() }
    }

    /// What to tell people of each that ends soon or has ended.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let all = self.certificates.iter().flatten();
        let warnings = all.filter_map(|certificate| certificate.expiry_warning(now));
        warnings.map(|warning| format!("{}: {warning}", self.file.path.display())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Authority;
    use super::*;

    #[test]
    fn each_certificate_in_a_file_is_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let pki = directory.path().join("pki");
        let authority = Authority::create(&pki, "shop", 100).unwrap();
        let issued = authority.issue("a", &[], &[], 20).unwrap();
        let look = |name: &str| {
            Found::look(CertificateFile {
                key: "k",
                path: directory.path().join(name),
                of_authorities: false,
            })
        };
        let both = directory.path().join("both.crt");
        let text = |path| std::fs::read_to_string(path).unwrap();
        std::fs::write(&both, text(issued.certificate) + &text(authority.certificate())).unwrap();
        let now = SystemTime::now();
        let in_days = |days: u64| look("both.crt").warnings(now + Duration::from_secs(days * 86_400));
        let leaf = format!("{}: the certificate of CN=a.shop.komainu ends: 19 days left", both.display());
        assert_eq!(in_days(0), [leaf]);
        let later = in_days(80);
        assert!(later.len() == 2 && later[0].contains("has ended"), "{later:?}");

        let mut found = look("both.crt");
        let all: Vec<_> = found.certificates.iter().flatten().map(|found| found.not_after).collect();
        assert!(all[0] < all[1]);
        assert_eq!(found.ends(), Some(all[0]), "a chain is as good as its first");
        found.file.of_authorities = true;
        assert_eq!(found.ends(), Some(all[1]), "the next authority is there already");
        assert_eq!(look("none.crt").ends(), None);

        let missing = look("none.crt").certificates.unwrap_err();
        assert!(missing.contains("none.crt"), "{missing}");
        std::fs::write(directory.path().join("empty.crt"), "").unwrap();
        assert!(look("empty.crt").certificates.unwrap_err().contains("has no certificate"));
    }
}
