//! `komainu check-config`: every problem of a configuration in one report.
//!
//! Owns how a report is shown. Never changes anything.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::{CheckConfig, EXIT_USAGE};
use crate::config::report::{Finding, Report};
use crate::config::words::Words as _;
use crate::config::{self, Config, Endpoint};

pub fn run(args: &CheckConfig) -> ExitCode {
    let Some(path) = args.file.as_deref().or(args.config.as_deref()) else {
        return ExitCode::from(EXIT_USAGE);
    };
    match config::load(path) {
        Ok((config, warnings)) => {
            show_warnings(&warnings);
            // A closed standard output takes nothing from the answer, which is the exit code.
            let _ = writeln!(std::io::stdout(), "{}: ok ({})", path.display(), summary(&config));
            ExitCode::SUCCESS
        }
        Err(report) => refuse(path, &report),
    }
}

/// Shows what is wrong with a configuration; the exit code is the one that every command gives for it.
pub fn refuse(path: &Path, report: &Report) -> ExitCode {
    show_warnings(&report.warnings);
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "{report}");
    let _ = writeln!(stderr, "{}: {}", path.display(), count(report.problems.len(), "problem"));
    ExitCode::from(EXIT_USAGE)
}

pub fn show_warnings(warnings: &[Finding]) {
    for warning in warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn summary(config: &Config) -> String {
    let addresses: Vec<_> = config.listen.addresses.iter().map(ToString::to_string).collect();
    let mode = config.pool.limits.mode.word();
    let reads = match config.split.enabled {
        false => "all reads on the primary".to_owned(),
        true => format!("reads split, {} consistency", config.split.consistency.word()),
    };
    let servers = count(config.servers.len(), "server");
    let mut summary = format!(
        "listens on {}; {servers}; {mode} pools of {}; {reads}",
        addresses.join(", "),
        config.pool.limits.size
    );
    if let Some(cluster) = &config.cluster {
        let nodes: Vec<_> = cluster.nodes.iter().map(|node| node.id.as_str()).collect();
        summary += &format!("; cluster {} of {}", cluster.name, nodes.join(", "));
        summary += &match config.endpoints.as_slice() {
            [] => "; no endpoint".to_owned(),
            endpoints => format!("; {}", endpoints_by_method(endpoints)),
        };
    }
    summary
}

/// `endpoint app by elastic-ip`
fn endpoints_by_method(endpoints: &[Endpoint]) -> String {
    let each: Vec<_> = endpoints
        .iter()
        .map(|endpoint| format!("{} by {}", endpoint.settings.name, endpoint.settings.method.name()))
        .collect();
    format!("endpoint{} {}", if each.len() == 1 { "" } else { "s" }, each.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary_of(cluster: &str) -> String {
        let text = format!(
            "[listen]\naddresses = ['127.0.0.1:9999']\n[auth]\nhba_file = 'hba'\n[[server]]\nid = 's1'\n\
             host = 'db1'\n{cluster}"
        );
        summary(&config::file::parse(&text, Path::new("k.toml"), 1).unwrap().0)
    }

    #[test]
    fn a_summary_names_nodes_and_endpoints_of_a_cluster_only() {
        let alone =
            "listens on 127.0.0.1:9999; 1 server; transaction pools of 20; reads split, session consistency";
        assert_eq!(summary_of(""), alone);
        let nodes: String =
            ["a", "b", "c"].map(|id| format!("[[node]]\nid = '{id}'\nhost = 'h{id}'\n")).concat();
        let cluster = format!("[cluster]\nname = 'shop'\n{nodes}");
        assert_eq!(summary_of(&cluster), format!("{alone}; cluster shop of a, b, c; no endpoint"));
        let app = format!("{cluster}[[endpoint]]\nname = 'app'\nmethod.elastic-ip.allocation_id = 'e'\n");
        assert_eq!(summary_of(&app), format!("{alone}; cluster shop of a, b, c; endpoint app by elastic-ip"));
        let both = format!("{app}[[endpoint]]\nname = 'x'\nmethod.command.command = ['/m']\n");
        assert!(
            summary_of(&both).ends_with("; endpoints app by elastic-ip, x by command"),
            "{}",
            summary_of(&both)
        );
    }
}
