//! Names of SQL-level prepared statements, replaced in the text that uses them.
//!
//! Pure. Invariant: nothing but the names changes, byte for byte.

use crate::route::lexer::{Lexer, TokenKind};
use crate::route::prepared::{self, Verb, fold_identifier, sql_names};

/// The first name in the text, as PostgreSQL keeps it.
pub fn first_name(sql: &[u8]) -> Option<String> {
    let sql = std::str::from_utf8(sql).ok()?;
    let found = sql_names(sql).into_iter().next()?;
    Some(fold_identifier(&sql[found.name]).into_owned())
}

/// The statement a PREPARE prepares.
pub fn prepared_body(sql: &[u8]) -> Option<&[u8]> {
    let text = std::str::from_utf8(sql).ok()?;
    let body = sql_names(text).into_iter().next()?.body?;
    Some(&sql[body])
}

/// The text with its first name replaced.
pub fn with_name(sql: &[u8], name: impl AsRef<[u8]>) -> Vec<u8> {
    let mut name = Some(name.as_ref().to_vec());
    names(sql, |_, _| name.take())
}

/// The names that a text deallocates.
pub fn deallocated(sql: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    names(sql, |name, verb| {
        if verb == Verb::Deallocate {
            found.push(name.to_owned());
        }
        None
    });
    found
}

pub fn deallocates_all(sql: &[u8]) -> bool {
    std::str::from_utf8(sql).is_ok_and(prepared::deallocates_all)
}

/// The text with each name replaced for which `replace` gives another.
pub fn names(sql: &[u8], mut replace: impl FnMut(&str, Verb) -> Option<Vec<u8>>) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(sql) else { return sql.to_vec() };
    let mut out = Vec::with_capacity(sql.len() + 16);
    let mut copied = 0;
    for found in sql_names(text) {
        if let Some(new) = replace(&fold_identifier(&text[found.name.clone()]), found.verb) {
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
        assert_eq!(first_name(sql).as_deref(), Some("My Plan"));
        assert_eq!(with_name(sql, b"_k1"), b"PREPARE _k1 (int) AS SELECT 'EXECUTE x', $1");
        assert_eq!(prepared_body(sql), Some(&b"SELECT 'EXECUTE x', $1"[..]));
        assert_eq!(with_name(b"execute Foo(1, 'foo')", b"_k2"), b"execute _k2(1, 'foo')");
        assert_eq!(first_name(b"deallocate PREPARE Foo").as_deref(), Some("foo"));
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
        assert_eq!(deallocated(b"DEALLOCATE a; EXECUTE b; deallocate prepare \"C\""), ["a", "C"]);
    }
}
