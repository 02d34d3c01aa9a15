//! From an authenticated client to a session: what it asked for at startup, and the greeting.
//!
//! A client is greeted with what a server said to us, so that it learns the truth about encodings,
//! versions and its own settings. Invariant: nobody is greeted before a server has accepted the user for
//! that database, no longer ago than `LOGIN_BELIEVED_MS`.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::time::timeout;

use super::converse::{Said, converse};
use super::gateway::{Gateway, Settled};
use super::held_login::HeldLogin;
use super::pins::PinReason;
use super::registry::Who;
use super::session::{Identity, Session, SessionStart};
use crate::backend::ServerConn;
use crate::backend::conn::OwnStatement;
use crate::backend::connect::Credential;
use crate::backend::expect::Question;
use crate::backend::settings::{IN_HOT_STANDBY, Reported, Settings};
use crate::clock::now_ms;
use crate::config::{Config, PoolMode};
use crate::net::Stream;
use crate::pool::{AcquireError, Pool, PoolKey, Told, limits_for};
use crate::telemetry::line::one_line;
use crate::telemetry::span;
use crate::wire::message::{self, Report, TransactionStatus};
use crate::wire::sqlstate::{self, SqlState};

/// A server's word that a role may log in is believed for this long. Then it is asked again: a role that
/// was dropped, expired or lost its right to connect is out no later than this.
pub const LOGIN_BELIEVED_MS: u64 = 10_000;
/// Room for what PostgreSQL reports at login, about 400 bytes.
const GREETING: usize = 512;

/// Reported settings that anybody may set, in lower case: asking for what they are anyway succeeds.
const MAY_BE_SET: [&str; 5] =
    ["client_encoding", "datestyle", "intervalstyle", "standard_conforming_strings", "timezone"];

/// A client that has proved to be somebody.
pub struct Newcomer {
    pub stream: Stream,
    pub asks: Asks,
    pub protocol_minor: u16,
    /// Ends with AuthenticationOk; not yet sent.
    pub pending: BytesMut,
    /// Sent ahead by the client.
    pub received: BytesMut,
}

/// Who it is, and what it asks for.
pub struct Asks {
    pub user: String,
    pub database: String,
    /// Run-time parameters asked for at startup.
    pub parameters: Vec<(String, String)>,
    pub credential: Credential,
    pub peer: String,
}

/// Why a login is refused after authentication; the client is told.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LoginError {
    pub state: SqlState,
    pub message: String,
}

impl LoginError {
    fn new(state: SqlState, message: impl Into<String>) -> Self {
        LoginError { state, message: message.into() }
    }
}

/// Makes a session of a newcomer, or tells it why not. `refused` is called before: the client may come again
/// the moment it has been told. One that leaves while its login waits is nobody's concern any more.
pub async fn log_in(
    gateway: Arc<Gateway>,
    mut newcomer: Newcomer,
    refused: impl FnOnce(&LoginError),
) -> Option<Box<Session>> {
    let Newcomer { stream, asks, received, .. } = &mut newcomer;
    let begun = tokio::select! {
        // Most need not wait, and are then not looked at here.
        biased;
        begun = begin(&gateway, asks) => begun,
        () = stream.ended(received) => {
            let span = span::client(None, &asks.peer, &asks.user, &asks.database);
            tracing::debug!(parent: &span, "client left while its login waited");
            return None;
        }
    };
    match begun {
        Ok(greeted) => Some(start(gateway, newcomer, greeted)),
        Err(error) => {
            let span = span::client(None, &asks.peer, &asks.user, &asks.database);
            tracing::warn!(parent: &span, state = %error.state, error = one_line(&error), "login refused");
            refused(&error);
            let mut out = std::mem::take(&mut newcomer.pending);
            Report::fatal(error.state, &error.message).encode(&mut out);
            send_last(&mut newcomer.stream, &out).await;
            None
        }
    }
}

/// The last words to a client that gets no session, with a deadline.
pub async fn send_last(stream: &mut Stream, bytes: &[u8]) {
    use tokio::io::AsyncWriteExt;
    const DEADLINE: Duration = Duration::from_secs(1);
    let _ = tokio::time::timeout(DEADLINE, async {
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
    })
    .await;
}

struct Greeted {
    settled: Arc<Settled>,
    settings: Arc<Settings>,
    believed: Arc<Reported>,
    session_mode: bool,
}

/// Cancel safe.
async fn begin(gateway: &Arc<Gateway>, asks: &Asks) -> Result<Greeted, LoginError> {
    let settled = gateway.settled();
    let limits = limits_for(&settled.config.pool, &asks.database, &asks.user);
    let session_mode = limits.mode == PoolMode::Session;
    let settings = Arc::new(startup_settings(&asks.parameters));
    let (settings, believed) = confirmed(gateway, asks, &settled.config, settings).await?;
    Ok(Greeted { settled, settings, believed, session_mode })
}

/// The settings of a startup packet: all but who and what.
fn startup_settings(parameters: &[(String, String)]) -> Settings {
    // A client that gives no name has none, whatever our connections are called while nobody has them.
    let mut entries: Vec<(Box<str>, Box<str>)> = vec![("application_name".into(), "".into())];
    for (name, value) in parameters {
        let name = name.to_ascii_lowercase().into_boxed_str();
        // As in PostgreSQL the last one counts.
        entries.retain(|(present, _)| *present != name);
        entries.push((name, value.as_str().into()));
    }
    Settings::new(entries)
}

/// The client's settings and what it is to believe of its parameters, once a server has accepted it.
async fn confirmed(
    gateway: &Arc<Gateway>,
    asks: &Asks,
    config: &Config,
    settings: Arc<Settings>,
) -> Result<(Arc<Settings>, Arc<Reported>), LoginError> {
    let mut held = HeldLogin::new(gateway);
    let in_vain = |message| LoginError::new(sqlstate::CANNOT_CONNECT_NOW, message);
    let acquire_timeout = Duration::from_millis(config.pool.acquire_timeout_ms);
    loop {
        let topology = gateway.topology.borrow().clone();
        let Some(primary) = topology.primary_server() else {
            held.hold(|| who(asks), gateway.why_no_primary()).await.map_err(in_vain)?;
            continue;
        };
        let key = PoolKey {
            server: primary.index,
            epoch: topology.epoch,
            database: asks.database.as_str().into(),
            user: asks.user.as_str().into(),
        };
        let pool = gateway.pools.get(&key, primary, &asks.credential);
        pool.offer_credential(asks.credential.clone());
        if let Some(greeting) = pool.greeting()
            && now_ms() < greeting.confirmed_at_ms + LOGIN_BELIEVED_MS
        {
            let known = |told: &&Told| told.settings == settings && now_ms() < told.good_until_ms;
            if let Some(told) = greeting.told.iter().find(known) {
                return Ok((told.settings.clone(), told.believed.clone()));
            }
            if let Some(believed) = plainly(&greeting.reported, &settings) {
                let (settings, believed) = (settings.clone(), believed.clone());
                let told =
                    Told { settings: settings.clone(), believed: believed.clone(), good_until_ms: u64::MAX };
                pool.remember_told(&greeting.reported, told);
                return Ok((settings, believed));
            }
        }
        let acquired = match pool.try_acquire(&settings) {
            Some(conn) => Ok(conn),
            None => {
                let served = timeout(acquire_timeout, pool.wait().served()).await;
                served.map_err(|_| none_became_free(&pool, acquire_timeout))?
            }
        };
        match acquired {
            Ok(conn) => {
                let reported = pool.greeting().map(|greeting| greeting.reported);
                let Some(believed) =
                    ask(&pool, conn, &settings, gateway.settled().login_right, acquire_timeout).await?
                else {
                    continue;
                };
                if let Some(reported) = reported {
                    let good_until_ms = now_ms() + LOGIN_BELIEVED_MS;
                    let (settings, believed) = (settings.clone(), believed.clone());
                    pool.remember_told(&reported, Told { settings, believed, good_until_ms });
                }
                return Ok((settings, believed));
            }
            Err(AcquireError::Retired) => {}
            Err(AcquireError::Connect(error)) => {
                if !error.is_passing() {
                    gateway.looks.all();
                    return Err(LoginError::new(error.sqlstate(), error.client_message()));
                }
                let why = format!("the primary could not be reached ({})", error.client_message());
                held.hold(|| who(asks), &why).await.map_err(in_vain)?;
            }
        }
    }
}

fn who(asks: &Asks) -> Who {
    Who {
        user: asks.user.as_str().into(),
        database: asks.database.as_str().into(),
        peer: asks.peer.as_str().into(),
        since_ms: now_ms(),
    }
}

fn too_late(within: Duration) -> LoginError {
    let message = format!(
        "no server could take the login within {} ms: the primary does not answer",
        within.as_millis()
    );
    LoginError::new(sqlstate::CANNOT_CONNECT_NOW, message)
}

fn none_became_free(pool: &Pool, within: Duration) -> LoginError {
    let counts = pool.counts();
    if counts.open > 0 && counts.open == counts.opening {
        return too_late(within);
    }
    let message = format!(
        "no server connection became free for the login within {} ms: {} are open for this user and database; {}",
        within.as_millis(),
        counts.open,
        pool.advice()
    );
    LoginError::new(sqlstate::TOO_MANY_CONNECTIONS, message)
}

/// The common case: nothing asked for but what is so anyway, and a name, which PostgreSQL takes as it is.
fn plainly(greeting: &Arc<Reported>, settings: &Settings) -> Option<Arc<Reported>> {
    let mut believed = greeting.clone();
    for (name, value) in settings.iter() {
        if name == "application_name" && value.bytes().all(|b| (32..127).contains(&b)) {
            crate::backend::settings::report(&mut believed, name, value);
        } else if !MAY_BE_SET.contains(&name) || !greeting.has(name, value) {
            return None;
        }
    }
    Some(believed)
}

/// A connection that is closed unless it is given back.
struct Asked<'a> {
    pool: &'a Arc<Pool>,
    conn: Option<Box<ServerConn>>,
}

impl Asked<'_> {
    fn conn(&mut self) -> &mut ServerConn {
        self.conn.as_mut().expect("it has not been given back")
    }

    fn give_back(mut self) {
        self.pool.release(self.conn.take().expect("it has not been given back"));
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.discard(conn);
        }
    }
}

/// Has a server try the client's settings and confirm its right to log in. `None`: the connection was
/// lost, another may do. Cancel safe.
async fn ask(
    pool: &Arc<Pool>,
    conn: Box<ServerConn>,
    settings: &Arc<Settings>,
    login_right: OwnStatement,
    within: Duration,
) -> Result<Option<Arc<Reported>>, LoginError> {
    let mut asked = Asked { pool, conn: Some(conn) };
    let conn = asked.conn();
    if conn.leftover_of.is_some() {
        conn.wipe();
    }
    let changes = settings.changes_from(&conn.settings).len();
    for change in settings.changes_from(&conn.settings.clone()) {
        let parameters = [Some(change.name.as_bytes()), change.value.map(str::as_bytes)];
        conn.ask_without_sync(Question::Apply, OwnStatement::Apply, &parameters);
    }
    conn.settings = settings.clone();
    conn.ask(Question::LoginRight, login_right, &[]);
    let said: Said = match timeout(within, converse(conn)).await {
        Ok(Ok(said)) => said,
        Err(_) => return Err(too_late(within)),
        Ok(Err(error)) => {
            tracing::debug!(%error, changes, "server connection lost at login");
            return Ok(None);
        }
    };
    if let Some((state, message)) = said.error {
        // Half of the settings may have been made: it is closed.
        return Err(LoginError::new(state, message));
    }
    let allowed = said.rows.iter().any(|(q, v)| *q == Question::LoginRight && v.as_deref() == Some("t"));
    let believed = conn.reported.clone();
    if !allowed {
        return Err(LoginError::new(
            sqlstate::INVALID_AUTHORIZATION,
            format!(
                "role \"{}\" is not permitted to log in to database \"{}\"",
                pool.key.user, pool.key.database
            ),
        ));
    }
    pool.confirm_login(now_ms());
    asked.give_back();
    Ok(Some(believed))
}

fn start(gateway: Arc<Gateway>, newcomer: Newcomer, greeted: Greeted) -> Box<Session> {
    let (id, handle) = gateway.sessions.register();
    let (key, slot) = gateway.cancels.issue(u32::from(newcomer.protocol_minor));
    let mut out = newcomer.pending;
    out.reserve(GREETING);
    for (name, value) in greeted.believed.iter() {
        message::parameter_status(&mut out, name, value);
    }
    if knows_hot_standby(&greeted.believed) {
        message::parameter_status(&mut out, IN_HOT_STANDBY, "off");
    }
    message::frame(&mut out, b'K', |out| {
        out.put_i32(key.pid);
        out.put_slice(&key.secret);
    })
    .expect("a key is short");
    message::ready_for_query(&mut out, TransactionStatus::Idle);
    let identity = Identity {
        user: newcomer.asks.user.into(),
        database: gateway.databases.get(&newcomer.asks.database),
        credential: newcomer.asks.credential,
        session_mode: greeted.session_mode,
        peer: newcomer.asks.peer.into(),
    };
    handle.introduce(Who {
        user: identity.user.clone(),
        database: identity.database.name.clone(),
        peer: identity.peer.clone(),
        since_ms: now_ms(),
    });
    let mut session = Box::new(Session::new(SessionStart {
        gateway,
        settled: greeted.settled,
        id,
        handle,
        client: newcomer.stream,
        identity,
        key,
        slot,
        settings: greeted.settings,
        believed: greeted.believed,
        to_client: out,
    }));
    session.received(&newcomer.received);
    if greeted.session_mode {
        session.pin(PinReason::SessionMode);
    }
    session
}

/// Reported by PostgreSQL from version 14 on.
fn knows_hot_standby(reported: &Reported) -> bool {
    let major = reported.get("server_version").and_then(|version| {
        let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
        version[..digits].parse::<u32>().ok()
    });
    major.is_some_and(|major| major >= 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_would_surely_accept_is_answered_without_one() {
        let mut greeting = Reported::default();
        for (name, value) in [("client_encoding", "UTF8"), ("TimeZone", "UTC"), ("server_version", "15.4")] {
            greeting.set(name, value);
        }
        let greeting = Arc::new(greeting);
        let asked = |name: &str, value: &str| {
            let settings = startup_settings(&[(name.to_owned(), value.to_owned())]);
            plainly(&greeting, &settings).map(|believed| believed.get("application_name").map(str::to_owned))
        };
        assert_eq!(asked("application_name", "shop"), Some(Some("shop".to_owned())));
        assert_eq!(asked("Client_Encoding", "UTF8"), Some(Some(String::new())));
        assert_eq!(asked("timezone", "UTC"), Some(Some(String::new())));
        assert_eq!(asked("timezone", "Asia/Tokyo"), None);
        assert_eq!(asked("server_version", "15.4"), None, "PostgreSQL says that it cannot be changed");
        assert_eq!(asked("application_name", "sh\u{f6}p"), None, "PostgreSQL writes it otherwise");
    }
}
