//! A primary and its streaming standbys.
//!
//! Owns the order in which they are made. Never changes roles by itself.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::installation::Installation;
use super::postgres::{Postgres, PostgresError, PostgresOptions, REPLICATION_USER, StopMode};

const STREAMING_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// `servers[0]` began as the primary, with the id `pg1`; `pg2` and further began as its standbys.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<Postgres>,
}

impl Servers {
    /// Makes and starts all of them, and waits until every standby streams.
    pub fn start(
        installation: &Installation,
        directory: &Path,
        standbys: usize,
        options: PostgresOptions,
    ) -> Result<Self, PostgresError> {
        let password = options.password.clone();
        let primary = Postgres::init(installation, directory, "pg1", options)?;
        primary.start()?;
        let create =
            format!("CREATE ROLE {REPLICATION_USER} LOGIN REPLICATION PASSWORD {}", literal(&password));
        primary.psql("postgres", &create)?;
        let followers = thread::scope(|scope| {
            let primary = &primary;
            let jobs: Vec<_> = (0..standbys)
                .map(|n| {
                    scope.spawn(move || {
                        let standby = primary.base_backup(&format!("pg{}", n + 2))?;
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
        let servers = Self { servers: all };
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
