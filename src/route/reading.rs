//! Whether a server reads a text by the rules of our lexer.
//!
//! Owns which settings make it read otherwise. Pure. Invariant: a text that it may read otherwise is never said to be
//! read as we do.

/// What a session's settings make of texts, as far as it differs from our lexer's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// A backslash in `'…'` escapes what follows it.
    pub backslashes: bool,
    /// A byte that is one of ASCII for us may be the second of a character.
    pub multibyte: bool,
}

impl Reading {
    /// Takes in what a server reports of a setting.
    pub fn set(&mut self, name: &str, value: &str) {
        match name {
            "standard_conforming_strings" => self.backslashes = value != "on",
            "client_encoding" => {
                let client_only = ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "GB18030", "UHC", "JOHAB"];
                self.multibyte = client_only.contains(&value);
            }
            _ => {}
        }
    }

    pub fn depends_on(name: &str) -> bool {
        matches!(name, "standard_conforming_strings" | "client_encoding")
    }

    /// Costs nothing in a session that has set neither.
    pub fn is_ours(self, sql: &[u8]) -> bool {
        !(self.backslashes && sql.contains(&b'\\') || self.multibyte && !sql.is_ascii())
    }
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
        assert_eq!(reading, Reading::default());
    }
}
