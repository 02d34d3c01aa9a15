//! Logs in with passwords that are asked for at that moment, one after the other while the server refuses them.
//!
//! Invariant: a token is shown to nobody but a server whose certificate was verified, name and all.

use std::sync::Arc;

use komainu_escalation::passwords::Passwords;

use super::{
    AuthenticationFault, ConnectError, ConnectTarget, Connected, Credential, Login, Secret, connect_with,
};
use crate::config::SslMode;
use crate::wire::sqlstate;

pub(super) async fn connect(
    target: &ConnectTarget,
    login: &Login,
    passwords: &Arc<dyn Passwords>,
    startup_parameters: &[(&str, &str)],
) -> Result<Connected, ConnectError> {
    let is_verified = target.tls.mode() == SslMode::VerifyFull && !target.host.starts_with('/');
    let mut refused = Vec::new();
    let mut refusal = None;
    loop {
        let next = passwords.next(&target.host, target.port, &refused).await;
        let Some(password) = next.map_err(AuthenticationFault::NotToBeHad)? else {
            let none = AuthenticationFault::NoPassword("a password");
            return Err(refusal.unwrap_or_else(|| none.into()));
        };
        let secret = Secret::new(password.expose());
        let credential = match password.is_token() {
            true if is_verified => Credential::Token(secret),
            true => return Err(AuthenticationFault::TokenNeedsVerifiedTls.into()),
            false => Credential::Password(secret),
        };
        let with = Login { user: login.user.clone(), database: login.database.clone(), credential };
        match connect_with(target, &with, startup_parameters).await {
            Ok(connected) => {
                passwords.accepted(&target.host, target.port, &password);
                return Ok(connected);
            }
            Err(error) if error.sqlstate() == sqlstate::INVALID_PASSWORD => {
                refused.push(password);
                refusal = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServerTls;
    use crate::net::tls::ServerTlsContext;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use komainu_escalation::passwords::{NoPassword, Password};

    #[derive(Debug)]
    struct Tokens;

    impl Passwords for Tokens {
        fn next<'a>(
            &'a self,
            _: &'a str,
            _: u16,
            refused: &'a [Password],
        ) -> BoxFuture<'a, Result<Option<Password>, NoPassword>> {
            let token = refused.is_empty().then(|| Password::token("a token"));
            std::future::ready(Ok(token)).boxed()
        }

        fn accepted(&self, _: &str, _: u16, _: &Password) {}
    }

    #[tokio::test]
    async fn a_token_is_not_even_taken_along_to_a_server_that_is_not_verified() {
        for mode in [SslMode::Disable, SslMode::Allow, SslMode::Prefer, SslMode::Require] {
            let tls = ServerTls { mode, ca_file: None, cert_file: None, key_file: None, allow_md5: false };
            let tls = Arc::new(ServerTlsContext::load(&tls).unwrap());
            // Nobody listens on this port: an attempt would be another error.
            let target = ConnectTarget { host: "127.0.0.1".into(), port: 1, tls };
            let login = Login {
                user: "app".to_owned(),
                database: "app".to_owned(),
                credential: Credential::Asked(Arc::new(Tokens)),
            };
            let error = super::super::connect(&target, &login, &[]).await.unwrap_err();
            let expected = AuthenticationFault::TokenNeedsVerifiedTls;
            assert_eq!(error.to_string(), ConnectError::from(expected).to_string(), "{mode:?}");
            assert!(!format!("{error:?} {login:?}").contains("a token"));
        }
    }
}
