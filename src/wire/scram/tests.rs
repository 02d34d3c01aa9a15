//! Vectors of RFC 7677, tables of nasty messages, and the two sides against each other.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";

fn verifier() -> Verifier {
    Verifier::from_password(b"pencil", &STANDARD.decode(SALT).unwrap(), 4096).unwrap()
}

fn server(binding: ServerBinding) -> ServerFirst {
    ServerFirst::new(verifier(), SERVER_NONCE.to_owned(), binding)
}

fn after_client_first() -> ServerFinal {
    server(ServerBinding::NotOffered).client_first(b"n,,n=,r=rOprNGfwEbeRWgbNEkqO").unwrap().1
}

#[test]
fn the_server_answers_as_rfc_7677_shows() {
    let (first, next) = server(ServerBinding::NotOffered)
        .client_first(format!("n,,n=user,r={CLIENT_NONCE}").as_bytes())
        .unwrap();
    let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    assert_eq!(first, format!("r={nonce},s={SALT},i=4096").into_bytes());
    let client_final = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let Verdict::Success(success) = next.client_final(client_final.as_bytes()).unwrap() else {
        panic!("the proof of the RFC is refused")
    };
    assert_eq!(success.server_final, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert_eq!(success.keys, Keys::derive(b"pencil", &STANDARD.decode(SALT).unwrap(), 4096).unwrap());
}

#[test]
fn the_client_speaks_as_rfc_7677_shows() {
    let mut client = ClientFirst::new(
        Credential::Password(b"pencil".to_vec()),
        CLIENT_NONCE.to_owned(),
        ClientBinding::Unsupported,
    );
    assert_eq!(client.message(), format!("n,,n=,r={CLIENT_NONCE}").into_bytes());
    client.bare = format!("n=user,r={CLIENT_NONCE}");
    let server_first = format!("r={CLIENT_NONCE}{SERVER_NONCE},s={SALT},i=4096");
    let challenge = client.server_first(server_first.as_bytes()).unwrap();
    assert_eq!(challenge.rounds(), Some(4096));
    let (client_final, verify) = challenge.respond().unwrap();
    let expected =
        format!("c=biws,r={CLIENT_NONCE}{SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    assert_eq!(String::from_utf8(client_final).unwrap(), expected);
    assert!(verify.server_final(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_ok());
}

#[test]
fn a_verifier_is_read_and_written_as_postgresql_does() {
    let text = verifier().to_string();
    assert!(text.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"), "{text}");
    assert_eq!(text.parse::<Verifier>().unwrap(), verifier());
    let key = STANDARD.encode([7; 32]);
    let short = STANDARD.encode([7; 31]);
    let long_salt = STANDARD.encode([7; MAX_SALT_BYTES + 1]);
    for nonsense in [
        String::new(),
        "md5d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        format!("SCRAM-SHA-256$0:{SALT}${key}:{key}"),
        format!("SCRAM-SHA-256$-1:{SALT}${key}:{key}"),
        format!("SCRAM-SHA-256$+1:{SALT}${key}:{key}"),
        format!("SCRAM-SHA-256$:{SALT}${key}:{key}"),
        format!("SCRAM-SHA-256$2147483647:{SALT}${key}:{key}"),
        format!("SCRAM-SHA-256$4096:${key}:{key}"),
        format!("SCRAM-SHA-256$4096:{long_salt}${key}:{key}"),
        format!("SCRAM-SHA-256$4096:{SALT}${short}:{key}"),
        format!("SCRAM-SHA-256$4096:{SALT}${key}:{short}"),
        format!("SCRAM-SHA-256$4096:{SALT}${key}"),
        format!("SCRAM-SHA-256$4096:{SALT}${key}:{key} "),
        format!("SCRAM-SHA-256$4096:not base64${key}:{key}"),
        format!("SCRAM-SHA-1$4096:{SALT}${key}:{key}"),
    ] {
        assert_eq!(nonsense.parse::<Verifier>(), Err(ParseVerifierError), "{nonsense}");
    }
}

#[test]
fn debug_output_shows_no_secret() {
    let keys = Keys::derive(b"pencil", b"salt", 1).unwrap();
    let shown = format!("{:?} {keys:?} {:?}", verifier(), Credential::Password(b"pencil".to_vec()));
    assert_eq!(shown, "Verifier { iterations: 4096, .. } Keys(…) Password(…)");
}

#[test]
fn passwords_are_prepared_as_postgresql_does() {
    let same = |a: &[u8], b: &[u8]| {
        Verifier::from_password(a, b"salt", 1).unwrap() == Verifier::from_password(b, b"salt", 1).unwrap()
    };
    assert!(same("I\u{AD}X".as_bytes(), b"IX"), "soft hyphen maps to nothing");
    assert!(same("\u{2168}".as_bytes(), b"IX"), "NFKC");
    assert!(same("a\u{A0}b".as_bytes(), b"a b"), "non-ASCII space");
    assert!(!same(b"pencil", b"Pencil"));
    // Prohibited, empty once mapped, not UTF-8: taken raw, and different from one another.
    assert!(!same(b"a\x07", b"a"));
    assert!(!same("\u{AD}".as_bytes(), b""));
    assert!(!same(b"\xff", b"\xfe"));
}

#[test]
fn a_client_first_that_breaks_the_protocol_is_refused() {
    use ScramError::*;
    let end_point = || ServerBinding::EndPoint(b"hash".to_vec());
    let long_nonce = format!("n,,n=,r={}", "x".repeat(MAX_NONCE_BYTES + 1));
    let cases: Vec<(ServerBinding, &[u8], ScramError)> = vec![
        (ServerBinding::NotOffered, b"", Malformed("no GS2 header")),
        (ServerBinding::NotOffered, b"n", Malformed("no GS2 header")),
        (ServerBinding::NotOffered, b"n,", Malformed("no GS2 header")),
        (ServerBinding::NotOffered, b"n,,", Malformed("not an attribute")),
        (ServerBinding::NotOffered, b"n,,n=", AttributeExpected { expected: 'r' }),
        (ServerBinding::NotOffered, b"n,,r=abc", AttributeExpected { expected: 'n' }),
        (ServerBinding::NotOffered, b"n,,n=,s=abc", AttributeExpected { expected: 'r' }),
        (ServerBinding::NotOffered, b"n,,n=,r=", Nonce),
        (ServerBinding::NotOffered, b"n,,n=,r=a b", Nonce),
        (ServerBinding::NotOffered, "n,,n=,r=é".as_bytes(), Nonce),
        (ServerBinding::NotOffered, long_nonce.as_bytes(), Nonce),
        (ServerBinding::NotOffered, b"n,,n=,r=\xff", Malformed("not UTF-8")),
        (ServerBinding::NotOffered, b"n,,m=x,n=,r=abc", UnsupportedExtension),
        (ServerBinding::NotOffered, b"n,,n=,m=x,r=abc", UnsupportedExtension),
        (ServerBinding::NotOffered, b"n,,n=,r=abc,", Malformed("not an attribute")),
        (ServerBinding::NotOffered, b"n,,n=,r=abc,1=x", Malformed("not an attribute")),
        (ServerBinding::NotOffered, b"n,a=root,n=,r=abc", AuthorizationIdentity),
        (ServerBinding::NotOffered, b"n,x,n=,r=abc", Malformed("unexpected attribute in the GS2 header")),
        (ServerBinding::NotOffered, b"z,,n=,r=abc", Malformed("unexpected channel-binding flag")),
        (
            ServerBinding::NotOffered,
            b"p=tls-server-end-point,,n=,r=abc",
            Malformed("channel binding data, but SCRAM-SHA-256-PLUS was not selected"),
        ),
        (ServerBinding::Declined, b"y,,n=,r=abc", Downgrade),
        (end_point(), b"p=tls-unique,,n=,r=abc", UnsupportedBinding),
        (
            end_point(),
            b"n,,n=,r=abc",
            Malformed("SCRAM-SHA-256-PLUS was selected without channel binding data"),
        ),
        (
            end_point(),
            b"y,,n=,r=abc",
            Malformed("SCRAM-SHA-256-PLUS was selected without channel binding data"),
        ),
    ];
    for (binding, message, expected) in cases {
        let shown = String::from_utf8_lossy(message).into_owned();
        assert_eq!(server(binding).client_first(message).map(|_| ()), Err(expected), "{shown}");
    }
    // Allowed: an extension after the nonce, a name, `y` where we offered nothing, `n` where we did.
    assert!(server(ServerBinding::NotOffered).client_first(b"n,,n=joe,r=abc,x=1").is_ok());
    assert!(server(ServerBinding::NotOffered).client_first(b"y,,n=,r=abc").is_ok());
    assert!(server(ServerBinding::Declined).client_first(b"n,,n=,r=abc").is_ok());
}

#[test]
fn a_client_final_that_breaks_the_protocol_is_not_a_wrong_password() {
    use ScramError::*;
    let nonce = format!("{CLIENT_NONCE}{SERVER_NONCE}");
    let proof = STANDARD.encode([0; 32]);
    let cases = [
        (String::new(), AttributeExpected { expected: 'p' }),
        (format!("c=biws,r={nonce}"), AttributeExpected { expected: 'p' }),
        (format!("p={proof}"), AttributeExpected { expected: 'p' }),
        (format!("r={nonce},p={proof}"), AttributeExpected { expected: 'c' }),
        (format!("c=biws,p={proof}"), AttributeExpected { expected: 'r' }),
        (format!("r={nonce},c=biws,p={proof}"), AttributeExpected { expected: 'c' }),
        (format!("m=1,c=biws,r={nonce},p={proof}"), UnsupportedExtension),
        (format!("c=eSws,r={nonce},p={proof}"), BindingMismatch),
        (format!("c=,r={nonce},p={proof}"), BindingMismatch),
        (format!("c=!,r={nonce},p={proof}"), Malformed("c= is not base64")),
        (format!("c=biws,r={CLIENT_NONCE},p={proof}"), Nonce),
        (format!("c=biws,r={nonce}x,p={proof}"), Nonce),
        (format!("c=biws,r={nonce},p="), Malformed("the proof is not 32 bytes in base64")),
        (format!("c=biws,r={nonce},p=AAAA"), Malformed("the proof is not 32 bytes in base64")),
        (format!("c=biws,r={nonce},p={proof},x=1"), Malformed("the proof is not 32 bytes in base64")),
    ];
    for (message, expected) in cases {
        let result = after_client_first().client_final(message.as_bytes());
        assert_eq!(result.map(|_| ()), Err(expected), "{message}");
    }
    let wrong = after_client_first().client_final(format!("c=biws,r={nonce},p={proof}").as_bytes());
    assert!(matches!(wrong, Ok(Verdict::WrongProof)));
}

#[test]
fn an_unknown_user_sees_the_same_salt_each_time_and_never_gets_in() {
    let mock = |user: &[u8]| Verifier::mock(user, &[3; 32], NonZeroU32::new(4096).unwrap());
    assert_eq!(mock(b"alice").salt(), mock(b"alice").salt());
    assert_ne!(mock(b"alice").salt(), mock(b"bob").salt());
    assert_eq!(mock(b"alice").salt(), Verifier::salt_for(b"alice", &[3; 32]));
    assert_ne!(mock(b"alice").salt(), Verifier::mock(b"alice", &[4; 32], NonZeroU32::MIN).salt());

    // Even with the very password of the verifier it was given.
    let client = ClientFirst::new(
        Credential::Password(b"pencil".to_vec()),
        "abc".to_owned(),
        ClientBinding::Unsupported,
    );
    let doomed = ServerFirst::doomed(verifier(), "def".to_owned(), ServerBinding::NotOffered);
    let (server_first, next) = doomed.client_first(&client.message()).unwrap();
    let (client_final, _) = client.server_first(&server_first).unwrap().respond().unwrap();
    assert!(matches!(next.client_final(&client_final), Ok(Verdict::WrongProof)));
}

#[test]
fn a_server_that_asks_too_much_or_lies_is_refused_before_any_round_is_computed() {
    use ScramError::*;
    let read = |message: &str| {
        let password = Credential::Password(b"pencil".to_vec());
        ClientFirst::new(password, "abc".to_owned(), ClientBinding::Unsupported)
            .server_first(message.as_bytes())
            .map(|_| ())
    };
    assert_eq!(read("r=abcdef,s=c2FsdA==,i=4096"), Ok(()));
    let huge_nonce = format!("r=abc{},s=c2FsdA==,i=4096", "x".repeat(10_000));
    let huge_salt = format!("r=abcdef,s={},i=4096", "A".repeat(10_000));
    for (message, expected) in [
        ("", Malformed("not an attribute")),
        ("r=abcdef,s=c2FsdA==,i=2147483647", Iterations(2_147_483_647)),
        ("r=abcdef,s=c2FsdA==,i=1000001", Iterations(1_000_001)),
        ("r=abcdef,s=c2FsdA==,i=99999999999999999999999", Iterations(u64::MAX)),
        ("r=abcdef,s=c2FsdA==,i=0", Iterations(0)),
        ("r=abcdef,s=c2FsdA==,i=-1", Malformed("i= is not a number")),
        ("r=abcdef,s=c2FsdA==,i=", Malformed("i= is not a number")),
        ("r=abcdef,s=c2FsdA==", AttributeExpected { expected: 'i' }),
        ("r=abcdef,i=4096", AttributeExpected { expected: 's' }),
        ("s=c2FsdA==,i=4096", AttributeExpected { expected: 'r' }),
        ("r=abcdef,s=,i=4096", Malformed("salt of an unreasonable length")),
        ("r=abcdef,s=!,i=4096", Malformed("s= is not base64")),
        ("r=abc,s=c2FsdA==,i=4096", Nonce),
        ("r=abd1,s=c2FsdA==,i=4096", Nonce),
        ("r=abc\x01,s=c2FsdA==,i=4096", Nonce),
        ("m=x,r=abcdef,s=c2FsdA==,i=4096", UnsupportedExtension),
        (&huge_nonce, Nonce),
        (&huge_salt, Malformed("salt of an unreasonable length")),
    ] {
        assert_eq!(read(message), Err(expected), "{message}");
    }
}

#[test]
fn a_server_that_does_not_prove_to_know_the_verifier_is_refused() {
    let verify = || {
        let password = Credential::Password(b"pencil".to_vec());
        ClientFirst::new(password, "abc".to_owned(), ClientBinding::Unsupported)
            .server_first(b"r=abcdef,s=c2FsdA==,i=1")
            .unwrap()
            .respond()
            .unwrap()
            .1
    };
    let wrong = format!("v={}", STANDARD.encode([0; 32]));
    assert_eq!(verify().server_final(wrong.as_bytes()), Err(ScramError::ServerSignature));
    assert_eq!(verify().server_final(b"v="), Err(ScramError::ServerSignature));
    assert_eq!(verify().server_final(b"e=invalid-proof"), Err(ScramError::Refused));
    assert_eq!(verify().server_final(b"r=abc"), Err(ScramError::AttributeExpected { expected: 'v' }));
    assert_eq!(verify().server_final(b""), Err(ScramError::Malformed("not an attribute")));
}

#[test]
fn keys_are_not_spent_on_a_server_with_another_verifier() {
    let keys = Keys::derive(b"pencil", b"salt", 2).unwrap();
    for server_first in ["r=abcdef,s=c2FsdA==,i=1", "r=abcdef,s=c2FsdDI=,i=2"] {
        let client =
            ClientFirst::new(Credential::Keys(keys.clone()), "abc".to_owned(), ClientBinding::Unsupported);
        let result = client.server_first(server_first.as_bytes());
        assert!(matches!(result, Err(ScramError::OtherVerifier)), "{server_first}");
    }
}

/// Both sides' idea of the channel binding.
fn bindings() -> impl Strategy<Value = (ServerBinding, ClientBinding)> {
    prop_oneof![
        Just((ServerBinding::NotOffered, ClientBinding::Unsupported)),
        Just((ServerBinding::NotOffered, ClientBinding::NotOffered)),
        Just((ServerBinding::Declined, ClientBinding::Unsupported)),
        prop::collection::vec(any::<u8>(), 0..64)
            .prop_map(|hash| (ServerBinding::EndPoint(hash.clone()), ClientBinding::EndPoint(hash))),
    ]
}

/// Runs an exchange to its end: the server's verdict, and whether the client believed the server.
fn run(server: ServerFirst, client: ClientFirst) -> Result<(Verdict, bool), ScramError> {
    let (server_first, server) = server.client_first(&client.message())?;
    let (client_final, client) = client.server_first(&server_first)?.respond()?;
    let verdict = server.client_final(&client_final)?;
    let believed = match &verdict {
        Verdict::Success(success) => client.server_final(&success.server_final).is_ok(),
        Verdict::WrongProof => false,
    };
    Ok((verdict, believed))
}

proptest! {
    #![proptest_config(crate::properties::properties())]

    #[test]
    fn both_sides_agree_and_the_clients_key_comes_out(
        password in prop::collection::vec(any::<u8>(), 0..40),
        other in prop::collection::vec(any::<u8>(), 0..40),
        salt in prop::collection::vec(any::<u8>(), 1..40),
        iterations in 1_u32..20,
        nonces in ("[!-+\\--~]{1,40}", "[!-+\\--~]{1,40}"),
        (server_binding, client_binding) in bindings(),
    ) {
        let keys = Keys::derive(&password, &salt, iterations).unwrap();
        let client = |credential| ClientFirst::new(credential, nonces.0.clone(), client_binding.clone());
        let server = || ServerFirst::new(keys.verifier.clone(), nonces.1.clone(), server_binding.clone());

        let (verdict, believed) = run(server(), client(Credential::Password(password.clone()))).unwrap();
        let Verdict::Success(success) = verdict else { panic!("the right password is refused") };
        prop_assert!(believed);
        prop_assert_eq!(&success.keys, &keys);
        // What the exchange revealed logs in by itself.
        let (verdict, believed) = run(server(), client(Credential::Keys(success.keys))).unwrap();
        prop_assert!(matches!(verdict, Verdict::Success(_)) && believed);

        let differs = Verifier::from_password(&other, &salt, iterations).unwrap() != keys.verifier;
        let (verdict, _) = run(server(), client(Credential::Password(other))).unwrap();
        prop_assert_eq!(matches!(verdict, Verdict::WrongProof), differs);
    }

    #[test]
    fn another_certificate_on_the_way_is_noticed(a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
        prop_assume!(a != b);
        let verifier = Verifier::from_password(b"x", b"salt", 1).unwrap();
        let server = ServerFirst::new(verifier, "def".to_owned(), ServerBinding::EndPoint(a.to_vec()));
        let client = ClientFirst::new(
            Credential::Password(b"x".to_vec()), "abc".to_owned(), ClientBinding::EndPoint(b.to_vec()));
        prop_assert_eq!(run(server, client).map(|_| ()), Err(ScramError::BindingMismatch));
    }

    #[test]
    fn no_message_makes_either_side_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        text in "[nyp],(a=x)?,?([a-z]=[A-Za-z0-9+/=]{0,50},?){0,6}",
    ) {
        let verifier = || Verifier::from_password(b"x", b"salt", 1).unwrap();
        let client = || ClientFirst::new(
            Credential::Password(b"x".to_vec()), "abc".to_owned(), ClientBinding::Unsupported);
        for message in [&bytes[..], text.as_bytes(), &text.as_bytes()[text.len().min(3)..]] {
            for binding in [ServerBinding::NotOffered, ServerBinding::Declined, ServerBinding::EndPoint(vec![1])] {
                let _ = ServerFirst::new(verifier(), "def".to_owned(), binding).client_first(message);
            }
            let server = ServerFirst::new(verifier(), "def".to_owned(), ServerBinding::NotOffered);
            let (server_first, server) = server.client_first(&client().message()).unwrap();
            let verdict = server.client_final(message);
            prop_assert!(!matches!(verdict, Ok(Verdict::Success(_))));
            let _ = client().server_first(message);
            let (_, verify) = client().server_first(&server_first).unwrap().respond().unwrap();
            prop_assert!(verify.server_final(message).is_err());
            let _ = std::str::from_utf8(message).map(|text| text.parse::<Verifier>());
        }
    }
}
