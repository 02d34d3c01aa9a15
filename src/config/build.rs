//! A `Config` out of the document's values.
//!
//! Owns which key fills which field. Pure: the number of CPUs and the directory of the file are arguments.
//! Invariant: it never complains; whoever uses its result has looked at the findings first.

use std::path::{Path, PathBuf};

use komainu_escalation::{AwsSettings, EndpointSettings};

use super::document::{Document, Table};
use super::{
    Admin, Agent, Aurora, Auth, AuthQuery, ClientTls, Cluster, Config, Dns, EmfTo, Endpoint, Failover,
    FailoverMode, Health, HealthOfServer, Hooks, Limits, Listen, Log, Metrics, Node, Pool, PoolLimits,
    PoolOverride, Preference, Server, ServerPassword, ServerTls, ServerUser, Split,
};
use crate::consensus::lease::LeaseSettings;

pub(super) fn build(document: &Document, directory: &Path, cpus: usize) -> Config {
    let top = document.table("");
    Config {
        listen: listen(document.table("listen"), directory),
        admin: admin(document.table("admin"), directory),
        log: log(document.table("log"), directory),
        metrics: metrics(document.table("metrics"), directory),
        limits: limits(document.table("limits"), document.table("failover").choice("mode")),
        client_tls: client_tls(document.table("client_tls"), directory),
        server_tls: server_tls(document.table("server_tls"), directory),
        auth: auth(document, directory),
        pool: pool(document),
        split: split(document, document.table("failover").choice("mode")),
        health: health(document.table("health"), directory),
        servers: document.list("server").iter().map(server).collect(),
        server_users: document.list("server_user").iter().map(server_user).collect(),
        agent: document.optional("agent").map(|table| agent(table, directory)),
        failover: failover(document.table("failover"), directory),
        hooks: hooks(document.table("hooks")),
        zone: top.optional_text("zone"),
        workers: if top.has("workers") { top.usize("workers") } else { cpus },
        worker_scheduling: top.choice("worker_scheduling"),
        core_dumps: top.bool("core_dumps"),
        cluster: cluster(document, directory),
        endpoints: document.list("endpoint").iter().filter_map(endpoint).collect(),
        aws: aws(document.table("aws")),
        aurora: aurora(document.table("aurora")),
        dns: Dns { servers: document.table("dns").addresses("servers") },
    }
}

/// A path relative to the configuration file.
fn path(table: &Table, name: &str, directory: &Path) -> Option<PathBuf> {
    table.path(name).map(|path| directory.join(path))
}

fn listen(table: &Table, directory: &Path) -> Listen {
    Listen {
        addresses: table.addresses("addresses"),
        unix_socket_directory: path(table, "unix_socket_directory", directory),
        unix_socket_mode: table.u32("unix_socket_mode"),
        backlog: table.u32("backlog"),
    }
}

fn admin(table: &Table, directory: &Path) -> Admin {
    Admin {
        address: table.address("address"),
        socket: path(table, "socket", directory),
        tls_address: table.address("tls_address"),
        cert_file: path(table, "cert_file", directory),
        key_file: path(table, "key_file", directory),
        token_file: path(table, "token_file", directory),
    }
}

fn log(table: &Table, directory: &Path) -> Log {
    Log {
        level: table.text("level"),
        format: table.choice("format"),
        file: path(table, "file", directory),
        rotate_bytes: table.u64("rotate_bytes"),
        keep_files: table.usize("keep_files"),
    }
}

fn metrics(table: &Table, directory: &Path) -> Metrics {
    let emf = table.optional_text("emf").map(|to| match to.as_str() {
        "stdout" => EmfTo::Stdout,
        path => EmfTo::File(directory.join(path)),
    });
    Metrics {
        emf,
        put_metric_data: table.bool("put_metric_data"),
        namespace: table.text("namespace"),
        period_ms: table.u64("period_ms"),
        high_resolution: table.bool("high_resolution"),
    }
}

fn limits(table: &Table, mode: FailoverMode) -> Limits {
    Limits {
        max_client_connections: table.usize("max_client_connections"),
        max_unauthenticated_per_address: table.usize("max_unauthenticated_per_address"),
        startup_timeout_ms: table.u64("startup_timeout_ms"),
        client_idle_timeout_ms: table.u64("client_idle_timeout_ms"),
        idle_in_transaction_timeout_ms: table.u64("idle_in_transaction_timeout_ms"),
        peer_gone_after_ms: table.u64("peer_gone_after_ms"),
        hold_timeout_ms: table.number("hold_timeout_ms").unwrap_or(mode.hold_timeout_ms()),
        max_held_clients: match table.has("max_held_clients") {
            true => table.usize("max_held_clients"),
            false => table.usize("max_client_connections"),
        },
        max_held_bytes: table.usize("max_held_bytes"),
        shutdown_timeout_ms: table.u64("shutdown_timeout_ms"),
        max_message_bytes: table.usize("max_message_bytes"),
        max_inspected_statement_bytes: table.usize("max_inspected_statement_bytes"),
        max_prepared_statements_per_session: table.usize("max_prepared_statements_per_session"),
        max_prepared_bytes_per_session: table.usize("max_prepared_bytes_per_session"),
    }
}

fn client_tls(table: &Table, directory: &Path) -> ClientTls {
    ClientTls {
        mode: table.choice("mode"),
        cert_file: path(table, "cert_file", directory),
        key_file: path(table, "key_file", directory),
        client_ca_file: path(table, "client_ca_file", directory),
    }
}

fn server_tls(table: &Table, directory: &Path) -> ServerTls {
    ServerTls {
        mode: table.choice("mode"),
        ca_file: path(table, "ca_file", directory),
        cert_file: path(table, "cert_file", directory),
        key_file: path(table, "key_file", directory),
        allow_md5: table.bool("allow_md5"),
    }
}

fn auth(document: &Document, directory: &Path) -> Auth {
    let table = document.table("auth");
    Auth {
        hba_file: path(table, "hba_file", directory).unwrap_or_default(),
        user_file: path(table, "user_file", directory),
        query: document.optional("auth.query").map(|query| AuthQuery {
            user: query.text("user"),
            database: query.text("database"),
            query: query.text("query"),
            cache_ms: query.u64("cache_ms"),
        }),
    }
}

fn pool(document: &Document) -> Pool {
    let table = document.table("pool");
    let limits = PoolLimits {
        mode: table.choice("mode"),
        size: table.usize("size"),
        min: table.usize("min"),
        reserve: table.usize("reserve"),
        reserve_after_ms: table.u64("reserve_after_ms"),
    };
    Pool {
        overrides: document.list("pool.override").iter().map(|table| pool_override(table, &limits)).collect(),
        limits,
        max_server_connections: table.usize("max_server_connections"),
        acquire_timeout_ms: table.u64("acquire_timeout_ms"),
        connect_timeout_ms: table.u64("connect_timeout_ms"),
        connect_rate: table.u32("connect_rate"),
        idle_timeout_ms: table.u64("idle_timeout_ms"),
        lifetime_ms: table.u64("lifetime_ms"),
        check_after_idle_ms: table.u64("check_after_idle_ms"),
        max_prepared_statements: table.usize("max_prepared_statements"),
        max_prepared_bytes: table.usize("max_prepared_bytes"),
    }
}

/// What an override does not say is as the pools in general.
fn pool_override(table: &Table, general: &PoolLimits) -> PoolOverride {
    let number = |name, general| if table.has(name) { table.usize(name) } else { general };
    PoolOverride {
        database: table.optional_text("database"),
        user: table.optional_text("user"),
        limits: PoolLimits {
            mode: table.optional_choice("mode").unwrap_or(general.mode),
            size: number("size", general.size),
            min: number("min", general.min),
            reserve: number("reserve", general.reserve),
            reserve_after_ms: table.number("reserve_after_ms").unwrap_or(general.reserve_after_ms),
        },
    }
}

fn split(document: &Document, mode: FailoverMode) -> Split {
    let table = document.table("split");
    let preference = |table: &Table| Preference {
        application_name: table.optional_text("application_name"),
        database: table.optional_text("database"),
        user: table.optional_text("user"),
        target: table.target("target"),
    };
    Split {
        enabled: !mode.is_redshift() && table.bool("enabled"),
        consistency: table.choice("consistency"),
        max_lag_bytes: table.u64("max_lag_bytes"),
        max_lag_ms: table.u64("max_lag_ms"),
        floor_wait_ms: table.u64("floor_wait_ms"),
        prefer_same_zone: table.bool("prefer_same_zone"),
        prefer_least_lag: table.bool("prefer_least_lag"),
        preferences: document.list("split.preference").iter().map(preference).collect(),
        read_only_functions: table.names("read_only_functions"),
        write_functions: table.names("write_functions"),
        catalog_max_age_ms: table.u64("catalog_max_age_ms"),
    }
}

fn health(table: &Table, directory: &Path) -> Health {
    Health {
        user: table.text("user"),
        password_file: path(table, "password_file", directory),
        database: table.text("database"),
        period_ms: table.u64("period_ms"),
        timeout_ms: table.u64("timeout_ms"),
        connect_timeout_ms: table.u64("connect_timeout_ms"),
        retries: table.u32("retries"),
    }
}

fn server(table: &Table) -> Server {
    Server {
        id: table.text("id"),
        host: table.text("host"),
        port: port(table),
        weight: table.u32("weight"),
        zone: table.optional_text("zone"),
        disallow_failover: table.bool("disallow_failover"),
        always_primary: table.bool("always_primary"),
        replication: table.choice("replication"),
        agent: table.optional_text("agent"),
        instance_id: table.optional_text("instance_id"),
        health: HealthOfServer {
            period_ms: table.number("health_period_ms"),
            timeout_ms: table.number("health_timeout_ms"),
            connect_timeout_ms: table.number("health_connect_timeout_ms"),
            retries: table.has("health_retries").then(|| table.u32("health_retries")),
        },
    }
}

fn agent(table: &Table, directory: &Path) -> Agent {
    Agent {
        data_directory: path(table, "data_directory", directory).unwrap_or_default(),
        bin_directory: path(table, "bin_directory", directory),
        listen: table.address("listen"),
        state_directory: path(table, "state_directory", directory).unwrap_or_default(),
        pki_directory: path(table, "pki_directory", directory),
        log_file: path(table, "log_file", directory),
        replication_user: table.optional_text("replication_user"),
        passfile: path(table, "passfile", directory),
        rewind_user: table.optional_text("rewind_user"),
        rewind_database: table.text("rewind_database"),
        keep_replaced_directory: table.bool("keep_replaced_directory"),
    }
}

fn failover(table: &Table, directory: &Path) -> Failover {
    Failover {
        mode: table.choice("mode"),
        automatic: table.bool("automatic"),
        user: table.text("user"),
        password_file: path(table, "password_file", directory),
        database: table.text("database"),
        replication_user: table.text("replication_user"),
        replication_passfile: table.optional_text("replication_passfile"),
        sync_mode: table.choice("sync_mode"),
        sync_count: table.u32("sync_count"),
        max_lag_bytes: table.u64("max_lag_bytes"),
        promote_log_shipped: table.bool("promote_log_shipped"),
        crash_recovery_grace_ms: table.u64("crash_recovery_grace_ms"),
        promote_timeout_ms: table.u64("promote_timeout_ms"),
        silence_ms: table.u64("silence_ms"),
        max_slot_bytes: table.u64("max_slot_bytes"),
        write_timeout_ms: table.u64("write_timeout_ms"),
        fence_host: table.choice("fence_host"),
        fence_host_wait_ms: table.u64("fence_host_wait_ms"),
        cluster_id: table.optional_text("cluster_id"),
        cluster_refresh_ms: table.u64("cluster_refresh_ms"),
    }
}

fn aurora(table: &Table) -> Aurora {
    Aurora {
        instance_endpoint: table.optional_text("instance_endpoint"),
        session_window_ms: table.u64("session_window_ms"),
    }
}

fn hooks(table: &Table) -> Hooks {
    Hooks {
        on_failover: table.program("on_failover"),
        on_switchover: table.program("on_switchover"),
        on_detach: table.program("on_detach"),
        on_attach: table.program("on_attach"),
        on_recovered: table.program("on_recovered"),
    }
}

fn port(table: &Table) -> u16 {
    u16::try_from(table.u64("port")).expect("the key's range ends at 65535")
}

fn cluster(document: &Document, directory: &Path) -> Option<Cluster> {
    let table = document.optional("cluster")?;
    Some(Cluster {
        name: table.text("name"),
        directory: path(table, "directory", directory).unwrap_or_default(),
        pki_directory: path(table, "pki_directory", directory).unwrap_or_default(),
        lease: LeaseSettings {
            heartbeat_ms: table.u64("heartbeat_ms"),
            election_timeout_min_ms: table.u64("election_timeout_min_ms"),
            election_timeout_max_ms: table.u64("election_timeout_max_ms"),
            lease_ms: table.u64("lease_ms"),
            drift_margin_ms: table.u64("drift_margin_ms"),
        },
        raise_log_format_after_ms: table.u64("raise_log_format_after_ms"),
        nodes: document.list("node").iter().map(node).collect(),
    })
}

fn node(table: &Table) -> Node {
    let (host, port) = (table.text("host"), port(table));
    Node {
        id: table.text("id"),
        listen: table.address("listen").unwrap_or_else(|| Node::default_listen(&host, port)),
        host,
        port,
        zone: table.optional_text("zone"),
    }
}

/// None if it does not say how it moves, which was reported.
fn endpoint(table: &Table) -> Option<Endpoint> {
    Some(Endpoint {
        settings: EndpointSettings {
            name: table.text("name"),
            method: table.method("method")?,
            pre: table.program("pre"),
            post: table.program("post"),
        },
        refuse_when_not_owner: table.bool("refuse_when_not_owner"),
    })
}

fn server_user(table: &Table) -> ServerUser {
    let password = match table.optional_text("secret_arn") {
        Some(arn) => ServerPassword::Secret { arn, refresh_ms: table.u64("refresh_ms") },
        None => ServerPassword::IamToken { region: table.optional_text("region") },
    };
    ServerUser { name: table.text("name"), password }
}

fn aws(table: &Table) -> AwsSettings {
    AwsSettings {
        region: table.optional_text("region"),
        endpoint_url: table.optional_text("endpoint_url"),
        route53_endpoint_url: table.optional_text("route53_endpoint_url"),
        metadata_endpoint: table.optional_text("metadata_endpoint"),
        attempt_timeout_ms: table.u64("attempt_timeout_ms"),
        connect_timeout_ms: table.u64("connect_timeout_ms"),
    }
}
