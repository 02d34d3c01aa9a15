//! Names of SQL-level prepared statements, found in the text that uses them.
//!
//! Owns where the name is. Never rewrites: the caller does. Invariant: a range is on character boundaries
//! of the text it was found in, whose encoding may be any that has ASCII in it, and holds the name with its quotes.

use std::borrow::Cow;
use std::ops::Range;

use super::classify::{explained, prepared_body, split};
use super::lexer::{Lexer, Token, TokenKind};
use super::words::Words;

pub use super::words::{MAX_IDENTIFIER_BYTES, fold_identifier};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Prepare,
    /// Also within EXPLAIN and CREATE TABLE AS.
    Execute,
    Deallocate,
}

/// One use of a name. `fold_identifier` of the range's text is the name itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlName {
    pub verb: Verb,
    pub name: Range<usize>,
    /// Of PREPARE: the statement after AS. Its class is what an EXECUTE's will be.
    pub body: Option<Range<usize>>,
}

/// The name in a text that is one PREPARE, EXECUTE or DEALLOCATE.
pub fn sql_name(sql: &[u8]) -> Option<Range<usize>> {
    sql_names(sql).into_iter().next().map(|found| found.name)
}

/// Every use in a text of one or several statements, in order. `DEALLOCATE ALL` names nothing. What `U&"…"` means is
/// not known: see `is_escaped`.
pub fn sql_names(sql: &[u8]) -> Vec<SqlName> {
    let (text, tokens) = (legible(sql), tokens(sql));
    let statements = split(&text, &tokens).statements;
    statements.iter().filter_map(|tokens| named(Words { sql: &text, tokens })).collect()
}

fn tokens(sql: &[u8]) -> Vec<Token> {
    Lexer::new(sql).filter(|token| token.kind != TokenKind::Hint).collect()
}

/// The text for its words, byte by byte where it is not UTF-8: what is beyond ASCII is in none of those that are sought.
fn legible(sql: &[u8]) -> Cow<'_, str> {
    let letter = |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { '_' };
    match std::str::from_utf8(sql) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => sql.iter().map(letter).collect::<String>().into(),
    }
}

/// Whether a name, as `fold_identifier` gives it, is `U&"…"` as it was written: it may mean any name.
pub fn is_escaped(name: &[u8]) -> bool {
    name.starts_with(b"u&\"")
}

/// Whether a statement of the text is a `DEALLOCATE ALL`.
pub fn deallocates_all(sql: &[u8]) -> bool {
    any_statement(sql, |words, last| {
        words.is(0, "deallocate")
            && words.is(last, "all")
            && (last == 1 || last == 2 && words.is(1, "prepare"))
    })
}

/// Whether a statement of the text takes a setting back to its default: a RESET, or a SET to DEFAULT.
pub fn resets_settings(sql: &[u8]) -> bool {
    any_statement(sql, |words, last| words.is(0, "reset") || words.is(0, "set") && words.is(last, "default"))
}

/// Whether this is so of a statement of the text, by its words and where the last of them is.
fn any_statement(sql: &[u8], is_so: impl Fn(Words<'_>, usize) -> bool) -> bool {
    let (text, tokens) = (legible(sql), tokens(sql));
    split(&text, &tokens).statements.iter().any(|tokens| {
        let words = Words { sql: &text, tokens };
        is_so(words, words.len().saturating_sub(1))
    })
}

fn named(words: Words<'_>) -> Option<SqlName> {
    let found = |verb, at: usize| {
        let token = words.tokens.get(at)?;
        matches!(token.kind, TokenKind::Word | TokenKind::Quoted | TokenKind::UnicodeQuoted)
            .then_some(SqlName { verb, name: token.start..token.end, body: None })
    };
    match words.word(0).as_str() {
        "prepare" if words.kind(2) != Some(TokenKind::String) => {
            let body = words.from(prepared_body(words)?);
            let (first, last) = (body.tokens.first()?, body.tokens.last()?);
            Some(SqlName { body: Some(first.start..last.end), ..found(Verb::Prepare, 1)? })
        }
        "execute" => found(Verb::Execute, 1),
        "deallocate" => {
            let name = if words.is(1, "prepare") && words.len() > 2 { 2 } else { 1 };
            found(Verb::Deallocate, name).filter(|_| !words.is(name, "all"))
        }
        "explain" => {
            let (_, body) = explained(words);
            named(words.from(body)).filter(|inner| inner.verb == Verb::Execute)
        }
        "create" => {
            let at = words.find_outside(1, |at| words.is(at, "as") && words.is(at + 1, "execute"))?;
            found(Verb::Execute, at + 2)
        }
        _ => None,
    }
}
