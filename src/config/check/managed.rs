//! What makes no sense where AWS makes the writer: every key by which komainu would change a server.
//!
//! Pure. Invariant: with what passes here komainu only follows.

use super::super::document::{Document, Table};
use super::super::report::Findings;
use crate::config::{Config, FailoverMode, Server};

/// What `[failover]` says in these modes.
const FAILOVER_KEYS: &[&str] = &["mode", "cluster_id", "cluster_refresh_ms"];
/// Of these, what only those modes know.
const OF_THE_API: &[&str] = &["cluster_id", "cluster_refresh_ms"];
/// What only matters to a server that komainu changes.
const OF_CHANGED_SERVERS: &[&str] = &["agent", "instance_id", "replication", "disallow_failover"];
/// In the name of an endpoint that leads to any reader.
const READER_ENDPOINT: &str = ".cluster-ro-";
/// In the name of one that leads to the writer.
const WRITER_ENDPOINT: &str = ".cluster-";

pub(super) fn check(document: &Document, config: &Config, findings: &mut Findings) {
    let mode = config.failover.mode.name();
    let mut refuse = |table: &Table, section: &str, key: &str| {
        let problem =
            format!("AWS does the failover with failover.mode = \"{mode}\": komainu would never use it");
        findings.problems.add(table.line(key), format!("{section}.{key}"), problem, "remove it");
    };
    let failover = document.table("failover");
    for key in failover.written().filter(|key| !FAILOVER_KEYS.contains(key)) {
        refuse(failover, "failover", key);
    }
    for table in document.list("server") {
        for key in OF_CHANGED_SERVERS.iter().filter(|key| table.has(key)) {
            refuse(table, "server", key);
        }
    }
    if let Some(agent) = document.optional("agent") {
        let problem = format!("there is no host to run an agent on with failover.mode = \"{mode}\"");
        findings.problems.add(agent.line(""), "agent", problem, "remove it");
    }
    for (table, server) in document.list("server").iter().zip(&config.servers) {
        name(table, server, config, findings);
    }
    if config.failover.mode.is_redshift() {
        redshift(document, findings);
    }
}

/// There is one server, and it is not RDS's.
fn redshift(document: &Document, findings: &mut Findings) {
    if let Some(second) = document.list("server").get(1) {
        let problem = "with failover.mode = \"redshift\" there is one server: the endpoint of the cluster, or workgroup";
        findings.problems.add(second.line(""), "server", problem, "remove it");
    }
    let split = document.table("split");
    if split.has("enabled") && split.bool("enabled") {
        let problem = "with failover.mode = \"redshift\" there is nobody else to read from";
        findings.problems.add(split.line("enabled"), "split.enabled", problem, "remove it");
    }
    for user in document.list("server_user") {
        if user.has("iam_token") && user.bool("iam_token") {
            let problem = "Redshift does not take the tokens of RDS";
            let remedy = "use secret_arn, or a password in auth.user_file";
            findings.problems.add(user.line("iam_token"), "server_user.iam_token", problem, remedy);
        }
    }
}

/// Where servers are found: the keys of the API and of Aurora, and those that mean nothing there.
pub(super) fn found(document: &Document, config: &Config, findings: &mut Findings) {
    let is_aurora = config.failover.mode == FailoverMode::Aurora;
    let (failover, split, table) =
        (document.table("failover"), document.table("split"), document.table("aurora"));
    api(failover, config, findings);
    let is_written = table.written().next().is_some();
    match &config.aurora.instance_endpoint {
        _ if is_written && !is_aurora => {
            let problem = "it has no effect, since failover.mode is not \"aurora\"";
            findings.warnings.add(table.line(""), "aurora", problem, "set that, or remove it");
        }
        None if is_aurora && config.failover.cluster_id.is_none() && !failover.is_bad("cluster_id") => {
            let problem = "nobody knows how the instances are reached that are found";
            let remedy = "name the cluster in failover.cluster_id, or add [aurora] with instance_endpoint";
            findings.problems.add(failover.line("mode"), "aurora", problem, remedy);
        }
        Some(endpoint) if endpoint.matches('?').count() != 1 => {
            let problem = format!("\"{endpoint}\" has not exactly one ? in it");
            let remedy = "write an instance's endpoint with ? in the place of its name";
            let line = table.line("instance_endpoint");
            findings.problems.add(line, "aurora.instance_endpoint", problem, remedy);
        }
        _ => {}
    }
    if is_aurora && config.split.max_lag_bytes > 0 {
        let problem = "Aurora shares its storage: no instance lags by bytes";
        findings.problems.add(split.line("max_lag_bytes"), "split.max_lag_bytes", problem, "use max_lag_ms");
    }
}

/// Of a cluster that the API of RDS is asked for.
fn api(table: &Table, config: &Config, findings: &mut Findings) {
    if !config.failover.mode.is_of_rds() {
        for key in OF_THE_API.iter().filter(|key| table.has(key)) {
            let problem = "it has no effect, since failover.mode is neither \"rds\" nor \"aurora\"";
            let remedy = "set one of them, or remove it";
            findings.warnings.add(table.line(key), format!("failover.{key}"), problem, remedy);
        }
        return;
    }
    match &config.failover.cluster_id {
        Some(id) if !is_identifier(id) => {
            let problem = format!("\"{id}\" is no identifier of a cluster or an instance");
            let remedy =
                "write what RDS shows as its identifier (shop, say), and neither an endpoint nor an ARN";
            findings.problems.add(table.line("cluster_id"), "failover.cluster_id", problem, remedy);
        }
        None if table.has("cluster_refresh_ms") && !table.is_bad("cluster_id") => {
            let problem = "it has no effect without failover.cluster_id";
            let line = table.line("cluster_refresh_ms");
            findings.warnings.add(line, "failover.cluster_refresh_ms", problem, "set that, or remove it");
        }
        _ => {}
    }
}

/// RDS takes upper-case letters for lower-case ones.
fn is_identifier(id: &str) -> bool {
    const MAX_LEN: usize = 63;
    id.len() <= MAX_LEN
        && id.starts_with(|c: char| c.is_ascii_alphabetic())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Names that lead to one server today and to another one tomorrow.
fn name(table: &Table, server: &Server, config: &Config, findings: &mut Findings) {
    let host = server.host.to_ascii_lowercase();
    if host.contains(READER_ENDPOINT) {
        let problem = format!("{host} leads to any reader: nobody knows whose lag and health are seen there");
        let remedy = "name each instance by its own endpoint";
        findings.problems.add(table.line("host"), "server.host", problem, remedy);
    } else if host.contains(WRITER_ENDPOINT) && config.failover.mode == FailoverMode::Aurora {
        let problem = format!("{host} leads to whichever instance writes: none of Aurora's is called so");
        let remedy = "name an instance: the others are found";
        findings.problems.add(table.line("host"), "server.host", problem, remedy);
    } else if host.contains(WRITER_ENDPOINT) && config.servers.len() > 1 {
        let problem = format!("{host} leads to an instance that another [[server]] names, too");
        let remedy = "name the instances by their own endpoints only: komainu finds the writer among them";
        findings.warnings.add(table.line("host"), "server.host", problem, remedy);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::every_key::SMALLEST;
    use crate::config::file::parse;
    use crate::config::{Config, FailoverMode};

    fn read(text: &str) -> Result<(Config, String), String> {
        let text = format!("{SMALLEST}{text}");
        let found = parse(&text, Path::new("k.toml"), 1).map_err(|report| report.to_string())?;
        let warnings = found.1.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Ok((found.0, warnings))
    }

    #[test]
    fn clients_wait_longer_where_aws_makes_the_writer() {
        let (config, warnings) = read("[failover]\nmode = 'rds'\n").unwrap();
        assert_eq!((config.failover.mode, warnings.as_str()), (FailoverMode::Rds, ""));
        assert_eq!(config.limits.hold_timeout_ms, 120_000);
        let (config, _) = read("[failover]\nmode = 'rds'\n[limits]\nhold_timeout_ms = 7\n").unwrap();
        assert_eq!(config.limits.hold_timeout_ms, 7);
        assert_eq!(read("").unwrap().0.limits.hold_timeout_ms, 30_000);
    }

    #[test]
    fn what_would_change_a_server_is_refused() {
        for (text, key) in [
            ("[failover]\nmode = 'rds'\nautomatic = true\n", "failover.automatic"),
            ("[failover]\nmode = 'rds'\nsync_mode = 'off'\n", "failover.sync_mode"),
            ("[failover]\nmode = 'rds'\nfence_host = 'prefer'\n", "failover.fence_host"),
            ("agent = 'h:1'\n[failover]\nmode = 'rds'\n", "server.agent"),
            ("disallow_failover = true\n[failover]\nmode = 'rds'\n", "server.disallow_failover"),
            ("[agent]\ndata_directory = '/d'\n[failover]\nmode = 'rds'\n", "agent"),
        ] {
            let report = read(text).unwrap_err();
            assert!(report.contains(&format!("{key}: ")), "{text}: {report}");
            assert!(report.contains("failover.mode = \"rds\""), "{report}");
        }
    }

    #[test]
    fn aurora_has_rules_of_its_own() {
        const AURORA: &str = "[failover]\nmode = 'aurora'\n[aurora]\ninstance_endpoint = '?.a'\n";
        let (config, warnings) = read(AURORA).unwrap();
        assert_eq!((config.limits.hold_timeout_ms, warnings.as_str()), (60_000, ""));
        assert_eq!(config.aurora.instance_endpoint.as_deref(), Some("?.a"));
        for (text, problem) in [
            ("[failover]\nmode = 'aurora'\n".to_owned(), "or add [aurora] with instance_endpoint"),
            (AURORA.replace('?', ""), "has not exactly one ? in it"),
            (format!("{AURORA}[split]\nmax_lag_bytes = 7\n"), "use max_lag_ms"),
            (
                format!("{AURORA}[[server]]\nid = 'w'\nhost = 'x.cluster-abc.rds'\n"),
                "none of Aurora's is called so",
            ),
        ] {
            let report = read(&text).unwrap_err();
            assert!(report.contains(problem), "{text}: {report}");
        }
        assert!(read("[aurora]\ninstance_endpoint = '?.a'\n").unwrap().1.contains("it has no effect"));
    }

    #[test]
    fn the_name_of_a_cluster_is_all_that_is_needed() {
        let without = |failover: &str| {
            let (head, _) = SMALLEST.split_once("[[server]]").unwrap();
            let text = format!("{head}[failover]\n{failover}");
            let found = parse(&text, Path::new("k.toml"), 1).map_err(|report| report.to_string())?;
            let warnings = found.1.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Ok::<_, String>((found.0, warnings))
        };
        for mode in ["rds", "aurora"] {
            let (config, warnings) = without(&format!("mode = '{mode}'\ncluster_id = 'Shop-1'\n")).unwrap();
            assert_eq!((config.failover.watched_cluster(), warnings.as_str()), (Some("Shop-1"), ""));
            assert!(config.failover.finds_servers() && config.servers.is_empty());
            for wrong in
                ["arn:aws:rds:eu-central-1:1:cluster:shop", "shop.cluster-abc.rds", "1shop", "shop_1"]
            {
                let report = without(&format!("mode = '{mode}'\ncluster_id = '{wrong}'\n")).unwrap_err();
                assert!(report.contains("neither an endpoint nor an ARN"), "{wrong}: {report}");
            }
            let report = without(&format!("mode = '{mode}'\n")).unwrap_err();
            assert!(
                report.contains("name the cluster in failover.cluster_id, or add [[server]]"),
                "{report}"
            );
        }
        let report = without("mode = 'off'\ncluster_id = 'shop'\n").unwrap_err();
        assert!(report.contains("add [[server]] with id and host"), "{report}");
        let warned = |text: &str| read(&format!("[failover]\n{text}")).unwrap();
        let (config, warnings) = warned("mode = 'off'\ncluster_id = 'shop'\n");
        assert!(warnings.contains("neither \"rds\" nor \"aurora\""), "{warnings}");
        assert!(!config.failover.finds_servers());
        let (_, warnings) = warned("mode = 'rds'\ncluster_refresh_ms = 5000\n");
        assert!(warnings.contains("it has no effect without failover.cluster_id"), "{warnings}");
        // Whom it is about nobody knows yet.
        let prefers = "[[split.preference]]\ntarget = { shop-2 = 1 }\n";
        assert!(without(&format!("mode = 'rds'\ncluster_id = 'shop'\n{prefers}")).is_ok());
    }

    #[test]
    fn of_redshift_there_is_one_server_and_nothing_to_split() {
        const REDSHIFT: &str = "[failover]\nmode = 'redshift'\n";
        let (config, warnings) = read(REDSHIFT).unwrap();
        assert!(config.failover.mode.is_redshift() && !config.split.enabled && warnings.is_empty());
        assert_eq!(config.limits.hold_timeout_ms, 120_000);
        for (more, problem) in [
            ("[[server]]\nid = 'second'\nhost = 'h2'\n", "there is one server"),
            ("[split]\nenabled = true\n", "nobody else to read from"),
            ("[[server_user]]\nname = 'u'\niam_token = true\n", "does not take the tokens of RDS"),
            ("automatic = true\n", "AWS does the failover"),
        ] {
            let report = read(&format!("{REDSHIFT}{more}")).unwrap_err();
            assert!(report.contains(problem), "{more}: {report}");
        }
        assert!(read(&format!("{REDSHIFT}cluster_id = 'shop'\n")).unwrap().1.contains("it has no effect"));
    }

    #[test]
    fn the_writers_flag_is_taken_by_its_other_names() {
        for flag in ["always_primary", "ALWAYS_PRIMARY", "ALWAYS_MASTER"] {
            let (config, _) = read(&format!("{flag} = true\n[failover]\nmode = 'rds'\n")).unwrap();
            assert!(config.servers[0].always_primary, "{flag}");
        }
    }

    #[test]
    fn a_name_that_leads_to_any_instance_is_no_server() {
        let server =
            |host: &str| format!("[[server]]\nid = 's2'\nhost = '{host}'\n[failover]\nmode = 'rds'\n");
        let reader = read(&server("shop.cluster-ro-abc.eu-central-1.rds.amazonaws.com")).unwrap_err();
        assert!(reader.contains("leads to any reader"), "{reader}");
        let (_, writer) = read(&server("shop.cluster-abc.eu-central-1.rds.amazonaws.com")).unwrap();
        assert!(writer.contains("another [[server]] names, too"), "{writer}");
        let (_, instance) = read(&server("shop-2.abc.eu-central-1.rds.amazonaws.com")).unwrap();
        assert_eq!(instance, "");
    }
}
