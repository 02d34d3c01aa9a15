//! The roles whose passwords AWS gives: who keeps them ready, and what is known of that.
//!
//! Owns the tasks that do. Never keeps a password. Invariants: a role that stays as it was in a new configuration keeps
//! what is known of it; and who logs in as one that changed does so by the new configuration, however long ago it began.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use komainu_escalation::passwords::{
    NoPassword, Password, Passwords, SecretPasswords, SecretSettings, Source, TokenPasswords, TokenSettings,
};
use komainu_escalation::{AwsSettings, Finding};
use tokio::task::JoinHandle;

use crate::config::{Config, ServerPassword, ServerUser};

#[derive(Default)]
pub struct ServerUsers {
    kept: Arc<Mutex<BTreeMap<String, Kept>>>,
}

/// A role's passwords as the configuration in force says.
struct Current {
    user: String,
    kept: Arc<Mutex<BTreeMap<String, Kept>>>,
}

struct Kept {
    user: ServerUser,
    aws: AwsSettings,
    passwords: Arc<dyn Source>,
    task: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ServerUsers {
    pub fn start(config: &Config) -> Arc<Self> {
        let users = Arc::new(ServerUsers::default());
        users.reconfigure(config);
        users
    }

    pub fn reconfigure(&self, config: &Config) {
        let mut kept = self.kept();
        let mut before = std::mem::take(&mut *kept);
        for user in &config.server_users {
            let same =
                before.remove(&user.name).filter(|known| known.user == *user && known.aws == config.aws);
            kept.insert(user.name.clone(), same.unwrap_or_else(|| keep(user, &config.aws)));
        }
    }

    /// None: AWS does not give this role's.
    pub fn of(&self, user: &str) -> Option<Arc<dyn Passwords>> {
        let is_given = self.kept().contains_key(user);
        is_given.then(|| {
            Arc::new(Current { user: user.to_owned(), kept: self.kept.clone() }) as Arc<dyn Passwords>
        })
    }

    /// By role, how it stands.
    pub fn findings(&self) -> Vec<(String, Finding)> {
        self.kept().iter().map(|(user, kept)| (user.clone(), kept.passwords.finding())).collect()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn passwords(&self) -> Result<Arc<dyn Source>, NoPassword> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let passwords = kept.get(&self.user).map(|kept| kept.passwords.clone());
        let why = || "it is in [[server_user]] no more: log in again".to_owned();
        passwords.ok_or_else(|| NoPassword { user: self.user.clone(), why: why() })
    }
}

impl Passwords for Current {
    fn next<'a>(
        &'a self,
        host: &'a str,
        port: u16,
        refused: &'a [Password],
    ) -> BoxFuture<'a, Result<Option<Password>, NoPassword>> {
        async move { self.passwords()?.next(host, port, refused).await }.boxed()
    }

    fn accepted(&self, host: &str, port: u16, password: &Password) {
        if let Ok(passwords) = self.passwords() {
            passwords.accepted(host, port, password);
        }
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").field("user", &self.user).finish_non_exhaustive()
    }
}

fn keep(user: &ServerUser, aws: &AwsSettings) -> Kept {
    let name = user.name.clone();
    let passwords: Arc<dyn Source> = match user.password.clone() {
        ServerPassword::IamToken { region } => {
            Arc::new(TokenPasswords::new(TokenSettings { user: name, region }, aws.clone()))
        }
        ServerPassword::Secret { arn, refresh_ms } => {
            let refresh = Duration::from_millis(refresh_ms);
            Arc::new(SecretPasswords::new(SecretSettings { user: name, arn, refresh }, aws.clone()))
        }
    };
    let keeper = passwords.clone();
    let task = tokio::spawn(async move { keeper.keep().await });
    Kept { user: user.clone(), aws: aws.clone(), passwords, task }
}
