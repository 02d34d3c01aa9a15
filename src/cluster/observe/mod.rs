//! Asks the servers, each over a connection of its own, and publishes what it means.
//!
//! Owns the probes and the thread they run on, which a busy data path cannot starve. Never interprets
//! an answer: that is `primary::next`. Invariant: what is published changes here only, in order.

pub mod credential;
pub mod failure;
mod probe;
pub mod question;

use std::io;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::backend::connect::ConnectTarget;
use crate::config;
use crate::net::tls::ServerTlsContext;
use crate::topology::{Health, ServerIndex, Snapshot};

use super::change::{Change, changes};
use super::clock::Clock;
use super::model::{Observation, View};
use super::primary;
use credential::HealthLogin;
use probe::{Look, Probe};

/// Looks not taken in yet; each server has one under way at most.
const LOOKS_WAITING: usize = 64;

/// What to look at, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    pub servers: Vec<config::Server>,
    pub health: config::Health,
    pub tls: Arc<ServerTlsContext>,
    pub login: HealthLogin,
    pub clock: Clock,
}

/// Looks at the servers until it is dropped.
#[derive(Debug)]
pub struct Observer {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The same with what only people want to know.
    pub view: watch::Receiver<Arc<View>>,
    pub look: LookNow,
    /// Closing it ends the thread.
    _stop: oneshot::Sender<()>,
}

/// Asks for a look without waiting for its turn, for instance when traffic saw an error.
#[derive(Debug, Clone)]
pub struct LookNow {
    wakes: Arc<[Arc<Notify>]>,
}

impl LookNow {
    pub fn server(&self, server: ServerIndex) {
        if let Some(wake) = self.wakes.get(usize::from(server.0)) {
            wake.notify_one();
        }
    }

    /// When not one server is in doubt but who the primary is: SQLSTATE 25006 from it, say.
    pub fn all(&self) {
        for wake in self.wakes.iter() {
            wake.notify_one();
        }
    }
}

impl Observer {
    /// Starts a thread with a runtime of its own; needs none itself.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let view = Arc::new(View::new(&settings.servers));
        let (publish_snapshot, snapshot) = watch::channel(Arc::new(view.snapshot.clone()));
        let (publish_view, view) = watch::channel(view);
        let wakes: Arc<[Arc<Notify>]> = settings.servers.iter().map(|_| Arc::default()).collect();
        let look = LookNow { wakes: wakes.clone() };
        let (stop, stopped) = oneshot::channel::<()>();
        let publication = Publication { snapshot: publish_snapshot, view: publish_view };
        std::thread::Builder::new().name("observe".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = observe(settings, &wakes, publication) => {}
                    _ = stopped => {}
                }
            });
            // A name being resolved occupies a thread that cannot be stopped; it is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Observer { snapshot, view, look, _stop: stop })
    }
}

struct Publication {
    snapshot: watch::Sender<Arc<Snapshot>>,
    view: watch::Sender<Arc<View>>,
}

async fn observe(settings: Settings, wakes: &[Arc<Notify>], publication: Publication) {
    let clock = settings.clock;
    let mut view = publication.view.borrow().clone();
    let mut observations = vec![Observation::default(); settings.servers.len()];
    let (looks, mut taken) = mpsc::channel(LOOKS_WAITING);
    let (unsettled, _) = watch::channel(true);
    for (server, (config, wake)) in settings.servers.iter().zip(wakes).enumerate() {
        let probe = Probe {
            server,
            id: config.id.as_str().into(),
            target: ConnectTarget {
                host: config.host.as_str().into(),
                port: config.port,
                tls: settings.tls.clone(),
            },
            login: settings.login.clone(),
            health: settings.health.clone(),
            clock,
            looks: looks.clone(),
            wake: wake.clone(),
            unsettled: unsettled.subscribe(),
        };
        tokio::spawn(probe.run());
    }
    drop(looks);
    while let Some(Look { server, result }) = taken.recv().await {
        observations[server].record(result);
        let now_ms = clock.now_ms();
        let next = primary::next(&view, &observations, settings.health.retries, now_ms);
        for change in changes(&view, &next) {
            log(change, &next);
        }
        unsettled
            .send_if_modified(|value| std::mem::replace(value, primary::unsettled(&next, now_ms)) != *value);
        view = Arc::new(next);
        publication.snapshot.send_replace(Arc::new(view.snapshot.clone()));
        publication.view.send_replace(view.clone());
    }
}

fn log(change: Change, view: &View) {
    let id = |index| &*view.snapshot.server(index).id;
    match change {
        Change::Server { index, role, health, reason } => {
            let (server, reason) = (id(index), reason.map(|reason| reason.code()));
            let sentence = &*view.snapshot.server(index).reason;
            match health {
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
