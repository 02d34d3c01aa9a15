//! What is wrong with the keys of failover, among themselves and with the servers.
//!
//! Pure. Invariant: with what passes here there is somebody who may promote, and no two orders whom.

use super::super::document::Document;
use super::super::report::Findings;
use crate::config::{Config, FailoverMode, SyncMode};

pub(super) fn check(document: &Document, config: &Config, findings: &mut Findings) {
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
    let mut pinned =
        document.list("server").iter().zip(&config.servers).filter(|(_, server)| server.always_primary);
    if let (Some((_, first)), Some((table, second))) = (pinned.next(), pinned.next()) {
        let problem = format!("\"{}\" and \"{}\" cannot both be the primary always", first.id, second.id);
        let remedy = "set it for one server at most";
        findings.problems.add(table.line("always_primary"), "server.always_primary", problem, remedy);
    }
}
