//! Users whom a server is asked for.

use super::*;
use crate::client::error::Reason;

fn ask(answer: impl Fn(&str) -> Result<Lookup, LookupError> + Send + Sync + 'static) -> Option<AskServer> {
    Some(Arc::new(move |asking| {
        let answer = answer(&asking.user);
        Box::pin(async move { answer })
    }))
}

fn asking(rule: &str, ask_server: Option<AskServer>) -> HandshakeContext {
    full_context(&format!("host all all all {rule}"), "\"bob\" \"secret\"", ask_server, None, PATIENCE)
}

/// Goes through SCRAM as `user` with the right password.
async fn try_scram(context: HandshakeContext, user: &str) -> (TcpStream, Running) {
    let (mut client, running) = connect(context).await;
    send(&mut client, &startup_of(user)).await;
    expect_authentication(&mut client, SASL).await;
    prove(&mut client, "SCRAM-SHA-256", "secret", ClientBinding::Unsupported).await;
    (client, running)
}

#[tokio::test]
async fn a_server_is_asked_for_users_the_file_does_not_name() {
    let answer = |user: &str| {
        assert_eq!(user, "dave", "the user file comes first");
        Ok(Lookup { secret: Some(Secret::Scram(verifier())), may_login: true })
    };
    for user in ["bob", "dave"] {
        let (_client, running) = try_scram(asking("scram-sha-256", ask(answer)), user).await;
        assert_eq!(admitted(running).await.user, user);
    }
}

#[tokio::test]
async fn who_may_not_log_in_reads_what_a_wrong_password_reads() {
    let answer = |_: &str| Ok(Lookup { secret: Some(Secret::Scram(verifier())), may_login: false });
    let (mut client, running) = try_scram(asking("scram-sha-256", ask(answer)), "dave").await;
    assert_fatal(&mut client, "28P01", "password authentication failed for user \"dave\"").await;
    match refused_with(running).await {
        HandshakeError::Password { reason, .. } => assert_eq!(reason, Reason::MayNotLogIn),
        other => panic!("{other}"),
    }

    let (mut client, running) = connect(asking("trust", ask(answer))).await;
    send(&mut client, &startup_of("dave")).await;
    assert_fatal(&mut client, "28000", "role \"dave\" is not permitted to log in").await;
    refused_with(running).await;
}

#[tokio::test]
async fn no_answer_refuses_the_login_whatever_the_method() {
    let failing = |kind: NoAnswer| {
        ask(move |user: &str| {
            let (user, reason) = (user.to_owned(), "db1:5432 timed out".to_owned());
            Err(LookupError { user, reason, kind: kind.clone() })
        })
    };
    for rule in ["trust", "scram-sha-256", "md5"] {
        let (mut client, running) = connect(asking(rule, failing(NoAnswer::Lasting))).await;
        send(&mut client, &startup_of("dave")).await;
        assert_fatal(&mut client, "08006", "could not look up user \"dave\"").await;
        let error = refused_with(running).await.to_string();
        assert!(error.contains("db1:5432 timed out"), "{error}");
        let in_vain = NoAnswer::WaitedInVain("no server could take the login".to_owned());
        let (mut client, running) = connect(asking(rule, failing(in_vain))).await;
        send(&mut client, &startup_of("dave")).await;
        assert_fatal(&mut client, "57P03", "no server could take the login").await;
        let error = refused_with(running).await.to_string();
        assert!(error.contains("db1:5432 timed out"), "{error}");
    }
}

#[tokio::test]
async fn what_a_lookup_takes_is_not_the_clients_time() {
    const STARTUP_TIMEOUT: Duration = Duration::from_secs(2);
    let slow: AskServer = Arc::new(|_| {
        Box::pin(async {
            tokio::time::sleep(STARTUP_TIMEOUT + Duration::from_millis(200)).await;
            Ok(Lookup { secret: None, may_login: true })
        })
    });
    let context = full_context("host all all all trust", "", Some(slow), None, STARTUP_TIMEOUT);
    let (mut client, running) = connect(context).await;
    send(&mut client, &startup_of("dave")).await;
    assert_eq!(admitted(running).await.user, "dave");
}

#[tokio::test]
async fn who_leaves_while_its_user_is_looked_up_is_not_waited_for() {
    let never: AskServer = Arc::new(|_| Box::pin(std::future::pending()));
    for ahead in [&b""[..], b"X\0\0\0\x04"] {
        let (mut client, running) = connect(asking("trust", Some(never.clone()))).await;
        send(&mut client, &[&startup_of("dave"), ahead].concat()).await;
        drop(client);
        assert!(matches!(refused_with(running).await, HandshakeError::Disconnected));
    }
}
