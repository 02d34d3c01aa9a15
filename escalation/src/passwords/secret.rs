//! A role's password out of a secret of Secrets Manager, which somebody rotates.
//!
//! Fetched at the start, every so often, and when a server refuses what is known; one question at a time, however many
//! logins wait for it. Invariant: an answer that cannot be had, or used, changes nothing of what is known.

use super::versions::{CURRENT, PENDING, PREVIOUS, Versions, read};
use super::{NoPassword, Password, Passwords, Source};
use crate::aws::client_error::describe;
use crate::aws::{AwsError, AwsSettings, sdk_config};
use crate::error::Fault;
use crate::finding::Finding;
use crate::reason::Reason;
use aws_sdk_secretsmanager::Client;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

const OPERATION: &str = "GetSecretValue";
/// After a failure the next question comes sooner than `refresh`.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Between questions because of a refusal that brought nothing new; doubled each time.
const FIRST_GAP: Duration = Duration::from_millis(500);
const LONGEST_GAP: Duration = Duration::from_secs(5);
/// After so long it is a new trouble.
const QUIET: Duration = Duration::from_secs(30);
/// More than a cluster has.
const SERVERS_KEPT: usize = 100;
/// For a login that waits for an answer: well within what a look may take (`health.connect_timeout_ms`), or a server would
/// seem to be silent that has refused a password. A later answer serves the next login.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSettings {
    pub user: String,
    pub arn: String,
    /// How often it is fetched without need.
    pub refresh: Duration,
}

impl SecretSettings {
    /// `arn:aws:secretsmanager:REGION:…`
    pub fn region(&self) -> Option<&str> {
        let mut parts = self.arn.split(':');
        let is_secret = parts.next() == Some("arn") && parts.nth(1) == Some("secretsmanager");
        parts.next().filter(|region| is_secret && !region.is_empty())
    }
}

pub struct SecretPasswords {
    settings: SecretSettings,
    aws: AwsSettings,
    known: watch::Sender<Known>,
    wanted: Notify,
    /// What each server took last: one that lags behind a rotation still has the password before.
    taken: Mutex<HashMap<(String, u16), Password>>,
}

#[derive(Clone, Default)]
struct Known {
    versions: Option<Versions>,
    trouble: Option<(Reason, String)>,
    /// How often it was wanted, and of these, which have been answered.
    wanted: u64,
    answered: u64,
}

impl SecretPasswords {
    /// Nothing is known before `keep` runs.
    pub fn new(settings: SecretSettings, aws: AwsSettings) -> SecretPasswords {
        SecretPasswords {
            settings,
            aws,
            known: watch::Sender::new(Known::default()),
            wanted: Notify::new(),
            taken: Mutex::default(),
        }
    }

    async fn find(
        &self,
        server: (String, u16),
        refused: &[Password],
    ) -> Result<Option<Password>, NoPassword> {
        // A login has little time, and the API may take its own: what is known is tried first, and what is new fetched beside.
        if let Some(known) = self.untried(&server, refused) {
            if refused.len() == 1 {
                self.want();
            }
            return Ok(Some(known));
        }
        self.ask().await;
        let known = self.known.borrow();
        let Some(versions) = &known.versions else {
            let why = match &known.trouble {
                Some((reason, detail)) => format!("{}: {} ({detail})", self.settings.arn, reason.sentence()),
                None => format!("{} has not been fetched yet", self.settings.arn),
            };
            return Err(NoPassword { user: self.settings.user.clone(), why });
        };
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(versions.next(taken.get(&server), refused).cloned())
    }

    fn untried(&self, server: &(String, u16), refused: &[Password]) -> Option<Password> {
        let known = self.known.borrow();
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        known.versions.as_ref()?.next(taken.get(server), refused).cloned()
    }

    /// Has a question asked that begins after this; says which.
    fn want(&self) -> u64 {
        let mut mine = 0;
        self.known.send_modify(|known| {
            known.wanted += 1;
            mine = known.wanted;
        });
        self.wanted.notify_one();
        mine
    }

    /// Until a question that began after this was answered; not for ever.
    async fn ask(&self) {
        let mine = self.want();
        let mut known = self.known.subscribe();
        let answered = known.wait_for(|known| known.answered >= mine);
        // Late is as good as no answer: what is known is used.
        let _ = tokio::time::timeout(ANSWER_WITHIN, answered).await;
    }

    async fn keep_fetching(&self) {
        let region = self.settings.region().map(str::to_owned).or_else(|| self.aws.region.clone());
        let client = Client::new(&sdk_config(&self.aws, region.as_deref()).await);
        let mut gap = FIRST_GAP;
        loop {
            let (begun, answers) = (Instant::now(), self.known.borrow().wanted);
            let fetched = self.fetch(&client).await;
            let failed = fetched.is_err();
            let is_new = self.take(fetched, answers);
            gap = if is_new { FIRST_GAP } else { (gap * 2).min(LONGEST_GAP) };
            let due = if failed { ASK_AGAIN.min(self.settings.refresh) } else { self.settings.refresh };
            tokio::select! {
                () = tokio::time::sleep_until(begun + due) => gap = FIRST_GAP,
                () = self.wanted.notified() => {
                    if begun.elapsed() > QUIET {
                        gap = FIRST_GAP;
                    }
                    tokio::time::sleep_until(begun + gap).await;
                }
            }
        }
    }

    /// True: it has brought something.
    fn take(&self, fetched: Result<Versions, (Reason, String)>, answers: u64) -> bool {
        let (user, arn) = (&self.settings.user, &self.settings.arn);
        let before = self.known.borrow().clone();
        let is_new = fetched.as_ref().is_ok_and(|versions| before.versions.as_ref() != Some(versions));
        match &fetched {
            Err((reason, detail)) if before.trouble.as_ref().is_none_or(|(known, _)| known != reason) => {
                let kept = before.versions.is_some();
                tracing::warn!(user, arn, %reason, detail, kept, "the secret cannot be fetched");
            }
            Ok(_) if before.trouble.is_some() => tracing::info!(user, arn, "the secret is fetched again"),
            Ok(_) if is_new && before.versions.is_some() => {
                tracing::info!(user, arn, "the secret was rotated")
            }
            _ => {}
        }
        self.known.send_modify(|known| {
            known.answered = answers;
            match fetched {
                Ok(versions) => (known.versions, known.trouble) = (Some(versions), None),
                Err(trouble) => known.trouble = Some(trouble),
            }
        });
        is_new
    }

    async fn fetch(&self, client: &Client) -> Result<Versions, (Reason, String)> {
        let (current, pending, previous) = tokio::join!(
            self.version(client, CURRENT),
            self.version(client, PENDING),
            self.version(client, PREVIOUS),
        );
        let (current_id, current) = current?;
        let mut others = Vec::new();
        for other in [pending, previous] {
            match other {
                Ok((_, password)) if password != current && !others.contains(&password) => {
                    others.push(password)
                }
                // Most of the time there is none.
                Ok(_) | Err((Reason::SecretMissing | Reason::SecretUnusable, _)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(Versions { current_id, current, others })
    }

    async fn version(&self, client: &Client, stage: &str) -> Result<(String, Password), (Reason, String)> {
        let request = client.get_secret_value().secret_id(&self.settings.arn).version_stage(stage);
        let answer =
            request.send().await.map_err(|error| trouble(describe(OPERATION, &self.settings.arn, &error)))?;
        let text = answer.secret_string().ok_or((Reason::SecretUnusable, "it has no text".to_owned()))?;
        let password =
            read(text, &self.settings.user).map_err(|problem| (Reason::SecretUnusable, problem))?;
        Ok((answer.version_id().unwrap_or_default().to_owned(), password))
    }
}

/// One that is marked for deletion answers with an invalid request.
fn trouble(error: AwsError) -> (Reason, String) {
    let reason = match error.fault {
        Fault::Missing => Reason::SecretMissing,
        _ if error.is(&["InvalidRequestException"]) => Reason::SecretMissing,
        fault => fault.reason(),
    };
    (reason, error.message)
}

impl Passwords for SecretPasswords {
    fn next<'a>(
        &'a self,
        host: &'a str,
        port: u16,
        refused: &'a [Password],
    ) -> BoxFuture<'a, Result<Option<Password>, NoPassword>> {
        self.find((host.to_owned(), port), refused).boxed()
    }

    fn accepted(&self, host: &str, port: u16, password: &Password) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Servers come and go; one that is forgotten costs a refused attempt.
        if taken.len() > SERVERS_KEPT {
            taken.clear();
        }
        taken.insert((host.to_owned(), port), password.clone());
    }
}

impl Source for SecretPasswords {
    fn keep(&self) -> BoxFuture<'_, ()> {
        self.keep_fetching().boxed()
    }

    fn finding(&self) -> Finding {
        let subject = format!("secretsmanager:GetSecretValue on {}", self.settings.arn);
        let known = self.known.borrow();
        match (&known.trouble, &known.versions) {
            (Some((reason, detail)), Some(_)) => {
                Finding::wrong(subject, *reason, format!("{detail}; what was fetched before is used"))
            }
            (Some((reason, detail)), None) => Finding::wrong(subject, *reason, detail),
            (None, Some(_)) => Finding::fine(subject),
            (None, None) => Finding::unknown(subject, "it is being fetched"),
        }
    }
}

impl fmt::Debug for SecretPasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretPasswords").field("settings", &self.settings).finish_non_exhaustive()
    }
}
