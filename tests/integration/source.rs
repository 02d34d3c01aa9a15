//! The source as text: which modules there are, what each says of itself, and what each uses outside of its tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One file that is not for tests only.
pub struct Module {
    /// From `src`, or `../escalation/src`.
    pub file: String,
    /// `crate::session::lease`; for another crate with its name.
    pub name: String,
    /// Its `//!` lines, as one text.
    pub says: String,
    /// Without comments and tests.
    pub code: String,
    /// Every path in the code, from the crate on, with the groups of `use` written out.
    pub paths: BTreeSet<String>,
}

pub fn modules() -> Vec<Module> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut modules = Vec::new();
    for (directory, crate_name) in [("src", "crate"), ("escalation/src", "komainu_escalation")] {
        let directory = root.join(directory);
        let mut found = Vec::new();
        files(&directory, "rs", &mut found);
        found.sort();
        let tests: Vec<PathBuf> = found.iter().flat_map(|file| modules_for_tests(file)).collect();
        let is_test = |file: &PathBuf| {
            tests.iter().any(|test| file.starts_with(test) || *file == test.with_extension("rs"))
        };
        for file in found.iter().filter(|file| !is_test(file)) {
            let text = fs::read_to_string(file).unwrap();
            let name = format!("{crate_name}{}", name(file.strip_prefix(&directory).unwrap()));
            let code = code(&text);
            modules.push(Module {
                file: file.strip_prefix(root).unwrap().display().to_string(),
                says: said(&text),
                paths: paths(&code).iter().map(|path| from_crate(&name, path)).collect(),
                name,
                code,
            });
        }
    }
    assert!(modules.len() > 300, "only {} files were found", modules.len());
    modules
}

pub fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
}

impl Module {
    /// Of a text that is not in a file.
    pub fn of(name: &str, text: &str) -> Module {
        let code = code(text);
        Module {
            file: String::new(),
            name: name.to_owned(),
            says: said(text),
            paths: paths(&code).iter().map(|path| from_crate(name, path)).collect(),
            code,
        }
    }

    pub fn is_in(&self, module: &str) -> bool {
        is_within(&self.name, module)
    }
}

/// Whether the path is the module's, or leads into it.
pub fn is_within(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Where the modules are that the file declares for tests only, without `.rs`.
fn modules_for_tests(file: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(file).unwrap();
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let inside = match stem {
        "mod" | "lib" | "main" => file.parent().unwrap().to_owned(),
        _ => file.with_extension(""),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| pair[0].starts_with("#[cfg(test)]")).filter_map(|pair| {
        let (_, rest) = pair[1].split_once("mod ")?;
        rest.strip_suffix(';')
    });
    declared.map(|module| inside.join(module)).collect()
}

fn name(file: &Path) -> String {
    let file = file.with_extension("");
    let parts: Vec<&str> = file.iter().map(|part| part.to_str().unwrap()).collect();
    let parts = parts.iter().filter(|part| !["mod", "lib", "main"].contains(part));
    parts.map(|part| format!("::{part}")).collect()
}

fn said(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("//!")).map(str::trim).collect();
    lines.join(" ")
}

fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            let item = lines.by_ref().find(|line| !line.starts_with("#["));
            // A module of tests in a file of its own is one line, and else they are the file's last.
            match item.is_some_and(|item| item.contains("mod ") && item.ends_with('{')) {
                true => break,
                false => continue,
            }
        }
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

/// `super::x` of `crate::a::b` is `crate::a::x`.
fn from_crate(module: &str, path: &str) -> String {
    let (mut module, mut rest) = (module, path);
    while let Some(after) = rest.strip_prefix("super::") {
        rest = after;
        module = module.rsplit_once("::").map_or(module, |(parent, _)| parent);
    }
    match rest.strip_prefix("self::") {
        Some(after) => format!("{module}::{after}"),
        None if rest.len() < path.len() => format!("{module}::{rest}"),
        None => rest.to_owned(),
    }
}

fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut pieces = code.split("use ");
    let mut rest = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (tree, behind) = piece.split_once(';').unwrap_or(("", piece));
        expand("", tree, &mut paths);
        rest.push('\n');
        rest.push_str(behind);
    }
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    for word in rest.split(|c: char| !is_part(c)).filter(|word| word.contains("::")) {
        paths.push(word.trim_matches(':').to_owned());
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

#[test]
fn a_path_is_told_from_the_crate_on() {
    let paths = |text: &str| Module::of("crate::a::b", text).paths.into_iter().collect::<Vec<_>>();
    assert_eq!(paths("use super::c::{D, e::F as G};"), ["crate::a::c::D", "crate::a::c::e::F"]);
    assert_eq!(paths("use super::super::x;\nuse self::y;"), ["crate::a::b::y", "crate::x"]);
    assert_eq!(paths("let a = super::c::d();"), ["crate::a::c::d"]);
    assert_eq!(paths("// tokio::spawn\n#[cfg(test)]\nmod tests {\n use std::fs;\n}"), [""; 0]);
}

#[test]
fn modules_for_tests_are_left_out() {
    let modules = modules();
    let is_there = |name: &str| modules.iter().any(|module| module.name == name);
    assert!(
        is_there("crate::config::reload") && is_there("crate::wire") && is_there("komainu_escalation::aws")
    );
    for test in
        ["crate::config::every_key", "crate::cluster::decide::tests", "crate::telemetry::samples::everything"]
    {
        assert!(!is_there(test), "{test}");
    }
    assert!(modules.iter().all(|module| !module.file.contains("/tests")), "one of tests is there");
}
