//! Names of SQL-level prepared statements, replaced in the text that uses them.
//!
//! Pure. Invariant: nothing but the names changes, byte for byte, whatever the encoding; a name is the bytes that it has
//! in the text.

use crate::route::lexer::{Lexer, TokenKind};
use crate::route::prepared::{Verb, fold_identifier, sql_names};
pub use crate::route::prepared::{deallocates_all, resets_settings};
use crate::route::reading::{decoded, encoded};

/// The first name in the text, as PostgreSQL keeps it.
pub fn first_name(sql: &[u8]) -> Option<Vec<u8>> {
    let found = sql_names(sql).into_iter().next()?;
    Some(folded(&sql[found.name]))
}

/// The statement a PREPARE prepares.
pub fn prepared_body(sql: &[u8]) -> Option<&[u8]> {
    let body = sql_names(sql).into_iter().next()?.body?;
    Some(&sql[body])
}

fn folded(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        Ok(name) => fold_identifier(name).into_owned().into_bytes(),
        Err(_) => encoded(&fold_identifier(&decoded(name))),
    }
}

/// The text with its first name replaced.
pub fn with_name(sql: &[u8], name: impl AsRef<[u8]>) -> Vec<u8> {
    let mut name = Some(name.as_ref().to_vec());
    names(sql, |_, _| name.take())
}

/// The names that a text deallocates.
pub fn deallocated(sql: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    names(sql, |name, verb| {
        if verb == Verb::Deallocate {
            found.push(name.to_owned());
        }
        None
    });
    found
}

/// The text with each name replaced for which `replace` gives another.
pub fn names(sql: &[u8], mut replace: impl FnMut(&[u8], Verb) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(sql.len() + 16);
    let mut copied = 0;
    for found in sql_names(sql) {
        if let Some(new) = replace(&folded(&sql[found.name.clone()]), found.verb) {
            out.extend_from_slice(&sql[copied..found.name.start]);
            out.extend_from_slice(&new);
            copied = found.name.end;
        }
    }
    out.extend_from_slice(&sql[copied..]);
    out
}

/// The value a SET gives in a plain literal; `None`: by other means, or DEFAULT.
pub fn set_value(sql: &[u8]) -> Option<String> {
    let last = Lexer::new(sql)
        .filter(|token| !matches!(token.kind, TokenKind::Semicolon | TokenKind::Hint))
        .last()?;
    let literal = sql[last.start..last.end].strip_prefix(b"'")?.strip_suffix(b"'")?;
    Some(std::str::from_utf8(literal).ok()?.replace("''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_is_replaced() {
        let sql = b"PREPARE \"My Plan\" (int) AS SELECT 'EXECUTE x', $1";
        assert_eq!(first_name(sql).as_deref(), Some(&b"My Plan"[..]));
        assert_eq!(with_name(sql, b"_k1"), b"PREPARE _k1 (int) AS SELECT 'EXECUTE x', $1");
        assert_eq!(prepared_body(sql), Some(&b"SELECT 'EXECUTE x', $1"[..]));
        assert_eq!(with_name(b"execute Foo(1, 'foo')", b"_k2"), b"execute _k2(1, 'foo')");
        assert_eq!(first_name(b"deallocate PREPARE Foo").as_deref(), Some(&b"foo"[..]));
    }

    #[test]
    fn only_the_name_is_replaced_in_any_encoding() {
        let sql = b"PREPARE \"\xe9T\xe9\"(text) AS SELECT '\xe9', $1 AS \xe8";
        assert_eq!(first_name(sql).as_deref(), Some(&b"\xe9T\xe9"[..]));
        assert_eq!(with_name(sql, b"_k1"), b"PREPARE _k1(text) AS SELECT '\xe9', $1 AS \xe8");
        assert_eq!(prepared_body(sql), Some(&b"SELECT '\xe9', $1 AS \xe8"[..]));
        assert_eq!(first_name(b"execute \xc9T\xe9('\xe9')").as_deref(), Some(&b"\xc9t\xe9"[..]));
        assert_eq!(
            with_name(b"/* \xe9 */ execute \xb4\xc1\xbb\xfa(1)", b"_k2"),
            b"/* \xe9 */ execute _k2(1)"
        );
        assert_eq!(deallocated(b"SELECT '\xe9'; DEALLOCATE \xe9"), [b"\xe9"]);
        assert!(deallocates_all(b"SELECT '\xe9'; DEALLOCATE ALL"));
        let quoted = b"EXECUTE a($\xe9$ $\xe8$; EXECUTE b; $\xe9$)";
        assert_eq!(
            names(quoted, |_, _| Some(b"_k3".to_vec())),
            b"EXECUTE _k3($\xe9$ $\xe8$; EXECUTE b; $\xe9$)"
        );
    }

    #[test]
    fn a_deallocate_all_is_found_among_others() {
        for (sql, all) in [
            ("SELECT 1; DEALLOCATE ALL", true),
            ("deallocate prepare all; SELECT 1", true),
            ("DEALLOCATE a; SELECT 'DEALLOCATE ALL'", false),
            ("DEALLOCATE \"all\"; SELECT all", false),
        ] {
            assert_eq!(deallocates_all(sql.as_bytes()), all, "{sql}");
        }
    }

    #[test]
    fn the_value_of_a_set_is_its_literal() {
        assert_eq!(set_value(b"SET a.b TO '1:2''3' /* x */ ;").as_deref(), Some("1:2'3"));
        assert_eq!(set_value(b"set a.b = ''").as_deref(), Some(""));
        assert_eq!(set_value(b"set a.b = default"), None);
    }

    #[test]
    fn a_name_nobody_replaces_stays() {
        let sql = b"EXPLAIN EXECUTE a(1)";
        assert_eq!(names(sql, |_, _| None), sql);
        assert_eq!(deallocated(b"DEALLOCATE a; EXECUTE b; deallocate prepare \"C\""), [b"a", b"C"]);
    }

    #[test]
    fn a_setting_that_goes_back_to_its_default_is_found_in_any_statement() {
        for (sql, resets) in [
            ("RESET ALL", true),
            ("select 1; /* c */ reset my.own", true),
            ("SET x TO DEFAULT", true),
            ("SET SESSION AUTHORIZATION DEFAULT; SELECT 1", true),
            ("SET x = 'default'", false),
            ("SELECT 'RESET ALL'", false),
            ("ALTER TABLE t ALTER c SET DEFAULT 1", false),
        ] {
            assert_eq!(resets_settings(sql.as_bytes()), resets, "{sql}");
        }
    }
}
