//! Which sessions or pools a command is to show.
//!
//! Pure. Invariant: a name goes to the node as it was typed, whatever characters are in it.

use clap::Args;

#[derive(Debug, Args)]
pub struct Filter {
    /// Only those of this database user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only those of this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

impl Filter {
    pub fn path(&self, page: &str) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let asked = [("user", &self.user), ("database", &self.database), ("limit", &limit)];
        let asked: Vec<_> = asked
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", escaped(value.as_deref()?))))
            .collect();
        if asked.is_empty() { page.to_owned() } else { format!("{page}?{}", asked.join("&")) }
    }
}

/// As RFC 3986 has it for anything that is not unreserved.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        let which = Filter { user: Some("o'hara & söhne".to_owned()), database: None, limit: Some(5) };
        assert_eq!(which.path("/sessions"), "/sessions?user=o%27hara%20%26%20s%C3%B6hne&limit=5");
        assert_eq!(Filter { user: None, limit: None, ..which }.path("/pools"), "/pools");
    }
}
