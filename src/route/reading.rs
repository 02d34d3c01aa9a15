//! Whether a server reads a text by the rules of our lexer.
//!
//! Owns which settings make it read otherwise. Pure. Invariant: a text that it may read otherwise is never said to be
//! read as we do.
//!
//! In every encoding that a server may have itself, a byte of ASCII is that character, and all others are letters to it:
//! so the tokens of a text are the same whatever the encoding. Only names beyond ASCII are not to be understood.

/// What a session's settings make of texts, as far as it differs from our lexer's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// A backslash in `'…'` escapes what follows it.
    pub backslashes: bool,
    /// A byte that is one of ASCII for us may be the second of a character.
    pub multibyte: bool,
    /// What is beyond ASCII is not UTF-8.
    pub foreign: bool,
}

impl Reading {
    /// Takes in what a server reports of a setting.
    pub fn set(&mut self, name: &str, value: &str) {
        match name {
            "standard_conforming_strings" => self.backslashes = value != "on",
            "client_encoding" => {
                let client_only = ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "GB18030", "UHC", "JOHAB"];
                self.multibyte = client_only.contains(&value);
                // The second is how servers before PostgreSQL 8.1 say it, and those that stem from them.
                self.foreign = !matches!(value, "UTF8" | "UNICODE");
            }
            _ => {}
        }
    }

    pub fn depends_on(name: &str) -> bool {
        matches!(name, "standard_conforming_strings" | "client_encoding")
    }

    /// As long as a setting may be another than was reported last.
    pub fn in_doubt(self) -> Reading {
        Reading { backslashes: true, multibyte: self.multibyte || self.foreign, ..self }
    }

    /// Some texts may be read otherwise.
    pub fn differs(self) -> bool {
        self.backslashes || self.multibyte
    }

    /// Costs nothing in a session that has set neither.
    pub fn is_ours(self, sql: &[u8]) -> bool {
        !(self.backslashes && sql.contains(&b'\\') || self.multibyte && !sql.is_ascii())
    }
}

/// A text in an encoding of which only ASCII is known, with a letter for each other byte.
pub fn decoded(text: &[u8]) -> String {
    text.iter().map(|byte| char::from(*byte)).collect()
}

/// Undoes `decoded`.
pub fn encoded(text: &str) -> Vec<u8> {
    text.chars().filter_map(|letter| u8::try_from(letter).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_read_otherwise_is_not_ours() {
        let mut reading = Reading::default();
        assert!(reading.is_ours(b"SELECT '\\'") && reading.is_ours("SELECT '\u{e9}'".as_bytes()));
        reading.set("standard_conforming_strings", "off");
        assert!(!reading.is_ours(b"SELECT '\\'") && reading.is_ours("SELECT '\u{e9}'".as_bytes()));
        reading.set("standard_conforming_strings", "on");
        reading.set("client_encoding", "SJIS");
        assert!(reading.is_ours(b"SELECT '\\'") && !reading.is_ours("SELECT '\u{e9}'".as_bytes()));
        reading.set("client_encoding", "EUC_JP");
        assert!(reading.is_ours(b"SELECT '\xb4\xc1'") && reading.foreign && !reading.differs());
        // It may be SJIS by now.
        assert!(!reading.in_doubt().is_ours(b"SELECT '\xb4\xc1'"));
        reading.set("client_encoding", "UTF8");
        assert_eq!(reading, Reading::default());
        assert!(reading.in_doubt().is_ours("SELECT '\u{e9}'".as_bytes()));
    }

    #[test]
    fn what_is_decoded_is_encoded_to_what_it_was() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(encoded(&decoded(&bytes)), bytes);
        assert_eq!(decoded(b"s\xe9t").chars().count(), 3);
    }
}
