//! AWS, as the endpoints that need it reach it: who this instance is, asked once, and again where that is not enough.
//!
//! Owns the asking. Never keeps anybody waiting: the answer comes beside. Invariant: a metadata service that does not
//! answer is asked by one task at a time, and not again before a pause.

use std::collections::HashMap;
use std::time::Duration;

use komainu_escalation::aws::identity::IdentitySettings;
use komainu_escalation::endpoint::Cloud;
use komainu_escalation::{Aws, AwsSettings, Identity};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const METADATA_WITHIN: Duration = Duration::from_secs(10);
/// After a failure.
const ASK_AGAIN: Duration = Duration::from_secs(5);

type Found = Result<Cloud, String>;

#[derive(Default)]
pub struct Clouds {
    /// And since when.
    known: HashMap<String, (Instant, Cloud)>,
    asking: Option<(String, JoinHandle<Found>)>,
    /// And when it was.
    failure: Option<(Instant, String)>,
}

impl Clouds {
    /// What is known, or why it is not. If nobody is asked yet, somebody is from now on.
    pub fn get(&mut self, settings: &AwsSettings) -> Found {
        let (key, ask) = asking(settings);
        self.get_by(key, ask)
    }

    /// What is known lacks something: it is asked for again, after a pause, and stays what it is until there is an answer.
    pub fn doubt(&mut self, settings: &AwsSettings) {
        let (key, ask) = asking(settings);
        self.doubt_by(key, ask);
    }

    fn get_by(&mut self, key: String, ask: impl FnOnce() -> JoinHandle<Found>) -> Found {
        if let Some((_, cloud)) = self.known.get(&key) {
            return Ok(cloud.clone());
        }
        self.ask(key, ask);
        let failure = self.failure.as_ref().map(|(_, failure)| failure.clone());
        Err(failure.unwrap_or_else(|| "the instance's metadata service is being asked".to_owned()))
    }

    fn doubt_by(&mut self, key: String, ask: impl FnOnce() -> JoinHandle<Found>) {
        if self.known.get(&key).is_none_or(|(at, _)| at.elapsed() >= ASK_AGAIN) {
            self.ask(key, ask);
        }
    }

    fn ask(&mut self, key: String, ask: impl FnOnce() -> JoinHandle<Found>) {
        let has_just_failed = self.failure.as_ref().is_some_and(|(at, _)| at.elapsed() < ASK_AGAIN);
        if !has_just_failed
            && self.asking.as_ref().is_none_or(|(asked, _)| *asked != key)
            && let Some((_, other)) = self.asking.replace((key, ask()))
        {
            other.abort();
        }
    }

    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Until there is something new. Never, if nobody is asked. Dropping it loses nothing.
    pub async fn answered(&mut self) {
        let Some((key, task)) = &mut self.asking else { return std::future::pending().await };
        let found = task.await.unwrap_or_else(|error| Err(error.to_string()));
        let key = std::mem::take(key);
        self.asking = None;
        match found {
            Ok(cloud) => {
                self.failure = None;
                self.known.insert(key, (Instant::now(), cloud));
            }
            Err(failure) => self.failure = Some((Instant::now(), failure)),
        }
    }
}

impl Drop for Clouds {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.asking {
            task.abort();
        }
    }
}

fn asking(settings: &AwsSettings) -> (String, impl FnOnce() -> JoinHandle<Found>) {
    let (key, settings) = (format!("{settings:?}"), settings.clone());
    (key, move || tokio::spawn(async move { find(&settings).await }))
}

async fn find(settings: &AwsSettings) -> Found {
    let identity = IdentitySettings::default();
    let found = tokio::time::timeout(METADATA_WITHIN, Identity::find(&identity, settings)).await;
    let identity = found
        .map_err(|_| "the instance's metadata service does not answer".to_owned())?
        .map_err(|error| error.to_string())?;
    let aws = Aws::connect(settings, &identity.region).await;
    Ok(Cloud { aws, identity })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(found: Found) -> String {
        found.err().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_hangs_keeps_nobody_waiting_and_one_that_fails_is_asked_after_a_pause() {
        let mut clouds = Clouds::default();
        let key = || "key".to_owned();
        let hangs = || tokio::spawn(std::future::pending::<Found>());
        let fails = || tokio::spawn(async { Err("no such host".to_owned()) });
        let never = || -> JoinHandle<Found> { panic!("asked twice") };
        assert!(text(clouds.get_by(key(), hangs)).contains("being asked"));
        assert!(text(clouds.get_by(key(), never)).contains("being asked"));
        let waited = tokio::time::timeout(Duration::from_secs(60), clouds.answered()).await;
        assert!(waited.is_err() && clouds.is_asking());

        // Other settings: another service.
        assert!(text(clouds.get_by("other".to_owned(), fails)).contains("being asked"));
        clouds.answered().await;
        assert_eq!(text(clouds.get_by(key(), never)), "no such host");
        assert!(!clouds.is_asking());
        tokio::time::advance(ASK_AGAIN).await;
        assert_eq!(text(clouds.get_by(key(), hangs)), "no such host", "until it is known better");
        assert!(clouds.is_asking());
    }
}
