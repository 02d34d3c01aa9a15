//! Every way of logging in, and every `sslmode`, at a real server.

use rcgen::{CertificateParams, Issuer, KeyPair};

use super::*;
use crate::backend::control::{ControlConnection, QueryError};
use crate::backend::test_server::TestServer;
use crate::config::ServerTls;
use crate::wire::fields;

const HBA: &str = "\
host    all trusted   127.0.0.1/32 trust
host    all hashed    127.0.0.1/32 md5
host    all clear     127.0.0.1/32 password
hostssl all encrypted 127.0.0.1/32 scram-sha-256
hostnossl all open    127.0.0.1/32 scram-sha-256
host    all proven    127.0.0.1/32 scram-sha-256";

const ROLES: &str = "
CREATE ROLE trusted LOGIN;
CREATE ROLE clear LOGIN PASSWORD 'correct horse';
CREATE ROLE encrypted LOGIN PASSWORD 'correct horse';
CREATE ROLE open LOGIN PASSWORD 'correct horse';
CREATE ROLE proven LOGIN PASSWORD 'correct horse';
SET password_encryption = 'md5';
CREATE ROLE hashed LOGIN PASSWORD 'correct horse';";

const WITHIN: Duration = Duration::from_secs(20);

struct Certificates {
    ca: String,
    certificate: String,
    key: String,
}

fn certificates() -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap().pem();
    Certificates { ca, certificate, key: key.serialize_pem() }
}

struct Bench {
    server: TestServer,
    ca_file: std::path::PathBuf,
}

impl Bench {
    async fn connect_as(
        &self,
        user: &str,
        credential: Credential,
        mode: SslMode,
        host: &str,
        ca_file: Option<&std::path::Path>,
    ) -> Result<Connected, ConnectError> {
        let keys = ServerTls {
            mode,
            ca_file: ca_file.map(Into::into),
            cert_file: None,
            key_file: None,
            allow_md5: false,
        };
        let tls = Arc::new(ServerTlsContext::load(&keys).unwrap());
        let target = ConnectTarget { host: host.into(), port: self.server.port, tls };
        let login = Login { user: user.into(), database: "postgres".into(), credential };
        connect(&target, &login, &[("application_name", "komainu"), ("client_encoding", "UTF8")]).await
    }

    async fn login(
        &self,
        user: &str,
        credential: Credential,
        mode: SslMode,
    ) -> Result<Connected, ConnectError> {
        self.connect_as(user, credential, mode, "127.0.0.1", None).await
    }

    async fn login_verified(&self, user: &str, credential: Credential) -> Result<Connected, ConnectError> {
        self.connect_as(user, credential, SslMode::VerifyCa, "127.0.0.1", Some(&self.ca_file)).await
    }
}

fn right() -> Credential {
    Credential::Password(Secret::new("correct horse"))
}

fn wrong() -> Credential {
    Credential::Password(Secret::new("battery staple"))
}

#[tokio::test]
async fn a_real_server_lets_in_whom_it_should() {
    let certificates = certificates();
    let server = TestServer::start(
        HBA,
        &["ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key"],
        &[("server.crt", &certificates.certificate), ("server.key", &certificates.key)],
    )
    .await;
    server.control().await.query(ROLES).await.unwrap();
    let ca_file = server.directory.path().join("ca.crt");
    std::fs::write(&ca_file, &certificates.ca).unwrap();
    let bench = Bench { server, ca_file };
    methods(&bench).await;
    encryption(&bench).await;
    questions(&bench).await;
    cancelling(&bench).await;
}

async fn methods(bench: &Bench) {
    let connected = bench.login("trusted", Credential::None, SslMode::Disable).await.unwrap();
    assert!(connected.pid > 0 && connected.cancel_key.len() == 4 && connected.buffered.is_empty());
    let named = |name| connected.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(named("application_name"), Some("komainu"));
    assert!(connected.server_version_num >= 90_600);
    assert_eq!(connected.in_hot_standby, (connected.server_version_num >= 140_000).then_some(false));

    for user in ["trusted", "hashed", "proven", "clear"] {
        assert!(bench.login_verified(user, right()).await.is_ok(), "{user}");
    }
    for user in ["trusted", "proven"] {
        assert!(bench.login(user, right(), SslMode::Disable).await.is_ok(), "{user}");
    }
    for user in ["hashed", "proven", "clear"] {
        let error = bench.login_verified(user, wrong()).await.unwrap_err();
        assert_eq!(error.sqlstate(), sqlstate::INVALID_PASSWORD, "{user}: {error}");
        assert!(error.is_credential());
        let ConnectError::Refused(refusal) = &error else { panic!("{error}") };
        assert_eq!(fields::field(&refusal.fields, b'C'), Some(&b"28P01"[..]));
        assert!(!error.client_message().contains(user));
    }
    // What the server stores answers its question, and no other.
    let stored = |user| Credential::Md5(Secret::new(crate::wire::md5::stored(user, b"correct horse")));
    assert!(bench.login("hashed", stored("hashed"), SslMode::Disable).await.is_ok());
    assert!(bench.login("hashed", stored("proven"), SslMode::Disable).await.is_err());
    for user in ["proven", "clear"] {
        let error = bench.login_verified(user, stored(user)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Authentication(AuthenticationFault::NoPassword(_))), "{error}");
    }
    // A server nobody has verified gets neither.
    for mode in [SslMode::Disable, SslMode::Prefer, SslMode::Require] {
        let error = bench.login("clear", right(), mode).await.unwrap_err();
        let refused = matches!(error, ConnectError::Authentication(AuthenticationFault::ClearTextRefused));
        assert!(error.is_credential(), "it is no outage to wait for: {error}");
        assert!(refused, "{mode:?}: {error}");
        let error = bench.login("hashed", right(), mode).await.unwrap_err();
        let refused = matches!(error, ConnectError::Authentication(AuthenticationFault::Md5Refused));
        assert!(refused, "{mode:?}: {error}");
    }
    let error = bench.login("nobody", right(), SslMode::Disable).await.unwrap_err();
    assert_eq!(error.sqlstate(), sqlstate::INVALID_AUTHORIZATION);

    // Bound to the TLS connection: the server offers it, and checks the hash it gets.
    assert!(bench.login("proven", right(), SslMode::Require).await.unwrap().scram_keys.is_some());
    let keys = bench.login("proven", right(), SslMode::Disable).await.unwrap().scram_keys.unwrap();
    assert!(bench.login("proven", Credential::ScramKeys(keys.clone()), SslMode::Disable).await.is_ok());
    // Another role's verifier has another salt.
    let error = bench.login("open", Credential::ScramKeys(keys), SslMode::Disable).await.unwrap_err();
    assert!(error.is_credential(), "{error}");
}

async fn encryption(bench: &Bench) {
    for (user, mode, encrypted) in [
        ("trusted", SslMode::Disable, false),
        ("trusted", SslMode::Allow, false),
        ("trusted", SslMode::Prefer, true),
        ("trusted", SslMode::Require, true),
        // The HBA file leaves only one way, which the other attempt finds.
        ("encrypted", SslMode::Allow, true),
        ("open", SslMode::Prefer, false),
    ] {
        let connected =
            bench.login(user, right(), mode).await.unwrap_or_else(|e| panic!("{user} {mode:?}: {e}"));
        assert_eq!(connected.stream.is_tls(), encrypted, "{user} {mode:?}");
    }
    assert!(bench.login("encrypted", right(), SslMode::Disable).await.is_err());
    assert!(bench.login("open", right(), SslMode::Require).await.is_err());

    let ca = Some(bench.ca_file.as_path());
    let verified =
        async |mode, host: &str| bench.connect_as("trusted", Credential::None, mode, host, ca).await;
    assert!(verified(SslMode::VerifyFull, "localhost").await.is_ok());
    assert!(verified(SslMode::VerifyCa, "127.0.0.1").await.is_ok());
    let error = verified(SslMode::VerifyFull, "127.0.0.1").await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls(TlsFault::Handshake(_))), "{error}");
    // No TLS over a Unix socket, whatever the mode.
    let socket = bench.server.directory.path().to_str().unwrap();
    assert!(verified(SslMode::VerifyFull, socket).await.unwrap().stream.is_unix());
}

async fn questions(bench: &Bench) {
    let mut control = bench.server.control().await;
    let rows = control.query("SELECT 1 AS one, NULL AS nothing, 'x' AS x UNION ALL SELECT 2, '', 'ü'").await;
    let rows = rows.unwrap();
    assert_eq!(rows.columns(), ["one", "nothing", "x"]);
    assert_eq!((rows.text(0, 0), rows.text(0, 1), rows.text(1, 1)), (Some("1"), None, Some("")));
    assert_eq!(rows.text(1, 2), Some("ü"));
    let rows = control.query_params("SELECT $1::text || $2::text", &["a'", "$1"]).await.unwrap();
    assert_eq!(rows.text(0, 0), Some("a'$1"));
    assert!(!control.in_recovery().await.unwrap());

    for refused in [
        control.query("SELECT nonsense").await,
        control.query_params("SELECT 1/$1::int", &["0"]).await,
        control.query_params("SELEC", &[]).await,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, QueryError::Refused { .. }), "{error}");
    }
    assert_eq!(control.query("SELECT 1").await.unwrap().len(), 1, "usable after errors");
    assert!(matches!(control.query("SELECT '\0'").await, Err(QueryError::Unsendable(_))));

    // A question that was given up on is owed for ever.
    let slow = control.query("SELECT pg_catalog.pg_sleep(60)");
    assert!(tokio::time::timeout(Duration::from_millis(50), slow).await.is_err());
    assert!(!control.is_usable());
    assert!(matches!(control.query("SELECT 1").await, Err(QueryError::Owing)));

    let mut control = bench.server.control().await;
    let ended = control.query("SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())").await;
    assert_eq!(ended.unwrap_err().sqlstate(), Some(sqlstate::ADMIN_SHUTDOWN));
    assert!(!control.is_usable());

    let mut control = bench.server.control().await;
    let huge = control.query("SELECT repeat('x', 1000000) FROM generate_series(1, 100)").await;
    assert!(matches!(huge, Err(QueryError::TooLarge)));
    assert!(!control.is_usable());
}

async fn cancelling(bench: &Bench) {
    for mode in [SslMode::Disable, SslMode::Prefer, SslMode::Require] {
        let tls = Arc::new(
            ServerTlsContext::load(&ServerTls {
                mode,
                ca_file: None,
                cert_file: None,
                key_file: None,
                allow_md5: false,
            })
            .unwrap(),
        );
        let target = ConnectTarget { host: "127.0.0.1".into(), port: bench.server.port, tls };
        let connected = bench.login("trusted", Credential::None, mode).await.unwrap();
        let (pid, key) = (connected.pid, connected.cancel_key.clone());
        let mut control = ControlConnection::from(connected);
        let sleep = control.query("SELECT pg_catalog.pg_sleep(60)");
        let stop = async {
            let mut wrong = key.to_vec();
            wrong[0] ^= 1;
            cancel(&target, None, pid, &wrong, WITHIN).await.unwrap();
            // The statement may not have begun yet: until it did, a cancel does nothing.
            loop {
                cancel(&target, None, pid, &key, WITHIN).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let outcome = tokio::select! { outcome = sleep => outcome, () = stop => unreachable!() };
        assert_eq!(outcome.unwrap_err().sqlstate(), Some(sqlstate::QUERY_CANCELED), "{mode:?}");
    }
}
