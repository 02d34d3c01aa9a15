//! The documentation, as far as a machine can tell whether it is true.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use komainu::config::file;

use super::source::files;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page of the manual.
pub fn pages() -> Vec<PathBuf> {
    let roots = ["README.md", "terraform/README.md", "ami/README.md"];
    let mut pages = Vec::from(roots.map(|page| root().join(page)));
    files(&root().join("docs"), "md", &mut pages);
    pages
}

#[track_caller]
pub fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
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
pub fn between<'a>(text: &'a str, opening: &str, closing: &str) -> Vec<&'a str> {
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
    for page in pages() {
        for (link, target, anchor) in links(&page) {
            let found = match anchor {
                _ if !target.exists() => false,
                Some(anchor) => anchors(&fs::read_to_string(&target).unwrap()).contains(&anchor),
                None => true,
            };
            if !found {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// Within the repository: as it is written, the file, the heading on it.
fn links(page: &Path) -> Vec<(String, PathBuf, Option<String>)> {
    let text = prose(&read(page));
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links
        .filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
        .map(|link| {
            let (path, anchor) =
                link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { page.to_owned() } else { page.parent().unwrap().join(path) };
            (link.to_owned(), target, anchor.map(str::to_owned))
        })
        .collect()
}

#[test]
fn links_from_the_readme_lead_to_every_page() {
    let whole = |path: &Path| path.canonicalize().unwrap();
    let (mut reached, mut next) = (BTreeSet::new(), vec![whole(&root().join("README.md"))]);
    while let Some(page) = next.pop() {
        let pages = links(&page).into_iter().map(|(_, target, _)| target);
        next.extend(
            pages.filter(|target| target.extension().is_some_and(|is| is == "md")).map(|page| whole(&page)),
        );
        reached.insert(page);
        next.retain(|page| !reached.contains(page));
    }
    let pages: BTreeSet<_> = pages().iter().map(|page| whole(page)).collect();
    assert_eq!(reached, pages, "left: what can be reached, right: what there is");
}

#[test]
fn every_path_of_the_source_that_a_page_names_exists() {
    let (mut missing, mut named) = (Vec::new(), BTreeSet::new());
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).unwrap());
        for name in text.split('`').skip(1).step_by(2) {
            let is_source = name.ends_with(".rs") && name.contains('/') && !name.contains(['*', ' ', '<']);
            let candidates = [root().join(name), root().join("src").join(name)];
            if is_source {
                named.insert(name.to_owned());
            }
            if is_source && !candidates.iter().any(|path| path.exists()) {
                missing.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such files:\n{}", missing.join("\n"));
    // In the prose, in a table.
    for known in ["tests/integration/purity.rs", "cluster/decide/loss.rs"] {
        assert!(named.contains(known), "{known} is not found");
    }
}

/// The pages with a whole configuration, once for each.
const WHOLE: &[&str] = &[
    "README.md",
    "docs/aurora.md",
    "docs/configuration.md",
    "docs/configuration.md",
    "docs/rds.md",
    "docs/redshift.md",
];

#[test]
fn every_whole_configuration_that_a_page_shows_is_accepted() {
    let mut whole = Vec::new();
    for page in pages() {
        let text = read(&page);
        let here = between(&text, "cat > komainu.toml <<'END'\n", "\nEND\n");
        for block in between(&text, "```toml\n", "\n```").into_iter().chain(here) {
            if block.contains("[listen]") {
                whole.push(page.strip_prefix(root()).unwrap().display().to_string());
                if let Err(report) = file::parse(block, Path::new("/etc/komainu/komainu.toml"), 2) {
                    panic!("{}:\n{report}", page.display());
                }
            }
        }
    }
    whole.sort();
    assert_eq!(whole, WHOLE);
}

#[test]
fn the_units_that_pages_show_are_those_that_are_installed() {
    for (page, unit) in
        [("docs/operations.md", "komainu.service"), ("docs/agent.md", "komainu-agent.service")]
    {
        let text = read(&root().join(page));
        let shown = between(&text, "```ini\n", "```");
        let installed = read(&root().join("ami/files").join(unit));
        assert!(shown.contains(&installed.as_str()), "copy ami/files/{unit} to {page}");
    }
}

#[test]
fn the_agents_unit_lets_it_write_where_its_page_has_it_write() {
    let unit = read(&root().join("ami/files/komainu-agent.service"));
    let setting = |name: &str| {
        unit.lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut writable: Vec<_> = setting("ReadWritePaths")
        .split_whitespace()
        .map(|path| PathBuf::from(path.trim_start_matches('-')))
        .collect();
    for (name, above) in [("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log")] {
        writable.extend(setting(name).split_whitespace().map(|path| Path::new(above).join(path)));
    }
    let page = read(&root().join("docs/agent.md"));
    let example: toml::Table = between(&page, "```toml\n   [agent]\n", "```")[0].parse().unwrap();
    let path = |key: &str| Path::new(example[key].as_str().unwrap()).to_owned();
    // Where a rebuilt one is put together.
    let above = path("data_directory").parent().unwrap().to_owned();
    for wanted in [above, path("state_directory")] {
        assert!(
            writable.iter().any(|path| wanted.starts_with(path)),
            "{} is none of {writable:?}",
            wanted.display()
        );
    }
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
