//! A primary and its streaming standbys.
//!
//! Owns the order in which they are made. Never changes roles by itself.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::postgres::{Postgres, PostgresError, PostgresOptions, REPLICATION_USER, StopMode};
use super::roles::{self, Login};
use super::sweep::Sweeper;
use crate::postgres::Installation;

const STREAMING_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// `servers[0]` began as the primary, with the id `pg1`; `pg2` and further began as its standbys.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<Postgres>,
    /// Behind the servers: it ends what is left of them when we cannot.
    _sweeper: Sweeper,
}

/// What a primary and this many standbys are called.
pub fn server_ids(standbys: usize) -> Vec<String> {
    (1..=standbys + 1).map(|n| format!("pg{n}")).collect()
}

impl Servers {
    /// Makes and starts all of them, and waits until every standby streams.
    pub fn start(
        installation: &Installation,
        directory: &Path,
        standbys: usize,
        options: PostgresOptions,
    ) -> Result<Self, PostgresError> {
        let sweeper = Sweeper::of(directory).map_err(|source| PostgresError::Io {
            operation: "watch over",
            path: directory.to_owned(),
            source,
        })?;
        let password = options.password.clone();
        let ids = server_ids(standbys);
        let primary = Postgres::init(installation, directory, &ids[0], options)?;
        primary.write_passfile(&[&primary.replicator()])?;
        primary.start()?;
        let create =
            format!("CREATE ROLE {REPLICATION_USER} LOGIN REPLICATION PASSWORD {}", literal(&password));
        primary.psql("postgres", &create)?;
        let followers = thread::scope(|scope| {
            let primary = &primary;
            let jobs: Vec<_> = ids[1..]
                .iter()
                .map(|id| {
                    scope.spawn(move || {
                        let standby = primary.base_backup(id)?;
                        standby.start()?;
                        Ok(standby)
                    })
                })
                .collect();
            jobs.into_iter()
                .map(|job| job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<Postgres>, PostgresError>>()
        })?;
        let mut all = vec![primary];
        all.extend(followers);
        let servers = Self { servers: all, _sweeper: sweeper };
        servers.wait_for_streaming()?;
        Ok(servers)
    }

    pub fn all(&self) -> &[Postgres] {
        &self.servers
    }

    pub fn primary(&self) -> &Postgres {
        &self.servers[0]
    }

    pub fn standbys(&self) -> &[Postgres] {
        &self.servers[1..]
    }

    /// Waits until every standby has replayed all the primary has written so far.
    pub fn wait_for_replay(&self) -> Result<(), PostgresError> {
        let lsn = self.primary().psql("postgres", "SELECT pg_current_wal_flush_lsn()")?;
        for standby in self.standbys() {
            let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
            wait_for(standby, "replay the primary's WAL", || Ok(standby.psql("postgres", &sql)? == "t"))?;
        }
        Ok(())
    }

    /// Makes the roles that operate the servers and rewind one from another, and has the servers' hosts know
    /// the password of the latter.
    pub fn create_operating_roles(&self, operator: &Login, rewinder: &Login) -> Result<(), PostgresError> {
        let primary = self.primary();
        let sql = roles::create(operator, rewinder, primary.major_version());
        primary.psql(roles::DATABASE, &sql)?;
        primary.write_passfile(&[&primary.replicator(), rewinder])?;
        self.wait_for_replay()
    }

    /// From now on the primary acknowledges what any one of these standbys has, too, as komainu would set it.
    pub fn begin_synchronous(&self, names: &[&str]) -> Result<(), PostgresError> {
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({})'", names.join(", "));
        let primary = self.primary();
        primary.psql("postgres", &set)?;
        primary.reload()?;
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'";
        let wanted = names.len().to_string();
        wait_for(primary, "wait for its standbys", || Ok(primary.psql("postgres", sql)? == wanted))
    }

    /// Stops them in the order in which none waits for another, the primary first.
    pub fn stop(&self) -> Result<(), PostgresError> {
        self.servers.iter().try_for_each(|server| server.stop(StopMode::Fast))
    }

    fn wait_for_streaming(&self) -> Result<(), PostgresError> {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let wanted = self.standbys().len().to_string();
        let primary = self.primary();
        wait_for(primary, "stream to all standbys", || Ok(primary.psql("postgres", sql)? == wanted))
    }
}

fn wait_for(
    server: &Postgres,
    goal: &'static str,
    mut reached: impl FnMut() -> Result<bool, PostgresError>,
) -> Result<(), PostgresError> {
    let deadline = Instant::now() + STREAMING_TIMEOUT;
    while !reached()? {
        if Instant::now() >= deadline {
            let (id, log) = (server.id().to_owned(), server.log_tail());
            return Err(PostgresError::Timeout { id, goal, seconds: STREAMING_TIMEOUT.as_secs(), log });
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// A string as an SQL literal, whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}
