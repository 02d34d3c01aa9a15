//! How a client proves who it is, by the method its HBA rule names.
//!
//! Owns the exchanges and the choice between them. Never keeps a password longer than the login, except as what
//! the session logs in to servers with. Invariant: whoever cannot get in, whether unknown, locked
//! out or mistaken, goes through the same exchange and reads the same words.

use aws_lc_rs::{constant_time, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::timeout_at;

use super::cert;
use super::error::{HandshakeError, Reason, Who};
use super::handshake::HandshakeContext;
use super::hba::{ClientCert, Connection, Method, Rule, Transport};
use super::link::Link;
use super::secrets::{Account, Asking};
use super::userfile::Secret;
use crate::wire::authentication::{self as messages, MAX_PASSWORD_BYTES, MAX_SASL_BYTES};
use crate::wire::frame::HEADER_LEN;
use crate::wire::md5;
use crate::wire::scram::{
    Keys, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ServerBinding, ServerFirst, Verdict, Verifier,
};
use crate::wire::startup::{Replication, Startup};

/// What the session can log in to servers with, as this user. `Debug` names the kind only.
#[derive(Clone, PartialEq, Eq)]
pub enum ServerLogin {
    /// Nothing is known; good for servers that trust us.
    None,
    Password(String),
    /// `md5…` as PostgreSQL stores it: answers a server that asks for MD5.
    Md5(String),
    /// Good for servers that keep the same SCRAM verifier.
    ScramKeys(Keys),
}

impl std::fmt::Debug for ServerLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ServerLogin::None => "None",
            ServerLogin::Password(_) => "Password(…)",
            ServerLogin::Md5(_) => "Md5(…)",
            ServerLogin::ScramKeys(_) => "ScramKeys(…)",
        })
    }
}

/// Runs the login, within the link's deadline but for the time a server takes. AuthenticationOk is left in `link.output`.
pub(super) async fn authenticate(
    link: &mut Link,
    startup: &Startup,
    context: &HandshakeContext,
) -> Result<ServerLogin, HandshakeError> {
    let rule = find_rule(link, startup, context)?;
    check_certificate(link, rule, &startup.user)?;

    // Every method but `reject`, which ended above, needs to know whether the user may log in at all.
    let asking =
        Asking { user: startup.user.clone(), database: startup.database.clone(), address: link.address() };
    let account = link.aside(context.secrets.account(asking)).await??;
    let deadline = link.deadline();
    let login = Login { link, user: &startup.user, account, context };
    // The rounds of a password count too, not only what the client takes.
    let proven = timeout_at(deadline, login.by(rule.method)).await.unwrap_or(Err(HandshakeError::Timeout))?;
    messages::ok(&mut link.output);
    Ok(proven)
}

fn find_rule<'a>(
    link: &Link,
    startup: &Startup,
    context: &'a HandshakeContext,
) -> Result<&'a Rule, HandshakeError> {
    let stream = link.stream();
    let transport = match (stream.is_unix(), stream.is_tls()) {
        (true, _) => Transport::Local,
        (false, true) => Transport::Tls,
        (false, false) => Transport::Plain,
    };
    let replication = startup.replication == Replication::Physical;
    let connection = Connection {
        transport,
        address: link.address(),
        database: &startup.database,
        user: &startup.user,
        replication,
    };
    let who = || Who {
        address: link.address(),
        user: startup.user.clone(),
        database: (!replication).then(|| startup.database.clone()),
        tls: transport == Transport::Tls,
    };
    match context.hba.find(&connection) {
        None => Err(HandshakeError::NoRule(who())),
        Some(rule) if rule.method == Method::Reject => Err(HandshakeError::Rejected(who())),
        Some(rule) if rule.method == Method::Password && transport == Transport::Plain => {
            Err(HandshakeError::PasswordWithoutTls)
        }
        Some(rule) => Ok(rule),
    }
}

fn check_certificate(link: &Link, rule: &Rule, user: &str) -> Result<(), HandshakeError> {
    let asked = if rule.method == Method::Cert { ClientCert::VerifyFull } else { rule.client_cert };
    if asked == ClientCert::NotAsked {
        return Ok(());
    }
    let certificate = link.stream().peer_certificate().ok_or(HandshakeError::NoCertificate)?;
    if asked == ClientCert::VerifyFull {
        let found = cert::common_name(certificate);
        if found.as_deref() != Some(user) {
            return Err(HandshakeError::OtherCertificate { user: user.to_owned(), found });
        }
    }
    Ok(())
}

/// One client's login.
struct Login<'a> {
    link: &'a mut Link,
    user: &'a str,
    account: Account,
    context: &'a HandshakeContext,
}

impl Login<'_> {
    async fn by(self, method: Method) -> Result<ServerLogin, HandshakeError> {
        match method {
            Method::Trust | Method::Cert => self.without_password(),
            Method::ScramSha256 => self.scram().await,
            Method::Md5 if self.speaks_md5() => self.md5().await,
            Method::Md5 => self.scram().await,
            Method::Password => self.password().await,
            Method::Reject => unreachable!("find_rule refuses it"),
        }
    }

    fn refusal(&self, reason: Reason) -> HandshakeError {
        // What is wrong with the account explains more than that the password did not fit.
        let reason = match &self.account {
            Account::MayNotLogIn => Reason::MayNotLogIn,
            Account::NoSecret => Reason::NoSecret,
            Account::Known(_) => reason,
        };
        HandshakeError::Password { user: self.user.to_owned(), reason }
    }

    fn without_password(&self) -> Result<ServerLogin, HandshakeError> {
        match &self.account {
            Account::MayNotLogIn => Err(HandshakeError::MayNotLogIn { user: self.user.to_owned() }),
            Account::NoSecret | Account::Known(Secret::Scram(_)) => Ok(ServerLogin::None),
            Account::Known(Secret::Plain(password)) => Ok(ServerLogin::Password(password.clone())),
            Account::Known(Secret::Md5(stored)) => Ok(ServerLogin::Md5(stored.clone())),
        }
    }

    /// As PostgreSQL, an `md5` rule is kept with SCRAM where the secret is a SCRAM verifier.
    fn speaks_md5(&self) -> bool {
        match &self.account {
            Account::Known(Secret::Md5(_) | Secret::Plain(_)) => true,
            Account::Known(Secret::Scram(_)) => false,
            Account::NoSecret | Account::MayNotLogIn => self.context.secrets.md5_is_usual(),
        }
    }

    async fn scram(mut self) -> Result<ServerLogin, HandshakeError> {
        let end_point = self.context.end_point.as_deref().filter(|_| self.link.stream().is_tls());
        let offered: &[&str] = match end_point {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
            None => &[SCRAM_SHA_256],
        };
        messages::sasl(&mut self.link.output, offered);

        let body = self.read_sasl().await?;
        let initial =
            messages::sasl_initial_response(&body).ok_or(HandshakeError::MalformedResponse("SASL"))?;
        let binding = match (end_point, std::str::from_utf8(initial.mechanism)) {
            (Some(hash), Ok(SCRAM_SHA_256_PLUS)) => ServerBinding::EndPoint(hash.to_vec()),
            (Some(_), Ok(SCRAM_SHA_256)) => ServerBinding::Declined,
            (None, Ok(SCRAM_SHA_256)) => ServerBinding::NotOffered,
            _ => return Err(HandshakeError::Mechanism),
        };
        let (verifier, reason) = self.verifier().await;
        let server = match reason {
            None => ServerFirst::new(verifier, nonce(), binding),
            Some(_) => ServerFirst::doomed(verifier, nonce(), binding),
        };
        let (server_first, server) = match initial.data {
            Some(client_first) => server.client_first(client_first)?,
            None => {
                messages::sasl_continue(&mut self.link.output, b"");
                let client_first = self.read_sasl().await?;
                server.client_first(&client_first)?
            }
        };
        messages::sasl_continue(&mut self.link.output, &server_first);

        let client_final = self.read_sasl().await?;
        match server.client_final(&client_final)? {
            Verdict::WrongProof => Err(self.refusal(reason.unwrap_or(Reason::Wrong))),
            Verdict::Success(success) => {
                messages::sasl_final(&mut self.link.output, &success.server_final);
                Ok(match self.account {
                    Account::Known(Secret::Plain(password)) => ServerLogin::Password(password),
                    _ => ServerLogin::ScramKeys(success.keys),
                })
            }
        }
    }

    async fn read_sasl(&mut self) -> Result<bytes::Bytes, HandshakeError> {
        self.link.read_response("SASL", HEADER_LEN + MAX_SASL_BYTES).await
    }

    /// What a SCRAM proof is checked against; with a reason, it is checked for show.
    async fn verifier(&self) -> (Verifier, Option<Reason>) {
        let secrets = &self.context.secrets;
        let reason = match &self.account {
            Account::Known(Secret::Scram(verifier)) => return (verifier.clone(), None),
            Account::Known(Secret::Plain(password)) => {
                return (secrets.verifier_of(self.user, password).await, None);
            }
            Account::Known(Secret::Md5(_)) => Reason::Md5Only,
            Account::NoSecret => Reason::NoSecret,
            Account::MayNotLogIn => Reason::MayNotLogIn,
        };
        (secrets.mock_verifier(self.user), Some(reason))
    }

    async fn md5(mut self) -> Result<ServerLogin, HandshakeError> {
        let stored = match &self.account {
            Account::Known(Secret::Md5(stored)) => Some(stored.clone()),
            Account::Known(Secret::Plain(password)) => Some(md5::stored(self.user, password.as_bytes())),
            _ => None,
        };
        let salt = random();
        messages::md5_password(&mut self.link.output, salt);
        let body = self.read_password().await?;
        let answer = messages::password(&body).ok_or(HandshakeError::MalformedResponse("password"))?;
        // Nobody can answer for a hash drawn at random.
        let checked = stored.clone().unwrap_or_else(|| md5::stored(self.user, &random::<16>()));
        let right = md5::accepts(&checked, salt, answer);
        match (&self.account, stored) {
            (Account::Known(Secret::Plain(password)), Some(_)) if right => {
                Ok(ServerLogin::Password(password.clone()))
            }
            (_, Some(stored)) if right => Ok(ServerLogin::Md5(stored)),
            _ => Err(self.refusal(Reason::Wrong)),
        }
    }

    /// The password itself, over TLS or a Unix socket. Each outcome costs one PBKDF2.
    async fn password(mut self) -> Result<ServerLogin, HandshakeError> {
        messages::cleartext_password(&mut self.link.output);
        let body = self.read_password().await?;
        let password = messages::password(&body).ok_or(HandshakeError::MalformedResponse("password"))?;

        let (verifier, reason) = self.verifier().await;
        let given = password.to_vec();
        let keys = self.context.secrets.blocking(move || verifier.accepts(&given)).await;
        let proven = match (&self.account, keys) {
            (Account::Known(Secret::Md5(stored)), _) => {
                let given = md5::stored(self.user, password);
                constant_time::verify_slices_are_equal(given.as_bytes(), stored.as_bytes())
                    .is_ok()
                    .then(|| ServerLogin::Md5(stored.clone()))
            }
            (_, keys) => keys.filter(|_| reason.is_none()).map(ServerLogin::ScramKeys),
        };
        // The password itself is good for every server; what is not text cannot be passed on.
        match (proven, std::str::from_utf8(password)) {
            (None, _) => Err(self.refusal(Reason::Wrong)),
            (Some(_), Ok(password)) => Ok(ServerLogin::Password(password.to_owned())),
            (Some(login), Err(_)) => Ok(login),
        }
    }

    async fn read_password(&mut self) -> Result<bytes::Bytes, HandshakeError> {
        self.link.read_response("password", HEADER_LEN + MAX_PASSWORD_BYTES).await
    }
}

/// 18 random bytes as text, as PostgreSQL's own nonces.
fn nonce() -> String {
    STANDARD.encode(random::<18>())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random numbers are there once the process runs");
    bytes
}
