//! What is wrong with the keys of failover, among themselves and with the servers.
//!
//! Pure. Invariant: with what passes here there is somebody who may promote, and no two orders whom.

use std::collections::BTreeMap;

use super::super::document::Document;
use super::super::report::Findings;
use crate::cluster::operate::slots::slot_name;
use crate::config::{Config, FailoverMode, FenceHost, Replication, Server, SyncMode};

pub(super) fn check(document: &Document, config: &Config, findings: &mut Findings) {
    if config.failover.mode.is_managed() {
        return super::managed::check(document, config, findings);
    }
    let (table, failover) = (document.table("failover"), &config.failover);
    let streaming = failover.mode == FailoverMode::Streaming;
    if streaming && config.cluster.is_none() && document.optional("cluster").is_none() {
        let problem = "there is no [cluster] whose majority could say that a primary is lost";
        let remedy = "add [cluster] and three [[node]], or set mode = \"off\"";
        findings.problems.add(table.line("mode"), "failover.mode", problem, remedy);
    }
    if let Some(path) = &failover.replication_passfile
        && !path.starts_with('/')
    {
        let problem = format!("\"{path}\" is no absolute path");
        let remedy = "name the file as the database hosts have it: /var/lib/postgresql/.pgpass, say";
        findings.problems.add(
            table.line("replication_passfile"),
            "failover.replication_passfile",
            problem,
            remedy,
        );
    }
    let others = config.servers.len().saturating_sub(1);
    if failover.sync_mode != SyncMode::Off && failover.sync_count as usize > others {
        let problem = format!("{} is more than the {others} that can be standbys", failover.sync_count);
        let remedy = "choose less, or commits will wait for ever";
        findings.warnings.add(table.line("sync_count"), "failover.sync_count", problem, remedy);
    }
    if failover.sync_mode != SyncMode::Off && !streaming {
        let problem = "it has no effect, since failover.mode is \"off\"";
        findings.warnings.add(
            table.line("sync_mode"),
            "failover.sync_mode",
            problem,
            "set failover.mode = \"streaming\", or remove it",
        );
    }
    if streaming {
        same_slot(document, config, findings);
    }
    let is_shipped = |server: &&Server| server.replication == Replication::LogShipping;
    if failover.promote_log_shipped && !config.servers.iter().any(|server| is_shipped(&server)) {
        let problem = "no server follows by log shipping";
        let remedy = "set server.replication = \"log-shipping\" for the one that does, or remove it";
        findings.warnings.add(
            table.line("promote_log_shipped"),
            "failover.promote_log_shipped",
            problem,
            remedy,
        );
    }
    hosts(document, config, findings);
    let mut pinned =
        document.list("server").iter().zip(&config.servers).filter(|(_, server)| server.always_primary);
    if let (Some((_, first)), Some((table, second))) = (pinned.next(), pinned.next()) {
        let problem = format!("\"{}\" and \"{}\" cannot both be the primary always", first.id, second.id);
        let remedy = "set it for one server at most";
        findings.problems.add(table.line("always_primary"), "server.always_primary", problem, remedy);
    }
}

fn hosts(document: &Document, config: &Config, findings: &mut Findings) {
    let (line, key) = (document.table("failover").line("fence_host"), "failover.fence_host");
    let without = config.servers.iter().find(|server| server.instance_id.is_none());
    match (config.failover.fence_host, without) {
        (FenceHost::Off, _) | (FenceHost::Prefer, None) => {}
        (FenceHost::Require, None) if config.failover.mode == FailoverMode::Streaming => {}
        (_, _) if config.failover.mode != FailoverMode::Streaming => {
            let problem = "it has no effect, since failover.mode is \"off\"";
            findings.warnings.add(line, key, problem, "set failover.mode = \"streaming\", or remove it");
        }
        (FenceHost::Require, Some(server)) => {
            let problem =
                format!("the host of \"{}\" cannot be stopped, so nobody could replace it", server.id);
            findings.problems.add(line, key, problem, "give each server its instance_id, or say \"prefer\"");
        }
        (FenceHost::Prefer, Some(server)) => {
            let problem = format!("the host of \"{}\" cannot be stopped", server.id);
            findings.warnings.add(line, key, problem, "give each server its instance_id");
        }
        (FenceHost::Require, None) => {}
    }
}

fn same_slot(document: &Document, config: &Config, findings: &mut Findings) {
    let mut slots = BTreeMap::new();
    for (table, server) in document.list("server").iter().zip(&config.servers) {
        if let Some(first) = slots.insert(slot_name(&server.id), &server.id)
            && *first != server.id
        {
            let problem =
                format!("the replication slots of \"{first}\" and \"{}\" have the same name", server.id);
            let remedy = "give them ids that differ in more than case, -, . and _";
            findings.problems.add(table.line("id"), "server.id", problem, remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::every_key::SMALLEST;
    use crate::config::file::parse;

    const NODES: &str = "[[node]]\nid = 'n1'\nhost = 'h1'\n[[node]]\nid = 'n2'\nhost = 'h2'\n\
        [[node]]\nid = 'n3'\nhost = 'h3'\n";

    /// With a cluster, and what is found.
    fn found(text: &str) -> String {
        let text = format!("{SMALLEST}{text}[cluster]\nname = 'shop'\n{NODES}");
        match parse(&text, Path::new("k.toml"), 1) {
            Ok((_, warnings)) => warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Err(report) => report.to_string(),
        }
    }

    #[test]
    fn nobody_is_promoted_without_a_majority() {
        let text = format!("{SMALLEST}[failover]\nmode = 'streaming'\n");
        let report = parse(&text, Path::new("k.toml"), 1).unwrap_err().to_string();
        assert!(report.contains("failover.mode: there is no [cluster]"), "{report}");
        assert_eq!(found("[failover]\nmode = 'streaming'\n"), "");
    }

    #[test]
    fn contradictions_are_told() {
        let another = "[[server]]\nid = 'S1'\nhost = 'db2'\n";
        for (text, problem) in [
            (
                format!("always_primary = true\n{another}always_primary = true\n"),
                "cannot both be the primary always",
            ),
            (format!("{another}[failover]\nmode = 'streaming'\n"), "replication slots of \"s1\" and \"S1\""),
            ("[failover]\npromote_log_shipped = true\n".to_owned(), "no server follows by log shipping"),
            ("[failover]\nreplication_passfile = 'p'\n".to_owned(), "\"p\" is no absolute path"),
            ("[failover]\nmode = 'streaming'\nsync_mode = 'require'\n".to_owned(), "1 is more than the 0"),
            (
                format!("{another}[failover]\nsync_mode = 'prefer'\n").replace("S1", "s2"),
                "failover.mode is \"off\"",
            ),
        ] {
            assert!(found(&text).contains(problem), "{text}: {}", found(&text));
        }
    }
}
