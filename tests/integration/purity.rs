//! The modules that decide are pure: no IO, no clock, no randomness, no log. Time, seeds and configuration
//! are arguments, so that they can be simulated and fuzzed.

use std::fs;
use std::path::{Path, PathBuf};

const PURE: &[&str] = &[
    "wire",
    "wire.rs",
    "route",
    "topology",
    "cluster/model.rs",
    "cluster/primary.rs",
    "cluster/change.rs",
    "cluster/conninfo.rs",
    "cluster/lapses.rs",
    "cluster/looks.rs",
    "cluster/reason.rs",
    "cluster/sync_set.rs",
    "cluster/state.rs",
    "cluster/state",
    "cluster/agree.rs",
    "cluster/decide.rs",
    "cluster/decide",
    "consensus/node/about.rs",
    "cluster/operate/repoint.rs",
    "cluster/operate/privilege.rs",
    "consensus/node/rights.rs",
    "consensus/store/identity.rs",
    "consensus/lease.rs",
    "consensus/lease",
    "consensus/election.rs",
    "consensus/election",
    "pool/book.rs",
    "backend/expect.rs",
    "session/prepared.rs",
    "session/settings.rs",
    "session/glimpse.rs",
    "session/pins.rs",
    "session/transaction.rs",
    "session/floor.rs",
    "session/rewrite.rs",
    "session/answers.rs",
    "client/hba.rs",
    "client/hba",
    "config/shared.rs",
    "config/this_node.rs",
    "agent/argument.rs",
    "agent/conninfo.rs",
    "agent/control.rs",
    "agent/history.rs",
    "agent/plan.rs",
    "agent/progress.rs",
    "agent/recovery_settings.rs",
    "agent/wal.rs",
    "agent/wire.rs",
    "admin/status.rs",
    "admin/cluster_status.rs",
    "admin/doctor.rs",
    "admin/gate.rs",
    "backup/choose.rs",
    "sandbox/endpoint.rs",
    "drill/attempts.rs",
    "drill/phases.rs",
    "drill/report.rs",
    "../escalation/src/claim.rs",
    "../escalation/src/reconcile/core.rs",
    "../escalation/src/reconcile/journal.rs",
    "../escalation/src/reconcile/pace.rs",
    "../escalation/src/elastic_ip/plan.rs",
    "../escalation/src/route53/plan.rs",
    "../escalation/src/route_table/plan.rs",
    "../escalation/src/secondary_ip/plan.rs",
    "../escalation/src/interface/plan.rs",
    "../escalation/src/command/plan.rs",
];

/// Of crates, modules and types; looked for as whole paths.
const FORBIDDEN: &[&str] = &[
    "tokio",
    "socket2",
    "rustix",
    "rand",
    "tracing",
    "metrics",
    "std::net::Tcp",
    "std::net::Udp",
    "std::net::ToSocketAddrs",
    "std::os",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
    "aws_lc_rs::rand",
    "crate::clock",
    "crate::telemetry",
    "crate::net",
    "println!",
    "eprintln!",
];

#[test]
fn what_decides_does_no_io() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut seen = 0;
    for name in PURE {
        let path = source.join(name);
        if path.exists() {
            files(&path, &mut |file| {
                seen += 1;
                let text = fs::read_to_string(file).unwrap();
                for what in impurities(&text) {
                    found.push(format!("{}: {what}", file.strip_prefix(&source).unwrap().display()));
                }
            });
        } else {
            // A module may have become a directory or a file.
            assert!(name.starts_with("wire.rs"), "{name} is gone: say what became of it");
        }
    }
    assert!(seen > 40, "only {seen} files were looked at");
    assert!(found.is_empty(), "pure modules that are not:\n{}", found.join("\n"));
}

#[test]
fn every_property_keeps_its_failures_under_tests() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut properties) = (Vec::new(), 0);
    super::documentation::files(&source, "rs", &mut found);
    for file in found {
        let text = fs::read_to_string(&file).unwrap();
        for block in text.split("proptest! {\n").skip(1) {
            properties += 1;
            let first = block.trim_start().lines().next().unwrap();
            assert!(first.contains("crate::properties::"), "{}: {first}", file.display());
        }
    }
    assert!(properties > 8, "only {properties} blocks were found");
}

#[test]
fn what_is_forbidden_is_found() {
    let found = |text: &str| impurities(text).len();
    assert_eq!(found("use tokio::net::TcpStream;"), 1);
    assert_eq!(found("use std::time::{Duration, Instant};"), 1);
    assert_eq!(found("use std::{\n    fs::File,\n    io,\n};"), 1);
    assert_eq!(found("let now = std::time::SystemTime::now();"), 1);
    assert_eq!(found("tracing::info!(\"x\");"), 1);
    assert_eq!(
        found(
            "use std::time::Duration;\nuse std::net::IpAddr;\n// tokio is not used\nlet random = operand::rand;"
        ),
        0
    );
    assert_eq!(found("fn f() {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n}"), 0);
}

fn files(path: &Path, each: &mut dyn FnMut(&PathBuf)) {
    if path.is_file() {
        return each(&path.to_owned());
    }
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Tests may read a corpus.
        if name != "tests" && name != "tests.rs" {
            files(&path, each);
        }
    }
}

/// The forbidden paths that occur outside of comments and tests.
fn impurities(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String =
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let paths = paths(&code);
    let is_in = |what: &&&str| match what.strip_suffix('!') {
        Some(_) => code.contains(**what),
        None => paths.iter().any(|path| {
            // Names of labels are plain data.
            !path.starts_with("crate::telemetry::labels")
                && path.strip_prefix(**what).is_some_and(|rest| {
                    rest.is_empty()
                        || rest.starts_with("::")
                        || rest.starts_with('!')
                        || what.contains("std::net")
                })
        }),
    };
    FORBIDDEN.iter().filter(is_in).map(|what| (*what).to_owned()).collect()
}

/// Every path in the code, with the groups of `use` written out.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in code.split("use ").skip(1) {
        if let Some(end) = statement.find(';') {
            expand("", &statement[..end], &mut paths);
        }
    }
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    for word in code.split(|c: char| !is_part(c)) {
        if word.contains("::") {
            paths.push(word.trim_start_matches(':').to_owned());
        }
    }
    paths
}

fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        if !tree.is_empty() {
            paths.push(format!("{before}{}", tree.split_whitespace().next().unwrap_or_default()));
        }
        return;
    };
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    let before = format!("{before}{}", head.trim());
    let mut depth = 0;
    let mut from = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&before, &group[from..at], paths);
                from = at + 1;
            }
            _ => {}
        }
    }
    expand(&before, &group[from..], paths);
}
