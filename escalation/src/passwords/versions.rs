//! The versions of one secret that may be in force. Pure.
//!
//! A rotation sets the new password on the server, and moves the labels before or after. So each of the three labelled
//! versions may be what a server wants, and which one a server tells by refusing the others.
//! Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_turn-on-for-db.html>

use super::Password;
use serde::Deserialize;

pub const CURRENT: &str = "AWSCURRENT";
pub const PENDING: &str = "AWSPENDING";
pub const PREVIOUS: &str = "AWSPREVIOUS";

/// In the order in which they are likely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// What Secrets Manager calls the current one.
    pub current_id: String,
    pub current: Password,
    pub others: Vec<Password>,
}

impl Versions {
    /// The next to try: what this server took last, then the current one, then the others.
    pub fn next(&self, taken: Option<&Password>, refused: &[Password]) -> Option<&Password> {
        let known = || std::iter::once(&self.current).chain(&self.others);
        let taken = known().find(|password| Some(*password) == taken);
        taken.into_iter().chain(known()).find(|password| !refused.contains(password))
    }
}

/// As RDS and the rotation functions of AWS write it; what else is there is not looked at.
#[derive(Deserialize)]
struct Written {
    username: String,
    password: String,
}

/// What is wrong with it, without what it says.
pub fn read(text: &str, user: &str) -> Result<Password, String> {
    // The error of the parser would quote the text.
    let written: Written = serde_json::from_str(text)
        .map_err(|_| "it is not JSON with the texts `username` and `password`".to_owned())?;
    if written.username != user {
        return Err(format!("it is of role \"{}\"", written.username));
    }
    if written.password.is_empty() {
        return Err("its password is empty".to_owned());
    }
    Ok(Password::new(written.password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_last_comes_first_and_each_is_tried_once() {
        let [one, two, three] = ["one", "two", "three"].map(Password::new);
        let versions = Versions {
            current_id: "2".to_owned(),
            current: two.clone(),
            others: vec![three.clone(), one.clone()],
        };
        assert_eq!(versions.next(None, &[]), Some(&two));
        assert_eq!(versions.next(Some(&one), &[]), Some(&one));
        assert_eq!(versions.next(Some(&Password::new("gone")), &[]), Some(&two));
        assert_eq!(versions.next(Some(&one), std::slice::from_ref(&one)), Some(&two));
        assert_eq!(versions.next(Some(&one), &[one.clone(), two.clone()]), Some(&three));
        assert_eq!(versions.next(None, &[one, two, three]), None);
    }

    #[test]
    fn a_secret_is_read_as_rds_writes_it_and_what_is_wrong_does_not_show_it() {
        let text = r#"{"username":"app","password":"p","engine":"postgres","host":"h","port":5432}"#;
        assert_eq!(read(text, "app"), Ok(Password::new("p")));
        for (text, problem) in [
            (r#"{"username":"app","password":"hush"}"#, "it is of role \"app\""),
            (r#"{"username":"other","password":""}"#, "its password is empty"),
            (r#"{"username":"other","password":"#, "it is not JSON"),
            (r#"{"username":"other","pass":"hush"}"#, "it is not JSON"),
            ("hush", "it is not JSON"),
        ] {
            let error = read(text, "other").unwrap_err();
            assert!(error.contains(problem) && !error.contains("hush"), "{error}");
        }
        assert!(!format!("{:?}", read(text, "app")).contains("p\""));
    }
}
