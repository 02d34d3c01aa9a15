//! A secret is followed through its rotation, and what was known stays known whatever becomes of the API.

use crate::support::{Fault, World, moto, until, within};
use futures_util::FutureExt as _;
use komainu_aws_double::Api;
use komainu_aws_double::api::REGION;
use komainu_escalation::finding::Verdict;
use komainu_escalation::passwords::{
    Password, Passwords as _, SecretPasswords, SecretSettings, Source, TokenPasswords, TokenSettings,
};
use komainu_escalation::{AwsSettings, Reason};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const HOST: &str = "shop.abc.eu-central-1.rds.amazonaws.com";

struct Secret {
    api: Api,
    arn: String,
}

fn value(password: &str) -> String {
    format!(r#"{{\"username\":\"app\",\"password\":\"{password}\",\"engine\":\"postgres\"}}"#)
}

impl Secret {
    async fn create(password: &str) -> Secret {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let api = Api { moto: moto().address() };
        let name = format!("app-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let body = format!(
            r#"{{"Name":"{name}","SecretString":"{}","ClientRequestToken":"{:032}"}}"#,
            value(password),
            1
        );
        let answer: serde_json::Value =
            serde_json::from_str(&api.secrets_manager("CreateSecret", &body).await.unwrap()).unwrap();
        Secret { api, arn: answer["ARN"].as_str().unwrap().to_owned() }
    }

    async fn ask(&self, action: &str, rest: &str) {
        let body = format!(r#"{{"SecretId":"{}"{rest}}}"#, self.arn);
        self.api.secrets_manager(action, &body).await.unwrap();
    }

    /// A new version, pending.
    async fn put(&self, version: u32, password: &str) {
        let (text, labels) = (value(password), r#"["AWSPENDING"]"#);
        let rest = format!(
            r#","ClientRequestToken":"{version:032}","SecretString":"{text}","VersionStages":{labels}"#
        );
        self.ask("PutSecretValue", &rest).await;
    }

    /// A new version in the place of the first one.
    async fn rotate(&self, version: u32, password: &str) {
        self.put(version, password).await;
        let (to, from) = (format!("{version:032}"), format!("{:032}", 1));
        let rest = format!(
            r#","VersionStage":"AWSCURRENT","MoveToVersionId":"{to}","RemoveFromVersionId":"{from}""#
        );
        self.ask("UpdateSecretVersionStage", &rest).await;
    }
}

fn settings(world: &World) -> AwsSettings {
    AwsSettings {
        region: Some(REGION.to_owned()),
        endpoint_url: Some(world.proxy.url()),
        metadata_endpoint: Some(world.nodes[0].imds.url()),
        ..AwsSettings::default()
    }
}

fn keep<P: Source + 'static>(passwords: P) -> Arc<P> {
    let kept = Arc::new(passwords);
    let keeper = kept.clone();
    tokio::spawn(async move { keeper.keep().await });
    kept
}

fn of(world: &World, secret: &Secret, refresh: Duration) -> Arc<SecretPasswords> {
    let settings_of = SecretSettings { user: "app".to_owned(), arn: secret.arn.clone(), refresh };
    keep(SecretPasswords::new(settings_of, settings(world)))
}

async fn next(passwords: &dyn Source, refused: &[Password]) -> Option<Password> {
    within("a password", passwords.next(HOST, 5432, refused)).await.unwrap()
}

fn reason(passwords: &dyn Source) -> Option<Reason> {
    match passwords.finding().verdict {
        Verdict::Wrong { reason, .. } => Some(reason),
        _ => None,
    }
}

const HOURLY: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_picked_up_when_a_server_refuses_and_the_other_versions_are_tried() {
    let world = World::of(&["n1"]).await;
    let secret = Secret::create("one").await;
    let passwords = of(&world, &secret, HOURLY);
    let [one, two, three] = ["one", "two", "three"].map(Password::new);
    assert_eq!(next(&*passwords, &[]).await, Some(one.clone()));
    passwords.accepted(HOST, 5432, &one);

    // The server has the next one before it is current.
    secret.put(2, "two").await;
    assert_eq!(next(&*passwords, &[]).await, Some(one.clone()), "nobody has refused it yet");
    assert_eq!(next(&*passwords, std::slice::from_ref(&one)).await, Some(two.clone()));
    passwords.accepted(HOST, 5432, &two);
    assert_eq!(next(&*passwords, &[]).await, Some(two.clone()), "what was taken last comes first");
    let other = within("a password", passwords.next("other", 5432, &[])).await.unwrap();
    assert_eq!(other, Some(one.clone()), "but only there");

    // It is current before the server has it.
    secret.rotate(3, "three").await;
    let left = next(&*passwords, std::slice::from_ref(&two)).await;
    assert!(left.is_some_and(|left| left == one), "what is known comes first");
    assert_eq!(next(&*passwords, &[two.clone(), one.clone()]).await, Some(three.clone()));
    assert_eq!(next(&*passwords, &[two, one, three]).await, None, "no other is made up");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_hangs_keeps_no_login_from_what_is_known() {
    let world = World::of(&["n1"]).await;
    let secret = Secret::create("one").await;
    secret.rotate(2, "two").await;
    let passwords = of(&world, &secret, HOURLY);
    let [one, two] = ["one", "two"].map(Password::new);
    assert_eq!(next(&*passwords, &[]).await, Some(two.clone()));
    world.proxy.fault(&["GetSecretValue"], Fault::Hold, None);
    // Without waiting for anything.
    let refused = [two];
    let left = passwords.next(HOST, 5432, &refused).now_or_never().expect("it is known");
    assert_eq!(left.unwrap(), Some(one.clone()));
    until("it is asked for beside", async || world.proxy.waiting() > 0).await;
    // When nothing is left, the login ends although the question does not.
    let [two] = refused;
    assert_eq!(next(&*passwords, &[two, one]).await, None);
    assert!(world.proxy.waiting() > 0, "it still hangs");
    world.proxy.let_go();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_fetched_again_by_itself() {
    let world = World::of(&["n1"]).await;
    let secret = Secret::create("one").await;
    let passwords = of(&world, &secret, Duration::from_millis(200));
    assert_eq!(next(&*passwords, &[]).await, Some(Password::new("one")));
    secret.rotate(2, "two").await;
    until("the new one is known", async || next(&*passwords, &[]).await == Some(Password::new("two"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_outlives_the_api_and_the_secret() {
    let world = World::of(&["n1"]).await;
    let secret = Secret::create("one").await;
    let passwords = of(&world, &secret, Duration::from_millis(200));
    let one = Password::new("one");
    assert_eq!(next(&*passwords, &[]).await, Some(one.clone()));
    assert!(!passwords.finding().is_wrong());
    for (fault, expected) in [
        (Fault::Throttle, Reason::Throttled),
        (Fault::ServerError, Reason::OutcomeUnknown),
        (Fault::Deny, Reason::NotPermitted),
        (Fault::Reset, Reason::OutcomeUnknown),
        // More than a request may take.
        (Fault::Delay(Duration::from_secs(4)), Reason::OutcomeUnknown),
    ] {
        let what = format!("{fault:?} is told");
        world.proxy.fault(&["GetSecretValue"], fault, None);
        until(&what, async || reason(&*passwords) == Some(expected)).await;
        assert_eq!(next(&*passwords, &[]).await, Some(one.clone()));
        world.proxy.heal();
        until("it is fetched again", async || reason(&*passwords).is_none()).await;
    }
    secret.ask("DeleteSecret", "").await;
    until("its end is told", async || reason(&*passwords) == Some(Reason::SecretMissing)).await;
    assert_eq!(next(&*passwords, &[]).await, Some(one));
    let shown = format!("{passwords:?} {:?}", passwords.finding());
    assert!(!shown.contains("\"one\""), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_never_there_or_is_anothers_is_an_error_that_says_so() {
    let world = World::of(&["n1"]).await;
    let secret = Secret::create("one").await;
    let gone = Secret { api: secret.api, arn: format!("{}x", secret.arn) };
    let passwords = of(&world, &gone, HOURLY);
    let error = within("an answer", passwords.next(HOST, 5432, &[])).await.unwrap_err();
    assert!(error.to_string().contains(Reason::SecretMissing.sentence()), "{error}");
    assert_eq!(reason(&*passwords), Some(Reason::SecretMissing));

    let others = SecretSettings { user: "other".to_owned(), arn: secret.arn.clone(), refresh: HOURLY };
    let passwords = keep(SecretPasswords::new(others, settings(&world)));
    let error = within("an answer", passwords.next(HOST, 5432, &[])).await.unwrap_err().to_string();
    assert!(error.contains("it is of role \"app\"") && !error.contains("one\""), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_logins_wait_for_one_question() {
    let world = World::of(&["n1"]).await;
    let secret = Secret::create("one").await;
    let passwords = of(&world, &secret, HOURLY);
    let one = next(&*passwords, &[]).await.unwrap();
    secret.rotate(2, "two").await;
    let asked = || world.proxy.calls().iter().filter(|call| call.operation == "GetSecretValue").count();
    let before = asked();
    let mut logins = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (passwords, one) = (passwords.clone(), one.clone());
        logins.spawn(async move { next(&*passwords, std::slice::from_ref(&one)).await });
    }
    while let Some(login) = logins.join_next().await {
        assert_eq!(login.unwrap(), Some(Password::new("two")));
    }
    assert!(asked() - before <= 12, "{} requests for three versions", asked() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_signed_with_the_credentials_of_the_instance() {
    let world = World::of(&["n1"]).await;
    let token = TokenSettings { user: "app user".to_owned(), region: None };
    let passwords = keep(TokenPasswords::new(token, settings(&world)));
    let token = next(&*passwords, &[]).await.unwrap();
    let text = token.expose();
    let by = format!("X-Amz-Credential={}%2F", world.nodes[0].access_key);
    for part in
        [&format!("{HOST}:5432/?Action=connect&DBUser=app%20user&"), &by, "%2Feu-central-1%2Frds-db%2F"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(world.proxy.calls().iter().all(|call| call.by != world.nodes[0].access_key), "AWS was not asked");
    assert!(!passwords.finding().is_wrong());
}
