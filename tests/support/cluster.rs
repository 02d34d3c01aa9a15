//! Real PostgreSQL servers for tests: one shared cluster for tests that break nothing, own ones for the others.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use komainu::sandbox::{Installation, Postgres, PostgresOptions, Scratch, Servers};

/// May log in, create databases and roles; owns what [`Cluster::database`] makes; no superuser.
pub const APP_USER: &str = "app";
pub const APP_PASSWORD: &str = "app's secret";
const SUPERUSER_PASSWORD: &str = "superuser's secret";

pub struct Cluster {
    servers: Servers,
    /// Behind the servers: they write into it until they are gone.
    scratch: Scratch,
}

impl Cluster {
    /// A primary and two standbys for all tests of this process. Tests that stop, promote or
    /// reconfigure servers start their own.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Cluster::start(2))
    }

    pub fn start(standbys: usize) -> Self {
        Self::start_with(standbys, |_| ())
    }

    /// With other options: `|options| options.settings.push(("work_mem".into(), "1MB".into()))`.
    pub fn start_with(standbys: usize, change: impl FnOnce(&mut PostgresOptions)) -> Self {
        let installation = Installation::find().unwrap();
        let mut options = PostgresOptions {
            max_connections: 300,
            fsync: false,
            settings: Vec::new(),
            hba: Vec::new(),
            password: SUPERUSER_PASSWORD.into(),
            hosts: Default::default(),
            port: None,
            slots: true,
        };
        change(&mut options);
        let scratch = Scratch::create("komainu-test-").unwrap();
        let servers = Servers::start(&installation, scratch.path(), standbys, options).unwrap();
        let cluster = Self { servers, scratch };
        let password = APP_PASSWORD.replace('\'', "''");
        let create = format!("CREATE ROLE {APP_USER} LOGIN CREATEDB CREATEROLE PASSWORD '{password}'");
        cluster.primary().psql("postgres", &create).unwrap();
        cluster.servers.wait_for_replay().unwrap();
        cluster
    }

    /// A new database of [`APP_USER`]'s, present on every server; returns its name.
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.primary().psql("postgres", &format!("CREATE DATABASE {name} OWNER {APP_USER}")).unwrap();
        self.servers.wait_for_replay().unwrap();
        name
    }

    /// Runs SQL on the server that began as primary, as superuser, and waits until the standbys have it.
    pub fn prepare(&self, database: &str, sql: &str) -> String {
        let rows = self.primary().psql(database, sql).unwrap();
        self.servers.wait_for_replay().unwrap();
        rows
    }

    /// Holds the servers' directories; the servers' user can pass through it.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    pub fn servers(&self) -> &Servers {
        &self.servers
    }

    pub fn primary(&self) -> &Postgres {
        self.servers.primary()
    }

    pub fn standby(&self, index: usize) -> &Postgres {
        &self.servers.standbys()[index]
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in self.servers.all() {
                let (id, log) = (server.id(), server.log_tail());
                eprintln!("---- the end of {id}'s log ----\n{log}---- end of {id}'s log ----");
            }
        }
    }
}
