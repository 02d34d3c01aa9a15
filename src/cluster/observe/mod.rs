//! Asks the servers, each over a connection of its own, and publishes what it means.
//!
//! Owns the probes and the thread they run on, which a busy data path cannot starve. Never interprets
//! an answer: that is `primary::next`. Invariant: what is published changes here only, in order.

pub mod aurora;
mod blue_green;
pub mod catalog;
pub mod credential;
pub mod failure;
#[cfg(test)]
mod fake;
mod name;
mod probe;
mod probes;
pub mod question;
mod redshift;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::config;
use crate::net::tls::ServerTlsContext;
use crate::topology::{Health, Register, ServerIndex, Snapshot};

use super::change::{Change, changes};
use super::clock::Clock;
use super::instances::{Addresses, Described};
use super::model::{Named, View};
use super::primary;
use super::probe_counts::ProbeCounts;
use super::reason::Reason;
use credential::OwnLogin;
use probe::Look;
use probes::Probes;

/// Looks not taken in yet; each server has one under way at most.
const LOOKS_WAITING: usize = 64;

/// What to look at, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    pub servers: Vec<config::Server>,
    pub health: config::Health,
    pub tls: Arc<ServerTlsContext>,
    pub login: OwnLogin,
    pub clock: Clock,
    /// What is found is not the last word: whoever makes it one says so in the log.
    pub in_cluster: bool,
    pub mode: config::FailoverMode,
    /// How instances are reached where they are found; none: the servers are the configured ones.
    pub addresses: Option<Addresses>,
}

impl Settings {
    /// By a new configuration, which changes nothing about which instances were found.
    fn follow(&mut self, before: &Settings) {
        let (Some(addresses), Some(known)) = (&mut self.addresses, &before.addresses) else { return };
        addresses.described.clone_from(&known.described);
        let ids: Vec<_> = before.servers.iter().map(|server| server.id.clone()).collect();
        if !ids.is_empty() {
            self.servers = addresses.servers(&ids);
        }
    }

    /// How the server of that id is looked at.
    fn health_of(&self, id: &str) -> config::Health {
        let server = self.servers.iter().find(|server| server.id == id);
        server.map_or_else(|| self.health.clone(), |server| self.health.of(server))
    }
}

/// Looks at the servers until it is dropped.
#[derive(Debug)]
pub struct Observer {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The same with what only people want to know.
    pub view: watch::Receiver<Arc<View>>,
    pub look: LookNow,
    /// How the looks at each server went.
    pub looks: watch::Receiver<BTreeMap<ServerIndex, ProbeCounts>>,
    settings: Arc<watch::Sender<Arc<Settings>>>,
    /// Who is the primary by the log; nobody else is taken for one then.
    pub named: watch::Sender<Option<Named>>,
    /// Closing it ends the thread.
    _stop: oneshot::Sender<()>,
}

/// Tells an observer which instances there are, and what AWS's API says of them, if it has said anything.
pub type SetInstances = Arc<dyn Fn(&[String], Option<&[Described]>) + Send + Sync>;

/// Asks for a look without waiting for its turn, for instance when traffic saw an error. By default nobody is asked.
#[derive(Debug, Clone, Default)]
pub struct LookNow {
    wakes: Arc<Mutex<BTreeMap<ServerIndex, Arc<Notify>>>>,
}

impl LookNow {
    /// Of each server, in the configuration's order, whom to wake.
    #[cfg(test)]
    pub fn of(wakes: &[Arc<Notify>]) -> Self {
        let by_index = (0..).map(ServerIndex).zip(wakes.iter().cloned()).collect();
        LookNow { wakes: Arc::new(Mutex::new(by_index)) }
    }

    pub fn server(&self, server: ServerIndex) {
        if let Some(wake) = self.wakes().get(&server) {
            wake.notify_one();
        }
    }

    /// When not one server is in doubt but who the primary is: SQLSTATE 25006 from it, say.
    pub fn all(&self) {
        self.wakes().values().for_each(|wake| wake.notify_one());
    }

    fn wakes(&self) -> MutexGuard<'_, BTreeMap<ServerIndex, Arc<Notify>>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer {
    /// Starts a thread with a runtime of its own; needs none itself.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let view = Arc::new(View::new(&settings.servers));
        let (publish_snapshot, snapshot) = watch::channel(Arc::new(view.snapshot.clone()));
        let (publish_view, view) = watch::channel(view);
        let look = LookNow::default();
        let wakes = look.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (settings, current) = watch::channel(Arc::new(settings));
        let settings = Arc::new(settings);
        let (named, by_the_log) = watch::channel(None);
        let (publish_looks, looks) = watch::channel(BTreeMap::new());
        let publication =
            Publication { snapshot: publish_snapshot, view: publish_view, looks: publish_looks };
        std::thread::Builder::new().name("observe".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = observe(current, by_the_log, wakes, publication) => {}
                    _ = stopped => {}
                }
            });
            // A name being resolved occupies a thread that cannot be stopped; it is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Observer { snapshot, view, look, looks, settings, named, _stop: stop })
    }

    /// Looks at what `settings` say, and as they say, from now on and over new connections. What is known of servers that
    /// stay where they are is kept.
    pub fn reconfigure(&self, mut settings: Settings) {
        self.settings.send_modify(|current| {
            settings.follow(current);
            *current = Arc::new(settings);
        });
    }

    /// Which instances there are has been found out by asking them.
    pub fn instances(&self) -> SetInstances {
        let settings = self.settings.clone();
        Arc::new(move |ids, described| {
            settings.send_if_modified(|current| {
                let Some(mut addresses) = current.addresses.clone() else { return false };
                if let Some(described) = described {
                    addresses.described = described.to_vec();
                }
                let servers = addresses.servers(ids);
                let is_new = servers != current.servers;
                *current = Arc::new(Settings { servers, addresses: Some(addresses), ..(**current).clone() });
                is_new
            });
        })
    }

    /// For whoever else has a connection of komainu's own to make.
    pub fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }
}

struct Publication {
    snapshot: watch::Sender<Arc<Snapshot>>,
    view: watch::Sender<Arc<View>>,
    looks: watch::Sender<BTreeMap<ServerIndex, ProbeCounts>>,
}

async fn observe(
    mut current: watch::Receiver<Arc<Settings>>,
    mut named: watch::Receiver<Option<Named>>,
    wakes: LookNow,
    publication: Publication,
) {
    let mut settings = current.borrow_and_update().clone();
    let clock = settings.clock;
    let mut register = Register::default();
    let mut view = Arc::new(publication.view.borrow().configured(&settings.servers, &mut register, 0));
    let (looks, mut taken) = mpsc::channel(LOOKS_WAITING);
    let (unsettled, _) = watch::channel(true);
    let mut probes = Probes::new(wakes, looks, current.clone(), unsettled);
    probes.follow(&view);
    loop {
        tokio::select! {
            look = taken.recv() => {
                let Some(Look { index, result, took }) = look else { return };
                // It may be of one that has just gone.
                let Some(found) = probes.found(index) else { continue };
                publication.looks.send_modify(|looks| {
                    looks.entry(index).or_default().record(result.as_ref().err(), took, clock.now_ms());
                });
                found.record(result);
            }
            Ok(()) = current.changed() => {
                settings = current.borrow_and_update().clone();
                let configured = view.configured(&settings.servers, &mut register, clock.now_ms());
                log_members(&view, &configured);
                probes.follow(&configured);
                publication.looks.send_modify(|looks| looks.retain(|&index, _| configured.snapshot.server(index).is_some()));
                view = Arc::new(configured);
            }
            Ok(()) = named.changed() => {}
        }
        let now_ms = clock.now_ms();
        let by_the_log = by_the_log(&settings, named.borrow_and_update().clone());
        let named = by_the_log.or_else(|| kept(&settings, &view));
        let observations = probes.observations(&view, &settings);
        let next = Arc::new(primary::next(&view, &observations, named.as_ref(), now_ms));
        probes.look_more_often(primary::unsettled(&next, now_ms));
        // Whoever is woken by the snapshot finds the reasons for it.
        publication.view.send_replace(next.clone());
        publication.snapshot.send_replace(Arc::new(next.snapshot.clone()));
        // What the log says is so already.
        if !settings.in_cluster {
            changes(&view, &next).into_iter().for_each(|change| log(change, &next));
        }
        view = next;
    }
}

/// To a node on its own, where RDS makes the writer: whoever was, while it says that it is. A read replica that somebody has
/// promoted is a copy, whatever its timeline.
fn kept(settings: &Settings, view: &View) -> Option<Named> {
    let writer = view.snapshot.primary_server()?;
    let keeps = settings.mode.is_of_rds() && !settings.in_cluster;
    // Another start of it begins an epoch here and now.
    keeps.then(|| Named { server: writer.id.to_string(), timeline: view.timeline, life: None })
}

/// Where komainu makes primaries, one that was restarted is the same one.
fn by_the_log(settings: &Settings, named: Option<Named>) -> Option<Named> {
    let named = named?;
    let life = named.life.filter(|_| settings.mode.is_managed());
    Some(Named { life, ..named })
}

/// Which servers are looked at from now on, and which no more.
fn log_members(before: &View, after: &View) {
    let lacks = |view: &View, index| view.snapshot.server(index).is_none();
    for (index, server) in before.snapshot.indexed().filter(|(index, _)| lacks(after, *index)) {
        tracing::info!(
            server = &*server.id,
            host = &*server.host,
            port = server.port,
            number = index.0,
            "server is no longer configured"
        );
    }
    for (index, server) in after.snapshot.indexed().filter(|(index, _)| lacks(before, *index)) {
        tracing::info!(
            server = &*server.id,
            host = &*server.host,
            port = server.port,
            number = index.0,
            "server is new in the configuration"
        );
    }
}

pub fn log(change: Change, view: &View) {
    // One that has gone has no name any more.
    let id = |index| view.snapshot.server(index).map_or("", |server| &*server.id);
    match change {
        Change::Server { index, role, health, reason } => {
            let (server, why, reason) = (id(index), reason, reason.map(Reason::code));
            let sentence = view.snapshot.server(index).map_or("", |server| &*server.reason);
            match health {
                _ if why == Some(Reason::StillLooking) => tracing::debug!(server, "server answers"),
                Health::Up if reason.is_none() => tracing::info!(server, ?role, "server is up"),
                Health::Up => tracing::warn!(server, reason, sentence, "server is not used"),
                Health::Down => tracing::warn!(server, reason, sentence, "server is down"),
                Health::Unknown => tracing::info!(server, reason, sentence, "server does not answer yet"),
            }
        }
        Change::Primary { from, to, epoch } => {
            tracing::info!(
                primary = id(to),
                from = from.map(id),
                epoch = epoch.0,
                "the cluster has a primary"
            );
        }
        Change::NoPrimary { from, reason } => {
            let from = from.map(id);
            tracing::warn!(from, reason = reason.code(), "the cluster has no primary: {}", reason.sentence());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{FakeServer, Reply, eventually};
    use super::*;
    use crate::topology::{Epoch, Lsn, Role};

    fn observe(servers: &[&FakeServer], health: config::Health) -> Observer {
        let login = OwnLogin::health(&health, Arc::new(|_: &str| None));
        let config = |(index, server): (usize, &&FakeServer)| server.config(&format!("s{index}"));
        Observer::start(Settings {
            servers: servers.iter().enumerate().map(config).collect(),
            health,
            tls: Arc::new(ServerTlsContext::disabled()),
            login,
            clock: Clock::start(),
            in_cluster: false,
            mode: config::FailoverMode::Off,
            addresses: None,
        })
        .unwrap()
    }

    /// What PostgreSQL answers to the question.
    fn primary(lsn: &str) -> Reply {
        Reply::row_of(&[
            Some("f"),
            Some("150004"),
            Some("77"),
            Some("000000020000000000000001"),
            Some("1"),
            Some(lsn),
            None,
            None,
            None,
            None,
            Some("walreceiver"),
            None,
            None,
            Some("8192"),
            Some("16777216"),
            Some(""),
            None,
            Some(""),
            None,
            Some("on"),
            Some("off"),
            None,
            Some("1700000000000"),
            None,
        ])
    }

    fn standby(lsn: &str) -> Reply {
        Reply::row_of(&[
            Some("t"),
            Some("150004"),
            Some("77"),
            None,
            Some("2"),
            None,
            Some(lsn),
            Some(lsn),
            Some("0"),
            Some("streaming"),
            Some("walreceiver"),
            Some("1"),
            None,
            Some("8192"),
            Some("16777216"),
            Some(""),
            None,
            Some(""),
            None,
            Some("on"),
            Some("off"),
            None,
            Some("1700000000000"),
            None,
        ])
    }

    #[tokio::test]
    async fn a_cluster_is_found_and_followed_through_a_loss() {
        let a = FakeServer::start(|_| primary("0/2000100")).await;
        let b = FakeServer::start(|_| standby("0/2000080")).await;
        let observer = observe(&[&a, &b], a.health());
        let view = || observer.view.borrow().clone();
        eventually("the primary is found", || observer.snapshot.borrow().primary == Some(ServerIndex(0)))
            .await;
        let snapshot = observer.snapshot.borrow().clone();
        assert_eq!(view().snapshot.primary, snapshot.primary);
        assert_eq!((snapshot.epoch, snapshot.servers[0].lsn), (Epoch(1), Lsn(0x200_0100)));
        eventually("lag is known", || view().snapshot.servers[1].lag_bytes == Some(0x80)).await;

        a.reply_with(|_| Reply::Error("57P03"));
        eventually("the primary is down", || view().no_primary == Some(Reason::PrimaryDown)).await;
        assert_eq!(view().details[0].reason, Some(Reason::StartingUp));
        assert!(view().snapshot.servers[1].is_up(Role::Standby));
        a.reply_with(|_| primary("0/2000100"));
        eventually("the primary is back", || view().snapshot.primary == Some(ServerIndex(0))).await;
        assert_eq!(view().snapshot.epoch, Epoch(2));
    }

    #[tokio::test]
    async fn a_connection_that_was_ended_is_no_failure_and_silence_is() {
        let server = FakeServer::start(|_| primary("0/2000100")).await;
        let observer = observe(&[&server], config::Health { retries: 1, ..server.health() });
        let state = || observer.snapshot.borrow().servers[0].clone();
        eventually("it is up", || state().health == Health::Up).await;
        let (logins, seen) = (server.databases().len(), state().observed_at_ms);
        server.hang_up();
        eventually("it was asked anew", || server.databases().len() > logins).await;
        eventually("it answered", || state().observed_at_ms > seen).await;
        assert_eq!((state().health, observer.snapshot.borrow().epoch), (Health::Up, Epoch(1)));
        server.reply_with(|_| Reply::Silence);
        eventually("it is down", || state().health == Health::Down).await;
        assert_eq!(observer.view.borrow().details[0].reason, Some(Reason::Timeout));
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_down_before_its_turn() {
        let server = FakeServer::start(|_| primary("0/2000100")).await;
        let slow = config::Health { period_ms: 600_000, retries: 1000, ..server.health() };
        let observer = observe(&[&server], slow);
        eventually("it is up", || observer.snapshot.borrow().primary.is_some()).await;
        assert!(!observer.view.borrow().details[0].is_suspect());
        // Its connection ends, and nothing listens any more.
        drop(server);
        let view = || observer.view.borrow().clone();
        eventually("it is down", || view().snapshot.servers[0].health == Health::Down).await;
        let detail = view().details[0].clone();
        assert_eq!((detail.reason, detail.is_suspect()), (Some(Reason::ConnectRefused), true));
        assert_eq!(detail.facts.map(|facts| facts.lsn), Some(Lsn(0x200_0100)), "what it said last is known");
    }

    #[tokio::test]
    async fn one_silence_makes_a_suspect_and_a_connect_has_more_time() {
        let server = FakeServer::start(|_| primary("0/2000100")).await;
        let health =
            config::Health { timeout_ms: 100, connect_timeout_ms: 600_000, retries: 1000, ..server.health() };
        let observer = observe(&[&server], health);
        let detail = || observer.view.borrow().details[0].clone();
        eventually("it is up", || detail().says == Role::Primary).await;
        server.reply_with(|_| Reply::Silence);
        eventually("it is suspect", || detail().is_suspect()).await;
        // The next look connects anew, and has ten minutes.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!((detail().failures, detail().failure), (1, Some(Reason::Timeout)));
    }

    #[tokio::test]
    async fn a_look_can_be_had_at_once_but_not_in_storms() {
        let server = FakeServer::start(|_| primary("0/2000100")).await;
        let health = config::Health { period_ms: 600_000, ..server.health() };
        let observer = observe(&[&server], health);
        eventually("it was looked at", || observer.snapshot.borrow().primary.is_some()).await;
        let asked = server.questions();
        observer.look.server(ServerIndex(0));
        eventually("it was looked at again", || server.questions() > asked).await;
        let (asked, begun) = (server.questions(), std::time::Instant::now());
        // However long a busy machine takes for the first of them.
        eventually("it was looked at some times more", || {
            observer.look.all();
            server.questions() - asked >= 5
        })
        .await;
        let (looks, limit) = (server.questions() - asked, begun.elapsed().as_millis() / 20 + 2);
        assert!(looks as u128 <= limit, "{looks} looks, at most {limit}");
    }

    #[tokio::test]
    async fn nothing_is_looked_at_once_the_observer_is_dropped() {
        let server = FakeServer::start(|_| primary("0/2000100")).await;
        let observer = observe(&[&server], server.health());
        let mut snapshot = observer.snapshot.clone();
        eventually("it was looked at", || snapshot.borrow().primary.is_some()).await;
        drop(observer);
        let closed = async { while snapshot.changed().await.is_ok() {} };
        tokio::time::timeout(std::time::Duration::from_secs(10), closed).await.expect("the thread ends");
    }
}
