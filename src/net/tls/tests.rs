//! Handshakes between our two contexts: what each mode accepts, and what it must not.

use std::io::ErrorKind;
use std::net::IpAddr;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key.
    fn sign(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "server");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn for_clients(&self, (certificate, key): &(String, String)) -> ClientTls {
        ClientTls {
            mode: ClientTlsMode::Allow,
            cert_file: Some(self.write("server.crt", certificate)),
            key_file: Some(self.write("server.key", key)),
            client_ca_file: None,
        }
    }

    fn for_servers(&self, mode: SslMode, authority: Option<&str>) -> ServerTls {
        let ca_file = authority.map(|pem| self.write("ca.crt", pem));
        ServerTls { mode, ca_file, cert_file: None, key_file: None, allow_md5: false }
    }
}

/// Runs a handshake and an exchange of bytes: with TLS 1.3 a client certificate is refused only then.
/// Returns both ends as they see each other.
async fn handshake(
    accepting: &ClientTls,
    connecting: &ServerTls,
    host: &str,
) -> io::Result<(Stream, Stream)> {
    let acceptor = TlsAcceptor::from(ClientTlsContext::load(accepting).unwrap().unwrap().config);
    let context = ServerTlsContext::load(connecting).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let tcp = TcpStream::connect(listener.local_addr()?).await?;
    let accept = async {
        let mut tls = acceptor.accept(listener.accept().await?.0).await?;
        tls.write_all(b"x").await?;
        tls.flush().await?;
        Ok::<_, io::Error>(Stream::TlsAccepted(Box::new(tls)))
    };
    let connect = async {
        let mut stream = context.handshake(host, tcp).await?;
        let mut byte = [0];
        match stream.read(&mut byte).await? {
            1 => Ok(stream),
            _ => Err(io::Error::from(ErrorKind::UnexpectedEof)),
        }
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    let connected = connected?;
    Ok((accepted?, connected))
}

fn why(result: io::Result<(Stream, Stream)>) -> String {
    result.expect_err("the handshake succeeded").to_string()
}

#[tokio::test]
async fn each_mode_checks_what_it_says() {
    let files = Files::new();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let good = files.for_clients(&ours.sign(|_| {}));
    let trusting = |mode| files.for_servers(mode, Some(&ours.pem));

    assert!(handshake(&good, &trusting(SslMode::VerifyFull), "localhost").await.is_ok());
    assert!(
        why(handshake(&good, &trusting(SslMode::VerifyFull), "db.example").await).contains("not valid for")
    );
    assert!(
        why(handshake(&good, &trusting(SslMode::VerifyFull), "127.0.0.1").await).contains("not valid for")
    );
    // The chain, whatever the name; `require` the same as soon as an authority is named.
    for mode in [SslMode::VerifyCa, SslMode::Require, SslMode::Prefer, SslMode::Allow] {
        assert!(handshake(&good, &trusting(mode), "db.example").await.is_ok(), "{mode:?}");
        let stranger = files.for_servers(mode, Some(&foreign.pem));
        assert!(why(handshake(&good, &stranger, "localhost").await).contains("UnknownIssuer"), "{mode:?}");
    }
    let stranger = files.for_servers(SslMode::VerifyFull, Some(&foreign.pem));
    assert!(why(handshake(&good, &stranger, "localhost").await).contains("UnknownIssuer"));
    // No authority: any certificate.
    assert!(handshake(&good, &files.for_servers(SslMode::Require, None), "db.example").await.is_ok());
}

#[tokio::test]
async fn expired_certificates_and_those_of_tomorrow_are_refused() {
    let files = Files::new();
    let ours = Authority::new("ours");
    let expired = files.for_clients(&ours.sign(|p| {
        p.not_before = rcgen::date_time_ymd(2001, 1, 1);
        p.not_after = rcgen::date_time_ymd(2002, 1, 1);
    }));
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let demanding = files.for_servers(mode, Some(&ours.pem));
        assert!(why(handshake(&expired, &demanding, "localhost").await).contains("expired"));
    }
    assert!(handshake(&expired, &files.for_servers(SslMode::Require, None), "localhost").await.is_ok());
    let early = files.for_clients(&ours.sign(|p| p.not_before = rcgen::date_time_ymd(2900, 1, 1)));
    let demanding = files.for_servers(SslMode::VerifyCa, Some(&ours.pem));
    assert!(why(handshake(&early, &demanding, "localhost").await).contains("not valid yet"));
}

#[tokio::test]
async fn a_server_without_the_key_of_its_certificate_is_refused_in_every_mode() {
    let files = Files::new();
    let ours = Authority::new("ours");
    let (certificate, _) = ours.sign(|_| {});
    let (_, other_key) = ours.sign(|_| {});
    // Our own loading refuses such a pair, so the server is put together by hand.
    let key = read_key(&files.write("other.key", &other_key)).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let chain = read_certificates(&files.write("server.crt", &certificate)).unwrap();
    let resolver =
        Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver.clone());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        for (mode, authority) in [(SslMode::Require, None), (SslMode::VerifyFull, Some(ours.pem.as_str()))] {
            let context = ServerTlsContext::load(&files.for_servers(mode, authority)).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let accept = async { acceptor.accept(listener.accept().await.unwrap().0).await };
            let (_, connected) = tokio::join!(accept, context.handshake("localhost", tcp));
            let error = connected.expect_err("a stolen certificate was believed").to_string();
            assert!(error.contains("BadSignature"), "{error}");
        }
    }
}

#[tokio::test]
async fn names_are_matched_as_libpq_does() {
    let files = Files::new();
    let ours = Authority::new("ours");
    let full = files.for_servers(SslMode::VerifyFull, Some(&ours.pem));
    let common_name = |name: &'static str, alternatives: Vec<SanType>| {
        files.for_clients(&ours.sign(|p| {
            p.distinguished_name.push(DnType::CommonName, name);
            p.subject_alt_names = alternatives;
        }))
    };
    let address = SanType::IpAddress("127.0.0.1".parse::<IpAddr>().unwrap());
    let mail = SanType::Rfc822Name("dba@example.com".try_into().unwrap());

    let by_address = common_name("server", vec![address.clone()]);
    assert!(handshake(&by_address, &full, "127.0.0.1").await.is_ok());
    // The common name: only where no alternative name could have matched.
    let old = common_name("db.example", vec![]);
    assert!(handshake(&old, &full, "db.example").await.is_ok());
    assert!(handshake(&old, &full, "other.example").await.is_err());
    assert!(handshake(&common_name("db.example", vec![mail]), &full, "db.example").await.is_ok());
    assert!(handshake(&common_name("db.example", vec![address]), &full, "db.example").await.is_err());
}

#[tokio::test]
async fn a_self_signed_certificate_vouches_for_itself_alone() {
    let files = Files::new();
    let self_signed = || {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        // As `openssl req -x509` makes them.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let (pair, other) = (self_signed(), self_signed());
    let server = files.for_clients(&pair);
    let full = files.for_servers(SslMode::VerifyFull, Some(&pair.0));
    assert!(handshake(&server, &full, "localhost").await.is_ok());
    assert!(handshake(&server, &full, "db.example").await.is_err());
    let full = files.for_servers(SslMode::VerifyFull, Some(&other.0));
    assert!(handshake(&server, &full, "localhost").await.is_err());
}

#[tokio::test]
async fn client_certificates_are_demanded_or_asked_for() {
    let files = Files::new();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let mut accepting = files.for_clients(&ours.sign(|_| {}));
    let resumes = |keys: &ClientTls| {
        let config = ClientTlsContext::load(keys).unwrap().unwrap().config;
        config.send_tls13_tickets > 0 || config.ticketer.enabled() || config.session_storage.can_cache()
    };
    assert!(resumes(&accepting));
    accepting.client_ca_file = Some(files.write("clients.crt", &ours.pem));
    assert!(!resumes(&accepting), "who comes back must show a certificate that holds then");
    let anonymous = files.for_servers(SslMode::Require, None);
    let with = |pair: (String, String)| ServerTls {
        cert_file: Some(files.write("client.crt", &pair.0)),
        key_file: Some(files.write("client.key", &pair.1)),
        ..anonymous.clone()
    };

    for mode in [ClientTlsMode::Allow, ClientTlsMode::Require, ClientTlsMode::Verify] {
        accepting.mode = mode;
        let (accepted, _) = handshake(&accepting, &with(ours.sign(|_| {})), "localhost").await.unwrap();
        assert!(accepted.peer_certificate().is_some(), "{mode:?}");
        assert!(handshake(&accepting, &with(foreign.sign(|_| {})), "localhost").await.is_err(), "{mode:?}");
        let without = handshake(&accepting, &anonymous, "localhost").await;
        assert_eq!(without.is_ok(), mode != ClientTlsMode::Verify, "{mode:?}");
    }
}

#[tokio::test]
async fn both_ends_agree_on_postgresql_and_on_the_certificate() {
    let files = Files::new();
    let ours = Authority::new("ours");
    let accepting = files.for_clients(&ours.sign(|_| {}));
    let connecting = files.for_servers(SslMode::Require, None);
    let (_, connected) = handshake(&accepting, &connecting, "localhost").await.unwrap();
    assert_eq!(connected.tls_state().unwrap().alpn_protocol(), Some(ALPN));
    let context = ClientTlsContext::load(&accepting).unwrap().unwrap();
    assert_eq!(connected.peer_certificate(), Some(&context.certificate_der));
}

#[test]
fn faults_name_their_file_or_key() {
    let files = Files::new();
    let ours = Authority::new("ours");
    let (pair, other) = (ours.sign(|_| {}), ours.sign(|_| {}));
    let good = files.for_clients(&pair);
    let fault = |change: &dyn Fn(&mut ClientTls)| {
        let mut keys = good.clone();
        change(&mut keys);
        ClientTlsContext::load(&keys).unwrap_err().to_string()
    };
    assert!(ClientTlsContext::load(&good).unwrap().is_some());
    assert!(fault(&|k| k.cert_file = None).contains("client_tls.cert_file"));
    assert!(fault(&|k| k.key_file = None).contains("client_tls.key_file"));
    assert!(fault(&|k| k.mode = ClientTlsMode::Verify).contains("client_tls.client_ca_file"));
    assert!(fault(&|k| k.cert_file = Some("/nowhere/a.crt".into())).contains("/nowhere/a.crt: No such file"));
    assert!(fault(&|k| k.key_file = k.cert_file.clone()).contains("server.crt: no private key"));
    assert!(fault(&|k| k.cert_file = k.key_file.clone()).contains("server.key: no certificate"));
    let other_key = files.write("other.key", &other.1);
    assert!(fault(&|k| k.key_file = Some(other_key.clone())).contains("other.key cannot be used"));
    let broken = files.write("broken.crt", "-----BEGIN CERTIFICATE-----\nMIIB!\n-----END CERTIFICATE-----\n");
    assert!(fault(&|k| k.cert_file = Some(broken.clone())).contains("broken.crt: not PEM"));
    let hollow = files.write("hollow.crt", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    assert!(fault(&|k| k.client_ca_file = Some(hollow.clone())).contains("hollow.crt: not a usable"));

    let mut keys = files.for_servers(SslMode::VerifyFull, None);
    assert!(ServerTlsContext::load(&keys).unwrap_err().to_string().contains("server_tls.ca_file"));
    keys.mode = SslMode::Require;
    keys.cert_file = good.cert_file.clone();
    assert!(ServerTlsContext::load(&keys).unwrap_err().to_string().contains("server_tls.key_file"));
    assert!(ClientTlsContext::load(&ClientTls { mode: ClientTlsMode::Off, ..good }).unwrap().is_none());
}

#[test]
fn a_context_differs_from_one_of_other_keys_or_of_files_with_other_contents() {
    let files = Files::new();
    let keys = files.for_servers(SslMode::VerifyCa, Some(&Authority::new("a").pem));
    let load = |keys: &ServerTls| ServerTlsContext::load(keys).unwrap();
    let first = load(&keys);
    assert!(first == load(&keys));
    assert!(first != load(&ServerTls { mode: SslMode::VerifyFull, ..keys.clone() }));
    std::fs::write(keys.ca_file.as_ref().unwrap(), Authority::new("a").pem).unwrap();
    assert!(first != load(&keys));
    assert!(
        ServerTlsContext::disabled() != first && ServerTlsContext::disabled() == ServerTlsContext::disabled()
    );
}
