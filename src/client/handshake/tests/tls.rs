//! TLS before the login: when it is offered, demanded, and what it proves.

use std::process::Stdio;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// An authority, and what it signs.
struct Pki {
    issuer: Issuer<'static, KeyPair>,
    authority: CertificateDer<'static>,
}

type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Pki {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = parameters.self_signed(&key).unwrap().der().clone();
        Pki { issuer: Issuer::new(parameters, key), authority }
    }

    fn sign(&self, common_name: &str) -> Identity {
        let mut parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        Arc::new(roots)
    }

    fn server(&self, mode: ClientTlsMode) -> ClientTlsContext {
        let verifier = WebPkiClientVerifier::builder(self.roots());
        let verifier = match mode {
            ClientTlsMode::Verify => verifier,
            _ => verifier.allow_unauthenticated(),
        };
        let (certificate, key) = self.sign("localhost");
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        ClientTlsContext { config: Arc::new(config), certificate_der: certificate, mode }
    }

    async fn secure(
        &self,
        client: TcpStream,
        identity: Option<Identity>,
        alpn: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        timeout(PATIENCE, connector.connect(name, client)).await.expect("the TLS handshake hangs")
    }
}

fn context(hba: &str, tls: ClientTlsContext) -> HandshakeContext {
    full_context(hba, &users(), None, Some(tls), PATIENCE)
}

/// A client whose SSLRequest was answered with TLS.
async fn secured(
    pki: &Pki,
    context: HandshakeContext,
    identity: Option<Identity>,
) -> (TlsStream<TcpStream>, Running) {
    let (mut client, running) = connect(context).await;
    send(&mut client, &ssl_request()).await;
    expect_byte(&mut client, b'S').await;
    (pki.secure(client, identity, &[]).await.unwrap(), running)
}

#[tokio::test]
async fn scram_binds_to_our_certificate() {
    let pki = Pki::new();
    let tls = pki.server(ClientTlsMode::Allow);
    let hash = tls_server_end_point(&tls.certificate_der).unwrap();
    let context = context("hostssl all all all scram-sha-256", tls);
    let (plain, plus) = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS");
    let other = ClientBinding::EndPoint(vec![7; 32]);
    for (mechanism, binding, refusal) in [
        (plus, ClientBinding::EndPoint(hash), None),
        (plain, ClientBinding::Unsupported, None),
        (plus, other, Some("SCRAM channel binding check failed")),
    ] {
        let (mut client, running) = secured(&pki, context.clone(), None).await;
        send(&mut client, &startup_of("alice")).await;
        let offered = expect_authentication(&mut client, SASL).await;
        assert_eq!(offered, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        prove(&mut client, mechanism, "secret", binding).await;
        match refusal {
            None => {
                let admitted = admitted(running).await;
                assert!(admitted.stream.is_tls() && matches!(admitted.login, ServerLogin::ScramKeys(_)));
            }
            Some(text) => {
                assert_fatal(&mut client, "28000", text).await;
                refused_with(running).await;
            }
        }
    }
    // Someone took PLUS off our list.
    let (mut client, running) = secured(&pki, context, None).await;
    send(&mut client, &startup_of("alice")).await;
    expect_authentication(&mut client, SASL).await;
    send(&mut client, &sasl_initial(plain, 11, b"y,,n=,r=abc")).await;
    assert_eq!(fatal(&rest(&mut client).await).0, "28000");
    refused_with(running).await;
}

/// psql, which is libpq: with channel binding demanded.
#[tokio::test]
async fn psql_logs_in_with_channel_binding() {
    let pki = Pki::new();
    let context = context("hostssl all all all scram-sha-256", pki.server(ClientTlsMode::Require));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let psql = tokio::process::Command::new("psql")
        .args(["-X", "-c", "\\q"])
        .arg(format!(
            "host=127.0.0.1 port={port} user=alice dbname=db sslmode=require channel_binding=require"
        ))
        .env("PGPASSWORD", "secret")
        .stdin(Stdio::null())
        .output();
    let serve = async {
        let (server, _) = listener.accept().await.unwrap();
        let Ok(Outcome::Client(mut client)) = handshake(Stream::Tcp(server), &context, || true).await else {
            panic!("psql is refused")
        };
        client.pending.extend_from_slice(b"Z\0\0\0\x05I");
        client.stream.write_all(&client.pending).await.unwrap();
        rest(&mut client.stream).await
    };
    let (output, said) = timeout(PATIENCE, async { tokio::join!(psql, serve) }).await.expect("psql hangs");
    let output = output.expect("psql is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, b"X\0\0\0\x04");
}

#[tokio::test]
async fn bytes_behind_an_ssl_request_end_the_connection() {
    let pki = Pki::new();
    for behind in [startup_of("alice"), b"\x16\x03\x01".to_vec(), b"x".to_vec()] {
        let (mut client, running) =
            connect(context("host all all all trust", pki.server(ClientTlsMode::Allow))).await;
        send(&mut client, &[ssl_request(), behind].concat()).await;
        assert_fatal(&mut client, "08P01", "received unencrypted data after SSL request").await;
        refused_with(running).await;
    }
    // Nor are they taken for encrypted ones when they come a little later.
    let (mut client, running) =
        connect(context("host all all all trust", pki.server(ClientTlsMode::Allow))).await;
    send(&mut client, &ssl_request()).await;
    expect_byte(&mut client, b'S').await;
    send(&mut client, &startup_of("alice")).await;
    rest(&mut client).await;
    assert!(matches!(refused_with(running).await, HandshakeError::Tls(_)));
}

#[tokio::test]
async fn a_client_without_tls_is_refused_where_tls_is_required() {
    let pki = Pki::new();
    for mode in [ClientTlsMode::Require, ClientTlsMode::Verify] {
        let trusting = "host all all all trust\nlocal all all trust";
        let (mut client, running) = connect(context(trusting, pki.server(mode))).await;
        send(&mut client, &startup_of("alice")).await;
        assert_fatal(&mut client, "28000", "connection without TLS refused").await;
        refused_with(running).await;

        // A Unix socket does not leave the machine, and has no TLS.
        let (mut client, running) = connect_locally(context(trusting, pki.server(mode)));
        send(&mut client, &ssl_request()).await;
        expect_byte(&mut client, b'N').await;
        send(&mut client, &startup_of("alice")).await;
        assert_eq!(admitted(running).await.user, "alice");
    }
    let (mut client, running) =
        connect(context("hostssl all all all trust", pki.server(ClientTlsMode::Allow))).await;
    send(&mut client, &startup_of("alice")).await;
    assert_eq!(fatal(&rest(&mut client).await).0, "28000");
    refused_with(running).await;
}

#[tokio::test]
async fn tls_off_is_answered_with_no() {
    let pki = Pki::new();
    let (mut client, running) =
        connect(context("host all all all trust", pki.server(ClientTlsMode::Off))).await;
    send(&mut client, &ssl_request()).await;
    expect_byte(&mut client, b'N').await;
    send(&mut client, &startup_of("alice")).await;
    assert!(!admitted(running).await.stream.is_tls());
}

#[tokio::test]
async fn tls_may_come_first_only_with_our_protocol_in_alpn() {
    let pki = Pki::new();
    let trusting = || context("hostssl all all all trust", pki.server(ClientTlsMode::Allow));
    let (client, running) = connect(trusting()).await;
    let mut client = pki.secure(client, None, &[ALPN]).await.unwrap();
    send(&mut client, &startup_of("alice")).await;
    assert!(admitted(running).await.stream.is_tls());

    let (client, running) = connect(trusting()).await;
    let mut client = pki.secure(client, None, &[]).await.unwrap();
    let text = "received direct SSL connection request without ALPN protocol negotiation extension";
    assert_fatal(&mut client, "08P01", text).await;
    refused_with(running).await;

    let (client, running) = connect(trusting()).await;
    pki.secure(client, None, &[b"http/1.1"]).await.unwrap_err();
    assert!(matches!(refused_with(running).await, HandshakeError::Tls(_)));
}

#[tokio::test]
async fn encryption_is_not_asked_for_within_encryption() {
    let pki = Pki::new();
    for (request, name) in [(ssl_request(), "SSLRequest"), (gssenc_request(), "GSSENCRequest")] {
        let trusting = context("host all all all trust", pki.server(ClientTlsMode::Allow));
        let (mut client, running) = secured(&pki, trusting, None).await;
        send(&mut client, &request).await;
        let text = format!("{name} was sent more than once, or within an encrypted connection");
        assert_fatal(&mut client, "08P01", &text).await;
        refused_with(running).await;
    }
    // Nor in a connection that began with TLS and never asked.
    let (client, running) =
        connect(context("host all all all trust", pki.server(ClientTlsMode::Allow))).await;
    let mut client = pki.secure(client, None, &[ALPN]).await.unwrap();
    send(&mut client, &ssl_request()).await;
    assert_eq!(fatal(&rest(&mut client).await).0, "08P01");
    refused_with(running).await;
    // But before it, one may have asked for the other kind.
    let (mut client, running) =
        connect(context("hostssl all all all trust", pki.server(ClientTlsMode::Allow))).await;
    send(&mut client, &gssenc_request()).await;
    expect_byte(&mut client, b'N').await;
    send(&mut client, &ssl_request()).await;
    expect_byte(&mut client, b'S').await;
    let mut client = pki.secure(client, None, &[]).await.unwrap();
    send(&mut client, &startup_of("alice")).await;
    admitted(running).await;
}

#[tokio::test]
async fn a_certificate_proves_its_common_name_and_no_other() {
    let pki = Pki::new();
    let other = "certificate authentication failed for user \"alice\"";
    let none = "connection requires a valid client certificate";
    for (options, common_name, refusal) in [
        ("cert", Some("alice"), None),
        ("cert", Some("bob"), Some(other)),
        ("cert", None, Some(none)),
        ("trust clientcert=verify-full", Some("alice"), None),
        ("trust clientcert=verify-full", Some("bob"), Some(other)),
        ("trust clientcert=verify-ca", Some("bob"), None),
        ("trust clientcert=verify-ca", None, Some(none)),
        ("scram-sha-256 clientcert=verify-full", Some("bob"), Some(other)),
    ] {
        let hba = format!("hostssl all all all {options}");
        let identity = common_name.map(|name| pki.sign(name));
        let (mut client, running) =
            secured(&pki, context(&hba, pki.server(ClientTlsMode::Allow)), identity).await;
        send(&mut client, &startup_of("alice")).await;
        match refusal {
            None => assert_eq!(admitted(running).await.user, "alice"),
            Some(text) => {
                assert_fatal(&mut client, "28000", text).await;
                refused_with(running).await;
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_none_ends_the_tls_handshake() {
    let (pki, stranger) = (Pki::new(), Pki::new());
    for (mode, identity) in [
        (ClientTlsMode::Verify, None),
        (ClientTlsMode::Verify, Some(stranger.sign("alice"))),
        (ClientTlsMode::Allow, Some(stranger.sign("alice"))),
    ] {
        let (mut client, running) = connect(context("hostssl all all all cert", pki.server(mode))).await;
        send(&mut client, &ssl_request()).await;
        expect_byte(&mut client, b'S').await;
        // With TLS 1.3 the client believes it is connected before the server has seen its certificate.
        if let Ok(mut client) = pki.secure(client, identity, &[]).await {
            let mut byte = [0];
            let read = timeout(PATIENCE, client.read(&mut byte)).await.unwrap();
            assert!(!matches!(read, Ok(1..)), "the server speaks to a client it should not know");
        }
        assert!(matches!(refused_with(running).await, HandshakeError::Tls(_)));
    }
}

#[tokio::test]
async fn a_tls_handshake_that_stalls_ends_with_the_startup_timeout() {
    let pki = Pki::new();
    let hba = "host all all all trust";
    let tls = Some(pki.server(ClientTlsMode::Allow));
    let context = full_context(hba, "", None, tls, Duration::from_millis(500));
    let (mut client, running) = connect(context).await;
    send(&mut client, &ssl_request()).await;
    expect_byte(&mut client, b'S').await;
    send(&mut client, b"\x16\x03\x01").await;
    assert_eq!(rest(&mut client).await, b"");
    assert!(matches!(refused_with(running).await, HandshakeError::Timeout));
}

#[tokio::test]
async fn a_password_in_clear_travels_within_tls_only() {
    let pki = Pki::new();
    let hba = "hostssl all all all password";
    let (mut client, running) = secured(&pki, context(hba, pki.server(ClientTlsMode::Allow)), None).await;
    send(&mut client, &startup_of("alice")).await;
    expect_authentication(&mut client, CLEARTEXT).await;
    send(&mut client, &message(b'p', b"secret\0")).await;
    assert_eq!(admitted(running).await.login, ServerLogin::Password("secret".to_owned()));

    // The file's reader refuses such a line; should one get here, no password is asked for.
    let mut rules = Hba::parse("host all all all trust").unwrap();
    rules.rules[0].method = crate::client::hba::Method::Password;
    let mut exposed = super::context("host all all all trust", &users());
    exposed.hba = Arc::new(rules);
    let (mut client, running) = connect(exposed).await;
    send(&mut client, &startup_of("alice")).await;
    let text = "password authentication over an unencrypted connection refused";
    assert_fatal(&mut client, "28000", text).await;
    refused_with(running).await;
}
