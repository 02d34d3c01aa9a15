//! The documentation, as far as a machine can tell whether it is true.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use komainu::config::file;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
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

fn pages() -> Vec<PathBuf> {
    let roots = ["README.md", "terraform/README.md", "ami/README.md"];
    let mut pages = Vec::from(roots.map(|page| root().join(page)));
    files(&root().join("docs"), "md", &mut pages);
    assert!(pages.len() > 15, "the pages are not found: {pages:?}");
    pages
}

/// A page's lines outside of fenced blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        if !fenced && !fence {
            prose.push_str(line);
            prose.push('\n');
        }
        fenced ^= fence;
    }
    prose
}

/// What stands between `opening` and `closing`, each time.
fn between<'a>(text: &'a str, opening: &str, closing: &str) -> Vec<&'a str> {
    text.split(opening).skip(1).map(|rest| rest.split(closing).next().unwrap_or_default()).collect()
}

/// The anchors of a page's headings, made as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn every_link_to_a_page_leads_to_one_and_to_a_heading_on_it() {
    let mut broken = Vec::new();
    let mut followed = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in prose(&text).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            followed += 1;
            let (path, anchor) =
                link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let found = match anchor {
                _ if !target.exists() => false,
                Some(anchor) => anchors(&fs::read_to_string(&target).unwrap()).contains(anchor),
                None => true,
            };
            if !found {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(followed > 30, "only {followed} links were found");
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_path_of_the_source_that_a_page_names_exists() {
    let mut missing = Vec::new();
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).unwrap());
        for name in text.split('`').skip(1).step_by(2) {
            let is_source = name.ends_with(".rs") && name.contains('/') && !name.contains(['*', ' ', '<']);
            let candidates = [root().join(name), root().join("src").join(name)];
            if is_source && !candidates.iter().any(|path| path.exists()) {
                missing.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such files:\n{}", missing.join("\n"));
}

#[test]
fn every_whole_configuration_that_a_page_shows_is_accepted() {
    let mut whole = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let here = between(&text, "cat > komainu.toml <<'END'\n", "\nEND\n");
        for block in between(&text, "```toml\n", "\n```").into_iter().chain(here) {
            if block.contains("[listen]") {
                whole += 1;
                if let Err(report) = file::parse(block, Path::new("/etc/komainu/komainu.toml"), 2) {
                    panic!("{}:\n{report}", page.display());
                }
            }
        }
    }
    assert!(whole >= 2, "only {whole} configurations were found");
}

#[test]
fn the_unit_that_operations_shows_is_the_one_that_is_installed() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let unit = fs::read_to_string(root().join("ami/files/komainu.service")).unwrap();
    let shown = between(&page, "```ini\n", "```");
    assert!(shown.contains(&unit.as_str()), "copy ami/files/komainu.service to docs/operations.md");
}

#[test]
fn every_crate_has_its_reason_in_the_record_of_dependencies() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let record = fs::read_to_string(root().join("docs/decisions/0001-dependencies.md")).unwrap();
    for section in ["dependencies", "dev-dependencies"] {
        for name in manifest[section].as_table().unwrap().keys() {
            assert!(record.contains(&format!("`{name}`")), "{name} is not in 0001-dependencies.md");
        }
    }
}
