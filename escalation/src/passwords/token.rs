//! IAM tokens of RDS: a request to `rds-db:connect`, signed for one server, port and role, that serves as the password.
//!
//! Signed here, for each connection: nothing is asked of AWS but the node's own credentials, which are kept fresh, and a
//! token is never old. It is good for 15 minutes, and for logging in only: connections that are open stay.
//! Source: <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.Connecting.html>

use super::{NoPassword, Password, Passwords, Source};
use crate::aws::{AwsSettings, sdk_config};
use crate::finding::Finding;
use crate::reason::Reason;
use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_ec2::config::Region;
use aws_sdk_ec2::error::DisplayErrorContext;
use aws_sdk_rds::auth_token::{AuthTokenGenerator, Config};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::fmt;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// The longest that AWS allows.
const VALID_FOR: Duration = Duration::from_secs(900);
/// An instance's credentials are there hours before the old ones end.
const LOOK_EVERY: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// Of one question for credentials.
const ASK_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    pub user: String,
    /// None: the one in the server's name, else that of `AwsSettings`.
    pub region: Option<String>,
}

#[derive(Clone)]
pub struct TokenPasswords {
    settings: TokenSettings,
    aws: AwsSettings,
    known: watch::Sender<Known>,
}

#[derive(Default)]
struct Known {
    credentials: Option<Credentials>,
    /// Why the last question brought none.
    failure: Option<String>,
}

impl TokenPasswords {
    /// There are none before `keep` runs.
    pub fn new(settings: TokenSettings, aws: AwsSettings) -> TokenPasswords {
        TokenPasswords { settings, aws, known: watch::Sender::new(Known::default()) }
    }

    fn none(&self, why: impl Into<String>) -> NoPassword {
        NoPassword { user: self.settings.user.clone(), why: why.into() }
    }

    async fn sign(&self, host: &str, port: u16) -> Result<Password, NoPassword> {
        let mut known = self.known.subscribe();
        let asked = known.wait_for(|known| known.credentials.is_some() || known.failure.is_some());
        let credentials = match tokio::time::timeout(FIRST_WITHIN, asked).await {
            Ok(Ok(known)) => known.credentials.clone().ok_or_else(|| known.failure.clone()),
            _ => Err(None),
        };
        let credentials = credentials.map_err(|why| {
            self.none(why.unwrap_or_else(|| "AWS credentials are being asked for".to_owned()))
        })?;
        if credentials.expiry().is_some_and(|expiry| expiry <= SystemTime::now()) {
            return Err(self.none("this node's AWS credentials have expired, and there are no new ones"));
        }
        let region =
            self.settings.region.as_deref().or_else(|| region_of(host)).or(self.aws.region.as_deref());
        let region = region.ok_or_else(|| {
            self.none(format!(
                "the name {host} does not say its region: set server_user.region or aws.region"
            ))
        })?;
        let request = Config::builder()
            .hostname(host)
            .port(u64::from(port))
            // It goes into a URL as it is.
            .username(percent_encoded(&self.settings.user))
            .region(Region::new(region.to_owned()))
            .credentials(credentials)
            .expires_in(VALID_FOR.as_secs())
            .build()
            .map_err(|error| self.none(error.to_string()))?;
        let signed = AuthTokenGenerator::new(request).auth_token(&clock()).await;
        signed.map(|token| Password::token(token.as_str())).map_err(|error| self.none(error.to_string()))
    }

    async fn keep_credentials(&self) {
        let config = sdk_config(&self.aws, self.aws.region.as_deref()).await;
        loop {
            let asked = match config.credentials_provider() {
                Some(provider) => tokio::time::timeout(ASK_WITHIN, provider.provide_credentials())
                    .await
                    .map_err(|_| "they were not given in time".to_owned())
                    .and_then(|given| given.map_err(|error| DisplayErrorContext(&error).to_string())),
                None => Err("there is no provider of them".to_owned()),
            };
            let pause = if asked.is_ok() { LOOK_EVERY } else { LOOK_AGAIN };
            self.take(asked);
            tokio::time::sleep(pause).await;
        }
    }

    /// Credentials that are not expired yet go on serving when there are no new ones.
    fn take(&self, asked: Result<Credentials, String>) {
        let before = self.known.borrow().failure.is_some();
        match &asked {
            Err(why) if !before => {
                tracing::warn!(user = self.settings.user, why, "no AWS credentials to sign tokens with");
            }
            Ok(_) if before => tracing::info!(user = self.settings.user, "AWS credentials are there again"),
            _ => {}
        }
        self.known.send_modify(|known| match asked {
            Ok(credentials) => *known = Known { credentials: Some(credentials), failure: None },
            Err(why) => known.failure = Some(format!("no AWS credentials: {why}")),
        });
    }
}

impl Passwords for TokenPasswords {
    fn next<'a>(
        &'a self,
        host: &'a str,
        port: u16,
        refused: &'a [Password],
    ) -> BoxFuture<'a, Result<Option<Password>, NoPassword>> {
        async move {
            match refused {
                [] => self.sign(host, port).await.map(Some),
                // Another one would be the same.
                _ => Ok(None),
            }
        }
        .boxed()
    }

    fn accepted(&self, _: &str, _: u16, _: &Password) {}
}

impl Source for TokenPasswords {
    fn keep(&self) -> BoxFuture<'_, ()> {
        self.keep_credentials().boxed()
    }

    fn finding(&self) -> Finding {
        let subject = "AWS credentials to sign IAM tokens with";
        let known = self.known.borrow();
        match (&known.failure, &known.credentials) {
            (Some(why), _) => Finding::wrong(subject, Reason::CredentialsRefused, why),
            (None, Some(_)) => Finding::fine(subject),
            (None, None) => Finding::unknown(subject, "they are being asked for"),
        }
    }
}

impl fmt::Debug for TokenPasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenPasswords").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// All that signing takes of a configuration is the time.
fn clock() -> SdkConfig {
    let mut config = SdkConfig::builder();
    config.set_time_source(Some(Default::default()));
    config.build()
}

/// Of `name.id.eu-central-1.rds.amazonaws.com`, in whichever partition.
fn region_of(host: &str) -> Option<&str> {
    let host = host.trim_end_matches('.');
    let before =
        host.strip_suffix(".rds.amazonaws.com").or_else(|| host.strip_suffix(".rds.amazonaws.com.cn"))?;
    before.rsplit('.').next().filter(|region| region.contains('-'))
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_in_the_name_of_a_server_of_rds() {
        for (host, region) in [
            ("shop.abc123.eu-central-1.rds.amazonaws.com", Some("eu-central-1")),
            ("shop.cluster-abc.us-gov-west-1.rds.amazonaws.com.", Some("us-gov-west-1")),
            ("shop.abc.cn-north-1.rds.amazonaws.com.cn", Some("cn-north-1")),
            ("db.example.org", None),
            ("rds.amazonaws.com", None),
        ] {
            assert_eq!(region_of(host), region, "{host}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_credentials_there_is_none_and_expired_ones_sign_nothing() {
        let settings = TokenSettings { user: "app".to_owned(), region: None };
        let passwords = TokenPasswords::new(settings, AwsSettings::default());
        let host = "shop.abc.eu-central-1.rds.amazonaws.com";
        let why = |result: Result<Option<Password>, NoPassword>| result.unwrap_err().to_string();
        assert!(why(passwords.next(host, 5432, &[]).await).contains("being asked"));
        passwords.take(Err("nobody answers".to_owned()));
        assert!(why(passwords.next(host, 5432, &[]).await).contains("nobody answers"));
        assert!(passwords.finding().is_wrong());

        let until = |at| Credentials::new("AKID", "do not show", None, Some(at), "test");
        passwords.take(Ok(until(SystemTime::now() + Duration::from_secs(60))));
        let token = passwords.next(host, 5432, &[]).await.unwrap().unwrap();
        assert_eq!(passwords.next(host, 5432, std::slice::from_ref(&token)).await, Ok(None));
        assert!(why(passwords.next("db.example.org", 5432, &[]).await).contains("region"));
        let shown = format!("{passwords:?} {token:?} {:?}", passwords.finding());
        assert!(!shown.contains("do not show") && !shown.contains("Signature"), "{shown}");

        // No new ones, but the old ones are good.
        passwords.take(Err("nobody answers".to_owned()));
        assert!(passwords.next(host, 5432, &[]).await.is_ok() && passwords.finding().is_wrong());
        passwords.take(Ok(until(SystemTime::now() - Duration::from_secs(1))));
        assert!(why(passwords.next(host, 5432, &[]).await).contains("expired"));
    }
}
