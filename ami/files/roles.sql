-- The roles of a new database: what docs/privileges.md, docs/agent.md and docs/authentication.md say, once.
-- Passwords come as SCRAM verifiers, in variables.

CREATE ROLE komainu LOGIN PASSWORD :'verifier_komainu' IN ROLE pg_monitor;

CREATE ROLE komainu_operator LOGIN REPLICATION PASSWORD :'verifier_komainu_operator' IN ROLE pg_monitor, pg_checkpoint;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO komainu_operator;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO komainu_operator;
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, primary_slot_name, synchronous_standby_names TO komainu_operator;

CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'verifier_replicator';

CREATE ROLE komainu_rewind LOGIN PASSWORD :'verifier_komainu_rewind' IN ROLE pg_checkpoint;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO komainu_rewind;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO komainu_rewind;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO komainu_rewind;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO komainu_rewind;

CREATE ROLE komainu_auth LOGIN PASSWORD :'verifier_komainu_auth';
CREATE SCHEMA komainu;
REVOKE ALL ON SCHEMA komainu FROM PUBLIC;
GRANT USAGE ON SCHEMA komainu TO komainu_auth;
CREATE FUNCTION komainu.user_lookup(name text, OUT secret text, OUT may_login boolean)
RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.rolpassword,
           r.rolcanlogin
           AND r.rolconnlimit <> 0
           AND (r.rolvaliduntil IS NULL OR r.rolvaliduntil > pg_catalog.now())
    FROM pg_catalog.pg_authid AS r
    WHERE r.rolname = user_lookup.name AND NOT r.rolsuper AND NOT r.rolreplication
$$;
REVOKE ALL ON FUNCTION komainu.user_lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION komainu.user_lookup(text) TO komainu_auth;

CREATE ROLE :"database" LOGIN PASSWORD :'verifier';
CREATE DATABASE :"database" OWNER :"database";
