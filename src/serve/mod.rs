//! `komainu serve`: puts the parts together, and takes them apart again in order.
//!
//! Owns start, reload and shutdown. Invariant: nobody is told that komainu is ready before clients can be
//! served, and when it drains, new clients are turned away before running ones are waited for.

mod access;
mod certificates;
mod clients;
mod clouds;
mod cluster;
mod configuration;
mod discovery;
mod emitting;
mod ending;
pub(crate) mod endpoints;
mod hooks;
mod hosts;
mod instances;
mod lookups;
mod pages;
pub(crate) mod perform;
mod readiness;
mod rejoining;
mod scheduling;
mod server_users;
mod ticks;
mod vital;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::admin::control::{CONTROLS_WAITING, Reloaded};
use crate::admin::door::Door;
use crate::admin::{self, AdminListener, AdminState, BindError, ClusterPages};
use crate::clock;
use crate::cluster::aurora::MAX_INSTANCES;
use crate::cluster::instances::Addresses;
use crate::cluster::observe::catalog::{CatalogSettings, CatalogSource};
use crate::cluster::observe::credential::OwnLogin;
use crate::cluster::observe::{Observer, Settings};
use crate::cluster::operate::Operator;
use crate::cluster::right::WriteRight;
use crate::config::{self, Config, FailoverMode};
use crate::net::names::Names;
use crate::net::tls::{ServerTlsContext, TlsConfigError};
use crate::pool::Pools;
use crate::session::gateway::{Gateway, Parts};
use crate::telemetry::log::{LogControl, LogError};
use crate::telemetry::{Counters, log};

use access::{Access, AccessError, Files};
use clients::{Clients, ListenError};
pub use cluster::forget_kept;
use cluster::{Cluster, ClusterError, Me, MeError, Servers};
use configuration::Configuration;
use emitting::Emitting;
use ending::{Told, Wishes, drain};
use hosts::Hosts;
use instances::Instances;
use server_users::ServerUsers;
use vital::{Fallen, Vital};

/// What threads that are blocked have to come to an end.
const THREADS_END_WITHIN: Duration = Duration::from_secs(1);

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
    #[error("name servers cannot be asked: {0}")]
    Names(#[source] io::Error),
    #[error(transparent)]
    Node(#[from] MeError),
    #[error("{0}")]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Fallen(#[from] Fallen),
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Which node of a cluster this is said to be.
#[derive(Debug, Clone, Default)]
pub struct Who {
    pub node: Option<String>,
    /// Where a proxy, which the configuration does not name, is reached by the others. None: it is named there.
    pub proxy_address: Option<String>,
}

/// Serves until it is told to end; in a cluster as who it is said to be. `debug`: more is logged, and to the terminal.
pub fn run(path: &Path, who: &Who, debug: bool) -> Result<(), ServeError> {
    let (local, warnings) = config::file::load(path)?;
    let log = if debug { log::to_terminal()? } else { log::init(&local.log)? };
    vital::log_panics();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let configuration = Configuration::begin(path, local);
    let config = configuration.in_force();
    let me = cluster::me(&config, who)?;
    if !config.core_dumps {
        keep_memory_private();
    }
    raise_file_limit(
        config.limits.max_client_connections
            + clients::most_unauthenticated(&config)
            + config.pool.max_server_connections * most_servers(&config),
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
    finish(runtime, serve(configuration, me, log))
}

/// Runs it to its end. A thread that still waits for a name server, or derives a key for nobody, is not waited for.
fn finish<T>(runtime: Runtime, main: impl Future<Output = T>) -> T {
    let ended = runtime.block_on(main);
    runtime.shutdown_timeout(THREADS_END_WITHIN);
    ended
}

/// The node that this is said to be, and where it keeps its state. None: it is on its own, and has none.
pub fn state_of(path: &Path, who: &Who) -> Result<Option<(String, PathBuf)>, ServeError> {
    let (local, _) = config::file::load(path)?;
    let me = cluster::me(&local, who)?;
    Ok(me.zip(local.cluster).map(|(me, cluster)| (me.id().to_owned(), cluster.directory)))
}

async fn serve(mut configuration: Configuration, me: Option<Me>, log: LogControl) -> Result<(), ServeError> {
    let config = configuration.in_force();
    // Signals first: one that comes while we start is not lost.
    let (control, controls) = mpsc::channel(CONTROLS_WAITING);
    let mut wishes = Wishes::new(controls)?;
    let server_tls = Arc::new(how_to_reach(&config)?);
    let admin_listener = AdminListener::bind(&config.admin).await?;
    let door = admin_listener.door();
    let listening = Arc::new(AtomicBool::new(false));

    let server_users = ServerUsers::start(&config);
    let instances = Arc::new(Instances::start(&config));
    let observer = Observer::start(how_to_look(&config, &server_tls, &server_users))?;
    let (operators, _) = watch::channel(Arc::new(how_to_operate(&config, &server_tls, &server_users)));
    let right = Arc::new(match config.cluster {
        Some(_) => WriteRight::none(),
        None => WriteRight::unlimited(),
    });
    let counters = Arc::new(Counters::default());
    let mut vital = Vital::default();
    let cluster = match (&config.cluster, me) {
        (Some(cluster), Some(me)) => {
            let text = configuration.shared_text();
            let servers = Servers {
                local: observer.view.clone(),
                look: observer.look.clone(),
                listed: instances.listed(),
                named: observer.named.clone(),
                operator: operators.subscribe(),
                counters: counters.clone(),
            };
            Some(Cluster::start(cluster, &me, &config, text, right.clone(), servers, &mut vital)?)
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
    if config.failover.finds_servers() {
        let gateway = gateway.clone();
        let sources = discovery::Sources {
            view: observer.view.clone(),
            listed: instances.listed(),
            applied: cluster.as_ref().map(|cluster| cluster.handle().watch()),
            in_force: Box::new(move || gateway.settled().config.clone()),
        };
        vital.spawn("the list of servers", discovery::follow(sources, observer.instances()));
    }
    let access = Access::new(Files::read(&config)?, &config, &gateway, &server_tls, server_users.clone());

    let (known, configured) = watch::channel(configuration.known());
    let (first_end, certificates_end) = watch::channel(None);
    let state = AdminState {
        view,
        counters: counters.clone(),
        activity: pages::pages(&gateway, &observer),
        listening: listening.clone(),
        clock: clock::process(),
        cluster: cluster.as_ref().map(pages),
        configured,
        certificates_end,
        server_users: {
            let server_users = server_users.clone();
            Arc::new(move || server_users.findings())
        },
        instances: Arc::new(move || instances.finding()),
        examined: Arc::default(),
        control,
    };
    let named = cluster.as_ref().map(Cluster::handle);
    let emitting = Emitting::start(&config, named.as_ref().map(|handle| handle.node()), state.clone())?;
    vital.spawn("admin requests", admin::serve(admin_listener, state));
    vital.spawn("deadlines", ticks::keep_house(gateway.clone()));
    vital.spawn("an eye on certificates", certificates::watch(known.subscribe(), first_end));

    let handle = cluster.as_ref().map(Cluster::handle);
    if let Some(cluster) = &cluster {
        vital.spawn("hooks", hooks::run(cluster.handle(), cluster.in_force(), counters.clone()));
    }
    let mut clients = Clients::listen(&config, gateway.clone(), access.clone(), handle.clone()).await?;
    listening.store(true, Ordering::Release);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), addresses = ?clients.addresses(), servers = config.servers.len(), "komainu is listening");
    drop(config);

    let parts = Reloadable {
        gateway: &gateway,
        access: &access,
        observer: &observer,
        operators: &operators,
        server_users: &server_users,
        log: &log,
        door: door.as_deref(),
    };
    let mut agreed = handle.as_ref().map(|handle| handle.watch());
    let mode = loop {
        let (read, answer) = tokio::select! {
            told = wishes.next() => match told {
                Told::End(mode) => break mode,
                Told::Reload(answer) => {
                    if let Some(Err(error)) = handle.as_ref().map(|handle| handle.reload_certificates()) {
                        tracing::error!(error, "the node's certificates were not read again");
                    }
                    (configuration.read_file_again(), answer)
                }
                Told::ReopenLog => {
                    if let Err(error) = log.reopen() {
                        tracing::error!(%error, "the log goes on in the file there was");
                    }
                    continue;
                }
                Told::RotateLog(answer) => {
                    let rotated = log.rotate().map_err(|error| error.to_string());
                    // Whoever asked may have left.
                    let _ = answer.send(rotated);
                    continue;
                }
            },
            fallen = vital.one_has_ended() => return Err(fallen.into()),
            fallen = clients.one_has_ended() => return Err(fallen.into()),
            applied = configuration::next_agreed(&mut agreed, configuration.latest()) => {
                let Some(new) = configuration.agree(&applied) else {
                    cluster.iter().for_each(|cluster| cluster.goes_by(configuration.latest()));
                    continue;
                };
                (Ok((new, Vec::new())), None)
            }
        };
        let taken = read.and_then(|(new, differs)| {
            let (new, reloaded) = parts.take(&configuration.in_force(), new)?;
            Ok((new, Reloaded { differs, ..reloaded }))
        });
        let told = match taken {
            Ok((new, reloaded)) => {
                configuration.now(new.clone());
                known.send_replace(configuration.known());
                if let Some(cluster) = &cluster {
                    let (agreed, text) = (configuration.agreed(), configuration.shared_text());
                    cluster.reconfigure(&new, agreed, text, configuration.version());
                    if configuration.version() > 0
                        && let Err(error) = cluster.keep(configuration.shared_text())
                    {
                        tracing::warn!(%error, "the cluster's configuration is not kept for the next start");
                    }
                }
                Ok(reloaded)
            }
            Err(problem) => {
                tracing::error!("the configuration was not reloaded:\n{problem}");
                Err(problem)
            }
        };
        cluster.iter().for_each(|cluster| cluster.goes_by(configuration.latest()));
        if let Some(answer) = answer {
            // Whoever asked may have left.
            let _ = answer.send(told);
        }
    };
    let mode = match &cluster {
        Some(cluster) => wishes.unless_immediate(mode, cluster.hand_over()).await,
        None => mode,
    };
    listening.store(false, Ordering::Release);
    drain(&configuration.in_force(), &gateway, clients, &mut wishes, mode).await;
    drop(vital);
    drop(emitting);
    gateway.pools.retire_all();
    drop(cluster);
    tracing::info!("komainu has ended");
    Ok(())
}

fn pages(cluster: &Cluster) -> ClusterPages {
    let (board, hosts) = (cluster.endpoints.board.clone(), cluster.hosts.clone());
    ClusterPages {
        handle: cluster.handle(),
        endpoints: Arc::new(move || board.all()),
        hosts: Arc::new(move || hosts.as_ref().map(Hosts::found).unwrap_or_default()),
        jobs: cluster.jobs.clone(),
        readiness: cluster.readiness.clone(),
    }
}

fn how_to_reach(config: &Config) -> Result<ServerTlsContext, ServeError> {
    let names = Names::of(&config.dns.servers).map_err(ServeError::Names)?;
    Ok(ServerTlsContext::load(&config.server_tls)?.asking(names))
}

fn how_to_look(config: &Config, tls: &Arc<ServerTlsContext>, users: &ServerUsers) -> Settings {
    Settings {
        servers: config.servers.clone(),
        health: config.health.clone(),
        tls: tls.clone(),
        login: OwnLogin::health(&config.health, access::plain_secret(&config.auth))
            .given(|user| users.of(user)),
        clock: clock::process(),
        in_cluster: config.cluster.is_some(),
        mode: config.failover.mode,
        addresses: config.failover.finds_servers().then(|| addresses(config)),
    }
}

fn addresses(config: &Config) -> Addresses {
    let is_aurora = config.failover.mode == FailoverMode::Aurora;
    Addresses {
        configured: config.servers.clone(),
        described: Vec::new(),
        template: config.aurora.instance_endpoint.clone().filter(|_| is_aurora),
    }
}

fn how_to_operate(config: &Config, tls: &Arc<ServerTlsContext>, users: &ServerUsers) -> Operator {
    let secret = access::plain_secret(&config.auth);
    Operator::new(&config.failover, secret, tls.clone(), clock::process()).given(|user| users.of(user))
}

/// What a new configuration is given to.
struct Reloadable<'a> {
    gateway: &'a Arc<Gateway>,
    access: &'a Access,
    observer: &'a Observer,
    operators: &'a watch::Sender<Arc<Operator>>,
    server_users: &'a ServerUsers,
    log: &'a LogControl,
    door: Option<&'a Door>,
}

impl Reloadable<'_> {
    /// Brings a configuration into force, as far as it can be without a restart. One that cannot be used changes
    /// nothing; the words say why.
    fn take(&self, current: &Arc<Config>, new: Config) -> Result<(Arc<Config>, Reloaded), String> {
        let changes = config::reload::diff(current, &new);
        let named = |live| {
            let changes = changes.iter().filter(move |change| change.live == live);
            changes.map(|change| change.key.clone()).collect::<Vec<_>>()
        };
        let new = Arc::new(config::reload::live_part(current, new));
        // A cluster has seen to that before it agreed.
        if new.cluster.is_none()
            && !new.failover.finds_servers()
            && let Some(primary) = self.gateway.topology.borrow().primary_server()
        {
            config::reload::keeps_primary(&current.servers, &new.servers, &primary.id)?;
        }
        let tls = Arc::new(how_to_reach(&new).map_err(|error| error.to_string())?);
        let files = Files::read(&new).map_err(|error| error.to_string())?;
        // From here on nothing fails.
        self.server_users.reconfigure(&new);
        self.access.reload(files, &new, self.gateway, &tls);
        if let Some(Err(error)) = self.door.map(Door::reload) {
            tracing::error!(%error, "what admin.tls_address shows and expects was not read again");
        }
        if let Err(error) = self.log.reload(&new.log) {
            tracing::error!(%error, "the log was not changed");
        }
        self.observer.reconfigure(how_to_look(&new, &tls, self.server_users));
        self.operators.send_replace(Arc::new(how_to_operate(&new, &tls, self.server_users)));
        self.gateway.pools.reconfigure(new.pool.clone(), tls);
        self.gateway.reconfigure(new.clone());
        let reloaded = Reloaded { changed: named(true), restart: named(false), differs: Vec::new() };
        tracing::info!(changed = ?reloaded.changed, "configuration reloaded");
        if !reloaded.restart.is_empty() {
            tracing::warn!(keys = ?reloaded.restart, "these keys change only with a restart");
        }
        Ok((new, reloaded))
    }
}

/// RDS has no more read replicas of an instance than Aurora has readers.
fn most_servers(config: &Config) -> usize {
    match config.failover.finds_servers() {
        true => MAX_INSTANCES.max(config.servers.len()),
        false => config.servers.len(),
    }
}

/// Passwords and keys are in it, some of which are nowhere on a disk. Programs that we start have memory of their own,
/// for which this does not hold.
fn keep_memory_private() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a crash may leave a core file with passwords and keys in it");
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
            "fewer files may be open than clients, those who log in, and the pools need: raise LimitNOFILE or lower the limits"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_blocked_does_not_keep_the_process() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (never, blocks) = std::sync::mpsc::channel::<()>();
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let main = async {
                tokio::task::spawn_blocking(move || blocks.recv());
                7
            };
            ended.send(finish(runtime, main)).unwrap();
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(7));
        drop(never);
    }
}
