//! PostgreSQL servers that wear Aurora's functions: each says what it was told to say of the cluster.

use komainu::sandbox::Postgres;

use super::{Cluster, PATIENCE, eventually};

/// What each of them says is in a setting of its own: `pg1*,pg2,pg3`, the writer with a star.
const FUNCTIONS: &str = "
CREATE FUNCTION pg_catalog.aurora_db_instance_identifier() RETURNS text LANGUAGE sql STABLE AS
  $$ SELECT pg_catalog.current_setting('cluster_name') $$;
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

/// Gives all servers of a cluster their names and functions; all say that the first one writes.
pub fn dress_as_aurora(cluster: &Cluster) {
    let all = cluster.servers().all();
    for server in all {
        server.configure("cluster_name", server.id()).unwrap();
        server.configure("aurora.lag", "10").unwrap();
        server.restart().unwrap();
    }
    let functions = cluster.primary().psql("postgres", FUNCTIONS);
    functions.unwrap();
    // Databases are copied from it.
    cluster.primary().psql("template1", FUNCTIONS).unwrap();
    let ids: Vec<&str> = all.iter().map(Postgres::id).collect();
    let instances = format!("{}*{}", ids[0], ids[1..].iter().map(|id| format!(",{id}")).collect::<String>());
    all.iter().for_each(|server| say(server, &instances));
    cluster.servers().wait_for_replay().unwrap();
}

/// What a server says from now on.
pub fn say(server: &Postgres, instances: &str) {
    server.configure("aurora.instances", instances).unwrap();
    server.reload().unwrap();
    eventually(PATIENCE, "it says so", || {
        server.psql("postgres", "SHOW aurora.instances").is_ok_and(|said| said == instances)
    });
}
