//! What of a configuration is the cluster's, and what stays each node's own.
//!
//! Owns the putting together of a node's own file with the configuration that all nodes agree on. Pure: both were
//! checked when they were read, each for itself. Invariant: every value comes from the one that the key's `Scope`
//! names, since each structure is taken apart by name and a new field does not compile until it has a place.

use super::keys::Scope;
use super::{Auth, Cluster, Config, Failover, Health, Node, ServerTls, reload};

/// What a node serves by: `shared`, with every value of its own as `local` has it.
pub fn in_force(local: &Config, shared: Config) -> Config {
    let Config {
        zone,
        workers,
        worker_scheduling,
        core_dumps,
        listen,
        admin,
        log,
        metrics,
        client_tls,
        server_tls,
        auth,
        health,
        agent,
        failover,
        cluster,
        limits: _,
        pool: _,
        split: _,
        servers: _,
        server_users: _,
        hooks: _,
        endpoints: _,
        aws: _,
        dns: _,
        aurora: _,
    } = local;
    Config {
        zone: zone.clone(),
        workers: *workers,
        worker_scheduling: *worker_scheduling,
        core_dumps: *core_dumps,
        listen: listen.clone(),
        admin: admin.clone(),
        log: log.clone(),
        metrics: metrics.clone(),
        client_tls: client_tls.clone(),
        server_tls: server_tls_of(server_tls, shared.server_tls),
        auth: auth_of(auth, shared.auth),
        health: health_of(health, shared.health),
        agent: agent.clone(),
        failover: failover_of(failover, shared.failover),
        cluster: shared.cluster.map(|shared| cluster_of(cluster.as_ref(), shared)),
        ..shared
    }
}

/// The keys of the cluster that a node's file has otherwise, as `docs/configuration.md` names them.
pub fn differences(local: &Config, shared: &Config) -> Vec<String> {
    let changes = reload::diff(local, shared).into_iter();
    changes.filter(|change| change.scope == Scope::Cluster).map(|change| change.key).collect()
}

/// Whether two texts have the same in these sections, also where this version does not know all of it.
pub fn say_the_same(one: &str, other: &str, sections: &[&str]) -> bool {
    let (Ok(one), Ok(other)) = (one.parse::<toml::Table>(), other.parse::<toml::Table>()) else {
        return false;
    };
    sections.iter().all(|section| one.get(*section) == other.get(*section))
}

fn server_tls_of(local: &ServerTls, shared: ServerTls) -> ServerTls {
    let ServerTls { mode: _, allow_md5: _, ca_file, cert_file, key_file } = local.clone();
    ServerTls { mode: shared.mode, allow_md5: shared.allow_md5, ca_file, cert_file, key_file }
}

fn auth_of(local: &Auth, shared: Auth) -> Auth {
    let Auth { query: _, hba_file, user_file } = local.clone();
    Auth { query: shared.query, hba_file, user_file }
}

fn health_of(local: &Health, shared: Health) -> Health {
    let Health {
        password_file,
        user: _,
        database: _,
        period_ms: _,
        timeout_ms: _,
        connect_timeout_ms: _,
        retries: _,
    } = local;
    Health { password_file: password_file.clone(), ..shared }
}

fn failover_of(local: &Failover, shared: Failover) -> Failover {
    let Failover {
        password_file,
        mode: _,
        automatic: _,
        user: _,
        database: _,
        replication_user: _,
        replication_passfile: _,
        sync_mode: _,
        sync_count: _,
        max_lag_bytes: _,
        promote_log_shipped: _,
        crash_recovery_grace_ms: _,
        promote_timeout_ms: _,
        silence_ms: _,
        max_slot_bytes: _,
        write_timeout_ms: _,
        fence_host: _,
        fence_host_wait_ms: _,
        cluster_id: _,
        cluster_refresh_ms: _,
    } = local;
    Failover { password_file: password_file.clone(), ..shared }
}

/// A file without the section has nothing of its own to say about it.
fn cluster_of(local: Option<&Cluster>, shared: Cluster) -> Cluster {
    let Some(local) = local else { return shared };
    let Cluster { name: _, directory, pki_directory, lease: _, raise_log_format_after_ms: _, nodes } = local;
    Cluster {
        directory: directory.clone(),
        pki_directory: pki_directory.clone(),
        nodes: shared.nodes.into_iter().map(|shared| node_of(nodes, shared)).collect(),
        ..shared
    }
}

/// Where it listens is what its own file says. If that says nothing, it follows the port that all agree on.
fn node_of(local: &[Node], shared: Node) -> Node {
    let written = local.iter().find(|local| local.id == shared.id).and_then(|local| {
        let Node { id: _, host, port, listen, zone: _ } = local;
        (*listen != Node::default_listen(host, *port)).then_some(*listen)
    });
    let listen = written.unwrap_or_else(|| Node::default_listen(&shared.host, shared.port));
    Node { listen, ..shared }
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

    #[test]
    fn sections_are_compared_by_what_they_say_and_not_by_what_is_known() {
        let text = "later = 1\n[failover]\nmode = 'streaming' # by us\nlater = [1]\n[[server]]\nid = 'a'\n";
        let same = "[[server]]\nid = \"a\"\n[pool]\nlater = 2\n[failover]\nlater = [1]\nmode = 'streaming'\n";
        let sections = ["failover", "server"];
        assert!(say_the_same(text, same, &sections));
        for other in
            [same.replace("[1]", "[2]"), same.replace("id", "ID"), same.replace("[failover]", "[split]")]
        {
            assert!(!say_the_same(text, &other, &sections), "{other}");
        }
        assert!(!say_the_same("no text", "no text", &sections));
    }

    #[test]
    fn a_node_that_does_not_say_where_it_listens_follows_the_port_agreed_on() {
        let cluster = |node: &str| {
            let others = "[[node]]\nid = 'n2'\nhost = 'h2'\n[[node]]\nid = 'n3'\nhost = 'fd00::3'\n";
            config(&format!(
                "{SMALLEST}[cluster]\nname = 'shop'\n[[node]]\nid = 'n1'\nhost = 'h1'\n{node}\n{others}"
            ))
        };
        let listens = |local: &str, shared: &str| {
            let nodes = in_force(&cluster(local), cluster(shared)).cluster.unwrap().nodes;
            nodes.iter().map(|node| node.listen.to_string()).collect::<Vec<_>>()
        };
        let others = ["0.0.0.0:7400", "[::]:7400"];
        for (local, shared, expected) in [
            ("", "", "0.0.0.0:7400"),
            ("", "port = 7500", "0.0.0.0:7500"),
            ("port = 7500", "", "0.0.0.0:7400"),
            ("", "listen = '10.0.0.1:7400'", "0.0.0.0:7400"),
            ("listen = '10.0.0.1:7600'", "port = 7500", "10.0.0.1:7600"),
        ] {
            assert_eq!(listens(local, shared), [&[expected][..], &others].concat(), "{local}, {shared}");
        }
        let alone = config(SMALLEST);
        let joined = in_force(&alone, cluster("")).cluster.map(|cluster| cluster.directory);
        assert_eq!(joined.as_deref(), Some(std::path::Path::new("/etc/raft")));
    }
}
