//! Looking in from outside, and giving orders: pages over HTTP, what the commands ask for, and `SHOW POOL_*`.
//!
//! Reads what others publish, and passes orders on to those who decide. Invariants: what changes anything, and the
//! configuration's text, go through the Unix socket, or TLS with a token; nothing it shows is a secret, and it never holds one (a
//! configuration names the files that do).

pub mod activity;
mod change;
pub mod client;
mod cluster_pages;
pub mod cluster_status;
pub mod control;
pub mod doctor;
pub mod door;
mod listener;
mod measured;
mod members;
mod orders;
mod places;
mod promote;
mod recover;
mod refused;
mod rejoining;
mod restart;
mod server_users;
pub mod show;
mod status;
pub mod token;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::{Duration, SystemTime};

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

use crate::agent::wire::Job;
use crate::cluster::clock::Clock;
use crate::cluster::model::View;
use crate::cluster::probe_counts::ProbeCounts;
use crate::cluster::state::ClusterState;
use crate::config::{self, Config};
use crate::consensus::node::ClusterHandle;
use crate::pki::Found;
use crate::telemetry::counters::Counters;
use crate::telemetry::render;
use crate::telemetry::samples::PoolCensus;
use crate::topology::ServerIndex;

use cluster_status::{ClusterNow, EndpointHere};
use control::Control;
use door::Door;
pub use listener::{AdminListener, BindError, serve};

/// The longest configuration, each of its characters escaped.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;
/// For a peer that is asked whether it is there.
const REACH_WITHIN: Duration = Duration::from_secs(1);

/// Everything the admin pages are made of.
#[derive(Clone)]
pub struct AdminState {
    pub view: watch::Receiver<Arc<View>>,
    pub counters: Arc<Counters>,
    pub activity: ActivityPages,
    /// Whether clients are being accepted: false before the listener stands and while draining.
    pub listening: Arc<AtomicBool>,
    pub clock: Clock,
    /// None: a node on its own.
    pub cluster: Option<ClusterPages>,
    pub configured: watch::Receiver<Arc<Configured>>,
    /// When the first file with certificates is of no use any more, as far as is known.
    pub certificates_end: watch::Receiver<Option<SystemTime>>,
    /// How it stands with the passwords of roles that AWS gives, by role.
    pub server_users: Arc<dyn Fn() -> Vec<(String, komainu_escalation::Finding)> + Send + Sync>,
    /// How it stands with what the API of RDS says of the servers; none: it is not asked.
    pub instances: Arc<dyn Fn() -> Option<komainu_escalation::Finding> + Send + Sync>,
    /// The last examination: when it began, and what it found.
    pub examined: Arc<Mutex<Option<(Instant, serde_json::Value)>>>,
    /// To the loop that carries it out.
    pub control: mpsc::Sender<Control>,
}

/// What there is to know of clients, connections and probes, gathered when somebody asks.
#[derive(Clone)]
pub struct ActivityPages {
    pub census: Arc<dyn Fn() -> PoolCensus + Send + Sync>,
    pub sessions: Arc<dyn Fn(&activity::Filter) -> activity::Sessions + Send + Sync>,
    pub pools: Arc<dyn Fn(&activity::Filter) -> activity::Pools + Send + Sync>,
    pub looks: watch::Receiver<BTreeMap<ServerIndex, ProbeCounts>>,
}

/// What there is to know of the cluster.
#[derive(Clone)]
pub struct ClusterPages {
    pub handle: ClusterHandle,
    /// As this node sees them, when somebody asks.
    pub endpoints: Arc<dyn Fn() -> Vec<EndpointHere> + Send + Sync>,
    /// What agents are at with servers that are out of use or down, by server.
    pub jobs: watch::Receiver<Arc<BTreeMap<String, Job>>>,
    /// Of servers whose hosts AWS is to stop, whether it would.
    pub hosts: Arc<dyn Fn() -> Vec<(String, Vec<komainu_escalation::Finding>)> + Send + Sync>,
    /// Tries what a failover needs of the servers, of all of them at once.
    pub readiness: Arc<dyn Fn() -> Trying + Send + Sync>,
}

pub type Trying = Pin<Box<dyn Future<Output = Vec<doctor::Readiness>> + Send>>;

/// By which configuration this node serves.
#[derive(Debug)]
pub struct Configured {
    /// This node's own file, and what it says.
    pub path: PathBuf,
    pub local: Config,
    pub in_force: Arc<Config>,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("listening", &self.listening).finish_non_exhaustive()
    }
}

/// For an address that everybody on the network may reach.
fn read_only(state: AdminState) -> Router {
    let refused = [
        "/sessions",
        "/pools",
        "/config",
        "/config/{*rest}",
        "/endpoint/{*rest}",
        "/switchover",
        "/failover",
        "/failover/{*rest}",
        "/server/{*rest}",
        "/node/{*rest}",
        "/reload",
        "/log/{*rest}",
        "/stop",
    ];
    let pages = refused.into_iter().fold(reading(), |pages, path| pages.route(path, any(change::read_only)));
    finish(pages, state)
}

/// For whoever brings the token.
fn behind(door: Arc<Door>, state: AdminState) -> Router {
    full(state).layer(middleware::from_fn_with_state(door, door::admit))
}

/// For the Unix socket.
fn full(state: AdminState) -> Router {
    let pages = reading()
        .route("/sessions", get(sessions))
        .route("/pools", get(pools))
        .route("/config", get(cluster_pages::current))
        .route("/config/history", get(cluster_pages::history))
        .route("/config/{version}", get(cluster_pages::version))
        .route("/config/apply", post(change::apply))
        .route("/config/rollback", post(change::roll_back))
        .route("/endpoint/move", post(change::move_endpoint))
        .route("/node/add", post(change::add_node))
        .route("/switchover", post(orders::switchover))
        .route("/failover", post(orders::failover))
        .route("/failover/pause", post(orders::pause))
        .route("/server/administrative", post(orders::administrative))
        .route("/server/promote", post(promote::promote))
        .route("/server/recover", post(recover::recover))
        .route("/server/restart", post(restart::restart))
        .route("/server/restart/cancel", post(restart::cancel))
        .route("/server/pause", post(orders::pause_servers))
        .route("/server/add", post(members::add))
        .route("/server/remove", post(members::remove))
        .route("/node/replace", post(change::replace_node))
        .route("/node/remove", post(change::remove_node))
        .route("/reload", post(change::reload))
        .route("/log/rotate", post(change::rotate_log))
        .route("/stop", post(change::stop));
    finish(pages, state)
}

fn reading() -> Router<AdminState> {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/doctor", get(doctor))
        .route("/health", get(health))
        .route("/events", get(cluster_pages::events))
}

fn finish(pages: Router<AdminState>, state: AdminState) -> Router {
    pages.layer(DefaultBodyLimit::max(MAX_BODY_BYTES)).with_state(state)
}

async fn live() -> &'static str {
    "live\n"
}

/// Whether it makes sense to send clients here. A load balancer reads the code, a person the body.
async fn ready(State(state): State<AdminState>) -> Response {
    let view = state.view.borrow().clone();
    let refusal = if state.listening.load(Ordering::Relaxed) {
        // Clients of one that is paused wait here, and elsewhere no less.
        view.no_primary
            .filter(|_| view.snapshot.primary.is_none() && view.paused_primary.is_none())
            .map(|reason| (reason.code(), reason.sentence()))
    } else {
        Some(("not_listening", "clients are not accepted, either not yet or no more"))
    };
    match refusal {
        None => Json(serde_json::json!({ "ready": true })).into_response(),
        Some((code, sentence)) => {
            let body = serde_json::json!({ "ready": false, "reason": code, "message": sentence });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    let page = render::page(&state.measured());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

#[derive(Debug, Deserialize)]
struct HowToAsk {
    /// Asks the other nodes before it answers, which may take a second if one of them hangs.
    #[serde(default)]
    ask: bool,
}

async fn status(State(state): State<AdminState>, how: Query<HowToAsk>) -> Response {
    let view = state.view.borrow().clone();
    let now_ms = state.clock.now_ms();
    let Some(cluster) = &state.cluster else {
        return Json(status::status(&view, now_ms, None)).into_response();
    };
    if how.ask {
        cluster.handle.reach(REACH_WITHIN).await;
    }
    let node = cluster.handle.status();
    if !how.ask && node.peers.iter().any(|peer| peer.failure.is_some()) {
        // A follower has no other reason to try again; whoever asks next gets the outcome.
        let handle = cluster.handle.clone();
        tokio::spawn(async move { handle.reach(REACH_WITHIN).await });
    }
    let (applied, endpoints) = (cluster.handle.applied(), (cluster.endpoints)());
    let jobs = cluster.jobs.borrow().clone();
    let now = ClusterNow { node: &node, state: &applied.state, endpoints: &endpoints, jobs: &jobs };
    Json(status::status(&view, now_ms, Some(now))).into_response()
}

/// Asks the other nodes first, and logs in to servers: one examination at a time, and whoever came before it began has
/// its answer.
async fn doctor(State(state): State<AdminState>) -> Response {
    let came = Instant::now();
    let mut last = state.examined.lock().await;
    if let Some((_, answer)) = last.as_ref().filter(|(began, _)| *began >= came) {
        return Json(answer.clone()).into_response();
    }
    let began = Instant::now();
    let answer = examine(&state).await;
    *last = Some((began, answer.clone()));
    Json(answer).into_response()
}

async fn examine(state: &AdminState) -> serde_json::Value {
    let view = state.view.borrow().clone();
    let configured = state.configured.borrow().clone();
    let files = certificates(&configured.in_force).await;
    let (node, mut findings) = match &state.cluster {
        None => (None, doctor::examine(&view, &files, None)),
        Some(cluster) => {
            cluster.handle.reach(REACH_WITHIN).await;
            let (node, applied, endpoints) =
                (cluster.handle.status(), cluster.handle.applied(), (cluster.endpoints)());
            let jobs = cluster.jobs.borrow().clone();
            let examined = doctor::Examined {
                now: ClusterNow { node: &node, state: &applied.state, endpoints: &endpoints, jobs: &jobs },
                certificate: cluster.handle.certificate_warning(),
                local: &configured.local,
                in_force: &configured.in_force,
                agreed: agreed(&applied.state, &configured),
                hosts: (cluster.hosts)(),
                readiness: (cluster.readiness)().await,
            };
            (Some(node.node.clone()), doctor::examine(&view, &files, Some(&examined)))
        }
    };
    findings.extend(doctor::server_users(&(state.server_users)()));
    findings.extend((state.instances)().iter().flat_map(doctor::instances));
    serde_json::json!({ "node": node, "findings": findings })
}

/// As they are in the files now.
async fn certificates(config: &Config) -> doctor::Certificates {
    let files = config.certificate_files();
    // It panics only if the process ends.
    let looked = tokio::task::spawn_blocking(|| files.into_iter().map(Found::look).collect()).await;
    doctor::Certificates { found: looked.unwrap_or_default(), at: SystemTime::now() }
}

async fn sessions(State(state): State<AdminState>, which: Query<activity::Filter>) -> Response {
    Json((state.activity.sessions)(&which)).into_response()
}

async fn pools(State(state): State<AdminState>, which: Query<activity::Filter>) -> Response {
    Json((state.activity.pools)(&which)).into_response()
}

async fn health(State(state): State<AdminState>) -> Response {
    let (view, looks) = (state.view.borrow().clone(), state.activity.looks.borrow().clone());
    let clock = state.clock;
    Json(activity::health(&view, &looks, clock.now_ms(), &|ms| clock.wall_ms(ms))).into_response()
}

fn agreed(state: &ClusterState, configured: &Configured) -> Result<Config, String> {
    let current = state.configuration().current().ok_or("the cluster has agreed on none yet")?;
    match config::file::parse(&current.text, &configured.path, 1) {
        Ok((agreed, _)) => Ok(agreed),
        Err(report) => Err(format!("this node cannot use it: {report}")),
    }
}

#[cfg(test)]
mod tests;
