//! The questions whose answers make a `Catalog`.
//!
//! Owns SQL text only. Every name and operator in it is qualified, and neither IN nor `=` is used bare, so
//! that no `search_path` changes its meaning. For PostgreSQL 11 to 18; any role may run it.
//! Invariant: a statement that could do on the primary what it cannot do on a standby is found by these rows
//! or by `classify`.

/// Columns: schema, name (text), volatility (text: `i`, `s` or `v`, the worst over all overloads), attribute
/// (boolean: a volatile overload may be called as `x.name`). An aggregate is always marked immutable: what
/// counts are the functions it is made of. Some stable functions count as volatile all the same: those that
/// take a transaction id, which no standby can, and those that tell what one server did or is set to.
pub const CATALOG_QUERY_FUNCTIONS: &str = r#"
WITH volatile_aggregate AS (
  SELECT DISTINCT a.aggfnoid::pg_catalog.oid AS aggregate
    FROM pg_catalog.pg_aggregate a
   CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn,
           a.aggminvtransfn, a.aggmfinalfn]::pg_catalog.oid[]) AS part(oid)
    JOIN pg_catalog.pg_proc s ON s.oid OPERATOR(pg_catalog.=) part.oid
   WHERE s.provolatile OPERATOR(pg_catalog.=) 'v'
)
SELECT n.nspname::pg_catalog.text,
       f.proname::pg_catalog.text,
       CASE WHEN pg_catalog.bool_or(f.volatile) THEN 'v'
            WHEN pg_catalog.bool_or(f.stable) THEN 's'
            ELSE 'i' END::pg_catalog.text,
       pg_catalog.bool_or(f.volatile AND f.attribute)
  FROM (SELECT p.proname,
               p.pronamespace,
               p.provolatile OPERATOR(pg_catalog.=) 'v'
                 OR p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['txid_current', 'pg_current_xact_id',
                      'pg_show_all_settings']::pg_catalog.name[])
                 OR p.proname OPERATOR(pg_catalog.~) '^pg_stat_get_'
                 OR a.aggregate IS NOT NULL AS volatile,
               p.provolatile OPERATOR(pg_catalog.=) 's' AS stable,
               p.pronargs OPERATOR(pg_catalog.>=) 1
                 AND p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults OPERATOR(pg_catalog.<=) 1
                 AND t.typtype OPERATOR(pg_catalog.=) ANY (ARRAY['c', 'd', 'p']::pg_catalog."char"[])
                 AND t.oid OPERATOR(pg_catalog.<>) 2281 AS attribute
          FROM pg_catalog.pg_proc p
          LEFT JOIN volatile_aggregate a ON a.aggregate OPERATOR(pg_catalog.=) p.oid
          LEFT JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) p.proargtypes[0]) f
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) f.pronamespace
 GROUP BY 1, 2"#;

/// Columns: schema, name (text): relations that only the primary may serve. Unlogged tables, sequences and
/// foreign tables; tables with such a partition or child; views and row security policies that call a
/// volatile function; views over any of these. Temporary relations are left out: a session that has one is
/// pinned, and another's must not move everybody's reads. A materialized view is a table.
///
/// What a view calls is read from its stored tree, since `pg_depend` has no rows for built-in functions.
pub const CATALOG_QUERY_RELATIONS: &str = r#"
WITH RECURSIVE
volatile_function AS (
  SELECT p.oid
    FROM pg_catalog.pg_proc p
   WHERE p.provolatile OPERATOR(pg_catalog.=) 'v'
      OR p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['txid_current', 'pg_current_xact_id',
           'pg_show_all_settings']::pg_catalog.name[])
      OR p.proname OPERATOR(pg_catalog.~) '^pg_stat_get_'
  UNION
  SELECT a.aggfnoid::pg_catalog.oid
    FROM pg_catalog.pg_aggregate a
   CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn,
           a.aggminvtransfn, a.aggmfinalfn]::pg_catalog.oid[]) AS part(oid)
    JOIN pg_catalog.pg_proc s ON s.oid OPERATOR(pg_catalog.=) part.oid
   WHERE s.provolatile OPERATOR(pg_catalog.=) 'v'
),
tree AS (
  SELECT r.ev_class AS relation, r.ev_action::pg_catalog.text AS nodes
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.ev_class
   WHERE r.ev_type OPERATOR(pg_catalog.=) '1' AND c.relkind OPERATOR(pg_catalog.=) 'v'
  UNION ALL
  SELECT p.polrelid, pg_catalog.concat(p.polqual, p.polwithcheck)
    FROM pg_catalog.pg_policy p
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid
   WHERE c.relrowsecurity
),
reference AS (
  SELECT t.relation, (m.found)[1] OPERATOR(pg_catalog.=) 'relid' AS is_relation,
         (m.found)[2]::pg_catalog.oid AS referred
    FROM tree t
   CROSS JOIN LATERAL pg_catalog.regexp_matches(t.nodes,
           ':(relid|funcid|aggfnoid|winfnoid|opfuncid) ([0-9]+)', 'g') AS m(found)
),
made_of AS (
  SELECT r.relation, r.referred FROM reference r WHERE r.is_relation
  UNION
  SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits i
),
primary_only AS (
  SELECT c.oid
    FROM pg_catalog.pg_class c
   WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['S', 'f']::pg_catalog."char"[])
      OR c.relpersistence OPERATOR(pg_catalog.=) 'u'
  UNION
  SELECT r.relation
    FROM reference r
    JOIN volatile_function v ON v.oid OPERATOR(pg_catalog.=) r.referred
   WHERE NOT r.is_relation
  UNION
  SELECT m.relation
    FROM made_of m
    JOIN primary_only p ON p.oid OPERATOR(pg_catalog.=) m.referred
)
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
  FROM primary_only p
  JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.oid
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'm', 'S', 'f']::pg_catalog."char"[])
   AND c.relpersistence OPERATOR(pg_catalog.<>) 't'"#;

/// One column: the roles whose transactions are SERIALIZABLE unless they say otherwise, which no standby can give. A
/// configuration file's word is this connection's own, unless its role has another.
pub const CATALOG_QUERY_SERIALIZABLE: &str = r#"
WITH level AS (
  SELECT s.setrole, s.setdatabase, pg_catalog.lower(pg_catalog.split_part(c.entry, '=', 2)) AS name
    FROM pg_catalog.pg_db_role_setting s
   CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c(entry)
   WHERE pg_catalog.split_part(c.entry, '=', 1) OPERATOR(pg_catalog.=) 'default_transaction_isolation'
),
here AS (
  SELECT d.oid FROM pg_catalog.pg_database d
   WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
)
SELECT r.rolname::pg_catalog.text
  FROM pg_catalog.pg_roles r
 CROSS JOIN here h
 WHERE r.rolcanlogin
   AND COALESCE(
         (SELECT l.name FROM level l WHERE l.setrole OPERATOR(pg_catalog.=) r.oid
             AND l.setdatabase OPERATOR(pg_catalog.=) h.oid),
         (SELECT l.name FROM level l WHERE l.setrole OPERATOR(pg_catalog.=) r.oid
             AND l.setdatabase OPERATOR(pg_catalog.=) 0),
         (SELECT l.name FROM level l WHERE l.setrole OPERATOR(pg_catalog.=) 0
             AND l.setdatabase OPERATOR(pg_catalog.=) h.oid),
         (SELECT l.name FROM level l WHERE l.setrole OPERATOR(pg_catalog.=) 0
             AND l.setdatabase OPERATOR(pg_catalog.=) 0),
         (SELECT s.reset_val FROM pg_catalog.pg_settings s
           WHERE s.name OPERATOR(pg_catalog.=) 'default_transaction_isolation'))
       OPERATOR(pg_catalog.=) 'serializable'"#;

/// Columns: schema, name, and what the relation runs by itself that a session is left with, as letters: `r` state and `l`
/// advisory locks where it is read, `w` and `k` where it is written to.
///
/// Read are the views and policies that call what would leave state if it stood in the statement. Written to are the
/// triggers, defaults, checks and rules whose functions *say* in their text that they do: of those that say nothing of it
/// most keep a column up to date, and each INSERT would have its connection wiped. What such a function calls is not
/// looked at, nor what is written in C.
pub const CATALOG_QUERY_STATE: &str = r#"
WITH RECURSIVE
code AS (
  SELECT p.oid, b.builtin,
         CASE WHEN b.builtin THEN p.proname OPERATOR(pg_catalog.~) '^(set_config$|pg_(try_)?advisory_lock)'
              ELSE p.provolatile OPERATOR(pg_catalog.=) 'v' END AS leaves,
         CASE WHEN b.builtin THEN p.proname OPERATOR(pg_catalog.~) '^(set_config$|pg_(try_)?advisory_lock)'
              WHEN l.lanname OPERATOR(pg_catalog.=) ANY (ARRAY['internal', 'c']::pg_catalog.name[]) THEN false
              WHEN l.lanname OPERATOR(pg_catalog.=) ANY (ARRAY['sql', 'plpgsql']::pg_catalog.name[])
              THEN p.prosrc OPERATOR(pg_catalog.~*) $$(set_config|setseed|dblink|pg_temp|pg_(try_)?advisory_lock|(^|[;'']|\m(begin|then|else|loop))\s*(set|listen|load|prepare|create\s+((local|global)\s+)?temp(orary)?)\s)$$
              ELSE true END AS says_so,
         CASE WHEN b.builtin THEN p.proname OPERATOR(pg_catalog.~) '^pg_(try_)?advisory_lock'
              ELSE p.prosrc OPERATOR(pg_catalog.~*) 'pg_(try_)?advisory_lock' END AS locks
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) p.prolang
   CROSS JOIN LATERAL (SELECT p.pronamespace OPERATOR(pg_catalog.=) 11) AS b(builtin)
),
tree AS (
  SELECT r.ev_class AS relation, r.ev_type OPERATOR(pg_catalog.=) '1' AS reading,
         r.ev_action::pg_catalog.text AS nodes
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.ev_class
   WHERE c.relkind OPERATOR(pg_catalog.=) 'v' OR r.ev_type OPERATOR(pg_catalog.<>) '1'
  UNION ALL
  SELECT p.polrelid, true, pg_catalog.concat(p.polqual, p.polwithcheck)
    FROM pg_catalog.pg_policy p
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid
   WHERE c.relrowsecurity
  UNION ALL
  SELECT d.adrelid, false, d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef d
  UNION ALL
  SELECT c.conrelid, false, c.conbin::pg_catalog.text
    FROM pg_catalog.pg_constraint c
   WHERE c.conrelid OPERATOR(pg_catalog.<>) 0 AND c.conbin IS NOT NULL
),
reference AS (
  SELECT t.relation, t.reading, (m.found)[1] OPERATOR(pg_catalog.=) 'relid' AS is_relation,
         (m.found)[2]::pg_catalog.oid AS referred
    FROM tree t
   CROSS JOIN LATERAL pg_catalog.regexp_matches(t.nodes,
           ':(relid|funcid|aggfnoid|winfnoid|opfuncid) ([0-9]+)', 'g') AS m(found)
),
made_of AS (
  SELECT r.relation, r.referred FROM reference r WHERE r.is_relation
  UNION
  SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits i
),
runs AS (
  SELECT r.relation, r.reading, c.locks
    FROM reference r
    JOIN code c ON c.oid OPERATOR(pg_catalog.=) r.referred
   WHERE NOT r.is_relation AND CASE WHEN r.reading THEN c.leaves ELSE c.says_so END
  UNION
  SELECT t.tgrelid, false, c.locks
    FROM pg_catalog.pg_trigger t
    JOIN code c ON c.oid OPERATOR(pg_catalog.=) t.tgfoid
   WHERE c.says_so AND NOT t.tgisinternal
  UNION
  SELECT m.relation, d.reading, d.locks
    FROM made_of m
    JOIN runs d ON d.relation OPERATOR(pg_catalog.=) m.referred
)
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
       pg_catalog.concat(CASE WHEN pg_catalog.bool_or(d.reading) THEN 'r' END,
                         CASE WHEN pg_catalog.bool_or(d.reading AND d.locks) THEN 'l' END,
                         CASE WHEN pg_catalog.bool_or(NOT d.reading) THEN 'w' END,
                         CASE WHEN pg_catalog.bool_or(NOT d.reading AND d.locks) THEN 'k' END)
  FROM runs d
  JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) d.relation
  JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE c.oid OPERATOR(pg_catalog.<>) 'pg_catalog.pg_settings'::pg_catalog.regclass
 GROUP BY 1, 2"#;
