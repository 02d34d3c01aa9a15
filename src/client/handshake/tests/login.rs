//! Methods, secrets, and what may come instead of a proof.

use super::*;
use crate::client::error::Reason;

const MD5_RULE: &str = "host all all all md5";

fn wrong(user: &str) -> String {
    format!("password authentication failed for user \"{user}\"")
}

/// A client that was asked for a SCRAM proof.
async fn asked_for_scram(context: HandshakeContext, user: &str) -> (TcpStream, Running) {
    let (mut client, running) = connect(context).await;
    send(&mut client, &startup_of(user)).await;
    assert_eq!(expect_authentication(&mut client, SASL).await, b"SCRAM-SHA-256\0\0");
    (client, running)
}

#[tokio::test]
async fn tokio_postgres_logs_in_and_what_it_proved_is_kept() {
    for (rule, user) in [
        ("scram-sha-256", "alice"),
        ("scram-sha-256", "bob"),
        ("md5", "alice"),
        ("md5", "bob"),
        ("md5", "carol"),
    ] {
        let (client, running) = connect(context(&format!("host all all all {rule}"), &users())).await;
        let mut config = tokio_postgres::Config::new();
        config.user(user).password("secret").dbname("db");
        let connecting = tokio::spawn(async move { config.connect_raw(client, tokio_postgres::NoTls).await });
        let mut admitted = admitted(running).await;
        match (&admitted.login, user) {
            (ServerLogin::ScramKeys(keys), "alice") => {
                assert_eq!(verifier().accepts(b"secret").as_ref(), Some(keys));
            }
            (ServerLogin::Password(password), "bob") => assert_eq!(password, "secret"),
            (ServerLogin::Md5(stored), "carol") => {
                assert_eq!(*stored, crate::wire::md5::stored("carol", b"secret"));
            }
            other => panic!("{other:?}"),
        }
        admitted.pending.extend_from_slice(b"Z\0\0\0\x05I");
        admitted.stream.write_all(&admitted.pending).await.unwrap();
        let connected = timeout(PATIENCE, connecting).await.unwrap().unwrap();
        assert!(connected.is_ok());
    }
}

#[tokio::test]
async fn the_last_word_of_scram_goes_out_with_authentication_ok() {
    let (mut client, running) = asked_for_scram(scram(), "alice").await;
    prove(&mut client, "SCRAM-SHA-256", "secret", ClientBinding::Unsupported).await;
    let pending = admitted(running).await.pending;
    assert_eq!(&pending[..11], b"R\0\0\0\x36\0\0\0\x0cv=");
    assert_eq!(&pending[55..], b"R\0\0\0\x08\0\0\0\0");
}

#[tokio::test]
async fn unknown_users_see_what_a_wrong_password_sees() {
    for (rule, users) in [("scram-sha-256", users()), ("md5", users()), ("md5", String::new())] {
        let mut seen = Vec::new();
        for (user, reason) in [("alice", Reason::Wrong), ("nobod", Reason::NoSecret)] {
            if users.is_empty() && user == "alice" {
                continue;
            }
            let context = context(&format!("host all all all {rule}"), &users);
            let (mut client, running) = asked_for_scram(context, user).await;
            let scram = ClientFirst::new(
                Credential::Password(b"wrong".to_vec()),
                "abc".to_owned(),
                ClientBinding::Unsupported,
            );
            let first = scram.message();
            send(&mut client, &sasl_initial("SCRAM-SHA-256", first.len() as i32, &first)).await;
            let server_first = expect_authentication(&mut client, SASL_CONTINUE).await;
            let (client_final, _) = scram.server_first(&server_first).unwrap().respond().unwrap();
            send(&mut client, &message(b'p', &client_final)).await;
            assert_fatal(&mut client, "28P01", &wrong(user)).await;
            match refused_with(running).await {
                HandshakeError::Password { reason: found, .. } => assert_eq!(found, reason),
                other => panic!("{other}"),
            }
            seen.push((server_first.len(), server_first.ends_with(b",i=4096")));
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    }
}

#[tokio::test]
async fn an_unknown_users_salt_does_not_change() {
    let context = scram();
    let mut salts = Vec::new();
    for _ in 0..2 {
        let (mut client, running) = asked_for_scram(context.clone(), "nobody").await;
        send(&mut client, &sasl_initial("SCRAM-SHA-256", 10, b"n,,n=,r=ab")).await;
        let server_first = expect_authentication(&mut client, SASL_CONTINUE).await;
        salts.push(String::from_utf8(server_first).unwrap().split(',').nth(1).unwrap().to_owned());
        drop(client);
        refused_with(running).await;
    }
    assert_eq!(salts[0], salts[1]);
}

#[tokio::test]
async fn a_secret_that_scram_cannot_check_is_a_wrong_password() {
    let (mut client, running) = asked_for_scram(scram(), "carol").await;
    prove(&mut client, "SCRAM-SHA-256", "secret", ClientBinding::Unsupported).await;
    assert_fatal(&mut client, "28P01", &wrong("carol")).await;
    assert!(matches!(refused_with(running).await, HandshakeError::Password { reason: Reason::Md5Only, .. }));
}

#[tokio::test]
async fn a_client_may_ask_for_an_empty_challenge_first() {
    let (mut client, running) = asked_for_scram(scram(), "alice").await;
    send(&mut client, &sasl_initial("SCRAM-SHA-256", -1, b"")).await;
    assert_eq!(expect_authentication(&mut client, SASL_CONTINUE).await, b"");
    send(&mut client, &message(b'p', b"n,,n=,r=abc")).await;
    assert!(expect_authentication(&mut client, SASL_CONTINUE).await.starts_with(b"r=abc"));
    drop(client);
    refused_with(running).await;
}

#[tokio::test]
async fn lying_lengths_and_unknown_mechanisms_are_refused() {
    let malformed = "malformed SASL response";
    let mechanism = "client selected an invalid SASL authentication mechanism";
    let too_long = "message 'p' of 65537 bytes is longer than the limit of 1029";
    let cases: [(Vec<u8>, &str); 14] = [
        (sasl_initial("SCRAM-SHA-256", 0x7fff_ffff, b"n,,n=,r=abc"), malformed),
        (sasl_initial("SCRAM-SHA-256", -2, b"n,,n=,r=abc"), malformed),
        (sasl_initial("SCRAM-SHA-256", -1, b"n,,n=,r=abc"), malformed),
        (sasl_initial("SCRAM-SHA-256", 10, b"n,,n=,r=abc"), malformed),
        (sasl_initial("SCRAM-SHA-256", 12, b"n,,n=,r=abc"), malformed),
        (message(b'p', b""), malformed),
        (message(b'p', b"SCRAM-SHA-256"), malformed),
        (sasl_initial("SCRAM-SHA-256-PLUS", 5, b"n,,n="), mechanism),
        (sasl_initial("SCRAM-SHA-1", 5, b"n,,n="), mechanism),
        (sasl_initial("", 5, b"n,,n="), mechanism),
        (b"p\0\0\0\0".to_vec(), "invalid length 0 of message 'p'"),
        (b"p\xff\xff\xff\xff".to_vec(), "invalid length -1 of message 'p'"),
        (b"p\x80\0\0\0".to_vec(), "invalid length -2147483648 of message 'p'"),
        (b"p\0\x01\0\0".to_vec(), too_long),
    ];
    for (bytes, text) in cases {
        let (mut client, running) = asked_for_scram(scram(), "alice").await;
        send(&mut client, &bytes).await;
        assert_fatal(&mut client, "08P01", text).await;
        refused_with(running).await;
    }
}

#[tokio::test]
async fn a_broken_client_final_is_a_protocol_error() {
    for without in ["c=biws,", "r=NONCE,", ",p=cHJvb2Y="] {
        let (mut client, running) = asked_for_scram(scram(), "alice").await;
        send(&mut client, &sasl_initial("SCRAM-SHA-256", 11, b"n,,n=,r=abc")).await;
        let server_first =
            String::from_utf8(expect_authentication(&mut client, SASL_CONTINUE).await).unwrap();
        let nonce = &server_first[2..server_first.find(',').unwrap()];
        let client_final = "c=biws,r=NONCE,p=cHJvb2Y=".replace(without, "").replace("NONCE", nonce);
        send(&mut client, &message(b'p', client_final.as_bytes())).await;
        assert_eq!(fatal(&rest(&mut client).await).0, "08P01", "{client_final}");
        assert!(matches!(refused_with(running).await, HandshakeError::Scram(_)));
    }
}

/// CVE-2026-107350, CVE-2015-4054 and their kind: at each stage of each login, what is no answer ends it.
#[tokio::test]
async fn nothing_but_an_answer_is_read_before_the_login() {
    let (root, parse) = (startup_of("root"), message(b'P', b"\0select 1\0\0\0"));
    let intruders = [
        (root, 0),
        (message(b'Q', b"select 1\0"), b'Q'),
        (parse, b'P'),
        (message(b'S', b""), b'S'),
        (message(b'X', b""), b'X'),
        (ssl_request(), 0),
    ];
    for (intruder, found) in intruders {
        for stage in ["sasl", "continue", "md5", "password"] {
            let hba = match stage {
                "md5" => MD5_RULE,
                "password" => "local all all password",
                _ => "host all all all scram-sha-256",
            };
            let expected = if matches!(stage, "sasl" | "continue") { "SASL" } else { "password" };
            let text = format!("expected {expected} response, got message type {found}");
            let context = context(hba, &users());
            if stage == "password" {
                let (mut client, running) = connect_locally(context);
                send(&mut client, &startup_of("alice")).await;
                expect_authentication(&mut client, CLEARTEXT).await;
                send(&mut client, &intruder).await;
                assert_fatal(&mut client, "08P01", &text).await;
                refused_with(running).await;
                continue;
            }
            let (mut client, running) = connect(context).await;
            send(&mut client, &startup_of(if stage == "md5" { "carol" } else { "alice" })).await;
            if stage == "md5" {
                expect_authentication(&mut client, MD5).await;
            } else {
                expect_authentication(&mut client, SASL).await;
            }
            if stage == "continue" {
                send(&mut client, &sasl_initial("SCRAM-SHA-256", 11, b"n,,n=,r=abc")).await;
                expect_authentication(&mut client, SASL_CONTINUE).await;
            }
            send(&mut client, &intruder).await;
            assert_fatal(&mut client, "08P01", &text).await;
            refused_with(running).await;
        }
    }
}

#[tokio::test]
async fn md5_is_checked_against_the_salt_of_this_connection() {
    for (user, password, right) in
        [("carol", "secret", true), ("bob", "secret", true), ("carol", "Secret", false), ("bob", "", false)]
    {
        let (mut client, running) = connect(context(MD5_RULE, &users())).await;
        send(&mut client, &startup_of(user)).await;
        let salt = expect_authentication(&mut client, MD5).await.try_into().unwrap();
        let answer = crate::wire::md5::answer(&crate::wire::md5::stored(user, password.as_bytes()), salt);
        send(&mut client, &message(b'p', &[answer.as_bytes(), b"\0"].concat())).await;
        match right {
            true => assert_eq!(admitted(running).await.user, user),
            false => {
                assert_fatal(&mut client, "28P01", &wrong(user)).await;
                refused_with(running).await;
            }
        }
    }
    // Where MD5 is what users have, an unknown one is asked for it too; a hash for another salt is worth nothing.
    let hash = crate::wire::md5::stored("carol", b"secret");
    for user in ["carol", "nobody"] {
        let (mut client, running) = connect(context(MD5_RULE, &format!("\"carol\" \"{hash}\""))).await;
        send(&mut client, &startup_of(user)).await;
        expect_authentication(&mut client, MD5).await;
        let answer = crate::wire::md5::answer(&hash, [0; 4]);
        send(&mut client, &message(b'p', &[answer.as_bytes(), b"\0"].concat())).await;
        assert_fatal(&mut client, "28P01", &wrong(user)).await;
        refused_with(running).await;
    }
}

#[tokio::test]
async fn a_password_in_clear_is_checked_against_each_kind_of_secret() {
    for user in ["alice", "bob", "carol", "nobody"] {
        for password in ["secret", "Secret", ""] {
            let (mut client, running) = connect_locally(context("local all all password", &users()));
            send(&mut client, &startup_of(user)).await;
            expect_authentication(&mut client, CLEARTEXT).await;
            send(&mut client, &message(b'p', &[password.as_bytes(), b"\0"].concat())).await;
            if user != "nobody" && password == "secret" {
                assert_eq!(admitted(running).await.login, ServerLogin::Password("secret".to_owned()));
            } else {
                assert_fatal(&mut client, "28P01", &wrong(user)).await;
                refused_with(running).await;
            }
        }
    }
}

#[tokio::test]
async fn rules_decide_and_say_so() {
    let hba = "host db bob all reject\nhost db alice all trust";
    for (user, text) in [
        (
            "bob",
            "pool_hba.conf rejects connection for host \"127.0.0.1\", user \"bob\", database \"db\", no encryption",
        ),
        (
            "eve",
            "no pool_hba.conf entry for host \"127.0.0.1\", user \"eve\", database \"db\", no encryption",
        ),
    ] {
        let (mut client, running) = connect(context(hba, &users())).await;
        send(&mut client, &startup_of(user)).await;
        assert_fatal(&mut client, "28000", text).await;
        refused_with(running).await;
    }
    let (mut client, running) = connect_locally(context(hba, ""));
    send(&mut client, &startup_of("alice")).await;
    let text = "no pool_hba.conf entry for host \"[local]\", user \"alice\", database \"db\", no encryption";
    assert_fatal(&mut client, "28000", text).await;
    refused_with(running).await;
}

#[tokio::test]
async fn a_client_let_in_by_trust_brings_what_the_user_file_has() {
    for (user, login) in [
        ("alice", ServerLogin::None),
        ("bob", ServerLogin::Password("secret".to_owned())),
        ("carol", ServerLogin::Md5(crate::wire::md5::stored("carol", b"secret"))),
        ("nobody", ServerLogin::None),
    ] {
        let (mut client, running) = connect(context("host all all all trust", &users())).await;
        send(&mut client, &startup_of(user)).await;
        assert_eq!(admitted(running).await.login, login);
    }
}
