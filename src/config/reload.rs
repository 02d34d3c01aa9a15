//! What differs between two configurations, and what of it can change without a restart.
//!
//! Owns the comparison. Pure. Invariant: no field is forgotten, since each structure is taken apart by
//! name and a new field does not compile until it is compared.

use std::collections::BTreeSet;

use komainu_escalation::AwsSettings;

use super::keys::{self, Scope};
use super::{
    Admin, Agent, Aurora, Auth, AuthQuery, ClientTls, Cluster, Config, Dns, Failover, Health, HealthOfServer,
    Hooks, Limits, Listen, Log, Metrics, Node, Pool, PoolLimits, Server, ServerTls, Split,
};
use crate::consensus::lease::LeaseSettings;

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// As `docs/configuration.md` names it; for a server or a node with its id: `server.s1.weight`.
    pub key: String,
    /// Whether it can change while komainu serves; else it waits for a restart.
    pub live: bool,
    pub scope: Scope,
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
        metrics: _,
        limits: _,
        client_tls: _,
        server_tls: _,
        auth: _,
        pool: _,
        split: _,
        health: _,
        servers: _,
        server_users,
        agent: _,
        failover: _,
        hooks: _,
        zone,
        workers,
        worker_scheduling,
        core_dumps,
        cluster: _,
        endpoints: _,
        aws: _,
        dns: _,
        aurora: _,
    } = old;
    changed(&mut changes, "zone", zone, &new.zone);
    changed(&mut changes, "workers", workers, &new.workers);
    changed(&mut changes, "worker_scheduling", worker_scheduling, &new.worker_scheduling);
    changed(&mut changes, "core_dumps", core_dumps, &new.core_dumps);
    listen(&mut changes, &old.listen, &new.listen);
    admin(&mut changes, &old.admin, &new.admin);
    log(&mut changes, &old.log, &new.log);
    metrics(&mut changes, &old.metrics, &new.metrics);
    limits(&mut changes, &old.limits, &new.limits);
    client_tls(&mut changes, &old.client_tls, &new.client_tls);
    server_tls(&mut changes, &old.server_tls, &new.server_tls);
    auth(&mut changes, &old.auth, &new.auth);
    pool(&mut changes, &old.pool, &new.pool);
    split(&mut changes, &old.split, &new.split);
    health(&mut changes, &old.health, &new.health);
    servers(&mut changes, old, new);
    changed(&mut changes, "server_user", server_users, &new.server_users);
    failover(&mut changes, &old.failover, &new.failover);
    hooks(&mut changes, &old.hooks, &new.hooks);
    match (&old.agent, &new.agent) {
        (Some(old), Some(new)) => agent(&mut changes, old, new),
        (old, new) => changed(&mut changes, "agent", old, new),
    }
    cluster(&mut changes, old.cluster.as_ref(), new.cluster.as_ref());
    endpoints(&mut changes, old, new);
    aws(&mut changes, &old.aws, &new.aws);
    dns(&mut changes, &old.dns, &new.dns);
    aurora(&mut changes, &old.aurora, &new.aurora);
    changes
}

/// `new`, with everything that waits for a restart as it is in `old`.
pub fn live_part(old: &Config, new: Config) -> Config {
    let limits = Limits {
        max_client_connections: old.limits.max_client_connections,
        max_unauthenticated_per_address: old.limits.max_unauthenticated_per_address,
        ..new.limits
    };
    let servers = if servers_are_live(old, &new.failover) { new.servers } else { old.servers.clone() };
    Config {
        failover: Failover {
            mode: old.failover.mode,
            cluster_id: old.failover.cluster_id.clone(),
            cluster_refresh_ms: old.failover.cluster_refresh_ms,
            ..new.failover
        },
        listen: old.listen.clone(),
        admin: old.admin.clone(),
        log: Log { format: old.log.format, file: old.log.file.clone(), ..new.log },
        metrics: old.metrics.clone(),
        limits,
        split: Split { catalog_max_age_ms: old.split.catalog_max_age_ms, ..new.split },
        workers: old.workers,
        worker_scheduling: old.worker_scheduling,
        core_dumps: old.core_dumps,
        agent: old.agent.clone(),
        cluster: old.cluster.clone().map(|old| Cluster {
            raise_log_format_after_ms: new
                .cluster
                .as_ref()
                .map_or(old.raise_log_format_after_ms, |new| new.raise_log_format_after_ms),
            ..old
        }),
        endpoints: if endpoints_are_live(old) { new.endpoints } else { old.endpoints.clone() },
        servers,
        aws: old.aws.clone(),
        ..new
    }
}

/// Whether the primary stays where it is when `new` takes the place of `old`: it is not taken away from those who write.
/// The words say what to do instead.
pub fn keeps_primary(old: &[Server], new: &[Server], primary: &str) -> Result<(), String> {
    let of = |servers: &[Server]| {
        let found = servers.iter().find(|server| server.id == primary);
        found.map(|server| (server.host.clone(), server.port))
    };
    match (of(old), of(new)) {
        (_, None) => Err(format!(
            "{primary} is the primary, and the configuration has no such server: another one must become the primary \
             first (`komainu switchover`)"
        )),
        (Some(before), Some(after)) if before != after => Err(format!(
            "{primary} is the primary, and has another address in the configuration: another one must become the \
             primary first (`komainu switchover`), or komainu be restarted with it"
        )),
        _ => Ok(()),
    }
}

/// A node on its own has nobody who says who owns an endpoint, and does not get it before a restart.
fn endpoints_are_live(old: &Config) -> bool {
    old.cluster.is_some()
}

/// Where they are to be found from now on, the text may name none: those that it named serve until a restart finds them.
fn servers_are_live(old: &Config, new: &Failover) -> bool {
    old.failover.finds_servers() || !new.finds_servers()
}

fn changed<T: PartialEq>(changes: &mut Vec<Change>, key: &str, old: &T, new: &T) {
    changed_as(changes, key, key, old, new);
}

/// As `changed`, for one that the table knows under another name: `server.s1.weight` is `server.weight`.
fn changed_as<T: PartialEq>(changes: &mut Vec<Change>, key: &str, known_as: &str, old: &T, new: &T) {
    if old != new {
        let (live, scope) = match keys::key(known_as) {
            Some(key) => (key.live, key.scope),
            None => of_section(known_as),
        };
        changes.push(Change { key: key.to_owned(), live, scope });
    }
}

/// Of a section as a whole: live if all of it is, and the cluster's if any of it is.
fn of_section(name: &str) -> (bool, Scope) {
    let keys = keys::section(name).map_or(&[][..], |section| section.keys);
    let shared = keys.iter().any(|key| key.scope == Scope::Cluster);
    let live = !keys.is_empty() && keys.iter().all(|key| key.live);
    (live, if shared { Scope::Cluster } else { Scope::Node })
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
compare!(admin, Admin, "admin", [address, socket, tls_address, cert_file, key_file, token_file], not keys: []);
compare!(log, Log, "log", [level, format, file, rotate_bytes, keep_files], not keys: []);
compare!(metrics, Metrics, "metrics", [emf, put_metric_data, namespace, period_ms, high_resolution], not keys: []);
compare!(limits, Limits, "limits", [
    max_client_connections, max_unauthenticated_per_address, startup_timeout_ms, client_idle_timeout_ms,
    idle_in_transaction_timeout_ms, peer_gone_after_ms, hold_timeout_ms, max_held_clients, max_held_bytes, shutdown_timeout_ms, max_message_bytes,
    max_inspected_statement_bytes,
    max_prepared_statements_per_session, max_prepared_bytes_per_session
], not keys: []);
compare!(client_tls, ClientTls, "client_tls", [mode, cert_file, key_file, client_ca_file], not keys: []);
compare!(server_tls, ServerTls, "server_tls", [mode, ca_file, cert_file, key_file, allow_md5], not keys: []);
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
compare!(health, Health, "health", [
    user, password_file, database, period_ms, timeout_ms, connect_timeout_ms, retries
], not keys: []);
compare!(failover, Failover, "failover", [
    mode, automatic, user, password_file, database, replication_user, replication_passfile, sync_mode, sync_count,
    max_lag_bytes, promote_log_shipped, crash_recovery_grace_ms, promote_timeout_ms, silence_ms, max_slot_bytes,
    write_timeout_ms, fence_host, fence_host_wait_ms, cluster_id, cluster_refresh_ms
], not keys: []);
compare!(hooks, Hooks, "hooks", [on_failover, on_switchover, on_detach, on_attach, on_recovered], not keys: []);
compare!(agent, Agent, "agent", [
    data_directory, bin_directory, listen, state_directory, pki_directory, log_file, replication_user, passfile,
    rewind_user, rewind_database, keep_replaced_directory
], not keys: []);
compare!(cluster_keys, Cluster, "cluster", [
    name, directory, pki_directory, raise_log_format_after_ms
], not keys: [lease, nodes]);
compare!(lease, LeaseSettings, "cluster", [
    heartbeat_ms, lease_ms, drift_margin_ms, election_timeout_min_ms, election_timeout_max_ms
], not keys: []);
compare!(aurora, Aurora, "aurora", [instance_endpoint, session_window_ms], not keys: []);
compare!(dns, Dns, "dns", [servers], not keys: []);
compare!(aws, AwsSettings, "aws", [
    region, endpoint_url, route53_endpoint_url, metadata_endpoint, attempt_timeout_ms, connect_timeout_ms
], not keys: []);

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

fn servers(changes: &mut Vec<Change>, old: &Config, new: &Config) {
    let differ = |old: &Server, new: &Server| {
        let Server {
            id: _,
            host,
            port,
            weight,
            zone,
            disallow_failover,
            always_primary,
            replication,
            agent,
            instance_id,
            health: HealthOfServer { period_ms, timeout_ms, connect_timeout_ms, retries },
        } = old;
        [
            ("host", *host != new.host),
            ("port", *port != new.port),
            ("weight", *weight != new.weight),
            ("zone", *zone != new.zone),
            ("disallow_failover", *disallow_failover != new.disallow_failover),
            ("always_primary", *always_primary != new.always_primary),
            ("replication", *replication != new.replication),
            ("agent", *agent != new.agent),
            ("instance_id", *instance_id != new.instance_id),
            ("health_period_ms", *period_ms != new.health.period_ms),
            ("health_timeout_ms", *timeout_ms != new.health.timeout_ms),
            ("health_connect_timeout_ms", *connect_timeout_ms != new.health.connect_timeout_ms),
            ("health_retries", *retries != new.health.retries),
        ]
    };
    let before = changes.len();
    by_id(changes, "server", (&old.servers, &new.servers), |server| &server.id, differ);
    if !servers_are_live(old, &new.failover) {
        changes[before..].iter_mut().for_each(|change| change.live = false);
    }
}

fn cluster(changes: &mut Vec<Change>, old: Option<&Cluster>, new: Option<&Cluster>) {
    let (Some(old), Some(new)) = (old, new) else { return changed(changes, "cluster", &old, &new) };
    cluster_keys(changes, old, new);
    lease(changes, &old.lease, &new.lease);
    let differ = |old: &Node, new: &Node| {
        let Node { id: _, host, port, listen, zone } = old;
        [
            ("host", *host != new.host),
            ("port", *port != new.port),
            ("listen", *listen != new.listen),
            ("zone", *zone != new.zone),
        ]
    };
    by_id(changes, "node", (&old.nodes, &new.nodes), |node| &node.id, differ);
}

fn endpoints(changes: &mut Vec<Change>, old: &Config, new: &Config) {
    if old.endpoints != new.endpoints {
        let (live, scope) = of_section("endpoint");
        let live = live && endpoints_are_live(old);
        changes.push(Change { key: "endpoint".to_owned(), live, scope });
    }
}

/// A list of a section by id: one that comes or goes is a change of `server.<id>`. `differ` says which keys do.
fn by_id<T: PartialEq, const KEYS: usize>(
    changes: &mut Vec<Change>,
    section: &str,
    (old, new): (&[T], &[T]),
    id: fn(&T) -> &String,
    differ: fn(&T, &T) -> [(&'static str, bool); KEYS],
) {
    let ids: BTreeSet<_> = old.iter().chain(new).map(id).collect();
    for one in ids {
        let of = |list: &'_ [T]| list.iter().position(|entry| id(entry) == one);
        match (of(old).map(|at| &old[at]), of(new).map(|at| &new[at])) {
            (Some(old), Some(new)) => {
                for (name, differs) in differ(old, new) {
                    let (key, known_as) = (format!("{section}.{one}.{name}"), format!("{section}.{name}"));
                    changed_as(changes, &key, &known_as, &differs, &false);
                }
            }
            (old, new) => changed_as(changes, &format!("{section}.{one}"), section, &old, &new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::every_key::{SMALLEST, after, assert_every_key, before, config};

    fn diff_of(text: &str) -> Vec<(String, bool)> {
        diff(&config(SMALLEST), &config(text)).into_iter().map(|change| (change.key, change.live)).collect()
    }

    #[test]
    fn nothing_changed_is_no_change() {
        assert_eq!(diff_of(SMALLEST), []);
    }

    #[test]
    fn a_server_that_comes_or_goes_is_named() {
        let both = format!("{SMALLEST}[[server]]\nid = 's2'\nhost = 'db2'\n");
        let expected = [Change { key: "server.s2".to_owned(), live: true, scope: Scope::Cluster }];
        assert_eq!(diff(&config(SMALLEST), &config(&both)), expected);
        assert_eq!(diff(&config(&both), &config(SMALLEST)), expected);
    }

    #[test]
    fn the_primary_stays_where_it_is() {
        let servers = |text: &str| config(&format!("{SMALLEST}{text}")).servers;
        let other = "[[server]]\nid = 's2'\nhost = 'db2'\n";
        let (both, one) = (servers(other), servers(""));
        let moved = servers(&other.replace("db2", "db3"));
        assert_eq!(keeps_primary(&both, &one, "s1"), Ok(()));
        assert_eq!(keeps_primary(&both, &moved, "s1"), Ok(()));
        assert!(keeps_primary(&both, &one, "s2").unwrap_err().contains("no such server"));
        assert!(keeps_primary(&both, &moved, "s2").unwrap_err().contains("another address"));
    }

    #[test]
    fn a_cluster_and_its_nodes_that_come_or_go_are_named() {
        let of_three = before();
        let named = |old: &Config, new: &Config| {
            diff(old, new).into_iter().map(|change| (change.key, change.live)).collect::<Vec<_>>()
        };
        let alone = Config { cluster: None, ..of_three.clone() };
        assert_eq!(named(&alone, &of_three), [("cluster".to_owned(), false)]);
        assert_eq!(named(&of_three, &alone), [("cluster".to_owned(), false)]);
        let mut fewer = of_three.clone();
        fewer.cluster.as_mut().unwrap().nodes.pop();
        assert_eq!(named(&of_three, &fewer), [("node.n3".to_owned(), false)]);
        assert_eq!(named(&fewer, &of_three), [("node.n3".to_owned(), false)]);
    }

    #[test]
    fn a_section_that_comes_is_one_change() {
        let text = SMALLEST.replace("[[server]]", "[auth.query]\nuser = 'q'\n[[server]]");
        assert_eq!(diff_of(&text), [("auth.query".to_owned(), true)]);
    }

    #[test]
    fn every_key_is_compared_and_applied_as_the_documentation_says() {
        let (before, after) = (before(), after());
        let changes = diff(&before, &after);
        assert_every_key(&changes);
        let part = live_part(&before, after.clone());
        let (live, restart): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.live);
        assert_eq!(diff(&before, &part), live, "applied live");
        assert_eq!(diff(&part, &after), restart, "kept until a restart");
    }

    #[test]
    fn servers_that_are_to_be_found_are_the_configured_ones_until_a_restart() {
        let (head, _) = SMALLEST.split_once("[[server]]").unwrap();
        let named = config(&format!("{SMALLEST}[failover]\nmode = 'rds'\n"));
        let found = config(&format!("{head}[failover]\nmode = 'rds'\ncluster_id = 'shop'\n"));
        assert_eq!(live_part(&named, found.clone()).servers, named.servers);
        let changes = diff(&named, &found);
        let live = |key: &str| changes.iter().find(|change| change.key == key).map(|change| change.live);
        assert_eq!((live("failover.cluster_id"), live("server.s1")), (Some(false), Some(false)));
        // Where they are found already, the text says only how some of them are reached.
        let none = |found: &Config| Config { servers: Vec::new(), ..found.clone() };
        let both = Config { servers: named.servers.clone(), ..found.clone() };
        assert_eq!(live_part(&both, none(&found)).servers, []);
        assert_eq!(live_part(&found, named.clone()).servers, named.servers);
    }

    #[test]
    fn endpoints_wait_for_the_cluster_that_they_come_with() {
        let (alone, with_cluster) = (config(SMALLEST), after());
        let part = live_part(&alone, with_cluster.clone());
        assert_eq!((part.cluster, part.endpoints), (None, vec![]));
        let live = |old, new| {
            let change = diff(old, new).into_iter().find(|change| change.key == "endpoint");
            change.map(|change| change.live)
        };
        assert_eq!(live(&alone, &with_cluster), Some(false));
        assert_eq!(live(&before(), &with_cluster), Some(true));
    }
}
