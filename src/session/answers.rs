//! What komainu answers in a server's place, written as SQL that any server answers.
//!
//! `SHOW POOL_NODES` becomes a `SELECT` of its rows: so it works by the simple and the extended protocol,
//! in a transaction, with a cursor, and every driver sees an ordinary result. Pure.

use std::fmt::Write;

/// `SELECT` of the given rows, all columns of type text. Values are quoted; a server with
/// `standard_conforming_strings` off reads them the same, for backslashes are doubled under `E''`.
pub fn rows_as_select(columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut sql = String::from("SELECT ");
    for (i, column) in columns.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        let _ = write!(sql, "{separator}t.c{i}::pg_catalog.text AS \"{}\"", column.replace('"', "\"\""));
    }
    sql.push_str(" FROM (VALUES ");
    let blank = vec![String::new(); columns.len()];
    let shown: &[Vec<String>] = if rows.is_empty() { std::slice::from_ref(&blank) } else { rows };
    for (i, row) in shown.iter().enumerate() {
        sql.push_str(if i == 0 { "(" } else { ", (" });
        for (j, value) in row.iter().enumerate() {
            sql.push_str(if j == 0 { "" } else { ", " });
            push_literal(&mut sql, value);
        }
        sql.push(')');
    }
    sql.push_str(") AS t(");
    for i in 0..columns.len() {
        let separator = if i == 0 { "" } else { ", " };
        let _ = write!(sql, "{separator}c{i}");
    }
    sql.push(')');
    if rows.is_empty() {
        sql.push_str(" WHERE false");
    }
    sql
}

fn push_literal(sql: &mut String, value: &str) {
    sql.push_str("E'");
    for character in value.chars() {
        match character {
            '\'' => sql.push_str("''"),
            '\\' => sql.push_str("\\\\"),
            '\0' => {}
            other => sql.push(other),
        }
    }
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_whatever_is_in_them() {
        let sql = rows_as_select(&["a", "b\"c"], &[vec!["it's".into(), "back\\slash".into()]]);
        assert_eq!(
            sql,
            "SELECT t.c0::pg_catalog.text AS \"a\", t.c1::pg_catalog.text AS \"b\"\"c\" \
             FROM (VALUES (E'it''s', E'back\\\\slash')) AS t(c0, c1)"
        );
    }

    #[test]
    fn no_rows_keep_their_columns() {
        assert!(rows_as_select(&["a"], &[]).ends_with("FROM (VALUES (E'')) AS t(c0) WHERE false"));
    }
}
