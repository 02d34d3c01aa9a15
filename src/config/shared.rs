//! What of a configuration is the cluster's, and what stays each node's own.
//!
//! Owns the putting together of a node's own file with the configuration that all nodes agree on. Pure: both were
//! checked when they were read, each for itself. Invariant: every value comes from the one that the key's `Scope`
//! names, since each structure is taken apart by name and a new field does not compile until it has a place.

use super::keys::Scope;
use super::{Auth, Config, Health, ServerTls, reload};

/// What a node serves by: `shared`, with every value of its own as `local` has it.
pub fn in_force(local: &Config, shared: Config) -> Config {
    let Config {
        zone,
        workers,
        worker_scheduling,
        listen,
        admin,
        log,
        client_tls,
        server_tls,
        auth,
        health,
        limits: _,
        pool: _,
        split: _,
        servers: _,
    } = local;
    Config {
        zone: zone.clone(),
        workers: *workers,
        worker_scheduling: *worker_scheduling,
        listen: listen.clone(),
        admin: admin.clone(),
        log: log.clone(),
        client_tls: client_tls.clone(),
        server_tls: server_tls_of(server_tls, shared.server_tls),
        auth: auth_of(auth, shared.auth),
        health: health_of(health, shared.health),
        ..shared
    }
}

/// The keys of the cluster that a node's file has otherwise, as `docs/configuration.md` names them.
pub fn differences(local: &Config, shared: &Config) -> Vec<String> {
    let changes = reload::diff(local, shared).into_iter();
    changes.filter(|change| change.scope == Scope::Cluster).map(|change| change.key).collect()
}

fn server_tls_of(local: &ServerTls, shared: ServerTls) -> ServerTls {
    let ServerTls { mode: _, ca_file, cert_file, key_file } = local.clone();
    ServerTls { mode: shared.mode, ca_file, cert_file, key_file }
}

fn auth_of(local: &Auth, shared: Auth) -> Auth {
    let Auth { query: _, hba_file, user_file } = local.clone();
    Auth { query: shared.query, hba_file, user_file }
}

fn health_of(local: &Health, shared: Health) -> Health {
    let Health { user: _, password_file, database: _, period_ms: _, timeout_ms: _, retries: _ } = local;
    Health { password_file: password_file.clone(), ..shared }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::every_key::{SMALLEST, after, assert_every_key, before, config};
    use crate::config::reload::diff;

    #[test]
    fn every_key_is_taken_from_where_the_documentation_says() {
        let (local, shared) = (before(), after());
        let changes = diff(&local, &shared);
        assert_every_key(&changes);
        let (own, agreed): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| change.scope == Scope::Node);
        let in_force = in_force(&local, shared.clone());
        assert_eq!(diff(&local, &in_force), agreed, "taken from the cluster");
        assert_eq!(diff(&in_force, &shared), own, "kept from the node's file");
    }

    #[test]
    fn what_differs_is_of_the_cluster_only() {
        let local = config(&format!("workers = 1\n{SMALLEST}"));
        let shared = config(&format!(
            "workers = 2\n{SMALLEST}[pool]\nsize = 1\n[[server]]\nid = 's2'\nhost = 'db2'\n"
        ));
        assert_eq!(differences(&local, &shared), ["pool.size", "server.s2"]);
        assert_eq!(differences(&shared, &in_force(&shared, local.clone())), ["pool.size", "server.s2"]);
        assert_eq!(differences(&local, &in_force(&shared, local.clone())), [""; 0]);
    }
}
