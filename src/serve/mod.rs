//! `komainu serve`: puts the parts together, and takes them apart again in order.
//!
//! Owns start, reload and shutdown. Invariant: nobody is told that komainu is ready before clients can be
//! served, and when it drains, new clients are turned away before running ones are waited for.

mod access;
mod clients;
mod cluster;
mod configuration;
pub(crate) mod endpoints;
mod scheduling;
mod ticks;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{self, AdminListener, AdminState, BindError};
use crate::clock;
use crate::cluster::observe::catalog::{CatalogSettings, CatalogSource};
use crate::cluster::observe::credential::HealthLogin;
use crate::cluster::observe::{Observer, Settings};
use crate::cluster::right::WriteRight;
use crate::config::{self, Config};
use crate::net::tls::{ServerTlsContext, TlsConfigError};
use crate::pool::Pools;
use crate::session::gateway::{Gateway, Parts};
use crate::session::registry::Order;
use crate::telemetry::log::{LogControl, LogError};
use crate::telemetry::{Counters, log};

use access::{Access, AccessError};
use clients::{Clients, ListenError};
use cluster::{Cluster, ClusterError};
use configuration::Configuration;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Config(#[from] config::report::Report),
    #[error("cannot begin to log: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Admin(#[from] BindError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("TLS to servers: {0}")]
    ServerTls(#[from] TlsConfigError),
    #[error(transparent)]
    Node(#[from] config::NodeError),
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Serves until it is told to end; in a cluster as `node`.
pub fn run(path: &Path, node: Option<String>) -> Result<(), ServeError> {
    let (local, warnings) = config::file::load(path)?;
    let log = log::init(&local.log)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let configuration = Configuration::begin(path, local);
    let config = configuration.in_force();
    config::this_node(&config, node.as_deref())?;
    raise_file_limit(
        config.limits.max_client_connections + config.pool.max_server_connections * config.servers.len(),
    );
    let scheduling = config.worker_scheduling;
    let runtime = match config.workers {
        // One worker needs no queues that others steal from.
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        workers => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .on_thread_start(move || scheduling::apply(scheduling))
            .thread_name("komainu-worker")
            .enable_all()
            .build()?,
    };
    clock::tick();
    runtime.block_on(serve(configuration, node.as_deref(), log))
}

async fn serve(
    mut configuration: Configuration,
    node: Option<&str>,
    log: LogControl,
) -> Result<(), ServeError> {
    let config = configuration.in_force();
    // Signals first: one that comes while we start is not lost.
    let mut signals = Signals::new()?;
    let server_tls = Arc::new(ServerTlsContext::load(&config.server_tls)?);
    let admin_listener = AdminListener::bind(&config.admin).await?;
    let listening = Arc::new(AtomicBool::new(false));

    let observer = Observer::start(how_to_look(&config, &server_tls))?;
    let right = Arc::new(match config.cluster {
        Some(_) => WriteRight::none(),
        None => WriteRight::unlimited(),
    });
    let me = config::this_node(&config, node)?;
    let cluster = match (&config.cluster, me) {
        (Some(cluster), Some(me)) => {
            let text = configuration.shared_text();
            Some(Cluster::start(cluster, me, &config, text, right.clone(), observer.view.clone())?)
        }
        _ => None,
    };
    if config.workers == 1 {
        // This thread serves them itself. The other threads are on their way already and keep what they have.
        scheduling::apply(config.worker_scheduling);
    }
    let (snapshot, view) = match &cluster {
        Some(cluster) => (cluster.published.snapshot.clone(), cluster.published.view.clone()),
        None => (observer.snapshot.clone(), observer.view.clone()),
    };
    let catalogs = Arc::new(CatalogSource::new(CatalogSettings {
        snapshot: snapshot.clone(),
        own: observer.settings(),
        max_age: Duration::from_millis(config.split.catalog_max_age_ms),
    }));
    let counters = Arc::new(Counters::new(config.servers.len()));
    let gateway = Arc::new(Gateway::new(Parts {
        config: config.clone(),
        topology: snapshot,
        view: view.clone(),
        pools: Pools::new(config.pool.clone(), server_tls.clone()),
        counters: counters.clone(),
        catalogs,
        looks: observer.look.clone(),
        right,
    }));
    if let Some(cluster) = &cluster {
        cluster.serves(&gateway);
    }
    let access = Access::load(&config, &gateway, &server_tls)?;

    let census = {
        let gateway = gateway.clone();
        Arc::new(move || ticks::census(&gateway))
    };
    let router = admin::router(AdminState {
        view,
        counters,
        census,
        listening: listening.clone(),
        clock: clock::process(),
    });
    let admin = tokio::spawn(admin::serve(admin_listener, router));
    let housekeeping = tokio::spawn(ticks::keep_house(gateway.clone()));

    let handle = cluster.as_ref().map(Cluster::handle);
    let clients = Clients::listen(&config, gateway.clone(), access.clone(), handle.clone())?;
    listening.store(true, Ordering::Release);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), addresses = ?clients.addresses(), servers = config.servers.len(), "komainu is listening");
    drop(config);

    let parts = Reloadable { gateway: &gateway, access: &access, observer: &observer, log: &log };
    let mut agreed = handle.as_ref().map(|handle| handle.watch());
    loop {
        let new = tokio::select! {
            told = signals.next() => match told {
                Told::End => break,
                Told::Reload => {
                    if let Some(Err(error)) = handle.as_ref().map(|handle| handle.reload_certificates()) {
                        tracing::error!(error, "the node's certificates were not read again");
                    }
                    configuration.read_file_again()
                }
            },
            applied = configuration::next_agreed(&mut agreed, configuration.version()) => {
                configuration.agree(&applied)
            }
        };
        let Some(new) = new else { continue };
        if let Some(new) = parts.take(&configuration.in_force(), new) {
            configuration.now(new.clone());
            if let Some(cluster) = &cluster {
                cluster.reconfigure(&new, configuration.shared_text());
                if configuration.version() > 0
                    && let Err(error) = cluster.keep(configuration.shared_text())
                {
                    tracing::warn!(%error, "the cluster's configuration is not kept for the next start");
                }
            }
        }
    }
    if let Some(cluster) = &cluster {
        cluster.hand_over().await;
    }
    listening.store(false, Ordering::Release);
    drain(&configuration.in_force(), &gateway, clients, &mut signals).await;
    housekeeping.abort();
    admin.abort();
    gateway.pools.retire_all();
    drop(cluster);
    tracing::info!("komainu has ended");
    Ok(())
}

fn how_to_look(config: &Config, tls: &Arc<ServerTlsContext>) -> Settings {
    Settings {
        servers: config.servers.clone(),
        health: config.health.clone(),
        tls: tls.clone(),
        login: HealthLogin::new(&config.health, access::plain_secret(&config.auth)),
        clock: clock::process(),
        in_cluster: config.cluster.is_some(),
    }
}

/// Ends every session as soon as it is outside a transaction, and all of them after the deadline.
async fn drain(config: &Config, gateway: &Gateway, clients: Clients, signals: &mut Signals) {
    gateway.draining.store(true, Ordering::Release);
    clients.close().await;
    let timeout = Duration::from_millis(config.limits.shutdown_timeout_ms);
    tracing::info!(
        clients = gateway.sessions.len(),
        timeout_ms = config.limits.shutdown_timeout_ms,
        "draining"
    );
    let all_gone = async {
        // Told again and again: one that was busy when told first is idle some time later.
        while !gateway.sessions.is_empty() {
            gateway.sessions.tell_all(Order::Drain);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = all_gone => return,
        () = tokio::time::sleep(timeout) => {}
        _ = signals.next_end() => {}
    }
    let left = gateway.sessions.len();
    tracing::warn!(clients = left, "ending the sessions that are left");
    gateway.sessions.tell_all(Order::Stop);
    let last_words = async {
        while !gateway.sessions.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), last_words).await;
}

/// What a new configuration is given to.
struct Reloadable<'a> {
    gateway: &'a Arc<Gateway>,
    access: &'a Access,
    observer: &'a Observer,
    log: &'a LogControl,
}

impl Reloadable<'_> {
    /// Brings a configuration into force, as far as it can be without a restart. One that cannot be used changes nothing.
    fn take(&self, current: &Arc<Config>, new: Config) -> Option<Arc<Config>> {
        let changes = config::reload::diff(current, &new);
        let named = |live| {
            let changes = changes.iter().filter(move |change| change.live == live);
            changes.map(|change| change.key.as_str()).collect::<Vec<_>>()
        };
        let new = Arc::new(config::reload::live_part(current, new));
        let tls = match ServerTlsContext::load(&new.server_tls) {
            Ok(tls) => Arc::new(tls),
            Err(error) => {
                tracing::error!(%error, "the configuration was not reloaded: TLS to servers");
                return None;
            }
        };
        if let Err(error) = self.access.reload(&new, self.gateway, &tls) {
            tracing::error!(%error, "the configuration was not reloaded");
            return None;
        }
        if let Err(error) = self.log.reload(&new.log.level) {
            tracing::error!(%error, "the log level was not changed");
        }
        self.observer.reconfigure(how_to_look(&new, &tls));
        self.gateway.pools.reconfigure(new.pool.clone(), tls);
        self.gateway.reconfigure(new.clone());
        tracing::info!(changed = ?named(true), "configuration reloaded");
        let fixed = named(false);
        if !fixed.is_empty() {
            tracing::warn!(keys = ?fixed, "these keys change only with a restart");
        }
        Some(new)
    }
}

/// As many open files as we may have, and at least as many as the configuration needs.
fn raise_file_limit(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum;
    if limit.current != wanted {
        let raised = Rlimit { current: wanted, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
    // Logs, admin connections, probes and the like.
    const OTHERS: u64 = 64;
    let needed = connections as u64 + OTHERS;
    if let Some(now) = getrlimit(Resource::Nofile).current
        && now < needed
    {
        tracing::warn!(
            limit = now,
            needed,
            "fewer files may be open than max_client_connections and the pools need: raise LimitNOFILE or lower the limits"
        );
    }
}

enum Told {
    Reload,
    End,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reload,
            _ = self.terminate.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
        }
    }

    /// A second wish to end, while draining: no more patience.
    async fn next_end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
