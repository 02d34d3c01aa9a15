//! What is wrong with values that are each right: contradictions, duplicates, names of nothing.
//!
//! Owns the rules between keys of the one file. Never opens a file: what the files that it names say is
//! `references`. Pure. Invariant: a rule is silent about a key whose own value was refused already.

mod cluster;
mod failover;
mod managed;
mod server_users;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::document::{Document, Table};
use super::report::Findings;
use super::{ClientTlsMode, Config, Consistency, PoolLimits, PreferenceTarget, SslMode};
use crate::telemetry::log::check_level;

pub(super) fn check(document: &Document, config: &Config, findings: &mut Findings) {
    listen(document, config, findings);
    admin(document, config, findings);
    log(document, config, findings);
    client_tls(document, config, findings);
    server_tls(document, config, findings);
    auth_query(document, config, findings);
    pool(document, config, findings);
    servers(document, config, findings);
    split(document, config, findings);
    preferences(document, config, findings);
    cluster::check(document, config, findings);
    failover::check(document, config, findings);
    managed::found(document, config, findings);
    server_users::check(document, config, findings);
}

fn listen(document: &Document, config: &Config, findings: &mut Findings) {
    let table = document.table("listen");
    let line = table.line("addresses");
    for (index, address) in config.listen.addresses.iter().enumerate() {
        if let Some(other) = config.listen.addresses[..index].iter().find(|other| overlap(other, address)) {
            let problem = format!("{address} is taken by {other}");
            findings.problems.add(line, "listen.addresses", problem, "remove one of the two");
        }
        let admin = [("address", config.admin.address), ("tls_address", config.admin.tls_address)];
        for (key, _) in admin.iter().filter(|(_, admin)| admin.is_some_and(|admin| overlap(&admin, address)))
        {
            let problem = format!("{address} is taken by listen.addresses");
            findings.problems.add(
                document.table("admin").line(key),
                format!("admin.{key}"),
                problem,
                "choose another port",
            );
        }
    }
}

fn admin(document: &Document, config: &Config, findings: &mut Findings) {
    let table = document.table("admin");
    for name in ["cert_file", "key_file", "token_file"] {
        let missing = table.has("tls_address") && !table.has(name) && !table.is_bad(name);
        if missing {
            let problem = "it is missing, and admin.tls_address needs it";
            let remedy = "name the file, or remove admin.tls_address";
            findings.problems.add(table.line("tls_address"), format!("admin.{name}"), problem, remedy);
        } else if table.has(name) && !table.has("tls_address") && !table.is_bad("tls_address") {
            let problem = "it is not used, since admin.tls_address is not set";
            findings.warnings.add(
                table.line(name),
                format!("admin.{name}"),
                problem,
                "set that, or remove it",
            );
        }
    }
    if let (Some(clear), Some(tls)) = (config.admin.address, config.admin.tls_address)
        && overlap(&clear, &tls)
    {
        let problem = format!("{tls} is taken by admin.address");
        findings.problems.add(table.line("tls_address"), "admin.tls_address", problem, "choose another port");
    }
}

fn log(document: &Document, config: &Config, findings: &mut Findings) {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let table = document.table("log");
    let level = config.log.level.as_str();
    // A filter takes any word for the name of a module, and "inof" would log nothing.
    let is_word = level.chars().all(|c| c.is_ascii_alphanumeric());
    let unknown = is_word && !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
    if !table.is_bad("level") && (unknown || check_level(level).is_err()) {
        let remedy = "use \"info\", \"debug\", …, or a filter such as \"info,komainu::pool=debug\"";
        findings.problems.add(table.line("level"), "log.level", format!("\"{level}\" is no level"), remedy);
    }
}

/// Whether both cannot be listened on at once.
fn overlap(a: &SocketAddr, b: &SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    a.port() == b.port()
        && same_family
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn client_tls(document: &Document, config: &Config, findings: &mut Findings) {
    let table = document.table("client_tls");
    if table.is_bad("mode") {
        return;
    }
    let mode = config.client_tls.mode;
    for name in ["cert_file", "key_file", "client_ca_file"] {
        let qualified = format!("client_tls.{name}");
        let needed = match name {
            "client_ca_file" => mode == ClientTlsMode::Verify,
            _ => mode != ClientTlsMode::Off,
        };
        if needed && !table.has(name) && !table.is_bad(name) {
            let problem = format!("it is missing, and mode = \"{}\" needs it", table.text("mode"));
            findings.problems.add(
                table.line("mode"),
                qualified,
                problem,
                "name the file, or set mode = \"off\"",
            );
        } else if mode == ClientTlsMode::Off && table.has(name) {
            let problem = "it is not used, since client_tls.mode is \"off\"";
            findings.warnings.add(
                table.line(name),
                qualified,
                problem,
                "set mode = \"allow\" or \"require\", or remove it",
            );
        }
    }
}

fn server_tls(document: &Document, config: &Config, findings: &mut Findings) {
    let table = document.table("server_tls");
    let verifies = matches!(config.server_tls.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    if verifies && !table.has("ca_file") && !table.is_bad("ca_file") {
        let problem = format!("it is missing, and mode = \"{}\" needs it", table.text("mode"));
        let remedy = "name the file with the authority that signed the servers' certificates";
        findings.problems.add(table.line("mode"), "server_tls.ca_file", problem, remedy);
    }
    if table.has("ca_file") && !verifies && !table.is_bad("mode") {
        let mode = table.text("mode");
        let problem = match config.server_tls.mode {
            SslMode::Disable => format!("it is not used: mode = \"{mode}\" speaks no TLS"),
            SslMode::Require => {
                format!("with it, mode = \"{mode}\" is \"verify-ca\": the server's name is not checked")
            }
            _ => format!(
                "with it, mode = \"{mode}\" goes on without TLS where the authority does not vouch for the server"
            ),
        };
        findings.warnings.add(
            table.line("ca_file"),
            "server_tls.ca_file",
            problem,
            "set mode = \"verify-full\", or remove it",
        );
    }
    for (name, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if table.has(name) && !table.has(other) && !table.is_bad(other) {
            let problem = format!("it is missing, and {name} is there");
            findings.problems.add(
                table.line(name),
                format!("server_tls.{other}"),
                problem,
                "name both, or neither",
            );
        }
    }
}

fn auth_query(document: &Document, config: &Config, findings: &mut Findings) {
    let (Some(table), Some(query)) = (document.optional("auth.query"), &config.auth.query) else { return };
    if !query.query.contains("$1") && !table.is_bad("query") {
        let problem = "it does not contain $1, the user's name";
        findings.problems.add(table.line("query"), "auth.query.query", problem, "write … where rolname = $1");
    }
    let is_given = config.server_users.iter().any(|known| known.name == query.user);
    if table.has("user")
        && !is_given
        && config.auth.user_file.is_none()
        && !document.table("auth").is_bad("user_file")
    {
        let problem = format!("there is no auth.user_file with the password of \"{}\"", query.user);
        findings.problems.add(
            table.line("user"),
            "auth.query.user",
            problem,
            "set auth.user_file and name the user there, or give it a [[server_user]]",
        );
    }
}

fn pool(document: &Document, config: &Config, findings: &mut Findings) {
    let table = document.table("pool");
    pool_limits("pool", table, &config.pool.limits, config, findings);
    let overrides = document.list("pool.override");
    for (index, (table, entry)) in overrides.iter().zip(&config.pool.overrides).enumerate() {
        let at = |other: usize| {
            let entry = &config.pool.overrides[other];
            [entry.database.as_deref(), entry.user.as_deref()]
        };
        if table.is_bad("database") || table.is_bad("user") {
            continue;
        }
        if entry.database.is_none() && entry.user.is_none() {
            let problem = "it names neither a database nor a user";
            findings.problems.add(
                table.line(""),
                "pool.override",
                problem,
                "name one, or set the keys in [pool]",
            );
        } else if let Some(first) = (0..index).find(|first| covers(&at(*first), &at(index))) {
            unreachable_entry("pool.override", &overrides[first], table, findings);
        }
        pool_limits("pool.override", table, &entry.limits, config, findings);
    }
}

fn pool_limits(section: &str, table: &Table, limits: &PoolLimits, config: &Config, findings: &mut Findings) {
    if ["size", "min", "reserve", "reserve_after_ms", "max_server_connections", "acquire_timeout_ms"]
        .iter()
        .any(|name| table.is_bad(name))
    {
        return;
    }
    let PoolLimits { size, min, reserve, reserve_after_ms, .. } = *limits;
    let all = config.pool.max_server_connections;
    if min > size {
        let problem = format!("{min} is more than size, which is {size}");
        findings.problems.add(
            table.line("min"),
            format!("{section}.min"),
            problem,
            "lower min or raise size",
        );
    }
    if size > all {
        let problem = format!("{size} is more than pool.max_server_connections, which is {all}");
        findings.problems.add(
            table.line("size"),
            format!("{section}.size"),
            problem,
            "lower size or raise the other",
        );
    } else if size.saturating_add(reserve) > all {
        let problem = format!("with size it is more than pool.max_server_connections, which is {all}");
        let key = format!("{section}.reserve");
        findings.warnings.add(
            table.line("reserve"),
            key,
            problem,
            "lower one of them or raise max_server_connections",
        );
    }
    if reserve > 0 && reserve_after_ms >= config.pool.acquire_timeout_ms {
        let problem = format!(
            "clients give up after pool.acquire_timeout_ms, which is {}",
            config.pool.acquire_timeout_ms
        );
        let key = format!("{section}.reserve_after_ms");
        findings.problems.add(
            table.line("reserve_after_ms"),
            key,
            problem,
            "choose less, or set reserve = 0",
        );
    }
}

/// Whether whatever `b` matches, `a` matches too. None matches all.
fn covers<const N: usize>(a: &[Option<&str>; N], b: &[Option<&str>; N]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.is_none() || a == b)
}

fn unreachable_entry(section: &str, first: &Table, table: &Table, findings: &mut Findings) {
    let line = first.line("").unwrap_or_default();
    let problem = format!("it is never reached: the one on line {line} matches all that it matches");
    findings.problems.add(table.line(""), section, problem, "put it first, or remove it");
}

fn servers(document: &Document, config: &Config, findings: &mut Findings) {
    let tables = document.list("server");
    if tables.is_empty() {
        let remedy = match config.failover.mode.is_of_rds() {
            _ if config.failover.watched_cluster().is_some() => return,
            true => "name the cluster in failover.cluster_id, or add [[server]] with id and host",
            false => "add [[server]] with id and host",
        };
        return findings.problems.add(None, "server", "there is no server", remedy);
    }
    let mut ids = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (table, server) in tables.iter().zip(&config.servers) {
        if table.has("id") {
            server_id(table, &server.id, findings);
            if let Some(first) = ids.insert(server.id.clone(), table.line("id").unwrap_or_default()) {
                let problem = format!("\"{}\" is the server on line {first} already", server.id);
                findings.problems.add(
                    table.line("id"),
                    "server.id",
                    problem,
                    "give each server an id of its own",
                );
            }
        }
        if table.has("host") && !table.is_bad("port") {
            server_host(table, &server.host, server.port, config, findings);
            let address = (server.host.to_ascii_lowercase(), server.port);
            if let Some(first) = addresses.insert(address, table.line("host").unwrap_or_default()) {
                let problem =
                    format!("{}:{} is the server on line {first} already", server.host, server.port);
                findings.problems.add(table.line("host"), "server.host", problem, "name each server once");
            }
        }
    }
    let bad = tables.iter().any(|table| table.is_bad("weight"));
    if !bad && config.servers.iter().all(|server| server.weight == 0) {
        let remedy = "give at least one server a weight above 0";
        findings.problems.add(
            tables[0].line("weight"),
            "server.weight",
            "every server's weight is 0",
            remedy,
        );
    }
}

fn server_id(table: &Table, id: &str, findings: &mut Findings) {
    const MAX_LEN: usize = 63;
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if id.len() > MAX_LEN || !id.chars().all(fine) {
        let problem = format!("\"{id}\" is no server id");
        let remedy = format!("use up to {MAX_LEN} letters, digits, _, - and .");
        findings.problems.add(table.line("id"), "server.id", problem, remedy);
    }
}

fn server_host(table: &Table, host: &str, port: u16, config: &Config, findings: &mut Findings) {
    let line = table.line("host");
    let address = host.parse::<IpAddr>().ok();
    if host.starts_with('/') {
        return;
    }
    one_host(table, "server.host", host, "write one name, one address, or /directory", findings);
    let address =
        if host.eq_ignore_ascii_case("localhost") { Some(IpAddr::from([127, 0, 0, 1])) } else { address };
    let is_us = |listen: &SocketAddr| {
        address.is_some_and(|ip| {
            listen.port() == port && (listen.ip() == ip || (listen.ip().is_unspecified() && ip.is_loopback()))
        })
    };
    if config.listen.addresses.iter().any(is_us) {
        let problem = format!("{host}:{port} is where komainu itself listens");
        findings.problems.add(
            line,
            "server.host",
            problem,
            "name the PostgreSQL server, or listen on another port",
        );
    }
}

/// That it could be a name or an address; `remedy` is for what is neither.
fn one_host(table: &Table, key: &str, host: &str, remedy: &str, findings: &mut Findings) {
    /// Of a name in DNS.
    const MAX_LEN: usize = 253;
    let is_address = host.parse::<IpAddr>().is_ok();
    if !is_address && (host.contains(':') || host.starts_with('[')) {
        let problem = format!("\"{host}\" is more than a host");
        let remedy = "write the port as port = …, and IPv6 without brackets";
        findings.problems.add(table.line("host"), key, problem, remedy);
    } else if host.len() > MAX_LEN
        || host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ',' | '@'))
    {
        findings.problems.add(table.line("host"), key, format!("\"{host}\" is no host"), remedy);
    }
}

fn split(document: &Document, config: &Config, findings: &mut Findings) {
    let table = document.table("split");
    let split = &config.split;
    let bad = ["consistency", "max_lag_bytes", "max_lag_ms"].iter().any(|name| table.is_bad(name));
    if split.consistency == Consistency::Bounded && split.max_lag_bytes == 0 && split.max_lag_ms == 0 && !bad
    {
        let problem = "\"bounded\" needs a bound, and max_lag_bytes and max_lag_ms are both 0";
        findings.problems.add(
            table.line("consistency"),
            "split.consistency",
            problem,
            "set one of them, or use \"eventual\"",
        );
    }
    if split.prefer_same_zone && config.zone.is_none() && !document.table("").is_bad("zone") {
        let problem = "this node's zone is not known";
        let remedy = "set zone = … at the top of the file, or remove prefer_same_zone";
        findings.problems.add(table.line("prefer_same_zone"), "split.prefer_same_zone", problem, remedy);
    } else if split.prefer_same_zone
        && config.failover.watched_cluster().is_none()
        && config.servers.iter().all(|server| server.zone.is_none())
    {
        let problem = "no server has a zone";
        findings.problems.add(
            table.line("prefer_same_zone"),
            "split.prefer_same_zone",
            problem,
            "set zone in each [[server]]",
        );
    }
    for name in split.read_only_functions.iter().filter(|name| split.write_functions.contains(name)) {
        let problem = format!("\"{name}\" is among write_functions too");
        findings.problems.add(
            table.line("read_only_functions"),
            "split.read_only_functions",
            problem,
            "remove one of the two",
        );
    }
}

fn preferences(document: &Document, config: &Config, findings: &mut Findings) {
    let tables = document.list("split.preference");
    // Servers that are found may have any name.
    let is_known =
        |id: &str| config.failover.finds_servers() || config.servers.iter().any(|server| server.id == id);
    let matchers = |index: usize| {
        let preference = &config.split.preferences[index];
        [&preference.application_name, &preference.database, &preference.user].map(Option::as_deref)
    };
    for (index, (table, preference)) in tables.iter().zip(&config.split.preferences).enumerate() {
        if let PreferenceTarget::Servers(servers) = &preference.target {
            for (id, _) in servers.iter().filter(|(id, _)| !is_known(id)) {
                let known: BTreeSet<_> = config.servers.iter().map(|server| server.id.as_str()).collect();
                let problem = format!("there is no server \"{id}\"");
                let remedy = format!("the servers are {}", Vec::from_iter(known).join(", "));
                findings.problems.add(table.line("target"), "split.preference.target", problem, remedy);
            }
        }
        if ["application_name", "database", "user"].iter().any(|name| table.is_bad(name)) {
            continue;
        }
        if let Some(first) = (0..index).find(|first| covers(&matchers(*first), &matchers(index))) {
            unreachable_entry("split.preference", &tables[first], table, findings);
        }
    }
}
