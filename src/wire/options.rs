//! The startup parameter `options`: command-line switches for the server process, in one string.
//!
//! Owns splitting and reading it as PostgreSQL does. Only switches that set a parameter are taken;
//! any other is refused, never dropped in silence. Invariant: each step consumes a word, and a
//! parameter without a name is an error (CVE-2026-107349).

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("invalid command-line argument for server process: {0}")]
    UnknownSwitch(String),
    #[error("{0} requires a value")]
    NoValue(String),
    #[error("invalid command-line argument for server process: {0} names no parameter")]
    NoName(String),
}

/// Names and values that `-c name=value`, `-cname=value` and `--name=value` set, in order.
pub fn parse(options: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut words = split(options).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) if !setting.is_empty() => setting.to_owned(),
            (_, Some("")) => words.next().ok_or_else(|| OptionsError::NoValue(word.clone()))?,
            (_, Some(setting)) => setting.to_owned(),
            _ => return Err(OptionsError::UnknownSwitch(word)),
        };
        let Some((name, value)) = setting.split_once('=') else {
            return Err(OptionsError::NoValue(format!("-c {setting}")));
        };
        if name.is_empty() {
            return Err(OptionsError::NoName(word));
        }
        // As on a command line, `--work-mem` is `work_mem`.
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Words are parted by white space; a backslash makes the next character part of the word.
fn split(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(characters.next()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_each_form() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for (options, expected) in [
            ("", vec![]),
            ("  \t ", vec![]),
            ("-c a=1", vec![pair("a", "1")]),
            ("-ca=1 -c  b=2", vec![pair("a", "1"), pair("b", "2")]),
            ("--work-mem=1MB", vec![pair("work_mem", "1MB")]),
            (r"-c search_path=a,\ b\\c", vec![pair("search_path", r"a, b\c")]),
            ("-c a=b=c", vec![pair("a", "b=c")]),
            ("-c a=", vec![pair("a", "")]),
            ("-c a=x\\", vec![pair("a", "x")]),
        ] {
            assert_eq!(parse(options), Ok(expected), "{options}");
        }
    }

    #[test]
    fn what_sets_no_parameter_is_refused() {
        let text = |text: &str| text.to_owned();
        for (options, expected) in [
            ("-c=", OptionsError::NoName(text("-c="))),
            ("-c =", OptionsError::NoName(text("-c"))),
            ("--=", OptionsError::NoName(text("--="))),
            ("--=1", OptionsError::NoName(text("--=1"))),
            ("-c", OptionsError::NoValue(text("-c"))),
            ("-c a", OptionsError::NoValue(text("-c a"))),
            ("--a", OptionsError::NoValue(text("-c a"))),
            ("--", OptionsError::UnknownSwitch(text("--"))),
            ("-", OptionsError::UnknownSwitch(text("-"))),
            ("a=1", OptionsError::UnknownSwitch(text("a=1"))),
            ("-e -c a=1", OptionsError::UnknownSwitch(text("-e"))),
            ("\\", OptionsError::UnknownSwitch(text(""))),
        ] {
            assert_eq!(parse(options), Err(expected), "{options}");
        }
    }
}
