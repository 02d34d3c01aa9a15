//! The modules that decide are pure: no IO, no clock, no randomness, no log. Time, seeds and configuration
//! are arguments, so that they can be simulated and fuzzed.
//!
//! Which they are they say themselves: "Pure" in the lines at their head, which holds for the modules within, too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::source::{self, Module, is_within};

/// Of crates, modules and types; looked for as whole paths. Of ours, what is pure itself may be used.
const FORBIDDEN: &[&str] = &[
    "tokio",
    "socket2",
    "rustix",
    "rand",
    "tracing",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime::now",
    "SystemTime::now",
    "aws_lc_rs::rand",
    "crate::clock",
    "crate::telemetry",
    "crate::net",
];

const FORBIDDEN_TEXT: &[&str] = &["println!", "eprint", ".elapsed()"];

/// What is used all the same: by which modules, the path, and why that is no IO.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("crate", "crate::telemetry::counters::Totals", "plain numbers, of a moment that is over"),
    ("crate::telemetry::samples", "crate::telemetry::counters::ACQUIRE_BOUNDS_US", "constants"),
    ("crate::telemetry::samples", "crate::telemetry::process::Process", "plain numbers, read by others"),
    ("crate::config::check", "crate::telemetry::log::check_level", "reads a level's text, and logs nothing"),
    ("crate::drill::address", "crate::net::tls", "reads the authority's file, and says so"),
];

#[test]
fn what_says_that_it_is_pure_does_no_io() {
    let modules = source::modules();
    let pure = pure(&modules);
    let mut found = Vec::new();
    for module in modules.iter().filter(|module| pure.contains(&*module.name)) {
        for what in impurities(module, &pure) {
            found.push(format!("{}: {what}", module.file));
        }
    }
    assert!(found.is_empty(), "pure modules that are not:\n{}", found.join("\n"));
}

#[test]
fn every_exception_is_needed() {
    let modules = source::modules();
    let pure = pure(&modules);
    for (name, path, why) in EXCEPTIONS {
        let mut concerned =
            modules.iter().filter(|module| module.is_in(name) && pure.contains(&*module.name));
        let is_used = concerned.any(|module| module.paths.iter().any(|used| is_within(used, path)));
        assert!(is_used, "nothing pure in {name} uses {path} ({why}) any more");
    }
}

/// A module could be made impure by taking the word out: for these the map of the code says it as well.
#[test]
fn what_the_map_calls_pure_says_so_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let modules = source::modules();
    let pure = pure(&modules);
    let named: Vec<&str> =
        map.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix("/` (pure)")).collect();
    assert!(!named.is_empty(), "no heading says that a directory is pure");
    for directory in named {
        let within = format!("crate::{directory}");
        for module in modules.iter().filter(|module| module.is_in(&within)) {
            assert!(pure.contains(&*module.name), "{}", module.file);
        }
    }
}

#[test]
fn every_property_keeps_its_failures_under_tests() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut properties) = (Vec::new(), 0);
    source::files(&source, "rs", &mut found);
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
    let pure = BTreeSet::from(["crate::telemetry::labels"]);
    let found = |text: &str| impurities(&Module::of("crate::telemetry::render", text), &pure).len();
    assert_eq!(found("use tokio::net::TcpStream;"), 1);
    assert_eq!(found("use std::time::{Duration, Instant};"), 1);
    assert_eq!(found("use std::{\n    fs::File,\n    io,\n};"), 1);
    assert_eq!(found("let now = std::time::SystemTime::now();"), 1);
    assert_eq!(found("tracing::info!(\"x\");"), 1);
    assert_eq!(found("println!(\"x\");"), 1);
    assert_eq!(found("use super::log;"), 1);
    assert_eq!(found("use super::labels::Label;"), 0);
    let harmless = "use std::time::{Duration, SystemTime};\nuse std::net::IpAddr;\n// tokio is not used\nlet random = operand::rand;";
    assert_eq!(found(harmless), 0);
}

#[test]
fn a_module_is_pure_by_its_own_word_or_by_that_of_the_one_it_is_in() {
    let module = |name, says: &str| Module::of(name, &format!("//! Judges.\n//!\n//! {says}\n"));
    let modules = [
        module("crate::a", "Pure: text in, rules out."),
        module("crate::a::b", "Owns half of it."),
        module("crate::c", "Never does IO. Pure\n//! data."),
        module("crate::d", "The other modules are pure. Pure modules get the time as an argument."),
    ];
    assert_eq!(pure(&modules), BTreeSet::from(["crate::a", "crate::a::b", "crate::c"]));
}

/// The names of the modules that are pure.
fn pure(modules: &[Module]) -> BTreeSet<&str> {
    const CLAIMS: [&str; 4] = ["Pure.", "Pure:", "Pure data", "Pure but for"];
    let claims = |module: &&Module| CLAIMS.iter().any(|claim| module.says.contains(claim));
    let claimed: Vec<&str> = modules.iter().filter(claims).map(|module| &*module.name).collect();
    let is_pure = |module: &&Module| claimed.iter().any(|claimed| module.is_in(claimed));
    modules.iter().filter(is_pure).map(|module| &*module.name).collect()
}

/// What is forbidden and used all the same.
fn impurities(module: &Module, pure: &BTreeSet<&str>) -> Vec<String> {
    let is_excepted = |path: &str| {
        EXCEPTIONS.iter().any(|(name, allowed, _)| module.is_in(name) && is_within(path, allowed))
    };
    let is_forbidden = |path: &&String| {
        FORBIDDEN.iter().any(|what| is_within(path, what))
            && !pure.iter().any(|pure| is_within(path, pure))
            && !is_excepted(path)
    };
    let paths = module.paths.iter().filter(is_forbidden).cloned();
    let texts =
        FORBIDDEN_TEXT.iter().filter(|text| module.code.contains(**text)).map(|text| (*text).to_owned());
    paths.chain(texts).collect()
}
