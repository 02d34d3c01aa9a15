//! Names of custom settings (`my.own`), found in the texts that set them.
//!
//! `pg_settings` does not show them, so what they are can only be asked by name. Pure. Invariant: a name
//! that cannot be asked for later is reported as unseen, never left out in silence.

use std::collections::BTreeSet;

use crate::route::lexer::{Lexer, Token, TokenKind};
use crate::route::prepared::{MAX_IDENTIFIER_BYTES, fold_identifier};

/// Names one session may use before its server connections are rather reset than compared.
const MAX_NAMES: usize = 64;
/// Longest name that is kept: `set_config` takes one of any length, and SET any number of parts.
const MAX_NAME_BYTES: usize = 256;

/// The custom settings of one session.
#[derive(Debug, Default)]
pub struct CustomSettings {
    names: BTreeSet<Box<str>>,
    /// Some setting was made whose name is not known: nobody else may get the connection as it is.
    pub unseen: bool,
}

impl CustomSettings {
    /// Notes what a text that changes settings may set. Too many names do no harm.
    pub fn note(&mut self, sql: &[u8]) {
        let Ok(text) = std::str::from_utf8(sql) else {
            self.unseen = true;
            return;
        };
        let tokens: Vec<Token> = Lexer::new(sql).filter(|token| token.kind != TokenKind::Hint).collect();
        let word = |at: usize| tokens.get(at).map_or("", |token: &Token| &text[token.start..token.end]);
        for at in 0..tokens.len() {
            if word(at).eq_ignore_ascii_case("set") || word(at).eq_ignore_ascii_case("reset") {
                let scoped =
                    ["session", "local"].iter().any(|scope| word(at + 1).eq_ignore_ascii_case(scope));
                let begin = if scoped { at + 2 } else { at + 1 };
                let mut name = part(word(begin)).to_owned();
                let mut end = begin + 1;
                while word(end) == "." {
                    if name.len() <= MAX_NAME_BYTES {
                        name.push('.');
                        name.push_str(part(word(end + 1)));
                    }
                    end += 2;
                }
                self.unseen |= tokens[at..end.min(tokens.len())].iter().any(|token| is_escaped(token.kind));
                self.add(&name);
            } else if fold_identifier(word(at)) == "set_config" && word(at + 1) == "(" {
                // The whole argument, or it may be only how the name begins.
                let argument = Some(word(at + 2)).filter(|_| word(at + 3) == ",");
                match argument.and_then(|text| text.strip_prefix('\'')?.strip_suffix('\'')) {
                    Some(name) => self.add(name),
                    None => self.unseen = true,
                }
            }
        }
    }

    fn add(&mut self, name: &str) {
        if !name.contains('.') {
            return;
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.');
        let is_short = name.len() <= MAX_NAME_BYTES;
        if self.names.len() < MAX_NAMES && is_short && name.chars().all(plain) {
            self.names.insert(name.to_ascii_lowercase().into());
        } else {
            self.unseen = true;
        }
    }

    /// The names as a literal of type `text[]`, with those of `others` that are custom.
    pub fn array<'a>(custom: Option<&'a Self>, others: impl Iterator<Item = &'a str>) -> String {
        let names = custom.iter().flat_map(|custom| custom.names.iter().map(|name| &**name));
        let all: BTreeSet<&str> = names.chain(others.filter(|name| name.contains('.'))).collect();
        let quoted: Vec<String> = all
            .iter()
            .map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")))
            .collect();
        format!("{{{}}}", quoted.join(","))
    }
}

/// `U&"…"`, whose characters may be said by number.
fn is_escaped(kind: TokenKind) -> bool {
    kind == TokenKind::UnicodeQuoted
}

/// What PostgreSQL keeps of an identifier, without its quotes. One with a quote in it is no name of a setting.
fn part(word: &str) -> &str {
    let name = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(word);
    name.get(..MAX_IDENTIFIER_BYTES).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> (String, bool) {
        let mut custom = CustomSettings::default();
        custom.note(sql.as_bytes());
        (CustomSettings::array(Some(&custom), std::iter::empty()), custom.unseen)
    }

    #[test]
    fn every_way_to_set_is_seen() {
        for sql in [
            "SET my.own = 1",
            "set session My . own TO 'x.y'",
            "SET LOCAL \"my\".\"own\" = 1",
            "SET \"my.own\" = 1",
            "RESET my.own",
            "SELECT set_config('my.own', $1, false)",
            "SELECT \"pg_catalog\".\"set_config\"('my.own', $1, false)",
            "SELECT pg_catalog.set_config ( 'my.own' , v, false) FROM s.t",
            "SELECT 1; SET my.own = 2; SET work_mem = '1MB'",
        ] {
            assert_eq!(of(sql), ("{\"my.own\"}".to_owned(), false), "{sql}");
        }
        assert_eq!(of("SET work_mem = '1.5MB'"), ("{}".to_owned(), false));
    }

    #[test]
    fn a_name_nobody_sees_is_noted_as_such() {
        for sql in [
            "SELECT set_config($1, $2, false)",
            "SELECT set_config(n, v, false) FROM t",
            "SELECT set_config(E'a.b', 'c', false)",
            "SELECT set_config('app.' || $1, $2, false)",
            "SELECT set_config('app' || '.user', $2, false)",
            "SELECT set_config('app.'\n'user', $2, false)",
            "SELECT \"set_config\"('a' || '.b', 'c', false)",
            "SELECT set_config(setting_name => 'a.b', new_value => 'c', is_local => false)",
            "SET U&\"app\\002euser\" = 'x'",
        ] {
            assert!(of(sql).1, "{sql}");
        }
        let many: String = (0..=MAX_NAMES).map(|n| format!("SET a.b{n} = 1;")).collect();
        assert!(of(&many).1);
    }

    #[test]
    fn a_long_name_is_cut_as_postgresql_does_and_a_longer_one_is_not_kept() {
        let long = "n".repeat(1000);
        let kept = &long[..63];
        for sql in [format!("SET my.{long} = 1"), format!("RESET \"my\".\"{long}\"")] {
            assert_eq!(of(&sql), (format!("{{\"my.{kept}\"}}"), false), "{sql}");
        }
        assert_eq!(of(&format!("SET \"my.{long}\" = 1")), (format!("{{\"my.{}\"}}", &long[..60]), false));
        // A function's argument is not cut.
        assert_eq!(of(&format!("SELECT set_config('my.{long}', 'v', false)")), ("{}".to_owned(), true));
        assert_eq!(of(&format!("SET my{} = 1", ".n".repeat(500))), ("{}".to_owned(), true));
        let beyond = format!("SET my.{} = 1", "\u{e9}".repeat(100));
        assert_eq!(of(&beyond), ("{}".to_owned(), true));
    }

    #[test]
    fn names_of_other_sources_are_asked_for_too() {
        let others = ["work_mem", "from.startup"];
        assert_eq!(CustomSettings::array(None, others.into_iter()), "{\"from.startup\"}");
    }
}
