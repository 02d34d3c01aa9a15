-- The roles of a new database on RDS or Aurora, as its master user; terraform/make-roles runs this. Running it again is
-- harmless. `database` is the applications' database and role, `verifier` that role's SCRAM verifier.
\set ON_ERROR_STOP on
SET search_path = pg_catalog;

SELECT format('CREATE ROLE %I LOGIN', wanted) FROM unnest(ARRAY['komainu', :'database']) AS wanted
WHERE wanted NOT IN (SELECT rolname FROM pg_roles) \gexec

-- It looks at the servers. With rds_iam it logs in by token only.
GRANT rds_iam, pg_monitor TO komainu;

ALTER ROLE :"database" PASSWORD :'verifier';
-- Whoever gives a database away must be able to act as the one who gets it.
GRANT :"database" TO CURRENT_USER;
ALTER DATABASE :"database" OWNER TO :"database";
