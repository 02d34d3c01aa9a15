//! Servers that lie, stall, ask for too much or prove nothing. Each must end in the right error, at
//! once, and none may be given a secret.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::{ClientTls, ClientTlsMode, ServerTls};
use crate::net::channel_binding::tls_server_end_point;
use crate::net::tls::ClientTlsContext;
use crate::wire::frame::FrameError;
use crate::wire::message::{self, Report};
use crate::wire::scram::{ScramError, ServerBinding, ServerFirst, Verdict, Verifier};

/// Far above what any of these needs, and far below what a test may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// The server's end of one connection.
struct Fake<S = TcpStream> {
    tcp: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Fake<S> {
    async fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.unwrap();
        self.tcp.flush().await.unwrap();
    }

    /// An authentication request.
    async fn ask(&mut self, code: i32, rest: &[u8]) {
        let mut out = BytesMut::new();
        message::frame(&mut out, b'R', |out| {
            out.put_i32(code);
            out.put_slice(rest);
        })
        .unwrap();
        self.send(&out).await;
    }

    /// The body of a message without a tag.
    async fn receive_startup(&mut self) -> Vec<u8> {
        let length = self.tcp.read_i32().await.unwrap();
        let mut body = vec![0; length as usize - 4];
        self.tcp.read_exact(&mut body).await.unwrap();
        body
    }

    /// The body of a password message.
    async fn receive_response(&mut self) -> Vec<u8> {
        assert_eq!(self.tcp.read_u8().await.unwrap(), b'p');
        self.receive_startup().await
    }

    /// What else the client sends until it hangs up.
    async fn drain(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is a hang-up, too.
        let _ = self.tcp.read_to_end(&mut rest).await;
        rest
    }

    /// Offers SCRAM without channel binding; returns client-first.
    async fn scram_first(&mut self) -> Vec<u8> {
        let (mechanism, client_first) = self.offer(b"SCRAM-SHA-256\0\0").await;
        assert_eq!(mechanism, b"SCRAM-SHA-256");
        client_first
    }

    /// Offers mechanisms; returns the one chosen, and client-first.
    async fn offer(&mut self, mechanisms: &[u8]) -> (Vec<u8>, Vec<u8>) {
        self.ask(10, mechanisms).await;
        let initial = self.receive_response().await;
        let end = initial.iter().position(|&b| b == 0).unwrap();
        (initial[..end].to_vec(), initial[end + 5..].to_vec())
    }
}

fn nonce_of(client_first: &[u8]) -> String {
    let text = std::str::from_utf8(client_first).unwrap();
    text.split_once("r=").unwrap().1.to_owned()
}

fn tls_keys(mode: SslMode) -> ServerTls {
    ServerTls { mode, ca_file: None, cert_file: None, key_file: None, allow_md5: false }
}

fn mode(mode: SslMode) -> Arc<ServerTlsContext> {
    Arc::new(ServerTlsContext::load(&tls_keys(mode)).unwrap())
}

fn md5_allowed() -> Arc<ServerTlsContext> {
    Arc::new(ServerTlsContext::load(&ServerTls { allow_md5: true, ..tls_keys(SslMode::Disable) }).unwrap())
}

fn password() -> Credential {
    Credential::Password(Secret::new("correct horse"))
}

fn keys() -> Credential {
    let verifier = Verifier::from_password(b"correct horse", b"0123456789abcdef", 4096).unwrap();
    Credential::ScramKeys(verifier.accepts(b"correct horse").unwrap())
}

/// Connects while `serve` plays the server; both must come to an end.
async fn connect_to(
    tls: Arc<ServerTlsContext>,
    credential: Credential,
    serve: impl AsyncFnOnce(&TcpListener),
) -> Result<Connected, ConnectError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = ConnectTarget { host: "127.0.0.1".into(), port, tls };
    let login = Login { user: "alice".into(), database: "db".into(), credential };
    let parameters = [("application_name", "test")];
    let both = async { tokio::join!(connect(&target, &login, &parameters), serve(&listener)).0 };
    tokio::time::timeout(DEADLINE, both).await.expect("client or server hangs")
}

async fn accept(listener: &TcpListener) -> Fake {
    Fake { tcp: listener.accept().await.unwrap().0 }
}

/// Without TLS, from behind the startup message on.
async fn log_in_to(credential: Credential, serve: impl AsyncFnOnce(Fake)) -> Result<Connected, ConnectError> {
    connect_to(mode(SslMode::Disable), credential, async |listener| {
        let mut fake = accept(listener).await;
        let startup = fake.receive_startup().await;
        assert_eq!(startup, b"\0\x03\0\0user\0alice\0database\0db\0application_name\0test\0\0");
        serve(fake).await;
    })
    .await
}

fn parameter(name: &str, value: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    message::parameter_status(&mut out, name, value);
    out.to_vec()
}

fn raw(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    message::frame(&mut out, tag, |out| out.put_slice(body)).unwrap();
    out.to_vec()
}

const READY: &[u8] = b"Z\0\0\0\x05I";

#[tokio::test]
async fn what_an_honest_server_says_is_handed_on() {
    let connected = log_in_to(password(), async |mut fake| {
        fake.ask(0, b"").await;
        let key: Vec<u8> = (0..32).collect();
        let said = [
            parameter("server_version", "14.9 (Debian 14.9-1)"),
            parameter("in_hot_standby", "on"),
            raw(b'K', &[&[0, 0, 1, 2][..], &key].concat()),
            READY.to_vec(),
            b"behind".to_vec(),
        ];
        fake.send(&said.concat()).await;
    })
    .await
    .unwrap();
    assert_eq!(connected.server_version_num, 140_009);
    assert_eq!(connected.in_hot_standby, Some(true));
    assert_eq!(connected.pid, 258);
    assert_eq!(connected.cancel_key, (0..32).collect::<Vec<u8>>());
    assert_eq!(connected.parameters[1], ("in_hot_standby".to_owned(), "on".to_owned()));
    assert_eq!(&connected.buffered[..], b"behind");
    assert!(connected.scram_keys.is_none());
}

#[tokio::test]
async fn lying_lengths_and_endless_messages_are_refused_without_being_read() {
    for stage in 0..2 {
        for length in [0, 3, -1, i32::MIN, 65 * 1024, i32::MAX] {
            let error = log_in_to(Credential::None, async |mut fake| {
                if stage == 1 {
                    fake.ask(0, b"").await;
                }
                fake.send(b"N").await;
                fake.send(&length.to_be_bytes()).await;
                fake.drain().await;
            })
            .await
            .unwrap_err();
            assert!(matches!(error, ConnectError::Protocol(ProtocolFault::Frame(_))), "{length}: {error}");
            if length == i32::MAX {
                let frame = FrameError::TooLong { tag: 'N', length: 1 << 31, limit: 64 * 1024 };
                assert_eq!(error.to_string(), ConnectError::from(ProtocolFault::Frame(frame)).to_string());
            }
        }
    }
}

#[tokio::test]
async fn notices_without_end_have_an_end() {
    for size in [0, 60_000] {
        let mut sent = 0;
        let error = log_in_to(Credential::None, async |mut fake| {
            fake.ask(0, b"").await;
            let notice = raw(b'N', &vec![b'x'; size]);
            while fake.tcp.write_all(&notice).await.is_ok() {
                sent += notice.len();
            }
        })
        .await
        .unwrap_err();
        assert!(matches!(error, ConnectError::Protocol(ProtocolFault::Endless)), "{error}");
        // What the sockets buffer comes on top of what we read.
        assert!(sent < 32 << 20, "{sent}");
    }
}

#[tokio::test]
async fn errors_with_anything_missing_are_survived() {
    for body in [&b""[..], b"\0", b"C", b"C28", b"C28\0\0", b"SFATAL\0", b"M\0\0", b"\xff\xfe", b"C28P01"] {
        let error =
            log_in_to(password(), async |mut fake| fake.send(&raw(b'E', body)).await).await.unwrap_err();
        let ConnectError::Refused(refusal) = &error else { panic!("{error}") };
        assert_eq!(refusal.sqlstate, sqlstate::INTERNAL_ERROR, "{body:?}");
        assert_eq!(&refusal.fields[..], body);
        assert!(!error.client_message().is_empty());
    }
}

#[tokio::test]
async fn what_a_refusal_means_is_known_and_says_not_who_we_are() {
    let refused = async |state, text: &'static str| {
        log_in_to(password(), async |mut fake| {
            let mut out = BytesMut::new();
            Report::fatal(state, text).encode(&mut out);
            fake.send(&out).await;
        })
        .await
        .unwrap_err()
    };
    let starting = refused(sqlstate::CANNOT_CONNECT_NOW, "the database system is starting up").await;
    assert!(starting.takes_no_connections() && !starting.is_credential());
    assert_eq!(starting.client_message(), "the database system is starting up");
    // The postmaster was killed while it forked for us.
    for state in [sqlstate::ADMIN_SHUTDOWN, sqlstate::CRASH_SHUTDOWN] {
        let ending = refused(state, "terminating connection due to unexpected postmaster exit").await;
        assert!(ending.takes_no_connections() && !ending.is_credential());
    }

    let wrong =
        refused(sqlstate::INVALID_PASSWORD, "password authentication failed for user \"alice\"").await;
    assert!(wrong.is_credential() && !wrong.takes_no_connections());
    assert_eq!(wrong.sqlstate(), sqlstate::INVALID_PASSWORD);
    assert!(!wrong.client_message().contains("alice"));

    let full = refused(sqlstate::TOO_MANY_CONNECTIONS, "too many connections for role \"alice\"").await;
    assert_eq!(full.client_message(), "too many connections for role \"...\"");
}

#[tokio::test]
async fn messages_out_of_order_are_refused() {
    let ok = raw(b'R', &[0; 4]);
    for (said, expected) in [
        (raw(b'Z', b"I"), ProtocolFault::Unexpected('Z')),
        (raw(b'S', b"a\0b\0"), ProtocolFault::Unexpected('S')),
        (raw(b'v', &[0; 8]), ProtocolFault::Unexpected('v')),
        (raw(b'R', b"\0\0"), ProtocolFault::Malformed('R')),
        (raw(b'R', &[0, 0, 0, 5, 1, 2]), ProtocolFault::Malformed('R')),
        (raw(b'R', &[0, 0, 0, 10, b'S']), ProtocolFault::Malformed('R')),
        (raw(b'R', &[0, 0, 0, 11, b'r']), ProtocolFault::Unexpected('R')),
        (raw(b'R', &[0, 0, 0, 12, b'v']), ProtocolFault::Unexpected('R')),
        ([ok.clone(), ok.clone()].concat(), ProtocolFault::Unexpected('R')),
        ([ok.clone(), raw(b'D', b"")].concat(), ProtocolFault::Unexpected('D')),
        ([ok.clone(), raw(b'S', b"a\0b")].concat(), ProtocolFault::Malformed('S')),
        ([ok.clone(), raw(b'K', b"1234567")].concat(), ProtocolFault::Malformed('K')),
        ([ok.clone(), raw(b'K', &[0; 261])].concat(), ProtocolFault::Malformed('K')),
        ([ok.clone(), raw(b'Z', b"T")].concat(), ProtocolFault::Malformed('Z')),
        ([ok.clone(), raw(b'Z', b"")].concat(), ProtocolFault::Malformed('Z')),
    ] {
        let error = log_in_to(password(), async |mut fake| fake.send(&said).await).await.unwrap_err();
        let ConnectError::Protocol(fault) = error else { panic!("{said:?}: {error}") };
        assert_eq!(fault.to_string(), expected.to_string(), "{said:?}");
    }
}

#[tokio::test]
async fn a_server_that_closes_mid_way_is_lost() {
    let whole = [raw(b'R', &[0; 4]), parameter("a", "b"), raw(b'K', &[0; 8])].concat();
    for end in [0, 3, 9, 12, whole.len()] {
        let error = log_in_to(password(), async |mut fake| fake.send(&whole[..end]).await).await.unwrap_err();
        assert!(matches!(error, ConnectError::Lost(_)), "{end}: {error}");
    }
}

#[tokio::test]
async fn a_downgrade_to_a_password_in_clear_or_its_md5_gets_nothing() {
    let error = log_in_to(password(), async |mut fake| {
        fake.ask(5, &[1, 2, 3, 4]).await;
        assert_eq!(fake.drain().await, b"", "something was sent");
    })
    .await
    .unwrap_err();
    assert!(matches!(error, ConnectError::Authentication(AuthenticationFault::Md5Refused)), "{error}");
    // TLS with whoever answers proves nothing.
    for (code, salt) in [(3, &b""[..]), (5, &[1, 2, 3, 4])] {
        for mode_of in [SslMode::Prefer, SslMode::Require] {
            let error = connect_to(mode(mode_of), password(), async |listener| {
                let mut fake = over_tls(listener, &server_tls().0).await;
                fake.ask(code, salt).await;
                assert_eq!(fake.drain().await, b"", "something was sent");
            })
            .await
            .unwrap_err();
            let refused = [AuthenticationFault::ClearTextRefused, AuthenticationFault::Md5Refused];
            let refused = refused.map(|fault| ConnectError::from(fault).to_string());
            assert!(refused.contains(&error.to_string()), "{mode_of:?}, {code}: {error}");
        }
    }
    let error = log_in_to(password(), async |mut fake| {
        fake.ask(3, b"").await;
        assert_eq!(fake.drain().await, b"", "something was sent");
    })
    .await
    .unwrap_err();
    assert!(matches!(error, ConnectError::Authentication(AuthenticationFault::ClearTextRefused)), "{error}");
}

#[tokio::test]
async fn md5_is_answered_by_a_password_or_its_hash_and_by_nothing_else() {
    let salt = [1, 2, 3, 4];
    let stored = crate::wire::md5::stored("alice", b"correct horse");
    for credential in [password(), Credential::Md5(Secret::new(stored))] {
        let connected = connect_to(md5_allowed(), credential, async |listener| {
            let mut fake = accept(listener).await;
            fake.receive_startup().await;
            fake.ask(5, &salt).await;
            let expected = postgres_protocol::authentication::md5_hash(b"alice", b"correct horse", salt);
            assert_eq!(fake.receive_response().await, [expected.as_bytes(), b"\0"].concat());
            fake.ask(0, b"").await;
            fake.send(READY).await;
        })
        .await;
        assert!(connected.is_ok());
    }
    for credential in [Credential::None, keys()] {
        let error = log_in_to(credential, async |mut fake| {
            fake.ask(5, &salt).await;
            assert_eq!(fake.drain().await, b"", "something was sent");
        })
        .await
        .unwrap_err();
        assert!(matches!(error, ConnectError::Authentication(AuthenticationFault::NoPassword(_))), "{error}");
    }
}

#[tokio::test]
async fn unknown_methods_and_mechanisms_are_named() {
    let error = log_in_to(password(), async |mut fake| fake.ask(7, b"").await).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Authentication(AuthenticationFault::UnsupportedMethod(7))),
        "{error}"
    );
    assert!(!error.is_passing(), "it is no outage to wait for: {error}");
    for offer in [&b"\0"[..], b"OAUTHBEARER\0\0", b"SCRAM-SHA-256-PLUS\0\0"] {
        let error = log_in_to(password(), async |mut fake| {
            fake.ask(10, offer).await;
            assert_eq!(fake.drain().await, b"", "something was sent");
        })
        .await
        .unwrap_err();
        assert!(matches!(error, ConnectError::Authentication(AuthenticationFault::NoMechanism)), "{error}");
        assert!(!error.is_passing(), "it is no outage to wait for: {error}");
    }
}

async fn scram_error(serve: impl AsyncFnOnce(&mut Fake)) -> AuthenticationFault {
    let result = log_in_to(password(), async |mut fake| {
        serve(&mut fake).await;
        // The client has hung up; a server that then goes on must find nobody.
        fake.drain().await;
    })
    .await;
    match result.unwrap_err() {
        ConnectError::Authentication(fault) => fault,
        other => panic!("{other}"),
    }
}

/// Server-first with `nonce` behind the client's and any iteration count.
async fn server_first(fake: &mut Fake, nonce: &str, iterations: &str) {
    let client_first = fake.scram_first().await;
    let nonce = format!("{}{nonce}", nonce_of(&client_first));
    fake.ask(11, format!("r={nonce},s=MDEyMzQ1Njc4OWFiY2RlZg==,i={iterations}").as_bytes()).await;
}

#[tokio::test]
async fn scram_challenges_that_lie_are_refused_at_once() {
    let started = std::time::Instant::now();
    let long = "n".repeat(10_000);
    let fault = scram_error(async |fake| server_first(fake, &long, "4096").await).await;
    assert!(matches!(fault, AuthenticationFault::Scram(ScramError::Nonce)), "{fault}");
    let fault = scram_error(async |fake| {
        fake.scram_first().await;
        fake.ask(11, b"r=another,s=MDEyMzQ1Njc4OWFiY2RlZg==,i=4096").await;
    })
    .await;
    assert!(matches!(fault, AuthenticationFault::Scram(ScramError::Nonce)), "{fault}");
    for iterations in ["2147483647", "1000001", "0", "99999999999999999999"] {
        let fault = scram_error(async |fake| server_first(fake, "more", iterations).await).await;
        assert!(matches!(fault, AuthenticationFault::Scram(ScramError::Iterations(_))), "{fault}");
    }
    for iterations in ["", "-1", "4096x"] {
        let fault = scram_error(async |fake| server_first(fake, "more", iterations).await).await;
        assert!(matches!(fault, AuthenticationFault::Scram(ScramError::Malformed(_))), "{fault}");
    }
    assert!(started.elapsed() < DEADLINE / 2, "rounds were computed");
}

#[tokio::test]
async fn a_proof_that_is_cheap_to_guess_by_goes_only_where_it_may() {
    // Whoever plays the server chooses the rounds.
    for (tls, is_shown) in [(mode(SslMode::Disable), false), (md5_allowed(), true)] {
        let error = connect_to(tls, password(), async |listener| {
            let mut fake = accept(listener).await;
            fake.receive_startup().await;
            server_first(&mut fake, "more", "4095").await;
            let count = fake.tcp.read(&mut [0; 1024]).await.unwrap();
            assert_eq!(count > 0, is_shown, "what the password can be guessed by");
        })
        .await
        .unwrap_err();
        let refused = matches!(
            error,
            ConnectError::Authentication(AuthenticationFault::TooFewRounds { rounds: 4095, least: 4096 })
        );
        assert_eq!(refused, !is_shown, "{error}");
        assert_eq!(error.is_passing(), is_shown, "{error}");
        assert_eq!(error.client_message().contains("scram_iterations"), refused, "{error}");
    }
}

#[tokio::test]
async fn many_rounds_do_not_hold_up_the_thread() {
    // One thread: if the rounds ran on it, the clock beside them would stand still.
    let longest_gap = std::cell::Cell::new(Duration::ZERO);
    let watch = async {
        let mut last = std::time::Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            longest_gap.set(longest_gap.get().max(last.elapsed()));
            last = std::time::Instant::now();
        }
    };
    let mut rounds = Duration::ZERO;
    let login = scram_error(async |fake| {
        server_first(fake, "more", "1000000").await;
        let started = std::time::Instant::now();
        fake.receive_response().await;
        rounds = started.elapsed();
        fake.ask(12, b"e=other-error").await;
    });
    let fault = tokio::select! { fault = login => fault, () = watch => unreachable!() };
    assert!(matches!(fault, AuthenticationFault::Scram(ScramError::Refused)), "{fault}");
    assert!(longest_gap.get() < rounds * 2 / 3, "{:?} of {rounds:?}", longest_gap.get());
}

#[tokio::test]
async fn a_server_that_proves_nothing_is_refused() {
    // AuthenticationOk instead of a challenge, and instead of a signature.
    let fault = scram_error(async |fake| {
        fake.scram_first().await;
        fake.ask(0, b"").await;
    })
    .await;
    assert!(matches!(fault, AuthenticationFault::NoProof), "{fault}");
    let fault = scram_error(async |fake| {
        server_first(fake, "more", "4096").await;
        fake.receive_response().await;
        fake.ask(0, b"").await;
    })
    .await;
    assert!(matches!(fault, AuthenticationFault::NoProof), "{fault}");
    // A wrong signature, and none.
    for last in [&b"v=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="[..], b"v=", b"v=!", b"x=1", b"", b"\xff"]
    {
        let fault = scram_error(async |fake| {
            server_first(fake, "more", "4096").await;
            fake.receive_response().await;
            fake.ask(12, last).await;
        })
        .await;
        assert!(matches!(fault, AuthenticationFault::Scram(_)), "{last:?}: {fault}");
    }
}

#[tokio::test]
async fn a_second_proof_is_not_given() {
    // SCRAM to its good end, then a request for the password's MD5: a downgrade.
    let verifier = Verifier::from_password(b"correct horse", b"0123456789abcdef", 4096).unwrap();
    for credential in [password(), keys()] {
        let error = log_in_to(credential, async |mut fake| {
            play_scram(&mut fake, &verifier).await;
            fake.ask(5, &[1, 2, 3, 4]).await;
            assert_eq!(fake.drain().await, b"", "something was sent");
        })
        .await
        .unwrap_err();
        assert!(matches!(error, ConnectError::Protocol(ProtocolFault::Unexpected('R'))), "{error}");
    }
}

#[tokio::test]
async fn keys_log_in_as_the_password_does_while_the_verifier_stays() {
    let verifier = Verifier::from_password(b"correct horse", b"0123456789abcdef", 4096).unwrap();
    let other = Verifier::from_password(b"correct horse", b"another salt of 16", 4096).unwrap();
    let play = async |verifier: &Verifier, credential| {
        log_in_to(credential, async |mut fake| {
            if play_scram(&mut fake, verifier).await {
                fake.ask(0, b"").await;
                fake.send(READY).await;
            }
        })
        .await
    };
    let learnt = play(&verifier, password()).await.unwrap().scram_keys.unwrap();
    assert!(play(&verifier, Credential::ScramKeys(learnt.clone())).await.is_ok());
    let error = play(&other, Credential::ScramKeys(learnt)).await.unwrap_err();
    assert!(error.is_credential(), "{error}");
}

/// The server's side of a whole exchange. False: the client hung up on the challenge.
async fn play_scram(fake: &mut Fake, verifier: &Verifier) -> bool {
    let exchange = ServerFirst::new(verifier.clone(), "fresh".to_owned(), ServerBinding::NotOffered);
    let (challenge, exchange) = exchange.client_first(&fake.scram_first().await).unwrap();
    fake.ask(11, &challenge).await;
    if fake.tcp.peek(&mut [0]).await.unwrap_or(0) == 0 {
        return false;
    }
    match exchange.client_final(&fake.receive_response().await).unwrap() {
        Verdict::Success(success) => fake.ask(12, &success.server_final).await,
        Verdict::WrongProof => panic!("wrong proof"),
    }
    true
}

async fn ssl_request(listener: &TcpListener, answer: &[u8]) -> Fake {
    let mut fake = accept(listener).await;
    assert_eq!(fake.receive_startup().await, SSL_REQUEST.to_be_bytes());
    fake.send(answer).await;
    fake
}

#[tokio::test]
async fn bytes_between_the_answer_and_the_handshake_end_the_connection() {
    let injected = [b"S".to_vec(), raw(b'R', &[0; 4]), READY.to_vec()].concat();
    let error = connect_to(mode(SslMode::Require), password(), async |listener| {
        let mut fake = ssl_request(listener, &injected).await;
        assert_eq!(fake.drain().await, b"", "the handshake began");
    })
    .await
    .unwrap_err();
    assert!(matches!(error, ConnectError::Tls(TlsFault::BytesBeforeHandshake)), "{error}");
}

#[tokio::test]
async fn plaintext_instead_of_a_handshake_ends_the_connection() {
    let error = connect_to(mode(SslMode::Require), password(), async |listener| {
        let mut fake = ssl_request(listener, b"S").await;
        // Only after the ClientHello: it is not found beside the answer.
        fake.tcp.peek(&mut [0]).await.unwrap();
        fake.send(&[raw(b'R', &[0; 4]), READY.to_vec()].concat()).await;
        fake.drain().await;
    })
    .await
    .unwrap_err();
    assert!(matches!(error, ConnectError::Tls(TlsFault::Handshake(_))), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_no_yes_is_no_tls() {
    for (answer, expected) in [
        (&b"N"[..], TlsFault::NotOffered.to_string()),
        (b"E\0\0\0\x10Mnonsense\0\0", TlsFault::RequestFailed.to_string()),
        (b"E", TlsFault::RequestFailed.to_string()),
        (b"H", TlsFault::UnknownAnswer(b'H').to_string()),
    ] {
        let error = connect_to(mode(SslMode::Require), password(), async |listener| {
            assert_eq!(ssl_request(listener, answer).await.drain().await, b"", "something was sent");
        })
        .await
        .unwrap_err();
        let ConnectError::Tls(fault) = error else { panic!("{error}") };
        assert_eq!(fault.to_string(), expected);
    }
    let error = connect_to(mode(SslMode::Require), password(), async |listener| {
        drop(ssl_request(listener, b"").await)
    })
    .await
    .unwrap_err();
    assert!(matches!(error, ConnectError::Lost(_)), "{error}");
}

/// A server's TLS, with a certificate made for it.
/// And the authority that signed its certificate: itself.
fn server_tls() -> (ClientTlsContext, String) {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let keys = ClientTls {
        mode: ClientTlsMode::Require,
        cert_file: write("crt", made.cert.pem()),
        key_file: write("key", made.signing_key.serialize_pem()),
        client_ca_file: None,
    };
    (ClientTlsContext::load(&keys).unwrap().unwrap(), made.cert.pem())
}

#[tokio::test]
async fn scram_is_bound_to_the_tls_connection_where_the_server_can() {
    let verifier = Verifier::from_password(b"correct horse", b"0123456789abcdef", 4096).unwrap();
    let (ours, _) = server_tls();
    let hash = tls_server_end_point(&ours.certificate_der).unwrap();
    // What a man in the middle with another certificate would have to show.
    let foreign = tls_server_end_point(&server_tls().0.certificate_der).unwrap();
    let (plus, plain) = (&b"SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0"[..], &b"SCRAM-SHA-256\0\0"[..]);
    for (offer, binding, expected) in [
        (plus, ServerBinding::EndPoint(hash), Ok(())),
        (plus, ServerBinding::EndPoint(foreign), Err(ScramError::BindingMismatch)),
        (plain, ServerBinding::NotOffered, Ok(())),
        // Somebody took PLUS off the list: the server hears that we saw none, and refuses.
        (plain, ServerBinding::Declined, Err(ScramError::Downgrade)),
    ] {
        let mut verdict = None;
        let result = connect_to(mode(SslMode::Require), password(), async |listener| {
            let tcp = ssl_request(listener, b"S").await.tcp;
            let mut fake = Fake { tcp: TlsAcceptor::from(ours.config.clone()).accept(tcp).await.unwrap() };
            fake.receive_startup().await;
            let (mechanism, client_first) = fake.offer(offer).await;
            assert_eq!(mechanism == b"SCRAM-SHA-256-PLUS", offer == plus);
            let exchange = ServerFirst::new(verifier.clone(), "fresh".to_owned(), binding);
            verdict = Some(match exchange.client_first(&client_first) {
                Err(e) => Err(e),
                Ok((challenge, exchange)) => {
                    fake.ask(11, &challenge).await;
                    match exchange.client_final(&fake.receive_response().await) {
                        Err(e) => Err(e),
                        Ok(Verdict::WrongProof) => panic!("wrong proof"),
                        Ok(Verdict::Success(success)) => {
                            fake.ask(12, &success.server_final).await;
                            fake.ask(0, b"").await;
                            fake.send(READY).await;
                            Ok(())
                        }
                    }
                }
            });
        })
        .await;
        assert_eq!(result.is_ok(), expected.is_ok());
        assert_eq!(verdict.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_password_goes_in_clear_or_as_md5_to_a_server_that_is_verified() {
    let (ours, authority) = server_tls();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.crt");
    std::fs::write(&ca_file, authority).unwrap();
    let salt = [1, 2, 3, 4];
    let md5 = postgres_protocol::authentication::md5_hash(b"alice", b"correct horse", salt);
    for (code, salt, expected) in [(3, &b""[..], "correct horse"), (5, &salt, &md5)] {
        let keys = ServerTls { ca_file: Some(ca_file.clone()), ..tls_keys(SslMode::VerifyCa) };
        let tls = Arc::new(ServerTlsContext::load(&keys).unwrap());
        let connected = connect_to(tls, password(), async |listener| {
            let mut fake = over_tls(listener, &ours).await;
            fake.ask(code, salt).await;
            assert_eq!(fake.receive_response().await, [expected.as_bytes(), b"\0"].concat());
            fake.ask(0, b"").await;
            fake.send(READY).await;
        })
        .await;
        assert!(connected.unwrap().stream.is_tls());
    }
}

/// The server's end of a TLS connection, from behind the startup message on.
async fn over_tls(
    listener: &TcpListener,
    ours: &ClientTlsContext,
) -> Fake<tokio_rustls::server::TlsStream<TcpStream>> {
    let tcp = ssl_request(listener, b"S").await.tcp;
    let mut fake = Fake { tcp: TlsAcceptor::from(ours.config.clone()).accept(tcp).await.unwrap() };
    fake.receive_startup().await;
    fake
}

/// A server that trusts.
async fn welcome(fake: &mut Fake) {
    fake.receive_startup().await;
    fake.ask(0, b"").await;
    fake.send(READY).await;
}

#[tokio::test]
async fn prefer_goes_on_in_plain_and_require_does_not() {
    let connected = connect_to(mode(SslMode::Prefer), Credential::None, async |listener| {
        welcome(&mut ssl_request(listener, b"N").await).await;
    })
    .await
    .unwrap();
    assert!(!connected.stream.is_tls());
    // A failed handshake costs a second connection.
    let connected = connect_to(mode(SslMode::Prefer), Credential::None, async |listener| {
        drop(ssl_request(listener, b"Snonsense").await);
        welcome(&mut accept(listener).await).await;
    })
    .await
    .unwrap();
    assert!(!connected.stream.is_tls());
}

#[tokio::test]
async fn allow_asks_for_tls_only_when_plain_is_not_wanted() {
    let refusal = |state| {
        let mut out = BytesMut::new();
        Report::fatal(state, "no pg_hba.conf entry, no encryption").encode(&mut out);
        out.to_vec()
    };
    let error = connect_to(mode(SslMode::Allow), Credential::None, async |listener| {
        let mut plain = accept(listener).await;
        plain.receive_startup().await;
        plain.send(&refusal(sqlstate::INVALID_AUTHORIZATION)).await;
        ssl_request(listener, b"N").await;
    })
    .await
    .unwrap_err();
    assert_eq!(error.sqlstate(), sqlstate::INVALID_AUTHORIZATION);
    // A wrong password is no reason to try it twice.
    let error = connect_to(mode(SslMode::Allow), Credential::None, async |listener| {
        let mut plain = accept(listener).await;
        plain.receive_startup().await;
        plain.send(&refusal(sqlstate::INVALID_PASSWORD)).await;
        let again = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
        assert!(again.is_err(), "a second attempt");
    })
    .await
    .unwrap_err();
    assert_eq!(error.sqlstate(), sqlstate::INVALID_PASSWORD);
}

#[tokio::test]
async fn a_cancel_request_waits_for_the_server_to_have_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = ConnectTarget { host: "127.0.0.1".into(), port, tls: mode(SslMode::Prefer) };
    let closed = std::cell::Cell::new(false);
    let serve = async {
        let mut fake = ssl_request(&listener, b"N").await;
        assert_eq!(
            fake.receive_startup().await,
            [&[0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 7][..], b"key"].concat()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
        closed.set(true);
    };
    let ask = async {
        cancel(&target, None, 7, b"key", DEADLINE).await.unwrap();
        assert!(closed.get(), "did not wait");
    };
    tokio::join!(serve, ask);

    // The machine that was meant is asked, whatever the name leads to by now.
    let moved = ConnectTarget { host: "moved.invalid".into(), port: 1, tls: mode(SslMode::Disable) };
    let peer = listener.local_addr().ok();
    let serve = async { accept(&listener).await.receive_startup().await };
    let (request, outcome) = tokio::join!(serve, cancel(&moved, peer, 7, b"key", DEADLINE));
    assert!(outcome.is_ok() && request.ends_with(b"key"));

    // And not for ever: neither for the end, nor for a word about TLS.
    let within = Duration::from_millis(300);
    let (held, outcome) =
        tokio::join!(ssl_request(&listener, b"N"), cancel(&target, None, 7, b"key", within));
    assert!(matches!(outcome, Err(ConnectError::Timeout)));
    drop(held);
    let (held, outcome) = tokio::join!(listener.accept(), cancel(&target, None, 7, b"key", within));
    assert!(matches!(outcome, Err(ConnectError::Timeout)));
    drop(held);
}

#[tokio::test]
async fn what_cannot_be_sent_is_not_sent() {
    let target = ConnectTarget { host: "127.0.0.1".into(), port: 1, tls: mode(SslMode::Disable) };
    let login = Login { user: "a\0b".into(), database: "db".into(), credential: Credential::None };
    assert!(matches!(connect(&target, &login, &[]).await, Err(ConnectError::Unsendable(_))));
    let login = Login { user: "a".into(), ..login };
    let long = "x".repeat(10_000);
    assert!(matches!(
        connect(&target, &login, &[("options", &long)]).await,
        Err(ConnectError::Unsendable(_))
    ));
    assert!(matches!(connect(&target, &login, &[]).await, Err(ConnectError::Unreachable(_))));
}

#[test]
fn nothing_prints_a_secret() {
    let login = Login { user: "alice".into(), database: "db".into(), credential: password() };
    assert!(!format!("{login:?}").contains("correct"));
    let login = Login { credential: keys(), ..login };
    assert_eq!(format!("{:?}", login.credential), "ScramKeys(Keys(…))");
}

#[test]
fn versions_are_read_as_the_server_counts_them() {
    for (text, expected) in [
        ("15.3", 150_003),
        ("15.18 (Debian 15.18-0+deb12u1)", 150_018),
        ("9.6.24", 90_624),
        ("17beta1", 170_000),
        ("18devel", 180_000),
        ("", 0),
        ("99999999999999999999.9", 9_990_009),
    ] {
        assert_eq!(login::version_num(text), expected, "{text}");
    }
}
