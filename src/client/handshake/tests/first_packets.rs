//! What may come before the login.

use super::*;

/// The client gets this FATAL, and nothing else, for `bytes` under a rule that trusts everybody.
async fn assert_refused(bytes: &[u8], state: &str, text: &str) {
    let (mut client, running) = connect(trust()).await;
    send(&mut client, bytes).await;
    assert_fatal(&mut client, state, text).await;
    refused_with(running).await;
}

#[tokio::test]
async fn trust_lets_in_and_leaves_authentication_ok_unsent() {
    let (mut client, running) = connect(trust()).await;
    let parameters = ["user", "alice", "application_name", "app", "options", "-c work_mem=1MB"];
    send(&mut client, &[&startup(V3, &parameters)[..], b"Q\0\0\0\x06;\0"].concat()).await;
    let mut admitted = admitted(running).await;
    assert_eq!((admitted.user.as_str(), admitted.database.as_str()), ("alice", "alice"));
    assert_eq!(admitted.application_name(), "app");
    assert_eq!(admitted.parameters[0], ("work_mem".to_owned(), "1MB".to_owned()));
    assert_eq!((admitted.protocol_minor, admitted.replication), (0, Replication::No));
    assert_eq!(admitted.login, ServerLogin::None);
    assert_eq!(&admitted.pending[..], b"R\0\0\0\x08\0\0\0\0");
    // What was sent ahead is either handed over or still in the socket; never lost.
    let mut ahead = admitted.received.to_vec();
    while ahead.len() < 7 {
        timeout(PATIENCE, admitted.stream.read_buf(&mut ahead)).await.unwrap().unwrap();
    }
    assert_eq!(ahead, b"Q\0\0\0\x06;\0");
}

#[tokio::test]
async fn lengths_out_of_bounds_and_other_protocols_are_refused() {
    let text = "invalid length of startup packet";
    for length in [0, 3, 4, 7, -1, i32::MIN, i32::MAX, 10_005] {
        assert_refused(&[&length.to_be_bytes()[..], &[0; 8]].concat(), "08P01", text).await;
    }
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: db\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01", b"SSH-2.0-x\r\n"]
    {
        assert_refused(bytes, "08P01", text).await;
    }
    // Messages that belong behind the login.
    for tag in *b"QPBESXpdf" {
        assert_refused(&message(tag, b"select 1\0"), "08P01", text).await;
    }
}

#[tokio::test]
async fn packets_of_a_wrong_layout_are_refused() {
    assert_refused(&startup(V3, &[]), "28000", "no PostgreSQL user name specified in startup packet").await;
    let layout = "invalid startup packet layout: expected terminator as last byte";
    assert_refused(&packet(b"\0\x03\0\0user\0alice\0"), "08P01", layout).await;
    assert_refused(&packet(b"\0\x03\0\0user\0alice"), "08P01", layout).await;
    assert_refused(&packet(b"\0\x03\0\0user\0alice\0\0x"), "08P01", layout).await;
    let utf8 = "invalid byte sequence for encoding \"UTF8\" in startup packet";
    assert_refused(&packet(b"\0\x03\0\0user\0\xff\0\0"), "22021", utf8).await;
    for options in ["-c=", "-c =1", "--="] {
        let (mut client, running) = connect(trust()).await;
        send(&mut client, &startup(V3, &["user", "alice", "options", options])).await;
        assert_eq!(fatal(&rest(&mut client).await).0, "42601", "{options}");
        refused_with(running).await;
    }
}

#[tokio::test]
async fn the_longest_packet_is_taken() {
    let (mut client, running) = connect(trust()).await;
    let filler = "x".repeat(startup::MAX_STARTUP_BYTES - 4 - "user\0alice\0a.b\0\0\0".len());
    let bytes = startup(V3, &["user", "alice", "a.b", &filler]);
    assert_eq!(bytes.len(), 4 + startup::MAX_STARTUP_BYTES);
    send(&mut client, &bytes).await;
    assert_eq!(admitted(running).await.parameters[0].1, filler);
}

#[tokio::test]
async fn random_bytes_and_half_closes_end_quietly_or_with_an_error() {
    let mut bytes = [0; 64];
    for len in [0, 1, 3, 4, 5, 8, 20, 64] {
        for _ in 0..20 {
            aws_lc_rs::rand::fill(&mut bytes[..len]).unwrap();
            let (mut client, running) = connect(trust()).await;
            send(&mut client, &bytes[..len]).await;
            // The reset that an answer may have met is no fault of this test.
            let _ = client.shutdown().await;
            rest(&mut client).await;
            refused_with(running).await;
        }
    }
    let whole = startup_of("alice");
    for len in 0..whole.len() {
        let (mut client, running) = connect(trust()).await;
        send(&mut client, &whole[..len]).await;
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, b"");
        assert!(matches!(refused_with(running).await, HandshakeError::Disconnected));
    }
}

#[tokio::test]
async fn encryption_requests_are_answered_once_each_in_any_order() {
    for requests in [[ssl_request(), gssenc_request()], [gssenc_request(), ssl_request()]] {
        let (mut client, running) = connect(trust()).await;
        for request in &requests {
            send(&mut client, request).await;
            expect_byte(&mut client, b'N').await;
        }
        send(&mut client, &startup_of("alice")).await;
        assert_eq!(admitted(running).await.user, "alice");
    }
    for (request, name) in [(ssl_request(), "SSLRequest"), (gssenc_request(), "GSSENCRequest")] {
        let (mut client, running) = connect(trust()).await;
        send(&mut client, &request).await;
        expect_byte(&mut client, b'N').await;
        send(&mut client, &request).await;
        let text = format!("{name} was sent more than once, or within an encrypted connection");
        assert_fatal(&mut client, "08P01", &text).await;
        refused_with(running).await;
    }
}

#[tokio::test]
async fn protocol_versions_are_negotiated_or_refused() {
    for (version, shown) in [(2 << 16, "2.0"), (9 << 16, "9.0"), (0, "0.0"), (1 << 16, "1.0")] {
        let text = format!("unsupported frontend protocol {shown}: server supports 3.0 to 3.2");
        assert_refused(&startup(version, &["user", "alice"]), "0A000", &text).await;
    }
    let negotiated: [(u32, &[&str], u16, &[u8]); 4] = [
        (V3, &["user", "a"], 0, b""),
        (V3 | 2, &["user", "a"], 2, b""),
        (V3 | 9999, &["user", "a"], 2, b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0"),
        (V3 | 2, &["user", "a", "_pq_.x", "1"], 2, b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0"),
    ];
    for (version, parameters, minor, negotiation) in negotiated {
        let (mut client, running) = connect(trust()).await;
        send(&mut client, &startup(version, parameters)).await;
        let admitted = admitted(running).await;
        assert_eq!(admitted.protocol_minor, minor);
        assert_eq!(admitted.pending, [negotiation, b"R\0\0\0\x08\0\0\0\0"].concat());
        assert_eq!(admitted.parameters, []);
    }
}

#[tokio::test]
async fn a_client_is_told_what_we_speak_before_it_is_asked_for_a_password() {
    let (mut client, running) = connect(scram()).await;
    send(&mut client, &startup(V3 | 9999, &["user", "alice"])).await;
    assert_eq!(read_message(&mut client).await.0, b'v');
    expect_authentication(&mut client, SASL).await;
    drop(client);
    refused_with(running).await;
}

#[tokio::test]
async fn cancel_requests_are_read_and_never_answered() {
    let cancel = |len: usize| {
        packet(&[&80_877_102_u32.to_be_bytes()[..], &7_u32.to_be_bytes(), &vec![9; len]].concat())
    };
    for len in [4, 32, 256] {
        let (mut client, running) = connect(trust()).await;
        send(&mut client, &cancel(len)).await;
        match end(running).await {
            Ok(Outcome::Cancel(cancel, stream)) => {
                assert_eq!((cancel.pid, cancel.key), (7, vec![9; len]));
                // The client waits for as long as we keep the connection.
                let read = client.read_u8();
                tokio::pin!(read);
                assert!(timeout(Duration::from_millis(20), &mut read).await.is_err());
                drop(stream);
                assert!(timeout(PATIENCE, read).await.unwrap().is_err());
            }
            other => panic!("{other:?}"),
        }
    }
    for len in [0, 3, 257] {
        let text = "invalid length of cancel key in cancel request packet";
        assert_refused(&cancel(len), "08P01", text).await;
    }
}

#[tokio::test]
async fn replication_is_passed_on_and_meets_its_own_rules() {
    let (mut client, running) = connect(trust()).await;
    send(&mut client, &startup(V3, &["user", "alice", "replication", "database", "database", "db"])).await;
    assert_eq!(admitted(running).await.replication, Replication::Logical);
    let text = "no pool_hba.conf entry for replication connection from host \"127.0.0.1\", user \"alice\", \
                no encryption";
    assert_refused(&startup(V3, &["user", "alice", "replication", "true"]), "28000", text).await;
}

#[tokio::test]
async fn a_slow_starter_is_ended() {
    let hurried = |users: &str| {
        full_context("host all all all scram-sha-256", users, None, None, Duration::from_millis(500))
    };
    let text = "canceling authentication due to timeout";
    let startup = startup_of("alice");
    let mut waiting = Vec::new();
    for sent in [0, 1, 6, startup.len() - 1] {
        let (mut client, running) = connect(hurried("")).await;
        send(&mut client, &startup[..sent]).await;
        waiting.push((client, running));
    }
    for (mut client, running) in waiting {
        assert_fatal(&mut client, "57014", text).await;
        assert!(matches!(refused_with(running).await, HandshakeError::Timeout));
    }
    let (mut client, running) = connect(hurried(&users())).await;
    send(&mut client, &startup).await;
    expect_authentication(&mut client, SASL).await;
    send(&mut client, b"p\0\0").await;
    assert_fatal(&mut client, "57014", text).await;
    assert!(matches!(refused_with(running).await, HandshakeError::Timeout));
}
