//! What is made, and what is not overwritten.

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_node_s_certificate_names_it_and_its_key_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("pki");
    Authority::create(&made, "shop", 10).unwrap();
    assert_eq!((mode(&made), mode(&made.join("ca.key"))), (0o700, 0o600));
    let authority = Authority::open(&made).unwrap();
    assert_eq!(authority.cluster(), "shop");
    let issued =
        authority.issue("a", &["db.example.org".to_owned()], &["192.0.2.1".parse().unwrap()], 5).unwrap();
    assert_eq!((mode(&issued.key), mode(&issued.certificate)), (0o600, 0o644));
    let certificate = read_first(&issued.certificate).unwrap();
    assert_eq!(certificate.node, Some(NodeName::new("a", "shop").unwrap()));
    assert_eq!(certificate.names, ["a.shop.komainu", "db.example.org"]);
    assert_eq!(certificate.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert!(!certificate.is_authority);
    let now = SystemTime::now();
    assert_eq!(certificate.days_left(now), 4);
    assert!(certificate.expiry_warning(now).is_some_and(|text| text.contains("4 days left")));
    assert_eq!(certificate.days_left(now + Duration::from_secs(6 * 86_400)), -2);
    assert!(certificate.expiry_warning(now - Duration::from_secs(60 * 86_400)).is_none());
}

#[test]
fn nothing_is_overwritten_but_by_renew() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::create(directory.path(), "shop", 10).unwrap();
    assert!(matches!(Authority::create(directory.path(), "shop", 10), Err(PkiError::Exists { .. })));
    let issued = authority.issue("a", &["db".to_owned()], &[], 5).unwrap();
    let before = fs::read(&issued.key).unwrap();
    assert!(matches!(authority.issue("a", &[], &[], 5), Err(PkiError::Exists { .. })));
    assert_eq!(fs::read(&issued.key).unwrap(), before);
    let renewed = authority.renew("a", 9).unwrap();
    assert_ne!(fs::read(&renewed.key).unwrap(), before);
    assert_eq!(mode(&renewed.key), 0o600);
    let certificate = read_first(&renewed.certificate).unwrap();
    assert_eq!(certificate.names, ["a.shop.komainu", "db"]);
    assert_eq!(certificate.days_left(SystemTime::now()), 8);
    assert!(matches!(authority.renew("b", 9), Err(PkiError::Read { .. })));
    // A key whose certificate cannot be written is not left behind.
    fs::write(directory.path().join("c.crt"), "").unwrap();
    assert!(authority.issue("c", &[], &[], 5).is_err() && !directory.path().join("c.key").exists());
    assert!(authority.issue("d", &["e.shop.komainu".to_owned()], &[], 5).is_err());
    assert!(authority.issue("ca", &[], &[], 5).is_err());
}

#[test]
fn while_it_is_replaced_the_authority_is_the_one_whose_key_is_there() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Authority::create(old.path(), "shop", 10).unwrap();
    Authority::create(new.path(), "shop", 10).unwrap();
    let text = |directory: &Path| fs::read_to_string(directory.join(AUTHORITY_CERTIFICATE)).unwrap();
    let (first, second) = (text(old.path()), text(new.path()));
    fs::write(new.path().join(AUTHORITY_CERTIFICATE), format!("{first}{second}")).unwrap();
    Authority::open(new.path()).unwrap().issue("a", &[], &[], 5).unwrap();
    fs::write(new.path().join(AUTHORITY_CERTIFICATE), first).unwrap();
    assert!(matches!(Authority::open(new.path()), Err(PkiError::NoAuthority { .. })));
}
