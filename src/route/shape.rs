//! The shape of a text: its tokens with string and number literals masked, as one keyed hash.
//!
//! Owns the hash. Never allocates; runs for every query. Invariant: texts that `classify` could tell apart
//! have different shapes, so whatever depends on a literal's value is not in an `Analysis`. (For the one thing that
//! does, see `one_server`.)

use super::lexer::{Lexer, Token, TokenKind};

/// Hash of a text's tokens. Keyed and 128 bits wide: a client that chooses the SQL cannot make two texts
/// that writes and reads share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape(pub u128);

impl Shape {
    /// Of the texts of this shape that ask for a server's role.
    pub fn asking_for_role(self) -> Shape {
        Shape(!self.0)
    }

    /// Of the same bytes in another encoding than UTF-8.
    pub fn foreign(self) -> Shape {
        Shape(self.0.rotate_left(64))
    }

    /// What it is by lists of functions of that id.
    pub fn by_lists(self, id: u64) -> Shape {
        Shape(self.0 ^ u128::from(id))
    }
}

/// Keys of the hash; random for each process, since clients choose what is hashed.
#[derive(Clone, Copy)]
pub struct ShapeSeed(pub [u64; 4]);

/// Masks and hashes in one pass, about a nanosecond a byte.
pub fn shape(sql: &[u8], seed: &ShapeSeed) -> Shape {
    let mut hash = Hash::new(seed);
    let mut lexer = Lexer::new(sql);
    while let Some(token) = lexer.next_token() {
        match token.kind {
            TokenKind::Word => hash.word(sql, token),
            TokenKind::String | TokenKind::Number => hash.absorb(tag(token.kind, 0)),
            TokenKind::Operator | TokenKind::Parameter => hash.bytes(sql, token),
            TokenKind::Quoted | TokenKind::UnicodeQuoted => hash.bytes(sql, token),
            TokenKind::Hint | TokenKind::Unterminated | TokenKind::Invalid => hash.bytes(sql, token),
            _ => hash.absorb(tag(token.kind, 0)),
        }
    }
    hash.finish()
}

/// Two folded multiplications side by side, keyed differently.
struct Hash {
    a: u64,
    b: u64,
    key_a: u64,
    key_b: u64,
    /// Sets the eight bytes inside of a long token apart from a token's last block, which has a tag.
    inner: u64,
}

#[inline(always)]
fn fold(x: u64, y: u64) -> u64 {
    let product = u128::from(x) * u128::from(y);
    product as u64 ^ (product >> 64) as u64
}

/// The last block of a token: seven bytes of it, and in the eighth its kind and how many bytes they are.
#[inline(always)]
fn tag(kind: TokenKind, length: usize) -> u64 {
    ((kind as u64) << 3 | length as u64) << 56
}

/// Eight bytes of a word, its ASCII capitals made small. The bit that does it is set in digits and `$` already, what `_`
/// becomes by it is in no word, and a byte beyond ASCII keeps its own.
#[inline(always)]
fn lower(bytes: u64) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    bytes | (!bytes & HIGH) >> 2
}

#[inline(always)]
fn eight(sql: &[u8], at: usize) -> u64 {
    match sql.get(at..at + 8).and_then(|slice| <[u8; 8]>::try_from(slice).ok()) {
        Some(bytes) => u64::from_le_bytes(bytes),
        None => {
            let mut bytes = [0; 8];
            let rest = &sql[at.min(sql.len())..];
            bytes[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(bytes)
        }
    }
}

impl Hash {
    #[inline(always)]
    fn new(seed: &ShapeSeed) -> Self {
        let [a, b, key_a, key_b] = seed.0;
        // Odd, so that no multiplication loses the low bits.
        Hash { a, b, key_a: key_a | 1, key_b: key_b | 1, inner: a.rotate_left(32) ^ key_b }
    }

    #[inline(always)]
    fn absorb(&mut self, block: u64) {
        self.a = fold(self.a ^ block, self.key_a);
        self.b = fold(self.b.wrapping_add(block), self.key_b);
    }

    #[inline(always)]
    fn word(&mut self, sql: &[u8], token: Token) {
        let mut at = token.start;
        while token.end - at > 7 {
            self.absorb(lower(eight(sql, at)) ^ self.inner);
            at += 8;
        }
        self.last(lower(eight(sql, at)), token.kind, token.end - at);
    }

    fn bytes(&mut self, sql: &[u8], token: Token) {
        let mut at = token.start;
        while token.end - at > 7 {
            self.absorb(eight(sql, at) ^ self.inner);
            at += 8;
        }
        self.last(eight(sql, at), token.kind, token.end - at);
    }

    #[inline(always)]
    fn last(&mut self, bytes: u64, kind: TokenKind, length: usize) {
        let kept = bytes & ((1u64 << (length * 8)) - 1);
        self.absorb(kept | tag(kind, length));
    }

    fn finish(mut self) -> Shape {
        self.absorb(self.inner);
        Shape(u128::from(fold(self.a, self.key_b)) << 64 | u128::from(fold(self.b, self.key_a)))
    }
}
