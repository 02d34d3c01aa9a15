//! What all sessions of this process share.
//!
//! Owns references only; each part guards itself. Nothing here is global: whoever needs it is given it.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::sync::watch;

use super::cancel::CancelKeys;
use super::held::HeldClients;
use super::prepared::StatementStore;
use super::registry::SessionRegistry;
use super::rewrite;
use crate::backend::conn::{CancelAddress, OwnStatement};
use crate::backend::connect;
use crate::backend::statement::{Origin, Prepared};
use crate::cluster::model::View;
use crate::cluster::observe::LookNow;
use crate::cluster::observe::catalog::CatalogSource;
use crate::cluster::right::WriteRight;
use crate::config::{Config, FailoverMode};
use crate::pool::Pools;
use crate::route::{
    Analysis, Analyzed, Catalog, Effects, FunctionLists, Policy, Reading, RouteCache, RouteReason, ShapeSeed,
    analyze, analyze_foreign, one_server, resolve, shape,
};
use crate::telemetry::Counters;
use crate::topology::{Admission, Epoch, Role, ServerIndex, ServerState, Snapshot};

/// Shapes remembered for each database: an application has hundreds, a hostile one any number.
const SHAPES_PER_DATABASE: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// What follows from the configuration, exchanged as one when it is reloaded.
#[derive(Debug)]
pub struct Settled {
    pub config: Arc<Config>,
    pub policy: Policy,
    pub functions: FunctionLists,
    /// How the primary is asked for its position.
    pub floor: OwnStatement,
    /// After a write no standby is asked for this long.
    pub window_ms: u64,
    /// How a server is asked whether the role may log in.
    pub login_right: OwnStatement,
}

impl Settled {
    pub fn new(config: Arc<Config>) -> Arc<Self> {
        let is_aurora = config.failover.mode == FailoverMode::Aurora;
        Arc::new(Settled {
            floor: if is_aurora { OwnStatement::VolumeFloor } else { OwnStatement::Floor },
            login_right: match config.failover.mode.is_redshift() {
                true => OwnStatement::OldLoginRight,
                false => OwnStatement::LoginRight,
            },
            window_ms: if is_aurora { config.aurora.session_window_ms } else { 0 },
            policy: Policy::new(&config.split, config.zone.as_deref()),
            functions: FunctionLists::new(&config.split.read_only_functions, &config.split.write_functions),
            config,
        })
    }
}

pub struct Gateway {
    settled: RwLock<Arc<Settled>>,
    pub topology: watch::Receiver<Arc<Snapshot>>,
    pub view: watch::Receiver<Arc<View>>,
    pub pools: Pools,
    pub statements: StatementStore,
    pub databases: Databases,
    pub cancels: CancelKeys,
    pub sessions: SessionRegistry,
    pub counters: Arc<Counters>,
    pub catalogs: Arc<CatalogSource>,
    /// Asks for an immediate look at the cluster.
    pub looks: LookNow,
    /// Whether this node may use the primary.
    pub right: Arc<WriteRight>,
    pub draining: AtomicBool,
    /// Clients that wait for a primary.
    pub held: Arc<HeldClients>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// The parts a `Gateway` is made of.
pub struct Parts {
    pub config: Arc<Config>,
    pub topology: watch::Receiver<Arc<Snapshot>>,
    pub view: watch::Receiver<Arc<View>>,
    pub pools: Pools,
    pub counters: Arc<Counters>,
    pub catalogs: Arc<CatalogSource>,
    pub looks: LookNow,
    pub right: Arc<WriteRight>,
}

impl Gateway {
    pub fn new(parts: Parts) -> Self {
        Gateway {
            settled: RwLock::new(Settled::new(parts.config)),
            topology: parts.topology,
            view: parts.view,
            pools: parts.pools,
            statements: StatementStore::default(),
            databases: Databases::default(),
            cancels: CancelKeys::default(),
            sessions: SessionRegistry::default(),
            counters: parts.counters,
            catalogs: parts.catalogs,
            looks: parts.looks,
            right: parts.right,
            draining: AtomicBool::new(false),
            held: Arc::default(),
        }
    }

    pub fn settled(&self) -> Arc<Settled> {
        self.settled.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn reconfigure(&self, config: Arc<Config>) {
        *self.settled.write().unwrap_or_else(PoisonError::into_inner) = Settled::new(config);
        self.databases.forget_shapes();
    }

    /// How many sessions have something under way on that server in that epoch: a transaction that is open, or
    /// answers to come. One that is pinned and idle has not. Cheap enough to be asked every few milliseconds.
    ///
    /// Once a snapshot without that server as the primary was published, no session begins anything there, and
    /// the number only falls.
    pub fn busy_on(&self, server: ServerIndex, epoch: Epoch) -> usize {
        self.sessions.busy_on(server, epoch)
    }

    /// Whether no connection to a server is open here, and none that is opened will be used before a snapshot says again
    /// that it may: sessions look at that once they have one.
    pub fn is_quiet(&self, server: ServerIndex) -> bool {
        let may_begin = {
            let snapshot = self.topology.borrow();
            let is_open = |server: &ServerState| server.admission == Admission::Open;
            snapshot.primary == Some(server)
                || snapshot
                    .server(server)
                    .is_some_and(|server| server.is_up(Role::Standby) && is_open(server))
        };
        !may_begin && self.pools.gate(server).is_none_or(|gate| gate.open_count() == 0)
    }

    /// Whether a server is not used because somebody has ordered so: what is under way there may finish.
    pub fn is_withdrawn(&self, server: ServerIndex) -> bool {
        self.view.borrow().is_withdrawn(server)
    }

    /// Whether this node finds a server down itself.
    pub fn is_silent(&self, server: ServerIndex) -> bool {
        self.view.borrow().is_silent(server)
    }

    /// Why there is no primary, for those who wait for one.
    pub fn why_no_primary(&self) -> &'static str {
        self.view.borrow().no_primary.map_or("no primary is known", |reason| reason.sentence())
    }

    /// Asks a server to end what a connection runs. Returns once the server has taken it, or does not in time.
    pub async fn cancel_on_server(&self, address: &CancelAddress) -> bool {
        let topology = self.topology.borrow().clone();
        let Some(server) = topology.server(address.server) else { return false };
        let target = self.pools.target(server);
        let within = Duration::from_millis(self.settled().config.pool.connect_timeout_ms);
        connect::cancel(&target, address.peer, address.pid, &address.key, within).await.is_ok()
    }

    /// The schema of a database has changed under our eyes, or may have.
    pub fn schema_changed(&self, database: &Database) {
        database.schema_changed();
        self.catalogs.invalidate(&database.name);
    }

    /// Brings the databases' catalogs up to date; called by a coarse tick.
    pub fn refresh_catalogs(&self) {
        for database in self.databases.all() {
            database.set_catalog(self.catalogs.get(&database.name));
        }
    }
}

/// What is known of one database's statements.
pub struct Database {
    pub name: Arc<str>,
    pub id: u64,
    schema_generation: AtomicU64,
    /// Counts what `known` was resolved with: changes of it that leave every earlier answer in doubt.
    generation: AtomicU64,
    seed: ShapeSeed,
    /// What a text is that the server may read otherwise than we do. Not a change of the schema: that would be one with
    /// each backslash of a client, and ends what is known of all statements.
    read_otherwise: Arc<Analyzed>,
    known: Mutex<Known>,
    /// Some role's transactions are SERIALIZABLE by default: rare, and looked at before each choice.
    has_serializable: AtomicBool,
}

struct Known {
    shapes: RouteCache,
    catalog: Option<Arc<Catalog>>,
    /// As of the last catalog: DDL does not make it doubtful.
    serializable: HashSet<Box<str>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Database {
    fn new(name: &str, id: u64) -> Arc<Self> {
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).expect("the operating system's random source works");
        let word = |i: usize| {
            let bytes = random[i * 8..][..8].try_into().expect("eight bytes of thirty-two");
            u64::from_ne_bytes(bytes)
        };
        let effects = Effects::OPAQUE.without(Effects::DDL);
        let analysis = Analysis { effects, ..Analysis::opaque() };
        let routed = resolve(&analysis, None, &FunctionLists::default());
        Arc::new(Database {
            read_otherwise: Arc::new(Analyzed { analysis, routed, generation: 0 }),
            name: name.into(),
            id,
            schema_generation: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            seed: ShapeSeed([word(0), word(1), word(2), word(3)]),
            known: Mutex::new(Known {
                shapes: RouteCache::new(SHAPES_PER_DATABASE),
                catalog: None,
                serializable: HashSet::new(),
            }),
            has_serializable: AtomicBool::new(false),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this text is and does.
    pub fn classify(&self, sql: &[u8], settled: &Settled, reading: Reading) -> Arc<Analyzed> {
        if !reading.is_ours(sql) {
            return self.read_otherwise.clone();
        }
        let foreign = reading.foreign && !sql.is_ascii();
        let shape = shape(sql, &self.seed).by_lists(settled.functions.id());
        let shape = if foreign { shape.foreign() } else { shape };
        let asks = |analyzed: &Analyzed| analyzed.routed.reads_settings && one_server::names_role(sql);
        let mut known = self.known();
        if let Some(found) = known.shapes.get(shape) {
            if !asks(found) {
                return found.clone();
            }
            if let Some(found) = known.shapes.get(shape.asking_for_role()) {
                return found.clone();
            }
        }
        let catalog = known.catalog.clone();
        let generation = self.generation(settled);
        drop(known);
        // Off the lock: this takes up to a hundred microseconds, once for each shape.
        let analysis = match std::str::from_utf8(sql) {
            _ if foreign => analyze_foreign(sql),
            Ok(sql) => analyze(sql),
            // No server takes it, unless it was sent ahead of the answer to what sets the encoding. Not kept: by its
            // shape it is what others send.
            Err(_) => {
                let analysis = Analysis::opaque();
                let routed = resolve(&analysis, None, &settled.functions);
                return Arc::new(Analyzed { analysis, routed, generation });
            }
        };
        let routed = resolve(&analysis, catalog.as_deref(), &settled.functions);
        let analyzed = Arc::new(Analyzed { analysis, routed, generation });
        let asking = asks(&analyzed).then(|| Arc::new(one_server::to_primary(&analyzed)));
        let mut known = self.known();
        if self.is_current(&analyzed, settled) {
            known.shapes.insert(shape, analyzed.clone());
            if let Some(asking) = &asking {
                known.shapes.insert(shape.asking_for_role(), asking.clone());
            }
        }
        asking.unwrap_or(analyzed)
    }

    /// Changes whenever answers of `classify` are not any more what they were, and is another by other lists.
    pub fn generation(&self, settled: &Settled) -> u64 {
        self.generation.load(Ordering::Acquire).wrapping_add(settled.functions.id())
    }

    /// Whether an answer of `classify` is what it would answer now.
    pub fn is_current(&self, analyzed: &Analyzed, settled: &Settled) -> bool {
        // Of what is not looked into no catalog says more.
        analyzed.generation == self.generation(settled)
            || analyzed.analysis.reason == RouteReason::NotInspected
    }

    /// What a prepared statement is and does now: the catalog may have changed since it was prepared.
    pub fn classify_prepared(
        &self,
        prepared: &Prepared,
        settled: &Settled,
        reading: Reading,
    ) -> Arc<Analyzed> {
        if !reading.is_ours(&prepared.text) {
            // It may have to be parsed once more, and then is what it says now.
            return self.read_otherwise.clone();
        }
        let analyzed = prepared.analyzed();
        if self.is_current(&analyzed, settled) {
            return analyzed;
        }
        let sql = match prepared.origin {
            Origin::Parse => &*prepared.text,
            Origin::Sql => rewrite::prepared_body(&prepared.text).unwrap_or(&prepared.text),
        };
        let analyzed = self.classify(sql, settled, reading);
        prepared.renew(&analyzed);
        analyzed
    }

    /// Whether the role's transactions are SERIALIZABLE unless they, or their session, say otherwise.
    pub fn is_serializable(&self, role: &str) -> bool {
        self.has_serializable.load(Ordering::Acquire) && self.known().serializable.contains(role)
    }

    pub fn schema_generation(&self) -> u64 {
        self.schema_generation.load(Ordering::Acquire)
    }

    /// The schema has changed under our eyes: what was known of its names is not, and statements prepared
    /// from now on are others than those prepared before.
    pub fn schema_changed(&self) {
        self.schema_generation.fetch_add(1, Ordering::AcqRel);
        self.set_catalog(None);
    }

    fn set_catalog(&self, catalog: Option<Arc<Catalog>>) {
        let mut known = self.known();
        let same = match (&known.catalog, &catalog) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        if !same {
            if let Some(catalog) = &catalog {
                known.serializable.clone_from(&catalog.serializable);
                self.has_serializable.store(!known.serializable.is_empty(), Ordering::Release);
            }
            known.catalog = catalog;
            self.forget(&mut known);
        }
    }

    fn forget_shapes(&self) {
        self.forget(&mut self.known());
    }

    fn forget(&self, known: &mut Known) {
        known.shapes.clear();
        self.generation.fetch_add(1, Ordering::Release);
    }
}

#[derive(Debug, Default)]
pub struct Databases {
    by_name: Mutex<HashMap<Arc<str>, Arc<Database>, RandomState>>,
    next: AtomicU64,
}

impl Databases {
    fn by_name(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Database>, RandomState>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called with names a server has accepted only, else clients could grow the map.
    pub fn get(&self, name: &str) -> Arc<Database> {
        let mut by_name = self.by_name();
        if let Some(database) = by_name.get(name) {
            return database.clone();
        }
        let database = Database::new(name, self.next.fetch_add(1, Ordering::Relaxed));
        by_name.insert(database.name.clone(), database.clone());
        database
    }

    fn all(&self) -> Vec<Arc<Database>> {
        self.by_name().values().cloned().collect()
    }

    fn forget_shapes(&self) {
        self.all().iter().for_each(|database| database.forget_shapes());
    }

    /// Drops databases no session uses.
    pub fn sweep(&self) {
        self.by_name().retain(|_, database| Arc::strong_count(database) > 1);
    }
}
