//! One direction: a part uses those in front of it in its row, and none of those behind it.

use super::source::{self, Module};

const ROWS: &[&[&str]] = &[
    &["wire", "topology", "route", "backend", "client", "pool", "cluster", "session", "serve", "cli"],
    &["postgres", "agent", "backup", "sandbox", "drill", "cli"],
];

#[test]
fn no_part_uses_one_that_is_built_on_it() {
    let modules = source::modules();
    for part in ROWS.iter().flat_map(|row| *row) {
        let name = format!("crate::{part}");
        assert!(
            modules.iter().any(|module| module.is_in(&name)),
            "there is no {part}: say what became of it"
        );
    }
    let found: Vec<String> = modules.iter().flat_map(back_edges).collect();
    assert!(found.is_empty(), "these go back:\n{}", found.join("\n"));
}

#[test]
fn a_way_back_is_found() {
    let found = |text: &str| back_edges(&Module::of("crate::pool::book", text)).len();
    assert_eq!(found("use crate::backend::ServerConn;"), 0);
    assert_eq!(found("use super::gate::Permit;"), 0);
    assert_eq!(found("use crate::session::{pins::Pins, Gateway};"), 2);
    assert_eq!(found("#[cfg(test)]\nmod tests {\n    use crate::session::Gateway;\n}"), 0);
}

fn back_edges(module: &Module) -> Vec<String> {
    let part =
        |path: &str| path.strip_prefix("crate::").and_then(|path| path.split("::").next()).map(str::to_owned);
    let Some(own) = part(&module.name) else { return Vec::new() };
    let place = |row: &[&str], part: &str| row.iter().position(|other| *other == part);
    let goes_back = |path: &&String| {
        part(path).is_some_and(|used| {
            ROWS.iter().any(|row| place(row, &used) > place(row, &own) && row.contains(&&*own))
        })
    };
    let back = module.paths.iter().filter(goes_back);
    back.map(|path| format!("{} uses {path}", module.file)).collect()
}
