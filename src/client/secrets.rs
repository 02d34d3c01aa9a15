//! What clients' passwords are checked against.
//!
//! Owns where a secret comes from (the user file first, then a lookup on the servers), the verifiers
//! made of plain passwords, what stands for the secret of somebody who has none, and the bound on how many cores
//! the making of them takes. Never authenticates anybody. Invariant: a user whom neither names, or who may not log in, has no secret here,
//! and nobody else's is ever taken in its place.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand;
use futures_util::future::BoxFuture;
use lru::LruCache;
use tokio::sync::Semaphore;

use super::userfile::{Secret, UserFile};
use super::usual::Usual;
use crate::wire::scram::{DEFAULT_ITERATIONS, Verifier};

/// Verifiers of plain passwords that are kept, so that a storm of logins costs the rounds once.
const DERIVED_VERIFIERS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// The answer of a server about one user.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// None: no such user, or one without a password.
    pub secret: Option<Secret>,
    /// False also for a user whose password has expired.
    pub may_login: bool,
}

/// No answer. It refuses the login: it never means "no such user", and no other identity takes the user's place.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not look up user {user:?}: {reason}")]
pub struct LookupError {
    pub user: String,
    /// For the log; the client is not told.
    pub reason: String,
    pub kind: NoAnswer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// There will be none as long as nobody mends what is wrong.
    Lasting,
    /// The server cannot be asked at this moment.
    Passing,
    /// It could not be asked for as long as a login may wait; what the client is told.
    WaitedInVain(String),
}

/// Who wants to log in, and to what.
#[derive(Debug, Clone)]
pub struct Asking {
    pub user: String,
    pub database: String,
    /// None: over a Unix socket.
    pub address: Option<IpAddr>,
}

/// Asks a server for a user. It has a deadline of its own, and caches as it sees fit. Cancel safe.
pub type AskServer = Arc<dyn Fn(Asking) -> BoxFuture<'static, Result<Lookup, LookupError>> + Send + Sync>;

/// Whether a user may log in, and with what.
#[derive(Debug, Clone)]
pub enum Account {
    Known(Secret),
    /// Exists as far as we are told, but has nothing to check a password against.
    NoSecret,
    /// A server says no: unknown, `NOLOGIN`, or expired.
    MayNotLogIn,
}

/// One per reading of the user file.
pub struct Secrets {
    users: UserFile,
    ask_server: Option<AskServer>,
    process: Arc<ProcessSecrets>,
    /// In the user file.
    usual: Usual,
}

struct Derived {
    password: String,
    verifier: Verifier,
}

/// What outlives a new reading of the user file.
pub struct ProcessSecrets {
    /// Makes up salts and keys of users who do not exist.
    mock: [u8; 32],
    derived: Mutex<LruCache<String, Derived>>,
    /// Among those that a server was asked for.
    looked_up: Mutex<Usual>,
    /// PBKDF2 takes no more threads than this, whoever asks for it.
    deriving: Semaphore,
}

impl ProcessSecrets {
    pub fn new() -> Arc<Self> {
        let mut mock = [0; 32];
        rand::fill(&mut mock).expect("the system's random numbers are there once the process runs");
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Arc::new(ProcessSecrets {
            mock,
            derived: Mutex::new(LruCache::new(DERIVED_VERIFIERS)),
            looked_up: Mutex::default(),
            deriving: Semaphore::new(cores),
        })
    }
}

impl Secrets {
    pub fn new(users: UserFile, ask_server: Option<AskServer>, process: Arc<ProcessSecrets>) -> Self {
        let usual = users.iter().map(|(_, secret)| secret).collect();
        Secrets { users, ask_server, process, usual }
    }

    /// Whose password may be checked, and against what.
    pub async fn account(&self, asking: Asking) -> Result<Account, LookupError> {
        if let Some(secret) = self.users.get(&asking.user) {
            return Ok(Account::Known(secret.clone()));
        }
        let Some(ask_server) = &self.ask_server else { return Ok(Account::NoSecret) };
        Ok(match ask_server(asking).await? {
            Lookup { may_login: false, .. } => Account::MayNotLogIn,
            Lookup { secret: Some(secret), .. } => {
                self.process.looked_up().count(&secret);
                Account::Known(secret)
            }
            Lookup { secret: None, .. } => Account::NoSecret,
        })
    }

    /// A verifier of `password`, made once while the user keeps that password.
    pub async fn verifier_of(&self, user: &str, password: &str) -> Verifier {
        let iterations = self.usual_iterations();
        if let Some(known) = self.process.lock().get(user)
            && known.password == password
            && known.verifier.iterations() == iterations.get()
        {
            return known.verifier.clone();
        }
        let salt = Verifier::salt_for(user.as_bytes(), &self.process.mock);
        let password = password.to_owned();
        let derived = self
            .blocking(move || {
                let verifier = Verifier::from_password(password.as_bytes(), &salt, iterations.get())
                    .expect("salt and iterations are ours, and within bounds");
                Derived { password, verifier }
            })
            .await;
        let verifier = derived.verifier.clone();
        self.process.lock().put(user.to_owned(), derived);
        verifier
    }

    /// Makes the verifiers of all plain passwords, so that none is made while its user waits: that would take
    /// longer than for somebody unknown, and tell who exists.
    pub async fn make_verifiers(&self) {
        for (user, secret) in self.users.iter().take(DERIVED_VERIFIERS.get()) {
            if let Secret::Plain(password) = secret {
                self.verifier_of(user, password).await;
            }
        }
    }

    /// Stands for the verifier of a user who has none.
    pub fn mock_verifier(&self, user: &str) -> Verifier {
        Verifier::mock(user.as_bytes(), &self.process.mock, self.usual_iterations())
    }

    /// The rounds of most verifiers: of those looked up, else of those in the user file.
    fn usual_iterations(&self) -> NonZeroU32 {
        let looked_up = self.process.looked_up().iterations();
        let usual = looked_up.or_else(|| self.usual.iterations()).unwrap_or(DEFAULT_ITERATIONS);
        NonZeroU32::new(usual).expect("a verifier has at least one round")
    }

    /// Whether a client under an `md5` rule whose secret we do not know is asked for MD5 rather than SCRAM:
    /// so that it sees what most users see.
    pub fn md5_is_usual(&self) -> bool {
        match self.ask_server {
            Some(_) => self.process.looked_up().is_mostly_md5(),
            None => !self.usual.has_scram() && !self.users.is_empty(),
        }
    }

    /// Runs PBKDF2 off the data path.
    pub async fn blocking<T: Send + 'static>(&self, derive: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.process.deriving.acquire().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(derive).await.expect("deriving a key does not panic")
    }
}

impl ProcessSecrets {
    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<String, Derived>> {
        self.derived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked_up(&self) -> std::sync::MutexGuard<'_, Usual> {
        self.looked_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(users: &str, process: &Arc<ProcessSecrets>) -> Secrets {
        Secrets::new(UserFile::parse(users).unwrap(), None, Arc::clone(process))
    }

    fn of(user: &str) -> Asking {
        Asking { user: user.to_owned(), database: "shop".to_owned(), address: None }
    }

    #[tokio::test]
    async fn a_verifier_is_made_once_for_a_password_and_shows_the_salt_of_the_unknown() {
        let process = ProcessSecrets::new();
        let first = secrets("", &process).verifier_of("alice", "one").await;
        assert_eq!(first.salt(), secrets("", &process).mock_verifier("alice").salt());
        assert!(first.accepts(b"one").is_some() && first.accepts(b"two").is_none());

        // It is found again, also by what a reload made: a mark left in the cache comes back.
        let mark = Verifier::from_password(b"mark", b"salt", DEFAULT_ITERATIONS).unwrap();
        process.lock().get_mut("alice").unwrap().verifier = mark.clone();
        assert_eq!(secrets("", &process).verifier_of("alice", "one").await, mark);

        let second = secrets("", &process).verifier_of("alice", "two").await;
        assert!(second.accepts(b"two").is_some());
        assert_eq!(process.lock().len(), 1);
    }

    #[tokio::test]
    async fn who_has_no_secret_shows_the_rounds_that_most_have() {
        let process = ProcessSecrets::new();
        let verifier = |iterations| Verifier::from_password(b"x", b"salt", iterations).unwrap();
        let file = format!("\"a\" \"{}\"\n\"b\" \"plain\"", verifier(700));
        let of_file = secrets(&file, &process);
        assert_eq!(of_file.mock_verifier("nobody").iterations(), 700);
        of_file.make_verifiers().await;
        let made = process.lock().peek("b").unwrap().verifier.clone();
        assert_eq!((made.iterations(), process.lock().len()), (700, 1));
        assert!(made.accepts(b"plain").is_some());

        // What a server answers counts for more than the file, which then names komainu's own roles.
        let known = verifier(900);
        let ask: AskServer = Arc::new(move |asking| {
            let secret = (asking.user == "known").then(|| Secret::Scram(known.clone()));
            Box::pin(async move { Ok(Lookup { may_login: secret.is_some(), secret }) })
        });
        let asking = Secrets::new(UserFile::parse(&file).unwrap(), Some(ask), process);
        assert!(matches!(asking.account(of("nobody")).await.unwrap(), Account::MayNotLogIn));
        assert_eq!(asking.mock_verifier("nobody").iterations(), 700);
        assert!(matches!(asking.account(of("known")).await.unwrap(), Account::Known(_)));
        assert_eq!(asking.mock_verifier("nobody").iterations(), 900);
        assert_eq!(asking.verifier_of("b", "plain").await.iterations(), 900);
    }

    #[tokio::test]
    async fn md5_is_usual_where_most_of_those_looked_up_have_it() {
        let ask: AskServer = Arc::new(move |asking| {
            let secret = match &*asking.user {
                "old" => Secret::Md5(crate::wire::md5::stored("old", b"x")),
                _ => Secret::Scram(Verifier::from_password(b"x", b"salt", 1).unwrap()),
            };
            Box::pin(async move { Ok(Lookup { may_login: true, secret: Some(secret) }) })
        });
        let asking = Secrets::new(UserFile::default(), Some(ask), ProcessSecrets::new());
        assert!(!asking.md5_is_usual());
        asking.account(of("old")).await.unwrap();
        assert!(asking.md5_is_usual());
        asking.account(of("new")).await.unwrap();
        assert!(!asking.md5_is_usual());
    }

    #[test]
    fn md5_is_usual_only_where_nothing_speaks_for_scram() {
        let process = ProcessSecrets::new();
        assert!(secrets("\"a\" \"x\"", &process).md5_is_usual());
        assert!(!secrets("", &process).md5_is_usual());
        let verifier = Verifier::from_password(b"x", b"salt", 1).unwrap();
        assert!(!secrets(&format!("\"a\" \"x\"\n\"b\" \"{verifier}\""), &process).md5_is_usual());
    }
}
