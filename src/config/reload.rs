//! What differs between two configurations, and what of it can change without a restart.
//!
//! Owns the comparison. Pure. Invariant: no field is forgotten, since each structure is taken apart by
//! name and a new field does not compile until it is compared.

use std::collections::BTreeSet;

use super::{
    Admin, Auth, AuthQuery, ClientTls, Config, Health, Limits, Listen, Log, Pool, PoolLimits, Server,
    ServerTls, Split, keys,
};

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As `docs/configuration.md` names it; for a server with its id: `server.s1.weight`.
    pub key: String,
    /// Whether it can change while komainu serves; else it waits for a restart.
    pub live: bool,
}

/// Every key that differs, in the order of the documentation.
///
/// Files that are named (HBA, users, certificates) are read again whether or not their names changed.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    let Config {
        listen: _,
        admin: _,
        log: _,
        limits: _,
        client_tls: _,
        server_tls: _,
        auth: _,
        pool: _,
        split: _,
        health: _,
        servers: _,
        zone,
        workers,
    } = old;
    changed(&mut changes, "zone", zone, &new.zone);
    changed(&mut changes, "workers", workers, &new.workers);
    listen(&mut changes, &old.listen, &new.listen);
    admin(&mut changes, &old.admin, &new.admin);
    log(&mut changes, &old.log, &new.log);
    limits(&mut changes, &old.limits, &new.limits);
    client_tls(&mut changes, &old.client_tls, &new.client_tls);
    server_tls(&mut changes, &old.server_tls, &new.server_tls);
    auth(&mut changes, &old.auth, &new.auth);
    pool(&mut changes, &old.pool, &new.pool);
    split(&mut changes, &old.split, &new.split);
    health(&mut changes, &old.health, &new.health);
    servers(&mut changes, &old.servers, &new.servers);
    changes
}

fn changed<T: PartialEq>(changes: &mut Vec<Change>, key: &str, old: &T, new: &T) {
    if old != new {
        let live = keys::key(key).is_none_or(|key| key.live);
        changes.push(Change { key: key.to_owned(), live });
    }
}

/// A function that compares a structure's fields under the keys of a section. Naming all of them is
/// what makes a new field an error here.
macro_rules! compare {
    ($function:ident, $structure:ident, $section:literal, [$($field:ident),*], not keys: [$($other:ident),*]) => {
        fn $function(changes: &mut Vec<Change>, old: &$structure, new: &$structure) {
            let $structure { $($field,)* $($other: _,)* } = old;
            $(changed(changes, concat!($section, ".", stringify!($field)), $field, &new.$field);)*
        }
    };
}

compare!(listen, Listen, "listen", [addresses, unix_socket_directory, unix_socket_mode, backlog], not keys: []);
compare!(admin, Admin, "admin", [address, socket], not keys: []);
compare!(log, Log, "log", [level, format], not keys: []);
compare!(limits, Limits, "limits", [
    max_client_connections, max_unauthenticated_per_address, startup_timeout_ms, client_idle_timeout_ms,
    idle_in_transaction_timeout_ms, shutdown_timeout_ms, max_message_bytes, max_inspected_statement_bytes,
    max_prepared_statements_per_session, max_prepared_bytes_per_session
], not keys: []);
compare!(client_tls, ClientTls, "client_tls", [mode, cert_file, key_file, client_ca_file], not keys: []);
compare!(server_tls, ServerTls, "server_tls", [mode, ca_file, cert_file, key_file], not keys: []);
compare!(auth_files, Auth, "auth", [hba_file, user_file], not keys: [query]);
compare!(auth_query, AuthQuery, "auth.query", [user, database, query, cache_ms], not keys: []);
compare!(pool_limits, PoolLimits, "pool", [mode, size, min, reserve, reserve_after_ms], not keys: []);
compare!(pool_keys, Pool, "pool", [
    max_server_connections, acquire_timeout_ms, connect_timeout_ms, connect_rate, idle_timeout_ms, lifetime_ms,
    check_after_idle_ms, max_prepared_statements, max_prepared_bytes
], not keys: [limits, overrides]);
compare!(split_keys, Split, "split", [
    enabled, consistency, max_lag_bytes, max_lag_ms, floor_wait_ms, prefer_same_zone, prefer_least_lag,
    read_only_functions, write_functions, catalog_max_age_ms
], not keys: [preferences]);
compare!(health, Health, "health", [user, password_file, database, period_ms, timeout_ms, retries], not keys: []);

fn auth(changes: &mut Vec<Change>, old: &Auth, new: &Auth) {
    auth_files(changes, old, new);
    match (&old.query, &new.query) {
        (Some(old), Some(new)) => auth_query(changes, old, new),
        (old, new) => changed(changes, "auth.query", old, new),
    }
}

fn pool(changes: &mut Vec<Change>, old: &Pool, new: &Pool) {
    pool_limits(changes, &old.limits, &new.limits);
    pool_keys(changes, old, new);
    changed(changes, "pool.override", &old.overrides, &new.overrides);
}

fn split(changes: &mut Vec<Change>, old: &Split, new: &Split) {
    split_keys(changes, old, new);
    changed(changes, "split.preference", &old.preferences, &new.preferences);
}

/// By id: one that comes or goes is a change of `server.<id>`.
fn servers(changes: &mut Vec<Change>, old: &[Server], new: &[Server]) {
    let ids: BTreeSet<_> = old.iter().chain(new).map(|server| server.id.as_str()).collect();
    for id in ids {
        let find = |servers: &'_ [Server]| servers.iter().position(|server| server.id == id);
        match (find(old).map(|at| &old[at]), find(new).map(|at| &new[at])) {
            (Some(old), Some(new)) => {
                let Server { id: _, host, port, weight, zone } = old;
                let key = |field: &str| format!("server.{id}.{field}");
                changed(changes, &key("host"), host, &new.host);
                changed(changes, &key("port"), port, &new.port);
                changed(changes, &key("weight"), weight, &new.weight);
                changed(changes, &key("zone"), zone, &new.zone);
            }
            (old, new) => changed(changes, &format!("server.{id}"), &old, &new),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::file::parse;

    const SMALLEST: &str = "[listen]\naddresses = ['127.0.0.1:1']\n[auth]\nhba_file = 'hba'\nuser_file = 'users'\n\
                            [[server]]\nid = 's1'\nhost = 'db1'\n";

    fn config(text: &str) -> Config {
        parse(text, Path::new("/etc/komainu.toml"), 4).unwrap_or_else(|report| panic!("{report}")).0
    }

    fn diff_of(text: &str) -> Vec<(String, bool)> {
        diff(&config(SMALLEST), &config(text)).into_iter().map(|change| (change.key, change.live)).collect()
    }

    #[test]
    fn nothing_changed_is_no_change() {
        assert_eq!(diff_of(SMALLEST), []);
    }

    #[test]
    fn each_change_is_named_with_whether_it_is_live() {
        let text = "workers = 2\n[listen]\naddresses = ['127.0.0.1:2']\n[auth]\nhba_file = 'hba'\nuser_file = 'users'\n\
                    [auth.query]\nuser = 'q'\n[pool]\nsize = 7\n[[pool.override]]\nuser = 'x'\nsize = 1\n\
                    [split]\nenabled = false\n\
                    [[server]]\nid = 's1'\nhost = 'db1'\nweight = 3\n[[server]]\nid = 's2'\nhost = 'db2'\n";
        let expected = [
            ("workers", false),
            ("listen.addresses", false),
            ("auth.query", true),
            ("pool.size", true),
            ("pool.override", true),
            ("split.enabled", true),
            ("server.s1.weight", true),
            ("server.s2", true),
        ];
        assert_eq!(diff_of(text), expected.map(|(key, live)| (key.to_owned(), live)));
    }

    #[test]
    fn a_server_that_goes_is_named() {
        let both = format!("{SMALLEST}[[server]]\nid = 's2'\nhost = 'db2'\n");
        let changes = diff(&config(&both), &config(SMALLEST));
        assert_eq!(changes, [Change { key: "server.s2".to_owned(), live: true }]);
    }
}
