//! PostgreSQL's lexical rules over bytes: tokens by their range, nothing copied.
//!
//! Owns where a token begins and ends, with `standard_conforming_strings` on. Never interprets one, never
//! allocates, never fails: what cannot be a token is one of its own. Invariant: tokens are in order, do not
//! overlap, and only whitespace and comments are between them.
//!
//! Source: PostgreSQL's manual, "Lexical Structure", and the behaviour of versions 11 to 18.

/// Yields the tokens of a text. Comments are skipped, save those that may be hints.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    /// No token was yielded yet: `/*NO LOAD BALANCE*/` counts only there.
    first: bool,
    /// Up to here each `+` and `-` is an operator of its own: the end of the last run that was found to be so, which is
    /// not read again for each of them.
    signs_end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Keywords too: which words are keywords depends on where they stand.
    Word,
    /// `"…"`
    Quoted,
    /// `U&"…"`, whose name depends on the escapes in it and on a UESCAPE clause.
    UnicodeQuoted,
    /// `'…'`, `E'…'`, `B'…'`, `X'…'`, `U&'…'`, `$$…$$`
    String,
    Number,
    /// `$1`
    Parameter,
    Operator,
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    Comma,
    Dot,
    Semicolon,
    /// A comment that `hint` has to look at.
    Hint,
    /// A string, quoted identifier or comment without its end; it reaches to the end of the text.
    Unterminated,
    /// A byte that begins no token.
    Invalid,
}

impl Token {
    /// `start` and `end` are always on character boundaries of a valid text: every byte beyond ASCII is
    /// part of a word, a literal or a comment, whole.
    pub fn text<'a>(&self, sql: &'a str) -> &'a str {
        &sql[self.start..self.end]
    }
}

const SPACE: u8 = 1;
const WORD: u8 = 2;
/// A letter that begins a literal if a quote or `&` follows it.
const PREFIX: u8 = 3;
const DIGIT: u8 = 4;
const QUOTE: u8 = 5;
const DOUBLE_QUOTE: u8 = 6;
const DOLLAR: u8 = 7;
const OPERATOR: u8 = 8;
const COLON: u8 = 9;
const DOT: u8 = 10;
const DASH: u8 = 11;
const SLASH: u8 = 12;
const PAREN_OPEN: u8 = 13;
const PAREN_CLOSE: u8 = 14;
const BRACKET_OPEN: u8 = 15;
const BRACKET_CLOSE: u8 = 16;
const COMMA: u8 = 17;
const SEMICOLON: u8 = 18;

const CLASSES: [u8; 256] = classes();
static CLASS: [u8; 256] = CLASSES;

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'u' | b'U' => PREFIX,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => WORD,
            b'0'..=b'9' => DIGIT,
            b'\'' => QUOTE,
            b'"' => DOUBLE_QUOTE,
            b'$' => DOLLAR,
            b':' => COLON,
            b'.' => DOT,
            b'-' => DASH,
            b'/' => SLASH,
            b'(' => PAREN_OPEN,
            b')' => PAREN_CLOSE,
            b'[' => BRACKET_OPEN,
            b']' => BRACKET_CLOSE,
            b',' => COMMA,
            b';' => SEMICOLON,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'*' | b'%' | b'<'
            | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        byte += 1;
    }
    table
}

#[inline(always)]
fn class(byte: u8) -> u8 {
    CLASS[usize::from(byte)]
}

fn is_operator(byte: u8) -> bool {
    matches!(class(byte), OPERATOR | DASH | SLASH)
}

/// May stand within a word: a table of its own, since most bytes of SQL are asked just this.
static IN_WORD: [bool; 256] = in_word();

const fn in_word() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(CLASSES[byte], WORD | PREFIX | DIGIT | DOLLAR);
        byte += 1;
    }
    table
}

impl<'a> Lexer<'a> {
    pub fn new(sql: &'a [u8]) -> Self {
        Lexer { sql, at: 0, first: true, signs_end: 0 }
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        // NUL is not in any text that PostgreSQL can be sent, and no token contains it.
        if at < self.sql.len() { self.sql[at] } else { 0 }
    }

    #[inline(always)]
    fn token(&mut self, kind: TokenKind, start: usize, end: usize) -> Option<Token> {
        self.at = end;
        self.first = false;
        Some(Token { kind, start, end })
    }

    #[inline(always)]
    pub fn next_token(&mut self) -> Option<Token> {
        loop {
            let start = self.at;
            if start >= self.sql.len() {
                return None;
            }
            let next = start + 1;
            return match class(self.sql[start]) {
                SPACE => {
                    self.at = next;
                    continue;
                }
                WORD => {
                    let end = self.word_end(next);
                    self.token(TokenKind::Word, start, end)
                }
                PREFIX => {
                    if matches!(self.byte(next), b'\'' | b'&') {
                        self.prefixed(start)
                    } else {
                        let end = self.word_end(next);
                        self.token(TokenKind::Word, start, end)
                    }
                }
                DIGIT => {
                    let end = self.number_end(start);
                    self.token(TokenKind::Number, start, end)
                }
                COMMA => self.token(TokenKind::Comma, start, next),
                PAREN_OPEN => self.token(TokenKind::OpenParen, start, next),
                PAREN_CLOSE => self.token(TokenKind::CloseParen, start, next),
                DOT if class(self.byte(next)) == DIGIT => {
                    let end = self.number_end(start);
                    self.token(TokenKind::Number, start, end)
                }
                DOT => self.token(TokenKind::Dot, start, next),
                OPERATOR => {
                    let end = self.operator_end(start);
                    self.token(TokenKind::Operator, start, end)
                }
                QUOTE => {
                    let found = self.quoted_end(next, b'\'');
                    self.delimited(TokenKind::String, start, found)
                }
                SEMICOLON => self.token(TokenKind::Semicolon, start, next),
                DOUBLE_QUOTE => {
                    let found = self.quoted_end(next, b'"');
                    self.delimited(TokenKind::Quoted, start, found)
                }
                DOLLAR => self.dollar(start),
                DASH | SLASH => match (self.sql[start], self.byte(next)) {
                    (b'-', b'-') | (b'/', b'*') => match self.comment(start) {
                        Some(token) => Some(token),
                        None => continue,
                    },
                    _ => {
                        let end = self.operator_end(start);
                        self.token(TokenKind::Operator, start, end)
                    }
                },
                COLON => {
                    let end = if matches!(self.byte(next), b':' | b'=') { next + 1 } else { next };
                    self.token(TokenKind::Operator, start, end)
                }
                BRACKET_OPEN => self.token(TokenKind::OpenBracket, start, next),
                BRACKET_CLOSE => self.token(TokenKind::CloseBracket, start, next),
                _ => self.token(TokenKind::Invalid, start, next),
            };
        }
    }

    #[inline(always)]
    fn word_end(&self, from: usize) -> usize {
        let mut at = from;
        while let Some(byte) = self.sql.get(at)
            && IN_WORD[usize::from(*byte)]
        {
            at += 1;
        }
        at
    }

    fn delimited(&mut self, kind: TokenKind, start: usize, end: Option<usize>) -> Option<Token> {
        match end {
            Some(end) => self.token(kind, start, end),
            None => self.token(TokenKind::Unterminated, start, self.sql.len()),
        }
    }

    /// The end of what was opened by `quote` just before `from`; a doubled quote is part of it.
    fn quoted_end(&self, from: usize, quote: u8) -> Option<usize> {
        let mut at = from;
        while at < self.sql.len() {
            if self.sql[at] == quote {
                if self.byte(at + 1) != quote {
                    return Some(at + 1);
                }
                at += 1;
            }
            at += 1;
        }
        None
    }

    /// The same for `E'…'`. Its rules hold on in a segment that follows after whitespace with a newline in
    /// it, so the segments are one token.
    fn escape_string_end(&self, from: usize) -> Option<usize> {
        let mut at = from;
        while at < self.sql.len() {
            match self.sql[at] {
                b'\\' => at += 2,
                b'\'' if self.byte(at + 1) == b'\'' => at += 2,
                b'\'' => match self.continuation(at + 1) {
                    Some(next) => at = next,
                    None => return Some(at + 1),
                },
                _ => at += 1,
            }
        }
        None
    }

    /// Behind a closing quote: where the string goes on, behind its next opening quote.
    fn continuation(&self, from: usize) -> Option<usize> {
        let mut at = from;
        let mut newline = false;
        loop {
            match self.byte(at) {
                b'\n' | b'\r' => newline = true,
                b'-' if self.byte(at + 1) == b'-' => {
                    at = self.line_end(at);
                    continue;
                }
                b'\'' if newline => return Some(at + 1),
                byte if class(byte) == SPACE => {}
                _ => return None,
            }
            at += 1;
        }
    }

    fn line_end(&self, from: usize) -> usize {
        let rest = &self.sql[from..];
        from + rest.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len())
    }

    /// `E'`, `B'`, `X'`, `U&'` and `U&"`; a word if it is none of them.
    fn prefixed(&mut self, start: usize) -> Option<Token> {
        let (second, third) = (self.byte(start + 1), self.byte(start + 2));
        match (self.sql[start] | 0x20, second, third) {
            (b'e', b'\'', _) => {
                let end = self.escape_string_end(start + 2);
                self.delimited(TokenKind::String, start, end)
            }
            (b'b' | b'x', b'\'', _) => {
                let end = self.quoted_end(start + 2, b'\'');
                self.delimited(TokenKind::String, start, end)
            }
            (b'u', b'&', b'\'') => {
                let end = self.quoted_end(start + 3, b'\'');
                self.delimited(TokenKind::String, start, end)
            }
            (b'u', b'&', b'"') => {
                let end = self.quoted_end(start + 3, b'"');
                self.delimited(TokenKind::UnicodeQuoted, start, end)
            }
            _ => self.token(TokenKind::Word, start, start + 1),
        }
    }

    /// Decimal, hexadecimal, octal and binary, with digit separators and exponents. Where versions differ
    /// (16 and later read `0x1F` and `1_000` as one number) the newer rule is used.
    fn number_end(&self, start: usize) -> usize {
        if self.sql[start] == b'0' {
            let first = start + 2 + usize::from(self.byte(start + 2) == b'_');
            let end = match self.byte(start + 1) | 0x20 {
                b'x' => self.digits_end(first, |b| b.is_ascii_hexdigit()),
                b'o' => self.digits_end(first, |b| matches!(b, b'0'..=b'7')),
                b'b' => self.digits_end(first, |b| matches!(b, b'0' | b'1')),
                _ => first,
            };
            if end > first {
                return end;
            }
        }
        let decimal = |b: u8| b.is_ascii_digit();
        let mut at = self.digits_end(start, decimal);
        if self.byte(at) == b'.' && self.byte(at + 1) != b'.' {
            at = self.digits_end(at + 1, decimal);
        }
        if self.byte(at) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.byte(at + 1), b'+' | b'-'));
            if self.byte(at + 1 + sign).is_ascii_digit() {
                at = self.digits_end(at + 1 + sign, decimal);
            }
        }
        at
    }

    #[inline(always)]
    fn digits_end(&self, from: usize, digit: impl Fn(u8) -> bool) -> usize {
        let mut at = from;
        while digit(self.byte(at)) || (at > from && self.byte(at) == b'_' && digit(self.byte(at + 1))) {
            at += 1;
        }
        at
    }

    /// The longest run of operator characters, but a comment's beginning ends it, and it ends in `+` or `-`
    /// only if a character that SQL's own operators do not have is in it.
    fn operator_end(&mut self, start: usize) -> usize {
        let mut end = start;
        let mut special = false;
        if start < self.signs_end || !is_operator(self.byte(start + 1)) {
            return start + 1;
        }
        while is_operator(self.byte(end)) {
            let pair = (self.sql[end], self.byte(end + 1));
            if end > start && matches!(pair, (b'-', b'-') | (b'/', b'*')) {
                break;
            }
            special |= matches!(pair.0, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
            end += 1;
        }
        self.signs_end = end;
        while !special && end > start + 1 && matches!(self.sql[end - 1], b'+' | b'-') {
            end -= 1;
        }
        end
    }

    /// `$1`, `$$…$$` or `$tag$…$tag$`.
    fn dollar(&mut self, start: usize) -> Option<Token> {
        let first = start + 1;
        if class(self.byte(first)) == DIGIT {
            let end = self.digits_end(first, |b| b.is_ascii_digit());
            return self.token(TokenKind::Parameter, start, end);
        }
        let mut tag_end = first;
        while matches!(class(self.byte(tag_end)), WORD | PREFIX | DIGIT) {
            tag_end += 1;
        }
        if self.byte(tag_end) != b'$' {
            return self.token(TokenKind::Invalid, start, first);
        }
        let delimiter = &self.sql[start..tag_end + 1];
        let body = tag_end + 1;
        let found = (body..self.sql.len())
            .find(|at| self.sql[*at] == b'$' && self.sql[*at..].starts_with(delimiter))
            .map(|at| at + delimiter.len());
        self.delimited(TokenKind::String, start, found)
    }

    /// Skips a comment, or yields it if it may be a hint.
    fn comment(&mut self, start: usize) -> Option<Token> {
        let body = start + 2;
        let (end, body_end) = if self.sql[start] == b'-' {
            let end = self.line_end(start);
            (end, end)
        } else {
            let Some(end) = self.block_end(start) else {
                return self.token(TokenKind::Unterminated, start, self.sql.len());
            };
            (end, end - 2)
        };
        let no_balance = self.first && self.sql[start] == b'/';
        if super::hint::may_be_hint(&self.sql[body..body_end], no_balance) {
            return self.token(TokenKind::Hint, start, end);
        }
        self.at = end;
        None
    }

    fn block_end(&self, start: usize) -> Option<usize> {
        let mut depth = 0usize;
        let mut at = start;
        while at < self.sql.len() {
            match (self.sql[at], self.byte(at + 1)) {
                (b'/', b'*') => {
                    depth += 1;
                    at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    at += 2;
                    if depth == 0 {
                        return Some(at);
                    }
                }
                _ => at += 1,
            }
        }
        None
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;
    fn next(&mut self) -> Option<Token> {
        self.next_token()
    }
}
