//! A statement as a run of tokens that can be asked what stands where.
//!
//! Owns the questions about single tokens and names. Never judges a statement. Invariant: an index beyond
//! the end is a token that equals nothing.

use std::borrow::Cow;

use super::lexer::{Token, TokenKind};
use super::statement::QualifiedName;

/// Longest identifier PostgreSQL keeps: NAMEDATALEN − 1, in every build that packagers ship.
pub const MAX_IDENTIFIER_BYTES: usize = 63;

/// Tokens of (part of) a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    pub sql: &'a str,
    pub tokens: &'a [Token],
}

impl<'a> Words<'a> {
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn from(&self, index: usize) -> Words<'a> {
        Words { sql: self.sql, tokens: self.tokens.get(index..).unwrap_or(&[]) }
    }

    pub fn until(&self, index: usize) -> Words<'a> {
        Words { sql: self.sql, tokens: self.tokens.get(..index).unwrap_or(self.tokens) }
    }

    pub fn kind(&self, index: usize) -> Option<TokenKind> {
        self.tokens.get(index).map(|token| token.kind)
    }

    pub fn text(&self, index: usize) -> &'a str {
        self.tokens.get(index).map_or("", |token| token.text(self.sql))
    }

    /// The unquoted word `keyword` (given in small letters) stands there.
    pub fn is(&self, index: usize, keyword: &str) -> bool {
        self.kind(index) == Some(TokenKind::Word) && self.text(index).eq_ignore_ascii_case(keyword)
    }

    /// Behind AS or a dot any word is just a name; and behind an `as` that is one itself it is none.
    pub fn is_label(&self, index: usize) -> bool {
        let is_behind_dot = |index: usize| index > 0 && self.kind(index - 1) == Some(TokenKind::Dot);
        let is_as = |index: usize| {
            self.is(index, "as") && !is_behind_dot(index) && !(index > 0 && self.is(index - 1, "as"))
        };
        is_behind_dot(index) || index > 0 && is_as(index - 1)
    }

    pub fn is_any(&self, index: usize, keywords: &[&str]) -> bool {
        self.kind(index) == Some(TokenKind::Word) && contains(keywords, self.text(index))
    }

    /// A word or identifier that may mean one of these, quoted or not. What one with escapes means is not known.
    pub fn may_be(&self, index: usize, names: &[&str]) -> bool {
        match self.kind(index) {
            Some(TokenKind::UnicodeQuoted) => true,
            Some(TokenKind::Word | TokenKind::Quoted) => names.contains(&&*self.name(index)),
            _ => false,
        }
    }

    pub fn is_operator(&self, index: usize, operator: &str) -> bool {
        self.kind(index) == Some(TokenKind::Operator) && self.text(index) == operator
    }

    /// The unquoted word there in small letters, or the empty string.
    pub fn word(&self, index: usize) -> String {
        match self.kind(index) {
            Some(TokenKind::Word) => self.text(index).to_ascii_lowercase(),
            _ => String::new(),
        }
    }

    /// A word or quoted identifier stands there.
    pub fn is_name(&self, index: usize) -> bool {
        matches!(self.kind(index), Some(TokenKind::Word | TokenKind::Quoted | TokenKind::UnicodeQuoted))
    }

    /// The identifier there as PostgreSQL keeps it.
    pub fn name(&self, index: usize) -> Cow<'a, str> {
        fold_identifier(self.text(index))
    }

    /// `a`, `a.b` or `a.b.c` from `index` on, and the index behind it. Of three parts the first is a
    /// database, which can only be the current one.
    pub fn qualified_name(&self, index: usize) -> Option<(QualifiedName, usize)> {
        if !self.is_name(index) {
            return None;
        }
        let mut last = index;
        while self.kind(last + 1) == Some(TokenKind::Dot) && self.is_name(last + 2) {
            last += 2;
        }
        let schema = (last > index).then(|| self.name(last - 2).into());
        Some((QualifiedName { schema, name: self.name(last).into() }, last + 1))
    }

    /// First index from `from` on, outside of parentheses opened since, where `found` says yes.
    pub fn find_outside(&self, from: usize, found: impl Fn(usize) -> bool) -> Option<usize> {
        let mut depth = 0usize;
        for index in from..self.len() {
            match self.kind(index) {
                Some(TokenKind::OpenParen) => depth += 1,
                Some(TokenKind::CloseParen) => depth = depth.saturating_sub(1),
                _ if depth == 0 && found(index) => return Some(index),
                _ => {}
            }
        }
        None
    }

    /// The index of the parenthesis that closes the one at `open`.
    pub fn closing(&self, open: usize) -> Option<usize> {
        if self.kind(open) != Some(TokenKind::OpenParen) {
            return None;
        }
        let mut depth = 0usize;
        for index in open..self.len() {
            match self.kind(index) {
                Some(TokenKind::OpenParen) => depth += 1,
                Some(TokenKind::CloseParen) => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(index);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

pub(super) fn contains(keywords: &[&str], word: &str) -> bool {
    keywords.iter().any(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// The identifier as PostgreSQL keeps it: unquoted or folded, cut at 63 bytes.
pub fn fold_identifier(text: &str) -> Cow<'_, str> {
    let full = match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if inner.contains("\"\"") => Cow::Owned(inner.replace("\"\"", "\"")),
        Some(inner) => Cow::Borrowed(inner),
        None if text.bytes().any(|b| b.is_ascii_uppercase()) => Cow::Owned(text.to_ascii_lowercase()),
        None => Cow::Borrowed(text),
    };
    if full.len() <= MAX_IDENTIFIER_BYTES {
        return full;
    }
    let end = (0..=MAX_IDENTIFIER_BYTES).rev().find(|at| full.is_char_boundary(*at)).unwrap_or(0);
    match full {
        Cow::Borrowed(name) => Cow::Borrowed(&name[..end]),
        Cow::Owned(mut name) => {
            name.truncate(end);
            Cow::Owned(name)
        }
    }
}
