//! Names of custom settings (`my.own`), found in the texts that set them.
//!
//! `pg_settings` does not show them, so what they are can only be asked by name. Pure. Invariant: a name
//! that cannot be asked for later is reported as unseen, never left out in silence.

use std::collections::BTreeSet;

use crate::route::lexer::{Lexer, Token, TokenKind};

/// Names one session may use before its server connections are rather reset than compared.
const MAX_NAMES: usize = 64;

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
                let mut name = unquoted(word(begin)).to_owned();
                let mut end = begin + 1;
                while word(end) == "." {
                    name.push('.');
                    name.push_str(unquoted(word(end + 1)));
                    end += 2;
                }
                self.add(&name);
            } else if word(at).eq_ignore_ascii_case("set_config") && word(at + 1) == "(" {
                match word(at + 2).strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
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
        if self.names.len() < MAX_NAMES && name.chars().all(plain) {
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

fn unquoted(word: &str) -> &str {
    word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(word)
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
        ] {
            assert!(of(sql).1, "{sql}");
        }
        let many: String = (0..=MAX_NAMES).map(|n| format!("SET a.b{n} = 1;")).collect();
        assert!(of(&many).1);
    }

    #[test]
    fn names_of_other_sources_are_asked_for_too() {
        let others = ["work_mem", "from.startup"];
        assert_eq!(CustomSettings::array(None, others.into_iter()), "{\"from.startup\"}");
    }
}
