//! PostgreSQL servers that wear what a managed service's show: functions, who may ask what, how they follow each other.
//!
//! Owns the SQL and the settings. Invariant: a function answers as the service documents it, as far as komainu asks.

use super::ManagedMode;
use crate::sandbox::postgres::{Postgres, PostgresError, PostgresOptions};
use crate::sandbox::roles::DATABASE;
use crate::sandbox::servers::Servers;

/// Databases are copied from it.
const TEMPLATE: &str = "template1";
/// Standbys have no slots, since nobody would move them along when the writer changes: this is what they may miss.
const KEPT_WAL: &str = "512MB";

/// What each of them says is in settings: `aurora.instance` is its own name, `aurora.instances` are all,
/// `pg1*,pg2,pg3`, the writer with a star, and `aurora.lag` is what a reader lags, in milliseconds.
pub const AURORA_FUNCTIONS: &str = "
CREATE FUNCTION pg_catalog.aurora_db_instance_identifier() RETURNS text LANGUAGE sql STABLE AS
  $$ SELECT pg_catalog.current_setting('aurora.instance') $$;
CREATE FUNCTION pg_catalog.aurora_version() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '15.4.0'::text $$;
CREATE FUNCTION pg_catalog.aurora_replica_status()
  RETURNS TABLE (server_id text, session_id text, durable_lsn bigint, highest_lsn_rcvd bigint,
                 current_read_lsn bigint, last_update_timestamp timestamptz, replica_lag_in_msec double precision)
  LANGUAGE sql VOLATILE SECURITY DEFINER AS
  $$ SELECT rtrim(entry, '*'),
            CASE WHEN entry LIKE '%*' THEN 'MASTER_SESSION_ID' ELSE md5(entry)::uuid::text END,
            at.lsn, at.lsn, at.lsn, NULL::timestamptz,
            CASE WHEN entry LIKE '%*' THEN NULL ELSE current_setting('aurora.lag', true)::float8 END
       FROM unnest(string_to_array(current_setting('aurora.instances'), ',')) AS entry,
            (SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                          ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint AS lsn) AS at $$;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_current_wal_insert_lsn() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_current_wal_lsn() FROM PUBLIC;
";
const LAG_MS: &str = "10";
/// As the extension `rds_tools` has it in a Multi-AZ DB cluster: `rds.members` has the endpoints of all instances, which share
/// one port.
pub const RDS_FUNCTIONS: &str = "
CREATE SCHEMA rds_tools;
CREATE FUNCTION rds_tools.show_topology(who text DEFAULT NULL)
  RETURNS TABLE (id text, endpoint text, port integer)
  LANGUAGE sql STABLE AS
  $$ SELECT 'db-' || upper(md5(entry)), entry, current_setting('rds.port')::integer
       FROM unnest(string_to_array(current_setting('rds.members', true), ',')) AS entry $$;
GRANT USAGE ON SCHEMA rds_tools TO PUBLIC;
";

/// What all servers of an imitation are started with. `lost`: where the WAL of a writer that was lost is found.
pub fn options(options: &mut PostgresOptions, lost: &std::path::Path) {
    options.slots = false;
    let lost = lost.to_string_lossy().replace('\'', "'\\''").replace('%', "%%");
    // Never before a writer is lost: until then there is no such place.
    let restore = format!("test -e '{lost}/%f' && cp '{lost}/%f' '%p'");
    options.settings.push(("restore_command".to_owned(), restore));
    options.settings.push(("wal_keep_size".to_owned(), KEPT_WAL.to_owned()));
}

/// Once, while all run and the first one is the writer.
pub fn dress(
    servers: &Servers,
    mode: ManagedMode,
    name: impl Fn(&str) -> String,
) -> Result<(), PostgresError> {
    let writer = servers.primary();
    for standby in servers.standbys() {
        // Left by its making, and stronger than any file of ours.
        for name in ["primary_conninfo", "primary_slot_name"] {
            standby.psql(DATABASE, &format!("ALTER SYSTEM RESET {name}"))?;
        }
        follow(standby, writer)?;
    }
    match mode {
        ManagedMode::Rds => {
            // As in a Multi-AZ DB cluster: a commit is acknowledged by one of the readers.
            let any = format!("ANY 1 ({})", ids(servers).join(", "));
            let members: Vec<String> = ids(servers).into_iter().map(name).collect();
            for database in [DATABASE, TEMPLATE] {
                writer.psql(database, RDS_FUNCTIONS)?;
            }
            for server in servers.all() {
                server.configure("synchronous_standby_names", &any)?;
                server.configure("rds.members", &members.join(","))?;
                server.configure("rds.port", &server.port().to_string())?;
            }
        }
        ManagedMode::Aurora => {
            for database in [DATABASE, TEMPLATE] {
                writer.psql(database, AURORA_FUNCTIONS)?;
            }
            for server in servers.all() {
                server.configure("aurora.instance", server.id())?;
                server.configure("aurora.lag", LAG_MS)?;
            }
            name_writer(servers, writer.id())?;
        }
    }
    servers.all().iter().try_for_each(Postgres::reload)?;
    servers.wait_for_replay()
}

/// From its next reload or start on.
pub fn follow(standby: &Postgres, writer: &Postgres) -> Result<(), PostgresError> {
    standby.configure("primary_conninfo", &writer.conninfo(standby))
}

/// What instances of Aurora say of each other, from their next reload or start on.
pub fn name_writer(servers: &Servers, writer: &str) -> Result<(), PostgresError> {
    let names: Vec<String> =
        ids(servers).iter().map(|id| format!("{id}{}", if *id == writer { "*" } else { "" })).collect();
    servers.all().iter().try_for_each(|server| server.configure("aurora.instances", &names.join(",")))
}

fn ids(servers: &Servers) -> Vec<&str> {
    servers.all().iter().map(Postgres::id).collect()
}
