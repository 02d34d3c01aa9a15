//! What each database's catalogs say of functions and relations, loaded in the background.
//!
//! Owns the loading and its freshness. Never makes a query wait. Invariant: what was loaded before an
//! `invalidate` is never shown after it.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::backend::connect::{ConnectTarget, Login};
use crate::backend::control::{ControlConnection, QueryError};
use crate::backend::rows::Rows;
use crate::route::catalog::{Catalog, FunctionRow, Volatility};
use crate::route::catalog_sql::{
    CATALOG_QUERY_FUNCTIONS, CATALOG_QUERY_RELATIONS, CATALOG_QUERY_SERIALIZABLE, CATALOG_QUERY_STATE,
};
use crate::topology::Snapshot;

use super::Settings;
use super::failure::LookError;

/// Databases at a time. A further one works, with its functions unknown: all its doubtful reads go to
/// the primary.
const MAX_DATABASES: usize = 256;
/// Loads at a time, over all databases.
const MAX_LOADS: usize = 4;
/// Connecting, four queries, and some megabytes of answer.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A database nobody has used for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(300);
/// A migration is many statements of DDL; its end is worth waiting for.
const AFTER_INVALIDATION: Duration = Duration::from_millis(200);
/// A shorter `split.catalog_max_age_ms` would only load the primary.
const MIN_AGE: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Where loads come from, and how often.
#[derive(Clone)]
pub struct CatalogSettings {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// How to log in: as who looks at the servers does.
    pub own: watch::Receiver<Arc<Settings>>,
    pub max_age: Duration,
}

/// The catalogs of the databases in use. Cloning is cheap; all clones share them.
#[derive(Clone)]
pub struct CatalogSource {
    shared: Arc<Shared>,
}

struct Shared {
    settings: CatalogSettings,
    /// Loads run there.
    runtime: Handle,
    databases: Mutex<HashMap<Arc<str>, Arc<Database>>>,
    loads: Semaphore,
}

/// One database's catalog, for a session to hold: asking it takes no look-up by name.
#[derive(Debug, Clone)]
pub struct CatalogHandle {
    database: Arc<Database>,
}

#[derive(Debug)]
struct Database {
    name: Arc<str>,
    current: Mutex<Option<Arc<Catalog>>>,
    /// Counts every change of `current`, so that whoever keeps a copy knows when it is old.
    generation: AtomicU64,
    invalidated: Notify,
    /// A handle was made since the last look.
    asked_for: AtomicBool,
}

impl CatalogSource {
    /// Loads run on the runtime this is called in.
    pub fn new(settings: CatalogSettings) -> Self {
        let shared = Shared {
            settings,
            runtime: Handle::current(),
            databases: Mutex::default(),
            loads: Semaphore::new(MAX_LOADS),
        };
        CatalogSource { shared: Arc::new(shared) }
    }

    /// Begins to load the database's catalog if nobody has yet. It is kept fresh while a handle lives.
    pub fn handle(&self, database: &str) -> CatalogHandle {
        let mut databases = lock(&self.shared.databases);
        if let Some(known) = databases.get(database) {
            known.asked_for.store(true, Ordering::Relaxed);
            return CatalogHandle { database: known.clone() };
        }
        let database = Arc::new(Database {
            name: database.into(),
            current: Mutex::new(None),
            generation: AtomicU64::new(0),
            invalidated: Notify::new(),
            asked_for: AtomicBool::new(true),
        });
        if self.shared.settings.own.borrow().mode.is_redshift() {
            // Its catalogs are others, and with nothing to split nothing is asked of them.
        } else if databases.len() < MAX_DATABASES {
            databases.insert(database.name.clone(), database.clone());
            let keep = keep_fresh(Arc::downgrade(&self.shared), database.clone());
            self.shared.runtime.spawn(keep);
        } else {
            tracing::warn!(database = &*database.name, "too many databases: its functions stay unknown");
        }
        CatalogHandle { database }
    }

    /// What is known of a database now; the first question is answered with none.
    pub fn get(&self, database: &str) -> Option<Arc<Catalog>> {
        self.handle(database).get()
    }

    /// DDL was seen: what is known of the database may be wrong from now on.
    pub fn invalidate(&self, database: &str) {
        let known = lock(&self.shared.databases).get(database).cloned();
        if let Some(database) = known {
            database.invalidate();
        }
    }
}

impl CatalogHandle {
    pub fn get(&self) -> Option<Arc<Catalog>> {
        lock(&self.database.current).clone()
    }

    /// Changes whenever `get` would answer anything else: read this first, and keep what `get` gives
    /// then until it changes.
    pub fn generation(&self) -> u64 {
        self.database.generation.load(Ordering::Acquire)
    }

    pub fn invalidate(&self) {
        self.database.invalidate();
    }
}

impl Database {
    fn invalidate(&self) {
        let mut current = lock(&self.current);
        *current = None;
        // A load under way compares it before it stores what it has read.
        self.generation.fetch_add(1, Ordering::Release);
        drop(current);
        self.invalidated.notify_one();
    }

    /// False, and nothing is stored, if it was invalidated since `generation`.
    fn store(&self, catalog: Arc<Catalog>, generation: u64) -> bool {
        let mut current = lock(&self.current);
        if self.generation.load(Ordering::Acquire) != generation {
            return false;
        }
        *current = Some(catalog);
        self.generation.fetch_add(1, Ordering::Release);
        true
    }
}

/// A panic elsewhere cannot leave a half-changed map or catalog behind: both are replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads one database's catalog until it is forgotten or the source is gone.
async fn keep_fresh(source: Weak<Shared>, database: Arc<Database>) {
    let mut retry = FIRST_RETRY;
    let mut last_error: Option<String> = None;
    let mut used = Instant::now();
    let Some(mut snapshot) = source.upgrade().map(|shared| shared.settings.snapshot.clone()) else { return };
    loop {
        // Its absence is told elsewhere, and is no failure of a load.
        if snapshot.wait_for(|snapshot| snapshot.primary.is_some()).await.is_err() {
            return;
        }
        let Some(shared) = source.upgrade() else { return };
        let generation = database.generation.load(Ordering::Acquire);
        let loaded = match shared.loads.acquire().await {
            Ok(_permit) => timeout(LOAD_TIMEOUT, load(&shared.settings, &database.name)).await,
            Err(_closed) => return,
        };
        let mut pause = shared.settings.max_age.max(MIN_AGE);
        match loaded.unwrap_or(Err(LoadError::Look(LookError::Timeout))) {
            Ok(catalog) => {
                if !database.store(Arc::new(catalog), generation) {
                    pause = AFTER_INVALIDATION;
                }
                if last_error.take().is_some() {
                    tracing::info!(database = &*database.name, "catalog is loaded again");
                }
                retry = FIRST_RETRY;
            }
            Err(error) => {
                let text = error.to_string();
                if last_error.as_ref() != Some(&text) {
                    // What was loaded before stays in use: old knowledge beats sending all to the primary.
                    tracing::warn!(database = &*database.name, error = text, "catalog is not loaded");
                    last_error = Some(text);
                }
                pause = retry;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
        drop(shared);
        if !wait(&source, &database, pause, &mut used).await {
            return;
        }
    }
}

/// Until the next load is due. False when the database was forgotten.
async fn wait(source: &Weak<Shared>, database: &Arc<Database>, pause: Duration, used: &mut Instant) -> bool {
    let due = Instant::now() + pause;
    loop {
        let Some(shared) = source.upgrade() else { return false };
        {
            let mut databases = lock(&shared.databases);
            // The map and this task hold one each; handles are made under the lock only.
            if Arc::strong_count(database) > 2 || database.asked_for.swap(false, Ordering::Relaxed) {
                *used = Instant::now();
            } else if used.elapsed() >= FORGET_AFTER {
                databases.remove(&database.name);
                return false;
            }
        }
        drop(shared);
        let next_check = Instant::now() + FORGET_AFTER / 2;
        tokio::select! {
            () = tokio::time::sleep_until(due.min(next_check)) => {
                if Instant::now() >= due {
                    return true;
                }
            }
            () = database.invalidated.notified() => {
                sleep(AFTER_INVALIDATION).await;
                return true;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("there is no primary to ask")]
    NoPrimary,
    #[error(transparent)]
    Look(#[from] LookError),
    #[error("row {0} of the answer is not understood")]
    Row(usize),
}

impl From<QueryError> for LoadError {
    fn from(error: QueryError) -> Self {
        LoadError::Look(error.into())
    }
}

async fn load(settings: &CatalogSettings, database: &str) -> Result<Catalog, LoadError> {
    let own = settings.own.borrow().clone();
    let target = {
        let snapshot = settings.snapshot.borrow();
        let primary = snapshot.primary_server().ok_or(LoadError::NoPrimary)?;
        ConnectTarget { host: primary.host.clone(), port: primary.port, tls: own.tls.clone() }
    };
    let login = own.login.login_to(database).map_err(LookError::Credential)?;
    let mut connection = open(&target, &login).await?;
    let functions = connection.query(CATALOG_QUERY_FUNCTIONS).await?;
    let relations = connection.query(CATALOG_QUERY_RELATIONS).await?;
    let states = connection.query(CATALOG_QUERY_STATE).await?;
    let serializable = connection.query(CATALOG_QUERY_SERIALIZABLE).await?;
    let functions =
        (0..functions.len()).map(|row| function(&functions, row)).collect::<Result<Vec<_>, _>>()?;
    let relations =
        (0..relations.len()).map(|row| relation(&relations, row)).collect::<Result<Vec<_>, _>>()?;
    let states = (0..states.len()).map(|row| state(&states, row)).collect::<Result<Vec<_>, _>>()?;
    let role = |row| serializable.text(row, 0).map(Into::into).ok_or(LoadError::Row(row));
    let serializable = (0..serializable.len()).map(role).collect::<Result<_, _>>()?;
    let mut catalog = Catalog::new(functions, relations).with_state(states);
    catalog.serializable = serializable;
    Ok(catalog)
}

async fn open(target: &ConnectTarget, login: &Login) -> Result<ControlConnection, LookError> {
    let timeout_ms = LOAD_TIMEOUT.as_millis().to_string();
    let parameters = [
        ("application_name", "komainu"),
        ("client_encoding", "UTF8"),
        ("search_path", "pg_catalog, pg_temp"),
        ("statement_timeout", &*timeout_ms),
    ];
    Ok(ControlConnection::open(target, login, &parameters).await?)
}

fn function(rows: &Rows, row: usize) -> Result<FunctionRow, LoadError> {
    let text = |column| rows.text(row, column).ok_or(LoadError::Row(row));
    Ok(FunctionRow {
        schema: text(0)?.to_owned(),
        name: text(1)?.to_owned(),
        volatility: match text(2)? {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            "v" => Volatility::Volatile,
            _ => return Err(LoadError::Row(row)),
        },
        attribute: text(3)? == "t",
    })
}

fn state(rows: &Rows, row: usize) -> Result<(String, String, String), LoadError> {
    let (schema, name) = relation(rows, row)?;
    Ok((schema, name, rows.text(row, 2).ok_or(LoadError::Row(row))?.to_owned()))
}

fn relation(rows: &Rows, row: usize) -> Result<(String, String), LoadError> {
    let text = |column| rows.text(row, column).map(str::to_owned).ok_or(LoadError::Row(row));
    Ok((text(0)?, text(1)?))
}

impl fmt::Debug for CatalogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogSource").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::credential::OwnLogin;
    use super::super::fake::{FakeServer, Reply, eventually};
    use super::*;
    use crate::cluster::clock::Clock;
    use crate::cluster::model::View;
    use crate::config;
    use crate::net::tls::ServerTlsContext;
    use crate::topology::{Epoch, ServerIndex};

    fn functions(volatility: &str) -> Reply {
        Reply::row(["public", "f", volatility, "f"])
    }

    fn source(server: &FakeServer) -> CatalogSource {
        let mut snapshot = View::new(&[server.config("a")]).snapshot;
        snapshot.primary = Some(ServerIndex(0));
        snapshot.epoch = Epoch(1);
        let health = config::Health { database: "none".to_owned(), ..server.health() };
        let own = Settings {
            servers: vec![server.config("a")],
            login: OwnLogin::health(&health, Arc::new(|_: &str| None)),
            health,
            tls: Arc::new(ServerTlsContext::disabled()),
            clock: Clock::start(),
            in_cluster: false,
            mode: config::FailoverMode::Off,
            addresses: None,
        };
        CatalogSource::new(CatalogSettings {
            snapshot: watch::channel(Arc::new(snapshot)).1,
            own: watch::channel(Arc::new(own)).1,
            max_age: Duration::from_secs(3600),
        })
    }

    #[tokio::test]
    async fn a_catalog_is_loaded_once_and_again_after_ddl() {
        let server = FakeServer::start(|_| functions("v")).await;
        let source = source(&server);
        assert!(source.get("app").is_none(), "the first question waits for nothing");
        eventually("the catalog is loaded", || source.get("app").is_some()).await;
        assert_eq!(server.questions(), 4);
        assert_eq!(server.databases(), ["app"]);
        let handle = source.handle("app");
        let before = handle.generation();
        handle.invalidate();
        assert!(handle.get().is_none());
        assert_ne!(handle.generation(), before);
        eventually("the catalog is loaded again", || handle.get().is_some()).await;
        assert_eq!(server.questions(), 8);
        source.invalidate("never heard of it");
        assert_eq!(lock(&source.shared.databases).len(), 1);
    }

    #[tokio::test]
    async fn what_was_read_before_ddl_is_not_shown_after_it() {
        let server = FakeServer::start(|_| functions("s")).await;
        let source = source(&server);
        let handle = source.handle("app");
        eventually("the catalog is loaded", || handle.get().is_some()).await;
        let database = &handle.database;
        let generation = handle.generation();
        database.invalidate();
        assert!(!database.store(Arc::default(), generation));
        assert!(handle.get().is_none());
    }

    #[tokio::test]
    async fn a_catalog_that_is_not_understood_or_refused_is_none_and_tried_again() {
        let server = FakeServer::start(|_| functions("x")).await;
        let first = source(&server);
        let handle = first.handle("app");
        eventually("it was asked", || server.questions() >= 2).await;
        assert!(handle.get().is_none());
        drop(first);
        // The source is gone: its task ends, which gives its share of the database back.
        eventually("the task ends", || Arc::strong_count(&handle.database) == 1).await;

        let server = FakeServer::start(|_| Reply::Error("42501")).await;
        let source = source(&server);
        let handle = source.handle("app");
        eventually("it was asked", || server.questions() >= 1).await;
        assert!(handle.get().is_none());
        server.reply_with(|_| functions("i"));
        eventually("it is tried again", || handle.get().is_some()).await;
    }
}
