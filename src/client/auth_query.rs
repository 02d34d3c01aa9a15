//! Asks the primary who may log in, and with what secret.
//!
//! Owns one warm connection for that, which runs under a role and a `search_path` of ours (no client's
//! startup parameters ever touch it), and a bounded cache of the answers.
//! Invariant: no answer is no login. A lookup that fails is an error, is not cached, and never lets
//! another identity take the user's place. Who has gone away waits in no queue: no more names wait to be asked for than
//! clients do.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use lru::LruCache;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::secrets::{Lookup, LookupError, NoAnswer};
use super::userfile::Secret;
use crate::backend::connect::{ConnectError, ConnectTarget, Credential, Login};
use crate::backend::control::{ControlConnection, QueryError};
use crate::backend::rows::Rows;
use crate::config;
use crate::wire::sqlstate::{self, SqlState};

/// Users whose answers are kept.
const MAX_CACHED: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// Names nobody has are kept apart, so that guessing names drives no real user out.
const MAX_CACHED_REFUSALS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// A role that was just made must not be refused for long.
const REFUSAL_CACHE: Duration = Duration::from_secs(1);
/// Waiting for one's turn; and then connecting and asking, however long that wait was.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// What a server says that ends, or does not get to answering in time.
const ENDS: [SqlState; 4] = [
    sqlstate::ADMIN_SHUTDOWN,
    sqlstate::CRASH_SHUTDOWN,
    sqlstate::CANNOT_CONNECT_NOW,
    sqlstate::QUERY_CANCELED,
];
/// `pg_temp` is named, and last, or it would be searched first. The server ends what we gave up on.
const STARTUP_PARAMETERS: [(&str, &str); 3] = [
    ("application_name", "komainu"),
    ("client_encoding", "UTF8"),
    ("options", "-c search_path=pg_catalog,pg_temp -c statement_timeout=5000"),
];

/// Where the primary is now; `None`: nobody knows.
pub type PrimaryTarget = Arc<dyn Fn() -> Option<ConnectTarget> + Send + Sync>;

/// Looks users up on the primary. Cheap to clone; clones share connection and cache.
#[derive(Clone)]
pub struct AuthQuery {
    shared: Arc<Inner>,
}

struct Inner {
    query: String,
    login: Login,
    cache: Duration,
    target: PrimaryTarget,
    connection: Mutex<Option<Warm>>,
    /// One question at a time: whoever holds it may take `connection`.
    turn: Semaphore,
    answers: Mutex<Answers>,
}

struct Warm {
    connection: ControlConnection,
    target: ConnectTarget,
}

struct Answers {
    known: LruCache<String, Answer>,
    refused: LruCache<String, Answer>,
    /// Being asked right now; whoever wants the same waits for it.
    flights: HashMap<String, Flight>,
}

struct Answer {
    lookup: Lookup,
    asked_at: Instant,
    /// Somebody has logged in by it.
    used: bool,
}

struct Flight {
    answer: Shared<BoxFuture<'static, Result<Lookup, LookupError>>>,
    /// Whoever waits for the answer has a receiver.
    awaited: Arc<watch::Sender<()>>,
}

/// Why there is no answer. Without secrets; for the log.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no primary is known")]
    NoPrimary,
    #[error("no answer within {} seconds", LOOKUP_DEADLINE.as_secs())]
    Deadline,
    #[error("those before it were asked for during {} seconds", LOOKUP_DEADLINE.as_secs())]
    NoTurn,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(
        "auth.query.query must return two columns, the secret and whether the role may log in, and at most one row"
    )]
    Shape,
    #[error("the secret is a malformed SCRAM verifier")]
    Secret,
}

impl Failure {
    /// Whoever asks again later, or asks the next primary, may be answered.
    fn is_passing(&self) -> bool {
        match self {
            Failure::NoPrimary
            | Failure::Deadline
            | Failure::NoTurn
            | Failure::Query(QueryError::Lost(_)) => true,
            Failure::Connect(error) => error.is_passing(),
            Failure::Query(error) => error.sqlstate().is_some_and(|state| ENDS.contains(&state)),
            Failure::Shape | Failure::Secret => false,
        }
    }
}

impl AuthQuery {
    /// `credential` is that of `config.user`.
    pub fn new(config: &config::AuthQuery, credential: Credential, target: PrimaryTarget) -> Self {
        let login = Login { user: config.user.clone(), database: config.database.clone(), credential };
        AuthQuery {
            shared: Arc::new(Inner {
                query: config.query.clone(),
                login,
                cache: Duration::from_millis(config.cache_ms),
                target,
                connection: Mutex::new(None),
                turn: Semaphore::new(1),
                answers: Mutex::new(Answers {
                    known: LruCache::new(MAX_CACHED),
                    refused: LruCache::new(MAX_CACHED_REFUSALS),
                    flights: HashMap::new(),
                }),
            }),
        }
    }

    /// What the primary says of `user`, no older than `cache_ms`. Cancel safe.
    pub async fn lookup(&self, user: &str) -> Result<Lookup, LookupError> {
        let (answer, _awaited) = {
            let mut answers = self.shared.answers();
            if let Some(lookup) = answers.believed(user, self.shared.cache, Instant::now()) {
                return Ok(lookup);
            }
            let flight = answers.flights.entry(user.to_owned()).or_insert_with(|| self.take_off(user));
            (flight.answer.clone(), flight.awaited.subscribe())
        };
        answer.await
    }

    /// Somebody has proved to be `user`: the answer is believed for all of `cache_ms`. Until then it is believed for as
    /// long as that there is no such user, or a second guess at a name would be quick if it is a user's, and slow else.
    pub fn confirm(&self, user: &str) {
        if let Some(answer) = self.shared.answers().known.get_mut(user) {
            answer.used = true;
        }
    }

    /// Forgets what is known of `user`: a server has shown that it changed.
    pub fn forget(&self, user: &str) {
        let mut answers = self.shared.answers();
        answers.known.pop(user);
        answers.refused.pop(user);
    }

    /// A client's proof did not fit: mistyped, or the secret was changed. Whoever guesses passwords must not
    /// cost the primary a question for each.
    pub fn doubt(&self, user: &str) {
        let mut answers = self.shared.answers();
        if answers.known.peek(user).is_some_and(|answer| answer.asked_at.elapsed() >= REFUSAL_CACHE) {
            answers.known.pop(user);
        }
    }

    /// A task of its own: whoever asked first may go away, a question that was begun is not to cost the connection, and
    /// an answer nobody waited for must not be found later and taken for a fresh one.
    fn take_off(&self, user: &str) -> Flight {
        let (shared, user) = (self.shared.clone(), user.to_owned());
        let awaited = Arc::new(watch::Sender::new(()));
        let task = tokio::spawn({
            let (shared, user, awaited) = (shared.clone(), user.clone(), awaited.clone());
            async move {
                let outcome = match shared.turn(&user, &awaited).await {
                    Some(Ok(turn)) => {
                        let asked = timeout(LOOKUP_DEADLINE, shared.ask(&turn, &user)).await;
                        asked.unwrap_or(Err(Failure::Deadline))
                    }
                    Some(Err(failure)) => Err(failure),
                    None => return Err(abandoned(user)),
                };
                let mut answers = shared.answers();
                answers.flights.remove(&user);
                match outcome {
                    Ok(lookup) => {
                        answers.keep(&user, &lookup, Instant::now());
                        Ok(lookup)
                    }
                    Err(failure) => {
                        let kind = if failure.is_passing() { NoAnswer::Passing } else { NoAnswer::Lasting };
                        Err(LookupError { user, reason: failure.to_string(), kind })
                    }
                }
            }
        });
        let landed = async move {
            task.await.unwrap_or_else(|_| {
                shared.answers().flights.remove(&user);
                Err(abandoned(user))
            })
        };
        Flight { answer: landed.boxed().shared(), awaited }
    }
}

fn abandoned(user: String) -> LookupError {
    LookupError { user, reason: "the lookup was abandoned".to_owned(), kind: NoAnswer::Passing }
}

impl Inner {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warm(&self) -> MutexGuard<'_, Option<Warm>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: nobody waits for the answer any more. Then whoever comes next takes off anew.
    async fn turn(
        &self,
        user: &str,
        awaited: &watch::Sender<()>,
    ) -> Option<Result<SemaphorePermit<'_>, Failure>> {
        let turn = timeout_at(Instant::now() + LOOKUP_DEADLINE, self.turn.acquire());
        tokio::pin!(turn);
        loop {
            tokio::select! {
                biased;
                () = awaited.closed() => {}
                turn = &mut turn => {
                    let turn = turn.map_err(|_| Failure::NoTurn);
                    return Some(turn.map(|turn| turn.expect("the semaphore is never closed")));
                }
            }
            // Nobody begins to wait for it but under this lock.
            let mut answers = self.answers();
            if awaited.receiver_count() == 0 {
                answers.flights.remove(user);
                return None;
            }
        }
    }

    async fn ask(&self, _turn: &SemaphorePermit<'_>, user: &str) -> Result<Lookup, Failure> {
        let target = (self.target)().ok_or(Failure::NoPrimary)?;
        let warm = self.warm().take().filter(|warm| warm.is_at(&target));
        if let Some(mut warm) = warm {
            match warm.connection.query_params(&self.query, &[user]).await {
                // It may have been cut while it idled. A refusal that ends it (57P01) is of that kind, too.
                Err(_) if !warm.connection.is_usable() => {}
                outcome => {
                    *self.warm() = Some(warm);
                    return read_answer(&outcome?);
                }
            }
        }
        let mut connection = ControlConnection::open(&target, &self.login, &STARTUP_PARAMETERS).await?;
        let outcome = connection.query_params(&self.query, &[user]).await;
        if connection.is_usable() {
            *self.warm() = Some(Warm { connection, target });
        }
        read_answer(&outcome?)
    }
}

impl Warm {
    /// The primary may be another by now.
    fn is_at(&self, target: &ConnectTarget) -> bool {
        self.target.host == target.host && self.target.port == target.port
    }
}

impl Answers {
    fn believed(&mut self, user: &str, cache: Duration, now: Instant) -> Option<Lookup> {
        let answer = self.known.get(user).or_else(|| self.refused.peek(user))?;
        let believed_for = if answer.used { cache } else { cache.min(REFUSAL_CACHE) };
        (now < answer.asked_at + believed_for).then(|| answer.lookup.clone())
    }

    fn keep(&mut self, user: &str, lookup: &Lookup, now: Instant) {
        let (kept, other) = match lookup.may_login {
            true => (&mut self.known, &mut self.refused),
            false => (&mut self.refused, &mut self.known),
        };
        other.pop(user);
        kept.put(user.to_owned(), Answer { lookup: lookup.clone(), asked_at: now, used: false });
    }
}

/// No row is no such role. Anything but a plain yes or no is an error: a query that was written for
/// something else (the user's name first, say) must not turn into logins.
fn read_answer(rows: &Rows) -> Result<Lookup, Failure> {
    if rows.columns().len() != 2 || rows.len() > 1 {
        return Err(Failure::Shape);
    }
    if rows.is_empty() {
        return Ok(Lookup { secret: None, may_login: false });
    }
    let may_login = match rows.value(0, 1) {
        Some(b"t") => true,
        Some(b"f") | None => false,
        Some(_) => return Err(Failure::Shape),
    };
    let secret = match rows.text(0, 0) {
        Some("") | None => None,
        Some(text) => Some(Secret::parse(text.to_owned()).ok_or(Failure::Secret)?),
    };
    Ok(Lookup { secret, may_login })
}

#[cfg(test)]
mod tests;
