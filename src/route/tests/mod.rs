//! Tests of routing as a whole; those of one file's own logic are beside it.

mod corpus;
mod lexer;
mod long;
mod policy;
mod shape;
mod utility;
mod wrapped;

use std::sync::LazyLock;

use super::catalog::{Catalog, FunctionLists, FunctionRow, Routed, Volatility, resolve};
use super::{Analysis, analyze};

/// PostgreSQL 15's own functions, and those of `tests/corpus/schema.sql`.
pub(super) static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let row = |schema: &str, name: &str, letter: &str| FunctionRow {
        schema: schema.into(),
        name: name.into(),
        volatility: Volatility::from_letter(letter),
        attribute: name == "touch",
    };
    let builtin = include_str!("../../../tests/corpus/pg_catalog_functions.tsv")
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, letter)| row("pg_catalog", name, letter));
    let own = [
        row("public", "pure", "i"),
        row("public", "looks", "s"),
        row("public", "writes_it", "v"),
        row("app", "writes_too", "v"),
        row("public", "touch", "v"),
    ];
    let relations = ["scratch", "ticket", "tickets", "over_tickets", "over_scratch"];
    Catalog::new(builtin.chain(own), relations.map(|name| ("public".into(), name.into())))
});

pub(super) fn resolved(sql: &str) -> (Analysis, Routed) {
    let analysis = analyze(sql);
    let routed = resolve(&analysis, Some(&CATALOG), &FunctionLists::default());
    (analysis, routed)
}

/// The statements of a corpus file: each ends with a semicolon at the end of a line.
pub(super) fn statements(file: &str) -> impl Iterator<Item = &str> {
    file.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
}
