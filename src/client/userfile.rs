//! The user file: each user's secret, in the format of PgBouncer's `userlist.txt`.
//!
//! Owns the format. Pure: text in, secrets out. Never shows a secret: not in `Debug`,
//! not in an error. Invariant: each user is named once, with a secret that can be used.

use std::collections::BTreeMap;
use std::fmt;

use crate::wire::scram::Verifier;

const SCRAM_PREFIX: &str = "SCRAM-SHA-256$";
const MD5_PREFIX: &str = "md5";
const MD5_HEX_DIGITS: usize = 32;

/// Secrets by user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserFile {
    users: BTreeMap<String, Secret>,
}

impl UserFile {
    /// Reads the whole text and reports every bad line.
    pub fn parse(text: &str) -> Result<Self, Vec<UserFileError>> {
        let mut users = BTreeMap::new();
        let mut first_line = BTreeMap::new();
        let mut errors = Vec::new();
        for (index, text) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = index + 1;
            match entry(text) {
                Ok(None) => {}
                Ok(Some((user, secret))) => {
                    if let Some(first) = first_line.insert(user.clone(), line) {
                        first_line.insert(user.clone(), first);
                        errors.push(UserFileError { line, problem: Problem::Duplicate { user, first } });
                    } else {
                        users.insert(user, secret);
                    }
                }
                Err(problem) => errors.push(UserFileError { line, problem }),
            }
        }
        if errors.is_empty() { Ok(Self { users }) } else { Err(errors) }
    }

    pub fn get(&self, user: &str) -> Option<&Secret> {
        self.users.get(user)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.users.iter().map(|(user, secret)| (user.as_str(), secret))
    }

    pub fn len(&self) -> usize {
        self.users.len()
    }

    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }
}

/// What a user proves to know. `Debug` names the kind only.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, as PostgreSQL stores it.
    Scram(Verifier),
    /// `md5` and 32 hexadecimal digits, as PostgreSQL stores it.
    Md5(String),
    Plain(String),
}

impl Secret {
    /// Tells the kinds apart as PostgreSQL does, except that a malformed verifier is not taken for a password.
    /// None: malformed.
    pub fn parse(text: String) -> Option<Self> {
        if text.starts_with(SCRAM_PREFIX) {
            return text.parse().ok().map(Self::Scram);
        }
        let is_md5 = text.strip_prefix(MD5_PREFIX).is_some_and(|digits| {
            digits.len() == MD5_HEX_DIGITS && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        Some(if is_md5 { Self::Md5(text) } else { Self::Plain(text) })
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scram(_) => "a SCRAM verifier",
            Self::Md5(_) => "an md5 hash",
            Self::Plain(_) => "a plain password",
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.kind())
    }
}

/// One bad line. Never contains the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; {remedy}", remedy = .problem.remedy())]
pub struct UserFileError {
    pub line: usize,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("the {0} does not begin with a quote")]
    NotQuoted(&'static str),
    #[error("the quote around the {0} is never closed")]
    NotClosed(&'static str),
    #[error("the user's name is empty")]
    EmptyUser,
    #[error("the secret of \"{0}\" is empty")]
    EmptySecret(String),
    #[error("there is something after the secret of \"{0}\"")]
    Trailing(String),
    #[error("\"{user}\" was named on line {first} already")]
    Duplicate { user: String, first: usize },
    #[error("the SCRAM verifier of \"{0}\" is malformed")]
    BadVerifier(String),
    #[error("it contains a zero byte")]
    ZeroByte,
}

impl Problem {
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotQuoted(_) => "write \"user\" \"secret\"",
            Self::NotClosed(_) => "close it on the same line; a quote inside is written twice",
            Self::EmptyUser => "write the role's name",
            Self::EmptySecret(_) => "make one with `komainu password`, or remove the line",
            Self::Trailing(_) => "remove it; a quote inside a secret is written twice",
            Self::Duplicate { .. } => "remove one of the two",
            Self::BadVerifier(_) => "make a new one with `komainu password`, or copy pg_authid.rolpassword",
            Self::ZeroByte => "save the file as plain text",
        }
    }
}

/// One line's user and secret; None for an empty line or a comment.
fn entry(line: &str) -> Result<Option<(String, Secret)>, Problem> {
    let line = line.trim();
    if line.is_empty() || is_comment(line) {
        return Ok(None);
    }
    if line.contains('\0') {
        return Err(Problem::ZeroByte);
    }
    let (user, rest) = quoted(line, "user")?;
    let (secret, rest) = quoted(rest.trim_start(), "secret")?;
    let rest = rest.trim_start();
    if user.is_empty() {
        return Err(Problem::EmptyUser);
    }
    if !(rest.is_empty() || is_comment(rest)) {
        return Err(Problem::Trailing(user));
    }
    if secret.is_empty() {
        return Err(Problem::EmptySecret(user));
    }
    let secret = Secret::parse(secret).ok_or_else(|| Problem::BadVerifier(user.clone()))?;
    Ok(Some((user, secret)))
}

fn is_comment(text: &str) -> bool {
    text.starts_with([';', '#'])
}

/// A quoted word at the beginning of `text`, and what follows it.
fn quoted<'a>(text: &'a str, what: &'static str) -> Result<(String, &'a str), Problem> {
    let mut rest = text.strip_prefix('"').ok_or(Problem::NotQuoted(what))?;
    let mut word = String::new();
    loop {
        let end = rest.find('"').ok_or(Problem::NotClosed(what))?;
        word.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                word.push('"');
                rest = after;
            }
            None => return Ok((word, rest)),
        }
    }
}

/// A line for `user`, as `parse` reads it.
pub fn line(user: &str, secret: &str) -> String {
    format!("\"{}\" \"{}\"", user.replace('"', "\"\""), secret.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_secret_and_skips_comments() {
        let file = UserFile::parse(concat!(
            "; PgBouncer's comment\n# and ours\n\n",
            "\"alice\" \"",
            "SCRAM-SHA-256$4096:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\n",
            "  \"bob\"\t\"md50123456789abcdef0123456789abcdef\"  ; old\r\n",
            "\"the \"\"boss\"\"\" \"p;w#\"\"1\" # new\n",
            "\"md5-like\" \"md50123\"",
        ))
        .unwrap();
        assert_eq!(file.len(), 4);
        assert!(matches!(file.get("alice"), Some(Secret::Scram(_))));
        assert_eq!(file.get("bob"), Some(&Secret::Md5("md50123456789abcdef0123456789abcdef".into())));
        assert_eq!(file.get("the \"boss\""), Some(&Secret::Plain("p;w#\"1".into())));
        assert_eq!(file.get("md5-like"), Some(&Secret::Plain("md50123".into())));
        assert_eq!(file.get("Alice"), None);
    }

    #[test]
    fn reports_every_bad_line_and_never_a_secret() {
        let text = "alice \"hunter2\"\n\"bob\" hunter2\n\"carl\" \"hunter2\n\"\" \"hunter2\"\n\"dora\" \"\"\n\
                    \"erin\" \"hunter2\" \"x\"\n\"fay\" \"hunter2\"\n\"fay\" \"hunter2\"\n\"gil\"\"hunter2\"\n\"h\0\" \"hunter2\"\n\"ike\" \"SCRAM-SHA-256$hunter2\"\n";
        let errors = UserFile::parse(text).unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]);
        let shown = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(
            shown.contains("line 8: \"fay\" was named on line 7 already; remove one of the two"),
            "{shown}"
        );
    }

    #[test]
    fn debug_hides_secrets() {
        let file =
            UserFile::parse("\"a\" \"hunter2\"\n\"b\" \"md50123456789abcdef0123456789abcdef\"").unwrap();
        let shown = format!("{file:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("0123456789"), "{shown}");
    }

    proptest::proptest! {
        #![proptest_config(crate::properties::properties())]

        #[test]
        fn a_written_line_is_read_back(user in "[^\0\r\n]{1,20}", secret in "[^\0\r\n]{1,40}") {
            proptest::prop_assume!(!secret.starts_with(SCRAM_PREFIX));
            let file = UserFile::parse(&line(&user, &secret)).unwrap();
            let read = match file.get(&user) {
                Some(Secret::Plain(text) | Secret::Md5(text)) => text.clone(),
                Some(Secret::Scram(_)) | None => String::new(),
            };
            proptest::prop_assert_eq!(read, secret);
        }

        #[test]
        fn never_panics(text in "(?s).{0,200}") {
            let _ = UserFile::parse(&text);
        }
    }
}
