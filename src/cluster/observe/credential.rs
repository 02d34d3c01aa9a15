//! The secrets of komainu's own roles, read anew for each login: they may be rotated at any time.
//!
//! Invariant: a secret is never kept here, nor printed.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use komainu_escalation::passwords::Passwords;

use crate::backend::connect::{Credential, Login, Secret};
use crate::config;

/// Asked for the plain secret of a user in the user file, if there is one.
pub type PlainSecret = Arc<dyn Fn(&str) -> Option<Secret> + Send + Sync>;

/// How komainu's own connections log in.
#[derive(Clone)]
pub struct OwnLogin {
    user: String,
    database: String,
    password_file: Option<PathBuf>,
    plain_secret: PlainSecret,
    /// By AWS; goes before every file.
    given: Option<Arc<dyn Passwords>>,
}

impl OwnLogin {
    /// Of the role that looks. `plain_secret` is asked where the configuration names no password file.
    pub fn health(health: &config::Health, plain_secret: PlainSecret) -> Self {
        OwnLogin {
            user: health.user.clone(),
            database: health.database.clone(),
            password_file: health.password_file.clone(),
            plain_secret,
            given: None,
        }
    }

    /// Of the role that operates.
    pub fn operator(failover: &config::Failover, plain_secret: PlainSecret) -> Self {
        OwnLogin {
            user: failover.user.clone(),
            database: failover.database.clone(),
            password_file: failover.password_file.clone(),
            plain_secret,
            given: None,
        }
    }

    /// With the passwords that AWS gives to a role, where it gives any.
    pub fn given(self, passwords: impl Fn(&str) -> Option<Arc<dyn Passwords>>) -> Self {
        OwnLogin { given: passwords(&self.user), ..self }
    }

    /// To the role's own database.
    pub fn login(&self) -> io::Result<Login> {
        self.login_to(&self.database)
    }

    /// Without any secret the server may still let us in, by `trust` or `peer`.
    pub fn login_to(&self, database: &str) -> io::Result<Login> {
        let credential = match (&self.given, &self.password_file) {
            (Some(passwords), _) => Credential::Asked(passwords.clone()),
            (None, Some(path)) => {
                Credential::Password(Secret::new(first_line(&std::fs::read_to_string(path)?)))
            }
            (None, None) => (self.plain_secret)(&self.user).map_or(Credential::None, Credential::Password),
        };
        Ok(Login { user: self.user.clone(), database: database.to_owned(), credential })
    }
}

impl fmt::Debug for OwnLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnLogin")
            .field("user", &self.user)
            .field("database", &self.database)
            .field("password_file", &self.password_file)
            .finish_non_exhaustive()
    }
}

/// Editors end files with a newline, which belongs to no password.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use komainu_escalation::passwords::{NoPassword, Password};

    fn health(password_file: Option<PathBuf>) -> config::Health {
        config::Health {
            user: "komainu".to_owned(),
            password_file,
            database: "postgres".to_owned(),
            period_ms: 1000,
            timeout_ms: 1000,
            connect_timeout_ms: 1000,
            retries: 3,
        }
    }

    fn secret(login: &Login) -> Option<&str> {
        match &login.credential {
            Credential::Password(secret) => Some(secret.expose()),
            _ => None,
        }
    }

    #[test]
    fn a_rotated_password_file_is_read_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "o ne\n").unwrap();
        let from_user_file: PlainSecret = Arc::new(|_: &str| panic!("the file has it"));
        let login = OwnLogin::health(&health(Some(file.path().to_owned())), from_user_file);
        assert_eq!(secret(&login.login().unwrap()), Some("o ne"));
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(secret(&login.login_to("app").unwrap()), Some("two"));
        assert!(!format!("{login:?} {:?}", login.login().unwrap()).contains("two"));
        drop(file);
        assert!(login.login().is_err());
    }

    #[test]
    fn the_user_file_is_asked_without_one() {
        let from_user_file: PlainSecret =
            Arc::new(|user: &str| (user == "komainu").then(|| Secret::new("plain")));
        let login = OwnLogin::health(&health(None), from_user_file).login().unwrap();
        assert_eq!((login.user.as_str(), login.database.as_str()), ("komainu", "postgres"));
        assert_eq!(secret(&login), Some("plain"));
        let none = OwnLogin::health(&health(None), Arc::new(|_: &str| None)).login().unwrap();
        assert!(matches!(none.credential, Credential::None));
    }

    #[derive(Debug)]
    struct Given;

    impl Passwords for Given {
        fn next<'a>(
            &'a self,
            _: &'a str,
            _: u16,
            _: &'a [Password],
        ) -> BoxFuture<'a, Result<Option<Password>, NoPassword>> {
            std::future::ready(Ok(Some(Password::new("from AWS")))).boxed()
        }

        fn accepted(&self, _: &str, _: u16, _: &Password) {}
    }

    #[test]
    fn what_aws_gives_goes_before_every_file() {
        let missing = Some(PathBuf::from("/nowhere"));
        let plain: PlainSecret = Arc::new(|_: &str| Some(Secret::new("plain")));
        let given = |user: &str| (user == "komainu").then(|| Arc::new(Given) as Arc<dyn Passwords>);
        let login = OwnLogin::health(&health(missing.clone()), plain.clone()).given(given);
        assert!(matches!(login.login().unwrap().credential, Credential::Asked(_)));
        assert!(!format!("{login:?} {:?}", login.login()).contains("from AWS"));
        let other = OwnLogin::health(&health(None), plain).given(|_: &str| None);
        assert_eq!(secret(&other.login().unwrap()), Some("plain"));
        assert!(OwnLogin::health(&health(missing), Arc::new(|_: &str| None)).login().is_err());
    }
}
