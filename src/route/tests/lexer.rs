//! PostgreSQL's lexical rules, by examples whose tokens psql and the server agree on.

use proptest::prelude::*;

use crate::route::lexer::{Lexer, TokenKind, TokenKind::*};

fn lexed(sql: &str) -> Vec<(TokenKind, &str)> {
    Lexer::new(sql.as_bytes()).map(|token| (token.kind, token.text(sql))).collect()
}

#[track_caller]
fn one(sql: &str, kind: TokenKind) {
    assert_eq!(lexed(sql), [(kind, sql)]);
}

#[test]
fn single_tokens() {
    for word in ["a", "SELECT", "_x1", "a$b$c", "é", "naïve_1", "e", "U", "b1", "x"] {
        one(word, Word);
    }
    for quoted in ["\"a\"", "\"a\"\"b\"", "\"a'b;--\"", "\"\""] {
        one(quoted, Quoted);
    }
    one("U&\"d\\0061t\"", UnicodeQuoted);
    for string in
        ["''", "'a'", "'it''s'", "'a\\'", "'a;--/*'", "E'it\\'s'", "e'\\\\'", "E'a''b'", "B'01'", "x'1F'"]
    {
        one(string, String);
    }
    for string in ["U&'d\\0061'", "$$a$$", "$$$$", "$a$ $b$ $$ $a$", "$tag_1$'\"$tag_1$", "$é$x$é$"] {
        one(string, String);
    }
    for number in
        ["1", "1.5", "1.", ".5", "1e10", "1.5E-3", "1.e+5", "0x1F", "0b101", "0o17", "1_000", "0x_1F"]
    {
        one(number, Number);
    }
    for operator in
        ["+", "->>", "#>>", "@>", "?|", "<->", "!~~*", "::", ":=", ":", "=>", "@-", "|/", "<=", "*"]
    {
        one(operator, Operator);
    }
    one("$1", Parameter);
    one("$42", Parameter);
    for unterminated in ["'a", "\"a", "/* a", "/* /* */", "$$a", "$a$ $b$", "E'a\\'", "U&'a", "x'1", "E'a\\"]
    {
        one(unterminated, Unterminated);
    }
}

#[test]
fn signs_behind_an_operator_are_operators_of_their_own() {
    assert_eq!(
        lexed("a<+-+1"),
        [(Word, "a"), (Operator, "<"), (Operator, "+"), (Operator, "-"), (Operator, "+"), (Number, "1")]
    );
    assert_eq!(lexed("+-+*1"), [(Operator, "+-+*"), (Number, "1")]);
    assert_eq!(lexed("+-+@+1"), [(Operator, "+-+@+"), (Number, "1")]);
    assert_eq!(
        lexed("++--+\n+-1"),
        [(Operator, "+"), (Operator, "+"), (Operator, "+"), (Operator, "-"), (Number, "1")]
    );
    assert_eq!(lexed("1++/**/+-@"), [(Number, "1"), (Operator, "+"), (Operator, "+"), (Operator, "+-@"),]);
}

#[test]
fn neighbours() {
    assert_eq!(lexed("1..10"), [(Number, "1"), (Dot, "."), (Number, ".10")]);
    assert_eq!(lexed("a.b"), [(Word, "a"), (Dot, "."), (Word, "b")]);
    assert_eq!(lexed("1from"), [(Number, "1"), (Word, "from")]);
    assert_eq!(lexed("1e"), [(Number, "1"), (Word, "e")]);
    assert_eq!(lexed("$1a"), [(Parameter, "$1"), (Word, "a")]);
    assert_eq!(lexed("a<-1"), [(Word, "a"), (Operator, "<"), (Operator, "-"), (Number, "1")]);
    assert_eq!(lexed("a@-1"), [(Word, "a"), (Operator, "@-"), (Number, "1")]);
    assert_eq!(lexed("2*-/**/3"), [(Number, "2"), (Operator, "*"), (Operator, "-"), (Number, "3")]);
    assert_eq!(lexed("a+--b\nc"), [(Word, "a"), (Operator, "+"), (Word, "c")]);
    assert_eq!(lexed("e'a' b"), [(String, "e'a'"), (Word, "b")]);
    assert_eq!(lexed("u & 'a'"), [(Word, "u"), (Operator, "&"), (String, "'a'")]);
    assert_eq!(lexed("u&a"), [(Word, "u"), (Operator, "&"), (Word, "a")]);
    assert_eq!(lexed("a$b$ $b$"), [(Word, "a$b$"), (Unterminated, "$b$")]);
    assert_eq!(lexed("$a$$a$a$"), [(String, "$a$$a$"), (Word, "a$")]);
    assert_eq!(lexed("$1$a$"), [(Parameter, "$1"), (Unterminated, "$a$")]);
    assert_eq!(lexed("{"), [(Invalid, "{")]);
    assert_eq!(lexed("a\\b"), [(Word, "a"), (Invalid, "\\"), (Word, "b")]);
    assert_eq!(
        lexed("f(x)[1];"),
        [
            (Word, "f"),
            (OpenParen, "("),
            (Word, "x"),
            (CloseParen, ")"),
            (OpenBracket, "["),
            (Number, "1"),
            (CloseBracket, "]"),
            (Semicolon, ";"),
        ]
    );
}

#[test]
fn an_escape_string_goes_on_by_its_own_rules_after_a_newline() {
    one("E'a' \n '\\'b'", String);
    one("E'a'--c\n\t'\\''", String);
    // Without a newline, or with a block comment, it does not go on.
    assert_eq!(lexed("E'a' 'b'"), [(String, "E'a'"), (String, "'b'")]);
    assert_eq!(lexed("E'a' /**/\n'\\'"), [(String, "E'a'"), (String, "'\\'")]);
}

#[test]
fn comments_are_skipped_unless_they_may_be_hints() {
    for sql in ["a/**/b", "a -- x\nb", "a/* /* n */ */b", "a--\rb", "a/*'*/b", "a\u{b}b", "a --'\n b"] {
        assert_eq!(lexed(sql), [(Word, "a"), (Word, "b")], "{sql}");
    }
    assert_eq!(lexed("a /* komainu: x */"), [(Word, "a"), (Hint, "/* komainu: x */")]);
    assert_eq!(lexed("a -- KOMAINU:x"), [(Word, "a"), (Hint, "-- KOMAINU:x")]);
    assert_eq!(lexed(" /*NO LOAD BALANCE*/ a"), [(Hint, "/*NO LOAD BALANCE*/"), (Word, "a")]);
    assert_eq!(lexed("a /*NO LOAD BALANCE*/"), [(Word, "a")]);
}

proptest! {
    #![proptest_config(crate::properties::properties())]

    #[test]
    fn any_bytes_are_covered_in_order(sql in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut end = 0;
        for token in Lexer::new(&sql) {
            prop_assert!(token.start >= end && token.end > token.start && token.end <= sql.len());
            end = token.end;
        }
    }

    /// Made of the characters that matter, so that quotes and comments really nest and break off.
    #[test]
    fn tokens_lie_on_character_boundaries(sql in "[a'\"$/*\\-; \n\\\\eEuU&(é1.\u{20ac}:]{0,60}") {
        for token in Lexer::new(sql.as_bytes()) {
            let _ = token.text(&sql);
        }
    }
}
