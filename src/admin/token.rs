//! The token that opens the admin pages over TLS: a word in a file.
//!
//! Owns its form and its comparison. Never shows it. Invariant: a wrong token costs what the right one does, however
//! much of it is right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

/// Nobody guesses that many characters drawn at random.
const MIN_LENGTH: usize = 32;
const MAX_LENGTH: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{}: a token has {MIN_LENGTH} to {MAX_LENGTH} letters, digits or signs, and no spaces; `openssl rand -hex 32` makes one",
        path.display()
    )]
    Form { path: PathBuf },
}

/// As whoever asks has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The file's one line.
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let read = |source| TokenError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let token = text.trim_end();
        let fits = (MIN_LENGTH..=MAX_LENGTH).contains(&token.len());
        match fits && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Token(token.to_owned())),
            false => Err(TokenError::Form { path: path.to_owned() }),
        }
    }

    /// For the header `Authorization`.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

/// As whoever is asked has it.
#[derive(Debug)]
pub struct Expected([u8; SHA256_OUTPUT_LEN]);

impl Expected {
    pub fn new(token: &Token) -> Expected {
        Expected(digest_of(&token.0))
    }

    /// Digests are compared, so that not even the length is told by the time it takes.
    pub fn admits(&self, presented: &str) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &digest_of(presented)).is_ok()
    }
}

fn digest_of(text: &str) -> [u8; SHA256_OUTPUT_LEN] {
    digest(&SHA256, text.as_bytes()).as_ref().try_into().expect("SHA-256 is as long as it says")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_long_word_and_is_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Token::read(&path)
        };
        let word = "0123456789abcdef0123456789abcdef";
        let token = read(&format!("{word}\n")).unwrap();
        assert_eq!(token.bearer(), format!("Bearer {word}"));
        assert_eq!(format!("{token:?}"), "Token(…)");
        for wrong in ["", "short", &format!("{word} {word}"), &format!("{word}\n{word}"), &"x".repeat(5000)] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("openssl rand"), "{error}");
        }
        let expected = Expected::new(&token);
        assert!(expected.admits(word));
        for wrong in ["", &word[1..], &format!("{word}0"), &word.replace('0', "1")] {
            assert!(!expected.admits(wrong), "{wrong}");
        }
    }
}
