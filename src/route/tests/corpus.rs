//! Statements whose class is known: reads that splitting must recognise to be of use, and writes.

use super::{resolved, statements};
use crate::route::Class;

fn misjudged(file: &str, expected: Class) -> Vec<String> {
    statements(file)
        .map(|sql| (sql, resolved(sql).1))
        .filter(|(_, routed)| routed.class != expected)
        .map(|(sql, routed)| format!("{sql}\n    {:?}: {}", routed.class, routed.reason))
        .collect()
}

#[test]
fn reads_are_recognised() {
    let wrong = misjudged(include_str!("../../../tests/corpus/reads.sql"), Class::Read);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn writes_are_never_reads() {
    let wrong = misjudged(include_str!("../../../tests/corpus/writes.sql"), Class::Write);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
